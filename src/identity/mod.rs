//! Who is who: Tox IDs, public keys and the address forms that name them.
//!
//! Pure: no I/O, no clock, no randomness, no threads. Uses no other module of this library but [`crate::mail::address`].

pub mod name;
pub mod tox_address;
pub mod tox_id;
