//! What peers sent. A mail is recorded here, with the name its file has in `tmp/`, after that file is on disk and before
//! it is renamed into `new/`: whoever finds the record after a crash can tell from the Maildir how far it came, so that a
//! mail offered again is neither lost nor shown twice. A mail that is handed on to a server is recorded before the final
//! dot: what a crash leaves of it says that nobody knows whether the server has it.

use rusqlite::{OptionalExtension, params};

use super::schema::Reader;
use super::writer::{Session, Store, StoreError};
use crate::engine::transfer::MailId;
use crate::identity::tox_id::PublicKey;

/// How long a record is kept that its peer never said to forget, in milliseconds.
const KEEP: i64 = 400 * 86_400_000;
/// How long it is kept after that, for peers restored from a backup.
pub(super) const KEEP_FORGOTTEN: i64 = 30 * 86_400_000;

const PUBLISHED: &str =
    "UPDATE received SET published = 1 WHERE account = ? AND peer = ? AND transfer = ? AND mailbox = ?
     AND published = 0";

/// Notes that a mail is where it belongs. Once it is noted already, nothing changes.
fn publish(session: &mut Session<'_>, mail: &Received) -> rusqlite::Result<()> {
    let done = session.connection.prepare_cached(PUBLISHED)?.execute(params![
        mail.account,
        mail.peer.0,
        mail.transfer.0,
        mail.mailbox
    ])?;
    session.counts.received += done as u64;
    Ok(())
}

/// One mail for one mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The account.
    pub account: String,
    /// Who sent it; our own key for notices.
    pub peer: PublicKey,
    /// Its name on the wire.
    pub transfer: MailId,
    /// The mailbox's name.
    pub mailbox: String,
    /// Where the Maildir is; or the server, as the configuration writes it (`lmtp:…`, `smtp:…`).
    pub maildir: String,
    /// The file's name without flags; empty where a server has it.
    pub file: String,
}

/// A record whose file may not have been renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpublished {
    /// The record.
    pub received: Received,
    /// When it was made, in milliseconds since the epoch.
    pub at: i64,
}

impl Store {
    /// Records mails whose files are in `tmp/`, on disk. `done` gets, after the commit, whether each is new; one that was
    /// recorded before must not be renamed into `new/` again.
    pub fn record_received(
        &self,
        mails: Vec<Received>,
        now: i64,
        done: impl FnOnce(Result<Vec<bool>, StoreError>) + Send + 'static,
    ) {
        self.submit(
            move |session| {
                let mut insert = session.connection.prepare_cached(
                    "INSERT INTO received (account, peer, transfer, mailbox, maildir, file, at, published, forgotten)
                     VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT DO NOTHING",
                )?;
                mails
                    .iter()
                    .map(|m| {
                        let row = params![m.account, m.peer.0, m.transfer.0, m.mailbox, m.maildir, m.file, now];
                        insert.execute(row).map(|inserted| inserted == 1)
                    })
                    .collect()
            },
            done,
        );
    }

    /// The files of these records are in `new/`, durably.
    pub fn published(&self, mails: Vec<Received>) {
        self.record(move |session| mails.iter().try_for_each(|mail| publish(session, mail)));
    }

    /// The server has this mail. Returns when that is committed: only then may the peer be told.
    ///
    /// # Errors
    /// The store fails; the record says still that nobody knows.
    pub fn handed_over(&self, mail: Received) -> Result<(), StoreError> {
        self.call(move |session| publish(session, &mail))
    }

    /// The record is void: its file is nowhere. Returns when that is committed, so that the next offer of the mail finds
    /// no record.
    ///
    /// # Errors
    /// The store fails; the record stands.
    pub fn forget_unpublished(&self, mail: Received) -> Result<(), StoreError> {
        self.call(move |session| {
            session
                .connection
                .prepare_cached(
                    "DELETE FROM received WHERE account = ? AND peer = ? AND transfer = ? AND mailbox = ?
                     AND published = 0",
                )?
                .execute(params![mail.account, mail.peer.0, mail.transfer.0, mail.mailbox])?;
            Ok(())
        })
    }

    /// The peers will not offer these mails again. Should the store fail, the records are only kept for longer.
    pub fn forget(&self, account: &str, mails: Vec<(PublicKey, MailId)>) {
        let account = account.to_owned();
        let update = "UPDATE received SET forgotten = 1 WHERE account = ? AND peer = ? AND transfer = ?";
        self.submit(
            move |session| {
                let mut update = session.connection.prepare_cached(update)?;
                mails.iter().try_for_each(|(peer, id)| update.execute(params![account, peer.0, id.0]).map(|_| ()))?;
                super::parcels::receipts_heard(session.connection, &account, &mails)
            },
            |_| {},
        );
    }

    /// Removes old records.
    pub fn prune_received(&self, now: i64) {
        self.record(move |session| {
            session
                .connection
                .prepare_cached(
                    "DELETE FROM received WHERE published = 1 AND at < CASE forgotten WHEN 1 THEN ? ELSE ? END",
                )?
                .execute([now - KEEP_FORGOTTEN, now - KEEP])?;
            Ok(())
        });
    }
}

impl Reader {
    /// Whether the mailbox has this mail of the peer: `Some(false)` when it is recorded but not yet known to be visible.
    ///
    /// # Errors
    /// The store fails.
    pub fn received(
        &self,
        account: &str,
        peer: &PublicKey,
        transfer: &MailId,
        mailbox: &str,
    ) -> rusqlite::Result<Option<bool>> {
        self.connection
            .prepare_cached(
                "SELECT published FROM received WHERE account = ? AND peer = ? AND transfer = ? AND mailbox = ?",
            )?
            .query_row(params![account, peer.0, transfer.0, mailbox], |row| row.get(0))
            .optional()
    }

    /// What a crash may have caught between record and rename.
    ///
    /// # Errors
    /// The store fails.
    pub fn unpublished(&self) -> rusqlite::Result<Vec<Unpublished>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT account, peer, transfer, mailbox, maildir, file, at FROM received WHERE published = 0",
        )?;
        rows.query_map([], |row| {
            let received = Received {
                account: row.get(0)?,
                peer: PublicKey(row.get(1)?),
                transfer: MailId(row.get(2)?),
                mailbox: row.get(3)?,
                maildir: row.get(4)?,
                file: row.get(5)?,
            };
            Ok(Unpublished { received, at: row.get(6)? })
        })?
        .collect()
    }
}
