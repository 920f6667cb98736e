//! The wire: what the octets of HELLO and of the frames mean. `docs/protocol.md` is the specification (CDDL there).
//!
//! A packet is a CBOR sequence (RFC 8742) of frames; a frame is an array whose first item is its type. Unknown frames and
//! further items of a known frame are skipped, every length is bounded by the packet's own.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, decode};

use super::transfer::{Digest, MailId};
use crate::mail::status::{EnhancedStatus, Refusal};

/// The first octet of the custom packet that carries HELLO (lossless range 160 to 191, tox.h).
pub const HELLO_PACKET: u8 = 183;
/// What follows it, so that another program's packet 183 is not taken for ours.
pub const HELLO_MAGIC: &[u8] = b"toxmail";
/// The version of the protocol described here.
pub const VERSION: u8 = 1;
/// The longest packet, in octets (TOX_MAX_MESSAGE_LENGTH).
pub const MAX_PACKET: usize = 1372;
/// The longest address taken, in octets.
pub const MAX_ADDRESS: usize = 512;
/// The longest name of a program, in characters.
const MAX_SOFTWARE: usize = 64;
/// The longest text of a HELLO that declines, in characters.
pub const MAX_DECLINE: usize = 200;
/// The longest word about lanes, in octets.
pub const MAX_WORD: usize = 1200;
/// How many octets a DATA frame needs beside its data, at most.
pub const DATA_OVERHEAD: usize = 1 + 1 + 5 + 9 + 3;

/// Names one session of one side, made anew whenever a link is set up.
pub type Session = [u8; 8];

/// The greeting of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol versions it speaks.
    pub versions: Vec<u8>,
    /// Its session.
    pub session: Session,
    /// The session of the other side that it has heard of.
    pub heard: Option<Session>,
    /// Name and version of the program, for people.
    pub software: String,
    /// The largest mail it takes, in octets.
    pub max_size: u64,
    /// How many transfers it takes at a time.
    pub max_transfers: u32,
    /// How many octets of unanswered burst mail it takes at a time.
    pub max_burst: u64,
    /// It takes no mail of the other side and starts no session: its words why, at most [`MAX_DECLINE`] characters.
    pub declined: Option<String>,
}

/// One message of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// So many packets of this session were taken in (pure ACK packets not counted).
    Ack(u64),
    /// A mail; its recipients follow as [`Frame::Recipient`].
    Offer(Offer<'a>),
    /// A recipient of the mail offered on `stream`.
    Recipient {
        /// The transfer.
        stream: u32,
        /// The recipient's number within the mail.
        index: u32,
        /// The forward-path.
        address: &'a str,
    },
    /// Send the encoded body from `offset` on.
    Accept {
        /// The transfer.
        stream: u32,
        /// How much is there already.
        offset: u64,
    },
    /// A piece of the encoded body.
    Data {
        /// The transfer.
        stream: u32,
        /// Where it belongs; pieces come in order and without gaps.
        offset: u64,
        /// The octets.
        octets: &'a [u8],
    },
    /// The recipient has the mail, durably.
    Stored {
        /// The transfer.
        stream: u32,
        /// Which recipient.
        index: u32,
        /// Whether an earlier attempt had delivered it.
        duplicate: bool,
        /// Whether it was given to another mail system rather than into a mailbox.
        relayed: bool,
    },
    /// The recipient (or, without a number, every recipient not yet answered) does not get the mail.
    Refused {
        /// The transfer.
        stream: u32,
        /// Which recipient.
        index: Option<u32>,
        /// Why.
        refusal: Refusal,
    },
    /// The sender has recorded the answers to all recipients of this mail and will not offer it again.
    Done(MailId),
    /// The sender takes the offer back.
    Cancel(u32),
    /// The other side broke the protocol: the link ends here.
    Close(&'a str),
    /// About mail by relays, between [`crate::lane`]s of both sides: what kind of word, and its octets, at most [`MAX_WORD`].
    Lane {
        /// What kind; those unknown are passed over.
        kind: u64,
        /// What it says.
        octets: &'a [u8],
    },
    /// A frame of a later version.
    Unknown,
}

/// The frame that begins a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Number of the transfer in this session and direction; each is larger than the one before.
    pub stream: u32,
    /// The mail's name.
    pub id: MailId,
    /// Octets of the mail.
    pub size: u64,
    /// Octets of its encoded form.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the encoded form.
    pub encoding: u8,
    /// The reverse-path, empty for `<>`.
    pub sender: &'a str,
    /// How many recipients follow.
    pub recipients: u32,
    /// Seconds until the sender gives up.
    pub deadline: u64,
}

pub(crate) type EncodeError = minicbor::encode::Error<std::convert::Infallible>;

