//! Runs the built toxctl against the control server with an agent that is made up.

use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::watch;
use toxmail::control::api::*;
use toxmail::control::server::{Options, serve};
use toxmail::control::{Backend, Failure};
use toxmail::identity::tox_id::{PublicKey, ToxId};
use toxmail::socket::bind;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

fn id(octet: u8) -> ToxId {
    ToxId::new(PublicKey([octet; 32]), [1, 2, 3, 4])
}

fn contact(octet: u8, nick: Option<&str>) -> Contact {
    let key = PublicKey([octet; 32]);
    Contact {
        account: "alice".into(),
        key: key.to_string(),
        nick: nick.map(str::to_owned),
        address: format!("{}@tox.alt", key.base32()),
        state: ContactState::Accepted,
        online: octet == 1,
        mail: octet == 1,
        last_seen: (octet == 2).then(|| now() - 7290),
        added: now() - 9030,
        blocked: false,
        names: if octet == 2 { vec!["carol@example.net".into()] } else { Vec::new() },
        relays: if octet == 2 { 3 } else { 0 },
    }
}

/// A name whose key has changed.
fn changed() -> Name {
    let offer = Offer {
        tox_id: id(3).to_string(),
        via: "name".into(),
        method: "tox1".into(),
        proof: "secure".into(),
        since: now() - 130,
    };
    Name {
        account: "alice".into(),
        address: "carol@example.net".into(),
        state: NameState::Changed,
        key: Some(PublicKey([2; 32]).to_string()),
        via: Some("name".into()),
        method: Some("tox1".into()),
        proof: Some("secure".into()),
        first_seen: Some(now() - 9030),
        last_seen: Some(now() - 7290),
        offer: Some(offer),
        status: Some("4.7.1".into()),
        text: Some("the key has\u{1b}[2J changed".into()),
        next_lookup: None,
        waiting: 2,
    }
}

/// What is known of relays; the second one cannot be reached.
fn relays() -> Relays {
    let used = |octet: &str, purpose, reachable, mails| UsedRelay {
        account: "alice".into(),
        text: "toxmail-relay:abc".into(),
        key: octet.repeat(32),
        purpose,
        reachable,
        since: reachable.map(|_| now() - 7290),
        slots: if purpose == RelayPurpose::Deposits { 0 } else { 410 },
        mails,
        error: (reachable == Some(false)).then(|| "no\u{1b} answer".into()),
    };
    Relays {
        own: Some(OwnRelay {
            text: "toxmail-relay:own".into(),
            connection: Connection::Udp,
            open: false,
            offered: true,
            owners: 3,
            max_owners: 100,
            slots: 1230,
            filled: 1,
            octets: 3 << 20,
            max_disk: 1 << 30,
            error: None,
        }),
        used: vec![
            used("ab", RelayPurpose::Told, Some(true), 0),
            used("cd", RelayPurpose::Deposits, Some(false), 3),
            used("ef", RelayPurpose::Offered, None, 0),
        ],
    }
}

/// Remembers what it was asked; with relays, or without any.
struct Fake {
    mails: usize,
    relays: bool,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().expect("lock").push(what);
    }
}

impl Backend for Fake {
    fn reload(&self) -> Result<Reloaded, Failure> {
        self.note("reload".into());
        Ok(Reloaded { applied: vec!["log.level".into()], restart: vec!["state_dir".into()] })
    }

