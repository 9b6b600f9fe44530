package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

var errDisk = errors.New("disk full")

// TestFaults makes every call of the store fail, without effect and with: nothing is handed out that is not recorded,
// every intent stays visible, and the authority goes on once the store does.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op    string
		fault memstore.Fault
		state string // of the entry that is left, "" = none
	}{
		{"Begin", memstore.Fault{Before: errDisk}, ""},
		{"Begin", memstore.Fault{After: errDisk}, ca.StateIntended},
		{"Finish", memstore.Fault{Before: errDisk}, ca.StateIntended},
		{"Finish", memstore.Fault{After: errDisk}, ca.StateIssued},
	} {
		b := newAuthority(t)
		before := len(b.store.Entries())
		ap := b.approve(t, order, 0)
		b.store.Inject(func(op string) memstore.Fault {
			if op == c.op {
				return c.fault
			}
			return memstore.Fault{}
		})
		issued, err := b.Issue(t.Context(), ap)
		if !errors.Is(err, errDisk) || issued != nil {
			t.Errorf("%s %+v: issued %v, %v", c.op, c.fault, issued, err)
		}
		b.store.Inject(nil)
		var states []string
		for _, e := range b.store.Entries()[before:] {
			states = append(states, e.State)
		}
		if got := strings.Join(states, " "); got != c.state {
			t.Errorf("%s %+v: the ledger has %q, want %q", c.op, c.fault, got, c.state)
		}
		if _, err := b.Issue(t.Context(), ap); !errors.Is(err, ca.ErrRedeemed) {
			t.Errorf("%s %+v: the approval works again: %v", c.op, c.fault, err)
		}
		b.issue(t, order, 0)
		b.store.CheckCertificates()
		if c.op == "Finish" != alarmed(b.Authority, ca.AlarmLedger) {
			t.Errorf("%s %+v: alarms %v", c.op, c.fault, b.Status().Alarms)
		}
	}
}

// TestSerialTaken: a serial number that the ledger knows is drawn again, a few times.
func TestSerialTaken(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	for _, c := range []struct {
		taken int
		ok    bool
	}{{1, true}, {2, true}, {3, false}} {
		left := c.taken
		b.store.Inject(func(op string) memstore.Fault {
			if op == "Begin" && left > 0 {
				left--
				return memstore.Fault{Before: ca.ErrSerialExists}
			}
			return memstore.Fault{}
		})
		if _, err := b.Issue(t.Context(), b.approve(t, order, 0)); (err == nil) != c.ok {
			t.Errorf("%d taken: %v", c.taken, err)
		}
	}
}

// TestCallerGone: the outcome of a signature is recorded even if nobody waits for it.
func TestCallerGone(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.store.Inject(func(op string) memstore.Fault {
		if op == "Begin" {
			cancel()
		}
		return memstore.Fault{}
	})
	if _, err := b.Issue(ctx, b.approve(t, order, 0)); err != nil {
		t.Fatal(err)
	}
	entries := b.store.Entries()
	if last := entries[len(entries)-1]; last.State != ca.StateIssued {
		t.Errorf("the outcome is %s", last.State)
	}
	if _, err := b.Issue(cancelled(t), b.approve(t, order, 0)); err == nil {
		t.Error("issued for a caller that had gone before")
	}
}

func TestApprovalWorksOnce(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	ap := b.approve(t, order, 0)
	var wg sync.WaitGroup
	results := make(chan error, 16)
	for range cap(results) {
		wg.Go(func() {
			_, err := b.Issue(t.Context(), ap)
			results <- err
		})
	}
	wg.Wait()
	close(results)
	issued := 0
	for err := range results {
		if err == nil {
			issued++
		} else if !errors.Is(err, ca.ErrRedeemed) {
			t.Error(err)
		}
	}
	if issued != 1 {
		t.Errorf("issued %d times", issued)
	}
}

