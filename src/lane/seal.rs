//! Sealing: a part becomes the content of one slot at one relay, and back (`docs/protocol.md`, "Lanes", has the layout).
//!
//! Twice it is encrypted: by NaCl's `crypto_box` from the sender's mail key to a pre-key of the lane, which is the same for
//! all relays; then by `crypto_secretbox` with a key of the slot's own, so that the contents of no two slots have anything
//! in common. Nonces are derived from key and content: a part sealed again after a crash is the same octets, which a relay
//! takes for the repetition that it is.

use std::fmt;

use crypto_box::SalsaBox;
use crypto_box::aead::AeadInPlace;
use crypto_box::aead::consts::{U16, U24};

use super::keys::{Class, LaneSeed, MailKey, MailSecret, PreKeySecret, RelayKey};
use super::offer::PreKey;
use super::parcel::Part;

/// Before what a cipher encrypts: nonce (24) and tag (16).
pub(super) const CIPHER: usize = 24 + 16;
/// What a part needs beside its octets, at most: see [`Part`].
const PART: usize = 1 + 17 + 5 + 5 + 9 + 9 + 5;
/// How many octets of a slot's content are not the parcel's, at most: nonce and tag of the layer, the number of the pre-key
/// (4), nonce and tag of the box, the length of the part (4), and what a part needs beside its octets.
pub const OVERHEAD: usize = CIPHER + 4 + CIPHER + 4 + PART;

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
    /// What is sealed, `octets`, with zeros up to the size of its class behind it.
    ///
    /// # Panics
    /// It is too long.
    pub(super) fn padded(class: Class, mut octets: Vec<u8>) -> Self {
        assert!(octets.len() <= class.octets() - CIPHER, "it does not fit into {class:?}");
        octets.resize(class.octets() - CIPHER, 0);
        Self { class, octets }
    }

    /// The octets, to be sealed in place.
    pub(super) fn octets_mut(&mut self) -> &mut [u8] {
        &mut self.octets
    }

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

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size => f.write_str("it has not the size of its class"),
            Self::Layer => f.write_str("it is damaged, or not of this lane and slot"),
            Self::PreKey(id) => write!(f, "it is sealed to the pre-key {id}, whose secret is not here any more"),
            Self::Sender => f.write_str("it is not sealed by this contact"),
            Self::Malformed => f.write_str("what is sealed in it cannot be read"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Seals a part: only who has the pre-key's secret can open it, and besides him only `sender` can have made it. The same
/// again yields the same octets.
///
/// # Panics
/// The part holds more than [`capacity`] of the class.
pub fn seal(sender: &MailSecret, to: &PreKey, part: &Part, class: Class) -> Inner {
    let mut octets = Vec::with_capacity(class.octets() - CIPHER);
    octets.extend_from_slice(&to.id.to_be_bytes());
    octets.extend_from_slice(&[0; CIPHER + 4]);
    let start = octets.len();
    part.encode(&mut octets);
    let length = u32::try_from(octets.len() - start).expect("a part is smaller than a slot");
    octets[start - 4..start].copy_from_slice(&length.to_be_bytes());
    let mut inner = Inner::padded(class, octets);
    let nonce = sender.nonce(&to.key, &inner.octets[start - 4..]);
    lock(&SalsaBox::new(&to.key.into(), &sender.sealing()), nonce, &mut inner.octets[4..]);
    inner
}

/// Wraps it for the slot with this number at this relay: exactly [`Class::octets`] octets. The same again yields the same.
pub fn wrap(inner: &Inner, seed: &LaneSeed, relay: &RelayKey, number: u64) -> Vec<u8> {
    let layer = seed.layer(relay, inner.class, number);
    let mut blob = Vec::with_capacity(inner.class.octets());
    blob.extend_from_slice(&[0; CIPHER]);
    blob.extend_from_slice(&inner.octets);
    lock(&layer.cipher(), layer.nonce(&inner.octets), &mut blob);
    blob
}

/// Opens the content of the slot with this number at this relay, sealed by the owner of the mail key `from`; `pre_keys` has
/// the secrets of the lane's pre-keys that are not destroyed yet.
///
/// # Errors
/// See [`OpenError`].
pub fn open(
    blob: &[u8],
    seed: &LaneSeed,
    relay: &RelayKey,
    class: Class,
    number: u64,
    from: &MailKey,
    pre_keys: &dyn Fn(u32) -> Option<PreKeySecret>,
) -> Result<Part, OpenError> {
    let mut octets = blob.to_vec();
    let inner = unwrap(&mut octets, seed, relay, class, number)?;
    let (id, sealed) = inner.split_first_chunk_mut::<4>().ok_or(OpenError::Malformed)?;
    let id = u32::from_be_bytes(*id);
    let secret = pre_keys(id).ok_or(OpenError::PreKey(id))?;
    let padded = unlock(&SalsaBox::new(&from.seal.into(), &secret.key()), sealed).ok_or(OpenError::Sender)?;
    Part::decode(unpad(padded).ok_or(OpenError::Malformed)?).map_err(|_| OpenError::Malformed)
}

/// Takes the layer off in place.
pub(super) fn unwrap<'a>(
    blob: &'a mut [u8],
    seed: &LaneSeed,
    relay: &RelayKey,
    class: Class,
    number: u64,
) -> Result<&'a mut [u8], OpenError> {
    if blob.len() != class.octets() {
        return Err(OpenError::Size);
    }
    unlock(&seed.layer(relay, class, number).cipher(), blob).ok_or(OpenError::Layer)
}

