//! The client that hands mail on to a local server: LMTP over a Unix socket (RFC 2033), as Dovecot takes it, or SMTP
//! (RFC 5321), as the local MTA does. Blocking: it runs in threads that have nothing else to do.
//!
//! Owns the dialogue, what of a server's answers is proof, and the form of a mail on the wire. Uses [`crate::mail`] and
//! `smtp-proto`, which reads replies. `tox-transport` has a client of its own, because it is linked without the library.
//!
//! What a caller may rely on:
//! - a server takes a mail only with the final dot, and that is sent by [`Transaction::finish`] alone; a transaction that
//!   is dropped or fails before leaves nothing at the server;
//! - [`Outcome::Refused`] is permanent only where the server proved it; all trouble with the connection is temporary;
//! - [`Outcome::Unknown`] is said when the dot was sent and no answer came: the server may have the mail or not.
//!
//! Neither TLS nor AUTH: it is meant for a socket of this host, for loopback, or for a host behind a trusted wire.

mod client;
mod encoder;
mod reply;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::mail::envelope::{ForwardPath, Notify, Return, ReversePath};
use crate::mail::status::Refusal;

pub use client::{Client, Offers, Transaction};

/// The longest path of a Unix socket, in octets (`sockaddr_un` without its final zero).
const MAX_SOCKET: usize = 107;

/// A server that mail is handed on to; written `lmtp:/path/of/socket` or `smtp:host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// LMTP on a Unix socket; absolute.
    Lmtp(PathBuf),
    /// SMTP on a TCP port.
    Smtp {
        /// A host name or an IP address, without brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lmtp(path) => write!(f, "lmtp:{}", path.display()),
            Self::Smtp { host, port } if host.contains(':') => write!(f, "smtp:[{host}]:{port}"),
            Self::Smtp { host, port } => write!(f, "smtp:{host}:{port}"),
        }
    }
}

/// Why a text is no [`Destination`]; the words are for the user who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDestination(&'static str);

impl fmt::Display for InvalidDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for InvalidDestination {}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let no_port = InvalidDestination("smtp: wants a host and a port, as in smtp:127.0.0.1:25");
        if let Some(path) = text.strip_prefix("lmtp:") {
            if !path.starts_with('/') || path.chars().any(char::is_control) {
                return Err(InvalidDestination("lmtp: wants the absolute path of a Unix socket"));
            }
            if path.len() > MAX_SOCKET {
                return Err(InvalidDestination("the path of a Unix socket has at most 107 octets"));
            }
            return Ok(Self::Lmtp(Path::new(path).components().collect()));
        }
        let rest = text.strip_prefix("smtp:").ok_or(InvalidDestination("neither lmtp:/path nor smtp:host:port"))?;
        let (host, port) = rest.rsplit_once(':').ok_or(no_port)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(no_port)?;
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || literal.is_some() && c == ':';
        let host = literal.unwrap_or(host);
        if host.is_empty() || host.len() > 255 || !host.chars().all(fits) {
            return Err(InvalidDestination("smtp: wants a host name, an IPv4 address or an IPv6 address in brackets"));
        }
        Ok(Self::Smtp { host: host.to_owned(), port })
    }
}

/// How long each step may take. The default is that of RFC 5321 section 4.5.3.2.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Opening the connection.
    pub connect: Duration,
    /// The greeting, and the answer to each command but DATA.
    pub command: Duration,
    /// The 354.
    pub data: Duration,
    /// Until the server takes the next piece of the mail.
    pub block: Duration,
    /// The answers after the final dot: the server is storing the mail.
    pub done: Duration,
    /// Everything up to the final dot, or a slow server could hold a thread for as long as it likes.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            connect: Duration::from_secs(30),
            command: minutes(5),
            data: minutes(2),
            block: minutes(3),
            done: minutes(10),
            total: minutes(30),
        }
    }
}

/// One recipient as the server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub path: ForwardPath,
    /// `NOTIFY`; told where the server offers DSN.
    pub notify: Option<Notify>,
    /// `ORCPT` as it goes on the wire (`rfc822;xtext`); told where the server offers DSN.
    pub orcpt: Option<String>,
}

impl From<ForwardPath> for Recipient {
    fn from(path: ForwardPath) -> Self {
        Self { path, notify: None, orcpt: None }
    }
}

/// The envelope of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The reverse-path.
    pub sender: ReversePath,
    /// At least one.
    pub recipients: Vec<Recipient>,
    /// The mail's size in octets, as far as it is known; told where the server offers SIZE.
    pub size: Option<u64>,
    /// The mail needs SMTPUTF8 whatever its addresses are. A server that does not offer it then gets nothing, and every
    /// recipient is refused by 5.6.7; ask [`Client::offers`] before, where there is another form of the mail.
    pub smtputf8: bool,
    /// `RET`; told where the server offers DSN.
    pub ret: Option<Return>,
    /// `ENVID` as it goes on the wire (xtext); told where the server offers DSN.
    pub envid: Option<String>,
}

impl Envelope {
    /// Whether an address can be named with SMTPUTF8 only, or the mail itself was said to need it.
    fn needs_smtputf8(&self) -> bool {
        let ascii = self.sender.as_ref().is_none_or(|sender| sender.is_ascii());
        self.smtputf8 || !ascii || self.recipients.iter().any(|recipient| !recipient.path.is_ascii())
    }
}

/// What became of the mail for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The server answers for it from now on; its words.
    Accepted(String),
    /// The server does not have it.
    Refused(Refusal),
    /// The final dot was sent, and the connection ended or was silent before the answer. A temporary refusal, to try
    /// again with, which may leave the mail there twice.
    Unknown(Refusal),
}

impl Outcome {
    /// The same as a result; what is unknown counts as a temporary refusal.
    ///
    /// # Errors
    /// The server does not have the mail, or it is not known.
    pub fn result(self) -> Result<String, Refusal> {
        match self {
            Self::Accepted(text) => Ok(text),
            Self::Refused(refusal) | Self::Unknown(refusal) => Err(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_they_are_written() {
        for text in [
            "lmtp:/run/dovecot/lmtp",
            "smtp:127.0.0.1:25",
            "smtp:localhost:2525",
            "smtp:[::1]:25",
            "smtp:a-b.example:1",
        ] {
            assert_eq!(text.parse::<Destination>().map(|to| to.to_string()).as_deref(), Ok(text));
        }
        for text in [
            "",
            "maildir",
            "lmtp:",
            "lmtp:run/lmtp",
            "lmtp:/a\nb",
            "smtp:",
            "smtp:25",
            "smtp::25",
            "smtp:host",
            "smtp:host:0",
            "smtp:host:65536",
            "smtp:::1:25",
            "smtp:[::1]",
            "smtp:a b:25",
            "smtp:a\r\nb:25",
            &format!("lmtp:/{}", "x".repeat(107)),
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }
}
