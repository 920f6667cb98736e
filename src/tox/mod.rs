//! libtoxcore: committed bindings, a safe handle (with `transport/sys.rs` the only home of `unsafe`), savedata.
//!
//! Uses [`crate::identity`] for IDs and keys and nothing else of this library. One thread owns a [`Tox`]; the callbacks
//! of the C library push plain values into a list and do nothing more, so no Rust code runs inside toxcore.

mod handle;
pub mod savedata;
#[rustfmt::skip]
mod sys;

pub use handle::{Connection, Event, FriendNumber, MAX_PACKET, NewToxError, Options, Proxy, SendError, Tox, version};
