//! A relay and its clients without a network: what one says, the other hears in the same turn.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toxmail::engine::transfer::{Digest, Digester};
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, LaneSeed, RelayKey, RelaySecret, SlotId, SlotKey};
use toxmail::relay::descriptor::{Admission, Invite};
use toxmail::relay::server::memory::Memory;
use toxmail::relay::server::shelf::{Draft, Owner, Shelf, ShelfError, Slot, State};
use toxmail::relay::server::{Action, Input, Limits, Now, Server};
use toxmail::relay::wire::{
    Answer, Hello, MAX_PIECE, Message as _, Messages, Registered, Request, SlotOctets, Welcome,
};

/// Octets of the smallest class.
pub const SIZE: u64 = 16 << 10;
pub const DAY: u64 = 86_400;

/// The relay's secret, always the same.
pub fn secret() -> RelaySecret {
    RelaySecret::new(&mut [5; 32])
}

/// Room for six contents, four of one owner.
pub fn limits() -> Limits {
    Limits { open: false, max_disk: 6 * SIZE, owner_quota: 4 * SIZE, max_owners: 2, retention: 30 * DAY }
}

pub fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

/// The key of a slot of the owner with this number.
pub fn slot(owner: u8, number: u64) -> SlotKey {
    LaneSeed::new(&mut [owner; 32]).slot(&secret().public(), Class::K16, number)
}

pub fn digest(octets: &[u8]) -> Digest {
    let mut digester = Digester::default();
    digester.update(octets);
    digester.finish()
}

pub fn octets(slot: &SlotKey) -> SlotOctets {
    SlotOctets(slot.id().0)
}

#[derive(Default)]
struct Client {
    session: u8,
    /// Counting packets of the relay that came in this session.
    received: u64,
}

/// A relay, its friends, and what they hear.
pub struct World<S> {
    pub server: Server<S>,
    pub now: Now,
    pub friends: BTreeSet<PublicKey>,
    pub welcome: Option<Welcome>,
    clients: BTreeMap<PublicKey, Client>,
    /// What was said to whom since it was last taken.
    heard: Vec<(PublicKey, Answer)>,
}

impl<S: Shelf> World<S> {
    pub fn new(shelf: S) -> Self {
        Self {
            server: Server::new(shelf, secret(), limits()).expect("a relay"),
            now: Now { micros: 1, seconds: 1_000_000_000 },
            friends: BTreeSet::new(),
            welcome: None,
            clients: BTreeMap::new(),
            heard: Vec::new(),
        }
    }

    pub fn relay(&self) -> RelayKey {
        self.server.key()
    }

    /// Begins anew with what is on the shelf; all sessions are over.
    pub fn restart(self, again: impl FnOnce(S) -> S) -> Self {
        let Self { server, now, friends, .. } = self;
        let mut world = Self { now, ..Self::new(again(server.into_shelf())) };
        world.friends = friends.into_iter().filter(|key| world.server.is_client(key)).collect();
        world
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now.micros += seconds * 1_000_000;
        self.now.seconds += seconds;
        self.poll().expect("swept");
    }

    pub fn handle(&mut self, input: Input<'_>) {
        let mut actions = Vec::new();
        self.now.micros += 1;
        self.server.handle(self.now, input, &mut actions);
        self.act(actions);
    }

