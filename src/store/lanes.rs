//! Lanes: mail identities, the lanes of contacts both ways, their keys, how far the numbers of their slots are.

use rusqlite::{OptionalExtension, params};
use zeroize::Zeroizing;

use super::schema::Reader;
use super::writer::{Session, Store, StoreError};
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, LaneSeed, MailKey, MailSecret, PreKeySecret, RelayKey};
use crate::relay::inbox::Window;

/// How old a pre-key gets before a new one is offered, in seconds.
pub const RENEW: i64 = 7 * 86_400;

/// A lane that a contact may write.
pub struct LaneIn {
    /// The contact.
    pub peer: PublicKey,
    /// Its name.
    pub lane: [u8; 16],
    /// What its slots are derived from.
    pub seed: LaneSeed,
    /// Of the last offer.
    pub serial: u64,
    /// Of the last offer that the contact is known to have.
    pub seen: u64,
    /// The relays of the last offer, 70 octets each (Tox ID, Ed25519 key).
    pub relays: Vec<u8>,
}

/// A lane that a contact lets us write.
pub struct LaneOut {
    /// The contact.
    pub peer: PublicKey,
    /// Its mail key, pinned.
    pub key: MailKey,
    /// Of the offer.
    pub serial: u64,
    /// How many relays it names.
    pub relays: u32,
    /// The offer as it came.
    pub offer: Vec<u8>,
}

/// What mail in a [`LaneIn`] is sealed to for a while.
pub struct PreKey {
    /// The contact.
    pub peer: PublicKey,
    /// Its number.
    pub id: u32,
    /// The secret half.
    pub secret: PreKeySecret,
    /// When it was made, seconds of the wall clock.
    pub made: i64,
}

/// Which slot numbers of a lane a contact may fill; see [`crate::relay::inbox::Window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotWindow {
    /// The contact.
    pub peer: PublicKey,
    /// Where.
    pub relay: RelayKey,
    /// Of which class.
    pub class: Class,
    /// How far.
    pub window: Window,
}

/// Destroys the pre-keys made before `oldest` (seconds of the wall clock).
fn destroy(session: &mut Session<'_>, oldest: i64) -> rusqlite::Result<()> {
    // What is deleted is overwritten (`secure_delete`).
    if session.connection.prepare_cached("DELETE FROM pre_key WHERE made < ?")?.execute([oldest])? > 0 {
        session.wipe();
    }
    Ok(())
}

/// The class of a row, which column `at` has.
pub(super) fn class(number: u8, at: usize) -> rusqlite::Result<Class> {
    Class::from_number(number).ok_or_else(|| {
        let text = format!("no size class {number}");
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Integer, text.into())
    })
}

impl Store {
    /// Keeps the mail identity of an account. One that is there already stays.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_mail_secret(&self, account: &str, secret: &MailSecret) -> Result<(), StoreError> {
        let (account, secret) = (account.to_owned(), Zeroizing::new(*secret.expose()));
        self.call(move |session| {
            session
                .connection
                .prepare_cached("INSERT INTO mail_secret (account, secret) VALUES (?, ?) ON CONFLICT DO NOTHING")?
                .execute(params![account, &secret[..]])?;
            Ok(())
        })
    }

    /// Keeps a lane that a contact may write, in place of what is known of it.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_lane_in(&self, account: &str, lane: &LaneIn) -> Result<(), StoreError> {
        let account = account.to_owned();
        let (peer, id, seed) = (lane.peer, lane.lane, Zeroizing::new(*lane.seed.expose()));
        let (serial, seen, relays) = (lane.serial as i64, lane.seen as i64, lane.relays.clone());
        self.call(move |session| {
            session
                .connection
                .prepare_cached(
                    "INSERT INTO lane_in (account, peer, lane, seed, serial, seen, relays) VALUES (?, ?, ?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET lane = excluded.lane, seed = excluded.seed, serial = excluded.serial,
                     seen = excluded.seen, relays = excluded.relays",
                )?
                .execute(params![account, peer.0, id, &seed[..], serial, seen, relays])?;
            Ok(())
        })
    }

    /// Keeps a lane that a contact lets us write, in place of what is known of it; with a seed that is not known (`anew`), its
    /// slots are counted from the beginning.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_lane_out(&self, account: &str, lane: LaneOut, anew: bool, seconds: i64) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            if anew {
                session.wipe();
            }
            let db = session.connection;
            if anew {
                for table in ["slot_next", "deposit"] {
                    db.prepare_cached(&format!("DELETE FROM {table} WHERE account = ? AND peer = ?"))?
                        .execute(params![account, lane.peer.0])?;
                }
            }
            db.prepare_cached(
                "INSERT INTO lane_out (account, peer, sign, seal, serial, relays, offer, received)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)
                     ON CONFLICT DO UPDATE SET sign = excluded.sign, seal = excluded.seal, serial = excluded.serial,
                     relays = excluded.relays, offer = excluded.offer, received = excluded.received",
            )?
            .execute(params![
                account,
                lane.peer.0,
                lane.key.sign,
                lane.key.seal,
                lane.serial as i64,
                lane.relays,
                lane.offer,
                seconds
            ])?;
            Ok(())
        })
    }

    /// Keeps a pre-key, and destroys those made before `oldest` (seconds of the wall clock).
    ///
    /// # Errors
    /// The store fails.
    pub fn put_pre_key(&self, account: &str, key: &PreKey, oldest: i64) -> Result<(), StoreError> {
        let account = account.to_owned();
        let (peer, id, secret, made) = (key.peer, key.id, Zeroizing::new(*key.secret.expose()), key.made);
        self.call(move |session| {
            destroy(session, oldest)?;
            let db = session.connection;
            db.prepare_cached(
                "INSERT INTO pre_key (account, peer, id, secret, made) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            )?
            .execute(params![account, peer.0, id, &secret[..], made])?;
            Ok(())
        })
    }

    /// Destroys the pre-keys made before `oldest` (seconds of the wall clock).
    pub fn destroy_pre_keys(&self, oldest: i64) {
        self.record(move |session| destroy(session, oldest));
    }

    /// Has pre-keys that were made later than `latest` count as old enough to be renewed at `now` (both in seconds of the
    /// wall clock).
    ///
    /// # Errors
    /// The store fails.
    pub fn pre_keys_are_due(&self, now: i64, latest: i64) -> Result<(), StoreError> {
        self.call(move |session| {
            session
                .connection
                .prepare_cached("UPDATE pre_key SET made = ? WHERE made > ?")?
                .execute([now - RENEW, latest])?;
            Ok(())
        })
    }

    /// Notes how far the numbers of lanes are.
    ///
    /// # Errors
    /// The store fails.
    pub fn put_windows(&self, account: &str, windows: Vec<SlotWindow>) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            for SlotWindow { peer, relay, class, window } in &windows {
                session
                    .connection
                    .prepare_cached(
                        "INSERT INTO slot_window (account, peer, relay, class, low, filled, registered)
                         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                         low = excluded.low, filled = excluded.filled, registered = excluded.registered",
                    )?
                    .execute(params![
                        account,
                        peer.0,
                        relay.0,
                        class.number(),
                        window.low as i64,
                        window.filled as i64,
                        window.registered as i64
                    ])?;
            }
            Ok(())
        })
    }

    /// Forgets the lanes of a contact, both ways, and what goes by them.
    ///
    /// # Errors
    /// The store fails.
    pub fn forget_lanes(&self, account: &str, peer: PublicKey) -> Result<(), StoreError> {
        let account = account.to_owned();
        self.call(move |session| {
            session.wipe();
            let db = session.connection;
            for table in ["pre_key", "lane_in", "lane_out", "slot_window", "slot_next", "deposit", "parcel", "receipt"]
            {
                db.prepare_cached(&format!("DELETE FROM {table} WHERE account = ? AND peer = ?"))?
                    .execute(params![account, peer.0])?;
            }
            Ok(())
        })
    }
}

