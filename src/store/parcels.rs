//! Parcels: what goes to contacts by relays, where its parts were put, and the receipts that are owed for what came so.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Row, params};

use super::lanes::class;
use super::schema::Reader;
use super::writer::{Store, StoreError};
use crate::engine::transfer::{Digest, Encoding, MailId, TransferRecipient};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, RelayKey};
use crate::relay::outbox::State;
use crate::relay::place::Place;

/// The first slot number of a contact's lane that we did not use yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotNext {
    /// The contact.
    pub peer: PublicKey,
    /// Where.
    pub relay: RelayKey,
    /// Of which class.
    pub class: Class,
    /// The number.
    pub next: u64,
}

/// What goes to a contact by relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The contact.
    pub peer: PublicKey,
    /// Its name; of a mail: that of its transfer.
    pub id: MailId,
    /// Row of the mail whose body follows the head.
    pub mail: Option<i64>,
    /// What it begins with.
    pub head: Vec<u8>,
    /// Octets of head and body.
    pub octets: u64,
    /// Milliseconds of the queue clock.
    pub queued: i64,
    /// Milliseconds of the queue clock.
    pub expires: i64,
    /// At how many relays it lies, and since when (milliseconds of the queue clock).
    pub at_relays: Option<(u32, i64)>,
    /// Whether nobody needs it any more.
    pub finished: bool,
}

/// Where the encoded body of a mail is.
pub enum ParcelBody {
    /// Here.
    Inline(Vec<u8>),
    /// In the file with this name below `bodies/`.
    File(String),
}

/// Where a part of a parcel was put, or is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposit {
    /// The contact.
    pub peer: PublicKey,
    /// The parcel.
    pub parcel: MailId,
    /// Which part of it.
    pub part: u32,
    /// Where.
    pub place: Place,
    /// What became of it.
    pub state: State,
}

/// What became of a mail that came by relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The contact that sent it.
    pub peer: PublicKey,
    /// The mail.
    pub transfer: MailId,
    /// The recipient's number.
    pub number: u32,
    /// As it goes on the wire.
    pub item: Vec<u8>,
    /// Milliseconds of the queue clock.
    pub made: i64,
    /// The parcel that carries it.
    pub parcel: Option<MailId>,
}

/// A mail that waits for a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub id: MailId,
    /// Its row.
    pub mail: i64,
    /// The reverse-path that the peer is given.
    pub sender: String,
    /// For whom at the contact.
    pub recipients: Vec<TransferRecipient>,
    /// Octets.
    pub size: u64,
    /// Octets of the encoded body.
    pub wire_size: u64,
    /// Of the mail.
    pub digest: Digest,
    /// Of the body.
    pub encoding: Encoding,
    /// Milliseconds of the queue clock.
    pub arrived: i64,
    /// Milliseconds of the queue clock.
    pub expires: i64,
}

fn parcel(row: &Row<'_>) -> rusqlite::Result<Parcel> {
    let copies: Option<u32> = row.get(7)?;
    Ok(Parcel {
        peer: PublicKey(row.get(0)?),
        id: MailId(row.get(1)?),
        mail: row.get(2)?,
        head: row.get(3)?,
        octets: row.get::<_, i64>(4)? as u64,
        queued: row.get(5)?,
        expires: row.get(6)?,
        at_relays: copies.zip(row.get(8)?),
        finished: row.get(9)?,
    })
}

const PARCEL: &str = "SELECT peer, id, mail, head, octets, queued, expires, copies, since, finished FROM parcel";

fn receipt(row: &Row<'_>) -> rusqlite::Result<Receipt> {
    Ok(Receipt {
        peer: PublicKey(row.get(0)?),
        transfer: MailId(row.get(1)?),
        number: row.get(2)?,
        item: row.get(3)?,
        made: row.get(4)?,
        parcel: row.get::<_, Option<[u8; 16]>>(5)?.map(MailId),
    })
}

pub(super) const RECEIPT: &str = "SELECT peer, transfer, number, item, made, parcel FROM receipt";