    fn status(&self) -> Result<Status, Failure> {
        let account = |name: &str, octet: u8, error: Option<&str>| AccountStatus {
            name: name.into(),
            tox_id: id(octet).to_string(),
            address: format!("{}@tox.alt", PublicKey([octet; 32]).base32()),
            connection: if error.is_none() { Connection::Udp } else { Connection::Offline },
            contacts_total: 3,
            contacts_online: 1,
            requests: 0,
            names_unconfirmed: 0,
            names_changed: u64::from(octet == 7),
            error: error.map(str::to_owned),
        };
        let mails = self.mails as u64;
        Ok(Status {
            version: "0.1.0".into(),
            pid: 42,
            uptime_s: 90_000,
            hostname: "host.example".into(),
            accounts: vec![account("alice", 7, None), account("bob", 8, Some("no\u{1b}[2J passphrase"))],
            queue: QueueSummary {
                mails,
                recipients: mails,
                octets: mails * 2048,
                oldest: Some(now() - 7230),
                at_relays: u64::from(self.mails == RELAYED),
                at_relays_since: Some(now() - 3630),
            },
            counts: Counts { sent: 5, deferred: 1, bounced: 2, received: 3 },
            relays: self.relays(None)?,
        })
    }
    fn probe(&self, token: &str) -> Result<Probe, Failure> {
        Err(Failure::NotFound(token.into()))
    }
    fn contacts(&self, account: Option<&str>) -> Result<Vec<Contact>, Failure> {
        match account {
            None | Some("alice") => Ok(vec![contact(1, Some("bob\x1b[31m")), contact(2, None)]),
            Some(_) => Ok(Vec::new()),
        }
    }
    fn add_contact(&self, new: NewContact) -> Result<Contact, Failure> {
        let who = new.tox_id.or(new.invitation).or(new.address).unwrap_or_default();
        self.note(format!("add {:?} {who} {:?}", new.account, new.message));
        if new.nick.as_deref() == Some("taken") {
            return Err(Failure::Conflict("the nick `taken` is taken".into()));
        }
        Ok(Contact { state: ContactState::Pending, ..contact(9, new.nick.as_deref()) })
    }
    fn remove_contact(&self, account: Option<&str>, who: &str) -> Result<(), Failure> {
        self.note(format!("remove {account:?} {who}"));
        Ok(())
    }
    fn contact(&self, account: Option<&str>, who: &str) -> Result<ContactDetails, Failure> {
        self.note(format!("contact {account:?} {who}"));
        Ok(ContactDetails { contact: contact(2, None), tox_id: None, message: None, pins: vec![changed()] })
    }
    fn rename_contact(&self, _: Option<&str>, who: &str, nick: Option<String>) -> Result<Contact, Failure> {
        self.note(format!("rename {who} {nick:?}"));
        Ok(contact(2, nick.as_deref()))
    }
    fn block(&self, account: Option<&str>, who: &str, blocked: bool) -> Result<(), Failure> {
        self.note(format!("block {account:?} {who} {blocked}"));
        Ok(())
    }
    fn names(&self, _: Option<&str>) -> Result<Vec<Name>, Failure> {
        Ok(vec![changed()])
    }
    fn blocked(&self, _: Option<&str>) -> Result<Vec<Blocked>, Failure> {
        Ok(vec![Blocked { account: "alice".into(), key: "AB".repeat(32), since: now() - 130 }])
    }
    fn accept_key(&self, account: Option<&str>, address: &str, tox_id: Option<&str>) -> Result<Name, Failure> {
        self.note(format!("accept-key {account:?} {address} {tox_id:?}"));
        Ok(Name { state: NameState::Pinned, offer: None, status: None, text: None, ..changed() })
    }
    fn refresh(&self, account: Option<&str>, who: Option<&str>) -> Result<Refreshed, Failure> {
        self.note(format!("refresh {account:?} {who:?}"));
        Ok(Refreshed { names: 1 })
    }
    fn look_up(&self, address: &str) -> Result<Lookup, Failure> {
        let found = address == "carol@example.net";
        Ok(Lookup {
            address: address.into(),
            tox_id: found.then(|| id(2).to_string()),
            key: found.then(|| PublicKey([2; 32]).to_string()),
            via: found.then(|| "name".into()),
            method: found.then(|| "tox1".into()),
            proof: if found { "insecure" } else { "secure" }.into(),
            invitation: None,
            permanent: !found,
            status: (!found).then(|| "5.1.1".into()),
            text: "there is no such\u{1b} name".into(),
            steps: vec![LookupStep {
                query: "carol._tox.example.net.".into(),
                kind: "TXT".into(),
                outcome: "answer".into(),
                proof: "insecure".into(),
                records: vec!["v=tox1;\u{1b}".into()],
                ms: 3,
            }],
        })
    }
    fn records(&self, account: Option<&str>) -> Result<Vec<Record>, Failure> {
        self.note(format!("records {account:?}"));
        Ok(vec![Record {
            account: "alice".into(),
            address: "alice@example.org".into(),
            record: Some(format!("alice._tox.example.org. 3600 IN TXT \"v=tox1;id={}\"", id(7))),
            correct: false,
            text: "there is no alice._tox.example.org in the DNS".into(),
        }])
    }
    fn requests(&self, _: Option<&str>) -> Result<Vec<FriendRequest>, Failure> {
        Ok(vec![FriendRequest {
            account: "alice".into(),
            key: "AB".repeat(32),
            message: "hi\nthere".into(),
            received: now() - 130,
            refused: false,
            told: None,
            claim: Some("dave@example.net".into()),
            verified: Some(false),
        }])
    }
    fn accept_request(&self, _: Option<&str>, key: &str, nick: Option<String>) -> Result<Contact, Failure> {
        self.note(format!("accept {key} {nick:?}"));
        Ok(contact(9, nick.as_deref()))
    }
    fn refuse_request(&self, _: Option<&str>, key: &str, silent: bool) -> Result<Refused, Failure> {
        match key {
            "K" => Err(Failure::NotFound(format!("nobody with the key {key} asked"))),
            _ => Ok(Refused { tell: !silent }),
        }
    }
    fn queue(&self, _: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<QueueEntry>, Failure> {
        let first = after.map_or(0, |after| after.parse::<usize>().expect("ours") + 1);
        let recipient = |state: &str| QueueRecipient {
            address: "bob@example.org".into(),
            peer: None,
            state: state.into(),
            restored: state == "on_hold",
            attempts: 0,
            next_attempt: None,
            status: None,
            text: None,
            progress: None,
            at_relays: (state == "queued").then(|| AtRelays { relays: 3, since: now() - 7290 }),
        };
        let mail = |n: usize| QueueEntry {
            queue_id: format!("{n:06}"),
            mta_queue_id: (n == 0).then(|| "4XyZ12".into()),
            account: "alice".into(),
            sender: if n == 0 { "alice@example.org".into() } else { String::new() },
            size: 2048,
            arrived: now() - 7290,
            expires: now() + 86_400 + 1800,
            recipients: if n == 0 {
                let (attempts, next_attempt) = (3, Some(now() + 330));
                let (status, text) = (Some("4.4.1".into()), Some("no \"route\"".into()));
                let waiting = QueueRecipient { attempts, next_attempt, status, text, ..recipient("deferred") };
                vec![waiting, QueueRecipient { progress: Some(1024), ..recipient("sending") }]
            } else {
                vec![recipient("queued"), recipient("on_hold")]
            },
        };
        Ok((first..self.mails).take(limit).map(mail).collect())
    }
    fn change_queue(&self, step: QueueStep, what: Selection) -> Result<Touched, Failure> {
        self.note(format!("{step:?} {:?} {:?}", what.queue_id, what.account));
        match what.queue_id.as_deref() {
            Some("nothing") => Err(Failure::NotFound("no mail with the queue id nothing waits".into())),
            Some(_) => Ok(Touched { recipients: 1, sending: 0 }),
            None => Ok(Touched { recipients: 5, sending: 2 }),
        }
    }
    fn rotate_nospam(&self, account: Option<&str>) -> Result<NewId, Failure> {
        self.note(format!("rotate {account:?}"));
        Ok(NewId { account: "alice".into(), tox_id: id(8).to_string(), before: id(7).to_string() })
    }
    fn relays(&self, _: Option<&str>) -> Result<Relays, Failure> {
        Ok(if self.relays { relays() } else { Relays::default() })
    }
    fn use_relay(&self, what: UseRelay) -> Result<UsedRelay, Failure> {
        self.note(format!("use {:?} {}", what.account, what.relay));
        match what.relay.as_str() {
            "nonsense" => Err(Failure::Invalid("a relay is told as toxmail-relay: and so on".into())),
            _ => Ok(relays().used.remove(0)),
        }
    }
    fn forget_relay(&self, account: Option<&str>, relay: &str) -> Result<(), Failure> {
        self.note(format!("forget {account:?} {relay}"));
        Ok(())
    }
    fn invitation(&self, what: AskInvitation) -> Result<Invitation, Failure> {
        self.note(format!("invitation {:?} {}", what.account, what.renew));
        match self.relays {
            true => Ok(Invitation { account: "alice".into(), text: "toxmail-invite:abc".into(), relays: 2 }),
            false => Err(Failure::Conflict("no relay of the account has answered yet".into())),
        }
    }
    fn invite(&self, what: NewInvite) -> Result<Invited, Failure> {
        self.note(format!("invite {:?}", what.quota));
        Ok(Invited { text: "toxmail-relay:own:invite".into(), quota: what.quota.unwrap_or(100 << 20) })
    }
    fn owners(&self) -> Result<Vec<Owner>, Failure> {
        let owner = |octet: &str, last_seen| Owner {
            key: octet.repeat(32),
            since: now() - 180_030,
            last_seen,
            slots: 410,
            filled: 1,
            octets: 16 << 10,
            quota: 100 << 20,
        };
        let owners = vec![owner("AB", Some(now() - 130)), owner("CD", None)];
        if self.relays { Ok(owners) } else { Err(Failure::Conflict("this agent is no relay".into())) }
    }
    fn remove_owner(&self, key: &str) -> Result<(), Failure> {
        self.note(format!("remove-owner {key}"));
        Ok(())
    }
    fn flush(&self, what: Flush) -> Result<Flushed, Failure> {
        self.note(format!("flush {:?} {:?} {:?}", what.queue_id, what.account, what.contact));
        Ok(Flushed { recipients: 1 })
    }
}

struct Agent {
    socket: PathBuf,
    fake: Arc<Fake>,
    _stop: watch::Sender<bool>,
    folder: tempfile::TempDir,
}

/// So much mail waits at an agent that uses relays.
const RELAYED: usize = 1;

fn agent(mails: usize) -> Agent {
    agent_with(mails, 0o600, Options::default())
}

fn agent_with(mails: usize, mode: u32, options: Options) -> Agent {
    let folder = tempfile::tempdir().expect("tempdir");
    let socket = folder.path().join("control.sock");
    let listener = bind(&socket, mode, None).expect("bind");
    let (stop, stopped) = watch::channel(false);
    // Mail waits at relays, if any does.
    let fake = Arc::new(Fake { mails, relays: mails == RELAYED, asked: Mutex::default() });
    let backend = fake.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(serve(listener, backend, options, stopped))
    });
    Agent { socket, fake, _stop: stop, folder }
}

