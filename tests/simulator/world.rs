//! The world: agents, the network between them, and what goes wrong. Discrete events, in order of time; everything
//! depends on the seed only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

use toxmail::engine::link::{Action, Engine, Input};
use toxmail::engine::rules::Rules;
use toxmail::engine::transfer::{Delivery, MailId, Outcome, Source, Transfer};
use toxmail::identity::tox_id::PublicKey;
use toxmail::mail::status::Refusal;

use crate::disk::{Disk, File, Key, Mail, Record, digest};
use crate::random::Random;

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;
pub const HOUR: u64 = 3_600 * SECOND;

/// What the world is like while it is not healed.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// Of a packet in a thousand: repaired by toxcore, later.
    pub delayed: u64,
    /// Within a session, which toxcore never does.
    pub lost: u64,
    pub doubled: u64,
    pub reordered: u64,
    /// Packets not taken by toxcore.
    pub not_taken: u64,
    /// Renames that fail, in a thousand.
    pub rename_fails: u64,
    /// Jobs of the disk that take long, in a thousand.
    pub slow_disk: u64,
}

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Cut(usize, usize),
    Crash(usize),
    Full(usize, bool),
    Clock(usize, i64),
    Heal,
}

/// A mail that is being put into mailboxes.
struct Delivering {
    delivery: Delivery,
    /// Mailbox, file, and why it is not there if so.
    files: Vec<(usize, u64, Option<Refusal>)>,
}

enum StoreJob {
    LinkUp {
        peer: PublicKey,
        epoch: u64,
        credits: [u32; 2],
    },
    Grant {
        peer: PublicKey,
        credits: [u32; 2],
    },
    LinkDown {
        peer: PublicKey,
    },
    Outcome {
        peer: PublicKey,
        id: MailId,
        mail: i64,
        index: u32,
        outcome: Outcome,
    },
    Forget {
        peer: PublicKey,
        id: MailId,
    },
    Enqueue(Rc<Mail>),
    Record(u64),
    /// Those in `new` are published, the records of the others void.
    Settle(u64),
}

enum DiskJob {
    Lookup { peer: PublicKey, stream: u32, id: MailId, mailboxes: Vec<usize>, partial: Option<String> },
    Append { peer: PublicKey, stream: u32, partial: String, offset: u64, octets: Vec<u8> },
    Read { peer: PublicKey, transfer: MailId, mail: i64, offset: u64, length: u64 },
    Stage(u64),
    Rename(u64),
    Sync(u64),
}

struct Credits {
    epoch: u64,
    credits: [u32; 2],
}

/// What of an agent a crash takes away.
struct Run {
    engine: Engine,
    started: u64,
    base: u64,
    poll_at: Option<u64>,
    jobs: Vec<StoreJob>,
    /// The jobs of the transaction that is being committed.
    committing: Option<Vec<StoreJob>>,
    links: BTreeMap<PublicKey, Credits>,
    sweep: bool,
    again: bool,
    disk_free_at: u64,
    deliveries: BTreeMap<u64, Delivering>,
    next_delivery: u64,
}

pub struct Agent {
    pub key: PublicKey,
    pub disk: Disk,
    full: bool,
    run: Option<Run>,
    life: u64,
    /// Which connection it believes in, by peer.
    sees: Vec<Option<u64>>,
    /// Mails that the MTA could not hand over.
    pub handing: BTreeSet<i64>,
    pub polls: u64,
    /// Never answers, though it takes all in.
    pub silent: bool,
}

impl Agent {
    /// Octets sent so far of every transfer to a peer.
    pub fn progress(&self, peer: &PublicKey) -> Vec<(MailId, u64)> {
        self.run.as_ref().map(|run| run.engine.progress(peer)).unwrap_or_default()
    }

    /// When its engine wants to be called, and its time.
    pub fn deadline(&self) -> Option<u64> {
        self.run.as_ref().and_then(|run| run.engine.deadline())
    }
}

/// A pair of agents, the first with the lower number.
#[derive(Default)]
struct Pair {
    connection: Option<u64>,
    connecting: bool,
    /// When the last packet arrives, in each direction.
    last: [u64; 2],
}

