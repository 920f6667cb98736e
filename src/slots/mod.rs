//! What a relay keeps: owners, registered slots and their contents, in SQLite and files of their own beside the agent's, with
//! the same durability as the queue. `docs/store.md`, "Slots", has the steps and what a crash after each leaves. Uses
//! [`crate::relay`], [`crate::lane`], [`crate::identity`] and [`crate::engine::transfer`] for digests.

mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::engine::transfer::Digest;
use crate::identity::tox_id::PublicKey;
use crate::lane::keys::{Class, SlotId};
use crate::relay::server::shelf::{self, Draft, Owner, ShelfError, Slot, State};

type Result<T> = std::result::Result<T, ShelfError>;

/// Column `state` of a slot.
const EMPTY: i64 = 0;
const FILLED: i64 = 1;
const GONE: i64 = 2;

/// How the name of a file ends that holds content which is coming in.
const DRAFT: &str = "part";

/// The shelf on disk: `relay.sqlite` and `slots/` below a folder of the relay's own.
pub struct Shelf {
    connection: Connection,
    folder: PathBuf,
    /// The next file's number.
    next: u64,
    drafts: BTreeMap<Draft, File>,
    /// Whether a transaction is open.
    changed: bool,
    /// Files that it names, in a folder that is to be synced before it is committed.
    named: Vec<u64>,
    /// Files that go when it is committed.
    unlink: Vec<u64>,
    /// Files that a transaction named which was not committed. One that failed may yet be found done after a crash, until
    /// the next one is on disk in its place.
    orphans: Vec<u64>,
}

impl From<rusqlite::Error> for ShelfError {
    fn from(error: rusqlite::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for ShelfError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| ShelfError("a number is too large".into()))
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value.max(0).unsigned_abs())
}

fn slot_of(row: &Row<'_>) -> rusqlite::Result<Slot> {
    let class: u8 = row.get(1)?;
    let state = match row.get(2)? {
        FILLED => State::Filled { number: unsigned(row, 3)?, digest: Digest(row.get(4)?), expires: unsigned(row, 5)? },
        GONE => State::Gone(unsigned(row, 5)?),
        _ => State::Empty,
    };
    let class = Class::from_number(class).ok_or(rusqlite::Error::IntegralValueOutOfRange(1, class.into()))?;
    Ok(Slot { owner: PublicKey(row.get(0)?), class, state })
}

