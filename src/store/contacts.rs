//! Contacts and the friend requests of strangers.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::schema::Reader;
use super::writer::{Session, Store, StoreError};
use super::{names, outcome};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::mail::status::Refusal;

/// How many open requests of strangers an account keeps. No new one is taken then: to let it push out an old one would
/// let a stranger with many keys push out all that are genuine. toxcore repeats what is not answered.
const MAX_REQUESTS: i64 = 100;
/// How many refused ones are remembered; the oldest go first.
const MAX_REFUSED: i64 = 1000;
/// How long an open request is kept, in seconds.
const KEEP_REQUEST: i64 = 60 * 86_400;
/// How long one who was refused is waited for, so that he can be told, in seconds; longer than mail waits by default.
pub const DECLINE_AGE: i64 = 7 * 86_400;
/// How many of them at a time, for each account. Each is a friend in toxcore's eyes until he has heard.
const MAX_DECLINING: i64 = 32;

/// What became of a friend request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It waits for the operator.
    Open,
    /// It is refused; he is not told.
    Refused,
    /// It is refused; he is to be told when both are online.
    Declining,
    /// It is refused; he was told.
    Declined,
}

impl Answer {
    fn of(number: i64) -> Self {
        match number {
            0 => Self::Open,
            2 => Self::Declining,
            3 => Self::Declined,
            _ => Self::Refused,
        }
    }

    fn number(self) -> i64 {
        match self {
            Self::Open => 0,
            Self::Refused => 1,
            Self::Declining => 2,
            Self::Declined => 3,
        }
    }
}

/// A remote key that an account knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The account.
    pub account: String,
    /// Who it is.
    pub key: PublicKey,
    /// The local nickname, in lower case; `nick@tox.alt` names the contact.
    pub nick: Option<String>,
    /// The whole Tox ID, where we asked for friendship.
    pub tox_id: Option<ToxId>,
    /// What our request said.
    pub message: Option<String>,
    /// Whether both sides agreed: it asked, or was seen online since we asked.
    pub accepted: bool,
    /// Seconds since the epoch.
    pub added: i64,
    /// Seconds since the epoch.
    pub last_seen: Option<i64>,
    /// At how many relays mail for it may wait, as it has told us; of its lane, so nothing to be put.
    pub relays: u32,
}

/// A stranger's friend request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The account that was asked.
    pub account: String,
    /// Who asks.
    pub key: PublicKey,
    /// What he says.
    pub message: String,
    /// Seconds since the epoch.
    pub received: i64,
    /// What became of it.
    pub answer: Answer,
    /// The address he says is his.
    pub claim: Option<String>,
    /// Whether that leads, proved by DNSSEC, to his key; unknown until it is looked up.
    pub verified: Option<bool>,
}

/// Whether a key is a contact's of an account.
pub(super) fn is_contact(db: &Connection, account: &str, key: &PublicKey) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM contact WHERE account = ? AND key = ?)")?
        .query_row(params![account, key.0], |row| row.get(0))
}

/// Whether a key is on the block list of an account.
pub(super) fn is_blocked(db: &Connection, account: &str, key: &PublicKey) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM blocked WHERE account = ? AND key = ?)")?
        .query_row(params![account, key.0], |row| row.get(0))
}

impl Contact {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            account: row.get(0)?,
            key: PublicKey(row.get(1)?),
            nick: row.get(2)?,
            tox_id: row.get::<_, Option<String>>(3)?.and_then(|id| id.parse().ok()),
            message: row.get(4)?,
            accepted: row.get(5)?,
            added: row.get(6)?,
            last_seen: row.get(7)?,
            relays: row.get(8)?,
        })
    }
}

