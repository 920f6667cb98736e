//! What becomes of a recipient: its answer, its end, and what its sender is told.

use rusqlite::{OptionalExtension, Row, params};

use super::queue::{Action, Recorded, Report, notify_of};
use super::writer::{Event, Session};
use crate::engine::schedule;
use crate::engine::transfer::{Encoding, MailId, Outcome};
use crate::identity::tox_id::PublicKey;
use crate::mail::envelope::Notify;
use crate::mail::notice;
use crate::mail::status::{EnhancedStatus, Refusal};

/// How long the MTA's handing a mail over twice is recognised, in milliseconds: twice Postfix's maximal_queue_lifetime.
const ACCEPTED_AGE: i64 = 10 * 86_400_000;
/// How many expired recipients are bounced in one transaction.
const EXPIRE_BATCH: u32 = 100;

/// A recipient's row with what log lines and notices need of its mail.
pub(super) struct Pending {
    id: i64,
    mail: i64,
    account: String,
    peer: Option<PublicKey>,
    address: String,
    attempts: u32,
    notify: Option<Notify>,
    orcpt: Option<String>,
    queue_id: String,
    mta_queue_id: Option<String>,
    sender: String,
    arrived: i64,
    expires: i64,
    envid: Option<String>,
}

const PENDING: &str = "SELECT r.id, r.mail, r.account, r.peer, r.address, r.attempts, r.notify, r.orcpt, m.queue_id,
    m.mta_queue_id, m.sender, m.arrived, m.expires, m.envid FROM recipient r JOIN mail m ON m.id = r.mail";
/// The same, beginning with the mails: without the order SQLite would read every recipient to find what has expired.
const PENDING_BY_MAIL: &str = "SELECT r.id, r.mail, r.account, r.peer, r.address, r.attempts, r.notify, r.orcpt,
    m.queue_id, m.mta_queue_id, m.sender, m.arrived, m.expires, m.envid
    FROM mail m CROSS JOIN recipient r ON r.mail = m.id";

