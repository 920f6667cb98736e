//! The client's side of a session with one relay, as owner or visitor (`docs/protocol.md`, "Relays").
//!
//! What is asked of it stays until it is answered, over as many sessions as that takes: every request may be repeated. The
//! relay is not trusted: what it signs is verified against its key and against what was asked, and whatever it sends, only
//! what was asked for takes memory.
//!
//! The owner feeds [`Input`]s with [`Session::handle`], then calls [`Session::poll`], and carries out the [`Action`]s in
//! order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::flow::Flow;
use super::wire::{
    Answer, Code, Filled, Hello, MAX_PIECE, MAX_SLOTS, Message as _, Messages, Registered, Request, SlotOctets,
    VERSION, Welcome,
};
use crate::engine::transfer::{Digest, Digester};
use crate::lane::keys::{Class, RelayKey, SignatureOctets, SlotId, SlotKey};

const SECOND: u64 = 1_000_000;
/// When HELLO is said again to a relay that did not answer; doubles up to [`HELLO_MAX`].
const HELLO_AGAIN: u64 = 5 * SECOND;
const HELLO_MAX: u64 = 300 * SECOND;
/// For how long the relay may say nothing that was waited for, before the session is set up anew.
const SILENCE: u64 = 60 * SECOND;
/// In so many sessions a request may meet [`SILENCE`] or a broken protocol before it counts as refused.
const MAX_SILENT: u32 = 3;
/// So long, over all sessions, a request may be on its way before it counts as refused: 4 MiB at 1.2 KiB a second.
const MAX_SPENT: u64 = 3600 * SECOND;
/// How long a relay that broke the rules is not listened to; doubles each time up to [`CLOSED_MAX`].
const CLOSED: u64 = 60 * SECOND;
const CLOSED_MAX: u64 = 3600 * SECOND;
/// How often what the relay does wrong is worth a line, and for how long what it sends unasked is counted.
const NOTE_EVERY: u64 = 60 * SECOND;
/// The most frames in [`NOTE_EVERY`] that bring nothing.
const MAX_STRAYS: u32 = 1000;
/// The most [`Answer::Arrived`] in [`NOTE_EVERY`]: what a fast line brings of the smallest class.
const MAX_ARRIVED: u32 = 16_384;
/// The most slots in one list.
const MAX_LISTED: usize = 65_536;
/// The most contents that are given to the relay at a time; their pieces go one content after the other.
const PUTS: usize = 4;
/// The most contents, and octets of them, that are fetched at a time; one content always may.
const GETS: usize = 8;
const FETCHED: usize = 4 << 20;
/// The most requests that are on their way.
const MAX_ASKED: usize = 512;
/// How often a relay may send a content from the wrong place, or ask for one anew in a session.
const MAX_ANEW: u32 = 3;

/// What is asked of the relay.
pub enum Command {
    /// Owner: these slots may be filled. Answered by [`Event::Registered`] or [`Event::NotRegistered`], in parts; once for
    /// a slot that is asked about in the same way already.
    Register(Vec<(SlotId, Class)>),
    /// Owner: these slots may not be filled any more, and what lies in them goes. Answered by [`Event::Unregistered`] or
    /// [`Event::NotUnregistered`], in parts.
    Unregister(Vec<SlotId>),
    /// Fill the slot; the length is that of a class. Answered by [`Event::Stored`] or [`Event::Refused`]. Without effect
    /// while the slot is being filled, fetched or emptied already.
    Put {
        /// Its key.
        slot: SlotKey,
        /// The content.
        octets: Arc<[u8]>,
    },
    /// Owner: which slots are filled. Answered by [`Event::Listed`] or [`Event::NotListed`].
    List,
    /// Owner: fetch the content of a slot. Answered by [`Event::Content`] or [`Event::Refused`]. Without effect while the
    /// slot is being filled, fetched or emptied already.
    Get(SlotId, Class),
    /// Empty the slot for good; takes back a [`Command::Put`] or [`Command::Get`] of it. Answered by [`Event::Gone`] or
    /// [`Event::Refused`].
    Delete(SlotKey),
}

/// Without contents, which are long.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(slots) => f.debug_tuple("Register").field(slots).finish(),
            Self::Unregister(slots) => f.debug_tuple("Unregister").field(slots).finish(),
            Self::Put { slot, octets } => write!(f, "Put({:?}, {} octets)", slot.id(), octets.len()),
            Self::List => f.write_str("List"),
            Self::Get(slot, class) => write!(f, "Get({slot:?}, {class:?})"),
            Self::Delete(slot) => write!(f, "Delete({:?})", slot.id()),
        }
    }
}

