//! A client of one relay: a thread with a Tox identity of its own, made for this relay alone, and a
//! [`crate::relay::session`]. It becomes the relay's friend, keeps at it until that is online, and carries commands there and
//! events back.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::TCP_TURN;
use super::account::ask_again;
use super::bootstrap::Bootstrap;
use super::waker::Waker;
use crate::config::BootstrapNode;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::relay::descriptor::{Admission, Descriptor};
use crate::relay::session::{Action, Command, Event, Input, Session};
use crate::tox::{self, Connection, Event as ToxEvent, FriendNumber, Tox};

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
    Command(Box<Command>),
    Close,
}

impl ClientHandle {
    /// Asks something of the relay; without effect when the client has ended.
    pub fn send(&self, command: Command) {
        self.tell(Message::Command(Box::new(command)));
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
/// The system has no randomness, descriptor or thread left.
pub fn open(opening: Opening, tell: impl Fn(ClientEvent) + Send + 'static) -> io::Result<ClientHandle> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
    let (commands, inbox) = std::sync::mpsc::channel();
    let waker = Waker::new()?;
    let handle = ClientHandle { commands, waker: waker.clone() };
    let session = Session::new(opening.relay.key, seed);
    let name = format!("relay {}", &opening.relay.key.short()[..8]);
    std::thread::Builder::new().name(name).spawn(move || {
        let reason = Client::new(opening, session, inbox, waker, &tell).map_or_else(|reason| reason, Client::run);
        tell(ClientEvent::Closed(reason));
    })?;
    Ok(handle)
}

/// The thread's own things.
struct Client<'a> {
    tox: Tox,
    relay: ToxId,
    /// The words of the friend request.
    request: String,
    friend: Option<FriendNumber>,
    connection: Connection,
    session: Session,
    inbox: Receiver<Message>,
    waker: Waker,
    bootstrap: Bootstrap,
    tell: &'a dyn Fn(ClientEvent),
    started: Instant,
    ask_next: Instant,
    /// Since when no session was up.
    away_since: Option<Instant>,
    give_up: Option<Duration>,
    /// Whether a packet could not be sent, until the next HELLO.
    broken: bool,
}

impl<'a> Client<'a> {
    /// # Errors
    /// The Tox instance cannot be made: why.
    fn new(
        opening: Opening,
        session: Session,
        inbox: Receiver<Message>,
        waker: Waker,
        tell: &'a dyn Fn(ClientEvent),
    ) -> Result<Self, String> {
        let Opening { relay, admission, savedata, mut options, nodes, resolve, give_up } = opening;
        // The port belongs to the account's instance.
        options.tcp_relay_port = 0;
        let savedata = savedata.as_ref().map(|data| data.as_slice());
        let mut tox = Tox::new(&options, savedata).map_err(|error| error.to_string())?;
        if savedata.is_none() {
            tell(ClientEvent::Made(tox.savedata()));
        }
        // The relay is asked anew: whose friend it is already, is so at once.
        for (number, _) in tox.friends() {
            tox.delete_friend(number);
        }
        let now = Instant::now();
        Ok(Self {
            request: admission(&tox.id().key()).to_string(),
            tox,
            relay: relay.id,
            friend: None,
            connection: Connection::Offline,
            session,
            inbox,
            bootstrap: Bootstrap::new(nodes, resolve, waker.clone()),
            waker,
            tell,
            started: now,
            ask_next: now,
            away_since: Some(now),
            give_up,
            broken: false,
        })
    }

