//! Where and when the mail of one account is deposited for contacts who are offline.
//!
//! The owner feeds [`Input`]s with [`Outbox::handle`], then calls [`Outbox::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring; and calls [`Outbox::poll`] at [`Outbox::deadline`]. All times are milliseconds of
//! the queue clock (since the epoch).
//!
//! At the start the owner tells, for each contact with a lane: [`Input::Lane`]; for each of its parcels with copies in the
//! store [`Input::Known`], one for each copy, and then [`Input::Parcel`], or [`Input::Finished`] if it is not in the queue
//! any more; then the other parcels in the order of the queue, until [`Outbox::takes`] says no.

use std::collections::{BTreeMap, BTreeSet};

use super::chance::{Chance, Pause};
use super::place::Place;
use super::wire::Code;
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};
use crate::lane::parcel::MAX_PARTS;

/// What may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a contact must be offline, and mail have waited, before it goes to relays.
    pub relay_after: u64,
    /// How many relays get a copy of each part.
    pub copies: usize,
    /// A relay that had no session for so long, although it was tried, counts as gone for good.
    pub vanish_after: u64,
    /// For how long the copies of a parcel that is finished are removed, if their relays are not reached at once.
    pub tidy_for: u64,
    /// How many visits (each is a Tox instance) there may be at a time.
    pub max_visits: usize,
    /// How many octets may be on their way to relays at a time; one part always may.
    pub max_in_flight: usize,
    /// How many parcels of one contact may be in work.
    pub max_parcels: usize,
    /// How many parcels of all contacts may be in work.
    pub max_all: usize,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            relay_after: MINUTE,
            copies: 3,
            vanish_after: 24 * 60 * MINUTE,
            tidy_for: 60 * MINUTE,
            max_visits: 6,
            max_in_flight: 12 << 20,
            max_parcels: 500,
            max_all: 5000,
        }
    }
}

