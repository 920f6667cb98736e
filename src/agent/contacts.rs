//! Making, naming and ending contacts: the steps that toxctl and mail to a new name have in common. Each goes to the store
//! first, then to the directory and the account's thread.

use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::account::{Command, Handle};
use super::directory::Directory;
use crate::control::Failure;
use crate::engine::request;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::store::{Answer, Contact, Store, StoreError};
use crate::telemetry::clock::Clock;

/// How long an account's thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The contacts of all accounts.
#[derive(Clone)]
pub struct Contacts {
    /// The store.
    pub store: Store,
    /// Accounts, and the contacts as mail sees them.
    pub directory: Arc<Directory>,
    /// The accounts' threads.
    pub handles: Vec<Handle>,
    /// The clocks.
    pub clock: Arc<Clock>,
    /// Held while a step goes on: of two about one key, the second must find all that the first has done.
    pub steps: Arc<Mutex<()>>,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(format!("the store does not answer: {error}"))
    }
}

impl Contacts {
    /// Seconds of the wall clock.
    pub fn now_s(&self) -> i64 {
        self.clock.wall_ms() / 1000
    }

    fn step(&self) -> MutexGuard<'_, ()> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a friend request of an account says: `words`, or some of our own, and the account's first address, which the
    /// other side can look up.
    pub fn message(&self, account: usize, words: Option<&str>) -> String {
        let accounts = self.directory.accounts();
        let account = &accounts[account];
        let own = format!("{} would like to exchange mail with you", account.name);
        let words = words.filter(|words| !words.is_empty()).unwrap_or(&own);
        request::compose(words, account.reachable.first())
    }

