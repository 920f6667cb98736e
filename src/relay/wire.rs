//! The messages between a relay and its owners and visitors (`docs/protocol.md`, "Relays").
//!
//! The client says [`Hello`] in a custom packet, the relay answers with [`Welcome`] in another; then packets flow as
//! messages in both directions: a CBOR sequence of frames, each an array with its type first. Packets that hold any frame but
//! an acknowledgement are counted and acknowledged, as between agents. Unknown frames and further items are skipped, and no
//! length reserves memory.

use std::fmt;
use std::marker::PhantomData;

use minicbor::{Decode, Decoder, Encode};

/// The first octet of the custom packets (lossless range 160 to 191, tox.h). Not that of agents: nobody is both.
pub const HELLO_PACKET: u8 = 184;
/// What follows it.
pub const HELLO_MAGIC: &[u8] = b"toxmail relay";
/// The version of the protocol described here.
pub const VERSION: u8 = 1;
/// The longest packet, in octets (TOX_MAX_MESSAGE_LENGTH).
pub const MAX_PACKET: usize = 1372;
/// The most slots that one [`Request::Register`], [`Request::Unregister`] or [`Answer::Listed`] may name.
pub const MAX_SLOTS: usize = 28;
/// The most octets of content in one piece.
pub const MAX_PIECE: usize = 1280;
/// The longest text, in characters.
pub const MAX_TEXT: usize = 200;

/// Begins a session, anew each time the client has come online or has lost the thread. It is up for the client when it has
/// the [`Welcome`]; then it sends a packet at once, if only [`Request::Ack`] of 0, since the relay says nothing further before
/// it has heard one. The same session said again brings the welcome again, another one begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Versions spoken.
    #[n(0)]
    pub versions: Vec<u8>,
    /// Random; what belongs to another session is ignored.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub session: [u8; 8],
}

/// The relay's answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The version spoken.
    #[n(0)]
    pub version: u8,
    /// The client's session.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub session: [u8; 8],
    /// The relay's Ed25519 key.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub relay: [u8; 32],
    /// Whether the client is an owner here.
    #[n(3)]
    pub owner: bool,
    /// How long content is kept, in seconds.
    #[n(4)]
    pub retention: u64,
    /// For an owner: octets that may lie here.
    #[n(5)]
    pub quota: u64,
    /// For an owner: octets that do.
    #[n(6)]
    pub used: u64,
    /// For an owner: how many slots may be registered.
    #[n(7)]
    pub max_slots: u64,
}

/// A slot in a registration: its name and the number of its class.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Registered {
    /// The slot's name.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub slot: [u8; 32],
    /// [`crate::lane::keys::Class::number`].
    #[n(1)]
    pub class: u8,
}

