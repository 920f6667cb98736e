//! A relay on real Tox that misbehaves, for the end-to-end tests: `bad_relay MODE [HOST:PORT:KEY]`.
//!
//! It is the production engine over a shelf in memory, with a layer between that distorts what it keeps or says. HOST, PORT
//! and KEY (hexadecimal) are a bootstrap node's. It prints two lines, its descriptor with an invite (so that who holds it
//! becomes an owner) and `PORT KEY`, by which others can enter the network through it; then it runs until its standard input
//! ends. Every line it reads has it print one more invite. Modes:
//!
//! | mode | what it does |
//! |---|---|
//! | `honest` | everything right |
//! | `drop` | signs STORED and forgets: it lists nothing, and every GET is refused |
//! | `silent` | the same, and answers no GET and no LIST at all |
//! | `full` | refuses every content: the owner's quota is used up |
//! | `swap` | hands out the content of another filled slot of the same class, where there is one |
//! | `truncate` | hands out the first 8 KiB of a content and nothing more |
//! | `corrupt` | hands out contents with one octet changed |
//! | `reorder` | swaps each two packets; the last one waits until there is another |
//! | `replay` | says every answer of this and earlier sessions again, to everybody |
//! | `forge` | signs STORED and GONE wrongly |
//! | `lie` | signs STORED for another content, and GONE for another slot, than was asked for |
//! | `flood` | says a thousand times as much as it is asked for |
//! | `slow` | sends one packet every two seconds |
//! | `foreign` | lists, and says to have arrived, slots that the owner never registered and those of other owners |

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool of the tests")]

#[path = "tox_relay.rs"]
mod tox_relay;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use tox_relay::{Layer, ToxRelay, options};
use toxmail::engine::transfer::Digest;
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, RelaySecret, SlotId};
use toxmail::relay::server::memory::Memory;
use toxmail::relay::server::shelf::{Draft, Owner, Shelf, ShelfError, Slot, State};
use toxmail::relay::server::{Limits, Server};
use toxmail::relay::wire::{Answer, Filled, Message as _, Messages, Request, SlotOctets};
use toxmail::tox::Tox;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
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

const MODES: [(&str, Mode); 14] = [
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

fn main() {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let Some((_, mode)) = MODES.into_iter().find(|(name, _)| *name == mode) else {
        let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: bad_relay {} [HOST:PORT:KEY]", names.join("|"));
        std::process::exit(2);
    };
    let mut tox = Tox::new(&options(), None).unwrap();
    if let Some(node) = args.next() {
        let mut parts = node.rsplitn(3, ':');
        let key: [u8; 32] = HEXLOWER_PERMISSIVE.decode(parts.next().unwrap().as_bytes()).unwrap().try_into().unwrap();
        let port = parts.next().unwrap().parse().unwrap();
        assert!(tox.bootstrap(parts.next().unwrap(), port, &[], &PublicKey(key)));
    }
    let limits = Limits {
        open: false,
        max_disk: 1 << 30,
        owner_quota: if mode == Mode::Full { 0 } else { 256 << 20 },
        max_owners: 100,
        retention: 30 * 86_400,
    };
    let shelf = Distorted { memory: Memory::default(), mode };
    let server = Server::new(shelf, RelaySecret::new(&mut random()), limits).unwrap();
    let (port, key) = tox.node().unwrap();
    let mut relay = ToxRelay::new(tox, server);
    if mode == Mode::Slow {
        relay.pace = Duration::from_secs(2);
    }
    let invite = relay.invite(random());
    println!("{}", relay.descriptor().with_invite(&invite));
    println!("{port} {}", HEXLOWER.encode(&key.0));
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(|line| line.ok()).try_for_each(|line| tell.send(line))
    });
    let mut layer = Distorting { mode, said: Vec::new(), held: BTreeMap::new(), sent: BTreeMap::new() };
    loop {
        relay.turn(&mut layer);
        match lines.try_recv() {
            Ok(_) => {
                let invite = relay.invite(random());
                println!("{}", relay.descriptor().with_invite(&invite));
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).unwrap();
    octets
}

/// A shelf that does not give back what it was given.
struct Distorted {
    memory: Memory,
    mode: Mode,
}

type Result<T> = std::result::Result<T, ShelfError>;

impl Distorted {
    /// Another slot of the same class that is filled.
    fn other(&self, slot: &SlotId) -> Option<SlotId> {
        let class = self.memory.slots().find(|(id, _)| *id == slot)?.1.class;
        let filled = |known: &Slot| known.class == class && matches!(known.state, State::Filled { .. });
        self.memory.slots().find(|(id, known)| *id != slot && filled(known)).map(|(id, _)| *id)
    }
}

impl Shelf for Distorted {
    fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>> {
        let mut list = self.memory.list(owner, after, most)?;
        match self.mode {
            Mode::Drop => list.clear(),
            Mode::Foreign if after == 0 => {
                let foreign = self.memory.slots().filter(|(_, slot)| slot.owner != *owner).map(|(id, _)| *id);
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

    fn owners(&mut self) -> Result<Vec<Owner>> {
        self.memory.owners()
    }

    fn set_owner(&mut self, key: &PublicKey, quota: Option<u64>, invited: bool, seen: u64) -> Result<()> {
        self.memory.set_owner(key, quota, invited, seen)
    }

    fn remove_owner(&mut self, key: &PublicKey) -> Result<()> {
        self.memory.remove_owner(key)
    }

    fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()> {
        self.memory.add_invite(hash, quota, expires)
    }

    fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>> {
        self.memory.take_invite(hash, now)
    }

    fn invites(&mut self, now: u64) -> Result<u64> {
        self.memory.invites(now)
    }

    fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>> {
        self.memory.slot(slot)
    }

    fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()> {
        self.memory.register(owner, slot, class)
    }

    fn forget(&mut self, slot: &SlotId) -> Result<()> {
        self.memory.forget(slot)
    }

    fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()> {
        self.memory.empty(slot, until)
    }

    fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64> {
        self.memory.forget_gone(owner, most)
    }

    fn begin(&mut self) -> Result<Draft> {
        self.memory.begin()
    }

    fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()> {
        self.memory.append(draft, octets)
    }

    fn abandon(&mut self, draft: Draft) {
        self.memory.abandon(draft);
    }

    fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64> {
        self.memory.fill(slot, draft, digest, expires)
    }

    fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>> {
        self.memory.ended(now, most)
    }

    fn commit(&mut self) -> Result<()> {
        self.memory.commit()
    }

    fn roll_back(&mut self) {
        self.memory.roll_back();
    }
}

/// The layer that does not say what the engine says.
struct Distorting {
    mode: Mode,
    /// What was said to anybody.
    said: Vec<Answer>,
    /// Packets held back, for each client.
    held: BTreeMap<PublicKey, Vec<u8>>,
    /// How many packets that count the engine sent in each session: what is added is not known to it.
    sent: BTreeMap<PublicKey, u64>,
}

impl Distorting {
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
        answers.iter().for_each(|answer| drop(self.distort(answer.clone()).append(&mut distorted)));
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
