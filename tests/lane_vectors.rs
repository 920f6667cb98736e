//! What `tests/lane_vectors.py` made with PyNaCl, from `docs/protocol.md` and without our code, is what we make and read.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;
use toxmail::engine::transfer::{Digest, Digester, Encoding, MailId, Outcome, TransferRecipient};
use toxmail::identity::tox_id::{PublicKey, ToxId};
use toxmail::lane::invite::{Inbox, InvalidIntroduction, Invitation, Letter, numbers};
use toxmail::lane::keys::{
    Class, InviteCode, LaneSeed, MailKey, MailSecret, PreKeySecret, RelayKey, RelaySecret, SignatureOctets, SlotId,
    ToxSecret,
};
use toxmail::lane::offer::{InvalidOffer, LaneId, Offer, PreKey, RelayRef};
use toxmail::lane::parcel::{Item, MailHead, Parcel, Part};
use toxmail::lane::seal::{open, seal, wrap};
use toxmail::mail::status::{EnhancedStatus, Refusal};

fn vectors() -> Value {
    serde_json::from_str(include_str!("data/lane-vectors.json")).expect("the vectors are JSON")
}

/// The elements of an array that is not empty.
fn list(value: &Value) -> &[Value] {
    let list = value.as_array().expect("an array");
    assert!(!list.is_empty(), "no vectors");
    list
}

fn octets(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().expect("a text").as_bytes()).expect("hexadecimal digits")
}