/// What became of a copy of a part, as the store keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The place is this part's; whether anything lies there is not known.
    Chosen,
    /// The relay keeps it until then.
    Stored {
        /// When it expires.
        until: u64,
    },
    /// It does not count any more: the relay is gone, refuses the place, or the time is over. The number is not used again.
    Lost,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Whether this agent has a connection to the Tox network at all; taken for granted until told. While it has none,
    /// nothing is tried, and no relay counts as gone.
    Connected(bool),
    /// The mail link with the contact is up, or is not. Never told: not known, which counts as offline since the start.
    Contact {
        /// Who.
        peer: PublicKey,
        /// Whether it is up.
        online: bool,
    },
    /// The contact's lane, at the start and when its relays change. A lane with another seed: [`Input::LaneGone`] first.
    Lane {
        /// Whose.
        peer: PublicKey,
        /// Its relays.
        relays: Vec<RelayKey>,
        /// The first number that was never in [`Action::Record`], for each relay and class; 0 where there is none. Those
        /// of lower numbers than already known are ignored.
        next: BTreeMap<(RelayKey, Class), u64>,
    },
    /// The lane cannot be used any more (contact ended, other seed). What was deposited by it is given up: an
    /// [`Action::Forget`] follows for each parcel with copies. Parcels stay and wait for another lane.
    LaneGone(PublicKey),
    /// When a relay was last seen, as [`Action::Seen`] had it recorded; at the start. Without it: at the start.
    Seen {
        /// Which.
        relay: RelayKey,
        /// When.
        at: u64,
    },
    /// A copy as the store has it; at the start, before the [`Input::Parcel`] or [`Input::Finished`] of this parcel.
    Known {
        /// For whom.
        peer: PublicKey,
        /// Of which parcel.
        id: MailId,
        /// Of which part.
        part: u32,
        /// Where.
        place: Place,
        /// What became of it.
        state: State,
    },
    /// A parcel is in the queue. Told when it gets there, whether the contact is online or not; again without harm.
    Parcel {
        /// For whom.
        peer: PublicKey,
        /// Its name.
        id: MailId,
        /// The class of each part (`lane::parcel::split`); at least one, at most [`MAX_PARTS`]. The same at every time.
        parts: Vec<Class>,
        /// When it got into the queue.
        since: u64,
        /// When it is given up.
        expires: u64,
        /// Answers and the like, which do not wait for `relay_after` if the contact is known to be offline.
        control: bool,
    },
    /// A parcel is answered, bounced or deleted. [`Action::Forget`] follows, at once if there are no copies.
    Finished {
        /// For whom.
        peer: PublicKey,
        /// Its name.
        id: MailId,
        /// Whether to go and remove copies from relays. `false` where the receiver does: the answer came by a relay.
        tidy: bool,
    },
    /// A place in [`Action::Record`] with [`State::Chosen`] is in the store, durably.
    Recorded {
        /// For whom.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// The session of a visit is up, or is not any more (but may be again). Not told after [`Action::Leave`].
    Session {
        /// With which relay.
        relay: RelayKey,
        /// For whom.
        peer: PublicKey,
        /// Whether it is up.
        up: bool,
    },
    /// A relay keeps what was deposited (signed).
    Stored {
        /// For whom.
        peer: PublicKey,
        /// Where.
        place: Place,
        /// Until when.
        until: u64,
    },
    /// A relay refused an [`Action::Deposit`] or [`Action::Delete`], or the content of the part could not be read
    /// ([`Code::Busy`]).
    Refused {
        /// For whom.
        peer: PublicKey,
        /// Where.
        place: Place,
        /// Why.
        code: Code,
    },
    /// A relay removed what was there, as [`Action::Delete`] asked (signed).
    Gone {
        /// For whom.
        peer: PublicKey,
        /// Where.
        place: Place,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Go to a relay with a new throw-away identity, which the key of this slot vouches for; [`Input::Session`] follows,
    /// or nothing.
    Visit {
        /// Which.
        relay: RelayKey,
        /// For whom.
        peer: PublicKey,
        /// The slot. Not recorded, and perhaps filled already.
        place: Place,
    },
    /// End a visit. What was asked in it and has no answer gets none.
    Leave {
        /// Which relay.
        relay: RelayKey,
        /// For whom.
        peer: PublicKey,
    },
    /// Insert or update a copy, durably; and keep the lane's next number above it, even after [`Action::Forget`]. With
    /// [`State::Chosen`] answered by [`Input::Recorded`].
    Record {
        /// For whom.
        peer: PublicKey,
        /// Of which parcel.
        id: MailId,
        /// Of which part.
        part: u32,
        /// Where.
        place: Place,
        /// What became of it.
        state: State,
    },
    /// Seal this part for this place and deposit it in the visit under way. Answered by [`Input::Stored`] or
    /// [`Input::Refused`].
    Deposit {
        /// For whom.
        peer: PublicKey,
        /// Which parcel.
        id: MailId,
        /// Which part.
        part: u32,
        /// Of so many.
        parts: u32,
        /// Where.
        place: Place,
    },
    /// Remove what lies there, in the visit under way. Answered by [`Input::Gone`] or [`Input::Refused`].
    Delete {
        /// For whom.
        peer: PublicKey,
        /// Where.
        place: Place,
    },
    /// Every part of the parcel lies at so many relays (those that have least), and that is enough: 2 of 3, 2 of 2 or
    /// 1 of 1. Told when the number changes; 0: it is not, or no longer, enough. For the log and the queue.
    AtRelays {
        /// For whom.
        peer: PublicKey,
        /// Which parcel.
        id: MailId,
        /// How many.
        relays: u32,
    },
    /// All is done with a parcel that was [`Input::Finished`] or whose [`Input::LaneGone`]: remove its copies from the store.
    Forget {
        /// For whom.
        peer: PublicKey,
        /// Which parcel.
        id: MailId,
    },
    /// There is room again after parcels of this contact were not taken: give all of its queue once more.
    More(PublicKey),
    /// A relay had a session now; at most once an hour for each. Worth recording, but need not be durable.
    Seen(RelayKey),
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// How long a visit may take to come about.
const VISIT: u64 = 2 * MINUTE;
/// The same for one that was up before.
const LOST: u64 = 15_000;
/// How long a visit with nothing to do goes on.
const LINGER: u64 = MINUTE;
/// How long one throw-away identity is used.
const VISIT_AGE: u64 = HOUR;
/// How many deposits there may be at a time in one visit, and of how many octets; one always may.
const DEPOSITS: usize = 4;
const DEPOSIT_OCTETS: usize = 4 << 20;
/// How long an answer may take, and how fast content goes at least, in octets a second.
const ANSWER: u64 = 2 * MINUTE;
const SLOWEST: u64 = 4096;
/// How often a visit to a relay must have failed before it can count as gone for good.
const VANISH_FAILURES: u32 = 3;
/// How often in a row a relay may say that a place is taken before it is left alone for a while.
const TAKEN: u32 = 8;

/// A copy of a part at one relay.
struct Copy {
    place: Place,
    state: State,
    /// Whether the store has it.
    recorded: bool,
    /// Whether something may lie there.
    tried: bool,
    /// A deposit is under way, and has to be answered by then.
    flying: Option<u64>,
    /// Likewise a removal.
    deleting: Option<u64>,
}

impl Copy {
    fn is_stored(&self) -> bool {
        matches!(self.state, State::Stored { .. })
    }

    /// Whether it is, or will soon be, a copy that counts.
    fn counts(&self) -> bool {
        self.is_stored() || self.state == State::Chosen && self.flying.is_some()
    }
}

struct Part {
    class: Class,
    copies: Vec<Copy>,
}

struct Parcel {
    id: MailId,
    since: u64,
    expires: u64,
    control: bool,
    parts: Vec<Part>,
    /// What [`Action::AtRelays`] told last.
    told: u32,
    /// Since it is finished: until when its copies are removed.
    finished: Option<u64>,
}

impl Parcel {
    fn copies(&self) -> impl Iterator<Item = &Copy> {
        self.parts.iter().flat_map(|part| &part.copies)
    }

    fn copies_mut(&mut self) -> impl Iterator<Item = &mut Copy> {
        self.parts.iter_mut().flat_map(|part| &mut part.copies)
    }
}

#[derive(Default)]
struct Peer {
    online: Option<bool>,
    offline_since: u64,
    relays: Vec<RelayKey>,
    next: BTreeMap<(RelayKey, Class), u64>,
    /// Numbers that were recorded, but with which no relay has ever heard of: used before the next.
    free: BTreeSet<Place>,
    /// In the order of the queue.
    parcels: BTreeMap<u64, Parcel>,
    /// Copies of parcels that were not told yet.
    known: BTreeMap<MailId, Vec<(u32, Copy)>>,
    /// The parcel and the part of each place.
    places: BTreeMap<Place, (u64, u32)>,
    /// The numbers above those stored so far.
    filled: BTreeMap<(RelayKey, Class), u64>,
    pauses: BTreeMap<(RelayKey, Option<Class>), Pause>,
    taken: BTreeMap<(RelayKey, Class), u32>,
    /// A parcel was not taken in.
    more: bool,
    /// When there is something to do.
    at: u64,
    /// Since when it waits for a visit or for room on the line.
    waiting: Option<u64>,
}

impl Peer {
    fn find(&self, id: &MailId) -> Option<u64> {
        self.parcels.iter().find(|(_, parcel)| parcel.id == *id).map(|(at, _)| *at)
    }

    fn copy(&mut self, place: &Place) -> Option<(MailId, u32, &mut Copy)> {
        let (at, part) = *self.places.get(place)?;
        let parcel = self.parcels.get_mut(&at)?;
        let copies = &mut parcel.parts.get_mut(part as usize)?.copies;
        Some((parcel.id, part, copies.iter_mut().find(|copy| copy.place == *place)?))
    }

    /// Until when a relay is left alone, with this class of slots; 0 if it is not.
    fn paused(&self, relay: RelayKey, class: Class) -> u64 {
        let until = |class| self.pauses.get(&(relay, class)).map_or(0, |pause: &Pause| pause.until);
        until(None).max(until(Some(class)))
    }

    /// The place that the next part of a class would get.
    fn next_place(&self, relay: RelayKey, class: Class) -> Place {
        let free = self.free.iter().find(|place| place.relay == relay && place.class == class);
        let number = self.next.get(&(relay, class)).copied().unwrap_or(0);
        free.copied().unwrap_or(Place { relay, class, number })
    }

    fn use_place(&mut self, place: Place) {
        if !self.free.remove(&place) {
            let next = self.next.entry((place.relay, place.class)).or_default();
            *next = (*next).max(place.number + 1);
        }
    }
}

struct Visit {
    up: bool,
    /// Whether it ever was.
    was_up: bool,
    began: u64,
    /// Since when it has been coming about.
    since: u64,
    /// Since when there has been nothing to do.
    idle: Option<u64>,
}

impl Visit {
    /// How long it may take to come about.
    fn patience(&self) -> u64 {
        if self.was_up { LOST } else { VISIT }
    }
}

struct Health {
    /// When it had a session last.
    seen: u64,
    /// When that was told.
    told: u64,
    /// Visits that failed since.
    failures: u32,
    vanished: bool,
}

/// The decisions of one account; see the module.
pub struct Outbox {
    settings: Settings,
    chance: Chance,
    start: u64,
    connected: bool,
    peers: BTreeMap<PublicKey, Peer>,
    visits: BTreeMap<(RelayKey, PublicKey), Visit>,
    relays: BTreeMap<RelayKey, Health>,
    /// Octets on their way.
    in_flight: usize,
    /// Parcels in all.
    parcels: usize,
    numbered: u64,
    pending: Vec<Action>,
}

impl Outbox {
    /// Begins; `seed` is secret and random. Two with the same seed and the same inputs do the same.
    pub fn new(settings: Settings, seed: [u8; 32], now: u64) -> Self {
        Self {
            settings,
            chance: Chance::new(seed),
            start: now,
            connected: true,
            peers: BTreeMap::new(),
            visits: BTreeMap::new(),
            relays: BTreeMap::new(),
            in_flight: 0,
            parcels: 0,
            numbered: 0,
            pending: Vec::new(),
        }
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.peers.values_mut().for_each(|peer| peer.at = 0);
    }

    /// Whether a further parcel for this contact is taken in; if not it is ignored, and [`Action::More`] follows.
    pub fn takes(&self, peer: &PublicKey) -> bool {
        let of_peer = self.peers.get(peer).map_or(0, |peer| peer.parcels.len());
        of_peer < self.settings.max_parcels && self.parcels < self.settings.max_all
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input) {
        match input {
            Input::Connected(connected) => {
                self.connected = connected;
                // Visits that did not come about yet get their whole time.
                self.visits.values_mut().for_each(|visit| visit.since = now);
                self.peers.values_mut().for_each(|peer| peer.at = 0);
            }
            Input::Contact { peer, online } => {
                let peer = self.peer(now, peer);
                if peer.online == Some(true) && !online {
                    peer.offline_since = now;
                }
                peer.online = Some(online);
            }
            Input::Lane { peer, mut relays, next } => {
                let mut seen = BTreeSet::new();
                relays.retain(|relay| seen.insert(*relay));
                for relay in &relays {
                    self.health(now, *relay);
                }
                let peer = self.peer(now, peer);
                peer.relays = relays;
                for (of, number) in next {
                    let next = peer.next.entry(of).or_default();
                    *next = number.max(*next);
                }
            }
            Input::LaneGone(peer) => self.on_lane_gone(now, peer),
            Input::Seen { relay, at } => {
                let health = self.health(now, relay);
                health.seen = at.min(now);
                health.told = health.seen;
            }
            Input::Known { peer, id, part, place, state } => {
                let peer = self.peer(now, peer);
                peer.use_place(place);
                let copy = Copy { place, state, recorded: true, tried: true, flying: None, deleting: None };
                if copy.is_stored() {
                    let filled = peer.filled.entry((place.relay, place.class)).or_default();
                    *filled = (*filled).max(place.number + 1);
                }
                peer.known.entry(id).or_default().push((part, copy));
            }
            Input::Parcel { peer, id, parts, since, expires, control } => {
                let takes = self.takes(&peer);
                let state = self.peer(now, peer);
                if state.find(&id).is_some() {
                    return;
                }
                if !takes && !state.known.contains_key(&id) {
                    state.more = true;
                    return;
                }
                let parts = parts.into_iter().map(|class| Part { class, copies: Vec::new() }).collect();
                self.take_in(peer, Parcel { id, since, expires, control, parts, told: 0, finished: None });
            }
            Input::Finished { peer, id, tidy } => self.on_finished(now, peer, id, tidy),
            Input::Recorded { peer, place } => {
                if let Some((_, _, copy)) = self.peer(now, peer).copy(&place) {
                    copy.recorded = true;
                }
            }
            Input::Session { relay, peer, up } => self.on_session(now, relay, peer, up),
            Input::Stored { peer, place, until } => self.on_stored(now, peer, place, until),
            Input::Refused { peer, place, code } => self.on_refused(now, peer, place, code),
            Input::Gone { peer, place } => self.on_gone(now, peer, place),
        }
    }

    fn peer(&mut self, now: u64, key: PublicKey) -> &mut Peer {
        let peer = self.peers.entry(key).or_insert_with(|| Peer { offline_since: now, ..Peer::default() });
        peer.at = 0;
        peer
    }

    fn health(&mut self, now: u64, relay: RelayKey) -> &mut Health {
        self.relays.entry(relay).or_insert(Health { seen: now, told: 0, failures: 0, vanished: false })
    }

    fn take_in(&mut self, key: PublicKey, mut parcel: Parcel) {
        let at = self.numbered;
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for (part, copy) in peer.known.remove(&parcel.id).unwrap_or_default() {
            // What is finished tells no parts.
            while parcel.finished.is_some() && parcel.parts.len() <= part as usize && part < MAX_PARTS {
                parcel.parts.push(Part { class: copy.place.class, copies: Vec::new() });
            }
            let Some(of) = parcel.parts.get_mut(part as usize) else { continue };
            peer.places.insert(copy.place, (at, part));
            of.copies.push(copy);
        }
        peer.parcels.insert(at, parcel);
        self.numbered += 1;
        self.parcels += 1;
    }

    fn on_finished(&mut self, now: u64, key: PublicKey, id: MailId, tidy: bool) {
        let until = now + self.settings.tidy_for;
        let peer = self.peer(now, key);
        match peer.find(&id) {
            Some(at) => {
                let parcel = peer.parcels.get_mut(&at).expect("found");
                parcel.finished.get_or_insert(until);
                if !tidy {
                    parcel.finished = Some(now);
                }
            }
            None if tidy && peer.known.contains_key(&id) => {
                let finished = Some(until);
                let parcel = Parcel { id, since: 0, expires: 0, control: false, parts: Vec::new(), told: 0, finished };
                self.take_in(key, parcel);
            }
            None => {
                peer.known.remove(&id);
                self.pending.push(Action::Forget { peer: key, id });
            }
        }
    }

    fn on_lane_gone(&mut self, now: u64, key: PublicKey) {
        let (mut landed, mut gone) = (0, Vec::new());
        let peer = self.peer(now, key);
        let mut forget: Vec<MailId> = peer.known.keys().copied().collect();
        for (at, parcel) in &mut peer.parcels {
            landed += flying(parcel.copies());
            if parcel.copies().next().is_some() || parcel.finished.is_some() {
                forget.push(parcel.id);
            }
            parcel.parts.iter_mut().for_each(|part| part.copies.clear());
            parcel.told = 0;
            gone.extend(parcel.finished.map(|_| *at));
        }
        gone.iter().for_each(|at| _ = peer.parcels.remove(at));
        let kept = std::mem::take(&mut peer.parcels);
        *peer = Peer { online: peer.online, offline_since: peer.offline_since, parcels: kept, ..Peer::default() };
        self.in_flight -= landed;
        self.parcels -= gone.len();
        self.pending.extend(forget.into_iter().map(|id| Action::Forget { peer: key, id }));
        let visits: Vec<_> = self.visits.keys().copied().filter(|(_, of)| *of == key).collect();
        for (relay, peer) in visits {
            self.visits.remove(&(relay, peer));
            self.pending.push(Action::Leave { relay, peer });
        }
    }

    fn on_session(&mut self, now: u64, relay: RelayKey, key: PublicKey, up: bool) {
        let Some(visit) = self.visits.get_mut(&(relay, key)) else { return };
        if visit.up && !up {
            visit.since = now;
        }
        visit.up = up;
        visit.was_up |= up;
        visit.idle = None;
        self.peer(now, key);
        if !up {
            self.land(relay, key);
            return;
        }
        let health = self.health(now, relay);
        (health.seen, health.failures) = (now, 0);
        let back = std::mem::take(&mut health.vanished);
        if now >= health.told.saturating_add(HOUR) {
            health.told = now;
            self.pending.push(Action::Seen(relay));
        }
        if back {
            self.peers.values_mut().for_each(|peer| peer.at = 0);
        }
    }

    /// What was asked in a visit gets no answer any more.
    fn land(&mut self, relay: RelayKey, key: PublicKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        for copy in peer.parcels.values_mut().flat_map(Parcel::copies_mut).filter(|copy| copy.place.relay == relay) {
            if copy.flying.take().is_some() {
                self.in_flight -= copy.place.class.octets();
            }
            copy.deleting = None;
        }
        self.wake_waiting();
    }

    /// There is room on the line, or for a visit.
    fn wake_waiting(&mut self) {
        self.peers.values_mut().filter(|peer| peer.waiting.is_some()).for_each(|peer| peer.at = 0);
    }

    fn on_stored(&mut self, now: u64, key: PublicKey, place: Place, until: u64) {
        let peer = self.peer(now, key);
        let Some((id, part, copy)) = peer.copy(&place) else { return };
        let landed = copy.flying.take().is_some();
        copy.tried = true;
        if copy.state == State::Chosen {
            // A relay that keeps nothing for an hour keeps nothing.
            let keeps = until > now + HOUR;
            copy.state = if keeps { State::Stored { until } } else { State::Lost };
            let state = copy.state;
            let filled = peer.filled.entry((place.relay, place.class)).or_default();
            *filled = (*filled).max(place.number + 1);
            peer.taken.remove(&(place.relay, place.class));
            if keeps {
                peer.pauses.remove(&(place.relay, None));
                peer.pauses.remove(&(place.relay, Some(place.class)));
            } else {
                let jitter = self.chance.next();
                self.pause(now, key, place.relay, None, (HOUR, 6 * HOUR), jitter);
            }
            self.pending.push(Action::Record { peer: key, id, part, place, state });
        }
        if landed {
            self.in_flight -= place.class.octets();
            self.wake_waiting();
        }
    }

    fn on_refused(&mut self, now: u64, key: PublicKey, place: Place, code: Code) {
        let jitter = self.chance.next();
        let peer = self.peer(now, key);
        let behind = peer.filled.get(&(place.relay, place.class)).is_some_and(|filled| *filled > place.number);
        let Some((id, part, copy)) = peer.copy(&place) else { return };
        if copy.deleting.take().is_some() {
            // Trouble may pass; whatever else it says, there is nothing to be removed by us.
            match code {
                Code::Busy => self.pause(now, key, place.relay, None, (MINUTE / 2, HOUR / 2), jitter),
                _ => copy.state = State::Lost,
            }
            return;
        }
        if copy.flying.take().is_none() {
            return;
        }
        let lost = code == Code::Taken || code == Code::Unknown && behind;
        if lost {
            copy.state = State::Lost;
            self.pending.push(Action::Record { peer: key, id, part, place, state: State::Lost });
        }
        self.in_flight -= place.class.octets();
        let (class, times) = match code {
            Code::Taken => {
                let taken = self.peer(now, key).taken.entry((place.relay, place.class)).or_default();
                *taken += 1;
                if *taken < TAKEN {
                    return self.wake_waiting();
                }
                (Some(place.class), (HOUR, 6 * HOUR))
            }
            // The recipient may not have registered it yet. Behind what is filled it was unregistered: the next one may do.
            Code::Unknown if lost => return self.wake_waiting(),
            Code::Unknown => (Some(place.class), (2 * MINUTE, HOUR)),
            Code::Quota | Code::Slots => (None, (5 * MINUTE, HOUR)),
            Code::Busy => (None, (MINUTE / 2, HOUR / 2)),
            Code::Wrong | Code::Forbidden => (None, (HOUR, 6 * HOUR)),
        };
        self.pause(now, key, place.relay, class, times, jitter);
        self.wake_waiting();
    }

    fn pause(
        &mut self,
        now: u64,
        key: PublicKey,
        relay: RelayKey,
        class: Option<Class>,
        times: (u64, u64),
        jitter: u64,
    ) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.pauses.entry((relay, class)).or_default().fail(now, times.0, times.1, jitter);
        }
    }

    fn on_gone(&mut self, now: u64, key: PublicKey, place: Place) {
        let Some((_, _, copy)) = self.peer(now, key).copy(&place) else { return };
        if copy.deleting.take().is_some() {
            copy.state = State::Lost;
        }
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        out.append(&mut self.pending);
        self.time_out(now, out);
        loop {
            let due = self.peers.iter().filter(|(_, peer)| peer.at <= now);
            let Some(key) = due.min_by_key(|(_, peer)| peer.waiting.unwrap_or(u64::MAX)).map(|(key, _)| *key) else {
                break;
            };
            Work {
                outbox: self,
                now,
                out,
                wake: u64::MAX,
                busy: BTreeSet::new(),
                wanted: BTreeMap::new(),
                flights: BTreeMap::new(),
            }
            .run(key);
        }
    }

    /// When [`Outbox::poll`] has something to do without further input. Asked for after a poll.
    pub fn deadline(&self) -> Option<u64> {
        let visits = self.visits.values().filter(|visit| !visit.up).map(|visit| visit.since + visit.patience());
        let visits = visits.filter(|_| self.connected);
        self.peers.values().map(|peer| peer.at).chain(visits).min().filter(|at| *at < u64::MAX)
    }

    /// Gives up visits that do not come about, and those in which answers are missing.
    fn time_out(&mut self, now: u64, out: &mut Vec<Action>) {
        let late = |(key, visit): (&(RelayKey, PublicKey), &Visit)| {
            let (relay, peer) = *key;
            let failed = !visit.up && self.connected && now >= visit.since + visit.patience();
            let copies = || self.peers.get(&peer).into_iter().flat_map(|peer| peer.parcels.values());
            let over = |copy: &Copy| copy.flying.or(copy.deleting).is_some_and(|until| now >= until);
            let stuck =
                visit.up && copies().flat_map(Parcel::copies).any(|copy| copy.place.relay == relay && over(copy));
            (failed || stuck).then_some((relay, peer, failed, visit.was_up))
        };
        let late: Vec<_> = self.visits.iter().filter_map(late).collect();
        for (relay, peer, failed, was_up) in late {
            self.leave(relay, peer, out);
            if failed && was_up {
                // A relay that was started anew knows its visitors no more: another visit shows whether it is there.
                self.peer(now, peer);
                continue;
            }
            let jitter = self.chance.next();
            let health = self.health(now, relay);
            let mut times = (3 * MINUTE, HOUR);
            if failed {
                health.failures = health.failures.saturating_add(1);
                // Each try is a Tox instance of its own: where nobody has been for long, few are made.
                times.0 = match now.saturating_sub(health.seen) {
                    _ if health.vanished => 6 * HOUR,
                    0..DAY => 3 * MINUTE,
                    _ => 15 * MINUTE,
                };
            }
            self.pause(now, peer, relay, None, times, jitter);
            self.peer(now, peer);
        }
        let vanish_after = self.settings.vanish_after;
        let mut change = false;
        for health in self.relays.values_mut().filter(|health| !health.vanished) {
            if health.failures >= VANISH_FAILURES && now >= health.seen.saturating_add(vanish_after) {
                (health.vanished, change) = (true, true);
            }
        }
        if change {
            self.peers.values_mut().for_each(|peer| peer.at = 0);
        }
    }

    fn leave(&mut self, relay: RelayKey, peer: PublicKey, out: &mut Vec<Action>) {
        self.visits.remove(&(relay, peer));
        self.land(relay, peer);
        self.wake_waiting();
        out.push(Action::Leave { relay, peer });
    }
}

