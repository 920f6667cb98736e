//! One LMTP session (RFC 2033) as a pure state machine: octets in, replies out. No I/O, no clock; the agent is called
//! through [`Submission`] only. [`super::server`] drives it over a socket, tests and fuzzers by [`Session::feed`].

use std::sync::Arc;

use super::command::{self, Bad, Command, Mail};
use super::data::{Decoder, MAX_CHUNK};
use super::{Intake, Limits, Submission, Submitter};
use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, Recipient};
use crate::mail::status::{EnhancedStatus, Refusal};

/// The longest command line taken, with its line end: the 512 octets of RFC 5321 section 4.5.3.1.4, and room for UTF-8
/// addresses and the parameters of SIZE, DSN and SMTPUTF8.
pub const MAX_LINE: usize = 4096;
/// The longest reply line written, with its CRLF (RFC 5321 section 4.5.3.1.5).
pub const MAX_REPLY: usize = 512;
/// After so many commands that were none, the client is taken for something else than an MTA.
pub const MAX_BAD: u32 = 10;
/// A mail is decoded in pieces of this size; one more octet may come out than goes in.
const PIECE: usize = MAX_CHUNK / 2;
/// A mail too large is read to its end up to this much over twice the limit, so that small limits still get their
/// replies.
const DRAIN_SLACK: u64 = 64 * 1024;

/// What the driver of a [`Session`] has to do next, after writing the replies.
#[must_use]
pub enum Step {
    /// Read more.
    More,
    /// The mail is here as a whole: run [`Intake::finish`], pass its answers to [`Session::finished`], then go on with
    /// the octets not yet taken.
    Finish(Box<dyn Intake>),
    /// Close the connection.
    Close,
}

/// The transaction in the DATA phase.
struct Incoming {
    decoder: Decoder,
    /// The open intake, or why the rest is only read to its end.
    intake: Result<Box<dyn Intake>, Refusal>,
    /// Octets of the mail so far.
    size: u64,
    /// Octets on the wire so far.
    taken: u64,
}

/// Where the session stands.
enum Phase {
    Commands,
    Data(Incoming),
    /// Between [`Step::Finish`] and [`Session::finished`].
    Finishing,
    Closed,
}

/// One client's session.
pub struct Session {
    limits: Arc<Limits>,
    submitter: Submitter,
    admitted: Result<(), Refusal>,
    phase: Phase,
    /// The command line so far; empty while an overlong one is skipped.
    line: Vec<u8>,
    overlong: bool,
    greeted: bool,
    bad: u32,
    /// XFORWARD IDENT for the next mail.
    ident: Option<String>,
    /// The open transaction, from MAIL to the last reply.
    envelope: Option<Envelope>,
}

impl Session {
    /// A session with `submitter`; `admitted` is the answer to each of its MAIL commands, should it be refused.
    pub fn new(submitter: Submitter, admitted: Result<(), Refusal>, limits: Arc<Limits>) -> Self {
        Self {
            limits,
            submitter,
            admitted,
            phase: Phase::Commands,
            line: Vec::new(),
            overlong: false,
            greeted: false,
            bad: 0,
            ident: None,
            envelope: None,
        }
    }

    /// Appends the greeting, to be sent before anything is read.
    pub fn greeting(&self, out: &mut Vec<u8>) {
        plain(out, "220 ", &format!("{} LMTP tox-agent", self.limits.hostname));
    }

    /// Whether no transaction is open, so that closing costs nobody a mail.
    pub fn is_idle(&self) -> bool {
        self.envelope.is_none() && !matches!(self.phase, Phase::Data(_) | Phase::Finishing)
    }

    /// Appends the last reply of a session that the server ends (RFC 5321 section 3.8); an open mail is discarded.
    pub fn end(&mut self, ending: Ending, out: &mut Vec<u8>) {
        let (detail, text) = match ending {
            Ending::Shutdown => ((3, 2), "shutting down; try again later"),
            Ending::Idle => ((4, 2), "nothing heard for too long"),
            Ending::TooManyErrors => ((7, 0), "too many bad commands"),
        };
        reply(out, 421, EnhancedStatus::new(4, detail.0, detail.1), text, false);
        self.reset();
        self.phase = Phase::Closed;
    }

