//! The relay's side: who is let in, what each may do with which slot, and the sessions with all of them.
//!
//! The owner feeds [`Input`]s with [`Server::handle`], then calls [`Server::poll`], which commits what they changed and only
//! then lets answers go, and carries out the [`Action`]s in order. Time comes in with each call.
//!
//! Who has no invite and no slot's signature costs a look into the database and nothing else. Visitors and sessions are in
//! memory only, bounded in number; what is kept is bounded by each owner's quota and by the whole disk space lent.

mod admission;
pub mod memory;
mod requests;
mod session;
pub mod shelf;

use std::collections::{BTreeMap, BTreeSet};

use session::Session;
use shelf::{Draft, Owner, Shelf, ShelfError};

use super::descriptor::Invite;
use super::wire::{Answer, Code, Hello, Malformed, Message as _, Messages, Request, SlotOctets, VERSION, Welcome};
use crate::engine::transfer::{Digest, Digester};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{RelayKey, RelaySecret, SlotId};

const SECOND: u64 = 1_000_000;
/// The most slots, empty and filled, of one owner.
pub const OWNER_SLOTS: u64 = 8192;
/// Owners by invite, and invites that wait.
const MAX_INVITED: usize = 10_000;
/// How long an invite is good for, in seconds.
const INVITE_AGE: u64 = 30 * DAY;
/// How long a visitor may stay, and how long without a word; in microseconds.
const VISIT: u64 = 3600 * SECOND;
const VISIT_IDLE: u64 = 300 * SECOND;
/// How long content that nobody goes on with is kept, in microseconds.
const DRAFT_IDLE: u64 = 3600 * SECOND;
/// A client that lets so many answers pile up reads none: twice what it may have asked without having heard.
const MAX_BACKLOG: usize = 2048;
/// The most greetings of a client in a minute.
const MAX_HELLOS: u32 = 100;
/// How long an owner that broke the protocol is not listened to, in microseconds.
const CLOSED: u64 = 60 * SECOND;
/// How often what has ended is looked for, in microseconds, and how much of it is removed in one turn.
const SWEEP: u64 = 60 * SECOND;
const SWEEP_MOST: usize = 256;
/// Seconds.
const DAY: u64 = 86_400;

/// What the operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Whether anybody may become an owner, while there are fewer than `max_owners`.
    pub open: bool,
    /// Octets of all contents.
    pub max_disk: u64,
    /// Octets of the contents of one owner whose invite says nothing else.
    pub owner_quota: u64,
    /// See `open`.
    pub max_owners: usize,
    /// How long content is kept, in seconds.
    pub retention: u64,
}

