//! Offers: what a recipient tells a contact so that its mail can wait at relays.

use std::fmt;

use minicbor::{Decoder, decode};
use zeroize::Zeroizing;

use super::keys::{LaneSeed, MailKey, MailSecret, RelayKey, SignatureOctets};
use crate::engine::wire::{definite, encode};
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

impl fmt::Display for InvalidOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the offer of a lane cannot be read",
            Self::OtherContact => "the offer of a lane is for somebody else",
            Self::OtherKey => "the offer of a lane is of another mail key than this contact's",
            Self::Signature => "the signature of the offer of a lane is wrong",
        })
    }
}

impl std::error::Error for InvalidOffer {}

impl Offer {
    /// Its octets, signed: at most [`MAX_OFFER`]. They hold the seed.
    ///
    /// # Panics
    /// It names more than [`MAX_RELAYS`] relays.
    pub fn to_octets(&self, secret: &MailSecret) -> Zeroizing<Vec<u8>> {
        assert!(self.relays.len() <= MAX_RELAYS, "an offer names at most {MAX_RELAYS} relays");
        // Both have the room they need from the start: growing would leave a copy of the seed behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_OFFER));
        encode(&mut body, |e| {
            e.map(10)?.u8(1)?.bytes(&self.lane.0)?.u8(2)?.u64(self.serial)?.u8(3)?.bytes(&self.to.0)?;
            e.u8(4)?.bytes(self.seed.expose())?.u8(5)?.array(self.relays.len() as u64)?;
            for relay in &self.relays {
                e.bytes(&relay.octets())?;
            }
            e.u8(6)?.array(self.open.len() as u64)?;
            for slots in self.open {
                e.u32(slots)?;
            }
            e.u8(7)?.array(3)?.u32(self.pre_key.id)?.bytes(&self.pre_key.key)?.u64(self.pre_key.not_after)?;
            e.u8(8)?.u64(self.max_mail)?.u8(9)?.bytes(&self.key.octets())?.u8(10)?.bool(self.receipts)?;
            Ok(())
        });
        let mut out = Zeroizing::new(Vec::with_capacity(MAX_OFFER));
        encode(&mut out, |e| e.array(2)?.bytes(&body)?.bytes(&secret.sign_offer(&body)).map(drop));
        out
    }

    /// Reads an offer for the account with the Tox key `own`, from a contact whose mail key is `pinned` if it is known.
    ///
    /// # Errors
    /// It is malformed, for somebody else, of another key or not signed by it.
    pub fn from_octets(octets: &[u8], own: &PublicKey, pinned: Option<&MailKey>) -> Result<Self, InvalidOffer> {
        if octets.len() > MAX_OFFER {
            return Err(InvalidOffer::Malformed);
        }
        let (body, signature) = envelope(octets).map_err(|_| InvalidOffer::Malformed)?;
        let offer = Self::decode(&mut Decoder::new(body)).map_err(|_| InvalidOffer::Malformed)?;
        if pinned.is_some_and(|pinned| *pinned != offer.key) {
            Err(InvalidOffer::OtherKey)
        } else if !offer.key.verify_offer(body, &signature) {
            Err(InvalidOffer::Signature)
        } else if offer.to != *own {
            Err(InvalidOffer::OtherContact)
        } else {
            Ok(offer)
        }
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        let missing = || decode::Error::message("a field is missing");
        let (mut lane, mut serial, mut to, mut seed, mut relays) = (None, None, None, None, None);
        let (mut open, mut pre_key, mut max_mail, mut key, mut receipts) = ([0; 5], None, None, None, None);
        for _ in 0..definite(d.map()?)? {
            match d.u64()? {
                1 => lane = Some(LaneId(exact(d)?)),
                2 => serial = Some(d.u64()?),
                3 => to = Some(PublicKey(exact(d)?)),
                4 => seed = Some(LaneSeed::new(&mut exact(d)?)),
                5 => relays = Some(decode_relays(d)?),
                6 => {
                    for class in 0..definite(d.array()?)? {
                        let slots = d.u32()?;
                        // Of a class that we do not know, nothing is sent.
                        if let Some(open) = usize::try_from(class).ok().and_then(|class| open.get_mut(class)) {
                            *open = slots;
                        }
                    }
                }
                7 => {
                    let further = definite(d.array()?)?.checked_sub(3).ok_or_else(missing)?;
                    pre_key = Some(PreKey { id: d.u32()?, key: exact(d)?, not_after: d.u64()? });
                    skip(d, further)?;
                }
                8 => max_mail = Some(d.u64()?),
                9 => key = Some(MailKey::from_octets(&exact(d)?)),
                10 => receipts = Some(d.bool()?),
                _ => d.skip()?,
            }
        }
        end(d)?;
        Ok(Self {
            lane: lane.ok_or_else(missing)?,
            serial: serial.ok_or_else(missing)?,
            to: to.ok_or_else(missing)?,
            seed: seed.ok_or_else(missing)?,
            relays: relays.ok_or_else(missing)?,
            open,
            pre_key: pre_key.ok_or_else(missing)?,
            max_mail: max_mail.ok_or_else(missing)?,
            key: key.ok_or_else(missing)?,
            receipts: receipts.ok_or_else(missing)?,
        })
    }
}