/// Receipts that wait for a parcel.
pub(super) const OWED: &str = "SELECT peer, transfer, number, item, made, parcel FROM receipt
     WHERE account = ? AND peer = ? AND parcel IS NULL ORDER BY made LIMIT ?";

/// Contacts for whom some do.
pub(super) const WHO_IS_OWED: &str = "SELECT DISTINCT peer FROM receipt INDEXED BY receipt_owed
     WHERE account = ? AND parcel IS NULL";

/// How many receipts are owed to a contact at most, who decides how many there are; the newest stay.
pub(super) const MAX_OWED: u32 = 5000;

/// In the order of `recipient_order`: what is read is what is returned, and the parcels between.
pub(super) const WAITING: &str = "SELECT transfer, mail FROM recipient INDEXED BY recipient_order
     WHERE account = ?1 AND peer = ?2 AND mail > ?3 GROUP BY mail, transfer
     HAVING max(state) = 0 AND NOT EXISTS
     (SELECT 1 FROM parcel p WHERE p.account = ?1 AND p.peer = ?2 AND p.id = transfer) ORDER BY mail, transfer LIMIT ?4";

/// The sender of these mails knows what became of them: no receipt is owed for them any more.
pub(super) fn receipts_heard(
    db: &rusqlite::Connection,
    account: &str,
    mails: &[(PublicKey, MailId)],
) -> rusqlite::Result<()> {
    for (peer, id) in mails {
        db.prepare_cached("DELETE FROM receipt WHERE account = ? AND peer = ? AND transfer = ?")?
            .execute(params![account, peer.0, id.0])?;
    }
    Ok(())
}

