//! What a relay's engine asks of the place where it keeps things.

use std::fmt;

use crate::engine::transfer::Digest;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, SlotId};

/// The disk or the database does not do it; the words are for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShelfError(pub String);

impl fmt::Display for ShelfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ShelfError {}

/// An owner and what is here of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The Tox key of its pseudonym.
    pub key: PublicKey,
    /// Octets that may lie here, where the invite said so.
    pub quota: Option<u64>,
    /// Whether it came by an invite.
    pub invited: bool,
    /// When it became one; seconds since the epoch.
    pub since: u64,
    /// When it was last here, to a day; seconds since the epoch.
    pub seen: u64,
    /// Octets that lie here.
    pub used: u64,
    /// Slots that are empty or filled.
    pub slots: u64,
    /// Slots that are filled.
    pub filled: u64,
    /// Slots that were emptied for good and are remembered.
    pub gone: u64,
}

/// A registered slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Whose.
    pub owner: PublicKey,
    /// Of which size.
    pub class: Class,
    /// What became of it.
    pub state: State,
}

/// What became of a slot: it goes one way only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Empty,
    /// It was filled.
    Filled {
        /// Grows with every slot of this owner that is filled.
        number: u64,
        /// Of the content.
        digest: Digest,
        /// Until when the content is kept; seconds since the epoch.
        expires: u64,
    },
    /// It was emptied for good, and is remembered until then; seconds since the epoch.
    Gone(u64),
}

/// Content that is coming in; no crash survives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draft(pub u64);

type Result<T> = std::result::Result<T, ShelfError>;

/// Owners, invites, slots and their contents. Whatever is changed is one transaction up to [`Shelf::commit`]; all that is
/// read takes account of it. It decides nothing: who may do what is the engine's.
#[allow(clippy::missing_errors_doc, reason = "each fails as ShelfError says")]
pub trait Shelf {
    /// All owners.
    fn owners(&mut self) -> Result<Vec<Owner>>;
    /// Makes an owner, of whom nothing is here yet.
    fn add_owner(&mut self, owner: &Owner) -> Result<()>;
    /// Notes when an owner was last here.
    fn see_owner(&mut self, key: &PublicKey, seen: u64) -> Result<()>;
    /// Forgets an owner and all that is his.
    fn remove_owner(&mut self, key: &PublicKey) -> Result<()>;

    /// Keeps an invite, by the digest of its octets, until `expires`.
    fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()>;
    /// Uses an invite up; the quota that it gives, if it is one.
    fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>>;
    /// How many invites wait; those that ended before `now` are forgotten.
    fn invites(&mut self, now: u64) -> Result<u64>;

    /// What is known of a slot.
    fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>>;
    /// Registers a slot that is not known.
    fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()>;
    /// Forgets a slot; its content goes.
    fn forget(&mut self, slot: &SlotId) -> Result<()>;
    /// Remembers a slot until then as one that is empty for good; its content goes.
    fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()>;
    /// Forgets the oldest `most` of an owner's slots that are empty for good; how many there were.
    fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64>;

    /// Begins to take content in. Neither this nor what comes in belongs to the transaction.
    fn begin(&mut self) -> Result<Draft>;
    /// Appends to it.
    fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()>;
    /// Drops it.
    fn abandon(&mut self, draft: Draft);
    /// Makes the draft, which is no more afterwards, the content of an empty slot; the slot's number.
    fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64>;
    /// The owner's filled slots with larger numbers than `after`, in the order of their numbers, at most `most`.
    fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>>;
    /// So many octets of the content of a slot; `None` if it is not filled or has not so many.
    fn read(&mut self, slot: &SlotId, offset: u64, length: usize) -> Result<Option<Vec<u8>>>;
    /// Slots whose content, or the memory of it, ends before `now`; at most `most`.
    fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>>;

    /// Makes all changes durable. When it fails, or is not called, there were none.
    fn commit(&mut self) -> Result<()>;
    /// Takes all changes since the last commit back.
    fn roll_back(&mut self);
}
