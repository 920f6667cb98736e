//! The relay that this agent is for others (`[relay]`): one thread that owns a Tox instance, made for this alone, and a
//! [`Server`]. Nothing in it knows the accounts, and nobody can tell whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::bootstrap::Bootstrap;
use super::health::Pulse;
use super::waker::Waker;
use super::{SAVE_EVERY, TCP_TURN};
use crate::config::{self, BootstrapNode};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::RelaySecret;
use crate::relay::descriptor::{Descriptor, Invite};
use crate::relay::server::shelf::{Owner, ShelfError};
use crate::relay::server::{Action, Input, Limits, Now, Server, Totals};
use crate::slots::Shelf;
use crate::store::free_space;
use crate::telemetry::clock::Clock;
use crate::tox::{self, Connection, Event, FriendNumber, Tox, savedata};

/// How often it is looked how much room the disk has.
const SPACE_EVERY: Duration = Duration::from_secs(5);
/// How often a disk that fails is worth a line in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// An owner, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerLine {
    /// The Tox key of its pseudonym.
    pub key: PublicKey,
    /// When it became one; seconds since the epoch.
    pub since: u64,
    /// When it was last here, to a day; seconds since the epoch.
    pub seen: u64,
    /// Slots that are empty or filled.
    pub slots: u64,
    /// Slots that are filled.
    pub filled: u64,
    /// Octets that lie here.
    pub used: u64,
    /// Octets that may.
    pub quota: u64,
}

/// How the relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its connection to the Tox network.
    pub connection: Connection,
    /// What it holds.
    pub totals: Totals,
    /// What the configuration says of it.
    pub config: config::Relay,
    /// What keeps it from working, or did so last.
    pub error: Option<String>,
}

enum Command {
    Invite(Option<u64>, Sender<Result<Invite, String>>),
    Owners(Sender<Vec<OwnerLine>>),
    RemoveOwner(PublicKey, Sender<Result<bool, String>>),
    Configure(config::Relay, u64),
    Nodes(Vec<BootstrapNode>),
    Stop,
}

/// The way to the relay's thread.
pub struct RelayHandle {
    commands: Sender<Command>,
    waker: Waker,
    descriptor: Descriptor,
    shown: Arc<Mutex<RelayStatus>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether its loop turns.
    pub pulse: Pulse,
}

impl RelayHandle {
    /// How it is told to others.
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor
    }

    /// Whether contacts are to be told of it.
    pub fn offers_to_contacts(&self) -> bool {
        self.status().config.offer
    }

    /// How it is.
    pub fn status(&self) -> RelayStatus {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes an invite, good once, for so many octets or `relay.owner_quota`; durable when this returns.
    ///
    /// # Errors
    /// Too many wait, or the disk fails.
    pub fn invite(&self, quota: Option<u64>) -> anyhow::Result<Invite> {
        self.ask(|reply| Command::Invite(quota, reply))?.map_err(anyhow::Error::msg)
    }

    /// All owners.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn owners(&self) -> anyhow::Result<Vec<OwnerLine>> {
        self.ask(Command::Owners)
    }

    /// Removes an owner with all that waits for it, durably; whether there was one.
    ///
    /// # Errors
    /// The disk fails.
    pub fn remove_owner(&self, key: PublicKey) -> anyhow::Result<bool> {
        self.ask(|reply| Command::RemoveOwner(key, reply))?.map_err(anyhow::Error::msg)
    }

    /// Goes by this from now on, but for `enabled`; `min_free`: as for [`start`].
    pub fn configure(&self, config: config::Relay, min_free: u64) {
        self.tell(Command::Configure(config, min_free));
    }

    /// Enters the network by these nodes from now on.
    pub fn set_nodes(&self, nodes: Vec<BootstrapNode>) {
        self.tell(Command::Nodes(nodes));
    }

    /// Has the thread turn its loop once, to show that it runs.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Whether its thread has ended, which it does when it is told to, or has panicked.
    pub fn is_finished(&self) -> bool {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Says goodbye to the network and ends; returns when it has.
    pub fn stop(&self) {
        self.tell(Command::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("relay: its thread had panicked");
        }
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> anyhow::Result<T> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.tell(command(sender));
        receiver.recv().context("the relay has stopped")
    }
}

