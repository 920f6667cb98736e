-- A database as version 1 of the tables left it, with one waiting mail, a contact and a friend request.
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
CREATE TABLE recipient (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mail INTEGER NOT NULL REFERENCES mail (id),
    number INTEGER NOT NULL,       -- within the mail
    account TEXT NOT NULL,
    peer BLOB NOT NULL,            -- public key
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
    UNIQUE (mail, number)
);
CREATE INDEX recipient_due ON recipient (account, peer, state, bulk, next_attempt);
CREATE INDEX recipient_transfer ON recipient (transfer);
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
    maildir TEXT NOT NULL,
    file TEXT NOT NULL,
    at INTEGER NOT NULL,
    published INTEGER NOT NULL,    -- 0 between the record and the rename into new/
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
    PRIMARY KEY (account, key)
) WITHOUT ROWID;

PRAGMA user_version = 1;
INSERT INTO mail VALUES (7, 'Q7', 'alice', 'M7', 'alice@example.org', 'alice@example.org', 4, 4, zeroblob(32), 0, x'', NULL, 1000, 900000000, 0, NULL, NULL, x'626f6479');
INSERT INTO recipient VALUES (9, 7, 0, 'alice', x'0202020202020202020202020202020202020202020202020202020202020202', x'01010101010101010101010101010101', 'bob@tox.alt', 'bob@tox.alt', 0, 0, 3, 1500, '4.3.1', 'disk full', NULL, NULL);
INSERT INTO contact VALUES ('alice', x'0202020202020202020202020202020202020202020202020202020202020202', 'bob', NULL, NULL, 1, 1, 2);
INSERT INTO request VALUES ('alice', x'0303030303030303030303030303030303030303030303030303030303030303', 'hello', 5, 0);
