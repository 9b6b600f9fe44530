package ca

import (
	"context"
	"errors"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Errors that a [Store] wraps. Callers compare with errors.Is.
var (
	ErrSerialExists = errors.New("the serial number is in the ledger already")
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("the state has changed since it was read")
	ErrUnavailable  = errors.New("the store is not available")
	// ErrKeyInUse says that a key is another identity's.
	ErrKeyInUse = errors.New("the key is another identity's")
	// ErrOverloaded says that too many changes wait to be written: nothing came of this one, and it may be tried again
	// in a moment. Whatever has it has [ErrUnavailable] as well, for those who do not tell the two apart.
	ErrOverloaded = errors.New("too many changes wait to be written")
)

// Serial is a certificate's 128-bit serial number, big endian. The top bit is clear and it is never zero.
type Serial [16]byte

// Intent is what is about to be signed. It is recorded, durably, before the key is used.
type Intent struct {
	Serial    Serial
	ID        spiffeid.ID
	Issuer    string    // authority that signs, by its subject key identifier in hex
	Caller    string    // who asked, as "method:who": join_token:…, client_cert:…, oidc:…, unix:…
	Profile   string    // profile the template came from
	TTLRule   string    // the rule that set the lifetime: requested, default, min, max, issuer
	KeyHash   [32]byte  // SHA-256 of the subject public key info
	NotBefore time.Time // whole seconds, UTC
	NotAfter  time.Time
	At        time.Time // when it was decided
}

// Outcome ends an intent: the certificate that was signed, or why none was.
type Outcome struct {
	Serial      Serial
	Certificate []byte // DER; empty when Failure is set
	Failure     string
	At          time.Time
}

// Entry is one certificate of the ledger.
type Entry struct {
	Intent
	State       string // intended, issued, failed
	Certificate []byte
	Failure     string
	Revoked     *Revocation
}

// Query selects entries, newest first. Zero fields do not restrict.
type Query struct {
	ID      spiffeid.ID
	Serial  Serial
	Caller  string
	Issuer  string
	KeyHash [32]byte
	LiveAt  time.Time // issued, not expired and not revoked at that time
	Open    bool      // intended, and without an outcome yet
	After   time.Time // decided at or after
	Before  time.Time // decided before
	Cursor  string    // from the last page
	Limit   int       // 1 to 1000, default 100
}

// Ledger records what is issued: append only, hash-chained, intent before signing and outcome after. Methods that change
// something return nil only once the change survives a crash. Implementations are safe for concurrent use and commit
// in groups.
type Ledger interface {
	// Begin records an intent. ErrSerialExists when the serial was ever used, whatever came of it. ErrKeyInUse when the
	// newest intent with the same key, whatever came of it, has another identity: a key belongs to the identity that it
	// was first intended for, and of two that ask at the same moment, through whatever connections, one gets it.
	Begin(ctx context.Context, i Intent) error
	// Finish ends an intent, once: ErrNotFound when there is none, ErrConflict when it has ended.
	//
	// An intent that a crash leaves open stays open until an [Authority] ends it as failed, see [Authority.Run]. Its
	// serial number and its key stay taken, and nobody was given a certificate for it: that takes an outcome.
	Finish(ctx context.Context, o Outcome) error
	// Find returns a page of entries and the cursor of the next, empty at the end.
	Find(ctx context.Context, q Query) (entries []Entry, next string, err error)
	// Verify walks the hash chain and returns how many records it has, or where it breaks.
	Verify(ctx context.Context) (records int64, err error)
}

// Token is a join token at rest: only its hash is kept.
type Token struct {
	Hash    [32]byte // SHA-256 of the token
	IDs     []spiffeid.ID
	Node    string // label for people
	Expires time.Time
	Created time.Time
	By      string // who made it
}

// Tokens keeps join tokens. Taking one is a single atomic step that binds it to a key: it succeeds for one key alone. One
// that has expired burns as well and is ErrNotFound like one that never was.
type Tokens interface {
	PutToken(ctx context.Context, t Token) error
	// TakeToken uses a token for a key, by the SHA-256 of its subject public key info; a zero one is nobody's, and uses it
	// once. The same key may take it again, for the answer may not have arrived: until the token expires, or a
	// certificate of that key is revoked.
	TakeToken(ctx context.Context, hash, key [32]byte, now time.Time) (Token, error)
	// Grants of a token stay after it is used, by its hash: the identities its node may ask for, sorted; none when no such
	// token was used. They are not kept by identity, or two nodes that share one would share all.
	Grants(ctx context.Context, hash [32]byte) ([]spiffeid.ID, error)
}

// Revocation says that a certificate, an identity or a key is no longer good. Exactly one of the three is set.
type Revocation struct {
	Serial  Serial
	ID      spiffeid.ID
	KeyHash [32]byte
	Reason  string // RFC 5280 §5.3.1 name, such as keyCompromise
	By      string
	At      time.Time
	Until   time.Time // when it can be forgotten: the certificate's expiry plus skew; zero = never
}

// Revocations is the deny list.
type Revocations interface {
	Revoke(ctx context.Context, r Revocation) error
	// Unrevoke lifts the revocation of an identity or a key; a certificate's is for good.
	Unrevoke(ctx context.Context, r Revocation) error
	// Revoked lists all that are in force at now, oldest first.
	Revoked(ctx context.Context, now time.Time) ([]Revocation, error)
}

// State keeps the few small documents an authority must not lose: its authorities and keys (encrypted), the phase of a
// root rotation, CRL numbers. Every write is conditional on the version that was read.
type State interface {
	// Get returns a value and its version; version 0 and ErrNotFound when there is none.
	Get(ctx context.Context, key string) (value []byte, version int64, err error)
	// Put writes a value if its version still is the given one, 0 for a new key. ErrConflict otherwise.
	Put(ctx context.Context, key string, value []byte, version int64) error
}

// Audit records what operators and the authority itself did, in the same hash chain as the ledger.
type Audit interface {
	Record(ctx context.Context, event Event) error
	// Events returns those at or after one time and before another, newest first by the order they were recorded in. A zero
	// time does not restrict; limit is 1 to 1000, default 100.
	Events(ctx context.Context, after, before time.Time, limit int) ([]Event, error)
}

// Event is one audited act.
type Event struct {
	At     time.Time
	By     string // caller, as in Intent
	What   string // token_created, token_used, rotation_prepare, override, revoked, …
	Detail string // JSON object, no secrets
}

// Store is everything durable. ca/store has one for SQLite and one for PostgreSQL.
type Store interface { //nolint:interfacebloat // it only joins the small ones for whoever opens a store
	Ledger
	Tokens
	Revocations
	State
	Audit
	Close() error
}