fn toxctl(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_toxctl"));
    command.arg("--socket").arg(socket).args(args).stdin(Stdio::null());
    command
}

impl Agent {
    fn run(&self, args: &[&str]) -> Output {
        toxctl(&self.socket, args).output().expect("toxctl runs")
    }

    /// What a command that must end well prints.
    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.good(&[&["--json"], args].concat())).expect("JSON")
    }

    fn asked(&self) -> String {
        self.fake.asked.lock().expect("lock").drain(..).collect::<Vec<_>>().join("; ")
    }
}

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn status_and_id() {
    let agent = agent(2);
    let (seven, eight) = (PublicKey([7; 32]).base32(), PublicKey([8; 32]).base32());
    assert_eq!(
        agent.good(&["status"]),
        format!(
            "tox-agent 0.1.0 on host.example, process 42, up 1d1h\n\
             queue: 2 mails to 2 recipients, 4.0 KiB, oldest 2h\n\
             \n\
             ACCOUNT  NETWORK  CONTACTS  REQUESTS  ADDRESS\n\
             alice    udp      1/3       0         {seven}@tox.alt\n\
             bob      offline  1/3       0         {eight}@tox.alt\n\
             alice: the key of 1 address has changed, mail is held: toxctl name list\n\
             bob: error: no\\u{{1b}}[2J passphrase\n"
        )
    );
    let one = agent.json(&["--account", "bob", "status"]);
    assert_eq!(
        (one["accounts"].as_array().map(Vec::len), &one["accounts"][0]["connection"]),
        (Some(1), &"offline".into())
    );
    assert_eq!(
        agent.good(&["id", "--account", "alice"]),
        format!(
            "alice\n  Tox ID      {}\n  address     {seven}@tox.alt\n  ID address  {}@tox.alt\n",
            id(7),
            id(7).base32()
        )
    );
    assert_eq!(agent.json(&["id"])[1]["tox_id"], id(8).to_string());
    let nobody = told(&agent.run(&["--account", "eve", "id"]));
    assert_eq!(nobody, (Some(1), "toxctl: there is no account `eve`\n".into()));
}

#[test]
fn metrics_are_printed_as_they_come() {
    let text = agent(2).good(&["metrics"]);
    assert!(text.contains("\ntoxmail_recipients_total{result=\"bounced\"} 2\n"), "{text}");
    assert!(text.contains("\ntoxmail_contacts_online{account=\"bob\"} 1\n") && text.ends_with("# EOF\n"), "{text}");
    assert_eq!(told(&agent(2).run(&["--json", "metrics"])).0, Some(64), "they have a format of their own");
}

