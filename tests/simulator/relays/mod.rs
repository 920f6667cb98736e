//! What relays bring: people who are on for minutes to hours a day write to each other; how much of their mail arrives and
//! when, directly, by relays that somebody looks after, by their contacts' agents as relays, and as toxmail was in 2014: a mail
//! was given to all contacts of the sender, and who knew the recipient passed it on. In the second and third, the production
//! outbox and inbox decide.
//!
//! `make simulate` writes the table and the figure of `docs/relays.md`. A test compares the table's rows for 100 agents.

mod figure;
mod people;
mod world;

use std::path::Path;

use people::{DAY, END, HOUR, MINUTE, PATIENCE, People, meeting};
use world::{Cost, World};

use crate::random::Random;

const BEGIN: &str = "<!-- simulate:begin -->\n";
const FINISH: &str = "<!-- simulate:end -->\n";
/// Agents to a relay that somebody looks after.
const PER_RELAY: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Kept,
    Contacts,
    Seed,
}

impl Way {
    const ALL: [Self; 4] = [Self::Direct, Self::Kept, Self::Contacts, Self::Seed];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct only",
            Self::Kept => "three well-kept relays",
            Self::Contacts => "three contacts as relays",
            Self::Seed => "2014: all contacts",
        }
    }
}

struct Outcome {
    way: Way,
    agents: usize,
    mails: usize,
    /// Of the mails that arrived within [`PATIENCE`], in order.
    delays: Vec<u64>,
    cost: Cost,
}

impl Outcome {
    fn share(&self, within: u64) -> f64 {
        self.delays.partition_point(|delay| *delay <= within) as f64 / self.mails as f64
    }

    /// After how long this share of all mail is there.
    fn quantile(&self, share: f64) -> String {
        let Some(delay) = self.delays.get((self.mails as f64 * share) as usize) else { return "> 5 d".into() };
        match delay / MINUTE {
            minutes @ 0..100 => format!("{} min", minutes.max(1)),
            minutes @ 100..2880 => format!("{:.0} h", minutes as f64 / 60.0),
            minutes => format!("{:.1} d", minutes as f64 / 1440.0),
        }
    }

    fn row(&self) -> String {
        let shares = [HOUR, 6 * HOUR, DAY, PATIENCE].map(|within| format!("{:.0} %", self.share(within) * 100.0));
        let each = |total: f64| total / self.mails as f64 / 1024.0;
        format!(
            "| {} | {} | {} | {} | {} | {:.0} KiB | {:.0} KiB·d | {:.1} |",
            self.agents,
            self.way.name(),
            shares.join(" | "),
            self.quantile(0.5),
            self.quantile(0.95),
            each(self.cost.traffic),
            each(self.cost.stored),
            self.cost.visits as f64 / self.mails as f64,
        )
    }
}

fn outcome(way: Way, people: &People, arrivals: impl IntoIterator<Item = Option<u64>>, cost: Cost) -> Outcome {
    let late = people.letters.iter().zip(arrivals).filter_map(|(letter, at)| at.map(|at| at - letter.at));
    let mut delays: Vec<u64> = late.filter(|delay| *delay <= PATIENCE).collect();
    delays.sort_unstable();
    Outcome { way, agents: people.on.len(), mails: people.letters.len(), delays, cost }
}

/// The mail waits at the sender until both are on.
fn direct(people: &People) -> Outcome {
    let mut cost = Cost::default();
    let arrivals: Vec<Option<u64>> = people
        .letters
        .iter()
        .map(|letter| {
            let at = meeting(&people.on[letter.from], &people.on[letter.to], letter.at);
            cost.traffic += at.map_or(0.0, |_| letter.size as f64 * 1.08 + 1000.0);
            at
        })
        .collect();
    outcome(Way::Direct, people, arrivals, cost)
}

/// Each contact of the sender gets the mail when they meet, and gives it to the recipient if they are contacts and meet.
fn seed(people: &People) -> Outcome {
    let mut cost = Cost::default();
    let arrivals: Vec<Option<u64>> = people
        .letters
        .iter()
        .map(|letter| {
            let until = letter.at + PATIENCE;
            let octets = letter.size as f64;
            let mut first = meeting(&people.on[letter.from], &people.on[letter.to], letter.at).unwrap_or(u64::MAX);
            if first <= letter.at {
                // Nobody else is asked when the recipient is there.
                cost.traffic += octets * 1.08;
                return Some(first);
            }
            let given = people.contacts[letter.from].iter().filter_map(|contact| {
                let at = meeting(&people.on[letter.from], &people.on[*contact], letter.at)?;
                (at <= until).then_some((*contact, at))
            });
            for (contact, at) in given.collect::<Vec<_>>() {
                cost.traffic += octets * 1.08;
                if contact == letter.to {
                    continue;
                }
                let knows = people.contacts[contact].binary_search(&letter.to).is_ok();
                let passed = knows.then(|| meeting(&people.on[contact], &people.on[letter.to], at)).flatten();
                // It does not know that others were faster, and who cannot pass it on keeps it.
                cost.traffic += passed.filter(|at| *at <= until).map_or(0.0, |_| octets * 1.08);
                cost.stored += octets * (passed.unwrap_or(until).min(until) - at) as f64 / DAY as f64;
                first = first.min(passed.unwrap_or(u64::MAX));
            }
            Some(first).filter(|at| *at < u64::MAX)
        })
        .collect();
    outcome(Way::Seed, people, arrivals, cost)
}