/// Starts the relay whose state is in `relay/` below the state directory; made there if it is new. `resolve`: whether host
/// names of bootstrap nodes may be looked up. `min_free`: so many octets of its disk stay free.
///
/// # Errors
/// Its state cannot be read or written, the Tox instance cannot be made, the system has no thread left.
pub fn start(
    config: config::Relay,
    min_free: u64,
    options: &tox::Options,
    nodes: Vec<BootstrapNode>,
    resolve: bool,
    state_dir: &Path,
    clock: Arc<Clock>,
) -> anyhow::Result<RelayHandle> {
    let folder = state_dir.join("relay");
    let shelf = Shelf::open(&folder).context("relay")?;
    let secret = secret(&folder.join("relay.key"))?;
    let path = folder.join("relay.tox");
    let tox = identity(&path, options).with_context(|| format!("the relay's identity {}", path.display()))?;
    let descriptor = Descriptor { id: tox.id(), key: secret.public() };
    let server = Server::new(shelf, secret, limits(&config)).context("relay")?;
    let status = RelayStatus { connection: Connection::Offline, totals: server.totals(), config, error: None };
    let shown = Arc::new(Mutex::new(status.clone()));
    let (commands, inbox) = std::sync::mpsc::channel();
    let (waker, pulse) = (Waker::new()?, Pulse::default());
    let now = Instant::now();
    let thread = Relay {
        tox,
        path,
        server,
        folder,
        min_free,
        space_next: now,
        friends: BTreeMap::new(),
        keys: BTreeMap::new(),
        broken: BTreeSet::new(),
        inbox,
        bootstrap: Bootstrap::new(nodes, resolve, waker.clone()),
        waker: waker.clone(),
        pulse: pulse.clone(),
        clock,
        started: now,
        save_next: now + SAVE_EVERY,
        complained: None,
        status,
        shown: shown.clone(),
        replies: Vec::new(),
        stopping: false,
    };
    log::info!("relay: {descriptor}");
    let thread = std::thread::Builder::new().name("relay".into()).spawn(move || thread.run())?;
    Ok(RelayHandle { commands, waker, descriptor, shown, thread: Mutex::new(Some(thread)), pulse })
}

/// The secret by which the relay signs, made and stored first if it is new.
fn secret(path: &Path) -> anyhow::Result<RelaySecret> {
    let shown = || format!("the relay's secret {}", path.display());
    if let Some(octets) = savedata::load(path, None).with_context(shown)? {
        let mut octets = zeroize::Zeroizing::new(<[u8; 32]>::try_from(&octets[..]).with_context(shown)?);
        return Ok(RelaySecret::new(&mut octets));
    }
    let mut octets = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *octets).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    savedata::store(path, &*octets, None).with_context(shown)?;
    Ok(RelaySecret::new(&mut octets))
}

/// The relay's Tox instance, with its identity, made and stored first if it is new.
fn identity(path: &Path, options: &tox::Options) -> anyhow::Result<Tox> {
    let saved = savedata::load(path, None)?;
    let tox = Tox::new(options, saved.as_ref().map(|data| &data[..]))?;
    if saved.is_none() {
        savedata::store(path, &tox.savedata(), None)?;
    }
    Ok(tox)
}

fn limits(config: &config::Relay) -> Limits {
    Limits {
        open: config.open,
        max_disk: config.max_disk,
        owner_quota: config.owner_quota,
        max_owners: config.max_owners,
        retention: config.retention.as_secs(),
    }
}

/// Says what became of something once it is on disk.
type Reply = Box<dyn FnOnce(Result<(), ShelfError>) + Send>;