impl Shelf {
    /// Opens the shelf below `folder`, which is made if need be, and removes what a crash has left.
    ///
    /// # Errors
    /// The folder or the database cannot be read or written.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let slots = folder.join("slots");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&slots)
            .with_context(|| format!("cannot make {}", slots.display()))?;
        let connection = schema::open(&folder.join("relay.sqlite"))?;
        let mut shelf = Self {
            connection,
            folder: slots,
            next: 1,
            drafts: BTreeMap::new(),
            changed: false,
            named: Vec::new(),
            unlink: Vec::new(),
            orphans: Vec::new(),
        };
        shelf.recover().with_context(|| format!("cannot tidy up {}", shelf.folder.display()))?;
        Ok(shelf)
    }

    /// Removes files that no row names, and rows whose file is not there: a crash leaves the first; the second only comes of
    /// a disk that lost what it had synced, or of somebody who removed files.
    fn recover(&mut self) -> anyhow::Result<()> {
        let mut files = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let file = name.to_str().and_then(|name| name.parse::<u64>().ok());
            // A number that the database cannot hold was not given here.
            match file.filter(|file| i64::try_from(*file).is_ok()) {
                Some(file) if entry.file_type()?.is_file() => {
                    self.next = self.next.max(file + 1);
                    files.insert((file, entry.metadata()?.len()));
                }
                _ if name.to_str().is_some_and(|name| name.ends_with(DRAFT)) => fs::remove_file(entry.path())?,
                _ => log::warn!("relay: {} is none of ours", entry.path().display()),
            }
        }
        let mut statement = self.connection.prepare("SELECT id, class, file FROM slot WHERE state = 1")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get(1)?, unsigned(row, 2)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<([u8; 32], u8, u64)>>>()?;
        drop(statement);
        let mut lost = Vec::new();
        for (slot, class, file) in rows {
            self.next = self.next.max(file + 1);
            let size = Class::from_number(class).map_or(0, |class| class.octets() as u64);
            if !files.remove(&(file, size)) {
                lost.push(slot);
            }
        }
        for (file, _) in files {
            fs::remove_file(self.path(file))?;
        }
        if !lost.is_empty() {
            log::error!("relay: the contents of {} slots are lost or damaged, these slots are forgotten", lost.len());
            let transaction = self.connection.transaction()?;
            for slot in lost {
                transaction.execute("DELETE FROM slot WHERE id = ?1", [slot])?;
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn path(&self, file: u64) -> PathBuf {
        self.folder.join(file.to_string())
    }

    fn draft_path(&self, draft: Draft) -> PathBuf {
        self.folder.join(format!("{}.{DRAFT}", draft.0))
    }

    /// Carries a statement out, in the transaction that ends with the next commit.
    fn execute(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize> {
        if !self.changed {
            self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            self.changed = true;
        }
        Ok(self.connection.prepare_cached(sql)?.execute(parameters)?)
    }

    /// Changes one row.
    fn change(&mut self, sql: &str, parameters: impl rusqlite::Params) -> Result<()> {
        match self.execute(sql, parameters)? {
            1 => Ok(()),
            _ => Err(ShelfError("no such slot or owner".into())),
        }
    }

    /// The file that holds the content of a slot, if it is filled.
    fn file(&self, slot: &SlotId) -> Result<Option<u64>> {
        let mut statement = self.connection.prepare_cached("SELECT file FROM slot WHERE id = ?1 AND state = 1")?;
        Ok(statement.query_row([slot.0], |row| unsigned(row, 0)).optional()?)
    }

    /// Has the content of a slot go with the next commit.
    fn drop_content(&mut self, slot: &SlotId) -> Result<()> {
        self.unlink.extend(self.file(slot)?);
        Ok(())
    }

    fn try_commit(&mut self) -> Result<()> {
        if !self.named.is_empty() {
            File::open(&self.folder)?.sync_all()?;
        }
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

impl shelf::Shelf for Shelf {
    fn owners(&mut self) -> Result<Vec<Owner>> {
        let mut statement = self.connection.prepare_cached("SELECT key, quota, invited, since, seen FROM owner")?;
        let rows = statement.query_map([], |row| {
            let quota: Option<i64> = row.get(1)?;
            Ok(Owner {
                key: PublicKey(row.get(0)?),
                quota: quota.map(|quota| quota.max(0).unsigned_abs()),
                invited: row.get(2)?,
                since: unsigned(row, 3)?,
                seen: unsigned(row, 4)?,
                used: 0,
                slots: 0,
                filled: 0,
                gone: 0,
            })
        })?;
        let mut owners =
            rows.map(|owner| owner.map(|owner| (owner.key.0, owner))).collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
        let mut statement = self
            .connection
            .prepare_cached("SELECT owner, state, class, count(*) FROM slot GROUP BY owner, state, class")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let Some(owner) = owners.get_mut(&row.get::<_, [u8; 32]>(0)?) else { continue };
            let many = unsigned(row, 3)?;
            match row.get(1)? {
                GONE => owner.gone += many,
                state => {
                    owner.slots += many;
                    if state == FILLED {
                        owner.filled += many;
                        owner.used += Class::from_number(row.get(2)?).map_or(0, |class| class.octets() as u64) * many;
                    }
                }
            }
        }
        Ok(owners.into_values().collect())
    }

    fn add_owner(&mut self, owner: &Owner) -> Result<()> {
        let quota = owner.quota.map(number).transpose()?;
        self.change(
            "INSERT INTO owner (key, quota, invited, since, seen, next) VALUES (?1, ?2, ?3, ?4, ?5, 1)",
            params![owner.key.0, quota, owner.invited, number(owner.since)?, number(owner.seen)?],
        )
    }

    fn see_owner(&mut self, key: &PublicKey, seen: u64) -> Result<()> {
        self.change("UPDATE owner SET seen = ?2 WHERE key = ?1", params![key.0, number(seen)?])
    }

    fn remove_owner(&mut self, key: &PublicKey) -> Result<()> {
        let mut statement = self.connection.prepare_cached("SELECT file FROM slot WHERE owner = ?1 AND state = 1")?;
        let files = statement.query_map([key.0], |row| unsigned(row, 0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        self.unlink.extend(files);
        self.execute("DELETE FROM slot WHERE owner = ?1", [key.0])?;
        self.execute("DELETE FROM owner WHERE key = ?1", [key.0])?;
        Ok(())
    }

    fn add_invite(&mut self, hash: &Digest, quota: Option<u64>, expires: u64) -> Result<()> {
        let quota = quota.map(number).transpose()?;
        self.change("INSERT INTO invite VALUES (?1, ?2, ?3)", params![hash.0, quota, number(expires)?])
    }

    fn take_invite(&mut self, hash: &Digest, now: u64) -> Result<Option<Option<u64>>> {
        let mut statement =
            self.connection.prepare_cached("SELECT quota FROM invite WHERE hash = ?1 AND expires > ?2")?;
        let quota =
            statement.query_row(params![hash.0, number(now)?], |row| row.get::<_, Option<i64>>(0)).optional()?;
        drop(statement);
        if quota.is_some() {
            self.change("DELETE FROM invite WHERE hash = ?1", [hash.0])?;
        }
        Ok(quota.map(|quota| quota.map(|quota| quota.max(0).unsigned_abs())))
    }

    fn invites(&mut self, now: u64) -> Result<u64> {
        self.execute("DELETE FROM invite WHERE expires <= ?1", [number(now)?])?;
        let mut statement = self.connection.prepare_cached("SELECT count(*) FROM invite")?;
        Ok(statement.query_row([], |row| unsigned(row, 0))?)
    }

    fn slot(&mut self, slot: &SlotId) -> Result<Option<Slot>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT owner, class, state, number, digest, ends FROM slot WHERE id = ?1")?;
        Ok(statement.query_row([slot.0], slot_of).optional()?)
    }

    fn register(&mut self, owner: &PublicKey, slot: &SlotId, class: Class) -> Result<()> {
        self.change(
            "INSERT INTO slot (id, owner, class, state) VALUES (?1, ?2, ?3, ?4)",
            params![slot.0, owner.0, class.number(), EMPTY],
        )
    }

    fn forget(&mut self, slot: &SlotId) -> Result<()> {
        self.drop_content(slot)?;
        self.execute("DELETE FROM slot WHERE id = ?1", [slot.0])?;
        Ok(())
    }

    fn empty(&mut self, slot: &SlotId, until: u64) -> Result<()> {
        self.drop_content(slot)?;
        self.change(
            "UPDATE slot SET state = ?2, ends = ?3, number = NULL, digest = NULL, file = NULL WHERE id = ?1",
            params![slot.0, GONE, number(until)?],
        )
    }

    fn forget_gone(&mut self, owner: &PublicKey, most: u64) -> Result<u64> {
        let many = self.execute(
            "DELETE FROM slot WHERE id IN
             (SELECT id FROM slot WHERE owner = ?1 AND state = ?2 ORDER BY ends, id LIMIT ?3)",
            params![owner.0, GONE, number(most)?],
        )?;
        Ok(many as u64)
    }

    fn begin(&mut self) -> Result<Draft> {
        let draft = Draft(self.next);
        let path = self.draft_path(draft);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        self.next += 1;
        self.drafts.insert(draft, file);
        Ok(draft)
    }

    fn append(&mut self, draft: Draft, octets: &[u8]) -> Result<()> {
        let file = self.drafts.get_mut(&draft).ok_or_else(|| ShelfError("no such draft".into()))?;
        Ok(file.write_all(octets)?)
    }

    fn abandon(&mut self, draft: Draft) {
        if self.drafts.remove(&draft).is_some() {
            remove(&self.draft_path(draft));
        }
    }

    fn fill(&mut self, slot: &SlotId, draft: Draft, digest: &Digest, expires: u64) -> Result<u64> {
        let file = self.drafts.remove(&draft).ok_or_else(|| ShelfError("no such draft".into()))?;
        let synced = file.sync_all().and_then(|()| fs::rename(self.draft_path(draft), self.path(draft.0)));
        if let Err(error) = synced {
            remove(&self.draft_path(draft));
            return Err(error.into());
        }
        self.named.push(draft.0);
        let mut statement = self
            .connection
            .prepare_cached("SELECT next FROM owner WHERE key = (SELECT owner FROM slot WHERE id = ?1)")?;
        let next: i64 = statement.query_row([slot.0], |row| row.get(0))?;
        drop(statement);
        self.change("UPDATE owner SET next = next + 1 WHERE key = (SELECT owner FROM slot WHERE id = ?1)", [slot.0])?;
        // The name of the row's file is the draft's number, so that no name is used twice, whatever crashes.
        self.change(
            "UPDATE slot SET state = ?2, number = ?3, digest = ?4, file = ?5, ends = ?6 WHERE id = ?1 AND state = 0",
            params![slot.0, FILLED, next, digest.0, number(draft.0)?, number(expires)?],
        )?;
        Ok(next.unsigned_abs())
    }

    fn list(&mut self, owner: &PublicKey, after: u64, most: usize) -> Result<Vec<(SlotId, u64)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, number FROM slot WHERE owner = ?1 AND state = 1 AND number > ?2 ORDER BY number LIMIT ?3",
        )?;
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![owner.0, after, most as i64], |row| Ok((SlotId(row.get(0)?), unsigned(row, 1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn read(&mut self, slot: &SlotId, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(slot)? else { return Ok(None) };
        let mut octets = vec![0; length];
        match File::open(self.path(file))?.read_exact_at(&mut octets, offset) {
            Ok(()) => Ok(Some(octets)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn ended(&mut self, now: u64, most: usize) -> Result<Vec<(SlotId, Slot)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT owner, class, state, number, digest, ends, id FROM slot WHERE ends < ?1 LIMIT ?2",
        )?;
        let rows =
            statement.query_map(params![number(now)?, most as i64], |row| Ok((SlotId(row.get(6)?), slot_of(row)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn commit(&mut self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        if let Err(error) = self.try_commit() {
            self.roll_back();
            return Err(error);
        }
        self.changed = false;
        self.named.clear();
        let gone: Vec<u64> = self.unlink.drain(..).chain(self.orphans.drain(..)).collect();
        gone.into_iter().for_each(|file| remove(&self.path(file)));
        Ok(())
    }

    fn roll_back(&mut self) {
        self.unlink.clear();
        self.orphans.append(&mut self.named);
        self.changed = false;
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            log::error!("relay: cannot take changes back: {error}");
        }
    }
}

/// Removes a file whose row is gone; left behind, it goes at the next start.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("relay: cannot remove {}: {error}", path.display());
    }
}