impl Store {
    /// Keeps a parcel, if there is none of its name yet. Receipts whose transfer and number are in `carries` go with it.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_parcel(&self, account: &str, parcel: Parcel, carries: Vec<(MailId, u32)>) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            db.prepare_cached(
                "INSERT INTO parcel (account, peer, id, mail, head, octets, queued, expires)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )?
            .execute(params![
                account,
                parcel.peer.0,
                parcel.id.0,
                parcel.mail,
                parcel.head,
                parcel.octets as i64,
                parcel.queued,
                parcel.expires
            ])?;
            for (transfer, number) in &carries {
                db.prepare_cached(
                    "UPDATE receipt SET parcel = ? WHERE account = ? AND peer = ? AND transfer = ? AND number = ?",
                )?
                .execute(params![parcel.id.0, account, parcel.peer.0, transfer.0, number])?;
            }
            Ok(())
        })
    }

    /// Notes where parts are put and what became of them; the slots count as used for ever.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_deposits(&self, account: &str, deposits: Vec<Deposit>) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            for Deposit { peer, parcel, part, place, state } in &deposits {
                let (number, until) = match state {
                    State::Chosen => (0, None),
                    State::Stored { until } => (1, Some(*until as i64)),
                    State::Lost => (2, None),
                };
                db.prepare_cached(
                    "INSERT INTO deposit (account, peer, relay, class, number, parcel, part, state, until)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET state = excluded.state, until = excluded.until",
                )?
                .execute(params![
                    account,
                    peer.0,
                    place.relay.0,
                    place.class.number(),
                    place.number as i64,
                    parcel.0,
                    part,
                    number,
                    until
                ])?;
                db.prepare_cached(
                    "INSERT INTO slot_next (account, peer, relay, class, next) VALUES (?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET next = max(next, excluded.next)",
                )?
                .execute(params![
                    account,
                    peer.0,
                    place.relay.0,
                    place.class.number(),
                    place.number as i64 + 1
                ])?;
            }
            Ok(())
        })
    }

    /// Notes that a parcel lies at so many relays. A line of the log says so for each of its recipients.
    pub fn at_relays(&self, account: &str, peer: PublicKey, id: MailId, relays: u32) {
        let account = account.to_owned();
        self.record(move |session| {
            let now = (session.policy.now)();
            let copies = Some(relays).filter(|relays| *relays > 0);
            let changed = session
                .connection
                .prepare_cached(
                    "UPDATE parcel SET copies = ?4, since = CASE WHEN ?4 IS NULL THEN NULL ELSE coalesce(since, ?5) END
                     WHERE account = ?1 AND peer = ?2 AND id = ?3 AND copies IS NOT ?4",
                )?
                .execute(params![account, peer.0, id.0, copies, now])?;
            if changed > 0 && copies.is_some() {
                super::outcome::log_at_relays(session, &peer, &id, relays)?;
            }
            Ok(())
        });
    }

    /// Marks parcels that nobody needs any more: their copies are to be removed.
    pub fn finish_parcels(&self, account: &str, parcels: Vec<(PublicKey, MailId)>) {
        let account = account.to_owned();
        self.record(move |session| {
            for (peer, id) in &parcels {
                session
                    .connection
                    .prepare_cached("UPDATE parcel SET finished = 1 WHERE account = ? AND peer = ? AND id = ?")?
                    .execute(params![account, peer.0, id.0])?;
            }
            Ok(())
        });
    }

    /// Forgets where the parts of a parcel are, and the parcel if it is finished.
    pub fn forget_parcel(&self, account: &str, peer: PublicKey, id: MailId) {
        let account = account.to_owned();
        self.record(move |session| {
            let db = session.connection;
            db.prepare_cached("DELETE FROM deposit WHERE account = ? AND peer = ? AND parcel = ?")?
                .execute(params![account, peer.0, id.0])?;
            db.prepare_cached("DELETE FROM parcel WHERE account = ? AND peer = ? AND id = ? AND finished = 1")?
                .execute(params![account, peer.0, id.0])?;
            Ok(())
        });
    }

    /// Keeps receipts that are owed. One that is there already stays; of too many for one contact the oldest go.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_receipts(&self, account: &str, receipts: Vec<Receipt>) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            for receipt in &receipts {
                session
                    .connection
                    .prepare_cached(
                        "INSERT INTO receipt (account, peer, transfer, number, item, made) VALUES (?, ?, ?, ?, ?, ?)
                         ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        account,
                        receipt.peer.0,
                        receipt.transfer.0,
                        receipt.number,
                        receipt.item,
                        receipt.made
                    ])?;
            }
            for peer in receipts.iter().map(|receipt| receipt.peer).collect::<BTreeSet<_>>() {
                session
                    .connection
                    .prepare_cached(
                        "DELETE FROM receipt WHERE account = ?1 AND peer = ?2 AND (transfer, number) IN
                         (SELECT transfer, number FROM receipt WHERE account = ?1 AND peer = ?2
                          ORDER BY made DESC LIMIT -1 OFFSET ?3)",
                    )?
                    .execute(params![account, peer.0, MAX_OWED])?;
            }
            Ok(())
        })
    }

    /// Forgets receipts made before then (milliseconds of the queue clock): who waited for them has given up.
    pub fn prune_receipts(&self, before: i64) {
        self.record(move |session| {
            session.connection.prepare_cached("DELETE FROM receipt WHERE made < ?")?.execute([before])?;
            Ok(())
        });
    }
}

impl Reader {
    /// How far the numbers of the lanes are that an account writes.
    ///
    /// # Errors
    /// The store fails.
    pub fn slot_numbers(&self, account: &str) -> rusqlite::Result<Vec<SlotNext>> {
        self.connection
            .prepare_cached("SELECT peer, relay, class, next FROM slot_next WHERE account = ?")?
            .query_map([account], |row| {
                Ok(SlotNext {
                    peer: PublicKey(row.get(0)?),
                    relay: RelayKey(row.get(1)?),
                    class: class(row.get(2)?, 2)?,
                    next: row.get::<_, i64>(3)? as u64,
                })
            })?
            .collect()
    }

    /// The parcels of an account, those finished included.
    ///
    /// # Errors
    /// The store fails.
    pub fn parcels(&self, account: &str) -> rusqlite::Result<Vec<Parcel>> {
        let mut rows = self.connection.prepare_cached(&format!("{PARCEL} WHERE account = ? ORDER BY queued"))?;
        rows.query_map([account], parcel)?.collect()
    }

