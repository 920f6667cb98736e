//! What travels: one mail for one peer, on the sender's side and on the receiver's.

use std::fmt;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};

use crate::identity::tox_id::PublicKey;
use crate::mail::status::Refusal;

/// Names one mail on the way to one peer: 16 random octets, the same in every attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MailId(pub [u8; 16]);

impl fmt::Display for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MailId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// BLAKE2b-256 (RFC 7693) of a whole mail as it was queued, before compression.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..8]))
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Digester(Blake2b<U32>);

impl Digester {
    /// Takes in the next octets.
    pub fn update(&mut self, octets: &[u8]) {
        self.0.update(octets);
    }

    /// The digest of all octets taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// How the body is written on the wire and on the sender's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// One zstd frame (RFC 8878), window at most 8 MiB.
    Zstd,
}

impl Encoding {
    /// The number in the protocol and the store.
    pub fn number(self) -> u8 {
        match self {
            Self::Identity => 0,
            Self::Zstd => 1,
        }
    }

    /// The encoding of a number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Identity),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// A mail up to this many octets on the wire is sent in one burst, without waiting for the peer's ACCEPT, and is kept in
/// memory until it is complete; a longer one is bulk and is kept in a file.
pub const BURST: u64 = 64 * 1024;

/// The most recipients that one [`Transfer`] may have; a receiver refuses more.
pub const MAX_RECIPIENTS: u32 = 100;

/// One recipient of a [`Transfer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferRecipient {
    /// Its number within the mail.
    pub index: u32,
    /// The forward-path that the peer is given.
    pub address: String,
}

/// Where the encoded body of a [`Transfer`] is.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// Here.
    Inline(Vec<u8>),
    /// On the disk: asked for piece by piece.
    Stored,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(octets) => write!(f, "Inline({} octets)", octets.len()),
            Self::Stored => f.write_str("Stored"),
        }
    }
}

/// One mail to be sent to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Its name on the wire.
    pub id: MailId,
    /// The mail's row in the queue.
    pub mail: i64,
    /// The reverse-path; empty for `<>`.
    pub sender: String,
    /// Whom at the peer it is for; at least one.
    pub recipients: Vec<TransferRecipient>,
    /// Octets of the mail.
    pub size: u64,
    /// Octets of its encoded form.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: Encoding,
    /// The encoded form.
    pub body: Body,
    /// Seconds until the sender gives up.
    pub deadline: u64,
}

impl Transfer {
    /// Whether it must wait for ACCEPT and goes behind small mail.
    pub fn is_bulk(&self) -> bool {
        self.wire_size > BURST
    }
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer has it in the mailbox, on disk; `duplicate` when it had it before.
    Stored {
        /// Whether an earlier attempt had delivered it.
        duplicate: bool,
        /// Whether the peer gave it to another mail system rather than into a mailbox.
        relayed: bool,
    },
    /// The peer refused it, or the attempt failed.
    Refused(Refusal),
}

/// Names the file in which an unfinished incoming bulk mail grows: the same mail offered again goes on where it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartialKey(pub String);

impl PartialKey {
    /// The key of the mail `id` of `peer` with this digest, encoding and length.
    pub fn new(peer: &PublicKey, id: &MailId, digest: &Digest, encoding: Encoding, wire_size: u64) -> Self {
        let mut hash = Digester::default();
        hash.update(b"toxmail partial 1");
        hash.update(&peer.0);
        hash.update(&id.0);
        hash.update(&digest.0);
        hash.update(&[encoding.number()]);
        hash.update(&wire_size.to_be_bytes());
        Self(data_encoding::HEXLOWER.encode(&hash.finish().0[..20]))
    }
}

/// Where the encoded body of a complete incoming mail is.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Here.
    Inline(Vec<u8>),
    /// In its partial file.
    Partial(PartialKey),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(octets) => write!(f, "Inline({} octets)", octets.len()),
            Self::Partial(key) => write!(f, "{key:?}"),
        }
    }
}

/// One mail that arrived whole, to be verified and put into mailboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whose agent sent it.
    pub peer: PublicKey,
    /// Its name on the wire.
    pub id: MailId,
    /// The reverse-path as the peer gave it; empty for `<>`.
    pub sender: String,
    /// Recipient number, forward-path and number of the mailbox for each recipient that is still to be served.
    pub recipients: Vec<(u32, String, usize)>,
    /// Octets of the mail.
    pub size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: Encoding,
    /// The encoded form.
    pub source: Source,
}
