//! When to try again: a pure function of the number of attempts, so that a restart changes nothing.

/// How long to wait, in milliseconds, after the attempt number `attempts` (1 is the first) failed temporarily: doubling
/// from `min_ms`, at most `max_ms`, and then shortened by up to a quarter as `jitter` (any number, such as the recipient's
/// row) says, so that mails refused together are not offered together again.
pub fn retry_after(attempts: u32, min_ms: u64, max_ms: u64, jitter: u64) -> u64 {
    let doubled =
        min_ms.max(1).saturating_mul(1u64 << attempts.saturating_sub(1).min(32)).min(max_ms.max(min_ms).max(1));
    // Fibonacci hashing spreads consecutive row numbers over the whole range.
    let spread = jitter.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    doubled - (doubled / 4).saturating_mul(spread) / (1 << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_differ() {
        let wait = |attempts, jitter| retry_after(attempts, 60_000, 3_600_000, jitter);
        for jitter in 0..200 {
            assert!((45_000..=60_000).contains(&wait(1, jitter)));
            assert!((90_000..=120_000).contains(&wait(2, jitter)));
            assert!((2_700_000..=3_600_000).contains(&wait(u32::MAX, jitter)));
        }
        let different: std::collections::HashSet<_> = (0..200).map(|jitter| wait(5, jitter)).collect();
        assert!(different.len() > 150);
    }

    #[test]
    fn odd_settings_do_no_harm() {
        assert_eq!(retry_after(0, 0, 0, u64::MAX), 1);
        assert!(retry_after(40, u64::MAX, 5, 9) > 0);
    }
}