/// Appends what `write` encodes; writing to a Vec cannot fail.
pub(crate) fn encode(out: &mut Vec<u8>, write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Result<(), EncodeError>) {
    write(&mut Encoder::new(out)).expect("encoding into memory does not fail");
}

impl Hello {
    /// The custom packet, at most [`MAX_PACKET`] octets.
    pub fn to_packet(&self) -> Vec<u8> {
        let mut packet = vec![HELLO_PACKET];
        packet.extend_from_slice(HELLO_MAGIC);
        let software = for_people(&self.software, MAX_SOFTWARE);
        encode(&mut packet, |e| {
            e.map(6 + u64::from(self.heard.is_some()) + u64::from(self.declined.is_some()))?;
            e.u8(1)?.array(self.versions.len() as u64)?;
            for version in &self.versions {
                e.u8(*version)?;
            }
            e.u8(2)?.bytes(&self.session)?;
            if let Some(heard) = &self.heard {
                e.u8(3)?.bytes(heard)?;
            }
            e.u8(4)?.str(&software)?;
            e.u8(5)?.u64(self.max_size)?.u8(6)?.u32(self.max_transfers)?.u8(7)?.u64(self.max_burst)?;
            if let Some(declined) = &self.declined {
                e.u8(8)?.str(&for_people(declined, MAX_DECLINE))?;
            }
            Ok(())
        });
        packet
    }

    /// Reads a custom packet; `None` when it is none of ours.
    ///
    /// # Errors
    /// It is ours but malformed.
    pub fn from_packet(packet: &[u8]) -> Option<Result<Self, decode::Error>> {
        let body = packet.strip_prefix(&[HELLO_PACKET])?.strip_prefix(HELLO_MAGIC)?;
        Some(Self::decode(&mut Decoder::new(body)))
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        let missing = || decode::Error::message("a field is missing");
        let session = |d: &mut Decoder<'_>| {
            d.bytes()?.try_into().map_err(|_| decode::Error::message("a session has 8 octets")) as Result<Session, _>
        };
        let (mut versions, mut own, mut heard, mut declined) = (None, None, None, None);
        let (mut software, mut max_size, mut max_transfers, mut max_burst) = (String::new(), None, None, None);
        for _ in 0..definite(d.map()?)? {
            match d.u64()? {
                1 => {
                    let mut list = Vec::new();
                    for _ in 0..definite(d.array()?)? {
                        // A version over 255 is one that we do not speak.
                        list.extend(u8::try_from(d.u64()?).ok());
                    }
                    versions = Some(list);
                }
                2 => own = Some(session(d)?),
                3 => heard = Some(session(d)?),
                4 => software = for_people(d.str()?, MAX_SOFTWARE),
                5 => max_size = Some(d.u64()?),
                6 => max_transfers = Some(d.u32()?),
                7 => max_burst = Some(d.u64()?),
                8 => declined = Some(for_people(d.str()?, MAX_DECLINE)),
                _ => d.skip()?,
            }
        }
        Ok(Self {
            versions: versions.ok_or_else(missing)?,
            session: own.ok_or_else(missing)?,
            heard,
            software,
            max_size: max_size.ok_or_else(missing)?,
            max_transfers: max_transfers.ok_or_else(missing)?,
            max_burst: max_burst.ok_or_else(missing)?,
            declined,
        })
    }
}

/// `text` without control characters, at most so many of them.
fn for_people(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

/// Deterministic encoding has definite lengths only (RFC 8949 section 4.2); each item takes at least one octet, so the
/// loops over them end with the packet.
pub(crate) fn definite(length: Option<u64>) -> Result<u64, decode::Error> {
    length.ok_or_else(|| decode::Error::message("indefinite length"))
}

impl Frame<'_> {
    /// Appends the frame to a packet.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, |e| {
            match self {
                Frame::Ack(count) => e.array(2)?.u8(0)?.u64(*count)?,
                Frame::Offer(offer) => e
                    .array(10)?
                    .u8(1)?
                    .u32(offer.stream)?
                    .bytes(&offer.id.0)?
                    .u64(offer.size)?
                    .u64(offer.wire_size)?
                    .bytes(&offer.digest.0)?
                    .u8(offer.encoding)?
                    .str(offer.sender)?
                    .u32(offer.recipients)?
                    .u64(offer.deadline)?,
                Frame::Recipient { stream, index, address } => {
                    e.array(4)?.u8(2)?.u32(*stream)?.u32(*index)?.str(address)?
                }
                Frame::Accept { stream, offset } => e.array(3)?.u8(3)?.u32(*stream)?.u64(*offset)?,
                Frame::Data { stream, offset, octets } => {
                    e.array(4)?.u8(4)?.u32(*stream)?.u64(*offset)?.bytes(octets)?
                }
                Frame::Stored { stream, index, duplicate, relayed } => {
                    e.array(if *relayed { 5 } else { 4 })?.u8(5)?.u32(*stream)?.u32(*index)?.bool(*duplicate)?;
                    if *relayed {
                        e.bool(true)?;
                    }
                    e
                }
                Frame::Refused { stream, index, refusal } => {
                    e.array(5)?.u8(6)?.u32(*stream)?;
                    match index {
                        Some(index) => e.u32(*index)?,
                        None => e.null()?,
                    };
                    e.str(&refusal.status().to_string())?.str(refusal.text())?
                }
                Frame::Done(id) => e.array(2)?.u8(7)?.bytes(&id.0)?,
                Frame::Cancel(stream) => e.array(2)?.u8(8)?.u32(*stream)?,
                Frame::Close(reason) => e.array(2)?.u8(9)?.str(reason)?,
                Frame::Lane { kind, octets } => e.array(3)?.u8(10)?.u64(*kind)?.bytes(octets)?,
                Frame::Unknown => e.array(1)?.u64(u64::from(u32::MAX))?,
            };
            Ok(())
        });
    }
}