/// What a client says. Every one may be repeated: the second time it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Request {
    /// So many packets of this session were taken in.
    #[n(0)]
    Ack(#[n(0)] u64),
    /// Owner: these slots may be filled. Answered by [`Answer::Done`] or [`Answer::Failed`] with the number.
    #[n(1)]
    Register(#[n(0)] u32, #[n(1)] Vec<Registered>),
    /// Owner: these slots, which are his, may not be filled any more; what lies in them goes. Answered likewise.
    #[n(2)]
    Unregister(#[n(0)] u32, #[n(1)] Vec<SlotOctets>),
    /// A slot is to be filled: the length of the content (that of its class) and its digest (BLAKE2b-256). Answered by
    /// [`Answer::Continue`], [`Answer::Stored`] or [`Answer::Refused`].
    #[n(3)]
    Put(#[n(0)] SlotOctets, #[n(1)] u64, #[cbor(n(2), with = "minicbor::bytes")] [u8; 32]),
    /// A piece of the content at this offset, in order.
    #[n(4)]
    Piece(#[n(0)] SlotOctets, #[n(1)] u64, #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>),
    /// All of it was sent; the signature is that of [`crate::lane::keys::SlotKey::sign_put`]. Answered by
    /// [`Answer::Stored`] or [`Answer::Refused`].
    #[n(5)]
    Seal(#[n(0)] SlotOctets, #[cbor(n(1), with = "minicbor::bytes")] [u8; 64]),
    /// Owner: which slots are filled, in the order in which they were, after this one's number (0 at first). Answered by
    /// [`Answer::Listed`].
    #[n(6)]
    List(#[n(0)] u64),
    /// Owner: the content from this offset on. Answered by [`Answer::Piece`]s up to its end, or [`Answer::Refused`].
    #[n(7)]
    Get(#[n(0)] SlotOctets, #[n(1)] u64),
    /// The slot is to be empty for good, by [`crate::lane::keys::SlotKey::sign_delete`]. Answered by [`Answer::Gone`] or
    /// [`Answer::Refused`].
    #[n(8)]
    Delete(#[n(0)] SlotOctets, #[cbor(n(1), with = "minicbor::bytes")] [u8; 64]),
}

/// What a relay says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(flat)]
pub enum Answer {
    /// So many packets of this session were taken in.
    #[n(0)]
    Ack(#[n(0)] u64),
    /// The request with this number is carried out, durably.
    #[n(1)]
    Done(#[n(0)] u32),
    /// The request with this number is not carried out.
    #[n(2)]
    Failed(#[n(0)] u32, #[n(1)] u8, #[n(2)] String),
    /// Send the content from this offset on.
    #[n(3)]
    Continue(#[n(0)] SlotOctets, #[n(1)] u64),
    /// The content with this digest is on disk and is kept until then (seconds since the epoch), if it is not removed; with
    /// [`crate::lane::keys::RelaySecret::sign_stored`].
    #[n(4)]
    Stored(
        #[n(0)] SlotOctets,
        #[cbor(n(1), with = "minicbor::bytes")] [u8; 32],
        #[n(2)] u64,
        #[cbor(n(3), with = "minicbor::bytes")] [u8; 64],
    ),
    /// Nothing was done with this slot: a number of [`Code`], and words for people.
    #[n(5)]
    Refused(#[n(0)] SlotOctets, #[n(1)] u8, #[n(2)] String),
    /// Filled slots with their numbers, and whether there are more.
    #[n(6)]
    Listed(#[n(0)] Vec<Filled>, #[n(1)] bool),
    /// A piece of the content at this offset.
    #[n(7)]
    Piece(#[n(0)] SlotOctets, #[n(1)] u64, #[cbor(n(2), with = "minicbor::bytes")] Vec<u8>),
    /// The slot is empty for good; with [`crate::lane::keys::RelaySecret::sign_gone`].
    #[n(8)]
    Gone(#[n(0)] SlotOctets, #[cbor(n(1), with = "minicbor::bytes")] [u8; 64]),
    /// To an owner, unasked: this slot was filled.
    #[n(9)]
    Arrived(#[n(0)] Filled),
}

/// A slot's name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct SlotOctets(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// A slot that is filled.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Filled {
    /// Its name.
    #[n(0)]
    pub slot: SlotOctets,
    /// Grows with every slot of this owner that is filled; not reused.
    #[n(1)]
    pub number: u64,
}

/// Why a relay does not do what it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// No such slot is registered (here and for whoever asks).
    Unknown = 1,
    /// It holds, or has held, something else.
    Taken = 2,
    /// The owner's quota is full.
    Quota = 3,
    /// Not now: too much at once, or the disk does not do it.
    Busy = 4,
    /// A signature, digest or length is wrong.
    Wrong = 5,
    /// Only an owner may.
    Forbidden = 6,
    /// Too many slots.
    Slots = 7,
}

impl Code {
    /// The code with this number; unknown ones count as [`Code::Busy`], as what they mean may pass.
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Unknown,
            2 => Self::Taken,
            3 => Self::Quota,
            5 => Self::Wrong,
            6 => Self::Forbidden,
            7 => Self::Slots,
            _ => Self::Busy,
        }
    }
}

/// What came is not of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed packet: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<minicbor::decode::Error> for Malformed {
    fn from(error: minicbor::decode::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<&str> for Malformed {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Appends `value`; writing to a Vec cannot fail.
fn encode(value: &impl Encode<()>, out: &mut Vec<u8>) {
    minicbor::encode(value, out).expect("encoding into memory does not fail");
}

/// The custom packet that holds `greeting`.
fn greeting(greeting: &impl Encode<()>) -> Vec<u8> {
    let mut packet = vec![HELLO_PACKET];
    packet.extend_from_slice(HELLO_MAGIC);
    encode(greeting, &mut packet);
    packet
}

/// The map in a custom packet of this protocol; `None` for other packets.
fn greeted<'b, T: Decode<'b, ()>>(packet: &'b [u8]) -> Option<Result<T, Malformed>> {
    let map = packet.strip_prefix(&[HELLO_PACKET])?.strip_prefix(HELLO_MAGIC)?;
    Some(minicbor::decode(map).map_err(Malformed::from))
}

impl Hello {
    /// The custom packet.
    pub fn to_packet(&self) -> Vec<u8> {
        greeting(self)
    }

    /// Reads a custom packet; `None` when it is none of this protocol.
    ///
    /// # Errors
    /// It is, but malformed.
    pub fn from_packet(packet: &[u8]) -> Option<Result<Self, Malformed>> {
        greeted(packet)
    }
}

impl Welcome {
    /// The custom packet.
    pub fn to_packet(&self) -> Vec<u8> {
        greeting(self)
    }

    /// Reads a custom packet; `None` when it is none of this protocol.
    ///
    /// # Errors
    /// It is, but malformed.
    pub fn from_packet(packet: &[u8]) -> Option<Result<Self, Malformed>> {
        greeted(packet)
    }
}

/// A frame of one direction: [`Request`] or [`Answer`].
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// The largest type that is known.
    const LAST: u64;

    /// The count, if it is an acknowledgement.
    fn acknowledged(&self) -> Option<u64>;

    /// Holds it against the bounds of its lists and pieces; texts are cut to what people can bear.
    ///
    /// # Errors
    /// It is longer than a frame may be.
    fn bounded(self) -> Result<Self, Malformed>
    where
        Self: Sized;

    /// Appends the frame to a packet if it still fits into it; whether it did.
    fn append(&self, packet: &mut Vec<u8>) -> bool
    where
        Self: Sized,
    {
        let before = packet.len();
        encode(self, packet);
        let fits = packet.len() <= MAX_PACKET;
        if !fits {
            packet.truncate(before);
        }
        fits
    }
}

/// A list of slots, or the content of a piece, that is not too long.
fn within(length: usize, most: usize) -> Result<(), Malformed> {
    if length <= most { Ok(()) } else { Err("a frame names too much".into()) }
}

/// `text` without control characters, not too long.
fn for_people(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

impl Message for Request {
    const LAST: u64 = 8;

    fn acknowledged(&self) -> Option<u64> {
        if let Self::Ack(count) = self { Some(*count) } else { None }
    }

    fn bounded(self) -> Result<Self, Malformed> {
        match &self {
            Self::Register(_, slots) => within(slots.len(), MAX_SLOTS)?,
            Self::Unregister(_, slots) => within(slots.len(), MAX_SLOTS)?,
            Self::Piece(_, _, octets) => within(octets.len(), MAX_PIECE)?,
            _ => {}
        }
        Ok(self)
    }
}

impl Message for Answer {
    const LAST: u64 = 9;

    fn acknowledged(&self) -> Option<u64> {
        if let Self::Ack(count) = self { Some(*count) } else { None }
    }

    fn bounded(self) -> Result<Self, Malformed> {
        Ok(match self {
            Self::Listed(slots, more) => {
                within(slots.len(), MAX_SLOTS)?;
                Self::Listed(slots, more)
            }
            Self::Piece(slot, offset, octets) => {
                within(octets.len(), MAX_PIECE)?;
                Self::Piece(slot, offset, octets)
            }
            Self::Failed(number, code, text) => Self::Failed(number, code, for_people(&text)),
            Self::Refused(slot, code, text) => Self::Refused(slot, code, for_people(&text)),
            other => other,
        })
    }
}

/// Reads the frames of one packet in turn: `None` for one of a later version. After an error nothing follows.
pub struct Messages<'a, T> {
    rest: &'a [u8],
    kind: PhantomData<T>,
}

impl<'a, T: Message> Messages<'a, T> {
    /// The frames of `packet`.
    pub fn new(packet: &'a [u8]) -> Self {
        Self { rest: packet, kind: PhantomData }
    }

    fn message(&mut self) -> Result<Option<T>, Malformed> {
        let mut d = Decoder::new(self.rest);
        d.array()?.filter(|items| *items > 0).ok_or("a frame is an array of known length, with its type first")?;
        let known = d.u64()? <= T::LAST;
        d.set_position(0);
        d.skip()?;
        let (frame, rest) = self.rest.split_at(d.position());
        self.rest = rest;
        if known { minicbor::decode::<T>(frame)?.bounded().map(Some) } else { Ok(None) }
    }
}

impl<T: Message> Iterator for Messages<'_, T> {
    type Item = Result<Option<T>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.message();
        if message.is_err() {
            self.rest = &[];
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        let slot = || any::<[u8; 32]>().prop_map(SlotOctets);
        let registered = (any::<[u8; 32]>(), any::<u8>()).prop_map(|(slot, class)| Registered { slot, class });
        prop_oneof![
            any::<u64>().prop_map(Request::Ack),
            (any::<u32>(), prop::collection::vec(registered, 0..=MAX_SLOTS))
                .prop_map(|(number, slots)| Request::Register(number, slots)),
            (any::<u32>(), prop::collection::vec(slot(), 0..=MAX_SLOTS))
                .prop_map(|(number, slots)| Request::Unregister(number, slots)),
            (slot(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(slot, size, digest)| Request::Put(slot, size, digest)),
            (slot(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..=MAX_PIECE))
                .prop_map(|(slot, offset, octets)| Request::Piece(slot, offset, octets)),
            (slot(), any::<[u8; 64]>()).prop_map(|(slot, signature)| Request::Seal(slot, signature)),
            any::<u64>().prop_map(Request::List),
            (slot(), any::<u64>()).prop_map(|(slot, offset)| Request::Get(slot, offset)),
            (slot(), any::<[u8; 64]>()).prop_map(|(slot, signature)| Request::Delete(slot, signature)),
        ]
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let slot = || any::<[u8; 32]>().prop_map(SlotOctets);
        let filled = || (slot(), any::<u64>()).prop_map(|(slot, number)| Filled { slot, number });
        prop_oneof![
            any::<u64>().prop_map(Answer::Ack),
            any::<u32>().prop_map(Answer::Done),
            (any::<u32>(), any::<u8>(), "[ -~]{0,200}").prop_map(|(n, code, text)| Answer::Failed(n, code, text)),
            (slot(), any::<u64>()).prop_map(|(slot, offset)| Answer::Continue(slot, offset)),
            (slot(), any::<[u8; 32]>(), any::<u64>(), any::<[u8; 64]>())
                .prop_map(|(slot, digest, expiry, signature)| Answer::Stored(slot, digest, expiry, signature)),
            (slot(), any::<u8>(), "[ -~]{0,200}").prop_map(|(slot, code, text)| Answer::Refused(slot, code, text)),
            (prop::collection::vec(filled(), 0..=MAX_SLOTS), any::<bool>())
                .prop_map(|(slots, more)| Answer::Listed(slots, more)),
            (slot(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..=MAX_PIECE))
                .prop_map(|(slot, offset, octets)| Answer::Piece(slot, offset, octets)),
            (slot(), any::<[u8; 64]>()).prop_map(|(slot, signature)| Answer::Gone(slot, signature)),
            filled().prop_map(Answer::Arrived),
        ]
    }

    fn read<T: Message>(packet: &[u8]) -> Result<Vec<Option<T>>, Malformed> {
        Messages::new(packet).collect()
    }

    proptest! {
        #[test]
        fn every_request_fits_a_packet_with_an_ack_and_is_read_as_it_was_written(request in requests()) {
            let mut packet = Vec::new();
            prop_assert!(Request::Ack(u64::MAX).append(&mut packet));
            prop_assert!(request.append(&mut packet), "{} octets", packet.len());
            prop_assert_eq!(read(&packet), Ok(vec![Some(Request::Ack(u64::MAX)), Some(request)]));
        }

        #[test]
        fn every_answer_fits_a_packet_with_an_ack_and_is_read_as_it_was_written(answer in answers()) {
            let mut packet = Vec::new();
            prop_assert!(Answer::Ack(u64::MAX).append(&mut packet));
            prop_assert!(answer.append(&mut packet), "{} octets", packet.len());
            prop_assert_eq!(read(&packet), Ok(vec![Some(Answer::Ack(u64::MAX)), Some(answer)]));
        }

        #[test]
        fn no_octets_make_a_reader_panic(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read::<Request>(&packet), read::<Answer>(&packet));
            let mut custom = vec![HELLO_PACKET];
            custom.extend_from_slice(HELLO_MAGIC);
            custom.extend(packet);
            let _ = (Hello::from_packet(&custom), Welcome::from_packet(&custom));
        }
    }

    #[test]
    fn greetings_are_read_as_they_were_written() {
        let hello = Hello { versions: vec![VERSION, 7], session: [1; 8] };
        assert_eq!(Hello::from_packet(&hello.to_packet()), Some(Ok(hello)));
        let welcome = Welcome {
            version: VERSION,
            session: [1; 8],
            relay: [2; 32],
            owner: true,
            retention: 1,
            quota: u64::MAX,
            used: 3,
            max_slots: 4,
        };
        assert_eq!(Welcome::from_packet(&welcome.to_packet()), Some(Ok(welcome)));
        assert_eq!(Hello::from_packet(b"\xb7toxmail\xa0"), None, "an agent's");
        assert!(Hello::from_packet(b"\xb8toxmail relay\xa0").is_some_and(|hello| hello.is_err()));
    }

    #[test]
    fn what_later_versions_add_is_skipped() {
        // A frame 200 with a map; ACK 5 with two further items; a slot in a registration with a third item.
        let mut packet = b"\x82\x18\xc8\xa1\x01\x82\x02\x03\x84\x00\x05\xf6\x61x".to_vec();
        assert_eq!(read::<Request>(&packet), Ok(vec![None, Some(Request::Ack(5))]));
        packet.extend_from_slice(b"\x83\x01\x09\x81\x83\x58\x20");
        packet.extend_from_slice(&[7; 32]);
        packet.extend_from_slice(b"\x02\x63new");
        let register = Request::Register(9, vec![Registered { slot: [7; 32], class: 2 }]);
        assert_eq!(read(&packet), Ok(vec![None, Some(Request::Ack(5)), Some(register)]));
        let mut hello = b"\xb8toxmail relay\xa3\x00\x81\x01\x01\x48".to_vec();
        hello.extend_from_slice(&[3; 8]);
        hello.extend_from_slice(b"\x18\x63\x80");
        assert_eq!(Hello::from_packet(&hello), Some(Ok(Hello { versions: vec![1], session: [3; 8] })));
    }

    #[test]
    fn what_is_too_long_or_no_frame_is_malformed() {
        let mut packet = Vec::new();
        encode(&Request::Piece(SlotOctets([0; 32]), 0, vec![0; MAX_PIECE + 1]), &mut packet);
        assert!(read::<Request>(&packet).is_err());
        packet.clear();
        encode(&Request::Unregister(0, vec![SlotOctets([0; 32]); MAX_SLOTS + 1]), &mut packet);
        assert!(read::<Request>(&packet).is_err());
        // No array; an empty one; one without end; one cut short; a slot of 31 octets; a type that is no number.
        for wrong in [&b"\x05"[..], b"\x80", b"\x9f\x00\x01\xff", b"\x82\x00", b"\x81\x00", b"\x82\x61a\x01"] {
            assert!(read::<Request>(wrong).is_err(), "{wrong:?}");
        }
        let short = [&b"\x83\x07\x58\x1f"[..], &[0; 31], b"\x00"].concat();
        assert!(read::<Request>(&short).is_err());
        let (mut answer, long) = (Vec::new(), "x\n".repeat(400));
        encode(&Answer::Failed(1, 2, long), &mut answer);
        assert_eq!(read(&answer), Ok(vec![Some(Answer::Failed(1, 2, "x".repeat(MAX_TEXT)))]));
    }
}
