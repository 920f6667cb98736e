//! One connection, one mail: the dialogue and the waits in it. May use: `encoder`, `reply` and the types of the module.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::encoder::Encoder;
use super::reply::{MAX_REPLY, Reply};
use super::{Destination, Envelope, Outcome, Recipient, Timeouts};
use crate::mail::envelope::Return;
use crate::mail::status::Refusal;

/// How many octets of the mail are gathered before they are sent.
const CHUNK: usize = 64 * 1024;
/// How many RCPT are sent ahead of their answers: these fit into any socket's buffer while nobody reads them.
const AHEAD: usize = 50;

/// The stream, with its time-outs.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn open(destination: &Destination, timeout: Duration) -> io::Result<Self> {
        match destination {
            Destination::Lmtp(path) => {
                let flags = SockFlag::SOCK_CLOEXEC;
                let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
                // While a hung server's backlog is full, connect(2) waits as long as a write may.
                setsockopt(&socket, sockopt::SendTimeout, &time_val(timeout))?;
                socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
                Ok(Self::Unix(UnixStream::from(socket)))
            }
            Destination::Smtp { host, port } => {
                let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, timeout) {
                        Ok(stream) => {
                            // Commands are small and each waits for its answer.
                            stream.set_nodelay(true)?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8], timeout: Duration) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)).and_then(|()| stream.read(buffer)),
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)).and_then(|()| stream.read(buffer)),
        }
    }

    fn write(&mut self, octets: &[u8], timeout: Duration) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(Some(timeout)).and_then(|()| stream.write(octets)),
            Self::Tcp(stream) => stream.set_write_timeout(Some(timeout)).and_then(|()| stream.write(octets)),
        }
    }
}

/// The connection, and what came over it that is not taken yet.
struct Wire {
    stream: Stream,
    unread: Vec<u8>,
    /// The end of everything before the final dot.
    end: Instant,
}