/// Reads the frames of one packet in turn.
pub struct Frames<'a> {
    decoder: Decoder<'a>,
    length: usize,
}

impl<'a> Frames<'a> {
    /// The frames of `packet`.
    pub fn new(packet: &'a [u8]) -> Self {
        Self { decoder: Decoder::new(packet), length: packet.len() }
    }

    fn frame(&mut self) -> Result<Frame<'a>, decode::Error> {
        let d = &mut self.decoder;
        let items = definite(d.array()?)?;
        let need = |count: u64| {
            if items >= count { Ok(items - count) } else { Err(decode::Error::message("the frame is too short")) }
        };
        need(1)?;
        let (frame, further) = match d.u64()? {
            0 => (Frame::Ack(d.u64()?), need(2)?),
            1 => {
                let further = need(10)?;
                let offer = Offer {
                    stream: d.u32()?,
                    id: mail_id(d)?,
                    size: d.u64()?,
                    wire_size: d.u64()?,
                    digest: Digest(
                        d.bytes()?.try_into().map_err(|_| decode::Error::message("a digest has 32 octets"))?,
                    ),
                    encoding: d.u8()?,
                    sender: address(d)?,
                    recipients: d.u32()?,
                    deadline: d.u64()?,
                };
                (Frame::Offer(offer), further)
            }
            2 => {
                let further = need(4)?;
                (Frame::Recipient { stream: d.u32()?, index: d.u32()?, address: address(d)? }, further)
            }
            3 => {
                let further = need(3)?;
                (Frame::Accept { stream: d.u32()?, offset: d.u64()? }, further)
            }
            4 => {
                let further = need(4)?;
                (Frame::Data { stream: d.u32()?, offset: d.u64()?, octets: d.bytes()? }, further)
            }
            5 => {
                let mut further = need(4)?;
                let (stream, index, duplicate) = (d.u32()?, d.u32()?, d.bool()?);
                let relayed = further > 0 && d.datatype()? == Type::Bool && {
                    further -= 1;
                    d.bool()?
                };
                (Frame::Stored { stream, index, duplicate, relayed }, further)
            }
            6 => {
                let further = need(5)?;
                let stream = d.u32()?;
                let index = match d.datatype()? {
                    Type::Null => {
                        d.null()?;
                        None
                    }
                    _ => Some(d.u32()?),
                };
                // An unreadable code is no proof of anything: temporary.
                let status = d.str()?.parse().unwrap_or(EnhancedStatus::new(4, 0, 0));
                (Frame::Refused { stream, index, refusal: Refusal::new(status, d.str()?) }, further)
            }
            7 => (Frame::Done(mail_id(d)?), need(2)?),
            8 => (Frame::Cancel(d.u32()?), need(2)?),
            9 => (Frame::Close(d.str()?), need(2)?),
            10 => {
                let further = need(3)?;
                (Frame::Lane { kind: d.u64()?, octets: d.bytes()? }, further)
            }
            _ => (Frame::Unknown, items - 1),
        };
        for _ in 0..further {
            d.skip()?;
        }
        Ok(frame)
    }
}

fn mail_id(d: &mut Decoder<'_>) -> Result<MailId, decode::Error> {
    d.bytes()?.try_into().map(MailId).map_err(|_| decode::Error::message("a mail id has 16 octets"))
}

/// Whether the frames can carry `text` as an address.
pub fn is_address(text: &str) -> bool {
    text.len() <= MAX_ADDRESS && !text.chars().any(char::is_control)
}

