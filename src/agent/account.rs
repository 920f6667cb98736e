//! One thread per account: it owns the Tox instance and the engine, and lets each hear what the other says.

mod refused;
mod relayed;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::bootstrap::Bootstrap;
use super::courier;
use super::delivery::DeliveryPool;
use super::directory::Directory;
use super::health::Pulse;
use super::partial::Partials;
use super::waker::Waker;
use super::{SAVE_EVERY, TCP_TURN};
use crate::config::{BootstrapNode, Passphrase};
use crate::engine::link::{Action, Engine, Input};
use crate::engine::request;
use crate::engine::rules::Rules;
use crate::engine::transfer::MailId;
use crate::engine::wire::Session;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::mail::status::Refusal;
use crate::store::{Answer, Contact, Reader, Request, Store, Work};
use crate::telemetry::clock::Clock;
use crate::tox::{Connection, Event, FriendNumber, Tox, savedata};

pub use relayed::Relayed;

/// How often a request goes out again to a contact that has not answered; toxcore's own resends back off to 10 minutes.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// The same once it was asked for [`ASK_EAGERLY`].
const ASK_AGAIN_LATER: Duration = Duration::from_secs(60);
const ASK_EAGERLY: Duration = Duration::from_secs(300);
/// How often a request that is known already is noted again, in seconds.
const REPEATED: i64 = 600;
/// When the contacts are read again, if they could not be.
const RECONCILE_AGAIN: Duration = Duration::from_secs(10);
/// How long a contact that takes no mail of ours stays a friend, to hear that we know.
const LEAVE: Duration = Duration::from_secs(60);
/// How many new strangers may ask in an hour; what comes beyond, comes again.
const REQUESTS: u32 = 60;
const REQUESTS_PER: Duration = Duration::from_secs(3600);

/// How long to wait before who has not answered is asked once more, having been asked for so long.
pub(super) fn ask_again(asked: Duration) -> Duration {
    if asked < ASK_EAGERLY { ASK_AGAIN } else { ASK_AGAIN_LATER }
}

/// What others ask of the thread.
pub enum Command {
    /// Transfers from the queue.
    Work(Work),
    /// A transfer's answers are on disk.
    Recorded(PublicKey, MailId),
    /// A delivery ended.
    Delivered(PublicKey, MailId, Vec<(u32, Result<(), Refusal>)>),
    /// Whether mail can be stored.
    Storage(Option<Refusal>),
    /// Ask for friendship; the contact is in the store already.
    AskFriend(ToxId, String, Option<Sender<Result<(), String>>>),
    /// Take a contact as friend; it is in the store already.
    AcceptFriend(PublicKey, Sender<Result<(), String>>),
    /// Another one was refused, and is to be told or not; that is in the store already.
    Refused,
    /// That a contact takes no mail of ours, said in this session of it, is on disk.
    DeclineRecorded(PublicKey, Session),
    /// Forget a friend; the contact is out of the store already.
    RemoveFriend(PublicKey),
    /// Tell the octets sent of each transfer under way.
    Progress(Sender<HashMap<MailId, u64>>),
    /// Change the nospam; the new Tox ID is told once it is on disk.
    RotateNospam(Sender<Result<ToxId, String>>),
    /// Say a word about lanes to a contact, if its mail link is up.
    SayLane(PublicKey, u64, Vec<u8>),
    /// A mail that came by relays, whole.
    Relayed(Box<Relayed>),
    /// Rules that hold from now on.
    Rules(Box<Rules>),
    /// Nodes by which the network is entered from now on.
    Nodes(Vec<BootstrapNode>),
    /// Say goodbye and end.
    Stop,
}

/// What the thread shows to others.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Own connection.
    pub connection: Connection,
    /// Friends that are online, and whether a mail link with them is up.
    pub online: HashMap<PublicKey, bool>,
}

/// The way to an account's thread; to be cloned freely.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    waker: Waker,
    /// What the thread shows.
    pub snapshot: Arc<Mutex<Snapshot>>,
    /// Whether its loop turns.
    pub pulse: Pulse,
}