/// The signed octets of an offer and their signature.
fn envelope(octets: &[u8]) -> Result<(&[u8], SignatureOctets), decode::Error> {
    let mut d = Decoder::new(octets);
    let further = definite(d.array()?)?.checked_sub(2);
    let (body, signature) = (d.bytes()?, exact(&mut d)?);
    skip(&mut d, further.ok_or_else(|| decode::Error::message("an offer has two items"))?)?;
    end(&d)?;
    Ok((body, signature))
}

fn decode_relays(d: &mut Decoder<'_>) -> Result<Vec<RelayRef>, decode::Error> {
    let mut relays: Vec<RelayRef> = Vec::new();
    for _ in 0..definite(d.array()?)? {
        let relay =
            RelayRef::from_octets(d.bytes()?).ok_or_else(|| decode::Error::message("a relay's Tox ID is wrong"))?;
        // Twice the same would be the same slots twice.
        if relays.len() == MAX_RELAYS || relays.iter().any(|other| other.key == relay.key) {
            return Err(decode::Error::message("too many relays, or one twice"));
        }
        relays.push(relay);
    }
    Ok(relays)
}

/// A byte string of this length.
pub(super) fn exact<const N: usize>(d: &mut Decoder<'_>) -> Result<[u8; N], decode::Error> {
    d.bytes()?.try_into().map_err(|_| decode::Error::message("a byte string has the wrong length"))
}

/// Passes over items that a later version added.
pub(super) fn skip(d: &mut Decoder<'_>, further: u64) -> Result<(), decode::Error> {
    (0..further).try_for_each(|_| d.skip())
}

