//! People: when their computers are on, whom they know, what they write. Times are milliseconds from the start.

use crate::random::Random;

pub const MINUTE: u64 = 60_000;
pub const HOUR: u64 = 60 * MINUTE;
pub const DAY: u64 = 24 * HOUR;
/// Mail is written in these days; before them everybody was on and registered slots.
pub const WRITING: std::ops::Range<u64> = 2 * DAY..5 * DAY;
/// How long each mail may take.
pub const PATIENCE: u64 = 5 * DAY;
/// The end.
pub const END: u64 = WRITING.end + PATIENCE;
/// How long it takes two who are on to find each other.
pub const FINDING: u64 = 30_000;

/// Times at which something is on, in order, none touching the next.
pub type Times = Vec<std::ops::Range<u64>>;

pub struct Letter {
    pub at: u64,
    pub from: usize,
    pub to: usize,
    /// Octets, compressed.
    pub size: u64,
}

pub struct People {
    pub on: Vec<Times>,
    pub contacts: Vec<Vec<usize>>,
    pub letters: Vec<Letter>,
}

impl People {
    pub fn new(random: &mut Random, count: usize) -> Self {
        let on: Vec<Times> = (0..count).map(|number| times(random, number * 6 / count)).collect();
        let contacts = contacts(random, count);
        let mut letters: Vec<Letter> = (0..count * 3)
            .map(|number| {
                let from = number % count;
                let to = contacts[from][random.below(contacts[from].len() as u64) as usize];
                let at = random.between(WRITING.start, WRITING.end - 1);
                Letter { at: when_on(&on, from, at), from, to, size: size(random) }
            })
            .collect();
        letters.retain(|letter| letter.at < WRITING.end);
        letters.sort_by_key(|letter| letter.at);
        Self { on, contacts, letters }
    }
}

/// From ten minutes to eight hours a day, in up to four pieces, by day where people live; one day in ten not at all.
fn times(random: &mut Random, region: usize) -> Times {
    let doublings = random.below(5_600) as f64 / 1000.0;
    let daily = (10.0 * MINUTE as f64 * doublings.exp2()) as u64;
    let mut times: Times = Vec::new();
    for day in 0..END / DAY {
        if random.chance(100) {
            continue;
        }
        let pieces = random.between(1, 4);
        for _ in 0..pieces {
            let hour = if random.chance(900) { random.between(7 * 60, 23 * 60) } else { random.below(24 * 60) };
            let start = day * DAY + (hour * MINUTE + random.below(MINUTE) + region as u64 * 4 * HOUR) % DAY;
            let length = daily / pieces * random.between(500, 1500) / 1000;
            times.push(start..(start + length.max(MINUTE)).min(END));
        }
    }
    join(times)
}

fn join(mut times: Times) -> Times {
    times.sort_by_key(|time| time.start);
    let mut joined: Times = Vec::new();
    for time in times {
        match joined.last_mut() {
            Some(last) if time.start <= last.end + MINUTE => last.end = last.end.max(time.end),
            _ => joined.push(time),
        }
    }
    joined
}

/// A small world (Watts and Strogatz): ten contacts each, mostly people who know each other too.
fn contacts(random: &mut Random, count: usize) -> Vec<Vec<usize>> {
    let mut contacts = vec![std::collections::BTreeSet::new(); count];
    for one in 0..count {
        for step in 1..=5 {
            let mut other = (one + step) % count;
            while random.chance(200) || other == one {
                other = random.below(count as u64) as usize;
            }
            contacts[one].insert(other);
            contacts[other].insert(one);
        }
    }
    contacts.into_iter().map(|of| of.into_iter().collect()).collect()
}

/// Most mail is short; one in thirty is larger than a megabyte.
fn size(random: &mut Random) -> u64 {
    match random.below(100) {
        0..70 => random.between(1 << 10, 12 << 10),
        70..87 => random.between(16 << 10, 110 << 10),
        87..94 => random.between(128 << 10, 480 << 10),
        94..97 => random.between(500 << 10, 1000 << 10),
        _ => random.between(1 << 20, 12 << 20),
    }
}

/// The first moment from `at` on at which somebody is on, or [`END`]: mail is written on a computer that is on.
fn when_on(on: &[Times], who: usize, at: u64) -> u64 {
    let from = on[who].partition_point(|time| time.end <= at);
    on[who].get(from).map_or(END, |time| time.start.max(at))
}

/// When two have found each other, from `at` on.
pub fn meeting(one: &Times, other: &Times, at: u64) -> Option<u64> {
    let (mut a, mut b) = (one.partition_point(|time| time.end <= at), other.partition_point(|time| time.end <= at));
    while let (Some(first), Some(second)) = (one.get(a), other.get(b)) {
        let (since, until) = (first.start.max(second.start) + FINDING, first.end.min(second.end));
        if since.max(at) < until {
            return Some(since.max(at));
        }
        if first.end <= second.end { a += 1 } else { b += 1 }
    }
    None
}

/// Machines that somebody looks after: down for hours every ten days or so; one in twenty goes for ever some day.
pub fn well_kept(random: &mut Random) -> Times {
    let mut times = Vec::new();
    let mut at = 0;
    while at < END {
        let until = at + random.between(DAY, 20 * DAY);
        times.push(at..until.min(END));
        at = until + random.between(HOUR, 12 * HOUR);
    }
    ending(random, times)
}

/// The same times, but one in twenty goes for ever some day.
pub fn ending(random: &mut Random, mut times: Times) -> Times {
    let end = if random.chance(50) { random.below(END) } else { END };
    times.retain(|time| time.start < end);
    if let Some(last) = times.last_mut() {
        last.end = last.end.min(end);
    }
    times
}
