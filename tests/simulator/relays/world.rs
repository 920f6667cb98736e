//! Agents with the production outbox and inbox, relays that follow the protocol's rules, and the time that everything takes.
//! An agent that goes off ends; when it comes on it starts from what is in its store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

use toxmail::engine::transfer::{BURST, MailId};
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, RelayKey};
use toxmail::lane::parcel::split;
use toxmail::relay::inbox::{self, Inbox, Slot, Window};
use toxmail::relay::outbox::{self, Outbox, State};
use toxmail::relay::place::Place;
use toxmail::relay::wire::Code;

use super::people::{DAY, END, FINDING, PATIENCE, People, Times};

/// Slots that a lane keeps open, as `agent::courier` has it.
const OPEN: [u32; 5] = [32, 16, 8, 8, 8];
/// Slots and octets that a relay gives each owner (`owner_quota`).
const MAX_SLOTS: u64 = 8192;
const QUOTA: u64 = 100 << 20;
const RETENTION: u64 = 30 * DAY;
/// How long a session with a relay takes to come up.
const SESSION: u64 = 15_000;
/// An answer, and octets in a millisecond: a megabit a second.
const ANSWER: u64 = 300;
const RATE: u64 = 125;

fn key(number: usize) -> [u8; 32] {
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&(number as u64).to_be_bytes());
    octets
}

fn number(key: &[u8; 32]) -> usize {
    u64::from_be_bytes(key[..8].try_into().unwrap()) as usize
}

fn peer(number: usize) -> PublicKey {
    PublicKey(key(number))
}

/// Names a mail (and, with `receipt`, the answer to it).
fn parcel(letter: usize, receipt: bool) -> MailId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(letter as u64).to_be_bytes());
    id[8] = u8::from(receipt);
    MailId(id)
}

/// The letter, and whether it is the answer to it.
fn letter(id: &MailId) -> (usize, bool) {
    (u64::from_be_bytes(id.0[..8].try_into().unwrap()) as usize, id.0[8] == 1)
}

fn parts(size: u64) -> Vec<Class> {
    // The head is about so long.
    split(size + 200, Class::M4).into_iter().map(|part| part.0).collect()
}

/// What a mail cost, over all.
#[derive(Default)]
pub struct Cost {
    /// Octets that were sent, without Tox's own.
    pub traffic: f64,
    /// Octets that lay at relays or other people's, times days.
    pub stored: f64,
    /// Sessions for deposits.
    pub visits: u64,
}

struct Agent {
    on: bool,
    life: u32,
    engines: Option<(Outbox, Inbox)>,
    poll_at: u64,
    contacts: Vec<usize>,
    relays: Vec<usize>,
    /// Mail and answers in the queue: for whom, and since when.
    queue: BTreeMap<MailId, (usize, u64)>,
    copies: BTreeMap<(usize, MailId), BTreeMap<Place, (u32, State)>>,
    next: BTreeMap<usize, BTreeMap<(RelayKey, Class), u64>>,
    windows: BTreeMap<usize, BTreeMap<(RelayKey, Class), Window>>,
    seen: BTreeMap<RelayKey, u64>,
    received: HashSet<MailId>,
    /// Parts at hand of what is not complete.
    parts: BTreeMap<MailId, BTreeSet<u32>>,
    /// Visits under way, by relay and contact; whether they are up.
    visits: BTreeMap<(usize, usize), bool>,
    linked: BTreeSet<usize>,
}

/// A slot: owner, sender, class, number.
type Name = (usize, usize, Class, u64);

struct Content {
    id: MailId,
    part: u32,
    parts: u32,
    since: u64,
}

#[derive(Default)]
struct Relay {
    on: bool,
    /// Which numbers are registered.
    registered: HashMap<(usize, usize, Class), (u64, u64)>,
    filled: BTreeMap<Name, Content>,
    gone: HashSet<Name>,
    used: HashMap<usize, u64>,
    /// Owners and visitors with a session.
    owners: BTreeSet<usize>,
    visitors: BTreeSet<(usize, usize)>,
    /// Visitors that would like to have one, and for whose mail.
    waiting: BTreeSet<(usize, usize)>,
    /// Who has slots here.
    users: Vec<usize>,
}

