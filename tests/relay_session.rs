//! The client's side of a session against the relay's, over lines that break, a disk that fails, and with every way in which
//! a relay may misbehave. No network: packets arrive in order, or are lost with the session.

#[path = "support/distort.rs"]
mod distort;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use distort::{Distorted, Distorting, Layer as _, MODES, Mode};
use proptest::prelude::*;
use toxmail::engine::transfer::{Digest, Digester};
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, LaneSeed, RelaySecret, SlotId, SlotKey};
use toxmail::relay::descriptor::{Admission, Invite};
use toxmail::relay::server::shelf::{Shelf as _, Slot, State};
use toxmail::relay::server::{self, Limits, Now, Server};
use toxmail::relay::session::{Action, Command, Event, Input, Session};

const SECOND: u64 = 1_000_000;
/// The owner, and who fills its slots.
const OWNER: usize = 0;
const VISITOR: usize = 1;

fn secret() -> RelaySecret {
    RelaySecret::new(&mut [5; 32])
}

fn key(number: u64) -> SlotKey {
    LaneSeed::new(&mut [7; 32]).slot(&secret().public(), Class::K16, number)
}

/// A content of its own for each number.
fn content(class: Class, number: u64) -> Arc<[u8]> {
    (0..class.octets()).map(|at| (at as u64 / 7 + number * 31) as u8).collect()
}

fn digest(octets: &[u8]) -> Digest {
    let mut digest = Digester::default();
    digest.update(octets);
    digest.finish()
}

/// One client, with the line between it and the relay.
struct Guest {
    who: PublicKey,
    session: Session,
    admission: Admission,
    online: bool,
    /// Packets on their way, custom ones marked.
    up: VecDeque<(bool, Vec<u8>)>,
    down: VecDeque<(bool, Vec<u8>)>,
    events: Vec<Event>,
}

impl Guest {
    fn poll(&mut self, now: u64, mut out: Vec<Action>) {
        self.session.poll(now, &mut out);
        for action in out {
            match action {
                Action::SendCustom(packet) if self.online => self.up.push_back((true, packet)),
                Action::Send(packet) if self.online => self.up.push_back((false, packet)),
                Action::Tell(event) => self.events.push(event),
                Action::Send(_) | Action::SendCustom(_) => {}
            }
        }
    }

    fn count(&self, of: fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| of(event)).count()
    }
}

/// A relay with an owner and a visitor.
struct World {
    server: Server<Distorted>,
    layer: Distorting,
    now: u64,
    /// Microseconds from one packet of a line to the next.
    pace: u64,
    guests: [Guest; 2],
}

impl World {
    /// The owner is online and has registered slots of these classes; the visitor is there to fill them.
    fn new(mode: Mode, classes: &[Class]) -> Self {
        let owner_quota = if mode == Mode::Full { 0 } else { 16 << 20 };
        let limits = Limits { open: false, max_disk: 1 << 30, owner_quota, max_owners: 1, retention: 30 * 86_400 };
        let mut server = Server::new(Distorted::new(mode), secret(), limits).expect("in memory");
        let invite = Invite([3; 16]);
        server.invite(Now { micros: 1, seconds: 1 }, &invite, None).expect("in memory");
        let guest = |number: u8, admission| Guest {
            who: PublicKey([number; 32]),
            session: Session::new(secret().public(), [number; 32]),
            admission,
            online: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            events: Vec::new(),
        };
        let visit = Admission::visitor(&key(0), &secret().public(), &PublicKey([2; 32]));
        let guests = [guest(1, Admission::Owner(Some(invite))), guest(2, visit)];
        let pace = if mode == Mode::Slow { 2 * SECOND } else { 1000 };
        let mut world = Self { server, layer: Distorting::new(mode), now: 1, pace, guests };
        world.connect(OWNER);
        let slots = classes.iter().zip(0..).map(|(class, number)| (key(number).id(), *class));
        world.command(OWNER, Command::Register(slots.collect()));
        world.settle();
        world.connect(VISITOR);
        world
    }

    fn serve(&mut self, input: server::Input<'_>) {
        let now = Now { micros: self.now, seconds: 1 + self.now / SECOND };
        let mut out = Vec::new();
        self.server.handle(now, input, &mut out);
        self.turn(out);
    }

    /// What the relay does of itself.
    fn turn(&mut self, mut out: Vec<server::Action>) {
        let now = Now { micros: self.now, seconds: 1 + self.now / SECOND };
        // A shelf that fails says so to the clients; the relay goes on.
        let _ = self.server.poll(now, &mut out);
        for action in out {
            let (client, packets) = match action {
                server::Action::SendCustom { client, packet } => {
                    self.layer.welcomed(client);
                    (client, vec![(true, packet)])
                }
                server::Action::Send { client, packet } => {
                    let packets = self.layer.outgoing(client, packet).into_iter();
                    (client, packets.map(|packet| (false, packet)).collect())
                }
                _ => continue,
            };
            let guest = self.guests.iter_mut().find(|guest| guest.who == client).expect("a guest");
            if guest.online {
                guest.down.extend(packets);
            }
        }
    }

