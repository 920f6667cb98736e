//! The envelope of a mail: who sends it, to whom, and what they asked of the way (RFC 5321, RFC 3461).

use super::address::Address;

/// The reverse-path: an address, or `<>` (`None`) for mail that must never be answered by a notice.
pub type ReversePath = Option<Address>;

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
    /// The MTA's queue id of this mail, where it told one (XFORWARD IDENT); together with recipient and digest it
    /// recognises the same mail handed over twice.
    pub mta_queue_id: Option<String>,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `RET`
    pub ret: Option<Return>,
    /// `ENVID` exactly as given (xtext), at most 100 octets.
    pub envid: Option<String>,
}
