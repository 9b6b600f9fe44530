package ca_test

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// crlOf is the CRL of an issuer in a replica's set.
func crlOf(tb testing.TB, b *bench, issuer string) ca.CRL {
	tb.Helper()
	set := b.CRLs()
	if set != nil {
		for _, c := range set.List {
			if c.Issuer == issuer {
				return c
			}
		}
	}
	tb.Fatalf("%s, at %s: no CRL of issuer %s in %+v", b.cfg.Replica, b.clock.now(), issuer, set)
	return ca.CRL{}
}

// TestCRLNumberAfterRestore: RFC 5280 §5.2.3, numbers increase, also when the store has forgotten the last ones.
func TestCRLNumberAfterRestore(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]func(t *testing.T, b *bench) *bench{
		"restarted": func(t *testing.T, b *bench) *bench { return b.reopen(t) },
		"running": func(t *testing.T, b *bench) *bench {
			if err := b.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			return b
		},
	} {
		b := newAuthority(t)
		issued := b.issue(t, order, 0)
		restore := b.store.Snapshot()
		for range 5 { // all in one moment: the clock alone would not do
			if err := b.Revoke(t.Context(), ca.Revocation{ID: mustID(t, order), By: "test"}); err != nil {
				t.Fatal(err)
			}
			if err := b.Unrevoke(t.Context(), ca.Revocation{ID: mustID(t, order), By: "test"}); err != nil {
				t.Fatal(err)
			}
		}
		published := crlOf(t, b, issued.Issuer)
		restore()
		b.clock.advance(time.Millisecond)
		b = again(t, b)
		if got := crlOf(t, b, issued.Issuer); got.Number <= published.Number {
			t.Errorf("%s: CRL %d after a restore, %d was published before", name, got.Number, published.Number)
		}
		// With a clock that is set back, one more than the last.
		last := crlOf(t, b, issued.Issuer)
		b.clock.advance(-2 * time.Minute)
		if err := b.Revoke(t.Context(), ca.Revocation{Serial: issued.Serial, By: "test"}); err != nil {
			t.Fatal(err)
		}
		if got := crlOf(t, b, issued.Issuer); got.Number != last.Number+1 || got.Entries != 1 {
			t.Errorf("%s: CRL %d with %d entries after %d, and the clock was set back", name, got.Number, got.Entries, last.Number)
		}
	}
}

