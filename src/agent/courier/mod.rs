//! Mail by relays: one thread that carries out, for every account, what [`crate::relay::outbox`] and
//! [`crate::relay::inbox`] decide.
//!
//! It owns the lanes, the clients of relays, and the parcels on their way; the accounts' threads tell it whose link is up and
//! what contacts say about lanes, and put into mailboxes what it has fetched. `account` is what it knows of one account,
//! `lanes` the lanes and the words about them, `outgoing` and `incoming` the two directions, `clients` the relays themselves;
//! `invitation` lets strangers introduce themselves, `introducing` does so to others.

mod account;
mod clients;
mod incoming;
mod introducing;
mod invitation;
mod lanes;
mod manage;
mod outgoing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use account::Account;
pub use manage::Desk;

use super::account as tox_account;
use super::health::Pulse;
use super::relay_client::ClientEvent;
use super::relay_role::RelayHandle;
use super::reload::Live;
use crate::engine::transfer::{MailId, Outcome};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::Invitation;
use crate::lane::keys::ToxSecret;
use crate::store::{Reader, Store};
use crate::telemetry::clock::Clock;

/// How often the queue is looked at for mail of contacts who are offline.
const LOOK: Duration = Duration::from_secs(1);

/// How long whoever asks the thread something waits for its answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers the clients of one run.
type ClientNumber = u64;

/// What the thread is told.
enum Message {
    /// A contact's mail link came up or went.
    Link(usize, PublicKey, bool),
    /// A contact is none any more.
    Gone(usize, PublicKey),
    /// A word of a contact about lanes, over the link.
    Word(usize, PublicKey, u64, Vec<u8>),
    /// Something from a client.
    Client(ClientNumber, ClientEvent),
    /// What became of a mail that was fetched.
    Answered(usize, PublicKey, MailId, Vec<(u32, Outcome)>),
    /// The store has somebody new to introduce the account to.
    Introducing(usize),
    /// What a parcel told is in the store, durably.
    Settled(usize, PublicKey, MailId),
    /// The work for an introduction to this contact on this day is done, or was in vain.
    Stamped(usize, PublicKey, u64, Option<u64>),
    /// Something that the manager wants.
    Ask(Box<dyn FnOnce(&mut Courier) + Send>),
    /// End.
    Stop,
}

/// The way to the thread; to be cloned freely.
#[derive(Clone)]
pub struct Handle {
    messages: Sender<Message>,
    /// Whether its loop turns.
    pub pulse: Pulse,
}

impl Handle {
    /// A handle, and the inbox for [`start`].
    pub fn new() -> (Self, Inbox) {
        let (messages, inbox) = std::sync::mpsc::channel();
        (Self { messages, pulse: Pulse::default() }, Inbox(inbox))
    }

    fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }

    /// The mail link of a contact came up or went.
    pub fn link(&self, account: usize, peer: PublicKey, up: bool) {
        self.send(Message::Link(account, peer, up));
    }

    /// A contact is none any more.
    pub fn gone(&self, account: usize, peer: PublicKey) {
        self.send(Message::Gone(account, peer));
    }

    /// A contact says something about lanes, over the link.
    pub fn word(&self, account: usize, peer: PublicKey, kind: u64, octets: Vec<u8>) {
        self.send(Message::Word(account, peer, kind, octets));
    }

    /// The store has somebody new to introduce the account to.
    pub fn introducing(&self, account: usize) {
        self.send(Message::Introducing(account));
    }

    /// The invitation that an account tells under this Tox ID, if one was made; without relays as long as none has answered.
    pub fn told(&self, account: usize, id: ToxId) -> Option<Invitation> {
        self.ask(move |courier| courier.accounts[account].told(id)).flatten()
    }

    /// Asks the thread for something and waits for the answer; `None` when it has ended, or does not answer for 20 s.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce(&mut Courier) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.send(Message::Ask(Box::new(move |courier| {
            let _ = sender.send(question(courier));
        })));
        receiver.recv_timeout(PATIENCE).ok()
    }

    /// Has the thread wake up, to show that it runs.
    pub fn wake(&self) {
        self.send(Message::Ask(Box::new(|_| ())));
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.send(Message::Stop);
    }
}

/// The thread's end of a [`Handle`].
pub struct Inbox(Receiver<Message>);

