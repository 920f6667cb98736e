//! The rules of `docs/architecture.md` that a compiler does not check: modules use each other one way only, the pure ones
//! touch nothing outside, `unsafe` stays where it is, and `tox-transport` needs the standard library alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which module may use what of the library: another module, or one part of it. The tests inside a module keep its rule.
///
/// `mail` and `identity` are one pure pair: `mail::trace` asks whether an address spells out a peer's key, and
/// `identity::tox_address` reads such an address. [`the_pure_pair_has_no_cycle_of_files`] keeps the pair free of a cycle.
const ALLOWED: &[(&str, &[&str])] = &[
    ("identity", &["mail::address"]),
    ("mail", &["identity"]),
    ("engine", &["mail", "identity"]),
    ("lane", &["engine::transfer", "engine::wire", "mail", "identity"]),
    ("relay", &["lane", "engine::schedule", "engine::transfer", "engine::window", "identity"]),
    ("slots", &["relay", "lane", "engine::transfer", "identity"]),
    ("tox", &["identity"]),
    ("socket", &[]),
    ("telemetry", &[]),
    ("maildir", &[]),
    ("smtp", &["mail"]),
    ("dns", &["mail::address", "identity"]),
    ("store", &["engine::transfer", "engine::schedule", "engine::trust", "lane::keys", "relay", "mail", "identity"]),
    ("lmtp", &["mail", "socket"]),
    ("control", &["socket"]),
    ("config", &["engine::trust", "mail", "identity", "smtp::Destination"]),
    ("backup", &[]),
    ("agent", AGENT),
    (
        "ctl",
        &[
            "backup",
            "config",
            "control",
            "engine::trust",
            "identity",
            "mail::address",
            "store::backup",
            "store::free_space",
        ],
    ),
    ("transport", &[]),
];

/// The wiring may use everything but the two other programs.
const AGENT: &[&str] = &[
    "backup",
    "config",
    "control",
    "dns",
    "engine",
    "identity",
    "lane",
    "lmtp",
    "mail",
    "maildir",
    "relay",
    "slots",
    "smtp",
    "socket",
    "store",
    "telemetry",
    "tox",
];

/// Modules without I/O, clock, randomness and threads.
const PURE: &[&str] = &["mail", "identity", "engine", "lane", "relay"];
/// What they must not name.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "std::os",
    "getrandom",
    "rand",
    "log",
    "nix",
    "tokio",
    "rusqlite",
];

/// The only homes of `unsafe`, with the attribute that admits it.
const UNSAFE: &[&str] = &["src/tox/", "src/transport/sys.rs"];

