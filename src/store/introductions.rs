//! First contact: the codes of our invitations, lanes of strangers who introduced themselves, and contacts to whom we do.

use rusqlite::params;
use zeroize::Zeroizing;

use super::contacts::{Request, is_blocked, is_contact, take_request};
use super::names::Settled;
use super::schema::Reader;
use super::writer::{Event, Session, Store, StoreError};
use crate::identity::tox_id::{PublicKey, ToxId};
use crate::lane::keys::InviteCode;

/// What was done with an introduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introduced {
    /// It is of a contact, who is to be answered.
    Contact,
    /// It is a request, of somebody who had not asked before or who had.
    Request {
        /// Whether he had not.
        new: bool,
    },
    /// Its sender is blocked or refused, or too many requests are open.
    Dropped,
}

/// A contact to whom an account introduces itself.
pub struct IntroducingRow {
    /// Who.
    pub peer: PublicKey,
    /// His invitation.
    pub invitation: String,
    /// Our Tox ID.
    pub id: ToxId,
    /// As of the friend request.
    pub text: String,
    /// On how many days an introduction was deposited.
    pub days: u32,
    /// The last of them, counted from the epoch (UTC).
    pub day: Option<u64>,
}

/// Begins to introduce an account to who was found by a name with an invitation, as long as he has not accepted; anew if
/// that is another invitation than before.
pub(super) fn begin(session: &mut Session<'_>, settled: &Settled, key: &PublicKey) -> rusqlite::Result<()> {
    let Some(invitation) = &settled.invitation else { return Ok(()) };
    let begun = session
        .connection
        .prepare_cached(
            "INSERT INTO introducing (account, peer, invitation, id, text, days, day)
             SELECT account, key, ?3, ?4, ?5, 0, NULL FROM contact WHERE account = ?1 AND key = ?2 AND accepted = 0
             ON CONFLICT DO UPDATE SET invitation = ?3, days = 0, day = NULL WHERE invitation <> ?3",
        )?
        .execute(params![settled.account, key.0, invitation, settled.own.octets(), settled.message])?;
    if begun > 0 {
        session.events.push(Event::Introducing(settled.account.clone()));
    }
    Ok(())
}

impl Store {
    /// Keeps the code of a new invitation, which takes the place of the one before, at `seconds` since the epoch.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_invitation(&self, account: &str, code: &InviteCode, seconds: i64) -> Result<(), StoreError> {
        let (account, code) = (account.to_owned(), Zeroizing::new(code.0));
        self.call(move |session| {
            let db = session.connection;
            db.prepare_cached("UPDATE invitation SET renewed = ? WHERE account = ? AND renewed IS NULL")?
                .execute(params![seconds, account])?;
            db.prepare_cached("INSERT INTO invitation (account, code) VALUES (?, ?)")?
                .execute(params![account, &code[..]])?;
            Ok(())
        })
    }

    /// Forgets the codes that were renewed before then, in seconds since the epoch.
    pub fn forget_invitations(&self, before: i64) {
        self.record(move |session| {
            if session.connection.prepare_cached("DELETE FROM invitation WHERE renewed < ?")?.execute([before])? > 0 {
                session.wipe();
            }
            Ok(())
        });
    }

    /// Takes in an introduction: the request that it makes, and the offer by which it can be answered, as it came.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_introduction(&self, request: Request, offer: Zeroizing<Vec<u8>>) -> Result<Introduced, StoreError> {
        self.call(move |session| {
            let db = session.connection;
            let (account, key) = (&request.account, request.key.0);
            // Those of requests that were refused, or are no more.
            db.prepare_cached(
                "DELETE FROM introduced WHERE account = ?1
                 AND NOT EXISTS (SELECT 1 FROM contact c WHERE c.account = ?1 AND c.key = peer)
                 AND NOT EXISTS (SELECT 1 FROM request r WHERE r.account = ?1 AND r.key = peer AND r.refused = 0)",
            )?
            .execute([account])?;
            let taken = match is_contact(db, account, &request.key)? {
                true if is_blocked(db, account, &request.key)? => Introduced::Dropped,
                true => Introduced::Contact,
                false => match take_request(db, &request)? {
                    Some(new) => Introduced::Request { new },
                    None => Introduced::Dropped,
                },
            };
            if taken != Introduced::Dropped {
                db.prepare_cached("INSERT OR REPLACE INTO introduced (account, peer, offer) VALUES (?, ?, ?)")?
                    .execute(params![account, key, &offer[..]])?;
            }
            Ok(taken)
        })
    }

    /// The lane by which a stranger introduced himself is followed.
    ///
    /// # Errors
    /// The store fails.
    pub fn introduction_followed(&self, account: &str, peer: PublicKey) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            session
                .connection
                .prepare_cached("DELETE FROM introduced WHERE account = ? AND peer = ?")?
                .execute(params![account, peer.0])?;
            Ok(())
        })
    }

    /// Begins to introduce an account to a contact.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_introducing(&self, account: &str, row: IntroducingRow) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            session
                .connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO introducing (account, peer, invitation, id, text, days, day)
                     VALUES (?, ?, ?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    account,
                    row.peer.0,
                    row.invitation,
                    row.id.octets(),
                    row.text,
                    row.days,
                    row.day.map(|day| day as i64)
                ])?;
            Ok(())
        })
    }

    /// Ends that. With `answered` the contact has agreed.
    ///
    /// # Errors
    /// The store fails.
    pub fn end_introducing(&self, account: &str, peer: PublicKey, answered: bool) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            db.prepare_cached("DELETE FROM introducing WHERE account = ? AND peer = ?")?
                .execute(params![account, peer.0])?;
            db.prepare_cached("UPDATE contact SET accepted = 1 WHERE ? AND account = ? AND key = ?")?
                .execute(params![answered, account, peer.0])?;
            Ok(())
        })
    }
}

