-- What version 2 added to the sandbox's database; a database of version 1 becomes one of version 2 by the same lines.

ALTER TABLE device ADD COLUMN last_gateway_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN more TEXT NOT NULL DEFAULT '{}';

CREATE TABLE shared (
  device_id INTEGER NOT NULL REFERENCES device (id),
  key TEXT NOT NULL,
  ts_ms INTEGER NOT NULL,
  value ANY NOT NULL,
  PRIMARY KEY (device_id, key)
) STRICT, WITHOUT ROWID;

-- Credentials, device profiles, packages and limits, under names such as credentials/7 and profile/thermo.
CREATE TABLE kept (
  name TEXT PRIMARY KEY,
  content BLOB NOT NULL
) STRICT, WITHOUT ROWID;
