-- The journal is the truth: append only, each record hashed together with the hash of the one before. Every other
-- table follows from it and is written in the same transaction. Times are microseconds since 1970, UTC. Text compares
-- by bytes ("C"), so that no upgrade of a locale can spoil an index.

CREATE TABLE journal (
	seq  BIGINT PRIMARY KEY,
	at   BIGINT NOT NULL,
	kind TEXT COLLATE "C" NOT NULL,
	body BYTEA  NOT NULL,
	prev BYTEA  NOT NULL CHECK (length(prev) = 32),
	hash BYTEA  NOT NULL CHECK (length(hash) = 32)
);

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'table % of the ledger is append only', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER journal_update BEFORE UPDATE ON journal FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER journal_delete BEFORE DELETE ON journal FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER journal_truncate BEFORE TRUNCATE ON journal FOR EACH STATEMENT EXECUTE FUNCTION refuse();

-- Where the journal ends; locked by whoever appends. misses counts join tokens that were presented and not known.
CREATE TABLE head (
	one    BIGINT PRIMARY KEY CHECK (one = 1),
	seq    BIGINT NOT NULL,
	hash   BYTEA  NOT NULL CHECK (length(hash) = 32),
	misses BIGINT NOT NULL
) WITH (fillfactor = 10);
INSERT INTO head (one, seq, hash, misses) VALUES (1, 0, decode(repeat('00', 32), 'hex'), 0);

-- What certificates are searched by. seq is the record of the intent, outcome that of its end; the rest is in there.
-- state: 0 intended, 1 issued, 2 failed.
CREATE TABLE certificates (
	seq       BIGINT PRIMARY KEY,
	serial    BYTEA  NOT NULL CHECK (length(serial) = 16),
	id        TEXT COLLATE "C" NOT NULL,
	caller    TEXT COLLATE "C" NOT NULL,
	issuer    TEXT COLLATE "C" NOT NULL,
	key_hash  BYTEA  NOT NULL CHECK (length(key_hash) = 32),
	not_after BIGINT NOT NULL,
	at        BIGINT NOT NULL,
	state     BIGINT NOT NULL CHECK (state BETWEEN 0 AND 2),
	outcome   BIGINT CHECK ((outcome IS NULL) = (state = 0))
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX certificates_serial ON certificates (serial);
CREATE INDEX certificates_id ON certificates (id, seq);
CREATE INDEX certificates_caller ON certificates (caller, seq);
CREATE INDEX certificates_key_hash ON certificates (key_hash, seq);
CREATE INDEX certificates_issuer ON certificates (issuer, seq);
CREATE INDEX certificates_issuer_expiry ON certificates (issuer, not_after, seq);
CREATE INDEX certificates_expiry ON certificates (not_after, seq);

CREATE TRIGGER certificates_update
	BEFORE UPDATE OF seq, serial, id, caller, issuer, key_hash, not_after, at ON certificates
	FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER certificates_delete BEFORE DELETE ON certificates FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER certificates_truncate BEFORE TRUNCATE ON certificates FOR EACH STATEMENT EXECUTE FUNCTION refuse();

CREATE TABLE events (
	seq BIGINT PRIMARY KEY,
	at  BIGINT NOT NULL
);

-- Which part of the journal falls into a span of ten minutes, so that a search by time is a search by seq, whatever
-- the clock did. kind: certificate or event.
CREATE TABLE spans (
	kind      TEXT COLLATE "C" NOT NULL,
	span      BIGINT NOT NULL,
	first_seq BIGINT NOT NULL,
	last_seq  BIGINT NOT NULL,
	PRIMARY KEY (kind, span)
);

CREATE TABLE tokens (
	hash BYTEA  PRIMARY KEY CHECK (length(hash) = 32),
	seq  BIGINT NOT NULL,
	body BYTEA  NOT NULL
);

-- The identities of a used join token; seq is the record of its use.
CREATE TABLE grants (
	seq  BIGINT NOT NULL,
	hash BYTEA  NOT NULL,
	id   TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (seq, id)
);
CREATE INDEX grants_hash ON grants (hash, id);

-- One row for each certificate, identity or key that ever was revoked. number is the record of the first time, seq of
-- the last change. until_at is the greatest integer when it is for good.
CREATE TABLE revocations (
	number   BIGINT PRIMARY KEY,
	serial   BYTEA  UNIQUE,
	id       TEXT COLLATE "C" UNIQUE,
	key_hash BYTEA  UNIQUE,
	at       BIGINT NOT NULL,
	until_at BIGINT NOT NULL,
	reason   TEXT   NOT NULL,
	by_whom  TEXT   NOT NULL,
	seq      BIGINT NOT NULL,
	lifted   BIGINT NOT NULL CHECK (lifted IN (0, 1)),
	CHECK (num_nonnulls(serial, id, key_hash) = 1)
);
CREATE INDEX revocations_in_force ON revocations (lifted, until_at);

CREATE TABLE state (
	name    TEXT COLLATE "C" PRIMARY KEY,
	version BIGINT NOT NULL,
	value   BYTEA  NOT NULL,
	sum     BYTEA  NOT NULL CHECK (length(sum) = 32),
	seq     BIGINT NOT NULL
);
