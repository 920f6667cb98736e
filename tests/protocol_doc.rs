//! `docs/protocol.md` must not drift from the code: its CDDL has the numbers of the frames, its tables the constants and
//! labels, and its examples are what the codec reads and writes.

use std::collections::BTreeSet;

use minicbor::Decoder;
use serde_json::Value;
use toxmail::engine::transfer::{BURST, Digest, Digester, Encoding, MailId, Outcome, TransferRecipient};
use toxmail::engine::wire::{Frame, Frames, HELLO_MAGIC, HELLO_PACKET, Hello, MAX_ADDRESS, MAX_PACKET, Offer, VERSION};
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, LaneSeed, MailSecret};
use toxmail::lane::offer::{LaneId, MAX_OFFER, MAX_RELAYS, Offer as LaneOffer, PreKey};
use toxmail::lane::parcel::{Item, MAX_HEAD, MAX_PARTS, MailHead, Parcel};
use toxmail::lane::seal::OVERHEAD;
use toxmail::mail::status::Refusal;
use toxmail::relay::server::OWNER_SLOTS;
use toxmail::relay::wire::{self, Answer, Code, Filled, Message as _, Request, SlotOctets};

const DOC: &str = include_str!("../docs/protocol.md");

/// The fenced blocks of the document in turn, each with what stands behind its fence.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut parts = DOC.split("\n```");
    parts.next();
    let mut found = Vec::new();
    while let Some(block) = parts.next() {
        found.push(block.split_once('\n').unwrap_or((block, "")));
        parts.next();
    }
    found
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(octet).collect()
}

/// `text` without the blanks outside double quotes.
fn squeeze(text: &str) -> String {
    let mut quoted = false;
    let keep = |c: &char| {
        quoted ^= *c == '"';
        quoted || !c.is_whitespace()
    };
    text.chars().filter(keep).collect()
}

/// The diagnostic notation (RFC 8949 section 8) of a HELLO, squeezed.
fn hello_notation(hello: &Hello) -> String {
    let versions: Vec<String> = hello.versions.iter().map(u8::to_string).collect();
    let declined = hello.declined.as_ref().map(|why| format!(",8:\"{why}\"")).unwrap_or_default();
    let heard = hello.heard.map(|heard| format!("3:h'{}',", hex(&heard))).unwrap_or_default();
    format!(
        "{{1:[{}],2:h'{}',{heard}4:\"{}\",5:{},6:{},7:{}{declined}}}",
        versions.join(","),
        hex(&hello.session),
        hello.software,
        hello.max_size,
        hello.max_transfers,
        hello.max_burst
    )
}

/// The same of a frame.
fn notation(frame: &Frame<'_>) -> String {
    match frame {
        Frame::Ack(count) => format!("[0,{count}]"),
        Frame::Offer(o) => format!(
            "[1,{},h'{}',{},{},h'{}',{},\"{}\",{},{}]",
            o.stream,
            hex(&o.id.0),
            o.size,
            o.wire_size,
            hex(&o.digest.0),
            o.encoding,
            o.sender,
            o.recipients,
            o.deadline
        ),
        Frame::Recipient { stream, index, address } => format!("[2,{stream},{index},\"{address}\"]"),
        Frame::Accept { stream, offset } => format!("[3,{stream},{offset}]"),
        Frame::Data { stream, offset, octets } => format!("[4,{stream},{offset},h'{}']", hex(octets)),
        Frame::Stored { stream, index, duplicate, relayed: false } => format!("[5,{stream},{index},{duplicate}]"),
        Frame::Stored { stream, index, duplicate, relayed } => format!("[5,{stream},{index},{duplicate},{relayed}]"),
        Frame::Refused { stream, index, refusal } => {
            let index = index.map_or("null".to_owned(), |index| index.to_string());
            format!("[6,{stream},{index},\"{}\",\"{}\"]", refusal.status(), refusal.text())
        }
        Frame::Done(id) => format!("[7,h'{}']", hex(&id.0)),
        Frame::Cancel(stream) => format!("[8,{stream}]"),
        Frame::Close(reason) => format!("[9,\"{reason}\"]"),
        Frame::Lane { kind, octets } => format!("[10,{kind},h'{}']", hex(octets)),
        Frame::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn the_examples_are_what_the_codec_reads_and_writes() {
    let blocks = blocks();
    let (mut hellos, mut packets) = (0, 0);
    for (at, (kind, text)) in blocks.iter().enumerate().filter(|(_, (kind, _))| *kind == "hex") {
        let (next, said) = blocks[at + 1];
        assert_eq!((*kind, next), ("hex", "diag"), "an example is followed by what it means");
        let octets = from_hex(text);
        assert!(octets.len() <= MAX_PACKET);
        if let Some(hello) = Hello::from_packet(&octets) {
            let hello = hello.expect("a well-formed HELLO");
            assert_eq!(hello_notation(&hello), squeeze(said));
            assert_eq!(hex(&hello.to_packet()), hex(&octets));
            hellos += 1;
        } else {
            let frames: Vec<Frame<'_>> = Frames::new(&octets).map(|frame| frame.expect("a frame")).collect();
            assert_eq!(frames.iter().map(notation).collect::<String>(), squeeze(said));
            let mut again = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut again));
            assert_eq!(hex(&again), hex(&octets));
            packets += 1;
        }
    }
    assert_eq!((hellos, packets), (4, 6), "the document has lost examples");
}

