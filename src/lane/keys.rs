//! Keys, each of a type of its own, and what is derived from what. No secret here can be printed, compared or cloned by
//! accident, and each is wiped when it is dropped.
//!
//! Every derivation is BLAKE2b-256 (RFC 7693) with the secret as its key, over a label, a zero octet, and each part after
//! its length (4 octets, big-endian). Every signature is Ed25519 (RFC 8032) over a label, a zero octet and the parts in the
//! same form. Labels occur once in the program.

use std::fmt;

use blake2::Blake2bMac;
use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use crypto_secretbox::XSalsa20Poly1305;
use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::identity::tox_id::PublicKey;

/// An Ed25519 signature, 64 octets.
pub type SignatureOctets = [u8; 64];

/// The sizes that sealed parts come in, in octets of a slot's content: relays see no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// 16 KiB: answers, and most mail.
    K16,
    /// 128 KiB
    K128,
    /// 512 KiB
    K512,
    /// 1 MiB
    M1,
    /// 4 MiB: larger mail is split into several.
    M4,
}

impl Class {
    /// All, the smallest first.
    pub const ALL: [Self; 5] = [Self::K16, Self::K128, Self::K512, Self::M1, Self::M4];

    /// Octets of a slot's content.
    pub const fn octets(self) -> usize {
        match self {
            Self::K16 => 16 << 10,
            Self::K128 => 128 << 10,
            Self::K512 => 512 << 10,
            Self::M1 => 1 << 20,
            Self::M4 => 4 << 20,
        }
    }

    /// Its number on the wire and in the store.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The class with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Derives 32 octets from a secret of 16 or 32; see the module.
pub(super) fn derive(secret: &[u8], label: &str, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Blake2bMac::<U32>::new_from_slice(secret).expect("BLAKE2b takes keys of up to 64 octets");
    framed(label, parts, |octets| mac.update(octets));
    let mut out = Zeroizing::new([0; 32]);
    mac.finalize_into((&mut *out).into());
    out
}

/// A nonce that is bound to what it is used for, as in RFC 8452: the first 24 octets of a derivation.
fn nonce(secret: &[u8; 32], label: &str, parts: &[&[u8]]) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce.copy_from_slice(&derive(secret, label, parts)[..24]);
    nonce
}

fn framed(label: &str, parts: &[&[u8]], mut take: impl FnMut(&[u8])) {
    take(label.as_bytes());
    take(&[0]);
    for part in parts {
        take(&u32::try_from(part.len()).expect("parts are short").to_be_bytes());
        take(part);
    }
}

/// What is signed under a label.
fn statement(label: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    framed(label, parts, |octets| out.extend_from_slice(octets));
    out
}

fn verify(key: &[u8; 32], label: &str, parts: &[&[u8]], signature: &SignatureOctets) -> bool {
    VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(&statement(label, parts), &Signature::from_bytes(signature)).is_ok())
}

/// A secret that shows nothing of itself.
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }

        impl $name {
            /// Takes the secret over; the array it came in is wiped.
            pub fn new(octets: &mut [u8; 32]) -> Self {
                let secret = Self(*octets);
                octets.zeroize();
                secret
            }

            /// The octets, for the store alone.
            pub fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }
    };
}

secret! {
    /// The secret of an account's mail identity, from which a signing and a sealing key follow. It has nothing to do with
    /// the account's Tox key.
    MailSecret
}
secret! {
    /// The secret half of a key to which mail of one lane is sealed for about a week (X25519).
    PreKeySecret
}
secret! {
    /// What both ends of a lane derive its slots from.
    LaneSeed
}
secret! {
    /// The secret by which a relay signs what it stored and what it removed (Ed25519).
    RelaySecret
}
secret! {
    /// The secret half of an account's Tox key (X25519). Here it has one use: to prove to whom an introduction is for that
    /// it comes from that key.
    ToxSecret
}
secret! {
    /// The key of the layer around the content of one slot (XSalsa20-Poly1305).
    LayerKey
}

/// The public half of a [`MailSecret`]: pinned for each contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailKey {
    /// Signs offers of lanes (Ed25519).
    pub sign: [u8; 32],
    /// Proves who sealed a part (X25519).
    pub seal: [u8; 32],
}

