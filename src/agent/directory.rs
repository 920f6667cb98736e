//! Whose address is whose: the accounts of this agent and their contacts, for routing submitted mail.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::Way;
use crate::identity::name::query::Query;
use crate::identity::tox_address::{self, ToxAddress};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::envelope::ReversePath;
use crate::mail::status::Refusal;
use crate::mail::trace::OutgoingRule;
use crate::store::{Contact, Destination};

/// A mailbox of an account.
pub struct Mailbox {
    /// Its name; the account's own mailbox has the account's.
    pub name: String,
    /// The way of its mail.
    pub way: Way,
}

/// An account as mail sees it.
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its Tox key.
    pub key: PublicKey,
    /// `<52 base32>@tox.alt`
    pub address: Address,
    /// Addresses that peers can write to, of all its mailboxes.
    pub reachable: Vec<Address>,
    /// Further envelope senders that are its own.
    pub senders: Vec<Address>,
    /// Mailbox 0 is its own.
    pub mailboxes: Vec<Mailbox>,
}

impl Account {
    /// What submitted mail needs so that answers find their way back.
    pub fn outgoing_rule(&self) -> OutgoingRule<'_> {
        OutgoingRule { key: &self.key, address: &self.address, reachable: &self.reachable }
    }

    fn owns(&self, address: &Address) -> bool {
        let own_key = match tox_address::parse(address) {
            Some(ToxAddress::Id(id)) => id.key() == self.key,
            Some(ToxAddress::Key(key) | ToxAddress::Mailbox(_, key)) => key == self.key,
            Some(ToxAddress::Nick(_)) | None => false,
        };
        own_key || self.reachable.iter().chain(&self.senders).any(|own| own.matches(address))
    }
}

/// All accounts and their contacts.
pub struct Directory {
    /// Their number, order and names stay; so do their mailboxes', but for new ones at the end.
    accounts: RwLock<Arc<Vec<Account>>>,
    /// For each account, its contacts with their nicknames.
    contacts: RwLock<Vec<HashMap<PublicKey, Option<String>>>>,
    /// For each account, the keys on its block list.
    blocked: RwLock<Vec<HashSet<PublicKey>>>,
    /// Whether names are looked up in the DNS.
    lookup: AtomicBool,
}

impl Directory {
    /// A directory of `accounts` with their stored contacts and block lists. `lookup`: whether names are looked up in the
    /// DNS.
    pub fn new(
        accounts: Vec<Account>,
        contacts: &[Contact],
        blocked: &[(String, PublicKey, i64)],
        lookup: bool,
    ) -> Self {
        let mut known = vec![HashMap::new(); accounts.len()];
        let mut refused = vec![HashSet::new(); accounts.len()];
        for (name, key, _) in blocked {
            if let Some(at) = accounts.iter().position(|account| account.name == *name) {
                refused[at].insert(*key);
            }
        }
        for contact in contacts {
            if let Some(at) = accounts.iter().position(|account| account.name == contact.account) {
                known[at].insert(contact.key, contact.nick.clone());
            }
        }
        Self {
            accounts: RwLock::new(Arc::new(accounts)),
            contacts: RwLock::new(known),
            blocked: RwLock::new(refused),
            lookup: AtomicBool::new(lookup),
        }
    }

    /// The same accounts, with other addresses, senders or further mailboxes at the end; and whether names are looked up.
    pub fn change(&self, accounts: Vec<Account>, lookup: bool) {
        *self.accounts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(accounts);
        self.lookup.store(lookup, Ordering::Relaxed);
    }

    /// The accounts as they are now, in the order of the configuration at the start.
    pub fn accounts(&self) -> Arc<Vec<Account>> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the account with this name.
    pub fn account(&self, name: &str) -> Option<usize> {
        self.accounts().iter().position(|account| account.name == name)
    }

