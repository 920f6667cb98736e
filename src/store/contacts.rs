//! Contacts and the friend requests of strangers.

use rusqlite::{Row, params};

use super::schema::Reader;
use super::writer::{Store, StoreError};
use crate::identity::tox_id::{PublicKey, ToxId};

/// How many requests of strangers an account remembers; the oldest go first.
const MAX_REQUESTS: i64 = 100;

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
    /// Whether it was refused.
    pub refused: bool,
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

    /// Removes a contact; whether it was there. Mail queued for it stays until it expires or the contact comes back.
    ///
    /// # Errors
    /// The store fails.
    pub fn remove_contact(&self, account: &str, key: PublicKey) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let removed = session
                .connection
                .execute("DELETE FROM contact WHERE account = ? AND key = ?", params![account, key.0])?;
            Ok(removed > 0)
        })
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

    /// A stranger asks. Of one who was refused nothing changes; of the others the last message is kept.
    pub fn put_request(&self, request: Request) {
        self.record(move |session| {
            let db = session.connection;
            db.execute(
                "INSERT INTO request (account, key, message, received, refused) VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT DO UPDATE SET message = excluded.message, received = excluded.received WHERE refused = 0",
                params![request.account, request.key.0, request.message, request.received, request.refused],
            )?;
            db.execute(
                "DELETE FROM request WHERE account = ?1 AND key IN
                 (SELECT key FROM request WHERE account = ?1 ORDER BY received DESC LIMIT -1 OFFSET ?2)",
                params![request.account, MAX_REQUESTS],
            )?;
            Ok(())
        });
    }

    /// Marks a request as refused, so that it does not come up again; whether it was there.
    ///
    /// # Errors
    /// The store fails.
    pub fn refuse_request(&self, account: &str, key: PublicKey) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let sql = "UPDATE request SET refused = 1 WHERE account = ? AND key = ?";
            Ok(session.connection.execute(sql, params![account, key.0])? > 0)
        })
    }
}

impl Reader {
    /// All contacts of one account or of all.
    ///
    /// # Errors
    /// The store fails.
    pub fn contacts(&self, account: Option<&str>) -> rusqlite::Result<Vec<Contact>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, key, nick, tox_id, message, accepted, added, last_seen FROM contact
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
            "SELECT account, key, message, received, refused FROM request
             WHERE ?1 IS NULL OR account = ?1 ORDER BY received DESC",
        )?;
        rows.query_map([account], |row| {
            Ok(Request {
                account: row.get(0)?,
                key: PublicKey(row.get(1)?),
                message: row.get(2)?,
                received: row.get(3)?,
                refused: row.get(4)?,
            })
        })?
        .collect()
    }
}
