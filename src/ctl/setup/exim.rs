//! What Debian's Exim needs so that mail goes to the agent. Pure: the texts of its files in, edits out. The lines themselves
//! are those of `exim/`, which its README explains.

use std::collections::BTreeMap;

use super::block;
use super::plan::{Plan, Route, Wanted};

/// The files of `exim/conf.d`, and the section of a configuration in one file that each belongs to.
const FILES: [(&str, &str, &str); 5] = [
    ("main/50_toxmail", "", include_str!("../../../exim/conf.d/main/50_toxmail")),
    ("router/120_toxmail", "routers", include_str!("../../../exim/conf.d/router/120_toxmail")),
    ("transport/30_toxmail_lmtp", "transports", include_str!("../../../exim/conf.d/transport/30_toxmail_lmtp")),
    ("transport/30_toxmail_pipe", "transports", include_str!("../../../exim/conf.d/transport/30_toxmail_pipe")),
    ("retry/20_toxmail", "retry", include_str!("../../../exim/conf.d/retry/20_toxmail")),
];

/// What `main/50_toxmail` takes without a macro.
const DOMAINS: [&str; 2] = ["tox.alt", "*.tox.alt"];
const SOCKET: &str = "/run/tox-agent/lmtp.sock";
const PROGRAM: &str = "/usr/bin/tox-transport";

/// How Exim is now.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// The folder of its configuration.
    pub(super) dir: String,
    /// Whether Debian's configuration is split into many files (`conf.d`), or one (`exim4.conf.template`).
    pub(super) split: bool,
    /// The files that [`files`] names.
    pub(super) texts: BTreeMap<String, Option<String>>,
}

impl Found {
    fn text(&self, name: &str) -> Option<String> {
        self.texts.get(name).cloned().flatten()
    }
}

/// The value of a shell variable in `update-exim4.conf.conf`.
pub(super) fn variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().rev().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches(['\'', '"']))
}

/// Where our five files go.
fn folder(split: bool) -> &'static str {
    if split { "conf.d" } else { "toxmail" }
}

/// Folders that are ours, each before those in it.
fn folders(found: &Found) -> Vec<String> {
    let below = ["", "/main", "/router", "/transport", "/retry"];
    if found.split { Vec::new() } else { below.map(|below| format!("{}/toxmail{below}", found.dir)).into() }
}

/// Where Debian has macros set.
fn macros(split: bool) -> &'static str {
    if split { "conf.d/main/000_localmacros" } else { "exim4.conf.localmacros" }
}

const TEMPLATE: &str = "exim4.conf.template";

/// The files that are read and perhaps changed, from the configuration's folder on.
pub(super) fn files(split: bool) -> Vec<String> {
    let ours = FILES.iter().map(|(name, ..)| format!("{}/{name}", folder(split)));
    ours.chain([macros(split).to_owned()]).chain((!split).then(|| TEMPLATE.to_owned())).collect()
}

fn take_out(found: &Found, name: &str) -> Result<(String, Option<String>), String> {
    let text = found.text(name).unwrap_or_default();
    block::take_out(&text).map_err(|unclear| unclear.told(&format!("{}/{name}", found.dir)))
}

fn include(found: &Found, name: &str) -> String {
    format!(".include {}/toxmail/{name}\n", found.dir)
}

/// The template without our lines.
fn excluded(found: &Found, template: &str) -> String {
    let ours = |line: &&str| !FILES.iter().any(|(name, ..)| **line == include(found, name));
    template.split_inclusive('\n').filter(ours).collect()
}

/// The template with our lines: the first file before the first section, the others at the beginnings of theirs.
fn included(found: &Found, template: &str) -> Result<String, String> {
    let mut text = excluded(found, template);
    for (name, section, _) in FILES.iter().rev() {
        let begin = if section.is_empty() { "begin ".to_owned() } else { format!("begin {section}\n") };
        let at = if text.starts_with(&begin) { Some(0) } else { text.find(&format!("\n{begin}")).map(|at| at + 1) };
        let at = at.ok_or_else(|| format!("{}/{TEMPLATE} has no section `{}`", found.dir, begin.trim_end()))?;
        text.insert_str(if section.is_empty() { at } else { at + begin.len() }, &include(found, name));
    }
    Ok(text)
}

/// The elements of a macro that is a list, in the lines we once wrote.
fn listed<'a>(ours: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let value = ours.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).unwrap_or_default();
    value.split(" : ").filter(|element| !element.is_empty() && !DOMAINS.contains(element))
}