#[test]
fn a_reload_tells_what_has_changed_and_what_needs_a_restart() {
    let agent = agent(0);
    assert_eq!(agent.good(&["reload"]), "changed: log.level\nneeds a restart: state_dir\n");
    assert_eq!(agent.asked(), "reload");
    assert_eq!(agent.json(&["reload"])["restart"][0], "state_dir");
}

#[test]
fn contacts() {
    let agent = agent(0);
    let (one, nine) = (PublicKey([1; 32]).base32(), PublicKey([9; 32]).base32());
    assert_eq!(
        agent.good(&["contact", "list"]),
        format!(
            "ACCOUNT  NICK           STATE    MAIL  SEEN      ADDRESS\n\
             alice    bob\\u{{1b}}[31m  online   yes   now       {one}@tox.alt\n\
             alice    -              offline  no    2h1m ago  carol@example.net\n"
        )
    );
    assert_eq!(agent.json(&["contact", "list"])[0]["state"], "accepted");
    assert_eq!(agent.good(&["--account", "bob", "contact", "list"]), "no contacts\n");

    let by_address = format!("{}@tox.alt", id(9).base32());
    assert_eq!(
        agent.good(&["contact", "add", &by_address, "--nick", "carol", "--message", "hello"]),
        format!("alice: carol = {nine}@tox.alt asked; mail waits until the other side accepts\n")
    );
    assert_eq!(agent.asked(), format!("add None {} Some(\"hello\")", id(9)));
    assert_eq!(agent.json(&["contact", "add", &id(9).to_string()])["state"], "pending");

    let refused = told(&agent.run(&["contact", "add", &id(9).to_string(), "--nick", "taken"]));
    assert_eq!(refused, (Some(1), "toxctl: the nick `taken` is taken\n".into()));
    let mut mistyped = id(9).to_string();
    mistyped.replace_range(0..1, "1");
    let (status, text) = told(&agent.run(&["contact", "add", &mistyped]));
    assert!(status == Some(64) && text.contains("checksum"), "{text}");

    agent.asked();
    assert_eq!(agent.good(&["contact", "remove", "a/b ü", "--account", "x y"]), "removed a/b ü\n");
    assert_eq!(agent.asked(), "remove Some(\"x y\") a/b ü");
    assert_eq!(agent.json(&["contact", "remove", "bob"])["removed"], "bob");
}

