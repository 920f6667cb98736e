//! The wall clock, and the queue clock, which a step of the system clock does not move.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::ClockId;

/// The largest difference, in ms, that the queue clock makes up for; a larger one is a step.
pub const MAX_SLEW: i64 = 60_000;
/// While it makes up for a difference, the queue clock goes slower or faster by one in so many.
const SLEW_RATE: i64 = 20;
/// The two clocks are compared at most once in so many ms.
const COMPARE_EVERY: i64 = 1000;

/// The system clock was set, by more than [`MAX_SLEW`]; the queue clock does not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How far the wall clock now is ahead of (or, if negative, behind) the queue clock, in ms.
    pub ahead: i64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.ahead < 0 { "behind" } else { "ahead of" };
        let seconds = self.ahead.unsigned_abs() / 1000;
        write!(f, "the system clock was set and is {seconds} s {direction} the queue's, which keeps its own time")
    }
}

/// The rule of the queue clock, without any clock: all times are arguments. All values are in ms; wall and queue time
/// since the epoch, monotonic time since anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Following {
    base_queue: i64,
    base_mono: i64,
    /// What was still to make up for at the base.
    slew: i64,
    /// The difference last reported as a step, while the clocks are that far apart.
    apart: Option<i64>,
}

impl Following {
    /// Starts with the wall clock's time.
    pub fn start(wall: i64, mono: i64) -> Self {
        Self { base_queue: wall, base_mono: mono, slew: 0, apart: None }
    }

    /// The queue clock's time at `mono`. Never decreases while `mono` does not.
    pub fn queue(&self, mono: i64) -> i64 {
        let elapsed = mono.saturating_sub(self.base_mono).max(0);
        let most = elapsed / SLEW_RATE;
        self.base_queue.saturating_add(elapsed).saturating_add(self.slew.clamp(-most, most))
    }

    /// The rule: compares the clocks (at most once a second). A difference of up to [`MAX_SLEW`] is made up for by
    /// going 5 % faster or slower; a larger one is a step, is told once, and is not followed.
    pub fn follow(self, wall: i64, mono: i64) -> (Self, Option<Step>) {
        if mono.saturating_sub(self.base_mono) < COMPARE_EVERY {
            return (self, None);
        }
        let queue = self.queue(mono);
        let ahead = wall.saturating_sub(queue);
        let base = Self { base_queue: queue, base_mono: mono, slew: 0, apart: None };
        if ahead.saturating_abs() <= MAX_SLEW {
            return (Self { slew: ahead, ..base }, None);
        }
        // A second step while the clocks are apart is told again, the drift of two clocks is not.
        match self.apart {
            Some(told) if told.saturating_sub(ahead).saturating_abs() <= MAX_SLEW => {
                (Self { apart: Some(told), ..base }, None)
            }
            _ => (Self { apart: Some(ahead), ..base }, Some(Step { ahead })),
        }
    }
}

/// The system's clocks.
#[derive(Debug)]
pub struct Clock {
    following: Mutex<Following>,
    /// The boot, and the file that keeps how far the queue clock is ahead of the time since then.
    kept: Option<(String, PathBuf)>,
}

/// What is kept of the queue clock: valid for one boot only.
fn kept(text: &str, boot: &str) -> Option<i64> {
    let (of, ahead) = text.trim_end().split_once(' ')?;
    ahead.parse().ok().filter(|_| of == boot)
}

impl Clock {
    /// Starts the queue clock at the wall clock's time, or, with the `file` that an earlier start on the same boot has
    /// kept, goes on where that is now: after a step of the system clock a restart must not make all mail expire.
    pub fn start(file: &Path) -> Self {
        let (wall, mono) = (wall_ms(), mono_ms());
        // Not to be read where /proc is restricted to processes: then each start follows the wall clock.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim_end().to_owned());
        let kept_ahead = boot.as_ref().ok().and_then(|boot| kept(&std::fs::read_to_string(file).ok()?, boot));
        let start = kept_ahead.map_or(wall, |ahead| mono.saturating_add(ahead));
        let kept = boot.ok().map(|boot| (boot, file.to_owned()));
        Self { following: Mutex::new(Following::start(start, mono)), kept }
    }

    /// Keeps the queue clock for the next start. Without fsync, as a power cut ends the boot for which it is valid.
    ///
    /// # Errors
    /// The disk does not take it; what was kept before stays.
    pub fn keep(&self) -> io::Result<()> {
        let Some((boot, file)) = &self.kept else { return Ok(()) };
        let mono = mono_ms();
        let (queue, _) = self.read(wall_ms(), mono, false);
        let ahead = queue.saturating_sub(mono);
        // Only slewing moves it: seldom worth a write.
        let before = std::fs::read_to_string(file).ok().and_then(|text| kept(&text, boot));
        if before.is_some_and(|before| before.saturating_sub(ahead).saturating_abs() < COMPARE_EVERY) {
            return Ok(());
        }
        let beside = file.with_extension("new");
        std::fs::write(&beside, format!("{boot} {ahead}\n"))?;
        std::fs::rename(beside, file)
    }

    /// Wall time, in ms since the epoch: for people and for other hosts. May step.
    pub fn wall_ms(&self) -> i64 {
        wall_ms()
    }

    /// Queue time, in ms since the epoch: for expiry and back-off. Never decreases; goes on while the host sleeps.
    pub fn queue_ms(&self) -> i64 {
        let (queue, step) = self.read(wall_ms(), mono_ms(), true);
        if let Some(step) = step {
            ::log::warn!("{step}");
        }
        queue
    }

