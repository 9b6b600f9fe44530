package ca_test

import (
	"crypto/x509"
	"encoding/asn1"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/writ-auth/writ/ca"
)

// TestProfile holds every field of issued certificates to the profile (identity §1.2, column "ours").
func TestProfile(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	b.profile = newProfile(t, ca.ProfileConfig{AllowP521: true, AllowEd25519: true})
	for _, kind := range []string{"P-256", "P-384", "P-521", "RSA 2048", "Ed25519"} {
		key := keyOf(t, kind)
		ap, err := ca.Approve(mustID(t, order), newCSR(t, key, order), ca.ApprovalRequest{Profile: b.profile, Caller: "test:profile"})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		issued, err := b.Issue(t.Context(), ap)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		leaf, issuer := parse(t, issued.Certificate), b.Status().Signer
		usage := x509.KeyUsageDigitalSignature
		if strings.HasPrefix(kind, "RSA") {
			usage |= x509.KeyUsageKeyEncipherment
		}
		now := b.clock.now()
		for _, c := range []struct {
			field     string
			got, want any
		}{
			{"version", leaf.Version, 3},
			{"URI names", names(leaf.URIs), order},
			{"other names", len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses), 0},
			{"subject", leaf.Subject.String(), ""},
			{"CA", leaf.BasicConstraintsValid && !leaf.IsCA, true},
			{"key usage", leaf.KeyUsage, usage},
			{"extended key usage", slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}), true},
			{"subject key identifier", len(leaf.SubjectKeyId), 20},
			{"authority key identifier", string(leaf.AuthorityKeyId), string(issuer.SubjectKeyId)},
			{"issuer", leaf.Issuer.String(), issuer.Subject.String()},
			{"not before", leaf.NotBefore, now.Add(-2 * time.Minute)},
			{"not after", leaf.NotAfter, now.Add(time.Hour)},
			{"signature", leaf.SignatureAlgorithm, x509.ECDSAWithSHA256},
			{"serial", leaf.SerialNumber.Sign() > 0 && leaf.SerialNumber.BitLen() > 64 && leaf.SerialNumber.BitLen() < 128, true},
			{"critical", critical(leaf), "2.5.29.15 2.5.29.19 2.5.29.17"},
			{"extensions", len(leaf.Extensions), 6},
		} {
			if c.got != c.want {
				t.Errorf("%s key: %s is %v, want %v", kind, c.field, c.got, c.want)
			}
		}
		if err := verify(t, issued.Chain, now); err != nil {
			t.Errorf("%s key: %v", kind, err)
		}
	}
	if n := b.store.CheckCertificates(); n != 6 { // the intermediate as well
		t.Errorf("%d certificates in the ledger, want 6", n)
	}
}

func names(uris []*url.URL) string {
	var out []string
	for _, u := range uris {
		out = append(out, u.String())
	}
	return strings.Join(out, " ")
}

func critical(c *x509.Certificate) string {
	var out []string
	for _, e := range c.Extensions {
		if e.Critical {
			out = append(out, e.Id.String())
		}
	}
	return strings.Join(out, " ")
}

// TestIssuersProfile holds root and intermediate to the profile (identity §1.2, §1.4).
func TestIssuersProfile(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	issued := b.issue(t, order, 0)
	if len(issued.Chain) != 3 {
		t.Fatalf("%d elements in the chain, want leaf, intermediate, roots", len(issued.Chain))
	}
	intermediate, root := parsePEM(t, issued.Chain[1])[0], parsePEM(t, issued.Chain[2])[0]
	for _, c := range []struct {
		name    string
		cert    *x509.Certificate
		kind    string
		life    time.Duration
		pathLen int
		zero    bool
	}{
		{"root", root, "P-384", 10 * 365 * 24 * time.Hour, -1, false},
		{"intermediate", intermediate, "P-256", 30 * 24 * time.Hour, 0, true},
	} {
		uris := names(c.cert.URIs)
		if uris != "spiffe://cluster.local" || !c.cert.IsCA || !c.cert.BasicConstraintsValid ||
			c.cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || c.cert.MaxPathLen != c.pathLen || c.cert.MaxPathLenZero != c.zero {
			t.Errorf("%s: URI %s, key usage %b, path length %d", c.name, uris, c.cert.KeyUsage, c.cert.MaxPathLen)
		}
		if c.cert.Subject.SerialNumber == "" || c.cert.Subject.CommonName == "" || len(c.cert.SubjectKeyId) != 20 {
			t.Errorf("%s: subject %s, key identifier %x", c.name, c.cert.Subject, c.cert.SubjectKeyId)
		}
		if kind := curve(c.cert); kind != c.kind {
			t.Errorf("%s: %s key, want %s", c.name, kind, c.kind)
		}
		if end := b.clock.now().Add(c.life); !c.cert.NotAfter.Equal(end) {
			t.Errorf("%s: ends at %s, want %s", c.name, c.cert.NotAfter, end)
		}
		if got := critical(c.cert); !strings.Contains(got, "2.5.29.15") || !strings.Contains(got, "2.5.29.19") {
			t.Errorf("%s: critical are %s", c.name, got)
		}
	}
	if root.Subject.String() == intermediate.Subject.String() || string(root.SubjectKeyId) == string(intermediate.SubjectKeyId) {
		t.Error("root and intermediate share a subject or a key identifier")
	}
	if other := newAuthority(t).Bundle().Roots[0].Certificate; other.Subject.String() == root.Subject.String() {
		t.Error("two roots share a subject")
	}
}

