//! The `sign` field of a record (STS, "Domain signing"): an Ed25519 signature with a key of the domain. It says neither
//! for which domain nor until when, so it is worth something only beside a key that the operator configured, and never
//! replaces DNSSEC.

use ring::signature::{ED25519, UnparsedPublicKey};

use crate::identity::tox_id::ToxId;

/// The octets of an Ed25519 signature; what is signed follows them (NaCl `crypto_sign`).
const SIGNATURE: usize = 64;

/// What a signature says about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The domain signed this name with this key and checksum, perhaps with this nospam too.
    Valid,
    /// The domain signed something else: an older record, or another name's. As good as no signature.
    Stale,
    /// The domain's key did not sign this, or it is no signature.
    Invalid,
}

/// Whether `key` (Ed25519) signed that `local`, the local part looked up, has `id`.
///
/// Two forms are taken: name, public key, nospam and checksum (STS, and updates at toxme.se), and the same without
/// nospam (first registrations at toxme.se). The second leaves the nospam to whoever can change the record: he can make
/// friend requests fail, but not become somebody else.
pub fn verify(sign: &[u8], key: &[u8; 32], local: &str, id: &ToxId) -> Verdict {
    let Some((signature, message)) = sign.split_at_checked(SIGNATURE) else { return Verdict::Invalid };
    if UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_err() {
        return Verdict::Invalid;
    }
    let (local, id) = (local.to_ascii_lowercase(), id.octets());
    let whole = [local.as_bytes(), &id].concat();
    let without_nospam = [local.as_bytes(), &id[..32], &id[36..]].concat();
    if message == whole || message == without_nospam { Verdict::Valid } else { Verdict::Stale }
}

#[cfg(test)]
mod tests {
    use crypto_box::SecretKey;
    use proptest::prelude::*;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::super::record::{self, Record};
    use super::super::vectors;
    use super::*;

    fn pair() -> Ed25519KeyPair {
        let sign = vectors::all()["sign"].clone();
        let pair = Ed25519KeyPair::from_seed_unchecked(&vectors::octets(&sign, "signing_seed")).expect("32 octets");
        assert_eq!(pair.public_key().as_ref(), vectors::octets(&sign, "verify_key"));
        pair
    }

    fn signed(message: &[u8]) -> Vec<u8> {
        [pair().sign(message).as_ref(), message].concat()
    }

    #[test]
    fn both_forms_of_the_vectors_are_valid() {
        let sign = vectors::all()["sign"].clone();
        let key = vectors::key(&sign, "verify_key");
        for vector in vectors::list(&sign, "vectors") {
            let text = vectors::text(&vector, "txt");
            let Ok(Some(Record::Tox1 { id, sign: Some(sign) })) = record::read(text.as_bytes()) else {
                panic!("no signed record: {text}")
            };
            let name = vectors::text(&vector, "name");
            assert!(text.ends_with(&vectors::text(&vector, "sign_base64")));
            assert_eq!(sign, signed(&vectors::octets(&vector, "message_hex")), "Ed25519 has one signature only");
            assert_eq!(verify(&sign, &key, &name, &id), Verdict::Valid);
            assert_eq!(verify(&sign, &key, &name.to_ascii_uppercase(), &id), Verdict::Valid);
            assert_eq!(verify(&sign, &key, "bob", &id), Verdict::Stale);
            assert_eq!(verify(&sign, &key, "", &id), Verdict::Stale);
            let renewed = ToxId::new(id.key(), [9, 9, 9, 9]);
            assert_eq!(verify(&sign, &key, &name, &renewed), Verdict::Stale);
            for at in 0..sign.len() {
                let mut forged = sign.clone();
                forged[at] ^= 1;
                assert_eq!(verify(&forged, &key, &name, &id), Verdict::Invalid, "octet {at}");
            }
            for length in [0, 1, 63, 64, sign.len() - 1] {
                assert_eq!(verify(&sign[..length], &key, &name, &id), Verdict::Invalid, "{length} octets");
            }
        }
    }

    #[test]
    fn an_update_at_toxme_se_that_signed_the_old_nospam_is_stale() {
        let key = vectors::key(&vectors::all()["sign"], "verify_key");
        let text = vectors::text(&vectors::all()["seed_record"], "txt");
        let id = record::read(text.as_bytes()).expect("good").expect("ours").id().expect("tox1");
        let new = id.octets();
        let message = [b"tarek", &new[..32], &[1, 2, 3, 4], &new[36..]].concat();
        assert_eq!(verify(&signed(&message), &key, "tarek", &id), Verdict::Stale);
    }

    #[test]
    fn the_encryption_key_of_a_server_is_not_its_signing_key() {
        // toxme.se used one secret for both, but published the X25519 key only.
        let sign = vectors::all()["sign"].clone();
        let seed = vectors::key(&sign, "signing_seed");
        let key = *SecretKey::from(seed).public_key().as_bytes();
        assert_eq!(key, vectors::key(&sign, "x25519_public_of_same_seed"));
        let vector = vectors::list(&sign, "vectors")[0].clone();
        let record = record::read(vectors::text(&vector, "txt").as_bytes()).expect("good").expect("ours");
        let (sign, id) = (record.sign().expect("signed"), record.id().expect("tox1"));
        assert_eq!(verify(sign, &key, "tarek", &id), Verdict::Invalid);
        assert_eq!(verify(sign, &[0; 32], "tarek", &id), Verdict::Invalid);
    }

    proptest! {
        #[test]
        fn any_octets_are_no_signature(sign: Vec<u8>, key: [u8; 32], local in "\\PC{0,8}") {
            let id = ToxId::new(crate::identity::tox_id::PublicKey([1; 32]), [0; 4]);
            prop_assert_eq!(verify(&sign, &key, &local, &id), Verdict::Invalid);
        }
    }
}