#[test]
fn the_example_mail_has_the_digest_it_is_offered_with() {
    let (_, text) = *blocks().iter().filter(|(kind, _)| *kind == "hex").nth(3).expect("the mail's packet");
    let octets = from_hex(text);
    let mut offered = None;
    let mut digester = Digester::default();
    let mut length = 0;
    for frame in Frames::new(&octets) {
        match frame.expect("a frame") {
            Frame::Offer(offer) => offered = Some((offer.digest, offer.size, offer.encoding)),
            Frame::Data { octets, .. } => {
                digester.update(octets);
                length += octets.len() as u64;
            }
            _ => {}
        }
    }
    assert_eq!(offered, Some((digester.finish(), length, Encoding::Identity.number())));
}

/// What stands in a rule behind `= [` or `= {`, without comments.
fn rule(cddl: &str, name: &str, open: char) -> String {
    let rule = cddl.lines().skip_while(|line| line.split_once(" = ").is_none_or(|(left, _)| left.trim() != name));
    let rule: Vec<&str> = rule.map(|line| line.split(';').next().unwrap_or_default()).collect();
    let rule = rule.join("\n");
    let (_, rule) = rule.split_once('=').unwrap_or_else(|| panic!("no rule for {name}"));
    rule.trim_start().strip_prefix(open).unwrap_or_else(|| panic!("{name} begins with {open}")).to_owned()
}

/// The items of a rule that is a flat array, without those that later versions may add.
fn array(cddl: &str, name: &str) -> Vec<String> {
    let rule = rule(cddl, name, '[');
    let mut items: Vec<String> =
        rule[..rule.find(']').expect("its end")].split(',').map(|item| item.trim().to_owned()).collect();
    assert_eq!(items.pop().as_deref(), Some("* any"), "{name}: later versions may add items");
    items
}

/// The keys of the first map in a rule.
fn keys(cddl: &str, name: &str, open: char) -> Vec<u64> {
    let rule = rule(cddl, name, open);
    let map = &rule[..rule.find('}').expect("its end")];
    assert!(map.contains("* uint => any"), "{name}: later versions may add keys");
    map.lines().filter_map(|line| line.trim().split_once(':')?.0.rsplit(['{', ' ']).next()?.parse().ok()).collect()
}

