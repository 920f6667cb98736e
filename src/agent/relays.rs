//! What toxctl asks about relays: who answers it, and how a relay is named.

use crate::control::{Failure, api};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::invite::Invitation;
use crate::lane::keys::RelayKey;
use crate::relay::descriptor::{Descriptor, Invite};

/// How many digits of a key name a relay in the log, and suffice to name it to us.
const DIGITS: usize = 16;

/// Who knows of relays: of the one that this agent is, and of those that its accounts use. Calls may block; accounts are
/// there when they are named. Each is durable when it returns.
pub trait Relays: Send + Sync + 'static {
    /// The own relay, and those that the account with this name, or all accounts, use.
    ///
    /// # Errors
    /// As of all calls: a [`Failure`] for the user.
    fn overview(&self, account: Option<&str>) -> Result<api::Relays, Failure>;

    /// Has mail for the account with this number wait at a relay.
    ///
    /// # Errors
    /// [`Failure::Conflict`]: it is used already, or the account has `relays = "none"`.
    fn add(&self, account: usize, relay: Descriptor, invite: Option<Invite>) -> Result<api::UsedRelay, Failure>;

    /// Uses a relay no more: contacts are told of those that are left. What waits there is not fetched; its senders put it
    /// elsewhere once they have heard.
    ///
    /// # Errors
    /// [`Failure::NotFound`]: it is not used.
    fn remove(&self, account: usize, relay: RelayKey) -> Result<(), Failure>;

    /// By what strangers may introduce themselves to the account with this number, whose Tox ID is told; with `renew` by a new
    /// code, after which the one before leads nowhere.
    ///
    /// # Errors
    /// [`Failure::Conflict`]: the account uses no relay that has answered.
    fn invitation(&self, account: usize, id: ToxId, renew: bool) -> Result<Invitation, Failure>;

    /// Introduces the account with this number, as a Tox ID with these words, to who has published this invitation and is a
    /// contact.
    ///
    /// # Errors
    /// [`Failure::Conflict`]: the account has `relays = "none"`.
    fn introduce(&self, account: usize, id: ToxId, text: String, to: &Invitation) -> Result<(), Failure>;

    /// Makes an invite with this quota in octets, or with `relay.owner_quota`.
    ///
    /// # Errors
    /// [`Failure::Conflict`]: this agent is no relay, or is full.
    fn invite(&self, quota: Option<u64>) -> Result<api::Invited, Failure>;

    /// The owners at the own relay.
    ///
    /// # Errors
    /// [`Failure::Conflict`]: this agent is no relay.
    fn owners(&self) -> Result<Vec<api::Owner>, Failure>;

    /// Removes an owner with all that waits for it.
    ///
    /// # Errors
    /// [`Failure::NotFound`]: there is none. [`Failure::Conflict`]: this agent is no relay.
    fn remove_owner(&self, key: PublicKey) -> Result<(), Failure>;
}

/// Reads how a relay is told.
///
/// # Errors
/// [`Failure::Invalid`]: it is no relay's text.
pub fn parse(text: &str) -> Result<(Descriptor, Option<Invite>), Failure> {
    Descriptor::parse(text).map_err(|error| Failure::Invalid(error.to_string()))
}

/// The relay, of those that an account uses by the operator's word, that is named by its text (with or without an invite),
/// its key, or the first 16 digits of that, as lists and the log show it.
///
/// # Errors
/// It is none of them.
pub fn named(who: &str, used: &[api::UsedRelay]) -> Result<RelayKey, Failure> {
    let who = who.trim();
    let told = |one: &&api::UsedRelay| one.purpose == api::RelayPurpose::Told;
    let text = Descriptor::parse(who).ok().map(|(relay, _)| relay.to_string());
    let is = |one: &&api::UsedRelay| match &text {
        Some(text) => one.text == *text,
        None => who.len() >= DIGITS && one.key.get(..who.len()).is_some_and(|start| start.eq_ignore_ascii_case(who)),
    };
    let Some(found) = used.iter().filter(told).find(is) else {
        // Not with an invite, which is a secret.
        let who = text.as_deref().unwrap_or(who);
        return Err(match used.iter().find(is) {
            Some(_) => Failure::Conflict(format!("the relay {who} is used by a contact's word: toxctl relay status")),
            None => Failure::NotFound(format!("no relay {who} is used: toxctl relay status")),
        });
    };
    parse(&found.text).map(|(relay, _)| relay.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(octet: u8) -> Descriptor {
        Descriptor { id: ToxId::new(PublicKey([1; 32]), [1, 2, 3, 4]), key: RelayKey([octet; 32]) }
    }

    fn used(octet: u8, purpose: api::RelayPurpose) -> api::UsedRelay {
        api::UsedRelay {
            account: "alice".into(),
            text: relay(octet).to_string(),
            key: PublicKey([octet; 32]).to_string(),
            purpose,
            reachable: None,
            since: None,
            slots: 0,
            mails: 0,
            error: None,
        }
    }

    #[test]
    fn a_relay_in_use_is_named_as_it_was_told_or_as_it_is_shown() {
        let list = [used(0xab, api::RelayPurpose::Told), used(0xcd, api::RelayPurpose::Offered)];
        let invited = relay(0xab).with_invite(&Invite([1; 16]));
        for who in [&relay(0xab).to_string(), &invited, &"AB".repeat(32), &"ab".repeat(8), &format!(" {invited}\n")] {
            assert_eq!(named(who, &list), Ok(RelayKey([0xab; 32])), "{who}");
        }
        for who in ["", "AB", &"AB".repeat(7), &"EF".repeat(32), &"AB".repeat(33), &relay(0xef).to_string()] {
            assert!(matches!(named(who, &list), Err(Failure::NotFound(_))), "{who}");
        }
        let offered = named(&"CD".repeat(8), &list);
        assert!(matches!(offered, Err(Failure::Conflict(text)) if text.contains("by a contact's word")));
    }
}
