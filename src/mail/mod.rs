//! What a mail is: addresses, envelopes, enhanced status codes, trace headers, notices.
//!
//! Pure: no I/O, no clock, no randomness, no threads. Uses no other module of this library but [`crate::identity`].

pub mod address;
pub mod envelope;
pub mod header;
pub mod mailbox;
pub mod notice;
pub mod status;
pub mod trace;