impl Reader {
    /// The codes of an account's invitations: the one that counts, and those before it.
    ///
    /// # Errors
    /// The store fails.
    pub fn invitations(&self, account: &str) -> rusqlite::Result<(Option<InviteCode>, Vec<InviteCode>)> {
        let (mut now, mut before) = (None, Vec::new());
        let mut rows = self.connection.prepare_cached("SELECT code, renewed FROM invitation WHERE account = ?")?;
        let rows = rows.query_map([account], |row| Ok((InviteCode(row.get(0)?), row.get::<_, Option<i64>>(1)?)))?;
        for row in rows {
            match row? {
                (code, None) => now = Some(code),
                (code, Some(_)) => before.push(code),
            }
        }
        Ok((now, before))
    }

    /// Contacts who introduced themselves, and whose offers were not followed yet.
    ///
    /// # Errors
    /// The store fails.
    pub fn introduced(&self, account: &str) -> rusqlite::Result<Vec<(PublicKey, Zeroizing<Vec<u8>>)>> {
        self.connection
            .prepare_cached(
                "SELECT peer, offer FROM introduced i WHERE account = ?1
                 AND EXISTS (SELECT 1 FROM contact c WHERE c.account = ?1 AND c.key = i.peer)
                 AND NOT EXISTS (SELECT 1 FROM blocked b WHERE b.account = ?1 AND b.key = i.peer)",
            )?
            .query_map([account], |row| Ok((PublicKey(row.get(0)?), Zeroizing::new(row.get(1)?))))?
            .collect()
    }

    /// Contacts to whom an account introduces itself.
    ///
    /// # Errors
    /// The store fails.
    pub fn introducing(&self, account: &str) -> rusqlite::Result<Vec<IntroducingRow>> {
        self.connection
            .prepare_cached(
                "SELECT peer, invitation, id, text, days, day FROM introducing i WHERE account = ?1
                 AND EXISTS (SELECT 1 FROM contact c WHERE c.account = ?1 AND c.key = i.peer)
                 AND NOT EXISTS (SELECT 1 FROM blocked b WHERE b.account = ?1 AND b.key = i.peer)",
            )?
            .query_map([account], |row| {
                let id = ToxId::from_octets(&row.get(2)?).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Blob, Box::new(error))
                })?;
                Ok(IntroducingRow {
                    peer: PublicKey(row.get(0)?),
                    invitation: row.get(1)?,
                    id,
                    text: row.get(3)?,
                    days: row.get(4)?,
                    day: row.get::<_, Option<i64>>(5)?.and_then(|day| u64::try_from(day).ok()),
                })
            })?
            .collect()
    }
}
