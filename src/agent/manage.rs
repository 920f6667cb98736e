//! What toxctl asks, answered from the store and the accounts' threads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::account::{Command, Handle};
use super::directory::Directory;
use crate::control::{Backend, Failure, api};
use crate::engine::transfer::MailId;
use crate::identity::tox_address;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::mail::address::Address;
use crate::store::{Contact, Reader, Store, StoreError};
use crate::telemetry::clock::Clock;
use crate::tox::Connection;

/// How long an account's thread may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent's side of the control server.
pub struct Manager {
    /// The store.
    pub store: Store,
    /// Where it is, for readers.
    pub state_dir: PathBuf,
    /// Accounts and contacts.
    pub directory: Arc<Directory>,
    /// The accounts' threads.
    pub handles: Vec<Handle>,
    /// Their whole Tox IDs.
    pub ids: Vec<ToxId>,
    /// The clocks.
    pub clock: Arc<Clock>,
    /// The host's name in trace fields.
    pub hostname: String,
    /// When the agent started.
    pub started: Instant,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(format!("the store does not answer: {error}"))
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unavailable(format!("the store does not answer: {error}"))
    }
}

impl Manager {
    fn reader(&self) -> Result<Reader, Failure> {
        Ok(Reader::open(&self.state_dir)?)
    }

    /// The number of an account by its name; without a name, the only account.
    fn account(&self, name: Option<&str>) -> Result<usize, Failure> {
        match name {
            Some(name) => {
                self.directory.account(name).ok_or_else(|| Failure::NotFound(format!("there is no account `{name}`")))
            }
            None if self.directory.accounts().len() == 1 => Ok(0),
            None => Err(Failure::Conflict("there are several accounts: say which one with --account".into())),
        }
    }

    fn check_account(&self, name: Option<&str>) -> Result<(), Failure> {
        name.map_or(Ok(()), |name| self.account(Some(name)).map(|_| ()))
    }

    /// The contact that `who` (key, Tox ID, nickname or an address made of them) names, in `account` or the only account
    /// that has one.
    fn find(&self, account: Option<&str>, who: &str) -> Result<Contact, Failure> {
        self.check_account(account)?;
        let who = who.strip_suffix("@tox.alt").unwrap_or(who);
        let key = who.parse::<ToxId>().map(|id| id.key()).or_else(|_| who.parse::<PublicKey>()).ok();
        let nick = who.to_lowercase();
        let matches = |contact: &Contact| Some(contact.key) == key || contact.nick.as_ref() == Some(&nick);
        let mut found = self.reader()?.contacts(account)?.into_iter().filter(matches);
        match (found.next(), found.next()) {
            (Some(contact), None) => Ok(contact),
            (Some(_), Some(_)) => {
                Err(Failure::Conflict(format!("several accounts know `{who}`: say which one with --account")))
            }
            (None, _) => Err(Failure::NotFound(format!("there is no contact `{who}`"))),
        }
    }

    fn shown(&self, contact: &Contact) -> api::Contact {
        let at = self.directory.account(&contact.account);
        let online = at.and_then(|at| self.handles[at].snapshot().online.get(&contact.key).copied());
        let seconds = self.clock.wall_ms() / 1000;
        api::Contact {
            account: contact.account.clone(),
            key: contact.key.to_string(),
            nick: contact.nick.clone(),
            address: tox_address::canonical(&contact.key).to_string(),
            state: match contact.accepted {
                true => api::ContactState::Accepted,
                false => api::ContactState::Pending,
            },
            online: online.is_some(),
            mail: online == Some(true),
            last_seen: if online.is_some() { Some(seconds) } else { contact.last_seen },
            added: contact.added,
        }
    }

    fn put(&self, at: usize, contact: Contact) -> Result<(), Failure> {
        let (key, nick) = (contact.key, contact.nick.clone());
        if !self.store.put_contact(contact)? {
            let nick = nick.unwrap_or_default();
            return Err(Failure::Conflict(format!(
                "another contact is called `{nick}` already: choose another --nick"
            )));
        }
        // A known contact keeps the nickname it has when none is given.
        let nick = nick.or_else(|| self.directory.nick(at, &key));
        self.directory.put(at, key, nick);
        Ok(())
    }