impl Handle {
    /// A handle, and the inbox for [`AccountThread::new`].
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<(Self, Receiver<Command>)> {
        let (commands, inbox) = std::sync::mpsc::channel();
        let snapshot = Snapshot { connection: Connection::Offline, online: HashMap::new() };
        let snapshot = Arc::new(Mutex::new(snapshot));
        Ok((Self { commands, waker: Waker::new()?, snapshot, pulse: Pulse::default() }, inbox))
    }

    /// Asks something of the thread; without effect when it has ended.
    pub fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    /// Has the thread turn its loop once.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// What the thread showed last.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where the identity is kept, and how.
pub struct Identity {
    path: PathBuf,
    passphrase: Option<Passphrase>,
}

impl Identity {
    /// The identity of the account `name` below the state directory.
    pub fn new(state_dir: &Path, name: &str, passphrase: Option<Passphrase>) -> Self {
        Self { path: state_dir.join("identities").join(format!("{name}.tox")), passphrase }
    }

    /// Loads it, if it was there before.
    ///
    /// # Errors
    /// It cannot be read or decrypted.
    pub fn load(&self) -> io::Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
        savedata::load(&self.path, self.passphrase.as_ref().map(Passphrase::expose))
    }

    /// Stores it, durably.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, tox: &Tox) -> io::Result<()> {
        savedata::store(&self.path, &tox.savedata(), self.passphrase.as_ref().map(Passphrase::expose))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What all accounts share.
#[derive(Clone)]
pub struct Shared {
    /// The store.
    pub store: Store,
    /// Who delivers.
    pub pool: Arc<DeliveryPool>,
    /// Accounts and contacts.
    pub directory: Arc<Directory>,
    /// The clocks.
    pub clock: Arc<Clock>,
    /// Who sends and fetches by relays.
    pub courier: courier::Handle,
    /// The state directory.
    pub state_dir: PathBuf,
    /// Who looks at new friend requests: account and key.
    pub asked: tokio::sync::mpsc::Sender<(usize, PublicKey)>,
}

struct Asking {
    id: ToxId,
    message: String,
    since: Instant,
    next: Instant,
}

/// The thread's own things.
pub struct AccountThread {
    number: usize,
    name: String,
    tox: Tox,
    identity: Identity,
    engine: Engine,
    inbox: Receiver<Command>,
    handle: Handle,
    shared: Shared,
    reader: Reader,
    partials: Partials,
    bodies: HashMap<MailId, (PublicKey, File)>,
    friends: HashMap<PublicKey, FriendNumber>,
    keys: HashMap<FriendNumber, PublicKey>,
    connections: HashMap<PublicKey, Connection>,
    /// Mails that their peers will not offer again, gathered over one turn of the loop.
    forgotten: Vec<(PublicKey, MailId)>,
    /// Peers to whom a packet could not be sent, until the next HELLO.
    broken: HashSet<PublicKey>,
    asking: HashMap<PublicKey, Asking>,
    /// Friends in toxcore's eyes only: they were refused, and are to hear so.
    declining: HashSet<PublicKey>,
    /// Contacts that were removed as they take no mail of ours, and since when: friends until they have heard that we know.
    leaving: HashMap<PublicKey, Instant>,
    bootstrap: Bootstrap,
    save_next: Instant,
    /// When toxcore's friends are to be made those of the store, if that failed.
    reconcile_at: Option<Instant>,
    started: Instant,
    /// Since when requests of strangers are counted, and how many came.
    requests: (Instant, u32),
    stopping: bool,
}

impl AccountThread {
    /// The thread's things, for account `number` of the directory. `resolve`: whether host names of bootstrap nodes may
    /// be looked up.
    ///
    /// # Errors
    /// The store or the state directory cannot be read.
    #[allow(clippy::too_many_arguments, reason = "called once, from the wiring")]
    pub fn new(
        number: usize,
        tox: Tox,
        identity: Identity,
        rules: Rules,
        (handle, inbox): (Handle, Receiver<Command>),
        shared: Shared,
        bootstrap_nodes: Vec<BootstrapNode>,
        resolve: bool,
    ) -> anyhow::Result<Self> {
        let name = shared.directory.accounts()[number].name.clone();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let now = Instant::now();
        let bootstrap = Bootstrap::new(bootstrap_nodes, resolve, handle.waker.clone());
        Ok(Self {
            number,
            tox,
            identity,
            engine: Engine::new(rules, seed),
            inbox,
            handle,
            reader: Reader::open(&shared.state_dir)?,
            partials: Partials::new(shared.state_dir.join("incoming").join(&name))?,
            shared,
            name,
            bodies: HashMap::new(),
            friends: HashMap::new(),
            keys: HashMap::new(),
            connections: HashMap::new(),
            forgotten: Vec::new(),
            broken: HashSet::new(),
            asking: HashMap::new(),
            declining: HashSet::new(),
            leaving: HashMap::new(),
            bootstrap,
            save_next: now + SAVE_EVERY,
            reconcile_at: None,
            started: now,
            requests: (now, 0),
            stopping: false,
        })
    }

