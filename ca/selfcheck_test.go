package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/ca"
)

// TestSelfCheck changes every byte of a certificate in turn, before the signature and after: none gets through. What is
// found before costs no signature and leaves no trace but an alarm.
func TestSelfCheck(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	csr := newCSR(t, newKey(t))
	approve := func() *ca.Approval {
		ap, err := ca.Approve(mustID(t, order), csr, ca.ApprovalRequest{
			Profile: b.profile, Caller: "test:mutation", DNSNames: []string{"a.example"}, IPAddresses: []netip.Addr{netip.IPv6Loopback()},
		})
		if err != nil {
			t.Fatal(err)
		}
		return ap
	}
	for _, afterwards := range []bool{false, true} {
		size := 1
		for at := 0; at < size; at++ {
			entries := len(b.store.Entries())
			err := b.ExamineMutated(t.Context(), approve(), func(der []byte) {
				size = len(der)
				der[at%len(der)] ^= 1 << (at % 8)
			}, afterwards)
			if !errors.Is(err, ca.ErrSelfCheck) {
				t.Errorf("byte %d changed, afterwards %v: %v", at, afterwards, err)
			}
			if !afterwards && len(b.store.Entries()) != entries {
				t.Errorf("byte %d changed: an intent was recorded", at)
			}
		}
		if size < 300 {
			t.Errorf("changed %d bytes", size)
		}
	}
	if !alarmed(b.Authority, ca.AlarmSelfCheck) {
		t.Error("no alarm")
	}
	b.issue(t, order, 0)
}

// TestIssuerKeys: every kind of key that a plugged-in authority may bring signs certificates that verify.
func TestIssuerKeys(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make func() (any, any, error)
		want x509.SignatureAlgorithm
	}{
		"P-256": {func() (any, any, error) {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			return k, k.Public(), err
		}, x509.ECDSAWithSHA256},
		"P-384": {func() (any, any, error) {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			return k, k.Public(), err
		}, x509.ECDSAWithSHA384},
		"P-521": {func() (any, any, error) {
			k, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			return k, k.Public(), err
		}, x509.ECDSAWithSHA512},
		"RSA 2048": {func() (any, any, error) {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			return k, k.Public(), err
		}, x509.SHA256WithRSA},
	} {
		f := newFiles(t)
		key, public, err := c.make()
		if err != nil {
			t.Fatal(err)
		}
		f.cert = issuerOf(t, "signer", nil, public, f.middle, f.middleKey)
		f.write(t)
		f.put(t, "ca-key.pem", keyPEM(t, key))
		b := plugIn(t, f)
		issued := b.issue(t, order, 0)
		if got := parse(t, issued.Certificate).SignatureAlgorithm; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if err := verify(t, issued.Chain, b.clock.now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(b.CRLs().List) != 1 {
			t.Errorf("%s: no CRL", name)
		}
	}
}

// TestRun renews the intermediate with nobody asking, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newAuthority(t, func(c *ca.Config) {
			c.Now, c.IntermediateLife = time.Now, time.Hour
		})
		first := b.Status().Signer
		done := make(chan error)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- b.Run(ctx) }()
		<-time.After(35 * time.Minute)
		if !b.Status().Signer.Equal(first) {
			t.Error("renewed before its last third")
		}
		<-time.After(10 * time.Minute)
		if b.Status().Signer.Equal(first) {
			t.Error("not renewed in its last third")
		}
		if err := b.store.Revoke(t.Context(), ca.Revocation{ID: mustID(t, order), By: "another replica", At: time.Now()}); err != nil {
			t.Fatal(err)
		}
		<-time.After(11 * time.Second)
		if !b.Deny().ID(order) {
			t.Error("another replica's revocation is not in force after an interval")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
