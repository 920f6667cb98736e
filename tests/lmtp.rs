//! The LMTP server over real Unix sockets, with a fake agent behind it.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use toxmail::lmtp::data::encode;
use toxmail::lmtp::{Intake, Limits, Outcome, Submission, Submitter, serve};
use toxmail::mail::address::Address;
use toxmail::mail::envelope::{Envelope, ReversePath};
use toxmail::mail::status::Refusal;
use toxmail::socket::bind;

/// What happens to a mail.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Begun,
    Stored(Envelope, Vec<u8>),
    Discarded,
}

/// Accepts everything except by name: `nobody` is refused at RCPT, `late` after the dot; a mail from `panic` panics and
/// one from `slow` waits for the gate.
struct Agent {
    events: mpsc::UnboundedSender<Event>,
    gate: Arc<Notify>,
    submitters: Mutex<Vec<Submitter>>,
}

impl Submission for Agent {
    fn sender(&self, from: &Submitter, _: &ReversePath) -> Result<(), Refusal> {
        self.submitters.lock().expect("not poisoned").push(*from);
        Ok(())
    }

    fn recipient(&self, _: &ReversePath, recipient: &Address) -> Result<(), Refusal> {
        if recipient.local() == "nobody" { Err(Refusal::permanent(1, 1, "no such contact")) } else { Ok(()) }
    }

    fn begin(&self, envelope: &Envelope) -> Result<Box<dyn Intake>, Refusal> {
        let _ = self.events.send(Event::Begun);
        let mail = Some((envelope.clone(), Vec::new()));
        Ok(Box::new(Mail { mail, events: self.events.clone(), gate: self.gate.clone() }))
    }
}

struct Mail {
    mail: Option<(Envelope, Vec<u8>)>,
    events: mpsc::UnboundedSender<Event>,
    gate: Arc<Notify>,
}

impl Intake for Mail {
    fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        if let Some((_, body)) = &mut self.mail {
            body.extend_from_slice(chunk);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Outcome {
        Box::pin(async move {
            let Some((envelope, body)) = self.mail.take() else { return Vec::new() };
            let sender = envelope.sender.as_ref().map_or("", Address::local).to_owned();
            assert_ne!(sender, "panic", "as the test wants it");
            if sender == "slow" {
                self.gate.notified().await;
            }
            let answers = envelope.recipients.iter().enumerate().map(|(n, to)| match to.address.local() {
                "late" => Err(Refusal::temporary(4, 1, "no route yet")),
                _ => Ok(format!("QID{n}")),
            });
            let answers = answers.collect();
            let _ = self.events.send(Event::Stored(envelope, body));
            answers
        })
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        if self.mail.is_some() {
            let _ = self.events.send(Event::Discarded);
        }
    }
}

struct Server {
    path: PathBuf,
    events: mpsc::UnboundedReceiver<Event>,
    agent: Arc<Agent>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn limits() -> Limits {
    Limits {
        max_size: 1 << 20,
        max_recipients: 100,
        max_connections: 50,
        timeout: Duration::from_secs(30),
        hostname: "test.example".to_owned(),
        allow_uids: None,
    }
}

impl Server {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.sock");
        let listener = UnixListener::from_std(bind(&path, 0o660, None).expect("bind")).expect("a listener");
        let (sender, events) = mpsc::unbounded_channel();
        let agent = Arc::new(Agent { events: sender, gate: Arc::new(Notify::new()), submitters: Mutex::default() });
        let (stop, stopping) = watch::channel(false);
        let served = tokio::spawn(serve(listener, agent.clone(), watch::channel(Arc::new(limits)).1, stopping));
        Self { path, events, agent, stop, served, _dir: dir }
    }

    async fn client(&self) -> Client {
        let mut client = self.raw().await;
        client.expect(&["220"]).await;
        client.say("LHLO test\r\n").await;
        client.expect(&["250", "250", "250", "250", "250", "250", "250", "250"]).await;
        client
    }

    async fn raw(&self) -> Client {
        Client { stream: BufReader::new(UnixStream::connect(&self.path).await.expect("connect")) }
    }

