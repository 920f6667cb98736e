//! The types of the API, version 1, as server and client exchange them in JSON.
//!
//! Times are whole seconds since the epoch (UTC), sizes are octets, keys are 64 and Tox IDs 76 upper-case hexadecimal
//! digits. A client must skip fields it does not know; the server refuses them, so that no wish is lost silently.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// For how long it has been running, in seconds.
    pub uptime_s: u64,
    /// How the host is named in trace headers.
    pub hostname: String,
    /// The accounts, in the order of the configuration.
    pub accounts: Vec<AccountStatus>,
    /// The whole queue.
    pub queue: QueueSummary,
    /// What became of mail.
    #[serde(default)]
    pub counts: Counts,
    /// The relay that this agent is, and those its accounts use.
    #[serde(default)]
    pub relays: Relays,
}

/// One account of [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its Tox ID; empty where the identity could not be loaded (then `error` tells why).
    pub tox_id: String,
    /// Its address, `<52 base32>@tox.alt`.
    pub address: String,
    /// Whether and how it is on the Tox network.
    pub connection: Connection,
    /// How many contacts it has.
    pub contacts_total: u64,
    /// How many of them are online.
    pub contacts_online: u64,
    /// How many friend requests wait for an answer.
    pub requests: u64,
    /// How many names lead to a key that waits for the operator's yes.
    pub names_unconfirmed: u64,
    /// How many names lead to another key than the pinned one: mail to them is held.
    pub names_changed: u64,
    /// What keeps it from working.
    pub error: Option<String>,
}

/// How an account is on the Tox network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Not at all.
    Offline,
    /// By UDP.
    Udp,
    /// By TCP relays only.
    Tcp,
}

/// What waits in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSummary {
    /// How many mails.
    pub mails: u64,
    /// How many recipients of them still wait.
    pub recipients: u64,
    /// What their encoded bodies take on the disk.
    pub octets: u64,
    /// When the oldest arrived.
    pub oldest: Option<i64>,
    /// How many mails lie at enough relays and wait for the recipient's receipt.
    #[serde(default)]
    pub at_relays: u64,
    /// Since when the first of them does.
    #[serde(default)]
    pub at_relays_since: Option<i64>,
}

/// What became of mail since the agent began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Recipients whose mail is in their mailbox, or was handed on by their agent.
    pub sent: u64,
    /// Attempts for a recipient that were put off.
    pub deferred: u64,
    /// Recipients whose mail was returned, those who waited too long included.
    pub bounced: u64,
    /// Mails of contacts, one for each mailbox, that were stored or handed over.
    pub received: u64,
}

/// `GET /v1/probes/{token}`: a probe mail of `toxctl setup` that came from the MTA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What tells it from others.
    pub token: String,
    /// The envelope sender; empty for `<>`.
    pub sender: String,
    /// The MTA's queue id.
    pub mta_queue_id: Option<String>,
    /// Its size in octets.
    pub size: u64,
}

/// One element of `GET /v1/contacts?account=`; the answer of `POST /v1/contacts` and of accepting a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Whose contact it is.
    pub account: String,
    /// Its key.
    pub key: String,
    /// The local nickname, good for `nick@tox.alt`.
    pub nick: Option<String>,
    /// Its address, `<52 base32>@tox.alt`.
    pub address: String,
    /// Whether both sides agreed.
    pub state: ContactState,
    /// Whether it is online.
    pub online: bool,
    /// Whether it is a mail agent: it said hello.
    pub mail: bool,
    /// When it was last online.
    pub last_seen: Option<i64>,
    /// When it became a contact.
    pub added: i64,
    /// Whether it is on the block list: its mail is not taken, and none is sent to it.
    pub blocked: bool,
    /// The addresses that are pinned to its key.
    pub names: Vec<String>,
    /// At how many relays mail for it may wait while it is offline, as it has told us.
    #[serde(default)]
    pub relays: u32,
}

/// `GET /v1/contacts/{who}?account=`: all that is known of a contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactDetails {
    /// What the list shows.
    #[serde(flatten)]
    pub contact: Contact,
    /// The Tox ID we asked.
    pub tox_id: Option<String>,
    /// What our request said.
    pub message: Option<String>,
    /// How each of its names was found.
    pub pins: Vec<Name>,
}

