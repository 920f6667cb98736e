//! The LMTP server (RFC 2033): how a local MTA or `tox-transport` hands a mail to the agent over a Unix socket.
//!
//! Owns the protocol between the socket and [`Submission`]: greeting, commands, the DATA phase, one answer per
//! recipient, limits and time-outs. Knows nothing of queues, contacts or Tox. May use [`crate::mail`] and the `log`
//! crate; no store, no tox, no telemetry. Bodies are never logged.
//!
//! [`data`], `command` and [`session`] are pure: octets in, replies out, no I/O, no clock. [`server`] is the shell
//! around them.
//!
//! What an MTA may rely on:
//! - a mail is answered with 250 only after [`Intake::finish`] said that it is committed, recipient by recipient (RFC
//!   2033 section 4.2);
//! - only CRLF.CRLF ends a mail; a connection that ends earlier leaves nothing behind;
//! - 421 is never said because of one recipient's trouble: MTAs then stop using the socket for every recipient. It
//!   means too many connections, shutting down, an idle client or one that talks nonsense.

mod command;
pub mod data;
pub mod server;
pub mod session;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::mail::address::Address;
use crate::mail::envelope::{Envelope, ReversePath};
use crate::mail::status::Refusal;

pub use server::serve;
pub use session::{Session, Step};

/// Who is on the other end of the socket (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submitter {
    /// The effective user of the process when it connected.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process id; 0 where the kernel does not tell.
    pub pid: i32,
}

/// What the server asks of the agent.
///
/// The three calls are made on the thread of the async runtime: they may look something up, but must not wait.
pub trait Submission: Send + Sync + 'static {
    /// MAIL FROM: may `from` send mail as `sender`?
    ///
    /// # Errors
    /// The answer to MAIL.
    fn sender(&self, from: &Submitter, sender: &ReversePath) -> Result<(), Refusal>;

    /// RCPT TO: is there a way to `recipient`? To be accepted also when it is merely offline.
    ///
    /// # Errors
    /// The answer to RCPT.
    fn recipient(&self, sender: &ReversePath, recipient: &Address) -> Result<(), Refusal>;

    /// DATA, before the 354: the place where the mail goes. The envelope has at least one recipient.
    ///
    /// # Errors
    /// The answer to DATA; the transaction is then over.
    fn begin(&self, envelope: &Envelope) -> Result<Box<dyn Intake>, Refusal>;
}

/// What [`Intake::finish`] promises: one answer per recipient, in the order of the envelope; `Ok` holds the queue id.
pub type Outcome = Pin<Box<dyn Future<Output = Vec<Result<String, Refusal>>> + Send>>;

/// One mail being taken in; dropped without [`Intake::finish`] it is discarded.
pub trait Intake: Send {
    /// Takes the next octets of the mail: dots unstuffed, lines ended by LF, never more than [`data::MAX_CHUNK`]
    /// octets. Called within an async task, so it may block briefly on a disk but on nothing else.
    ///
    /// # Errors
    /// The intake is dropped, the rest of the mail is read and thrown away, and every recipient gets this refusal.
    fn write(&mut self, chunk: &[u8]) -> Result<(), Refusal>;

    /// Commits the mail durably. The server drives the future to its end even if the client goes away meanwhile; an
    /// answer missing from the list counts as a temporary refusal.
    fn finish(self: Box<Self>) -> Outcome;
}

/// What a client may do, and as what the server presents itself.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest mail in octets (RFC 1870), counted with LF line ends.
    pub max_size: u64,
    /// The most recipients of one transaction.
    pub max_recipients: usize,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The longest wait for the client, at each read and each write.
    pub timeout: Duration,
    /// The name in greeting and LHLO answer.
    pub hostname: String,
    /// The users that may submit; `None` is everybody who can open the socket. Root and the agent's own user always
    /// may.
    pub allow_uids: Option<Vec<u32>>,
}

impl Limits {
    /// Whether a client of user `uid` may submit to an agent that runs as `euid`.
    pub fn admits(&self, uid: u32, euid: u32) -> bool {
        // Root could become any listed user, and our own user could write the queue itself: refusing them guards
        // nothing.
        self.allow_uids.as_ref().is_none_or(|listed| uid == 0 || uid == euid || listed.contains(&uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_users_root_and_ourselves_are_admitted() {
        let mut limits = Limits {
            max_size: 1,
            max_recipients: 1,
            max_connections: 1,
            timeout: Duration::from_secs(1),
            hostname: String::new(),
            allow_uids: None,
        };
        assert!(limits.admits(1000, 50));
        limits.allow_uids = Some(vec![101]);
        assert!(limits.admits(101, 50) && limits.admits(0, 50) && limits.admits(50, 50));
        assert!(!limits.admits(1000, 50) && !limits.admits(u32::MAX, 50));
        limits.allow_uids = Some(Vec::new());
        assert!(!limits.admits(101, 50) && limits.admits(0, 50));
    }
}
