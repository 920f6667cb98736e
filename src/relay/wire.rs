//! The messages between a relay and its owners and visitors (`docs/protocol.md`, "Relays").
//!
//! The client says [`Hello`] in a custom packet, the relay answers with [`Welcome`] in another; then packets flow as
//! messages in both directions: a CBOR sequence of frames, each an array with its type first. Packets that hold any frame but
//! an acknowledgement are counted and acknowledged, as between agents. Unknown frames and further items are skipped, and no
//! length reserves memory.

use minicbor::{Decode, Encode};

/// The first octet of the custom packets (lossless range 160 to 191, tox.h). Not that of agents: nobody is both.
pub const HELLO_PACKET: u8 = 184;
/// What follows it.
pub const HELLO_MAGIC: &[u8] = b"toxmail relay";
/// The version of the protocol described here.
pub const VERSION: u8 = 1;
/// The most slots that one [`Request::Register`], [`Request::Unregister`] or [`Answer::Listed`] may name.
pub const MAX_SLOTS: usize = 28;
/// The most octets of content in one piece.
pub const MAX_PIECE: usize = 1280;
/// The longest text, in octets.
pub const MAX_TEXT: usize = 200;

/// Begins a session, anew each time the client has come online or has lost the thread.
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
