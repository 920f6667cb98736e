//! What Postfix needs so that mail goes to the agent. Pure: the texts of its files in, edits out. The lines themselves are
//! those of `postfix/`, which its README explains.

use super::plan::{Plan, Route, Wanted};
use super::{block, main_cf};

const MAIN_CF: &str = include_str!("../../../postfix/main.cf.fragment");
const MASTER_CF: &str = include_str!("../../../postfix/master.cf.fragment");
const STATUS: &str = include_str!("../../../postfix/tox_status");

/// How Postfix is now.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// The folder of its configuration.
    pub(super) dir: String,
    /// `main.cf`
    pub(super) main_cf: String,
    /// `master.cf`
    pub(super) master_cf: String,
    /// `tox_transport`
    pub(super) transport: Option<String>,
    /// `tox_status`
    pub(super) status: Option<String>,
    /// `mailbox_size_limit`, in octets; 0 is none.
    pub(super) mailbox_size_limit: u64,
}

/// What is always in the table; both are needed, as domains below are no matter of the first one.
const TOX: [&str; 2] = ["tox.alt", ".tox.alt"];

/// The lines of one service in the fragment of master.cf.
fn service(name: &str) -> String {
    let mut inside = false;
    let of_it = |line: &&str| {
        if !line.starts_with(' ') {
            inside = line.split_ascii_whitespace().next() == Some(name);
        }
        inside
    };
    MASTER_CF.lines().filter(of_it).map(|line| format!("{line}\n")).collect()
}

fn has_service(master_cf: &str, name: &str) -> bool {
    master_cf.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        !line.starts_with([' ', '\t']) && words.next() == Some(name) && words.next() == Some("unix")
    })
}

/// The parameters of the fragment of main.cf.
fn parameters() -> impl Iterator<Item = (&'static str, &'static str)> {
    MAIN_CF.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "))
}

/// A text of the fragments with the paths of this system.
fn local(text: &str, found: &Found, wanted: &Wanted) -> String {
    text.replace("/etc/postfix/", &format!("{}/", found.dir))
        .replace("/run/tox-agent/lmtp.sock", &wanted.socket)
        .replace("/usr/bin/tox-transport", &wanted.program)
}

/// Lines of ours (`None`: no block), and the rest of the file.
fn split(found: &Found, name: &str, text: &str) -> Result<(String, Option<String>), String> {
    block::take_out(text).map_err(|unclear| unclear.told(&format!("{}/{name}", found.dir)))
}

/// The keys of a transport table, with what stands behind them.
fn entries(table: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = table.lines().filter(|line| !line.starts_with(['#', ' ', '\t']));
    lines.filter_map(|line| line.split_once(|c: char| c.is_ascii_whitespace())).map(|(key, way)| (key, way.trim()))
}

fn main_cf(found: &Found, wanted: &Wanted, plan: &mut Plan) -> Result<String, String> {
    let map = local("texthash:/etc/postfix/tox_transport", found, wanted);
    let (mut text, _) = split(found, "main.cf", &found.main_cf)?;
    let mut body = String::new();
    for (name, value) in parameters() {
        let value = local(value, found, wanted);
        let of_route = match name {
            "transport_maps" => {
                if main_cf::lists(&text, name, &map) {
                    continue;
                }
                if main_cf::defines(&text, name) {
                    text = main_cf::list_with(&text, name, &map);
                    continue;
                }
                true
            }
            "message_size_limit" => {
                let largest = value.parse::<u64>().unwrap_or(0);
                let fits = found.mailbox_size_limit == 0 || found.mailbox_size_limit >= largest;
                if !fits {
                    plan.notes.push(format!(
                        "message_size_limit stays: mailbox_size_limit is only {} octets",
                        found.mailbox_size_limit
                    ));
                }
                fits
            }
            name if name.starts_with("tox-lmtp_") => wanted.route == Route::Lmtp,
            name if name.starts_with("tox_") => wanted.route == Route::Pipe,
            _ => true,
        };
        if of_route && main_cf::defines(&text, name) {
            plan.notes.push(format!("{name} stays as you have set it; toxmail would have it {value}"));
        } else if of_route {
            body += &format!("{name} = {value}\n");
        }
    }
    Ok(block::put_in(&text, &body))
}

