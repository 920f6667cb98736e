//! Relays: those where an account is an owner, and when those of contacts were reached.

use rusqlite::params;
use zeroize::Zeroizing;

use super::schema::Reader;
use super::writer::{Store, StoreError};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::RelayKey;

/// A relay where an account may be an owner.
pub struct RelayRow {
    /// Its key.
    pub key: RelayKey,
    /// Its Tox ID, 38 octets.
    pub id: Vec<u8>,
    /// Not used yet.
    pub invite: Option<[u8; 16]>,
    /// The contact whose agent told us; `None`: the operator did.
    pub offered_by: Option<PublicKey>,
    /// Of our pseudonym there.
    pub savedata: Option<Zeroizing<Vec<u8>>>,
    /// When that was made, seconds of the wall clock.
    pub pseudonym: Option<i64>,
    /// When it was added, seconds of the wall clock.
    pub added: i64,
    /// When it last answered, seconds of the wall clock.
    pub seen: Option<i64>,
}

impl Store {
    /// Notes that a relay of a contact's was reached, at this time of the queue clock in milliseconds.
    pub fn contacts_relay_seen(&self, account: &str, relay: RelayKey, now: i64) {
        let account = account.to_owned();
        self.record(move |session| {
            session
                .connection
                .prepare_cached(
                    "INSERT INTO relay_seen (account, relay, at) VALUES (?, ?, ?)
                     ON CONFLICT DO UPDATE SET at = excluded.at",
                )?
                .execute(params![account, relay.0, now])?;
            Ok(())
        });
    }

    /// Forgets relays of contacts that were last reached before then (milliseconds of the queue clock).
    pub fn prune_contacts_relays(&self, before: i64) {
        self.record(move |session| {
            session.connection.prepare_cached("DELETE FROM relay_seen WHERE at < ?")?.execute([before])?;
            Ok(())
        });
    }

    /// Keeps a relay, or takes over a new Tox ID or invite of one that is known; whether it did. Of one that the operator
    /// told, or that another offered who is a contact still, a contact can change nothing. Of each contact there is one:
    /// with more, one contact could have all mail wait at relays of his.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_relay(&self, account: &str, relay: RelayRow) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let kept = session
                .connection
                .prepare_cached(
                    "INSERT INTO relay (account, key, id, invite, offered_by, added) VALUES (?, ?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET id = excluded.id, invite = coalesce(excluded.invite, invite),
                     offered_by = excluded.offered_by
                     WHERE excluded.offered_by IS NULL OR offered_by = excluded.offered_by
                     OR offered_by IS NOT NULL AND NOT EXISTS
                        (SELECT 1 FROM contact c WHERE c.account = excluded.account AND c.key = relay.offered_by)",
                )?
                .execute(params![
                    account,
                    relay.key.0,
                    relay.id,
                    relay.invite,
                    relay.offered_by.map(|peer| peer.0),
                    relay.added
                ])?;
            if kept == 0 {
                return Ok(false);
            }
            if let Some(peer) = relay.offered_by {
                session
                    .connection
                    .prepare_cached(
                        "DELETE FROM slot_window WHERE account = ?1 AND relay IN
                         (SELECT key FROM relay WHERE account = ?1 AND offered_by = ?2 AND key <> ?3)",
                    )?
                    .execute(params![account, peer.0, relay.key.0])?;
                session
                    .connection
                    .prepare_cached("DELETE FROM relay WHERE account = ? AND offered_by = ? AND key <> ?")?
                    .execute(params![account, peer.0, relay.key.0])?;
            }
            Ok(true)
        })
    }

    /// Forgets a relay. `false` if it is unknown.
    ///
    /// # Errors
    /// The store fails.
    pub fn remove_relay(&self, account: &str, key: RelayKey) -> Result<bool, StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            let db = session.connection;
            let gone = db
                .prepare_cached("DELETE FROM relay WHERE account = ? AND key = ?")?
                .execute(params![account, key.0])?;
            db.prepare_cached("DELETE FROM slot_window WHERE account = ? AND relay = ?")?
                .execute(params![account, key.0])?;
            Ok(gone > 0)
        })
    }

    /// Keeps our pseudonym at a relay.
    pub fn relay_pseudonym(&self, account: &str, key: RelayKey, savedata: Zeroizing<Vec<u8>>, seconds: i64) {
        let account = account.to_owned();
        self.record(move |session| {
            session
                .connection
                .prepare_cached("UPDATE relay SET savedata = ?, pseudonym = ? WHERE account = ? AND key = ?")?
                .execute(params![&savedata[..], seconds, account, key.0])?;
            Ok(())
        });
    }

    /// Notes that a relay has answered; an invite has done its duty by then.
    pub fn relay_seen(&self, account: &str, key: RelayKey, seconds: i64) {
        let account = account.to_owned();
        self.record(move |session| {
            session
                .connection
                .prepare_cached("UPDATE relay SET seen = ?, invite = NULL WHERE account = ? AND key = ?")?
                .execute(params![seconds, account, key.0])?;
            Ok(())
        });
    }
}

impl Reader {
    /// When each relay of contacts was last reached, in milliseconds of the queue clock.
    ///
    /// # Errors
    /// The store fails.
    pub fn contacts_relays_seen(&self, account: &str) -> rusqlite::Result<Vec<(RelayKey, i64)>> {
        self.connection
            .prepare_cached("SELECT relay, at FROM relay_seen WHERE account = ?")?
            .query_map([account], |row| Ok((RelayKey(row.get(0)?), row.get(1)?)))?
            .collect()
    }

    /// The relays of an account, those that the operator told first, then in the order in which they came.
    ///
    /// # Errors
    /// The store fails.
    pub fn relays(&self, account: &str) -> rusqlite::Result<Vec<RelayRow>> {
        self.connection
            .prepare_cached(
                "SELECT key, id, invite, offered_by, savedata, pseudonym, added, seen FROM relay WHERE account = ?
                 ORDER BY offered_by IS NOT NULL, added, key",
            )?
            .query_map([account], |row| {
                Ok(RelayRow {
                    key: RelayKey(row.get(0)?),
                    id: row.get(1)?,
                    invite: row.get(2)?,
                    offered_by: row.get::<_, Option<[u8; 32]>>(3)?.map(PublicKey),
                    savedata: row.get::<_, Option<Vec<u8>>>(4)?.map(Zeroizing::new),
                    pseudonym: row.get(5)?,
                    added: row.get(6)?,
                    seen: row.get(7)?,
                })
            })?
            .collect()
    }
}
