//! Names that lead to contacts by the DNS: the pinned keys, what look-ups offered, and the mail that waits for a name.
//!
//! A recipient whose name leads to no accepted key has no peer (`recipient.peer` is NULL), so that no link can get it. What
//! a finding means is decided by [`crate::engine::trust`], within the transaction that carries it out: an operator's word
//! that came meanwhile is never overrun.

use rusqlite::{OptionalExtension, Row, params};

use super::introductions;
use super::outcome;
use super::queue;
use super::schema::Reader;
use super::writer::{Event, Session, Store, StoreError};
use crate::engine::schedule;
use crate::engine::trust::{self, Known, Policy, Verdict};
use crate::identity::name::finding::{Finding, Found, Method, Proof, Via};
use crate::identity::tox_address;
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::mail::address::Address;
use crate::mail::status::Refusal;

/// The shortest time between look-ups that find nothing, in milliseconds: an outage must not look like an absence.
pub const DENIAL_WAIT: i64 = 30 * 60_000;

/// The key that was accepted for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    /// The key.
    pub key: PublicKey,
    /// Whose record led to it.
    pub via: Via,
    /// How it was found.
    pub method: Method,
    /// How it was proved.
    pub proof: Proof,
    /// When it was accepted, in seconds since the epoch.
    pub first_seen: i64,
    /// When a look-up last led to it, in seconds since the epoch.
    pub last_seen: i64,
}

/// A Tox ID that a name leads to and nobody has accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// What was found.
    pub found: Found,
    /// When it was first found, in seconds since the epoch.
    pub since: i64,
}

/// A name as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Whose contact it is or would be.
    pub account: String,
    /// In lower case.
    pub address: String,
    /// The accepted key.
    pub pin: Option<Pin>,
    /// What the last look-up found instead; with a pin, this holds all mail to the name.
    pub offer: Option<Offer>,
    /// Status and text of what stands in the way.
    pub failure: Option<(String, String)>,
    /// Look-ups in a row that told nothing.
    pub attempts: u32,
    /// When the next is due, in milliseconds of the queue clock.
    pub next_lookup: Option<i64>,
    /// Of those: that found nothing, without a proof.
    pub denials: u32,
    /// Whether its contact was removed, so that only the operator may pin a key again.
    pub removed: bool,
    /// How many recipients wait for it; counted by [`Reader::names`] only.
    pub waiting: Option<u64>,
}

/// How look-ups go on, and what a new contact is told.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The account.
    pub account: String,
    /// In lower case.
    pub address: Address,
    /// The text of a friend request.
    pub message: String,
    /// Seconds of the wall clock.
    pub now_s: i64,
    /// How long until a name is looked up again, in milliseconds; 0: only when asked to.
    pub refresh: i64,
    /// The account's own Tox ID.
    pub own: ToxId,
    /// The text of an invitation, by which the account may introduce itself to who was found.
    pub invitation: Option<String>,
}

/// Why a key that was found for a name is to be pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The operator says so: who is no contact becomes one.
    Operator,
    /// The operator has accepted a request that claimed the name; nobody becomes a contact by it.
    Accepted,
    /// It was proved to be a contact's; not enough where the operator has removed the name's contact.
    Proof,
}

/// What came of accepting a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// It is pinned.
    Pinned,
    /// Another key is pinned already: only [`Store::accept_key`] changes that.
    OtherKey(PublicKey),
    /// There is nothing to accept.
    NoOffer,
    /// The key is blocked.
    Blocked,
}

/// Where a new recipient stands.
pub(super) struct Place {
    pub peer: Option<PublicKey>,
    pub wire_address: String,
    pub failure: Option<(String, String)>,
    /// Whether it waits because the key of the name has changed.
    pub changed: bool,
}

impl Place {
    pub fn peer(key: PublicKey, wire_address: &str) -> Self {
        Self { peer: Some(key), wire_address: wire_address.to_owned(), failure: None, changed: false }
    }
}

const NAME: &str = "SELECT account, address, key, via, method, secure, first_seen, last_seen, offer, offer_via,
    offer_method, offer_secure, offer_since, status, text, attempts, next_lookup, denials, removed";
/// How many recipients wait: to be counted for people, not for each mail.
const WAITING: &str = "(SELECT count(*) FROM recipient r
    WHERE r.account = name.account AND r.name = name.address AND r.peer IS NULL)";

