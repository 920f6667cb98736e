//! What the agent tells about itself, and what time it is.
//!
//! Owns the log (standard error, the journal, syslog), what the service manager hears, and the clock by which waiting
//! mail ages. Uses no other module of this library.

pub mod clock;
pub mod log;
pub mod notify;
