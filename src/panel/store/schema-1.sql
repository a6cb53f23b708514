-- Version 1. Times are milliseconds since 1970; hashes are SHA-256 in hexadecimal digits.

CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
INSERT INTO meta VALUES ('epoch', 0), ('nodes', 0);

-- What the hub keeps in memory, as JSON: it is read once at start, and each record is replaced whole.
CREATE TABLE nodes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE servers (
  node TEXT NOT NULL, id TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (node, id)
) WITHOUT ROWID, STRICT;
CREATE TABLE commands (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID, STRICT;

CREATE TABLE users (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE,
  role TEXT NOT NULL CHECK (role IN ('admin', 'member')),
  password TEXT,
  totp TEXT, totp_pending TEXT, totp_step INTEGER NOT NULL DEFAULT 0,
  disabled INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL, last_login INTEGER
) STRICT;
CREATE TABLE recovery_codes (
  user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE, hash TEXT NOT NULL, PRIMARY KEY (user, hash)
) WITHOUT ROWID, STRICT;
CREATE TABLE grants (
  user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  node TEXT NOT NULL, server TEXT NOT NULL, rights INTEGER NOT NULL, PRIMARY KEY (user, node, server)
) WITHOUT ROWID, STRICT;
CREATE TABLE sessions (
  hash TEXT PRIMARY KEY,
  user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  csrf TEXT NOT NULL, by_link INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL, seen INTEGER NOT NULL, expires INTEGER NOT NULL,
  address TEXT NOT NULL, agent TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX sessions_user ON sessions (user);
CREATE TABLE links (
  hash TEXT PRIMARY KEY, user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE, expires INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
  hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL, scopes INTEGER NOT NULL,
  created INTEGER NOT NULL, expires INTEGER, last_used INTEGER
) STRICT;

CREATE TABLE activity (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, user TEXT NOT NULL, via TEXT NOT NULL,
  action TEXT NOT NULL, node TEXT, server TEXT, address TEXT, outcome TEXT NOT NULL, detail TEXT
) STRICT;
CREATE INDEX activity_server ON activity (node, server, id);

CREATE TABLE idempotency (
  asker TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL,
  time INTEGER NOT NULL, PRIMARY KEY (asker, key)
) WITHOUT ROWID, STRICT;
CREATE INDEX idempotency_time ON idempotency (time);

CREATE TABLE templates (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID, STRICT;

-- Measurements. A series is a server, or a node with an empty server. `tier` is the step in seconds.
CREATE TABLE series (
  id INTEGER PRIMARY KEY AUTOINCREMENT, node TEXT NOT NULL, server TEXT NOT NULL, UNIQUE (node, server)
) STRICT;
CREATE TABLE samples (
  series INTEGER NOT NULL, tier INTEGER NOT NULL, time INTEGER NOT NULL,
  count INTEGER NOT NULL, cpu REAL, memory REAL, rx REAL, tx REAL, disk REAL, PRIMARY KEY (series, tier, time)
) WITHOUT ROWID, STRICT;
CREATE INDEX samples_age ON samples (tier, time);