/// The thread's own things.
struct Relay {
    tox: Tox,
    path: PathBuf,
    server: Server<Shelf>,
    /// Where contents lie.
    folder: PathBuf,
    /// So many octets of its disk stay free.
    min_free: u64,
    space_next: Instant,
    friends: BTreeMap<PublicKey, FriendNumber>,
    keys: BTreeMap<FriendNumber, PublicKey>,
    /// Clients to whom a packet could not be sent, until they greet again.
    broken: BTreeSet<PublicKey>,
    inbox: Receiver<Command>,
    bootstrap: Bootstrap,
    waker: Waker,
    pulse: Pulse,
    clock: Arc<Clock>,
    started: Instant,
    save_next: Instant,
    /// When the log last heard of a disk that fails.
    complained: Option<Instant>,
    status: RelayStatus,
    shown: Arc<Mutex<RelayStatus>>,
    replies: Vec<Reply>,
    stopping: bool,
}

impl Relay {
    fn run(mut self) {
        self.reconcile();
        let mut events = Vec::new();
        let mut actions = Vec::new();
        while !self.stopping {
            self.tox.wait(self.waker.as_fd(), self.wait_time());
            self.waker.clear();
            self.tox.iterate(&mut events);
            // Before what came in is judged by it.
            self.look_at_disk();
            for event in events.drain(..) {
                self.on_event(event, &mut actions);
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(command) => self.on_command(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.stopping = true;
                        break;
                    }
                }
            }
            self.turn(&mut actions);
            self.bootstrap.turn(&mut self.tox);
            if Instant::now() >= self.save_next {
                self.save_next = Instant::now() + SAVE_EVERY;
                self.save();
            }
            self.pulse.beat();
        }
        self.save();
    }

    fn now(&self) -> Now {
        Now {
            micros: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            seconds: u64::try_from(self.clock.queue_ms() / 1000).unwrap_or(0),
        }
    }

    /// Until when nothing needs to be done, in milliseconds from now.
    fn wait_time(&self) -> u16 {
        let mut wait = u64::from(self.tox.interval());
        wait = wait.min(self.server.deadline().saturating_sub(self.now().micros).div_ceil(1000));
        if self.server.is_busy_over_tcp() {
            wait = wait.min(u64::from(TCP_TURN));
        }
        u16::try_from(wait).unwrap_or(u16::MAX)
    }

    /// Makes toxcore's friends the owners. Visitors ask anew.
    fn reconcile(&mut self) {
        for (number, key) in self.tox.friends() {
            if self.server.is_client(&key) {
                self.know(number, key);
            } else {
                self.tox.delete_friend(number);
            }
        }
        let owners: Vec<PublicKey> = self.server.owners().map(|owner| owner.key).collect();
        owners.into_iter().for_each(|key| self.admit(key));
    }

    fn know(&mut self, number: FriendNumber, key: PublicKey) {
        self.friends.insert(key, number);
        self.keys.insert(number, key);
    }

    fn admit(&mut self, key: PublicKey) {
        if self.friends.contains_key(&key) {
            return;
        }
        match self.tox.add_known_friend(&key) {
            Ok(number) => self.know(number, key),
            Err(error) => log::error!("relay: cannot let a client in: {error}"),
        }
    }

    fn dismiss(&mut self, key: &PublicKey) {
        if let Some(number) = self.friends.remove(key) {
            self.keys.remove(&number);
            self.tox.delete_friend(number);
        }
        self.broken.remove(key);
    }

    fn on_event(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.now();
        let key = |number: &FriendNumber| self.keys.get(number).copied();
        let input = match &event {
            Event::SelfConnection(connection) => {
                log::info!("relay: connection to the Tox network: {connection:?}");
                self.bootstrap.on_connection(*connection);
                self.status.connection = *connection;
                None
            }
            Event::FriendConnection(number, Connection::Offline) => key(number).map(Input::Offline),
            Event::FriendConnection(number, connection) => {
                key(number).map(|client| Input::Online { client, tcp: *connection == Connection::Tcp })
            }
            Event::FriendRequest(key, text) => Some(Input::Asked(*key, text)),
            Event::FriendMessage(number, packet) => key(number).map(|key| Input::Packet(key, packet)),
            Event::FriendPacket(number, packet) => key(number).map(|key| Input::CustomPacket(key, packet)),
        };
        if let Some(input) = input {
            self.server.handle(now, input, actions);
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Invite(quota, reply) => {
                let mut invite = Invite([0; 16]);
                let made =
                    getrandom::fill(&mut invite.0).map_err(|error| ShelfError(format!("no randomness: {error}")));
                match made.and_then(|()| self.server.invite(self.now(), &invite, quota)) {
                    Ok(()) => self.reply(reply, invite),
                    Err(error) => drop(reply.send(Err(error.to_string()))),
                }
            }
            Command::Owners(reply) => {
                let line = |owner: &Owner| OwnerLine {
                    key: owner.key,
                    since: owner.since,
                    seen: owner.seen,
                    slots: owner.slots,
                    filled: owner.filled,
                    used: owner.used,
                    quota: self.server.quota(owner),
                };
                // Who asked may have given up.
                let _ = reply.send(self.server.owners().map(line).collect());
            }
            Command::RemoveOwner(key, reply) => match self.server.remove_owner(&key) {
                Ok(removed) => self.reply(reply, removed),
                Err(error) => drop(reply.send(Err(error.to_string()))),
            },
            Command::Configure(config, min_free) => {
                (self.min_free, self.space_next) = (min_free, Instant::now());
                self.server.set_limits(limits(&config));
                self.status.config = config;
            }
            Command::Nodes(nodes) => self.bootstrap.set_nodes(nodes),
            Command::Stop => self.stopping = true,
        }
    }

    /// Tells the relay now and then how much the disk takes. Where the system does not say, writing will tell.
    fn look_at_disk(&mut self) {
        let now = Instant::now();
        if now >= self.space_next {
            self.space_next = now + SPACE_EVERY;
            let free = free_space(&self.folder).unwrap_or(u64::MAX);
            self.server.set_room(free.saturating_sub(self.min_free));
        }
    }

    /// Answers once it is on disk.
    fn reply<T: Send + 'static>(&mut self, reply: Sender<Result<T, String>>, value: T) {
        self.replies.push(Box::new(move |result| {
            let _ = reply.send(result.map(|()| value).map_err(|error| error.to_string()));
        }));
    }

    /// Commits what came in and carries out what follows, until nothing does.
    fn turn(&mut self, actions: &mut Vec<Action>) {
        loop {
            let result = self.server.poll(self.now(), actions);
            self.replies.drain(..).for_each(|reply| reply(result.clone()));
            self.complain(result);
            if actions.is_empty() {
                break;
            }
            for action in std::mem::take(actions) {
                self.carry_out(action, actions);
            }
        }
        self.status.totals = self.server.totals();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != self.status {
            shown.clone_from(&self.status);
        }
    }

    fn complain(&mut self, result: Result<(), ShelfError>) {
        let Err(error) = result else { return };
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            log::error!("relay: cannot store, clients are told to try later: {error}");
        }
        self.status.error = Some(error.to_string());
    }

    fn carry_out(&mut self, action: Action, actions: &mut Vec<Action>) {
        match action {
            Action::Admit(key) => self.admit(key),
            Action::Dismiss(key) => self.dismiss(&key),
            Action::SendCustom { client, packet } => {
                self.broken.remove(&client);
                let sent = self.friends.get(&client).map(|number| self.tox.send_packet(*number, &packet));
                if !matches!(sent, Some(Ok(()))) {
                    // The client greets again.
                    self.server.handle(self.now(), Input::SendFailed(client), actions);
                }
            }
            // What follows a packet that was not taken belongs to a session with a gap.
            Action::Send { client, .. } if self.broken.contains(&client) => {}
            Action::Send { client, packet } => {
                let sent = self.friends.get(&client).map(|number| self.tox.send_message(*number, &packet));
                if !matches!(sent, Some(Ok(()))) {
                    self.broken.insert(client);
                    self.server.handle(self.now(), Input::SendFailed(client), actions);
                }
            }
            Action::Note(text) => log::debug!("relay: {text}"),
        }
    }

    /// Keeps the nodes that are known.
    fn save(&mut self) {
        if let Err(error) = savedata::store(&self.path, &self.tox.savedata(), None) {
            log::error!("relay: cannot store the identity {}: {error}", self.path.display());
        }
    }
}