func curve(c *x509.Certificate) string {
	var spki struct {
		Algorithm struct {
			ID, Curve asn1.ObjectIdentifier
		}
		Key asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return err.Error()
	}
	return map[string]string{"1.2.840.10045.3.1.7": "P-256", "1.3.132.0.34": "P-384"}[spki.Algorithm.Curve.String()]
}

// TestChain holds the answer to identity §2.6.
func TestChain(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	issued := b.issue(t, order, 0)
	for i, element := range issued.Chain {
		if !strings.HasSuffix(element, "\n") {
			t.Errorf("element %d does not end in a newline", i)
		}
		certs := parsePEM(t, element)
		if i < len(issued.Chain)-1 && len(certs) != 1 {
			t.Errorf("element %d holds %d certificates, want one", i, len(certs))
		}
		for _, c := range certs {
			if self := c.Subject.String() == c.Issuer.String(); self != (i == len(issued.Chain)-1) {
				t.Errorf("element %d: %s: self-signed certificates are in the last element and nowhere else", i, c.Subject)
			}
		}
	}
	if last := issued.Chain[len(issued.Chain)-1]; last != string(b.Bundle().PEM) {
		t.Error("the last element is not the whole bundle")
	}
}

// TestOpenSSL verifies a certificate with openssl.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatalf("this test needs openssl on PATH: apt-get install openssl, brew install openssl, or the like: %v", err)
	}
	b := newAuthority(t, func(c *ca.Config) { c.Now = time.Now })
	issued := b.issue(t, order, 0)
	dir := t.TempDir()
	for name, content := range map[string]string{"leaf": issued.Chain[0], "between": issued.Chain[1], "roots": issued.Chain[2]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, purpose := range []string{"sslserver", "sslclient"} {
		cmd := exec.CommandContext(t.Context(), path, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "roots", "-untrusted", "between", "leaf")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("openssl verify as %s: %v\n%s", purpose, err, out)
		}
	}
}

// TestGoSPIFFE verifies a certificate with the SPIFFE project's own library.
func TestGoSPIFFE(t *testing.T) {
	t.Parallel()
	b := newAuthority(t, func(c *ca.Config) { c.Now = time.Now })
	issued := b.issue(t, order, 0)
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	bundle, err := x509bundle.Parse(td, b.Bundle().PEM)
	if err != nil {
		t.Fatal(err)
	}
	chain := parsePEM(t, issued.Chain[0]+issued.Chain[1])
	id, _, err := x509svid.Verify(chain, bundle)
	if err != nil || id.String() != order {
		t.Errorf("go-spiffe verifies %s, %v", id, err)
	}
	other := newAuthority(t, func(c *ca.Config) { c.Now = time.Now }).Bundle()
	foreign, err := x509bundle.Parse(td, other.PEM)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := x509svid.Verify(chain, foreign); err == nil {
		t.Error("go-spiffe verifies under another root")
	}
}

// TestYear2050: certificates change their time format there (RFC 5280 §4.1.2.5).
func TestYear2050(t *testing.T) {
	t.Parallel()
	cfg, store, clock := newConfig(t)
	clock.set(time.Date(2049, 12, 31, 23, 30, 0, 0, time.FixedZone("west", -3600)).Add(-time.Hour))
	a, err := ca.Init(t.Context(), cfg, ca.InitOptions{By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Authority: a, store: store, clock: clock, cfg: cfg, profile: newProfile(t, ca.ProfileConfig{})}
	for range 4 {
		issued := b.issue(t, order, 0)
		if leaf := parse(t, issued.Certificate); !leaf.NotAfter.Equal(clock.now().Add(time.Hour)) {
			t.Errorf("ends at %s, want %s and an hour", leaf.NotAfter, clock.now())
		}
		if err := verify(t, issued.Chain, clock.now()); err != nil {
			t.Error(err)
		}
		clock.advance(30 * time.Minute)
	}
}