    /// The nickname of a contact, if it is one and has one.
    pub fn nick(&self, account: usize, key: &PublicKey) -> Option<String> {
        let contacts = self.contacts.read().unwrap_or_else(PoisonError::into_inner);
        contacts.get(account)?.get(key)?.clone()
    }

    /// Whether a key is a contact's.
    pub fn is_contact(&self, account: usize, key: &PublicKey) -> bool {
        let contacts = self.contacts.read().unwrap_or_else(PoisonError::into_inner);
        contacts.get(account).is_some_and(|contacts| contacts.contains_key(key))
    }

    /// How many contacts all accounts have.
    pub fn contact_count(&self) -> usize {
        self.contacts.read().unwrap_or_else(PoisonError::into_inner).iter().map(HashMap::len).sum()
    }

    /// A contact is there now, or has another nickname.
    pub fn put(&self, account: usize, key: PublicKey, nick: Option<String>) {
        if let Some(contacts) = self.contacts.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            contacts.insert(key, nick);
        }
    }

    /// A contact is there now, if it was not before.
    pub fn ensure(&self, account: usize, key: PublicKey) {
        if let Some(contacts) = self.contacts.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            contacts.entry(key).or_insert(None);
        }
    }

    /// A contact is no longer there.
    pub fn remove(&self, account: usize, key: &PublicKey) {
        if let Some(contacts) = self.contacts.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            contacts.remove(key);
        }
    }

    /// Whether a key is on an account's block list.
    pub fn is_blocked(&self, account: usize, key: &PublicKey) -> bool {
        let blocked = self.blocked.read().unwrap_or_else(PoisonError::into_inner);
        blocked.get(account).is_some_and(|keys| keys.contains(key))
    }

    /// A key is on an account's block list now, or no longer.
    pub fn set_blocked(&self, account: usize, key: PublicKey, blocked: bool) {
        if let Some(keys) = self.blocked.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            if blocked {
                keys.insert(key)
            } else {
                keys.remove(&key)
            };
        }
    }

    /// The account that an envelope sender belongs to; `None` for `<>`, which belongs to none.
    ///
    /// # Errors
    /// The sender is nobody's here: 5.7.1.
    pub fn sender(&self, sender: &ReversePath) -> Result<Option<usize>, Refusal> {
        let Some(address) = sender else { return Ok(None) };
        match self.accounts().iter().position(|account| account.owns(address)) {
            Some(at) => Ok(Some(at)),
            None => Err(Refusal::permanent(
                7,
                1,
                format!("<{address}> belongs to no account of tox-agent: add it to `senders` of an [[account]]"),
            )),
        }
    }

    /// The account that sends and where the recipient is to be reached. Mail from `<>` goes through the first account
    /// that knows the recipient; `has_name` tells whether the account of that name knows that address of the DNS.
    ///
    /// # Errors
    /// 5.1.2 for a domain that is not reached by Tox, 5.1.1 where no contact matches, 5.7.1 where it is blocked.
    pub fn route(
        &self,
        sender: &ReversePath,
        recipient: &Address,
        has_name: impl Fn(&str, &str) -> bool,
    ) -> Result<(usize, Destination), Refusal> {
        let Some(address) = tox_address::parse(recipient) else {
            return self.route_name(sender, recipient, has_name);
        };
        let contacts = self.contacts.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.sender(sender)?;
        let candidates = (0..self.accounts().len()).filter(|at| wanted.is_none_or(|wanted| wanted == *at));
        for at in candidates {
            let found = match &address {
                ToxAddress::Nick(nick) => {
                    contacts[at].iter().find(|(_, n)| n.as_ref() == Some(nick)).map(|(key, _)| *key)
                }
                ToxAddress::Id(id) => Some(id.key()).filter(|key| contacts[at].contains_key(key)),
                ToxAddress::Key(key) | ToxAddress::Mailbox(_, key) => {
                    Some(*key).filter(|key| contacts[at].contains_key(key))
                }
            };
            if let Some(peer) = found {
                if self.is_blocked(at, &peer) {
                    return Err(Refusal::permanent(7, 1, "that contact is blocked here: see toxctl contact unblock"));
                }
                let wire_address = match &address {
                    ToxAddress::Mailbox(..) => recipient.to_string(),
                    _ => tox_address::canonical(&peer).to_string(),
                };
                return Ok((at, Destination::Peer { key: peer, wire_address }));
            }
        }
        Err(Refusal::permanent(
            1,
            1,
            match &address {
                ToxAddress::Nick(nick) => format!("no contact is called \"{nick}\": see toxctl contact list"),
                ToxAddress::Id(id) => format!("that Tox ID is no contact: toxctl contact add {id}"),
                ToxAddress::Key(_) | ToxAddress::Mailbox(..) => {
                    "that key is no contact: ask for the whole Tox ID and use toxctl contact add".to_owned()
                }
            },
        ))
    }
}