fn exact<const N: usize>(value: &Value) -> [u8; N] {
    octets(value).try_into().expect("so many octets")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn number32(value: &Value) -> u32 {
    number(value).try_into().expect("a number of 32 bits")
}

fn class(value: &Value) -> Class {
    Class::from_number(number(value).try_into().expect("a small number")).expect("a class")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn digest(octets: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(octets);
    digester.finish()
}

#[test]
fn keys_follow_from_their_secrets() {
    let all = vectors();
    for one in list(&all["keys"]["mail"]) {
        let public = MailSecret::new(&mut exact(&one["secret"])).public();
        assert_eq!(public.octets(), exact(&one["public"]));
        assert_eq!(MailKey::from_octets(&exact(&one["public"])), public);
    }
    let pre_key = &all["keys"]["pre_key"];
    assert_eq!(PreKeySecret::new(&mut exact(&pre_key["secret"])).public(), exact(&pre_key["public"]));
    for one in list(&all["keys"]["relay"]) {
        assert_eq!(RelaySecret::new(&mut exact(&one["secret"])).public(), RelayKey(exact(&one["public"])));
    }
}

#[test]
fn slots_and_their_signatures_are_derived_alike() {
    for one in list(&vectors()["slots"]) {
        let (relay, class) = (RelayKey(exact(&one["relay"])), class(&one["class"]));
        let key = LaneSeed::new(&mut exact(&one["seed"])).slot(&relay, class, number(&one["number"]));
        let (id, size) = (SlotId(exact(&one["id"])), class.octets() as u64);
        assert_eq!(key.id(), id);
        let (content, visitor) = (exact(&one["digest"]), PublicKey(exact(&one["visitor"])));
        let signature = |name: &str| -> SignatureOctets { exact(&one[name]) };
        assert_eq!(key.sign_put(&relay, &content, size), signature("put"));
        assert_eq!(key.sign_delete(&relay), signature("delete"));
        assert_eq!(key.sign_visit(&relay, &visitor), signature("visit"));
        assert!(id.verify_put(&relay, &content, size, &signature("put")));
        assert!(id.verify_delete(&relay, &signature("delete")));
        assert!(id.verify_visit(&relay, &visitor, &signature("visit")));
        let secret = RelaySecret::new(&mut exact(&one["relay_secret"]));
        assert_eq!(secret.sign_stored(&id, &content, number(&one["expiry"])), signature("stored"));
        assert_eq!(secret.sign_gone(&id), signature("gone"));
        assert!(relay.verify_stored(&id, &content, number(&one["expiry"]), &signature("stored")));
        assert!(relay.verify_gone(&id, &signature("gone")));
    }
}

#[test]
fn offers_are_written_and_read_alike() {
    for one in list(&vectors()["offers"]) {
        let secret = MailSecret::new(&mut exact(&one["secret"]));
        let relays = one["relays"].as_array().expect("an array");
        let open = list(&one["open"]).iter().map(number32).collect::<Vec<_>>();
        let offer = Offer {
            lane: LaneId(exact(&one["lane"])),
            serial: number(&one["serial"]),
            to: PublicKey(exact(&one["to"])),
            seed: LaneSeed::new(&mut exact(&one["seed"])),
            relays: relays.iter().map(|one| RelayRef::from_octets(&octets(one)).expect("a relay")).collect(),
            open: open.try_into().expect("five classes"),
            pre_key: PreKey {
                id: number32(&one["pre_key_id"]),
                key: exact(&one["pre_key"]),
                not_after: number(&one["not_after"]),
            },
            max_mail: number(&one["max_mail"]),
            key: secret.public(),
            receipts: one["receipts"].as_bool().expect("true or false"),
        };
        let octets = octets(&one["octets"]);
        assert_eq!(*offer.to_octets(&secret), octets);
        let read = Offer::from_octets(&octets, &offer.to, Some(&secret.public())).expect("a good offer");
        assert_eq!(format!("{read:?}"), format!("{offer:?}"));
        assert_eq!(read.seed.expose(), offer.seed.expose());
    }
}

#[test]
fn parcels_are_written_and_read_alike() {
    let all = vectors();
    let one = &all["mail"];
    let recipient = |pair: &Value| TransferRecipient { index: number32(&pair[0]), address: text(&pair[1]) };
    let name = MailId([3; 16]);
    let mail = MailHead {
        id: name,
        sender: text(&one["sender"]),
        recipients: list(&one["recipients"]).iter().map(recipient).collect(),
        size: number(&one["size"]),
        wire_size: number(&one["wire_size"]),
        digest: Digest(exact(&one["digest"])),
        encoding: Encoding::from_number(number(&one["encoding"]) as u8).expect("an encoding"),
        expires: number(&one["expires"]),
    };
    let one = &all["control"];
    let (id, digest) = (MailId(exact(&one["mail"])), Digest(exact(&one["digest"])));
    let receipt = |index, outcome| Item::Receipt { id, digest, index, outcome, at: number(&one["at"]) };
    let status: EnhancedStatus = text(&one["status"]).parse().expect("a status");
    let items = vec![
        receipt(0, Outcome::Stored { duplicate: false, relayed: true }),
        receipt(300, Outcome::Refused(Refusal::new(status, text(&one["text"])))),
        Item::Offer(octets(&one["offer"]).into()),
        Item::Seen(number(&one["seen"])),
        Item::Cancel(id),
    ];
    let body = mail.wire_size;
    for (parcel, body, kind) in [(Parcel::Mail(mail), body, "mail"), (Parcel::Control(items), 0, "control")] {
        let head = octets(&all[kind]["head"]);
        assert_eq!(parcel.head(), head);
        assert_eq!(Parcel::read(name, head.len() as u64 + body, &head), Ok((parcel, head.len())));
    }
}

#[test]
fn parts_are_sealed_wrapped_and_opened_alike() {
    let mut whole = 0;
    for one in list(&vectors()["sealed"]) {
        let sender = MailSecret::new(&mut exact(&one["sender"]));
        let pre_key_secret = || PreKeySecret::new(&mut exact(&one["pre_key_secret"]));
        let id = number32(&one["pre_key_id"]);
        let pre_key = PreKey { id, key: pre_key_secret().public(), not_after: 0 };
        let seed = LaneSeed::new(&mut exact(&one["seed"]));
        let (relay, class, place) = (RelayKey(exact(&one["relay"])), class(&one["class"]), number(&one["number"]));
        let part = Part {
            parcel: MailId(exact(&one["parcel"])),
            part: number32(&one["part"]),
            parts: number32(&one["parts"]),
            total: number(&one["total"]),
            offset: number(&one["offset"]),
            octets: (0..number(&one["length"])).map(|at| (at % 251) as u8).collect(),
        };
        let blob = wrap(&seal(&sender, &pre_key, &part, class), &seed, &relay, place);
        assert_eq!(HEXLOWER.encode(&blob[..80]), text(&one["begins"]));
        assert_eq!(digest(&blob), Digest(exact(&one["digest"])));
        if let Some(content) = one["content"].as_str() {
            let content = BASE64.decode(content.as_bytes()).expect("base64");
            let secrets = |wanted| (wanted == id).then(pre_key_secret);
            let opened = open(&content, &seed, &relay, class, place, &sender.public(), &secrets);
            assert_eq!(opened, Ok(part));
            whole += 1;
        }
    }
    assert_eq!(whole, 1, "no vector has its whole content");
}

#[test]
fn an_invitation_and_its_answer_are_made_alike() {
    let one = &vectors()["invitation"];
    let (owner, sender) = (MailSecret::new(&mut exact(&one["secret"])), ToxSecret::new(&mut exact(&one["tox_secret"])));
    let relays = list(&one["relays"]).iter().map(|one| RelayRef::from_octets(&octets(one)).expect("a relay"));
    let invitation = Invitation {
        id: ToxId::from_octets(&exact(&one["id"])).expect("a Tox ID"),
        bits: number(&one["bits"]) as u8,
        code: InviteCode(exact(&one["code"])),
        key: owner.public(),
        relays: relays.collect(),
    };
    assert_eq!(invitation.to_string(), text(&one["text"]));
    assert_eq!(text(&one["text"]).parse(), Ok(invitation.clone()));
    assert_eq!(invitation.fields(), text(&one["fields"]));
    let seed = invitation.code.seed(&invitation.id.key());
    assert_eq!(*seed.expose(), exact(&one["seed"]));
    let id = ToxId::new(sender.public(), [0; 4]);
    let letter = Letter::new(&id, &text(&one["words"]), &octets(&one["offer"]), number(&one["day"]));
    let stamp = letter.stamp(&invitation, &sender.public(), 0, 1 << 20).expect("a stamp");
    assert_eq!(stamp, number(&one["stamp"]));
    let (relay, place) = (RelayKey(exact(&one["relay"])), number(&one["number"]));
    assert!(numbers(number(&one["day"])).contains(&place));
    let blob = wrap(&letter.seal(&invitation, &sender, stamp), &seed, &relay, place);
    assert_eq!(digest(&blob), Digest(exact(&one["digest"])));
    // All is well with it but the offer, which is none.
    let own = invitation.id.key();
    let inbox = Inbox { own, secret: &owner, code: invitation.code.clone(), bits: invitation.bits };
    let read = inbox.open(&blob, &relay, place).map(drop);
    assert_eq!(read, Err(InvalidIntroduction::Offer(InvalidOffer::Malformed)));
}