/// One element of `GET /v1/names?account=`; the answer of accepting a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Whose it is.
    pub account: String,
    /// The address, in lower case.
    pub address: String,
    /// Whether mail to it flows.
    pub state: NameState,
    /// The pinned key.
    pub key: Option<String>,
    /// Whose record led to it: `name`, or `domain` for one that serves all names of the domain.
    pub via: Option<String>,
    /// How it was found: `tox1`, `tox3` or, told by the operator, `operator`.
    pub method: Option<String>,
    /// How it was proved: `secure` or `insecure`.
    pub proof: Option<String>,
    /// When it was pinned.
    pub first_seen: Option<i64>,
    /// When a look-up last confirmed it.
    pub last_seen: Option<i64>,
    /// What it was found to lead to, and nobody has accepted.
    pub offer: Option<Offer>,
    /// The enhanced status code that mail waits with, or of the last look-up that failed.
    pub status: Option<String>,
    /// Its text.
    pub text: Option<String>,
    /// When it is looked up again.
    pub next_lookup: Option<i64>,
    /// How many recipients wait for it.
    pub waiting: u64,
}

/// Whether mail to a [`Name`] flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameState {
    /// A key is pinned.
    Pinned,
    /// It leads to another key than the pinned one: mail is held until `toxctl contact accept-key`.
    Changed,
    /// It leads to a key that waits for the operator: `toxctl contact add`.
    Unconfirmed,
    /// It is being looked up.
    Unknown,
}

/// A Tox ID that a [`Name`] was found to lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The Tox ID.
    pub tox_id: String,
    /// As in [`Name`].
    pub via: String,
    /// As in [`Name`].
    pub method: String,
    /// As in [`Name`].
    pub proof: String,
    /// When it was first found.
    pub since: i64,
}

/// `GET /v1/lookup/{address}`: where an address leads by the DNS now, and how that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The address.
    pub address: String,
    /// The Tox ID it leads to.
    pub tox_id: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// As in [`Name`].
    pub via: Option<String>,
    /// As in [`Name`].
    pub method: Option<String>,
    /// `secure`, `insecure`, `bogus`, or `none` where nothing came that could be proved.
    pub proof: String,
    /// The invitation that the record tells, as a text, if it is proved.
    pub invitation: Option<String>,
    /// Whether mail to it would be returned at once, as there is proof that it leads nowhere.
    pub permanent: bool,
    /// The enhanced status code that mail would wait or be returned with.
    pub status: Option<String>,
    /// What it comes to, for people.
    pub text: String,
    /// Each question asked.
    pub steps: Vec<LookupStep>,
}

/// One question of a [`Lookup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupStep {
    /// The name asked.
    pub query: String,
    /// The type asked for.
    #[serde(rename = "type")]
    pub kind: String,
    /// `answer`, or why there was none.
    pub outcome: String,
    /// As in [`Lookup`].
    pub proof: String,
    /// What the records say.
    pub records: Vec<String>,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

/// One element of `GET /v1/records?account=`: how an own address stands in the DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub account: String,
    /// The address.
    pub address: String,
    /// The line for its zone; absent where the address is no name of the DNS.
    pub record: Option<String>,
    /// Whether it leads to this account.
    pub correct: bool,
    /// What was found, for people.
    pub text: String,
}

/// One element of `GET /v1/blocked?account=`: a key on the block list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Who has blocked it.
    pub account: String,
    /// The key.
    pub key: String,
    /// When.
    pub since: i64,
}

/// The body of `POST /v1/names/{address}/accept-key?account=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptKey {
    /// The Tox ID that was compared; any that was found without it.
    pub tox_id: Option<String>,
}

/// The body of `POST /v1/contacts/{who}/rename?account=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    /// The new nickname; none takes the old one away.
    pub nick: Option<String>,
}

/// The answer of `POST /v1/names/refresh?account=&who=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// How many names are being looked up.
    pub names: u64,
}

/// Whether a contact agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactState {
    /// We asked and heard nothing yet.
    Pending,
    /// Both sides agreed.
    Accepted,
}

/// The body of `POST /v1/contacts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewContact {
    /// For which account; needed where there are several.
    pub account: Option<String>,
    /// The Tox ID, in hexadecimal or base32; may be left out where there is an address, which is then looked up.
    pub tox_id: Option<String>,
    /// In place of the Tox ID: an invitation, by which the account also introduces itself.
    pub invitation: Option<String>,
    /// The address whose key is pinned: the one it is found to lead to, or that of `tox_id`.
    pub address: Option<String>,
    /// The local nickname.
    pub nick: Option<String>,
    /// What the other side is told with the request.
    pub message: Option<String>,
}

