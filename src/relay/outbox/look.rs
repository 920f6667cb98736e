//! One look at a contact: which copies count, what is deposited and removed now, and which relays are visited for that.

use std::collections::{BTreeMap, BTreeSet};

use super::peer::{Copy, Parcel, Part, Peer, flying};
use super::{Action, HOUR, Health, MINUTE, Outbox, State, Visit};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};
use crate::relay::chance::Pause;
use crate::relay::place::Place;

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

/// One look at all that concerns a contact.
pub(super) struct Look<'a> {
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

impl<'a> Look<'a> {
    /// At what concerns contacts now.
    pub(super) fn new(outbox: &'a mut Outbox, now: u64, out: &'a mut Vec<Action>) -> Self {
        let (busy, wanted, flights) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { outbox, now, out, wake: u64::MAX, busy, wanted, flights }
    }

    /// At this one.
    pub(super) fn run(mut self, key: PublicKey) {
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
pub(super) fn order(peer: &Peer, relays: &BTreeMap<RelayKey, Health>, key: PublicKey) -> Vec<RelayKey> {
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