    /// Takes octets from the client and appends the replies to `out`. Returns how many it took: all of them with
    /// [`Step::More`], possibly fewer otherwise. The others are to be fed again after [`Session::finished`].
    pub fn feed(&mut self, bytes: &[u8], submission: &dyn Submission, out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        while used < bytes.len() {
            let rest = &bytes[used..];
            let (taken, step) = match self.phase {
                Phase::Commands => self.feed_line(rest, submission, out),
                Phase::Data(_) => self.feed_data(rest, out),
                // A driver that feeds now has lost its place; nothing it has can be trusted to be a command.
                Phase::Finishing | Phase::Closed => (0, Step::Close),
            };
            used += taken;
            if !matches!(step, Step::More) {
                return (used, step);
            }
        }
        (used, Step::More)
    }

    /// Appends one reply per recipient (RFC 2033 section 4.2) made of the answers of [`Intake::finish`] and ends the
    /// transaction. An answer that is missing counts as a temporary refusal: nobody said that the mail is kept.
    pub fn finished(&mut self, answers: Vec<Result<String, Refusal>>, out: &mut Vec<u8>) {
        if !matches!(self.phase, Phase::Finishing) {
            return;
        }
        self.phase = Phase::Commands;
        let Some(envelope) = self.envelope.take() else { return };
        let mut answers = answers.into_iter();
        for recipient in &envelope.recipients {
            match answers.next() {
                Some(Ok(queue_id)) => {
                    let text = format!("<{}> queued as {queue_id}", shown(&recipient.address));
                    reply(out, 250, EnhancedStatus::new(2, 0, 0), &text, envelope.smtputf8);
                }
                Some(Err(refusal)) => refuse(out, &refusal, envelope.smtputf8),
                None => {
                    let text = "the agent failed while storing the mail; try again later";
                    refuse(out, &Refusal::temporary(3, 0, text), envelope.smtputf8);
                }
            }
        }
        self.reset();
    }

    /// Forgets the transaction and what XFORWARD said of it.
    fn reset(&mut self) {
        self.envelope = None;
        self.ident = None;
    }

    fn utf8(&self) -> bool {
        self.envelope.as_ref().is_some_and(|envelope| envelope.smtputf8)
    }