#[test]
fn a_contact_is_added_by_address_shown_renamed_and_blocked() {
    let agent = agent(0);
    agent.good(&["contact", "add", "carol@example.net"]);
    agent.good(&["contact", "add", &id(9).to_string(), "--address", "carol@example.net"]);
    assert_eq!(agent.asked(), format!("add None carol@example.net None; add None {} None", id(9)));
    let both = agent.run(&["contact", "add", "carol@example.net", "--address", "carol@example.net"]);
    assert_eq!(told(&both), (Some(64), "toxctl: --address goes with a Tox ID or an invitation\n".into()));

    let shown = agent.good(&["contact", "show", "carol@example.net"]);
    for line in [
        format!("key        {}\n", PublicKey([2; 32])),
        "state      offline\n".into(),
        "name       carol@example.net (tox1, secure, by its name; confirmed 2h1m ago)\n".into(),
        format!("           it leads to another key since 2m ago: {}\n", id(3)),
        "mail to it is held: toxctl contact accept-key carol@example.net\n".into(),
    ] {
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    assert_eq!(agent.json(&["contact", "show", "carol@example.net"])["pins"][0]["state"], "changed");
    agent.asked();
    agent.good(&["contact", "rename", "carol@example.net", "caro"]);
    agent.good(&["contact", "rename", "caro"]);
    assert_eq!(agent.good(&["contact", "block", "caro"]), "blocked caro\n");
    assert_eq!(agent.good(&["contact", "unblock", "caro"]), "unblocked caro\n");
    assert!(agent.good(&["contact", "accept-key", "carol@example.net"]).contains("from now on"));
    agent.good(&["contact", "accept-key", "carol@example.net", "ID"]);
    assert_eq!(
        agent.good(&["contact", "blocked"]),
        format!("ACCOUNT  SINCE   KEY\nalice    2m ago  {}\n", "AB".repeat(32))
    );
    assert_eq!(agent.good(&["contact", "refresh"]), "1 name being looked up: toxctl name list\n");
    agent.good(&["contact", "refresh", "carol@example.net", "--account", "alice"]);
    assert_eq!(
        agent.asked(),
        "rename carol@example.net Some(\"caro\"); rename caro None; block None caro true; block None caro false; \
         accept-key None carol@example.net None; accept-key None carol@example.net Some(\"ID\"); refresh None None; refresh Some(\"alice\") Some(\"carol@example.net\")"
    );
}

#[test]
fn names() {
    let agent = agent(0);
    assert_eq!(
        agent.good(&["name", "list"]),
        format!(
            "ACCOUNT  ADDRESS            STATE        KEY               PROOF   WAITING\n\
             alice    carol@example.net  KEY CHANGED  0202020202020202  secure  2\n\
             carol@example.net: the key has\\u{{1b}}[2J changed\n\
             carol@example.net: compare with its owner, then: toxctl contact accept-key carol@example.net {} (secure)\n",
            id(3)
        )
    );
    let found = agent.good(&["name", "lookup", "carol@example.net"]);
    assert!(found.starts_with("carol._tox.example.net. TXT: answer, insecure (3 ms)\n    v=tox1;\\u{1b}\n"), "{found}");
    assert!(found.contains(&id(2).to_string()) && found.contains("not proved by DNSSEC"), "{found}");
    let nothing = agent.run(&["name", "lookup", "eve@example.net"]);
    assert_eq!(told(&nothing), (Some(1), String::new()));
    let text = String::from_utf8_lossy(&nothing.stdout).into_owned();
    assert!(text.ends_with("eve@example.net: mail to it is returned: 5.1.1 there is no such\\u{1b} name\n"), "{text}");
    let json = agent.run(&["--json", "name", "lookup", "eve@example.net"]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!((&json["permanent"], &json["steps"][0]["type"]), (&true.into(), &"TXT".into()));

    let records = agent.good(&["name", "record", "alice"]);
    assert_eq!(agent.asked(), "records Some(\"alice\")");
    let line = format!("\nalice._tox.example.org. 3600 IN TXT \"v=tox1;id={}\"\n", id(7));
    assert!(records.contains("NOT PUBLISHED") && records.contains(&line) && records.contains('█'), "{records}");
    assert!(records.contains("no wildcard") && records.contains("in this order"), "{records}");
    assert_eq!(agent.json(&["name", "record"])[0]["correct"], false);
}

#[test]
fn requests() {
    let agent = agent(0);
    let key = "AB".repeat(32);
    assert_eq!(
        agent.good(&["request", "list"]),
        format!(
            "ACCOUNT  STATE  RECEIVED  CLAIMS{}  KEY{}  MESSAGE\n\
             alice    open   2m ago    dave@example.net (NOT proved)  {key}  hi\\nthere\n",
            " ".repeat(23),
            " ".repeat(61)
        )
    );
    assert!(agent.good(&["request", "accept", &key, "--nick", "dave"]).contains("dave = "));
    assert_eq!(agent.asked(), format!("accept {key} Some(\"dave\")"));
    assert_eq!(
        told(&agent.run(&["request", "refuse", "K"])),
        (Some(1), "toxctl: nobody with the key K asked\n".into())
    );
    assert_eq!(agent.good(&["request", "refuse", "L"]), "refused L; they are told so when both are online\n");
    assert_eq!(agent.good(&["request", "refuse", "L", "--silent"]), "refused L; they are not told\n");
    assert_eq!(agent.json(&["request", "refuse", "L"])["tell"], true);
}

#[test]
fn queue() {
    let full = agent(2);
    assert_eq!(
        full.good(&["queue", "list"]),
        "-Queue ID-------- -MTA ID------- ---Size--- --Age- Expires -Sender/Recipients-----\n\
         000000            4XyZ12            2.0 KiB   2h1m      1d alice@example.org\n    \
             bob@example.org  deferred, 3 attempts, next in 5m (4.4.1 no \"route\")\n    \
             bob@example.org  sending 1.0 KiB of 2.0 KiB\n\
         000001            -                 2.0 KiB   2h1m      1d <>\n    \
             bob@example.org  queued, at 3 relays since 2h1m ago\n    \
             bob@example.org  on hold, from a backup\n\
         -- 4.0 KiB in 2 mails.\n"
    );
    assert_eq!(full.good(&["queue", "flush", "000001", "--contact", "bob"]), "1 recipient due now\n");
    assert_eq!(full.asked(), "flush Some(\"000001\") None Some(\"bob\")");
    assert_eq!(full.json(&["queue", "flush"])["recipients"], 1);
    full.asked();
    assert_eq!(full.good(&["queue", "hold", "000001"]), "1 recipient put on hold\n");
    assert_eq!(full.good(&["queue", "release", "ALL"]), "5 recipients released, 2 being sent and left as they are\n");
    assert_eq!(full.json(&["queue", "delete", "ALL", "--account", "alice"])["sending"], 2);
    assert_eq!(full.asked(), "Hold Some(\"000001\") None; Release None None; Delete None Some(\"alice\")");
    assert_eq!(
        told(&full.run(&["queue", "delete", "nothing"])),
        (Some(1), "toxctl: no mail with the queue id nothing waits\n".into())
    );
    assert_eq!(told(&full.run(&["queue", "delete"])).0, Some(64), "all only by its name");

    let empty = agent(0);
    assert_eq!(empty.good(&["queue", "list"]), "the queue is empty\n");
    assert_eq!(empty.json(&["queue", "list"]), Value::Array(Vec::new()));
}

#[test]
fn the_own_relay_and_those_in_use_are_shown() {
    let (with, without) = (agent(RELAYED), agent(0));
    assert!(
        with.good(&["status"]).ends_with(
            "relay: udp, 3 owners, 1 of 1230 slots filled, 3.0 MiB of 1.0 GiB\n\
             alice: relay abababababababab: reachable since 2h1m ago\n\
             alice: relay cdcdcdcdcdcdcdcd: NOT REACHABLE since 2h1m ago (no\\u{1b} answer), 3 mails there\n\
             alice: relay efefefefefefefef: not tried yet\n"
        ),
        "{}",
        with.good(&["status"])
    );
    assert!(with.good(&["status"]).contains("\nqueue: 1 mail at relays since 1h, awaiting receipts\n"));
    assert!(!with.good(&["status", "--account", "bob"]).contains("alice"));
    assert!(!without.good(&["status"]).contains("relay"));
    assert_eq!(
        with.good(&["relay", "status"]),
        "this agent is a relay for others\n  \
           relay    toxmail-relay:own\n  \
           network  udp\n  \
           for      whoever has an invite (toxctl relay invite); contacts are told of it\n  \
           owners   3\n  \
           slots    1230, 1 filled\n  \
           disk     3.0 MiB of 1.0 GiB\n\
         \n\
         ACCOUNT  RELAY             USED AS   SLOTS  MAILS  STATE\n\
         alice    abababababababab  told      410    0      reachable since 2h1m ago\n\
         alice    cdcdcdcdcdcdcdcd  deposits  0      3      NOT REACHABLE since 2h1m ago (no\\u{1b} answer)\n\
         alice    efefefefefefefef  offered   410    0      not tried yet\n"
    );
    assert_eq!(
        without.good(&["relay", "status"]),
        "this agent is no relay for others ([relay] enabled)\n\nno relays in use\n"
    );
    let told = with.json(&["relay", "status"]);
    assert_eq!((&told["own"]["owners"], &told["used"][2]["purpose"]), (&3.into(), &"offered".into()));
    assert_eq!(without.json(&["relay", "status"])["own"], Value::Null);
    assert_eq!(with.json(&["status"])["relays"]["used"][1]["mails"], 3);
}

#[test]
fn an_invitation_is_shown_renewed_and_followed() {
    let agent = agent(RELAYED);
    assert_eq!(
        agent.good(&["invitation", "show"]),
        "toxmail-invite:abc\n\
         Whoever has it can introduce himself to alice by 2 relays (toxctl request list); he says:\n\
         toxctl contact add INVITATION\n"
    );
    assert_eq!(agent.asked(), "invitation None false");
    assert_eq!(agent.json(&["--account", "alice", "invitation", "renew"])["text"], "toxmail-invite:abc");
    assert_eq!(agent.asked(), "invitation Some(\"alice\") true");
    agent.good(&["contact", "add", "toxmail-invite:abc", "--message", "hello"]);
    assert_eq!(agent.asked(), "add None toxmail-invite:abc Some(\"hello\")");
}

#[test]
fn owners_are_invited_listed_and_removed() {
    let agent = agent(RELAYED);
    assert_eq!(
        agent.good(&["relay", "invite"]),
        "toxmail-relay:own:invite\n\
         It makes one owner, with room for 100.0 MiB. Give it to nobody else; he says:\n\
         toxctl relay use TEXT\n"
    );
    assert_eq!(agent.json(&["relay", "invite", "--quota", "2 GiB"])["quota"], 2u64 << 30);
    let (status, text) = told(&agent.run(&["relay", "invite", "--quota", "much"]));
    assert!(status == Some(64) && text.contains("is no size"), "{text}");
    assert_eq!(
        agent.good(&["relay", "owners"]),
        format!(
            "SINCE     SEEN    SLOTS  DISK                   KEY\n\
             2d2h ago  2m ago  1/410  16.0 KiB of 100.0 MiB  {}\n\
             2d2h ago  never   1/410  16.0 KiB of 100.0 MiB  {}\n",
            "AB".repeat(32),
            "CD".repeat(32)
        )
    );
    assert_eq!(agent.json(&["relay", "owners"])[0]["octets"], 16 << 10);
    assert_eq!(agent.good(&["relay", "remove-owner", "ABCD"]), "removed ABCD\n");
    assert_eq!(agent.asked(), "invite None; invite Some(2147483648); remove-owner ABCD");
    let none = self::agent(0).run(&["relay", "owners"]);
    assert_eq!(told(&none), (Some(1), "toxctl: this agent is no relay\n".into()));
}

#[test]
fn contacts_are_told_of_the_relay_by_the_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let agent = agent(RELAYED);
    let file = agent.folder.path().join("c.toml");
    let path = file.to_str().expect("UTF-8");
    let (none, contacts) = ("offer = \"none\"", "offer = \"contacts\"");
    let text = format!("[relay] # mine\nenabled = true\n{none} # for now\n[[account]]\nname = 'a'\nmaildir = '/m'\n");
    std::fs::write(&file, &text).expect("write");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).expect("chmod");
    let shown = format!("{path}: {contacts} in [relay]\nchanged: log.level\nneeds a restart: state_dir\n");
    assert_eq!(agent.good(&["relay", "offer", "contacts", "--config", path]), shown);
    assert_eq!(agent.asked(), "reload", "the agent reads it again");
    let written = std::fs::read_to_string(&file).expect("read");
    assert_eq!(written, text.replace(&format!("{none} #"), &format!("{contacts}  #")));
    assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o640);
    let again = agent.json(&["relay", "offer", "none", "--config", path]);
    assert_eq!((&again["offer"], &again["reloaded"]["applied"][0]), (&"none".into(), &"log.level".into()));

    // What is not understood is not changed.
    let odd = "relay = { enabled = true }\n[[account]]\nname = 'a'\nmaildir = '/m'\n";
    std::fs::write(&file, odd).expect("write");
    let (status, text) = told(&agent.run(&["relay", "offer", "contacts", "--config", path]));
    assert!(status == Some(1) && text.contains("by hand: write offer = \"contacts\" into [relay]"), "{text}");
    assert_eq!(std::fs::read_to_string(&file).expect("read"), odd);

    // An agent that does not run is no error; that it is no relay is said.
    std::fs::write(&file, "[[account]]\nname = 'a'\nmaildir = '/m'\n").expect("write");
    let nobody = agent.folder.path().join("none");
    let offer = toxctl(&nobody, &["relay", "offer", "contacts", "--config", path]).output().expect("toxctl runs");
    let (status, text) = told_all(&offer);
    assert!(status == Some(0) && text.contains("no relay yet") && text.contains("when it starts"), "{text}");
    assert_eq!(told(&agent.run(&["relay", "offer", "everybody"])).0, Some(64));
}

