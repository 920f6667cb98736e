//! What the operator does with waiting mail by its queue id, as postsuper(1) does: hold, release, delete. What is being
//! sent is left alone: it may be in the recipient's mailbox already.

use rusqlite::{named_params, params};

use super::writer::{Event, Session, Store, StoreError};

/// `recipient.state` of what the operator has put on hold: neither sent, nor expired, nor its sender told of a delay.
pub(super) const ON_HOLD: i64 = 2;

/// The recipients of the mail `:id` (ours or the MTA's name for it; all where NULL) in `:account` (likewise).
const CHOSEN: &str = "(:id IS NULL OR mail IN (SELECT id FROM mail WHERE queue_id = :id OR mta_queue_id = :id))
    AND (:account IS NULL OR account = :account)";

/// How far a step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// Recipients that it was done for.
    pub recipients: u64,
    /// Recipients that are being sent, and were left as they are.
    pub sending: u64,
}

/// Carries out `sql`, which ends where its condition goes on with the chosen recipients and returns their queue id and
/// address; a line of the log for each says what was `done`.
fn change(
    session: &mut Session<'_>,
    sql: &str,
    id: Option<&str>,
    account: Option<&str>,
    done: &str,
) -> rusqlite::Result<Touched> {
    let db = session.connection;
    let chosen = named_params! { ":id": id, ":account": account };
    let sending: i64 = db
        .prepare_cached(&format!("SELECT count(*) FROM recipient WHERE state = 1 AND {CHOSEN}"))?
        .query_row(chosen, |row| row.get(0))?;
    let returning = "RETURNING (SELECT queue_id FROM mail WHERE id = mail), address";
    let lines: Vec<String> = db
        .prepare_cached(&format!("{sql} AND {CHOSEN} {returning}"))?
        .query_map(chosen, |row| {
            Ok(format!("{}: to=<{}>: {done}", row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let recipients = lines.len() as u64;
    session.log.extend(lines);
    Ok(Touched { recipients, sending: sending as u64 })
}

impl Store {
    /// Puts waiting recipients on hold: those of one mail or all, of one account or all.
    ///
    /// # Errors
    /// The store fails.
    pub fn hold(&self, queue_id: Option<String>, account: Option<String>) -> Result<Touched, StoreError> {
        self.call(move |session| {
            let sql = "UPDATE recipient SET state = 2 WHERE state = 0";
            change(session, sql, queue_id.as_deref(), account.as_deref(), "put on hold")
        })
    }

    /// Releases those on hold: they are due now, and their mail gets a whole `lifetime` (milliseconds) again.
    ///
    /// # Errors
    /// The store fails.
    pub fn release(
        &self,
        queue_id: Option<String>,
        account: Option<String>,
        lifetime: i64,
    ) -> Result<Touched, StoreError> {
        self.call(move |session| {
            let (db, now) = (session.connection, (session.policy.now)());
            let (id, of) = (queue_id.as_deref(), account.as_deref());
            db.execute(
                &format!(
                    "UPDATE mail SET expires = :expires WHERE id IN
                     (SELECT mail FROM recipient WHERE state = 2 AND {CHOSEN})"
                ),
                named_params! { ":id": id, ":account": of, ":expires": now.saturating_add(lifetime) },
            )?;
            let sql = format!("UPDATE recipient SET state = 0, next_attempt = {now} WHERE state = 2");
            let touched = change(session, &sql, id, of, "released")?;
            // A name that was given up or forgotten meanwhile is looked up anew; so is one that mail waits for.
            db.execute(
                "INSERT INTO name (account, address, attempts, denials, next_lookup)
                 SELECT DISTINCT account, name, 0, 0, ?1 FROM recipient
                 WHERE state = 0 AND peer IS NULL AND name IS NOT NULL AND next_attempt = ?1
                 ON CONFLICT DO UPDATE SET next_lookup = ?1, denials = 0 WHERE removed = 0",
                params![now],
            )?;
            super::names::hold_all_changed(session)?;
            session.events.push(Event::Names);
            session.dispatcher.look_again();
            // Those that had to be told of the delay were passed by.
            (session.dispatcher.warned, session.dispatcher.warn_next) = (0, 0);
            Ok(touched)
        })
    }

    /// Deletes waiting recipients, on hold or not, and mails that have none left. No sender is told.
    ///
    /// # Errors
    /// The store fails.
    pub fn delete(&self, queue_id: Option<String>, account: Option<String>) -> Result<Touched, StoreError> {
        self.call(move |session| {
            let sql = "DELETE FROM recipient WHERE state <> 1";
            let touched = change(session, sql, queue_id.as_deref(), account.as_deref(), "deleted by the operator")?;
            let gone: Vec<(String, Option<String>)> = session
                .connection
                .prepare_cached(
                    "DELETE FROM mail WHERE NOT EXISTS (SELECT 1 FROM recipient r WHERE r.mail = mail.id)
                     RETURNING queue_id, body_file",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            for (queue_id, body_file) in gone {
                session.log.push(format!("{queue_id}: removed"));
                session.unlink.extend(body_file);
            }
            Ok(touched)
        })
    }
}
