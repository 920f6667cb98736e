//! Randomness that a relay cannot guess, from a seed; and how long to wait after what failed.

use blake2::{Blake2b512, Digest as _};

use crate::engine::schedule::retry_after;

/// Numbers from a secret seed: BLAKE2b-512 of the seed and a counter, eight at a time.
pub(super) struct Chance {
    seed: [u8; 32],
    drawn: u64,
    block: [u8; 64],
}

impl Chance {
    /// The numbers of this seed.
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, drawn: 0, block: [0; 64] }
    }

    /// The next one.
    pub(super) fn next(&mut self) -> u64 {
        let at = (self.drawn % 8) as usize * 8;
        if at == 0 {
            let mut hash = Blake2b512::new();
            hash.update(self.seed);
            hash.update(self.drawn.to_be_bytes());
            self.block = hash.finalize().into();
        }
        self.drawn += 1;
        u64::from_be_bytes(self.block[at..at + 8].try_into().expect("eight octets"))
    }

    /// A number below `end`, which is not 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Waiting times of this mean, as long as it takes for something that happens at any moment alike; at most ten times the
    /// mean.
    pub(super) fn exponential(&mut self, mean: u64) -> u64 {
        let part = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - part).ln() * mean as f64).min(mean as f64 * 10.0) as u64
    }

    /// Brings them into any order.
    pub(super) fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            of.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// Until when something that failed is left alone.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pause {
    /// Until then, in ms.
    pub(super) until: u64,
    failures: u32,
}

impl Pause {
    /// Whether it failed an odd number of times.
    pub(super) fn is_odd(&self) -> bool {
        self.failures % 2 == 1
    }

    /// It failed: waits `min` ms at first, then doubling up to `max`.
    pub(super) fn fail(&mut self, now: u64, min: u64, max: u64, jitter: u64) {
        self.failures = self.failures.saturating_add(1);
        self.until = now.saturating_add(retry_after(self.failures, min, max, jitter));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_have_their_mean_and_an_end() {
        let mut chance = Chance::new([1; 32]);
        let times: Vec<u64> = (0..10_000).map(|_| chance.exponential(1000)).collect();
        let mean = times.iter().sum::<u64>() / 10_000;
        assert!((960..1040).contains(&mean), "{mean}");
        assert!(times.iter().all(|time| *time <= 10_000));
        assert!(times.iter().filter(|time| **time < 100).count() > 800, "many come soon");
    }

    #[test]
    fn every_order_comes_equally_often() {
        let mut chance = Chance::new([2; 32]);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut of = [0, 1, 2];
            chance.shuffle(&mut of);
            *seen.entry(of).or_insert(0) += 1;
        }
        assert!(seen.len() == 6 && seen.values().all(|times| (850..1150).contains(times)), "{seen:?}");
    }
}
