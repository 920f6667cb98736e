//! The tables, opening the database, and reading from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// The version of the tables that this program writes (`PRAGMA user_version`).
const VERSION: i64 = 6;
/// How long is waited for somebody else who has the database locked.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

const MAILS: &str = "
CREATE TABLE mail (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    mta_queue_id TEXT,
    sender TEXT NOT NULL,          -- reverse-path as submitted, '' for <>
    wire_sender TEXT NOT NULL,     -- reverse-path that the peer is given
    size INTEGER NOT NULL,         -- octets of the mail
    wire_size INTEGER NOT NULL,    -- octets of the encoded body
    digest BLOB NOT NULL,          -- BLAKE2b-256 of the mail
    encoding INTEGER NOT NULL,     -- 0 identity, 1 zstd
    head BLOB NOT NULL,            -- beginning of the header section, for notices
    body_file TEXT,                -- name of the encoded body below bodies/, or NULL when it is in this row
    arrived INTEGER NOT NULL,      -- milliseconds since the epoch
    expires INTEGER NOT NULL,
    smtputf8 INTEGER NOT NULL,
    ret INTEGER,                   -- 0 FULL, 1 HDRS
    envid TEXT,
    body BLOB,                     -- last, so that the other columns are read without it
    CHECK ((body IS NULL) <> (body_file IS NULL))
);
CREATE INDEX mail_expires ON mail (expires);
CREATE INDEX mail_summary ON mail (account, wire_size, arrived);
CREATE INDEX mail_same ON mail (mta_queue_id, digest) WHERE mta_queue_id IS NOT NULL;
";

const RECIPIENTS: &str = "
CREATE TABLE recipient (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mail INTEGER NOT NULL REFERENCES mail (id),
    number INTEGER NOT NULL,       -- within the mail
    account TEXT NOT NULL,
    peer BLOB,                     -- public key; NULL while `name` leads to none that is accepted
    transfer BLOB NOT NULL,        -- mail id on the wire, the same for all recipients of this mail at this peer
    address TEXT NOT NULL,         -- forward-path as submitted
    wire_address TEXT NOT NULL,    -- forward-path that the peer is given
    bulk INTEGER NOT NULL,
    state INTEGER NOT NULL,        -- 0 queued, 1 sending, 2 on hold; what is final is not here any more
    attempts INTEGER NOT NULL,
    next_attempt INTEGER NOT NULL,
    status TEXT,                   -- of the last failed attempt
    text TEXT,
    notify INTEGER,                -- bits: 1 never, 2 success, 4 failure, 8 delay
    orcpt TEXT,
    name TEXT,                     -- row of `name` that says where this goes; NULL for addresses below tox.alt
    warned INTEGER NOT NULL DEFAULT 0, -- 1 once the sender was told of the delay
    UNIQUE (mail, number)
);
CREATE INDEX recipient_due ON recipient (account, peer, state, bulk, next_attempt);
CREATE INDEX recipient_transfer ON recipient (transfer);
CREATE INDEX recipient_name ON recipient (account, name, peer) WHERE name IS NOT NULL;
";

