//! A client of a relay on real Tox: two instances on the loopback interface, one of which knows the other.

#[path = "support/distort.rs"]
mod distort;
#[path = "support/tox_relay.rs"]
mod tox_relay;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distort::{Distorting, Mode};
use tox_relay::{ToxRelay, options};
use toxmail::agent::relay_client::{ClientEvent, ClientHandle, Opening, open};
use toxmail::config::BootstrapNode;
use toxmail::identity::tox_id::PublicKey;
use toxmail::lane::keys::{Class, LaneSeed, RelaySecret, SlotId, SlotKey};
use toxmail::relay::descriptor::{Admission, Descriptor, Invite};
use toxmail::relay::server::memory::Memory;
use toxmail::relay::server::{Limits, Server};
use toxmail::relay::session::{Command, Event};
use toxmail::tox::Tox;

/// Longer than two instances need to find each other.
const PATIENCE: Duration = Duration::from_secs(120);

/// An honest relay in a thread of its own.
struct Relay {
    descriptor: Descriptor,
    node: BootstrapNode,
    invite: Invite,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn start() -> Self {
        let limits = Limits { open: false, max_disk: 1 << 30, owner_quota: 64 << 20, max_owners: 1, retention: 86_400 };
        let secret = RelaySecret::new(&mut [5; 32]);
        let server = Server::new(Memory::default(), secret, limits).expect("in memory");
        let mut relay = ToxRelay::new(Tox::new(&options(), None).expect("an instance"), server);
        let (port, key) = relay.tox.node().expect("UDP");
        let node = BootstrapNode { host: "127.0.0.1".into(), port, key, tcp_ports: Vec::new() };
        let (descriptor, invite) = (relay.descriptor(), relay.invite([1; 16]));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut layer = Distorting::new(Mode::Honest);
            while !stopped.load(Ordering::Relaxed) {
                relay.turn(&mut layer);
            }
        });
        Self { descriptor, node, invite, stop, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A client and what it told.
struct Client {
    handle: ClientHandle,
    events: Receiver<ClientEvent>,
}

impl Client {
    fn open(relay: &Relay, admission: impl Fn(&PublicKey) -> Admission + Send + 'static) -> Self {
        let opening = Opening {
            relay: relay.descriptor,
            admission: Box::new(admission),
            savedata: None,
            options: options(),
            nodes: vec![relay.node.clone()],
            resolve: false,
            give_up: None,
        };
        let (tell, events) = channel();
        let handle = open(opening, move |event| drop(tell.send(event))).expect("a client");
        Self { handle, events }
    }

    /// Waits for the first event that `of` takes.
    fn wait<T>(&self, what: &str, of: impl Fn(ClientEvent) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"));
            if let ClientEvent::Session(Event::Note(text)) = &event {
                panic!("{text}");
            }
            if let Some(found) = of(event) {
                return found;
            }
        }
    }

    fn wait_for(&self, what: &str, of: impl Fn(&Event) -> bool) {
        self.wait(what, |event| matches!(event, ClientEvent::Session(event) if of(&event)).then_some(()));
    }
}

#[test]
fn a_visitor_puts_and_an_owner_fetches_and_removes_over_real_tox() {
    let relay = Relay::start();
    let key = relay.descriptor.key;
    let slot = move |class, number| -> SlotKey { LaneSeed::new(&mut [7; 32]).slot(&key, class, number) };
    let content: Arc<[u8]> = (0..Class::M1.octets()).map(|at| (at * at / 3) as u8).collect();
    let small: Arc<[u8]> = content[..Class::K16.octets()].into();

    let invite = relay.invite.clone();
    let owner = Client::open(&relay, move |_| Admission::Owner(Some(invite.clone())));
    let (large_id, small_id): (SlotId, SlotId) = (slot(Class::M1, 0).id(), slot(Class::K16, 0).id());
    owner.handle.send(Command::Register(vec![(large_id, Class::M1), (small_id, Class::K16)]));
    owner.wait("identity", |event| matches!(event, ClientEvent::Made(_)).then_some(()));
    owner.wait_for("session", |event| matches!(event, Event::Up(welcome) if welcome.owner));
    owner.wait_for("registration", |event| matches!(event, Event::Registered(slots) if slots.len() == 2));

    let visitor = Client::open(&relay, move |own| Admission::visitor(&slot(Class::K16, 0), &key, own));
    visitor.handle.send(Command::Put { slot: slot(Class::M1, 0), octets: content.clone() });
    visitor.handle.send(Command::Put { slot: slot(Class::K16, 0), octets: small.clone() });
    visitor.wait_for("session", |event| matches!(event, Event::Up(welcome) if !welcome.owner));
    for _ in 0..2 {
        visitor.wait_for("promise", |event| matches!(event, Event::Stored { .. }));
        owner.wait_for("word of it", |event| matches!(event, Event::Arrived(..)));
    }
    visitor.handle.close();
    visitor.wait("end", |event| matches!(event, ClientEvent::Closed(_)).then_some(()));

    owner.handle.send(Command::List);
    owner.wait_for("list", |event| matches!(event, Event::Listed(slots) if slots.len() == 2));
    owner.handle.send(Command::Get(large_id, Class::M1));
    owner.wait_for("large content", |event| *event == Event::Content(large_id, content.to_vec()));
    owner.handle.send(Command::Get(small_id, Class::K16));
    owner.wait_for("small content", |event| *event == Event::Content(small_id, small.to_vec()));
    owner.handle.send(Command::Delete(slot(Class::M1, 0)));
    owner.wait_for("removal", |event| *event == Event::Gone(large_id));
    owner.handle.send(Command::Get(large_id, Class::M1));
    owner.wait_for("refusal", |event| matches!(event, Event::Refused { slot, .. } if *slot == large_id));
}

#[test]
fn a_relay_that_cannot_be_reached_is_given_up_in_time() {
    let nobody = Tox::new(&options(), None).expect("an instance").id();
    let (tell, events) = channel();
    let relay = Descriptor { id: nobody, key: RelaySecret::new(&mut [1; 32]).public() };
    let opening = Opening {
        relay,
        admission: Box::new(|_| Admission::Owner(None)),
        savedata: None,
        options: options(),
        nodes: Vec::new(),
        resolve: false,
        give_up: Some(Duration::from_secs(1)),
    };
    let handle = open(opening, move |event| drop(tell.send(event))).expect("a client");
    let told: Vec<ClientEvent> = events.iter().collect();
    assert!(matches!(&told[..], [ClientEvent::Made(_), ClientEvent::Closed(why)] if why.contains("for 1 s")));
    // Without effect, and without harm.
    handle.send(Command::List);
    handle.close();
}