    pub fn poll(&mut self) -> Result<()> {
        let mut actions = Vec::new();
        let result = self.server.poll(self.now, &mut actions);
        self.act(actions);
        result
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Admit(key) => {
                    self.friends.insert(key);
                }
                Action::Dismiss(key) => {
                    self.friends.remove(&key);
                }
                Action::SendCustom { packet, .. } => {
                    self.welcome = Some(Welcome::from_packet(&packet).expect("a welcome").expect("well formed"));
                }
                Action::Send { client, packet } => {
                    let answers: Vec<Answer> = Messages::<Answer>::new(&packet)
                        .map(|answer| answer.expect("well formed").expect("known"))
                        .collect();
                    let counts = answers.iter().any(|answer| answer.acknowledged().is_none());
                    self.clients.entry(client).or_default().received += u64::from(counts);
                    let answers = answers.into_iter().filter(|answer| answer.acknowledged().is_none());
                    self.heard.extend(answers.map(|answer| (client, answer)));
                }
                Action::Note(_) => {}
            }
        }
    }

    pub fn ask(&mut self, key: PublicKey, admission: &Admission) -> bool {
        self.handle(Input::Asked(key, admission.to_string().as_bytes()));
        self.poll().expect("admitted or not");
        self.friends.contains(&key)
    }

    /// Makes somebody an owner.
    pub fn owner(&mut self, key: PublicKey, quota: Option<u64>) {
        let invite = Invite([key.0[0]; 16]);
        self.server.invite(self.now, &invite, quota).expect("an invite");
        assert!(self.ask(key, &Admission::Owner(Some(invite))), "the invite is good");
        self.greet(key);
    }

    /// Makes somebody a visitor for a slot.
    pub fn visitor(&mut self, key: PublicKey, slot: &SlotKey) {
        let admission = Admission::visitor(slot, &self.relay(), &key);
        assert!(self.ask(key, &admission), "the slot vouches");
        self.greet(key);
    }

    /// Begins a session.
    pub fn greet(&mut self, client: PublicKey) {
        let session = self.clients.get(&client).map_or(1, |client| client.session.wrapping_add(1));
        self.clients.insert(client, Client { session, received: 0 });
        self.handle(Input::Online { client, tcp: false });
        let hello = Hello { versions: vec![1], session: [session; 8] };
        self.handle(Input::CustomPacket(client, &hello.to_packet()));
    }

    /// Says something; what the client hears then, until there is nothing more.
    pub fn say(&mut self, client: PublicKey, requests: &[Request]) -> Vec<Answer> {
        self.say_to(client, requests).expect("the shelf holds");
        self.take(client)
    }

    pub fn say_to(&mut self, client: PublicKey, requests: &[Request]) -> Result<()> {
        let mut packet = Vec::new();
        for request in requests {
            if !request.append(&mut packet) {
                self.handle(Input::Packet(client, &packet));
                packet.clear();
                assert!(request.append(&mut packet));
            }
        }
        if !packet.is_empty() {
            self.handle(Input::Packet(client, &packet));
        }
        let result = self.poll();
        self.acknowledge();
        result
    }

    /// Has the clients acknowledge until nobody hears anything more.
    pub fn acknowledge(&mut self) {
        loop {
            let before = self.heard.len();
            let acks: Vec<(PublicKey, u64)> =
                self.clients.iter().map(|(key, client)| (*key, client.received)).collect();
            for (key, count) in acks.into_iter().filter(|(_, count)| *count > 0) {
                let mut packet = Vec::new();
                assert!(Request::Ack(count).append(&mut packet));
                self.now.micros += 1000;
                self.handle(Input::Packet(key, &packet));
            }
            self.poll().expect("nothing was changed");
            if self.heard.len() == before {
                break;
            }
        }
    }

    /// What a client has heard.
    pub fn take(&mut self, client: PublicKey) -> Vec<Answer> {
        let (his, others) = std::mem::take(&mut self.heard).into_iter().partition(|(key, _)| *key == client);
        self.heard = others;
        his.into_iter().map(|(_, answer): (PublicKey, Answer)| answer).collect()
    }

    /// All that was heard.
    pub fn take_all(&mut self) -> Vec<(PublicKey, Answer)> {
        std::mem::take(&mut self.heard)
    }

    pub fn register(&mut self, owner: PublicKey, slots: &[&SlotKey]) -> Vec<Answer> {
        let slots = slots.iter().map(|slot| Registered { slot: slot.id().0, class: Class::K16.number() }).collect();
        self.say(owner, &[Request::Register(7, slots)])
    }

    /// The requests that fill a slot.
    pub fn fill(&self, slot: &SlotKey, content: &[u8]) -> Vec<Request> {
        let mut requests = vec![Request::Put(octets(slot), content.len() as u64, digest(content).0)];
        for (number, piece) in content.chunks(MAX_PIECE).enumerate() {
            requests.push(Request::Piece(octets(slot), (number * MAX_PIECE) as u64, piece.to_vec()));
        }
        requests.push(self.seal(slot, content));
        requests
    }

    pub fn seal(&self, slot: &SlotKey, content: &[u8]) -> Request {
        let signature = slot.sign_put(&self.relay(), &digest(content).0, content.len() as u64);
        Request::Seal(octets(slot), signature)
    }

    /// Fills a slot; the last answer.
    pub fn put(&mut self, client: PublicKey, slot: &SlotKey, content: &[u8]) -> Answer {
        let requests = self.fill(slot, content);
        self.say(client, &requests).pop().expect("an answer")
    }

    pub fn delete(&mut self, client: PublicKey, slot: &SlotKey) -> Answer {
        let request = Request::Delete(octets(slot), slot.sign_delete(&self.relay()));
        self.say(client, &[request]).pop().expect("an answer")
    }

    pub fn state(&mut self, slot: &SlotId) -> Option<State> {
        self.server.shelf_mut().slot(slot).expect("read").map(|slot| slot.state)
    }

    /// The content of a slot, as its owner fetches it.
    pub fn fetch(&mut self, owner: PublicKey, slot: &SlotKey) -> Vec<u8> {
        self.take(owner);
        let mut content = Vec::new();
        for answer in self.say(owner, &[Request::Get(octets(slot), 0)]) {
            match answer {
                Answer::Piece(of, offset, piece) => {
                    assert_eq!((of, offset), (octets(slot), content.len() as u64), "in order");
                    content.extend(piece);
                }
                other => panic!("{other:?}"),
            }
        }
        content
    }
}

