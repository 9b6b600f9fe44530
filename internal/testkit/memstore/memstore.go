// Package memstore is a [ca.Store] in memory for tests. Start with [New]. It enforces what a certificate authority owes
// its store, and fails the test on a serial number that is used twice, an outcome without intent, a certificate that is
// not what was intended. Faults are injected per call, before or after the effect.
package memstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// TB is the part of testing.TB that the store complains to.
type TB interface {
	Errorf(format string, args ...any)
}

// Fault makes a call fail. Before: nothing happens. After: it happens, and the caller does not learn.
type Fault struct{ Before, After error }

// Store is a store in memory. Make one with [New]; it is safe for concurrent use.
type Store struct {
	tb TB

	mu       sync.Mutex
	fault    func(op string) Fault
	entries  []*ca.Entry
	bySerial map[ca.Serial]int
	byKey    map[[32]byte][]int
	tokens   map[[32]byte]ca.Token
	used     map[[32]byte]usedToken
	revoked  []ca.Revocation
	state    map[string]document
	events   []ca.Event
}

type panics struct{}

func (panics) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// usedToken is a join token with the key that used it.
type usedToken struct {
	ca.Token
	key [32]byte
}

type document struct {
	value   []byte
	version int64
}

var _ ca.Store = (*Store)(nil)

// New makes an empty store that complains to tb, or without one panics.
func New(tb TB) *Store {
	if tb == nil {
		tb = panics{}
	}
	return &Store{
		tb: tb, bySerial: map[ca.Serial]int{}, byKey: map[[32]byte][]int{}, tokens: map[[32]byte]ca.Token{},
		used: map[[32]byte]usedToken{}, state: map[string]document{},
	}
}

// Inject asks f at every call, by the method's name (State calls as "Put ca/roots"), whether it is to fail. nil ends it.
func (s *Store) Inject(f func(op string) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// do runs one call with its fault.
func (s *Store) do(ctx context.Context, op string, effect func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ca.ErrUnavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var f Fault
	if s.fault != nil {
		f = s.fault(op)
	}
	if f.Before != nil {
		return f.Before
	}
	if err := effect(); err != nil {
		return err
	}
	return f.After
}

// Begin records an intent.
func (s *Store) Begin(ctx context.Context, i ca.Intent) error {
	return s.do(ctx, "Begin", func() error {
		if i.Serial.IsZero() || i.Serial[0]&0x80 != 0 || i.ID.IsZero() || i.Issuer == "" || i.Caller == "" || i.Profile == "" ||
			i.TTLRule == "" || i.At.IsZero() || !i.NotBefore.Before(i.NotAfter) || i.NotAfter.Nanosecond() != 0 {
			s.tb.Errorf("ledger: intent is not complete: %+v", i)
		}
		if _, used := s.bySerial[i.Serial]; used {
			s.tb.Errorf("ledger: serial number %s is used twice", i.Serial)
			return ca.ErrSerialExists
		}
		if same := s.byKey[i.KeyHash]; len(same) > 0 && s.entries[same[len(same)-1]].ID != i.ID {
			return fmt.Errorf("%w: key %x", ca.ErrKeyInUse, i.KeyHash)
		}
		s.bySerial[i.Serial] = len(s.entries)
		s.byKey[i.KeyHash] = append(s.byKey[i.KeyHash], len(s.entries))
		s.entries = append(s.entries, &ca.Entry{Intent: i, State: ca.StateIntended})
		return nil
	})
}

// Finish ends an intent.
func (s *Store) Finish(ctx context.Context, o ca.Outcome) error {
	return s.do(ctx, "Finish", func() error {
		n, known := s.bySerial[o.Serial]
		switch {
		case !known:
			s.tb.Errorf("ledger: outcome of %s without intent", o.Serial)
			return ca.ErrNotFound
		case s.entries[n].State != ca.StateIntended:
			if s.entries[n].State == ca.StateIssued && o.Failure == "" { // a failure may be what a sweep makes of a loose end
				s.tb.Errorf("ledger: second certificate with the serial number %s", o.Serial)
			}
			return ca.ErrConflict
		case (len(o.Certificate) == 0) == (o.Failure == ""):
			s.tb.Errorf("ledger: outcome of %s is neither certificate nor failure", o.Serial)
		}
		e := s.entries[n]
		e.State, e.Certificate, e.Failure = ca.StateIssued, bytes.Clone(o.Certificate), o.Failure
		if o.Failure != "" {
			e.State = ca.StateFailed
		}
		return nil
	})
}

// CheckCertificates holds every certificate of the ledger against its intent, and returns how many there are.
func (s *Store) CheckCertificates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.entries {
		if e.State != ca.StateIssued {
			continue
		}
		n++
		c, err := x509.ParseCertificate(e.Certificate)
		if err != nil {
			s.tb.Errorf("ledger: certificate %s: %v", e.Serial, err)
			continue
		}
		if c.SerialNumber.Cmp(e.Serial.Int()) != 0 || sha256.Sum256(c.RawSubjectPublicKeyInfo) != e.KeyHash ||
			!c.NotAfter.Equal(e.NotAfter) || !c.NotBefore.Equal(e.NotBefore) || len(c.URIs) != 1 || c.URIs[0].String() != e.ID.String() {
			s.tb.Errorf("ledger: certificate %s is not what was intended: %+v", e.Serial, e.Intent)
		}
	}
	return n
}

