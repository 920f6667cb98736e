//! What a relay answers, through a client that registers, lists, puts, gets and deletes: no panic; nothing is answered that
//! was not asked, and nothing twice; a slot is said to be filled or emptied only where the relay signed that, about this
//! slot and this content; a content that came has the length of its class.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use toxmail::engine::transfer::{Digest, Digester};
use toxmail::lane::keys::{Class, LaneSeed, RelaySecret, SlotId, SlotKey};
use toxmail::relay::session::{Action, Command, Event, Input, Session};
use toxmail::relay::wire::{Answer, Filled, Hello, MAX_PACKET, MAX_PIECE, Message, SlotOctets, Welcome};

const SECOND: u64 = 1_000_000;
const CLASS: Class = Class::K16;
const SLOTS: u8 = 4;

/// What a slot waits for.
#[derive(Debug, PartialEq)]
enum Asked {
    Put(Digest),
    Get,
    Delete,
}

/// A relay that lies as it is told, its client, and what the client may believe.
struct World {
    session: Session,
    relay: RelaySecret,
    seed: LaneSeed,
    now: u64,
    greeting: Vec<u8>,
    asked: BTreeMap<SlotId, Asked>,
    stored: Vec<(SlotId, Digest, u64)>,
    gone: Vec<SlotId>,
    /// Packets that the client sent in this session.
    sent: u64,
}

fn digest(octets: &[u8]) -> Digest {
    let mut digest = Digester::default();
    digest.update(octets);
    digest.finish()
}

/// A content by its number; none of a slot's two is the other's.
fn content(number: u8) -> Arc<[u8]> {
    vec![number; CLASS.octets()].into()
}

impl World {
    fn new() -> Self {
        let relay = RelaySecret::new(&mut [9; 32]);
        let seed = LaneSeed::new(&mut [7; 32]);
        let session = Session::new(relay.public(), [1; 32]);
        let (asked, stored, gone) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { session, relay, seed, now: 1, greeting: Vec::new(), asked, stored, gone, sent: 0 }
    }

    fn slot(&self, number: u8) -> SlotKey {
        self.seed.slot(&self.relay.public(), CLASS, (number % SLOTS).into())
    }

    fn input(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.session.handle(self.now, input, &mut out);
        self.session.poll(self.now, &mut out);
        out.into_iter().for_each(|action| self.look(action));
    }

    fn look(&mut self, action: Action) {
        match action {
            Action::SendCustom(packet) => self.greeting = packet,
            Action::Send(packet) => {
                assert!(packet.len() <= MAX_PACKET);
                self.sent += 1;
            }
            Action::Tell(Event::Up(_)) => self.sent = 0,
            Action::Tell(Event::Stored { slot, digest, expiry }) => {
                assert_eq!(self.asked.remove(&slot), Some(Asked::Put(digest)));
                assert!(self.stored.contains(&(slot, digest, expiry)), "without a signature");
            }
            Action::Tell(Event::Gone(slot)) => {
                assert_eq!(self.asked.remove(&slot), Some(Asked::Delete));
                assert!(self.gone.contains(&slot), "without a signature");
            }
            Action::Tell(Event::Content(slot, octets)) => {
                assert_eq!(self.asked.remove(&slot), Some(Asked::Get));
                assert_eq!(octets.len(), CLASS.octets());
            }
            Action::Tell(Event::Refused { slot, .. }) => assert!(self.asked.remove(&slot).is_some()),
            Action::Tell(_) => {}
        }
    }

    fn command(&mut self, what: u8, which: u8) {
        let slot = self.slot(which);
        let id = slot.id();
        let command = match what % 6 {
            0 => Command::Register(vec![(id, CLASS)]),
            1 => Command::Unregister(vec![id]),
            2 => Command::List,
            3 => {
                let octets = content(which);
                self.asked.entry(id).or_insert_with(|| Asked::Put(digest(&octets)));
                Command::Put { slot, octets }
            }
            4 => {
                self.asked.entry(id).or_insert(Asked::Get);
                Command::Get(id, CLASS)
            }
            _ => {
                self.asked.insert(id, Asked::Delete);
                Command::Delete(slot)
            }
        };
        self.input(Input::Command(Box::new(command)));
    }