    fn read(&self, wall: i64, mono: i64, follow: bool) -> (i64, Option<Step>) {
        let mut following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, step) = if follow { following.follow(wall, mono) } else { (*following, None) };
        *following = next;
        (next.queue(mono), step)
    }
}

fn wall_ms() -> i64 {
    let signed = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => -signed(before.duration()),
    }
}

/// Time since boot with the time asleep: without that, a laptop's night would look like a step of the wall clock.
fn mono_ms() -> i64 {
    let Ok(now) = ClockId::CLOCK_BOOTTIME.now() else { return 0 };
    i64::try_from(Duration::from(now).as_millis()).unwrap_or(i64::MAX)
}

/// `ms` since the epoch as RFC 3339 in UTC with ms, as in `2026-01-02T03:04:05.678Z`; years outside 0 to 9999 are shown
/// as the nearest of these.
pub fn rfc3339(ms: i64) -> String {
    let ms = ms.clamp(-62_167_219_200_000, 253_402_300_799_999);
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Days → date, by Howard Hinnant's civil_from_days: years begin in March, eras have 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T0: i64 = 1_700_000_000_000;

    /// Runs both clocks for `seconds`, once a second, with the wall clock off by `offset`.
    fn run(mut clock: Following, from: i64, seconds: i64, offset: i64) -> (Following, Vec<Step>) {
        let mut steps = Vec::new();
        for second in 1..=seconds {
            let mono = from + second * 1000;
            let (next, step) = clock.follow(T0 + mono + offset, mono);
            assert!(next.queue(mono) >= clock.queue(mono));
            clock = next;
            steps.extend(step);
        }
        (clock, steps)
    }

    #[test]
    fn a_small_difference_is_made_up_for_slowly() {
        for offset in [30_000, -30_000, 60_000, -60_000] {
            let (half, steps) = run(Following::start(T0, 0), 0, 300, offset);
            assert!(steps.is_empty());
            let made_up = half.queue(300_000) - T0 - 300_000;
            assert!(made_up.abs() >= 14_000 && made_up.abs() <= 15_000 && made_up.signum() == offset.signum());
            let (whole, _) = run(half, 300_000, 1300, offset);
            assert_eq!(whole.queue(1_600_000), T0 + 1_600_000 + offset);
        }
    }

    #[test]
    fn a_step_is_told_once_and_not_followed() {
        for offset in [3_600_000, -3_600_000, 60_001, i64::from(u32::MAX)] {
            let (clock, steps) = run(Following::start(T0, 0), 0, 100, offset);
            assert_eq!(steps, [Step { ahead: offset }]);
            assert_eq!(clock.queue(100_000), T0 + 100_000);
            let (clock, steps) = run(clock, 100_000, 100, offset * 2);
            assert_eq!(steps, [Step { ahead: offset * 2 }]);
            // Set right again: nothing to tell, and a later step is told.
            let (clock, steps) = run(clock, 200_000, 100, 0);
            assert!(steps.is_empty());
            assert_eq!(run(clock, 300_000, 10, offset).1.len(), 1);
        }
        assert!(Step { ahead: -90_500 }.to_string().contains("90 s behind"));
    }

    #[test]
    fn a_restart_on_the_same_boot_goes_on_and_another_boot_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clock");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
        let (boot, ten_days) = (boot.trim_end(), 864_000_000);
        for (of, ahead) in [(boot, ten_days), ("another", 0)] {
            std::fs::write(&file, format!("{of} {}\n", wall_ms() - mono_ms() + ten_days)).expect("written");
            let clock = Clock::start(&file);
            assert!((clock.queue_ms() - wall_ms() - ahead).abs() < 1000, "{of}");
            clock.keep().expect("kept");
            assert!((Clock::start(&file).queue_ms() - wall_ms() - ahead).abs() < 1000, "{of}");
        }
        std::fs::write(&file, "damaged").expect("written");
        assert!((Clock::start(&file).queue_ms() - wall_ms()).abs() < 1000);
    }

    #[test]
    fn a_long_silence_does_not_overshoot() {
        let (clock, _) = Following::start(T0, 0).follow(T0 + 1000 + 5000, 1000);
        assert_eq!(clock.queue(86_400_000), T0 + 86_400_000 + 5000);
    }

    #[test]
    fn the_systems_clocks_agree_at_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::start(&folder.path().join("clock"));
        assert!((clock.wall_ms() - clock.queue_ms()).abs() < 1000);
        let first = clock.queue_ms();
        let mono = mono_ms() + 5000;
        assert!(clock.read(first + 10_000_000, mono, true).1.is_some());
        assert!(clock.queue_ms() >= first + 4000);
    }

    #[test]
    fn times_print() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_826_245_678, "2000-02-29T12:10:45.678Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }

    proptest! {
        #[test]
        fn queue_time_never_decreases_and_never_runs_wild(
            moves in proptest::collection::vec((0..10_000i64, -200_000..200_000i64), 1..100),
        ) {
            let (mut clock, mut mono, mut last) = (Following::start(T0, 0), 0, T0);
            for (pause, offset) in moves {
                mono += pause;
                clock = clock.follow(T0 + mono + offset, mono).0;
                let queue = clock.queue(mono);
                prop_assert!(queue >= last && queue - last <= pause + pause / 10 + 1);
                last = queue;
            }
        }

        #[test]
        fn no_time_makes_it_panic(a: i64, b: i64, c: i64, d: i64) {
            let (clock, step) = Following::start(a, b).follow(c, d);
            let _ = (clock.queue(a), clock.queue(i64::MAX), step.map(|s| s.to_string()), rfc3339(a));
        }
    }
}