// Entries is a copy of the ledger, oldest first.
func (s *Store) Entries() []ca.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ca.Entry, len(s.entries))
	for i, e := range s.entries {
		out[i] = *e
	}
	return out
}

// Find returns a page of entries, newest first.
func (s *Store) Find(ctx context.Context, q ca.Query) (found []ca.Entry, next string, err error) {
	err = s.do(ctx, "Find", func() error {
		limit := q.Limit
		if limit == 0 {
			limit = 100
		}
		if limit < 0 || limit > 1000 {
			return fmt.Errorf("find: limit %d", limit)
		}
		end := len(s.entries)
		if q.Cursor != "" {
			if end, err = strconv.Atoi(q.Cursor); err != nil {
				return fmt.Errorf("find: cursor %q", q.Cursor)
			}
		}
		for n := range s.candidates(q, end) {
			e := *s.entries[n]
			e.Revoked = s.revocationOf(e)
			if !matches(e, q) {
				continue
			}
			if len(found) == limit {
				next = strconv.Itoa(n + 1)
				return nil
			}
			found = append(found, e)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return found, next, nil
}

// candidates yields positions below end, newest first, by an index where there is one.
func (s *Store) candidates(q ca.Query, end int) func(func(int) bool) {
	return func(yield func(int) bool) {
		if !q.Serial.IsZero() {
			if n, ok := s.bySerial[q.Serial]; ok && n < end {
				yield(n)
			}
			return
		}
		if q.KeyHash != [32]byte{} {
			for _, n := range slices.Backward(s.byKey[q.KeyHash]) {
				if n < end && !yield(n) {
					return
				}
			}
			return
		}
		for n := end - 1; n >= 0; n-- {
			if !yield(n) {
				return
			}
		}
	}
}

func matches(e ca.Entry, q ca.Query) bool {
	return (q.ID.IsZero() || e.ID == q.ID) && (q.Caller == "" || e.Caller == q.Caller) && (q.Issuer == "" || e.Issuer == q.Issuer) &&
		(q.KeyHash == [32]byte{} || e.KeyHash == q.KeyHash) &&
		(q.After.IsZero() || !e.At.Before(q.After)) && (q.Before.IsZero() || e.At.Before(q.Before)) &&
		(!q.Open || e.State == ca.StateIntended) &&
		(q.LiveAt.IsZero() || e.State == ca.StateIssued && e.NotAfter.After(q.LiveAt) && (e.Revoked == nil || e.Revoked.At.After(q.LiveAt)))
}

func (s *Store) revocationOf(e ca.Entry) *ca.Revocation {
	for _, r := range s.revoked {
		if r.Serial == e.Serial || !r.ID.IsZero() && r.ID == e.ID || r.KeyHash != [32]byte{} && r.KeyHash == e.KeyHash {
			return &r
		}
	}
	return nil
}

// Verify counts records; in memory they are always whole.
func (s *Store) Verify(ctx context.Context) (records int64, err error) {
	err = s.do(ctx, "Verify", func() error {
		records = int64(len(s.entries))
		return nil
	})
	return records, err
}

// PutToken keeps a join token.
func (s *Store) PutToken(ctx context.Context, t ca.Token) error {
	return s.do(ctx, "PutToken", func() error {
		s.tokens[t.Hash] = t
		return nil
	})
}

// TakeToken uses a join token for a key, which may take it again until it expires or a certificate of it is revoked.
func (s *Store) TakeToken(ctx context.Context, hash, key [32]byte, now time.Time) (t ca.Token, err error) {
	err = s.do(ctx, "TakeToken", func() error {
		found, fresh := s.tokens[hash]
		delete(s.tokens, hash)
		if !fresh {
			last, known := s.used[hash]
			if !known || last.key != key || key == [32]byte{} || s.revokedKey(key) {
				return ca.ErrNotFound
			}
			found = last.Token
		}
		if !now.Before(found.Expires) {
			return ca.ErrNotFound
		}
		t = found
		s.used[hash] = usedToken{found, key}
		return nil
	})
	return t, err
}

// revokedKey reports whether a certificate of the key was revoked.
func (s *Store) revokedKey(key [32]byte) bool {
	return slices.ContainsFunc(s.byKey[key], func(n int) bool {
		return slices.ContainsFunc(s.revoked, func(r ca.Revocation) bool { return r.Serial == s.entries[n].Serial })
	})
}

// Grants lists the identities of a token that was used.
func (s *Store) Grants(ctx context.Context, hash [32]byte) (ids []spiffeid.ID, err error) {
	err = s.do(ctx, "Grants", func() error {
		ids = slices.Clone(s.used[hash].IDs)
		return nil
	})
	return ids, err
}

// Revoke adds to the deny list; the same subject again replaces.
func (s *Store) Revoke(ctx context.Context, r ca.Revocation) error {
	return s.do(ctx, "Revoke", func() error {
		s.lift(r)
		s.revoked = append(s.revoked, r)
		return nil
	})
}

// Unrevoke lifts the revocation of an identity or a key.
func (s *Store) Unrevoke(ctx context.Context, r ca.Revocation) error {
	return s.do(ctx, "Unrevoke", func() error {
		if !s.lift(r) {
			return ca.ErrNotFound
		}
		return nil
	})
}

func (s *Store) lift(r ca.Revocation) bool {
	n := len(s.revoked)
	s.revoked = slices.DeleteFunc(slices.Clone(s.revoked), func(x ca.Revocation) bool {
		return x.Serial == r.Serial && x.ID == r.ID && x.KeyHash == r.KeyHash
	})
	return len(s.revoked) < n
}

// Revoked lists what is in force.
func (s *Store) Revoked(ctx context.Context, now time.Time) (list []ca.Revocation, err error) {
	err = s.do(ctx, "Revoked", func() error {
		for _, r := range s.revoked {
			if r.Until.IsZero() || r.Until.After(now) {
				list = append(list, r)
			}
		}
		return nil
	})
	return list, err
}

// Get reads a document.
func (s *Store) Get(ctx context.Context, key string) (value []byte, version int64, err error) {
	err = s.do(ctx, "Get "+key, func() error {
		d, ok := s.state[key]
		if !ok {
			return ca.ErrNotFound
		}
		value, version = bytes.Clone(d.value), d.version
		return nil
	})
	return value, version, err
}

// Put writes a document whose version still is the given one.
func (s *Store) Put(ctx context.Context, key string, value []byte, version int64) error {
	return s.do(ctx, "Put "+key, func() error {
		if s.state[key].version != version {
			return ca.ErrConflict
		}
		s.state[key] = document{bytes.Clone(value), version + 1}
		return nil
	})
}

// Documents lists the keys of all documents.
func (s *Store) Documents() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.state))
}

