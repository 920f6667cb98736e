//! The relay's side: who is let in, what each may do with which slot, and the sessions with all of them.
//!
//! The owner feeds [`Input`]s with [`Server::handle`], then calls [`Server::poll`], which commits what they changed and only
//! then lets answers go, and carries out the [`Action`]s in order. Time comes in with each call.
//!
//! Who has no invite and no slot's signature costs a look into the database and nothing else. Visitors and sessions are in
//! memory only, bounded in number; what is kept is bounded by each owner's quota and by the whole disk space lent.

pub mod memory;
mod session;
pub mod shelf;

use std::collections::{BTreeMap, BTreeSet};

use session::{Cursor, Session};
use shelf::{Draft, Owner, Shelf, ShelfError, Slot, State};

use super::descriptor::{Admission, Invite};
use super::wire::{
    Answer, Code, Filled, Hello, MAX_SLOTS, Malformed, Message as _, Messages, Request, SlotOctets, VERSION, Welcome,
};
use crate::engine::transfer::{Digest, Digester};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey, RelaySecret, SignatureOctets, SlotId};

const SECOND: u64 = 1_000_000;
/// The most slots, empty and filled, of one owner.
pub const OWNER_SLOTS: u64 = 8192;
/// The most slots of one owner that are remembered, those emptied for good included; the oldest of these are forgotten.
const OWNER_ROWS: u64 = 4 * OWNER_SLOTS;
/// Owners by invite, and invites that wait.
const MAX_INVITED: usize = 10_000;
/// How long an invite is good for, in seconds.
const INVITE_AGE: u64 = 30 * DAY;
/// The most visitors, and those of them whom slots of one owner vouch for.
const MAX_VISITORS: usize = 256;
const OWNER_VISITORS: usize = 32;
/// How long a visitor may stay, and how long without a word; in microseconds.
const VISIT: u64 = 3600 * SECOND;
const VISIT_IDLE: u64 = 300 * SECOND;
/// Contents that may come in at a time: from one client, and from all.
const CLIENT_DRAFTS: usize = 4;
const MAX_DRAFTS: usize = 256;
/// How long content that nobody goes on with is kept, in microseconds.
const DRAFT_IDLE: u64 = 3600 * SECOND;
/// Contents that one client may fetch at a time.
const MAX_GETS: usize = 8;
/// A client that lets so many answers pile up reads none: twice what it may have asked without having heard.
const MAX_BACKLOG: usize = 2048;
/// The most greetings of a client in a minute, and friend requests of strangers looked at.
const MAX_HELLOS: u32 = 100;
const MAX_REQUESTS: u32 = 600;
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
    Answer(PublicKey, Answer),
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
}

