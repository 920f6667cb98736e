//! Which mail an account takes: its addresses, its mailboxes, its limits.

use std::collections::{BTreeSet, HashMap};

use super::transfer::{Encoding, MAX_RECIPIENTS};
use super::wire::Offer;
use crate::identity::tox_address::{self, ToxAddress};
use crate::identity::tox_id::PublicKey;
use crate::mail::address::Address;
use crate::mail::status::Refusal;

/// What an account takes from its peers.
#[derive(Debug, Clone)]
pub struct Rules {
    key: PublicKey,
    addresses: HashMap<String, usize>,
    names: HashMap<String, usize>,
    /// Local parts of addresses, for `local@<key>.tox.alt`; `None` where two mailboxes have the same.
    locals: HashMap<String, Option<usize>>,
    /// The largest mail, in octets.
    pub max_size: u64,
    /// How many transfers of one peer are served at a time.
    pub max_transfers: usize,
    /// How many of them may be bulk, each with a file of its own.
    pub max_bulk: usize,
    /// How many octets of burst mail one peer may have unanswered.
    pub max_burst: u64,
    /// How many recipients one mail may have here.
    pub max_recipients: u32,
    /// The mailboxes whose mail is given to another mail system, as their senders are told.
    pub relays: BTreeSet<usize>,
    /// Name and version of this program, told in HELLO.
    pub software: String,
}

impl Rules {
    /// The rules of the account with `key`. Mailbox 0 is its own; `mailboxes` gives, for each in turn, its name (for
    /// `name@<key>.tox.alt`) and its addresses.
    pub fn new<'a>(
        key: PublicKey,
        mailboxes: impl IntoIterator<Item = (&'a str, &'a [Address])>,
        max_size: u64,
        software: &str,
    ) -> Self {
        let (mut addresses, mut names, mut locals) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (number, (name, own)) in mailboxes.into_iter().enumerate() {
            names.insert(name.to_lowercase(), number);
            for address in own {
                let place = locals.entry(address.local().to_lowercase()).or_insert(Some(number));
                *place = place.filter(|at| *at == number);
            }
            addresses.extend(own.iter().map(|address| (normal(address), number)));
        }
        Self {
            key,
            addresses,
            names,
            locals,
            max_size,
            max_transfers: 256,
            max_bulk: 16,
            max_burst: 4 << 20,
            max_recipients: MAX_RECIPIENTS,
            relays: BTreeSet::new(),
            software: software.to_owned(),
        }
    }

    /// Why a mail is not taken for anybody here, ever.
    pub fn refuses(&self, offer: &Offer<'_>) -> Option<Refusal> {
        let encoding = Encoding::from_number(offer.encoding);
        if offer.recipients == 0 || offer.recipients > self.max_recipients {
            Some(Refusal::permanent(5, 3, format!("a mail may have 1 to {} recipients here", self.max_recipients)))
        } else if offer.size > self.max_size {
            Some(Refusal::permanent(3, 4, format!("mails of more than {} octets are not taken here", self.max_size)))
        } else if offer.wire_size > offer.size.saturating_add(offer.size / 64).saturating_add(1024) {
            Some(Refusal::permanent(6, 0, "the encoded mail is longer than the mail"))
        } else if encoding == Some(Encoding::Identity) && offer.wire_size != offer.size {
            Some(Refusal::permanent(6, 0, "the mail is not encoded, yet its two lengths differ"))
        } else if encoding.is_none() {
            Some(Refusal::permanent(6, 1, "unknown encoding of the mail"))
        } else if !offer.sender.is_empty() && offer.sender.parse::<Address>().is_err() {
            Some(Refusal::permanent(1, 7, "the sender address is malformed"))
        } else {
            None
        }
    }

    /// The mailbox that `address` names, or `None` when it is not one of this account.
    pub fn mailbox(&self, address: &str) -> Option<usize> {
        let address: Address = address.parse().ok()?;
        if let Some(number) = self.addresses.get(&normal(&address)) {
            return Some(*number);
        }
        match tox_address::parse(&address)? {
            ToxAddress::Id(id) if id.key() == self.key => Some(0),
            ToxAddress::Key(key) if key == self.key => Some(0),
            ToxAddress::Mailbox(name, key) if key == self.key => {
                let name = name.to_lowercase();
                self.names.get(&name).copied().or_else(|| self.locals.get(&name).copied().flatten())
            }
            _ => None,
        }
    }
}

fn normal(address: &Address) -> String {
    format!("{}@{}", address.local().to_lowercase(), address.domain())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tox_id::ToxId;

    #[test]
    fn every_form_of_an_own_address_finds_its_mailbox_and_no_other_does() {
        let key = PublicKey([5; 32]);
        let address = |text: &str| text.parse::<Address>().expect(text);
        let own = [address("Bob@Example.org"), address("info@a.example")];
        let work = [address("bob.work@example.org"), address("info@b.example")];
        let rules = Rules::new(key, [("bob", &own[..]), ("work", &work[..])], 1000, "test");
        let id = ToxId::new(key, [1, 2, 3, 4]);
        for (text, mailbox) in [
            ("bob@example.ORG".to_owned(), Some(0)),
            ("bob.work@example.org".to_owned(), Some(1)),
            (format!("{}@tox.alt", key.base32()), Some(0)),
            (format!("{key}@tox"), Some(0)),
            (format!("{id}@tox.alt"), Some(0)),
            (format!("WORK@{}.tox.alt", key.base32()), Some(1)),
            (format!("Bob.Work@{}.tox.alt", key.base32()), Some(1)),
            (format!("info@{}.tox.alt", key.base32()), None),
            (format!("nobody@{}.tox.alt", key.base32()), None),
            (format!("work@{}.tox.alt", PublicKey([6; 32]).base32()), None),
            (format!("{}@tox.alt", PublicKey([6; 32]).base32()), None),
            ("bob@tox.alt".to_owned(), None),
            ("alice@example.org".to_owned(), None),
            ("no address".to_owned(), None),
        ] {
            assert_eq!(rules.mailbox(&text), mailbox, "{text}");
        }
    }
}