    fn input(&mut self, guest: usize, input: Input<'_>) {
        let mut out = Vec::new();
        self.guests[guest].session.handle(self.now, input, &mut out);
        self.guests[guest].poll(self.now, out);
    }

    fn command(&mut self, guest: usize, command: Command) {
        self.input(guest, Input::Command(Box::new(command)));
    }

    /// Asks to be let in, and is online if that is granted.
    fn connect(&mut self, guest: usize) {
        let Guest { who, admission, .. } = &self.guests[guest];
        let (client, text) = (*who, admission.to_string());
        self.serve(server::Input::Asked(client, text.as_bytes()));
        if self.server.is_client(&client) {
            self.guests[guest].online = true;
            self.serve(server::Input::Online { client, tcp: false });
            self.input(guest, Input::Online);
        }
    }

    /// The line breaks: what is on its way is lost.
    fn disconnect(&mut self, guest: usize) {
        let Guest { who, up, down, online, .. } = &mut self.guests[guest];
        (*online, *up, *down) = (false, VecDeque::new(), VecDeque::new());
        let who = *who;
        self.serve(server::Input::Offline(who));
        self.input(guest, Input::Offline);
    }

    /// Lets one packet arrive in each direction.
    fn step(&mut self, guest: usize) {
        self.now += self.pace;
        let who = self.guests[guest].who;
        // Who was cut off asks again.
        if !self.server.is_client(&who) || !self.guests[guest].online {
            self.now += 20 * SECOND;
            self.disconnect(guest);
            return self.connect(guest);
        }
        match self.guests[guest].up.pop_front() {
            Some((true, packet)) => self.serve(server::Input::CustomPacket(who, &packet)),
            Some((false, packet)) => {
                let packet = self.layer.incoming(who, packet);
                self.serve(server::Input::Packet(who, &packet));
            }
            None => self.turn(Vec::new()),
        }
        match self.guests[guest].down.pop_front() {
            Some((true, packet)) => self.input(guest, Input::CustomPacket(&packet)),
            Some((false, packet)) => self.input(guest, Input::Packet(&packet)),
            None => self.guests[guest].poll(self.now, Vec::new()),
        }
    }

    /// Lets everything be answered and arrive.
    fn settle(&mut self) {
        for _ in 0..1_000_000 {
            let quiet = |guest: &Guest| guest.up.is_empty() && guest.down.is_empty() && !guest.session.is_waiting();
            if self.guests.iter().all(quiet) {
                return;
            }
            for guest in 0..self.guests.len() {
                if self.guests[guest].session.is_waiting() || self.guests[guest].online {
                    self.step(guest);
                }
            }
            if self.guests.iter().all(|guest| guest.up.is_empty() && guest.down.is_empty()) {
                let deadlines = self.guests.iter().filter_map(|guest| guest.session.deadline());
                self.now = deadlines.min().unwrap_or(self.now).max(self.now);
            }
        }
        panic!("it does not come to an end");
    }

    fn put_all(&mut self, classes: &[Class]) {
        for (class, number) in classes.iter().zip(0..) {
            let octets = content(*class, number);
            self.command(VISITOR, Command::Put { slot: key(number), octets });
        }
    }

    fn slot(&mut self, slot: &SlotId) -> Option<Slot> {
        self.server.shelf_mut().memory.slot(slot).expect("in memory")
    }
}

#[test]
fn a_visitor_fills_what_an_owner_registered_and_the_owner_fetches_and_removes_it() {
    let classes = [Class::K16; 40];
    let mut world = World::new(Mode::Honest, &classes);
    world.put_all(&classes);
    world.settle();
    assert_eq!(world.guests[VISITOR].count(|event| matches!(event, Event::Stored { .. })), 40);
    assert_eq!(world.guests[OWNER].count(|event| matches!(event, Event::Arrived(..))), 40);
    world.command(OWNER, Command::List);
    world.settle();
    let Some(Event::Listed(listed)) = world.guests[OWNER].events.pop() else { panic!("no list") };
    assert_eq!(listed.len(), 40);
    for (slot, _) in &listed {
        world.command(OWNER, Command::Get(*slot, Class::K16));
    }
    world.settle();
    for number in 0..40 {
        let whole = Event::Content(key(number).id(), content(Class::K16, number).to_vec());
        assert!(world.guests[OWNER].events.contains(&whole), "slot {number}");
        world.command(OWNER, Command::Delete(key(number)));
    }
    world.settle();
    assert_eq!(world.guests[OWNER].count(|event| matches!(event, Event::Gone(_))), 40);
    assert_eq!(world.server.totals().used, 0);
    assert!(world.guests.iter().all(|guest| guest.count(|event| matches!(event, Event::Note(_))) == 0));
}

