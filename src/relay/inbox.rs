//! Which slots one account registers at its relays, and what it fetches and removes there when.
//!
//! The owner feeds [`Input`]s with [`Inbox::handle`], then calls [`Inbox::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring; and calls [`Inbox::poll`] at [`Inbox::deadline`]. All times are milliseconds of
//! any clock that does not go back; randomness is a seed.
//!
//! Sessions with the relays in use are kept up by the owner. At the start it tells [`Input::Lane`] for each lane it has
//! offered, and [`Input::Opened`] for each place whose part it has on disk.

use std::collections::BTreeMap;

use super::place::Place;
use super::wire::Code;
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};

/// What may be changed.
#[derive(Debug, Clone)]
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

/// Which numbers of one class of a lane may be used at one relay. `low ≤ filled ≤ registered`.
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
    /// Windows are ignored for lanes already known.
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
    /// Ask what is filled. Answered by [`Input::Listed`].
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

/// The decisions of one account; see the module.
pub struct Inbox {}

impl Inbox {
    /// Begins; `seed` is secret and random. Two with the same seed and the same inputs do the same.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        let _ = (settings, seed);
        Self {}
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        let _ = settings;
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input) {
        let _ = (now, input);
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        let _ = (now, out);
    }

    /// When [`Inbox::poll`] has something to do without further input. Asked for after a poll.
    pub fn deadline(&self) -> Option<u64> {
        None
    }
}