#[test]
fn a_relay_is_used_and_used_no_more() {
    let agent = agent(RELAYED);
    assert_eq!(
        agent.good(&["relay", "use", "toxmail-relay:abc:invite", "--account", "alice"]),
        "alice: mail may wait at relay abababababababab once it has answered (toxctl relay status),\n\
         of each contact from the next time on that both are online\n"
    );
    assert_eq!(agent.json(&["relay", "use", "toxmail-relay:abc"])["slots"], 410);
    assert_eq!(agent.good(&["relay", "use", "--remove", "toxmail-relay:abc"]), "removed toxmail-relay:abc\n");
    assert_eq!(agent.json(&["relay", "use", "--remove", "ab", "--account", "bob"])["removed"], "ab");
    assert_eq!(
        agent.asked(),
        "use Some(\"alice\") toxmail-relay:abc:invite; use None toxmail-relay:abc; \
         forget None toxmail-relay:abc; forget Some(\"bob\") ab"
    );
    let wrong = agent.run(&["relay", "use", "nonsense"]);
    assert_eq!(told(&wrong), (Some(1), "toxctl: a relay is told as toxmail-relay: and so on\n".into()));
}

#[test]
fn a_new_nospam_is_shown_with_what_follows_from_it() {
    let agent = agent(0);
    assert_eq!(
        agent.good(&["nospam", "rotate", "--account", "alice"]),
        format!(
            "alice: the Tox ID is now {}\n\
             contacts stay; friend requests to {} do not arrive any more\n\
             change the records in the DNS: toxctl name record alice\n",
            id(8),
            id(7)
        )
    );
    assert_eq!(agent.json(&["nospam", "rotate"])["tox_id"], id(8).to_string());
    assert_eq!(agent.asked(), "rotate Some(\"alice\"); rotate None");
}

