package pilotagent_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

const (
	order = "spiffe://" + built.TrustDomain + "/ns/coffee-shop/sa/order"
	// life of a certificate.
	life = 20 * time.Second
	// patience is for what takes no time by itself, on a busy machine.
	patience = 60 * time.Second
)

// TestFiles is recipe B of identity §3.3: pilot-agent gets a certificate for its service account token, and keeps three
// files fresh; a second root that the authority publishes comes with the next renewal.
func TestFiles(t *testing.T) {
	a := built.Start(t, life)
	began := time.Now()
	g := start(t, a, t.TempDir(), a.Issuer.Token(t, "coffee-shop", "order"))
	leaf := g.first()
	t.Logf("a certificate after %v", time.Since(began).Round(100*time.Millisecond))
	for range 3 {
		leaf = g.renewed(leaf)
	}
	a.RotateWithin("prepare", patience)
	a.RotateWithin("distribute", patience)
	g.renewed(leaf)
	g.until(patience, "second root in root-cert.pem", func() error {
		if _, roots := g.fresh(); len(roots) != 2 {
			return fmt.Errorf("%d roots", len(roots))
		}
		return nil
	})
	g.process.Stop()
	a.Stop()
	calls := a.Calls()
	for _, c := range calls {
		if c.Outcome != "issued" || c.ID != order || c.Cluster != "c1" || c.Caller.Method != "oidc" {
			t.Errorf("the authority saw %+v", c)
		}
	}
	t.Logf("%d certificates in %v", len(calls), time.Since(began).Round(time.Second))
}

// TestRenewalByCertificate is recipe D: a machine that came in by a join token renews by the certificate in its own
// files, and has no token any more.
func TestRenewalByCertificate(t *testing.T) {
	a := built.Start(t, life)
	a.Do("token", "create", "-c", "writ.yaml", "--id", order, "--out", "token")
	a.Do("cert", "request", "--authority", a.Address, "--bundle", "state/bundle.pem", "--token-file", "token", "--out", "order")
	certs := t.TempDir()
	for from, to := range map[string]string{"key.pem": "key.pem", "cert.pem": "cert-chain.pem", "bundle.pem": "root-cert.pem"} {
		write(t, filepath.Join(certs, to), a.Read(filepath.Join("order", from)))
	}
	g := start(t, a, certs, "", "PROV_CERT="+certs)
	leaf, _ := g.fresh()
	for range 3 {
		leaf = g.renewed(leaf)
	}
	g.process.Stop()
	a.Stop()
	calls := a.Calls()
	if len(calls) < 4 || calls[0].Caller.Method != "join_token" {
		t.Fatalf("the authority saw %+v, want one call by join token and three after it", calls)
	}
	for _, c := range calls[1:] {
		// The agent keeps its connection, which was proven by a certificate that has ended by the third renewal. It is
		// refused, connects anew by the certificate in its files, and has the next one half a second later. Certificates
		// of an hour do not come to that: the authority ends connections that are idle for a quarter of it.
		if c.Reason == "certificate_expired" {
			continue
		}
		if c.Outcome != "issued" || c.ID != order || c.Caller.Method != "client_cert" {
			t.Errorf("the authority saw %+v", c)
		}
	}
}