fn three(random: &mut Random, of: &[usize]) -> Vec<usize> {
    let mut left = of.to_vec();
    (0..3.min(of.len())).map(|_| left.swap_remove(random.below(left.len() as u64) as usize)).collect()
}

fn by_relays(way: Way, people: &People, random: &mut Random) -> Outcome {
    let agents = people.on.len();
    let (relays, uses): (Vec<_>, Vec<_>) = match way {
        Way::Contacts => (
            people.on.iter().map(|times| people::ending(random, times.clone())).collect(),
            people.contacts.iter().map(|contacts| three(random, contacts)).collect(),
        ),
        _ => {
            let all: Vec<usize> = (0..(agents / PER_RELAY).max(5)).collect();
            (
                all.iter().map(|_| people::well_kept(random)).collect(),
                (0..agents).map(|_| three(random, &all)).collect(),
            )
        }
    };
    let mut world = World::new(people, &relays, &uses);
    world.run();
    let World { delivered, cost, .. } = world;
    outcome(way, people, delivered, cost)
}

fn run(way: Way, people: &People) -> Outcome {
    let mut random = Random::new(people.on.len() as u64 + way as u64);
    match way {
        Way::Direct => direct(people),
        Way::Seed => seed(people),
        Way::Kept | Way::Contacts => by_relays(way, people, &mut random),
    }
}

fn all(agents: usize) -> Vec<Outcome> {
    let people = People::new(&mut Random::new(agents as u64), agents);
    Way::ALL.into_iter().map(|way| run(way, &people)).collect()
}

fn document() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/relays.md")
}

#[test]
fn relays_bring_what_their_documentation_says() {
    let small = all(100);
    let [direct, kept, contacts, seed] = &small[..] else { panic!("four ways") };
    for within in [HOUR, 6 * HOUR, DAY, PATIENCE] {
        assert!(direct.share(within) <= contacts.share(within), "contacts are better than nothing");
        assert!(contacts.share(within) <= kept.share(within), "relays that are on are better than those that are not");
    }
    assert!(kept.share(PATIENCE) > 0.97 && direct.share(PATIENCE) < 0.9);
    assert!(seed.cost.traffic > direct.cost.traffic * 4.0, "a mail to everybody costs");
    let text = std::fs::read_to_string(document()).expect("docs/relays.md");
    for outcome in &small {
        assert!(text.contains(&outcome.row()), "not in docs/relays.md (make simulate): {}", outcome.row());
    }
}

/// Not a test: writes the table and the figure; `make simulate` runs it.
#[test]
#[ignore = "takes minutes and writes docs/relays.md and docs/relays.svg"]
fn simulate() {
    let most = std::env::var("SIM_AGENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let mut table = String::from(
        "| agents | way | 1 h | 6 h | 1 d | 5 d | half | 95 % | sent per mail | stored per mail | visits per mail |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut largest = Vec::new();
    for agents in [100, 1_000, 10_000].into_iter().filter(|agents| *agents <= most) {
        let begun = std::time::Instant::now();
        largest = all(agents);
        for outcome in &largest {
            table += &(outcome.row() + "\n");
            println!("{}", outcome.row());
        }
        println!("{} agents, {} days: {:.1?}", agents, END / DAY, begun.elapsed());
    }
    let lines: Vec<_> =
        largest.iter().map(|outcome| (outcome.way.name(), outcome.delays.clone(), outcome.mails)).collect();
    let agents = largest.first().expect("one size at least").agents;
    let title = format!("Mail that has arrived after so long, {agents} agents that are seldom on");
    std::fs::write(document().with_file_name("relays.svg"), figure::draw(&title, &lines)).expect("docs/relays.svg");
    let text = std::fs::read_to_string(document()).expect("docs/relays.md");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(FINISH).expect("where the table ends");
    std::fs::write(document(), [before, BEGIN, &table, FINISH, after].concat()).expect("docs/relays.md");
}
