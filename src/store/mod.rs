//! What must survive: the queue, contacts, friend requests, what was received. SQLite in WAL mode with
//! `synchronous=FULL`, and a folder of bodies that are too long for a row.
//!
//! One thread writes ([`Store`]): jobs that arrive while a commit runs share the next one, so that many mails cost one
//! fsync. A job's `done` runs only after its commit. Readers open connections of their own ([`Reader`]). `docs/store.md`
//! tells every table and the states of a mail.
//!
//! Uses [`crate::engine::transfer`] for the types of a transfer, [`crate::engine::trust`] for what a look-up means, [`crate::mail`] and [`crate::identity`].

pub mod backup;
mod bodies;
mod contacts;
mod dispatch;
mod hold;
mod introductions;
mod lanes;
mod names;
mod outcome;
mod parcels;
mod queue;
mod received;
mod relays;
mod schema;
mod writer;

#[cfg(test)]
mod tests;

pub use bodies::{BodyFile, BodyWriter, EncodedBody, free_space};
pub use contacts::{Answer, Contact, DECLINE_AGE, Request};
pub use dispatch::Work;
pub use hold::Touched;
pub use introductions::{Introduced, IntroducingRow};
pub use lanes::{LaneIn, LaneOut, PreKey, RENEW, SlotWindow};
pub use names::{Accepted, Because, DENIAL_WAIT, Name, Offer, Pin, Settled};
pub use parcels::{Deposit, Parcel, ParcelBody, Receipt, SlotNext, Waiting};
pub use queue::{
    Action, Composer, Destination, HEAD, NewMail, NewRecipient, Notice, Policy, QueueLine, QueueSummary, Recorded,
    Report, Times,
};
pub use received::{Received, Unpublished};
pub use relays::RelayRow;
pub use schema::Reader;
pub use writer::{Counts, Event, Store, StoreError};
