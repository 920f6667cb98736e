//! The control socket: HTTP and JSON over a Unix socket, by which toxctl manages the agent.
//!
//! Owns the API's types ([`api`]), the server ([`server`]) with its figures for monitoring ([`metrics`]), and a blocking
//! client ([`client`]). Keys, IDs and addresses are texts here; what they mean is up to the [`Backend`], which the agent
//! implements. Uses no other module of this library.

pub mod api;
pub mod client;
pub mod metrics;
pub mod server;

use std::fmt;

/// What the server asks the agent. Calls may block: the server makes each on a thread for such.
pub trait Backend: Send + Sync + 'static {
    /// How the agent is.
    ///
    /// # Errors
    /// As of all calls: a [`Failure`] for the user.
    fn status(&self) -> Result<api::Status, Failure>;

    /// Reads the configuration again.
    ///
    /// # Errors
    /// It is faulty; the old one stays.
    fn reload(&self) -> Result<api::Reloaded, Failure>;

    /// The probe mail with this token, if it came from the MTA.
    ///
    /// # Errors
    /// It has not come.
    fn probe(&self, token: &str) -> Result<api::Probe, Failure>;

    /// The contacts of `account`, or of all accounts.
    ///
    /// # Errors
    /// There is no such account.
    fn contacts(&self, account: Option<&str>) -> Result<Vec<api::Contact>, Failure>;

    /// Asks for friendship. Without an account, the only one is meant. An address without Tox ID is looked up, and its key
    /// pinned.
    ///
    /// # Errors
    /// The Tox ID is none, the address leads nowhere or is pinned to another key, the contact or its nick is there
    /// already, there are several accounts.
    fn add_contact(&self, contact: api::NewContact) -> Result<api::Contact, Failure>;

    /// All that is known of a contact, named by key, Tox ID, nick or address.
    ///
    /// # Errors
    /// There is no such contact, or several accounts have one.
    fn contact(&self, account: Option<&str>, who: &str) -> Result<api::ContactDetails, Failure>;

    /// Gives a contact another nickname, or none.
    ///
    /// # Errors
    /// There is no such contact, or the nick is taken.
    fn rename_contact(&self, account: Option<&str>, who: &str, nick: Option<String>) -> Result<api::Contact, Failure>;

    /// Puts a contact, or a stranger's key, on the block list (or takes it off).
    ///
    /// # Errors
    /// It is no contact and no key.
    fn block(&self, account: Option<&str>, who: &str, blocked: bool) -> Result<(), Failure>;

    /// The names of `account`, or of all accounts.
    ///
    /// # Errors
    /// There is no such account.
    fn names(&self, account: Option<&str>) -> Result<Vec<api::Name>, Failure>;

    /// Pins the key that a name was found to lead to; with a Tox ID, only if it is that.
    ///
    /// # Errors
    /// There is nothing to accept, or something else.
    fn accept_key(&self, account: Option<&str>, address: &str, tox_id: Option<&str>) -> Result<api::Name, Failure>;

    /// The block list of `account`, or of all accounts.
    ///
    /// # Errors
    /// There is no such account.
    fn blocked(&self, account: Option<&str>) -> Result<Vec<api::Blocked>, Failure>;

    /// Has names looked up again: all, or those of one contact or address.
    ///
    /// # Errors
    /// There is no such contact.
    fn refresh(&self, account: Option<&str>, who: Option<&str>) -> Result<api::Refreshed, Failure>;

    /// Looks up where an address leads; changes nothing.
    ///
    /// # Errors
    /// It is no address.
    fn look_up(&self, address: &str) -> Result<api::Lookup, Failure>;

    /// How the addresses of `account`, or of all accounts, stand in the DNS.
    ///
    /// # Errors
    /// There is no such account.
    fn records(&self, account: Option<&str>) -> Result<Vec<api::Record>, Failure>;

    /// Forgets a contact, named by key, Tox ID, nick or address.
    ///
    /// # Errors
    /// There is no such contact, or several accounts have one.
    fn remove_contact(&self, account: Option<&str>, who: &str) -> Result<(), Failure>;

    /// The friend requests of `account`, or of all accounts.
    ///
    /// # Errors
    /// There is no such account.
    fn requests(&self, account: Option<&str>) -> Result<Vec<api::FriendRequest>, Failure>;

    /// Makes a contact of the one who asked with `key`.
    ///
    /// # Errors
    /// There is no such request, several accounts have one, the nick is taken.
    fn accept_request(&self, account: Option<&str>, key: &str, nick: Option<String>) -> Result<api::Contact, Failure>;

    /// Refuses the request of `key`, now and when it comes again. `silent`: they are not told.
    ///
    /// # Errors
    /// There is no such request, or several accounts have one.
    fn refuse_request(&self, account: Option<&str>, key: &str, silent: bool) -> Result<api::Refused, Failure>;

    /// The waiting mails of `account`, or of all accounts, in ascending order of their queue ids (compared as octets):
    /// the first `limit` of those after the queue id `after`, which may have left the queue already.
    ///
    /// # Errors
    /// There is no such account.
    fn queue(&self, account: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<api::QueueEntry>, Failure>;

    /// Makes waiting mail due now.
    ///
    /// # Errors
    /// What it names is not there.
    fn flush(&self, what: api::Flush) -> Result<api::Flushed, Failure>;

    /// Puts waiting mail on hold, releases or deletes it.
    ///
    /// # Errors
    /// What it names is not there, or is being sent.
    fn change_queue(&self, step: api::QueueStep, what: api::Selection) -> Result<api::Touched, Failure>;

    /// Gives an account (the only one, without a name) a Tox ID with a new nospam; the key stays.
    ///
    /// # Errors
    /// There is no such account, there are several, or the identity cannot be written: then the old ID stays.
    fn rotate_nospam(&self, account: Option<&str>) -> Result<api::NewId, Failure>;

    /// The relay that the agent is, and those that `account`, or all accounts, use.
    ///
    /// # Errors
    /// There is no such account.
    fn relays(&self, account: Option<&str>) -> Result<api::Relays, Failure>;

    /// Has mail for an account (the only one, without a name) wait at a relay while it is offline.
    ///
    /// # Errors
    /// The text is no relay's, the relay is used already, or the account may use none.
    fn use_relay(&self, what: api::UseRelay) -> Result<api::UsedRelay, Failure>;

    /// Uses a relay no more, named by its text, its key or the first 16 digits of that.
    ///
    /// # Errors
    /// The account uses no such relay, or not by the operator's word.
    fn forget_relay(&self, account: Option<&str>, relay: &str) -> Result<(), Failure>;

    /// By what strangers may introduce themselves to an account (the only one, without a name).
    ///
    /// # Errors
    /// There is no such account, there are several, or it uses no relay that has answered.
    fn invitation(&self, what: api::AskInvitation) -> Result<api::Invitation, Failure>;

    /// Makes an invite: whoever has it may become an owner, once.
    ///
    /// # Errors
    /// The agent is no relay, or it has as many owners as it may have.
    fn invite(&self, what: api::NewInvite) -> Result<api::Invited, Failure>;

    /// The owners at the relay that the agent is.
    ///
    /// # Errors
    /// The agent is no relay.
    fn owners(&self) -> Result<Vec<api::Owner>, Failure>;

    /// Removes an owner, by its key, with all that waits for it.
    ///
    /// # Errors
    /// The agent is no relay, or has no such owner.
    fn remove_owner(&self, key: &str) -> Result<(), Failure>;
}

/// Why the agent did not do as asked; the text is for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// What the request names is not there: 404.
    NotFound(String),
    /// The request makes no sense: 400.
    Invalid(String),
    /// It is there already, or it is not clear which is meant: 409.
    Conflict(String),
    /// Not now: 503.
    Unavailable(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(text) | Self::Invalid(text) | Self::Conflict(text) | Self::Unavailable(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for Failure {}
