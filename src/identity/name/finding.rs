//! What a look-up of a name brought, and how far it is to be believed.

use std::fmt;

use crate::identity::tox_id::ToxId;

/// How an answer was proved (RFC 4035 section 4.3). Bogus and indeterminate answers are [`Finding::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The zone is provably unsigned: whoever sits on the way could have made it up.
    Insecure,
    /// By DNSSEC up to the trust anchor, or (tox3) by the server key that the operator has configured.
    Secure,
}

/// Which node of the DNS answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The name's own, `name._tox.domain`.
    Name,
    /// The domain's, `_tox.domain`: one agent serves all its names.
    Domain,
}

/// How the record was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A plain TXT record.
    Tox1,
    /// An encrypted query to the domain's tox3 server.
    Tox3,
    /// Told by the operator, without the DNS.
    Operator,
}

/// A Tox ID, and how a name led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The Tox ID.
    pub id: ToxId,
    /// Which node answered.
    pub via: Via,
    /// How it was asked.
    pub method: Method,
    /// The weakest proof of all records that were used.
    pub proof: Proof,
}

/// The result of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The name leads to a Tox ID.
    Found(Found),
    /// The name is not there, or has nothing that leads to a Tox ID.
    Nothing {
        /// Whether DNSSEC proves it.
        proved: bool,
        /// What is there, or not, for the user.
        text: String,
    },
    /// Nothing is known: the DNS does not answer, or with what is not to be believed. The text is for the user.
    Failed(String),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insecure => "insecure",
            Self::Secure => "secure",
        })
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Domain => "domain",
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tox1 => "tox1",
            Self::Tox3 => "tox3",
            Self::Operator => "operator",
        })
    }
}