#[test]
fn a_long_queue_comes_in_pages_and_a_closed_pipe_is_no_error() {
    let agent = agent(2345);
    let mails = agent.json(&["queue", "list"]);
    let mails = mails.as_array().expect("array");
    assert_eq!(mails.len(), 2345);
    assert!(mails.windows(2).all(|pair| pair[0]["queue_id"].as_str() < pair[1]["queue_id"].as_str()));
    assert!(agent.good(&["queue", "list"]).ends_with("-- 4.6 MiB in 2345 mails.\n"));

    let mut command = toxctl(&agent.socket, &["queue", "list"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("toxctl runs");
    let mut pipe = child.stdout.take().expect("pipe");
    pipe.read_exact(&mut [0; 10]).expect("some output");
    drop(pipe);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(told(&output), (Some(0), String::new()));
}

#[test]
fn an_agent_that_does_not_run_is_69_and_nonsense_is_64() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (status, text) = told(&toxctl(&folder.path().join("none"), &["status"]).output().expect("toxctl runs"));
    assert!(status == Some(69) && text.contains("tox-agent is not running"), "{text}");
    assert!(text.ends_with("systemctl start tox-agent\n"), "{text}");
    for args in [&["frobnicate"][..], &[], &["contact"], &["contact", "add", "x"], &["status", "--nonsense"]] {
        let (status, text) = told(&toxctl(folder.path(), args).output().expect("toxctl runs"));
        assert!(status == Some(64) && !text.is_empty(), "{args:?}: {status:?} {text}");
    }
    let help = toxctl(folder.path(), &["--help"]).output().expect("toxctl runs");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Usage: toxctl"));
}

#[test]
fn something_else_on_the_socket_is_told() {
    let folder = tempfile::tempdir().expect("tempdir");
    let socket = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(&mut &stream, b"220 this is no HTTP\r\n");
        }
    });
    let (status, text) = told(&toxctl(&socket, &["status"]).output().expect("toxctl runs"));
    assert!(status == Some(69) && text.contains("no proper answer"), "{text}");
}

#[test]
fn check() {
    let agent = agent(0);
    let folder = agent.folder.path();
    let file = folder.join("c.toml");
    let path = file.to_str().expect("UTF-8");
    let show = folder.display();
    std::fs::DirBuilder::new().mode(0o700).create(folder.join("state")).expect("made");
    let good = format!(
        "state_dir = '{show}/state'\nhostname = 'h.example'\n[lmtp]\nsocket = '{show}/l'\n[control]\nsocket = '{show}/c'\n\
         [[tox.bootstrap]]\nhost = 'h'\nport = 33445\nkey = '{}'\n[[account]]\nname = 'a'\nmaildir = '{show}/M'\n",
        "00".repeat(32)
    );
    std::fs::write(&file, &good).expect("write");
    assert_eq!(
        agent.good(&["check", "--config", path]),
        format!(
            "{path}: OK\n  host     h.example\n  lmtp     {show}/l (mails up to 50 MiB)\n  control  {show}/c\n  \
             queue    up to 10 GiB, mails expire after 5d\n  tox      UDP and TCP, bootstrap nodes: 1\n  \
             names    looked up, unsigned ones to be confirmed\n  account  a → {show}/M\n"
        )
    );
    // With addresses, the agent that runs tells how they stand in the DNS, and what is to be published.
    std::fs::write(&file, good.clone() + "addresses = ['a@b.example']\n").expect("write");
    let shown = agent.good(&["check", "--config", path]);
    let line = format!("to publish: alice._tox.example.org. 3600 IN TXT \"v=tox1;id={}\"\n", id(7));
    assert!(shown.contains("alice@example.org: not published: there is no") && shown.contains(&line), "{shown}");
    std::fs::write(&file, good.replace("/M'", "/no/M'")).expect("write");
    let warned = agent.run(&["check", "--config", path]);
    assert_eq!(
        told(&warned),
        (Some(0), format!("warning: account `a`: the maildir's parent: {show}/no is not there or no folder\n"))
    );
    std::fs::write(&file, good.replace("maildir", "mialdir")).expect("write");
    let wrong = told(&agent.run(&["check", "--config", path]));
    assert_eq!(
        wrong,
        (Some(78), format!("{path}:13: unknown key `mialdir` in [[account]]; did you mean `maildir`?\n"))
    );
    let wrong = agent.run(&["--json", "check", "--config", path]);
    let answer: Value = serde_json::from_slice(&wrong.stdout).expect("JSON");
    assert_eq!((wrong.status.code(), &answer["ok"]), (Some(78), &Value::Bool(false)));
    let secret = folder.join("pass");
    std::fs::write(&secret, "hush").expect("write");
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("chmod");
    std::fs::write(&file, format!("{good}passphrase_file = '{show}/pass'\n")).expect("write");
    let (status, text) = told(&agent.run(&["check", "--config", path]));
    assert!(status == Some(78) && text.contains("chmod 600") && !text.contains("hush"), "{text}");
    let (status, text) = told(&agent.run(&["check", "--config", "/nonexistent.toml"]));
    assert!(status == Some(78) && text.contains("/nonexistent.toml: cannot read"), "{text}");
}

