//! The queue: mails, their recipients, what becomes of them.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::bodies::EncodedBody;
use super::schema::Reader;
use super::writer::{Event, Session, Store, StoreError};
use super::{names, outcome};
use crate::engine::transfer::{
    Body, Digest, Digester, Encoding, MAX_RECIPIENTS, MailId, Outcome, Transfer, TransferRecipient,
};
use crate::identity::tox_id::PublicKey;
use crate::mail::envelope::{Notify, Return};
use crate::mail::status::EnhancedStatus;

/// How much of the header section is kept for notices, in octets.
pub const HEAD: usize = 16 * 1024;

/// What the operator has decided about the queue.
pub struct Policy {
    /// The queue clock, in milliseconds since the epoch.
    pub now: Box<dyn Fn() -> i64 + Send + Sync>,
    /// Wait after the first failed attempt, in milliseconds.
    pub retry_min: u64,
    /// Longest wait, in milliseconds.
    pub retry_max: u64,
    /// After how long the sender of a mail that still waits is told, in milliseconds; 0: never.
    pub delay_notice: i64,
    /// Composes the notice for a recipient; `None` when none can be.
    pub notice: Composer,
}

/// The waiting times of a [`Policy`], for changing them.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// As in [`Policy`].
    pub retry_min: u64,
    /// As in [`Policy`].
    pub retry_max: u64,
    /// As in [`Policy`].
    pub delay_notice: i64,
}

impl Policy {
    pub(super) fn set_times(&mut self, times: Times) {
        let Times { retry_min, retry_max, delay_notice } = times;
        (self.retry_min, self.retry_max, self.delay_notice) = (retry_min, retry_max, delay_notice);
    }
}

/// Composes the content of a notice.
pub type Composer = Box<dyn Fn(&Report<'_>) -> Option<Vec<u8>> + Send + Sync>;

/// What is told of a recipient (the `Action` of RFC 3464).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It failed for good.
    Failed,
    /// It still waits, at most until then, in milliseconds since the epoch.
    Delayed(i64),
    /// The peer has it in the mailbox.
    Delivered,
    /// The peer gave it to another mail system.
    Relayed,
}

/// What the sender of a mail is to be told about one recipient.
pub struct Report<'a> {
    /// What became of it.
    pub action: Action,
    /// Whose mail it was.
    pub account: &'a str,
    /// The mail's name in the queue.
    pub queue_id: &'a str,
    /// The reverse-path as submitted, which is not `<>`.
    pub sender: &'a str,
    /// Whether the mail came with SMTPUTF8.
    pub smtputf8: bool,
    /// The beginning of the header section.
    pub head: &'a [u8],
    /// The whole mail, if it is to go back.
    pub mail: Option<&'a [u8]>,
    /// When it was queued, in milliseconds since the epoch.
    pub arrived: i64,
    /// The forward-path as submitted.
    pub address: &'a str,
    /// `ORCPT`
    pub orcpt: Option<&'a str>,
    /// `ENVID`
    pub envid: Option<&'a str>,
    /// What became of it, as an enhanced status code.
    pub status: EnhancedStatus,
    /// The same in words.
    pub text: &'a str,
}

/// A transfer all of whose recipients have their answer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The account.
    pub account: String,
    /// The peer.
    pub peer: PublicKey,
    /// The transfer.
    pub transfer: MailId,
}

/// A notice that waits for its mailbox.
pub struct Notice {
    /// Its row.
    pub id: i64,
    /// Whose it is.
    pub account: String,
    /// The whole mail.
    pub content: Vec<u8>,
}

