# toxmail: build, show, test. Programs come to target/release.
#
#   make          build the three programs
#   make demo     four mails between two people over a private Tox network (root; installs what it needs by apt)
#   make test     all tests (root; likewise)
#   make crash    kill -9 in the middle of everything, again and again
#   make bench    measure
#   make check    formatting, lints, scripts
#   make fmt      format

CARGO ?= cargo
PYTHON ?= python3
E2E := tests/e2e
BIN := target/release

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build demo test test-rust test-e2e crash bench check fmt clean deps-%

# tox-transport is started for each mail, and starts faster when linked statically.
build: deps-build
	$(CARGO) build --locked --release --bin tox-agent --bin toxctl
	$(CARGO) rustc --locked --release --bin tox-transport -- -C target-feature=+crt-static

deps-%:
	scripts/install-deps $*

demo: deps-demo build
	$(PYTHON) $(E2E)/demo.py --bin $(BIN)

test: test-rust test-e2e

test-rust: deps-build deps-test
	$(CARGO) test --locked

test-e2e: deps-demo deps-test build
	TOXMAIL_BIN=$(abspath $(BIN)) $(PYTHON) -m unittest discover -s $(E2E)
	$(PYTHON) $(E2E)/demo.py --bin $(BIN)

crash: deps-demo deps-test build
	TOXMAIL_BIN=$(abspath $(BIN)) $(PYTHON) -m unittest discover -s $(E2E) -p 'crash_*.py'

bench: deps-demo build
	$(CARGO) bench --locked

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	bash -n scripts/install-deps
	$(PYTHON) -m compileall -q $(E2E)

fmt:
	$(CARGO) fmt

clean:
	$(CARGO) clean