/// Needs root, to be someone else; other users' runs leave it out.
#[test]
fn a_user_who_is_not_allowed_is_refused_by_the_kernels_word() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (nobody, other) = (65_534, 65_533);
    let agent = agent_with(0, 0o666, Options { allow_uids: Some(vec![nobody]), ..Options::default() });
    // The build's folder and the socket's may be closed to others.
    let toxctl = agent.folder.path().join("toxctl");
    std::fs::copy(env!("CARGO_BIN_EXE_toxctl"), &toxctl).expect("copy");
    std::fs::set_permissions(agent.folder.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    let run = |uid| {
        let mut command = Command::new(&toxctl);
        command.arg("--socket").arg(&agent.socket).arg("status").uid(uid).gid(uid);
        command.output().expect("toxctl runs")
    };
    assert!(run(nobody).status.success());
    let (status, text) = told(&run(other));
    assert!(status == Some(1) && text.contains("65533 may not manage this agent (allow_users"), "{text}");
    std::fs::set_permissions(&agent.socket, PermissionsExt::from_mode(0o600)).expect("chmod");
    let (status, text) = told(&run(other));
    assert!(status == Some(69) && text.contains("you may not open"), "{text}");
}

/// A state folder as an agent leaves it, and its configuration, below `folder`.
fn stopped_agent(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (state, config) = (folder.join(name), folder.join(format!("{name}.toml")));
    std::fs::DirBuilder::new().mode(0o700).create(&state).expect("made");
    let text = format!(
        "state_dir = {state:?}\nhostname = \"{name}.example\"\n[[account]]\nname = \"alice\"\nmaildir = {:?}\n",
        folder.join("Maildir")
    );
    std::fs::write(&config, text).expect("written");
    (state, config)
}

fn secret(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_stopped_agents_state_goes_into_a_file_and_back_elsewhere() {
    let folder = tempfile::tempdir().expect("tempdir");
    let (folder, nowhere) = (folder.path(), Path::new("/nonexistent/control.sock"));
    let (old, old_config) = stopped_agent(folder, "old");
    let (new, new_config) = stopped_agent(folder, "new");
    let (right, wrong) = (secret(folder, "right", "hush\n"), secret(folder, "wrong", "hash\n"));
    let file = folder.join("b.age").to_str().expect("UTF-8").to_owned();
    let (old_config, new_config) = (old_config.to_str().expect("UTF-8"), new_config.to_str().expect("UTF-8"));
    let run = |args: &[&str]| told_all(&toxctl(nowhere, args).output().expect("toxctl runs"));
    let backup = ["backup", &file, "--config", old_config, "--passphrase-file", &right];

    let (status, text) = run(&backup);
    assert!(status == Some(1) && text.contains("nothing to back up"), "{text}");
    let policy = toxmail::store::Policy {
        now: Box::new(|| 1_000_000),
        retry_min: 1,
        retry_max: 1,
        delay_notice: 0,
        notice: Box::new(|_| None),
    };
    let (store, thread) = toxmail::store::Store::open(&old, policy, |_| {}).expect("a store");
    store.block("alice", PublicKey([9; 32]), 5).expect("blocked");
    std::fs::create_dir(old.join("identities")).expect("made");
    std::fs::write(old.join("identities/alice.tox"), "secret key").expect("written");
    std::fs::write(old.join("identities/alice.new"), "half").expect("written");

    // Also while the database is open elsewhere.
    let (status, text) = run(&backup);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("identities: alice\n") && text.contains("1 blocked key"), "{text}");
    store.stop();
    thread.join().expect("stopped");
    let mut names: Vec<_> =
        std::fs::read_dir(&old).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["bodies", "identities", "queue.sqlite"], "nothing else is left");

    let (status, text) = run(&["restore", "--check", &file, "--passphrase-file", &wrong]);
    assert!(status == Some(1) && text.contains("passphrase is wrong"), "{text}");
    let (status, text) = run(&["restore", "--check", &file, "--passphrase-file", &right]);
    assert!(status == Some(0) && text.contains(": whole: the state of old.example"), "{text}");
    let (status, text) = run(&["restore", "--print-config", &file, "--passphrase-file", &right]);
    assert_eq!((status, text), (Some(0), std::fs::read_to_string(old_config).expect("read")));
    assert_eq!(run(&["restore", "--check", "--replace", &file]).0, Some(64), "one or the other");

    let restore = ["restore", &file, "--config", new_config, "--passphrase-file", &right];
    let missing = ["restore", &file, "--config", "/nonexistent/agent.toml", "--passphrase-file", &right];
    let (status, text) = run(&missing);
    assert!(status == Some(1) && text.contains("--print-config"), "{text}");
    let (status, text) = run(&restore);
    assert!(status == Some(0) && text.contains("Never start"), "{text}");
    assert_eq!(std::fs::read_to_string(new.join("identities/alice.tox")).expect("there"), "secret key");
    let reader = toxmail::store::Reader::open(&new).expect("a reader");
    assert_eq!(reader.blocked(None).expect("read").len(), 1);
    let (status, text) = run(&restore);
    assert!(status == Some(1) && text.contains("--replace"), "{text}");
    let (status, text) = run(&[&restore[..], &["--replace", "--json"]].concat());
    assert_eq!(status, Some(0), "{text}");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let replaced = told["replaced"].as_str().expect("a path");
    assert_eq!(std::fs::read_to_string(Path::new(replaced).join("identities/alice.tox")).expect("kept"), "secret key");
    assert_eq!(told["backup"]["counts"]["blocked"], 1);
}

/// Exit status, and both outputs.
fn told_all(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}
