//! The man pages and the Debian package say what the programs do: each command and option of toxctl, each key of the
//! configuration is in its page; the package's version is the program's, and its configuration is a good one.

use std::fs;
use std::path::Path;

use clap::Command;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A man page's text without the marks of fonts, macros and hyphens.
fn text(page: &str) -> String {
    let source = read(&format!("docs/man/{page}"));
    let line = |line: &str| match line.split_once(' ') {
        Some((macro_name, rest)) if macro_name.starts_with('.') => rest.to_owned(),
        _ => line.to_owned(),
    };
    let text: String = source.lines().map(|l| line(l) + "\n").collect();
    ["\\fB", "\\fI", "\\fR", "\"", " "].iter().fold(text.replace("\\-", "-"), |text, mark| match *mark {
        " " => text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "),
        mark => text.replace(mark, ""),
    })
}

/// Whether `word` stands in `text` as a whole.
fn has(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !before.ends_with(part) && !after.starts_with(part)
    })
}

fn check(command: &Command, path: &str, page: &str, missing: &mut Vec<String>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let path = format!("{path} {}", sub.get_name()).trim().to_owned();
        if sub.get_subcommands().next().is_none() && !has(page, &path) {
            missing.push(path.clone());
        }
        check(sub, &path, page, missing);
    }
    for long in command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long()) {
        if !has(page, &format!("--{long}")) {
            missing.push(format!("{path} --{long}"));
        }
    }
}

#[test]
fn each_command_and_option_of_toxctl_is_in_its_page() {
    let mut missing = Vec::new();
    check(&toxmail::ctl::command(), "", &text("toxctl.1"), &mut missing);
    assert!(missing.is_empty(), "not in docs/man/toxctl.1: {missing:?}");
}

#[test]
fn each_option_of_tox_transport_is_in_its_page() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_tox-transport")).arg("--help").output().expect("it runs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let page = text("tox-transport.8");
    let options: Vec<&str> =
        help.split([' ', ',', '\n']).filter(|word| word.starts_with('-') && word.len() > 1).collect();
    assert!(options.len() > 7, "{help}");
    let missing: Vec<_> = options.into_iter().filter(|option| *option != "--" && !has(&page, option)).collect();
    assert!(missing.is_empty(), "not in docs/man/tox-transport.8: {missing:?}");
}

#[test]
fn each_key_of_the_configuration_is_in_its_page() {
    // src/config/tests.rs keeps the example complete.
    let example = read("docs/examples/tox-agent.toml");
    let page = read("docs/man/tox-agent.toml.5");
    let mut section = "TOP OF THE FILE".to_owned();
    let (mut keys, mut missing) = (0, Vec::new());
    for line in example.lines().map(|line| line.trim_start_matches('#')) {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'_')
        {
            keys += 1;
            let of_it = page.split_once(&format!(".SH \"{section}\"\n")).map(|(_, rest)| rest);
            let of_it = of_it.map(|rest| rest.split("\n.SH ").next().unwrap_or_default());
            if !of_it.is_some_and(|text| text.contains(&format!("\\fB{key}\\fR"))) {
                missing.push(format!("{section} {key}"));
            }
        }
    }
    assert!(keys > 40, "the example was not read");
    assert!(missing.is_empty(), "not in docs/man/tox-agent.toml.5: {missing:?}");
}

#[test]
fn completions_are_made_for_each_shell() {
    for (shell, part) in [("bash", "toxctl__"), ("zsh", "#compdef toxctl"), ("fish", "complete -c toxctl")] {
        let made = std::process::Command::new(env!("CARGO_BIN_EXE_toxctl")).args(["completions", shell]).output();
        let made = made.expect("toxctl runs");
        let script = String::from_utf8_lossy(&made.stdout).into_owned();
        assert!(made.status.success() && script.contains(part) && script.contains("accept-key"), "{shell}: {script}");
    }
}

#[test]
fn the_package_is_of_this_version_and_its_configuration_is_good() {
    let changelog = read("debian/changelog");
    let version = format!("toxmail ({}-", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&version), "debian/changelog does not begin with {version}");
    let path = Path::new("debian/tox-agent.toml");
    let config = toxmail::config::parse(&read("debian/tox-agent.toml"), path).expect("a configuration");
    assert_eq!(config.lmtp.socket, Path::new(toxmail::config::DEFAULT_LMTP_SOCKET));
    let maildir = config.accounts[0].way.maildir().expect("a Maildir");
    assert!(maildir.starts_with(&config.state_dir), "the unit may not write elsewhere");
    assert!(config.tox.bootstrap.len() >= 3);
    let unit = read("systemd/tox-agent.socket");
    assert!(unit.contains(&format!("ListenStream={}\n", config.lmtp.socket.display())));
}
