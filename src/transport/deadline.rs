//! The end of the whole run, which every wait respects.
//!
//! Owns: the clock of the program. May use: `outcome` for the words of a timeout.

use std::time::{Duration, Instant};

use super::outcome::Verdict;

/// The moment by which the program must have ended, well before the MTA's own limit would kill it and bounce the mail.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// The time left as poll(2) takes it, at least one millisecond.
    ///
    /// # Errors
    /// Nothing is left. `waiting_for` completes "… within N s".
    pub(super) fn left_ms(&self, waiting_for: &str) -> Result<i32, Verdict> {
        let left = self.limit.saturating_sub(self.start.elapsed());
        if left.is_zero() {
            let text = format!("{waiting_for} within {} s", self.limit.as_secs());
            return Err(Verdict::temporary(4, 2, text));
        }
        Ok(i32::try_from(left.as_millis()).unwrap_or(i32::MAX).saturating_add(1))
    }
}