    /// Runs until it is closed or gives up; returns why. The Tox instance says goodbye then.
    fn run(mut self) -> String {
        let mut events = Vec::new();
        let mut actions = Vec::new();
        loop {
            self.tox.wait(self.waker.as_fd(), self.wait_time());
            self.waker.clear();
            self.tox.iterate(&mut events);
            for event in events.drain(..) {
                self.on_event(event, &mut actions);
            }
            loop {
                match self.inbox.try_recv() {
                    Ok(Message::Command(command)) => {
                        self.session.handle(self.now(), Input::Command(command), &mut actions);
                    }
                    Err(TryRecvError::Empty) => break,
                    Ok(Message::Close) | Err(TryRecvError::Disconnected) => return "it is not needed any more".into(),
                }
            }
            self.act(&mut actions);
            self.bootstrap.turn(&mut self.tox);
            self.ask();
            if let Some(reason) = self.is_given_up() {
                return reason;
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Until when nothing needs to be done, in milliseconds from now.
    fn wait_time(&self) -> u16 {
        let mut wait = u64::from(self.tox.interval());
        if let Some(deadline) = self.session.deadline() {
            wait = wait.min(deadline.saturating_sub(self.now()).div_ceil(1000));
        }
        if self.connection == Connection::Tcp && self.session.is_busy() {
            wait = wait.min(u64::from(TCP_TURN));
        }
        u16::try_from(wait).unwrap_or(u16::MAX)
    }

    fn on_event(&mut self, event: ToxEvent, actions: &mut Vec<Action>) {
        let now = self.now();
        match event {
            ToxEvent::SelfConnection(connection) => self.bootstrap.on_connection(connection),
            ToxEvent::FriendConnection(number, connection) if Some(number) == self.friend => {
                let before = std::mem::replace(&mut self.connection, connection);
                if connection != Connection::Offline {
                    self.session.handle(now, Input::Relayed(connection == Connection::Tcp), actions);
                }
                match (before, connection) {
                    (Connection::Offline, Connection::Offline) => {}
                    (Connection::Offline, _) => self.session.handle(now, Input::Online, actions),
                    (_, Connection::Offline) => {
                        self.session.handle(now, Input::Offline, actions);
                        self.ask_next = Instant::now() + ask_again(Duration::ZERO);
                    }
                    // From UDP to TCP or back: the session goes on.
                    _ => {}
                }
            }
            ToxEvent::FriendMessage(number, packet) if Some(number) == self.friend => {
                self.session.handle(now, Input::Packet(&packet), actions);
            }
            ToxEvent::FriendPacket(number, packet) if Some(number) == self.friend => {
                self.session.handle(now, Input::CustomPacket(&packet), actions);
            }
            // Nobody else has any business with an identity made for one relay.
            _ => {}
        }
    }

    /// Carries out actions, and those that follow from them, until none is left.
    fn act(&mut self, actions: &mut Vec<Action>) {
        loop {
            self.session.poll(self.now(), actions);
            if actions.is_empty() {
                break;
            }
            for action in std::mem::take(actions) {
                self.carry_out(action, actions);
            }
        }
        match (self.session.is_up(), self.away_since) {
            (true, _) => self.away_since = None,
            (false, None) => self.away_since = Some(Instant::now()),
            (false, Some(_)) => {}
        }
    }

    fn carry_out(&mut self, action: Action, actions: &mut Vec<Action>) {
        match action {
            Action::Send(packet) => {
                // What follows a packet that was not taken belongs to a session with a gap.
                if self.broken {
                    return;
                }
                let sent = self.friend.map(|number| self.tox.send_message(number, &packet));
                if !matches!(sent, Some(Ok(()))) {
                    self.broken = true;
                    self.session.handle(self.now(), Input::SendFailed, actions);
                }
            }
            Action::SendCustom(packet) => {
                // HELLO begins a session anew, and is said again until it is answered.
                self.broken = false;
                if let Some(number) = self.friend {
                    let _ = self.tox.send_packet(number, &packet);
                }
            }
            Action::Tell(event) => (self.tell)(ClientEvent::Session(event)),
        }
    }

    /// Asks the relay for friendship until it is online.
    fn ask(&mut self) {
        let now = Instant::now();
        if self.connection != Connection::Offline || now < self.ask_next {
            return;
        }
        self.ask_next = now + ask_again(now.duration_since(self.away_since.unwrap_or(now)));
        if let Some(number) = self.friend.take() {
            self.tox.delete_friend(number);
        }
        match self.tox.add_friend(&self.relay, &self.request) {
            Ok(number) => self.friend = Some(number),
            Err(error) => log::error!("cannot ask relay {} for friendship: {error}", self.relay.key().short()),
        }
    }

    /// Why no session is to be waited for any longer.
    fn is_given_up(&self) -> Option<String> {
        let (patience, away) = (self.give_up?, self.away_since?);
        (away.elapsed() >= patience).then(|| {
            let seconds = patience.as_secs();
            match (self.tox.connection(), self.connection) {
                (Connection::Offline, _) => format!("no way into the Tox network for {seconds} s"),
                (_, Connection::Offline) => format!("the relay was offline, or does not let us in, for {seconds} s"),
                _ => format!("the relay is online, but began no session for {seconds} s"),
            }
        })
    }
}
