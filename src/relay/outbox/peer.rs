//! What is known of one contact: its relays, its parcels, and the copies of their parts.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use crate::engine::transfer::MailId;
use crate::lane::keys::{Class, RelayKey};
use crate::relay::chance::Pause;
use crate::relay::place::Place;

/// A copy of a part at one relay.
pub(super) struct Copy {
    pub(super) place: Place,
    pub(super) state: State,
    /// Whether the store has it.
    pub(super) recorded: bool,
    /// Whether something may lie there.
    pub(super) tried: bool,
    /// A deposit is under way, and has to be answered by then.
    pub(super) flying: Option<u64>,
    /// Likewise a removal.
    pub(super) deleting: Option<u64>,
}

impl Copy {
    pub(super) fn is_stored(&self) -> bool {
        matches!(self.state, State::Stored { .. })
    }

    /// Whether it is, or will soon be, a copy that counts.
    pub(super) fn counts(&self) -> bool {
        self.is_stored() || self.state == State::Chosen && self.flying.is_some()
    }
}

pub(super) struct Part {
    pub(super) class: Class,
    pub(super) copies: Vec<Copy>,
}

pub(super) struct Parcel {
    pub(super) id: MailId,
    pub(super) since: u64,
    pub(super) expires: u64,
    pub(super) control: bool,
    pub(super) parts: Vec<Part>,
    /// What [`super::Action::AtRelays`] told last.
    pub(super) told: u32,
    /// Since it is finished: until when its copies are removed.
    pub(super) finished: Option<u64>,
}

impl Parcel {
    pub(super) fn copies(&self) -> impl Iterator<Item = &Copy> {
        self.parts.iter().flat_map(|part| &part.copies)
    }

    pub(super) fn copies_mut(&mut self) -> impl Iterator<Item = &mut Copy> {
        self.parts.iter_mut().flat_map(|part| &mut part.copies)
    }
}

#[derive(Default)]
pub(super) struct Peer {
    pub(super) online: Option<bool>,
    pub(super) offline_since: u64,
    pub(super) relays: Vec<RelayKey>,
    pub(super) next: BTreeMap<(RelayKey, Class), u64>,
    /// Numbers that were recorded, but with which no relay has ever heard of: used before the next.
    pub(super) free: BTreeSet<Place>,
    /// In the order of the queue.
    pub(super) parcels: BTreeMap<u64, Parcel>,
    /// Copies of parcels that were not told yet.
    pub(super) known: BTreeMap<MailId, Vec<(u32, Copy)>>,
    /// The parcel and the part of each place.
    pub(super) places: BTreeMap<Place, (u64, u32)>,
    /// The numbers above those stored so far.
    pub(super) filled: BTreeMap<(RelayKey, Class), u64>,
    pub(super) pauses: BTreeMap<(RelayKey, Option<Class>), Pause>,
    pub(super) taken: BTreeMap<(RelayKey, Class), u32>,
    /// A parcel was not taken in.
    pub(super) more: bool,
    /// When there is something to do.
    pub(super) at: u64,
    /// Since when it waits for a visit or for room on the line.
    pub(super) waiting: Option<u64>,
}

impl Peer {
    pub(super) fn find(&self, id: &MailId) -> Option<u64> {
        self.parcels.iter().find(|(_, parcel)| parcel.id == *id).map(|(at, _)| *at)
    }

    pub(super) fn copy(&mut self, place: &Place) -> Option<(MailId, u32, &mut Copy)> {
        let (at, part) = *self.places.get(place)?;
        let parcel = self.parcels.get_mut(&at)?;
        let copies = &mut parcel.parts.get_mut(part as usize)?.copies;
        Some((parcel.id, part, copies.iter_mut().find(|copy| copy.place == *place)?))
    }

    /// Until when a relay is left alone, with this class of slots; 0 if it is not.
    pub(super) fn paused(&self, relay: RelayKey, class: Class) -> u64 {
        let until = |class| self.pauses.get(&(relay, class)).map_or(0, |pause: &Pause| pause.until);
        until(None).max(until(Some(class)))
    }

    /// The place that the next part of a class would get.
    pub(super) fn next_place(&self, relay: RelayKey, class: Class) -> Place {
        let free = self.free.iter().find(|place| place.relay == relay && place.class == class);
        let number = self.next.get(&(relay, class)).copied().unwrap_or(0);
        free.copied().unwrap_or(Place { relay, class, number })
    }

    pub(super) fn use_place(&mut self, place: Place) {
        if !self.free.remove(&place) {
            let next = self.next.entry((place.relay, place.class)).or_default();
            *next = (*next).max(place.number + 1);
        }
    }
}

pub(super) fn flying<'a>(copies: impl Iterator<Item = &'a Copy>) -> usize {
    copies.filter(|copy| copy.flying.is_some()).map(|copy| copy.place.class.octets()).sum()
}