    async fn event(&mut self) -> Event {
        self.events.recv().await.expect("the agent lives")
    }
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(text.as_ref()).await.expect("write");
    }

    /// Reads a reply line; `None` at the end of the connection.
    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut octet = [0];
            match self.stream.read(&mut octet).await {
                Ok(1) => line.push(octet[0]),
                Ok(_) => return None,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("read: {error}"),
            }
        }
        Some(String::from_utf8(line).expect("UTF-8").trim_end().to_owned())
    }

    /// Reads as many replies as `starts` and checks how each begins.
    async fn expect(&mut self, starts: &[&str]) {
        for start in starts {
            let line = self.line().await.expect("a reply");
            assert!(line.starts_with(start), "{line} instead of {start}");
        }
    }

    async fn expect_end(&mut self) {
        assert_eq!(self.line().await, None);
    }
}

fn transaction(sender: &str, recipients: &[&str], body: &[u8]) -> Vec<u8> {
    let mut wire = format!("MAIL FROM:<{sender}> BODY=8BITMIME\r\n").into_bytes();
    for recipient in recipients {
        wire.extend_from_slice(format!("RCPT TO:<{recipient}>\r\n").as_bytes());
    }
    wire.extend_from_slice(b"DATA\r\n");
    wire.extend_from_slice(&encode(body));
    wire
}

#[tokio::test]
async fn pipelined_mails_on_one_connection_are_answered_per_recipient() {
    let mut server = Server::start(limits());
    let mut client = server.client().await;
    let mut wire = b"XFORWARD IDENT=4Wc1 SOURCE=LOCAL\r\n".to_vec();
    wire.extend_from_slice(&transaction("a@x", &["b@y", "nobody@y", "late@y", "c@y"], b".one\n\n.\n"));
    wire.extend_from_slice(&transaction("a@x", &["b@y"], b"two\n"));
    wire.extend_from_slice(b"QUIT\r\n");
    client.say(&wire).await;
    client.expect(&["250 2.0.0", "250 2.1.0", "250 2.1.5", "550 5.1.1", "250 2.1.5", "250 2.1.5", "354 "]).await;
    client.expect(&["250 2.0.0 <b@y> queued as QID0", "450 4.4.1 no route", "250 2.0.0 <c@y> queued as QID2"]).await;
    client.expect(&["250 2.1.0", "250 2.1.5", "354 ", "250 2.0.0 <b@y> queued as QID0", "221 2.0.0"]).await;
    client.expect_end().await;
    assert_eq!(server.event().await, Event::Begun);
    let Event::Stored(envelope, body) = server.event().await else { panic!("not stored") };
    assert_eq!((envelope.mta_queue_id.as_deref(), envelope.recipients.len()), (Some("4Wc1"), 3));
    assert_eq!(body, b".one\n\n.\n");
    assert_eq!(server.event().await, Event::Begun);
    assert!(matches!(server.event().await, Event::Stored(envelope, _) if envelope.mta_queue_id.is_none()));
    let submitters = server.agent.submitters.lock().expect("not poisoned").clone();
    let ours = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    assert_eq!((submitters[0].uid, submitters[0].gid), ours);
    assert_eq!(u32::try_from(submitters[0].pid), Ok(std::process::id()));
}

#[tokio::test]
async fn any_octet_arrives_and_large_mails_do() {
    let mut server = Server::start(limits());
    let mut client = server.client().await;
    let mut body: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    body.push(b'\n');
    client.say(&transaction("", &["b@y"], &body)).await;
    client.expect(&["250", "250", "354", "250 2.0.0"]).await;
    assert_eq!(server.event().await, Event::Begun);
    let Event::Stored(envelope, stored) = server.event().await else { panic!("not stored") };
    assert!(envelope.sender.is_none());
    assert!(stored == body, "the body changed");
}

