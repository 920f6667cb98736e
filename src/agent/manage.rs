//! What toxctl asks, answered from the store and the accounts' threads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::account::Command;
use super::contacts::Contacts;
use super::names::{self, Names};
use super::probe::Probes;
use super::relays::{self, Relays};
use super::reload::Reloader;
use crate::control::{Backend, Failure, api};
use crate::engine::transfer::MailId;
use crate::identity::name::finding::{Finding, Found, Method, Proof, Via};
use crate::identity::tox_address;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::Invitation;
use crate::mail::address::Address;
use crate::store::{self, Accepted, Answer, Because, Contact, Reader, Settled};
use crate::tox::Connection;

/// The agent's side of the control server.
pub struct Manager {
    /// The contacts of all accounts.
    pub contacts: Contacts,
    /// The names that lead to them.
    pub names: Arc<Names>,
    /// The probe mails that came.
    pub probes: Arc<Probes>,
    /// Where the store is, for readers.
    pub state_dir: PathBuf,
    /// The host's name in trace fields.
    pub hostname: String,
    /// Reads the configuration again.
    pub reloader: Arc<Reloader>,
    /// When the agent started.
    pub started: Instant,
    /// Who knows of relays; nobody where the agent neither is one nor uses any.
    pub relays: Option<Arc<dyn Relays>>,
}

