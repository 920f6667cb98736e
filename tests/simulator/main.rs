//! A seeded simulator of many agents: the production engine, with a model of its shells (group commit, Maildir, partial
//! files), of the network and of everything that goes wrong. One promise a test.
//!
//! `SIM_SEEDS=n` sets how many seeds all tests try together (10,000), `SIM_SEED=n` runs one only, `SIM_TRACE=1` prints what happens.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod disk;
mod random;
mod relays;
mod world;

use random::Random;
use world::{Fault, HOUR, MS, SECOND, Weather, World, key};

/// Tries `run` with many seeds: `default` of them, or its share of SIM_SEEDS, which counts all tests together.
fn seeds(name: &str, default: u64, run: impl Fn(u64) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("SIM_SEEDS").map_or(default, |all| (all * default / 10_000).max(1))),
    };
    for seed in first..first + count {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        let why = match result {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            Err(_) => "panic".into(),
        };
        panic!("seed {seed}: {why}\nrerun: SIM_SEED={seed} cargo test --test simulator {name} -- --nocapture");
    }
}

const BURST: usize = toxmail::engine::transfer::BURST as usize;

fn size(random: &mut Random) -> usize {
    match random.below(100) {
        0..=4 => 0,
        5..=9 => 1,
        10..=69 => random.between(2, 5_000) as usize,
        70..=79 => random.pick(&[BURST - 1, BURST, BURST + 1]),
        80..=93 => random.between(5_000, 60_000) as usize,
        94..=98 => random.between(70_000, 400_000) as usize,
        _ => random.pick(&[400_000, 2 << 20]),
    }
}

/// Mails from everybody to everybody, to some who do not exist.
fn traffic(world: &mut World, mails: u64, within: u64) {
    let agents = world.agents.len() as u64;
    for _ in 0..mails {
        let from = world.random.below(agents) as usize;
        let size = size(&mut world.random);
        let mut to = std::collections::BTreeSet::new();
        for _ in 0..world.random.pick(&[1, 1, 1, 2, 3]) {
            let other = (from as u64 + world.random.between(1, agents - 1)) % agents;
            to.insert((other as usize, world.random.pick(&[0, 0, 0, 1, 1, 2])));
        }
        let at = world.random.below(within);
        world.submit(at, from, size, &to.into_iter().collect::<Vec<_>>());
    }
}

fn cuts_and_crashes(world: &mut World, within: u64) {
    let agents = world.agents.len() as u64;
    for _ in 0..world.random.below(6) {
        let a = world.random.below(agents);
        let b = (a + world.random.between(1, agents - 1)) % agents;
        let at = world.random.below(within);
        world.fault(at, Fault::Cut(a as usize, b as usize));
    }
    for _ in 0..world.random.below(5) {
        // By the step rather than by the time: most of what can go wrong happens within milliseconds.
        let (step, agent) = (world.random.below(3_000), world.random.below(agents) as usize);
        world.crashes.insert(step, agent);
        if world.random.chance(200) {
            world.crashes.insert(step + 1, (agent + 1) % agents as usize);
        }
    }
    for _ in 0..world.random.below(3) {
        let (at, agent) = (world.random.below(within), world.random.below(agents) as usize);
        world.fault(at, Fault::Crash(agent));
    }
    if world.random.chance(200) {
        let step = world.random.pick(&[-7_200_000, -60_000, 60_000, 86_400_000, -864_000_000]);
        let (at, agent) = (world.random.below(within), world.random.below(agents) as usize);
        world.fault(at, Fault::Clock(agent, step));
    }
}

fn finish(world: &mut World, heal: u64) -> Result<(), String> {
    world.fault(heal, Fault::Heal);
    world.run_until_quiet(heal + 24 * HOUR);
    // What the last answers bring about; a peer that was shut out at the end is heard again within the hour.
    let now = world.now;
    world.run(now + 3 * HOUR);
    world.verify()?;
    for (number, agent) in world.agents.iter().enumerate() {
        if agent.deadline().is_some() {
            return Err(format!("the engine of agent {number} still waits for something"));
        }
    }
    Ok(())
}

fn weather(random: &mut Random) -> Weather {
    Weather {
        delayed: random.pick(&[0, 0, 10, 50]),
        not_taken: random.pick(&[0, 0, 0, 5, 50]),
        slow_disk: random.pick(&[0, 0, 10, 100]),
        ..Weather::default()
    }
}

fn latency(random: &mut Random) -> (u64, u64) {
    let least = random.pick(&[100, MS, 10 * MS, 150 * MS]);
    (least, least + random.below(least))
}

#[test]
fn nothing_is_lost_or_doubled_over_cuts_and_crashes() {
    seeds("nothing_is_lost_or_doubled_over_cuts_and_crashes", 4_000, |seed| {
        let agents = 2 + (seed % 3) as usize;
        let mut world = World::new(seed, agents);
        world.latency = latency(&mut world.random);
        world.weather = weather(&mut world.random);
        let within = world.random.pick(&[SECOND, 20 * SECOND, 120 * SECOND]) + 12 * SECOND;
        let mails = world.random.between(1, 25);
        traffic(&mut world, mails, within);
        cuts_and_crashes(&mut world, within);
        finish(&mut world, within + 120 * SECOND)
    });
}

