//! toxmail: real e-mail over the Tox peer-to-peer network.
//!
//! Three programs share this library: `tox-agent` (the daemon), `toxctl` (its manager) and, by its own modules only,
//! `tox-transport` (the MTA's pipe program). `docs/architecture.md` says which module may use which; the test
//! `tests/architecture.rs` enforces it.

pub mod agent;
pub mod backup;
pub mod config;
pub mod control;
pub mod ctl;
pub mod dns;
pub mod engine;
pub mod identity;
pub mod lane;
pub mod lmtp;
pub mod mail;
pub mod maildir;
pub mod relay;
pub mod slots;
pub mod smtp;
pub mod socket;
pub mod store;
pub mod telemetry;
pub mod tox;
pub mod transport;