#[tokio::test]
async fn a_mail_too_large_is_refused_and_the_connection_lives() {
    let mut server = Server::start(Limits { max_size: 1000, ..limits() });
    let mut client = server.client().await;
    client.say("MAIL FROM:<a@x> SIZE=1001\r\n").await;
    client.expect(&["552 5.3.4"]).await;
    client.say(&transaction("a@x", &["b@y", "c@y"], &[b'x'; 2000])).await;
    client.expect(&["250", "250", "250", "354", "552 5.3.4", "552 5.3.4"]).await;
    client.say(&transaction("a@x", &["b@y"], b"small\n")).await;
    client.expect(&["250", "250", "354", "250"]).await;
    for expected in [Event::Begun, Event::Discarded, Event::Begun] {
        assert_eq!(server.event().await, expected);
    }
    // One that never ends is cut off.
    let mut endless = server.client().await;
    let wire = transaction("a@x", &["b@y"], &[b'x'; 68_000]);
    endless.say(&wire[..wire.len() - 5]).await;
    endless.expect(&["250", "250", "354", "552 5.3.4"]).await;
    endless.expect_end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_before_the_dot_leaves_nothing() {
    let mut server = Server::start(limits());
    let mut client = server.client().await;
    let wire = transaction("a@x", &["b@y"], b"half\na mail\n");
    client.say(&wire[..wire.len() - 1]).await;
    client.expect(&["250", "250", "354"]).await;
    assert_eq!(server.event().await, Event::Begun);
    drop(client);
    assert_eq!(server.event().await, Event::Discarded);
}

#[tokio::test]
async fn a_client_that_goes_away_after_the_dot_does_not_stop_the_commit() {
    let mut server = Server::start(limits());
    let mut client = server.client().await;
    client.say(&transaction("slow@x", &["b@y"], b"whole\n")).await;
    client.expect(&["250", "250", "354"]).await;
    assert_eq!(server.event().await, Event::Begun);
    drop(client);
    server.agent.gate.notify_one();
    assert!(matches!(server.event().await, Event::Stored(_, body) if body == b"whole\n"));
}

#[tokio::test]
async fn an_agent_that_panics_gives_a_temporary_answer() {
    let server = Server::start(limits());
    let mut client = server.client().await;
    client.say(&transaction("panic@x", &["b@y", "c@y"], b"x\n")).await;
    client.expect(&["250", "250", "250", "354", "450 4.3.0", "450 4.3.0"]).await;
    client.say(&transaction("a@x", &["b@y"], b"x\n")).await;
    client.expect(&["250", "250", "354", "250 2.0.0"]).await;
}

#[tokio::test]
async fn silent_clients_are_ended() {
    let mut server = Server::start(Limits { timeout: Duration::from_millis(400), ..limits() });
    let mut silent = server.raw().await;
    silent.expect(&["220", "421 4.4.2"]).await;
    silent.expect_end().await;
    // In DATA, too, and nothing stays.
    let mut client = server.client().await;
    client.say("MAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\nhalf").await;
    client.expect(&["250", "250", "354", "421 4.4.2"]).await;
    client.expect_end().await;
    assert_eq!(server.event().await, Event::Begun);
    assert_eq!(server.event().await, Event::Discarded);
}

#[tokio::test]
async fn a_client_that_reads_no_replies_is_dropped() {
    let server = Server::start(Limits { timeout: Duration::from_millis(400), ..limits() });
    let mut client = server.client().await;
    // Fills both directions; the write fails once the server has given up.
    let chunk = b"VRFY x\r\n".repeat(1000);
    while client.stream.get_mut().write_all(&chunk).await.is_ok() {}
}

#[tokio::test]
async fn many_connections_at_once_and_no_more_than_allowed() {
    let mut server = Server::start(Limits { max_connections: 40, ..limits() });
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(server.client().await);
    }
    let mut refused = server.raw().await;
    refused.expect(&["421 4.3.2"]).await;
    refused.expect_end().await;
    for client in &mut clients {
        client.say(&transaction("a@x", &["b@y"], b"x\n")).await;
    }
    for client in &mut clients {
        client.expect(&["250", "250", "354", "250 2.0.0"]).await;
    }
    for _ in 0..80 {
        assert!(!matches!(server.event().await, Event::Discarded));
    }
    // A place that became free is given away again.
    let mut last = clients.pop().expect("a client");
    last.say("QUIT\r\n").await;
    last.expect(&["221"]).await;
    last.expect_end().await;
    loop {
        let mut next = server.raw().await;
        if next.line().await.is_some_and(|line| line.starts_with("220")) {
            break;
        }
    }
}