impl MailSecret {
    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&derive(&self.0, "toxmail mail sign 1", &[]))
    }

    /// The X25519 secret that seals.
    pub(super) fn sealing(&self) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from(*derive(&self.0, "toxmail mail seal 1", &[]))
    }

    /// The nonce with which this content is sealed to this pre-key: the same again for the same, so that no two contents
    /// have one.
    pub(super) fn nonce(&self, pre_key: &[u8; 32], content: &[u8]) -> [u8; 24] {
        nonce(&self.0, "toxmail mail nonce 1", &[pre_key, content])
    }

    /// What the wait of a receipt is drawn by: nobody else can tell it, least of all the sender, who chose the mail's name.
    pub fn receipt_wait(&self, mail: &[u8; 16]) -> u8 {
        derive(&self.0, "toxmail receipt wait 1", &[mail])[0]
    }

    /// The public half.
    pub fn public(&self) -> MailKey {
        MailKey { sign: self.signing().verifying_key().to_bytes(), seal: *self.sealing().public_key().as_bytes() }
    }

    /// Signs an offer of a lane (its octets without the signature).
    pub fn sign_offer(&self, offer: &[u8]) -> SignatureOctets {
        self.signing().sign(&statement("toxmail lane offer 1", &[offer])).to_bytes()
    }
}

impl MailKey {
    /// Its 64 octets: the key that signs, then the one that seals.
    pub fn octets(&self) -> [u8; 64] {
        let mut octets = [0; 64];
        octets[..32].copy_from_slice(&self.sign);
        octets[32..].copy_from_slice(&self.seal);
        octets
    }

    /// Reads its 64 octets.
    pub fn from_octets(octets: &[u8; 64]) -> Self {
        let mut key = Self { sign: [0; 32], seal: [0; 32] };
        key.sign.copy_from_slice(&octets[..32]);
        key.seal.copy_from_slice(&octets[32..]);
        key
    }

    /// Whether the owner of this key signed the offer.
    pub fn verify_offer(&self, offer: &[u8], signature: &SignatureOctets) -> bool {
        verify(&self.sign, "toxmail lane offer 1", &[offer], signature)
    }
}

impl PreKeySecret {
    /// The public half (X25519).
    pub fn public(&self) -> [u8; 32] {
        *self.key().public_key().as_bytes()
    }

    /// The X25519 secret that opens.
    pub(super) fn key(&self) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from(self.0)
    }
}

impl ToxSecret {
    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.key().public_key().as_bytes())
    }

    /// The X25519 secret that proves.
    pub(super) fn key(&self) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from(self.0)
    }

    /// The nonce with which this content of an introduction is sealed to this key.
    pub(super) fn nonce(&self, to: &[u8; 32], content: &[u8]) -> [u8; 24] {
        nonce(&self.0, "toxmail introduction nonce 1", &[to, content])
    }

    /// An X25519 secret for this content of an introduction to this key, and for nothing else.
    pub(super) fn once(&self, to: &[u8; 32], content: &[u8]) -> crypto_box::SecretKey {
        crypto_box::SecretKey::from(*derive(&self.0, "toxmail introduction key 1", &[to, content]))
    }
}

/// What somebody must know to introduce himself: 16 random octets, told beside the Tox ID, changed at will.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct InviteCode(pub [u8; 16]);

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(secret)")
    }
}

impl InviteCode {
    /// What the slots of the inbox of `owner` are derived from.
    pub fn seed(&self, owner: &PublicKey) -> LaneSeed {
        LaneSeed::new(&mut derive(&self.0, "toxmail inbox seed 1", &[&owner.0]))
    }

    /// What stamps of this introduction are tried upon: they are worth nothing for another owner, sender, day or text.
    pub(super) fn stamp_key(&self, owner: &MailKey, sender: &PublicKey, day: u64, body: &[u8]) -> StampKey {
        let parts = [&owner.octets()[..], &sender.0, &day.to_be_bytes(), body];
        StampKey(derive(&self.0, "toxmail introduction body 1", &parts))
    }
}

/// See [`InviteCode::stamp_key`].
pub(super) struct StampKey(Zeroizing<[u8; 32]>);