fn address<'a>(d: &mut Decoder<'a>) -> Result<&'a str, decode::Error> {
    let text = d.str()?;
    if !is_address(text) {
        return Err(decode::Error::message("an address is too long or holds a control character"));
    }
    Ok(text)
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, decode::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.decoder.position() >= self.length {
            return None;
        }
        let frame = self.frame();
        if frame.is_err() {
            self.decoder.set_position(self.length);
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example_frames() -> Vec<Frame<'static>> {
        vec![
            Frame::Ack(u64::MAX),
            Frame::Offer(Offer {
                stream: 7,
                id: MailId([1; 16]),
                size: 5000,
                wire_size: 4000,
                digest: Digest([2; 32]),
                encoding: 1,
                sender: "grå@exämple.se",
                recipients: 2,
                deadline: 432_000,
            }),
            Frame::Recipient { stream: 7, index: 1, address: "\"b b\"@tox.alt" },
            Frame::Accept { stream: 7, offset: 1 << 40 },
            Frame::Data { stream: u32::MAX, offset: u64::MAX, octets: b"\0\r\n" },
            Frame::Lane { kind: 1, octets: b"\0\x01" },
            Frame::Stored { stream: 7, index: 0, duplicate: true, relayed: false },
            Frame::Stored { stream: 7, index: 1, duplicate: false, relayed: true },
            Frame::Refused { stream: 7, index: None, refusal: Refusal::permanent(1, 1, "no such user") },
            Frame::Refused { stream: 7, index: Some(3), refusal: Refusal::temporary(3, 1, "disk full") },
            Frame::Done(MailId([9; 16])),
            Frame::Cancel(3),
            Frame::Close("why"),
            Frame::Unknown,
        ]
    }

    #[test]
    fn frames_and_hello_survive_the_wire() {
        let frames = example_frames();
        let mut packet = Vec::new();
        for frame in &frames {
            frame.encode(&mut packet);
        }
        let read: Result<Vec<_>, _> = Frames::new(&packet).collect();
        assert_eq!(read.expect("all frames are read"), frames);

        let mut hello = Hello {
            versions: vec![1, 2],
            session: [3; 8],
            heard: Some([4; 8]),
            software: "toxmail 0.1.0".into(),
            max_size: 1 << 30,
            max_transfers: 256,
            max_burst: 1 << 22,
            declined: None,
        };
        for (heard, declined) in [(Some([4; 8]), None), (None, None), (None, Some("no".to_owned()))] {
            (hello.heard, hello.declined) = (heard, declined);
            assert_eq!(Hello::from_packet(&hello.to_packet()).expect("ours").expect("well formed"), hello);
        }
        assert!(Hello::from_packet(b"\xb7other").is_none() && Hello::from_packet(b"").is_none());
    }

    #[test]
    fn further_items_and_unknown_frames_are_skipped() {
        let mut packet = Vec::new();
        encode(&mut packet, |e| {
            e.array(4)?.u8(8)?.u32(5)?.str("later")?.array(1)?.u8(1)?;
            e.array(5)?.u8(5)?.u32(5)?.u32(1)?.bool(false)?.str("not a truth")?;
            e.array(3)?.u16(300)?.bytes(b"x")?.null()?;
            Ok(())
        });
        Frame::Ack(1).encode(&mut packet);
        let read: Result<Vec<_>, _> = Frames::new(&packet).collect();
        let stored = Frame::Stored { stream: 5, index: 1, duplicate: false, relayed: false };
        assert_eq!(read.expect("read"), [Frame::Cancel(5), stored, Frame::Unknown, Frame::Ack(1)]);
    }

    #[test]
    fn a_data_frame_fits_its_stated_overhead() {
        let octets = vec![0u8; 1300];
        let mut packet = Vec::new();
        Frame::Data { stream: u32::MAX, offset: u64::MAX, octets: &octets }.encode(&mut packet);
        assert!(packet.len() <= octets.len() + DATA_OVERHEAD);
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_panic(octets in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let _ = Frames::new(&octets).count();
            let mut hello = vec![HELLO_PACKET];
            hello.extend_from_slice(HELLO_MAGIC);
            hello.extend_from_slice(&octets);
            let _ = Hello::from_packet(&hello);
        }

        #[test]
        fn damaged_frames_are_read_without_panic(at in 0usize..400, value: u8, cut in 0usize..400) {
            let mut packet = Vec::new();
            for frame in example_frames() {
                frame.encode(&mut packet);
            }
            let length = packet.len();
            packet[at % length] = value;
            packet.truncate(length - cut % length);
            prop_assert!(Frames::new(&packet).count() <= 400);
        }
    }
}
