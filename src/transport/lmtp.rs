//! The LMTP client (RFC 2033): one connection, one mail.
//!
//! Owns: the dialogue with the agent and the waits in it. May use: `args` (the job), `body`, `deadline`, `outcome`,
//! `parent`, `reply`, `sys`.
//!
//! The final dot is what makes the agent take the mail, so it is sent only when standard input ended and nothing says
//! that the end is false; on any doubt the connection is closed without it, and the agent discards what came.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::args::Job;
use super::body::{CHUNK, Encoder};
use super::deadline::Deadline;
use super::outcome::Verdict;
use super::parent::Parent;
use super::reply::Reply;
use super::sys;

/// The most that the agent may send ahead of being asked.
const MAX_UNREAD: usize = 256 * 1024;

/// Hands standard input to the agent. Each recipient that the agent answers for gets its verdict.
///
/// # Errors
/// The verdict for all recipients that have none yet.
pub(super) fn deliver(
    job: &Job,
    deadline: Deadline,
    parent: &Parent,
    verdicts: &mut [Option<Verdict>],
) -> Result<(), Verdict> {
    let mut wire = Wire::open(job, deadline)?;
    let greeting = wire.reply()?;
    if greeting.code != 220 {
        return Err(not_the_mails_fault(&greeting, "the connection"));
    }
    wire.send(b"LHLO localhost\r\n")?;
    let offer = wire.reply()?;
    if offer.code != 250 {
        return Err(not_the_mails_fault(&offer, "LHLO"));
    }
    wire.envelope(job, &offer, verdicts)?;
    if verdicts.iter().any(Option::is_none) {
        wire.content(job, parent)?;
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            *verdict = Some(wire.reply()?.verdict("the mail"));
        }
    }
    // All is said; whether the agent hears the farewell changes nothing.
    let _ = wire.send(b"QUIT\r\n");
    Ok(())
}

/// A refusal before the mail was named proves nothing about the mail, whatever its code.
fn not_the_mails_fault(reply: &Reply, command: &str) -> Verdict {
    let mut verdict = reply.verdict(command);
    if verdict.status.class != 4 {
        verdict =
            Verdict::temporary(3, 0, format!("tox-agent answered {command} with {} {}", reply.code, verdict.text));
    }
    verdict
}

/// Text as RFC 3461 section 4 encodes it for a parameter (XFORWARD uses the same).
fn xtext(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'+' | b'=' => out.push_str(&format!("+{b:02X}")),
            b'!'..=b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("+{b:02X}")),
        }
        out
    })
}

fn mail_command(job: &Job, offer: &Reply) -> Result<String, Verdict> {
    let mut command = format!("MAIL FROM:<{}>", job.sender);
    if let (Some(size), Some(_)) = (job.size, offer.offers("SIZE")) {
        command.push_str(&format!(" SIZE={size}"));
    }
    if offer.offers("8BITMIME").is_some() {
        command.push_str(" BODY=8BITMIME");
    }
    if !(job.sender.is_ascii() && job.recipients.iter().all(|r| r.is_ascii())) {
        if offer.offers("SMTPUTF8").is_none() {
            return Err(Verdict::temporary(6, 7, "tox-agent does not offer SMTPUTF8, which this address needs"));
        }
        command.push_str(" SMTPUTF8");
    }
    Ok(command + "\r\n")
}

/// The connection, and what came over it that is not taken yet.
struct Wire {
    stream: UnixStream,
    deadline: Deadline,
    unread: Vec<u8>,
    closed: bool,
}

impl Wire {
    fn open(job: &Job, deadline: Deadline) -> Result<Self, Verdict> {
        let stream = UnixStream::connect(&job.socket).map_err(|error| cannot_open(job, &error))?;
        stream.set_nonblocking(true).map_err(|e| broken(&e))?;
        Ok(Self { stream, deadline, unread: Vec::new(), closed: false })
    }

