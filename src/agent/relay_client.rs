//! A client of one relay: a thread with a Tox identity of its own, made for this relay alone, and a
//! [`crate::relay::session`]. It becomes the relay's friend, keeps at it until that is online, and carries commands there and
//! events back.

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use zeroize::Zeroizing;

use super::waker::Waker;
use crate::config::BootstrapNode;
use crate::identity::tox_id::PublicKey;
use crate::relay::descriptor::{Admission, Descriptor};
use crate::relay::session::{Command, Event};
use crate::tox;

/// What a client needs to begin.
pub struct Opening {
    /// The relay.
    pub relay: Descriptor,
    /// The words with which the identity that has this key asks the relay for friendship.
    pub admission: Box<dyn Fn(&PublicKey) -> Admission + Send>,
    /// The identity, as [`ClientEvent::Made`] gave it; none: a new one is made.
    pub savedata: Option<Zeroizing<Vec<u8>>>,
    /// How it takes part in the network.
    pub options: tox::Options,
    /// Nodes by which the network is entered.
    pub nodes: Vec<BootstrapNode>,
    /// Whether host names of these may be looked up.
    pub resolve: bool,
    /// After how long without the relay the client ends by itself; none: never.
    pub give_up: Option<Duration>,
}

/// What a client tells.
pub enum ClientEvent {
    /// A new identity, to be kept by an owner: a secret. Told before anything else.
    Made(Zeroizing<Vec<u8>>),
    /// What the relay says.
    Session(Event),
    /// The client has ended, and why; nothing follows.
    Closed(String),
}

/// The way to a client's thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub struct ClientHandle {
    commands: Sender<Message>,
    waker: Waker,
}

enum Message {
    Command(Command),
    Close,
}

impl ClientHandle {
    /// Asks something of the relay; without effect when the client has ended.
    pub fn send(&self, command: Command) {
        self.tell(Message::Command(command));
    }

    /// Has the client say goodbye and end; [`ClientEvent::Closed`] follows.
    pub fn close(&self) {
        self.tell(Message::Close);
    }

    fn tell(&self, message: Message) {
        if self.commands.send(message).is_ok() {
            self.waker.wake();
        }
    }
}

/// Begins: one thread and one Tox instance.
///
/// # Errors
/// The system has no descriptor or thread left.
pub fn open(opening: Opening, tell: impl Fn(ClientEvent) + Send + 'static) -> io::Result<ClientHandle> {
    let (commands, inbox) = std::sync::mpsc::channel();
    let waker = Waker::new()?;
    let handle = ClientHandle { commands, waker };
    std::thread::Builder::new().name("relay".into()).spawn(move || run(&opening, &inbox, &tell))?;
    Ok(handle)
}

fn run(_opening: &Opening, _inbox: &Receiver<Message>, tell: &dyn Fn(ClientEvent)) {
    tell(ClientEvent::Closed("not there yet".into()));
}
