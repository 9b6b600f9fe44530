package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Kinds of records.
const (
	kindCreated  = "created"       // the journal begins
	kindRestored = "restored"      // a backup was put in place; what came after it is unknown
	kindIntent   = "intent"        // about to sign
	kindOutcome  = "outcome"       // signed, or not
	kindToken    = "token"         // join token made
	kindUsed     = "token_used"    // join token taken
	kindExpired  = "token_expired" // join token presented too late, and burnt
	kindRevoked  = "revoked"
	kindLifted   = "unrevoked"
	kindState    = "state" // small document written
	kindEvent    = "event" // audited act
)

// sum is a SHA-256 that is hexadecimal in JSON.
type sum [32]byte

// MarshalText writes the sum in hex.
func (s sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads 64 hexadecimal digits.
func (s *sum) UnmarshalText(b []byte) error { return unhex(s[:], b) }

// serial is a serial number that is hexadecimal in JSON.
type serial ca.Serial

// MarshalText writes the serial in hex.
func (s serial) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (s *serial) UnmarshalText(b []byte) error { return unhex(s[:], b) }

func unhex(dst, src []byte) error {
	if hex.DecodedLen(len(src)) != len(dst) {
		return fmt.Errorf("%d hexadecimal digits, want %d", len(src), hex.EncodedLen(len(dst)))
	}
	_, err := hex.Decode(dst, src)
	return err
}

// The bodies of the records, as JSON. Fields are only ever added.
type (
	createdBody struct {
		Store string `json:"store"` // random name of this journal
	}
	restoredBody struct {
		Backup sum `json:"backup"` // hash of the last record in the backup
	}
	intentBody struct {
		Serial    serial      `json:"serial"`
		ID        spiffeid.ID `json:"id"`
		Issuer    string      `json:"issuer"`
		Caller    string      `json:"caller"`
		Profile   string      `json:"profile"`
		TTLRule   string      `json:"ttl_rule"`
		KeyHash   sum         `json:"key_hash"`
		NotBefore time.Time   `json:"not_before"`
		NotAfter  time.Time   `json:"not_after"`
		At        time.Time   `json:"at"`
	}
	outcomeBody struct {
		Serial      serial    `json:"serial"`
		Intent      int64     `json:"intent"` // record of the intent
		Certificate []byte    `json:"certificate,omitempty"`
		Failure     string    `json:"failure,omitempty"`
		At          time.Time `json:"at"`
	}
	tokenBody struct {
		Hash    sum           `json:"hash"`
		IDs     []spiffeid.ID `json:"ids"`
		Node    string        `json:"node"`
		Expires time.Time     `json:"expires"`
		Created time.Time     `json:"created"`
		By      string        `json:"by"`
	}
	takenBody struct {
		tokenBody           // only hash and ids before keys were recorded
		Key       sum       `json:"key,omitzero"` // it is bound to: SHA-256 of the subject public key info
		At        time.Time `json:"at"`
	}
	revocationBody struct {
		Serial  *serial     `json:"serial,omitempty"`
		ID      spiffeid.ID `json:"id"`
		KeyHash *sum        `json:"key_hash,omitempty"`
		Reason  string      `json:"reason"`
		By      string      `json:"by"`
		At      time.Time   `json:"at"`
		Since   time.Time   `json:"since,omitzero"` // in force, which may be longer than this record
		Until   time.Time   `json:"until,omitzero"` // absent = for good
	}
	stateBody struct {
		Key     string `json:"key"`
		Version int64  `json:"version"`
		Sum     sum    `json:"sum"` // of the value: values are secrets, encrypted or not
	}
	eventBody struct {
		At     time.Time `json:"at"`
		By     string    `json:"by"`
		What   string    `json:"what"`
		Detail string    `json:"detail"`
	}
)

// record is one record of the journal.
type record struct {
	seq  int64
	at   int64 // microseconds since 1970, by this authority's clock
	kind string
	body []byte
	prev sum
	hash sum
}

// digest hashes all of the record but its hash, each part of variable length behind its length.
func (r *record) digest() sum {
	buf := make([]byte, 0, 64+len(r.kind)+len(r.body))
	buf = append(buf, "writ journal 1\n"...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(r.seq))
	buf = binary.BigEndian.AppendUint64(buf, uint64(r.at))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(r.kind)))
	buf = append(buf, r.kind...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(r.body)))
	buf = append(buf, r.body...)
	buf = append(buf, r.prev[:]...)
	return sha256.Sum256(buf)
}

// newRecord encodes a body. Bodies are made of checked values, so this fails on a mistake of ours only.
func newRecord(kind string, body any) (*record, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", kind, err)
	}
	return &record{kind: kind, body: b}, nil
}

// decode reads the body of a record that must be of the given kind and match its hash.
func (r *record) decode(kind string, into any) error {
	switch {
	case r.kind != kind:
		return fmt.Errorf("record %d of the journal is damaged: it is %q, want %q", r.seq, r.kind, kind)
	case r.digest() != r.hash:
		return fmt.Errorf("record %d of the journal is damaged: it does not match its hash", r.seq)
	}
	if err := json.Unmarshal(r.body, into); err != nil {
		return fmt.Errorf("record %d of the journal cannot be read: %w", r.seq, err)
	}
	return nil
}

// whole rounds down to what the tables keep.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// span is the ten minutes that t falls into.
func span(t time.Time) int64 { return t.Unix() / 600 }