    /// Collects one command line. Ends it at LF, with or without CR: an MTA sends CRLF, a human with `nc` does not, and
    /// no mail's end depends on it.
    fn feed_line(&mut self, bytes: &[u8], submission: &dyn Submission, out: &mut Vec<u8>) -> (usize, Step) {
        let end = bytes.iter().position(|&octet| octet == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.overlong |= self.line.len() + taken > MAX_LINE;
        if self.overlong {
            self.line.clear();
        } else {
            self.line.extend_from_slice(&bytes[..taken]);
        }
        if end.is_none() {
            return (taken, Step::More);
        }
        let mut line = std::mem::take(&mut self.line);
        let parsed = if std::mem::take(&mut self.overlong) {
            let text = format!("a command line has at most {MAX_LINE} octets").into();
            Err(Bad { code: 500, status: EnhancedStatus::new(5, 5, 2), text })
        } else {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            command::parse(text.strip_suffix(b"\r").unwrap_or(text), &self.limits.hostname)
        };
        line.clear();
        self.line = line; // Its room serves the next line.
        let step = match parsed {
            Ok(command) => self.obey(command, submission, out),
            Err(bad) => self.scold(&bad, out),
        };
        (taken, step)
    }

    /// Answers a line that is no command. A refused address or parameter is an MTA's everyday life and not counted.
    fn scold(&mut self, bad: &Bad, out: &mut Vec<u8>) -> Step {
        reply(out, bad.code, bad.status, &bad.text, self.utf8());
        if (500..=502).contains(&bad.code) {
            self.bad += 1;
            if self.bad >= MAX_BAD {
                self.end(Ending::TooManyErrors, out);
                return Step::Close;
            }
        }
        Step::More
    }

    fn obey(&mut self, command: Command, submission: &dyn Submission, out: &mut Vec<u8>) -> Step {
        match command {
            Command::Lhlo => self.lhlo(out),
            Command::Helo => {
                let text = "this is LMTP: say LHLO".into();
                return self.scold(&Bad { code: 500, status: EnhancedStatus::new(5, 5, 1), text }, out);
            }
            Command::Mail(mail) => self.mail(mail, submission, out),
            Command::Rcpt(recipient) => self.rcpt(recipient, submission, out),
            Command::Data => self.data(submission, out),
            Command::Xforward(_) if !self.greeted => out_of_order(out, "say LHLO first"),
            Command::Xforward(_) if self.envelope.is_some() => out_of_order(out, "XFORWARD comes before MAIL"),
            Command::Xforward(ident) => {
                if let Some(ident) = ident {
                    self.ident = ident;
                }
                ok(out, (0, 0), "noted");
            }
            Command::Rset => {
                self.reset();
                ok(out, (0, 0), "forgotten");
            }
            Command::Noop => ok(out, (0, 0), "nothing done"),
            Command::Help => reply(out, 214, EnhancedStatus::new(2, 0, 0), "LMTP, RFC 2033", false),
            Command::Vrfy => reply(out, 252, EnhancedStatus::new(2, 5, 0), "send the mail and see", false),
            Command::Quit => {
                reply(out, 221, EnhancedStatus::new(2, 0, 0), "bye", false);
                self.reset();
                self.phase = Phase::Closed;
                return Step::Close;
            }
        }
        Step::More
    }

    fn lhlo(&mut self, out: &mut Vec<u8>) {
        self.reset();
        self.greeted = true;
        plain(out, "250-", &self.limits.hostname);
        plain(out, "250-", "PIPELINING");
        plain(out, "250-", &format!("SIZE {}", self.limits.max_size));
        for extension in ["8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"] {
            plain(out, "250-", extension);
        }
        plain(out, "250 ", "XFORWARD IDENT NAME ADDR PROTO HELO SOURCE");
    }

    fn mail(&mut self, mail: Mail, submission: &dyn Submission, out: &mut Vec<u8>) {
        if !self.greeted {
            return out_of_order(out, "say LHLO first");
        }
        if self.envelope.is_some() {
            return out_of_order(out, "a mail is already begun: RSET first");
        }
        self.bad = 0;
        // Whatever becomes of this mail, the next one has another queue id.
        let mta_queue_id = self.ident.take();
        if !mail.smtputf8 && mail.sender.as_ref().is_some_and(|sender| !sender.is_ascii()) {
            return needs_smtputf8(out);
        }
        let judged = self.admitted.clone().and_then(|()| {
            if mail.size > self.limits.max_size {
                return Err(self.too_large());
            }
            submission.sender(&self.submitter, &mail.sender)
        });
        match judged {
            Err(refusal) => refuse(out, &refusal, mail.smtputf8),
            Ok(()) => {
                self.envelope = Some(Envelope {
                    sender: mail.sender,
                    recipients: Vec::new(),
                    mta_queue_id,
                    smtputf8: mail.smtputf8,
                    ret: mail.ret,
                    envid: mail.envid,
                });
                ok(out, (1, 0), "sender taken");
            }
        }
    }

    fn rcpt(&mut self, recipient: Recipient, submission: &dyn Submission, out: &mut Vec<u8>) {
        let Some(envelope) = &mut self.envelope else { return out_of_order(out, "MAIL comes before RCPT") };
        if !envelope.smtputf8 && !recipient.address.is_ascii() {
            return needs_smtputf8(out);
        }
        let judged = if envelope.recipients.len() >= self.limits.max_recipients {
            Err(Refusal::temporary(5, 3, "too many recipients: the rest in the next mail"))
        } else {
            submission.recipient(&envelope.sender, &recipient.address)
        };
        match judged {
            Err(refusal) => refuse(out, &refusal, envelope.smtputf8),
            Ok(()) => {
                envelope.recipients.push(recipient);
                ok(out, (1, 5), "recipient taken");
            }
        }
    }

    fn data(&mut self, submission: &dyn Submission, out: &mut Vec<u8>) {
        let Some(envelope) = &self.envelope else { return out_of_order(out, "MAIL and RCPT come before DATA") };
        if envelope.recipients.is_empty() {
            // RFC 2033 section 4.2: with pipelining a client cannot know that it has no recipient left.
            return out_of_order(out, "no recipient was taken");
        }
        match submission.begin(envelope) {
            Err(refusal) => {
                refuse(out, &refusal, envelope.smtputf8);
                self.reset();
            }
            Ok(intake) => {
                self.phase = Phase::Data(Incoming { decoder: Decoder::new(), intake: Ok(intake), size: 0, taken: 0 });
                plain(out, "354 ", "the mail, then a line with a dot");
            }
        }
    }

    fn feed_data(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let too_large = self.too_large();
        let max_size = self.limits.max_size;
        let Phase::Data(incoming) = &mut self.phase else { return (0, Step::More) };
        let piece = &bytes[..bytes.len().min(PIECE)];
        let mut decoded = Vec::with_capacity(piece.len() + 1);
        let taken = incoming.decoder.feed(piece, &mut decoded);
        incoming.taken = incoming.taken.saturating_add(taken as u64);
        incoming.size = incoming.size.saturating_add(decoded.len() as u64);
        if let Ok(intake) = &mut incoming.intake {
            // The first refusal counts, and drops the intake at once: its room on the disk is free while we drain.
            if incoming.size > max_size {
                incoming.intake = Err(too_large);
            } else if !decoded.is_empty()
                && let Err(refusal) = intake.write(&decoded)
            {
                incoming.intake = Err(refusal);
            }
        }
        let ended = incoming.decoder.ended();
        if !ended && incoming.taken <= max_size.saturating_mul(2).saturating_add(DRAIN_SLACK) {
            return (taken, Step::More);
        }
        let Phase::Data(incoming) = std::mem::replace(&mut self.phase, Phase::Finishing) else {
            return (taken, Step::Close);
        };
        match incoming.intake {
            Ok(intake) if ended => (taken, Step::Finish(intake)),
            // An octet of the mail takes at most two on the wire (CRLF, a stuffed dot), so a mail not ended by now has
            // long been refused. A client that goes on nevertheless loses the connection.
            intake => {
                let refusal = intake.err().unwrap_or_else(|| self.too_large());
                let answers = self.envelope.iter().flat_map(|e| &e.recipients).map(|_| Err(refusal.clone())).collect();
                self.finished(answers, out);
                if ended {
                    return (taken, Step::More);
                }
                self.phase = Phase::Closed;
                (taken, Step::Close)
            }
        }
    }

    fn too_large(&self) -> Refusal {
        Refusal::permanent(3, 4, format!("the mail is larger than the {} octets allowed", self.limits.max_size))
    }
}

/// Why the server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The agent stops.
    Shutdown,
    /// The client was silent for longer than [`Limits::timeout`].
    Idle,
    /// The client sent [`MAX_BAD`] lines that are no commands.
    TooManyErrors,
}