impl Pending {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            mail: row.get(1)?,
            account: row.get(2)?,
            peer: row.get::<_, Option<[u8; 32]>>(3)?.map(PublicKey),
            address: row.get(4)?,
            attempts: row.get(5)?,
            notify: notify_of(row.get(6)?),
            orcpt: row.get(7)?,
            queue_id: row.get(8)?,
            mta_queue_id: row.get(9)?,
            sender: row.get(10)?,
            arrived: row.get(11)?,
            expires: row.get(12)?,
            envid: row.get(13)?,
        })
    }

    /// A log line in the manner of Postfix.
    fn line(&self, now: i64, dsn: &str, status: &str, text: &str) -> String {
        let delay = (now - self.arrived).max(0) as f64 / 1000.0;
        format!(
            "{}: to=<{}>, relay={}, delay={delay:.2}, dsn={dsn}, status={status} ({text}), mta={}",
            self.queue_id,
            self.address,
            self.peer.map_or_else(|| "none".to_owned(), |peer| format!("tox:{}", peer.short())),
            self.mta_queue_id.as_deref().unwrap_or("-"),
        )
    }

    /// Removes the recipient, and the mail with it when it was the last.
    fn remove(&self, session: &mut Session<'_>) -> rusqlite::Result<()> {
        let db = session.connection;
        db.prepare_cached("DELETE FROM recipient WHERE id = ?")?.execute([self.id])?;
        let last: Option<Option<String>> = db
            .prepare_cached(
                "DELETE FROM mail WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM recipient WHERE mail = ?1)
                 RETURNING body_file",
            )?
            .query_row([self.mail], |row| row.get(0))
            .optional()?;
        if let Some(body_file) = last {
            session.unlink.extend(body_file);
            session.log.push(format!("{}: removed", self.queue_id));
        }
        Ok(())
    }

    /// Makes a notice, if one is wanted; never of a mail from `<>`, as a notice is one. In the same transaction as what it
    /// tells: a notice is on disk before its recipient is gone.
    fn report(
        &self,
        session: &mut Session<'_>,
        action: Action,
        status: EnhancedStatus,
        text: &str,
    ) -> rusqlite::Result<()> {
        let kind = match action {
            Action::Failed => notice::Action::Failed,
            Action::Delayed(_) => notice::Action::Delayed(""),
            Action::Delivered => notice::Action::Delivered,
            Action::Relayed => notice::Action::Relayed,
        };
        if self.sender.is_empty() || !notice::is_wanted(&kind, self.notify) {
            return Ok(());
        }
        let (head, smtputf8): (Vec<u8>, bool) = session
            .connection
            .prepare_cached("SELECT head, smtputf8 FROM mail WHERE id = ?")?
            .query_row([self.mail], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mail = if action == Action::Failed { self.returned(session)? } else { None };
        let content = (session.policy.notice)(&Report {
            action,
            account: &self.account,
            queue_id: &self.queue_id,
            sender: &self.sender,
            smtputf8,
            head: &head,
            mail: mail.as_deref(),
            arrived: self.arrived,
            address: &self.address,
            orcpt: self.orcpt.as_deref(),
            envid: self.envid.as_deref(),
            status,
            text,
        });
        let Some(content) = content else { return Ok(()) };
        session
            .connection
            .prepare_cached("INSERT INTO notice (account, content) VALUES (?, ?)")?
            .execute(params![self.account, content])?;
        session.events.push(Event::Notice(self.account.clone(), session.connection.last_insert_rowid()));
        Ok(())
    }

    /// The whole mail, if it is to go back whole (`RET`, [`notice::MAX_RETURNED`]): such a one is short, so it is in its row.
    fn returned(&self, session: &Session<'_>) -> rusqlite::Result<Option<Vec<u8>>> {
        let found: Option<(i64, i64, Vec<u8>)> = session
            .connection
            .prepare_cached(
                "SELECT size, encoding, body FROM mail
                 WHERE id = ? AND ret IS NOT 1 AND size <= ? AND body IS NOT NULL",
            )?
            .query_row(params![self.mail, notice::MAX_RETURNED as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        Ok(found.and_then(|(size, encoding, body)| match Encoding::from_number(encoding as u8)? {
            Encoding::Identity => Some(body),
            // What cannot be decoded goes back with its header section only.
            Encoding::Zstd => zstd::bulk::decompress(&body, size as usize).ok(),
        }))
    }

    /// Fails it for good.
    fn bounce(&self, session: &mut Session<'_>, now: i64, refusal: &Refusal) -> rusqlite::Result<()> {
        session.log.push(self.line(now, &refusal.status().to_string(), "bounced", refusal.text()));
        session.counts.bounced += 1;
        self.report(session, Action::Failed, refusal.status(), refusal.text())?;
        self.remove(session)
    }
}

/// Records what became of a recipient that was being sent.
pub(super) fn record(
    session: &mut Session<'_>,
    peer: &PublicKey,
    transfer: &MailId,
    index: u32,
    outcome: &Outcome,
) -> rusqlite::Result<()> {
    let db = session.connection;
    let now = (session.policy.now)();
    let found = db
        .prepare_cached(&format!("{PENDING} WHERE r.transfer = ? AND r.number = ? AND r.peer = ?"))?
        .query_row(params![transfer.0, index, peer.0], Pending::read)
        .optional()?;
    // An answer that comes again after it was recorded changes nothing.
    let Some(pending) = found else { return Ok(()) };
    match outcome {
        Outcome::Stored { duplicate, relayed } => {
            let (action, text) = match (relayed, duplicate) {
                (true, _) => (Action::Relayed, "handed on by the recipient's agent to another mail system"),
                (false, true) => (Action::Delivered, "stored by an earlier attempt"),
                (false, false) => (Action::Delivered, "stored in the recipient's mailbox"),
            };
            session.log.push(pending.line(now, "2.0.0", "sent", text));
            session.counts.sent += 1;
            pending.report(session, action, EnhancedStatus::new(2, 0, 0), text)?;
            pending.remove(session)?;
        }
        Outcome::Refused(refusal) if refusal.is_permanent() => {
            pending.bounce(session, now, refusal)?;
        }
        Outcome::Refused(refusal) => {
            let policy = session.policy;
            let wait = schedule::retry_after(pending.attempts, policy.retry_min, policy.retry_max, pending.id as u64);
            db.prepare_cached("UPDATE recipient SET state = 0, next_attempt = ?, status = ?, text = ? WHERE id = ?")?
                .execute(params![
                now.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX)),
                refusal.status().to_string(),
                refusal.text(),
                pending.id
            ])?;
            session.log.push(pending.line(now, &refusal.status().to_string(), "deferred", refusal.text()));
            session.counts.deferred += 1;
            session.dispatcher.touch(&pending.account, peer);
        }
    }
    let open: bool = db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM recipient WHERE transfer = ? AND peer IS NOT NULL)")?
        .query_row([transfer.0], |row| row.get(0))?;
    if !open {
        session.events.push(Event::Recorded(Recorded { account: pending.account, peer: *peer, transfer: *transfer }));
    }
    Ok(())
}

