use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;

use super::super::api::*;
use super::*;
use crate::socket::bind;

/// Answers little; a contact named `slow`, `panic` or by a failure behaves so.
struct Fake;

impl Backend for Fake {
    fn status(&self) -> Result<Status, Failure> {
        Err(Failure::Unavailable("not yet".into()))
    }
    fn reload(&self) -> Result<Reloaded, Failure> {
        Err(Failure::Invalid("line 1: nonsense".into()))
    }
    fn probe(&self, token: &str) -> Result<Probe, Failure> {
        Err(Failure::NotFound(token.into()))
    }
    fn contacts(&self, account: Option<&str>) -> Result<Vec<Contact>, Failure> {
        account.map_or(Ok(Vec::new()), |name| Err(Failure::NotFound(format!("no account {name}"))))
    }
    fn add_contact(&self, contact: NewContact) -> Result<Contact, Failure> {
        Err(Failure::Invalid(contact.tox_id.unwrap_or_default()))
    }
    fn remove_contact(&self, _: Option<&str>, who: &str) -> Result<(), Failure> {
        match who {
            "slow" => std::thread::sleep(Duration::from_millis(600)),
            "panic" => panic!("as asked"),
            _ => return Err(Failure::Conflict(who.into())),
        }
        Ok(())
    }
    fn contact(&self, _: Option<&str>, who: &str) -> Result<ContactDetails, Failure> {
        Err(Failure::NotFound(who.into()))
    }
    fn rename_contact(&self, _: Option<&str>, who: &str, nick: Option<String>) -> Result<Contact, Failure> {
        Err(Failure::Conflict(format!("{who} {nick:?}")))
    }
    fn block(&self, account: Option<&str>, who: &str, blocked: bool) -> Result<(), Failure> {
        Err(Failure::NotFound(format!("{account:?} {who} {blocked}")))
    }
    fn names(&self, _: Option<&str>) -> Result<Vec<Name>, Failure> {
        Ok(Vec::new())
    }
    fn accept_key(&self, account: Option<&str>, address: &str, tox_id: Option<&str>) -> Result<Name, Failure> {
        Err(Failure::NotFound(format!("{account:?} {address} {tox_id:?}")))
    }
    fn blocked(&self, _: Option<&str>) -> Result<Vec<Blocked>, Failure> {
        Ok(Vec::new())
    }
    fn refresh(&self, account: Option<&str>, who: Option<&str>) -> Result<Refreshed, Failure> {
        Err(Failure::NotFound(format!("{account:?} {who:?}")))
    }
    fn look_up(&self, address: &str) -> Result<Lookup, Failure> {
        Err(Failure::Invalid(address.into()))
    }
    fn records(&self, _: Option<&str>) -> Result<Vec<Record>, Failure> {
        Ok(Vec::new())
    }
    fn requests(&self, _: Option<&str>) -> Result<Vec<FriendRequest>, Failure> {
        Ok(Vec::new())
    }
    fn accept_request(&self, _: Option<&str>, key: &str, _: Option<String>) -> Result<Contact, Failure> {
        Err(Failure::NotFound(key.into()))
    }
    fn refuse_request(&self, _: Option<&str>, _: &str, silent: bool) -> Result<Refused, Failure> {
        Ok(Refused { tell: !silent })
    }
    fn queue(&self, _: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<QueueEntry>, Failure> {
        let first = after.map_or(0, |after| after.parse::<u64>().unwrap_or(0) + 1);
        let mail = |n: u64| QueueEntry {
            queue_id: format!("{n:04}"),
            mta_queue_id: None,
            account: "a".into(),
            sender: String::new(),
            size: 1,
            arrived: 0,
            expires: 0,
            recipients: Vec::new(),
        };
        Ok((first..2500).take(limit).map(mail).collect())
    }
    fn change_queue(&self, step: QueueStep, what: Selection) -> Result<Touched, Failure> {
        match what.queue_id.as_deref() {
            Some("busy") => Err(Failure::Conflict("being sent".into())),
            _ => Ok(Touched { recipients: step as u64, sending: 1 }),
        }
    }
    fn rotate_nospam(&self, account: Option<&str>) -> Result<NewId, Failure> {
        Ok(NewId { account: account.unwrap_or("alice").into(), tox_id: "NEW".into(), before: "OLD".into() })
    }
    fn relays(&self, _: Option<&str>) -> Result<Relays, Failure> {
        Ok(Relays::default())
    }
    fn use_relay(&self, what: UseRelay) -> Result<UsedRelay, Failure> {
        Err(Failure::Invalid(what.relay))
    }
    fn forget_relay(&self, account: Option<&str>, relay: &str) -> Result<(), Failure> {
        Err(Failure::NotFound(format!("{account:?} {relay}")))
    }
    fn invitation(&self, what: AskInvitation) -> Result<Invitation, Failure> {
        Err(Failure::Conflict(format!("{:?} {}", what.account, what.renew)))
    }
    fn invite(&self, what: NewInvite) -> Result<Invited, Failure> {
        Ok(Invited { text: "toxmail-relay:x:y".into(), quota: what.quota.unwrap_or(5) })
    }
    fn owners(&self) -> Result<Vec<Owner>, Failure> {
        Err(Failure::Conflict("this agent is no relay".into()))
    }
    fn remove_owner(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
    fn flush(&self, _: Flush) -> Result<Flushed, Failure> {
        Ok(Flushed { recipients: 7 })
    }
}

struct Running {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
    _folder: tempfile::TempDir,
}

fn start(options: Options) -> Running {
    let folder = tempfile::tempdir().expect("tempdir");
    let socket = folder.path().join("control.sock");
    let listener = bind(&socket, 0o600, None).expect("bind");
    let (stop, stopped) = watch::channel(false);
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(serve(listener, Arc::new(Fake), options, stopped))
    });
    Running { socket, stop, thread: Some(thread), _folder: folder }
}

