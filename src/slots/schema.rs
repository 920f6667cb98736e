//! The tables of a relay, and opening its database.

use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rusqlite::Connection;

/// The version of the tables that this program writes (`PRAGMA user_version`).
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE owner (
    key BLOB PRIMARY KEY,          -- Tox public key of its pseudonym
    quota INTEGER,                 -- octets, where the invite said so
    invited INTEGER NOT NULL,
    since INTEGER NOT NULL,        -- when it became one; seconds since the epoch
    seen INTEGER NOT NULL,         -- when it was last here, to a day; seconds since the epoch
    next INTEGER NOT NULL          -- number of its slot that is filled next
) WITHOUT ROWID;
CREATE TABLE invite (
    hash BLOB PRIMARY KEY,         -- digest of its octets
    quota INTEGER,
    expires INTEGER NOT NULL       -- seconds since the epoch
) WITHOUT ROWID;
CREATE TABLE slot (
    id BLOB PRIMARY KEY,           -- its Ed25519 public key
    owner BLOB NOT NULL REFERENCES owner (key),
    class INTEGER NOT NULL,
    state INTEGER NOT NULL,        -- 0 empty, 1 filled, 2 emptied for good
    number INTEGER,                -- filled: grows with every slot of the owner that is filled
    digest BLOB,                   -- filled: BLAKE2b-256 of the content
    file INTEGER,                  -- filled: name of the content below slots/
    ends INTEGER,                  -- filled: until when it is kept; emptied: remembered; seconds since the epoch
    CHECK ((file IS NOT NULL) = (state = 1)),
    CHECK ((ends IS NULL) = (state = 0))
) WITHOUT ROWID;
CREATE INDEX slot_owner ON slot (owner, state, class);
CREATE UNIQUE INDEX slot_filled ON slot (owner, number) WHERE state = 1;
CREATE INDEX slot_ends ON slot (ends) WHERE ends IS NOT NULL;
";

/// Opens the database and brings its tables up to date.
pub(super) fn open(path: &Path) -> anyhow::Result<Connection> {
    let failed = || format!("cannot open {}", path.display());
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).with_context(failed)?;
    drop(file);
    let connection = Connection::open(path).with_context(failed)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // What is deleted is not to be found in the file.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => {
            let script = format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;");
            connection.execute_batch(&script).with_context(failed)?;
        }
        VERSION => {}
        newer => bail!("{} is of version {newer}, this program knows {VERSION}: do not downgrade", path.display()),
    }
    Ok(connection)
}