#[test]
fn nothing_is_lost_or_doubled_with_disk_full() {
    seeds("nothing_is_lost_or_doubled_with_disk_full", 3_000, |seed| {
        let mut world = World::new(seed, 2);
        world.latency = latency(&mut world.random);
        world.weather = weather(&mut world.random);
        world.weather.rename_fails = world.random.pick(&[0, 20, 300]);
        let within = 60 * SECOND;
        let mails = world.random.between(1, 20);
        traffic(&mut world, mails, within);
        for _ in 0..world.random.between(1, 4) {
            let agent = world.random.below(2) as usize;
            let (at, length) = (world.random.below(within), world.random.between(1, 40 * SECOND));
            world.fault(at, Fault::Full(agent, true));
            world.fault(at + length, Fault::Full(agent, false));
        }
        if seed % 2 == 0 {
            cuts_and_crashes(&mut world, within);
        }
        finish(&mut world, within + 60 * SECOND)
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_the_network_reorders_or_duplicates() {
    seeds("nothing_is_lost_or_doubled_when_the_network_reorders_or_duplicates", 3_000, |seed| {
        let mut world = World::new(seed, 2 + (seed % 2) as usize);
        world.latency = latency(&mut world.random);
        world.weather = weather(&mut world.random);
        world.weather.lost = world.random.pick(&[0, 1, 20, 200]);
        world.weather.doubled = world.random.pick(&[0, 1, 20, 200]);
        world.weather.reordered = world.random.pick(&[0, 1, 20, 200]);
        let within = 60 * SECOND;
        let mails = world.random.between(1, 20);
        traffic(&mut world, mails, within);
        if seed % 2 == 0 {
            cuts_and_crashes(&mut world, within);
        }
        finish(&mut world, within + 600 * SECOND)
    });
}

#[test]
fn small_mail_overtakes_bulk() {
    let mut world = World::new(1, 2);
    // 10 ms there, and a line that never waits: what comes first is the engine's choice.
    world.latency = (10 * MS, 10 * MS);
    let bulk = world.submit(15 * SECOND, 0, 25 << 20, &[(1, 0)]);
    world.run(15 * SECOND + 120 * MS);
    let sent = world.agents[0].progress(&key(1));
    assert!(sent.len() == 1 && sent[0].1 > 0, "the bulk mail is under way: {sent:?}");
    let at = world.now;
    let small = world.submit(at, 0, 4096, &[(1, 0)]);
    let id = world.mails[&small].1.id(1);
    while !world.arrived.contains_key(&(id, 0)) && world.now < 60 * SECOND {
        let next = world.now + MS;
        world.run(next);
    }
    let took = world.now - at;
    let sent = world.agents[0].progress(&key(1));
    assert!(took < 100 * MS, "the small mail took {took} us");
    assert!(sent.iter().any(|(_, octets)| *octets < 20 << 20), "the bulk mail was nearly done: {sent:?}");
    finish(&mut world, 20 * SECOND).unwrap();
    assert!(world.arrived.contains_key(&(world.mails[&bulk].1.id(1), 0)));
    assert_eq!(world.remembered(), 0, "after DONE nothing needs to be remembered");
}

#[test]
fn many_peers_at_once() {
    seeds("many_peers_at_once", 20, |seed| {
        let mut world = World::new(seed, 20);
        world.latency = (MS, 50 * MS);
        let everybody: Vec<(usize, usize)> = (1..20).map(|agent| (agent, 0)).collect();
        world.submit(SECOND, 0, 10_000, &everybody);
        world.submit(SECOND, 0, 100_000, &everybody);
        traffic(&mut world, 300, 30 * SECOND);
        finish(&mut world, 31 * SECOND)?;
        match world.remembered() {
            0 => Ok(()),
            left => Err(format!("{left} records are remembered although all links stayed up")),
        }
    });
}

#[test]
fn a_silent_peer_holds_nobody_up() {
    let mut world = World::new(3, 3);
    world.latency = (10 * MS, 10 * MS);
    world.agents[1].silent = true;
    for _ in 0..300 {
        world.submit(15 * SECOND, 0, 2_000, &[(1, 0)]);
    }
    for _ in 0..10 {
        world.submit(15 * SECOND, 0, 200_000, &[(1, 0)]);
    }
    let ids: Vec<_> = (0..100)
        .map(|_| {
            let mail = world.submit(16 * SECOND, 0, 4096, &[(2, 0)]);
            world.mails[&mail].1.id(2)
        })
        .collect();
    world.run(17 * SECOND);
    assert!(ids.iter().all(|id| world.arrived.contains_key(&(*id, 0))));
    // Nothing was promised about the silent one but that its mail is kept.
    world.run(2 * HOUR);
    assert_eq!(world.agents[0].disk.rows.len(), 310);
    world.agents[1].silent = false;
    world.crash(1);
    finish(&mut world, 2 * HOUR + SECOND).unwrap();
}

#[test]
fn idle_links_cost_nothing() {
    let mut world = World::new(4, 10);
    world.latency = (10 * MS, 20 * MS);
    traffic(&mut world, 30, 30 * SECOND);
    world.run(200 * SECOND);
    world.verify().unwrap();
    let polls = |world: &World| world.agents.iter().map(|agent| agent.polls).sum::<u64>();
    let before = (world.packets, polls(&world));
    assert!(world.agents.iter().all(|agent| agent.deadline().is_none()));
    world.run(10 * HOUR);
    assert_eq!((world.packets, polls(&world)), before, "packets and polls of ten idle hours");
}
