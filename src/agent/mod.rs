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

use std::time::Duration;

/// The known nodes in the savedata are worth keeping, this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// While packets run over a TCP relay of toxcore, whose socket is not watched, a thread with a Tox instance turns its loop
/// this often, in milliseconds.
const TCP_TURN: u16 = 2;
