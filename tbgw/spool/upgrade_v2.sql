-- From schema 1 to 2, in one transaction. A new file goes through schema 1 and this as well, so that an upgraded file
-- and a new one cannot differ.

-- For the time to live: how long the gateway has been running in all, which no clock that is set can change.
ALTER TABLE meta ADD COLUMN running_ms INTEGER NOT NULL DEFAULT 0;

-- Rows from `seq` on were accepted at this running time or later, up to a minute before the next mark's: one record for
-- each minute in which rows came, and not one more column in each row.
CREATE TABLE marks (
    seq         INTEGER PRIMARY KEY,  -- number of the first row that it is about
    running_ms  INTEGER NOT NULL,     -- running time at its acceptance
    crc         INTEGER NOT NULL      -- CRC-32 over both; when one is wrong, all ages are counted from then on
);

PRAGMA user_version = 2;