impl Running {
    /// Status and body of the answer to `head` (request line and headers, without `Host`) and `body`.
    fn ask(&self, head: &str, body: &str) -> (u16, String) {
        self.ask_raw(&format!("{head}\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len()), body)
    }

    fn ask_raw(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = StdStream::connect(&self.socket).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        // The server may answer, and close, before it has read a body that it does not want.
        let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
        let mut octets = Vec::new();
        let _ = stream.read_to_end(&mut octets);
        let answer = String::from_utf8_lossy(&octets).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned()))
    }

    fn end(mut self) -> Duration {
        let before = std::time::Instant::now();
        self.stop.send(true).expect("running");
        self.thread.take().expect("thread").join().expect("no panic").expect("no error");
        before.elapsed()
    }
}

const JSON: &str = "\r\nContent-Type: application/json";

#[test]
fn failures_become_statuses_and_all_errors_are_json() {
    let server = start(Options::default());
    for (head, body, status, text) in [
        ("GET /v1/status HTTP/1.1".to_owned(), "", 503, "not yet"),
        ("GET /metrics HTTP/1.1".into(), "", 503, "not yet"),
        ("GET /v1/contacts HTTP/1.1".into(), "", 200, "[]"),
        ("GET /v1/contacts?account=b%20c HTTP/1.1".into(), "", 404, "{\"error\":\"no account b c\",\"hint\":null}"),
        ("GET /v1/contacts?acount=b HTTP/1.1".into(), "", 400, "\"error\""),
        (format!("POST /v1/contacts HTTP/1.1{JSON}"), "{\"tox_id\":\"ID\"}", 400, "\"error\":\"ID\""),
        (format!("POST /v1/contacts HTTP/1.1{JSON}"), "{\"tox_id\":\"ID\",\"nik\":\"x\"}", 422, "unknown field `nik`"),
        (format!("POST /v1/contacts HTTP/1.1{JSON}"), "{", 400, "\"error\""),
        ("POST /v1/contacts HTTP/1.1".into(), "{\"tox_id\":\"ID\"}", 415, "\"error\""),
        ("DELETE /v1/contacts/a%2Fb%20c HTTP/1.1".into(), "", 409, "\"error\":\"a/b c\""),
        ("DELETE /v1/contacts/panic HTTP/1.1".into(), "", 500, "\"error\""),
        (format!("POST /v1/requests/K/refuse HTTP/1.1{JSON}"), "{\"silent\":true}", 200, "{\"tell\":false}"),
        (format!("POST /v1/requests/K/refuse HTTP/1.1{JSON}"), "{}", 200, "{\"tell\":true}"),
        (format!("POST /v1/queue/flush HTTP/1.1{JSON}"), "{}", 200, "{\"recipients\":7}"),
        (format!("POST /v1/queue/hold HTTP/1.1{JSON}"), "{}", 200, "{\"recipients\":0,\"sending\":1}"),
        (format!("POST /v1/queue/release HTTP/1.1{JSON}"), "{}", 200, "{\"recipients\":1,\"sending\":1}"),
        (format!("POST /v1/queue/delete HTTP/1.1{JSON}"), "{}", 200, "{\"recipients\":2,\"sending\":1}"),
        (format!("POST /v1/queue/delete HTTP/1.1{JSON}"), "{\"queue_id\":\"busy\"}", 409, "being sent"),
        (format!("POST /v1/queue/delete HTTP/1.1{JSON}"), "{\"queueid\":\"Q\"}", 422, "unknown field"),
        (
            format!("POST /v1/nospam/rotate?account=bob HTTP/1.1{JSON}"),
            "",
            200,
            "{\"account\":\"bob\",\"tox_id\":\"NEW\",\"before\":\"OLD\"}",
        ),
        ("GET /v2/status HTTP/1.1".into(), "", 404, "\"error\""),
        ("PUT /v1/status HTTP/1.1".into(), "", 405, "\"error\""),
    ] {
        let (got, answer) = server.ask(&head, body);
        assert_eq!(got, status, "{head}: {answer}");
        assert!(answer.contains(text), "{head}: {answer}");
    }
    let big = format!("{{\"tox_id\":\"{}\"}}", "x".repeat(MAX_BODY));
    assert_eq!(server.ask(&format!("POST /v1/contacts HTTP/1.1{JSON}"), &big).0, 413);
    server.end();
}