struct Source {
    /// Path from the package's folder.
    path: String,
    /// The modules on the way to this file, without the crate.
    module: Vec<String>,
    /// The text without comments and the contents of strings.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    assert!(files.len() > 50, "the sources were not found: {} files", files.len());
    let source = |file: &PathBuf| {
        let path = file.strip_prefix(root).expect("below the package").to_str().expect("UTF-8").to_owned();
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
        Source {
            module: inner.split('/').map(str::to_owned).collect(),
            code: strip(&fs::read_to_string(file).expect("a source file")),
            path,
        }
    };
    files.iter().map(source).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `text` with comments and the contents of strings and characters taken out; line ends stay.
fn strip(text: &str) -> String {
    let octets: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let is = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| octets.get(at + n) == Some(&c));
    let word = |c: char| c.is_alphanumeric() || c == '_';
    while at < octets.len() {
        let begins_word = at == 0 || !word(octets[at - 1]);
        let raw = if begins_word && (octets[at] == 'r' || is(at, "br")) {
            let from = at + if octets[at] == 'r' { 1 } else { 2 };
            let hashes = octets[from..].iter().take_while(|c| **c == '#').count();
            (octets.get(from + hashes) == Some(&'"')).then_some((from + hashes + 1, hashes))
        } else {
            None
        };
        if is(at, "//") {
            at += octets[at..].iter().take_while(|c| **c != '\n').count();
        } else if is(at, "/*") {
            let mut depth = 0;
            loop {
                if is(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if is(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= octets.len() {
                    break;
                }
            }
        } else if let Some((from, hashes)) = raw {
            let end = format!("\"{}", "#".repeat(hashes));
            at = from;
            while at < octets.len() && !is(at, &end) {
                at += 1;
            }
            at += end.len();
            out.push_str("\"\"");
        } else if octets[at] == '"' {
            at += 1;
            while at < octets.len() && octets[at] != '"' {
                at += if octets[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            out.push_str("\"\"");
        } else if octets[at] == '\'' && octets.get(at + 1) == Some(&'\\') {
            at += 3;
            while at < octets.len() && octets[at] != '\'' {
                at += 1;
            }
            at += 1;
            out.push_str("' '");
        } else if octets[at] == '\'' && octets.get(at + 2) == Some(&'\'') {
            at += 3;
            out.push_str("' '");
        } else {
            out.push(octets[at]);
            at += 1;
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `name` stands in `code` as whole words, with its line.
fn words<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    code.match_indices(name).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back().is_none_or(|c| !is_word(c));
        let after = code[at + name.len()..].chars().next().is_none_or(|c| !is_word(c));
        (before && after).then(|| (at, 1 + code[..at].matches('\n').count()))
    })
}

/// The paths at the start of `code`, braces resolved: `mail::{a, b::c} …` gives `mail::a` and `mail::b::c`.
fn tree(code: &str, prefix: &str, paths: &mut Vec<String>) -> usize {
    let mut at = 0;
    let mut path = prefix.to_owned();
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += tree(&code[at..], &path, paths);
                // What is left before the comma is another name: `as f`.
                at += code[at..].find([',', '}']).unwrap_or(0);
                let next = code[at..].chars().next();
                at += next.map_or(0, char::len_utf8);
                if next != Some(',') {
                    return at;
                }
            }
        }
        let name: String = code[at..].chars().take_while(|c| is_word(*c) || *c == '*').collect();
        at += name.len();
        if !name.is_empty() {
            path = if path.is_empty() { name } else { format!("{path}::{name}") };
        }
        if !code[at..].starts_with("::") {
            break;
        }
        at += 2;
    }
    paths.push(path);
    at
}

/// What a file names of the library, as paths from its root, with the line: `crate::…`, `toxmail::…`, and as many
/// `super::` as lead out of the file's own top module.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in ["crate", "toxmail"] {
        for (at, line) in words(&source.code, root) {
            if let Some(rest) = source.code[at + root.len()..].strip_prefix("::") {
                let mut paths = Vec::new();
                tree(rest, "", &mut paths);
                found.extend(paths.into_iter().map(|path| (line, path)));
            }
        }
    }
    let up = "super::".repeat(source.module.len());
    for (at, _) in source.code.match_indices(&up) {
        let mut paths = Vec::new();
        tree(&source.code[at + up.len()..], "", &mut paths);
        let line = 1 + source.code[..at].matches('\n').count();
        // In an inline module the same words lead less far: only names of modules count.
        let known = |path: &String| ALLOWED.iter().any(|(name, _)| path.split("::").next() == Some(name));
        found.extend(paths.into_iter().filter(known).map(|path| (line, path)));
    }
    found
}

fn begins(path: &str, with: &str) -> bool {
    path == with || path.strip_prefix(with).is_some_and(|rest| rest.starts_with("::"))
}

fn fail_if_any(problems: &[String]) {
    assert!(problems.is_empty(), "against docs/architecture.md:\n{}\n", problems.join("\n"));
}