fn via_of(number: i64) -> Via {
    if number == 1 { Via::Domain } else { Via::Name }
}

fn via_number(via: Via) -> i64 {
    i64::from(via == Via::Domain)
}

fn method_of(number: i64) -> Method {
    match number {
        1 => Method::Tox3,
        2 => Method::Operator,
        _ => Method::Tox1,
    }
}

fn method_number(method: Method) -> i64 {
    match method {
        Method::Tox1 => 0,
        Method::Tox3 => 1,
        Method::Operator => 2,
    }
}

fn proof_of(secure: bool) -> Proof {
    if secure { Proof::Secure } else { Proof::Insecure }
}

impl Name {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let pin = match row.get::<_, Option<[u8; 32]>>(2)? {
            Some(key) => Some(Pin {
                key: PublicKey(key),
                via: via_of(row.get(3)?),
                method: method_of(row.get(4)?),
                proof: proof_of(row.get(5)?),
                first_seen: row.get(6)?,
                last_seen: row.get(7)?,
            }),
            None => None,
        };
        let offer = match row.get::<_, Option<String>>(8)?.and_then(|id| id.parse::<ToxId>().ok()) {
            Some(id) => Some(Offer {
                found: Found {
                    id,
                    via: via_of(row.get(9)?),
                    method: method_of(row.get(10)?),
                    proof: proof_of(row.get(11)?),
                },
                since: row.get(12)?,
            }),
            None => None,
        };
        let (status, text): (Option<String>, Option<String>) = (row.get(13)?, row.get(14)?);
        Ok(Self {
            account: row.get(0)?,
            address: row.get(1)?,
            pin,
            offer,
            failure: status.zip(text),
            attempts: row.get(15)?,
            next_lookup: row.get(16)?,
            denials: row.get(17)?,
            removed: row.get(18)?,
            waiting: row.get::<_, Option<i64>>(19)?.map(|count| count as u64),
        })
    }
}

/// The forward-path for a recipient whose name leads to `key`. The record of a whole domain says nothing of the mailbox,
/// so the name travels before the key.
fn wire_address(address: &str, key: &PublicKey, via: Via) -> String {
    let mailbox = match via {
        Via::Name => None,
        Via::Domain => address.parse().ok().and_then(|address: Address| tox_address::mailbox(address.local(), key)),
    };
    mailbox.map_or_else(|| address.to_owned(), |address| address.to_string())
}

fn find(session: &Session<'_>, account: &str, address: &str) -> rusqlite::Result<Option<Name>> {
    session
        .connection
        .prepare_cached(&format!("{NAME}, NULL FROM name WHERE account = ? AND address = ?"))?
        .query_row([account, address], Name::read)
        .optional()
}

/// Where a new recipient with this name, as submitted, stands. A name that is new is looked up.
pub(super) fn place(session: &mut Session<'_>, account: &str, name: &str, submitted: &str) -> rusqlite::Result<Place> {
    let known = find(session, account, name)?;
    let looked_up = || ("4.4.3".to_owned(), format!("{name} is being looked up"));
    if let Some(Name { pin: Some(pin), offer: None, .. }) = &known {
        if super::contacts::is_blocked(session.connection, account, &pin.key)? {
            let failure = Some(("4.7.1".to_owned(), format!("the contact behind {name} is blocked here")));
            return Ok(Place { peer: None, wire_address: submitted.to_owned(), failure, changed: false });
        }
        return Ok(Place::peer(pin.key, &wire_address(submitted, &pin.key, pin.via)));
    }
    let Some(known) = known else {
        let now = (session.policy.now)();
        session
            .connection
            .prepare_cached(
                "INSERT INTO name (account, address, attempts, denials, next_lookup) VALUES (?, ?, 0, 0, ?)",
            )?
            .execute(params![account, name, now])?;
        session.events.push(Event::Names);
        let failure = Some(looked_up());
        return Ok(Place { peer: None, wire_address: submitted.to_owned(), failure, changed: false });
    };
    let changed = known.pin.is_some();
    Ok(Place {
        peer: None,
        wire_address: submitted.to_owned(),
        failure: known.failure.or_else(|| Some(looked_up())),
        changed,
    })
}