#[tokio::test]
async fn shutdown_ends_idle_sessions_and_lets_mails_finish() {
    let mut server = Server::start(limits());
    let mut idle = server.client().await;
    let mut busy = server.client().await;
    let mut committing = server.client().await;
    committing.say(&transaction("slow@x", &["b@y"], b"x\n")).await;
    committing.expect(&["250", "250", "354"]).await;
    busy.say("MAIL FROM:<>\r\nRCPT TO:<b@y>\r\n").await;
    busy.expect(&["250", "250"]).await;
    server.stop.send_replace(true);
    idle.expect(&["421 4.3.2"]).await;
    idle.expect_end().await;
    busy.say("DATA\r\n").await;
    busy.expect(&["354"]).await;
    busy.say("x\r\n.\r\n").await;
    busy.expect(&["250 2.0.0", "421 4.3.2"]).await;
    server.agent.gate.notify_one();
    committing.expect(&["250 2.0.0", "421 4.3.2"]).await;
    (&mut server.served).await.expect("serve returns");
    let refused = UnixStream::connect(&server.path).await.map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(io::ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn who_has_just_connected_hands_over_its_mail_before_a_shutdown() {
    let mut server = Server::start(limits());
    let mut client = server.raw().await;
    client.expect(&["220"]).await;
    server.stop.send_replace(true);
    client.say("LHLO x\r\n").await;
    client.expect(&["250"; 8]).await;
    client.say(&transaction("a@x", &["b@y"], b"x\n")).await;
    client.expect(&["250", "250", "354", "250 2.0.0"]).await;
    client.expect(&["421 4.3.2"]).await;
    (&mut server.served).await.expect("serve returns");
}

#[tokio::test]
async fn nonsense_is_cut_off() {
    let server = Server::start(limits());
    let mut client = server.raw().await;
    client.expect(&["220"]).await;
    client.say("EHLO x\r\n").await;
    client.expect(&["500 5.5.1 this is LMTP: say LHLO"]).await;
    client.say(format!("{}\r\n", "x".repeat(10_000))).await;
    client.expect(&["500 5.5.2"]).await;
    client.say("WHAT\r\n".repeat(8)).await;
    client.expect(&["500"; 8]).await;
    client.expect(&["421 4.7.0"]).await;
    client.expect_end().await;
}

#[test]
fn bind_replaces_only_what_nobody_listens_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.sock");
    let gid = nix::unistd::getegid().as_raw();
    let listener = bind(&path, 0o620, Some(&gid.to_string())).expect("bind");
    let seen = path.metadata().expect("it is there");
    assert_eq!((seen.permissions().mode() & 0o777, seen.gid()), (0o620, gid));
    assert_eq!(bind(&path, 0o600, None).map_err(|error| error.kind()).err(), Some(io::ErrorKind::AddrInUse));
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok(), "the refused bind harmed the first");
    // Two came: the second bind's probe and the connection above.
    for _ in 0..2 {
        assert_eq!(listener.accept().map(|_| ()).map_err(|error| error.kind()), Ok(()));
    }
    assert_eq!(listener.accept().map(|_| ()).map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
    drop(listener);
    drop(bind(&path, 0o600, None).expect("the stale socket is replaced"));

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").expect("write");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("symlink");
    for path in [&file, &link] {
        assert_eq!(bind(path, 0o600, None).map_err(|error| error.kind()).err(), Some(io::ErrorKind::AddrInUse));
    }
    assert_eq!(std::fs::read(&file).expect("still there"), b"precious");
    assert!(bind(&dir.path().join("x".repeat(200)), 0o600, None).is_err());
}