/// One recipient as `toxctl queue list` shows it, with its mail.
#[derive(Debug, Clone)]
pub struct QueueLine {
    /// The mail's name in the queue.
    pub queue_id: String,
    /// The MTA's name for it.
    pub mta_queue_id: Option<String>,
    /// Whose it is.
    pub account: String,
    /// The reverse-path.
    pub sender: String,
    /// Octets.
    pub size: u64,
    /// Octets of the encoded body.
    pub wire_size: u64,
    /// Milliseconds since the epoch.
    pub arrived: i64,
    /// Milliseconds since the epoch.
    pub expires: i64,
    /// The forward-path.
    pub address: String,
    /// The contact; absent while the address leads to no accepted key.
    pub peer: Option<PublicKey>,
    /// Name of the transfer.
    pub transfer: MailId,
    /// Whether it is being sent.
    pub sending: bool,
    /// Whether the operator has put it on hold.
    pub on_hold: bool,
    /// Whether it came from a backup, and may have been delivered since that was made.
    pub restored: bool,
    /// How many relays have all of it, and since when that is enough of them (milliseconds since the epoch).
    pub at_relays: Option<(u32, i64)>,
    /// So far.
    pub attempts: u32,
    /// Milliseconds since the epoch.
    pub next_attempt: i64,
    /// Status and text of the last failed attempt.
    pub failure: Option<(String, String)>,
}

/// The queue in some numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSummary {
    /// Mails.
    pub mails: u64,
    /// Recipients.
    pub recipients: u64,
    /// Octets of encoded bodies.
    pub octets: u64,
    /// When the oldest mail arrived, in milliseconds since the epoch.
    pub oldest: Option<i64>,
    /// Mails that lie at enough relays; they wait for the recipient's receipt.
    pub at_relays: u64,
    /// Since when the first of them does, in milliseconds since the epoch.
    pub at_relays_since: Option<i64>,
}