/// What follows its own length (4 octets, big-endian), with nothing but zeros behind it.
pub(super) fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let (length, rest) = padded.split_first_chunk::<4>()?;
    let (content, padding) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
    padding.iter().all(|octet| *octet == 0).then_some(content)
}

/// Encrypts what follows the first [`CIPHER`] octets, and puts nonce and tag into these.
pub(super) fn lock(cipher: &impl AeadInPlace<NonceSize = U24, TagSize = U16>, nonce: [u8; 24], octets: &mut [u8]) {
    let (front, content) = octets.split_at_mut(CIPHER);
    let tag = cipher.encrypt_in_place_detached(&nonce.into(), b"", content).expect("any length up to 4 MiB will do");
    front[..24].copy_from_slice(&nonce);
    front[24..].copy_from_slice(&tag);
}

/// Decrypts what [`lock`] made; `None` if somebody else did.
pub(super) fn unlock<'a>(
    cipher: &impl AeadInPlace<NonceSize = U24, TagSize = U16>,
    octets: &'a mut [u8],
) -> Option<&'a mut [u8]> {
    let (nonce, rest) = octets.split_first_chunk_mut::<24>()?;
    let (tag, content) = rest.split_first_chunk_mut::<16>()?;
    cipher.decrypt_in_place_detached(&(*nonce).into(), b"", content, &(*tag).into()).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::transfer::MailId;

    const RELAY: RelayKey = RelayKey([9; 32]);
    const OTHER: RelayKey = RelayKey([8; 32]);

    fn seed() -> LaneSeed {
        LaneSeed::new(&mut [7; 32])
    }

    fn sender() -> MailSecret {
        MailSecret::new(&mut [1; 32])
    }

    fn secret(id: u32) -> PreKeySecret {
        PreKeySecret::new(&mut [id as u8; 32])
    }

    fn pre_key() -> PreKey {
        PreKey { id: 5, key: secret(5).public(), not_after: 0 }
    }

    fn part(octets: &[u8]) -> Part {
        let total = octets.len() as u64;
        Part { parcel: MailId([6; 16]), part: 0, parts: 1, total, offset: 0, octets: octets.to_vec() }
    }

    fn sealed(part: &Part, class: Class, relay: &RelayKey, number: u64) -> Vec<u8> {
        wrap(&seal(&sender(), &pre_key(), part, class), &seed(), relay, number)
    }

    fn opened(blob: &[u8], class: Class, relay: &RelayKey, number: u64) -> Result<Part, OpenError> {
        open(blob, &seed(), relay, class, number, &sender().public(), &|id| (id == 5).then(|| secret(id)))
    }

    #[test]
    fn what_is_sealed_opens_in_every_class_up_to_its_capacity() {
        for class in Class::ALL {
            for length in [1, capacity(class)] {
                let octets: Vec<u8> = (0..length).map(|at| at as u8).collect();
                // The numbers of a part are as long as they can be.
                let part =
                    Part { part: u32::MAX, parts: u32::MAX, total: u64::MAX, offset: u64::MAX / 2, ..part(&octets) };
                let mut plain = Vec::new();
                part.encode(&mut plain);
                assert!(plain.len() <= octets.len() + PART);
                let part = Part { part: 4094, parts: 4095, ..part };
                let blob = sealed(&part, class, &RELAY, 3);
                assert_eq!(blob.len(), class.octets());
                assert_eq!(opened(&blob, class, &RELAY, 3), Ok(part));
            }
        }
    }

    #[test]
    fn a_content_opens_in_its_place_alone() {
        let blob = sealed(&part(b"mail"), Class::K16, &RELAY, 3);
        assert_eq!(opened(&blob, Class::K16, &RELAY, 4), Err(OpenError::Layer));
        assert_eq!(opened(&blob, Class::K16, &OTHER, 3), Err(OpenError::Layer));
        assert_eq!(opened(&blob, Class::K128, &RELAY, 3), Err(OpenError::Size));
        assert_eq!(opened(&blob[1..], Class::K16, &RELAY, 3), Err(OpenError::Size));
        let lane = LaneSeed::new(&mut [6; 32]);
        let key = sender().public();
        let other = open(&blob, &lane, &RELAY, Class::K16, 3, &key, &|id| Some(secret(id)));
        assert_eq!(other, Err(OpenError::Layer));
    }

    #[test]
    fn a_content_opens_with_its_pre_key_as_that_of_its_sender_alone() {
        let blob = sealed(&part(b"mail"), Class::K16, &RELAY, 3);
        let open = |from: &MailSecret, pre_keys: &dyn Fn(u32) -> Option<PreKeySecret>| {
            open(&blob, &seed(), &RELAY, Class::K16, 3, &from.public(), pre_keys)
        };
        assert_eq!(open(&sender(), &|_| None), Err(OpenError::PreKey(5)));
        assert_eq!(open(&sender(), &|_| Some(secret(6))), Err(OpenError::Sender));
        assert_eq!(open(&MailSecret::new(&mut [2; 32]), &|id| Some(secret(id))), Err(OpenError::Sender));
        assert_eq!(open(&sender(), &|id| Some(secret(id))), Ok(part(b"mail")));
    }

    #[test]
    fn the_same_again_is_the_same_octets() {
        let blob = sealed(&part(b"mail"), Class::K16, &RELAY, 3);
        assert_eq!(blob, sealed(&part(b"mail"), Class::K16, &RELAY, 3));
        let other = sealed(&part(b"Mail"), Class::K16, &RELAY, 3);
        assert_ne!(blob[..24], other[..24], "another content has another nonce");
    }

    #[test]
    fn contents_of_two_slots_share_nothing() {
        // All zeros, that what is left of it would be seen.
        let part = part(&vec![0; capacity(Class::K16)]);
        let first = sealed(&part, Class::K16, &RELAY, 3);
        let runs: HashSet<&[u8]> = first.windows(16).collect();
        assert_eq!(runs.len(), first.len() - 15, "no run occurs twice in one");
        for (relay, number) in [(OTHER, 3), (RELAY, 4)] {
            let second = sealed(&part, Class::K16, &relay, number);
            assert!(!second.windows(16).any(|run| runs.contains(run)));
            for known in [&[6; 16][..], &RELAY.0, &sender().public().seal, &pre_key().key] {
                assert!(!second.windows(known.len()).any(|run| run == known));
            }
        }
    }

    #[test]
    fn padding_and_parts_are_checked_after_the_ciphers() {
        let inner = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut plain = Vec::new();
            part(b"mail").encode(&mut plain);
            let mut octets = [&[0, 0, 0, 5][..], &[0; CIPHER], &(plain.len() as u32).to_be_bytes(), &plain].concat();
            octets.resize(Class::K16.octets() - CIPHER, 0);
            change(&mut octets);
            lock(&SalsaBox::new(&pre_key().key.into(), &sender().sealing()), [0; 24], &mut octets[4..]);
            opened(&wrap(&Inner { class: Class::K16, octets }, &seed(), &RELAY, 0), Class::K16, &RELAY, 0)
        };
        assert_eq!(inner(&|_| {}), Ok(part(b"mail")));
        let start = 4 + CIPHER;
        for wrong in [
            &|octets: &mut Vec<u8>| *octets.last_mut().expect("padding") = 1,
            &|octets: &mut Vec<u8>| octets[start] = 0xFF,
            &|octets: &mut Vec<u8>| octets[start + 3] += 1,
            &|octets: &mut Vec<u8>| octets[start + 4] = 0x87,
            &|octets: &mut Vec<u8>| octets[start..].fill(0),
        ] as [&dyn Fn(&mut Vec<u8>); 5]
        {
            assert_eq!(inner(wrong), Err(OpenError::Malformed));
        }
    }

    proptest! {
        #[test]
        fn no_content_opens_after_any_change(
            at in any::<prop::sample::Index>(),
            with in 1..=255_u8,
            front in any::<bool>(),
        ) {
            static BLOB: LazyLock<Vec<u8>> = LazyLock::new(|| sealed(&part(b"mail"), Class::K16, &RELAY, 3));
            let mut blob = BLOB.clone();
            let at = at.index(if front { 100 } else { blob.len() });
            blob[at] ^= with;
            prop_assert_eq!(opened(&blob, Class::K16, &RELAY, 3), Err(OpenError::Layer));
        }
    }
}
