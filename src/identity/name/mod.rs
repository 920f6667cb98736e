//! Names in DNS: what to ask for `name@domain`, and what the answer means (the Tox "Single Tox Standard", STS, section
//! "DNS Discovery").
//!
//! Pure: no I/O, no clock, no randomness, no threads. Uses [`crate::identity`] and [`crate::mail::address`]. Who asks,
//! and how far an answer is trusted, is decided elsewhere.

pub mod base32;
pub mod finding;
pub mod query;
pub mod record;
pub mod signature;
pub mod tox3;
#[cfg(test)]
mod vectors;