impl From<Connection> for api::Connection {
    fn from(connection: Connection) -> Self {
        match connection {
            Connection::Offline => Self::Offline,
            Connection::Tcp => Self::Tcp,
            Connection::Udp => Self::Udp,
        }
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
            Some(name) => self
                .contacts
                .directory
                .account(name)
                .ok_or_else(|| Failure::NotFound(format!("there is no account `{name}`"))),
            None if self.contacts.directory.accounts().len() == 1 => Ok(0),
            None => Err(Failure::Conflict("there are several accounts: say which one with --account".into())),
        }
    }

    fn with_relays(&self) -> Result<&dyn Relays, Failure> {
        let none = || Failure::Conflict("this agent neither is a relay nor uses any".into());
        self.relays.as_deref().ok_or_else(none)
    }

    fn check_account(&self, name: Option<&str>) -> Result<(), Failure> {
        name.map_or(Ok(()), |name| self.account(Some(name)).map(|_| ()))
    }

    /// The contact that `who` (key, Tox ID, nickname, or an address made of them or pinned to it) names, in `account` or the
    /// only account that has one.
    fn find(&self, account: Option<&str>, who: &str) -> Result<Contact, Failure> {
        self.check_account(account)?;
        let reader = self.reader()?;
        let key = key_of(who);
        let who = who.strip_suffix("@tox.alt").unwrap_or(who);
        let nick = who.to_lowercase();
        let pinned: Vec<(String, PublicKey)> = match who.parse::<Address>().map(|address| address.lowered().to_string())
        {
            Ok(of) => reader.names(account)?.into_iter().filter(|name| name.address == of).filter_map(pin_of).collect(),
            Err(_) => Vec::new(),
        };
        let matches = |contact: &Contact| {
            Some(contact.key) == key
                || contact.nick.as_ref() == Some(&nick)
                || pinned.iter().any(|(account, key)| (account, key) == (&contact.account, &contact.key))
        };
        let mut found = reader.contacts(account)?.into_iter().filter(matches);
        match (found.next(), found.next()) {
            (Some(contact), None) => Ok(contact),
            (Some(_), Some(_)) => {
                Err(Failure::Conflict(format!("several accounts know `{who}`: say which one with --account")))
            }
            (None, _) => Err(Failure::NotFound(format!("there is no contact `{who}`"))),
        }
    }

    fn shown(&self, contact: &Contact, names: &[store::Name]) -> api::Contact {
        let at = self.contacts.directory.account(&contact.account);
        let online = at.and_then(|at| self.contacts.handles[at].snapshot().online.get(&contact.key).copied());
        let seconds = self.contacts.clock.wall_ms() / 1000;
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
            blocked: at.is_some_and(|at| self.contacts.directory.is_blocked(at, &contact.key)),
            names: names.iter().filter(|name| pins(name, contact)).map(|name| name.address.clone()).collect(),
            relays: contact.relays,
        }
    }

    fn shown_now(&self, account: &str, key: &PublicKey) -> Result<api::Contact, Failure> {
        let contact = self.find(Some(account), &key.to_string())?;
        Ok(self.shown(&contact, &self.reader()?.names(Some(account))?))
    }

    /// Looks up a name for the operator, and says what stands against it.
    fn found(&self, at: usize, address: &Address) -> Result<(Found, Option<Invitation>), Failure> {
        let report = self.names.look_up_now(address);
        let invitation = names::invitation(address, &report);
        match self.names.not_own(at, address, report.finding) {
            Finding::Found(found) => Ok((found, invitation)),
            Finding::Nothing { text, .. } => Err(Failure::NotFound(text)),
            Finding::Failed(text) => Err(Failure::Unavailable(text)),
        }
    }

    fn request(&self, account: Option<&str>, key: &str) -> Result<store::Request, Failure> {
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

/// The key that a text spells out, alone, as a Tox ID, or as an address at `tox.alt`.
fn key_of(who: &str) -> Option<PublicKey> {
    let who = who.strip_suffix("@tox.alt").unwrap_or(who);
    who.parse::<ToxId>().map(|id| id.key()).or_else(|_| who.parse::<PublicKey>()).ok()
}

fn pin_of(name: store::Name) -> Option<(String, PublicKey)> {
    Some((name.account, name.pin?.key))
}

fn pins(name: &store::Name, contact: &Contact) -> bool {
    name.account == contact.account && name.pin.is_some_and(|pin| pin.key == contact.key)
}

fn shown_name(name: &store::Name) -> api::Name {
    let (status, text) = name.failure.clone().unzip();
    api::Name {
        account: name.account.clone(),
        address: name.address.clone(),
        state: match (&name.pin, &name.offer) {
            (Some(_), Some(_)) => api::NameState::Changed,
            (Some(_), None) => api::NameState::Pinned,
            (None, Some(_)) => api::NameState::Unconfirmed,
            (None, None) => api::NameState::Unknown,
        },
        key: name.pin.map(|pin| pin.key.to_string()),
        via: name.pin.map(|pin| pin.via.to_string()),
        method: name.pin.map(|pin| pin.method.to_string()),
        proof: name.pin.map(|pin| pin.proof.to_string()),
        first_seen: name.pin.map(|pin| pin.first_seen),
        last_seen: name.pin.map(|pin| pin.last_seen),
        offer: name.offer.map(|offer| api::Offer {
            tox_id: offer.found.id.to_string(),
            via: offer.found.via.to_string(),
            method: offer.found.method.to_string(),
            proof: offer.found.proof.to_string(),
            since: offer.since,
        }),
        status,
        text,
        next_lookup: name.next_lookup.map(|ms| ms / 1000),
        waiting: name.waiting.unwrap_or(0),
    }
}

fn address(text: &str) -> Result<Address, Failure> {
    let address: Address = text.trim().parse().map_err(|error| Failure::Invalid(format!("`{text}`: {error}")))?;
    Ok(address.lowered())
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

fn shown_step(step: crate::dns::Step) -> api::LookupStep {
    api::LookupStep {
        query: step.query,
        kind: step.kind.to_owned(),
        outcome: step.outcome,
        proof: step.proof.to_owned(),
        records: step.records,
        ms: step.ms,
    }
}

impl Backend for Manager {
    fn status(&self) -> Result<api::Status, Failure> {
        let reader = self.reader()?;
        let queue = reader.queue_summary(None)?;
        let counts = self.contacts.store.counts();
        let mut accounts = Vec::new();
        for (at, account) in self.contacts.directory.accounts().iter().enumerate() {
            let snapshot = self.contacts.handles[at].snapshot();
            let requests = reader.requests(Some(&account.name))?;
            let names = reader.names(Some(&account.name))?;
            let with_offer = |pinned: bool| {
                names.iter().filter(|name| name.offer.is_some() && name.pin.is_some() == pinned).count() as u64
            };
            accounts.push(api::AccountStatus {
                name: account.name.clone(),
                tox_id: self.names.id(at).to_string(),
                address: account.address.to_string(),
                connection: snapshot.connection.into(),
                contacts_total: reader.contacts(Some(&account.name))?.len() as u64,
                contacts_online: snapshot.online.len() as u64,
                requests: requests.iter().filter(|request| request.answer == Answer::Open).count() as u64,
                names_unconfirmed: with_offer(false),
                names_changed: with_offer(true),
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
                at_relays: queue.at_relays,
                at_relays_since: queue.at_relays_since.map(|ms| ms / 1000),
            },
            counts: api::Counts {
                sent: counts.sent,
                deferred: counts.deferred,
                bounced: counts.bounced,
                received: counts.received,
            },
            relays: self.relays(None)?,
        })
    }

    fn reload(&self) -> Result<api::Reloaded, Failure> {
        self.reloader.reload().map_err(|error| Failure::Invalid(format!("{error:#}")))
    }

    fn probe(&self, token: &str) -> Result<api::Probe, Failure> {
        let gone = || Failure::NotFound(format!("no probe {token} has come"));
        self.probes.find(token).ok_or_else(gone)
    }

    fn contacts(&self, account: Option<&str>) -> Result<Vec<api::Contact>, Failure> {
        self.check_account(account)?;
        let reader = self.reader()?;
        let names = reader.names(account)?;
        Ok(reader.contacts(account)?.iter().map(|contact| self.shown(contact, &names)).collect())
    }

    fn contact(&self, account: Option<&str>, who: &str) -> Result<api::ContactDetails, Failure> {
        let contact = self.find(account, who)?;
        let mut names = self.reader()?.names(Some(&contact.account))?;
        names.retain(|name| pins(name, &contact));
        Ok(api::ContactDetails {
            contact: self.shown(&contact, &names),
            tox_id: contact.tox_id.map(|id| id.to_string()),
            message: contact.message,
            pins: names.iter().map(shown_name).collect(),
        })
    }

    fn rename_contact(&self, account: Option<&str>, who: &str, nick: Option<String>) -> Result<api::Contact, Failure> {
        let contact = self.find(account, who)?;
        let at = self.account(Some(&contact.account))?;
        self.contacts.rename(at, contact.key, nickname(nick)?)?;
        self.shown_now(&contact.account, &contact.key)
    }

    fn block(&self, account: Option<&str>, who: &str, blocked: bool) -> Result<(), Failure> {
        let (at, key, contact) = match self.find(account, who) {
            Ok(contact) => (self.account(Some(&contact.account))?, contact.key, Some(contact)),
            // Strangers are blocked by their keys.
            Err(error @ Failure::NotFound(_)) => match key_of(who) {
                Some(key) => (self.account(account)?, key, None),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if blocked {
            return self.contacts.block(at, key);
        }
        if !self.contacts.unblock(at, key, contact.as_ref())? {
            return Err(Failure::NotFound(format!("{who} is not blocked")));
        }
        Ok(())
    }

    fn names(&self, account: Option<&str>) -> Result<Vec<api::Name>, Failure> {
        self.check_account(account)?;
        Ok(self.reader()?.names(account)?.iter().map(shown_name).collect())
    }

    fn blocked(&self, account: Option<&str>) -> Result<Vec<api::Blocked>, Failure> {
        self.check_account(account)?;
        let shown =
            |(account, key, since): (String, PublicKey, i64)| api::Blocked { account, key: key.to_string(), since };
        Ok(self.reader()?.blocked(account)?.into_iter().map(shown).collect())
    }

    fn accept_key(&self, account: Option<&str>, text: &str, tox_id: Option<&str>) -> Result<api::Name, Failure> {
        self.check_account(account)?;
        let address = address(text)?;
        let of = address.to_string();
        let offered =
            self.reader()?.names(account)?.into_iter().filter(|name| name.address == of && name.offer.is_some());
        let offered: Vec<store::Name> = offered.collect();
        let [name] = &offered[..] else {
            return Err(match offered.len() {
                0 => Failure::NotFound(format!(
                    "no new key of {address} waits: see toxctl contact list, toxctl name list"
                )),
                _ => Failure::Conflict(format!("several accounts know {address}: say which one with --account")),
            });
        };
        let at = self.account(Some(&name.account))?;
        let expected = tox_id.map(|text| text.trim().parse::<ToxId>()).transpose();
        let expected = expected.map_err(|error| Failure::Invalid(format!("{error}")))?;
        match self.contacts.store.accept_key(self.names.settled(at, &address), expected)? {
            Accepted::Pinned => {}
            Accepted::Blocked => {
                return Err(Failure::Conflict("that key is blocked: toxctl contact unblock it first".into()));
            }
            Accepted::OtherKey(key) => {
                return Err(Failure::Conflict(format!("{address} leads to the key {key} now: toxctl name list")));
            }
            Accepted::NoOffer => {
                return Err(Failure::NotFound(format!("no new key of {address} waits any more")));
            }
        }
        // The nickname went over to the new contact.
        let concerned: Vec<PublicKey> =
            name.pin.map(|pin| pin.key).into_iter().chain(name.offer.map(|offer| offer.found.id.key())).collect();
        let contacts = self.reader()?.contacts(Some(&name.account))?;
        for contact in contacts.into_iter().filter(|contact| concerned.contains(&contact.key)) {
            self.contacts.directory.put(at, contact.key, contact.nick);
        }
        let name = self.reader()?.name(&name.account, &of)?;
        name.as_ref().map(shown_name).ok_or_else(|| Failure::NotFound(format!("{address} is gone")))
    }

    fn refresh(&self, account: Option<&str>, who: Option<&str>) -> Result<api::Refreshed, Failure> {
        self.check_account(account)?;
        let mut account = account.map(str::to_owned);
        let (mut of, mut key) = (None, None);
        match who.map(|who| (address(who), who)) {
            Some((Ok(address), _)) if tox_address::parse(&address).is_none() => of = Some(address.to_string()),
            Some((_, who)) => {
                let contact = self.find(account.as_deref(), who)?;
                (key, account) = (Some(contact.key), Some(contact.account));
            }
            None => {}
        }
        let names = self.contacts.store.look_again(account, of, key)?;
        match who {
            Some(who) if names == 0 => Err(Failure::NotFound(format!("no name is known of `{who}`"))),
            _ => Ok(api::Refreshed { names }),
        }
    }

    fn look_up(&self, text: &str) -> Result<api::Lookup, Failure> {
        let address = address(text)?;
        let report = self.names.look_up_now(&address);
        let mut lookup = api::Lookup {
            address: address.to_string(),
            tox_id: None,
            key: None,
            via: None,
            method: None,
            proof: report.proof.to_owned(),
            invitation: names::invitation(&address, &report).map(|invitation| invitation.to_string()),
            permanent: false,
            status: None,
            text: String::new(),
            steps: report.steps.into_iter().map(shown_step).collect(),
        };
        match report.finding {
            Finding::Found(found) => {
                lookup.tox_id = Some(found.id.to_string());
                lookup.key = Some(found.id.key().to_string());
                lookup.via = Some(found.via.to_string());
                lookup.method = Some(found.method.to_string());
                lookup.text = format!("leads to a Tox ID ({})", found.proof);
            }
            Finding::Nothing { proved, text } => {
                lookup.permanent = proved;
                lookup.status = Some(if proved { "5.1.1" } else { "4.1.1" }.into());
                lookup.text = text;
            }
            Finding::Failed(text) => {
                lookup.status = Some("4.4.3".into());
                lookup.text = text;
            }
        }
        Ok(lookup)
    }

    fn records(&self, account: Option<&str>) -> Result<Vec<api::Record>, Failure> {
        self.check_account(account)?;
        let mut records = Vec::new();
        let accounts = &self.contacts.directory.accounts();
        let published = futures_util::future::join_all((0..accounts.len()).map(|at| async move {
            match account.is_none_or(|account| account == accounts[at].name) {
                true => self.names.published(at).await,
                false => Vec::new(),
            }
        }));
        for (own, published) in accounts.iter().zip(self.names.runtime.block_on(published)) {
            records.extend(published.into_iter().map(|published| api::Record {
                account: own.name.clone(),
                address: published.address,
                record: published.record,
                correct: published.correct,
                text: published.text,
            }));
        }
        Ok(records)
    }

    fn add_contact(&self, new: api::NewContact) -> Result<api::Contact, Failure> {
        let at = self.account(new.account.as_deref())?;
        let id = new.tox_id.as_deref().map(|text| text.trim().parse::<ToxId>());
        let id = id.transpose().map_err(|error| Failure::Invalid(format!("{error}")))?;
        let name = new.address.as_deref().map(address).transpose()?;
        if name.as_ref().is_some_and(|name| tox_address::parse(name).is_some()) {
            return Err(Failure::Invalid("an address below tox.alt needs no pin".into()));
        }
        let account = self.contacts.directory.accounts()[at].name.clone();
        let invitation = new.invitation.as_deref().map(|text| text.parse::<Invitation>());
        let invitation = invitation.transpose().map_err(|error| Failure::Invalid(error.to_string()))?;
        if id.is_some() && invitation.is_some() {
            return Err(Failure::Invalid("an invitation has the Tox ID in it".into()));
        }
        let id = id.or(invitation.as_ref().map(|invitation| invitation.id));
        let (id, found, published) = match (id, &name) {
            (Some(id), None) => (id, None, None),
            (Some(id), Some(_)) => {
                let found = Found { id, via: Via::Name, method: Method::Operator, proof: Proof::Insecure };
                (id, Some(found), None)
            }
            (None, Some(name)) => {
                let (found, published) = self.found(at, name)?;
                (found.id, Some(found), published)
            }
            (None, None) => return Err(Failure::Invalid("a Tox ID, an invitation or an address is needed".into())),
        };
        let other_key = |name: &Address, key: PublicKey| {
            Failure::Conflict(format!(
                "{name} is pinned to the key {key}: toxctl contact refresh {name}, compare the keys, then accept-key"
            ))
        };
        if let Some(name) = &name {
            let known = self.reader()?.name(&account, &name.to_string())?;
            let pinned = known.as_ref().and_then(|known| known.pin);
            if let Some(pin) = pinned.filter(|pin| pin.key != id.key()) {
                return Err(other_key(name, pin.key));
            }
            // The operator has compared what the list shows; the DNS must not slip in another key meanwhile.
            let offer = known.and_then(|known| known.offer).filter(|offer| offer.found.id.key() != id.key());
            if let (Some(offer), true) = (offer, found.as_ref().is_some_and(|found| found.method != Method::Operator)) {
                self.contacts.store.look_again(Some(account), Some(name.to_string()), None)?;
                return Err(Failure::Conflict(format!(
                    "{name} leads to {} now, no longer to {}: compare again (toxctl name list)",
                    id, offer.found.id
                )));
            }
        }
        let message = self.contacts.message(at, new.message.as_deref());
        self.contacts.add(at, id, nickname(new.nick)?, message.clone())?;
        if let (Some(name), Some(found)) = (&name, found) {
            let invitation = published.map(|invitation| invitation.to_string());
            let settled = Settled { invitation, message: message.clone(), ..self.names.settled(at, name) };
            match self.contacts.store.confirm(settled, found, Because::Operator)? {
                Accepted::Pinned | Accepted::NoOffer => {}
                Accepted::OtherKey(key) => return Err(other_key(name, key)),
                Accepted::Blocked => return Err(Failure::Conflict("that key is blocked".into())),
            }
        }
        if let Some(invitation) = &invitation {
            self.with_relays()?.introduce(at, self.names.id(at), message, invitation)?;
        }
        self.shown_now(&account, &id.key())
    }

    fn remove_contact(&self, account: Option<&str>, who: &str) -> Result<(), Failure> {
        let contact = self.find(account, who)?;
        self.contacts.remove(self.account(Some(&contact.account))?, contact.key)
    }

    fn requests(&self, account: Option<&str>) -> Result<Vec<api::FriendRequest>, Failure> {
        self.check_account(account)?;
        let shown = |request: store::Request| api::FriendRequest {
            account: request.account,
            key: request.key.to_string(),
            message: request.message,
            received: request.received,
            refused: request.answer != Answer::Open,
            told: match request.answer {
                Answer::Open | Answer::Refused => None,
                Answer::Declining => Some(false),
                Answer::Declined => Some(true),
            },
            claim: request.claim,
            verified: request.verified,
        };
        Ok(self.reader()?.requests(account)?.into_iter().map(shown).collect())
    }

    fn accept_request(&self, account: Option<&str>, key: &str, nick: Option<String>) -> Result<api::Contact, Failure> {
        let request = self.request(account, key)?;
        let at = self.account(Some(&request.account))?;
        self.contacts.accept(at, request.key, nickname(nick)?)?;
        // If the address he claims is his, mail to it reaches him from now on, and mail from it is known as his.
        if let Some(claim) = request.claim.and_then(|claim| claim.parse::<Address>().ok()) {
            let (names, key) = (self.names.clone(), request.key);
            self.names.runtime.spawn(async move { names.pin_if_proved(at, claim, key).await });
        }
        self.shown_now(&request.account, &request.key)
    }

    fn refuse_request(&self, account: Option<&str>, key: &str, silent: bool) -> Result<api::Refused, Failure> {
        let request = self.request(account, key)?;
        let at = self.account(Some(&request.account))?;
        Ok(api::Refused { tell: self.contacts.refuse(at, request.key, !silent)? })
    }

    fn queue(&self, account: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<api::QueueEntry>, Failure> {
        self.check_account(account)?;
        let accounts = self.contacts.directory.accounts();
        let wanted = |at: &usize| account.is_none_or(|name| accounts[*at].name == name);
        let mut progress: HashMap<MailId, u64> = HashMap::new();
        let mut online: HashMap<usize, HashMap<PublicKey, bool>> = HashMap::new();
        for at in (0..self.contacts.handles.len()).filter(wanted) {
            // The list is worth more than how far its mails are.
            progress.extend(self.contacts.ask(at, Command::Progress).unwrap_or_default());
            online.insert(at, self.contacts.handles[at].snapshot().online.into_iter().collect());
        }
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let mut entries: Vec<api::QueueEntry> = Vec::new();
        for line in self.reader()?.queue(account, after.unwrap_or_default(), limit)? {
            let waits = self.contacts.directory.account(&line.account).is_some_and(|at| {
                // An offline contact costs no attempts: the mail waits for it, not for a time.
                let online = |peer| online.get(&at)?.get(&peer).copied();
                line.peer.and_then(online) != Some(true)
            });
            let (status, text) = line.failure.unzip();
            let recipient = api::QueueRecipient {
                address: line.address,
                peer: line.peer.map(|peer| peer.to_string()),
                restored: line.restored,
                state: match (line.peer, line.sending) {
                    _ if line.on_hold => "on_hold",
                    (None, _) => "held",
                    (Some(_), true) => "sending",
                    (Some(_), false) => "queued",
                }
                .into(),
                attempts: line.attempts,
                next_attempt: (!line.sending && !waits && !line.on_hold).then_some(line.next_attempt / 1000),
                status,
                text,
                // What is sent is the encoded body; people compare it with the mail's size.
                progress: progress.get(&line.transfer).filter(|_| line.sending).map(|sent| {
                    let share = *sent as f64 / line.wire_size.max(1) as f64;
                    (share * line.size as f64) as u64
                }),
                at_relays: line.at_relays.map(|(relays, since)| api::AtRelays { relays, since: since / 1000 }),
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
        let recipients = self.contacts.store.flush(what.queue_id, what.account, peer)?;
        match one {
            Some(id) if recipients == 0 => Err(Failure::NotFound(format!(
                "no mail with the queue id {id} waits for its turn: it may be under way already, or on hold (toxctl queue list)"
            ))),
            _ => Ok(api::Flushed { recipients }),
        }
    }
    fn change_queue(&self, step: api::QueueStep, what: api::Selection) -> Result<api::Touched, Failure> {
        self.check_account(what.account.as_deref())?;
        let (one, store) = (what.queue_id.clone(), &self.contacts.store);
        let (touched, that) = match step {
            api::QueueStep::Hold => (store.hold(what.queue_id, what.account)?, "waits and is not on hold"),
            api::QueueStep::Release => {
                let expire = self.reloader.live.get().queue.expire;
                let lifetime = i64::try_from(expire.as_millis()).unwrap_or(i64::MAX);
                (store.release(what.queue_id, what.account, lifetime)?, "is on hold")
            }
            api::QueueStep::Delete => (store.delete(what.queue_id, what.account)?, "waits"),
        };
        match one {
            Some(id) if touched.recipients == 0 && touched.sending > 0 => {
                Err(Failure::Conflict(format!("the mail {id} is being sent: try again when it waits")))
            }
            Some(id) if touched.recipients == 0 => {
                Err(Failure::NotFound(format!("no mail with the queue id {id} {that}")))
            }
            _ => Ok(api::Touched { recipients: touched.recipients, sending: touched.sending }),
        }
    }

    fn rotate_nospam(&self, account: Option<&str>) -> Result<api::NewId, Failure> {
        let at = self.account(account)?;
        let before = self.names.id(at).to_string();
        let id = self.contacts.ask(at, Command::RotateNospam)?.map_err(Failure::Unavailable)?;
        self.names.set_id(at, id);
        let account = self.contacts.directory.accounts()[at].name.clone();
        Ok(api::NewId { account, tox_id: id.to_string(), before })
    }

    fn relays(&self, account: Option<&str>) -> Result<api::Relays, Failure> {
        self.check_account(account)?;
        self.relays.as_ref().map_or_else(|| Ok(api::Relays::default()), |relays| relays.overview(account))
    }

    fn use_relay(&self, what: api::UseRelay) -> Result<api::UsedRelay, Failure> {
        let at = self.account(what.account.as_deref())?;
        let (relay, invite) = relays::parse(&what.relay)?;
        self.with_relays()?.add(at, relay, invite)
    }

    fn forget_relay(&self, account: Option<&str>, relay: &str) -> Result<(), Failure> {
        let at = self.account(account)?;
        let account = &self.contacts.directory.accounts()[at].name;
        let key = relays::named(relay, &self.relays(Some(account))?.used)?;
        self.with_relays()?.remove(at, key)
    }

    fn invitation(&self, what: api::AskInvitation) -> Result<api::Invitation, Failure> {
        let at = self.account(what.account.as_deref())?;
        let invitation = self.with_relays()?.invitation(at, self.names.id(at), what.renew)?;
        Ok(api::Invitation {
            account: self.contacts.directory.accounts()[at].name.clone(),
            text: invitation.to_string(),
            relays: invitation.relays.len() as u64,
        })
    }

    fn invite(&self, what: api::NewInvite) -> Result<api::Invited, Failure> {
        self.with_relays()?.invite(what.quota)
    }

    fn owners(&self) -> Result<Vec<api::Owner>, Failure> {
        self.with_relays()?.owners()
    }

    fn remove_owner(&self, key: &str) -> Result<(), Failure> {
        let key = key.parse().map_err(|error| Failure::Invalid(format!("an owner is named by its key: {error}")))?;
        self.with_relays()?.remove_owner(key)
    }
}