impl Directory {
    fn route_name(
        &self,
        sender: &ReversePath,
        recipient: &Address,
        has_name: impl Fn(&str, &str) -> bool,
    ) -> Result<(usize, Destination), Refusal> {
        let name = recipient.lowered().to_string();
        let wanted = self.sender(sender)?;
        let (accounts, lookup) = (self.accounts(), self.lookup.load(Ordering::Relaxed));
        let known = |at: &usize| has_name(&accounts[*at].name, &name);
        // Without look-ups only what the operator has pinned leads anywhere. Nobody's mail makes no contact.
        let at = match wanted.filter(|at| lookup || known(at)) {
            Some(at) => Some(at),
            None if wanted.is_none() => (0..accounts.len()).find(known),
            None => None,
        };
        let domain = recipient.domain();
        match at {
            Some(at) if Query::of_address(recipient).is_ok() || known(&at) => Ok((at, Destination::Name(name))),
            _ if !lookup => Err(Refusal::permanent(
                1,
                2,
                format!(
                    "the domain {domain} is not reached over Tox: it is not tox.alt, and names are not looked up here \
                     (names.lookup); toxctl contact add TOX-ID --address {recipient} makes it known"
                ),
            )),
            _ => Err(match Query::of_address(recipient) {
                Err(error) => Refusal::permanent(1, 2, format!("{recipient} is no name to look up: {error}")),
                Ok(_) => {
                    Refusal::permanent(1, 1, format!("no account knows {recipient}, and mail from <> makes no contact"))
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        with_lookup(false)
    }

    fn with_lookup(lookup: bool) -> Directory {
        let account = |name: &str, key: u8| Account {
            name: name.to_owned(),
            key: PublicKey([key; 32]),
            address: tox_address::canonical(&PublicKey([key; 32])),
            reachable: vec![format!("{name}@example.org").parse().expect("an address")],
            senders: vec![format!("{name}@laptop.local").parse().expect("an address")],
            mailboxes: Vec::new(),
        };
        let contact = |account: &str, key: u8, nick: Option<&str>| Contact {
            account: account.to_owned(),
            key: PublicKey([key; 32]),
            nick: nick.map(str::to_owned),
            tox_id: None,
            message: None,
            accepted: true,
            added: 0,
            last_seen: None,
            relays: 0,
        };
        Directory::new(
            vec![account("alice", 1), account("carol", 2)],
            &[contact("alice", 8, Some("bob")), contact("carol", 9, Some("dave")), contact("carol", 7, None)],
            &[("carol".to_owned(), PublicKey([9; 32]), 0)],
            lookup,
        )
    }

    fn path(text: &str) -> ReversePath {
        (!text.is_empty()).then(|| text.parse().expect(text))
    }

    #[test]
    fn only_own_senders_pass() {
        let directory = directory();
        let own = format!("work@{}.tox.alt", PublicKey([2; 32]).base32());
        for (sender, account) in [
            ("alice@example.org", Some(Some(0))),
            ("ALICE@laptop.local", Some(Some(0))),
            ("carol@laptop.local", Some(Some(1))),
            (own.as_str(), Some(Some(1))),
            ("", Some(None)),
            ("mallory@example.org", None),
            ("bob@tox.alt", None),
        ] {
            let result = directory.sender(&path(sender));
            assert_eq!(result.clone().ok(), account, "{sender}");
            if let Err(refusal) = result {
                assert_eq!(refusal.status().to_string(), "5.7.1");
            }
        }
    }

    #[test]
    fn recipients_are_contacts_of_the_sending_account() {
        let directory = directory();
        let key = |n: u8| PublicKey([n; 32]);
        let mailbox = format!("work@{}.tox.alt", key(8).base32());
        for (sender, recipient, expected) in [
            ("alice@example.org", "bob@tox.alt".to_owned(), Ok((0, key(8), format!("{}@tox.alt", key(8).base32())))),
            ("alice@example.org", "BOB@tox".to_owned(), Ok((0, key(8), format!("{}@tox.alt", key(8).base32())))),
            ("alice@example.org", mailbox.clone(), Ok((0, key(8), mailbox))),
            ("alice@example.org", "dave@tox.alt".to_owned(), Err("5.1.1")),
            ("carol@example.org", "dave@tox.alt".to_owned(), Err("5.7.1")),
            ("", format!("{}@tox", key(7)), Ok((1, key(7), format!("{}@tox.alt", key(7).base32())))),
            ("alice@example.org", "bob@example.org".to_owned(), Err("5.1.2")),
            ("mallory@x.org", "bob@tox.alt".to_owned(), Err("5.7.1")),
        ] {
            let result = directory.route(&path(sender), &recipient.parse().expect("an address"), |_, _| false);
            let result = result.map(|(at, to)| match to {
                Destination::Peer { key, wire_address } => (at, key, wire_address),
                Destination::Name(name) => panic!("{name} is no name"),
            });
            match (result, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(refusal), Err(code)) => assert_eq!(refusal.status().to_string(), code, "{recipient}"),
                (result, expected) => panic!("{recipient}: {result:?} instead of {expected:?}"),
            }
        }
        directory.remove(0, &key(8));
        assert!(
            directory.route(&path("alice@example.org"), &"bob@tox.alt".parse().expect("address"), |_, _| true).is_err()
        );
    }

    #[test]
    fn names_are_looked_up_for_the_sending_account_and_never_for_nobody() {
        let carol_has_dave = |account: &str, name: &str| (account, name) == ("carol", "dave@example.net");
        for (lookup, sender, recipient, expected) in [
            (true, "alice@example.org", "Bob@Example.net", Ok((0, "bob@example.net"))),
            (true, "carol@example.org", "dave@example.net", Ok((1, "dave@example.net"))),
            (true, "", "dave@example.net", Ok((1, "dave@example.net"))),
            (true, "", "bob@example.net", Err("5.1.1")),
            (true, "alice@example.org", "bob@localhost", Err("5.1.2")),
            (true, "alice@example.org", "bob@[127.0.0.1]", Err("5.1.2")),
            (true, "mallory@x.org", "bob@example.net", Err("5.7.1")),
            (false, "alice@example.org", "bob@example.net", Err("5.1.2")),
            (false, "carol@example.org", "dave@example.net", Ok((1, "dave@example.net"))),
        ] {
            let directory = with_lookup(lookup);
            let recipient: Address = recipient.parse().expect("an address");
            match (directory.route(&path(sender), &recipient, carol_has_dave), expected) {
                (Ok((at, Destination::Name(name))), Ok(expected)) => assert_eq!((at, name.as_str()), expected),
                (Err(refusal), Err(code)) => assert_eq!(refusal.status().to_string(), code, "{recipient}"),
                (result, expected) => panic!("{recipient}: {result:?} instead of {expected:?}"),
            }
        }
    }
}