impl Store {
    /// Adds a contact, or replaces nickname, ID and message of a known one. Its request, if it had made one, is gone.
    ///
    /// # Errors
    /// The nickname is taken (`Ok(false)`), or the store fails.
    pub fn put_contact(&self, contact: Contact) -> Result<bool, StoreError> {
        self.call(move |session| {
            let taken: bool = session.connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM contact WHERE account = ? AND nick = ? AND key <> ?)",
                params![contact.account, contact.nick, contact.key.0],
                |row| row.get(0),
            )?;
            if taken {
                return Ok(false);
            }
            session.connection.execute(
                "INSERT INTO contact (account, key, nick, tox_id, message, accepted, added, last_seen)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET nick = coalesce(excluded.nick, nick),
                 tox_id = coalesce(excluded.tox_id, tox_id), message = coalesce(excluded.message, message)",
                params![
                    contact.account,
                    contact.key.0,
                    contact.nick,
                    contact.tox_id.map(|id| id.to_string()),
                    contact.message,
                    contact.accepted,
                    contact.added,
                    contact.last_seen
                ],
            )?;
            session.connection.execute(
                "DELETE FROM request WHERE account = ? AND key = ?",
                params![contact.account, contact.key.0],
            )?;
            Ok(true)
        })
    }

    /// Takes one whose request is open as a contact, at `seconds` since the epoch; whether it is open still, and he is not
    /// blocked.
    ///
    /// # Errors
    /// The store fails.
    pub fn accept_request(&self, account: &str, key: PublicKey, seconds: i64) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let sql = "DELETE FROM request WHERE account = ? AND key = ? AND refused = 0";
            if is_blocked(db, &account, &key)? || db.execute(sql, params![account, key.0])? == 0 {
                return Ok(false);
            }
            db.execute(
                "INSERT INTO contact (account, key, accepted, added) VALUES (?, ?, 1, ?) ON CONFLICT DO NOTHING",
                params![account, key.0, seconds],
            )?;
            Ok(true)
        })
    }

    /// Removes a contact with the names pinned to it; whether it was there. Mail queued for it stays until it expires or the contact comes back.
    ///
    /// # Errors
    /// The store fails.
    pub fn remove_contact(&self, account: &str, key: PublicKey) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| remove(session, &account, &key))
    }

    /// A contact was seen at `seconds` since the epoch.
    pub fn contact_seen(&self, account: &str, key: PublicKey, seconds: i64) {
        let account = account.to_owned();
        self.record(move |session| {
            session
                .connection
                .prepare_cached("UPDATE contact SET accepted = 1, last_seen = ? WHERE account = ? AND key = ?")?
                .execute(params![seconds, account, key.0])?;
            Ok(())
        });
    }

    /// A stranger asks. Of one who was refused nothing changes; of the others the last message is kept. `done` hears
    /// whether it is new, or nothing where it was not taken.
    pub fn put_request(&self, request: Request, done: impl FnOnce(Option<bool>) + Send + 'static) {
        let job = move |session: &mut Session<'_>| take_request(session.connection, &request);
        self.submit(job, move |taken| done(taken.unwrap_or(None)));
    }

    /// A look-up told whether the address that a stranger claims leads to his key.
    pub fn request_verified(&self, account: &str, key: PublicKey, verified: bool) {
        let account = account.to_owned();
        self.record(move |session| {
            session
                .connection
                .prepare_cached("UPDATE request SET verified = ? WHERE account = ? AND key = ?")?
                .execute(params![verified, account, key.0])?;
            Ok(())
        });
    }

    /// Gives a contact another nickname, or none. `Ok(None)`: it is no contact; `Ok(Some(false))`: the name is taken.
    ///
    /// # Errors
    /// The store fails.
    pub fn rename_contact(
        &self,
        account: &str,
        key: PublicKey,
        nick: Option<String>,
    ) -> Result<Option<bool>, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let taken: bool = db.query_row(
                "SELECT EXISTS (SELECT 1 FROM contact WHERE account = ? AND nick = ? AND key <> ?)",
                params![account, nick, key.0],
                |row| row.get(0),
            )?;
            if taken {
                return Ok(Some(false));
            }
            let sql = "UPDATE contact SET nick = ? WHERE account = ? AND key = ?";
            Ok((db.execute(sql, params![nick, account, key.0])? > 0).then_some(true))
        })
    }

    /// Puts a key on the block list, at `seconds` since the epoch, and takes its request off the list of requests.
    ///
    /// # Errors
    /// The store fails.
    pub fn block(&self, account: &str, key: PublicKey, seconds: i64) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let sql = "INSERT INTO blocked (account, key, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
            db.execute(sql, params![account, key.0, seconds])?;
            db.execute("DELETE FROM request WHERE account = ? AND key = ?", params![account, key.0])?;
            Ok(())
        })
    }

    /// Takes a key off the block list; whether it was on it. Mail that waited for that goes on.
    ///
    /// # Errors
    /// The store fails.
    pub fn unblock(&self, account: &str, key: PublicKey) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let removed = db.execute("DELETE FROM blocked WHERE account = ? AND key = ?", params![account, key.0])? > 0;
            if removed {
                names::release_all(session, &account, &key)?;
            }
            Ok(removed)
        })
    }

    /// Marks a request as refused, so that it does not come up again; what became of it, or nothing if it is not there.
    /// With `tell` he is to be told, if he is a mail agent: only these make a claim, and a person's chat program would
    /// show us as a new friend.
    ///
    /// # Errors
    /// The store fails.
    pub fn refuse_request(
        &self,
        account: &str,
        key: PublicKey,
        tell: bool,
        seconds: i64,
    ) -> Result<Option<Answer>, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let answer = db
                .query_row(
                    "UPDATE request SET received = CASE WHEN ?3 AND claim IS NOT NULL THEN ?4 ELSE received END,
                     refused = CASE WHEN ?3 AND claim IS NOT NULL THEN 2 ELSE 1 END
                     WHERE account = ?1 AND key = ?2 RETURNING refused",
                    params![account, key.0, tell, seconds],
                    |row| row.get(0).map(Answer::of),
                )
                .optional()?;
            db.execute(
                "DELETE FROM request WHERE account = ?1 AND refused > 0 AND key IN
                 (SELECT key FROM request WHERE account = ?1 AND refused > 0 ORDER BY received DESC LIMIT -1 OFFSET ?2)",
                params![account, MAX_REFUSED],
            )?;
            Ok(answer)
        })
    }

    /// One who was refused has heard so, or (`told` false) asks again at `seconds` since the epoch and is to hear it again.
    /// `done` is called when that is on disk.
    pub fn declined(
        &self,
        account: &str,
        key: PublicKey,
        told: bool,
        seconds: i64,
        done: impl FnOnce() + Send + 'static,
    ) {
        let account = account.to_owned();
        let answer = if told { Answer::Declined } else { Answer::Declining };
        let job = move |session: &mut Session<'_>| {
            session
                .connection
                .prepare_cached(
                    "UPDATE request SET refused = ?, received = ? WHERE account = ? AND key = ? AND refused > 1",
                )?
                .execute(params![answer.number(), seconds, account, key.0])?;
            Ok(())
        };
        // Should it fail, he is told once more, or asks once more.
        self.submit(job, move |result| {
            if result.is_ok() {
                done();
            }
        });
    }

    /// A contact takes no mail of this account: what waits for it fails with this refusal, and it is no contact any more.
    /// `done` is called when that is on disk.
    pub fn contact_declined(
        &self,
        account: &str,
        key: PublicKey,
        refusal: Refusal,
        done: impl FnOnce() + Send + 'static,
    ) {
        let account = account.to_owned();
        let job = move |session: &mut Session<'_>| {
            outcome::bounce_peer(session, &account, &key, &refusal)?;
            remove(session, &account, &key).map(|_| ())
        };
        self.submit(job, move |result| {
            if result.is_ok() {
                done();
            }
        });
    }
}

