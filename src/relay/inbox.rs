//! Which slots one account registers at its relays, and what it fetches and removes there when.
//!
//! The owner feeds [`Input`]s with [`Inbox::handle`], then calls [`Inbox::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring; and calls [`Inbox::poll`] at [`Inbox::deadline`]. All times are milliseconds of
//! any clock that does not go back; randomness is a seed.
//!
//! Sessions with the relays in use are kept up by the owner. At the start it tells [`Input::Lane`] for each lane it has
//! offered, and [`Input::Opened`] for each place whose part it has on disk.

mod fetching;
mod registering;

use std::collections::{BTreeMap, BTreeSet};

use registering::budget;

use super::chance::{Chance, Pause};
use super::place::Place;
use super::wire::Code;
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};

/// What may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The mean pause between two looks at a relay.
    pub poll: u64,
    /// How many contents may be on their way from one relay at a time.
    pub max_fetches: usize,
    /// How many octets may be on their way from all relays at a time; one content always may.
    pub max_in_flight: usize,
    /// How many octets of parts of one contact's incomplete parcels may be kept.
    pub max_assembly: usize,
    /// How long an incomplete parcel is kept after its last part came.
    pub assembly_for: u64,
    /// How long it is tried to unregister the slots of a lane that is gone.
    pub tidy_for: u64,
}

impl Default for Settings {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        const DAY: u64 = 24 * 60 * MINUTE;
        Self {
            poll: 10 * MINUTE,
            max_fetches: 4,
            max_in_flight: 12 << 20,
            max_assembly: 256 << 20,
            assembly_for: 30 * DAY,
            tidy_for: 30 * DAY,
        }
    }
}

/// Which numbers of one class of a lane may be used at one relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Numbers below are not registered any more.
    pub low: u64,
    /// Numbers from here on were never seen filled.
    pub filled: u64,
    /// Numbers from here on are not registered yet.
    pub registered: u64,
}