/// One element of `GET /v1/requests?account=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FriendRequest {
    /// Who is asked.
    pub account: String,
    /// Who asks.
    pub key: String,
    /// What they say: any text of a stranger.
    pub message: String,
    /// When it came last.
    pub received: i64,
    /// Whether it was refused.
    pub refused: bool,
    /// Whether they have heard so; absent if they are not to be told.
    #[serde(default)]
    pub told: Option<bool>,
    /// The address they claim.
    pub claim: Option<String>,
    /// Whether it leads, proved by DNSSEC, to their key; absent while nobody looked.
    pub verified: Option<bool>,
}

/// The body of `POST /v1/requests/{key}/refuse?account=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Not to tell them.
    #[serde(default)]
    pub silent: bool,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Whether they will be told when both sides are online: only if they are a mail agent, as their claim says.
    pub tell: bool,
}

/// The body of `POST /v1/requests/{key}/accept?account=`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// The local nickname of the new contact.
    pub nick: Option<String>,
}

/// `GET /v1/queue?account=&after=&limit=`: a page of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePage {
    /// The mails, in ascending order of their queue ids.
    pub mails: Vec<QueueEntry>,
    /// The value of `after` for the next page; absent on the last.
    pub next: Option<String>,
}

/// One waiting mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueEntry {
    /// Our queue id.
    pub queue_id: String,
    /// The MTA's.
    pub mta_queue_id: Option<String>,
    /// Whose mail it is.
    pub account: String,
    /// The envelope sender; empty for `<>`.
    pub sender: String,
    /// Its size in octets.
    pub size: u64,
    /// When it arrived.
    pub arrived: i64,
    /// When it bounces at last.
    pub expires: i64,
    /// The recipients that still wait.
    pub recipients: Vec<QueueRecipient>,
}

/// One recipient of a [`QueueEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecipient {
    /// The envelope recipient.
    pub address: String,
    /// The key of the peer that serves it, where it is known.
    pub peer: Option<String>,
    /// `queued`, `sending`, `held` while the address leads to no accepted key, or `on_hold` by the operator's word.
    pub state: String,
    /// Whether it was restored from a backup, and may have been delivered since that was made.
    #[serde(default)]
    pub restored: bool,
    /// How many attempts were made.
    pub attempts: u32,
    /// When the next is due; absent where it waits for the peer to come online.
    pub next_attempt: Option<i64>,
    /// The enhanced status code of the last attempt.
    pub status: Option<String>,
    /// The text of the last attempt.
    pub text: Option<String>,
    /// About how many octets of it were sent in this attempt.
    pub progress: Option<u64>,
    /// That it lies at relays; it still counts as waiting until the recipient's receipt has come.
    #[serde(default)]
    pub at_relays: Option<AtRelays>,
}

/// Sealed copies of a mail at relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtRelays {
    /// How many relays have all of it, by their signatures.
    pub relays: u32,
    /// Since when there are enough of them.
    pub since: i64,
}

/// `GET /v1/relays?account=`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relays {
    /// The relay that this agent is for others; absent where `relay.enabled` is not set.
    pub own: Option<OwnRelay>,
    /// The relays that the accounts use.
    pub used: Vec<UsedRelay>,
}

/// The relay that this agent is for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRelay {
    /// How it is told to others, without an invite.
    pub text: String,
    /// Whether and how it is on the Tox network.
    pub connection: Connection,
    /// Whether anybody may become an owner.
    pub open: bool,
    /// Whether contacts are told of it.
    pub offered: bool,
    /// How many owners it has.
    pub owners: u64,
    /// How many it may have while it is open.
    pub max_owners: u64,
    /// How many slots are registered.
    pub slots: u64,
    /// How many of them are filled.
    pub filled: u64,
    /// What they take on the disk.
    pub octets: u64,
    /// What they may take.
    pub max_disk: u64,
    /// What keeps it from working.
    pub error: Option<String>,
}