fn transport(found: &Found, wanted: &Wanted, plan: &mut Plan) -> Result<String, String> {
    let way = match wanted.route {
        Route::Lmtp => format!("tox-lmtp:unix:{}", wanted.socket),
        Route::Pipe => "tox:".to_owned(),
    };
    let (rest, ours) = split(found, "tox_transport", found.transport.as_deref().unwrap_or_default())?;
    let ours = ours.unwrap_or_default();
    let before = entries(&ours).map(|(key, _)| key);
    let mut keys: Vec<&str> = Vec::new();
    for key in TOX.into_iter().chain(before).chain(wanted.keys.iter().map(String::as_str)) {
        if keys.contains(&key) {
            continue;
        }
        match entries(&rest).find(|(theirs, _)| theirs.eq_ignore_ascii_case(key)) {
            Some((_, theirs)) if theirs != way => {
                let file = format!("{}/tox_transport", found.dir);
                plan.notes.push(format!("{key} stays as it is in {file}: {theirs}"));
            }
            Some(_) => {}
            None => keys.push(key),
        }
    }
    let body: String = keys.iter().map(|key| format!("{key:<11} {way}\n")).collect();
    Ok(block::put_in(&rest, &body))
}

/// What is to be changed so that mail goes the way `wanted`; nothing where it goes so already.
///
/// # Errors
/// Lines that toxctl once put in were changed by hand.
pub(super) fn apply(found: &Found, wanted: &Wanted) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let path = |name: &str| format!("{}/{name}", found.dir);
    // First what the others name, so that no moment is without it.
    let (rest, _) = split(found, "tox_status", found.status.as_deref().unwrap_or_default())?;
    let status = match wanted.route {
        Route::Pipe if rest.contains(STATUS) => rest,
        Route::Pipe => block::put_in(&rest, STATUS),
        Route::Lmtp => rest,
    };
    let status = Some(status).filter(|text| !text.is_empty());
    if status.is_some() {
        plan.edit(path("tox_status"), found.status.clone(), status.clone());
    }
    let table = transport(found, wanted, &mut plan)?;
    plan.edit(path("tox_transport"), found.transport.clone(), Some(table));
    let (master_cf, _) = split(found, "master.cf", &found.master_cf)?;
    let name = if wanted.route == Route::Lmtp { "tox-lmtp" } else { "tox" };
    let services = if has_service(&master_cf, name) {
        plan.notes.push(format!("the service {name} stays as you have it in {}", path("master.cf")));
        String::new()
    } else {
        local(&service(name), found, wanted)
    };
    plan.edit(path("master.cf"), Some(found.master_cf.clone()), Some(block::put_in(&master_cf, &services)));
    let main_cf = main_cf(found, wanted, &mut plan)?;
    plan.edit(path("main.cf"), Some(found.main_cf.clone()), Some(main_cf));
    if status.is_none() {
        plan.edit(path("tox_status"), found.status.clone(), None);
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
    let (table, ours) = split(found, "tox_transport", found.transport.as_deref().unwrap_or_default())?;
    if !keys.is_empty() {
        let ours = ours.unwrap_or_default();
        for key in keys {
            if TOX.contains(&key.as_str()) || !entries(&ours).any(|(entry, _)| entry == key) {
                return Err(format!(
                    "{key} is not among the lines that toxctl setup put into {}",
                    path("tox_transport")
                ));
            }
        }
        let stays = |line: &&str| !keys.iter().any(|key| line.split_ascii_whitespace().next() == Some(key));
        let body: String = ours.lines().filter(stays).map(|line| format!("{line}\n")).collect();
        plan.edit(path("tox_transport"), found.transport.clone(), Some(block::put_in(&table, &body)));
        return Ok(plan);
    }
    let (mut main_cf, had) = split(found, "main.cf", &found.main_cf)?;
    if ours.is_some() || had.is_some() {
        let map = format!("texthash:{}", path("tox_transport"));
        main_cf = main_cf::list_without(&main_cf, "transport_maps", &map);
    }
    plan.edit(path("main.cf"), Some(found.main_cf.clone()), Some(main_cf));
    let (master_cf, _) = split(found, "master.cf", &found.master_cf)?;
    plan.edit(path("master.cf"), Some(found.master_cf.clone()), Some(master_cf));
    let (status, _) = split(found, "tox_status", found.status.as_deref().unwrap_or_default())?;
    for (name, before, after) in [("tox_transport", &found.transport, table), ("tox_status", &found.status, status)] {
        if before.is_some() && !after.is_empty() {
            plan.notes.push(format!("{} stays: there are lines of yours in it", path(name)));
        }
        // A file that was there and empty is not told from none: nobody misses it.
        plan.edit(path(name), before.clone(), Some(after).filter(|text| !text.is_empty()));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_MAIN: &str =
        "compatibility_level = 3.6\ntransport_maps = hash:/etc/postfix/transport,\n  regexp:/r\nx = y\n";

    fn found(main_cf: &str) -> Found {
        Found {
            dir: "/etc/postfix".into(),
            main_cf: main_cf.into(),
            master_cf: "smtp inet n - y - - smtpd".into(),
            ..Found::default()
        }
    }

    fn wanted(route: Route, keys: &[&str]) -> Wanted {
        Wanted {
            route,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            socket: "/run/a.sock".into(),
            program: "/usr/local/bin/tox-transport".into(),
        }
    }

    /// The files as they are after `plan`.
    fn done(found: &Found, plan: &Plan) -> Found {
        let mut found = found.clone();
        for edit in &plan.edits {
            let after = edit.after.clone();
            match edit.file.strip_prefix("/etc/postfix/").expect("below the folder") {
                "main.cf" => found.main_cf = after.expect("it stays"),
                "master.cf" => found.master_cf = after.expect("it stays"),
                "tox_transport" => found.transport = after,
                "tox_status" => found.status = after,
                other => panic!("{other}"),
            }
        }
        found
    }

    fn same(a: &Found, b: &Found) -> bool {
        (&a.main_cf, &a.master_cf, &a.transport, &a.status) == (&b.main_cf, &b.master_cf, &b.transport, &b.status)
    }

    #[test]
    fn a_second_time_changes_nothing_and_undoing_leaves_what_was() {
        for route in [Route::Lmtp, Route::Pipe] {
            for main_cf in [OWN_MAIN, "", "a = b", "transport_maps =\n", "message_size_limit = 1\n"] {
                let before = found(main_cf);
                let wanted = wanted(route, &["example.net", "bob@example.org"]);
                let after = done(&before, &apply(&before, &wanted).expect("a plan"));
                assert!(!same(&before, &after));
                assert_eq!(apply(&after, &wanted).expect("a plan").edits, [], "{route:?} {main_cf}");
                let undone = done(&after, &revert(&after, &[]).expect("a plan"));
                assert!(same(&before, &undone), "{route:?} {main_cf}: {undone:?}");
                assert_eq!(revert(&undone, &[]).expect("a plan"), Plan::default());
            }
        }
    }

    #[test]
    fn the_lines_are_those_of_the_fragments_with_own_paths() {
        let before = found(OWN_MAIN);
        let after = done(&before, &apply(&before, &wanted(Route::Lmtp, &["example.net"])).expect("a plan"));
        let table = after.transport.expect("a table");
        for line in ["tox.alt     ", ".tox.alt    ", "example.net "] {
            assert!(table.contains(&format!("\n{line}tox-lmtp:unix:/run/a.sock\n")), "{table}");
        }
        let first =
            "\ntransport_maps = texthash:/etc/postfix/tox_transport, hash:/etc/postfix/transport,\n  regexp:/r\n";
        assert!(after.main_cf.contains(first), "{}", after.main_cf);
        assert!(after.main_cf.contains("\nmessage_size_limit = 51200000\n"), "{}", after.main_cf);
        assert!(!after.main_cf.contains("tox_status_filter") && after.status.is_none());
        assert!(after.master_cf.contains("\ntox-lmtp   unix") && !after.master_cf.contains("\ntox  "));

        let after = done(&before, &apply(&before, &wanted(Route::Pipe, &[])).expect("a plan"));
        assert!(after.main_cf.contains("tox_status_filter = regexp:/etc/postfix/tox_status\n"));
        assert!(after.master_cf.contains("argv=/usr/local/bin/tox-transport --socket /run/a.sock "));
        assert!(after.status.expect("a filter").contains("4.3.0"));
        assert!(after.transport.expect("a table").contains("\ntox.alt     tox:\n"));
    }

    #[test]
    fn the_route_can_be_changed_and_keys_come_and_go() {
        let before = found(OWN_MAIN);
        let lmtp = done(&before, &apply(&before, &wanted(Route::Lmtp, &["example.net"])).expect("a plan"));
        let pipe = done(&lmtp, &apply(&lmtp, &wanted(Route::Pipe, &["a@b.org"])).expect("a plan"));
        let table = pipe.transport.clone().expect("a table");
        assert!(table.contains("example.net tox:\n") && table.contains("a@b.org     tox:\n"), "{table}");
        assert!(!pipe.master_cf.contains("tox-lmtp"));
        let less = done(&pipe, &revert(&pipe, &["example.net".into()]).expect("a plan"));
        assert!(!less.transport.clone().expect("a table").contains("example.net"));
        for key in ["example.net", "tox.alt"] {
            assert!(revert(&less, &[key.into()]).expect_err(key).contains("is not among the lines"));
        }
        let none = done(&less, &revert(&less, &[]).expect("a plan"));
        assert!(same(&none, &before));
    }

    #[test]
    fn what_was_set_by_hand_stays() {
        let mut before = found("message_size_limit = 7\nenable_long_queue_ids = no\n");
        before.transport = Some("tox.alt smtp:\nmine.org smtp:\n".into());
        before.master_cf = "tox-lmtp unix - - y - 1 lmtp\n".into();
        let plan = apply(&before, &wanted(Route::Lmtp, &["mine.org"])).expect("a plan");
        let after = done(&before, &plan);
        assert_eq!(after.master_cf, before.master_cf);
        assert!(after.main_cf.starts_with(&before.main_cf) && !after.main_cf.contains("51200000"));
        for part in ["message_size_limit stays", "enable_long", "tox-lmtp stays", "tox.alt stays", "mine.org stays"] {
            assert!(plan.notes.iter().any(|note| note.contains(part)), "{part}: {:?}", plan.notes);
        }
        // Lines of others around ours, added later, survive the undoing.
        let mut later = after.clone();
        later.main_cf += "late = 1\n";
        later.transport = later.transport.map(|table| table + "other.org smtp:\n");
        let plan = revert(&later, &[]).expect("a plan");
        let undone = done(&later, &plan);
        assert_eq!(undone.main_cf, format!("{}late = 1\n", before.main_cf));
        assert_eq!(undone.transport.as_deref(), Some("tox.alt smtp:\nmine.org smtp:\nother.org smtp:\n"));
        assert!(plan.notes[0].contains("lines of yours"), "{:?}", plan.notes);
    }

    #[test]
    fn a_mailbox_limit_is_not_overrun() {
        let mut small = found("");
        small.mailbox_size_limit = 1000;
        let plan = apply(&small, &wanted(Route::Lmtp, &[])).expect("a plan");
        assert!(!done(&small, &plan).main_cf.contains("message_size_limit"));
        assert!(plan.notes[0].contains("mailbox_size_limit is only 1000"), "{:?}", plan.notes);
    }

    #[test]
    fn own_lines_that_were_changed_are_not_touched() {
        let before = found("");
        let mut after = done(&before, &apply(&before, &wanted(Route::Lmtp, &[])).expect("a plan"));
        after.main_cf = after.main_cf.replace("51200000", "1");
        for result in [apply(&after, &wanted(Route::Lmtp, &[])), revert(&after, &[])] {
            assert!(result.expect_err("changed").contains("/etc/postfix/main.cf: the lines between"));
        }
    }
}
