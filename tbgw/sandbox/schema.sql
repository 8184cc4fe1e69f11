-- The sandbox's database, version 1. All times are milliseconds since the epoch.
-- A value is INTEGER, REAL or TEXT; a BLOB holds the JSON text of a boolean, an array or an object.

CREATE TABLE device (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  profile TEXT NOT NULL,
  gateway INTEGER NOT NULL,
  last_activity_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  device_id INTEGER NOT NULL REFERENCES device (id),
  key TEXT NOT NULL
) STRICT;

-- The bounded history. Its newest row of each series is also the latest value.
CREATE TABLE point (
  series_id INTEGER NOT NULL REFERENCES series (id),
  ts_ms INTEGER NOT NULL,
  value ANY NOT NULL,
  PRIMARY KEY (series_id, ts_ms)
) STRICT, WITHOUT ROWID;

CREATE TABLE attribute (
  device_id INTEGER NOT NULL REFERENCES device (id),
  key TEXT NOT NULL,
  ts_ms INTEGER NOT NULL,
  value ANY NOT NULL,
  PRIMARY KEY (device_id, key)
) STRICT, WITHOUT ROWID;