/// A mail to be queued.
pub struct NewMail {
    /// The name it gets in the queue.
    pub queue_id: String,
    /// Whose it is.
    pub account: String,
    /// The MTA's queue id.
    pub mta_queue_id: Option<String>,
    /// The reverse-path as submitted, empty for `<>`.
    pub sender: String,
    /// The reverse-path that the peer is given.
    pub wire_sender: String,
    /// The beginning of the header section, at most [`HEAD`] octets.
    pub head: Vec<u8>,
    /// When it expires, in milliseconds from now.
    pub lifetime: i64,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET`
    pub ret: Option<Return>,
    /// `ENVID`
    pub envid: Option<String>,
    /// At least one.
    pub recipients: Vec<NewRecipient>,
}

/// A recipient of a [`NewMail`].
#[derive(Clone)]
pub struct NewRecipient {
    /// The forward-path as submitted.
    pub address: String,
    /// Where it goes.
    pub to: Destination,
    /// A new name for the transfer to that contact; used unless the mail has one for it already.
    pub transfer: MailId,
    /// `NOTIFY`
    pub notify: Option<Notify>,
    /// `ORCPT`
    pub orcpt: Option<String>,
}

/// Where a recipient is to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// At a contact.
    Peer {
        /// The contact.
        key: PublicKey,
        /// The forward-path that it is given.
        wire_address: String,
    },
    /// Where this address (in lower case) leads by the DNS, once a key is accepted for it.
    Name(String),
}

fn notify_bits(notify: Option<Notify>) -> Option<i64> {
    let bit = |set: bool, bit: i64| if set { bit } else { 0 };
    notify.map(|n| bit(n.never, 1) | bit(n.success, 2) | bit(n.failure, 4) | bit(n.delay, 8))
}

pub(super) fn notify_of(bits: Option<i64>) -> Option<Notify> {
    bits.map(|b| Notify { never: b & 1 != 0, success: b & 2 != 0, failure: b & 4 != 0, delay: b & 8 != 0 })
}

/// The key by which the same mail for the same recipient is recognised when the MTA hands it over again.
fn accepted_key(mta_queue_id: &str, recipient: &str, digest: &Digest) -> [u8; 32] {
    let mut hash = Digester::default();
    for part in [mta_queue_id.as_bytes(), recipient.as_bytes(), &digest.0] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().0
}

/// At the start: nothing is being sent, and body files without a row are what a crash left behind.
pub(super) fn recover(connection: &Connection, bodies: &Path) -> anyhow::Result<()> {
    connection.execute("UPDATE recipient SET state = 0 WHERE state = 1", [])?;
    let mut statement = connection.prepare("SELECT body_file FROM mail WHERE body_file IS NOT NULL")?;
    let named: HashSet<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for entry in std::fs::read_dir(bodies)? {
        let name = entry?.file_name();
        if name.to_str().is_none_or(|name| !named.contains(name)) {
            std::fs::remove_file(bodies.join(name))?;
        }
    }
    Ok(())
}

impl Store {
    /// Queues a mail. `done` gets, after the commit, the queue id for each recipient: the one of an earlier handing over
    /// where the MTA's queue id, the recipient and the digest are the same.
    pub fn enqueue(
        &self,
        mail: NewMail,
        body: EncodedBody,
        done: impl FnOnce(Result<Vec<String>, StoreError>) + Send + 'static,
    ) {
        let EncodedBody { size, wire_size, digest, encoding, inline, file } = body;
        let file_name = file.as_ref().map(|file| file.name().to_owned());
        let encoded = Encoded { size, wire_size, digest, encoding, inline, file: file_name };
        self.submit(
            move |session| enqueue(session, &mail, &encoded),
            move |result| {
                // A row that a crash may bring back must find its body; without a row the next start removes it.
                let named = match &result {
                    Ok((_, used)) => *used,
                    Err(error) => error.uncertain,
                };
                if let (true, Some(file)) = (named, file) {
                    file.keep();
                }
                done(result.map(|(ids, _)| ids));
            },
        );
    }

    /// Records what became of a recipient: its row goes or is due again later, and a notice is made where it must be.
    pub fn outcome(&self, peer: PublicKey, transfer: MailId, index: u32, result: Outcome) {
        self.record(move |session| outcome::record(session, &peer, &transfer, index, &result));
    }

    /// Makes deferred recipients due now: all, those of one mail, of one account, of one contact. Returns how many.
    ///
    /// # Errors
    /// The store fails.
    pub fn flush(
        &self,
        queue_id: Option<String>,
        account: Option<String>,
        peer: Option<PublicKey>,
    ) -> Result<u64, StoreError> {
        self.call(move |session| {
            let now = (session.policy.now)();
            let changed = session.connection.execute(
                "UPDATE recipient SET next_attempt = ?1 WHERE state = 0
                 AND (?2 IS NULL OR mail IN (SELECT id FROM mail WHERE queue_id = ?2 OR mta_queue_id = ?2))
                 AND (?3 IS NULL OR account = ?3) AND (?4 IS NULL OR peer = ?4)",
                params![now, queue_id, account, peer.map(|peer| peer.0)],
            )?;
            session.dispatcher.look_again();
            // What waits for a name is looked up again.
            let names = session.connection.execute(
                "UPDATE name SET next_lookup = ?1, denials = 0 WHERE (account, address) IN
                 (SELECT account, name FROM recipient WHERE peer IS NULL AND ?4 IS NULL AND (?3 IS NULL OR account = ?3)
                  AND (?2 IS NULL OR mail IN (SELECT id FROM mail WHERE queue_id = ?2 OR mta_queue_id = ?2)))",
                params![now, queue_id, account, peer.map(|peer| peer.0)],
            )?;
            if names > 0 {
                session.events.push(Event::Names);
            }
            Ok(changed as u64)
        })
    }

    /// A notice is in its mailbox.
    pub fn notice_delivered(&self, id: i64) {
        self.record(move |session| {
            session.connection.prepare_cached("DELETE FROM notice WHERE id = ?")?.execute([id])?;
            Ok(())
        });
    }
}

struct Encoded {
    size: u64,
    wire_size: u64,
    digest: Digest,
    encoding: Encoding,
    inline: Option<Vec<u8>>,
    file: Option<String>,
}

/// Queue id for each recipient, and whether the body was used.
fn enqueue(session: &mut Session<'_>, mail: &NewMail, body: &Encoded) -> rusqlite::Result<(Vec<String>, bool)> {
    let db = session.connection;
    let now = (session.policy.now)();
    let mut ids: Vec<Option<String>> = Vec::with_capacity(mail.recipients.len());
    for recipient in &mail.recipients {
        let known = match &mail.mta_queue_id {
            None => None,
            Some(mta) => db
                .prepare_cached("SELECT queue_id FROM accepted WHERE key = ?")?
                .query_row([accepted_key(mta, &recipient.address, &body.digest)], |row| row.get(0))
                .optional()?,
        };
        ids.push(known);
    }
    if let Some(known) = ids.iter().flatten().next() {
        let mta = mail.mta_queue_id.as_deref().unwrap_or_default();
        session.log.push(format!("{known}: handed over again by the MTA (mta={mta}), queued only once"));
    }
    if ids.iter().all(Option::is_some) {
        return Ok((ids.into_iter().flatten().collect(), false));
    }
    // The same mail for another recipient, as a pipe transport brings it: one body, one transfer per peer.
    let same: Option<(i64, String)> = match &mail.mta_queue_id {
        None => None,
        Some(mta) => db
            .prepare_cached(
                "SELECT id, queue_id FROM mail WHERE mta_queue_id = ? AND digest = ? AND account = ? AND sender = ?",
            )?
            .query_row(params![mta, body.digest.0, mail.account, mail.sender], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
    };
    let used = same.is_none();
    let (row, queue_id) = match same {
        Some(same) => same,
        None => {
            db.prepare_cached(
                "INSERT INTO mail (queue_id, account, mta_queue_id, sender, wire_sender, size, wire_size, digest,
                 encoding, head, body, body_file, arrived, expires, smtputf8, ret, envid)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                mail.queue_id,
                mail.account,
                mail.mta_queue_id,
                mail.sender,
                mail.wire_sender,
                body.size as i64,
                body.wire_size as i64,
                body.digest.0,
                body.encoding.number(),
                mail.head,
                body.inline,
                body.file,
                now,
                now + mail.lifetime,
                mail.smtputf8,
                mail.ret.map(|ret| i64::from(ret == Return::Headers)),
                mail.envid,
            ])?;
            (db.last_insert_rowid(), mail.queue_id.clone())
        }
    };
    let mta = mail.mta_queue_id.as_deref().unwrap_or("-");
    let (sender, size, count) = (&mail.sender, body.size, mail.recipients.len());
    session.log.push(format!("{queue_id}: from=<{sender}>, size={size}, nrcpt={count}, mta={mta} (queue active)"));
    let first: i64 = db
        .prepare_cached("SELECT coalesce(max(number) + 1, 0) FROM recipient WHERE mail = ?")?
        .query_row([row], |found| found.get(0))?;
    let bulk = body.wire_size > crate::engine::transfer::BURST;
    for (number, recipient) in mail.recipients.iter().enumerate() {
        // An MTA may name a recipient twice, such as two aliases of one address: one delivery serves both.
        let same = mail.recipients[..number].iter().position(|earlier| earlier.address == recipient.address);
        if let Some(earlier) = same {
            ids[number] = ids[earlier].clone();
        }
        if ids[number].is_some() {
            continue;
        }
        let (place, name) = match &recipient.to {
            Destination::Peer { key, wire_address } => (names::Place::peer(*key, wire_address), None),
            Destination::Name(name) => (names::place(session, &mail.account, name, &recipient.address)?, Some(name)),
        };
        let transfer = match &place.peer {
            Some(peer) => open_transfer(db, row, peer)?,
            None => None,
        };
        let (status, text) = place.failure.unzip();
        db.prepare_cached(
            "INSERT INTO recipient (mail, number, account, peer, transfer, address, wire_address, bulk, state, attempts,
             next_attempt, status, text, notify, orcpt, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            row,
            first + number as i64,
            mail.account,
            place.peer.map(|peer| peer.0),
            transfer.unwrap_or(recipient.transfer).0,
            recipient.address,
            place.wire_address,
            bulk,
            now,
            status,
            text,
            notify_bits(recipient.notify),
            recipient.orcpt,
            name,
        ])?;
        let id = db.last_insert_rowid();
        if let Some(mta) = &mail.mta_queue_id {
            db.prepare_cached("INSERT INTO accepted (key, queue_id, at) VALUES (?, ?, ?)")?.execute(params![
                accepted_key(mta, &recipient.address, &body.digest),
                queue_id,
                now
            ])?;
        }
        if let Some(peer) = &place.peer {
            session.dispatcher.touch(&mail.account, peer);
        } else if place.changed {
            outcome::warn(session, id)?;
        }
        ids[number] = Some(queue_id.clone());
    }
    Ok((ids.into_iter().flatten().collect(), used))
}

/// The transfer of this mail at this peer that one recipient more can join: none of it is being sent or lies at relays, and
/// it has room.
pub(super) fn open_transfer(db: &Connection, mail: i64, peer: &PublicKey) -> rusqlite::Result<Option<MailId>> {
    db.prepare_cached(
        "SELECT transfer FROM recipient WHERE mail = ? AND peer = ? GROUP BY transfer
         HAVING max(state) = 0 AND count(*) < ? AND NOT EXISTS
         (SELECT 1 FROM parcel p WHERE p.id = transfer) LIMIT 1",
    )?
    .query_row(params![mail, peer.0, MAX_RECIPIENTS], |found| Ok(MailId(found.get(0)?)))
    .optional()
}

/// Takes up to `limit` transfers that are due, marks their recipients as being sent and counts the attempt.
pub(super) fn take_due(
    db: &Connection,
    account: &str,
    peer: &PublicKey,
    bulk: bool,
    now: i64,
    policy: &Policy,
    limit: u32,
) -> rusqlite::Result<Vec<Transfer>> {
    // A time further away than the longest wait is left from a clock that was wrong: due now.
    let beyond = now.saturating_add(i64::try_from(policy.retry_max).unwrap_or(i64::MAX));
    let mut due = db.prepare_cached(
        "SELECT transfer FROM recipient WHERE account = ?1 AND peer = ?2 AND state = 0 AND bulk = ?3
         AND (next_attempt <= ?4 OR next_attempt > ?5) ORDER BY next_attempt LIMIT ?6",
    )?;
    let names: Vec<[u8; 16]> = due
        .query_map(params![account, peer.0, bulk, now, beyond, limit], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut transfers: Vec<Transfer> = Vec::with_capacity(names.len());
    for name in names {
        if transfers.iter().any(|transfer| transfer.id.0 == name) {
            continue;
        }
        let mut rows = db.prepare_cached(
            "UPDATE recipient SET state = 1, attempts = attempts + 1 WHERE transfer = ? AND peer = ? AND state = 0
             RETURNING mail, number, wire_address",
        )?;
        let taken: Vec<(i64, u32, String)> = rows
            .query_map(params![name, peer.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let Some(&(mail, ..)) = taken.first() else { continue };
        let recipients = taken.into_iter().map(|(_, index, address)| TransferRecipient { index, address }).collect();
        transfers.push(
            db.prepare_cached(
                "SELECT wire_sender, size, wire_size, digest, encoding, body, expires FROM mail WHERE id = ?",
            )?
            .query_row([mail], |row| {
                Ok(Transfer {
                    id: MailId(name),
                    mail,
                    sender: row.get(0)?,
                    recipients,
                    size: row.get::<_, i64>(1)? as u64,
                    wire_size: row.get::<_, i64>(2)? as u64,
                    digest: Digest(row.get(3)?),
                    encoding: Encoding::from_number(row.get(4)?).unwrap_or(Encoding::Identity),
                    body: row.get::<_, Option<Vec<u8>>>(5)?.map_or(Body::Stored, Body::Inline),
                    deadline: u64::try_from(row.get::<_, i64>(6)? - now).unwrap_or(0) / 1000,
                })
            })?,
        );
    }
    Ok(transfers)
}

impl Reader {
    /// The name of the file that holds the body of a mail.
    ///
    /// # Errors
    /// The store fails or the mail is gone.
    pub fn body_file(&self, mail: i64) -> rusqlite::Result<String> {
        self.connection
            .prepare_cached("SELECT body_file FROM mail WHERE id = ? AND body_file IS NOT NULL")?
            .query_row([mail], |row| row.get(0))
    }

    /// A notice that waits, if it still does.
    ///
    /// # Errors
    /// The store fails.
    pub fn notice(&self, id: i64) -> rusqlite::Result<Option<Notice>> {
        self.connection
            .prepare_cached("SELECT id, account, content FROM notice WHERE id = ?")?
            .query_row([id], |row| Ok(Notice { id: row.get(0)?, account: row.get(1)?, content: row.get(2)? }))
            .optional()
    }

    /// The rows and accounts of all notices that wait.
    ///
    /// # Errors
    /// The store fails.
    pub fn notices(&self) -> rusqlite::Result<Vec<(i64, String)>> {
        let mut rows = self.connection.prepare_cached("SELECT id, account FROM notice ORDER BY id")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    }

    /// The queue in numbers, of one account or all.
    ///
    /// # Errors
    /// The store fails.
    pub fn queue_summary(&self, account: Option<&str>) -> rusqlite::Result<QueueSummary> {
        let recipients: i64 = self
            .connection
            .prepare_cached("SELECT count(*) FROM recipient WHERE ?1 IS NULL OR account = ?1")?
            .query_row([account], |row| row.get(0))?;
        let (at_relays, at_relays_since): (i64, Option<i64>) = self
            .connection
            .prepare_cached(
                "SELECT count(*), min(since) FROM parcel
                 WHERE (?1 IS NULL OR account = ?1) AND mail IS NOT NULL AND finished = 0 AND copies IS NOT NULL
                 AND EXISTS (SELECT 1 FROM recipient r WHERE r.transfer = parcel.id AND r.peer = parcel.peer)",
            )?
            .query_row([account], |row| Ok((row.get(0)?, row.get(1)?)))?;
        self.connection
            .prepare_cached(
                "SELECT count(*), coalesce(sum(wire_size), 0), min(arrived) FROM mail WHERE ?1 IS NULL OR account = ?1",
            )?
            .query_row([account], |row| {
                Ok(QueueSummary {
                    mails: row.get::<_, i64>(0)? as u64,
                    recipients: recipients as u64,
                    octets: row.get::<_, i64>(1)? as u64,
                    oldest: row.get(2)?,
                    at_relays: at_relays as u64,
                    at_relays_since,
                })
            })
    }

    /// How many mails are held: they wait for a name to lead to an accepted key, or are on hold.
    ///
    /// # Errors
    /// The store fails.
    pub fn held_mails(&self) -> rusqlite::Result<u64> {
        let held = "SELECT count(DISTINCT mail) FROM recipient WHERE state = 2 OR name IS NOT NULL AND peer IS NULL";
        self.connection.prepare_cached(held)?.query_row([], |row| row.get::<_, i64>(0)).map(|n| n as u64)
    }

    /// The recipients of up to `limit` mails whose queue id is greater than `after`, in order of queue ids, which is the
    /// order of arrival.
    ///
    /// # Errors
    /// The store fails.
    pub fn queue(&self, account: Option<&str>, after: &str, limit: u32) -> rusqlite::Result<Vec<QueueLine>> {
        let mut rows = self.connection.prepare_cached(
            "SELECT m.queue_id, m.mta_queue_id, m.account, m.sender, m.size, m.arrived, m.expires, r.address,
             r.peer, r.transfer, r.state, r.attempts, r.next_attempt, r.status, r.text,
             m.wire_size, r.epoch IS NOT NULL, p.copies, p.since FROM recipient r JOIN mail m ON m.id = r.mail
             LEFT JOIN parcel p ON p.account = r.account AND p.peer = r.peer AND p.id = r.transfer
             WHERE m.id IN (SELECT id FROM mail WHERE queue_id > ?2 AND (?1 IS NULL OR account = ?1)
                            ORDER BY queue_id LIMIT ?3)
             ORDER BY m.queue_id, r.number",
        )?;
        rows.query_map(params![account, after, limit], |row| {
            let status: Option<String> = row.get(13)?;
            let text: Option<String> = row.get(14)?;
            Ok(QueueLine {
                queue_id: row.get(0)?,
                mta_queue_id: row.get(1)?,
                account: row.get(2)?,
                sender: row.get(3)?,
                size: row.get::<_, i64>(4)? as u64,
                arrived: row.get(5)?,
                expires: row.get(6)?,
                address: row.get(7)?,
                peer: row.get::<_, Option<[u8; 32]>>(8)?.map(PublicKey),
                transfer: MailId(row.get(9)?),
                sending: row.get::<_, i64>(10)? == 1,
                on_hold: row.get::<_, i64>(10)? == super::hold::ON_HOLD,
                restored: row.get(16)?,
                at_relays: row.get::<_, Option<u32>>(17)?.zip(row.get(18)?),
                attempts: row.get(11)?,
                next_attempt: row.get(12)?,
                failure: status.zip(text),
                wire_size: row.get::<_, i64>(15)? as u64,
            })
        })?
        .collect()
    }
}