/// A content of the smallest class.
pub fn content(of: u8) -> Vec<u8> {
    (0..SIZE).map(|at| (at as u8).wrapping_mul(31) ^ of).collect()
}

/// A shelf that fails on demand.
pub struct Breaking<S> {
    pub shelf: S,
    /// Whether commits fail.
    pub broken: bool,
    /// Whether no content can be begun.
    pub full: bool,
}

/// Passes on what the shelf does.
macro_rules! pass_on {
    ($(fn $name:ident(&mut self $(, $argument:ident: $kind:ty)*) -> $result:ty;)+) => { $(
        fn $name(&mut self $(, $argument: $kind)*) -> $result {
            self.shelf.$name($($argument),*)
        }
    )+ };
}

type Result<T> = std::result::Result<T, ShelfError>;

impl<S: Shelf> Shelf for Breaking<S> {
    pass_on! {
        fn owners(&mut self) -> Result<Vec<Owner>>;
        fn add_owner(&mut self, owner: &Owner) -> Result<()>;
        fn see_owner(&mut self, key: &PublicKey, seen: u64) -> Result<()>;
        fn remove_owner(&mut self, key: &PublicKey) -> Result<()>;
        fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()>;
        fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>>;
        fn invites(&mut self, now: u64) -> Result<u64>;
        fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>>;
        fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()>;
        fn forget(&mut self, slot: &SlotId) -> Result<()>;
        fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()>;
        fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64>;
        fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()>;
        fn abandon(&mut self, draft: Draft) -> ();
        fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64>;
        fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>>;
        fn read(&mut self, slot: &SlotId, offset: u64, length: usize) -> Result<Option<Vec<u8>>>;
        fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>>;
        fn roll_back(&mut self) -> ();
    }

    fn begin(&mut self) -> Result<Draft> {
        if self.full {
            return Err(ShelfError("full".into()));
        }
        self.shelf.begin()
    }

    fn commit(&mut self) -> Result<()> {
        if self.broken {
            self.shelf.roll_back();
            return Err(ShelfError("broken".into()));
        }
        self.shelf.commit()
    }
}

pub fn in_memory() -> World<Breaking<Memory>> {
    World::new(Breaking { shelf: Memory::default(), broken: false, full: false })
}

pub fn crashed(mut shelf: Breaking<Memory>) -> Breaking<Memory> {
    shelf.shelf.crash();
    shelf
}

pub type Disk = Breaking<toxmail::slots::Shelf>;

pub fn on_disk(folder: &Path) -> World<Disk> {
    World::new(open(folder))
}

pub fn open(folder: &Path) -> Disk {
    Breaking { shelf: toxmail::slots::Shelf::open(folder).expect("a shelf"), broken: false, full: false }
}

pub fn reopened(shelf: Disk, folder: &Path) -> Disk {
    drop(shelf);
    open(folder)
}