    /// Runs until [`Command::Stop`]. The Tox instance says goodbye when this returns.
    pub fn run(mut self) {
        self.reconcile();
        let mut events = Vec::new();
        let mut actions = Vec::new();
        while !self.stopping {
            let wait = self.wait_time();
            self.tox.wait(self.handle.waker.as_fd(), wait);
            self.handle.waker.clear();
            self.tox.iterate(&mut events);
            for event in events.drain(..) {
                self.on_event(event, &mut actions);
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(command) => self.on_command(command, &mut actions),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.stopping = true;
                        break;
                    }
                }
            }
            self.act(&mut actions);
            self.look_after(&mut actions);
            self.handle.pulse.beat();
        }
        self.save();
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Until when nothing needs to be done, in milliseconds from now.
    fn wait_time(&self) -> u16 {
        let mut wait = u64::from(self.tox.interval());
        if let Some(deadline) = self.engine.deadline() {
            wait = wait.min(deadline.saturating_sub(self.now()).div_ceil(1000));
        }
        let relayed = self.connections.values().any(|connection| *connection == Connection::Tcp);
        if relayed && self.engine.is_busy() {
            wait = wait.min(u64::from(TCP_TURN));
        }
        u16::try_from(wait).unwrap_or(u16::MAX)
    }

    /// Makes toxcore's friends those of the store, which is the one home of contacts.
    fn reconcile(&mut self) {
        self.reconcile_at = None;
        let contacts = match self.reader.contacts(Some(&self.name)) {
            Ok(mut contacts) => {
                contacts.retain(|contact| !self.shared.directory.is_blocked(self.number, &contact.key));
                contacts
            }
            Err(error) => {
                // Without the list nobody can be told from a stranger: no mail goes in or out, but no friend is lost.
                log::error!("{}: cannot read the contacts, no link is made for now: {error}", self.name);
                self.reconcile_at = Some(Instant::now() + RECONCILE_AGAIN);
                return;
            }
        };
        let refused = self.refused().unwrap_or_default();
        let mut changed = false;
        for (number, key) in self.tox.friends() {
            if contacts.iter().any(|contact| contact.key == key) {
                self.know(number, key);
            } else if refused.contains(&key) {
                self.know(number, key);
                self.declining.insert(key);
            } else {
                self.tox.delete_friend(number);
                changed = true;
            }
        }
        for contact in contacts {
            let Contact { key, tox_id, message, accepted, .. } = contact;
            if !self.friends.contains_key(&key) {
                match self.tox.add_known_friend(&key) {
                    Ok(number) => self.know(number, key),
                    Err(error) => log::error!("{}: cannot add contact {key}: {error}", self.name),
                }
                changed = true;
            }
            if let (false, Some(id)) = (accepted, tox_id) {
                let now = Instant::now();
                let message = message.unwrap_or_default();
                self.asking.insert(key, Asking { id, message, since: now, next: now });
            }
        }
        let mut actions = Vec::new();
        for key in self.declining.clone() {
            self.engine.handle(self.now(), Input::Decline(key, true), &mut actions);
        }
        self.tell_refused(&mut actions);
        self.act(&mut actions);
        if changed {
            self.save();
        }
    }