/// Takes in a stranger's request; see [`Store::put_request`].
pub(super) fn take_request(db: &Connection, request: &Request) -> rusqlite::Result<Option<bool>> {
    if is_blocked(db, &request.account, &request.key)? {
        return Ok(None);
    }
    let refused: Option<bool> = db
        .prepare_cached(
            "UPDATE request SET received = ?4, message = CASE refused WHEN 0 THEN ?3 ELSE message END,
             verified = CASE WHEN refused = 0 AND claim IS NOT ?5 THEN NULL ELSE verified END,
             claim = CASE refused WHEN 0 THEN ?5 ELSE claim END
             WHERE account = ?1 AND key = ?2 RETURNING refused",
        )?
        .query_row(params![request.account, request.key.0, request.message, request.received, request.claim], |row| {
            row.get(0)
        })
        .optional()?;
    if let Some(refused) = refused {
        return Ok((!refused).then_some(false));
    }
    db.execute(
        "DELETE FROM request WHERE account = ? AND refused = 0 AND received < ?",
        params![request.account, request.received - KEEP_REQUEST],
    )?;
    let open: i64 =
        db.query_row("SELECT count(*) FROM request WHERE account = ? AND refused = 0", [&request.account], |row| {
            row.get(0)
        })?;
    if open >= MAX_REQUESTS {
        return Ok(None);
    }
    db.execute(
        "INSERT INTO request (account, key, message, received, refused, claim) VALUES (?, ?, ?, ?, 0, ?)",
        params![request.account, request.key.0, request.message, request.received, request.claim],
    )?;
    Ok(Some(true))
}