    /// One parcel.
    ///
    /// # Errors
    /// The store fails.
    pub fn parcel(&self, account: &str, peer: &PublicKey, id: &MailId) -> rusqlite::Result<Option<Parcel>> {
        self.connection
            .prepare_cached(&format!("{PARCEL} WHERE account = ? AND peer = ? AND id = ?"))?
            .query_row(params![account, peer.0, id.0], parcel)
            .optional()
    }

    /// The parcels of mails that are not to lie at relays as they are, and that are not finished: those not in the queue any
    /// more (answered, returned or deleted; `true`), and those that are for somebody else now, on hold, or expire at another
    /// time than was written into the parcel.
    ///
    /// # Errors
    /// The store fails.
    pub fn parcels_done_with(&self, account: &str) -> rusqlite::Result<Vec<(PublicKey, MailId, bool)>> {
        self.connection
            .prepare_cached(
                "SELECT p.peer, p.id, NOT EXISTS (SELECT 1 FROM recipient r WHERE r.transfer = p.id)
                 FROM parcel p LEFT JOIN mail m ON m.id = p.mail
                 WHERE p.account = ? AND p.finished = 0 AND p.mail IS NOT NULL AND (m.expires IS NOT p.expires
                 OR NOT EXISTS (SELECT 1 FROM recipient r WHERE r.transfer = p.id AND r.peer = p.peer)
                 OR EXISTS (SELECT 1 FROM recipient r WHERE r.transfer = p.id AND r.peer = p.peer AND r.state = 2))",
            )?
            .query_map([account], |row| Ok((PublicKey(row.get(0)?), MailId(row.get(1)?), row.get(2)?)))?
            .collect()
    }

    /// The parcels without mail that carry receipts of which none is owed any more, and that are not finished.
    ///
    /// # Errors
    /// The store fails.
    pub fn parcels_without_receipt(&self, account: &str) -> rusqlite::Result<Vec<(PublicKey, MailId)>> {
        self.connection
            .prepare_cached(
                "SELECT peer, id FROM parcel WHERE account = ?1 AND finished = 0 AND mail IS NULL AND NOT EXISTS
                 (SELECT 1 FROM receipt r WHERE r.account = ?1 AND r.peer = parcel.peer AND r.parcel = parcel.id)",
            )?
            .query_map([account], |row| Ok((PublicKey(row.get(0)?), MailId(row.get(1)?))))?
            .collect()
    }

    /// The parcels without mail whose time is over, and that are not finished.
    ///
    /// # Errors
    /// The store fails.
    pub fn parcels_out_of_time(&self, account: &str, now: i64) -> rusqlite::Result<Vec<(PublicKey, MailId)>> {
        self.connection
            .prepare_cached(
                "SELECT peer, id FROM parcel WHERE account = ? AND finished = 0 AND mail IS NULL AND expires <= ?",
            )?
            .query_map(params![account, now], |row| Ok((PublicKey(row.get(0)?), MailId(row.get(1)?))))?
            .collect()
    }

    /// Where the body of a queued mail is.
    ///
    /// # Errors
    /// The store fails or the mail is gone.
    pub fn parcel_body(&self, mail: i64) -> rusqlite::Result<ParcelBody> {
        self.connection.prepare_cached("SELECT body, body_file FROM mail WHERE id = ?")?.query_row([mail], |row| {
            Ok(match row.get::<_, Option<Vec<u8>>>(0)? {
                Some(body) => ParcelBody::Inline(body),
                None => ParcelBody::File(row.get(1)?),
            })
        })
    }