    /// What a relay that keeps to the protocol says to a greeting.
    fn welcome(&mut self) {
        let Some(Ok(hello)) = Hello::from_packet(&self.greeting) else { return };
        let (session, relay) = (hello.session, self.relay.public().0);
        let (retention, quota) = (86_400, 1 << 20);
        let welcome = Welcome { version: 1, session, relay, owner: true, retention, quota, used: 0, max_slots: 100 };
        self.input(Input::CustomPacket(&welcome.to_packet()));
    }

    fn answer(&mut self, answer: &Answer) {
        let mut packet = Vec::new();
        answer.append(&mut packet);
        self.input(Input::Packet(&packet));
    }

    /// Answers that the relay signs, and contents from their first octet to the last.
    fn earnest(&mut self, what: u8, which: u8, octets: &[u8]) {
        let id = self.slot(which).id();
        let slot = SlotOctets(id.0);
        match what % 4 {
            0 => {
                let content = digest(&content(octets.first().copied().unwrap_or(which)));
                let expiry = octets.get(1).copied().unwrap_or(0).into();
                self.stored.push((id, content, expiry));
                let signature = self.relay.sign_stored(&id, &content.0, expiry);
                self.answer(&Answer::Stored(slot, content.0, expiry, signature));
            }
            1 => {
                self.gone.push(id);
                let signature = self.relay.sign_gone(&id);
                self.answer(&Answer::Gone(slot, signature));
            }
            2 => {
                for offset in (0..CLASS.octets()).step_by(MAX_PIECE) {
                    let length = MAX_PIECE.min(CLASS.octets() - offset);
                    self.answer(&Answer::Piece(slot, offset as u64, vec![which; length]));
                }
            }
            _ => self.answer(&Answer::Ack(self.sent)),
        }
    }

    /// An answer about a slot that may have been asked about; its signature is no good.
    fn lie(&mut self, what: u8, which: u8, octets: &[u8]) {
        let slot = SlotOctets(self.slot(which).id().0);
        let number = octets.first_chunk().copied().map_or(0, u16::from_be_bytes);
        let text = || String::from_utf8_lossy(octets).into_owned();
        let signature = octets.first_chunk().copied().unwrap_or([0; 64]);
        self.answer(&match what % 10 {
            0 => Answer::Ack(number.into()),
            1 => Answer::Done(number.into()),
            2 => Answer::Failed(number.into(), which, text()),
            3 => Answer::Continue(slot, number.into()),
            4 => Answer::Stored(slot, digest(&content(which)).0, number.into(), signature),
            5 => Answer::Refused(slot, which, text()),
            6 => Answer::Listed(vec![Filled { slot, number: number.into() }], which > 127),
            7 => Answer::Piece(slot, number.into(), octets[..octets.len().min(MAX_PIECE)].to_vec()),
            8 => Answer::Gone(slot, signature),
            _ => Answer::Arrived(Filled { slot, number: number.into() }),
        });
    }
}

fuzz_target!(|steps: Vec<(u8, &[u8])>| {
    let mut world = World::new();
    world.input(Input::Online);
    world.welcome();
    assert!(world.session.is_up());
    for (kind, octets) in steps {
        let (what, which) = (octets.first().copied().unwrap_or(0), octets.get(1).copied().unwrap_or(0));
        let rest = octets.get(2..).unwrap_or_default();
        match kind % 8 {
            0 => world.input(Input::CustomPacket(octets)),
            1 => world.input(Input::Packet(octets)),
            2 => match what % 4 {
                0 => world.input(Input::Offline),
                1 => world.input(Input::Online),
                2 => world.input(Input::SendFailed),
                _ => world.input(Input::Relayed(which > 127)),
            },
            3 => world.welcome(),
            4 | 5 => world.command(what, which),
            6 => world.earnest(what, which, rest),
            _ => world.lie(what, which, rest),
        }
        world.now += u64::from(kind) * SECOND / 64;
    }
});