/// The macros' lines.
fn macro_lines(keys: &[&str], wanted: Option<&Wanted>, kept: &str) -> String {
    let mut body = String::new();
    let (addresses, domains): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| key.contains('@'));
    if !domains.is_empty() {
        body += &format!("TOXMAIL_DOMAINS = {} : {}\n", DOMAINS.join(" : "), domains.join(" : "));
    }
    if !addresses.is_empty() {
        body += &format!("TOXMAIL_ADDRESSES = {}\n", addresses.join(" : "));
    }
    let Some(wanted) = wanted else { return body + kept };
    if wanted.socket != SOCKET {
        body += &format!("TOXMAIL_SOCKET = {}\n", wanted.socket);
    }
    if wanted.program != PROGRAM {
        body += &format!("TOXMAIL_PROGRAM = {}\n", wanted.program);
    }
    if wanted.route == Route::Pipe {
        body += "TOXMAIL_PIPE = yes\n";
    }
    body
}

/// What is to be changed so that mail goes the way `wanted`; nothing where it goes so already.
///
/// # Errors
/// Lines that toxctl once put in were changed by hand, a file of ours is somebody else's, a macro is set already.
pub(super) fn apply(found: &Found, wanted: &Wanted) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let path = |name: &str| format!("{}/{name}", found.dir);
    plan.folders = folders(found);
    for (name, _, text) in FILES {
        let name = format!("{}/{name}", folder(found.split));
        let before = found.text(&name);
        let (rest, _) = take_out(found, &name)?;
        match rest.as_str() {
            "" => plan.edit(path(&name), before, Some(block::put_in("", text))),
            // Installed by hand.
            rest if rest == text => {}
            _ => return Err(format!("{} is there already, with other lines in it: take it away first", path(&name))),
        }
    }
    let name = macros(found.split);
    let (rest, ours) = take_out(found, name)?;
    let ours = ours.unwrap_or_default();
    let mut keys: Vec<&str> = Vec::new();
    let before = listed(&ours, "TOXMAIL_DOMAINS").chain(listed(&ours, "TOXMAIL_ADDRESSES"));
    for key in before.chain(wanted.keys.iter().map(String::as_str)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let body = macro_lines(&keys, Some(wanted), "");
    for line in body.lines() {
        let of = line.split(' ').next().unwrap_or_default();
        if rest.lines().any(|theirs| theirs.split([' ', '=']).next() == Some(of)) {
            return Err(format!("{of} is set by you in {}: change it there", path(name)));
        }
    }
    // A file that we made and that is empty now goes.
    let after = Some(block::put_in(&rest, &body)).filter(|text| !text.is_empty());
    plan.edit(path(name), found.text(name).filter(|text| !text.is_empty() || after.is_some()), after);
    if !found.split {
        let template = found.text(TEMPLATE).ok_or_else(|| format!("{} is not there", path(TEMPLATE)))?;
        let after = included(found, &template)?;
        plan.edit(path(TEMPLATE), Some(template), Some(after));
    }
    Ok(plan)
}

