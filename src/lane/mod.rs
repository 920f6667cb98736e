//! Lanes: how mail is sealed when it has to wait at relays (`docs/protocol.md`, "Lanes").
//!
//! A *lane* is one direction of one pair of contacts. Whoever receives by it has offered it: an identifier, a secret seed,
//! up to five relays, a key to seal to. Mail and answers are split into *parts*; each part is sealed to the recipient,
//! padded to a size class, and wrapped once more for the one *slot* at one relay that it is to lie in. Slots and their keys
//! are derived from the seed, the relay's key, the class and a number, so that both ends know them and nobody else can tell
//! that two slots have anything to do with each other. [`invite`] is for who has no lane yet.
//!
//! Pure: no I/O, clock, randomness or threads; secrets come in from outside. Uses [`crate::identity`], and
//! [`crate::mail`] and [`crate::engine`] (`transfer`, `wire`) for what is in a part and how it is written.

pub mod invite;
pub mod keys;
pub mod offer;
pub mod parcel;
pub mod seal;
