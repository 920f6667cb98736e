//! A relay on real Tox for tests: the production engine over a shelf of the test's choice, with a place for a layer that
//! distorts what it says.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::eventfd::EventFd;
use toxmail::identity::tox_id::PublicKey;
use toxmail::relay::descriptor::{Descriptor, Invite};
use toxmail::relay::server::shelf::Shelf;
use toxmail::relay::server::{Action, Input, Now, Server};
use toxmail::tox::{Connection, Event, FriendNumber, Options, Tox};

use crate::distort::Layer;

/// Loopback only, by UDP.
pub fn options() -> Options {
    Options { udp: true, ipv6: false, lan_discovery: false, port_range: (20000, 32000), tcp_relay_port: 0, proxy: None }
}

/// The relay.
pub struct ToxRelay<S> {
    /// Its instance.
    pub tox: Tox,
    /// Its engine.
    pub server: Server<S>,
    /// The least time between two packets that it sends.
    pub pace: Duration,
    friends: BTreeMap<PublicKey, FriendNumber>,
    waiting: VecDeque<(PublicKey, bool, Vec<u8>)>,
    sent: Instant,
    started: Instant,
    waker: EventFd,
}

impl<S: Shelf> ToxRelay<S> {
    /// On an instance of its own.
    pub fn new(tox: Tox, server: Server<S>) -> Self {
        let now = Instant::now();
        let waker = EventFd::new().expect("an eventfd");
        let (friends, waiting) = (BTreeMap::new(), VecDeque::new());
        Self { tox, server, pace: Duration::ZERO, friends, waiting, sent: now, started: now, waker }
    }

    /// How it is told to others.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { id: self.tox.id(), key: self.server.key() }
    }

    /// An invite, on the shelf.
    pub fn invite(&mut self, octets: [u8; 16]) -> Invite {
        let invite = Invite(octets);
        self.server.invite(self.now(), &invite, None).expect("an invite");
        self.server.poll(self.now(), &mut Vec::new()).expect("a shelf that works");
        invite
    }

    fn now(&self) -> Now {
        let micros = u64::try_from(self.started.elapsed().as_micros()).expect("not so long") + 1;
        let seconds = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        Now { micros, seconds }
    }

    /// One turn of its loop, 20 ms at most.
    pub fn turn(&mut self, layer: &mut dyn Layer) {
        let wait = self.tox.interval().min(20);
        self.tox.wait(self.waker.as_fd(), u16::try_from(wait).expect("20 at most"));
        let mut events = Vec::new();
        self.tox.iterate(&mut events);
        let mut actions = Vec::new();
        for event in events {
            self.on_event(event, layer, &mut actions);
        }
        if let Err(error) = self.server.poll(self.now(), &mut actions) {
            eprintln!("the shelf failed: {error}");
        }
        for action in actions {
            self.carry_out(action, layer);
        }
        while self.sent.elapsed() >= self.pace {
            let Some((client, custom, packet)) = self.waiting.pop_front() else { break };
            self.sent = Instant::now();
            let Some(number) = self.friends.get(&client) else { continue };
            let sent = match custom {
                true => self.tox.send_packet(*number, &packet),
                false => self.tox.send_message(*number, &packet),
            };
            if sent.is_err() {
                self.server.handle(self.now(), Input::SendFailed(client), &mut Vec::new());
            }
        }
    }

    fn on_event(&mut self, event: Event, layer: &mut dyn Layer, actions: &mut Vec<Action>) {
        let now = self.now();
        let client =
            |number: FriendNumber| self.friends.iter().find(|(_, known)| **known == number).map(|(client, _)| *client);
        match event {
            Event::SelfConnection(_) => {}
            Event::FriendRequest(key, text) => self.server.handle(now, Input::Asked(key, &text), actions),
            Event::FriendConnection(number, connection) => {
                let Some(client) = client(number) else { return };
                let input = match connection {
                    Connection::Offline => Input::Offline(client),
                    connection => Input::Online { client, tcp: connection == Connection::Tcp },
                };
                self.server.handle(now, input, actions);
            }
            Event::FriendMessage(number, packet) => {
                let Some(client) = client(number) else { return };
                let packet = layer.incoming(client, packet);
                self.server.handle(now, Input::Packet(client, &packet), actions);
            }
            Event::FriendPacket(number, packet) => {
                let Some(client) = client(number) else { return };
                self.server.handle(now, Input::CustomPacket(client, &packet), actions);
            }
        }
    }

    fn carry_out(&mut self, action: Action, layer: &mut dyn Layer) {
        match action {
            Action::Admit(key) => {
                if !self.friends.contains_key(&key) {
                    let number = self.tox.add_known_friend(&key).expect("a friend");
                    self.friends.insert(key, number);
                }
            }
            Action::Dismiss(key) => {
                if let Some(number) = self.friends.remove(&key) {
                    self.tox.delete_friend(number);
                }
            }
            Action::SendCustom { client, packet } => {
                layer.welcomed(client);
                self.waiting.push_back((client, true, packet));
            }
            Action::Send { client, packet } => {
                let packets = layer.outgoing(client, packet).into_iter();
                self.waiting.extend(packets.map(|packet| (client, false, packet)));
            }
            Action::Note(text) => eprintln!("relay: {text}"),
        }
    }
}