// TestKeyReuse: a key belongs to the identity that it was first certified for, and an authority's key to nobody.
func TestKeyReuse(t *testing.T) {
	t.Parallel()
	blocked := newKey(t)
	hash, err := ca.KeyHash(blocked.Public())
	if err != nil {
		t.Fatal(err)
	}
	b := newAuthority(t, func(c *ca.Config) { c.BlockedKeys = [][32]byte{hash} })
	const payment = "spiffe://cluster.local/ns/coffee-shop/sa/payment"
	try := func(key crypto.Signer, id string) error {
		ap, err := ca.Approve(mustID(t, id), newCSR(t, key), ca.ApprovalRequest{Profile: b.profile, Caller: "test:reuse"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.Issue(t.Context(), ap)
		return err
	}
	key := newKey(t)
	for _, c := range []struct {
		name string
		key  crypto.Signer
		id   string
		want ca.Reason
	}{
		{"first", key, order, ""},
		{"renewal with the same key", key, order, ""},
		{"another identity", key, payment, ca.ReasonKeyReused},
		{"the first again", key, order, ""},
		{"blocked", blocked, order, ca.ReasonKeyBlocked},
	} {
		err := try(c.key, c.id)
		var refused *ca.CSRError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &refused) || refused.Reason != c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// Many identities ask for one key at the same moment: one gets it.
	contested := newKey(t)
	results := make(chan error, 32)
	var wg sync.WaitGroup
	for i := range cap(results) {
		wg.Go(func() { results <- try(contested, order+"-"+string(rune('a'+i%8))) })
	}
	wg.Wait()
	owners := map[string]bool{}
	for _, e := range b.store.Entries() {
		if hash, err := ca.KeyHash(contested.Public()); err != nil || e.KeyHash == hash {
			owners[e.ID.String()] = true
		}
	}
	if len(owners) != 1 {
		t.Errorf("%d identities have the key", len(owners))
	}
}

// stubborn is a key in a device that answers when it is told to, or wrongly.
type stubborn struct {
	*ecdsa.PrivateKey

	mu     sync.Mutex
	answer func(sum []byte) ([]byte, error)
}

func (s *stubborn) Sign(rand io.Reader, sum []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		return answer(sum)
	}
	return s.PrivateKey.Sign(rand, sum, opts)
}

func (s *stubborn) set(f func(sum []byte) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// TestDevice: a device that fails, hangs or signs something else costs the caller an error, and the ledger knows.
func TestDevice(t *testing.T) {
	t.Parallel()
	files := newFiles(t)
	key := &stubborn{PrivateKey: files.key}
	b := plugIn(t, files, func(c *ca.Config) { c.PluggedKey = key })
	b.issue(t, order, 0)

	release := make(chan struct{})
	for _, c := range []struct {
		name   string
		answer func([]byte) ([]byte, error)
		want   error
		gone   bool
	}{
		{"fails", func([]byte) ([]byte, error) { return nil, errDisk }, ca.ErrNotReady, false},
		{"signs something else", func([]byte) ([]byte, error) { return ecdsa.SignASN1(nil, files.key, make([]byte, 32)) }, ca.ErrSelfCheck, false},
		{"answers garbage", func([]byte) ([]byte, error) { return []byte("signature"), nil }, ca.ErrSelfCheck, false},
		{"signs with another key", func(sum []byte) ([]byte, error) { return ecdsa.SignASN1(nil, newKey(t), sum) }, ca.ErrSelfCheck, false},
		{"surprise 35: hangs", func([]byte) ([]byte, error) { <-release; return nil, errDisk }, ca.ErrNotReady, true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		answer := c.answer
		key.set(func(sum []byte) ([]byte, error) {
			if c.gone {
				cancel()
			}
			return answer(sum)
		})
		if _, err := b.Issue(ctx, b.approve(t, order, 0)); !errors.Is(err, c.want) {
			t.Errorf("a device that %s: %v, want %v", c.name, err, c.want)
		}
		cancel()
		entries := b.store.Entries()
		if last := entries[len(entries)-1]; last.State != ca.StateFailed || last.Failure == "" {
			t.Errorf("a device that %s: the ledger has %s", c.name, last.State)
		}
	}
	close(release)
	if !alarmed(b.Authority, ca.AlarmSelfCheck) {
		t.Errorf("alarms %v", b.Status().Alarms)
	}
	key.set(nil)
	b.issue(t, order, 0)
	b.store.CheckCertificates()
}

// TestManyCallers is for the race detector, and counts.
func TestManyCallers(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	var wg sync.WaitGroup
	approvals := make([]*ca.Approval, 200)
	for i := range approvals {
		approvals[i] = b.approve(t, order, 0)
	}
	for i, ap := range approvals {
		wg.Go(func() {
			if _, err := b.Issue(t.Context(), ap); err != nil {
				t.Error(err)
			}
			if i%50 == 0 {
				if err := b.Maintain(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := b.store.CheckCertificates(); n != 201 {
		t.Errorf("%d certificates in the ledger, want 200 and the intermediate", n)
	}
	var serials []string
	for _, e := range b.store.Entries() {
		serials = append(serials, e.Serial.String())
	}
	slices.Sort(serials)
	if len(slices.Compact(serials)) != 201 {
		t.Error("a serial number was used twice")
	}
}
