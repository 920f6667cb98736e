//! Relays: where sealed mail waits for who is offline, and how agents use them (`docs/protocol.md`, "Relays").
//!
//! A *relay* keeps the contents of *slots*. An *owner* registers slots there and fetches what comes; a *visitor* fills one.
//! Both are Tox identities made for that relay alone, and are its friends for as long as they need it. [`server`] is the
//! relay's side of a session, [`session`] the other one; [`outbox`] decides where a mail is deposited and when, [`inbox`]
//! what is registered, fetched and removed.
//!
//! Pure: no I/O, clock, randomness or threads. Uses [`crate::lane`], [`crate::identity`], [`crate::engine::window`],
//! [`crate::engine::transfer`] and [`crate::engine::schedule`].

mod chance;
pub mod descriptor;
pub mod flow;
pub mod inbox;
pub mod outbox;
pub mod place;
pub mod server;
pub mod session;
pub mod wire;
