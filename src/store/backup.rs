//! A copy of the database and the bodies for a backup, and what a restored one is marked with, so that nothing in it is
//! used twice.
//!
//! Both work on files: the agent need not run, and may. What a restore can bring back and what not, `docs/store.md`
//! tells under "Restore".

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context as _, bail};
use rusqlite::{Connection, OpenFlags, params};

use super::bodies::free_space;
use super::received::KEEP_FORGOTTEN;
use super::{lanes, schema};

/// Row ids after a restore are above its time in seconds, times this.
const IDS: i64 = 1 << 31;
/// The largest database that [`Verify`] takes into memory, in octets.
const MAX_VERIFY: u64 = 1 << 30;
/// How often a copy is begun anew because a body went away meanwhile.
const TRIES: usize = 10;

/// What a copy holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Waiting mails.
    pub mails: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Contacts.
    pub contacts: u64,
    /// Names that a key is pinned to.
    pub pins: u64,
    /// Blocked keys.
    pub blocked: u64,
    /// The files of bodies that it names, with their octets.
    pub bodies: Vec<(String, u64)>,
}

fn count(db: &Connection, sql: &str) -> rusqlite::Result<u64> {
    db.query_row(&format!("SELECT count(*) FROM {sql}"), [], |row| Ok(row.get::<_, i64>(0)? as u64))
}

fn bodies(db: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    db.prepare("SELECT body_file, wire_size FROM mail WHERE body_file IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?
        .collect()
}

/// Without a write-ahead log beside it the file alone is the database; the agent goes back to one at its start.
fn to_one_file(db: Connection) -> anyhow::Result<()> {
    db.pragma_update(None, "journal_mode", "DELETE")?;
    db.close().map_err(|(_, error)| error.into())
}

/// Gives a body a second name below `to`, or copies it where the disk knows none; whether it is there.
fn keep_body(from: &Path, to: &Path, name: &str) -> io::Result<bool> {
    let (from, to) = (from.join(name), to.join(name));
    match std::fs::hard_link(&from, &to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(_) => match std::fs::copy(&from, &to) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        },
    }
}