/// A relay that an account uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedRelay {
    /// The account.
    pub account: String,
    /// How the relay is told, without an invite.
    pub text: String,
    /// The relay's key in lower case, as in the log, which shows the first 16 of its 64 hexadecimal digits.
    pub key: String,
    /// What it is used for.
    pub purpose: RelayPurpose,
    /// Whether it is reachable; absent where nobody has tried yet, or nothing is to be done there.
    pub reachable: Option<bool>,
    /// Since when it is, or is not.
    pub since: Option<i64>,
    /// How many slots the account has registered there; 0 where it only deposits.
    pub slots: u64,
    /// How many of the account's waiting mails have a copy there.
    pub mails: u64,
    /// What the relay has said against it, or what went wrong last.
    pub error: Option<String>,
}

/// What an account uses a relay for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayPurpose {
    /// Mail to the account waits there, as the operator wanted (`toxctl relay use`).
    Told,
    /// Mail to the account waits there, as a contact has offered it.
    Offered,
    /// Mail of the account to contacts waits there, who have named it.
    Deposits,
}

/// The body of `POST /v1/relays`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UseRelay {
    /// For which account; needed where there are several.
    pub account: Option<String>,
    /// How the relay is told, with the invite where it wants one.
    pub relay: String,
}

/// Without the text, which may have an invite.
impl fmt::Debug for UseRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UseRelay").field("account", &self.account).finish_non_exhaustive()
    }
}

/// The body of `POST /v1/invitation`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskInvitation {
    /// Of which account; needed where there are several.
    pub account: Option<String>,
    /// Whether a new one takes the place of the one before, if there is one.
    #[serde(default)]
    pub renew: bool,
}

/// The answer to it: by what strangers who are never online with the account may introduce themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The account.
    pub account: String,
    /// How it is told.
    pub text: String,
    /// At how many relays introductions may wait.
    pub relays: u64,
}

/// The body of `POST /v1/relay/invites`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvite {
    /// What the owner's mail may take, in octets; `relay.owner_quota` without it.
    pub quota: Option<u64>,
}

/// The answer to it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// How the relay is told, with an invite that makes one owner.
    pub text: String,
    /// What the owner's mail may take, in octets.
    pub quota: u64,
}

/// Without the invite.
impl fmt::Debug for Invited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invited").field("quota", &self.quota).finish_non_exhaustive()
    }
}

/// One element of `GET /v1/relay/owners`: somebody whose mail waits at the relay that this agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The Tox key that it shows to this relay alone.
    pub key: String,
    /// When it became an owner.
    pub since: i64,
    /// When it was last there; absent while it never was.
    pub last_seen: Option<i64>,
    /// How many slots it has registered.
    pub slots: u64,
    /// How many of them are filled.
    pub filled: u64,
    /// What they take on the disk.
    pub octets: u64,
    /// What they may take.
    pub quota: u64,
}

/// The body of `POST /v1/queue/flush`: which mail becomes due now; all of it where nothing is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flush {
    /// Only the mail with this queue id of ours or of the MTA's.
    pub queue_id: Option<String>,
    /// Only mail of this account.
    pub account: Option<String>,
    /// Only mail to this contact: key, Tox ID or nick.
    pub contact: Option<String>,
}

/// What reading the configuration again has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys whose new values are in force.
    pub applied: Vec<String>,
    /// Keys whose new values need a restart.
    pub restart: Vec<String>,
}

/// The answer to [`Flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// How many recipients became due.
    pub recipients: u64,
}

/// The body of `POST /v1/queue/hold`, `/v1/queue/release` and `/v1/queue/delete`: which mail; all of it where nothing is
/// given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Only the mail with this queue id of ours or of the MTA's.
    pub queue_id: Option<String>,
    /// Only mail of this account.
    pub account: Option<String>,
}

/// What is to be done with a [`Selection`] of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueStep {
    /// It is neither sent nor does it expire, until it is released.
    Hold,
    /// What was on hold waits like other mail, for a whole lifetime again.
    Release,
    /// It is removed, and nobody is told.
    Delete,
}

/// The answer to a [`QueueStep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// How many recipients it was done for.
    pub recipients: u64,
    /// How many were left as they are because they are being sent.
    pub sending: u64,
}

/// The answer of `POST /v1/nospam/rotate?account=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewId {
    /// The account.
    pub account: String,
    /// Its Tox ID from now on.
    pub tox_id: String,
    /// The one that friend requests no longer arrive at.
    pub before: String,
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What went wrong, for the user.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
}
