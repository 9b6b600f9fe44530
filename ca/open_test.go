package ca_test

import (
	"crypto/rand"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// cutShort leaves an intent without an outcome, as a crash does.
func (b *bench) cutShort(tb testing.TB, id string) ca.Entry {
	tb.Helper()
	b.store.Inject(func(op string) memstore.Fault {
		if op == "Finish" {
			return memstore.Fault{Before: errDisk}
		}
		return memstore.Fault{}
	})
	issued, err := b.Issue(tb.Context(), b.approve(tb, id, 0))
	b.store.Inject(nil)
	if err == nil {
		tb.Fatalf("issued %+v without an outcome", issued)
	}
	entries := b.store.Entries()
	return entries[len(entries)-1]
}

func (b *bench) entry(tb testing.TB, s ca.Serial) ca.Entry {
	tb.Helper()
	entries, _, err := b.store.Find(tb.Context(), ca.Query{Serial: s})
	if err != nil || len(entries) != 1 {
		tb.Fatalf("%s: %v, %v", s, entries, err)
	}
	return entries[0]
}

// TestCutShort: what a crash leaves between intent and outcome is ended as failed, by the next start or the running
// authority, not before somebody could still be at it; its serial number and its key stay taken.
func TestCutShort(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(b *bench) (*ca.Authority, error){
		"restarted": func(b *bench) (*ca.Authority, error) { return ca.Load(t.Context(), b.cfg) },
		"running":   func(b *bench) (*ca.Authority, error) { return b.Authority, b.Maintain(t.Context()) },
		"another replica": func(b *bench) (*ca.Authority, error) {
			cfg := b.cfg
			cfg.Replica = "second"
			return ca.Load(t.Context(), cfg)
		},
	} {
		b := newAuthority(t)
		cut := b.cutShort(t, order)
		b.clock.advance(9 * time.Minute)
		if _, err := again(b); err != nil {
			t.Fatal(err)
		}
		if e := b.entry(t, cut.Serial); e.State != ca.StateIntended {
			t.Errorf("%s: %s after nine minutes", name, e.State)
		}
		b.clock.advance(2 * time.Minute)
		a, err := again(b)
		if err != nil {
			t.Fatal(err)
		}
		if e := b.entry(t, cut.Serial); e.State != ca.StateFailed || !strings.Contains(e.Failure, "cut short") || len(e.Certificate) != 0 {
			t.Errorf("%s: %s, %q", name, e.State, e.Failure)
		}
		if err := b.store.Begin(t.Context(), ca.Intent{
			Serial: newSerial(t), ID: mustID(t, order+"-other"), Issuer: "x", Caller: "x", Profile: "x", TTLRule: "x", KeyHash: cut.KeyHash,
			NotBefore: b.clock.now(), NotAfter: b.clock.now().Add(time.Hour), At: b.clock.now(),
		}); !errors.Is(err, ca.ErrKeyInUse) {
			t.Errorf("%s: another identity has the key: %v", name, err)
		}
		if err := b.store.Finish(t.Context(), ca.Outcome{Serial: cut.Serial, Failure: "late", At: b.clock.now()}); !errors.Is(err, ca.ErrConflict) {
			t.Errorf("%s: a late outcome: %v", name, err)
		}
		if got := a.Status(); len(got.Alarms) != 0 && name != "running" {
			t.Errorf("%s: alarms %v", name, got.Alarms)
		}
		b.issue(t, order, 0)
	}
}

// TestCutShortStoreDown: what cannot be ended now holds up nothing, and is ended later.
func TestCutShortStoreDown(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	cut := b.cutShort(t, order)
	b.clock.advance(30 * time.Minute)
	b.store.Inject(func(op string) memstore.Fault {
		if op == "Finish" {
			return memstore.Fault{Before: errDisk}
		}
		return memstore.Fault{}
	})
	a, err := ca.Load(t.Context(), b.cfg)
	b.store.Inject(nil)
	if err != nil || !alarmed(a, ca.AlarmLedger) {
		t.Fatalf("%v, alarms %v", err, a.Status().Alarms)
	}
	if err := a.Maintain(t.Context()); err != nil || b.entry(t, cut.Serial).State != ca.StateFailed {
		t.Errorf("%v, %s", err, b.entry(t, cut.Serial).State)
	}
}

// TestCutShortIntermediate: an intermediate without a key is nobody's, one with a key is completed, and that of another
// replica is left alone.
func TestCutShortIntermediate(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	// Both come to renew, and crash before and after the key is kept.
	one.clock.advance(21 * 24 * time.Hour)
	fail := func(b *bench, at string) ca.Serial {
		t.Helper()
		before := len(b.store.Entries())
		b.store.Inject(func(op string) memstore.Fault {
			if strings.HasPrefix(op, at) || op == "Finish" {
				return memstore.Fault{Before: errDisk}
			}
			return memstore.Fault{}
		})
		_ = b.Maintain(t.Context()) // it fails, or not: the old intermediate is still good
		b.store.Inject(nil)
		if entries := b.store.Entries(); len(entries) == before+1 && entries[before].State == ca.StateIntended {
			return entries[before].Serial
		}
		t.Fatalf("no intent was left by a fault at %s", at)
		return ca.Serial{}
	}
	noKey, kept := fail(one, "Put ca/signer/"), fail(two, "Put ca/issuers")
	one.clock.advance(time.Hour)
	one = one.reopen(t)
	if e := one.entry(t, noKey); e.State != ca.StateFailed {
		t.Errorf("without a key: %s", e.State)
	}
	if e := one.entry(t, kept); e.State != ca.StateIntended {
		t.Errorf("of the other replica: %s", e.State)
	}
	two = two.reopen(t)
	if e := two.entry(t, kept); e.State != ca.StateIssued {
		t.Errorf("with a key: %s", e.State)
	}
	one.issue(t, order, 0)
	two.issue(t, order, 0)
}

// TestOneKeyTwoReplicas: of two replicas that are asked for one key and two identities at once, one issues.
func TestOneKeyTwoReplicas(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	for range 20 {
		key := newKey(t)
		results := make(chan error, 2)
		for id, b := range map[string]*bench{order + "-one": one, order + "-two": two} {
			ap, err := ca.Approve(mustID(t, id), newCSR(t, key), ca.ApprovalRequest{Profile: b.profile, Caller: "test:" + id})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := b.Issue(t.Context(), ap)
				results <- err
			}()
		}
		first, second := <-results, <-results
		if (first == nil) == (second == nil) {
			t.Fatalf("%v, %v", first, second)
		}
		refused, ok := errors.AsType[*ca.CSRError](errors.Join(first, second))
		if !ok || refused.Reason != ca.ReasonKeyReused {
			t.Errorf("%v, %v", first, second)
		}
	}
	one.store.CheckCertificates()
}

// newSerial is a serial number that nobody has.
func newSerial(tb testing.TB) ca.Serial {
	tb.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	s, ok := ca.SerialOf(n)
	if err != nil || !ok {
		tb.Fatalf("serial number %v: %v", n, err)
	}
	return s
}
