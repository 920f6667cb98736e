//! What libtoxcore itself can do, to hold the agent against: `bare_tox HOST PORT KEY messages MIB` sends that much from
//! one instance to another as messages under the agent's own window and prints the seconds; `bare_tox HOST PORT KEY idle
//! SECONDS` runs one connected instance and prints the CPU seconds it took. HOST, PORT and KEY are a bootstrap node's.

#![allow(clippy::print_stdout, reason = "the figure is its output")]

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use nix::sys::resource::{UsageWho, getrusage};
use toxmail::engine::window::Window;
use toxmail::identity::tox_id::PublicKey;
use toxmail::tox::{Connection, Event, MAX_PACKET, Options, Tox};

struct Node {
    tox: Tox,
    waker: EventFd,
    events: Vec<Event>,
    online: bool,
}

impl Node {
    fn new(host: &str, port: u16, key: &PublicKey) -> Self {
        let options = Options {
            udp: true,
            ipv6: false,
            lan_discovery: false,
            port_range: (20000, 32000),
            tcp_relay_port: 0,
            proxy: None,
        };
        let mut tox = Tox::new(&options, None).expect("an instance");
        assert!(tox.bootstrap(host, port, &[], key));
        Self { tox, waker: EventFd::new().expect("an eventfd"), events: Vec::new(), online: false }
    }

    /// One turn of the loop; the messages that came.
    fn turn(&mut self) -> Vec<Vec<u8>> {
        let wait = u16::try_from(self.tox.interval()).unwrap_or(50);
        self.tox.wait(self.waker.as_fd(), wait);
        self.tox.iterate(&mut self.events);
        let mut messages = Vec::new();
        for event in self.events.drain(..) {
            match event {
                Event::FriendConnection(_, connection) => self.online = connection != Connection::Offline,
                Event::FriendMessage(_, message) => messages.push(message),
                _ => {}
            }
        }
        messages
    }
}

fn messages(host: &str, port: u16, key: &PublicKey, mebibytes: u64) {
    let packets = (mebibytes << 20).div_ceil(MAX_PACKET as u64);
    let mut sender = Node::new(host, port, key);
    let mut receiver = Node::new(host, port, key);
    let to = sender.tox.add_known_friend(&receiver.tox.id().key()).expect("a friend");
    let from = receiver.tox.add_known_friend(&sender.tox.id().key()).expect("a friend");
    let receiving = std::thread::spawn(move || {
        let mut received = 0u64;
        while received < packets {
            let count = receiver.turn().len() as u64;
            if count > 0 {
                received += count;
                receiver.tox.send_message(from, &received.to_be_bytes()).expect("an acknowledgement");
            }
        }
        // The last acknowledgement has to get through.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            receiver.turn();
        }
    });
    while !sender.online {
        sender.turn();
    }
    let packet = vec![b'x'; MAX_PACKET];
    let begin = Instant::now();
    let now = || begin.elapsed().as_micros() as u64;
    let mut window = Window::new();
    let (mut sent, mut acknowledged) = (0u64, 0u64);
    while acknowledged < packets {
        while sent < packets && window.room() > 0 {
            sender.tox.send_message(to, &packet).expect("room in the send queue");
            window.on_send(now());
            sent += 1;
        }
        for message in sender.turn() {
            acknowledged = u64::from_be_bytes(message.try_into().expect("eight octets"));
            window.on_ack(now(), acknowledged).expect("an honest receiver");
        }
    }
    println!("{}", begin.elapsed().as_secs_f64());
    receiving.join().expect("the receiver ends");
}

fn idle(host: &str, port: u16, key: &PublicKey, seconds: u64) {
    let mut node = Node::new(host, port, key);
    while node.tox.connection() == Connection::Offline {
        node.turn();
    }
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
        let time = [usage.user_time(), usage.system_time()];
        time.iter().map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6).sum::<f64>()
    };
    let (begin, before) = (Instant::now(), cpu());
    while begin.elapsed() < Duration::from_secs(seconds) {
        node.turn();
    }
    println!("{}", cpu() - before);
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, key, what, amount] = &words[..] else { panic!("bare_tox HOST PORT KEY messages|idle AMOUNT") };
    let (port, key) = (port.parse().expect("a port"), key.parse().expect("a key"));
    let amount = amount.parse().expect("a number");
    match what.as_str() {
        "messages" => messages(host, port, &key, amount),
        "idle" => idle(host, port, &key, amount),
        other => panic!("messages or idle, not {other}"),
    }
}