    /// Where the parts of an account's parcels are.
    ///
    /// # Errors
    /// The store fails.
    pub fn deposits(&self, account: &str) -> rusqlite::Result<Vec<Deposit>> {
        self.connection
            .prepare_cached(
                "SELECT peer, relay, class, number, parcel, part, state, until FROM deposit WHERE account = ?",
            )?
            .query_map([account], |row| {
                let (relay, class) = (RelayKey(row.get(1)?), class(row.get(2)?, 2)?);
                let state = match (row.get::<_, i64>(6)?, row.get::<_, Option<i64>>(7)?) {
                    (0, _) => State::Chosen,
                    (1, Some(until)) => State::Stored { until: until as u64 },
                    _ => State::Lost,
                };
                Ok(Deposit {
                    peer: PublicKey(row.get(0)?),
                    parcel: MailId(row.get(4)?),
                    part: row.get(5)?,
                    place: Place { relay, class, number: row.get::<_, i64>(3)? as u64 },
                    state,
                })
            })?
            .collect()
    }

    /// The contacts to whom an account owes receipts that no parcel carries.
    ///
    /// # Errors
    /// The store fails.
    pub fn owed(&self, account: &str) -> rusqlite::Result<BTreeSet<PublicKey>> {
        self.connection.prepare_cached(WHO_IS_OWED)?.query_map([account], |row| row.get(0).map(PublicKey))?.collect()
    }

    /// The receipts that an account owes a contact and that no parcel carries, the oldest first, up to `limit`.
    ///
    /// # Errors
    /// The store fails.
    pub fn receipts_owed(&self, account: &str, peer: &PublicKey, limit: u32) -> rusqlite::Result<Vec<Receipt>> {
        self.connection.prepare_cached(OWED)?.query_map(params![account, peer.0, limit], receipt)?.collect()
    }

    /// All receipts that an account owes a contact.
    ///
    /// # Errors
    /// The store fails.
    pub fn receipts_of(&self, account: &str, peer: &PublicKey) -> rusqlite::Result<Vec<Receipt>> {
        self.connection
            .prepare_cached(&format!("{RECEIPT} WHERE account = ? AND peer = ?"))?
            .query_map(params![account, peer.0], receipt)?
            .collect()
    }

    /// The newest mail that is queued for a contact; 0 where there is none.
    ///
    /// # Errors
    /// The store fails.
    pub fn newest_mail(&self, account: &str, peer: &PublicKey) -> rusqlite::Result<i64> {
        self.connection
            .prepare_cached("SELECT coalesce(max(mail), 0) FROM recipient WHERE account = ? AND peer = ?")?
            .query_row(params![account, peer.0], |row| row.get(0))
    }

    /// Up to `limit` mails that wait for a contact, came after the mail in row `after`, are not being sent, and are no
    /// parcels yet; the oldest first.
    ///
    /// # Errors
    /// The store fails.
    pub fn waiting(&self, account: &str, peer: &PublicKey, after: i64, limit: u32) -> rusqlite::Result<Vec<Waiting>> {
        let mut transfers = self.connection.prepare_cached(WAITING)?;
        let transfers: Vec<([u8; 16], i64)> = transfers
            .query_map(params![account, peer.0, after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut waiting = Vec::with_capacity(transfers.len());
        for (transfer, mail) in transfers {
            let recipients = self
                .connection
                .prepare_cached("SELECT number, wire_address FROM recipient WHERE transfer = ? AND peer = ?")?
                .query_map(params![transfer, peer.0], |row| {
                    Ok(TransferRecipient { index: row.get(0)?, address: row.get(1)? })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let found = self
                .connection
                .prepare_cached(
                    "SELECT wire_sender, size, wire_size, digest, encoding, arrived, expires FROM mail WHERE id = ?",
                )?
                .query_row([mail], |row| {
                    Ok(Waiting {
                        id: MailId(transfer),
                        mail,
                        sender: row.get(0)?,
                        recipients,
                        size: row.get::<_, i64>(1)? as u64,
                        wire_size: row.get::<_, i64>(2)? as u64,
                        digest: Digest(row.get(3)?),
                        encoding: Encoding::from_number(row.get(4)?).unwrap_or(Encoding::Identity),
                        arrived: row.get(5)?,
                        expires: row.get(6)?,
                    })
                })
                .optional()?;
            waiting.extend(found);
        }
        Ok(waiting)
    }
}
