//! The client's side of a session with one relay, as owner or visitor (`docs/protocol.md`, "Relays").
//!
//! What is asked of it stays until it is answered, over as many sessions as that takes: every request may be repeated. The
//! relay is not trusted: what it signs is verified against its key and against what was asked, and whatever it sends, only
//! what was asked for takes memory.
//!
//! The owner feeds [`Input`]s with [`Session::handle`], then calls [`Session::poll`], and carries out the [`Action`]s in
//! order.

use std::fmt;
use std::sync::Arc;

use super::wire::{Code, Welcome};
use crate::engine::transfer::Digest;
use crate::lane::keys::{Class, RelayKey, SlotId, SlotKey};

/// What is asked of the relay.
pub enum Command {
    /// Owner: these slots may be filled. Answered by [`Event::Registered`] or [`Event::NotRegistered`], in parts.
    Register(Vec<(SlotId, Class)>),
    /// Owner: these slots may not be filled any more, and what lies in them goes. Answered by [`Event::Unregistered`] or
    /// [`Event::NotUnregistered`], in parts.
    Unregister(Vec<SlotId>),
    /// Fill the slot; the length is that of a class. Answered by [`Event::Stored`] or [`Event::Refused`]. Without effect
    /// while the slot is being filled, fetched or emptied already.
    Put {
        /// Its key.
        slot: SlotKey,
        /// The content.
        octets: Arc<[u8]>,
    },
    /// Owner: which slots are filled. Answered by [`Event::Listed`].
    List,
    /// Owner: fetch the content of a slot. Answered by [`Event::Content`] or [`Event::Refused`]. Without effect while the
    /// slot is being filled, fetched or emptied already.
    Get(SlotId, Class),
    /// Empty the slot for good; takes back a [`Command::Put`] or [`Command::Get`] of it. Answered by [`Event::Gone`] or
    /// [`Event::Refused`].
    Delete(SlotKey),
}

/// Without contents, which are long.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(slots) => f.debug_tuple("Register").field(slots).finish(),
            Self::Unregister(slots) => f.debug_tuple("Unregister").field(slots).finish(),
            Self::Put { slot, octets } => write!(f, "Put({:?}, {} octets)", slot.id(), octets.len()),
            Self::List => f.write_str("List"),
            Self::Get(slot, class) => write!(f, "Get({slot:?}, {class:?})"),
            Self::Delete(slot) => write!(f, "Delete({:?})", slot.id()),
        }
    }
}

/// What the relay has answered, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session is up, with these limits.
    Up(Welcome),
    /// It is over. What was asked and is not answered is asked again in the next one.
    Down,
    /// These slots are registered, durably.
    Registered(Vec<SlotId>),
    /// These are no longer, durably.
    Unregistered(Vec<SlotId>),
    /// These are not registered, and why.
    NotRegistered(Vec<SlotId>, Code, String),
    /// These are registered still, and why.
    NotUnregistered(Vec<SlotId>, Code, String),
    /// The relay has signed that it has the content.
    Stored {
        /// Which slot.
        slot: SlotId,
        /// Digest of the content: that of what was put.
        digest: Digest,
        /// Until when it is kept, in seconds since the epoch.
        expiry: u64,
    },
    /// What was asked about this slot is not done, and is not asked again.
    Refused {
        /// Which slot.
        slot: SlotId,
        /// Why; [`Code::Wrong`] also where the relay's answer was forged or otherwise wrong, [`Code::Busy`] also where it
        /// gave none.
        code: Code,
        /// For people.
        text: String,
    },
    /// The slots that are filled, with their numbers, in the order in which they were: the first list of a session is
    /// complete, a later one has what came after the one before.
    Listed(Vec<(SlotId, u64)>),
    /// The content of a slot; nothing in it is verified but its length.
    Content(SlotId, Vec<u8>),
    /// The relay has signed that the slot is empty for good.
    Gone(SlotId),
    /// The relay says, unasked, that a slot was filled, and its number.
    Arrived(SlotId, u64),
    /// Something about the relay that the operator should know; already limited to one a minute.
    Note(String),
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The relay came online.
    Online,
    /// Whether the way to it leads over a TCP relay of toxcore; told before [`Input::Online`] and when it changes.
    Relayed(bool),
    /// It went offline.
    Offline,
    /// A custom packet of it.
    CustomPacket(&'a [u8]),
    /// A message of it: a packet of the session.
    Packet(&'a [u8]),
    /// A packet that was to be sent was not taken, so the session has a gap. What the actions at hand have after it must not
    /// be sent either, up to the next [`Action::SendCustom`].
    SendFailed,
    /// Something is asked of the relay.
    Command(Command),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a custom packet.
    SendCustom(Vec<u8>),
    /// Send a message of at most 1,372 octets.
    Send(Vec<u8>),
    /// Tell whoever asked.
    Tell(Event),
}

/// The client's side of all sessions with one relay, one after the other. Times are microseconds of any monotonic clock.
pub struct Session {
    relay: RelayKey,
    #[allow(dead_code, reason = "the next commit draws sessions from it")]
    seed: [u8; 32],
}

impl Session {
    /// With the relay that has this key; `seed` is secret and random.
    pub fn new(relay: RelayKey, seed: [u8; 32]) -> Self {
        Self { relay, seed }
    }

    /// Whether a session is up.
    pub fn is_up(&self) -> bool {
        false
    }

    /// Whether anything that was sent is not answered or acknowledged yet.
    pub fn is_busy(&self) -> bool {
        false
    }

    /// Takes in what happened.
    pub fn handle(&mut self, _now: u64, _input: Input<'_>, _out: &mut Vec<Action>) {
        let _ = self.relay;
    }

    /// Sends what may be sent now and looks after what is late. To be called after inputs and at the deadline.
    pub fn poll(&mut self, _now: u64, _out: &mut Vec<Action>) {}

    /// When [`Session::poll`] has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        None
    }
}