/// The time, twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of any monotonic clock.
    pub micros: u64,
    /// Seconds since the epoch, of a clock that does not jump.
    pub seconds: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input<'a> {
    /// Somebody asks for friendship, with this text.
    Asked(PublicKey, &'a [u8]),
    /// A friend came online; `tcp`: over a TCP relay. Told again when that changes.
    Online {
        /// Who.
        client: PublicKey,
        /// Whether the way leads over a TCP relay.
        tcp: bool,
    },
    /// A friend went offline.
    Offline(PublicKey),
    /// A custom packet of a friend.
    CustomPacket(PublicKey, &'a [u8]),
    /// A message of a friend: a packet of its session.
    Packet(PublicKey, &'a [u8]),
    /// A packet that was to be sent was not taken, so the session has a gap and is over.
    SendFailed(PublicKey),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take somebody as a friend who may be one already.
    Admit(PublicKey),
    /// Remove a friend.
    Dismiss(PublicKey),
    /// Send a custom packet.
    SendCustom {
        /// To whom.
        client: PublicKey,
        /// Its octets.
        packet: Vec<u8>,
    },
    /// Send a message.
    Send {
        /// To whom.
        client: PublicKey,
        /// Its octets.
        packet: Vec<u8>,
    },
    /// Worth a line in the log at level debug; names pseudonyms only.
    Note(String),
}

/// What the whole relay holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Owners.
    pub owners: u64,
    /// Octets of contents.
    pub used: u64,
    /// Slots that are empty or filled.
    pub slots: u64,
    /// Slots that are filled.
    pub filled: u64,
    /// Sessions that are up.
    pub sessions: u64,
}

/// Somebody who was let in.
#[derive(Debug, Default)]
struct Client {
    /// For a visitor: the slot that vouches for it and that slot's owner.
    visit: Option<Visit>,
    tcp: bool,
    session: Option<Session>,
    /// Since when greetings are counted, and how many came.
    hellos: (u64, u32),
    /// Until when it is not listened to.
    closed: u64,
}

#[derive(Debug)]
struct Visit {
    slot: SlotId,
    owner: PublicKey,
    since: u64,
    heard: u64,
}

/// Content that is coming in.
struct Incoming {
    draft: Draft,
    owner: PublicKey,
    /// Who sends it; none when its session is over.
    client: Option<PublicKey>,
    size: u64,
    digest: Digest,
    digester: Digester,
    have: u64,
    touched: u64,
}

/// What goes out once the changes of this turn are on disk.
enum Waiting {
    Admit(PublicKey),
    Dismiss(PublicKey),
    /// To whom, in which session of his, and what.
    Answer(PublicKey, [u8; 8], Answer),
}

/// A client broke the protocol.
struct Violation(String);

impl From<&str> for Violation {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Malformed> for Violation {
    fn from(error: Malformed) -> Self {
        Self(error.to_string())
    }
}

/// Why a request is not carried out.
enum Refusal {
    /// The client is told so.
    Told(Code, &'static str),
    /// The shelf failed; nothing of this turn holds.
    Failed(ShelfError),
}

impl From<ShelfError> for Refusal {
    fn from(error: ShelfError) -> Self {
        Self::Failed(error)
    }
}

fn refuse<T>(code: Code, text: &'static str) -> Result<T, Refusal> {
    Err(Refusal::Told(code, text))
}

/// What a client is told when the disk fails; the log says more.
const TROUBLE: &str = "this relay has trouble with its disk";

/// A relay. `S` is where it keeps things.
pub struct Server<S> {
    shelf: S,
    secret: RelaySecret,
    key: RelayKey,
    limits: Limits,
    owners: BTreeMap<PublicKey, Owner>,
    clients: BTreeMap<PublicKey, Client>,
    incoming: BTreeMap<SlotId, Incoming>,
    /// Whether the shelf has changes that are not committed.
    changed: bool,
    failed: Option<ShelfError>,
    waiting: Vec<Waiting>,
    /// Who may have something to be sent.
    dirty: BTreeSet<PublicKey>,
    /// Since when requests of strangers are counted, and how many came.
    requests: (u64, u32),
    sweep: u64,
    /// Octets of all contents.
    used: u64,
    /// Octets that the disk has yet for contents.
    room: u64,
}

impl<S: Shelf> Server<S> {
    /// A relay with what is on its shelf.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub fn new(mut shelf: S, secret: RelaySecret, limits: Limits) -> Result<Self, ShelfError> {
        let owners: BTreeMap<PublicKey, Owner> = shelf.owners()?.into_iter().map(|owner| (owner.key, owner)).collect();
        let clients = owners.keys().map(|key| (*key, Client::default())).collect();
        let used = owners.values().map(|owner| owner.used).sum();
        Ok(Self {
            key: secret.public(),
            shelf,
            secret,
            limits,
            owners,
            clients,
            incoming: BTreeMap::new(),
            changed: false,
            failed: None,
            waiting: Vec::new(),
            dirty: BTreeSet::new(),
            requests: (0, 0),
            sweep: 0,
            used,
            room: u64::MAX,
        })
    }

    /// Its key.
    pub fn key(&self) -> RelayKey {
        self.key
    }

    /// The shelf, to be looked at.
    pub fn shelf(&self) -> &S {
        &self.shelf
    }

    /// The shelf, as tests and simulators ask or break it.
    pub fn shelf_mut(&mut self) -> &mut S {
        &mut self.shelf
    }

    /// Ends; what was not committed is not.
    pub fn into_shelf(self) -> S {
        self.shelf
    }

    /// Limits that hold from now on. What is over them stays until it ends.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// So many octets the disk has for contents from now on, beyond what lies there: where they do not suffice, no further
    /// content is begun. Until it is told, any number.
    pub fn set_room(&mut self, octets: u64) {
        self.room = octets;
    }

    /// All owners.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.owners.values()
    }

    /// Whether somebody is to be a friend.
    pub fn is_client(&self, key: &PublicKey) -> bool {
        self.clients.contains_key(key)
    }

    /// What the relay holds.
    pub fn totals(&self) -> Totals {
        Totals {
            owners: self.owners.len() as u64,
            used: self.used,
            slots: self.owners.values().map(|owner| owner.slots).sum(),
            filled: self.owners.values().map(|owner| owner.filled).sum(),
            sessions: self.clients.values().filter(|client| client.session.is_some()).count() as u64,
        }
    }

    /// What an owner may keep here, in octets.
    pub fn quota(&self, owner: &Owner) -> u64 {
        owner.quota.unwrap_or(self.limits.owner_quota)
    }

    /// Makes an invite, good once and for 30 days; on disk after the next [`Server::poll`].
    ///
    /// # Errors
    /// Too many wait, or the shelf fails.
    pub fn invite(&mut self, now: Now, invite: &Invite, quota: Option<u64>) -> Result<(), ShelfError> {
        self.changed = true;
        let result = match self.shelf.invites(now.seconds) {
            Ok(many) if many >= MAX_INVITED as u64 => return Err(ShelfError("too many invites wait already".into())),
            Ok(_) => self.shelf.add_invite(&admission::hash(invite), quota, now.seconds + INVITE_AGE),
            Err(error) => Err(error),
        };
        result.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Forgets an owner and all that lies here for him; on disk after the next [`Server::poll`]. Whether there is one.
    ///
    /// # Errors
    /// The shelf fails.
    pub fn remove_owner(&mut self, key: &PublicKey) -> Result<bool, ShelfError> {
        let Some(owner) = self.owners.remove(key) else { return Ok(false) };
        self.used -= owner.used;
        self.changed = true;
        let slots: Vec<SlotId> =
            self.incoming.iter().filter(|(_, incoming)| incoming.owner == *key).map(|(slot, _)| *slot).collect();
        slots.iter().for_each(|slot| self.abandon(slot));
        let visitors: Vec<PublicKey> =
            self.visitors().filter(|(_, visit)| visit.owner == *key).map(|(key, _)| key).collect();
        visitors.into_iter().chain([*key]).for_each(|key| self.dismiss(key));
        self.shelf.remove_owner(key).inspect_err(|error| self.failed = Some(error.clone()))?;
        Ok(true)
    }

    /// Takes an input in. What it brings comes from [`Server::poll`].
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Vec<Action>) {
        match input {
            Input::Asked(key, text) => {
                if let Err(error) = self.on_asked(now, key, text) {
                    self.failed = Some(error);
                }
            }
            Input::Online { client, tcp } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.tcp = tcp;
                }
            }
            Input::Offline(client) | Input::SendFailed(client) => self.leave(&client),
            Input::CustomPacket(client, packet) => {
                let Some(hello) = Hello::from_packet(packet) else { return };
                let result = hello.map_err(Violation::from).and_then(|hello| self.on_hello(now, client, &hello, out));
                self.judge(now, client, result, out);
            }
            Input::Packet(client, packet) => {
                let result = self.on_packet(now, client, packet);
                self.judge(now, client, result, out);
            }
        }
    }

    /// Ends a client's session. What it was sending is kept for a while.
    fn leave(&mut self, key: &PublicKey) {
        if let Some(client) = self.clients.get_mut(key) {
            client.session = None;
        }
        for incoming in self.incoming.values_mut().filter(|incoming| incoming.client == Some(*key)) {
            incoming.client = None;
        }
    }

    /// Cuts off a client that broke the protocol: a visitor for good, an owner for a while.
    fn judge(&mut self, now: Now, key: PublicKey, result: Result<(), Violation>, out: &mut Vec<Action>) {
        let Err(Violation(text)) = result else { return };
        self.leave(&key);
        let Some(client) = self.clients.get_mut(&key) else { return };
        out.push(Action::Note(format!("{} broke the protocol and is cut off: {text}", key.short())));
        client.closed = now.micros + CLOSED;
        if client.visit.is_some() {
            self.dismiss(key);
        }
    }

    /// Lets a visitor go.
    fn dismiss(&mut self, key: PublicKey) {
        self.leave(&key);
        self.clients.remove(&key);
        self.waiting.push(Waiting::Dismiss(key));
    }

    fn on_hello(&mut self, now: Now, key: PublicKey, hello: &Hello, out: &mut Vec<Action>) -> Result<(), Violation> {
        let Some(client) = self.clients.get_mut(&key) else { return Ok(()) };
        if now.micros < client.closed {
            return Ok(());
        }
        if now.micros.saturating_sub(client.hellos.0) > 60 * SECOND {
            client.hellos = (now.micros, 0);
        }
        client.hellos.1 += 1;
        if client.hellos.1 > MAX_HELLOS {
            return Err("greets again and again".into());
        }
        match &client.session {
            Some(session) if session.id == hello.session && session.heard => return Ok(()),
            Some(session) if session.id == hello.session => {}
            _ => {
                self.leave(&key);
                let client = self.clients.get_mut(&key).expect("looked up above");
                if let Some(visit) = &mut client.visit {
                    visit.heard = now.micros;
                }
                if hello.versions.contains(&VERSION) {
                    client.session = Some(Session::new(hello.session));
                }
                self.see(now, &key);
            }
        }
        let owner = self.owners.get(&key);
        let welcome = Welcome {
            version: VERSION,
            session: hello.session,
            relay: self.key.0,
            owner: owner.is_some(),
            retention: self.limits.retention,
            quota: owner.map_or(0, |owner| self.quota(owner)),
            used: owner.map_or(0, |owner| owner.used),
            max_slots: owner.map_or(0, |_| OWNER_SLOTS),
        };
        out.push(Action::SendCustom { client: key, packet: welcome.to_packet() });
        Ok(())
    }

    /// Notes that an owner is here, to a day.
    fn see(&mut self, now: Now, key: &PublicKey) {
        let Some(owner) = self.owners.get_mut(key).filter(|owner| owner.seen + DAY < now.seconds) else { return };
        owner.seen = now.seconds;
        self.changed = true;
        if let Err(error) = self.shelf.see_owner(key, owner.seen) {
            self.failed = Some(error);
        }
    }

    fn on_packet(&mut self, now: Now, key: PublicKey, packet: &[u8]) -> Result<(), Violation> {
        let Some(client) = self.clients.get_mut(&key) else { return Ok(()) };
        let Some(session) = &mut client.session else { return Ok(()) };
        session.heard = true;
        if let Some(visit) = &mut client.visit {
            visit.heard = now.micros;
        }
        self.dirty.insert(key);
        let mut counts = false;
        for request in Messages::<Request>::new(packet) {
            let request = request?;
            counts |= request.as_ref().is_none_or(|request| request.acknowledged().is_none());
            if let Some(request) = request {
                self.on_request(now, key, request)?;
            }
            // It asked for more than it reads.
            if self.session(&key).is_none() {
                return Ok(());
            }
        }
        let session = self.session(&key);
        if let (true, Some(session)) = (counts, session) {
            session.flow.on_packet();
        }
        Ok(())
    }

    fn session(&mut self, key: &PublicKey) -> Option<&mut Session> {
        self.clients.get_mut(key)?.session.as_mut()
    }

    /// Has a client answered in the session that it has now. One in which too much piles up is over.
    fn answer(&mut self, key: PublicKey, answer: Answer) {
        let Some(session) = self.session(&key) else { return };
        if session.waiting + session.answers.len() >= MAX_BACKLOG {
            return self.leave(&key);
        }
        session.waiting += 1;
        let id = session.id;
        self.waiting.push(Waiting::Answer(key, id, answer));
    }

    fn on_request(&mut self, now: Now, from: PublicKey, request: Request) -> Result<(), Violation> {
        match request {
            Request::Ack(count) => {
                let Some(session) = self.session(&from) else { return Ok(()) };
                session.flow.on_ack(now.micros, count)?;
            }
            Request::Register(number, slots) => {
                let slots = slots.into_iter().map(|slot| (SlotId(slot.slot), slot.class)).collect();
                let result = self.on_register(from, slots);
                self.answer_numbered(from, number, result);
            }
            Request::Unregister(number, slots) => {
                let result = self.on_unregister(from, &slots);
                self.answer_numbered(from, number, result);
            }
            Request::Put(slot, size, digest) => {
                let result = self.on_put(now, from, SlotId(slot.0), size, Digest(digest));
                self.answer_about(from, slot, result.map(Some));
            }
            Request::Piece(slot, offset, octets) => {
                let result = self.on_piece(now, from, &SlotId(slot.0), offset, &octets);
                self.answer_about(from, slot, result.map(|()| None));
            }
            Request::Seal(slot, signature) => {
                let result = self.on_seal(now, from, SlotId(slot.0), &signature);
                self.answer_about(from, slot, result.map(Some));
            }
            Request::List(after) => {
                let listed = self.on_list(&from, after);
                match listed {
                    Ok(answer) => self.answer(from, answer),
                    Err(error) => self.failed = Some(error),
                }
            }
            Request::Get(slot, offset) => {
                let result = self.on_get(&from, SlotId(slot.0), offset);
                self.answer_about(from, slot, result.map(|()| None));
            }
            Request::Delete(slot, signature) => {
                let result = self.on_delete(now, SlotId(slot.0), &signature);
                self.answer_about(from, slot, result.map(Some));
            }
        }
        Ok(())
    }

    fn answer_numbered(&mut self, to: PublicKey, number: u32, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.answer(to, Answer::Done(number)),
            Err(Refusal::Told(code, text)) => self.answer(to, Answer::Failed(number, code as u8, text.into())),
            Err(Refusal::Failed(error)) => {
                self.failed = Some(error);
                self.answer(to, Answer::Failed(number, Code::Busy as u8, TROUBLE.into()));
            }
        }
    }

    fn answer_about(&mut self, to: PublicKey, slot: SlotOctets, result: Result<Option<Answer>, Refusal>) {
        match result {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer(to, answer),
            Err(Refusal::Told(code, text)) => self.answer(to, Answer::Refused(slot, code as u8, text.into())),
            Err(Refusal::Failed(error)) => {
                self.failed = Some(error);
                self.answer(to, Answer::Refused(slot, Code::Busy as u8, TROUBLE.into()));
            }
        }
    }

    /// Makes what came in durable, lets the answers go, sends what may be sent, and looks after what has ended. To be called
    /// after inputs and at the deadline.
    ///
    /// # Errors
    /// The shelf failed, and nothing holds of what was changed since the last call; the clients were told so.
    pub fn poll(&mut self, now: Now, out: &mut Vec<Action>) -> Result<(), ShelfError> {
        self.sweep(now);
        let result = self.commit();
        for waiting in std::mem::take(&mut self.waiting) {
            let holds = result.is_ok();
            match waiting {
                Waiting::Admit(key) if self.clients.contains_key(&key) => out.push(Action::Admit(key)),
                Waiting::Dismiss(key) if !self.clients.contains_key(&key) => out.push(Action::Dismiss(key)),
                Waiting::Answer(key, id, answer) => {
                    let Some(session) = self.session(&key).filter(|session| session.id == id) else { continue };
                    session.waiting = session.waiting.saturating_sub(1);
                    session.answers.extend(if holds { Some(answer) } else { taken_back(answer) });
                    self.dirty.insert(key);
                }
                Waiting::Admit(_) | Waiting::Dismiss(_) => {}
            }
        }
        let late = |client: &Client| client.session.as_ref().and_then(|session| session.flow.deadline());
        let late = self.clients.iter().filter(|(_, client)| late(client).is_some_and(|at| now.micros >= at));
        self.dirty.extend(late.map(|(key, _)| *key));
        for key in std::mem::take(&mut self.dirty) {
            self.pump(now, key, out);
        }
        result
    }

    fn commit(&mut self) -> Result<(), ShelfError> {
        let changed = std::mem::take(&mut self.changed);
        let result = match self.failed.take() {
            Some(error) => {
                self.shelf.roll_back();
                Err(error)
            }
            None if changed => self.shelf.commit(),
            None => Ok(()),
        };
        if result.is_err() {
            // If that fails as well, it is tried again with the next turn, which will hold as little.
            self.failed = self.restore().err();
        }
        result
    }

    /// Goes by what is on the shelf, after changes were taken back.
    fn restore(&mut self) -> Result<(), ShelfError> {
        self.owners = self.shelf.owners()?.into_iter().map(|owner| (owner.key, owner)).collect();
        self.used = self.owners.values().map(|owner| owner.used).sum();
        let owners = &self.owners;
        for key in owners.keys() {
            self.clients.entry(*key).or_default();
        }
        let stranger = |(key, client): (&PublicKey, &Client)| {
            (client.visit.is_none() && !owners.contains_key(key)).then_some(*key)
        };
        let strangers: Vec<PublicKey> = self.clients.iter().filter_map(stranger).collect();
        strangers.into_iter().for_each(|key| self.dismiss(key));
        Ok(())
    }

    /// Removes what has ended: contents, memories, visits, owners that did not come again.
    fn sweep(&mut self, now: Now) {
        if now.micros < self.sweep {
            return;
        }
        self.sweep = now.micros + SWEEP;
        let over = |visit: &Visit| now.micros > visit.since + VISIT || now.micros > visit.heard + VISIT_IDLE;
        let over: Vec<PublicKey> = self.visitors().filter(|(_, visit)| over(visit)).map(|(key, _)| key).collect();
        over.into_iter().for_each(|key| self.dismiss(key));
        let idle =
            |(slot, incoming): (&SlotId, &Incoming)| (now.micros > incoming.touched + DRAFT_IDLE).then_some(*slot);
        let idle: Vec<SlotId> = self.incoming.iter().filter_map(idle).collect();
        idle.iter().for_each(|slot| self.abandon(slot));
        let result = self.shelf.ended(now.seconds, SWEEP_MOST).and_then(|ended| {
            if ended.len() == SWEEP_MOST {
                self.sweep = now.micros + SECOND;
            }
            ended.iter().try_for_each(|(slot, known)| self.forget(slot, known))
        });
        // Whose session is up for days is here all the time.
        let here = self.clients.iter().filter(|(_, client)| client.session.is_some()).map(|(key, _)| *key);
        here.collect::<Vec<_>>().iter().for_each(|key| self.see(now, key));
        // Who came without an invite and does not come again makes room: after two days without a slot, or the retention.
        let left = |owner: &&Owner| {
            let patience = if owner.slots + owner.gone == 0 { 2 * DAY } else { self.limits.retention.max(30 * DAY) };
            !owner.invited && owner.seen + patience < now.seconds
        };
        let left: Vec<PublicKey> = self.owners.values().filter(left).map(|owner| owner.key).collect();
        let result = result.and_then(|()| left.iter().try_for_each(|key| self.remove_owner(key).map(|_| ())));
        if let Err(error) = result {
            self.failed = Some(error);
        }
    }

    /// Sends what may be sent to one client.
    fn pump(&mut self, now: Now, key: PublicKey, out: &mut Vec<Action>) {
        let shelf = &mut self.shelf;
        let Some(client) = self.clients.get_mut(&key) else { return };
        let Some(session) = client.session.as_mut().filter(|session| session.heard) else { return };
        if session.flow.deadline().is_some_and(|deadline| now.micros >= deadline) {
            self.leave(&key);
            return out.push(Action::Note(format!("{} takes no answers, its session is over", key.short())));
        }
        while let Some(packet) = session.next_packet(now.micros, client.tcp, shelf) {
            out.push(Action::Send { client: key, packet });
        }
    }

    /// When [`Server::poll`] has something to do even if nothing happens, in microseconds.
    pub fn deadline(&self) -> u64 {
        let sessions = self.clients.values().filter_map(|client| client.session.as_ref()?.flow.deadline());
        sessions.min().map_or(self.sweep, |deadline| deadline.min(self.sweep))
    }

    /// Whether packets are on their way over a TCP relay, whose acknowledgements are worth looking out for.
    pub fn is_busy_over_tcp(&self) -> bool {
        self.clients
            .values()
            .any(|client| client.tcp && client.session.as_ref().is_some_and(|session| session.flow.is_busy()))
    }
}

/// What is said in place of an answer that does not hold.
fn taken_back(answer: Answer) -> Option<Answer> {
    let busy = Code::Busy as u8;
    match answer {
        Answer::Done(number) => Some(Answer::Failed(number, busy, TROUBLE.into())),
        Answer::Stored(slot, ..) | Answer::Gone(slot, _) => Some(Answer::Refused(slot, busy, TROUBLE.into())),
        Answer::Arrived(_) => None,
        answer => Some(answer),
    }
}