/// Takes back what was queued for a peer under names whose key has changed since, and tells its senders. It keeps its mail
/// id: should the change be taken back, the peer must recognise what it was offered before.
pub(super) fn hold_changed(session: &mut Session<'_>, account: &str, peer: &PublicKey) -> rusqlite::Result<()> {
    let changed: Vec<(String, Option<String>, Option<String>)> = session
        .connection
        .prepare_cached(
            "SELECT address, status, text FROM name INDEXED BY name_key
             WHERE account = ? AND key = ? AND offer IS NOT NULL",
        )?
        .query_map(params![account, peer.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (address, status, text) in changed {
        let held: Vec<i64> = session
            .connection
            .prepare_cached(
                "UPDATE recipient SET peer = NULL, status = ?, text = ?
                 WHERE account = ? AND name = ? AND peer IS NOT NULL AND state = 0 RETURNING id",
            )?
            .query_map(params![status, text, account, address], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        held.into_iter().try_for_each(|id| outcome::warn(session, id))?;
    }
    Ok(())
}

/// The same for all peers.
pub(super) fn hold_all_changed(session: &mut Session<'_>) -> rusqlite::Result<()> {
    let changed: Vec<(String, [u8; 32])> = session
        .connection
        .prepare_cached("SELECT DISTINCT account, key FROM name WHERE key IS NOT NULL AND offer IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    changed.into_iter().try_for_each(|(account, key)| hold_changed(session, &account, &PublicKey(key)))
}

/// The contact with this key is removed: its names lead nowhere until the operator says so. Mail that names them waits.
pub(super) fn forget(session: &mut Session<'_>, account: &str, key: &PublicKey) -> rusqlite::Result<()> {
    let db = session.connection;
    db.execute(
        "DELETE FROM name WHERE account = ?1 AND key = ?2 AND NOT EXISTS
         (SELECT 1 FROM recipient r WHERE r.account = ?1 AND r.name = name.address)",
        params![account, key.0],
    )?;
    db.execute(
        "UPDATE recipient SET status = '4.7.1', text = 'its contact was removed: toxctl contact add ' || name
         WHERE account = ?1 AND peer IS NULL AND name IN
         (SELECT address FROM name WHERE account = ?1 AND key = ?2)",
        params![account, key.0],
    )?;
    db.execute(
        "UPDATE name SET key = NULL, offer = NULL, next_lookup = NULL, removed = 1, status = '4.7.1',
         text = 'its contact was removed: toxctl contact add ' || address WHERE account = ? AND key = ?",
        params![account, key.0],
    )?;
    Ok(())
}

/// Hands the mail that waits for a name to its contact. `known`: it may have been offered to this contact before, and then
/// keeps its mail id, by which the contact knows it again.
fn release(
    session: &mut Session<'_>,
    account: &str,
    address: &str,
    key: &PublicKey,
    via: Via,
    known: bool,
) -> rusqlite::Result<()> {
    let db = session.connection;
    let now = (session.policy.now)();
    let held: Vec<(i64, i64, String, bool)> = db
        .prepare_cached(
            "SELECT id, mail, address, attempts > 0 AND NOT EXISTS
             (SELECT 1 FROM recipient o WHERE o.transfer = recipient.transfer AND o.state = 1)
             FROM recipient WHERE account = ? AND name = ? AND peer IS NULL",
        )?
        .query_map([account, address], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (id, mail, submitted, offered) in held {
        let keeps = known && offered;
        let joined = if keeps { None } else { queue::open_transfer(db, mail, key)? };
        db.prepare_cached(
            "UPDATE recipient SET peer = ?, wire_address = ?,
             transfer = CASE WHEN ? THEN transfer ELSE coalesce(?, randomblob(16)) END, next_attempt = ?,
             status = NULL, text = NULL WHERE id = ?",
        )?
        .execute(params![key.0, wire_address(&submitted, key, via), keeps, joined.map(|id| id.0), now, id])?;
        session.dispatcher.touch(account, key);
    }
    Ok(())
}

/// Hands over what waits for the names that a key is pinned to, unless they have changed.
pub(super) fn release_all(session: &mut Session<'_>, account: &str, key: &PublicKey) -> rusqlite::Result<()> {
    let names: Vec<(String, i64)> = session
        .connection
        .prepare_cached(
            "SELECT address, via FROM name INDEXED BY name_key WHERE account = ? AND key = ? AND offer IS NULL",
        )?
        .query_map(params![account, key.0], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    names.iter().try_for_each(|(address, via)| release(session, account, address, key, via_of(*via), true))
}

/// Pins a key, makes the contact and releases the mail.
fn pin(session: &mut Session<'_>, settled: &Settled, found: &Found) -> rusqlite::Result<()> {
    let (account, address, key) = (&settled.account, settled.address.to_string(), found.id.key());
    let before = find(session, account, &address)?.and_then(|name| name.pin).map(|pin| pin.key);
    let next = (settled.refresh > 0 && found.method != Method::Operator)
        .then(|| (session.policy.now)().saturating_add(settled.refresh));
    session
        .connection
        .prepare_cached(
            "INSERT INTO name (account, address, key, via, method, secure, first_seen, last_seen, attempts, denials,
             next_lookup) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, 0, 0, ?8)
             ON CONFLICT DO UPDATE SET key = ?3, via = ?4, method = ?5, secure = ?6,
             first_seen = CASE WHEN key = ?3 THEN first_seen ELSE ?7 END, last_seen = ?7,
             offer = NULL, offer_via = NULL, offer_method = NULL, offer_secure = NULL, offer_since = NULL, status = NULL,
             text = NULL, attempts = 0, denials = 0, removed = 0, next_lookup = ?8",
        )?
        .execute(params![
            account,
            address,
            key.0,
            via_number(found.via),
            method_number(found.method),
            found.proof == Proof::Secure,
            settled.now_s,
            next
        ])?;
    befriend(session, settled, &found.id)?;
    introductions::begin(session, settled, &key)?;
    // Whatever is not where the name leads now (on its way to an old key, even) goes there from now on.
    session
        .connection
        .prepare_cached(
            "UPDATE recipient SET peer = NULL, transfer = randomblob(16), state = CASE state WHEN 2 THEN 2 ELSE 0 END
             WHERE account = ? AND name = ? AND peer <> ?",
        )?
        .execute(params![account, address, key.0])?;
    session.log.push(format!(
        "{account}: {address} leads to key {}... ({}, {}, {}): pinned",
        key.short(),
        found.method,
        found.proof,
        found.via
    ));
    release(session, account, &address, &key, found.via, before == Some(key))
}

/// Makes a contact of a Tox ID, or gives a known one its new ID.
fn befriend(session: &mut Session<'_>, settled: &Settled, id: &ToxId) -> rusqlite::Result<()> {
    let (account, key) = (&settled.account, id.key());
    let known: Option<(Option<String>, bool)> = session
        .connection
        .prepare_cached("SELECT tox_id, accepted FROM contact WHERE account = ? AND key = ?")?
        .query_row(params![account, key.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let accepted = known.as_ref().is_some_and(|(_, accepted)| *accepted);
    if known.is_some_and(|(known, _)| known == Some(id.to_string())) {
        return Ok(());
    }
    session
        .connection
        .prepare_cached(
            "INSERT INTO contact (account, key, tox_id, message, accepted, added) VALUES (?, ?, ?, ?, 0, ?)
             ON CONFLICT DO UPDATE SET tox_id = excluded.tox_id",
        )?
        .execute(params![account, key.0, id.to_string(), settled.message, settled.now_s])?;
    session
        .connection
        .prepare_cached("DELETE FROM request WHERE account = ? AND key = ?")?
        .execute(params![account, key.0])?;
    // Who has accepted need not be asked again: his nospam is for strangers.
    if !accepted {
        session.events.push(Event::Ask(account.clone(), *id, settled.message.clone()));
    }
    Ok(())
}

/// Notes why mail to a name waits, on the name and on the mail.
fn defer(
    session: &mut Session<'_>,
    settled: &Settled,
    refusal: &Refusal,
    offer: Option<&Found>,
    denied: bool,
) -> rusqlite::Result<()> {
    let (account, address) = (&settled.account, settled.address.to_string());
    let before = find(session, account, &address)?;
    let now = (session.policy.now)();
    let attempts = before.as_ref().map_or(0, |name| name.attempts).saturating_add(1);
    let wait = match offer {
        Some(_) => settled.refresh,
        None => {
            let jitter = address.bytes().fold(0u64, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet.into()));
            let wait = schedule::retry_after(attempts, session.policy.retry_min, session.policy.retry_max, jitter);
            i64::try_from(wait).unwrap_or(i64::MAX).max(if denied { DENIAL_WAIT } else { 0 })
        }
    };
    let (status, text) = (refusal.status().to_string(), refusal.text());
    session
        .connection
        .prepare_cached(
            "UPDATE name SET status = ?3, text = ?4, offer = ?5, offer_via = ?6, offer_method = ?7, offer_secure = ?8,
             offer_since = CASE WHEN ?5 IS NULL THEN NULL WHEN offer = ?5 THEN offer_since ELSE ?9 END,
             attempts = CASE WHEN ?5 IS NULL THEN ?10 ELSE 0 END,
             denials = CASE WHEN ?11 THEN denials + 1 ELSE 0 END, next_lookup = ?12
             WHERE account = ?1 AND address = ?2",
        )?
        .execute(params![
            account,
            address,
            status,
            text,
            offer.map(|found| found.id.to_string()),
            offer.map(|found| via_number(found.via)),
            offer.map(|found| method_number(found.method)),
            offer.map(|found| found.proof == Proof::Secure),
            settled.now_s,
            attempts,
            denied,
            (wait > 0).then(|| now.saturating_add(wait)),
        ])?;
    session
        .connection
        .prepare_cached("UPDATE recipient SET status = ?, text = ? WHERE account = ? AND name = ? AND peer IS NULL")?
        .execute(params![status, text, account, address])?;
    // The same words again are no news.
    if before.is_none_or(|name| name.failure != Some((status, text.to_owned()))) {
        outcome::log_held(session, account, &address, refusal)?;
    }
    Ok(())
}

/// The key of a name has changed: what waits is held, and its senders are told.
fn hold(session: &mut Session<'_>, settled: &Settled, found: &Found, refusal: &Refusal) -> rusqlite::Result<()> {
    let (account, address) = (&settled.account, settled.address.to_string());
    defer(session, settled, refusal, Some(found), false)?;
    let db = session.connection;
    let pinned: [u8; 32] =
        db.query_row("SELECT key FROM name WHERE account = ? AND address = ?", [account, &address], |row| row.get(0))?;
    hold_changed(session, account, &PublicKey(pinned))?;
    let held: Vec<i64> = session
        .connection
        .prepare_cached("SELECT id FROM recipient WHERE account = ? AND name = ? AND peer IS NULL AND warned = 0")?
        .query_map([account, &address], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    held.into_iter().try_for_each(|id| outcome::warn(session, id))
}

impl Store {
    /// Does what follows from the finding of a look-up.
    ///
    /// # Errors
    /// The store fails.
    pub fn settle(&self, settled: Settled, finding: Finding, policy: Policy) -> Result<Verdict, StoreError> {
        self.call(move |session| {
            let (account, address) = (&settled.account, settled.address.to_string());
            let name = find(session, account, &address)?;
            let pinned = name.as_ref().and_then(|name| name.pin).map(|pin| pin.key);
            let known = Known { pinned, denials: name.as_ref().map_or(0, |name| name.denials) };
            let mut verdict = trust::judge(&settled.address, &known, &finding, &policy);
            if let Verdict::Pin(found) | Verdict::Ask(found, _) = &verdict
                && super::contacts::is_blocked(session.connection, account, &found.id.key())?
            {
                verdict = Verdict::Refuse(Refusal::permanent(7, 1, format!("{address} leads to a key that is blocked here")));
            }
            if let (Verdict::Pin(found), true) = (&verdict, name.as_ref().is_some_and(|name| name.removed)) {
                let text = format!("its contact was removed: toxctl contact add {address}");
                verdict = Verdict::Ask(*found, Refusal::temporary(7, 1, text));
            }
            // Nobody waits for it any more, and it was forgotten: nothing to do.
            if name.is_none() {
                return Ok(verdict);
            }
            let now = (session.policy.now)();
            let by_operator = name.and_then(|name| name.pin).is_some_and(|pin| pin.method == Method::Operator);
            let again = (settled.refresh > 0 && !by_operator).then(|| now.saturating_add(settled.refresh));
            match &verdict {
                Verdict::Pin(found) => pin(session, &settled, found)?,
                Verdict::Same(found) => {
                    session
                        .connection
                        .prepare_cached(
                            "UPDATE name SET last_seen = ?3, via = ?4, secure = ?6, offer = NULL,
                             method = CASE method WHEN 2 THEN 2 ELSE ?5 END,
                             offer_since = NULL, status = NULL, text = NULL, attempts = 0, denials = 0, next_lookup = ?7
                             WHERE account = ?1 AND address = ?2",
                        )?
                        .execute(params![
                            account,
                            address,
                            settled.now_s,
                            via_number(found.via),
                            method_number(found.method),
                            found.proof == Proof::Secure,
                            again
                        ])?;
                    let key = found.id.key();
                    if !super::contacts::is_blocked(session.connection, account, &key)? {
                        befriend(session, &settled, &found.id)?;
                        introductions::begin(session, &settled, &key)?;
                        release(session, account, &address, &key, found.via, true)?;
                    }
                }
                Verdict::Ask(found, refusal) => defer(session, &settled, refusal, Some(found), false)?,
                Verdict::Changed(found, refusal) => hold(session, &settled, found, refusal)?,
                Verdict::Keep(text) => {
                    session
                        .connection
                        .prepare_cached(
                            "UPDATE name SET status = '4.4.3', text = ?3, next_lookup = ?4
                             WHERE account = ?1 AND address = ?2 AND offer IS NULL",
                        )?
                        .execute(params![account, address, text, again])?;
                    session
                        .connection
                        .prepare_cached(
                            "UPDATE name SET next_lookup = ?3 WHERE account = ?1 AND address = ?2 AND offer IS NOT NULL",
                        )?
                        .execute(params![account, address, again])?;
                }
                Verdict::Wait(refusal) => defer(session, &settled, refusal, None, false)?,
                Verdict::Denied(refusal) => defer(session, &settled, refusal, None, true)?,
                Verdict::Refuse(refusal) => {
                    outcome::bounce_held(session, account, &address, refusal)?;
                    session
                        .connection
                        .prepare_cached("DELETE FROM name WHERE account = ? AND address = ? AND key IS NULL")?
                        .execute([account, &address])?;
                }
            }
            Ok(verdict)
        })
    }

    /// Pins what was found for a name, if that is reason enough; else [`Accepted::NoOffer`].
    ///
    /// # Errors
    /// The store fails.
    pub fn confirm(&self, settled: Settled, found: Found, why: Because) -> Result<Accepted, StoreError> {
        self.call(move |session| {
            let key = found.id.key();
            let name = find(session, &settled.account, &settled.address.to_string())?;
            let removed = name.as_ref().is_some_and(|name| name.removed);
            let enough = match why {
                Because::Operator => true,
                // The operator may have removed the contact while it was looked up.
                Because::Accepted => super::contacts::is_contact(session.connection, &settled.account, &key)?,
                Because::Proof => !removed && super::contacts::is_contact(session.connection, &settled.account, &key)?,
            };
            if !enough {
                return Ok(Accepted::NoOffer);
            }
            if let Some(pin) = name.and_then(|name| name.pin).filter(|pin| pin.key != key) {
                return Ok(Accepted::OtherKey(pin.key));
            }
            if super::contacts::is_blocked(session.connection, &settled.account, &key)? {
                return Ok(Accepted::Blocked);
            }
            pin(session, &settled, &found)?;
            Ok(Accepted::Pinned)
        })
    }

    /// Pins the key that a name was found to lead to in place of the one it had. The nickname goes to the new contact,
    /// if it has none. With `expected`, only if that is what was found.
    ///
    /// # Errors
    /// The store fails.
    pub fn accept_key(&self, settled: Settled, expected: Option<ToxId>) -> Result<Accepted, StoreError> {
        self.call(move |session| {
            let name = find(session, &settled.account, &settled.address.to_string())?;
            let Some((Offer { found, .. }, pinned)) = name.and_then(|name| Some((name.offer?, name.pin))) else {
                return Ok(Accepted::NoOffer);
            };
            if expected.is_some_and(|expected| expected.key() != found.id.key()) {
                return Ok(Accepted::OtherKey(found.id.key()));
            }
            if super::contacts::is_blocked(session.connection, &settled.account, &found.id.key())? {
                return Ok(Accepted::Blocked);
            }
            pin(session, &settled, &found)?;
            if let Some(Pin { key, .. }) = pinned {
                let db = session.connection;
                let nick: Option<Option<String>> = db
                    .query_row(
                        "SELECT nick FROM contact WHERE account = ? AND key = ?",
                        params![settled.account, key.0],
                        |row| row.get(0),
                    )
                    .optional()?;
                let free: bool = db.query_row(
                    "SELECT EXISTS (SELECT 1 FROM contact WHERE account = ? AND key = ? AND nick IS NULL)",
                    params![settled.account, found.id.key().0],
                    |row| row.get(0),
                )?;
                if let (Some(nick), true) = (nick.flatten(), free) {
                    let sql = "UPDATE contact SET nick = ? WHERE account = ? AND key = ?";
                    db.execute(sql, params![None::<String>, settled.account, key.0])?;
                    db.execute(sql, params![nick, settled.account, found.id.key().0])?;
                }
            }
            Ok(Accepted::Pinned)
        })
    }

    /// Has names looked up now: all of an account, or those of one contact, but for those that the operator has pinned
    /// without the DNS; or one address. Returns how many.
    ///
    /// # Errors
    /// The store fails.
    pub fn look_again(
        &self,
        account: Option<String>,
        address: Option<String>,
        key: Option<PublicKey>,
    ) -> Result<u64, StoreError> {
        self.call(move |session| {
            let now = (session.policy.now)();
            let changed = session.connection.execute(
                "UPDATE name SET next_lookup = ?1, denials = 0 WHERE (?2 IS NULL OR account = ?2) AND (?3 IS NULL OR address = ?3)
                 AND (?4 IS NULL OR key = ?4) AND (address = ?3 OR method IS NULL OR method <> 2)",
                params![now, account, address, key.map(|key| key.0)],
            )?;
            session.events.push(Event::Names);
            Ok(changed as u64)
        })
    }

    /// Forgets names that nothing is pinned for and no mail waits for.
    pub fn prune_names(&self) {
        self.record(move |session| {
            session
                .connection
                .prepare_cached(
                    "DELETE FROM name WHERE key IS NULL AND NOT EXISTS
                     (SELECT 1 FROM recipient r WHERE r.account = name.account AND r.name = name.address)",
                )?
                .execute([])?;
            Ok(())
        });
    }
}

impl Reader {
    /// All names of an account, or of all accounts.
    ///
    /// # Errors
    /// The store fails.
    pub fn names(&self, account: Option<&str>) -> rusqlite::Result<Vec<Name>> {
        let mut rows = self.connection.prepare_cached(&format!(
            "{NAME}, {WAITING} FROM name WHERE ?1 IS NULL OR account = ?1 ORDER BY account, address"
        ))?;
        rows.query_map([account], Name::read)?.collect()
    }

    /// One name.
    ///
    /// # Errors
    /// The store fails.
    pub fn name(&self, account: &str, address: &str) -> rusqlite::Result<Option<Name>> {
        self.connection
            .prepare_cached(&format!("{NAME}, NULL FROM name WHERE account = ? AND address = ?"))?
            .query_row([account, address], Name::read)
            .optional()
    }

    /// The names whose look-up is due at `now`, those that mail waits for first. A time beyond `horizon` is left from a clock
    /// that was wrong: due, too.
    ///
    /// # Errors
    /// The store fails.
    pub fn due_names(&self, now: i64, horizon: i64) -> rusqlite::Result<Vec<(String, String)>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, address FROM name WHERE next_lookup <= ? OR next_lookup > ?
             ORDER BY key IS NOT NULL, next_lookup",
        )?;
        rows.query_map([now, horizon], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// When the first look-up is due that is not due at `now`.
    ///
    /// # Errors
    /// The store fails.
    pub fn next_lookup(&self, now: i64, horizon: i64) -> rusqlite::Result<Option<i64>> {
        self.connection
            .prepare_cached("SELECT min(next_lookup) FROM name WHERE next_lookup > ? AND next_lookup <= ?")?
            .query_row([now, horizon], |row| row.get(0))
    }

    /// The addresses that are pinned to a contact, and whose key has not changed since.
    ///
    /// # Errors
    /// The store fails.
    pub fn addresses_of(&self, account: &str, key: &PublicKey) -> rusqlite::Result<Vec<Address>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT address FROM name INDEXED BY name_key WHERE account = ? AND key = ? AND offer IS NULL ORDER BY address",
        )?;
        let addresses = rows.query_map(params![account, key.0], |row| row.get::<_, String>(0))?;
        addresses.filter_map(|address| address.map(|address| address.parse().ok()).transpose()).collect()
    }
}
