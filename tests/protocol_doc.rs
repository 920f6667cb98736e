//! `docs/protocol.md` must not drift from the code: its CDDL has the numbers of the frames, its table the constants, and
//! its examples are what the codec reads and writes.

use toxmail::engine::transfer::{BURST, Digest, Digester, Encoding, MailId};
use toxmail::engine::wire::{Frame, Frames, HELLO_MAGIC, HELLO_PACKET, Hello, MAX_ADDRESS, MAX_PACKET, Offer, VERSION};
use toxmail::mail::status::Refusal;

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
        let start = format!("\n{name} ");
        let rule = cddl.split(&start).nth(1).unwrap_or_else(|| panic!("no rule for {name}"));
        let rule = rule.trim_start().strip_prefix("= [").expect("an array");
        let items: String = rule.lines().map(|line| line.split(';').next().unwrap_or_default()).collect();
        let items: Vec<&str> = items[..items.find(']').expect("its end")].split(',').map(str::trim).collect();
        assert_eq!(items.last(), Some(&"* any"), "{name}: later versions may add items");
        let mut octets = Vec::new();
        frame.encode(&mut octets);
        assert_eq!(octets[0], 0x80 | (items.len() - 1) as u8, "{name}: number of items");
        assert_eq!(octets[1].to_string(), items[0], "{name}: type");
        assert!(cddl.contains(&format!("/ {name}")) || cddl.contains(&format!("frame = {name}")), "{name}: a frame");
    }
}

#[test]
fn the_constants_are_those_of_the_code() {
    let number = |name: &str| {
        let row = DOC.lines().find(|line| line.starts_with(&format!("| {name} |")));
        let cell = row.unwrap_or_else(|| panic!("no row for {name}")).split('|').nth(2).unwrap_or_default();
        cell.trim().trim_matches('`').replace(',', "")
    };
    assert_eq!(number("protocol version"), VERSION.to_string());
    assert_eq!(number("HELLO's packet number"), HELLO_PACKET.to_string());
    assert_eq!(number("HELLO's magic"), String::from_utf8_lossy(HELLO_MAGIC));
    assert_eq!(number("longest packet"), MAX_PACKET.to_string());
    assert_eq!(number("longest address"), MAX_ADDRESS.to_string());
    assert_eq!(number("longest burst mail"), BURST.to_string());
    assert_eq!(number("longest text of REFUSED"), toxmail::mail::status::MAX_TEXT.to_string());
}
