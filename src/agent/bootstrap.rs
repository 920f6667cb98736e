//! The way into the Tox network, for every thread that owns an instance: configured nodes are asked until one lets it in.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use super::waker::Waker;
use crate::config::BootstrapNode;
use crate::tox::{Connection, Tox};

/// Repeated until connected, first after this, doubling to the maximum.
const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Who is asked, and when next.
pub struct Bootstrap {
    nodes: Vec<BootstrapNode>,
    resolve: bool,
    next: Instant,
    wait: Duration,
    waker: Waker,
    found: (Sender<BootstrapNode>, Receiver<BootstrapNode>),
}

impl Bootstrap {
    /// By these nodes, at once. `resolve`: whether their host names may be looked up; `waker` wakes the thread when one was
    /// found.
    pub fn new(nodes: Vec<BootstrapNode>, resolve: bool, waker: Waker) -> Self {
        Self { nodes, resolve, next: Instant::now(), wait: AGAIN, waker, found: std::sync::mpsc::channel() }
    }

    /// Goes by these nodes from now on.
    pub fn set_nodes(&mut self, nodes: Vec<BootstrapNode>) {
        self.nodes = nodes;
    }

    /// The instance's own connection changed.
    pub fn on_connection(&mut self, connection: Connection) {
        if connection == Connection::Offline {
            self.next = Instant::now();
            self.wait = AGAIN;
        }
    }

    /// Asks again if it is time, and whom a look-up has found. To be called in every turn of the thread's loop.
    pub fn turn(&mut self, tox: &mut Tox) {
        for node in self.found.1.try_iter() {
            tox.bootstrap(&node.host, node.port, &node.tcp_ports, &node.key);
        }
        let now = Instant::now();
        if now < self.next {
            return;
        }
        if tox.connection() == Connection::Offline {
            self.ask(tox);
            self.next = now + self.wait;
            self.wait = (self.wait * 2).min(AGAIN_MAX);
        } else {
            self.next = now + AGAIN;
            self.wait = AGAIN;
        }
    }

    /// Asks all nodes. Names are looked up in a thread of their own, as that may take seconds.
    fn ask(&self, tox: &mut Tox) {
        let (literal, named): (Vec<_>, Vec<_>) =
            self.nodes.iter().cloned().partition(|node| node.host.parse::<IpAddr>().is_ok());
        for node in literal {
            tox.bootstrap(&node.host, node.port, &node.tcp_ports, &node.key);
        }
        if named.is_empty() || !self.resolve {
            return;
        }
        let (found, waker) = (self.found.0.clone(), self.waker.clone());
        let looked_up = std::thread::Builder::new().name("resolve".into()).spawn(move || {
            for mut node in named {
                let address = (node.host.as_str(), node.port).to_socket_addrs().ok().and_then(|mut all| all.next());
                if let Some(address) = address {
                    node.host = address.ip().to_string();
                    // The thread may have ended meanwhile.
                    let _ = found.send(node);
                }
            }
            waker.wake();
        });
        if let Err(error) = looked_up {
            log::error!("cannot look up the bootstrap nodes: {error}");
        }
    }
}