// pair is two replicas that share a store.
func pair(t *testing.T, change ...func(*ca.Config)) (one, two *bench) {
	t.Helper()
	one = newAuthority(t, change...)
	cfg := one.cfg
	cfg.Replica = "second"
	a, err := ca.Load(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return one, &bench{Authority: a, store: one.store, clock: one.clock, cfg: cfg, profile: one.profile}
}

// covered holds the CRLs that each replica publishes against the ledger: every issuer with a live leaf has one, which is
// its own and has not ended.
func covered(t *testing.T, issuers map[string]*x509.Certificate, replicas ...*bench) {
	t.Helper()
	for _, b := range replicas {
		seen := map[string]bool{}
		for _, e := range b.store.Entries() {
			if seen[e.Issuer] || e.State != ca.StateIssued || e.Profile == "intermediate" || !b.clock.now().Before(e.NotAfter) {
				continue
			}
			seen[e.Issuer] = true
			crl := crlOf(t, b, e.Issuer)
			list, err := x509.ParseRevocationList(crl.DER)
			if err != nil || list.CheckSignatureFrom(issuers[e.Issuer]) != nil || !b.clock.now().Before(list.NextUpdate) {
				t.Fatalf("%s, at %s: CRL of %s: until %s, %v", b.cfg.Replica, b.clock.now(), e.Issuer, crl.NextUpdate, err)
			}
		}
	}
}

// TestCRLBeforeLeaf: whoever has what a replica published a moment ago has a CRL for every leaf there is, while
// intermediates are renewed and roots rotate (identity §9).
func TestCRLBeforeLeaf(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	issuers := map[string]*x509.Certificate{}
	signed := map[string]bool{}
	tick := func() {
		t.Helper()
		one.clock.advance(10 * time.Second)
		for _, b := range []*bench{two, one} {
			if err := b.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			issued := b.issue(t, order, 0)
			issuers[issued.Issuer] = parsePEM(t, issued.Chain[1])[0]
			signed[issued.Issuer] = true
			covered(t, issuers, one, two)
		}
	}
	ticks := func(n int) {
		for range n {
			tick()
		}
	}
	if err := one.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	ticks(2)
	// The intermediates come to their last third.
	one.clock.advance(20*24*time.Hour + time.Minute)
	for _, b := range []*bench{one, two, one} { // the first again, for the CRL that the second has made
		if err := b.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ticks(5)
	if len(signed) != 4 {
		t.Errorf("%d issuers, want two of each replica", len(signed))
	}
	for _, step := range []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate, ca.StepRollback, ca.StepActivate, ca.StepTaint} {
		if err := one.Rotate(t.Context(), step, ca.StepOptions{By: "test", Override: true}); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		ticks(4)
	}
	if len(signed) != 6 {
		t.Errorf("%d issuers, want two of each replica under the old root and one under the new", len(signed))
	}
	one.clock.advance(time.Hour)
	if err := one.Rotate(t.Context(), ca.StepRevoke, ca.StepOptions{By: "test", Override: true}); err != nil {
		t.Fatal(err)
	}
	ticks(4)
	if n := len(one.CRLs().List); n != 2 {
		t.Errorf("%d CRLs after the old root went, want those of two issuers", n)
	}
}

// TestCRLOfLostReplica: a replica that is gone leaves leaves behind, and another keeps its CRL.
func TestCRLOfLostReplica(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	lost := two.issue(t, order, 24*3600)
	issuers := map[string]*x509.Certificate{lost.Issuer: parsePEM(t, lost.Chain[1])[0]}
	maintain := func(d time.Duration) {
		t.Helper()
		one.clock.advance(d)
		if err := one.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	maintain(time.Second)
	first := crlOf(t, one, lost.Issuer)
	if err := one.Revoke(t.Context(), ca.Revocation{Serial: lost.Serial, By: "test"}); err != nil {
		t.Fatal(err)
	}
	maintain(10 * time.Second)
	if got := crlOf(t, one, lost.Issuer); got.Number != first.Number {
		t.Errorf("CRL %d of the other replica, which was not given time to make it", got.Number)
	}
	maintain(2 * time.Minute)
	if got := crlOf(t, one, lost.Issuer); got.Number <= first.Number || got.Entries != 1 {
		t.Errorf("CRL %d with %d entries in place of the replica that is gone, after %d", got.Number, got.Entries, first.Number)
	}
	for range 20 {
		maintain(time.Hour)
		maintain(2 * time.Minute)
		covered(t, issuers, one)
	}
	if alarmed(one.Authority, ca.AlarmCRL) {
		t.Errorf("alarms %v", one.Status().Alarms)
	}
	// It comes back, and numbers go on from there.
	before := crlOf(t, one, lost.Issuer)
	back := two.reopen(t)
	if got := crlOf(t, back, lost.Issuer); got.Number <= before.Number {
		t.Errorf("CRL %d after %d", got.Number, before.Number)
	}
}

// watched is a store that tells when an outcome is about to be recorded.
type watched struct {
	ca.Store
	finish func()
}

func (w *watched) Finish(ctx context.Context, o ca.Outcome) error {
	if w.finish != nil {
		w.finish()
	}
	return w.Store.Finish(ctx, o)
}

// TestRevokedMeanwhile: once Revoke has returned, not even a certificate that was under way is handed out, and the CRL
// lists it.
func TestRevokedMeanwhile(t *testing.T) {
	t.Parallel()
	store := &watched{}
	b := newAuthority(t, func(c *ca.Config) { store.Store, c.Store = c.Store, store })
	store.finish = func() {
		store.finish = nil
		if err := b.Revoke(t.Context(), ca.Revocation{ID: mustID(t, order), By: "test"}); err != nil {
			t.Error(err)
		}
	}
	if issued, err := b.Issue(t.Context(), b.approve(t, order, 0)); !errors.Is(err, ca.ErrRevoked) || issued != nil {
		t.Errorf("issued %v, %v", issued, err)
	}
	b.clock.advance(time.Second)
	if err := b.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := revokedSerials(t, b); len(got) != 1 {
		t.Errorf("the CRL lists %v, want the certificate that was under way", got)
	}
}

// TestCRLDeviceHangs: a device that does not answer holds up neither the authority nor what operators ask of it; what was
// published stays.
func TestCRLDeviceHangs(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	key := &stubborn{PrivateKey: f.key}
	b := plugIn(t, f, func(c *ca.Config) { c.PluggedKey = key })
	issued, before := b.issue(t, order, 0), b.CRLs()
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	key.set(func([]byte) ([]byte, error) {
		cancel()
		<-release
		return nil, errDisk
	})
	err := b.Revoke(ctx, ca.Revocation{Serial: issued.Serial, By: "test"})
	if err == nil || !b.Deny().Serial(issued.Serial) || b.CRLs() != before || !alarmed(b.Authority, ca.AlarmCRL) {
		t.Errorf("%v, denied %v, alarms %v", err, b.Deny().Serial(issued.Serial), b.Status().Alarms)
	}
	key.set(nil)
	if err := b.Maintain(t.Context()); err != nil || !has(revokedSerials(t, b), issued.Serial) {
		t.Errorf("%v, the CRL lists %v", err, revokedSerials(t, b))
	}
}

// TestCRLWithoutSignature: a plugged-in issuer that may not sign CRLs ends the whole set, which would have its leaves
// refused; another one brings it back once no leaf of the first is left.
func TestCRLWithoutSignature(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	b := plugIn(t, f)
	b.issue(t, order, 0)
	if b.CRLs() == nil || len(b.CRLs().List) != 1 {
		t.Fatalf("CRLs %+v", b.CRLs())
	}
	next := func(name string, usage x509.KeyUsage) {
		t.Helper()
		f.key = newKey(t)
		f.cert = issuerOf(t, name, func(c *x509.Certificate) { c.KeyUsage = usage }, f.key.Public(), f.middle, f.middleKey)
		f.write(t)
		if err := b.Reload(t.Context(), ca.StepOptions{By: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	next("mute", x509.KeyUsageCertSign)
	b.issue(t, order, 0)
	if b.CRLs() != nil || !alarmed(b.Authority, ca.AlarmCRL) {
		t.Errorf("CRLs %+v although the issuer has none, alarms %v", b.CRLs(), b.Status().Alarms)
	}
	next("able", x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
	if b.CRLs() != nil {
		t.Error("CRLs while leaves of an issuer without one are live")
	}
	b.clock.advance(2 * time.Hour)
	if err := b.Maintain(t.Context()); err != nil || b.CRLs() == nil || len(b.CRLs().List) != 2 || alarmed(b.Authority, ca.AlarmCRL) {
		t.Errorf("CRLs %+v, %v, alarms %v", b.CRLs(), err, b.Status().Alarms)
	}
	if strings.Count(string(b.CRLs().PEM), "BEGIN X509 CRL") != 2 {
		t.Errorf("PEM %s", b.CRLs().PEM)
	}
}