    /// Asks an account's thread something and waits for the answer.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask<T>(&self, account: usize, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel();
        self.handles[account].send(command(sender));
        receiver.recv_timeout(PATIENCE).map_err(|_| Failure::Unavailable("the account's thread does not answer".into()))
    }

    /// Asks a Tox ID for friendship, in the name of an account.
    ///
    /// # Errors
    /// The nickname is taken, the key is blocked or the account's own, or something does not answer.
    pub fn add(&self, account: usize, id: ToxId, nick: Option<String>, message: String) -> Result<(), Failure> {
        let _step = self.step();
        let accounts = self.directory.accounts();
        let own = &accounts[account];
        if id.key() == own.key {
            return Err(Failure::Invalid("that is this account's own Tox ID".into()));
        }
        if self.directory.is_blocked(account, &id.key()) {
            return Err(Failure::Conflict("that key is blocked: toxctl contact unblock it first".into()));
        }
        self.put(account, self.contact(account, id.key(), nick, Some((id, message.clone()))))?;
        self.ask(account, |reply| Command::AskFriend(id, message, Some(reply)))?.map_err(Failure::Invalid)
    }

    /// Takes one who has asked as a contact of an account.
    ///
    /// # Errors
    /// The nickname is taken, or something does not answer.
    pub fn accept(&self, account: usize, key: PublicKey, nick: Option<String>) -> Result<(), Failure> {
        let _step = self.step();
        self.put(account, self.contact(account, key, nick, None))?;
        self.ask(account, |reply| Command::AcceptFriend(key, reply))?.map_err(Failure::Unavailable)
    }

    /// Takes one who has asked, if his request is still open; whether it was.
    ///
    /// # Errors
    /// Something does not answer.
    pub fn accept_open(&self, account: usize, key: PublicKey) -> Result<bool, Failure> {
        let _step = self.step();
        let accounts = self.directory.accounts();
        let name = &accounts[account].name;
        if !self.store.accept_request(name, key, self.now_s())? {
            return Ok(false);
        }
        self.directory.ensure(account, key);
        self.ask(account, |reply| Command::AcceptFriend(key, reply))?.map_err(Failure::Unavailable)?;
        Ok(true)
    }

    /// Refuses one who has asked, and with `tell` lets him know if he is a mail agent; whether he will be told.
    ///
    /// # Errors
    /// The store does not answer, or the request is gone.
    pub fn refuse(&self, account: usize, key: PublicKey, tell: bool) -> Result<bool, Failure> {
        let name = &self.directory.accounts()[account].name;
        let answer = self.store.refuse_request(name, key, tell, self.now_s())?;
        let answer =
            answer.ok_or_else(|| Failure::NotFound(format!("there is no friend request of {key} any more")))?;
        self.handles[account].send(Command::Refused);
        Ok(answer == Answer::Declining)
    }

    /// Gives a contact another nickname, or none.
    ///
    /// # Errors
    /// The nickname is taken, or it is no contact.
    pub fn rename(&self, account: usize, key: PublicKey, nick: Option<String>) -> Result<(), Failure> {
        let _step = self.step();
        match self.store.rename_contact(&self.directory.accounts()[account].name, key, nick.clone())? {
            Some(true) => self.directory.put(account, key, nick),
            Some(false) => return Err(taken(nick.as_deref())),
            None => return Err(Failure::NotFound(format!("{key} is no contact"))),
        }
        Ok(())
    }

    /// Forgets a contact.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn remove(&self, account: usize, key: PublicKey) -> Result<(), Failure> {
        let _step = self.step();
        self.store.remove_contact(&self.directory.accounts()[account].name, key)?;
        self.directory.remove(account, &key);
        self.handles[account].send(Command::RemoveFriend(key));
        Ok(())
    }

    /// Neither mail nor requests of this key are taken any more, and none is sent to it.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn block(&self, account: usize, key: PublicKey) -> Result<(), Failure> {
        let _step = self.step();
        self.store.block(&self.directory.accounts()[account].name, key, self.now_s())?;
        self.directory.set_blocked(account, key, true);
        self.handles[account].send(Command::RemoveFriend(key));
        Ok(())
    }

    /// Ends that; whether it was so. A contact is a contact again.
    ///
    /// # Errors
    /// The store or the account's thread does not answer.
    pub fn unblock(&self, account: usize, key: PublicKey, contact: Option<&Contact>) -> Result<bool, Failure> {
        let _step = self.step();
        let was = self.store.unblock(&self.directory.accounts()[account].name, key)?;
        self.directory.set_blocked(account, key, false);
        if !was {
            return Ok(false);
        }
        match contact.map(|contact| (contact.accepted, contact.tox_id, &contact.message)) {
            Some((false, Some(id), message)) => {
                let message = message.clone().unwrap_or_default();
                self.ask(account, |reply| Command::AskFriend(id, message, Some(reply)))?
                    .map_err(Failure::Unavailable)?;
            }
            Some(_) => {
                self.ask(account, |reply| Command::AcceptFriend(key, reply))?.map_err(Failure::Unavailable)?;
            }
            None => {}
        }
        Ok(true)
    }

    fn contact(&self, at: usize, key: PublicKey, nick: Option<String>, asked: Option<(ToxId, String)>) -> Contact {
        let accepted = asked.is_none();
        let (tox_id, message) = asked.unzip();
        let account = self.directory.accounts()[at].name.clone();
        Contact { account, key, nick, tox_id, message, accepted, added: self.now_s(), last_seen: None, relays: 0 }
    }

    fn put(&self, at: usize, contact: Contact) -> Result<(), Failure> {
        let (key, nick) = (contact.key, contact.nick.clone());
        if !self.store.put_contact(contact)? {
            return Err(taken(nick.as_deref()));
        }
        // A known contact keeps the nickname it has when none is given.
        let nick = nick.or_else(|| self.directory.nick(at, &key));
        self.directory.put(at, key, nick);
        Ok(())
    }
}

fn taken(nick: Option<&str>) -> Failure {
    Failure::Conflict(format!("another contact is called `{}` already: choose another name", nick.unwrap_or_default()))
}