/// What is to be changed so that nothing of ours is left; with `keys`, so that only those no longer go over Tox.
///
/// # Errors
/// Lines that toxctl once put in were changed by hand, or a key is not among them.
pub(super) fn revert(found: &Found, keys: &[String]) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let path = |name: &str| format!("{}/{name}", found.dir);
    let name = macros(found.split);
    let (rest, ours) = take_out(found, name)?;
    let ours = ours.unwrap_or_default();
    let mut left = String::new();
    if !keys.is_empty() {
        let set: Vec<&str> = listed(&ours, "TOXMAIL_DOMAINS").chain(listed(&ours, "TOXMAIL_ADDRESSES")).collect();
        if let Some(key) = keys.iter().find(|key| !set.contains(&key.as_str())) {
            return Err(format!("{key} is not among the lines that toxctl setup put into {}", path(name)));
        }
        let stay: Vec<&str> = set.into_iter().filter(|key| !keys.iter().any(|gone| gone == key)).collect();
        let of_keys = |line: &&str| line.starts_with("TOXMAIL_DOMAINS ") || line.starts_with("TOXMAIL_ADDRESSES ");
        let kept: String = ours.lines().filter(|line| !of_keys(line)).map(|line| format!("{line}\n")).collect();
        left = macro_lines(&stay, None, &kept);
    } else if !found.split
        && let Some(template) = found.text(TEMPLATE)
    {
        let after = excluded(found, &template);
        plan.edit(path(TEMPLATE), Some(template), Some(after));
    }
    let after = Some(block::put_in(&rest, &left)).filter(|text| !text.is_empty());
    plan.edit(path(name), found.text(name).filter(|text| !text.is_empty()), after);
    if keys.is_empty() {
        for (name, ..) in FILES {
            let name = format!("{}/{name}", folder(found.split));
            let (rest, ours) = take_out(found, &name)?;
            if ours.is_some() {
                plan.edit(path(&name), found.text(&name), Some(rest).filter(|text| !text.is_empty()));
            }
        }
        plan.folders = folders(found);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "# Debian's\nbegin acl\na:\nbegin routers\nr:\nbegin transports\nt:\nbegin retry\n* * F\n";

    fn found(split: bool) -> Found {
        let mut found = Found { dir: "/etc/exim4".into(), split, texts: BTreeMap::new() };
        if !split {
            found.texts.insert(TEMPLATE.into(), Some(OWN.into()));
        }
        found
    }

    fn wanted(route: Route, keys: &[&str]) -> Wanted {
        Wanted {
            route,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            socket: "/run/a.sock".into(),
            program: PROGRAM.into(),
        }
    }

    fn done(found: &Found, plan: &Plan) -> Found {
        let mut found = found.clone();
        for edit in &plan.edits {
            let name = edit.file.strip_prefix("/etc/exim4/").expect("below the folder");
            assert_eq!(found.text(name), edit.before);
            assert!(files(found.split).iter().any(|file| file == name), "{name} is read");
            found.texts.insert(name.into(), edit.after.clone());
        }
        found.texts.retain(|_, text| text.is_some());
        found
    }

    #[test]
    fn a_second_time_changes_nothing_and_undoing_leaves_what_was() {
        for (split, route) in [(true, Route::Lmtp), (true, Route::Pipe), (false, Route::Lmtp), (false, Route::Pipe)] {
            let mut before = found(split);
            before.texts.insert(macros(split).into(), Some("MINE = 1".into()));
            let wanted = wanted(route, &["example.net", "bob@example.org"]);
            let after = done(&before, &apply(&before, &wanted).expect("a plan"));
            assert_eq!(apply(&after, &wanted).expect("a plan").edits, [], "{split} {route:?}");
            let set = after.text(macros(split)).expect("macros");
            assert!(set.contains("TOXMAIL_DOMAINS = tox.alt : *.tox.alt : example.net\n"), "{set}");
            assert!(set.contains("TOXMAIL_ADDRESSES = bob@example.org\nTOXMAIL_SOCKET = /run/a.sock\n"), "{set}");
            assert_eq!(set.contains("TOXMAIL_PIPE = yes\n"), route == Route::Pipe);
            let less = done(&after, &revert(&after, &["example.net".into()]).expect("a plan"));
            let set = less.text(macros(split)).expect("macros");
            assert!(!set.contains("example.net") && set.contains("bob@example.org") && set.contains("SOCKET"), "{set}");
            assert!(revert(&less, &["example.net".into()]).expect_err("gone").contains("is not among the lines"));
            let undone = done(&after, &revert(&after, &[]).expect("a plan"));
            assert_eq!(undone.texts, before.texts);
            assert_eq!(revert(&undone, &[]).expect("a plan").edits, []);
        }
    }

    #[test]
    fn the_files_are_included_where_they_belong() {
        let found = found(false);
        let text = included(&found, OWN).expect("a template");
        let expected = "# Debian's\n.include /etc/exim4/toxmail/main/50_toxmail\nbegin acl\na:\nbegin routers\n\
                        .include /etc/exim4/toxmail/router/120_toxmail\nr:\nbegin transports\n\
                        .include /etc/exim4/toxmail/transport/30_toxmail_lmtp\n\
                        .include /etc/exim4/toxmail/transport/30_toxmail_pipe\nt:\nbegin retry\n\
                        .include /etc/exim4/toxmail/retry/20_toxmail\n* * F\n";
        assert_eq!(text, expected);
        assert!(included(&found, "begin acl\n").expect_err("no section").contains("no section `begin retry`"));
    }

    #[test]
    fn what_is_somebody_elses_is_left_alone() {
        let mut theirs = found(true);
        theirs.texts.insert("conf.d/router/120_toxmail".into(), Some("other:\n".into()));
        assert!(apply(&theirs, &wanted(Route::Lmtp, &[])).expect_err("theirs").contains("is there already"));
        let mut set = found(true);
        set.texts.insert(macros(true).into(), Some("TOXMAIL_DOMAINS = a.b\n".into()));
        let error = apply(&set, &wanted(Route::Lmtp, &["example.net"])).expect_err("set");
        assert!(error.contains("TOXMAIL_DOMAINS is set by you in /etc/exim4/conf.d/main/000_localmacros"), "{error}");
        // Installed by hand, all is as it should be.
        let mut by_hand = found(true);
        for (name, _, text) in FILES {
            by_hand.texts.insert(format!("conf.d/{name}"), Some(text.into()));
        }
        let socket = Wanted { socket: SOCKET.into(), ..wanted(Route::Lmtp, &[]) };
        assert_eq!(apply(&by_hand, &socket).expect("a plan").edits, []);
    }

    #[test]
    fn the_defaults_are_those_of_the_fragment() {
        let main = FILES[0].2;
        for line in [
            format!("\nTOXMAIL_DOMAINS = {}\n", DOMAINS.join(" : ")),
            format!("\nTOXMAIL_SOCKET = {SOCKET}\n"),
            format!("\nTOXMAIL_PROGRAM = {PROGRAM}\n"),
        ] {
            assert!(main.contains(&line), "{line}");
        }
        assert_eq!(variable("#x\ndc_use_split_config='true'\n", "dc_use_split_config"), Some("true"));
        assert_eq!(variable("x_dc='1'\n", "dc"), None);
    }
}