/// What all of the courier uses.
pub(super) struct Shared {
    pub store: Store,
    pub clock: Arc<Clock>,
    pub live: Arc<Live>,
    pub state_dir: PathBuf,
    pub handle: Handle,
    /// The relay that this agent is.
    pub relay: Option<Arc<RelayHandle>>,
    /// Who looks at new requests: account and key.
    pub asked: tokio::sync::mpsc::Sender<(usize, PublicKey)>,
}

/// One account, for [`start`].
pub struct Own {
    /// Its name.
    pub name: String,
    /// Its Tox key.
    pub key: PublicKey,
    /// The secret half of that.
    pub secret: ToxSecret,
    /// Its thread.
    pub tox: tox_account::Handle,
}

/// The thread's own things.
pub struct Courier {
    shared: Arc<Shared>,
    reader: Reader,
    accounts: Vec<Account>,
    next_client: ClientNumber,
}

/// Random octets.
fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    Ok(octets)
}

/// Starts the thread, for these accounts in turn. `asked` hears of new requests: account and key.
///
/// # Errors
/// The store cannot be read or the system has no thread.
#[allow(clippy::too_many_arguments, reason = "called once, from the wiring")]
pub fn start(
    inbox: Inbox,
    handle: Handle,
    store: Store,
    clock: Arc<Clock>,
    live: Arc<Live>,
    state_dir: PathBuf,
    relay: Option<Arc<RelayHandle>>,
    asked: tokio::sync::mpsc::Sender<(usize, PublicKey)>,
    accounts: Vec<Own>,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let reader = Reader::open(&state_dir)?;
    let shared = Arc::new(Shared { store, clock, live, state_dir, handle, relay, asked });
    let mut own = Vec::with_capacity(accounts.len());
    for (number, account) in accounts.into_iter().enumerate() {
        own.push(Account::load(number, account, shared.clone(), &reader)?);
    }
    let mut courier = Courier { shared, reader, accounts: own, next_client: 0 };
    Ok(std::thread::Builder::new().name("courier".into()).spawn(move || courier.run(&inbox.0))?)
}

impl Courier {
    fn run(&mut self, inbox: &Receiver<Message>) {
        let mut look = Instant::now();
        loop {
            let now = Instant::now();
            if now >= look {
                look = now + LOOK;
                for account in &mut self.accounts {
                    account.look(&self.reader, &mut self.next_client);
                }
            }
            let due = self.accounts.iter().filter_map(|account| account.deadline()).min();
            let queue_now = u64::try_from(self.shared.clock.queue_ms()).unwrap_or(0);
            let due = due.map_or(LOOK, |due| Duration::from_millis(due.saturating_sub(queue_now)));
            let wait = due.min(look.saturating_duration_since(Instant::now()));
            match inbox.recv_timeout(wait) {
                Ok(message) => {
                    let mut next = Some(message);
                    while let Some(message) = next {
                        if !self.on_message(message) {
                            self.accounts.iter_mut().for_each(Account::close);
                            return;
                        }
                        next = inbox.try_recv().ok();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for account in &mut self.accounts {
                account.work(&self.reader, &mut self.next_client);
            }
            self.shared.handle.pulse.beat();
        }
    }

    /// `false` at the end.
    fn on_message(&mut self, message: Message) -> bool {
        match message {
            Message::Link(account, peer, up) => self.accounts[account].on_link(peer, up),
            Message::Gone(account, peer) => self.accounts[account].on_gone(peer),
            Message::Word(account, peer, kind, octets) => self.accounts[account].on_word(peer, kind, &octets),
            Message::Client(client, event) => {
                for account in &mut self.accounts {
                    if account.owns(client) {
                        account.on_client(client, event, &mut self.next_client);
                        break;
                    }
                }
            }
            Message::Answered(account, peer, parcel, answers) => {
                self.accounts[account].on_answered(peer, parcel, &answers);
            }
            Message::Introducing(account) => {
                if let Err(error) = self.accounts[account].load_introductions(&self.reader) {
                    log::error!("cannot read to whom to introduce an account: {error:#}");
                }
            }
            Message::Settled(account, peer, parcel) => self.accounts[account].settle(peer, parcel),
            Message::Stamped(account, peer, day, stamp) => {
                self.accounts[account].on_stamp(peer, day, stamp, &mut self.next_client);
            }
            Message::Ask(question) => question(self),
            Message::Stop => return false,
        }
        true
    }

    /// Looks anew at which relays are to be used.
    pub fn relays_changed(&mut self) {
        self.accounts.iter_mut().for_each(Account::relays_changed);
    }
}
