//! How a relay may misbehave: a shelf that does not give back what it was given, and a layer between the relay's engine and
//! its clients. `bad_relay.rs` says what each mode does.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;

use toxmail::engine::transfer::Digest;
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, SlotId};
use toxmail::relay::server::memory::Memory;
use toxmail::relay::server::shelf::{Draft, Owner, Shelf, ShelfError, Slot, State};
use toxmail::relay::wire::{Answer, Filled, Message as _, Messages, Request, SlotOctets};

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Honest,
    Drop,
    Silent,
    Full,
    Swap,
    Truncate,
    Corrupt,
    Reorder,
    Replay,
    Forge,
    Lie,
    Flood,
    Slow,
    Foreign,
}

/// All, by their names.
pub const MODES: [(&str, Mode); 14] = [
    ("honest", Mode::Honest),
    ("drop", Mode::Drop),
    ("silent", Mode::Silent),
    ("full", Mode::Full),
    ("swap", Mode::Swap),
    ("truncate", Mode::Truncate),
    ("corrupt", Mode::Corrupt),
    ("reorder", Mode::Reorder),
    ("replay", Mode::Replay),
    ("forge", Mode::Forge),
    ("lie", Mode::Lie),
    ("flood", Mode::Flood),
    ("slow", Mode::Slow),
    ("foreign", Mode::Foreign),
];
/// How many answers are kept to be replayed.
const REPLAYED: usize = 2000;
/// Octets of a packet that is full enough.
const FULL: usize = 1300;

/// What comes between the relay and its clients; honest unless it says otherwise.
pub trait Layer {
    /// The packets that go out in place of this one of a session.
    fn outgoing(&mut self, _client: PublicKey, packet: Vec<u8>) -> Vec<Vec<u8>> {
        vec![packet]
    }

    /// A session was begun with this client.
    fn welcomed(&mut self, _client: PublicKey) {}

    /// The packet that the relay sees in place of this one.
    fn incoming(&mut self, _client: PublicKey, packet: Vec<u8>) -> Vec<u8> {
        packet
    }
}

/// Octets that nobody knows.
pub fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).expect("randomness");
    octets
}

/// A shelf that does not give back what it was given.
pub struct Distorted {
    /// What it was given.
    pub memory: Memory,
    mode: Mode,
    /// Slots that were ever registered, whose, and of which class.
    known: BTreeMap<SlotId, (PublicKey, Class)>,
    /// The next commits fail.
    pub broken: bool,
}

type Result<T> = std::result::Result<T, ShelfError>;

impl Distorted {
    /// An empty one.
    pub fn new(mode: Mode) -> Self {
        Self { memory: Memory::default(), mode, known: BTreeMap::new(), broken: false }
    }

    /// Another slot of the same class that is filled.
    fn other(&mut self, slot: &SlotId) -> Option<SlotId> {
        let (_, class) = self.known.get(slot)?;
        let others = self.known.iter().filter(|(id, (_, of))| *id != slot && of == class);
        let others: Vec<SlotId> = others.map(|(id, _)| *id).collect();
        let filled = |id: &SlotId| matches!(self.memory.slot(id), Ok(Some(Slot { state: State::Filled { .. }, .. })));
        others.into_iter().find(filled)
    }
}

/// Passes on what the shelf does.
macro_rules! pass_on {
    ($(fn $name:ident(&mut self $(, $argument:ident: $kind:ty)*) -> $result:ty;)+) => { $(
        fn $name(&mut self $(, $argument: $kind)*) -> $result {
            self.memory.$name($($argument),*)
        }
    )+ };
}

impl Shelf for Distorted {
    fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>> {
        let mut list = self.memory.list(owner, after, most)?;
        match self.mode {
            Mode::Drop => list.clear(),
            Mode::Foreign if after == 0 => {
                let foreign = self.known.iter().filter(|(_, (of, _))| of != owner).map(|(id, _)| *id);
                let foreign = foreign.chain((0..20).map(|_| SlotId(random())));
                // Their numbers come before all others, to keep the order.
                let most = most.saturating_sub(list.len());
                list = list.into_iter().map(|(slot, number)| (slot, number + 1_000_000)).collect();
                list.splice(0..0, foreign.take(most).zip(1..));
            }
            Mode::Foreign => {
                list = self
                    .memory
                    .list(owner, after.saturating_sub(1_000_000), most)?
                    .into_iter()
                    .map(|(slot, number)| (slot, number + 1_000_000))
                    .collect()
            }
            _ => {}
        }
        Ok(list)
    }

    fn read(&mut self, slot: &SlotId, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
        match self.mode {
            Mode::Drop => Ok(None),
            Mode::Swap => {
                let slot = self.other(slot).unwrap_or(*slot);
                self.memory.read(&slot, offset, length)
            }
            Mode::Corrupt => {
                let mut octets = self.memory.read(slot, offset, length)?;
                if let Some(octet) = octets.as_mut().and_then(|octets| octets.first_mut()) {
                    *octet ^= 1;
                }
                Ok(octets)
            }
            _ => self.memory.read(slot, offset, length),
        }
    }

    fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()> {
        self.known.insert(*slot, (*owner, class));
        self.memory.register(owner, slot, class)
    }

    fn commit(&mut self) -> Result<()> {
        if self.broken {
            self.memory.roll_back();
            return Err(ShelfError("broken".into()));
        }
        self.memory.commit()
    }

    pass_on! {
        fn owners(&mut self) -> Result<Vec<Owner>>;
        fn add_owner(&mut self, owner: &Owner) -> Result<()>;
        fn see_owner(&mut self, key: &PublicKey, seen: u64) -> Result<()>;
        fn remove_owner(&mut self, key: &PublicKey) -> Result<()>;
        fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()>;
        fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>>;
        fn invites(&mut self, now: u64) -> Result<u64>;
        fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>>;
        fn forget(&mut self, slot: &SlotId) -> Result<()>;
        fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()>;
        fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64>;
        fn begin(&mut self) -> Result<Draft>;
        fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()>;
        fn abandon(&mut self, draft: Draft) -> ();
        fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64>;
        fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>>;
        fn roll_back(&mut self) -> ();
    }
}

/// The layer that does not say what the engine says.
pub struct Distorting {
    mode: Mode,
    /// What was said to anybody.
    said: Vec<Answer>,
    /// Packets held back, for each client.
    held: BTreeMap<PublicKey, Vec<u8>>,
    /// How many packets that count the engine sent in each session: what is added is not known to it.
    sent: BTreeMap<PublicKey, u64>,
}

impl Distorting {
    /// Nothing was said yet.
    pub fn new(mode: Mode) -> Self {
        Self { mode, said: Vec::new(), held: BTreeMap::new(), sent: BTreeMap::new() }
    }

    fn distort(&self, answer: Answer) -> Answer {
        match (self.mode, answer) {
            (Mode::Forge, Answer::Stored(slot, digest, expiry, mut signature)) => {
                signature[0] ^= 1;
                Answer::Stored(slot, digest, expiry, signature)
            }
            (Mode::Forge, Answer::Gone(slot, mut signature)) => {
                signature[63] ^= 1;
                Answer::Gone(slot, signature)
            }
            (Mode::Lie, Answer::Stored(slot, mut digest, expiry, signature)) => {
                digest[0] ^= 1;
                Answer::Stored(slot, digest, expiry, signature)
            }
            (Mode::Lie, Answer::Gone(_, signature)) => Answer::Gone(SlotOctets(random()), signature),
            (Mode::Truncate, Answer::Piece(_, offset, _)) if offset >= 8 << 10 => Answer::Done(u32::MAX),
            (Mode::Foreign, Answer::Arrived(Filled { number, .. })) => {
                Answer::Arrived(Filled { slot: SlotOctets(random()), number })
            }
            // In place of what is not said, something that says nothing.
            (Mode::Silent, Answer::Piece(..) | Answer::Listed(..) | Answer::Arrived(_)) => Answer::Done(u32::MAX),
            (_, answer) => answer,
        }
    }
}

impl Layer for Distorting {
    fn welcomed(&mut self, client: PublicKey) {
        self.sent.remove(&client);
        self.held.remove(&client);
    }

    fn outgoing(&mut self, client: PublicKey, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let answers: Vec<Answer> =
            Messages::new(&packet).map(|answer| answer.expect("of the engine").expect("known")).collect();
        let counts = answers.iter().any(|answer| answer.acknowledged().is_none());
        *self.sent.entry(client).or_default() += u64::from(counts);
        let mut distorted = Vec::new();
        for answer in &answers {
            self.distort(answer.clone()).append(&mut distorted);
        }
        let mut packets = vec![distorted];
        match self.mode {
            Mode::Reorder if counts => match self.held.remove(&client) {
                Some(held) => packets.push(held),
                None => drop(self.held.insert(client, packets.remove(0))),
            },
            Mode::Replay if counts => {
                let again = answers.into_iter().filter(|answer| answer.acknowledged().is_none());
                self.said.extend(again);
                let old = self.said.len().saturating_sub(REPLAYED);
                self.said.drain(..old);
                let mut packet = Vec::new();
                for answer in &self.said {
                    answer.append(&mut packet);
                    if packet.len() > FULL {
                        packets.push(std::mem::take(&mut packet));
                    }
                }
                packets.push(packet);
            }
            Mode::Flood if counts => {
                for number in 0..1000 {
                    let mut packet = Vec::new();
                    Answer::Piece(SlotOctets(random()), number, vec![0; 1000]).append(&mut packet);
                    packets.push(packet);
                }
            }
            _ => {}
        }
        packets.retain(|packet| !packet.is_empty());
        packets
    }

    fn incoming(&mut self, client: PublicKey, packet: Vec<u8>) -> Vec<u8> {
        let sent = self.sent.get(&client).copied().unwrap_or(0);
        let mut known = Vec::new();
        for request in Messages::<Request>::new(&packet) {
            let Ok(Some(request)) = request else { return packet };
            match request {
                Request::Ack(count) => Request::Ack(count.min(sent)).append(&mut known),
                request => request.append(&mut known),
            };
        }
        known
    }
}