#[derive(Debug)]
enum Event {
    On(usize),
    Off(usize),
    RelayOn(usize),
    RelayOff(usize),
    Letter(usize),
    Link(usize, usize, u32, u32),
    Poll(usize),
    /// For this life of an agent.
    ToOutbox(usize, u32, outbox::Input),
    ToInbox(usize, u32, inbox::Input),
    /// An owner's session comes up.
    Owner(usize, u32, usize),
    /// A visit comes up.
    Visit(usize, u32, usize, usize),
    /// Content is complete at a relay.
    Put(usize, u32, usize, Place, MailId, u32, u32),
}

pub struct World<'a> {
    people: &'a People,
    agents: Vec<Agent>,
    relays: Vec<Relay>,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    waiting: HashMap<u64, Event>,
    counted: u64,
    now: u64,
    /// When each letter was there.
    pub delivered: Vec<Option<u64>>,
    pub cost: Cost,
}

impl<'a> World<'a> {
    /// Relays are on at these times; each agent has slots at those in its row.
    pub fn new(people: &'a People, relays: &[Times], uses: &[Vec<usize>]) -> Self {
        let agent = |number: usize| Agent {
            on: false,
            life: 0,
            engines: None,
            poll_at: u64::MAX,
            contacts: people.contacts[number].clone(),
            relays: uses[number].clone(),
            queue: BTreeMap::new(),
            copies: BTreeMap::new(),
            next: BTreeMap::new(),
            windows: BTreeMap::new(),
            seen: BTreeMap::new(),
            received: HashSet::new(),
            parts: BTreeMap::new(),
            visits: BTreeMap::new(),
            linked: BTreeSet::new(),
        };
        let mut world = Self {
            people,
            agents: (0..people.on.len()).map(agent).collect(),
            relays: relays.iter().map(|_| Relay::default()).collect(),
            events: BinaryHeap::new(),
            waiting: HashMap::new(),
            counted: 0,
            now: 0,
            delivered: vec![None; people.letters.len()],
            cost: Cost::default(),
        };
        for (agent, relays) in uses.iter().enumerate() {
            relays.iter().for_each(|relay| world.relays[*relay].users.push(agent));
        }
        for (relay, times) in relays.iter().enumerate() {
            for time in times {
                world.at(time.start, Event::RelayOn(relay));
                world.at(time.end, Event::RelayOff(relay));
            }
        }
        for (number, times) in people.on.iter().enumerate() {
            for time in times {
                world.at(time.start, Event::On(number));
                world.at(time.end, Event::Off(number));
            }
        }
        for (number, letter) in people.letters.iter().enumerate() {
            world.at(letter.at, Event::Letter(number));
        }
        world
    }

    fn at(&mut self, at: u64, event: Event) {
        self.counted += 1;
        self.events.push(Reverse((at, self.counted)));
        self.waiting.insert(self.counted, event);
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.at(self.now + delay, event);
    }

    pub fn run(&mut self) {
        while let Some(Reverse((at, event))) = self.events.pop() {
            if at >= END {
                break;
            }
            self.now = at;
            let event = self.waiting.remove(&event).unwrap();
            self.happen(event);
        }
        let left = self.relays.iter().flat_map(|relay| relay.filled.iter());
        let left: f64 = left.map(|((_, _, class, _), content)| octet_days(*class, content.since, END)).sum();
        self.cost.stored += left;
    }