/// RFC 6531 section 3.5: an address that needs SMTPUTF8 in a transaction without it.
fn needs_smtputf8(out: &mut Vec<u8>) {
    reply(out, 553, EnhancedStatus::new(5, 6, 7), "an address with non-ASCII characters needs SMTPUTF8", false);
}

/// The address for a reply, cut so that the queue id after it is never what is lost.
fn shown(address: &Address) -> String {
    let mut text = address.to_string();
    if text.len() > MAX_REPLY / 2 {
        text.truncate(cut(&text, MAX_REPLY / 2).len());
        text.push_str("...");
    }
    text
}

fn ok(out: &mut Vec<u8>, detail: (u16, u16), text: &str) {
    reply(out, 250, EnhancedStatus::new(2, detail.0, detail.1), text, false);
}

/// 503: a command in the wrong place.
fn out_of_order(out: &mut Vec<u8>, text: &str) {
    reply(out, 503, EnhancedStatus::new(5, 5, 1), text, false);
}

/// Appends the reply for `refusal` (RFC 5321 section 4.2.3).
pub(super) fn refuse(out: &mut Vec<u8>, refusal: &Refusal, utf8: bool) {
    const NO_ROOM: [EnhancedStatus; 6] = [
        EnhancedStatus::new(5, 3, 4),
        EnhancedStatus::new(5, 2, 2),
        EnhancedStatus::new(5, 2, 3),
        EnhancedStatus::new(4, 2, 2),
        EnhancedStatus::new(4, 3, 1),
        EnhancedStatus::new(4, 5, 3),
    ];
    let status = refusal.status();
    let code = match (refusal.is_permanent(), NO_ROOM.contains(&status)) {
        (true, true) => 552,
        (true, false) => 550,
        (false, true) => 452,
        (false, false) => 450,
    };
    reply(out, code, status, refusal.text(), utf8);
}

/// Appends one reply line. Control characters become blanks; so that a client without SMTPUTF8 sees ASCII only,
/// everything else becomes `?` unless `utf8` (RFC 6531 section 3.7.4.2).
pub(super) fn reply(out: &mut Vec<u8>, code: u16, status: EnhancedStatus, text: &str, utf8: bool) {
    let text: String = text.chars().map(|c| if utf8 || c.is_ascii() { c } else { '?' }).collect();
    plain(out, &format!("{code} "), &format!("{status} {text}"));
}