    /// Seconds of the wall clock.
    fn seconds(&self) -> i64 {
        self.shared.clock.wall_ms() / 1000
    }

    fn know(&mut self, number: FriendNumber, key: PublicKey) {
        self.friends.insert(key, number);
        self.keys.insert(number, key);
    }

    fn forget(&mut self, key: &PublicKey, actions: &mut Vec<Action>) {
        if let Some(number) = self.friends.remove(key) {
            self.tox.delete_friend(number);
            self.keys.remove(&number);
        }
        if self.connections.remove(key).is_some() {
            self.engine.handle(self.now(), Input::Offline(*key), actions);
        }
        if self.declining.remove(key) {
            self.engine.handle(self.now(), Input::Decline(*key, false), actions);
        }
        self.leaving.remove(key);
        self.asking.remove(key);
        self.show(|snapshot| {
            snapshot.online.remove(key);
        });
    }

    fn save(&self) {
        if let Err(error) = self.identity.store(&self.tox) {
            log::error!("{}: cannot write {}: {error}", self.name, self.identity.path().display());
        }
    }

    fn show(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.handle.snapshot.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The contact's nickname or the beginning of its key.
    fn who(&self, key: &PublicKey) -> String {
        self.shared.directory.nick(self.number, key).unwrap_or_else(|| key.short())
    }

    fn on_event(&mut self, event: Event, actions: &mut Vec<Action>) {
        let now = self.now();
        match event {
            Event::SelfConnection(connection) => {
                log::info!("{}: connection to the Tox network: {connection:?}", self.name);
                self.bootstrap.on_connection(connection);
                self.show(|snapshot| snapshot.connection = connection);
            }
            Event::FriendConnection(number, connection) => {
                let Some(key) = self.keys.get(&number).copied() else { return };
                let before = match connection {
                    Connection::Offline => self.connections.remove(&key),
                    _ => self.connections.insert(key, connection),
                };
                let seconds = self.seconds();
                if connection != Connection::Offline {
                    self.engine.handle(now, Input::Relayed(key, connection == Connection::Tcp), actions);
                }
                match (before, connection) {
                    (None, Connection::Offline) => {}
                    (None, _) if self.declining.contains(&key) => self.engine.handle(now, Input::Online(key), actions),
                    (Some(_), Connection::Offline) if self.declining.contains(&key) => {
                        self.engine.handle(now, Input::Offline(key), actions);
                    }
                    (Some(_), Connection::Offline) if self.leaving.contains_key(&key) => {
                        self.engine.handle(now, Input::Offline(key), actions);
                        self.forget(&key, actions);
                        self.save();
                    }
                    (None, _) => {
                        log::info!("{}: contact {} is online ({connection:?})", self.name, self.who(&key));
                        self.asking.remove(&key);
                        self.shared.store.contact_seen(&self.name, key, seconds);
                        self.show(|snapshot| {
                            snapshot.online.insert(key, false);
                        });
                        self.engine.handle(now, Input::Online(key), actions);
                    }
                    (Some(_), Connection::Offline) => {
                        log::info!("{}: contact {} is offline", self.name, self.who(&key));
                        self.shared.store.contact_seen(&self.name, key, seconds);
                        self.show(|snapshot| {
                            snapshot.online.remove(&key);
                        });
                        self.engine.handle(now, Input::Offline(key), actions);
                    }
                    // From UDP to TCP or back: the session goes on.
                    (Some(_), _) => {}
                }
            }
            Event::FriendRequest(key, message) => {
                if self.friends.contains_key(&key) || self.shared.directory.is_blocked(self.number, &key) {
                    return;
                }
                let seconds = self.seconds();
                let now = Instant::now();
                match self.reader.request(&self.name, &key) {
                    // toxcore repeats a request until it is answered.
                    Ok(Some(known)) if (0..REPEATED).contains(&(seconds - known.received)) => {
                        log::debug!("{}: friend request from {key} again", self.name);
                        return;
                    }
                    Ok(Some(Request { answer: Answer::Open, .. })) => {}
                    Ok(Some(Request { answer: Answer::Refused, .. })) => {
                        log::debug!("{}: friend request from {key}, who is refused, again", self.name);
                        return;
                    }
                    // He has forgotten, or never heard, that he was refused.
                    Ok(Some(Request { answer: Answer::Declining | Answer::Declined, .. })) => {
                        let handle = self.handle.clone();
                        self.shared
                            .store
                            .declined(&self.name, key, false, seconds, move || handle.send(Command::Refused));
                        return;
                    }
                    Ok(None) => self.requests.1 += 1,
                    Err(error) => {
                        log::error!("{}: cannot read the friend requests: {error}", self.name);
                        return;
                    }
                }
                if now.duration_since(self.requests.0) > REQUESTS_PER {
                    if self.requests.1 > REQUESTS {
                        let dropped = self.requests.1 - REQUESTS;
                        log::warn!("{}: {dropped} friend requests in an hour were not looked at", self.name);
                    }
                    self.requests = (now, 1);
                }
                if self.requests.1 > REQUESTS {
                    return;
                }
                let (message, claim) = request::read(&message);
                let claim = claim.map(|address| address.lowered().to_string());
                let request = Request {
                    account: self.name.clone(),
                    key,
                    message,
                    received: seconds,
                    answer: Answer::Open,
                    claim: claim.clone(),
                    verified: None,
                };
                let (name, number, asked) = (self.name.clone(), self.number, self.shared.asked.clone());
                self.shared.store.put_request(request, move |taken| {
                    if taken.is_some() {
                        let _ = asked.try_send((number, key));
                    }
                    if taken == Some(true) {
                        let claims = claim.map_or_else(String::new, |claim| format!(", who claims to be {claim}"));
                        log::info!("{name}: friend request from {key}{claims}: toxctl request list");
                    } else {
                        log::debug!("{name}: friend request from {key} again");
                    }
                });
            }
            Event::FriendMessage(number, packet) => {
                if let Some(key) = self.keys.get(&number) {
                    self.engine.handle(now, Input::Packet(*key, &packet), actions);
                }
            }
            Event::FriendPacket(number, packet) => {
                if let Some(key) = self.keys.get(&number) {
                    self.engine.handle(now, Input::CustomPacket(*key, &packet), actions);
                }
            }
        }
    }

    fn on_command(&mut self, command: Command, actions: &mut Vec<Action>) {
        let now = self.now();
        match command {
            Command::Work(Work { peer, epoch, transfers, .. }) => {
                self.engine.handle(now, Input::Work { peer, epoch, transfers }, actions);
            }
            Command::Recorded(peer, id) => self.engine.handle(now, Input::Recorded { peer, id }, actions),
            Command::Delivered(peer, id, results) => {
                self.engine.handle(now, Input::Delivered { peer, id, results }, actions);
            }
            Command::Storage(refusal) => self.engine.handle(now, Input::Storage(refusal), actions),
            Command::AskFriend(id, message, reply) => {
                if self.declining.contains(&id.key()) || self.leaving.contains_key(&id.key()) {
                    self.forget(&id.key(), actions);
                }
                let result = self.ask(id, message);
                match (reply, result) {
                    (Some(reply), result) => drop(reply.send(result)),
                    (None, Err(error)) => log::error!("{}: cannot ask {}: {error}", self.name, id.key()),
                    (None, Ok(())) => {}
                }
            }
            Command::AcceptFriend(key, reply) => {
                if self.declining.contains(&key) || self.leaving.contains_key(&key) {
                    self.forget(&key, actions);
                }
                let result = match self.friends.contains_key(&key) {
                    true => Ok(()),
                    false if self.shared.directory.is_blocked(self.number, &key) => Err("it is blocked".to_owned()),
                    false => self.tox.add_known_friend(&key).map_err(str::to_owned).map(|number| {
                        self.know(number, key);
                        self.save();
                    }),
                };
                let _ = reply.send(result);
            }
            Command::Refused => self.tell_refused(actions),
            Command::DeclineRecorded(peer, session) => {
                self.shared.courier.gone(self.number, peer);
                self.asking.remove(&peer);
                self.leaving.insert(peer, Instant::now());
                self.engine.handle(now, Input::DeclineRecorded { peer, session }, actions);
            }
            Command::RemoveFriend(key) => {
                self.shared.courier.gone(self.number, key);
                self.forget(&key, actions);
                self.save();
            }
            Command::Progress(reply) => {
                let progress = self.connections.keys().flat_map(|peer| self.engine.progress(peer)).collect();
                let _ = reply.send(progress);
            }
            Command::RotateNospam(reply) => {
                let _ = reply.send(self.rotate_nospam());
            }
            Command::SayLane(peer, kind, octets) => {
                self.engine.handle(now, Input::SayLane { peer, kind, octets }, actions);
            }
            Command::Relayed(relayed) => self.take_relayed(*relayed),
            Command::Rules(rules) => self.engine.set_rules(*rules),
            Command::Nodes(nodes) => self.bootstrap.set_nodes(nodes),
            Command::Stop => self.stopping = true,
        }
    }

    fn ask(&mut self, id: ToxId, message: String) -> Result<(), String> {
        let key = id.key();
        if self.shared.directory.is_blocked(self.number, &key) {
            return Err("it is blocked".into());
        }
        if self.connections.contains_key(&key) {
            return Ok(());
        }
        if let Some(number) = self.friends.remove(&key) {
            self.tox.delete_friend(number);
            self.keys.remove(&number);
        }
        let number = match self.tox.add_friend(&id, &message) {
            Ok(number) => number,
            // As a friend without a request it is at least not lost.
            Err(error) => {
                let number = self.tox.add_known_friend(&key)?;
                self.know(number, key);
                self.save();
                return Err(error.to_owned());
            }
        };
        self.know(number, key);
        self.save();
        let now = Instant::now();
        self.asking.insert(key, Asking { id, message, since: now, next: now + ASK_AGAIN });
        Ok(())
    }

    /// Gives the account a new nospam. Where it cannot be stored, the old one stays: what is told must survive a restart.
    fn rotate_nospam(&mut self) -> Result<ToxId, String> {
        let before = self.tox.nospam();
        let mut octets = [0; 4];
        getrandom::fill(&mut octets).map_err(|_| "the system has no randomness".to_owned())?;
        self.tox.set_nospam(u32::from_ne_bytes(octets));
        if let Err(error) = self.identity.store(&self.tox) {
            self.tox.set_nospam(before);
            // The rename may have happened before the fsync failed.
            self.save();
            return Err(format!("cannot write {}: {error}", self.identity.path().display()));
        }
        let id = self.tox.id();
        log::info!("{}: Tox ID {id}, with a new nospam", self.name);
        Ok(id)
    }

    /// Carries out actions, and those that follow from them, until none is left.
    fn act(&mut self, actions: &mut Vec<Action>) {
        self.engine.poll(self.now(), actions);
        while !actions.is_empty() {
            for action in std::mem::take(actions) {
                self.carry_out(action, actions);
            }
            self.engine.poll(self.now(), actions);
        }
        if !self.forgotten.is_empty() {
            self.shared.store.forget(&self.name, std::mem::take(&mut self.forgotten));
        }
    }

    fn carry_out(&mut self, action: Action, actions: &mut Vec<Action>) {
        let now = self.now();
        match action {
            Action::Send { peer, packet } => {
                // What follows a packet that was not taken belongs to a session with a gap: the peer must not see it.
                if self.broken.contains(&peer) {
                    return;
                }
                let sent = self.friends.get(&peer).map(|number| self.tox.send_message(*number, &packet));
                if !matches!(sent, Some(Ok(()))) {
                    self.broken.insert(peer);
                    self.engine.handle(now, Input::SendFailed(peer), actions);
                }
            }
            Action::SendCustom { peer, packet } => {
                // HELLO begins a session anew, and is said again until it is answered.
                self.broken.remove(&peer);
                if let Some(number) = self.friends.get(&peer) {
                    let _ = self.tox.send_packet(*number, &packet);
                }
            }
            Action::LinkUp { peer, epoch, small, bulk } => {
                log::info!("{}: mail link with {} is up", self.name, self.who(&peer));
                self.show(|snapshot| {
                    snapshot.online.insert(peer, true);
                });
                self.shared.store.link_up(&self.name, peer, epoch, small, bulk);
                self.shared.courier.link(self.number, peer, true);
            }
            Action::Grant { peer, small, bulk } => self.shared.store.grant(&self.name, peer, small, bulk),
            Action::LinkDown { peer } => {
                log::info!("{}: mail link with {} is down", self.name, self.who(&peer));
                self.show(|snapshot| {
                    if let Some(mail) = snapshot.online.get_mut(&peer) {
                        *mail = false;
                    }
                });
                self.bodies.retain(|_, (of, _)| *of != peer);
                self.shared.store.link_down(&self.name, peer);
                self.shared.courier.link(self.number, peer, false);
            }
            Action::ReadBody { peer, transfer, mail, offset, length } => {
                let octets = match self.read_body(peer, transfer, mail, offset, length) {
                    Ok(octets) => Some(octets),
                    Err(error) => {
                        log::error!("{}: cannot read a queued mail: {error}", self.name);
                        None
                    }
                };
                self.engine.handle(now, Input::Chunk { peer, transfer, offset, octets }, actions);
            }
            Action::CloseBody { transfer } => {
                self.bodies.remove(&transfer);
            }
            Action::Outcome { peer, transfer, index, outcome, .. } => {
                self.shared.store.outcome(peer, transfer, index, outcome);
            }
            Action::Lookup { peer, stream, id, mailboxes, partial } => {
                let accounts = self.shared.directory.accounts();
                let account = &accounts[self.number];
                let has =
                    |mailbox: &usize| self.reader.received(&self.name, &peer, &id, &account.mailboxes[*mailbox].name);
                let stored: rusqlite::Result<Vec<Option<bool>>> = mailboxes.iter().map(has).collect();
                let offset = partial.as_ref().map_or(Ok(0), |key| self.partials.length(&peer, key));
                let input = match (stored, offset) {
                    // Recorded, and whether it is visible is not clear yet: nothing may be promised.
                    (Ok(stored), _) if stored.contains(&Some(false)) => {
                        let refusal = Refusal::temporary(3, 0, "an earlier delivery of this mail is unfinished");
                        Input::AppendFailed { peer, stream, refusal }
                    }
                    (Ok(stored), Ok(offset)) => {
                        let stored = stored.iter().map(Option::is_some).collect();
                        Input::Found { peer, stream, stored, offset }
                    }
                    (Err(error), _) => {
                        log::error!("{}: cannot look up received mail: {error}", self.name);
                        let refusal = Refusal::temporary(3, 0, "the recipient's mail store does not answer");
                        Input::AppendFailed { peer, stream, refusal }
                    }
                    (_, Err(error)) => Input::AppendFailed { peer, stream, refusal: disk_refusal(&error) },
                };
                self.engine.handle(now, input, actions);
            }
            Action::Append { peer, stream, partial, offset, octets } => {
                if let Err(error) = self.partials.append(&peer, &partial, offset, &octets) {
                    let refusal = disk_refusal(&error);
                    self.engine.handle(now, Input::AppendFailed { peer, stream, refusal }, actions);
                }
            }
            Action::Deliver(delivery) => {
                let handle = self.handle.clone();
                let (peer, id) = (delivery.peer, delivery.id);
                self.shared.pool.deliver(self.number, delivery, move |results| {
                    handle.send(Command::Delivered(peer, id, results));
                });
            }
            Action::Forget { peer, id } => self.forgotten.push((peer, id)),
            Action::Declined { peer, session, text } => {
                log::warn!(
                    "{}: contact {}: {text}; it is removed, mail that waits for it bounces",
                    self.name,
                    self.who(&peer)
                );
                let (directory, number, handle) = (self.shared.directory.clone(), self.number, self.handle.clone());
                let refusal = Refusal::permanent(7, 1, text);
                self.shared.store.contact_declined(&self.name, peer, refusal, move || {
                    directory.remove(number, &peer);
                    handle.send(Command::DeclineRecorded(peer, session));
                });
            }
            Action::DeclineHeard { peer } => {
                log::info!("{}: {} has heard that its friend request is refused", self.name, self.who(&peer));
                let handle = self.handle.clone();
                let told = move || handle.send(Command::Refused);
                self.shared.store.declined(&self.name, peer, true, self.seconds(), told);
                self.forget(&peer, actions);
                self.save();
            }
            Action::Lane { peer, kind, octets } => self.shared.courier.word(self.number, peer, kind, octets),
            Action::Note { peer, text } => log::warn!("{}: contact {}: {text}", self.name, self.who(&peer)),
        }
    }

    fn read_body(
        &mut self,
        peer: PublicKey,
        transfer: MailId,
        mail: i64,
        offset: u64,
        length: u64,
    ) -> anyhow::Result<Vec<u8>> {
        if !self.bodies.contains_key(&transfer) {
            let name = self.reader.body_file(mail)?;
            let file = File::open(self.shared.state_dir.join("bodies").join(name))?;
            self.bodies.insert(transfer, (peer, file));
        }
        let mut octets = vec![0; usize::try_from(length)?];
        self.bodies[&transfer].1.read_exact_at(&mut octets, offset)?;
        Ok(octets)
    }

    /// What is to be done from time to time.
    fn look_after(&mut self, actions: &mut Vec<Action>) {
        let now = Instant::now();
        self.bootstrap.turn(&mut self.tox);
        if self.reconcile_at.is_some_and(|at| now >= at) {
            self.reconcile();
        }
        if now >= self.save_next {
            self.save_next = now + SAVE_EVERY;
            self.save();
            self.tell_refused(actions);
            if let Err(error) = self.partials.sweep() {
                log::warn!("{}: cannot look for old partial files: {error}", self.name);
            }
        }
        let left: Vec<PublicKey> =
            self.leaving.iter().filter(|(_, since)| now.duration_since(**since) > LEAVE).map(|(key, _)| *key).collect();
        for key in left {
            self.forget(&key, actions);
            self.save();
        }
        let due: Vec<PublicKey> = self.asking.iter().filter(|(_, a)| now >= a.next).map(|(key, _)| *key).collect();
        for key in due {
            if let Some(number) = self.friends.remove(&key) {
                self.tox.delete_friend(number);
                self.keys.remove(&number);
            }
            let Some(asking) = self.asking.get_mut(&key) else { continue };
            asking.next = now + ask_again(now.duration_since(asking.since));
            match self.tox.add_friend(&asking.id, &asking.message) {
                Ok(number) => self.know(number, key),
                Err(error) => log::error!("{}: cannot ask {key} again: {error}", self.name),
            }
        }
    }
}

/// What a peer is told when our disk fails.
pub(super) fn disk_refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Refusal::temporary(3, 1, "the recipient's disk is full")
        }
        _ => Refusal::temporary(3, 0, "the recipient's agent cannot write to its disk"),
    }
}