#[test]
fn the_cddl_has_the_numbers_and_lengths_of_the_frames() {
    let (_, cddl) = *blocks().iter().find(|(kind, _)| *kind == "cddl").expect("the CDDL");
    let offer = Offer {
        stream: 1,
        id: MailId([0; 16]),
        size: 0,
        wire_size: 0,
        digest: Digest([0; 32]),
        encoding: 0,
        sender: "",
        recipients: 1,
        deadline: 0,
    };
    let refused = Frame::Refused { stream: 1, index: None, refusal: Refusal::temporary(0, 0, "") };
    let frames = [
        ("ack", Frame::Ack(0)),
        ("offer", Frame::Offer(offer)),
        ("recipient", Frame::Recipient { stream: 1, index: 0, address: "" }),
        ("accept", Frame::Accept { stream: 1, offset: 0 }),
        ("data", Frame::Data { stream: 1, offset: 0, octets: b"" }),
        ("stored", Frame::Stored { stream: 1, index: 0, duplicate: false, relayed: true }),
        ("refused", refused),
        ("done", Frame::Done(MailId([0; 16]))),
        ("cancel", Frame::Cancel(1)),
        ("close", Frame::Close("")),
        ("lane", Frame::Lane { kind: 1, octets: b"" }),
    ];
    for (name, frame) in frames {
        let items = array(cddl, name);
        let mut octets = Vec::new();
        frame.encode(&mut octets);
        assert_eq!(octets[0], 0x80 | items.len() as u8, "{name}: number of items");
        assert_eq!(octets[1].to_string(), items[0], "{name}: type");
        assert!(cddl.contains(&format!("/ {name}")) || cddl.contains(&format!("frame = {name}")), "{name}: a frame");
    }
}

/// The number in the row of a table of constants.
fn number(name: &str) -> String {
    let row = DOC.lines().find(|line| line.starts_with(&format!("| {name} |")));
    let cell = row.unwrap_or_else(|| panic!("no row for {name}")).split('|').nth(2).unwrap_or_default();
    cell.trim().trim_matches('`').replace(',', "")
}

#[test]
fn the_constants_are_those_of_the_code() {
    assert_eq!(number("protocol version"), VERSION.to_string());
    assert_eq!(number("HELLO's packet number"), HELLO_PACKET.to_string());
    assert_eq!(number("HELLO's magic"), String::from_utf8_lossy(HELLO_MAGIC));
    assert_eq!(number("longest packet"), MAX_PACKET.to_string());
    assert_eq!(number("longest address"), MAX_ADDRESS.to_string());
    assert_eq!(number("longest burst mail"), BURST.to_string());
    assert_eq!(number("longest text of REFUSED"), toxmail::mail::status::MAX_TEXT.to_string());
}

/// The CDDL of lanes.
fn lanes() -> String {
    let rules = blocks().into_iter().filter(|(kind, text)| *kind == "cddl" && text.contains("lane-offer"));
    rules.map(|(_, text)| text).collect::<Vec<_>>().join("\n")
}

/// The keys of a map that is read until its end, in order.
fn keys_of(d: &mut Decoder<'_>) -> Vec<u64> {
    let entries = d.map().expect("a map").expect("of a known length");
    let mut entry = || {
        let key = d.u64().expect("a number");
        d.skip().expect("its value");
        key
    };
    (0..entries).map(|_| entry()).collect()
}

