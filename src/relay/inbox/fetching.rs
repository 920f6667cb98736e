//! What is fetched from relays, in which order, and what is removed there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Assembly, HOUR, Inbox, MINUTE, Progress};
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::RelayKey;
use crate::relay::place::Place;
use crate::relay::wire::Code;

/// How long an answer may take, and how fast content comes at least, in octets a second.
const ANSWER: u64 = 2 * MINUTE;
const SLOWEST: u64 = 4096;

impl Inbox {
    pub(super) fn on_opened(&mut self, now: u64, peer: PublicKey, place: Place, parcel: MailId, part: u32) {
        self.on_filled(peer, place);
        if !self.held.contains_key(&(place.relay, peer, place)) {
            return;
        }
        self.advance(peer, place, Progress::Opened(parcel));
        let new = || Assembly { parts: BTreeMap::new(), places: BTreeSet::new(), touched: now };
        let assembly = self.parcels.entry((peer, parcel)).or_insert_with(new);
        assembly.places.insert(place);
        if assembly.parts.insert(part, place.class.octets()).is_none() {
            assembly.touched = now;
        }
    }

    pub(super) fn settle(&mut self, peer: PublicKey, parcel: MailId) {
        let places = self.parcels.remove(&(peer, parcel)).map(|assembly| assembly.places).unwrap_or_default();
        places.into_iter().for_each(|place| self.advance(peer, place, Progress::Done));
    }

    pub(super) fn on_refused(&mut self, now: u64, peer: PublicKey, place: Place, code: Code) {
        let jitter = self.chance.next();
        let key = (place.relay, peer, place);
        let Some(held) = self.held.get_mut(&key) else { return };
        let again = match held.progress {
            Progress::Fetching(_) => Progress::Filled,
            Progress::Deleting => Progress::Done,
            _ => return,
        };
        match code {
            Code::Busy | Code::Quota | Code::Slots => {
                held.progress = again;
                held.pause.fail(now, MINUTE, HOUR, jitter);
            }
            // There is nothing.
            _ => _ = self.held.remove(&key),
        }
    }

    pub(super) fn discard_old(&mut self, now: u64, out: &mut Vec<Action>) {
        let assembly_for = self.settings.assembly_for;
        let until = |assembly: &Assembly| assembly.touched.saturating_add(assembly_for);
        let over = self.parcels.iter().filter(|(_, assembly)| until(assembly) <= now);
        for (peer, parcel) in over.map(|(key, _)| *key).collect::<Vec<_>>() {
            out.push(Action::Discard { peer, parcel });
            self.settle(peer, parcel);
        }
        let next = self.parcels.values().map(until).min();
        self.at = self.at.min(next.unwrap_or(u64::MAX));
    }

    pub(super) fn delete(&mut self, now: u64, relay: RelayKey, out: &mut Vec<Action>) {
        for ((_, peer, place), held) in self.held.iter_mut().filter(|((of, ..), _)| *of == relay) {
            if held.progress != Progress::Done {
                continue;
            }
            if held.pause.until > now {
                self.at = self.at.min(held.pause.until);
                continue;
            }
            held.progress = Progress::Deleting;
            out.push(Action::Delete { peer: *peer, place: *place });
        }
    }

    /// Fetches, within the limits: what is probably a copy of something known last, the smallest first, in order.
    pub(super) fn fetch(&mut self, now: u64, out: &mut Vec<Action>) {
        let mut at_relay: BTreeMap<RelayKey, usize> = BTreeMap::new();
        let mut in_flight = 0;
        let mut known = BTreeSet::new();
        let mut waiting = Vec::new();
        for ((relay, peer, place), held) in &self.held {
            match held.progress {
                Progress::Fetching(until) => {
                    *at_relay.entry(*relay).or_default() += 1;
                    if until > now {
                        in_flight += place.class.octets();
                        self.at = self.at.min(until);
                    }
                    known.insert((*peer, place.class, place.number));
                }
                Progress::Filled if self.relays.get(relay).is_some_and(|relay| relay.up) => {
                    if held.pause.until > now {
                        self.at = self.at.min(held.pause.until);
                    } else {
                        waiting.push((place.class, held.seen, *peer, *place));
                    }
                }
                Progress::Filled => {}
                _ => _ = known.insert((*peer, place.class, place.number)),
            }
        }
        if waiting.is_empty() {
            return;
        }
        let mut kept: BTreeMap<PublicKey, usize> = BTreeMap::new();
        for ((peer, _), assembly) in &self.parcels {
            *kept.entry(*peer).or_default() += assembly.parts.values().sum::<usize>();
        }
        waiting.sort_unstable();
        // The first of several copies makes the others probable copies.
        let mut copies = Vec::new();
        waiting.retain(|(class, _, peer, place)| {
            let first = known.insert((*peer, *class, place.number));
            if !first {
                copies.push((*class, *peer, *place));
            }
            first
        });
        let order = waiting.into_iter().map(|(class, _, peer, place)| (class, peer, place)).chain(copies);
        for (class, peer, place) in order {
            let fetches = at_relay.entry(place.relay).or_default();
            let octets = class.octets();
            let full = in_flight > 0 && in_flight + octets > self.settings.max_in_flight;
            let room = kept.get(&peer).copied().unwrap_or(0) + octets <= self.settings.max_assembly;
            if *fetches >= self.settings.max_fetches || full || !room {
                continue;
            }
            let Some(held) = self.held.get_mut(&(place.relay, peer, place)) else { continue };
            *fetches += 1;
            in_flight += octets;
            let until = now + ANSWER + in_flight as u64 * 1000 / SLOWEST;
            held.progress = Progress::Fetching(until);
            self.at = self.at.min(until);
            out.push(Action::Fetch { peer, place });
        }
    }
}
