//! Octets of contacts and relays through the readers of lanes: no panic, nothing opens that was not sealed, and what was
//! read survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use toxmail::engine::transfer::MailId;
use toxmail::identity::tox_id::{PublicKey, ToxId};
use toxmail::lane::invite::Invitation;
use toxmail::lane::keys::{Class, LaneSeed, MailSecret, PreKeySecret, RelayKey};
use toxmail::lane::offer::Offer;
use toxmail::lane::parcel::{Assembly, Parcel, Part, Progress};
use toxmail::lane::seal::open;

const NAME: MailId = MailId([1; 16]);

fuzz_target!(|input: (&[u8], u64, Vec<(u8, u16, u16)>)| {
    let (octets, total, parts) = input;
    offer(octets);
    if let Ok((parcel, length)) = Parcel::read(NAME, total, octets) {
        let head = parcel.head();
        // What a later version added is not written again.
        assert!(length <= octets.len());
        let total = total - length as u64 + head.len() as u64;
        assert_eq!(Parcel::read(NAME, total, &head), Ok((parcel, head.len())));
    }
    if let Ok(part) = Part::decode(octets) {
        let mut again = Vec::new();
        part.encode(&mut again);
        assert_eq!(Part::decode(&again), Ok(part));
    }
    let mut blob = octets.to_vec();
    blob.resize(Class::K16.octets(), 0);
    let (seed, key) = (LaneSeed::new(&mut [2; 32]), MailSecret::new(&mut [3; 32]).public());
    let secrets = |_| Some(PreKeySecret::new(&mut [4; 32]));
    assert!(open(&blob, &seed, &RelayKey([5; 32]), Class::K16, 0, &key, &secrets).is_err());
    assembly(&parts);
    invitation(octets);
});

/// As it is, and as the body of an offer that is rightly signed.
fn offer(octets: &[u8]) {
    let (secret, own) = (MailSecret::new(&mut [3; 32]), PublicKey([6; 32]));
    let _ = Offer::from_octets(octets, &own, None);
    if let Ok(length) = u16::try_from(octets.len()) {
        let start = [&[0x82, 0x59][..], &length.to_be_bytes()].concat();
        let signed = [&start, octets, &[0x58, 64], &secret.sign_offer(octets)].concat();
        if let Ok(offer) = Offer::from_octets(&signed, &own, None) {
            let again = offer.to_octets(&secret);
            Offer::from_octets(&again, &own, Some(&secret.public())).expect("an offer as it was read");
        }
    }
}

/// In a record, and as a text.
fn invitation(octets: &[u8]) {
    let id = ToxId::new(PublicKey([6; 32]), [0; 4]);
    let record = [b"v=tox1;", octets].concat();
    if let Some(Ok(invitation)) = Invitation::from_record(id, &record) {
        assert_eq!(invitation.to_string().parse(), Ok(invitation));
    }
    if let Ok(text) = std::str::from_utf8(octets) {
        let _ = format!("toxmail-invite:{text}").parse::<Invitation>();
    }
}

/// A parcel is whole once, and only with all its octets.
fn assembly(parts: &[(u8, u16, u16)]) {
    let total = 1000;
    let mut assembly = Assembly::new(8, total, total).expect("within the bounds");
    let mut come = vec![false; 1000];
    for (part, start, end) in parts {
        match assembly.note(u32::from(*part), u64::from(*start)..u64::from(*end)) {
            Ok(Progress::Repeated) | Err(_) => {}
            Ok(progress) => {
                let new = &mut come[usize::from(*start)..usize::from(*end)];
                assert!(new.iter().all(|octet| !octet));
                new.fill(true);
                assert_eq!(progress == Progress::Whole, come.iter().all(|octet| *octet));
            }
        }
    }
}