#[test]
fn the_cddl_of_lanes_has_the_keys_and_lengths_of_the_code() {
    let cddl = lanes();
    let secret = MailSecret::new(&mut [1; 32]);
    let offer = LaneOffer {
        lane: LaneId([2; 16]),
        serial: 1,
        to: PublicKey([3; 32]),
        seed: LaneSeed::new(&mut [4; 32]),
        relays: Vec::new(),
        open: [1; 5],
        pre_key: PreKey { id: 1, key: [5; 32], not_after: 1 },
        max_mail: 1,
        key: secret.public(),
        receipts: true,
    }
    .to_octets(&secret);
    let mut d = Decoder::new(&offer);
    assert_eq!(d.array().ok().flatten(), Some(array(&cddl, "lane-offer").len() as u64));
    assert_eq!(keys_of(&mut Decoder::new(d.bytes().expect("the body"))), keys(&cddl, "lane", '{'));
    let mail = Parcel::Mail(MailHead {
        id: MailId([0; 16]),
        sender: String::new(),
        recipients: vec![TransferRecipient { index: 0, address: "b".to_owned() }],
        size: 1,
        wire_size: 1,
        digest: Digest([0; 32]),
        encoding: Encoding::Identity,
        expires: 1,
    })
    .head();
    let mut d = Decoder::new(&mail);
    assert_eq!((d.array().ok().flatten(), d.u64().ok()), (Some(2), Some(0)));
    assert!(rule(&cddl, "mail-head", '[').starts_with("0, {"));
    assert_eq!(keys_of(&mut d), keys(&cddl, "mail-head", '['));
    let (id, digest) = (MailId([0; 16]), Digest([0; 32]));
    let outcome = || Outcome::Stored { duplicate: false, relayed: false };
    for (name, item) in [
        ("receipt", Item::Receipt { id, digest, index: 0, outcome: outcome(), at: 1 }),
        ("offer", Item::Offer(vec![0].into())),
        ("seen", Item::Seen(1)),
        ("cancel", Item::Cancel(id)),
    ] {
        let items = array(&cddl, name);
        let head = Parcel::Control(vec![item]).head();
        assert_eq!(head[..3], [0x82, 1, 0x81], "a control parcel of one item");
        assert_eq!(head[3], 0x80 | items.len() as u8, "{name}: number of items");
        assert_eq!(head[4].to_string(), items[0], "{name}: type");
        assert!(cddl.contains(&format!("= {name} /")) || cddl.contains(&format!("/ {name}")), "{name}: an item");
    }
    assert_eq!(keys(&cddl, "introduction", '{'), [1, 2, 3]);
    assert_eq!(array(&cddl, "part").len(), 6);
    assert_eq!(array(&cddl, "outcome").len(), 3);
}

#[test]
fn the_constants_of_lanes_are_those_of_the_code() {
    assert_eq!(number("longest offer"), MAX_OFFER.to_string());
    assert_eq!(number("most relays"), MAX_RELAYS.to_string());
    assert_eq!(number("classes"), Class::ALL.map(|class| class.octets().to_string()).join(" "));
    assert_eq!(number("overhead"), OVERHEAD.to_string());
    assert_eq!(number("most parts"), MAX_PARTS.to_string());
    assert_eq!(number("longest head"), MAX_HEAD.to_string());
}

/// The CDDL of relays.
fn relays() -> &'static str {
    blocks().into_iter().find(|(kind, text)| *kind == "cddl" && text.contains("relay-hello")).expect("its CDDL").1
}

#[test]
fn the_cddl_of_relays_has_the_numbers_and_lengths_of_the_frames() {
    let cddl = relays();
    // A slot in a list is an array of its own, which ends the rule for a simple reader.
    let flat = cddl.replace("[* [slot, class: uint8, * any]]", "list").replace("[* slot]", "list");
    let flat = flat.replace("[* filled]", "list");
    let (slot, filled) = (SlotOctets([0; 32]), Filled { slot: SlotOctets([0; 32]), number: 1 });
    let encoded = |name: &str, octets: Vec<u8>| {
        let items = array(&flat, name);
        assert_eq!(octets[0], 0x80 | items.len() as u8, "{name}: number of items");
        assert_eq!(octets[1].to_string(), items[0], "{name}: type");
        assert!(cddl.contains(&format!("/ {name}")) || cddl.contains(&format!("= {name} /")), "{name}: a frame");
    };
    for (name, request) in [
        ("relay-ack", Request::Ack(0)),
        ("register", Request::Register(0, vec![])),
        ("unregister", Request::Unregister(0, vec![])),
        ("put", Request::Put(slot, 0, [0; 32])),
        ("put-piece", Request::Piece(slot, 0, vec![])),
        ("seal", Request::Seal(slot, [0; 64])),
        ("list", Request::List(0)),
        ("get", Request::Get(slot, 0)),
        ("delete", Request::Delete(slot, [0; 64])),
    ] {
        let mut octets = Vec::new();
        assert!(request.append(&mut octets));
        encoded(name, octets);
    }
    for (name, answer) in [
        ("relay-ack", Answer::Ack(0)),
        ("request-done", Answer::Done(0)),
        ("failed", Answer::Failed(0, 0, String::new())),
        ("continue", Answer::Continue(slot, 0)),
        ("slot-stored", Answer::Stored(slot, [0; 32], 0, [0; 64])),
        ("slot-refused", Answer::Refused(slot, 0, String::new())),
        ("listed", Answer::Listed(vec![], false)),
        ("get-piece", Answer::Piece(slot, 0, vec![])),
        ("gone", Answer::Gone(slot, [0; 64])),
        ("arrived", Answer::Arrived(filled)),
    ] {
        let mut octets = Vec::new();
        assert!(answer.append(&mut octets));
        encoded(name, octets);
    }
    let map = |packet: &[u8]| {
        let map = packet.strip_prefix(&[wire::HELLO_PACKET]).and_then(|packet| packet.strip_prefix(wire::HELLO_MAGIC));
        keys_of(&mut Decoder::new(map.expect("packet number and magic")))
    };
    let hello = wire::Hello { versions: vec![1], session: [0; 8] };
    assert_eq!(map(&hello.to_packet()), keys(cddl, "relay-hello", '{'));
    let welcome = wire::Welcome {
        version: 1,
        session: [0; 8],
        relay: [0; 32],
        owner: true,
        retention: 1,
        quota: 1,
        used: 1,
        max_slots: 1,
    };
    assert_eq!(map(&welcome.to_packet()), keys(cddl, "relay-welcome", '{'));
}