/// Removes a contact with the names pinned to it; whether it was there.
fn remove(session: &mut Session<'_>, account: &str, key: &PublicKey) -> rusqlite::Result<bool> {
    names::forget(session, account, key)?;
    session.connection.execute("DELETE FROM introducing WHERE account = ? AND peer = ?", params![account, key.0])?;
    let sql = "DELETE FROM contact WHERE account = ? AND key = ?";
    Ok(session.connection.execute(sql, params![account, key.0])? > 0)
}

impl Request {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            account: row.get(0)?,
            key: PublicKey(row.get(1)?),
            message: row.get(2)?,
            received: row.get(3)?,
            answer: Answer::of(row.get(4)?),
            claim: row.get(5)?,
            verified: row.get(6)?,
        })
    }
}

impl Reader {
    /// The request of one stranger.
    ///
    /// # Errors
    /// The store fails.
    pub fn request(&self, account: &str, key: &PublicKey) -> rusqlite::Result<Option<Request>> {
        self.connection
            .prepare_cached(
                "SELECT account, key, message, received, refused, claim, verified FROM request
                 WHERE account = ? AND key = ?",
            )?
            .query_row(params![account, key.0], Request::read)
            .optional()
    }

    /// All contacts of one account or of all.
    ///
    /// # Errors
    /// The store fails.
    pub fn contacts(&self, account: Option<&str>) -> rusqlite::Result<Vec<Contact>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, key, nick, tox_id, message, accepted, added, last_seen, coalesce((SELECT l.relays
             FROM lane_out l WHERE l.account = contact.account AND l.peer = contact.key), 0) FROM contact
             WHERE ?1 IS NULL OR account = ?1 ORDER BY account, nick, key",
        )?;
        rows.query_map([account], Contact::read)?.collect()
    }

    /// All requests of one account or of all, the newest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn requests(&self, account: Option<&str>) -> rusqlite::Result<Vec<Request>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, key, message, received, refused, claim, verified FROM request
             WHERE ?1 IS NULL OR account = ?1 ORDER BY received DESC",
        )?;
        rows.query_map([account], Request::read)?.collect()
    }

    /// Those who were refused after `since`, in seconds since the epoch, and are to be told; no more than a few.
    ///
    /// # Errors
    /// The store fails.
    pub fn declining(&self, account: &str, since: i64) -> rusqlite::Result<Vec<PublicKey>> {
        self.connection
            .prepare_cached(
                "SELECT key FROM request WHERE account = ? AND refused = 2 AND received > ?
                 ORDER BY received DESC LIMIT ?",
            )?
            .query_map(params![account, since, MAX_DECLINING], |row| row.get(0).map(PublicKey))?
            .collect()
    }

    /// The blocked keys of one account or of all, and since when (seconds since the epoch).
    ///
    /// # Errors
    /// The store fails.
    pub fn blocked(&self, account: Option<&str>) -> rusqlite::Result<Vec<(String, PublicKey, i64)>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, key, since FROM blocked WHERE ?1 IS NULL OR account = ?1 ORDER BY since",
        )?;
        rows.query_map([account], |row| Ok((row.get(0)?, PublicKey(row.get(1)?), row.get(2)?)))?.collect()
    }
}