/// Nothing follows.
pub(super) fn end(d: &Decoder<'_>) -> Result<(), decode::Error> {
    if d.position() == d.input().len() { Ok(()) } else { Err(decode::Error::message("octets follow")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: PublicKey = PublicKey([0x0A; 32]);

    fn secret() -> MailSecret {
        MailSecret::new(&mut [1; 32])
    }

    fn offer(relays: u8) -> Offer {
        let relay = |n| RelayRef { id: ToxId::new(PublicKey([n; 32]), [n; 4]), key: RelayKey([0x80 | n; 32]) };
        Offer {
            lane: LaneId([2; 16]),
            serial: u64::MAX,
            to: OWN,
            seed: LaneSeed::new(&mut [0xAB; 32]),
            relays: (0..relays).map(relay).collect(),
            open: [32, 8, 4, u32::MAX, u32::MAX],
            pre_key: PreKey { id: u32::MAX, key: [4; 32], not_after: u64::MAX },
            max_mail: u64::MAX,
            key: secret().public(),
            receipts: true,
        }
    }

    /// An offer with this body, rightly signed.
    fn signed(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, |e| e.array(2)?.bytes(body)?.bytes(&secret().sign_offer(body)).map(drop));
        out
    }

    fn read(octets: &[u8]) -> Result<Offer, InvalidOffer> {
        Offer::from_octets(octets, &OWN, Some(&secret().public()))
    }

    #[test]
    fn an_offer_is_read_as_it_was_made_and_fits_into_a_packet() {
        for relays in 0..=MAX_RELAYS as u8 {
            let octets = offer(relays).to_octets(&secret());
            assert!(octets.len() <= MAX_OFFER, "{} octets", octets.len());
            for pinned in [None, Some(&secret().public())] {
                let read = Offer::from_octets(&octets, &OWN, pinned).expect("a good offer");
                assert_eq!(format!("{read:?}"), format!("{:?}", offer(relays)));
                assert_eq!(read.seed.expose(), offer(relays).seed.expose());
                assert_eq!(*read.to_octets(&secret()), *octets);
            }
        }
    }

    #[test]
    fn an_offer_holds_for_one_contact_and_one_mail_key() {
        let octets = offer(3).to_octets(&secret());
        let other = MailSecret::new(&mut [2; 32]);
        let to = Offer::from_octets(&octets, &PublicKey([0x0B; 32]), None);
        assert_eq!(to.expect_err("not for us"), InvalidOffer::OtherContact);
        let pinned = Offer::from_octets(&octets, &OWN, Some(&other.public()));
        assert_eq!(pinned.expect_err("another key"), InvalidOffer::OtherKey);
        let forged = Offer::from_octets(&offer(3).to_octets(&other), &OWN, None);
        assert_eq!(forged.expect_err("names a key that did not sign"), InvalidOffer::Signature);
    }

    #[test]
    fn no_octet_of_an_offer_can_be_changed_or_left_out() {
        let octets = offer(2).to_octets(&secret());
        for at in 0..octets.len() {
            let mut changed = octets.to_vec();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "octet {at} changed");
            assert!(read(&octets[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[&octets[..], &[0]].concat()).is_err(), "an octet more");
    }

    #[test]
    fn later_versions_may_add_to_an_offer() {
        let octets = offer(1).to_octets(&secret());
        let (body, _) = envelope(&octets).expect("an envelope");
        let mut more = body.to_vec();
        assert_eq!(more[0], 0xAA, "a map of ten");
        more[0] = 0xAC;
        encode(&mut more, |e| e.u8(23)?.map(1)?.str("x")?.null()?.u64(1 << 40)?.bool(true).map(drop));
        assert_eq!(read(&signed(&more)).expect("read all the same").serial, u64::MAX);
        assert!(read(&signed(&more[..more.len() - 1])).is_err(), "an item is missing");
    }

    #[test]
    fn relays_are_few_and_differ() {
        let two = offer(2).to_octets(&secret());
        let (body, _) = envelope(&two).expect("an envelope");
        let twice = RelayRef { id: ToxId::new(PublicKey([7; 32]), [7; 4]), key: RelayKey([0x80; 32]) };
        let at = body.windows(70).position(|octets| octets == offer(2).relays[1].octets()).expect("the relay");
        let mut same = body.to_vec();
        same[at..at + 70].copy_from_slice(&twice.octets());
        assert_eq!(read(&signed(&same)).expect_err("one key twice"), InvalidOffer::Malformed);
        same[at] ^= 1;
        assert_eq!(read(&signed(&same)).expect_err("a wrong Tox ID"), InvalidOffer::Malformed);
        let mut many = body.to_vec();
        many.truncate(at - 2 - 72);
        assert_eq!(many.pop(), Some(0x82), "an array of two");
        let relays = offer(6).relays;
        encode(&mut many, |e| {
            e.array(6)?;
            relays.iter().try_for_each(|relay| e.bytes(&relay.octets()).map(drop))
        });
        many.extend_from_slice(&body[at + 70..]);
        assert_eq!(read(&signed(&many)).expect_err("six relays"), InvalidOffer::Malformed);
    }

    #[test]
    fn an_offer_does_not_show_its_seed() {
        let shown = format!("{:?}", offer(1)).to_lowercase();
        assert!(!shown.contains("abab") && !shown.contains("171, 171"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read(&octets).is_err());
            prop_assert!(read(&signed(&octets)).is_err());
        }
    }
}