    fn lives(&self, agent: usize, life: u32) -> bool {
        self.agents[agent].on && self.agents[agent].life == life
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::On(agent) => self.on(agent),
            Event::Off(agent) => self.off(agent),
            Event::RelayOn(relay) => {
                self.relays[relay].on = true;
                // Everybody who tries comes in.
                for agent in self.relays[relay].users.clone() {
                    if self.agents[agent].on {
                        let life = self.agents[agent].life;
                        self.later(SESSION, Event::Owner(agent, life, relay));
                    }
                }
                for (agent, to) in self.relays[relay].waiting.clone() {
                    let life = self.agents[agent].life;
                    self.later(SESSION, Event::Visit(agent, life, relay, to));
                }
            }
            Event::RelayOff(relay) => self.relay_off(relay),
            Event::Letter(number) => self.letter(number),
            Event::Link(a, b, life, other) => {
                if self.lives(a, life) && self.lives(b, other) {
                    self.link(a, b);
                }
            }
            Event::Poll(agent) => {
                if self.agents[agent].poll_at <= self.now {
                    self.turn(agent);
                }
            }
            Event::ToOutbox(agent, life, input) => {
                if self.lives(agent, life) {
                    self.tell_outbox(agent, input);
                    self.turn(agent);
                }
            }
            Event::ToInbox(agent, life, input) => {
                if self.lives(agent, life) {
                    self.tell_inbox(agent, input.clone());
                    if let inbox::Input::Opened { peer, parcel, part, parts, .. } = input {
                        self.opened(agent, peer, parcel, part, parts);
                    }
                    self.turn(agent);
                }
            }
            Event::Owner(agent, life, relay) => {
                if self.lives(agent, life) && self.relays[relay].on && self.relays[relay].owners.insert(agent) {
                    self.tell_inbox(agent, inbox::Input::Up { relay: RelayKey(key(relay)), max_slots: MAX_SLOTS });
                    self.turn(agent);
                }
            }
            Event::Visit(agent, life, relay, to) => {
                let waits = self.agents[agent].visits.get(&(relay, to)) == Some(&false);
                if self.lives(agent, life) && self.relays[relay].on && waits {
                    self.agents[agent].visits.insert((relay, to), true);
                    self.relays[relay].waiting.remove(&(agent, to));
                    self.relays[relay].visitors.insert((agent, to));
                    let relay = RelayKey(key(relay));
                    self.tell_outbox(agent, outbox::Input::Session { relay, peer: peer(to), up: true });
                    self.turn(agent);
                }
            }
            Event::Put(agent, life, to, place, id, part, parts) => {
                if self.lives(agent, life) && self.visiting(agent, to, &place) {
                    self.put(agent, to, place, id, part, parts);
                }
            }
        }
    }

    fn visiting(&self, agent: usize, to: usize, place: &Place) -> bool {
        self.agents[agent].visits.get(&(number(&place.relay.0), to)) == Some(&true)
    }

    fn tell_outbox(&mut self, agent: usize, input: outbox::Input) {
        let now = self.now;
        if let Some((outbox, _)) = &mut self.agents[agent].engines {
            outbox.handle(now, input);
        }
    }

    fn tell_inbox(&mut self, agent: usize, input: inbox::Input) {
        let now = self.now;
        if let Some((_, inbox)) = &mut self.agents[agent].engines {
            inbox.handle(now, input);
        }
    }

    fn on(&mut self, agent: usize) {
        let now = self.now;
        let mut seed = key(agent);
        seed[8..16].copy_from_slice(&now.to_be_bytes());
        let mut outbox = Outbox::new(outbox::Settings::default(), seed, now);
        let mut inbox = Inbox::new(inbox::Settings::default(), seed);
        let relays = |agent: &Agent| agent.relays.iter().map(|relay| RelayKey(key(*relay))).collect::<Vec<_>>();
        for contact in self.agents[agent].contacts.clone() {
            let theirs = relays(&self.agents[contact]);
            let state = &self.agents[agent];
            let next = state.next.get(&contact).cloned().unwrap_or_default();
            outbox.handle(now, outbox::Input::Lane { peer: peer(contact), relays: theirs, next });
            let windows = state.windows.get(&contact).cloned().unwrap_or_default();
            let (relays, open) = (relays(state), OPEN);
            inbox.handle(now, inbox::Input::Lane { peer: peer(contact), relays, open, windows });
        }
        for (relay, at) in &self.agents[agent].seen {
            outbox.handle(now, outbox::Input::Seen { relay: *relay, at: *at });
        }
        for ((to, id), copies) in &self.agents[agent].copies {
            for (place, (part, state)) in copies {
                let (peer, id, part, place, state) = (peer(*to), *id, *part, *place, *state);
                outbox.handle(now, outbox::Input::Known { peer, id, part, place, state });
            }
        }
        let state = &mut self.agents[agent];
        state.parts.clear();
        (state.on, state.engines) = (true, Some((outbox, inbox)));
        state.life += 1;
        let life = state.life;
        for (id, (to, since)) in state.queue.clone() {
            self.queued(agent, id, to, since);
        }
        for relay in self.agents[agent].relays.clone() {
            self.later(SESSION, Event::Owner(agent, life, relay));
        }
        for contact in self.agents[agent].contacts.clone() {
            if self.agents[contact].on {
                let other = self.agents[contact].life;
                self.later(FINDING, Event::Link(agent, contact, life, other));
            }
        }
        self.turn(agent);
    }

    fn off(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        (state.on, state.engines) = (false, None);
        for (relay, to) in std::mem::take(&mut state.visits).into_keys() {
            self.relays[relay].visitors.remove(&(agent, to));
            self.relays[relay].waiting.remove(&(agent, to));
        }
        for relay in state.relays.clone() {
            self.relays[relay].owners.remove(&agent);
        }
        for other in std::mem::take(&mut self.agents[agent].linked) {
            self.agents[other].linked.remove(&agent);
            self.tell_outbox(other, outbox::Input::Contact { peer: peer(agent), online: false });
            self.turn(other);
        }
    }

    fn relay_off(&mut self, relay: usize) {
        self.relays[relay].on = false;
        for agent in std::mem::take(&mut self.relays[relay].owners) {
            self.tell_inbox(agent, inbox::Input::Down(RelayKey(key(relay))));
            self.turn(agent);
        }
        for (agent, to) in std::mem::take(&mut self.relays[relay].visitors) {
            self.agents[agent].visits.insert((relay, to), false);
            self.relays[relay].waiting.insert((agent, to));
            let relay = RelayKey(key(relay));
            self.tell_outbox(agent, outbox::Input::Session { relay, peer: peer(to), up: false });
            self.turn(agent);
        }
    }

    fn queued(&mut self, agent: usize, id: MailId, to: usize, since: u64) {
        let (number, control) = letter(&id);
        let parts = if control { vec![Class::K16] } else { parts(self.people.letters[number].size) };
        let (peer, expires) = (peer(to), since + PATIENCE);
        self.tell_outbox(agent, outbox::Input::Parcel { peer, id, parts, since, expires, control });
    }

    fn letter(&mut self, number: usize) {
        let (from, to) = (self.people.letters[number].from, self.people.letters[number].to);
        if self.agents[from].linked.contains(&to) {
            self.hand_over(number);
            return;
        }
        let (id, now) = (parcel(number, false), self.now);
        self.agents[from].queue.insert(id, (to, now));
        self.queued(from, id, to, now);
        self.turn(from);
    }

    /// Over the direct link.
    fn hand_over(&mut self, number: usize) {
        let size = self.people.letters[number].size;
        // What is there already is sent again only if it goes without waiting for the peer's word.
        if self.delivered[number].is_none() || size <= BURST {
            self.cost.traffic += size as f64 * 1.08;
        }
        self.cost.traffic += 1000.0;
        self.arrived(number);
    }

    fn arrived(&mut self, number: usize) {
        let to = self.people.letters[number].to;
        self.agents[to].received.insert(parcel(number, false));
        self.delivered[number].get_or_insert(self.now);
    }

    /// Two have found each other: what waits goes, and what was answered is done with.
    fn link(&mut self, a: usize, b: usize) {
        self.agents[a].linked.insert(b);
        self.agents[b].linked.insert(a);
        for (from, to) in [(a, b), (b, a)] {
            self.tell_outbox(from, outbox::Input::Contact { peer: peer(to), online: true });
            let waits = self.agents[from].queue.iter().filter(|(_, queued)| queued.0 == to);
            for id in waits.map(|(id, _)| *id).collect::<Vec<_>>() {
                if let (number, false) = letter(&id) {
                    self.hand_over(number);
                }
                self.finish(from, id);
            }
        }
        self.turn(a);
        self.turn(b);
    }

    fn finish(&mut self, agent: usize, id: MailId) {
        if let Some((to, _)) = self.agents[agent].queue.remove(&id) {
            self.tell_outbox(agent, outbox::Input::Finished { peer: peer(to), id, tidy: false });
        }
    }

    fn turn(&mut self, agent: usize) {
        loop {
            let now = self.now;
            let (mut sends, mut fetches) = (Vec::new(), Vec::new());
            let Some((outbox, inbox)) = &mut self.agents[agent].engines else { return };
            outbox.poll(now, &mut sends);
            inbox.poll(now, &mut fetches);
            if sends.is_empty() && fetches.is_empty() {
                let next = outbox.deadline().into_iter().chain(inbox.deadline()).min().unwrap_or(u64::MAX).max(now + 1);
                if next < END && (next < self.agents[agent].poll_at || self.agents[agent].poll_at <= now) {
                    self.agents[agent].poll_at = next;
                    self.at(next, Event::Poll(agent));
                }
                return;
            }
            sends.into_iter().for_each(|action| self.send(agent, action));
            fetches.into_iter().for_each(|action| self.fetch(agent, action));
        }
    }

    fn send(&mut self, agent: usize, action: outbox::Action) {
        use outbox::{Action, Input};
        let life = self.agents[agent].life;
        match action {
            Action::Visit { relay, peer, place } => {
                let (at, to) = (number(&relay.0), number(&peer.0));
                self.agents[agent].visits.insert((at, to), false);
                self.cost.visits += 1;
                self.cost.traffic += 2000.0;
                if self.is_registered(to, agent, &place) {
                    self.relays[at].waiting.insert((agent, to));
                }
                if self.relays[at].on && self.is_registered(to, agent, &place) {
                    self.later(SESSION, Event::Visit(agent, life, at, to));
                }
            }
            Action::Leave { relay, peer } => {
                let (at, to) = (number(&relay.0), number(&peer.0));
                self.agents[agent].visits.remove(&(at, to));
                self.relays[at].visitors.remove(&(agent, to));
                self.relays[at].waiting.remove(&(agent, to));
            }
            Action::Record { peer, id, part, place, state } => {
                let to = number(&peer.0);
                self.agents[agent].copies.entry((to, id)).or_default().insert(place, (part, state));
                let next =
                    self.agents[agent].next.entry(to).or_default().entry((place.relay, place.class)).or_default();
                *next = (*next).max(place.number + 1);
                if state == State::Chosen {
                    self.later(5, Event::ToOutbox(agent, life, Input::Recorded { peer, place }));
                }
            }
            Action::Deposit { peer, id, part, parts, place } => {
                let octets = place.class.octets() as u64;
                self.cost.traffic += octets as f64 * 1.08;
                let event = Event::Put(agent, life, number(&peer.0), place, id, part, parts);
                self.later(ANSWER + octets / RATE, event);
            }
            Action::Delete { peer, place } => {
                let (at, to) = (number(&place.relay.0), number(&peer.0));
                self.cost.traffic += 250.0;
                self.empty(at, (to, agent, place.class, place.number));
                self.later(ANSWER, Event::ToOutbox(agent, life, Input::Gone { peer, place }));
            }
            Action::AtRelays { id, relays, .. } => {
                // An answer that lies at relays is on its way.
                if letter(&id).1 && relays > 0 {
                    self.finish(agent, id);
                }
            }
            Action::Forget { peer, id } => {
                self.agents[agent].copies.remove(&(number(&peer.0), id));
            }
            Action::Seen(relay) => _ = self.agents[agent].seen.insert(relay, self.now),
            Action::More(_) => {}
        }
    }

    fn is_registered(&self, owner: usize, sender: usize, place: &Place) -> bool {
        let at = &self.relays[number(&place.relay.0)];
        let numbers = at.registered.get(&(owner, sender, place.class)).copied().unwrap_or_default();
        (numbers.0..numbers.1).contains(&place.number) && !at.gone.contains(&(owner, sender, place.class, place.number))
    }

    fn put(&mut self, agent: usize, to: usize, place: Place, id: MailId, part: u32, parts: u32) {
        let (at, name) = (number(&place.relay.0), (to, agent, place.class, place.number));
        let octets = place.class.octets() as u64;
        let registered = self.is_registered(to, agent, &place);
        let relay = &mut self.relays[at];
        let same = relay.filled.get(&name).map(|content| (content.id, content.part) == (id, part));
        let code = match same {
            Some(true) => None,
            Some(false) => Some(Code::Taken),
            None if relay.gone.contains(&name) => Some(Code::Taken),
            None if !registered => Some(Code::Unknown),
            None if relay.used.get(&to).copied().unwrap_or(0) + octets > QUOTA => Some(Code::Quota),
            None => {
                *relay.used.entry(to).or_default() += octets;
                relay.filled.insert(name, Content { id, part, parts, since: self.now });
                if relay.owners.contains(&to) {
                    let life = self.agents[to].life;
                    let arrived = inbox::Input::Arrived { peer: peer(agent), place };
                    self.later(ANSWER, Event::ToInbox(to, life, arrived));
                }
                None
            }
        };
        let (peer, until) = (peer(to), self.now + RETENTION);
        self.tell_outbox(
            agent,
            match code {
                Some(code) => outbox::Input::Refused { peer, place, code },
                None => outbox::Input::Stored { peer, place, until },
            },
        );
        self.turn(agent);
    }

    fn empty(&mut self, at: usize, name: Name) {
        let relay = &mut self.relays[at];
        if let Some(content) = relay.filled.remove(&name) {
            *relay.used.entry(name.0).or_default() -= name.2.octets() as u64;
            self.cost.stored += octet_days(name.2, content.since, self.now);
        }
        self.relays[at].gone.insert(name);
    }

    fn fetch(&mut self, agent: usize, action: inbox::Action) {
        use inbox::{Action, Input};
        let life = self.agents[agent].life;
        match action {
            Action::Register { relay, slots } => {
                self.cost.traffic += slots.len() as f64 * 38.0 + 100.0;
                let at = number(&relay.0);
                let mut done = Vec::new();
                for slot in slots {
                    // One lane's numbers are registered together, so that a range tells them all.
                    let Slot::Of(peer, place) = slot else { continue };
                    let numbers = self.relays[at].registered.entry((agent, number(&peer.0), place.class)).or_default();
                    numbers.1 = numbers.1.max(place.number + 1);
                    done.push((peer, place));
                }
                self.later(ANSWER, Event::ToInbox(agent, life, Input::Registered { relay, slots: done }));
            }
            Action::Unregister { relay, slots } => {
                self.cost.traffic += slots.len() as f64 * 38.0 + 100.0;
                let at = number(&relay.0);
                for (peer, place) in &slots {
                    let numbers = self.relays[at].registered.entry((agent, number(&peer.0), place.class)).or_default();
                    numbers.0 = numbers.0.max(place.number + 1);
                }
                self.later(ANSWER, Event::ToInbox(agent, life, Input::Unregistered { relay, slots }));
            }
            Action::Record { peer, relay, class, window } => {
                self.agents[agent].windows.entry(number(&peer.0)).or_default().insert((relay, class), window);
            }
            Action::List(relay) => {
                let first = (agent, 0, Class::K16, 0);
                let listed = self.relays[number(&relay.0)].filled.range(first..(agent + 1, 0, Class::K16, 0));
                let place = |class, number| Place { relay, class, number };
                let filled = listed.map(|((_, from, class, number), _)| (peer(*from), place(*class, *number)));
                let filled: Vec<_> = filled.collect();
                self.cost.traffic += filled.len() as f64 * 42.0 + 150.0;
                self.later(ANSWER, Event::ToInbox(agent, life, Input::Listed { relay, filled }));
            }
            Action::Fetch { peer, place } => {
                let name = (agent, number(&peer.0), place.class, place.number);
                let octets = place.class.octets() as u64;
                let input = match self.relays[number(&place.relay.0)].filled.get(&name) {
                    Some(content) => {
                        self.cost.traffic += octets as f64 * 1.08;
                        let (parcel, part, parts) = (content.id, content.part, content.parts);
                        Input::Opened { peer, place, parcel, part, parts }
                    }
                    None => Input::Refused { peer, place, code: Code::Unknown },
                };
                self.later(ANSWER + octets / RATE, Event::ToInbox(agent, life, input));
            }
            Action::Delete { peer, place } => {
                self.cost.traffic += 250.0;
                let name = (agent, number(&peer.0), place.class, place.number);
                self.empty(number(&place.relay.0), name);
                self.later(ANSWER, Event::ToInbox(agent, life, Input::Gone { peer, place }));
            }
            Action::Discard { .. } | Action::Forget(_) => {}
        }
    }

    /// A part is at hand.
    fn opened(&mut self, agent: usize, from: PublicKey, id: MailId, part: u32, parts: u32) {
        let of = self.agents[agent].parts.entry(id).or_default();
        of.insert(part);
        let complete = of.len() == parts as usize;
        let (number, receipt) = letter(&id);
        if !complete && !self.agents[agent].received.contains(&id) {
            return;
        }
        self.tell_inbox(agent, inbox::Input::Settled { peer: from, parcel: id });
        if !self.agents[agent].received.insert(id) {
            return;
        }
        if receipt {
            self.finish(agent, parcel(number, false));
            return;
        }
        self.arrived(number);
        let (answer, to, now) = (parcel(number, true), self.people.letters[number].from, self.now);
        if !self.agents[agent].linked.contains(&to) {
            self.agents[agent].queue.insert(answer, (to, now));
            self.queued(agent, answer, to, now);
        }
    }
}

fn octet_days(class: Class, since: u64, until: u64) -> f64 {
    class.octets() as f64 * (until - since) as f64 / DAY as f64
}