#[test]
fn browsers_are_kept_out() {
    let server = start(Options::default());
    for head in
        ["", "Host: evil.example\r\n", "Host: localhost\r\nOrigin: http://localhost\r\n", "Host: localhost:80\r\n"]
    {
        let (status, answer) = server.ask_raw(&format!("GET /v1/contacts HTTP/1.1\r\n{head}"), "");
        assert!(status == 403 && answer.contains("\"error\""), "{head:?}: {status} {answer}");
    }
    server.end();
}

#[test]
fn only_allowed_users_may() {
    assert!(may(None, 5, None) && may(None, 5, Some(77)));
    assert!(may(Some(&[]), 5, Some(0)) && may(Some(&[]), 5, Some(5)) && may(Some(&[7]), 5, Some(7)));
    assert!(!may(Some(&[7]), 5, Some(8)) && !may(Some(&[7]), 5, None));
    let server = start(Options { allow_uids: Some(Vec::new()), ..Options::default() });
    assert_eq!(server.ask("GET /v1/contacts HTTP/1.1", "").0, 200, "the agent's own user");
    server.end();
}

#[test]
fn pages_of_the_queue_are_bounded_and_name_the_next() {
    let server = start(Options::default());
    let page = |query: &str| -> QueuePage {
        let (status, body) = server.ask_raw(&format!("GET /v1/queue{query} HTTP/1.0\r\nHost: localhost\r\n"), "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("page")
    };
    let first = page("");
    assert_eq!((first.mails.len(), first.next.as_deref()), (1000, Some("0999")));
    assert_eq!(page("?limit=99999").mails.len(), 1000);
    assert_eq!(page("?limit=0").mails.len(), 1);
    let last = page("?limit=500&after=1999");
    assert_eq!((last.mails.len(), last.next), (500, None));
    server.end();
}

#[test]
fn slow_requests_and_silent_connections_end() {
    let limits = Options { request_timeout: Duration::from_millis(200), max_connections: 1, ..Options::default() };
    let server = start(limits);
    assert_eq!(server.ask("DELETE /v1/contacts/slow HTTP/1.1", "").0, 504);
    // The only connection there may be is silent; the next one waits until that is cut.
    let mut silent = StdStream::connect(&server.socket).expect("connect");
    silent.write_all(b"GET /v1/con").expect("write");
    let before = std::time::Instant::now();
    assert_eq!(server.ask("GET /v1/contacts HTTP/1.1", "").0, 200);
    assert!(before.elapsed() >= Duration::from_millis(300));
    server.end();
}

#[test]
fn a_shutdown_answers_what_is_under_way() {
    let server = start(Options::default());
    let mut stream = StdStream::connect(&server.socket).expect("connect");
    stream.write_all(b"DELETE /v1/contacts/slow HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("write");
    std::thread::sleep(Duration::from_millis(200));
    assert!(server.end() < Duration::from_secs(4));
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("answer");
    assert_eq!(&answer, b"HTTP/1.1 204");
}