impl Reader {
    /// The mail identity of an account.
    ///
    /// # Errors
    /// The store fails.
    pub fn mail_secret(&self, account: &str) -> rusqlite::Result<Option<MailSecret>> {
        self.connection
            .prepare_cached("SELECT secret FROM mail_secret WHERE account = ?")?
            .query_row([account], |row| Ok(MailSecret::new(&mut row.get::<_, [u8; 32]>(0)?)))
            .optional()
    }

    /// The lanes that contacts of an account may write.
    ///
    /// # Errors
    /// The store fails.
    pub fn lanes_in(&self, account: &str) -> rusqlite::Result<Vec<LaneIn>> {
        self.connection
            .prepare_cached("SELECT peer, lane, seed, serial, seen, relays FROM lane_in WHERE account = ?")?
            .query_map([account], |row| {
                Ok(LaneIn {
                    peer: PublicKey(row.get(0)?),
                    lane: row.get(1)?,
                    seed: LaneSeed::new(&mut row.get::<_, [u8; 32]>(2)?),
                    serial: row.get::<_, i64>(3)? as u64,
                    seen: row.get::<_, i64>(4)? as u64,
                    relays: row.get(5)?,
                })
            })?
            .collect()
    }

    /// The lanes that contacts let an account write.
    ///
    /// # Errors
    /// The store fails.
    pub fn lanes_out(&self, account: &str) -> rusqlite::Result<Vec<LaneOut>> {
        self.connection
            .prepare_cached("SELECT peer, sign, seal, serial, relays, offer FROM lane_out WHERE account = ?")?
            .query_map([account], |row| {
                let key = MailKey { sign: row.get(1)?, seal: row.get(2)? };
                Ok(LaneOut {
                    peer: PublicKey(row.get(0)?),
                    key,
                    serial: row.get::<_, i64>(3)? as u64,
                    relays: row.get(4)?,
                    offer: row.get(5)?,
                })
            })?
            .collect()
    }

    /// The pre-keys of an account, the newest of each contact last.
    ///
    /// # Errors
    /// The store fails.
    pub fn pre_keys(&self, account: &str) -> rusqlite::Result<Vec<PreKey>> {
        self.connection
            .prepare_cached("SELECT peer, id, secret, made FROM pre_key WHERE account = ? ORDER BY peer, id")?
            .query_map([account], |row| {
                Ok(PreKey {
                    peer: PublicKey(row.get(0)?),
                    id: row.get(1)?,
                    secret: PreKeySecret::new(&mut row.get::<_, [u8; 32]>(2)?),
                    made: row.get(3)?,
                })
            })?
            .collect()
    }

    /// How far the numbers of the lanes are that contacts of an account may write.
    ///
    /// # Errors
    /// The store fails.
    pub fn windows(&self, account: &str) -> rusqlite::Result<Vec<SlotWindow>> {
        self.connection
            .prepare_cached("SELECT peer, relay, class, low, filled, registered FROM slot_window WHERE account = ?")?
            .query_map([account], |row| {
                Ok(SlotWindow {
                    peer: PublicKey(row.get(0)?),
                    relay: RelayKey(row.get(1)?),
                    class: class(row.get(2)?, 2)?,
                    window: Window {
                        low: row.get::<_, i64>(3)? as u64,
                        filled: row.get::<_, i64>(4)? as u64,
                        registered: row.get::<_, i64>(5)? as u64,
                    },
                })
            })?
            .collect()
    }
}
