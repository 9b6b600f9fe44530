package ca_test

import (
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// TestPluggedRootDropped: the three steps of replacing a root. The last is refused while a leaf of any earlier signer
// leads to the old root alone, and not for what the authority's own server shows.
func TestPluggedRootDropped(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	b := plugIn(t, f)
	b.showing(t)
	b.issue(t, order, 0)
	by, oldRoot := ca.StepOptions{By: "test"}, f.root
	// Both roots, then a signer under the new one, which leaves the old signer without a file.
	next := newFiles(t)
	next.dir = f.dir
	f.put(t, "root-cert.pem", pemOf(oldRoot, next.root))
	if err := b.Reload(t.Context(), by); err != nil {
		t.Fatal(err)
	}
	next.write(t)
	next.put(t, "root-cert.pem", pemOf(oldRoot, next.root))
	if err := b.Reload(t.Context(), by); err != nil {
		t.Fatal(err)
	}
	// A reload that changes nothing about the signer forgets none before it.
	if err := b.Reload(t.Context(), by); err != nil || len(b.CRLs().List) != 2 {
		t.Fatalf("%d CRLs, %v", len(b.CRLs().List), err)
	}
	b.clock.advance(20 * time.Minute)
	next.put(t, "root-cert.pem", pemOf(next.root))
	var dependents *ca.DependentsError
	if err := b.Reload(t.Context(), by); !errors.As(err, &dependents) || len(dependents.Dependents) != 1 || dependents.Dependents[0].Name != order {
		t.Errorf("the old root went although a certificate leads to it alone: %v", err)
	}
	if n := len(b.Bundle().Roots); n != 2 || !alarmed(b.Authority, ca.AlarmReload) {
		t.Errorf("%d roots, alarms %v", n, b.Status().Alarms)
	}
	// Hours later the old signer's CRL is renewed still.
	b.clock.advance(41 * time.Minute)
	if err := b.Revoke(t.Context(), ca.Revocation{ID: mustID(t, order), By: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := revokedSerials(t, b); len(got) != 1 {
		t.Errorf("the CRLs list %v", got)
	}
	if err := b.Reload(t.Context(), by); err != nil || len(b.Bundle().Roots) != 1 {
		t.Errorf("after the last certificate ended: %v", err)
	}
}

// TestPluggedChainChanges: other issuers above the same signer are taken up.
func TestPluggedChainChanges(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	b := plugIn(t, f)
	f.middle = issuerOf(t, "policy", func(c *x509.Certificate) {
		c.NotAfter = c.NotAfter.Add(time.Hour)
		c.SubjectKeyId = f.middle.SubjectKeyId
	}, f.middleKey.Public(), f.root, f.rootKey)
	f.write(t)
	if err := b.Reload(t.Context(), ca.StepOptions{By: "test"}); err != nil {
		t.Fatal(err)
	}
	if got := parsePEM(t, b.issue(t, order, 0).Chain[2])[0]; !got.Equal(f.middle) {
		t.Errorf("the chain has the policy CA until %s", got.NotAfter)
	}
}