impl<S: Shelf> Server<S> {
    /// A relay with what is on its shelf.
    ///
    /// # Errors
    /// The shelf cannot be read.
    pub fn new(mut shelf: S, secret: RelaySecret, limits: Limits) -> Result<Self, ShelfError> {
        let owners: BTreeMap<PublicKey, Owner> = shelf.owners()?.into_iter().map(|owner| (owner.key, owner)).collect();
        let clients = owners.keys().map(|key| (*key, Client::default())).collect();
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
            used: self.owners.values().map(|owner| owner.used).sum(),
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
            Ok(_) => self.shelf.add_invite(&hash(invite), quota, now.seconds + INVITE_AGE),
            Err(error) => Err(error),
        };
        result.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Forgets an owner and all that lies here for him; on disk after the next [`Server::poll`]. Whether there is one.
    ///
    /// # Errors
    /// The shelf fails.
    pub fn remove_owner(&mut self, key: &PublicKey) -> Result<bool, ShelfError> {
        if self.owners.remove(key).is_none() {
            return Ok(false);
        }
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

    fn on_asked(&mut self, now: Now, key: PublicKey, text: &[u8]) -> Result<(), ShelfError> {
        if now.micros.saturating_sub(self.requests.0) > 60 * SECOND {
            self.requests = (now.micros, 0);
        }
        self.requests.1 += 1;
        if self.requests.1 > MAX_REQUESTS {
            return Ok(());
        }
        match Admission::parse(text) {
            None => Ok(()),
            // It lost its friendship with us, or the answer is still on its way.
            Some(_) if self.owners.contains_key(&key) => {
                self.waiting.push(Waiting::Admit(key));
                Ok(())
            }
            Some(Admission::Owner(invite)) => self.on_owner(now, key, invite.as_ref()),
            Some(Admission::Visitor(slot, signature)) => self.on_visitor(now, key, slot, &signature),
        }
    }

    fn on_owner(&mut self, now: Now, key: PublicKey, invite: Option<&Invite>) -> Result<(), ShelfError> {
        let many = self.owners.len();
        let quota = match invite {
            Some(invite) if many < MAX_INVITED => {
                let taken = self.shelf.take_invite(&hash(invite), now.seconds)?;
                self.changed |= taken.is_some();
                taken
            }
            _ => None,
        };
        if quota.is_none() && !(self.limits.open && many < self.limits.max_owners) {
            return Ok(());
        }
        let (invited, quota) = (quota.is_some(), quota.flatten());
        self.changed = true;
        let (since, seen) = (now.seconds, now.seconds);
        let owner = Owner { key, quota, invited, since, seen, used: 0, slots: 0, filled: 0, gone: 0 };
        self.shelf.add_owner(&owner)?;
        self.owners.insert(key, owner);
        self.leave(&key);
        self.clients.insert(key, Client::default());
        self.waiting.push(Waiting::Admit(key));
        Ok(())
    }

    fn on_visitor(
        &mut self,
        now: Now,
        key: PublicKey,
        slot: SlotId,
        signature: &SignatureOctets,
    ) -> Result<(), ShelfError> {
        let owner = match self.shelf.slot(&slot)? {
            // One that is filled may be asked about, or emptied, by who filled it.
            Some(Slot { owner, state: State::Empty | State::Filled { .. }, .. }) => owner,
            _ => return Ok(()),
        };
        if !slot.verify_visit(&self.key, &key, signature) {
            return Ok(());
        }
        let visit = Visit { slot, owner, since: now.micros, heard: now.micros };
        if let Some(client) = self.clients.get_mut(&key) {
            client.visit = Some(visit);
            self.waiting.push(Waiting::Admit(key));
            return Ok(());
        }
        // A slot vouches for one visitor at a time.
        let before = self.visitors().find(|(_, visit)| visit.slot == slot).map(|(key, _)| key);
        before.into_iter().for_each(|key| self.dismiss(key));
        let of_owner = self.visitors().filter(|(_, visit)| visit.owner == owner).count();
        if of_owner >= OWNER_VISITORS && !self.make_room(|visit| visit.owner == owner) {
            return Ok(());
        }
        if self.visitors().count() >= MAX_VISITORS && !self.make_room(|_| true) {
            return Ok(());
        }
        self.clients.insert(key, Client { visit: Some(visit), ..Client::default() });
        self.waiting.push(Waiting::Admit(key));
        Ok(())
    }

    fn visitors(&self) -> impl Iterator<Item = (PublicKey, &Visit)> {
        self.clients.iter().filter_map(|(key, client)| Some((*key, client.visit.as_ref()?)))
    }

    /// Lets the visitor go that was heard least lately of those that are not here; false if all of these are.
    fn make_room(&mut self, of: impl Fn(&Visit) -> bool) -> bool {
        let away = self.visitors().filter(|(key, visit)| of(visit) && self.clients[key].session.is_none());
        let oldest = away.min_by_key(|(_, visit)| visit.heard).map(|(key, _)| key);
        oldest.map(|key| self.dismiss(key)).is_some()
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

    fn answer(&mut self, key: PublicKey, answer: Answer) {
        self.waiting.push(Waiting::Answer(key, answer));
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

    fn on_register(&mut self, from: PublicKey, slots: BTreeMap<SlotId, u8>) -> Result<(), Refusal> {
        let Some(owner) = self.owners.get(&from) else {
            return refuse(Code::Forbidden, "only an owner registers slots");
        };
        let mut new = Vec::new();
        for (slot, class) in slots {
            let Some(class) = Class::from_number(class) else { return refuse(Code::Wrong, "unknown class") };
            match self.shelf.slot(&slot)? {
                None => new.push((slot, class)),
                Some(known) if known.owner == from && known.class == class => {}
                Some(_) => return refuse(Code::Taken, "a slot is registered otherwise"),
            }
        }
        let many = new.len() as u64;
        if many == 0 {
            return Ok(());
        }
        if owner.slots + many > OWNER_SLOTS {
            return refuse(Code::Slots, "too many slots");
        }
        let beyond = (owner.slots + owner.gone + many).saturating_sub(OWNER_ROWS);
        self.changed = true;
        let forgotten = if beyond > 0 { self.shelf.forget_gone(&from, beyond)? } else { 0 };
        for (slot, class) in new {
            self.shelf.register(&from, &slot, class)?;
        }
        self.account(&from, |owner| {
            owner.slots += many;
            owner.gone -= forgotten;
        });
        Ok(())
    }

    fn on_unregister(&mut self, from: PublicKey, slots: &[SlotOctets]) -> Result<(), Refusal> {
        if !self.owners.contains_key(&from) {
            return refuse(Code::Forbidden, "only an owner takes slots back");
        }
        for slot in slots.iter().map(|slot| SlotId(slot.0)) {
            match self.shelf.slot(&slot)? {
                Some(known) if known.owner == from => self.forget(&slot, &known)?,
                // Of others nothing is said.
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets a slot with all that is in it or on its way into it.
    fn forget(&mut self, slot: &SlotId, known: &Slot) -> Result<(), ShelfError> {
        self.abandon(slot);
        self.changed = true;
        self.shelf.forget(slot)?;
        self.account(&known.owner, |owner| uncount(owner, known));
        Ok(())
    }

    fn account(&mut self, owner: &PublicKey, change: impl FnOnce(&mut Owner)) {
        if let Some(owner) = self.owners.get_mut(owner) {
            change(owner);
        }
    }

    /// Drops content that is coming in.
    fn abandon(&mut self, slot: &SlotId) {
        if let Some(incoming) = self.incoming.remove(slot) {
            self.shelf.abandon(incoming.draft);
        }
    }

    fn on_put(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: SlotId,
        size: u64,
        digest: Digest,
    ) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        match known.state {
            State::Gone(_) => return refuse(Code::Taken, "the slot was emptied for good"),
            State::Filled { digest: has, expires, .. } if has == digest => {
                return Ok(self.stored(&slot, &digest, expires));
            }
            State::Filled { .. } => return refuse(Code::Taken, "the slot holds something else"),
            State::Empty => {}
        }
        if size != known.class.octets() as u64 {
            return refuse(Code::Wrong, "the length is not that of the slot's class");
        }
        let others = |incoming: &&Incoming| incoming.client == Some(from);
        let writing = self.incoming.values().filter(others).count();
        match self.incoming.get_mut(&slot) {
            Some(incoming) if incoming.client.is_some_and(|client| client != from) => {
                return refuse(Code::Busy, "somebody else is filling the slot");
            }
            Some(incoming) if incoming.digest == digest => {
                if incoming.client.is_none() && writing >= CLIENT_DRAFTS {
                    return refuse(Code::Busy, "too many slots are being filled at a time");
                }
                (incoming.client, incoming.touched) = (Some(from), now.micros);
                return Ok(Answer::Continue(SlotOctets(slot.0), incoming.have));
            }
            Some(_) => self.abandon(&slot),
            None => {}
        }
        if self.incoming.values().filter(others).count() >= CLIENT_DRAFTS {
            return refuse(Code::Busy, "too many slots are being filled at a time");
        }
        self.make_space(&known.owner, size)?;
        let draft = self.shelf.begin()?;
        let incoming = Incoming {
            draft,
            owner: known.owner,
            client: Some(from),
            size,
            digest,
            digester: Digester::default(),
            have: 0,
            touched: now.micros,
        };
        self.incoming.insert(slot, incoming);
        Ok(Answer::Continue(SlotOctets(slot.0), 0))
    }

    /// Makes sure that so many octets more may come in for an owner; what nobody goes on with gives way.
    fn make_space(&mut self, owner: &PublicKey, size: u64) -> Result<(), Refusal> {
        loop {
            let Some(account) = self.owners.get(owner) else { return refuse(Code::Unknown, "no such slot") };
            let of_owner = |incoming: &&Incoming| incoming.owner == *owner;
            let coming = |all: u64, incoming: &Incoming| all + incoming.size;
            let reserved = self.incoming.values().filter(of_owner).fold(0, coming);
            let over_quota = account.used + reserved + size > self.quota(account);
            let all = self.totals().used + self.incoming.values().fold(0, coming);
            let over = over_quota || all + size > self.limits.max_disk || self.incoming.len() >= MAX_DRAFTS;
            if !over {
                return Ok(());
            }
            let idle = self
                .incoming
                .iter()
                .filter(|(_, incoming)| incoming.client.is_none() && (!over_quota || incoming.owner == *owner));
            let Some(slot) = idle.min_by_key(|(_, incoming)| incoming.touched).map(|(slot, _)| *slot) else {
                return if over_quota {
                    refuse(Code::Quota, "the recipient's space at this relay is full")
                } else {
                    refuse(Code::Busy, "this relay is full")
                };
            };
            self.abandon(&slot);
        }
    }

    fn on_piece(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: &SlotId,
        offset: u64,
        octets: &[u8],
    ) -> Result<(), Refusal> {
        // What was refused may have been on its way.
        let Some(incoming) = self.incoming.get_mut(slot).filter(|incoming| incoming.client == Some(from)) else {
            return Ok(());
        };
        // What is there already comes again after a second PUT; a gap shows when the content is sealed.
        let skip = incoming.have.checked_sub(offset).and_then(|skip| usize::try_from(skip).ok());
        let Some(octets) = skip.and_then(|skip| octets.get(skip..)).filter(|octets| !octets.is_empty()) else {
            return Ok(());
        };
        incoming.touched = now.micros;
        if incoming.have + octets.len() as u64 > incoming.size {
            self.abandon(slot);
            return refuse(Code::Wrong, "more came than the length that was told");
        }
        incoming.digester.update(octets);
        incoming.have += octets.len() as u64;
        let draft = incoming.draft;
        if self.shelf.append(draft, octets).is_err() {
            self.abandon(slot);
            return refuse(Code::Busy, TROUBLE);
        }
        Ok(())
    }

    fn on_seal(
        &mut self,
        now: Now,
        from: PublicKey,
        slot: SlotId,
        signature: &SignatureOctets,
    ) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        let size = known.class.octets() as u64;
        match known.state {
            State::Gone(_) => return refuse(Code::Taken, "the slot was emptied for good"),
            State::Filled { digest, expires, .. } if slot.verify_put(&self.key, &digest.0, size, signature) => {
                return Ok(self.stored(&slot, &digest, expires));
            }
            State::Filled { .. } => return refuse(Code::Taken, "the slot holds something else"),
            State::Empty => {}
        }
        let Some(incoming) = self.incoming.get(&slot).filter(|incoming| incoming.client == Some(from)) else {
            return refuse(Code::Busy, "the content was dropped: begin anew");
        };
        if incoming.have != incoming.size {
            return refuse(Code::Wrong, "not all of the content came");
        }
        let incoming = self.incoming.remove(&slot).expect("looked up above");
        let digest = incoming.digester.finish();
        if digest != incoming.digest || !slot.verify_put(&self.key, &digest.0, size, signature) {
            self.shelf.abandon(incoming.draft);
            return refuse(Code::Wrong, "digest or signature is wrong");
        }
        let expires = now.seconds + self.limits.retention;
        self.changed = true;
        let number = self.shelf.fill(&slot, incoming.draft, &digest, expires)?;
        self.account(&known.owner, |owner| {
            owner.filled += 1;
            owner.used += size;
        });
        let filled = Filled { slot: SlotOctets(slot.0), number };
        self.answer(known.owner, Answer::Arrived(filled));
        Ok(self.stored(&slot, &digest, expires))
    }

    fn stored(&self, slot: &SlotId, digest: &Digest, expires: u64) -> Answer {
        Answer::Stored(SlotOctets(slot.0), digest.0, expires, self.secret.sign_stored(slot, &digest.0, expires))
    }

    fn on_list(&mut self, from: &PublicKey, after: u64) -> Result<Answer, ShelfError> {
        let mut filled = self.shelf.list(from, after, MAX_SLOTS + 1)?;
        let more = filled.len() > MAX_SLOTS;
        filled.truncate(MAX_SLOTS);
        let filled = filled.into_iter().map(|(slot, number)| Filled { slot: SlotOctets(slot.0), number });
        Ok(Answer::Listed(filled.collect(), more))
    }

    fn on_get(&mut self, from: &PublicKey, slot: SlotId, offset: u64) -> Result<(), Refusal> {
        let size = match self.shelf.slot(&slot)? {
            Some(Slot { owner, class, state: State::Filled { .. } }) if owner == *from => class.octets() as u64,
            _ => return refuse(Code::Unknown, "no such slot is filled"),
        };
        if offset >= size {
            return refuse(Code::Wrong, "the content is not so long");
        }
        let Some(session) = self.session(from) else { return Ok(()) };
        let cursor = Cursor::new(slot, offset, size);
        let many = session.gets.len();
        match session.gets.iter_mut().find(|cursor| cursor.slot() == slot) {
            Some(before) => *before = cursor,
            None if many < MAX_GETS => session.gets.push_back(cursor),
            None => return refuse(Code::Busy, "too many contents are being fetched at a time"),
        }
        Ok(())
    }

    fn on_delete(&mut self, now: Now, slot: SlotId, signature: &SignatureOctets) -> Result<Answer, Refusal> {
        let Some(known) = self.shelf.slot(&slot)? else { return refuse(Code::Unknown, "no such slot") };
        if !slot.verify_delete(&self.key, signature) {
            return refuse(Code::Wrong, "the signature is wrong");
        }
        let until = match known.state {
            State::Gone(_) => None,
            State::Filled { expires, .. } => Some(expires),
            State::Empty => Some(now.seconds + self.limits.retention),
        };
        if let Some(until) = until {
            self.abandon(&slot);
            self.changed = true;
            self.shelf.empty(&slot, until)?;
            self.account(&known.owner, |owner| {
                uncount(owner, &known);
                owner.gone += 1;
            });
        }
        Ok(Answer::Gone(SlotOctets(slot.0), self.secret.sign_gone(&slot)))
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
                Waiting::Answer(key, answer) => {
                    let answer = if holds { Some(answer) } else { taken_back(answer) };
                    if let (Some(answer), Some(session)) = (answer, self.session(&key)) {
                        session.answers.push_back(answer);
                        self.dirty.insert(key);
                    }
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
        // Who came without an invite and does not come again makes room: after a day without a slot, or the retention.
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
        let late = session.flow.deadline().is_some_and(|deadline| now.micros >= deadline);
        if late || session.answers.len() > MAX_BACKLOG {
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

/// By what an invite is kept.
fn hash(invite: &Invite) -> Digest {
    let mut digester = Digester::default();
    digester.update(b"toxmail relay invite 1\0");
    digester.update(&invite.0);
    digester.finish()
}

/// Takes a slot out of an owner's account.
fn uncount(owner: &mut Owner, slot: &Slot) {
    match slot.state {
        State::Empty => owner.slots -= 1,
        State::Filled { .. } => {
            owner.slots -= 1;
            owner.filled -= 1;
            owner.used -= slot.class.octets() as u64;
        }
        State::Gone(_) => owner.gone -= 1,
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