enum Event {
    Poll {
        agent: usize,
        life: u64,
    },
    Packet {
        from: usize,
        to: usize,
        connection: u64,
        custom: bool,
        octets: Vec<u8>,
    },
    /// The agent notices that the connection is there, or is not.
    Online {
        agent: usize,
        peer: usize,
        connection: u64,
    },
    Offline {
        agent: usize,
        peer: usize,
        connection: u64,
    },
    SendFailed {
        agent: usize,
        peer: usize,
        life: u64,
    },
    Connect(usize, usize),
    Disk {
        agent: usize,
        life: u64,
        job: DiskJob,
    },
    Commit {
        agent: usize,
        life: u64,
    },
    Again {
        agent: usize,
        life: u64,
    },
    Sweep {
        agent: usize,
        life: u64,
    },
    Submit {
        agent: usize,
        mail: i64,
    },
    Start(usize),
    Fault(Fault),
}

struct Entry(u64, u64, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.1 == other.1
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

pub struct World {
    pub now: u64,
    pub random: Random,
    pub weather: Weather,
    pub latency: (u64, u64),
    pub agents: Vec<Agent>,
    pub mails: BTreeMap<i64, (usize, Rc<Mail>)>,
    pub healed: bool,
    pub packets: u64,
    pub notes: Vec<String>,
    /// When each mail came into a mailbox.
    pub arrived: BTreeMap<(MailId, usize), u64>,
    /// Crashes by number of the step.
    pub crashes: BTreeMap<u64, usize>,
    steps: u64,
    connections: u64,
    pairs: BTreeMap<(usize, usize), Pair>,
    events: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
    trace: bool,
}

pub fn address(agent: usize, mailbox: usize) -> String {
    format!("{}@agent{agent}.example.org", ["main", "work"].get(mailbox).unwrap_or(&"nobody"))
}

pub fn key(agent: usize) -> PublicKey {
    PublicKey([agent as u8 + 1; 32])
}

impl World {
    pub fn new(seed: u64, agents: usize) -> Self {
        let agent = |number: usize| Agent {
            key: key(number),
            disk: Disk::default(),
            full: false,
            run: None,
            life: 0,
            sees: vec![None; agents],
            handing: BTreeSet::new(),
            polls: 0,
            silent: false,
        };
        let mut world = Self {
            now: 0,
            random: Random::new(seed),
            weather: Weather::default(),
            latency: (MS, MS),
            agents: (0..agents).map(agent).collect(),
            mails: BTreeMap::new(),
            healed: false,
            packets: 0,
            notes: Vec::new(),
            arrived: BTreeMap::new(),
            crashes: BTreeMap::new(),
            steps: 0,
            connections: 0,
            pairs: BTreeMap::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            trace: std::env::var_os("SIM_TRACE").is_some(),
        };
        (0..agents).for_each(|agent| world.start(agent));
        world
    }

    fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Entry(at.max(self.now), self.sequence, event)));
    }

    pub fn fault(&mut self, at: u64, fault: Fault) {
        self.push(at, Event::Fault(fault));
    }

    /// Has the MTA of `from` hand over a mail.
    pub fn submit(&mut self, at: u64, from: usize, size: usize, to: &[(usize, usize)]) -> i64 {
        let number = self.mails.len() as i64 + 1;
        let recipients = to.iter().map(|(agent, mailbox)| (*agent, key(*agent), address(*agent, *mailbox))).collect();
        let mail = Rc::new(Mail::new(number, size, &mut self.random, recipients));
        self.mails.insert(number, (from, mail));
        self.push(at, Event::Submit { agent: from, mail: number });
        number
    }

    /// Runs until then.
    pub fn run(&mut self, until: u64) {
        while self.events.peek().is_some_and(|Reverse(Entry(at, ..))| *at <= until) {
            let Some(Reverse(Entry(at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.step();
            self.happen(event);
        }
        self.now = until;
    }

    /// Runs until every queue is empty, or until then.
    pub fn run_until_quiet(&mut self, until: u64) {
        while self.now < until
            && !(self.healed && self.agents.iter().all(|a| a.disk.rows.is_empty() && a.handing.is_empty()))
        {
            let Some(Reverse(Entry(at, ..))) = self.events.peek() else { break };
            let at = *at;
            self.run(at);
        }
    }

    /// A crash may come before each of these.
    fn step(&mut self) -> bool {
        self.steps += 1;
        match self.crashes.remove(&self.steps) {
            Some(agent) if !self.healed => {
                self.crash(agent);
                true
            }
            _ => false,
        }
    }

    fn life(&self, agent: usize, life: u64) -> bool {
        self.agents[agent].life == life && self.agents[agent].run.is_some()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Poll { agent, life } if self.life(agent, life) => {
                self.agents[agent].polls += 1;
                if let Some(run) = &mut self.agents[agent].run {
                    run.poll_at = None;
                }
                self.input(agent, |_, _, _| {});
            }
            Event::Packet { from, to, connection, custom, octets }
                if self.agents[to].sees[from] == Some(connection) && self.is_connected(from, to, connection) =>
            {
                let peer = key(from);
                self.input(to, |engine, now, out| {
                    let input = if custom { Input::CustomPacket(peer, &octets) } else { Input::Packet(peer, &octets) };
                    engine.handle(now, input, out);
                });
            }
            Event::Online { agent, peer, connection } if self.is_connected(agent, peer, connection) => {
                match self.agents[agent].sees[peer] {
                    // It never noticed that the connection was away.
                    Some(_) if self.random.chance(500) => self.agents[agent].sees[peer] = Some(connection),
                    Some(old) => {
                        self.happen(Event::Offline { agent, peer, connection: old });
                        self.happen(Event::Online { agent, peer, connection });
                    }
                    None => {
                        self.agents[agent].sees[peer] = Some(connection);
                        self.input(agent, |engine, now, out| engine.handle(now, Input::Online(key(peer)), out));
                    }
                }
            }
            Event::Offline { agent, peer, connection } if self.agents[agent].sees[peer] == Some(connection) => {
                self.agents[agent].sees[peer] = None;
                self.input(agent, |engine, now, out| engine.handle(now, Input::Offline(key(peer)), out));
            }
            Event::SendFailed { agent, peer, life } if self.life(agent, life) => {
                self.input(agent, |engine, now, out| engine.handle(now, Input::SendFailed(key(peer)), out));
            }
            Event::Connect(a, b) => self.connect(a, b),
            Event::Disk { agent, life, job } if self.life(agent, life) => self.disk(agent, job),
            Event::Commit { agent, life } if self.life(agent, life) => self.commit(agent),
            Event::Again { agent, life } if self.life(agent, life) => {
                if let Some(run) = &mut self.agents[agent].run {
                    run.again = false;
                }
                self.begin_commit(agent);
            }
            Event::Sweep { agent, life } if self.life(agent, life) => {
                if let Some(run) = &mut self.agents[agent].run {
                    run.sweep = false;
                }
                self.begin_commit(agent);
            }
            Event::Submit { agent, mail } => {
                self.agents[agent].handing.insert(mail);
                let mail = self.mails[&mail].1.clone();
                if self.agents[agent].run.is_some() {
                    self.store(agent, StoreJob::Enqueue(mail));
                } else {
                    let number = mail.number;
                    self.push(self.now + 10 * SECOND, Event::Submit { agent, mail: number });
                }
            }
            Event::Start(agent) => self.start(agent),
            Event::Fault(fault) => match fault {
                _ if self.healed => {}
                Fault::Cut(a, b) => self.cut(a, b),
                Fault::Crash(agent) => self.crash(agent),
                Fault::Full(agent, full) => self.agents[agent].full = full,
                Fault::Clock(agent, step) => self.agents[agent].disk.clock += step,
                Fault::Heal => self.heal(),
            },
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.weather = Weather::default();
        self.agents.iter_mut().for_each(|agent| agent.full = false);
    }

    // The network.

    fn pair(&mut self, a: usize, b: usize) -> &mut Pair {
        self.pairs.entry((a.min(b), a.max(b))).or_default()
    }

    fn is_connected(&mut self, a: usize, b: usize, connection: u64) -> bool {
        self.pair(a, b).connection == Some(connection)
    }

    /// The two will be connected in a while.
    pub fn connect_at(&mut self, at: u64, a: usize, b: usize) {
        if !std::mem::replace(&mut self.pair(a, b).connecting, true) {
            self.push(at, Event::Connect(a, b));
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        self.pair(a, b).connecting = false;
        let alive = self.agents[a].run.is_some() && self.agents[b].run.is_some();
        if !alive || self.pair(a, b).connection.is_some() {
            return;
        }
        self.connections += 1;
        let connection = self.connections;
        let first = self.now + self.random.between(0, 200 * MS);
        let second = self.now + self.random.between(0, 200 * MS);
        let pair = self.pair(a, b);
        pair.connection = Some(connection);
        // Nothing of a connection arrives before it is noticed; [0] is towards the higher number.
        let (low, high) = if a < b { (first, second) } else { (second, first) };
        pair.last = [high, low];
        self.push(first, Event::Online { agent: a, peer: b, connection });
        self.push(second, Event::Online { agent: b, peer: a, connection });
    }

    fn cut(&mut self, a: usize, b: usize) {
        let Some(connection) = self.pair(a, b).connection.take() else { return };
        if self.trace {
            eprintln!("{} cut {a} {b}", self.now);
        }
        for (agent, peer) in [(a, b), (b, a)] {
            let at = self.now + self.random.between(0, 30 * SECOND);
            self.push(at, Event::Offline { agent, peer, connection });
        }
        let at = self.now + self.random.between(1, 40 * SECOND);
        self.connect_at(at, a, b);
    }

    fn transmit(&mut self, from: usize, to: usize, custom: bool, octets: Vec<u8>) -> bool {
        let Some(connection) = self.agents[from].sees[to] else { return false };
        if self.weather.not_taken > 0 && self.random.below(10_000) < self.weather.not_taken {
            return false;
        }
        self.packets += 1;
        if self.trace {
            eprintln!("{} {from}>{to} {custom} {} {:02x?}", self.now, octets.len(), &octets[..octets.len().min(24)]);
        }
        if !self.is_connected(from, to, connection) || self.random.chance(self.weather.lost) {
            return true;
        }
        let mut at = self.now + self.random.between(self.latency.0, self.latency.1);
        if self.random.chance(self.weather.delayed) {
            at += 2 * self.latency.1 + 10 * MS;
        }
        let direction = usize::from(from > to);
        if self.random.chance(self.weather.reordered) {
            at += self.random.between(0, 20 * MS);
        } else {
            let pair = self.pair(from, to);
            pair.last[direction] = pair.last[direction].max(at);
            at = pair.last[direction];
        }
        if self.random.chance(self.weather.doubled) {
            let later = at + self.random.between(0, 50 * MS);
            self.push(later, Event::Packet { from, to, connection, custom, octets: octets.clone() });
        }
        self.push(at, Event::Packet { from, to, connection, custom, octets });
        true
    }

    // Agents.

    fn start(&mut self, agent: usize) {
        let others = self.agents.len();
        let base = self.random.below(1 << 40);
        let seed = self.random.next();
        let a = &mut self.agents[agent];
        if a.run.is_some() {
            return;
        }
        a.life += 1;
        a.disk.recover();
        let addresses = [0, 1].map(|mailbox| [address(agent, mailbox).parse().expect("an address")]);
        let mailboxes = [("main", &addresses[0][..]), ("work", &addresses[1][..])];
        let mut bytes = [agent as u8; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        a.run = Some(Run {
            engine: Engine::new(Rules::new(a.key, mailboxes, 64 << 20, "simulator"), bytes),
            started: self.now,
            base,
            poll_at: None,
            jobs: Vec::new(),
            committing: None,
            links: BTreeMap::new(),
            sweep: false,
            again: false,
            disk_free_at: self.now,
            deliveries: BTreeMap::new(),
            next_delivery: 0,
        });
        for mail in a.handing.clone() {
            self.push(self.now + SECOND, Event::Submit { agent, mail });
        }
        for other in (0..others).filter(|other| *other != agent) {
            let at = self.now + self.random.between(MS, 10 * SECOND);
            self.connect_at(at, agent, other);
        }
    }

    pub fn crash(&mut self, agent: usize) {
        if self.trace {
            eprintln!("{} crash {agent}", self.now);
        }
        let others = self.agents.len();
        if self.agents[agent].run.take().is_none() {
            return;
        }
        self.agents[agent].disk.crash(&mut self.random);
        self.agents[agent].sees = vec![None; others];
        for other in (0..others).filter(|other| *other != agent) {
            if let Some(connection) = self.pair(agent, other).connection.take() {
                let at = self.now + self.random.between(0, 30 * SECOND);
                self.push(at, Event::Offline { agent: other, peer: agent, connection });
            }
        }
        let at = self.now + self.random.between(0, 60 * SECOND);
        self.push(at, Event::Start(agent));
    }

    fn input(&mut self, agent: usize, feed: impl FnOnce(&mut Engine, u64, &mut Vec<Action>)) {
        let Some(run) = &mut self.agents[agent].run else { return };
        let now = self.now - run.started + run.base;
        let mut out = Vec::new();
        feed(&mut run.engine, now, &mut out);
        run.engine.poll(now, &mut out);
        if let Some(deadline) = run.engine.deadline() {
            let at = (deadline + run.started).saturating_sub(run.base).max(self.now + 1);
            if run.poll_at.is_none_or(|poll| at < poll) {
                run.poll_at = Some(at);
                let life = self.agents[agent].life;
                self.push(at, Event::Poll { agent, life });
            }
        }
        let life = self.agents[agent].life;
        // Peers to whom nothing may be sent before the next HELLO.
        let mut gap = BTreeSet::new();
        for action in out {
            if self.step() && !self.life(agent, life) {
                return;
            }
            self.act(agent, life, action, &mut gap);
        }
    }

    fn act(&mut self, agent: usize, life: u64, action: Action, gap: &mut BTreeSet<usize>) {
        let number = |peer: &PublicKey| usize::from(peer.0[0]) - 1;
        match action {
            Action::SendCustom { peer, packet } => {
                gap.remove(&number(&peer));
                // That it is not taken goes unnoticed: HELLO is said again.
                self.transmit(agent, number(&peer), true, packet);
            }
            Action::Send { peer, packet } => {
                let peer = number(&peer);
                if !gap.contains(&peer) && !self.transmit(agent, peer, false, packet) {
                    gap.insert(peer);
                    self.push(self.now, Event::SendFailed { agent, peer, life });
                }
            }
            Action::LinkUp { peer, epoch, small, bulk } => {
                self.store(agent, StoreJob::LinkUp { peer, epoch, credits: [small, bulk] });
            }
            Action::Grant { peer, small, bulk } => self.store(agent, StoreJob::Grant { peer, credits: [small, bulk] }),
            Action::LinkDown { peer } => self.store(agent, StoreJob::LinkDown { peer }),
            Action::Outcome { peer, transfer: id, mail, index, outcome } => {
                self.store(agent, StoreJob::Outcome { peer, id, mail, index, outcome });
            }
            Action::Forget { peer, id } => self.store(agent, StoreJob::Forget { peer, id }),
            Action::ReadBody { peer, transfer, mail, offset, length } => {
                self.ask_disk(agent, DiskJob::Read { peer, transfer, mail, offset, length });
            }
            Action::CloseBody { .. } => {}
            Action::Lookup { peer, stream, id, mailboxes, partial } => {
                let partial = partial.map(|key| key.0);
                self.ask_disk(agent, DiskJob::Lookup { peer, stream, id, mailboxes, partial });
            }
            Action::Append { peer, stream, partial, offset, octets } => {
                self.ask_disk(agent, DiskJob::Append { peer, stream, partial: partial.0, offset, octets });
            }
            Action::Deliver(delivery) => {
                if self.agents[agent].silent {
                    return;
                }
                let Some(run) = &mut self.agents[agent].run else { return };
                run.next_delivery += 1;
                let number = run.next_delivery;
                run.deliveries.insert(number, Delivering { delivery, files: Vec::new() });
                self.ask_disk(agent, DiskJob::Stage(number));
            }
            Action::Declined { .. } | Action::DeclineHeard { .. } => unreachable!("nobody declines here"),
            Action::Lane { .. } => unreachable!("nobody speaks of lanes here"),
            Action::Note { peer, text } => {
                if self.trace {
                    eprintln!("{} note {agent} of {}: {text}", self.now, number(&peer));
                }
                self.notes.push(text);
            }
        }
    }

    // The shells.

    fn ask_disk(&mut self, agent: usize, job: DiskJob) {
        let mut takes = self.random.between(20, 300);
        if self.random.chance(self.weather.slow_disk) {
            takes += self.random.pick(&[50 * MS, SECOND, 5 * SECOND]);
        }
        let life = self.agents[agent].life;
        let Some(run) = &mut self.agents[agent].run else { return };
        // In order, as one thread does it.
        run.disk_free_at = run.disk_free_at.max(self.now) + takes;
        let at = run.disk_free_at;
        self.push(at, Event::Disk { agent, life, job });
    }

    fn disk(&mut self, agent: usize, job: DiskJob) {
        let a = &mut self.agents[agent];
        let full = a.full;
        let no_room = || Refusal::temporary(3, 1, "the disk is full");
        let Some(run) = &mut a.run else { return };
        match job {
            DiskJob::Lookup { peer, stream, id, mailboxes, partial } => {
                let stored = mailboxes.iter().map(|m| a.disk.received.contains_key(&(peer, id, *m))).collect();
                let offset = partial.and_then(|key| a.disk.partials.get(&key)).map_or(0, Vec::len) as u64;
                self.input(agent, |engine, now, out| {
                    engine.handle(now, Input::Found { peer, stream, stored, offset }, out);
                });
            }
            DiskJob::Append { peer, stream, partial, offset, octets } => {
                let file = a.disk.partials.entry(partial).or_default();
                if full || file.len() < offset as usize {
                    let refusal = no_room();
                    self.input(agent, |engine, now, out| {
                        engine.handle(now, Input::AppendFailed { peer, stream, refusal }, out);
                    });
                } else {
                    file.truncate(offset as usize);
                    file.extend_from_slice(&octets);
                }
            }
            DiskJob::Read { peer, transfer, mail, offset, length } => {
                let open = a.disk.rows.range((mail, 0)..=(mail, u32::MAX)).next();
                let octets = open.map(|(_, row)| {
                    let body = &row.mail.body;
                    let end = (offset + length).min(body.len() as u64);
                    body[offset.min(end) as usize..end as usize].to_vec()
                });
                self.input(agent, |engine, now, out| {
                    engine.handle(now, Input::Chunk { peer, transfer, offset, octets }, out);
                });
            }
            DiskJob::Stage(number) => {
                let Some(delivering) = run.deliveries.get_mut(&number) else { return };
                let delivery = &delivering.delivery;
                let none = Vec::new();
                let octets = match &delivery.source {
                    Source::Inline(octets) => octets,
                    Source::Partial(key) => a.disk.partials.get(&key.0).unwrap_or(&none),
                };
                let found = digest(octets);
                let refusal = if full {
                    Some(no_room())
                } else if octets.len() as u64 != delivery.size || found != delivery.digest {
                    Some(Refusal::temporary(6, 0, "the mail arrived damaged"))
                } else {
                    None
                };
                if let Some(refusal) = refusal {
                    // What is damaged must come again from its beginning.
                    if let (false, Source::Partial(key)) = (full, &delivery.source) {
                        a.disk.partials.remove(&key.0);
                    }
                    return self.delivered(agent, number, Some(&refusal));
                }
                let mailboxes: BTreeSet<usize> = delivery.recipients.iter().map(|(.., mailbox)| *mailbox).collect();
                for mailbox in mailboxes {
                    a.disk.files += 1;
                    let file = File { id: delivery.id, mailbox, digest: found };
                    a.disk.tmp.insert(a.disk.files, file);
                    delivering.files.push((mailbox, a.disk.files, None));
                }
                self.store(agent, StoreJob::Record(number));
            }
            DiskJob::Rename(number) => {
                let Some(delivering) = run.deliveries.get_mut(&number) else { return };
                for (_, file, failed) in &mut delivering.files {
                    if self.random.chance(self.weather.rename_fails) {
                        *failed = Some(Refusal::temporary(3, 0, "the mailbox cannot be written"));
                    } else if let Some(content) = a.disk.tmp.remove(file) {
                        a.disk.new.insert(*file, content);
                        a.disk.renamed.insert(*file);
                    }
                }
                self.ask_disk(agent, DiskJob::Sync(number));
            }
            DiskJob::Sync(number) => {
                let Some(delivering) = run.deliveries.get(&number) else { return };
                for (_, file, _) in &delivering.files {
                    a.disk.renamed.remove(file);
                }
                self.store(agent, StoreJob::Settle(number));
            }
        }
    }

    /// A delivery ended, with the same refusal for all or with what its files say.
    fn delivered(&mut self, agent: usize, number: u64, refusal: Option<&Refusal>) {
        let Some(run) = &mut self.agents[agent].run else { return };
        let Some(Delivering { delivery, files }) = run.deliveries.remove(&number) else { return };
        let result = |mailbox: usize| match refusal {
            Some(refusal) => Err(refusal.clone()),
            None => match files.iter().find(|(of, ..)| *of == mailbox) {
                Some((.., Some(refusal))) => Err(refusal.clone()),
                _ => Ok(()),
            },
        };
        let results = delivery.recipients.iter().map(|(index, _, mailbox)| (*index, result(*mailbox))).collect();
        if let (None, Source::Partial(key)) = (refusal, &delivery.source) {
            self.agents[agent].disk.partials.remove(&key.0);
        }
        let (peer, id) = (delivery.peer, delivery.id);
        self.input(agent, |engine, now, out| engine.handle(now, Input::Delivered { peer, id, results }, out));
    }

    fn store(&mut self, agent: usize, job: StoreJob) {
        let Some(run) = &mut self.agents[agent].run else { return };
        run.jobs.push(job);
        self.begin_commit(agent);
    }

    fn begin_commit(&mut self, agent: usize) {
        let mut takes = self.random.between(100, 2000);
        if self.random.chance(self.weather.slow_disk) {
            takes += self.random.pick(&[50 * MS, SECOND, 5 * SECOND]);
        }
        let life = self.agents[agent].life;
        let Some(run) = &mut self.agents[agent].run else { return };
        if run.committing.is_none() {
            run.committing = Some(std::mem::take(&mut run.jobs));
            self.push(self.now + takes, Event::Commit { agent, life });
        }
    }

    /// The transaction is on disk, or could not be.
    fn commit(&mut self, agent: usize) {
        let a = &mut self.agents[agent];
        let life = a.life;
        let Some(run) = &mut a.run else { return };
        let Some(jobs) = run.committing.take() else { return };
        if a.full {
            let must = |job: &StoreJob| !matches!(job, StoreJob::Enqueue(_) | StoreJob::Record(_));
            let (mut left, failed): (Vec<_>, Vec<_>) = jobs.into_iter().partition(must);
            left.append(&mut run.jobs);
            run.jobs = left;
            if !std::mem::replace(&mut run.again, true) {
                self.push(self.now + SECOND, Event::Again { agent, life });
            }
            for job in failed {
                match job {
                    StoreJob::Enqueue(mail) => {
                        self.push(self.now + 10 * SECOND, Event::Submit { agent, mail: mail.number });
                    }
                    StoreJob::Record(number) => {
                        self.discard(agent, number, |_| true);
                        let refusal = Refusal::temporary(3, 1, "the disk is full");
                        self.delivered(agent, number, Some(&refusal));
                    }
                    _ => {}
                }
            }
            return;
        }
        let now = (self.now / MS) as i64 + a.disk.clock;
        let mut recorded: Vec<(PublicKey, MailId)> = Vec::new();
        let mut settled = Vec::new();
        let mut renames = Vec::new();
        for job in jobs {
            match job {
                StoreJob::LinkUp { peer, epoch, credits } => {
                    run.links.insert(peer, Credits { epoch, credits });
                }
                StoreJob::Grant { peer, credits } => {
                    if let Some(link) = run.links.get_mut(&peer) {
                        link.credits[0] += credits[0];
                        link.credits[1] += credits[1];
                    }
                }
                StoreJob::LinkDown { peer } => {
                    run.links.remove(&peer);
                    a.disk.link_down(&peer);
                }
                StoreJob::Outcome { peer, id, mail, index, outcome } => {
                    if a.disk.outcome(&id, mail, index, &outcome, now) {
                        recorded.push((peer, id));
                    }
                }
                StoreJob::Forget { peer, id } => {
                    for (_, record) in a.disk.received.range_mut((peer, id, 0)..=(peer, id, usize::MAX)) {
                        record.forgotten = true;
                    }
                }
                StoreJob::Enqueue(mail) => {
                    a.disk.enqueue(&mail, now);
                    a.handing.remove(&mail.number);
                }
                StoreJob::Record(number) => {
                    let Some(delivering) = run.deliveries.get_mut(&number) else { continue };
                    let (peer, id) = (delivering.delivery.peer, delivering.delivery.id);
                    delivering.files.retain(|(mailbox, file, _)| {
                        let known = a.disk.received.contains_key(&(peer, id, *mailbox));
                        if known {
                            a.disk.tmp.remove(file);
                        } else {
                            let record = Record { file: *file, published: false, forgotten: false };
                            a.disk.received.insert((peer, id, *mailbox), record);
                        }
                        !known
                    });
                    renames.push(number);
                }
                StoreJob::Settle(number) => {
                    let Some(delivering) = run.deliveries.get(&number) else { continue };
                    let (peer, id) = (delivering.delivery.peer, delivering.delivery.id);
                    for (mailbox, _, failed) in &delivering.files {
                        let key: Key = (peer, id, *mailbox);
                        if failed.is_some() {
                            a.disk.received.remove(&key);
                        } else if let Some(record) = a.disk.received.get_mut(&key) {
                            record.published = true;
                            self.arrived.insert((id, *mailbox), self.now);
                        }
                    }
                    settled.push(number);
                }
            }
        }
        let mut work: Vec<(PublicKey, u64, Vec<Transfer>)> = Vec::new();
        let mut deferred = false;
        for (peer, link) in &mut run.links {
            let mut transfers = Vec::new();
            for bulk in [0usize, 1] {
                let taken = match link.credits[bulk] {
                    0 => Vec::new(),
                    credits => a.disk.take_due(peer, bulk == 1, now, credits),
                };
                link.credits[bulk] -= taken.len() as u32;
                transfers.extend(taken);
            }
            deferred |= a.disk.has_deferred(peer);
            if !transfers.is_empty() {
                work.push((*peer, link.epoch, transfers));
            }
        }
        let more = !run.jobs.is_empty();
        if deferred && !std::mem::replace(&mut run.sweep, true) {
            self.push(self.now + 10 * SECOND, Event::Sweep { agent, life });
        }
        if more {
            self.begin_commit(agent);
        }
        for (peer, id) in recorded {
            self.input(agent, |engine, now, out| engine.handle(now, Input::Recorded { peer, id }, out));
        }
        for number in renames {
            self.ask_disk(agent, DiskJob::Rename(number));
        }
        for number in settled {
            self.discard(agent, number, Option::is_some);
            self.delivered(agent, number, None);
        }
        for (peer, epoch, transfers) in work {
            self.input(agent, |engine, now, out| engine.handle(now, Input::Work { peer, epoch, transfers }, out));
        }
    }

    /// Removes staged files of a delivery.
    fn discard(&mut self, agent: usize, number: u64, which: impl Fn(&Option<Refusal>) -> bool) {
        let a = &mut self.agents[agent];
        let Some(delivering) = a.run.as_ref().and_then(|run| run.deliveries.get(&number)) else { return };
        for (_, file, _) in delivering.files.iter().filter(|(.., failed)| which(failed)) {
            a.disk.tmp.remove(file);
        }
    }

    // What was promised.

    /// Every mail is where it belongs, exactly once, and nothing is left over.
    pub fn verify(&self) -> Result<(), String> {
        let mut expected: BTreeMap<(usize, MailId, usize), toxmail::engine::transfer::Digest> = BTreeMap::new();
        for (from, mail) in self.mails.values() {
            let disk = &self.agents[*from].disk;
            if !disk.accepted.contains(&mail.number) {
                return Err(format!("mail {} was never accepted", mail.number));
            }
            for (index, (to, _, address)) in mail.recipients.iter().enumerate() {
                let mailbox = (0..2).find(|mailbox| self::address(*to, *mailbox) == *address);
                let bounces: Vec<&str> = disk
                    .bounces
                    .iter()
                    .filter(|(number, of, _)| (*number, *of) == (mail.number, index as u32))
                    .map(|(.., why)| why.as_str())
                    .collect();
                match mailbox {
                    Some(mailbox) => {
                        expected.insert((*to, mail.id(*to), mailbox), mail.digest);
                        if !bounces.is_empty() {
                            return Err(format!("mail {} to <{address}> bounced: {bounces:?}", mail.number));
                        }
                    }
                    None if bounces.len() == 1 && bounces[0].starts_with("5.1.1 ") => {}
                    None => return Err(format!("mail {} to <{address}>: bounces {bounces:?}", mail.number)),
                }
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            if let Some(row) = agent.disk.rows.values().next() {
                return Err(format!(
                    "mail {} to <{}> is still queued at {number}, attempt {}, sending {}",
                    row.mail.number, row.address, row.attempts, row.sending
                ));
            }
            for file in agent.disk.new.values() {
                match expected.remove(&(number, file.id, file.mailbox)) {
                    Some(digest) if digest == file.digest => {}
                    Some(_) => return Err(format!("{file:?} is damaged")),
                    None => return Err(format!("{file:?} of agent {number} is there twice, or not for it")),
                }
            }
            if !agent.disk.tmp.is_empty() {
                return Err(format!("agent {number} has files left in tmp/: {:?}", agent.disk.tmp));
            }
            let Some(run) = &agent.run else { return Err(format!("agent {number} is not running")) };
            if !run.deliveries.is_empty() || !run.jobs.is_empty() || run.committing.is_some() {
                return Err(format!("agent {number} has jobs left"));
            }
            for peer in 0..self.agents.len() {
                if !run.engine.progress(&key(peer)).is_empty() {
                    return Err(format!("agent {number} has transfers left to {peer}"));
                }
            }
        }
        match expected.keys().next() {
            Some((agent, id, mailbox)) => Err(format!("mail {id} is not in mailbox {mailbox} of agent {agent}")),
            None => Ok(()),
        }
    }

    /// Records of mails whose sender never said that it is done with them.
    pub fn remembered(&self) -> usize {
        self.agents.iter().flat_map(|agent| agent.disk.received.values()).filter(|record| !record.forgotten).count()
    }
}