/// A slot in a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// One of a lane.
    Of(PublicKey, Place),
    /// A slot of random name that is never filled, so that the relay cannot count lanes. Its secret may be thrown away.
    Dummy(Class),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A lane is offered to this contact; at the start, and when its relays or numbers change. All of `low..registered` of
    /// each window is taken for registered. Windows at relays that are not in `relays` are emptied but not extended.
    /// Windows are ignored for lanes already known. For one that is [`Input::LaneGone`] but not forgotten yet a new lane
    /// begins, and nothing more is done for the old one.
    Lane {
        /// To whom.
        peer: PublicKey,
        /// The relays offered.
        relays: Vec<RelayKey>,
        /// How many slots of each class are kept open ([`Class::number`] is the index).
        open: [u32; 5],
        /// What [`Action::Record`] had recorded.
        windows: BTreeMap<(RelayKey, Class), Window>,
    },
    /// The lane is not wanted any more (contact ended, other seed): its slots are unregistered; [`Action::Forget`] follows
    /// when they are, or after `tidy_for`.
    LaneGone(PublicKey),
    /// A session is up.
    Up {
        /// With which relay.
        relay: RelayKey,
        /// How many slots may be registered there.
        max_slots: u64,
    },
    /// A session is down: what was asked in it and has no answer gets none.
    Down(RelayKey),
    /// The relay has nothing of what was registered (this account comes with a new identity): all is registered anew.
    Fresh(RelayKey),
    /// Slots are registered, durably. Dummies may be left out.
    Registered {
        /// Where.
        relay: RelayKey,
        /// Which.
        slots: Vec<(PublicKey, Place)>,
    },
    /// Slots are not registered.
    NotRegistered {
        /// Where.
        relay: RelayKey,
        /// Which.
        slots: Vec<(PublicKey, Place)>,
        /// Why.
        code: Code,
    },
    /// Slots are unregistered, durably.
    Unregistered {
        /// Where.
        relay: RelayKey,
        /// Which.
        slots: Vec<(PublicKey, Place)>,
    },
    /// The answer to [`Action::List`] is complete: these are filled, apart from what the same session told before.
    Listed {
        /// Where.
        relay: RelayKey,
        /// Which; names that belong to no lane are left out.
        filled: Vec<(PublicKey, Place)>,
    },
    /// [`Action::List`] was not answered.
    NotListed(RelayKey),
    /// The relay says that this slot was filled.
    Arrived {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// What a place holds: fetched, opened, and the part durably on disk (or its parcel settled already: then
    /// [`Input::Settled`] follows at once, again). At the start also for what was fetched before.
    Opened {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
        /// Of which parcel.
        parcel: MailId,
        /// Which part.
        part: u32,
        /// Of so many.
        parts: u32,
    },
    /// What a place holds was fetched and cannot be opened, or contradicts other parts of its parcel.
    Spoilt {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// The parcel is stored, durably, or refused for good: its copies may be removed.
    Settled {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        parcel: MailId,
    },
    /// The place is empty for good.
    Gone {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// The relay refused an [`Action::Fetch`] or [`Action::Delete`], or what was fetched could not be stored
    /// ([`Code::Busy`]: it is fetched again later).
    Refused {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
        /// Why.
        code: Code,
    },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Register these slots, in this order. Answered by [`Input::Registered`] and [`Input::NotRegistered`], in pieces.
    Register {
        /// Where.
        relay: RelayKey,
        /// Which.
        slots: Vec<Slot>,
    },
    /// Unregister these slots. Answered by [`Input::Unregistered`].
    Unregister {
        /// Where.
        relay: RelayKey,
        /// Which.
        slots: Vec<(PublicKey, Place)>,
    },
    /// Record how far the numbers of a lane are; names of slots in `low..registered`, and of those that were in
    /// [`Action::Register`], can occur in what a relay says.
    Record {
        /// Whose lane.
        peer: PublicKey,
        /// Where.
        relay: RelayKey,
        /// Which class.
        class: Class,
        /// How far.
        window: Window,
    },
    /// Ask what is filled. Answered by [`Input::Listed`] or [`Input::NotListed`].
    List(RelayKey),
    /// Fetch what lies there and open it. Answered by [`Input::Opened`], [`Input::Spoilt`] or [`Input::Refused`].
    Fetch {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// Empty this slot for good. Answered by [`Input::Gone`] or [`Input::Refused`].
    Delete {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        place: Place,
    },
    /// A parcel did not become complete in time: drop its parts. Its copies are removed.
    Discard {
        /// Whose lane.
        peer: PublicKey,
        /// Which.
        parcel: MailId,
    },
    /// All is done with a lane that was [`Input::LaneGone`].
    Forget(PublicKey),
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// Numbers that were consumed without our seeing them (filled and removed by the sender, or expired) must not end a lane: of
/// windows in which nothing comes, a quarter is added after about so long, and at the start of one session in so many.
const ROLL_EVERY: u64 = 3 * DAY;
const ROLL_STARTS: u64 = 4;
/// Slots so many times `open` behind the highest that was filled, or registered, are given up.
const BEHIND_FILLED: u64 = 2;
const BEHIND_REGISTERED: u64 = 4;

#[derive(Default)]
struct Numbers {
    window: Window,
    /// What was recorded last.
    recorded: Window,
    /// Numbers in a registration under way.
    asked: BTreeSet<u64>,
    /// Numbers from `window.registered` on that are registered.
    confirmed: BTreeSet<u64>,
    /// Numbers that the relay emptied for good, in this run.
    gone: BTreeSet<u64>,
    /// How many are kept open beyond those that the lane says.
    rolled: u64,
    /// Whether it was there when a list came.
    listed: bool,
}

struct Lane {
    relays: Vec<RelayKey>,
    open: [u32; 5],
    windows: BTreeMap<(RelayKey, Class), Numbers>,
    /// Since it is gone: until when its slots are unregistered.
    gone: Option<u64>,
}

struct Relay {
    up: bool,
    /// How many slots may be registered.
    max_slots: u64,
    /// Whether something may have to be registered or unregistered.
    dirty: bool,
    /// Registering failed.
    pause: Pause,
    /// Whether a list is under way.
    listing: bool,
    list_at: u64,
    /// When the last list came in this session.
    listed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Not fetched yet.
    Filled,
    /// Being fetched, until then; past that time it does not count for other relays any more.
    Fetching(u64),
    /// It holds a part of this parcel.
    Opened(MailId),
    /// To be removed.
    Done,
    /// Being removed.
    Deleting,
}

/// A slot that is filled.
struct Held {
    progress: Progress,
    /// Not before then.
    pause: Pause,
    /// The order in which it was seen.
    seen: u64,
}

struct Assembly {
    parts: BTreeMap<u32, usize>,
    places: BTreeSet<Place>,
    /// When its last part came.
    touched: u64,
}

/// The decisions of one account; see the module.
pub struct Inbox {
    settings: Settings,
    chance: Chance,
    lanes: BTreeMap<PublicKey, Lane>,
    relays: BTreeMap<RelayKey, Relay>,
    held: BTreeMap<(RelayKey, PublicKey, Place), Held>,
    parcels: BTreeMap<(PublicKey, MailId), Assembly>,
    numbered: u64,
    pending: Vec<Action>,
    at: u64,
}

impl Inbox {
    /// Begins; `seed` is secret and random. Two with the same seed and the same inputs do the same.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        Self {
            settings,
            chance: Chance::new(seed),
            lanes: BTreeMap::new(),
            relays: BTreeMap::new(),
            held: BTreeMap::new(),
            parcels: BTreeMap::new(),
            numbered: 0,
            pending: Vec::new(),
            at: u64::MAX,
        }
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.at = 0;
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input) {
        self.at = 0;
        match input {
            Input::Lane { peer, relays, open, windows } => self.on_lane(peer, relays, open, windows),
            Input::LaneGone(peer) => self.on_lane_gone(now, peer),
            Input::Up { relay, max_slots } => {
                self.down(relay);
                let state = Relay {
                    up: true,
                    max_slots,
                    dirty: true,
                    pause: Pause::default(),
                    listing: false,
                    list_at: now,
                    listed: None,
                };
                self.relays.insert(relay, state);
            }
            Input::Down(relay) => self.down(relay),
            Input::Fresh(relay) => {
                for (_, _, class) in self.windows_at(relay) {
                    class.window.registered = class.window.low;
                    class.confirmed.clear();
                    class.asked.clear();
                    class.gone.clear();
                }
                self.dirty(relay);
            }
            // Whoever has it can only be who knows the lane, or a relay that lies. It is used up, and nothing waits for it.
            Input::Registered { relay, slots } | Input::NotRegistered { relay, slots, code: Code::Taken } => {
                for (peer, place) in slots {
                    let Some(class) = self.window(&peer, &place) else { continue };
                    class.asked.remove(&place.number);
                    if place.number >= class.window.registered {
                        class.confirmed.insert(place.number);
                    }
                    while class.confirmed.remove(&class.window.registered) {
                        class.window.registered += 1;
                    }
                    self.record(peer, place);
                }
                self.dirty(relay);
            }
            Input::NotRegistered { relay, slots, code } => {
                for (peer, place) in slots {
                    if let Some(class) = self.window(&peer, &place) {
                        class.asked.remove(&place.number);
                    }
                }
                let jitter = self.chance.next();
                let held = self.windows_at(relay).map(|(_, _, class)| class.window.registered - class.window.low).sum();
                if let Some(relay) = self.relays.get_mut(&relay) {
                    relay.pause.fail(now, MINUTE, HOUR, jitter);
                    if code == Code::Slots {
                        relay.max_slots = relay.max_slots.min(held);
                    }
                }
                self.dirty(relay);
            }
            Input::Unregistered { relay, slots } => {
                for (peer, place) in slots {
                    let Some(lane) = self.lanes.get_mut(&peer).filter(|lane| lane.gone.is_some()) else { continue };
                    if let Some(class) = lane.windows.get_mut(&(relay, place.class)) {
                        class.asked.remove(&place.number);
                        if class.asked.is_empty() {
                            lane.windows.remove(&(relay, place.class));
                        }
                    }
                }
            }
            Input::Listed { relay, filled } => {
                filled.into_iter().for_each(|(peer, place)| self.on_filled(peer, place));
                self.on_listed(now, relay);
            }
            Input::NotListed(relay) => {
                let pause = self.chance.exponential(self.settings.poll);
                if let Some(state) = self.relays.get_mut(&relay) {
                    (state.listing, state.list_at) = (false, now.saturating_add(pause.max(1000)));
                }
            }
            Input::Arrived { peer, place } => self.on_filled(peer, place),
            Input::Opened { peer, place, parcel, part, parts: _ } => self.on_opened(now, peer, place, parcel, part),
            Input::Spoilt { peer, place } => self.advance(peer, place, Progress::Done),
            Input::Settled { peer, parcel } => self.settle(peer, parcel),
            Input::Gone { peer, place } => {
                self.held.remove(&(place.relay, peer, place));
                if let Some(class) = self.window(&peer, &place) {
                    class.gone.insert(place.number);
                }
            }
            Input::Refused { peer, place, code } => self.on_refused(now, peer, place, code),
        }
    }

    fn on_lane(
        &mut self,
        peer: PublicKey,
        relays: Vec<RelayKey>,
        open: [u32; 5],
        windows: BTreeMap<(RelayKey, Class), Window>,
    ) {
        if self.lanes.get(&peer).is_some_and(|lane| lane.gone.is_some()) {
            self.lanes.remove(&peer);
        }
        let lane = self.lanes.entry(peer).or_insert_with(|| {
            let known = |(at, window): ((RelayKey, Class), Window)| {
                (at, Numbers { window, recorded: window, listed: true, ..Numbers::default() })
            };
            let windows = windows.into_iter().map(known).collect();
            Lane { relays: Vec::new(), open, windows, gone: None }
        });
        (lane.relays, lane.open) = (relays, open);
        self.relays.values_mut().for_each(|relay| relay.dirty = true);
    }

    fn on_lane_gone(&mut self, now: u64, peer: PublicKey) {
        let Some(lane) = self.lanes.get_mut(&peer) else {
            self.pending.push(Action::Forget(peer));
            return;
        };
        lane.gone.get_or_insert(now.saturating_add(self.settings.tidy_for));
        for class in lane.windows.values_mut() {
            // What is being registered is, as far as it matters now; from here on `asked` is what is being unregistered.
            class.window.registered = class.asked.last().map_or(0, |last| last + 1).max(class.window.registered);
            let confirmed = class.confirmed.last().map_or(0, |last| last + 1);
            class.window.registered = class.window.registered.max(confirmed);
            class.asked.clear();
        }
        self.held.retain(|(_, of, _), _| *of != peer);
        self.parcels.retain(|(of, _), _| *of != peer);
        self.relays.values_mut().for_each(|relay| relay.dirty = true);
    }

    fn down(&mut self, relay: RelayKey) {
        let lanes = self.lanes.values_mut().flat_map(|lane| &mut lane.windows);
        lanes.filter(|((of, _), _)| *of == relay).for_each(|(_, class)| class.asked.clear());
        for (_, held) in self.held.iter_mut().filter(|((of, ..), _)| *of == relay) {
            held.progress = match held.progress {
                Progress::Fetching(_) => Progress::Filled,
                Progress::Deleting => Progress::Done,
                other => other,
            };
        }
        if let Some(relay) = self.relays.get_mut(&relay) {
            (relay.up, relay.listing, relay.listed) = (false, false, None);
        }
    }

    /// The windows of lanes in use at a relay: whose, which class, how many slots are kept open.
    fn windows_at(&mut self, relay: RelayKey) -> impl Iterator<Item = (PublicKey, (Class, u32), &mut Numbers)> {
        let lanes = self.lanes.iter_mut().filter(|(_, lane)| lane.gone.is_none());
        lanes.flat_map(move |(peer, lane)| {
            let Lane { open, windows, .. } = lane;
            let of_relay = windows.range_mut((relay, Class::K16)..=(relay, Class::M4));
            of_relay.map(|((_, class), numbers)| (*peer, (*class, open[usize::from(class.number())]), numbers))
        })
    }

    fn window(&mut self, peer: &PublicKey, place: &Place) -> Option<&mut Numbers> {
        let lane = self.lanes.get_mut(peer).filter(|lane| lane.gone.is_none())?;
        lane.windows.get_mut(&(place.relay, place.class))
    }

    fn dirty(&mut self, relay: RelayKey) {
        if let Some(relay) = self.relays.get_mut(&relay) {
            relay.dirty = true;
        }
    }

    /// Has the window of this place recorded if it changed.
    fn record(&mut self, peer: PublicKey, place: Place) {
        let Some(class) = self.window(&peer, &place) else { return };
        if class.window != class.recorded {
            class.recorded = class.window;
            let action = Action::Record { peer, relay: place.relay, class: place.class, window: class.window };
            // Only the last of several counts.
            let same = |other: &Action| {
                matches!((other, &action),
                (Action::Record { peer: a, relay: b, class: c, .. }, Action::Record { peer: x, relay: y, class: z, .. })
                if (a, b, c) == (x, y, z))
            };
            self.pending.retain(|other| !same(other));
            self.pending.push(action);
        }
    }

    /// A place is filled; what was emptied for good is not, whatever the relay says.
    fn on_filled(&mut self, peer: PublicKey, place: Place) {
        let Some(class) = self.window(&peer, &place) else { return };
        if class.gone.contains(&place.number) {
            return;
        }
        if place.number >= class.window.filled {
            class.window.filled = place.number + 1;
            class.rolled = 0;
        }
        self.record(peer, place);
        self.dirty(place.relay);
        self.numbered += 1;
        let held = Held { progress: Progress::Filled, pause: Pause::default(), seen: self.numbered };
        self.held.entry((place.relay, peer, place)).or_insert(held);
    }

    fn advance(&mut self, peer: PublicKey, place: Place, progress: Progress) {
        if let Some(held) = self.held.get_mut(&(place.relay, peer, place)) {
            (held.progress, held.pause) = (progress, Pause::default());
        }
    }

    fn on_listed(&mut self, now: u64, relay: RelayKey) {
        let pause = self.chance.exponential(self.settings.poll);
        let Some(state) = self.relays.get_mut(&relay) else { return };
        let since = state.listed.replace(now).map(|at| now.saturating_sub(at));
        (state.listing, state.dirty, state.list_at) = (false, true, now.saturating_add(pause.max(1000)));
        let budget = budget(state.max_slots);
        let rolls = match since {
            None => self.chance.below(ROLL_STARTS) == 0,
            Some(since) => self.chance.below(ROLL_EVERY) < since,
        };
        let used: u64 =
            self.windows_at(relay).map(|(_, _, numbers)| numbers.window.registered - numbers.window.low).sum();
        let mut behind = Vec::new();
        for (peer, open, numbers) in self.windows_at(relay) {
            let (class, open) = (open.0, u64::from(open.1));
            let listed = std::mem::replace(&mut numbers.listed, true);
            let Window { low, filled, registered } = numbers.window;
            if rolls && listed && used < budget && filled < registered {
                numbers.rolled += open.div_ceil(4);
            }
            let upto = filled.saturating_sub(BEHIND_FILLED * open);
            let upto = upto.max(registered.saturating_sub(BEHIND_REGISTERED * open)).min(registered);
            if upto > low {
                behind.push((peer, class, upto));
            }
        }
        behind.into_iter().for_each(|(peer, class, upto)| self.give_up(peer, relay, class, upto));
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        if self.at > now && self.pending.is_empty() {
            return;
        }
        out.append(&mut self.pending);
        self.at = u64::MAX;
        self.discard_old(now, out);
        for key in self.relays.keys().copied().collect::<Vec<_>>() {
            let Some(relay) = self.relays.get_mut(&key).filter(|relay| relay.up) else { continue };
            if relay.dirty {
                if relay.pause.until <= now {
                    relay.dirty = false;
                    self.register(key, out);
                } else {
                    self.at = self.at.min(relay.pause.until);
                }
                self.unregister(key, out);
            }
            let Some(relay) = self.relays.get_mut(&key) else { continue };
            if !relay.listing {
                if relay.list_at <= now {
                    relay.listing = true;
                    out.push(Action::List(key));
                } else {
                    self.at = self.at.min(relay.list_at);
                }
            }
            self.delete(now, key, out);
        }
        self.fetch(now, out);
        self.forget_lanes(now, out);
        out.append(&mut self.pending);
    }

    /// When [`Inbox::poll`] has something to do without further input. Asked for after a poll.
    pub fn deadline(&self) -> Option<u64> {
        Some(self.at).filter(|at| *at < u64::MAX)
    }
}

#[cfg(test)]
mod tests;
