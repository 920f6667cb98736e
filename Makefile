# toxmail: build, show, test. Programs come to target/release.
#
#   make          build the three programs
#   make demo     six mails between people on a private Tox network (root; installs what it needs by apt)
#   make test     all tests (root; likewise)
#   make crash    the nothing-lost tests at their full size: 3,000 mails, 300 kills; relays killed 50 times
#   make simulate  what relays bring: writes the table and the figure of docs/relays.md (minutes)
#   make deb      the Debian package, below target/deb, and lintian's word about it
#   make bench    measure, as a table and as target/bench.json
#   make check    formatting, lints, docs, tests, licences, drift of generated files
#   make fuzz     each fuzz target for FUZZ_SECONDS (needs cargo-fuzz and a nightly toolchain)
#   make bindings write src/tox/sys.rs anew from Debian's headers
#   make fmt      format

CARGO ?= cargo
PYTHON ?= python3
E2E := tests/e2e
BIN := target/release
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build demo test test-rust test-e2e crash simulate deb bench check bindings bindings-diff fuzz fmt clean deps-%

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

# Those of relays mostly wait for Tox, so they run beside the others; those of the rig look for what others left.
test-e2e: deps-demo deps-test deps-deb build
	$(CARGO) build --locked --release --example tox3_server --example bad_relay
	export TOXMAIL_BIN=$(abspath $(BIN)); \
	$(PYTHON) -m unittest discover -s $(E2E) -p test_relays.py > target/test_relays.log 2>&1 & relays=$$!; \
	trap "kill $$relays" INT TERM; \
	$(PYTHON) -m unittest discover -s $(E2E) -p 'test_[!r]*.py'; others=$$?; \
	wait $$relays; relays=$$?; cat target/test_relays.log; \
	$(PYTHON) -m unittest discover -s $(E2E) -p test_rig.py; rig=$$?; \
	[ $$others = 0 ] && [ $$relays = 0 ] && [ $$rig = 0 ]
	$(PYTHON) $(E2E)/demo.py --bin $(BIN)

crash: deps-demo deps-test build
	$(PYTHON) $(E2E)/crash.py --bin $(BIN) --mails 3000 --kills 300
	TOXMAIL_BIN=$(abspath $(BIN)) TOXMAIL_RELAY_KILLS=50 \
		$(PYTHON) -m unittest discover -s $(E2E) -p test_relays.py -k RelayKilledTest

# Optimised, but not linked as a release is.
simulate: deps-build
	CARGO_PROFILE_TEST_OPT_LEVEL=3 $(CARGO) test --locked --test simulator relays::simulate -- --ignored --nocapture

deb: deps-deb build
	scripts/package $(BIN) target/deb
	lintian --fail-on error target/deb/*.deb

bench: deps-demo deps-bench build
	$(CARGO) build --locked --release --example bare_tox
	$(PYTHON) benches/bench.py --bin $(BIN)

check: deps-build deps-check
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check bans licenses sources
	$(MAKE) bindings-diff
	bash -n scripts/install-deps scripts/package
	for page in docs/man/*; do \
		words=$$(MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z $$page 2>&1 >/dev/null); \
		[ -z "$$words" ] || { echo "$$page: $$words" >&2; exit 1; }; \
	done
	$(PYTHON) -m compileall -q $(E2E) benches tests/lane_vectors.py

bindings: deps-check
	scripts/bindings > src/tox/sys.rs

bindings-diff:
	scripts/bindings | diff -u src/tox/sys.rs - || { echo "src/tox/sys.rs is not what the headers yield: make bindings" >&2; exit 1; }

fuzz: deps-build
	for target in $$($(CARGO) +nightly fuzz list); do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=8192 || exit 1; \
	done

fmt:
	$(CARGO) fmt

clean:
	$(CARGO) clean
