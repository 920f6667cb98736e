//! The envelope of a mail: who sends it, to whom, and what they asked of the way (RFC 5321, RFC 3461).

use std::fmt;
use std::str::FromStr;

use super::address::{Address, InvalidAddress};

/// The reverse-path: an address, or `<>` (`None`) for mail that must never be answered by a notice.
pub type ReversePath = Option<Address>;

/// Whom a mail is handed on to: an address, or a user's bare name, as LMTP servers and local MTAs take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardPath {
    /// `alice@example.org`
    Address(Address),
    /// `alice`: 1 to 128 of the characters that need no quotes.
    User(String),
}

impl ForwardPath {
    /// Whether every octet is ASCII, so that no SMTPUTF8 is needed to name it.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Address(address) => address.is_ascii(),
            Self::User(name) => name.is_ascii(),
        }
    }
}

/// Prints it without angle brackets.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::User(name) => f.write_str(name),
        }
    }
}

impl FromStr for ForwardPath {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if text.contains('@') {
            return text.parse().map(Self::Address);
        }
        // The rules of a local part are those of an address at some domain; what would need quotes is no user's name.
        let address = Address::new(text, "localhost")?;
        match address.to_string().starts_with('"') {
            true => Err(InvalidAddress::UNQUOTED),
            false => Ok(Self::User(text.to_owned())),
        }
    }
}

/// Whether a notice returns the whole mail or its header only (RFC 3461 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// `RET=FULL`
    Full,
    /// `RET=HDRS`
    Headers,
}

/// The `NOTIFY` wish of one recipient (RFC 3461 section 4.1); absent means delay and failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    /// `NOTIFY=NEVER`; excludes the others.
    pub never: bool,
    /// `NOTIFY=SUCCESS`
    pub success: bool,
    /// `NOTIFY=FAILURE`
    pub failure: bool,
    /// `NOTIFY=DELAY`
    pub delay: bool,
}

/// One recipient as the MTA named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The forward-path.
    pub address: Address,
    /// `NOTIFY`, where the MTA gave one.
    pub notify: Option<Notify>,
    /// `ORCPT` exactly as given (`rfc822;xtext`), at most 500 octets.
    pub orcpt: Option<String>,
}

/// The envelope of one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The reverse-path.
    pub sender: ReversePath,
    /// At least one recipient, all of them already accepted at RCPT.
    pub recipients: Vec<Recipient>,
    /// The MTA's queue id of this mail, where it told one (XFORWARD IDENT); without it, that of the `Received` field on
    /// top counts ([`super::trace::received_id`]). Together with recipient and digest it recognises the same mail
    /// handed over twice.
    pub mta_queue_id: Option<String>,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET`
    pub ret: Option<Return>,
    /// `ENVID` exactly as given (xtext), at most 100 octets.
    pub envid: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_path_is_an_address_or_a_plain_name() {
        for (text, address) in [("alice", false), ("a.b+c", false), ("alice@x.example", true), ("\"a b\"@x", true)] {
            let path: ForwardPath = text.parse().expect(text);
            assert_eq!((path.to_string().as_str(), matches!(path, ForwardPath::Address(_))), (text, address));
        }
        for text in ["", "a b", "a>", "<a", "a\r\nDATA", "a..b", "\"a\"", "a@", "@x", "a@x y"] {
            assert!(text.parse::<ForwardPath>().is_err(), "{text:?}");
        }
    }
}