/// Logs that the recipients of a transfer wait at so many relays.
pub(super) fn log_at_relays(
    session: &mut Session<'_>,
    peer: &PublicKey,
    transfer: &MailId,
    relays: u32,
) -> rusqlite::Result<()> {
    let now = (session.policy.now)();
    let waiting: Vec<Pending> = session
        .connection
        .prepare_cached(&format!("{PENDING} WHERE r.transfer = ? AND r.peer = ?"))?
        .query_map(params![transfer.0, peer.0], Pending::read)?
        .collect::<rusqlite::Result<_>>()?;
    let text = if relays == 1 { "at 1 relay".to_owned() } else { format!("at {relays} relays") };
    session.log.extend(waiting.iter().map(|pending| pending.line(now, "4.4.1", "deferred", &text)));
    Ok(())
}

/// Bounces what has waited too long, and forgets what the MTA will not hand over again.
pub(super) fn expire(session: &mut Session<'_>) -> rusqlite::Result<()> {
    let now = (session.policy.now)();
    let late: Vec<Pending> = session
        .connection
        .prepare_cached(&format!("{PENDING_BY_MAIL} WHERE m.expires <= ? AND r.state = 0 LIMIT ?"))?
        .query_map(params![now, EXPIRE_BATCH], Pending::read)?
        .collect::<rusqlite::Result<_>>()?;
    for pending in late {
        let why = why(session, pending.id)?;
        let refusal = Refusal::permanent(4, 7, format!("the mail could not be delivered in time: {why}"));
        session.log.push(pending.line(now, "5.4.7", "expired", refusal.text()));
        session.counts.bounced += 1;
        pending.report(session, Action::Failed, refusal.status(), refusal.text())?;
        pending.remove(session)?;
    }
    session.connection.prepare_cached("DELETE FROM accepted WHERE at < ?")?.execute([now - ACCEPTED_AGE])?;
    Ok(())
}

/// What stands in a recipient's way, for its sender.
fn why(session: &Session<'_>, id: i64) -> rusqlite::Result<String> {
    let (last, restored, relays): (Option<String>, bool, Option<u32>) = session
        .connection
        .prepare_cached(
            "SELECT status || ' ' || text, epoch IS NOT NULL,
             (SELECT copies FROM parcel p WHERE p.account = r.account AND p.peer = r.peer AND p.id = r.transfer)
             FROM recipient r WHERE id = ?",
        )?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut why = last.unwrap_or_else(|| "the recipient's agent was never online together with this one".to_owned());
    if let Some(relays) = relays {
        let at = if relays == 1 { "1 relay".to_owned() } else { format!("{relays} relays") };
        why += &format!("; it lay at {at}, and no receipt has come");
    }
    if restored {
        why += "; it was restored from a backup and may have been delivered before";
    }
    Ok(why)
}

