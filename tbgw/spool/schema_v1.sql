-- Schema 1 of the spool. Run once, as one transaction together with `PRAGMA user_version`: a crash in between leaves an
-- empty database, which the next start fills.

-- Rows that wait for ThingsBoard, oldest first. The payload is the last column, so that sums over the others never read
-- the payload's overflow pages.
CREATE TABLE rows (
    seq         INTEGER PRIMARY KEY,  -- position in the spool: 1, 2, 3, ... with gaps, never used twice
    accepted_ms INTEGER NOT NULL,     -- when it was handed to the disk, in ms since the epoch; for people only
    topic       TEXT    NOT NULL,     -- MQTT topic
    devices     TEXT    NOT NULL,     -- names of the devices it speaks of: JSON list of strings
    messages    INTEGER NOT NULL,     -- accepted readings in it, a count
    points      INTEGER NOT NULL,     -- data points in it, a count
    bytes       INTEGER NOT NULL,     -- what it counts for against the cap, in bytes of disk
    crc         INTEGER NOT NULL,     -- CRC-32 over all of the above but accepted_ms, and the payload
    payload     BLOB    NOT NULL      -- MQTT payload
);

-- Rows that can never be delivered, or not be read any more. Columns as in `rows`, as they were found.
CREATE TABLE dead_letters (
    id          INTEGER PRIMARY KEY,  -- order of burying
    seq         INTEGER,              -- the row's position in the spool
    buried_ms   INTEGER NOT NULL,     -- when it was buried, in ms since the epoch; for people only
    reason      TEXT    NOT NULL,     -- a word of a closed list
    topic       TEXT,
    devices     TEXT,
    messages    INTEGER,
    points      INTEGER,
    bytes       INTEGER NOT NULL,     -- what it counts for against the dead letters' own cap, in bytes of disk
    payload     BLOB
);

-- Sums over the two tables, kept in every transaction so that opening a large store reads one record. One record.
CREATE TABLE meta (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    last_seq    INTEGER NOT NULL,     -- the highest seq ever given out
    rows        INTEGER NOT NULL,     -- count of `rows`
    messages    INTEGER NOT NULL,     -- sum of `rows.messages`
    bytes       INTEGER NOT NULL,     -- sum of `rows.bytes`
    dead_rows   INTEGER NOT NULL,     -- count of `dead_letters`
    dead_bytes  INTEGER NOT NULL,     -- sum of `dead_letters.bytes`
    crc         INTEGER NOT NULL      -- CRC-32 over the other columns; when it is wrong, the sums are made anew
);

INSERT INTO meta VALUES (1, 0, 0, 0, 0, 0, 0, 0);

PRAGMA application_id = 1952606071;  -- "tbgw" in ASCII
PRAGMA user_version = 1;