impl StampKey {
    /// How many bits of work this stamp shows: the zeros that its hash begins with.
    pub(super) fn bits(&self, stamp: u64) -> u32 {
        let hash = derive(&*self.0, "toxmail introduction stamp 1", &[&stamp.to_be_bytes()]);
        let zeros = hash.iter().take_while(|octet| **octet == 0).count();
        8 * zeros as u32 + hash.get(zeros).map_or(0, |octet| octet.leading_zeros())
    }
}

/// Names a slot at a relay: the Ed25519 key that alone can fill and empty it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub [u8; 32]);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotId({})", HEXLOWER.encode(&self.0[..4]))
    }
}

impl SlotId {
    /// Whether the slot's key allows to fill it with `size` octets that have this digest (BLAKE2b-256).
    pub fn verify_put(&self, relay: &RelayKey, digest: &[u8; 32], size: u64, signature: &SignatureOctets) -> bool {
        verify(&self.0, "toxmail slot put 1", &[&relay.0, digest, &size.to_be_bytes()], signature)
    }

    /// Whether the slot's key allows to empty it for good.
    pub fn verify_delete(&self, relay: &RelayKey, signature: &SignatureOctets) -> bool {
        verify(&self.0, "toxmail slot delete 1", &[&relay.0], signature)
    }

    /// Whether the slot's key vouches for a visitor with this Tox key, who comes to fill it.
    pub fn verify_visit(&self, relay: &RelayKey, visitor: &PublicKey, signature: &SignatureOctets) -> bool {
        verify(&self.0, "toxmail slot visit 1", &[&relay.0, &visitor.0], signature)
    }
}

/// The secret of one slot.
pub struct SlotKey(SigningKey);

impl fmt::Debug for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotKey(secret of {:?})", self.id())
    }
}

impl SlotKey {
    /// The slot's name.
    pub fn id(&self) -> SlotId {
        SlotId(self.0.verifying_key().to_bytes())
    }

    /// Allows to fill it with `size` octets that have this digest (BLAKE2b-256).
    pub fn sign_put(&self, relay: &RelayKey, digest: &[u8; 32], size: u64) -> SignatureOctets {
        self.0.sign(&statement("toxmail slot put 1", &[&relay.0, digest, &size.to_be_bytes()])).to_bytes()
    }

    /// Allows to empty it for good.
    pub fn sign_delete(&self, relay: &RelayKey) -> SignatureOctets {
        self.0.sign(&statement("toxmail slot delete 1", &[&relay.0])).to_bytes()
    }

    /// Vouches for a visitor with this Tox key.
    pub fn sign_visit(&self, relay: &RelayKey, visitor: &PublicKey) -> SignatureOctets {
        self.0.sign(&statement("toxmail slot visit 1", &[&relay.0, &visitor.0])).to_bytes()
    }
}

impl LaneSeed {
    /// The key of the slot with this number at this relay. Numbers begin at 0 for each relay and class.
    pub fn slot(&self, relay: &RelayKey, class: Class, number: u64) -> SlotKey {
        let place = [&relay.0[..], &[class.number()], &number.to_be_bytes()];
        SlotKey(SigningKey::from_bytes(&derive(&self.0, "toxmail slot key 1", &place)))
    }

    /// The key of the layer around its content.
    pub fn layer(&self, relay: &RelayKey, class: Class, number: u64) -> LayerKey {
        let place = [&relay.0[..], &[class.number()], &number.to_be_bytes()];
        LayerKey::new(&mut derive(&self.0, "toxmail slot layer 1", &place))
    }
}

impl LayerKey {
    /// The nonce with which this content is wrapped.
    pub(super) fn nonce(&self, content: &[u8]) -> [u8; 24] {
        nonce(&self.0, "toxmail layer nonce 1", &[content])
    }

    /// XSalsa20-Poly1305 with this key.
    pub(super) fn cipher(&self) -> XSalsa20Poly1305 {
        XSalsa20Poly1305::new(&self.0.into())
    }
}

/// By which a relay is known, and what it signs can be verified (Ed25519).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayKey(pub [u8; 32]);