    /// Reads what there is, without waiting.
    fn fill(&mut self) -> Result<(), Verdict> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(n) => self.unread.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => self.closed = true,
            Err(e) => return Err(broken(&e)),
        }
        if self.unread.len() > MAX_UNREAD {
            return Err(Verdict::temporary(5, 0, "tox-agent talks without being asked"));
        }
        Ok(())
    }

    fn reply(&mut self) -> Result<Reply, Verdict> {
        loop {
            if let Some(reply) = Reply::take(&mut self.unread)? {
                return Ok(reply);
            }
            if self.closed {
                return Err(Verdict::temporary(4, 2, "tox-agent closed the connection before it answered"));
            }
            let left = self.deadline.left_ms("tox-agent did not answer")?;
            if poll_result(sys::poll_read(&self.stream, left))?.is_some() {
                self.fill()?;
            }
        }
    }

    /// Sends all of `data`. Reads at the same time, so that two full sockets never wait for each other.
    fn send(&mut self, data: &[u8]) -> Result<(), Verdict> {
        let mut rest = data;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let left = self.deadline.left_ms("tox-agent did not take the mail")?;
                    if poll_result(sys::poll_both(&self.stream, left))?.is_some_and(|ready| ready.read) {
                        self.fill()?;
                        if self.closed {
                            return Err(self.last_words());
                        }
                    }
                }
                Err(_) => return Err(self.last_words()),
            }
        }
        Ok(())
    }

    /// The agent broke off: what it said before, if it said anything, is of more use than the error.
    fn last_words(&mut self) -> Verdict {
        while !self.closed && matches!(sys::poll_read(&self.stream, 0), Ok(Some(_))) && self.fill().is_ok() {}
        match Reply::take(&mut self.unread) {
            Ok(Some(reply)) => not_the_mails_fault(&reply, "the mail too early"),
            _ => Verdict::temporary(4, 2, "tox-agent closed the connection before it had the mail"),
        }
    }

    /// XFORWARD, MAIL, RCPT and DATA, in one go where the agent offers PIPELINING (RFC 2920). Afterwards the recipients
    /// without a verdict are accepted, and if there is one, the agent waits for the mail.
    fn envelope(&mut self, job: &Job, offer: &Reply, verdicts: &mut [Option<Verdict>]) -> Result<(), Verdict> {
        let ident = offer.offers("XFORWARD").filter(|attributes| {
            attributes.split_ascii_whitespace().any(|attribute| attribute.eq_ignore_ascii_case("IDENT"))
        });
        let xforward = job.queue_id.as_deref().filter(|_| ident.is_some());
        let xforward = xforward.map(|id| format!("XFORWARD IDENT={}\r\n", xtext(id)));
        let mail = mail_command(job, offer)?;
        let pipelining = offer.offers("PIPELINING").is_some();
        if pipelining {
            let mut all = xforward.clone().unwrap_or_default() + &mail;
            for recipient in &job.recipients {
                all.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
            }
            self.send((all + "DATA\r\n").as_bytes())?;
        }
        if let Some(command) = xforward {
            // The queue id only helps to recognise a mail that comes twice, so a refusal of it is no reason to stop.
            let reply = self.answer(pipelining, &command)?;
            if reply.code == 421 {
                return Err(reply.verdict("XFORWARD"));
            }
        }
        let reply = self.answer(pipelining, &mail)?;
        let mail_refused = if reply.is_success() { None } else { Some(reply.verdict("MAIL")) };
        if let Some(verdict) = mail_refused {
            // What was pipelined after it is refused as well. No dot follows, whatever the agent makes of DATA.
            return Err(verdict);
        }
        for (recipient, verdict) in job.recipients.iter().zip(verdicts.iter_mut()) {
            let reply = self.answer(pipelining, &format!("RCPT TO:<{recipient}>\r\n"))?;
            if reply.code == 421 {
                return Err(reply.verdict("RCPT"));
            }
            if !reply.is_success() {
                *verdict = Some(reply.verdict("RCPT"));
            }
        }
        let accepted = verdicts.iter().any(Option::is_none);
        if !accepted && !pipelining {
            return Ok(());
        }
        let reply = self.answer(pipelining, "DATA\r\n")?;
        match (reply.code, accepted) {
            (354, true) if !self.unread.is_empty() => {
                Err(Verdict::temporary(5, 0, "tox-agent answers more than it was asked"))
            }
            (354, true) => Ok(()),
            // RFC 2033 section 4.2 wants a refusal here, RFC 2920 section 3.1 allows this: an empty mail for nobody.
            (354, false) => self.send(b".\r\n"),
            (_, true) => Err(match reply.is_success() {
                true => Verdict::temporary(5, 0, format!("tox-agent answered DATA with {}", reply.code)),
                false => reply.verdict("DATA"),
            }),
            (_, false) => Ok(()),
        }
    }

    fn answer(&mut self, already_sent: bool, command: &str) -> Result<Reply, Verdict> {
        if !already_sent {
            self.send(command.as_bytes())?;
        }
        self.reply()
    }

    /// The mail and its final dot.
    fn content(&mut self, job: &Job, parent: &Parent) -> Result<(), Verdict> {
        let unreadable = |e: io::Error| Verdict::temporary(3, 0, format!("the mail cannot be read: {e}"));
        let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?);
        let mut encoder = Encoder::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let left = self.deadline.left_ms("the MTA did not send the rest of the mail")?;
            if poll_result(sys::poll_read(&stdin, left))?.is_none() {
                continue;
            }
            match stdin.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => encoder.push(chunk.get(..n).unwrap_or_default()),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(unreadable(e)),
            }
            if encoder.is_full() {
                self.send(encoder.pending())?;
                encoder.sent();
            }
        }
        if !parent.lives() {
            return Err(Verdict::temporary(3, 0, "the MTA's process ended before the mail was whole"));
        }
        let octets = encoder.octets();
        if octets == 0 {
            return Err(Verdict::temporary(3, 0, "there is no mail on standard input"));
        }
        if let Some(size) = job.size.filter(|size| !encoder.is_whole(*size)) {
            let text = format!("the mail was cut short: {octets} octets came of a mail whose size is {size}");
            return Err(Verdict::temporary(3, 0, text));
        }
        // An answer before the question would be taken for the answer to the dot.
        self.fill()?;
        if !self.unread.is_empty() || self.closed {
            return Err(self.last_words());
        }
        encoder.finish();
        self.send(encoder.pending())
    }
}

fn poll_result(result: io::Result<Option<sys::Ready>>) -> Result<Option<sys::Ready>, Verdict> {
    match result {
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
        other => other.map_err(|e| broken(&e)),
    }
}

fn broken(error: &io::Error) -> Verdict {
    Verdict::temporary(4, 2, format!("the connection to tox-agent broke: {error}"))
}

fn cannot_open(job: &Job, error: &io::Error) -> Verdict {
    let path = job.socket.display();
    Verdict::temporary(
        3,
        0,
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                format!("tox-agent is not running (socket {path}: {error}): start it with systemctl start tox-agent")
            }
            ErrorKind::PermissionDenied => format!("user {} may not open the socket {path}: {error}", user()),
            _ => format!("the socket {path} of tox-agent cannot be opened: {error}"),
        },
    )
}

/// The effective user's name, or the number where `/etc/passwd` does not have it.
fn user() -> String {
    let uid = sys::effective_uid().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    name.unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_id_cannot_end_its_parameter() {
        assert_eq!(xtext("4jXX7F4G11z1SdJ6"), "4jXX7F4G11z1SdJ6");
        assert_eq!(xtext("a+b=c d\r\nå"), "a+2Bb+3Dc+20d+0D+0A+C3+A5");
    }
}