#[test]
fn the_constants_and_codes_of_relays_are_those_of_the_code() {
    assert_eq!(number("relay's packet number"), wire::HELLO_PACKET.to_string());
    assert_eq!(number("relay's magic"), String::from_utf8_lossy(wire::HELLO_MAGIC));
    assert_eq!(number("relay's version"), wire::VERSION.to_string());
    assert_eq!(number("most slots named"), wire::MAX_SLOTS.to_string());
    assert_eq!(number("longest piece"), wire::MAX_PIECE.to_string());
    assert_eq!(number("longest text"), wire::MAX_TEXT.to_string());
    assert_eq!(number("most slots"), OWNER_SLOTS.to_string());
    for code in 1..=7 {
        let name = format!("{:?}", Code::from_number(code)).to_lowercase();
        assert!(DOC.contains(&format!("\n| {code} | {name} | ")), "no row for {code}, {name}");
    }
    assert_eq!(Code::from_number(8), Code::Busy);
}

#[test]
fn the_labels_are_those_of_the_code() {
    let code: BTreeSet<&str> = include_str!("../src/lane/keys.rs")
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("toxmail ") && text.ends_with(" 1"))
        .collect();
    let said: BTreeSet<&str> = DOC
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(label, _)| label)
        .filter(|label| label.starts_with("toxmail "))
        .collect();
    assert!(code.len() >= 12, "the labels were not found: {code:?}");
    assert_eq!(said, code);
}

#[test]
fn the_vector_of_lanes_is_one_of_those_that_the_code_is_tested_with() {
    let all: Value = serde_json::from_str(include_str!("data/lane-vectors.json")).expect("the vectors are JSON");
    let (_, text) = *blocks().iter().find(|(kind, _)| *kind == "vector").expect("a vector");
    let lines: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.split_once(" = ")).map(|(name, value)| (name.trim(), value)).collect();
    let fits = |vector: &Value| {
        lines.iter().all(|(name, value)| match &vector[*name] {
            Value::String(text) if *name == "begins" => text.starts_with(value),
            Value::String(text) => text == value,
            Value::Number(number) => number.as_u64() == value.parse().ok(),
            _ => false,
        })
    };
    assert_eq!(all["sealed"].as_array().expect("vectors").iter().filter(|vector| fits(vector)).count(), 1);
    let names = all["sealed"][0].as_object().expect("fields").keys();
    assert!(names.into_iter().all(|name| lines.iter().any(|(said, _)| said == name)), "a field is not told");
}
