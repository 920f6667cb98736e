//! An LMTP or SMTP server that says what a test tells it to, and keeps what it heard.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Where the server leaves the dialogue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does not.
    Never,
    /// Says nothing at all.
    HangAtGreeting,
    /// Closes after so many octets of the mail.
    CloseInMail(usize),
    /// Says the line and closes after so many octets of the mail.
    SayInMail(usize, &'static str),
    /// Reads no octet of the mail, and holds the connection.
    DeafInMail,
    /// Closes after the final dot, without an answer.
    CloseAfterDot,
    /// Holds the connection after the final dot, without an answer.
    HangAfterDot,
}

/// What the server says.
#[derive(Clone)]
pub struct Script {
    pub greeting: String,
    pub lhlo: String,
    pub xforward: String,
    pub mail: String,
    /// The answer to RCPT of an address that holds the text; `250 2.1.5 ok` to all others.
    pub rcpt: Vec<(&'static str, &'static str)>,
    pub data: String,
    /// The answers after the dot, in order; `250 2.0.0 queued as N` when there is none left.
    pub after: Vec<&'static str>,
    pub end: End,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: "220 fake LMTP".into(),
            lhlo: "250-fake\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-SIZE 0\r\n\
                   250-ENHANCEDSTATUSCODES\r\n250 XFORWARD IDENT"
                .into(),
            xforward: "250 2.0.0 ok".into(),
            mail: "250 2.1.0 ok".into(),
            rcpt: Vec::new(),
            data: "354 go".into(),
            after: Vec::new(),
            end: End::Never,
        }
    }
}

/// What the server tells while it goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Connected,
    Command(String),
    MailBegins,
    /// The final dot came; the mail as it was on the wire, without the dot.
    Mail(Vec<u8>),
    /// The connection ended in the mail, before the dot.
    CutMail(usize),
    Closed,
}

/// A running server.
pub struct Fake {
    dir: tempfile::TempDir,
    events: Receiver<Event>,
}

impl Fake {
    /// Starts a server for one connection.
    pub fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
        let (tx, events) = channel();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let reader = stream.try_clone().expect("a descriptor");
            // A client that goes away is what many tests are about.
            let _ = serve(&script, reader, stream, true, &tx);
            let _ = tx.send(Event::Closed);
        });
        Self { dir, events }
    }

    /// Starts an SMTP server for one connection, and tells its port on 127.0.0.1.
    #[allow(dead_code, reason = "not every test that includes this file speaks SMTP")]
    pub fn start_smtp(script: Script) -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let (tx, events) = channel();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            let reader = stream.try_clone().expect("a descriptor");
            let _ = serve(&script, reader, stream, false, &tx);
            let _ = tx.send(Event::Closed);
        });
        (Self { dir: tempfile::tempdir().expect("a directory"), events }, port)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Waits until something happens for which `wanted` is true.
    #[allow(dead_code, reason = "not every test that includes this file waits within a dialogue")]
    pub fn wait(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(60)).expect("the event");
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Everything until the connection ended.
    pub fn all(&self) -> Vec<Event> {
        let mut all = Vec::new();
        while all.last() != Some(&Event::Closed) {
            all.push(self.events.recv_timeout(Duration::from_secs(60)).expect("the end"));
        }
        all
    }
}

/// The commands among the events.
pub fn commands(events: &[Event]) -> Vec<&str> {
    events.iter().filter_map(|e| if let Event::Command(c) = e { Some(c.as_str()) } else { None }).collect()
}

/// The mail on the wire among the events; `None` when no dot came.
pub fn mail(events: &[Event]) -> Option<&[u8]> {
    events.iter().find_map(|e| if let Event::Mail(m) = e { Some(m.as_slice()) } else { None })
}

/// The mail's own octets: one CR off before each LF, one dot off at the start of each line.
pub fn decode(wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(wire.len());
    for line in wire.split_inclusive(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("each line ends in CR LF");
        out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        out.push(b'\n');
    }
    out
}

fn serve(
    script: &Script,
    reader: impl Read,
    mut out: impl Write,
    lmtp: bool,
    tx: &Sender<Event>,
) -> std::io::Result<()> {
    let _ = tx.send(Event::Connected);
    let mut reader = BufReader::with_capacity(1 << 16, reader);
    if script.end == End::HangAtGreeting {
        let _ = reader.fill_buf()?;
        return Ok(());
    }
    let mut say = |text: &str| out.write_all(format!("{text}\r\n").as_bytes());
    say(&script.greeting)?;
    let mut accepted = 0;
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let _ = tx.send(Event::Command(line.clone()));
        match line.split([' ', ':']).next().unwrap_or_default() {
            "LHLO" if lmtp => say(&script.lhlo)?,
            "EHLO" if !lmtp => say(&script.lhlo)?,
            "XFORWARD" => say(&script.xforward)?,
            "MAIL" => say(&script.mail)?,
            "RCPT" => {
                let answer = script.rcpt.iter().find(|(part, _)| line.contains(part)).map(|(_, answer)| *answer);
                let answer = answer.unwrap_or("250 2.1.5 ok");
                accepted += usize::from(answer.starts_with('2'));
                say(answer)?;
            }
            "DATA" => {
                say(&script.data)?;
                if !script.data.starts_with("354") {
                    continue;
                }
                let _ = tx.send(Event::MailBegins);
                if script.end == End::DeafInMail {
                    std::thread::park();
                }
                let mut mail = Vec::new();
                loop {
                    let before = mail.len();
                    if reader.read_until(b'\n', &mut mail)? == 0 {
                        let _ = tx.send(Event::CutMail(mail.len()));
                        return Ok(());
                    }
                    match script.end {
                        End::CloseInMail(limit) if mail.len() >= limit => return Ok(()),
                        End::SayInMail(limit, words) if mail.len() >= limit => return say(words),
                        _ => {}
                    }
                    if &mail[before..] == b".\r\n" {
                        mail.truncate(before);
                        break;
                    }
                }
                let _ = tx.send(Event::Mail(mail));
                match script.end {
                    End::CloseAfterDot => return Ok(()),
                    End::HangAfterDot => {
                        let _ = reader.fill_buf()?;
                        return Ok(());
                    }
                    _ => {}
                }
                for n in 0..if lmtp { accepted } else { 1 } {
                    match script.after.get(n) {
                        Some(answer) => say(answer)?,
                        None => say(&format!("250 2.0.0 queued as {n}"))?,
                    }
                }
            }
            "QUIT" => return say("221 2.0.0 bye"),
            _ => say("500 5.5.2 what")?,
        }
    }
}