fn time_val(duration: Duration) -> TimeVal {
    TimeVal::milliseconds(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Wire {
    /// When a step that begins now has to end.
    fn step(&self, limit: Duration) -> Instant {
        (Instant::now() + limit).min(self.end)
    }

    /// The time left until `by`; `None` when there is none.
    fn left(by: Instant) -> Option<Duration> {
        Some(by.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn reply(&mut self, by: Instant, command: &str) -> Result<Reply, Refusal> {
        let late = || Refusal::temporary(4, 2, format!("the recipient's mail server did not answer {command} in time"));
        loop {
            match Reply::take(&mut self.unread) {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => {}
                Err(_) => {
                    let text = format!("what the recipient's mail server answered {command} is no SMTP reply");
                    return Err(Refusal::temporary(5, 0, text));
                }
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece, Self::left(by).ok_or_else(late)?) {
                Ok(0) => return Err(closed(command)),
                Ok(length) => self.unread.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(late()),
                Err(_) => return Err(closed(command)),
            }
        }
    }

    fn send(&mut self, octets: &[u8], by: Instant) -> io::Result<()> {
        let mut rest = octets;
        while !rest.is_empty() {
            let left = Self::left(by).ok_or(io::Error::from(ErrorKind::TimedOut))?;
            match self.stream.write(rest, left) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a command and reads the answer.
    fn ask(&mut self, line: &str, limit: Duration, command: &str) -> Result<Reply, Refusal> {
        let by = self.step(limit);
        // Of a server that is gone its last words, if any, are of more use than the error.
        let sent = self.send(line.as_bytes(), by);
        match self.reply(by, command) {
            Err(_) if sent.is_err() => Err(closed(command)),
            answer => answer,
        }
    }

    /// What the server said although it was not its turn; most often why it closes the connection.
    fn last_words(&mut self) -> Refusal {
        let mut piece = [0; 4096];
        while self.unread.len() < MAX_REPLY {
            match self.stream.read(&mut piece, Duration::from_millis(1)) {
                Ok(length) if length > 0 => self.unread.extend_from_slice(&piece[..length]),
                _ => break,
            }
        }
        match Reply::take(&mut self.unread) {
            Ok(Some(reply)) => reply.not_the_mails_fault("the mail too early"),
            _ => closed("the mail"),
        }
    }
}

fn closed(command: &str) -> Refusal {
    let text = format!("the recipient's mail server closed the connection before it answered {command}");
    Refusal::temporary(4, 2, text)
}

/// What a server offers, as far as this client makes use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offers {
    /// RFC 2920
    pub pipelining: bool,
    /// RFC 6152
    pub eight_bit_mime: bool,
    /// RFC 6531
    pub smtputf8: bool,
    /// RFC 3461
    pub dsn: bool,
    /// RFC 1870
    pub size: bool,
    /// The largest mail the server takes, in octets, if it says so.
    pub max_size: Option<u64>,
}

/// A connection that waits for a mail.
pub struct Client {
    wire: Wire,
    timeouts: Timeouts,
    offers: Offers,
    lmtp: bool,
}

impl Client {
    /// Connects to a server and greets it as `hostname`.
    ///
    /// # Errors
    /// Always temporary: there is no server, it is too slow, or it wants nothing of us.
    pub fn connect(destination: &Destination, hostname: &str, timeouts: &Timeouts) -> Result<Self, Refusal> {
        let end = Instant::now() + timeouts.total;
        let stream = Stream::open(destination, timeouts.connect).map_err(|error| {
            log::warn!("cannot connect to {destination}: {error}");
            Refusal::temporary(4, 1, "the recipient's mail server does not take mail at the moment")
        })?;
        let mut wire = Wire { stream, unread: Vec::new(), end };
        let greeting = wire.reply(wire.step(timeouts.command), "the connection")?;
        if greeting.code != 220 {
            return Err(greeting.not_the_mails_fault("the connection"));
        }
        let lmtp = matches!(destination, Destination::Lmtp(_));
        let verb = if lmtp { "LHLO" } else { "EHLO" };
        let hello = wire.ask(&format!("{verb} {hostname}\r\n"), timeouts.command, verb)?;
        if hello.code != 250 {
            return Err(hello.not_the_mails_fault(verb));
        }
        let size = hello.offers("SIZE");
        let offers = Offers {
            pipelining: hello.offers("PIPELINING").is_some(),
            eight_bit_mime: hello.offers("8BITMIME").is_some(),
            smtputf8: hello.offers("SMTPUTF8").is_some(),
            dsn: hello.offers("DSN").is_some(),
            size: size.is_some(),
            max_size: size.and_then(|size| size.parse().ok()).filter(|size| *size > 0),
        };
        Ok(Self { wire, timeouts: *timeouts, offers, lmtp })
    }

    /// What the server offers.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Hands over a whole mail; one outcome for each recipient of `envelope`, in its order. Line ends of `body` may be LF
    /// or CR LF.
    pub fn deliver(self, envelope: &Envelope, body: &mut dyn Read) -> Vec<Outcome> {
        let mut transaction = match self.begin(envelope) {
            Ok(transaction) => transaction,
            Err(refusals) => return refusals.into_iter().map(Outcome::Refused).collect(),
        };
        let mut piece = vec![0; CHUNK];
        loop {
            let read = match body.read(&mut piece) {
                Ok(0) => return transaction.finish(),
                Ok(length) => transaction.write(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
                Err(error) => Err(Refusal::temporary(3, 0, format!("the mail cannot be read: {error}"))),
            };
            if let Err(refusal) = read {
                return transaction.fail(&refusal);
            }
        }
    }

    /// Names sender and recipients, and makes the server wait for the mail.
    ///
    /// Nothing is converted for a server that does not offer 8BITMIME: it is sent eight bits all the same, as Exim does.
    /// RFC 6152 would have the mail rewritten or returned; the one breaks signatures, and the other loses mail that every
    /// server of today takes.
    ///
    /// # Errors
    /// No recipient is left: why, for each of them in their order.
    pub fn begin(mut self, envelope: &Envelope) -> Result<Transaction, Vec<Refusal>> {
        let all = |refusal: Refusal| vec![refusal; envelope.recipients.len()];
        if envelope.needs_smtputf8() && !self.offers.smtputf8 {
            let text = "the recipient's mail server does not offer SMTPUTF8, which this mail needs";
            return Err(all(Refusal::permanent(6, 7, text)));
        }
        if let (Some(size), Some(most)) = (envelope.size, self.offers.max_size)
            && size > most
        {
            let text = format!("the mail has {size} octets; the recipient's mail server takes {most}");
            return Err(all(Refusal::permanent(3, 4, text)));
        }
        match self.envelope(envelope) {
            Err(refusal) => Err(all(refusal)),
            Ok(refused) if refused.iter().all(Option::is_some) => {
                let _ = self.wire.send(b"QUIT\r\n", self.wire.step(self.timeouts.command));
                Err(refused.into_iter().flatten().collect())
            }
            Ok(refused) => {
                let out = Vec::with_capacity(CHUNK + CHUNK / 8);
                Ok(Transaction { client: self, refused, encoder: Encoder::new(), out })
            }
        }
    }

    /// MAIL, RCPT and, where one was accepted, DATA; the refusals of the recipients.
    fn envelope(&mut self, envelope: &Envelope) -> Result<Vec<Option<Refusal>>, Refusal> {
        let limit = self.timeouts.command;
        let mail = mail_command(envelope, &self.offers);
        let ahead = if self.offers.pipelining { AHEAD } else { 1 };
        let mut refused = Vec::new();
        if !self.offers.pipelining {
            self.mail(&mail, true)?;
        }
        for (number, recipients) in envelope.recipients.chunks(ahead).enumerate() {
            let with_mail = number == 0 && self.offers.pipelining;
            let mut lines = if with_mail { mail.clone() } else { String::new() };
            recipients.iter().for_each(|recipient| lines.push_str(&rcpt_command(recipient, &self.offers)));
            let by = self.wire.step(limit);
            self.wire.send(lines.as_bytes(), by).map_err(|_| self.wire.last_words())?;
            if with_mail {
                self.mail(&mail, false)?;
            }
            for _ in recipients {
                let reply = self.wire.reply(self.wire.step(limit), "RCPT")?;
                if reply.code == 421 {
                    return Err(reply.not_the_mails_fault("RCPT"));
                }
                refused.push((!reply.is_success()).then(|| reply.refusal("RCPT")));
            }
        }
        if refused.iter().any(Option::is_none) {
            let reply = self.wire.ask("DATA\r\n", self.timeouts.data, "DATA")?;
            if reply.code != 354 {
                return Err(reply.refusal("DATA"));
            }
        }
        Ok(refused)
    }

    /// The answer to MAIL, which is sent first where it was not yet.
    fn mail(&mut self, line: &str, send: bool) -> Result<(), Refusal> {
        let limit = self.timeouts.command;
        let reply = match send {
            true => self.wire.ask(line, limit, "MAIL")?,
            false => self.wire.reply(self.wire.step(limit), "MAIL")?,
        };
        if reply.is_success() { Ok(()) } else { Err(reply.refusal("MAIL")) }
    }
}

/// A value that can stand in a parameter: nothing in it ends the parameter or the line.
fn is_value(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic())
}

fn mail_command(envelope: &Envelope, offers: &Offers) -> String {
    let sender = envelope.sender.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut line = format!("MAIL FROM:<{sender}>");
    if let (Some(size), true) = (envelope.size, offers.size) {
        let _ = write!(line, " SIZE={size}");
    }
    if offers.eight_bit_mime {
        line.push_str(" BODY=8BITMIME");
    }
    if envelope.needs_smtputf8() {
        line.push_str(" SMTPUTF8");
    }
    if offers.dsn {
        match envelope.ret {
            Some(Return::Full) => line.push_str(" RET=FULL"),
            Some(Return::Headers) => line.push_str(" RET=HDRS"),
            None => {}
        }
        if let Some(envid) = envelope.envid.as_deref().filter(|envid| is_value(envid)) {
            let _ = write!(line, " ENVID={envid}");
        }
    }
    line + "\r\n"
}

fn rcpt_command(recipient: &Recipient, offers: &Offers) -> String {
    let mut line = format!("RCPT TO:<{}>", recipient.path);
    if offers.dsn {
        if let Some(notify) = recipient.notify {
            let wishes = [
                (notify.never, "NEVER"),
                (notify.success, "SUCCESS"),
                (notify.failure, "FAILURE"),
                (notify.delay, "DELAY"),
            ];
            let wishes: Vec<&str> = wishes.into_iter().filter(|(wanted, _)| *wanted).map(|(_, word)| word).collect();
            if !wishes.is_empty() {
                let _ = write!(line, " NOTIFY={}", wishes.join(","));
            }
        }
        if let Some(orcpt) = recipient.orcpt.as_deref().filter(|orcpt| is_value(orcpt)) {
            let _ = write!(line, " ORCPT={orcpt}");
        }
    }
    line + "\r\n"
}

/// The server waits for the mail. Dropped before [`Transaction::finish`] the connection ends without the final dot, and
/// the server throws away what came.
pub struct Transaction {
    client: Client,
    /// Of each recipient why RCPT refused it; `None` for those that wait for the mail.
    refused: Vec<Option<Refusal>>,
    encoder: Encoder,
    out: Vec<u8>,
}

impl Transaction {
    /// Sends the next octets of the mail. Line ends may be LF or CR LF; a bare CR becomes a blank.
    ///
    /// # Errors
    /// The connection broke or is too slow; the transaction is of no use any more.
    pub fn write(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        for piece in octets.chunks(CHUNK) {
            self.encoder.push(piece, &mut self.out);
            if self.out.len() >= CHUNK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let wire = &mut self.client.wire;
        let by = wire.step(self.client.timeouts.block);
        match wire.send(&self.out, by) {
            Ok(()) => {
                self.out.clear();
                Ok(())
            }
            Err(error) if timed_out(&error) => {
                Err(Refusal::temporary(4, 2, "the recipient's mail server did not take the mail in time"))
            }
            Err(_) => Err(wire.last_words()),
        }
    }

    /// Why a recipient is refused that RCPT accepted.
    fn fail(self, refusal: &Refusal) -> Vec<Outcome> {
        self.refused.into_iter().map(|own| Outcome::Refused(own.unwrap_or_else(|| refusal.clone()))).collect()
    }

    /// Sends the final dot and waits for what the server says to it. An [`Outcome::Accepted`] is what hands the mail over.
    pub fn finish(mut self) -> Vec<Outcome> {
        // All but the dot's own octets goes first: an error before the last write proves that there was no dot.
        if let Err(refusal) = self.flush() {
            return self.fail(&refusal);
        }
        let wire = &mut self.client.wire;
        if !wire.unread.is_empty() {
            // An answer before the question would be taken for the answer to the dot.
            let refusal = wire.last_words();
            return self.fail(&refusal);
        }
        std::mem::replace(&mut self.encoder, Encoder::new()).finish(&mut self.out);
        // From here on the server may have the mail whatever happens, so it gets the time to say so.
        let by = Instant::now() + self.client.timeouts.done;
        let mut lost = wire.send(&self.out, by).err().map(|_| closed("the mail"));
        let mut shared: Option<Reply> = None;
        let mut outcomes = Vec::new();
        for own in self.refused {
            if let Some(refusal) = own {
                outcomes.push(Outcome::Refused(refusal));
                continue;
            }
            // One answer for each recipient (RFC 2033 section 4.2), or for all of them.
            let reply = match (&shared, &lost) {
                (_, Some(lost)) => Err(lost.clone()),
                (Some(reply), None) if !self.client.lmtp => Ok(reply.clone()),
                _ => wire.reply(by, "the mail"),
            };
            outcomes.push(match reply {
                Ok(reply) => {
                    shared = Some(reply.clone());
                    if reply.is_success() {
                        Outcome::Accepted(reply.text())
                    } else {
                        Outcome::Refused(reply.refusal("the mail"))
                    }
                }
                Err(refusal) => {
                    lost = Some(refusal.clone());
                    Outcome::Unknown(refusal)
                }
            });
        }
        if lost.is_none() {
            // All is said; whether the server hears the farewell changes nothing.
            let _ = wire.send(b"QUIT\r\n", by);
        }
        outcomes
    }
}
