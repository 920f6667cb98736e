//! The daemon: wiring. It turns the engine's actions into calls of the shells (tox, store, maildir, lmtp, control) and
//! what they bring into the engine's inputs; decisions are not made here. Uses every other module but `ctl` and
//! `transport`.

mod account;
mod bootstrap;
mod contacts;
mod courier;
mod delivery;
mod directory;
mod health;
mod manage;
mod names;
mod notices;
mod partial;
mod probe;
pub mod relay_client;
mod relay_role;
mod relays;
mod reload;
mod run;
mod submission;
mod waker;

pub use run::main;
