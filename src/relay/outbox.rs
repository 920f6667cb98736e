//! Where and when the mail of one account is deposited for contacts who are offline.
//!
//! The owner feeds [`Input`]s with [`Outbox::handle`], then calls [`Outbox::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring; and calls [`Outbox::poll`] at [`Outbox::deadline`]. All times are milliseconds of
//! the queue clock (since the epoch).
//!
//! At the start the owner tells, for each contact with a lane: [`Input::Lane`]; for each of its parcels with copies in the
//! store [`Input::Known`], one for each copy, and then [`Input::Parcel`], or [`Input::Finished`] if it is not in the queue
//! any more; then the other parcels in the order of the queue, until [`Outbox::takes`] says no.

mod look;
mod peer;

use std::collections::{BTreeMap, BTreeSet};

use look::Look;
use peer::{Copy, Parcel, Part, Peer, flying};

use super::chance::Chance;
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
/// How often a visit to a relay must have failed before it can count as gone for good.
const VANISH_FAILURES: u32 = 3;
/// How often in a row a relay may say that a place is taken before it is left alone for a while.
const TAKEN: u32 = 8;

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
            Look::new(self, now, out).run(key);
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

#[cfg(test)]
mod tests;
