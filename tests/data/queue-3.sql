-- A database of version 3 (as of the release before relays), with one row or more in the tables that matter.
CREATE TABLE accepted (            -- what the MTA handed over, to recognise it when it comes again
    key BLOB PRIMARY KEY,          -- hash of MTA queue id, recipient and digest
    queue_id TEXT NOT NULL,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE blocked (             -- keys whose mail and requests are not taken
    account TEXT NOT NULL,
    key BLOB NOT NULL,
    since INTEGER NOT NULL,        -- seconds of the wall clock
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
INSERT INTO "blocked" VALUES('alice',X'0404040404040404040404040404040404040404040404040404040404040404',5);
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
INSERT INTO "contact" VALUES('alice',X'0202020202020202020202020202020202020202020202020202020202020202','bob',NULL,NULL,1,1,2);
CREATE TABLE epoch (               -- restores from a backup
    began INTEGER PRIMARY KEY,     -- seconds of the wall clock; row ids made since are above began << 31
    made INTEGER NOT NULL,         -- when the backup was made, seconds of the wall clock
    host TEXT NOT NULL             -- where it was made
);
INSERT INTO "epoch" VALUES(1000,900,'laptop');
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
INSERT INTO "mail" VALUES(7,'Q7','alice','M7','alice@example.org','alice@example.org',4,4,X'0000000000000000000000000000000000000000000000000000000000000000',0,X'',NULL,1000,900000000,0,NULL,NULL,X'626F6479');
INSERT INTO "mail" VALUES(8,'Q8','alice',NULL,'alice@example.org','alice@example.org',4,4,X'0000000000000000000000000000000000000000000000000000000000000000',0,X'',NULL,1100,900000000,0,NULL,NULL,X'626F6479');
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
INSERT INTO "name" VALUES('alice','bob@example.net',X'0202020202020202020202020202020202020202020202020202020202020202',0,0,1,1,2,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,0,NULL,0);
INSERT INTO "name" VALUES('alice','eve@example.net',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1,0,1200,0);
CREATE TABLE notice (              -- status notices not yet in a mailbox
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    content BLOB NOT NULL
);
INSERT INTO "notice" VALUES(1,'alice',X'41');
CREATE TABLE received (            -- what peers sent: recorded before it becomes visible, kept until the peer forgets it
    account TEXT NOT NULL,
    peer BLOB NOT NULL,
    transfer BLOB NOT NULL,
    mailbox TEXT NOT NULL,
    maildir TEXT NOT NULL,
    file TEXT NOT NULL,
    at INTEGER NOT NULL,
    published INTEGER NOT NULL,    -- 0 between the record and the rename into new/
    forgotten INTEGER NOT NULL,    -- 1 once the peer said that it will not offer the mail again
    PRIMARY KEY (account, peer, transfer, mailbox)
) WITHOUT ROWID;
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
    state INTEGER NOT NULL,        -- 0 queued, 1 sending; what is final is not here any more
    attempts INTEGER NOT NULL,
    next_attempt INTEGER NOT NULL,
    status TEXT,                   -- of the last failed attempt
    text TEXT,
    notify INTEGER,                -- bits: 1 never, 2 success, 4 failure, 8 delay
    orcpt TEXT,
    name TEXT,                     -- row of `name` that says where this goes; NULL for addresses below tox.alt
    warned INTEGER NOT NULL DEFAULT 0, epoch INTEGER, -- 1 once the sender was told of the delay
    UNIQUE (mail, number)
);
INSERT INTO "recipient" VALUES(9,7,0,'alice',X'0202020202020202020202020202020202020202020202020202020202020202',X'01010101010101010101010101010101','bob@tox.alt','bob@tox.alt',0,0,3,1500,'4.2.2','full',NULL,NULL,NULL,0,NULL);
INSERT INTO "recipient" VALUES(10,8,0,'alice',NULL,X'03030303030303030303030303030303','eve@example.net','eve@example.net',0,0,0,1100,'4.4.3','eve@example.net is being looked up',NULL,NULL,'eve@example.net',1,NULL);
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
CREATE INDEX mail_expires ON mail (expires);
CREATE INDEX mail_summary ON mail (account, wire_size, arrived);
CREATE INDEX mail_same ON mail (mta_queue_id, digest) WHERE mta_queue_id IS NOT NULL;
CREATE INDEX recipient_due ON recipient (account, peer, state, bulk, next_attempt);
CREATE INDEX recipient_transfer ON recipient (transfer);
CREATE INDEX recipient_name ON recipient (account, name, peer) WHERE name IS NOT NULL;
CREATE INDEX accepted_at ON accepted (at);
CREATE INDEX received_unpublished ON received (published) WHERE published = 0;
CREATE UNIQUE INDEX contact_nick ON contact (account, nick) WHERE nick IS NOT NULL;
CREATE INDEX name_key ON name (account, key) WHERE key IS NOT NULL;
CREATE INDEX name_due ON name (next_lookup) WHERE next_lookup IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('mail',8);
INSERT INTO "sqlite_sequence" VALUES('recipient',10);
INSERT INTO "sqlite_sequence" VALUES('notice',1);
PRAGMA user_version = 3;