fn flying<'a>(copies: impl Iterator<Item = &'a Copy>) -> usize {
    copies.filter(|copy| copy.flying.is_some()).map(|copy| copy.place.class.octets()).sum()
}

/// One look at all that concerns a contact.
struct Work<'a> {
    outbox: &'a mut Outbox,
    now: u64,
    out: &'a mut Vec<Action>,
    /// When to look again.
    wake: u64,
    /// Relays whose visit has something to do.
    busy: BTreeSet<RelayKey>,
    /// Relays that are to be visited, and the slots that can vouch: the next one, and one that is filled.
    wanted: BTreeMap<RelayKey, (Option<Place>, Option<Place>)>,
    /// How many deposits are under way in each visit, and of how many octets.
    flights: BTreeMap<RelayKey, (usize, usize)>,
}

impl Work<'_> {
    fn run(mut self, key: PublicKey) {
        let now = self.now;
        // Taken out for the time of the work, so that it and the rest can be changed at once.
        let mut peer = self.outbox.peers.remove(&key).unwrap_or_default();
        let mut waits = false;
        for copy in peer.parcels.values().flat_map(Parcel::copies).filter(|copy| copy.flying.is_some()) {
            let (many, octets) = self.flights.entry(copy.place.relay).or_default();
            (*many, *octets) = (*many + 1, *octets + copy.place.class.octets());
        }
        let (mail, control) = self.may_deposit(&peer);
        let order = if mail || control { order(&peer, &self.outbox.relays, key) } else { Vec::new() };
        for at in peer.parcels.keys().copied().collect::<Vec<_>>() {
            let mut parcel = peer.parcels.remove(&at).expect("listed");
            if let Some(until) = parcel.finished {
                if self.tidy(key, &mut peer, &mut parcel, until) {
                    self.outbox.in_flight -= flying(parcel.copies());
                    for copy in parcel.copies() {
                        peer.places.remove(&copy.place);
                        if copy.flying.is_some()
                            && let Some((many, octets)) = self.flights.get_mut(&copy.place.relay)
                        {
                            (*many, *octets) = (*many - 1, *octets - copy.place.class.octets());
                        }
                        if !copy.tried && copy.state == State::Chosen {
                            peer.free.insert(copy.place);
                        }
                    }
                    self.out.push(Action::Forget { peer: key, id: parcel.id });
                    self.outbox.parcels -= 1;
                    self.outbox.peers.values_mut().filter(|peer| peer.more).for_each(|peer| peer.at = 0);
                    continue;
                }
            } else {
                self.refresh(key, &peer, &mut parcel);
                let ripe = parcel.since.saturating_add(self.outbox.settings.relay_after);
                let may = if parcel.control { control } else { mail };
                if may && now < parcel.expires {
                    self.probe(key, &peer, &parcel);
                    if parcel.control || now >= ripe {
                        waits |= self.deposit(key, &mut peer, &order, at, &mut parcel);
                    } else {
                        self.wake = self.wake.min(ripe);
                    }
                }
            }
            for copy in parcel.copies().filter(|copy| copy.flying.is_some() || copy.deleting.is_some()) {
                self.wake = self.wake.min(copy.flying.or(copy.deleting).unwrap_or(u64::MAX));
                self.busy.insert(copy.place.relay);
            }
            peer.parcels.insert(at, parcel);
        }
        waits |= self.visit(key, &peer);
        let limit = self.outbox.settings.max_parcels;
        if peer.more && peer.parcels.len() <= limit * 3 / 4 && self.outbox.parcels < self.outbox.settings.max_all {
            peer.more = false;
            self.out.push(Action::More(key));
        }
        peer.waiting = waits.then(|| peer.waiting.unwrap_or(now));
        peer.at = self.wake.max(now + 1);
        self.outbox.peers.insert(key, peer);
        self.end_visits(key);
    }

    /// Whether mail and control parcels may be deposited for a contact.
    fn may_deposit(&mut self, peer: &Peer) -> (bool, bool) {
        if !self.outbox.connected || peer.online == Some(true) || peer.relays.is_empty() {
            return (false, false);
        }
        let after = self.outbox.settings.relay_after;
        let away = peer.offline_since.saturating_add(after);
        let mail = self.now >= away;
        if !mail {
            self.wake = self.wake.min(away);
        }
        let known = peer.online == Some(false);
        (mail, known || self.now >= self.outbox.start.saturating_add(after).min(away))
    }

    /// Gives up the copies that do not count any more, and tells how many relays have the parcel.
    fn refresh(&mut self, key: PublicKey, peer: &Peer, parcel: &mut Parcel) {
        let (now, id) = (self.now, parcel.id);
        if peer.relays.is_empty() {
            return;
        }
        let vanished = |relay: &RelayKey| self.outbox.relays.get(relay).is_some_and(|health| health.vanished);
        for (number, part) in parcel.parts.iter_mut().enumerate() {
            for copy in &mut part.copies {
                let lost = match copy.state {
                    State::Lost => false,
                    _ if !peer.relays.contains(&copy.place.relay) => copy.flying.is_none(),
                    State::Chosen => false,
                    State::Stored { until } if until <= now => true,
                    State::Stored { until } => {
                        if until < parcel.expires {
                            self.wake = self.wake.min(until);
                        }
                        vanished(&copy.place.relay)
                    }
                };
                if lost {
                    copy.state = State::Lost;
                    let (part, place, state) = (number as u32, copy.place, copy.state);
                    self.out.push(Action::Record { peer: key, id, part, place, state });
                }
            }
        }
        let healthy = peer.relays.iter().filter(|relay| !vanished(relay)).count();
        let enough = healthy.min(self.outbox.settings.copies).clamp(1, 2);
        let stored = |part: &Part| part.copies.iter().filter(|copy| copy.is_stored()).count();
        let least = parcel.parts.iter().map(stored).min().unwrap_or(0);
        let relays = if least >= enough { least as u32 } else { 0 };
        if relays != parcel.told {
            parcel.told = relays;
            self.out.push(Action::AtRelays { peer: key, id, relays });
        }
    }

    /// Relays on whose copies much depends are looked at now and then.
    fn probe(&mut self, key: PublicKey, peer: &Peer, parcel: &Parcel) {
        let every = self.outbox.settings.vanish_after / 2;
        for copy in parcel.copies().filter(|copy| copy.is_stored()) {
            let relay = copy.place.relay;
            if self.outbox.visits.get(&(relay, key)).is_some_and(|visit| visit.up) {
                continue;
            }
            let at = self.outbox.relays.get(&relay).map_or(0, |health| health.seen.saturating_add(every));
            let at = at.max(peer.paused(relay, copy.place.class));
            if at <= self.now {
                self.want(relay, Some(peer.next_place(relay, Class::K16)), Some(copy.place));
            } else {
                self.wake = self.wake.min(at);
            }
        }
    }

    fn want(&mut self, relay: RelayKey, next: Option<Place>, filled: Option<Place>) {
        let wanted = self.wanted.entry(relay).or_default();
        wanted.0 = wanted.0.or(next);
        wanted.1 = wanted.1.or(filled);
    }

    /// Deposits what is missing; whether it has to wait for room on the line.
    fn deposit(&mut self, key: PublicKey, peer: &mut Peer, order: &[RelayKey], at: u64, parcel: &mut Parcel) -> bool {
        let now = self.now;
        let target = self.outbox.settings.copies.min(peer.relays.len());
        let parts = parcel.parts.len() as u32;
        let mut waits = false;
        for number in 0..parcel.parts.len() {
            let class = parcel.parts[number].class;
            let mut have = parcel.parts[number].copies.iter().filter(|copy| copy.counts()).count();
            for relay in order.iter().copied() {
                if have >= target {
                    break;
                }
                let of = &mut parcel.parts[number].copies;
                if of.iter().any(|copy| copy.place.relay == relay && copy.counts()) {
                    continue;
                }
                let paused = peer.paused(relay, class);
                if paused > now {
                    self.wake = self.wake.min(paused);
                    continue;
                }
                have += 1;
                let chosen = of.iter().position(|copy| copy.place.relay == relay && copy.state == State::Chosen);
                let place = chosen.map_or_else(|| peer.next_place(relay, class), |chosen| of[chosen].place);
                // What was chosen before may have been filled, fetched and emptied since, and few slots of large classes
                // are open: no relay admits by others.
                self.want(relay, Some(peer.next_place(relay, Class::K16)), Some(place));
                let Some(visit) = self.outbox.visits.get(&(relay, key)).filter(|visit| visit.up) else { continue };
                if now >= visit.began + VISIT_AGE {
                    continue;
                }
                let Some(chosen) = chosen else {
                    peer.use_place(place);
                    peer.places.insert(place, (at, number as u32));
                    let state = State::Chosen;
                    of.push(Copy { place, state, recorded: false, tried: false, flying: None, deleting: None });
                    let (id, part) = (parcel.id, number as u32);
                    self.out.push(Action::Record { peer: key, id, part, place, state });
                    continue;
                };
                if !of[chosen].recorded {
                    continue;
                }
                let (many, octets) = self.flights.get(&relay).copied().unwrap_or_default();
                let full = many > 0 && (many >= DEPOSITS || octets + class.octets() > DEPOSIT_OCTETS)
                    || self.outbox.in_flight > 0
                        && self.outbox.in_flight + class.octets() > self.outbox.settings.max_in_flight;
                if full {
                    waits = true;
                    continue;
                }
                let (id, part) = (parcel.id, number as u32);
                let copy = &mut parcel.parts[number].copies[chosen];
                copy.tried = true;
                copy.flying = Some(now + ANSWER + (octets + class.octets()) as u64 * 1000 / SLOWEST);
                self.outbox.in_flight += class.octets();
                self.flights.insert(relay, (many + 1, octets + class.octets()));
                self.out.push(Action::Deposit { peer: key, id, part, parts, place });
            }
        }
        waits
    }

    /// Removes the copies of a finished parcel; whether all is done.
    fn tidy(&mut self, key: PublicKey, peer: &mut Peer, parcel: &mut Parcel, until: u64) -> bool {
        if self.now >= until {
            return true;
        }
        let mut done = true;
        for copy in parcel.copies_mut() {
            let (relay, class) = (copy.place.relay, copy.place.class);
            if copy.state == State::Lost || !copy.tried || !peer.relays.contains(&relay) {
                continue;
            }
            done = false;
            if copy.flying.is_some() || copy.deleting.is_some() {
                continue;
            }
            let paused = peer.paused(relay, class);
            if paused > self.now {
                self.wake = self.wake.min(paused);
                continue;
            }
            self.want(relay, Some(peer.next_place(relay, Class::K16)), Some(copy.place));
            if self.outbox.visits.get(&(relay, key)).is_some_and(|visit| visit.up) {
                copy.deleting = Some(self.now + ANSWER);
                self.out.push(Action::Delete { peer: key, place: copy.place });
            }
        }
        self.wake = self.wake.min(until);
        done
    }

    /// Goes where something is to be done; whether it has to wait.
    fn visit(&mut self, key: PublicKey, peer: &Peer) -> bool {
        let mut waits = false;
        for (relay, (next, filled)) in std::mem::take(&mut self.wanted) {
            self.busy.insert(relay);
            if !self.outbox.connected || self.outbox.visits.contains_key(&(relay, key)) {
                continue;
            }
            if self.outbox.visits.len() >= self.outbox.settings.max_visits {
                waits = true;
                continue;
            }
            // Each may be one that the relay does not know (any more): in turns.
            let odd = peer.pauses.get(&(relay, None)).is_some_and(Pause::is_odd);
            let Some(place) = (if odd { filled.or(next) } else { next.or(filled) }) else { continue };
            let visit = Visit { up: false, was_up: false, began: self.now, since: self.now, idle: None };
            self.outbox.visits.insert((relay, key), visit);
            self.out.push(Action::Visit { relay, peer: key, place });
        }
        waits
    }

    /// Ends visits with nothing to do: those that did not come about at once, the others after a while or when others wait.
    fn end_visits(&mut self, key: PublicKey) {
        let now = self.now;
        let needed = self.outbox.peers.values().any(|peer| peer.waiting.is_some())
            && self.outbox.visits.len() >= self.outbox.settings.max_visits;
        let mut over = Vec::new();
        let mut wake = u64::MAX;
        for ((relay, _), visit) in self.outbox.visits.iter_mut().filter(|((_, of), _)| *of == key) {
            let aged = now >= visit.began + VISIT_AGE;
            let peer = &self.outbox.peers[&key];
            let asked = |copy: &Copy| copy.place.relay == *relay && (copy.flying.is_some() || copy.deleting.is_some());
            if aged && visit.up && !peer.parcels.values().flat_map(Parcel::copies).any(asked) {
                over.push(*relay);
            } else if self.busy.contains(relay) {
                visit.idle = None;
                if !aged {
                    wake = wake.min(visit.began + VISIT_AGE);
                }
            } else {
                let since = *visit.idle.get_or_insert(now);
                if !visit.up || needed || now >= since + LINGER {
                    over.push(*relay);
                } else {
                    wake = wake.min(since + LINGER);
                }
            }
        }
        for relay in &over {
            self.outbox.leave(*relay, key, self.out);
        }
        if let Some(peer) = self.outbox.peers.get_mut(&key) {
            // What is wanted of a visit that has grown old needs another.
            peer.at = if over.iter().any(|relay| self.busy.contains(relay)) { 0 } else { peer.at.min(wake) };
        }
    }
}

/// The relays of a contact in the order in which its mail goes to them: any, but always the same, so that few visits do; those
/// that count as gone are the last.
fn order(peer: &Peer, relays: &BTreeMap<RelayKey, Health>, key: PublicKey) -> Vec<RelayKey> {
    let mut order = peer.relays.clone();
    order.sort_by_key(|relay| {
        let vanished = relays.get(relay).is_some_and(|health| health.vanished);
        let mixed =
            relay.0.iter().zip(key.0).fold(0u64, |mixed, (a, b)| {
                (mixed ^ u64::from(a ^ b)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
            });
        (vanished, mixed)
    });
    order
}

#[cfg(test)]
mod tests;