const OTHERS: &str = "
CREATE TABLE accepted (            -- what the MTA handed over, to recognise it when it comes again
    key BLOB PRIMARY KEY,          -- hash of MTA queue id, recipient and digest
    queue_id TEXT NOT NULL,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX accepted_at ON accepted (at);
CREATE TABLE notice (              -- status notices not yet in a mailbox
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    content BLOB NOT NULL
);
CREATE TABLE received (            -- what peers sent: recorded before it becomes visible, kept until the peer forgets it
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    transfer BLOB NOT NULL,
    mailbox TEXT NOT NULL,
    maildir TEXT NOT NULL,         -- or the server, as lmtp:PATH or smtp:HOST:PORT
    file TEXT NOT NULL,            -- '' at a server
    at INTEGER NOT NULL,
    published INTEGER NOT NULL,    -- 0 between the record and the rename into new/, or the server's answer to the dot
    forgotten INTEGER NOT NULL,    -- 1 once the peer said that it will not offer the mail again
    PRIMARY KEY (account, peer, transfer, mailbox)
) WITHOUT ROWID;
CREATE INDEX received_unpublished ON received (published) WHERE published = 0;
CREATE TABLE contact (
    account TEXT NOT NULL,
    key BLOB NOT NULL,
    nick TEXT,
    tox_id TEXT,
    message TEXT,                  -- of our friend request
    accepted INTEGER NOT NULL,     -- 0 while we asked and were not yet heard
    added INTEGER NOT NULL,        -- seconds since the epoch
    last_seen INTEGER,
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE UNIQUE INDEX contact_nick ON contact (account, nick) WHERE nick IS NOT NULL;
CREATE TABLE request (             -- friend requests of strangers
    account TEXT NOT NULL,
    key BLOB NOT NULL,
    message TEXT NOT NULL,
    received INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    claim TEXT,                    -- the address that the stranger claims
    verified INTEGER,              -- whether that leads, proved, to the key; NULL: not looked up
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
";

const NAMES: &str = "
CREATE TABLE name (                -- addresses looked up in the DNS
    account TEXT NOT NULL,
    address TEXT NOT NULL,         -- in lower case
    key BLOB,                      -- the pinned public key; NULL while none is accepted
    via INTEGER,                   -- of the pin: 0 the name's own record, 1 the domain's
    method INTEGER,                -- of the pin: 0 tox1, 1 tox3, 2 told by the operator
    secure INTEGER,                -- of the pin: 1 proved
    first_seen INTEGER,            -- when it was pinned, seconds of the wall clock
    last_seen INTEGER,             -- when a look-up last confirmed it
    offer TEXT,                    -- a Tox ID that the name leads to and nobody has accepted: new, or changed
    offer_via INTEGER,
    offer_method INTEGER,
    offer_secure INTEGER,
    offer_since INTEGER,           -- seconds of the wall clock
    status TEXT,                   -- why mail waits, or what went wrong with the last look-up
    text TEXT,
    attempts INTEGER NOT NULL,     -- look-ups in a row that told nothing
    denials INTEGER NOT NULL,      -- of those: that found nothing, without a proof
    next_lookup INTEGER,           -- milliseconds of the queue clock; NULL: when asked to
    removed INTEGER NOT NULL DEFAULT 0, -- 1 once its contact was removed: only the operator may pin a key again
    PRIMARY KEY (account, address)
) WITHOUT ROWID;
CREATE INDEX name_key ON name (account, key) WHERE key IS NOT NULL;
CREATE INDEX name_due ON name (next_lookup) WHERE next_lookup IS NOT NULL;
CREATE TABLE blocked (             -- keys whose mail and requests are not taken
    account TEXT NOT NULL,
    key BLOB NOT NULL,
    since INTEGER NOT NULL,        -- seconds of the wall clock
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
";

/// From version 1, which knew no names. A column that may be NULL only a new table gives.
const FROM_1: &str = "
ALTER TABLE recipient RENAME TO recipient_1;
DROP INDEX recipient_due;
DROP INDEX recipient_transfer;
@RECIPIENTS@
INSERT INTO recipient SELECT *, NULL, 0 FROM recipient_1;
DROP TABLE recipient_1;
ALTER TABLE request ADD COLUMN claim TEXT;
ALTER TABLE request ADD COLUMN verified INTEGER;
";

/// From version 2, which could not be restored from a backup.
const FROM_2: &str = "
CREATE TABLE epoch (               -- restores from a backup
    began INTEGER PRIMARY KEY,     -- seconds of the wall clock; row ids made since are above began << 31
    made INTEGER NOT NULL,         -- when the backup was made, seconds of the wall clock
    host TEXT NOT NULL             -- where it was made
);
ALTER TABLE recipient ADD COLUMN epoch INTEGER; -- the restore that brought it, NULL for what came from the MTA since
";

/// From version 3, which knew no relays.
const FROM_3: &str = "
CREATE TABLE mail_secret (         -- the mail identity of an account, made when it is first needed
    account TEXT PRIMARY KEY,
    secret BLOB NOT NULL           -- 32 octets
) WITHOUT ROWID;
CREATE TABLE lane_in (             -- lanes that contacts may write
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    lane BLOB NOT NULL,            -- 16 octets
    seed BLOB NOT NULL,            -- 32 octets
    serial INTEGER NOT NULL,       -- of the last offer
    seen INTEGER NOT NULL,         -- of the last offer that the contact is known to have
    relays BLOB NOT NULL,          -- of the last offer, 70 octets each
    PRIMARY KEY (account, peer)
) WITHOUT ROWID;
CREATE TABLE pre_key (             -- what mail in those lanes is sealed to
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    id INTEGER NOT NULL,
    secret BLOB NOT NULL,          -- 32 octets
    made INTEGER NOT NULL,         -- seconds of the wall clock
    PRIMARY KEY (account, peer, id)
) WITHOUT ROWID;
CREATE TABLE lane_out (            -- lanes that contacts let us write
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    sign BLOB NOT NULL,            -- the contact's mail key, pinned
    seal BLOB NOT NULL,
    serial INTEGER NOT NULL,
    relays INTEGER NOT NULL,       -- how many the offer names
    offer BLOB NOT NULL,           -- as it came
    received INTEGER NOT NULL,     -- seconds of the wall clock
    PRIMARY KEY (account, peer)
) WITHOUT ROWID;
CREATE TABLE slot_window (         -- which numbers of a lane's slots a contact may fill
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    relay BLOB NOT NULL,           -- Ed25519 key
    class INTEGER NOT NULL,
    low INTEGER NOT NULL,          -- below: not registered any more
    filled INTEGER NOT NULL,       -- from here on: never seen filled
    registered INTEGER NOT NULL,   -- from here on: not registered yet
    PRIMARY KEY (account, peer, relay, class)
) WITHOUT ROWID;
CREATE TABLE slot_next (           -- the first number of a contact's slots that we did not use yet
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    relay BLOB NOT NULL,
    class INTEGER NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (account, peer, relay, class)
) WITHOUT ROWID;
CREATE TABLE parcel (              -- what goes to a contact by relays
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    id BLOB NOT NULL,              -- of a mail: its transfer
    mail INTEGER,                  -- row of the mail whose body follows the head; NULL: the head is all
    head BLOB NOT NULL,            -- as it was first made, so that every part stays the same
    octets INTEGER NOT NULL,       -- of head and body
    queued INTEGER NOT NULL,       -- milliseconds of the queue clock
    expires INTEGER NOT NULL,
    copies INTEGER,                -- at so many relays
    since INTEGER,                 -- that long, milliseconds of the queue clock
    finished INTEGER NOT NULL DEFAULT 0, -- 1 once nobody needs it any more: its copies are being removed
    PRIMARY KEY (account, peer, id)
) WITHOUT ROWID;
CREATE INDEX parcel_id ON parcel (id);
CREATE TABLE deposit (             -- where the parts of parcels were put; recorded before they are
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    relay BLOB NOT NULL,
    class INTEGER NOT NULL,
    number INTEGER NOT NULL,
    parcel BLOB NOT NULL,
    part INTEGER NOT NULL,
    state INTEGER NOT NULL,        -- 0 chosen, 1 stored, 2 lost
    until INTEGER,                 -- of what is stored: milliseconds since the epoch, as the relay signed
    PRIMARY KEY (account, peer, relay, class, number)
) WITHOUT ROWID;
CREATE INDEX deposit_parcel ON deposit (account, peer, parcel);
CREATE TABLE receipt (             -- what became of mail that came by relays, until its sender has said that it knows
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    transfer BLOB NOT NULL,
    number INTEGER NOT NULL,       -- of the recipient
    item BLOB NOT NULL,            -- as it goes on the wire
    made INTEGER NOT NULL,         -- milliseconds of the queue clock
    parcel BLOB,                   -- the parcel that carries it, if one does
    PRIMARY KEY (account, peer, transfer, number)
) WITHOUT ROWID;
CREATE TABLE relay_seen (          -- when a relay of a contact's was last reached
    account TEXT NOT NULL,
    relay BLOB NOT NULL,
    at INTEGER NOT NULL,           -- milliseconds of the queue clock
    PRIMARY KEY (account, relay)
) WITHOUT ROWID;
CREATE TABLE relay (               -- relays where an account may be an owner
    account TEXT NOT NULL,
    key BLOB NOT NULL,             -- Ed25519
    id BLOB NOT NULL,              -- Tox ID, 38 octets
    invite BLOB,                   -- 16 octets, until it was used
    offered_by BLOB,               -- the contact whose agent told us; NULL: the operator did
    savedata BLOB,                 -- of our pseudonym there
    pseudonym INTEGER,             -- when that was made, seconds of the wall clock
    added INTEGER NOT NULL,        -- seconds of the wall clock
    seen INTEGER,                  -- when it last answered, seconds of the wall clock
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE TABLE invitation (          -- by what strangers may introduce themselves
    account TEXT NOT NULL,
    code BLOB NOT NULL,            -- 16 octets
    renewed INTEGER,               -- when another one took its place, seconds of the wall clock
    PRIMARY KEY (account, code)
) WITHOUT ROWID;
CREATE TABLE introduced (          -- lanes by which strangers who introduced themselves can be answered
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    offer BLOB NOT NULL,           -- as it came
    PRIMARY KEY (account, peer)
) WITHOUT ROWID;
CREATE TABLE introducing (         -- contacts to whom an account introduces itself, until they answer
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    invitation TEXT NOT NULL,
    id BLOB NOT NULL,              -- our Tox ID, 38 octets
    text TEXT NOT NULL,            -- as of the friend request
    days INTEGER NOT NULL,         -- on how many days it did
    day INTEGER,                   -- on which it last did, counted from the epoch (UTC)
    PRIMARY KEY (account, peer)
) WITHOUT ROWID;
";

/// From version 4, where each look for what goes by relays read all of the queue and all receipts.
const FROM_4: &str = "
CREATE INDEX recipient_order ON recipient (account, peer, mail, transfer, state);
CREATE INDEX receipt_owed ON receipt (account, made) WHERE parcel IS NULL;
CREATE INDEX receipt_parcel ON receipt (account, peer, parcel) WHERE parcel IS NOT NULL;
";

/// From version 5, where the receipts that are owed to one contact were looked for among those of all.
const FROM_5: &str = "
DROP INDEX receipt_owed;
CREATE INDEX receipt_owed ON receipt (account, peer, made) WHERE parcel IS NULL;
";

/// The database below the state directory.
pub(super) fn database(state_dir: &Path) -> PathBuf {
    state_dir.join("queue.sqlite")
}

/// Makes the database's file if there is none, and takes from others what SQLite's own way of making it would give them;
/// the files beside it get the same mode.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Opens the database for writing and brings its tables up to date.
pub(super) fn open(state_dir: &Path) -> anyhow::Result<Connection> {
    use anyhow::{Context as _, bail};
    let path = database(state_dir);
    private(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let connection = Connection::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(PATIENCE)?;
    // FULL syncs the write-ahead log at each commit: what was committed survives a power cut.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    // Keys that are destroyed, and mail, are not to stay in pages that are free; Debian's library does it by itself.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.set_prepared_statement_cache_capacity(64);
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => {
            upgrade(&connection, &[MAILS, RECIPIENTS, OTHERS, NAMES, FROM_2, FROM_3, FROM_4, FROM_5].concat())?;
        }
        1 => {
            let recipients = FROM_1.replace("@RECIPIENTS@", RECIPIENTS);
            upgrade(&connection, &[&recipients, NAMES, FROM_2, FROM_3, FROM_4, FROM_5].concat())?;
        }
        2 => upgrade(&connection, &[FROM_2, FROM_3, FROM_4, FROM_5].concat())?,
        3 => upgrade(&connection, &[FROM_3, FROM_4, FROM_5].concat())?,
        4 => upgrade(&connection, &[FROM_4, FROM_5].concat())?,
        5 => upgrade(&connection, FROM_5)?,
        VERSION => {}
        newer => bail!("{} is of version {newer}, this program knows {VERSION}: do not downgrade", path.display()),
    }
    Ok(connection)
}

/// Changes the tables to those of this version, wholly or not at all.
fn upgrade(connection: &Connection, steps: &str) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;"))
}

/// A connection that only reads; it sees what is committed.
pub struct Reader {
    pub(super) connection: Connection,
}

impl Reader {
    /// Opens one; the [`super::Store`] must have been opened before.
    ///
    /// # Errors
    /// The database cannot be opened.
    pub fn open(state_dir: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(database(state_dir), flags)?;
        connection.busy_timeout(PATIENCE)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(Self { connection })
    }

    /// A number that is another one once anything was committed since it was last read here (`PRAGMA data_version`).
    ///
    /// # Errors
    /// The store fails.
    pub fn version(&self) -> rusqlite::Result<i64> {
        self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }
}