// Forget removes a document, as no store would: for tests of what is lost.
func (s *Store) Forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.state, key)
}

// Snapshot is a backup: the function that it returns puts everything back as it is now, once.
func (s *Store) Snapshot() (restore func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := New(s.tb)
	for _, e := range s.entries {
		copied := *e
		old.entries = append(old.entries, &copied)
	}
	for key, list := range s.byKey {
		old.byKey[key] = slices.Clone(list)
	}
	old.bySerial, old.tokens, old.used, old.state = maps.Clone(s.bySerial), maps.Clone(s.tokens), maps.Clone(s.used), maps.Clone(s.state)
	old.revoked, old.events = slices.Clone(s.revoked), slices.Clone(s.events)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.entries, s.bySerial, s.byKey, s.tokens, s.used = old.entries, old.bySerial, old.byKey, old.tokens, old.used
		s.revoked, s.state, s.events = old.revoked, old.state, old.events
	}
}

// Record adds to the audit.
func (s *Store) Record(ctx context.Context, event ca.Event) error {
	return s.do(ctx, "Record", func() error {
		if event.By == "" || event.What == "" || event.At.IsZero() {
			s.tb.Errorf("audit: event is not complete: %+v", event)
		}
		s.events = append(s.events, event)
		return nil
	})
}

// Events lists the audit, newest first.
func (s *Store) Events(ctx context.Context, after, before time.Time, limit int) (list []ca.Event, err error) {
	err = s.do(ctx, "Events", func() error {
		if limit == 0 {
			limit = 100
		}
		if limit < 0 || limit > 1000 {
			return fmt.Errorf("events: limit %d", limit)
		}
		for _, e := range slices.Backward(s.events) {
			if !e.At.Before(after) && (before.IsZero() || e.At.Before(before)) && len(list) < limit {
				list = append(list, e)
			}
		}
		return nil
	})
	return list, err
}

// Close does nothing: what is in memory goes with the store.
func (s *Store) Close() error { return nil }