/// Appends one line, sanitised and cut at [`MAX_REPLY`].
fn plain(out: &mut Vec<u8>, code: &str, text: &str) {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    out.extend_from_slice(code.as_bytes());
    out.extend_from_slice(cut(&text, MAX_REPLY - 2 - code.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The longest beginning of `text` of at most `max` octets that ends between two characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lmtp::Outcome;
    use crate::lmtp::data::encode;
    use crate::mail::envelope::{Notify, Return, ReversePath};
    use proptest::prelude::*;
    use std::sync::{Mutex, MutexGuard};
    use std::time::Duration;

    /// What the agent was told.
    #[derive(Default)]
    struct Seen {
        envelopes: Vec<Envelope>,
        body: Vec<u8>,
        chunks: Vec<usize>,
        discarded: usize,
        write_fails: bool,
    }

    /// An agent that refuses by name.
    #[derive(Default, Clone)]
    struct Fake(Arc<Mutex<Seen>>);

    impl Fake {
        fn seen(&self) -> MutexGuard<'_, Seen> {
            self.0.lock().expect("no test panics with it")
        }
    }

    impl Submission for Fake {
        fn sender(&self, _: &Submitter, sender: &ReversePath) -> Result<(), Refusal> {
            match sender {
                Some(address) if address.local() == "eve" => Err(Refusal::permanent(7, 1, "no\r\n250 yes\u{e5}")),
                _ => Ok(()),
            }
        }

        fn recipient(&self, _: &ReversePath, recipient: &Address) -> Result<(), Refusal> {
            match recipient.local() {
                "nobody" => Err(Refusal::permanent(1, 1, "no such contact")),
                "later" => Err(Refusal::temporary(4, 1, "no answer from the name service")),
                "full" => Err(Refusal::temporary(2, 2, "mailbox full")),
                _ => Ok(()),
            }
        }

        fn begin(&self, envelope: &Envelope) -> Result<Box<dyn Intake>, Refusal> {
            if envelope.sender.as_ref().is_some_and(|sender| sender.local() == "nodisk") {
                return Err(Refusal::temporary(3, 1, "disk full"));
            }
            self.seen().envelopes.push(envelope.clone());
            Ok(Box::new(Open { fake: self.clone(), finished: false }))
        }
    }

    struct Open {
        fake: Fake,
        finished: bool,
    }

    impl Intake for Open {
        fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
            let mut seen = self.fake.seen();
            if seen.write_fails {
                return Err(Refusal::temporary(3, 1, "disk full"));
            }
            seen.chunks.push(chunk.len());
            seen.body.extend_from_slice(chunk);
            Ok(())
        }

        fn finish(mut self: Box<Self>) -> Outcome {
            self.finished = true;
            Box::pin(std::future::ready(Vec::new()))
        }
    }

    impl Drop for Open {
        fn drop(&mut self) {
            if !self.finished {
                self.fake.seen().discarded += 1;
            }
        }
    }

    fn limits() -> Limits {
        Limits {
            max_size: 1000,
            max_recipients: 3,
            max_connections: 1,
            timeout: Duration::from_secs(1),
            hostname: "laptop.example".to_owned(),
            allow_uids: None,
        }
    }

    fn session() -> Session {
        Session::new(Submitter { uid: 1, gid: 1, pid: 1 }, Ok(()), Arc::new(limits()))
    }

    /// Feeds everything in chunks of `size`; every mail is answered with queue ids Q0, Q1, ... Returns the replies and
    /// whether the session went on to the end.
    fn talk(session: &mut Session, fake: &Fake, wire: &[u8], size: usize) -> (String, bool) {
        let mut out = Vec::new();
        let mut open = true;
        'wire: for chunk in wire.chunks(size) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let (taken, step) = session.feed(rest, fake, &mut out);
                rest = &rest[taken..];
                match step {
                    Step::More => {}
                    Step::Finish(intake) => {
                        drop(intake.finish());
                        session.finished((0..9).map(|n| Ok(format!("Q{n}"))).collect(), &mut out);
                    }
                    Step::Close => {
                        open = false;
                        break 'wire;
                    }
                }
            }
        }
        (String::from_utf8(out).expect("replies are UTF-8"), open)
    }

    /// The replies to `wire` after LHLO, codes only: `250 2.1.0`.
    fn codes(wire: &str) -> Vec<String> {
        let (mut session, fake) = (session(), Fake::default());
        talk(&mut session, &fake, b"LHLO x\r\n", 100);
        let (replies, _) = talk(&mut session, &fake, wire.as_bytes(), 1 << 20);
        replies.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    const MAIL: &str = "MAIL FROM:<a@x>\r\n";

    #[test]
    fn a_whole_transaction_in_one_packet() {
        let (mut session, fake) = (session(), Fake::default());
        let mut greeting = Vec::new();
        session.greeting(&mut greeting);
        assert_eq!(greeting, b"220 laptop.example LMTP tox-agent\r\n");
        let wire = b"LHLO mta\r\nXFORWARD IDENT=4Wc NAME=x\r\nMAIL FROM:<A@x> SIZE=10 RET=HDRS ENVID=e SMTPUTF8\r\n\
            RCPT TO:<b@y> NOTIFY=NEVER ORCPT=rfc822;b@y\r\nRCPT TO:<nobody@y>\r\nRCPT TO:<gr\xc3\xa5@z>\r\nDATA\r\n\
            a\r\n..b\n.\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@y>\r\nDATA\r\n.\r\nQUIT\r\n";
        let (replies, open) = talk(&mut session, &fake, wire, wire.len());
        assert!(!open);
        assert_eq!(
            replies,
            "250-laptop.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250 XFORWARD IDENT NAME ADDR PROTO HELO SOURCE\r\n\
             250 2.0.0 noted\r\n250 2.1.0 sender taken\r\n250 2.1.5 recipient taken\r\n550 5.1.1 no such contact\r\n\
             250 2.1.5 recipient taken\r\n354 the mail, then a line with a dot\r\n250 2.0.0 <b@y> queued as Q0\r\n\
             250 2.0.0 <gr\u{e5}@z> queued as Q1\r\n250 2.1.0 sender taken\r\n250 2.1.5 recipient taken\r\n\
             354 the mail, then a line with a dot\r\n250 2.0.0 <b@y> queued as Q0\r\n221 2.0.0 bye\r\n"
        );
        let seen = fake.seen();
        assert_eq!(seen.body, b"a\n.b\n.\n");
        assert_eq!(seen.discarded, 0);
        let first = &seen.envelopes[0];
        assert_eq!(first.sender.as_ref().map(ToString::to_string).as_deref(), Some("A@x"));
        assert_eq!((first.mta_queue_id.as_deref(), first.envid.as_deref()), (Some("4Wc"), Some("e")));
        assert_eq!((first.ret, first.smtputf8, first.recipients.len()), (Some(Return::Headers), true, 2));
        assert_eq!(first.recipients[0].notify, Some(Notify { never: true, ..Notify::default() }));
        assert_eq!(first.recipients[0].orcpt.as_deref(), Some("rfc822;b@y"));
        // What XFORWARD said was about the first mail only.
        assert_eq!((&seen.envelopes[1].mta_queue_id, &seen.envelopes[1].sender), (&None, &None));
    }

    #[test]
    fn refusals_have_their_codes() {
        for (wire, expected) in [
            ("MAIL FROM:<a@x> SIZE=1001\r\n", &["552 5.3.4"][..]),
            ("MAIL FROM:<a@x> SIZE=1000\r\n", &["250 2.1.0"]),
            ("MAIL FROM:<eve@x>\r\n", &["550 5.7.1"]),
            ("MAIL FROM:<gr\u{e5}@x>\r\n", &["553 5.6.7"]),
            ("MAIL FROM:<a@x> FOO=1\r\nRCPT TO:<a@x>\r\n", &["555 5.5.4", "503 5.5.1"]),
            ("MAIL FROM:<a@x>\r\nRCPT TO:<b@\u{e5}>\r\nMAIL FROM:<>\r\n", &["250 2.1.0", "553 5.6.7", "503 5.5.1"]),
            ("MAIL FROM:<>\r\nRCPT TO:<later@x>\r\nRCPT TO:<full@x>\r\n", &["250 2.1.0", "450 4.4.1", "452 4.2.2"]),
            ("MAIL FROM:<>\r\nRCPT TO:<nobody@x>\r\nDATA\r\n", &["250 2.1.0", "550 5.1.1", "503 5.5.1"]),
            (
                "MAIL FROM:<nodisk@x>\r\nRCPT TO:<a@x>\r\nDATA\r\nMAIL FROM:<>\r\n",
                &["250 2.1.0", "250 2.1.5", "452 4.3.1", "250 2.1.0"],
            ),
            (
                "MAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nRCPT TO:<d@x>\r\n",
                &["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.1.5", "452 4.5.3"],
            ),
            ("DATA\r\nRCPT TO:<a@x>\r\n", &["503 5.5.1", "503 5.5.1"]),
            (
                "MAIL FROM:<>\r\nXFORWARD IDENT=a\r\nRSET\r\nMAIL FROM:<>\r\n",
                &["250 2.1.0", "503 5.5.1", "250 2.0.0", "250 2.1.0"],
            ),
            (
                "EHLO x\r\nVRFY x\r\nNOOP\r\nHELP\r\nSTARTTLS\r\n\r\n",
                &["500 5.5.1", "252 2.5.0", "250 2.0.0", "214 2.0.0", "502 5.5.1", "500 5.5.2"],
            ),
        ] {
            assert_eq!(codes(wire), expected, "{wire}");
        }
        let (mut session, fake) = (session(), Fake::default());
        assert!(talk(&mut session, &fake, MAIL.as_bytes(), 99).0.starts_with("503 5.5.1"));
        assert!(talk(&mut session, &fake, b"XFORWARD IDENT=a\r\n", 99).0.starts_with("503 5.5.1"));
    }

    #[test]
    fn replies_are_one_line_and_ascii_without_smtputf8() {
        let (mut session, fake) = (session(), Fake::default());
        talk(&mut session, &fake, b"LHLO x\r\n", 99);
        let (replies, _) = talk(&mut session, &fake, b"MAIL FROM:<eve@x>\r\nMAIL FROM:<eve@x> SMTPUTF8\r\n", 99);
        assert_eq!(replies, "550 5.7.1 no  250 yes?\r\n550 5.7.1 no  250 yes\u{e5}\r\n");
        let mut out = Vec::new();
        reply(&mut out, 550, EnhancedStatus::new(5, 0, 0), &"\u{e5}".repeat(600), true);
        assert!(out.len() <= MAX_REPLY && out.ends_with(b"\r\n") && std::str::from_utf8(&out).is_ok());
        let long = Address::new(&"\"".repeat(128), &"a.".repeat(127)).expect("within the limits");
        assert!(shown(&long).len() < MAX_REPLY / 2 + 4);
    }

    #[test]
    fn a_stranger_is_told_so_at_mail() {
        let refusal = Refusal::permanent(7, 1, "user eve may not submit mail (lmtp.allow_users)");
        let mut session = Session::new(Submitter { uid: 9, gid: 9, pid: 9 }, Err(refusal), Arc::new(limits()));
        let (replies, _) = talk(&mut session, &Fake::default(), b"LHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\n", 99);
        assert!(
            replies.ends_with(
                "\r\n550 5.7.1 user eve may not submit mail (lmtp.allow_users)\r\n503 5.5.1 MAIL comes before RCPT\r\n"
            ),
            "{replies}"
        );
    }

    #[test]
    fn long_lines_and_nonsense_are_bounded() {
        let (mut session, fake) = (session(), Fake::default());
        let mut line = vec![b'x'; 3 * MAX_LINE];
        line.extend_from_slice(b"\r\nNOOP\r\n");
        let (replies, open) = talk(&mut session, &fake, &line, 1000);
        assert!(
            open && replies.starts_with("500 5.5.2 ") && replies.ends_with("250 2.0.0 nothing done\r\n"),
            "{replies}"
        );
        assert!(session.line.capacity() <= 2 * MAX_LINE);
        let mut fits = b"NOOP ".to_vec();
        fits.resize(MAX_LINE - 2, b'x');
        fits.extend_from_slice(b"\r\n");
        assert!(talk(&mut session, &fake, &fits, 1000).0.starts_with("250"));
        let (replies, open) = talk(&mut session, &fake, &b"GET / HTTP/1.1\r\n".repeat(20), 7);
        assert!(!open);
        assert_eq!(replies.lines().count(), MAX_BAD as usize);
        assert!(replies.ends_with("\r\n421 4.7.0 too many bad commands\r\n"), "{replies}");
        assert!(matches!(session.feed(b"NOOP\r\n", &fake, &mut Vec::new()), (0, Step::Close)));
    }

    #[test]
    fn a_mail_too_large_is_drained_and_refused_per_recipient() {
        for (length, fits) in [(999, true), (1000, true), (1001, false), (1900, false)] {
            let (mut session, fake) = (session(), Fake::default());
            let mut wire = b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n".to_vec();
            let mut body = vec![b'.'; length - 1];
            body.push(b'\n');
            wire.extend_from_slice(&encode(&body));
            wire.extend_from_slice(b"NOOP\r\n");
            let (replies, open) = talk(&mut session, &fake, &wire, 100);
            assert!(open && replies.ends_with("250 2.0.0 nothing done\r\n"));
            assert_eq!(replies.matches("552 5.3.4 ").count(), if fits { 0 } else { 2 }, "{length}");
            assert_eq!(replies.matches(" queued as ").count(), if fits { 2 } else { 0 }, "{length}");
            assert_eq!(fake.seen().discarded, usize::from(!fits));
        }
    }

    #[test]
    fn draining_has_an_end() {
        let (mut session, fake) = (session(), Fake::default());
        talk(&mut session, &fake, b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n", 99);
        let (replies, open) = talk(&mut session, &fake, &[b'x'; 100_000], 1000);
        assert!(!open && fake.seen().discarded == 1);
        assert_eq!(replies.matches("552 5.3.4 ").count(), 2);
        assert!(session.is_idle());
    }

    #[test]
    fn a_failed_write_answers_every_recipient_and_the_session_goes_on() {
        let (mut session, fake) = (session(), Fake::default());
        fake.seen().write_fails = true;
        let wire =
            "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\na\r\nb\r\n.\r\nMAIL FROM:<>\r\n";
        let (replies, open) = talk(&mut session, &fake, wire.as_bytes(), 5);
        assert!(open && replies.ends_with("452 4.3.1 disk full\r\n452 4.3.1 disk full\r\n250 2.1.0 sender taken\r\n"));
        assert_eq!(fake.seen().discarded, 1);
    }

    #[test]
    fn missing_answers_are_temporary_and_order_is_kept() {
        let (mut session, fake) = (session(), Fake::default());
        let wire = "LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c@x>\r\nDATA\r\n.\r\nNOOP\r\n";
        let (taken, step) = session.feed(wire.as_bytes(), &fake, &mut Vec::new());
        assert!(matches!(step, Step::Finish(_)) && !session.is_idle());
        assert_eq!(taken, wire.len() - 6);
        // A driver that goes on reading before the answers are in gets nothing done.
        assert!(matches!(session.feed(b"NOOP\r\n", &fake, &mut Vec::new()), (0, Step::Close)));
        let mut out = Vec::new();
        session.finished(vec![Err(Refusal::permanent(2, 3, "too big")), Ok("Q\r\n1".to_owned())], &mut out);
        let replies = String::from_utf8_lossy(&out);
        assert!(replies.starts_with("552 5.2.3 too big\r\n250 2.0.0 <b@x> queued as Q  1\r\n450 4.3.0 "), "{replies}");
        assert!(session.is_idle());
        out.clear();
        session.finished(vec![Ok("late".to_owned())], &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn big_reads_reach_the_intake_in_bounded_chunks() {
        let fake = Fake::default();
        let limits = Limits { max_size: 1 << 20, ..limits() };
        let mut session = Session::new(Submitter { uid: 1, gid: 1, pid: 1 }, Ok(()), Arc::new(limits));
        let mut wire = b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\n".to_vec();
        let body = vec![b'x'; 500_000];
        wire.extend_from_slice(&encode(&body));
        talk(&mut session, &fake, &wire, wire.len());
        assert!(fake.seen().chunks.iter().all(|&chunk| chunk <= MAX_CHUNK));
        assert_eq!(fake.seen().body.len(), body.len() + 1);
    }

    #[test]
    fn dropping_a_session_in_data_discards_the_mail() {
        let (mut session, fake) = (session(), Fake::default());
        talk(&mut session, &fake, b"LHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nDATA\r\nhalf a mail\r\n.", 99);
        assert!(!session.is_idle() && fake.seen().discarded == 0);
        drop(session);
        assert_eq!(fake.seen().discarded, 1);
    }

    proptest! {
        #[test]
        fn chunking_changes_nothing(
            body in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..300),
            size in 1usize..50,
        ) {
            let mut wire = b"LHLO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<nobody@x>\r\nDATA\r\n".to_vec();
            wire.extend_from_slice(&encode(&body));
            wire.extend_from_slice(b"RSET\r\nWHAT\r\nQUIT\r\n");
            let (whole, pieces) = (Fake::default(), Fake::default());
            let expected = talk(&mut session(), &whole, &wire, wire.len());
            prop_assert_eq!(talk(&mut session(), &pieces, &wire, size), expected);
            let mut kept = body;
            if kept.last().is_some_and(|&octet| octet != b'\n') {
                kept.push(b'\n');
            }
            prop_assert_eq!(&pieces.seen().body, &kept);
        }

        #[test]
        fn no_input_breaks_the_session(pieces in prop::collection::vec(prop_oneof![
            Just(b"LHLO x\r\n".to_vec()), Just(b"MAIL FROM:<a@x>\r\n".to_vec()), Just(b"RCPT TO:<b@x>\r\n".to_vec()),
            Just(b"DATA\r\n".to_vec()), Just(b"\r\n.\r\n".to_vec()), Just(b"RSET\r\n".to_vec()),
            Just(b"XFORWARD IDENT=".to_vec()), Just(b"MAIL FROM:<".to_vec()), Just(b"RCPT TO:<\"\\".to_vec()),
            "[ -~\u{e5}]{0,20}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..30)], 0..40)) {
            let (replies, _) = talk(&mut session(), &Fake::default(), &pieces.concat(), 13);
            for line in replies.split_terminator("\r\n") {
                prop_assert!(line.len() <= MAX_REPLY - 2 && !line.chars().any(char::is_control), "{}", line);
                let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
                prop_assert!(code.is_some_and(|code| (200..560).contains(&code)), "{}", line);
            }
        }
    }
}