#[test]
fn modules_use_each_other_one_way() {
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for source in sources() {
        let own = source.module[0].as_str();
        if own == "lib" || own == "bin" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == own) else {
            problems.push(format!("{}: the module `{own}` has no rule in tests/architecture.rs", source.path));
            continue;
        };
        seen.insert(own.to_owned());
        for (line, path) in uses(&source) {
            if !begins(&path, own) && !allowed.iter().any(|allowed| begins(&path, allowed)) {
                let may = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
                problems.push(format!("{}:{line}: uses {path}; `{own}` may use {may}", source.path));
            }
        }
    }
    for (name, _) in ALLOWED.iter().filter(|(name, _)| !seen.contains(*name)) {
        problems.push(format!("the module `{name}` has a rule but no sources"));
    }
    fail_if_any(&problems);
}

#[test]
fn the_table_of_rules_itself_has_no_cycle() {
    let users_of = |name: &str| {
        let used = ALLOWED.iter().find(|(module, _)| *module == name).map_or(&[][..], |(_, used)| used);
        used.iter().map(|path| path.split("::").next().unwrap_or_default()).collect::<Vec<_>>()
    };
    let mut problems = Vec::new();
    for (start, _) in ALLOWED {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        let mut todo = users_of(start);
        while let Some(name) = todo.pop() {
            if reached.insert(name) {
                todo.extend(users_of(name));
            }
        }
        if reached.contains(start) && !["mail", "identity"].contains(start) {
            problems.push(format!("`{start}` may use itself by way of others"));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn the_pure_pair_has_no_cycle_of_files() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.module == ["mail", "address"]) {
        problems.extend(uses(source).iter().map(|(line, path)| format!("{}:{line}: uses {path}", source.path)));
        if source.code.contains("super::") && source.code.matches("super::").count() > 1 {
            problems.push(format!("{}: mail::address must stand on its own, as identity uses it", source.path));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| PURE.contains(&source.module[0].as_str())) {
        for name in IMPURE {
            for (at, line) in words(&source.code, name) {
                // A plain word is a crate only where a path follows it.
                if name.contains("::") || *name == "SystemTime" || source.code[at + name.len()..].starts_with("::") {
                    problems.push(format!("{}:{line}: {name} in a pure module; pass it in instead", source.path));
                }
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn unsafe_stays_in_its_two_homes() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !UNSAFE.iter().any(|home| source.path.starts_with(home))) {
        for word in ["unsafe", "unsafe_code"] {
            let lines = words(&source.code, word);
            problems.extend(lines.map(|(_, line)| format!("{}:{line}: {word} outside {UNSAFE:?}", source.path)));
        }
    }
    fail_if_any(&problems);
}

#[test]
fn tox_transport_needs_the_standard_library_alone() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("Cargo.toml");
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let crates: Vec<String> =
        section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_")).collect();
    assert!(crates.len() > 10, "no dependencies found: {crates:?}");
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| source.module[0] == "transport") {
        problems.extend(uses(source).iter().map(|(line, path)| format!("{}:{line}: uses {path}", source.path)));
        for name in &crates {
            for (at, line) in words(&source.code, name) {
                let path = source.code[at + name.len()..].starts_with("::");
                if path && !source.code[..at].ends_with("::") {
                    problems.push(format!("{}:{line}: the crate {name}; tox-transport is linked without", source.path));
                }
            }
        }
    }
    fail_if_any(&problems);
}

#[test]
fn the_reading_of_sources_is_right() {
    let code = strip(
        "use crate::{a, b::{c, d::e as f}, g::*}; // crate::no\n/* crate::no /* */ crate::no */ let s = \"crate::no\\\"\"; \
         r#\"crate::no\"# 'x' '\\'' <'a> crate::h::i()",
    );
    let source = Source { path: String::new(), module: vec!["m".into(), "n".into()], code };
    let paths: Vec<String> = uses(&source).into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, ["a", "b::c", "b::d::e", "g::*", "h::i"]);
    let source = Source {
        path: String::new(),
        module: vec!["m".into(), "n".into()],
        code: "super::super::mail::x; super::super::own; super::mail".into(),
    };
    assert_eq!(uses(&source), [(1, "mail::x".to_owned())]);
}
