//! What the agent tells about itself, and what time it is.
//!
//! Owns the log (standard error, the journal, syslog) and the clock by which waiting mail ages. Uses no other module of
//! this library.

pub mod clock;
pub mod log;