    fn ask<T>(&self, at: usize, command: impl FnOnce(mpsc::Sender<T>) -> Command) -> Result<T, Failure> {
        let (sender, receiver) = mpsc::channel();
        self.handles[at].send(command(sender));
        receiver.recv_timeout(PATIENCE).map_err(|_| Failure::Unavailable("the account's thread does not answer".into()))
    }
}

/// Checks a nickname and brings it into its form: lower case, good as the part before `@tox.alt`, and no key.
fn nickname(nick: Option<String>) -> Result<Option<String>, Failure> {
    let Some(nick) = nick else { return Ok(None) };
    let nick = nick.to_lowercase();
    let fits = Address::new(&nick, "tox.alt").is_ok_and(
        |address| matches!(tox_address::parse(&address), Some(tox_address::ToxAddress::Nick(same)) if same == nick),
    );
    if fits && nick.chars().count() <= 64 && !nick.contains(|c: char| c.is_whitespace() || c == '@') {
        Ok(Some(nick))
    } else {
        Err(Failure::Invalid(format!("`{nick}` cannot be a nickname: it is used as {{nick}}@tox.alt")))
    }
}

impl Backend for Manager {
    fn status(&self) -> Result<api::Status, Failure> {
        let reader = self.reader()?;
        let queue = reader.queue_summary(None)?;
        let mut accounts = Vec::new();
        for (at, account) in self.directory.accounts().iter().enumerate() {
            let snapshot = self.handles[at].snapshot();
            let requests = reader.requests(Some(&account.name))?;
            accounts.push(api::AccountStatus {
                name: account.name.clone(),
                tox_id: self.ids[at].to_string(),
                address: account.address.to_string(),
                connection: match snapshot.connection {
                    Connection::Offline => api::Connection::Offline,
                    Connection::Tcp => api::Connection::Tcp,
                    Connection::Udp => api::Connection::Udp,
                },
                contacts_total: reader.contacts(Some(&account.name))?.len() as u64,
                contacts_online: snapshot.online.len() as u64,
                requests: requests.iter().filter(|request| !request.refused).count() as u64,
                error: None,
            });
        }
        Ok(api::Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            hostname: self.hostname.clone(),
            accounts,
            queue: api::QueueSummary {
                mails: queue.mails,
                recipients: queue.recipients,
                octets: queue.octets,
                oldest: queue.oldest.map(|ms| ms / 1000),
            },
        })
    }

    fn contacts(&self, account: Option<&str>) -> Result<Vec<api::Contact>, Failure> {
        self.check_account(account)?;
        Ok(self.reader()?.contacts(account)?.iter().map(|contact| self.shown(contact)).collect())
    }

    fn add_contact(&self, new: api::NewContact) -> Result<api::Contact, Failure> {
        let at = self.account(new.account.as_deref())?;
        let id: ToxId = new.tox_id.trim().parse().map_err(|error| Failure::Invalid(format!("{error}")))?;
        let account = &self.directory.accounts()[at];
        if id.key() == account.key {
            return Err(Failure::Invalid("that is this account's own Tox ID".into()));
        }
        let nick = nickname(new.nick)?;
        let message = new.message.filter(|message| !message.is_empty());
        let message = message.unwrap_or_else(|| format!("{} would like to exchange mail with you", account.name));
        let contact = Contact {
            account: account.name.clone(),
            key: id.key(),
            nick,
            tox_id: Some(id),
            message: Some(message.clone()),
            accepted: false,
            added: self.clock.wall_ms() / 1000,
            last_seen: None,
        };
        self.put(at, contact)?;
        self.ask(at, |reply| Command::AskFriend(id, message, reply))?.map_err(Failure::Invalid)?;
        self.find(Some(&account.name), &id.key().to_string()).map(|contact| self.shown(&contact))
    }

    fn remove_contact(&self, account: Option<&str>, who: &str) -> Result<(), Failure> {
        let contact = self.find(account, who)?;
        let at = self.account(Some(&contact.account))?;
        self.store.remove_contact(&contact.account, contact.key)?;
        self.directory.remove(at, &contact.key);
        self.handles[at].send(Command::RemoveFriend(contact.key));
        Ok(())
    }

    fn requests(&self, account: Option<&str>) -> Result<Vec<api::FriendRequest>, Failure> {
        self.check_account(account)?;
        let shown = |request: crate::store::Request| api::FriendRequest {
            account: request.account,
            key: request.key.to_string(),
            message: request.message,
            received: request.received,
            refused: request.refused,
        };
        Ok(self.reader()?.requests(account)?.into_iter().map(shown).collect())
    }

    fn accept_request(&self, account: Option<&str>, key: &str, nick: Option<String>) -> Result<api::Contact, Failure> {
        let request = self.request(account, key)?;
        let at = self.account(Some(&request.account))?;
        let contact = Contact {
            account: request.account.clone(),
            key: request.key,
            nick: nickname(nick)?,
            tox_id: None,
            message: None,
            accepted: true,
            added: self.clock.wall_ms() / 1000,
            last_seen: None,
        };
        self.put(at, contact)?;
        self.ask(at, |reply| Command::AcceptFriend(request.key, reply))?.map_err(Failure::Unavailable)?;
        self.find(Some(&request.account), &request.key.to_string()).map(|contact| self.shown(&contact))
    }

    fn refuse_request(&self, account: Option<&str>, key: &str) -> Result<(), Failure> {
        let request = self.request(account, key)?;
        self.store.refuse_request(&request.account, request.key)?;
        Ok(())
    }

    fn queue(&self, account: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<api::QueueEntry>, Failure> {
        self.check_account(account)?;
        let mut progress: HashMap<MailId, u64> = HashMap::new();
        for at in 0..self.handles.len() {
            progress.extend(self.ask(at, Command::Progress)?);
        }
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let mut entries: Vec<api::QueueEntry> = Vec::new();
        for line in self.reader()?.queue(account, after.unwrap_or_default(), limit)? {
            let waits = self.directory.account(&line.account).is_some_and(|at| {
                // An offline contact costs no attempts: the mail waits for it, not for a time.
                self.handles[at].snapshot().online.get(&line.peer) != Some(&true)
            });
            let (status, text) = line.failure.unzip();
            let recipient = api::QueueRecipient {
                address: line.address,
                peer: Some(line.peer.to_string()),
                state: if line.sending { "sending" } else { "queued" }.into(),
                attempts: line.attempts,
                next_attempt: (!line.sending && !waits).then_some(line.next_attempt / 1000),
                status,
                text,
                // What is sent is the encoded body; people compare it with the mail's size.
                progress: progress.get(&line.transfer).filter(|_| line.sending).map(|sent| {
                    let share = *sent as f64 / line.wire_size.max(1) as f64;
                    (share * line.size as f64) as u64
                }),
            };
            match entries.last_mut().filter(|entry| entry.queue_id == line.queue_id) {
                Some(entry) => entry.recipients.push(recipient),
                None => entries.push(api::QueueEntry {
                    queue_id: line.queue_id,
                    mta_queue_id: line.mta_queue_id,
                    account: line.account,
                    sender: line.sender,
                    size: line.size,
                    arrived: line.arrived / 1000,
                    expires: line.expires / 1000,
                    recipients: vec![recipient],
                }),
            }
        }
        Ok(entries)
    }

    fn flush(&self, what: api::Flush) -> Result<api::Flushed, Failure> {
        self.check_account(what.account.as_deref())?;
        let peer = match &what.contact {
            Some(who) => Some(self.find(what.account.as_deref(), who)?.key),
            None => None,
        };
        let one = what.queue_id.clone();
        let recipients = self.store.flush(what.queue_id, what.account, peer)?;
        match one {
            Some(id) if recipients == 0 => {
                Err(Failure::NotFound(format!("no mail with the queue id {id} waits: it may be under way already")))
            }
            _ => Ok(api::Flushed { recipients }),
        }
    }
}

impl Manager {
    fn request(&self, account: Option<&str>, key: &str) -> Result<crate::store::Request, Failure> {
        self.check_account(account)?;
        let key: PublicKey = key.parse().map_err(|error| Failure::Invalid(format!("{error}")))?;
        let mut found = self.reader()?.requests(account)?.into_iter().filter(|request| request.key == key);
        match (found.next(), found.next()) {
            (Some(request), None) => Ok(request),
            (Some(_), Some(_)) => {
                Err(Failure::Conflict("several accounts were asked: say which one with --account".into()))
            }
            (None, _) => Err(Failure::NotFound(format!("there is no friend request of {key}"))),
        }
    }
}
