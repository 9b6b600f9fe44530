package ca_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// TestSurprises are the rows of identity §11 that concern what is issued. Rows 5, 6, 7 are also in TestRequestNames, 10,
// 11 and 12 in TestLifetime, 35 in TestDevice.
func TestSurprises(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	issued := b.issue(t, order, 0)
	t.Run("surprise 1: at least two elements", func(t *testing.T) {
		t.Parallel()
		if len(issued.Chain) < 2 {
			t.Errorf("%d elements", len(issued.Chain))
		}
	})
	t.Run("surprise 3: old and new root during a rotation", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		b.step(t, ca.StepPrepare)
		for _, c := range []struct {
			step  ca.Step
			roots int
		}{{ca.StepDistribute, 2}, {ca.StepActivate, 2}, {ca.StepTaint, 2}, {ca.StepRevoke, 1}} {
			if c.step == ca.StepRevoke {
				b.clock.advance(2 * time.Hour)
			}
			b.step(t, c.step)
			chain := b.issue(t, order, 0).Chain
			if n := len(parsePEM(t, chain[len(chain)-1])); n != c.roots {
				t.Errorf("after %s: %d roots in the answer, want %d", c.step, n, c.roots)
			}
			if err := verify(t, chain, b.clock.now()); err != nil {
				t.Errorf("after %s: %v", c.step, err)
			}
			b.clock.advance(time.Hour) // the next step finds no one who has not come back
		}
	})
	t.Run("surprise 7: exactly one URI", func(t *testing.T) {
		t.Parallel()
		if n := len(parse(t, issued.Certificate).URIs); n != 1 {
			t.Errorf("%d URIs", n)
		}
	})
	t.Run("surprise 16: no new version without a change", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		before := b.Bundle()
		for range 3 {
			b.clock.advance(11 * 24 * time.Hour) // the intermediate is renewed meanwhile
			if err := b.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if after := b.Bundle(); after.Version != before.Version || !bytes.Equal(after.PEM, before.PEM) {
			t.Errorf("bundle %d after %d", after.Version, before.Version)
		}
	})
	t.Run("surprise 17: a CRL for each issuer", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		b.clock.advance(21 * 24 * time.Hour)
		if err := b.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(b.CRLs().List); n != 2 {
			t.Errorf("%d CRLs, want those of the new intermediate and of the old one, which has not ended", n)
		}
	})
	t.Run("surprise 20: many roots", func(t *testing.T) {
		t.Parallel()
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		for range 25 { // each authority's root has its own subject and key identifier, so one candidate is tried
			roots.AddCert(newAuthority(t).Bundle().Roots[0].Certificate)
		}
		roots.AddCert(b.Bundle().Roots[0].Certificate)
		between.AddCert(parsePEM(t, issued.Chain[1])[0])
		if _, err := parse(t, issued.Certificate).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: b.clock.now()}); err != nil {
			t.Error(err)
		}
	})
	t.Run("surprise 21: a new root has a new key", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		b.step(t, ca.StepPrepare)
		b.step(t, ca.StepDistribute)
		r := b.Bundle().Roots
		if bytes.Equal(r[0].Certificate.RawSubjectPublicKeyInfo, r[1].Certificate.RawSubjectPublicKeyInfo) ||
			bytes.Equal(r[0].Certificate.RawSubject, r[1].Certificate.RawSubject) {
			t.Error("the new root has the old one's key or subject")
		}
		if err := r[0].Certificate.CheckSignatureFrom(r[1].Certificate); err == nil {
			t.Error("the new root verifies what the old one signed")
		}
	})
	t.Run("surprise 29: trust domains that Go cannot parse", func(t *testing.T) {
		t.Parallel()
		for _, td := range []string{"corp.", "a..b", ".a"} {
			if _, err := spiffeid.TrustDomain(td); err == nil {
				t.Errorf("%q is a trust domain", td)
			}
		}
	})
}

// TestStatus shows what an operator sees.
func TestStatus(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	s := b.Status()
	if s.TrustDomain != "cluster.local" || s.Replica != "main" || s.Signer == nil || len(s.Roots) != 1 || s.Roots[0].State != ca.RootActive ||
		s.Roots[0].Offline || len(s.CRLs) != 1 || s.Bundle.Version != 1 || len(s.Alarms) != 0 {
		t.Errorf("status %+v", s)
	}
	if err := b.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Ready(cancelled(t)); !errors.Is(err, ca.ErrNotReady) {
		t.Errorf("ready although the store does not answer: %v", err)
	}
	b.clock.advance(10 * 365 * 24 * time.Hour / 100 * 95)
	if err := b.Maintain(t.Context()); err != nil || !alarmed(b.Authority, ca.AlarmRootEnds) {
		t.Errorf("the root ends soon: %v, alarms %v", err, b.Status().Alarms)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good, _, _ := newConfig(t)
	for name, change := range map[string]func(*ca.Config){
		"no trust domain":       func(c *ca.Config) { c.TrustDomain = spiffeid.ID{} },
		"a workload":            func(c *ca.Config) { c.TrustDomain = mustID(t, order) },
		"no store":              func(c *ca.Config) { c.Store = nil },
		"no keyring":            func(c *ca.Config) { c.Keys = nil },
		"a replica with spaces": func(c *ca.Config) { c.Replica = "a b" },
		"a negative life":       func(c *ca.Config) { c.RootLife = -time.Hour },
		"a short life":          func(c *ca.Config) { c.IntermediateLife = time.Second },
		"upside down":           func(c *ca.Config) { c.RootLife, c.IntermediateLife = time.Hour, 2*time.Hour },
	} {
		c := good
		change(&c)
		if _, err := ca.Init(t.Context(), c, by); err == nil {
			t.Errorf("init with %s", name)
		}
	}
	if _, err := ca.Init(t.Context(), good, ca.InitOptions{}); err == nil {
		t.Error("init by nobody")
	}
}

func TestSerial(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"1": "00000000000000000000000000000001", "0A:ff": "00000000000000000000000000000aff",
		"7fffffffffffffffffffffffffffffff": "7fffffffffffffffffffffffffffffff",
	} {
		s, err := ca.ParseSerial(text)
		if err != nil || s.String() != want {
			t.Errorf("%s is %s, %v", text, s, err)
		}
		if again, ok := ca.SerialOf(s.Int()); !ok || again != s {
			t.Errorf("%s comes back as %s", s, again)
		}
	}
	for _, text := range []string{"", "0", "x", "80000000000000000000000000000000", strings.Repeat("1", 33), "-1"} {
		if s, err := ca.ParseSerial(text); err == nil {
			t.Errorf("%q is %s", text, s)
		}
	}
}