/// Tells the sender of a recipient that waits that it does, once.
pub(super) fn warn(session: &mut Session<'_>, id: i64) -> rusqlite::Result<()> {
    let taken = session
        .connection
        .prepare_cached("UPDATE recipient SET warned = 1 WHERE id = ? AND warned = 0 AND state <> 2")?
        .execute([id])?;
    if taken == 0 {
        return Ok(());
    }
    let pending =
        session.connection.prepare_cached(&format!("{PENDING} WHERE r.id = ?"))?.query_row([id], Pending::read)?;
    let failure: (Option<String>, Option<String>) = session
        .connection
        .prepare_cached("SELECT status, text FROM recipient WHERE id = ?")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let refusal = match failure {
        (Some(status), Some(text)) => Refusal::new(status.parse().unwrap_or(EnhancedStatus::new(4, 0, 0)), text),
        _ => Refusal::temporary(4, 1, "the recipient's agent was not online together with this one yet"),
    };
    pending.report(session, Action::Delayed(pending.expires), refusal.status(), refusal.text())
}

/// The recipients that wait for a name, without those on hold.
fn held(session: &Session<'_>, account: &str, name: &str) -> rusqlite::Result<Vec<Pending>> {
    session
        .connection
        .prepare_cached(&format!("{PENDING} WHERE r.account = ? AND r.name = ? AND r.peer IS NULL AND r.state <> 2"))?
        .query_map(params![account, name], Pending::read)?
        .collect()
}

/// Fails every recipient that waits for a name.
pub(super) fn bounce_held(
    session: &mut Session<'_>,
    account: &str,
    name: &str,
    refusal: &Refusal,
) -> rusqlite::Result<()> {
    let now = (session.policy.now)();
    held(session, account, name)?.iter().try_for_each(|pending| pending.bounce(session, now, refusal))
}

/// Fails every recipient that waits for a peer, on hold or not.
pub(super) fn bounce_peer(
    session: &mut Session<'_>,
    account: &str,
    peer: &PublicKey,
    refusal: &Refusal,
) -> rusqlite::Result<()> {
    let now = (session.policy.now)();
    let waiting: Vec<Pending> = session
        .connection
        .prepare_cached(&format!("{PENDING} WHERE r.account = ? AND r.peer = ? AND r.state <> 1"))?
        .query_map(params![account, peer.0], Pending::read)?
        .collect::<rusqlite::Result<_>>()?;
    waiting.iter().try_for_each(|pending| pending.bounce(session, now, refusal))
}

/// Logs that the recipients that wait for a name are deferred.
pub(super) fn log_held(
    session: &mut Session<'_>,
    account: &str,
    name: &str,
    refusal: &Refusal,
) -> rusqlite::Result<()> {
    let now = (session.policy.now)();
    let status = refusal.status().to_string();
    let lines =
        held(session, account, name)?.into_iter().map(|held| held.line(now, &status, "deferred", refusal.text()));
    session.log.extend(lines);
    Ok(())
}

/// Tells the senders of mails that have waited for long. Mails are numbered as they arrive, so that each sweep goes on
/// where the last one ended; the first of a run looks at all of them.
pub(super) fn warn_late(session: &mut Session<'_>) -> rusqlite::Result<()> {
    let wait = session.policy.delay_notice;
    if wait <= 0 {
        return Ok(());
    }
    let now = (session.policy.now)();
    // A time further away than the wait itself is left from a clock that was wrong.
    if now < session.dispatcher.warn_next && session.dispatcher.warn_next - now <= wait {
        return Ok(());
    }
    session.dispatcher.warn_next = now + wait;
    // Those of the future, by a clock that was wrong, are looked at again at the next start.
    let next: Vec<(i64, i64)> = session
        .connection
        .prepare_cached(
            "SELECT id, arrived FROM mail WHERE id > ? AND arrived <= ? AND EXISTS
             (SELECT 1 FROM recipient r WHERE r.mail = mail.id AND r.warned = 0 AND r.state <> 2) ORDER BY id LIMIT ?",
        )?
        .query_map(params![session.dispatcher.warned, now, EXPIRE_BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    if next.len() == EXPIRE_BATCH as usize {
        session.dispatcher.warn_next = now;
    }
    for (mail, arrived) in next {
        if now - arrived < wait {
            session.dispatcher.warn_next = arrived + wait;
            break;
        }
        let recipients: Vec<i64> = session
            .connection
            .prepare_cached("SELECT id FROM recipient WHERE mail = ? AND warned = 0")?
            .query_map([mail], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        recipients.into_iter().try_for_each(|id| warn(session, id))?;
        session.dispatcher.warned = mail;
    }
    Ok(())
}