/// Whatever a relay does: everything asked has one answer in the end; what it had to sign is true, and nothing is believed
/// that was not signed; and of a relay that only forgets, delays or adds, every content that comes is right.
#[test]
fn no_misbehaviour_has_a_client_believe_what_is_not_so_or_wait_for_ever() {
    let classes = [Class::K16, Class::K128, Class::K16, Class::K16, Class::K128, Class::K16, Class::K16];
    for (name, mode) in MODES {
        let mut world = World::new(mode, &classes);
        world.put_all(&classes);
        world.settle();
        let stored: BTreeMap<SlotId, Digest> = world.guests[VISITOR]
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Stored { slot, digest, .. } => Some((*slot, *digest)),
                _ => None,
            })
            .collect();
        for (slot, digest) in &stored {
            let state = world.slot(slot).expect("registered").state;
            assert!(matches!(state, State::Filled { digest: has, .. } if has == *digest), "{name}");
        }
        let refused = world.guests[VISITOR].count(|event| matches!(event, Event::Refused { .. }));
        assert_eq!(stored.len() + refused, classes.len(), "{name}: one answer each");
        let none = matches!(mode, Mode::Full | Mode::Forge | Mode::Lie);
        // Of these some answers come before they are cut off, or too late.
        let some = matches!(mode, Mode::Replay | Mode::Reorder | Mode::Flood | Mode::Slow);
        let right = if none { stored.is_empty() } else { some || stored.len() == classes.len() };
        assert!(right, "{name}: {} stored", stored.len());

        world.command(OWNER, Command::List);
        for (class, number) in classes.iter().zip(0..) {
            world.command(OWNER, Command::Get(key(number).id(), *class));
        }
        world.settle();
        let mut answered = BTreeSet::new();
        for event in &world.guests[OWNER].events {
            match event {
                Event::Content(slot, octets) => {
                    assert!(answered.insert(*slot), "{name}");
                    let number = (0..).find(|number| key(*number).id() == *slot).expect("one that was asked for");
                    let class = classes[usize::try_from(number).expect("few")];
                    let same = octets[..] == content(class, number)[..];
                    assert!(same || matches!(mode, Mode::Swap | Mode::Corrupt), "{name}: slot {number}");
                }
                Event::Refused { slot, .. } => assert!(answered.insert(*slot), "{name}"),
                _ => {}
            }
        }
        assert_eq!(answered.len(), classes.len(), "{name}");
        if matches!(mode, Mode::Honest | Mode::Foreign) {
            let contents = world.guests[OWNER].count(|event| matches!(event, Event::Content(..)));
            assert_eq!(contents, classes.len(), "{name}: all contents");
        }

        world.guests[OWNER].events.clear();
        (0..classes.len() as u64).for_each(|number| world.command(OWNER, Command::Delete(key(number))));
        world.settle();
        let events = std::mem::take(&mut world.guests[OWNER].events);
        let gone: Vec<SlotId> =
            events.iter().filter_map(|event| if let Event::Gone(slot) = event { Some(*slot) } else { None }).collect();
        for slot in &gone {
            assert!(matches!(world.slot(slot), Some(Slot { state: State::Gone(_), .. })), "{name}");
        }
        assert!(gone.is_empty() || !matches!(mode, Mode::Forge | Mode::Lie), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// However often the line or the relay's disk fails, in the end every content is stored, or is refused and is not there.
    #[test]
    fn lost_sessions_lose_nothing(
        faults in prop::collection::vec((0..2usize, 1..400u32, any::<bool>()), 0..12),
    ) {
        let classes = [Class::K16, Class::K128, Class::K16, Class::K512, Class::K16, Class::K16];
        let mut world = World::new(Mode::Honest, &classes);
        world.put_all(&classes);
        for (guest, steps, broken) in faults {
            for step in 0..steps {
                // The disk fails for the first half.
                world.server.shelf_mut().broken = broken && step < steps / 2;
                (0..2).for_each(|guest| world.step(guest));
            }
            world.server.shelf_mut().broken = false;
            world.disconnect(guest);
            world.connect(guest);
        }
        world.settle();
        let mut filled = BTreeMap::new();
        for number in 0..classes.len() as u64 {
            if let Some(Slot { state: State::Filled { digest, .. }, .. }) = world.slot(&key(number).id()) {
                filled.insert(key(number).id(), digest);
            }
        }
        let mut answered = BTreeSet::new();
        for event in &world.guests[VISITOR].events {
            match event {
                Event::Stored { slot, digest, .. } => {
                    prop_assert_eq!(filled.get(slot), Some(digest));
                    prop_assert!(answered.insert(*slot));
                }
                Event::Refused { slot, .. } => prop_assert!(answered.insert(*slot)),
                _ => {}
            }
        }
        prop_assert_eq!(answered.len(), classes.len());
        // The owner fetches what is there, over a line that breaks as well.
        for (class, number) in classes.iter().zip(0..) {
            if filled.contains_key(&key(number).id()) {
                world.command(OWNER, Command::Get(key(number).id(), *class));
            }
        }
        for steps in [5, 40, 90] {
            (0..steps).for_each(|_| world.step(OWNER));
            world.disconnect(OWNER);
            world.connect(OWNER);
        }
        world.settle();
        let contents: BTreeMap<SlotId, Digest> = world.guests[OWNER].events.iter().filter_map(|event| match event {
            Event::Content(slot, octets) => Some((*slot, digest(octets))),
            _ => None,
        }).collect();
        prop_assert_eq!(contents, filled);
    }
}
