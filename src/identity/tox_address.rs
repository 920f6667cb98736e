//! The address forms that name a Tox peer without DNS (`docs/names.md`).

use super::tox_id::{PublicKey, ToxId};
use crate::mail::address::Address;

/// What an address of the `tox.alt` or `tox` domains names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToxAddress {
    /// `<61 base32>@tox.alt`, `<76 hex>@tox.alt`, `<76 hex>@tox`: a whole Tox ID.
    Id(ToxId),
    /// `<52 base32>@tox.alt`, `<64 hex>@tox.alt`, `<64 hex>@tox`: a public key.
    Key(PublicKey),
    /// `user@<52 base32>.tox.alt`: the mailbox `user` at the agent with that key.
    Mailbox(String, PublicKey),
    /// `nick@tox.alt`, `nick@tox`: a contact's local nickname, in lower case.
    Nick(String),
}

/// Reads `address` as one of the forms; `None` when its domain is not ours or the label before `.tox.alt` is no key.
pub fn parse(address: &Address) -> Option<ToxAddress> {
    let local = address.local();
    match address.domain() {
        "tox.alt" | "tox" => Some(if let Ok(id) = local.parse::<ToxId>() {
            ToxAddress::Id(id)
        } else if let Ok(key) = local.parse::<PublicKey>() {
            ToxAddress::Key(key)
        } else {
            ToxAddress::Nick(local.to_lowercase())
        }),
        domain => {
            let label = domain.strip_suffix(".tox.alt")?;
            let key = if label.len() == 52 { label.parse().ok()? } else { return None };
            Some(ToxAddress::Mailbox(local.to_owned(), key))
        }
    }
}

/// The canonical address of the default mailbox of `key`: `<52 base32>@tox.alt`.
pub fn canonical(key: &PublicKey) -> Address {
    Address::new(&key.base32(), "tox.alt").expect("52 base32 characters are a local part")
}

/// The address `name@<52 base32>.tox.alt` of the mailbox `name` at the agent with that key; `None` where `name` can stand
/// before no `@`.
pub fn mailbox(name: &str, key: &PublicKey) -> Option<Address> {
    Address::new(name, &format!("{}.tox.alt", key.base32())).ok()
}