impl RelayKey {
    /// The first 16 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        HEXLOWER.encode(&self.0[..8])
    }

    /// Whether the relay promises to keep the content with this digest until `expiry` (seconds since the epoch).
    pub fn verify_stored(&self, slot: &SlotId, digest: &[u8; 32], expiry: u64, signature: &SignatureOctets) -> bool {
        verify(&self.0, "toxmail relay stored 1", &[&slot.0, digest, &expiry.to_be_bytes()], signature)
    }

    /// Whether the relay says that the slot is empty for good.
    pub fn verify_gone(&self, slot: &SlotId, signature: &SignatureOctets) -> bool {
        verify(&self.0, "toxmail relay gone 1", &[&slot.0], signature)
    }
}

impl fmt::Debug for RelayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayKey({})", self.short())
    }
}

impl RelaySecret {
    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }

    /// The public half.
    pub fn public(&self) -> RelayKey {
        RelayKey(self.signing().verifying_key().to_bytes())
    }

    /// Promises to keep the content with this digest until `expiry` (seconds since the epoch).
    pub fn sign_stored(&self, slot: &SlotId, digest: &[u8; 32], expiry: u64) -> SignatureOctets {
        let statement = statement("toxmail relay stored 1", &[&slot.0, digest, &expiry.to_be_bytes()]);
        self.signing().sign(&statement).to_bytes()
    }

    /// Says that the slot is empty for good.
    pub fn sign_gone(&self, slot: &SlotId) -> SignatureOctets {
        self.signing().sign(&statement("toxmail relay gone 1", &[&slot.0])).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: RelayKey = RelayKey([9; 32]);

    fn seed() -> LaneSeed {
        LaneSeed::new(&mut [7; 32])
    }

    #[test]
    fn slots_differ_by_relay_class_and_number() {
        let mut ids: Vec<SlotId> = Vec::new();
        for relay in [RELAY, RelayKey([8; 32])] {
            for class in Class::ALL {
                ids.extend((0..20).map(|number| seed().slot(&relay, class, number).id()));
            }
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 200);
    }

    #[test]
    fn a_signature_holds_for_one_purpose_slot_and_relay() {
        let (key, other) = (seed().slot(&RELAY, Class::K16, 0), seed().slot(&RELAY, Class::K16, 1));
        let put = key.sign_put(&RELAY, &[1; 32], 5);
        assert!(key.id().verify_put(&RELAY, &[1; 32], 5, &put));
        assert!(!key.id().verify_put(&RELAY, &[1; 32], 6, &put));
        assert!(!key.id().verify_put(&RelayKey([8; 32]), &[1; 32], 5, &put));
        assert!(!other.id().verify_put(&RELAY, &[1; 32], 5, &put));
        assert!(!key.id().verify_delete(&RELAY, &put));
        assert!(key.id().verify_delete(&RELAY, &key.sign_delete(&RELAY)));
        let visitor = PublicKey([3; 32]);
        assert!(key.id().verify_visit(&RELAY, &visitor, &key.sign_visit(&RELAY, &visitor)));
        assert!(!key.id().verify_visit(&RELAY, &PublicKey([4; 32]), &key.sign_visit(&RELAY, &visitor)));
    }

    #[test]
    fn a_relay_signs_for_what_it_has() {
        let secret = RelaySecret::new(&mut [5; 32]);
        let (relay, slot) = (secret.public(), SlotId([1; 32]));
        let stored = secret.sign_stored(&slot, &[2; 32], 1000);
        assert!(relay.verify_stored(&slot, &[2; 32], 1000, &stored));
        assert!(!relay.verify_stored(&slot, &[2; 32], 1001, &stored));
        assert!(!relay.verify_gone(&slot, &stored));
        assert!(relay.verify_gone(&slot, &secret.sign_gone(&slot)));
        assert!(!relay.verify_gone(&SlotId([2; 32]), &secret.sign_gone(&slot)));
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = MailSecret::new(&mut [0xAB; 32]);
        let shown = format!("{secret:?} {:?} {:?}", seed(), seed().slot(&RELAY, Class::M1, 3));
        assert!(!shown.to_lowercase().contains("abab") && !shown.contains("171, 171"), "{shown}");
    }
}