/// What the relay has answered, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A session is up, with these limits.
    Up(Welcome),
    /// It is over. What was asked and is not answered is asked again in the next one.
    Down,
    /// These slots are registered, durably.
    Registered(Vec<SlotId>),
    /// These are no longer, durably.
    Unregistered(Vec<SlotId>),
    /// These are not registered, and why.
    NotRegistered(Vec<SlotId>, Code, String),
    /// These are registered still, and why.
    NotUnregistered(Vec<SlotId>, Code, String),
    /// The relay has signed that it has the content.
    Stored {
        /// Which slot.
        slot: SlotId,
        /// Digest of the content: that of what was put.
        digest: Digest,
        /// Until when it is kept, in seconds since the epoch.
        expiry: u64,
    },
    /// What was asked about this slot is not done, and is not asked again.
    Refused {
        /// Which slot.
        slot: SlotId,
        /// Why; [`Code::Wrong`] also where the relay's answer was forged or otherwise wrong, [`Code::Busy`] also where it
        /// gave none.
        code: Code,
        /// For people.
        text: String,
    },
    /// The slots that are filled, with their numbers, in the order in which they were: the first list of a session is
    /// complete, a later one has what came after the one before.
    Listed(Vec<(SlotId, u64)>),
    /// The relay did not say which slots are filled; it is not asked again by itself.
    NotListed,
    /// The content of a slot; nothing in it is verified but its length.
    Content(SlotId, Vec<u8>),
    /// The relay has signed that the slot is empty for good.
    Gone(SlotId),
    /// The relay says, unasked, that a slot was filled, and its number.
    Arrived(SlotId, u64),
    /// Something about the relay that the operator should know; already limited to one a minute.
    Note(String),
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// The relay came online.
    Online,
    /// Whether the way to it leads over a TCP relay of toxcore; told before [`Input::Online`] and when it changes.
    Relayed(bool),
    /// It went offline.
    Offline,
    /// A custom packet of it.
    CustomPacket(&'a [u8]),
    /// A message of it: a packet of the session.
    Packet(&'a [u8]),
    /// A packet that was to be sent was not taken, so the session has a gap. What the actions at hand have after it must not
    /// be sent either, up to the next [`Action::SendCustom`].
    SendFailed,
    /// Something is asked of the relay.
    Command(Box<Command>),
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a custom packet.
    SendCustom(Vec<u8>),
    /// Send a message of at most 1,372 octets.
    Send(Vec<u8>),
    /// Tell whoever asked.
    Tell(Event),
}

/// How long and how often something was asked.
#[derive(Debug, Default)]
struct Effort {
    /// Since when in this session.
    since: Option<u64>,
    /// Microseconds in earlier ones.
    spent: u64,
    /// Sessions in which the relay fell silent over it, or broke the protocol.
    silent: u32,
}

impl Effort {
    fn end(&mut self, now: u64, silent: bool) {
        if let Some(since) = self.since.take() {
            self.spent += now.saturating_sub(since);
            self.silent += u32::from(silent);
        }
    }

    fn is_spent(&self, now: u64) -> bool {
        let this = self.since.map_or(0, |since| now.saturating_sub(since));
        self.silent >= MAX_SILENT || self.spent + this > MAX_SPENT
    }
}

struct Put {
    key: SlotKey,
    octets: Arc<[u8]>,
    digest: Digest,
    /// Where the next piece begins, once the relay has said from where on it wants them.
    next: Option<usize>,
    sealed: bool,
    /// How often it said so in this session.
    continued: u32,
}

struct Get {
    class: Class,
    have: Vec<u8>,
    /// How often the relay sent it from the wrong place.
    anew: u32,
    /// Whether it was asked for anew, so that pieces from elsewhere may be on their way still.
    skipping: bool,
}

enum Kind {
    Put(Put),
    Get(Get),
    Delete(SlotKey),
}

/// What is asked about one slot.
struct Task {
    kind: Kind,
    /// Grows from command to command.
    order: u64,
    effort: Effort,
    /// Whether it counts for the limits of this session.
    admitted: bool,
}

/// Slots that are registered, or no longer, by one request.
struct Batch {
    register: bool,
    slots: Vec<(SlotId, Class)>,
    effort: Effort,
}

#[derive(Default)]
struct Listing {
    gathered: Vec<(SlotId, u64)>,
    effort: Effort,
    /// Whether it was asked for once more meanwhile.
    again: bool,
}

/// What is asked and not answered; it outlives sessions.
#[derive(Default)]
struct Book {
    tasks: BTreeMap<SlotId, Task>,
    batches: BTreeMap<u32, Batch>,
    list: Option<Listing>,
}

/// A request that may be sent now.
enum Step {
    Batch(u32),
    List,
    /// The first one about a slot.
    Slot(SlotId),
    Seal(SlotId),
    /// The rest of a content.
    Rest(SlotId),
}

/// What a session has to send, in its order.
struct Plan {
    steps: VecDeque<Step>,
    /// Slots to be filled and fetched when there is room for them.
    puts: VecDeque<SlotId>,
    gets: VecDeque<SlotId>,
    /// Slots being filled.
    filling: VecDeque<SlotId>,
    /// Contents being fetched, and their octets.
    fetching: (usize, usize),
    /// Requests that were sent and are not answered.
    asked: usize,
    /// When the last thing came that was waited for.
    progressed_at: u64,
    /// The number of the last slot that was listed.
    listed: u64,
}

struct Link {
    session: [u8; 8],
    flow: Flow,
    /// The last count of packets that the relay acknowledged.
    acknowledged: u64,
    plan: Plan,
    /// When it is looked next for what takes too long.
    look_at: u64,
    /// Since when what comes unasked is counted, and how much of it is borne yet.
    counted_since: u64,
    strays: u32,
    arrivals: u32,
}

enum State {
    Offline,
    Greeting {
        session: [u8; 8],
        again_at: u64,
        wait: u64,
    },
    Up(Box<Link>),
    /// Not listened to until then.
    Closed {
        until: u64,
    },
}

/// The client's side of all sessions with one relay, one after the other. Times are microseconds of any monotonic clock.
pub struct Session {
    relay: RelayKey,
    seed: [u8; 32],
    drawn: u64,
    online: bool,
    relayed: bool,
    state: State,
    book: Book,
    orders: u64,
    batches: u32,
    /// How often it broke the rules since it last kept a promise.
    violations: u32,
    noted_at: Option<u64>,
    unnoted: u32,
}

impl Book {
    /// The request of a step; none if it was taken back meanwhile.
    fn request(&self, step: &Step, listed: u64, relay: &RelayKey) -> Option<Request> {
        let octets = |slot: &SlotId| SlotOctets(slot.0);
        match step {
            Step::Batch(number) => self.batches.get(number).map(|batch| {
                let slots = batch.slots.iter();
                if batch.register {
                    let slots = slots.map(|(slot, class)| Registered { slot: slot.0, class: class.number() });
                    Request::Register(*number, slots.collect())
                } else {
                    Request::Unregister(*number, slots.map(|(slot, _)| octets(slot)).collect())
                }
            }),
            Step::List => {
                let list = self.list.as_ref()?;
                Some(Request::List(list.gathered.last().map_or(listed, |(_, number)| *number)))
            }
            Step::Slot(slot) => match self.tasks.get(slot)? {
                Task { effort: Effort { since: Some(_), .. }, .. } => None,
                Task { kind: Kind::Put(put), .. } => {
                    Some(Request::Put(octets(slot), put.octets.len() as u64, put.digest.0))
                }
                Task { kind: Kind::Get(get), .. } => Some(Request::Get(octets(slot), get.have.len() as u64)),
                Task { kind: Kind::Delete(key), .. } => Some(Request::Delete(octets(slot), key.sign_delete(relay))),
            },
            Step::Seal(slot) => match &self.tasks.get(slot)?.kind {
                Kind::Put(put) if !put.sealed && put.next == Some(put.octets.len()) => {
                    let signature = put.key.sign_put(relay, &put.digest.0, put.octets.len() as u64);
                    Some(Request::Seal(octets(slot), signature))
                }
                _ => None,
            },
            Step::Rest(slot) => match &self.tasks.get(slot)?.kind {
                Kind::Get(get) if get.skipping => Some(Request::Get(octets(slot), get.have.len() as u64)),
                _ => None,
            },
        }
    }

    fn effort(&mut self, step: &Step) -> Option<&mut Effort> {
        match step {
            Step::Batch(number) => self.batches.get_mut(number).map(|batch| &mut batch.effort),
            Step::List => self.list.as_mut().map(|list| &mut list.effort),
            Step::Slot(slot) => self.tasks.get_mut(slot).map(|task| &mut task.effort),
            Step::Seal(_) | Step::Rest(_) => None,
        }
    }

    fn efforts(&mut self) -> impl Iterator<Item = &mut Effort> {
        let tasks = self.tasks.values_mut().map(|task| &mut task.effort);
        let batches = self.batches.values_mut().map(|batch| &mut batch.effort);
        tasks.chain(batches).chain(self.list.iter_mut().map(|list| &mut list.effort))
    }

    /// The slot that is being filled.
    fn put(&mut self, slot: &SlotId) -> Option<&mut Put> {
        match self.tasks.get_mut(slot) {
            Some(Task { kind: Kind::Put(put), effort: Effort { since: Some(_), .. }, .. }) => Some(put),
            _ => None,
        }
    }

    /// The slot that is being fetched.
    fn get(&mut self, slot: &SlotId) -> Option<&mut Get> {
        match self.tasks.get_mut(slot) {
            Some(Task { kind: Kind::Get(get), effort: Effort { since: Some(_), .. }, .. }) => Some(get),
            _ => None,
        }
    }

    fn is_being_deleted(&self, slot: &SlotId) -> bool {
        matches!(self.tasks.get(slot), Some(Task { kind: Kind::Delete(_), .. }))
    }

    fn is_asked(&self, slot: &SlotId) -> bool {
        self.tasks.get(slot).is_some_and(|task| task.effort.since.is_some())
    }
}

impl Plan {
    /// Everything that is not answered, anew.
    fn new(now: u64, book: &Book) -> Self {
        let mut steps: VecDeque<Step> = book.batches.keys().map(|number| Step::Batch(*number)).collect();
        steps.extend(book.list.iter().map(|_| Step::List));
        let mut plan = Self {
            steps,
            puts: VecDeque::new(),
            gets: VecDeque::new(),
            filling: VecDeque::new(),
            fetching: (0, 0),
            asked: 0,
            progressed_at: now,
            listed: 0,
        };
        let mut tasks: Vec<(&SlotId, &Task)> = book.tasks.iter().collect();
        tasks.sort_unstable_by_key(|(_, task)| task.order);
        tasks.into_iter().for_each(|(slot, task)| plan.add(*slot, &task.kind));
        plan
    }

    fn add(&mut self, slot: SlotId, kind: &Kind) {
        match kind {
            Kind::Put(_) => self.puts.push_back(slot),
            Kind::Get(_) => self.gets.push_back(slot),
            Kind::Delete(_) => self.steps.push_back(Step::Slot(slot)),
        }
    }

    /// Begins with what there is room for.
    fn admit(&mut self, book: &mut Book) {
        while self.filling.len() < PUTS
            && let Some(slot) = self.puts.pop_front()
        {
            if let Some(task @ Task { kind: Kind::Put(_), admitted: false, .. }) = book.tasks.get_mut(&slot) {
                task.admitted = true;
                self.filling.push_back(slot);
                self.steps.push_back(Step::Slot(slot));
            }
        }
        while let Some(slot) = self.gets.front().copied() {
            if let Some(Task { kind: Kind::Get(get), admitted: admitted @ false, .. }) = book.tasks.get_mut(&slot) {
                let octets = get.class.octets();
                let (many, all) = self.fetching;
                if many == GETS || many > 0 && all + octets > FETCHED {
                    break;
                }
                *admitted = true;
                self.fetching = (many + 1, all + octets);
                self.steps.push_back(Step::Slot(slot));
            }
            self.gets.pop_front();
        }
    }

    /// Appends to a packet what may be sent now and fits.
    fn fill(&mut self, now: u64, book: &mut Book, relay: &RelayKey, packet: &mut Vec<u8>) {
        self.admit(book);
        while let Some(step) = self.steps.front() {
            if self.asked >= MAX_ASKED {
                break;
            }
            if let Some(request) = book.request(step, self.listed, relay) {
                if !request.append(packet) {
                    return;
                }
                if let Some(effort) = book.effort(step)
                    && effort.since.is_none()
                {
                    effort.since = Some(now);
                    if self.asked == 0 {
                        self.progressed_at = now;
                    }
                    self.asked += 1;
                }
                if let Step::Seal(slot) = step
                    && let Some(put) = book.put(slot)
                {
                    put.sealed = true;
                }
            }
            self.steps.pop_front();
        }
        for slot in &self.filling {
            let Some(put) = book.put(slot) else { continue };
            let Some(next) = put.next.filter(|next| *next < put.octets.len()) else { continue };
            let end = put.octets.len().min(next + MAX_PIECE);
            if Request::Piece(SlotOctets(slot.0), next as u64, put.octets[next..end].to_vec()).append(packet) {
                put.next = Some(end);
                if end == put.octets.len() {
                    self.steps.push_back(Step::Seal(*slot));
                }
            }
            return;
        }
    }

    /// Something asked is answered or taken back.
    fn settle(&mut self, slot: &SlotId, task: &Task) {
        if task.admitted {
            match &task.kind {
                Kind::Put(_) => self.filling.retain(|other| other != slot),
                Kind::Get(get) => {
                    self.fetching = (self.fetching.0 - 1, self.fetching.1 - get.class.octets());
                }
                Kind::Delete(_) => {}
            }
        }
        self.answered(&task.effort);
    }

    fn answered(&mut self, effort: &Effort) {
        self.asked -= usize::from(effort.since.is_some());
    }
}

impl Session {
    /// With the relay that has this key; `seed` is secret and random.
    pub fn new(relay: RelayKey, seed: [u8; 32]) -> Self {
        Self {
            relay,
            seed,
            drawn: 0,
            online: false,
            relayed: false,
            state: State::Offline,
            book: Book::default(),
            orders: 0,
            batches: 0,
            violations: 0,
            noted_at: None,
            unnoted: 0,
        }
    }

    /// Whether a session is up.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether anything that was sent is not answered or acknowledged yet.
    pub fn is_busy(&self) -> bool {
        matches!(&self.state, State::Up(link) if link.plan.asked > 0 || link.flow.is_busy())
    }

    /// Whether anything that was asked is not answered yet, sent or not.
    pub fn is_waiting(&self) -> bool {
        !self.book.tasks.is_empty() || !self.book.batches.is_empty() || self.book.list.is_some()
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: u64, input: Input<'_>, out: &mut Vec<Action>) {
        match input {
            Input::Online => {
                self.online = true;
                if matches!(self.state, State::Offline) {
                    self.greet(now, out);
                }
            }
            Input::Relayed(relayed) => self.relayed = relayed,
            Input::Offline => {
                self.online = false;
                self.leave(now, false, out);
                // A relay that was cut off stays so: going offline is no way to be heard sooner.
                if !matches!(self.state, State::Closed { .. }) {
                    self.state = State::Offline;
                }
            }
            Input::CustomPacket(packet) => match Welcome::from_packet(packet) {
                None => {}
                Some(Ok(welcome)) => self.on_welcome(now, welcome, out),
                Some(Err(error)) => match self.state {
                    State::Offline | State::Closed { .. } => {}
                    State::Greeting { .. } | State::Up(_) => self.close(now, &error.to_string(), out),
                },
            },
            Input::Packet(packet) => self.on_packet(now, packet, out),
            Input::SendFailed => {
                if self.is_up() {
                    self.leave(now, false, out);
                    self.greet(now, out);
                }
            }
            Input::Command(command) => self.on_command(*command, out),
        }
    }

    /// Sends what may be sent now and looks after what is late. To be called after inputs and at the deadline.
    pub fn poll(&mut self, now: u64, out: &mut Vec<Action>) {
        self.look_after(now, out);
        let State::Up(link) = &mut self.state else { return };
        let (Link { flow, plan, .. }, book, relay) = (&mut **link, &mut self.book, &self.relay);
        while let Some(packet) = flow.next(now, self.relayed, |packet| plan.fill(now, book, relay, packet)) {
            out.push(Action::Send(packet));
        }
    }

    /// When [`Session::poll`] has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        match &self.state {
            State::Offline => None,
            State::Greeting { again_at, .. } => Some(*again_at),
            State::Closed { until } => Some(*until),
            State::Up(link) => {
                let answer = (link.plan.asked > 0).then(|| link.look_at.min(link.plan.progressed_at + SILENCE));
                link.flow.deadline().into_iter().chain(answer).min()
            }
        }
    }

    fn look_after(&mut self, now: u64, out: &mut Vec<Action>) {
        match &mut self.state {
            State::Offline => {}
            State::Greeting { session, again_at, wait } => {
                if now >= *again_at {
                    *wait = (*wait * 2).min(HELLO_MAX);
                    *again_at = now + *wait;
                    out.push(Action::SendCustom(hello(*session)));
                }
            }
            State::Closed { until } => {
                if now >= *until {
                    self.state = State::Offline;
                    if self.online {
                        self.greet(now, out);
                    }
                }
            }
            State::Up(link) => {
                let unanswered = link.plan.asked > 0 && now >= link.plan.progressed_at + SILENCE;
                let look = now >= link.look_at;
                if look {
                    link.look_at = now + SILENCE;
                }
                if unanswered || link.flow.deadline().is_some_and(|at| now >= at) {
                    self.leave(now, true, out);
                    self.greet(now, out);
                    self.give_up(now, out);
                } else if look {
                    self.give_up(now, out);
                }
            }
        }
    }

    /// What takes too long counts as refused.
    fn give_up(&mut self, now: u64, out: &mut Vec<Action>) {
        const TEXT: &str = "the relay does not answer";
        let late = self.book.tasks.iter().filter(|(_, task)| task.effort.is_spent(now)).map(|(slot, _)| *slot);
        for slot in late.collect::<Vec<_>>() {
            self.refuse(now, slot, Code::Busy, TEXT, out);
        }
        let late = self.book.batches.iter().filter(|(_, batch)| batch.effort.is_spent(now)).map(|(number, _)| *number);
        for number in late.collect::<Vec<_>>() {
            let Some(batch) = self.book.batches.remove(&number) else { continue };
            if let State::Up(link) = &mut self.state {
                link.plan.answered(&batch.effort);
            }
            out.push(Action::Tell(not_done(batch, Code::Busy, TEXT.into())));
        }
        if let Some(list) = self.book.list.take_if(|list| list.effort.is_spent(now)) {
            if let State::Up(link) = &mut self.state {
                link.plan.answered(&list.effort);
            }
            self.note(now, "does not say which slots are filled".into(), out);
            out.push(Action::Tell(Event::NotListed));
        }
    }

    fn on_command(&mut self, command: Command, out: &mut Vec<Action>) {
        match command {
            Command::Register(slots) => self.batch(true, &slots),
            Command::Unregister(slots) => {
                let slots: Vec<(SlotId, Class)> = slots.into_iter().map(|slot| (slot, Class::K16)).collect();
                self.batch(false, &slots);
            }
            Command::Put { slot, octets } => {
                if !Class::ALL.iter().any(|class| class.octets() == octets.len()) {
                    let text = format!("{} octets are no class's", octets.len());
                    return out.push(Action::Tell(Event::Refused { slot: slot.id(), code: Code::Wrong, text }));
                }
                let mut digest = Digester::default();
                digest.update(&octets);
                let (id, digest) = (slot.id(), digest.finish());
                let put = Put { key: slot, octets, digest, next: None, sealed: false, continued: 0 };
                self.ask(id, Kind::Put(put));
            }
            Command::List => match &mut self.book.list {
                Some(list) => list.again |= list.effort.since.is_some(),
                None => {
                    self.book.list = Some(Listing::default());
                    self.step(Step::List);
                }
            },
            Command::Get(slot, class) => {
                let get = Get { class, have: Vec::new(), anew: 0, skipping: false };
                self.ask(slot, Kind::Get(get));
            }
            Command::Delete(slot) => {
                let id = slot.id();
                if !self.book.is_being_deleted(&id) {
                    self.take_back(&id);
                    self.ask(id, Kind::Delete(slot));
                }
            }
        }
    }

    fn step(&mut self, step: Step) {
        if let State::Up(link) = &mut self.state {
            link.plan.steps.push_back(step);
        }
    }

    /// Has slots registered, or no longer: those about which this was not the last thing asked already.
    fn batch(&mut self, register: bool, slots: &[(SlotId, Class)]) {
        let mut last = BTreeMap::new();
        for batch in self.book.batches.values() {
            last.extend(batch.slots.iter().map(|(slot, _)| (*slot, batch.register)));
        }
        let new = slots.iter().filter(|(slot, _)| last.get(slot) != Some(&register));
        let new: Vec<(SlotId, Class)> = new.copied().collect();
        new.chunks(MAX_SLOTS).for_each(|slots| self.add_batch(register, slots));
    }

    fn add_batch(&mut self, register: bool, slots: &[(SlotId, Class)]) {
        self.batches = self.batches.wrapping_add(1);
        let batch = Batch { register, slots: slots.to_vec(), effort: Effort::default() };
        self.book.batches.insert(self.batches, batch);
        self.step(Step::Batch(self.batches));
    }

    fn ask(&mut self, slot: SlotId, kind: Kind) {
        if self.book.tasks.contains_key(&slot) {
            return;
        }
        if let State::Up(link) = &mut self.state {
            link.plan.add(slot, &kind);
        }
        self.orders += 1;
        self.book.tasks.insert(slot, Task { kind, order: self.orders, effort: Effort::default(), admitted: false });
    }

    /// Asks no more about the slot.
    fn remove(&mut self, slot: &SlotId) -> Option<Task> {
        let task = self.book.tasks.remove(slot)?;
        if let State::Up(link) = &mut self.state {
            link.plan.settle(slot, &task);
        }
        Some(task)
    }

    /// The same before it is answered.
    fn take_back(&mut self, slot: &SlotId) -> bool {
        let Some(task) = self.remove(slot) else { return false };
        if let (State::Up(link), Some(_)) = (&mut self.state, task.effort.since) {
            link.strays = link.strays.saturating_add(on_its_way(&task.kind));
        }
        true
    }

    fn refuse(&mut self, now: u64, slot: SlotId, code: Code, text: &str, out: &mut Vec<Action>) {
        if self.take_back(&slot) {
            self.progress(now);
            out.push(Action::Tell(Event::Refused { slot, code, text: text.to_owned() }));
        }
    }

    /// An answer that must not be believed.
    fn forged(&mut self, now: u64, slot: SlotId, text: &str, out: &mut Vec<Action>) {
        self.note(now, format!("{text} (slot {slot})"), out);
        self.refuse(now, slot, Code::Wrong, text, out);
    }

    fn progress(&mut self, now: u64) {
        if let State::Up(link) = &mut self.state {
            link.plan.progressed_at = now;
        }
    }

    /// A frame that brings nothing.
    fn stray(&mut self, now: u64, out: &mut Vec<Action>) {
        let State::Up(link) = &mut self.state else { return };
        link.count(now);
        match link.strays.checked_sub(1) {
            Some(left) => link.strays = left,
            None => self.close(now, "sends more than it is asked for", out),
        }
    }

    /// The same, if it was about a slot.
    fn unasked(&mut self, now: u64, slot: &SlotId, what: &str, out: &mut Vec<Action>) {
        // Of a request that was taken back the answer may come yet.
        if !self.book.is_being_deleted(slot) {
            self.note(now, format!("{what} unasked (slot {slot})"), out);
        }
        self.stray(now, out);
    }

    fn note(&mut self, now: u64, text: String, out: &mut Vec<Action>) {
        if self.noted_at.is_some_and(|at| now.saturating_sub(at) < NOTE_EVERY) {
            self.unnoted += 1;
            return;
        }
        self.noted_at = Some(now);
        let more = std::mem::take(&mut self.unnoted);
        let text = if more > 0 { format!("{text} (and {more} more since the last line)") } else { text };
        out.push(Action::Tell(Event::Note(text)));
    }

    /// Begins a session: says HELLO and waits for the answer.
    fn greet(&mut self, now: u64, out: &mut Vec<Action>) {
        self.drawn += 1;
        let mut hash = Digester::default();
        hash.update(&self.seed);
        hash.update(&self.drawn.to_be_bytes());
        let mut session = [0; 8];
        session.copy_from_slice(&hash.finish().0[..8]);
        out.push(Action::SendCustom(hello(session)));
        self.state = State::Greeting { session, again_at: now + HELLO_AGAIN, wait: HELLO_AGAIN };
    }

    /// Ends a session, if one is up. `silent`: because the relay does not answer, or not by the rules.
    fn leave(&mut self, now: u64, silent: bool, out: &mut Vec<Action>) {
        if !self.is_up() {
            return;
        }
        self.state = State::Offline;
        self.book.efforts().for_each(|effort| effort.end(now, silent));
        for task in self.book.tasks.values_mut() {
            task.admitted = false;
            match &mut task.kind {
                Kind::Put(put) => (put.next, put.sealed, put.continued) = (None, false, 0),
                Kind::Get(get) => get.skipping = false,
                Kind::Delete(_) => {}
            }
        }
        if let Some(list) = &mut self.book.list {
            list.gathered.clear();
        }
        out.push(Action::Tell(Event::Down));
    }

    /// Cuts off a relay that broke the rules: it is not listened to for a while.
    fn close(&mut self, now: u64, reason: &str, out: &mut Vec<Action>) {
        self.note(now, format!("broke the protocol, session closed: {reason}"), out);
        self.leave(now, true, out);
        let wait = (CLOSED << self.violations.min(16)).min(CLOSED_MAX);
        self.violations = self.violations.saturating_add(1);
        self.state = State::Closed { until: now + wait };
        self.give_up(now, out);
    }

    fn on_welcome(&mut self, now: u64, welcome: Welcome, out: &mut Vec<Action>) {
        match &self.state {
            State::Greeting { session, .. } if *session == welcome.session => {}
            // A late one, or one more.
            State::Up(_) => return self.stray(now, out),
            _ => return,
        }
        if welcome.relay != self.relay.0 {
            return self.close(now, "has another key than it should have", out);
        }
        if welcome.version != VERSION {
            return self.close(now, &format!("speaks version {} of the protocol", welcome.version), out);
        }
        let link = Link {
            session: welcome.session,
            flow: Flow::default(),
            acknowledged: 0,
            plan: Plan::new(now, &self.book),
            look_at: now + SILENCE,
            counted_since: now,
            strays: MAX_STRAYS,
            arrivals: MAX_ARRIVED,
        };
        self.state = State::Up(Box::new(link));
        // The relay says nothing before it has heard a packet.
        let mut packet = Vec::new();
        Request::Ack(0).append(&mut packet);
        out.extend([Action::Tell(Event::Up(welcome)), Action::Send(packet)]);
    }

    fn on_packet(&mut self, now: u64, packet: &[u8], out: &mut Vec<Action>) {
        let State::Up(link) = &self.state else { return };
        let session = link.session;
        let mut counts = false;
        for answer in Messages::<Answer>::new(packet) {
            match answer {
                Err(error) => return self.close(now, &error.to_string(), out),
                Ok(Some(Answer::Ack(total))) => self.on_ack(now, total, out),
                Ok(Some(answer)) => {
                    counts = true;
                    self.on_answer(now, answer, out);
                }
                // Of a later version.
                Ok(None) => {
                    counts = true;
                    self.stray(now, out);
                }
            }
            if !matches!(&self.state, State::Up(link) if link.session == session) {
                return;
            }
        }
        if let (State::Up(link), true) = (&mut self.state, counts) {
            link.flow.on_packet();
        }
    }

    fn on_ack(&mut self, now: u64, total: u64, out: &mut Vec<Action>) {
        let State::Up(link) = &mut self.state else { return };
        if let Err(violation) = link.flow.on_ack(now, total) {
            self.close(now, violation, out);
        } else if total > link.acknowledged {
            link.acknowledged = total;
            link.plan.progressed_at = now;
        } else {
            self.stray(now, out);
        }
    }

    fn on_answer(&mut self, now: u64, answer: Answer, out: &mut Vec<Action>) {
        match answer {
            Answer::Ack(_) => {}
            Answer::Done(number) => self.on_batch(now, number, None, out),
            Answer::Failed(number, code, text) => {
                self.on_batch(now, number, Some((Code::from_number(code), text)), out);
            }
            Answer::Continue(slot, offset) => self.on_continue(now, SlotId(slot.0), offset, out),
            Answer::Stored(slot, digest, expiry, signature) => {
                self.on_stored(now, SlotId(slot.0), Digest(digest), expiry, &signature, out);
            }
            Answer::Refused(slot, code, text) => {
                let slot = SlotId(slot.0);
                if self.book.is_asked(&slot) {
                    self.refuse(now, slot, Code::from_number(code), &text, out);
                } else {
                    self.unasked(now, &slot, "refuses", out);
                }
            }
            Answer::Listed(filled, more) => self.on_listed(now, &filled, more, out),
            Answer::Piece(slot, offset, octets) => self.on_piece(now, SlotId(slot.0), offset, &octets, out),
            Answer::Gone(slot, signature) => {
                let slot = SlotId(slot.0);
                if !self.book.is_being_deleted(&slot) || !self.book.is_asked(&slot) {
                    self.unasked(now, &slot, "says that it removed something", out);
                } else if self.relay.verify_gone(&slot, &signature) {
                    self.remove(&slot);
                    self.violations = 0;
                    self.progress(now);
                    out.push(Action::Tell(Event::Gone(slot)));
                } else {
                    self.forged(now, slot, "says without its signature that it removed something", out);
                }
            }
            Answer::Arrived(Filled { slot, number }) => {
                let State::Up(link) = &mut self.state else { return };
                link.count(now);
                match link.arrivals.checked_sub(1) {
                    Some(left) => {
                        link.arrivals = left;
                        out.push(Action::Tell(Event::Arrived(SlotId(slot.0), number)));
                    }
                    None => self.close(now, "says too often that something arrived", out),
                }
            }
        }
    }

    fn on_batch(&mut self, now: u64, number: u32, failed: Option<(Code, String)>, out: &mut Vec<Action>) {
        let State::Up(link) = &mut self.state else { return };
        if self.book.batches.get(&number).is_none_or(|batch| batch.effort.since.is_none()) {
            return self.stray(now, out);
        }
        let Some(batch) = self.book.batches.remove(&number) else { return };
        link.plan.answered(&batch.effort);
        self.progress(now);
        // All are refused for one that is somebody else's: halves tell which.
        if let Some((Code::Taken, _)) = failed
            && batch.slots.len() > 1
        {
            let (front, back) = batch.slots.split_at(batch.slots.len() / 2);
            return [front, back].into_iter().for_each(|slots| self.add_batch(batch.register, slots));
        }
        out.push(Action::Tell(match failed {
            Some((code, text)) => not_done(batch, code, text),
            None if batch.register => Event::Registered(names(batch)),
            None => Event::Unregistered(names(batch)),
        }));
    }

    fn on_continue(&mut self, now: u64, slot: SlotId, offset: u64, out: &mut Vec<Action>) {
        let Some(put) = self.book.put(&slot) else { return self.unasked(now, &slot, "asks for a content", out) };
        let length = put.octets.len();
        let Some(offset) = usize::try_from(offset).ok().filter(|offset| *offset <= length) else {
            return self.forged(now, slot, "asks for more of a content than there is", out);
        };
        put.continued += 1;
        if put.continued > MAX_ANEW {
            return self.forged(now, slot, "asks for the same content again and again", out);
        }
        (put.next, put.sealed) = (Some(offset), false);
        self.progress(now);
        if offset == length {
            self.step(Step::Seal(slot));
        }
    }

    fn on_stored(
        &mut self,
        now: u64,
        slot: SlotId,
        digest: Digest,
        expiry: u64,
        signature: &SignatureOctets,
        out: &mut Vec<Action>,
    ) {
        let Some(put) = self.book.put(&slot) else { return self.unasked(now, &slot, "stores something", out) };
        if put.digest != digest {
            self.forged(now, slot, "stores something else than it was given", out);
        } else if !self.relay.verify_stored(&slot, &digest.0, expiry, signature) {
            self.forged(now, slot, "says without its signature that it stored something", out);
        } else {
            self.remove(&slot);
            self.violations = 0;
            self.progress(now);
            out.push(Action::Tell(Event::Stored { slot, digest, expiry }));
        }
    }

    fn on_listed(&mut self, now: u64, filled: &[Filled], more: bool, out: &mut Vec<Action>) {
        let State::Up(link) = &mut self.state else { return };
        let Some(list) = self.book.list.as_mut().filter(|list| list.effort.since.is_some()) else {
            return self.stray(now, out);
        };
        let mut last = list.gathered.last().map_or(link.plan.listed, |(_, number)| *number);
        for Filled { slot, number } in filled {
            if *number <= last || list.gathered.len() == MAX_LISTED {
                return self.close(now, "lists slots out of order, or too many", out);
            }
            last = *number;
            list.gathered.push((SlotId(slot.0), *number));
        }
        if more && filled.is_empty() {
            return self.close(now, "lists nothing, and more to come", out);
        }
        link.plan.progressed_at = now;
        if more {
            return link.plan.steps.push_back(Step::List);
        }
        link.plan.listed = last;
        link.plan.answered(&list.effort);
        let again = list.again;
        let gathered = std::mem::take(&mut list.gathered);
        self.book.list = again.then(Listing::default);
        if again {
            self.step(Step::List);
        }
        out.push(Action::Tell(Event::Listed(gathered)));
    }

    fn on_piece(&mut self, now: u64, slot: SlotId, offset: u64, octets: &[u8], out: &mut Vec<Action>) {
        let Some(get) = self.book.get(&slot) else { return self.unasked(now, &slot, "sends a content", out) };
        let length = get.class.octets();
        if offset == get.have.len() as u64 && !octets.is_empty() {
            if octets.len() > length - get.have.len() {
                return self.forged(now, slot, "sends more of a content than there is", out);
            }
            get.skipping = false;
            get.have.extend_from_slice(octets);
            let whole = (get.have.len() == length).then(|| std::mem::take(&mut get.have));
            self.progress(now);
            if let Some(content) = whole {
                self.remove(&slot);
                self.violations = 0;
                out.push(Action::Tell(Event::Content(slot, content)));
            }
        } else if get.skipping {
            self.stray(now, out);
        } else if get.anew == MAX_ANEW {
            self.forged(now, slot, "sends a content from the wrong place", out);
        } else {
            get.anew += 1;
            get.skipping = true;
            let State::Up(link) = &mut self.state else { return };
            link.strays = link.strays.saturating_add(pieces(length));
            link.plan.steps.push_back(Step::Rest(slot));
        }
    }
}

