//! Where and when the mail of one account is deposited for contacts who are offline.
//!
//! The owner feeds [`Input`]s with [`Outbox::handle`], then calls [`Outbox::poll`], and carries out the [`Action`]s in
//! order, feeding back what they bring; and calls [`Outbox::poll`] at [`Outbox::deadline`]. All times are milliseconds of
//! the queue clock (since the epoch).
//!
//! At the start the owner tells, for each contact with a lane: [`Input::Lane`]; for each of its parcels with copies in the
//! store [`Input::Known`], one for each copy, and then [`Input::Parcel`], or [`Input::Finished`] if it is not in the queue
//! any more; then the other parcels in the order of the queue, until [`Outbox::takes`] says no.

use std::collections::BTreeMap;

use super::place::Place;
use super::wire::Code;
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};

/// What may be changed.
#[derive(Debug, Clone)]
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
        /// The class of each part (`lane::parcel::split`); at least one. The same at every time.
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

/// The decisions of one account; see the module.
pub struct Outbox {}

impl Outbox {
    /// Begins; `seed` is secret and random. Two with the same seed and the same inputs do the same.
    pub fn new(settings: Settings, seed: [u8; 32], now: u64) -> Self {
        let _ = (settings, seed, now);
        Self {}
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        let _ = settings;
    }

    /// Whether a further parcel for this contact is taken in; if not it is ignored, and [`Action::More`] follows.
    pub fn takes(&self, peer: &PublicKey) -> bool {
        let _ = peer;
        true
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input) {
        let _ = (now, input);
    }

    /// What is to be done now.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        let _ = (now, out);
    }

    /// When [`Outbox::poll`] has something to do without further input. Asked for after a poll.
    pub fn deadline(&self) -> Option<u64> {
        None
    }
}