/// Copies the database below `state_dir` into `folder`, as it was at one moment, with all the bodies that it names
/// (`folder`/bodies/ is there and empty). The copy is of the present version.
///
/// # Errors
/// The database or a body cannot be read, there is no room, or the database is of a newer version.
pub fn copy(state_dir: &Path, folder: &Path) -> anyhow::Result<Contents> {
    let path = schema::database(state_dir);
    let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    let log = std::fs::metadata(path.with_extension("sqlite-wal")).map_or(0, |log| log.len());
    let (need, free) = (size.saturating_add(log), free_space(folder)?);
    if free < need {
        bail!("no room for a copy of the database in {}: {need} octets needed, {free} free", folder.display());
    }
    let (from, to) = (state_dir.join("bodies"), folder.join("bodies"));
    for _ in 0..TRIES {
        // First the bodies, then the rows: one that goes in between is here already. What is not needed does no harm.
        match std::fs::read_dir(&from) {
            Ok(entries) => {
                for entry in entries {
                    if let Some(name) = entry?.file_name().to_str() {
                        keep_body(&from, &to, name)?;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", from.display())),
        }
        let target = schema::database(folder);
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let live =
            Connection::open_with_flags(&path, flags).with_context(|| format!("cannot open {}", path.display()))?;
        live.busy_timeout(std::time::Duration::from_secs(10))?;
        let target = target.to_str().context("the state folder's name is not UTF-8")?;
        live.execute("VACUUM INTO ?", [target]).with_context(|| format!("cannot copy {}", path.display()))?;
        drop(live);
        let db = schema::open(folder)?;
        let bodies = bodies(&db)?;
        let all =
            bodies.iter().try_fold(true, |all, (name, _)| Ok::<_, io::Error>(keep_body(&from, &to, name)? && all));
        let contents = Contents {
            mails: count(&db, "mail")?,
            recipients: count(&db, "recipient")?,
            contacts: count(&db, "contact")?,
            pins: count(&db, "name WHERE key IS NOT NULL")?,
            blocked: count(&db, "blocked")?,
            bodies,
        };
        to_one_file(db)?;
        // One that was new and is gone already is done with: so is its row in the next copy.
        if all? {
            return Ok(contents);
        }
    }
    bail!("bodies of waiting mail are missing in {}: nothing was backed up", from.display())
}

/// Checks that the database is whole, and that `sizes` has all bodies it names, each of the right length.
fn check(db: &Connection, sizes: &HashMap<String, u64>) -> anyhow::Result<()> {
    let word: String = db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if word != "ok" {
        bail!("the database in the backup is damaged: {word}");
    }
    for (name, size) in bodies(db)? {
        match sizes.get(&name) {
            Some(found) if *found == size => {}
            Some(found) => bail!("the body {name} in the backup has {found} octets instead of {size}"),
            None => bail!("the body {name} is missing in the backup"),
        }
    }
    Ok(())
}

/// A database from a backup in memory, to be checked without writing anything.
pub struct Verify(Connection);

impl Verify {
    /// Takes in a database of `size` octets; `None` where it is too large for memory (1 GiB).
    ///
    /// # Errors
    /// It cannot be read or is none.
    pub fn read(from: &mut dyn Read, size: u64) -> anyhow::Result<Option<Self>> {
        if size > MAX_VERIFY {
            return Ok(None);
        }
        let mut db = Connection::open_in_memory()?;
        db.deserialize_read_exact("main", from, usize::try_from(size)?, true)
            .context("the database in the backup cannot be read")?;
        Ok(Some(Self(db)))
    }

    /// Checks it, with the sizes of the bodies by their names.
    ///
    /// # Errors
    /// It is damaged, or a body is missing or of another length.
    pub fn finish(self, sizes: &HashMap<String, u64>) -> anyhow::Result<()> {
        check(&self.0, sizes)
    }
}

/// How a restored database was marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// The restore, by its time in seconds since the epoch.
    pub epoch: i64,
    /// How many recipients wait.
    pub recipients: u64,
    /// Whether they were put on hold.
    pub on_hold: bool,
}

/// What a restore is marked with.
#[derive(Debug, Clone)]
pub struct Mark<'a> {
    /// When the backup was made, in seconds of the wall clock.
    pub made: i64,
    /// Where.
    pub host: &'a str,
    /// Now, in seconds of the wall clock.
    pub now: i64,
    /// How long mail waits, in milliseconds.
    pub lifetime: i64,
    /// Whether waiting mail is to be put on hold; it is in any case where peers may have forgotten what they got since.
    pub hold: bool,
}

/// Brings the database in `folder`, which was taken out of a backup with the bodies below `folder`/bodies/, up to the
/// present version and marks it as restored. It is on disk when this returns.
///
/// # Errors
/// It is damaged, a body is missing, it is of a newer version, or the disk does not take it.
pub fn mark(folder: &Path, mark: &Mark<'_>) -> anyhow::Result<Marked> {
    let mut sizes = HashMap::new();
    for entry in std::fs::read_dir(folder.join("bodies"))? {
        let entry = entry?;
        sizes.insert(entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.len());
    }
    let mut db = schema::open(folder)?;
    check(&db, &sizes)?;
    let transaction = db.transaction()?;
    let before: i64 = transaction.query_row("SELECT coalesce(max(began), 0) FROM epoch", [], |row| row.get(0))?;
    let epoch = mark.now.max(before.saturating_add(1));
    let first = epoch.checked_mul(IDS).context("the system clock is wrong")?;
    transaction
        .execute("INSERT INTO epoch (began, made, host) VALUES (?, ?, ?)", params![epoch, mark.made, mark.host])?;
    // Rows made since the backup had the next ids; these begin elsewhere, whatever backup is restored how often.
    for table in ["mail", "recipient", "notice"] {
        let known = transaction
            .execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", params![first, table])?;
        if known == 0 {
            transaction.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", params![table, first])?;
        }
    }
    // As long as the peers that got a mail since the backup recognise it, it may be offered to them again.
    let forgotten = mark.made.saturating_mul(1000).saturating_add(KEEP_FORGOTTEN);
    let now = mark.now.saturating_mul(1000);
    let on_hold = mark.hold || now.saturating_add(mark.lifetime) > forgotten;
    let recipients = transaction.execute(
        "UPDATE recipient SET epoch = ?1, warned = 1, next_attempt = ?2,
         state = CASE WHEN ?3 OR state = 2 THEN 2 ELSE 0 END",
        params![epoch, now, on_hold],
    )?;
    // What was delivered since must not be returned as undeliverable before its peer could say so.
    transaction.execute("UPDATE mail SET expires = ?", [now.saturating_add(mark.lifetime)])?;
    // Deliveries that were between record and rename: their files are not here. The peers offer them again.
    transaction.execute("DELETE FROM received WHERE published = 0", [])?;
    // Contacts may have newer offers than this state knows of, sealed to keys that are lost: it offers at once anew.
    transaction.execute("UPDATE lane_in SET serial = max(serial, ?), seen = 0", [mark.now])?;
    transaction.execute("UPDATE pre_key SET made = min(made, ?)", [mark.now - lanes::RENEW])?;
    transaction.commit()?;
    to_one_file(db)?;
    std::fs::File::open(schema::database(folder))?.sync_all()?;
    Ok(Marked { epoch, recipients: recipients as u64, on_hold })
}