impl Link {
    /// Begins to count anew when it is time.
    fn count(&mut self, now: u64) {
        if now.saturating_sub(self.counted_since) >= NOTE_EVERY {
            self.counted_since = now;
            self.strays = self.strays.max(MAX_STRAYS);
            self.arrivals = MAX_ARRIVED;
        }
    }
}

fn hello(session: [u8; 8]) -> Vec<u8> {
    Hello { versions: vec![VERSION], session }.to_packet()
}

fn names(batch: Batch) -> Vec<SlotId> {
    batch.slots.into_iter().map(|(slot, _)| slot).collect()
}

fn not_done(batch: Batch, code: Code, text: String) -> Event {
    if batch.register {
        Event::NotRegistered(names(batch), code, text)
    } else {
        Event::NotUnregistered(names(batch), code, text)
    }
}

fn pieces(octets: usize) -> u32 {
    u32::try_from(octets.div_ceil(MAX_PIECE)).unwrap_or(u32::MAX)
}

/// How many frames may come yet about something that is not asked any more.
fn on_its_way(kind: &Kind) -> u32 {
    match kind {
        Kind::Get(get) => pieces(get.class.octets() - get.have.len()),
        Kind::Put(_) | Kind::Delete(_) => 1,
    }
}

#[cfg(test)]
mod tests;
