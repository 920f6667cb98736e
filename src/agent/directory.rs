//! Whose address is whose: the accounts of this agent and their contacts, for routing submitted mail.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};

use crate::identity::tox_address::{self, ToxAddress};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::envelope::ReversePath;
use crate::mail::status::Refusal;
use crate::mail::trace::OutgoingRule;
use crate::store::Contact;

/// A mailbox of an account.
pub struct Mailbox {
    /// Its name; the account's own mailbox has the account's.
    pub name: String,
    /// Where its Maildir is.
    pub maildir: PathBuf,
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

/// Where a recipient is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The contact.
    pub peer: PublicKey,
    /// The forward-path that the contact's agent understands.
    pub wire_address: Address,
}

/// All accounts and their contacts.
pub struct Directory {
    accounts: Vec<Account>,
    /// For each account, its contacts with their nicknames.
    contacts: RwLock<Vec<HashMap<PublicKey, Option<String>>>>,
}

impl Directory {
    /// A directory of `accounts` with their stored contacts.
    pub fn new(accounts: Vec<Account>, contacts: &[Contact]) -> Self {
        let mut known = vec![HashMap::new(); accounts.len()];
        for contact in contacts {
            if let Some(at) = accounts.iter().position(|account| account.name == contact.account) {
                known[at].insert(contact.key, contact.nick.clone());
            }
        }
        Self { accounts, contacts: RwLock::new(known) }
    }

    /// The accounts, in the order of the configuration.
    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// The number of the account with this name.
    pub fn account(&self, name: &str) -> Option<usize> {
        self.accounts.iter().position(|account| account.name == name)
    }

    /// The nickname of a contact, if it is one and has one.
    pub fn nick(&self, account: usize, key: &PublicKey) -> Option<String> {
        let contacts = self.contacts.read().unwrap_or_else(PoisonError::into_inner);
        contacts.get(account)?.get(key)?.clone()
    }

    /// A contact is there now, or has another nickname.
    pub fn put(&self, account: usize, key: PublicKey, nick: Option<String>) {
        if let Some(contacts) = self.contacts.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            contacts.insert(key, nick);
        }
    }

    /// A contact is no longer there.
    pub fn remove(&self, account: usize, key: &PublicKey) {
        if let Some(contacts) = self.contacts.write().unwrap_or_else(PoisonError::into_inner).get_mut(account) {
            contacts.remove(key);
        }
    }

    /// The account that an envelope sender belongs to; `None` for `<>`, which belongs to none.
    ///
    /// # Errors
    /// The sender is nobody's here: 5.7.1.
    pub fn sender(&self, sender: &ReversePath) -> Result<Option<usize>, Refusal> {
        let Some(address) = sender else { return Ok(None) };
        match self.accounts.iter().position(|account| account.owns(address)) {
            Some(at) => Ok(Some(at)),
            None => Err(Refusal::permanent(
                7,
                1,
                format!("<{address}> belongs to no account of tox-agent: add it to `senders` of an [[account]]"),
            )),
        }
    }

    /// The account that sends and the route to a recipient. Mail from `<>` goes through the first account that knows the
    /// recipient.
    ///
    /// # Errors
    /// 5.1.2 for a domain that is not reached by Tox, 5.1.1 where no contact matches.
    pub fn route(&self, sender: &ReversePath, recipient: &Address) -> Result<(usize, Route), Refusal> {
        let Some(address) = tox_address::parse(recipient) else {
            let text = format!("the domain {} is not reached over Tox: it is not tox.alt", recipient.domain());
            return Err(Refusal::permanent(1, 2, text));
        };
        let contacts = self.contacts.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.sender(sender)?;
        let candidates = (0..self.accounts.len()).filter(|at| wanted.is_none_or(|wanted| wanted == *at));
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
                let wire_address = match &address {
                    ToxAddress::Mailbox(..) => recipient.clone(),
                    _ => tox_address::canonical(&peer),
                };
                return Ok((at, Route { peer, wire_address }));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> Directory {
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
        };
        Directory::new(
            vec![account("alice", 1), account("carol", 2)],
            &[contact("alice", 8, Some("bob")), contact("carol", 9, Some("dave")), contact("carol", 7, None)],
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
            ("", "dave@tox.alt".to_owned(), Ok((1, key(9), format!("{}@tox.alt", key(9).base32())))),
            ("", format!("{}@tox", key(7)), Ok((1, key(7), format!("{}@tox.alt", key(7).base32())))),
            ("alice@example.org", "bob@example.org".to_owned(), Err("5.1.2")),
            ("mallory@x.org", "bob@tox.alt".to_owned(), Err("5.7.1")),
        ] {
            let result = directory.route(&path(sender), &recipient.parse().expect("an address"));
            let result = result.map(|(at, route)| (at, route.peer, route.wire_address.to_string()));
            match (result, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(refusal), Err(code)) => assert_eq!(refusal.status().to_string(), code, "{recipient}"),
                (result, expected) => panic!("{recipient}: {result:?} instead of {expected:?}"),
            }
        }
        directory.remove(0, &key(8));
        assert!(directory.route(&path("alice@example.org"), &"bob@tox.alt".parse().expect("address")).is_err());
    }
}
