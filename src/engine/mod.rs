//! What to do: the link between two agents, transfers on it, when to try again.
//!
//! Pure: no I/O, clock, randomness or threads. Time comes in as microseconds of a monotonic clock, randomness as a seed,
//! and what is to be done goes out as [`link::Action`]s. The agent, the simulator of the tests and the fuzz targets run
//! the same code. Uses [`crate::mail`] and [`crate::identity`].

mod incoming;
pub mod link;
mod outgoing;
pub mod request;
pub mod rules;
pub mod schedule;
pub mod transfer;
pub mod trust;
pub mod window;
pub mod wire;
