-- The journal is the truth: append only, each record hashed together with the hash of the one before. Every other
-- table follows from it and is written in the same transaction. Times are microseconds since 1970, UTC.

CREATE TABLE journal (
	seq  INTEGER PRIMARY KEY,
	at   INTEGER NOT NULL,
	kind TEXT    NOT NULL,
	body BLOB    NOT NULL,
	prev BLOB    NOT NULL CHECK (length(prev) = 32),
	hash BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER journal_update BEFORE UPDATE ON journal BEGIN
	SELECT RAISE(ABORT, 'the journal is append only');
END;
CREATE TRIGGER journal_delete BEFORE DELETE ON journal BEGIN
	SELECT RAISE(ABORT, 'the journal is append only');
END;

-- Where the journal ends; locked by whoever appends. misses counts join tokens that were presented and not known.
CREATE TABLE head (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	seq    INTEGER NOT NULL,
	hash   BLOB    NOT NULL CHECK (length(hash) = 32),
	misses INTEGER NOT NULL
) STRICT;
INSERT INTO head (one, seq, hash, misses) VALUES (1, 0, zeroblob(32), 0);

-- What certificates are searched by. seq is the record of the intent, outcome that of its end; the rest is in there.
-- state: 0 intended, 1 issued, 2 failed. An index of SQLite ends in the seq without being told.
CREATE TABLE certificates (
	seq       INTEGER PRIMARY KEY,
	serial    BLOB    NOT NULL CHECK (length(serial) = 16),
	id        TEXT    NOT NULL,
	caller    TEXT    NOT NULL,
	issuer    TEXT    NOT NULL,
	key_hash  BLOB    NOT NULL CHECK (length(key_hash) = 32),
	not_after INTEGER NOT NULL,
	at        INTEGER NOT NULL,
	state     INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
	outcome   INTEGER CHECK ((outcome IS NULL) = (state = 0))
) STRICT;
CREATE UNIQUE INDEX certificates_serial ON certificates (serial);
CREATE INDEX certificates_id ON certificates (id);
CREATE INDEX certificates_caller ON certificates (caller);
CREATE INDEX certificates_key_hash ON certificates (key_hash);
CREATE INDEX certificates_issuer ON certificates (issuer);
CREATE INDEX certificates_issuer_expiry ON certificates (issuer, not_after);
CREATE INDEX certificates_expiry ON certificates (not_after);

CREATE TRIGGER certificates_update
	BEFORE UPDATE OF seq, serial, id, caller, issuer, key_hash, not_after, at ON certificates BEGIN
	SELECT RAISE(ABORT, 'a certificate of the ledger does not change');
END;
CREATE TRIGGER certificates_delete BEFORE DELETE ON certificates BEGIN
	SELECT RAISE(ABORT, 'a certificate stays in the ledger');
END;

CREATE TABLE events (
	seq INTEGER PRIMARY KEY,
	at  INTEGER NOT NULL
) STRICT;

-- Which part of the journal falls into a span of ten minutes, so that a search by time is a search by seq, whatever
-- the clock did. kind: certificate or event.
CREATE TABLE spans (
	kind      TEXT    NOT NULL,
	span      INTEGER NOT NULL,
	first_seq INTEGER NOT NULL,
	last_seq  INTEGER NOT NULL,
	PRIMARY KEY (kind, span)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
	hash BLOB    PRIMARY KEY CHECK (length(hash) = 32),
	seq  INTEGER NOT NULL,
	body BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- The identities of a used join token; seq is the record of its use.
CREATE TABLE grants (
	seq  INTEGER NOT NULL,
	hash BLOB    NOT NULL,
	id   TEXT    NOT NULL,
	PRIMARY KEY (seq, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_hash ON grants (hash, id);

-- One row for each certificate, identity or key that ever was revoked. number is the record of the first time, seq of
-- the last change. until_at is the greatest integer when it is for good.
CREATE TABLE revocations (
	number   INTEGER PRIMARY KEY,
	serial   BLOB    UNIQUE,
	id       TEXT    UNIQUE,
	key_hash BLOB    UNIQUE,
	at       INTEGER NOT NULL,
	until_at INTEGER NOT NULL,
	reason   TEXT    NOT NULL,
	by_whom  TEXT    NOT NULL,
	seq      INTEGER NOT NULL,
	lifted   INTEGER NOT NULL CHECK (lifted IN (0, 1)),
	CHECK ((serial IS NOT NULL) + (id IS NOT NULL) + (key_hash IS NOT NULL) = 1)
) STRICT;
CREATE INDEX revocations_in_force ON revocations (lifted, until_at);

CREATE TABLE state (
	name    TEXT    PRIMARY KEY,
	version INTEGER NOT NULL,
	value   BLOB    NOT NULL,
	sum     BLOB    NOT NULL CHECK (length(sum) = 32),
	seq     INTEGER NOT NULL
) STRICT;
