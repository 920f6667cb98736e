//! Parcels: what one end of a lane tells the other, and how it is cut into parts.

use std::fmt;
use std::ops::Range;

use zeroize::Zeroizing;

use super::keys::Class;
use super::seal::capacity;
use crate::engine::transfer::{Digest, Encoding, MailId, Outcome, TransferRecipient};

/// The most parts of a parcel.
pub const MAX_PARTS: u32 = 4096;
/// The longest head of a parcel, in octets.
pub const MAX_HEAD: usize = 64 << 10;

/// What one end of a lane tells the other.
#[derive(Debug, PartialEq, Eq)]
pub enum Parcel {
    /// A mail; its encoded body follows the head.
    Mail(MailHead),
    /// Answers and announcements; nothing follows the head. It fits into one part of [`Class::K16`].
    Control(Vec<Item>),
}

/// A mail without its body: see [`crate::engine::transfer::Transfer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailHead {
    /// Its name, the same as on a direct link; it is the parcel's.
    pub id: MailId,
    /// The reverse-path; empty for `<>`.
    pub sender: String,
    /// Whom at the recipient's agent it is for; at least one.
    pub recipients: Vec<TransferRecipient>,
    /// Octets of the mail.
    pub size: u64,
    /// Octets of its encoded form.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: Encoding,
    /// When the sender gives up, in milliseconds since the epoch.
    pub expires: u64,
}

/// One thing in a control parcel.
#[derive(PartialEq, Eq)]
pub enum Item {
    /// What became of one recipient of a mail.
    Receipt {
        /// The mail.
        id: MailId,
        /// Of the mail.
        digest: Digest,
        /// The recipient's number within the mail.
        index: u32,
        /// What became of it.
        outcome: Outcome,
        /// When, in seconds since the epoch.
        at: u64,
    },
    /// A new offer of a lane: octets of [`super::offer::Offer::to_octets`].
    Offer(Zeroizing<Vec<u8>>),
    /// The serial of the other side's offer that is followed.
    Seen(u64),
    /// The mail has bounced or was deleted: it is not to be delivered if it still comes.
    Cancel(MailId),
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Receipt { id, index, outcome, .. } => write!(f, "Receipt({id}, {index}, {outcome:?})"),
            // It holds the seed of a lane.
            Self::Offer(octets) => write!(f, "Offer({} octets)", octets.len()),
            Self::Seen(serial) => write!(f, "Seen({serial})"),
            Self::Cancel(id) => write!(f, "Cancel({id})"),
        }
    }
}

/// A piece of a parcel, as it fills one slot.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The parcel's name: that of the mail, or random.
    pub parcel: MailId,
    /// Its number, from 0 on.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Octets of the parcel.
    pub total: u64,
    /// Where in the parcel it begins.
    pub offset: u64,
    /// The octets.
    pub octets: Vec<u8>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({}, {} of {}, {} octets)", self.parcel, self.part, self.parts, self.octets.len())
    }
}

/// A parcel, part or item cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidParcel;

impl Parcel {
    /// The octets that a parcel begins with; those of a mail's encoded body follow.
    pub fn head(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads the parcel of this name from its first octets, at least [`MAX_HEAD`] of them or all there are; and how long
    /// its head is.
    ///
    /// # Errors
    /// It is malformed or breaks a bound.
    pub fn read(_name: MailId, _octets: &[u8]) -> Result<(Self, usize), InvalidParcel> {
        Err(InvalidParcel)
    }

    /// Packs items into as few control parcels as they need, in order.
    pub fn pack(_items: Vec<Item>) -> Vec<Self> {
        Vec::new()
    }
}

/// How a parcel of `total` octets is cut: the class of each part and what it holds, none greater than `largest`. Empty when
/// there is nothing to cut, or it would be more than [`MAX_PARTS`].
pub fn split(total: u64, largest: Class) -> Vec<(Class, Range<u64>)> {
    let _ = (total, capacity(largest));
    Vec::new()
}

/// Which parts of one parcel have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembly {
    total: u64,
    parts: u32,
}

/// What a part is to its parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is new, others are missing.
    Partial,
    /// It has come before.
    Repeated,
    /// All are there.
    Whole,
}

impl Assembly {
    /// Of the parcel that this part belongs to, before it is taken in; parcels longer than `max` octets are refused.
    ///
    /// # Errors
    /// It is longer.
    pub fn new(part: &Part, _max: u64) -> Result<Self, InvalidParcel> {
        Ok(Self { total: part.total, parts: part.parts })
    }

    /// Takes note of a part, whose octets are kept elsewhere.
    ///
    /// # Errors
    /// It contradicts an earlier part.
    pub fn take(&mut self, _part: &Part) -> Result<Progress, InvalidParcel> {
        Err(InvalidParcel)
    }
}
