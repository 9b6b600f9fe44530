package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"
)

// goodLeaf is a template that lint has nothing to say about.
func goodLeaf(t *testing.T) *x509.Certificate {
	t.Helper()
	return &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(1), 120), NotBefore: time.Unix(1785585600, 0), NotAfter: time.Unix(1785589200, 0),
		URIs: []*url.URL{parseURL(t, orderID)}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, SubjectKeyId: []byte("subject"),
	}
}

func parseURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// certify signs a template with the key of an issuer, whose certificate is returned as well.
func certify(t *testing.T, template *x509.Certificate, public crypto.PublicKey) (leaf, issuer *x509.Certificate) {
	t.Helper()
	key := newECDSA(t, elliptic.P256())
	parent := &x509.Certificate{
		SerialNumber: new(big.Int).Lsh(big.NewInt(3), 100), Subject: pkix.Name{CommonName: "issuer"}, NotBefore: template.NotBefore.Add(-time.Hour),
		NotAfter: template.NotAfter.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte("issuer"),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	issuer = sign(t, parent, parent, key.Public(), key)
	return sign(t, template, issuer, public, key), issuer
}

func newECDSA(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestLintCertificate names each fault of a leaf once, and none of a good one.
func TestLintCertificate(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // that is the point
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(c *x509.Certificate)
		public crypto.PublicKey // default P-256
		want   []string         // "severity code"
	}{
		{name: "good", change: func(*x509.Certificate) {}},
		{"no name", func(c *x509.Certificate) { c.URIs = nil }, nil, []string{"error spiffe_id"}},
		{"two names", func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, nil, []string{"error spiffe_id"}},
		{"upper case scheme", func(c *x509.Certificate) { c.URIs[0].Scheme = "SPIFFE" }, nil, []string{"error spiffe_id"}},
		{"trust domain alone", func(c *x509.Certificate) { c.URIs[0].Path = "" }, nil, []string{"error spiffe_id"}},
		{"dots in the path", func(c *x509.Certificate) { c.URIs[0].Path = "/a/../b" }, nil, []string{"error spiffe_id"}},
		{"no key usage", func(c *x509.Certificate) { c.KeyUsage = 0 }, nil, []string{"error key_usage"}},
		{"wrong key usage", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, nil, []string{"error key_usage"}},
		{"may sign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, nil, []string{"error key_usage"}},
		{"server only", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, nil, []string{"error extended_key_usage"}},
		{"no extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = nil }, nil, []string{"warning extended_key_usage"}},
		{"no constraints", func(c *x509.Certificate) { c.BasicConstraintsValid = false }, nil, []string{"info basic_constraints"}},
		{"host names", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"a.example"}, []net.IP{{10, 0, 0, 1}} }, nil, []string{"info names"}},
		{"long life", func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(90 * 24 * time.Hour) }, nil, []string{"info validity"}},
		{"no life", func(c *x509.Certificate) { c.NotAfter = c.NotBefore }, nil, []string{"error validity"}},
		{"short serial", func(c *x509.Certificate) { c.SerialNumber = big.NewInt(7) }, nil, []string{"warning serial"}},
		{"RSA 1024", func(*x509.Certificate) {}, small.Public(), []string{"error key"}},
		{"P-224", func(*x509.Certificate) {}, newECDSA(t, elliptic.P224()).Public(), []string{"error key"}},
		{"P-521", func(*x509.Certificate) {}, newECDSA(t, elliptic.P521()).Public(), []string{"warning key"}},
		{"Ed25519", func(*x509.Certificate) {}, edwards, []string{"warning key"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			template := goodLeaf(t)
			tt.change(template)
			public := tt.public
			if public == nil {
				public = newECDSA(t, elliptic.P256()).Public()
			}
			leaf, issuer := certify(t, template, public)
			if got := shortFindings(lintCertificate(leaf)); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := lintCertificate(issuer); len(got) != 0 {
				t.Errorf("the issuer: %v", got)
			}
		})
	}
}

func shortFindings(list []certFinding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Severity.String()+" "+f.Code)
	}
	return out
}

func TestLintIssuerAndChain(t *testing.T) {
	t.Parallel()
	leaf, issuer := certify(t, goodLeaf(t), newECDSA(t, elliptic.P256()).Public())
	other, stranger := certify(t, goodLeaf(t), newECDSA(t, elliptic.P256()).Public())
	for _, tt := range []struct {
		name  string
		chain []*x509.Certificate
		want  []string
	}{
		{"leaf and root", []*x509.Certificate{leaf, issuer}, []string{"info chain"}},
		{"wrong issuer", []*x509.Certificate{leaf, stranger}, []string{"error chain", "info chain"}},
		{"two leaves", []*x509.Certificate{leaf, other}, []string{"error chain"}},
		{"a bundle", []*x509.Certificate{issuer, stranger}, nil},
	} {
		if got := shortFindings(lintChain(tt.chain)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	template := goodLeaf(t)
	template.IsCA, template.KeyUsage, template.URIs[0].Path = true, x509.KeyUsageDigitalSignature, "/workload"
	weak, _ := certify(t, template, newECDSA(t, elliptic.P256()).Public())
	if got, want := shortFindings(lintCertificate(weak)), []string{"error key_usage", "warning key_usage", "error spiffe_id"}; !slices.Equal(got, want) {
		t.Errorf("an issuer that may not sign: got %v, want %v", got, want)
	}
}

func TestMayOperate(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		uid  uint32
		own  int
		want bool
	}{{0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}, {0, 0, true}, {1000, 0, false}, {1<<32 - 1, -1, false}} {
		if got := mayOperate(tt.uid, tt.own); got != tt.want {
			t.Errorf("uid %d on an authority of %d: %v", tt.uid, tt.own, got)
		}
	}
}
