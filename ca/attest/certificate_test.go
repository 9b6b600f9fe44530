package attest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const order = "spiffe://td.test/ns/coffee-shop/sa/order"

// certificates is an attestor of client certificates with everything a test turns.
type certificates struct {
	*attest.Attestor
	clock  *fakeClock
	store  *memory
	roots  []*x509.Certificate
	denied denied
}

// denied are identities that are revoked.
type denied map[string]bool

func (d denied) ID(id string) bool   { return d[id] }
func (denied) Serial(ca.Serial) bool { return false }
func (denied) Key([32]byte) bool     { return false }

// bundle is what holds the roots.
func bundle(roots ...*x509.Certificate) *ca.Bundle {
	b := new(ca.Bundle)
	for _, r := range roots {
		b.Roots = append(b.Roots, ca.Root{Certificate: r})
	}
	return b
}

func newCertificates(t testing.TB, grace time.Duration, roots ...*x509.Certificate) *certificates {
	t.Helper()
	c := &certificates{clock: newClock(), store: newMemory(), roots: roots, denied: denied{}}
	method, err := attest.NewCertificates(attest.CertificatesConfig{
		TrustDomain: domain(t),
		Bundle:      func() *ca.Bundle { return bundle(c.roots...) },
		Ledger:      c.store,
		Deny:        c.denied,
		Grace:       grace,
		Now:         c.clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Attestor, err = attest.New(attest.Config{TrustDomain: domain(t), Certificates: method, JoinTokens: c.store, Now: c.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *certificates) attest(t testing.TB, chain ...*x509.Certificate) (*attest.Caller, error) {
	t.Helper()
	return c.Attest(t.Context(), attest.Evidence{Certificate: attest.Present(chain)})
}

func TestCertificateProvesItsIdentity(t *testing.T) {
	root := newAuthority(t, "root")
	c := newCertificates(t, 0, root.cert)
	leaf := root.leaf(t, nil, order)
	c.store.record(leaf, id(t, order), "oidc:somebody")
	caller, err := c.attest(t, leaf)
	if err != nil {
		t.Fatal(err)
	}
	if caller.ID != id(t, order) || caller.String() != "client_cert:"+order || !caller.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("caller %+v", caller)
	}
}

func TestCertificateThroughAnIntermediate(t *testing.T) {
	root := newAuthority(t, "root")
	key := newKey(t)
	between := &authority{key: key, cert: sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(24 * time.Hour),
	}, root.cert, key.Public(), root.key)}
	c := newCertificates(t, 0, root.cert)
	leaf := between.leaf(t, nil, order)
	if _, err := c.attest(t, leaf, between.cert); err != nil {
		t.Error(err)
	}
	_, err := c.attest(t, leaf)
	wantRefusal(t, err, attest.CertificateInvalid)
}

func TestCertificateRefused(t *testing.T) {
	root, other := newAuthority(t, "root"), newAuthority(t, "other")
	rsa1024 := weakRSA(t)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := func(change func(*x509.Certificate)) *x509.Certificate { return root.leaf(t, change, order) }
	for _, test := range []struct {
		name string
		leaf *x509.Certificate
		want attest.Reason
	}{
		{"unknown root", other.leaf(t, nil, order), attest.CertificateInvalid},
		{"expired", set(func(c *x509.Certificate) { c.NotAfter = start.Add(-time.Second) }), attest.CertificateExpired},
		{"not yet valid", set(func(c *x509.Certificate) { c.NotBefore = start.Add(time.Minute) }), attest.CertificateExpired},
		{"foreign trust domain", root.leaf(t, nil, "spiffe://other.test/ns/a/sa/b"), attest.ForeignTrustDomain},
		{"subdomain", root.leaf(t, nil, "spiffe://sub.td.test/ns/a/sa/b"), attest.ForeignTrustDomain},
		{"two URIs", root.leaf(t, nil, order, "spiffe://td.test/ns/coffee-shop/sa/payment"), attest.CertificateInvalid},
		{"the same URI twice", root.leaf(t, nil, order, order), attest.CertificateInvalid},
		{"no name", root.leaf(t, nil), attest.CertificateInvalid},
		{"https URI", root.leaf(t, nil, "https://td.test/ns/a/sa/b"), attest.CertificateInvalid},
		{"upper case scheme", root.leaf(t, nil, "SPIFFE://td.test/ns/a/sa/b"), attest.CertificateInvalid},
		{"upper case trust domain", root.leaf(t, nil, "spiffe://TD.test/ns/a/sa/b"), attest.CertificateInvalid},
		{"no path", root.leaf(t, nil, "spiffe://td.test"), attest.CertificateInvalid},
		{"slash alone", root.leaf(t, nil, "spiffe://td.test/"), attest.CertificateInvalid},
		{"dot dot", root.leaf(t, nil, "spiffe://td.test/ns/a/../sa/b"), attest.CertificateInvalid},
		{"comma", root.leaf(t, nil, "spiffe://td.test/ns/a/sa/b,spiffe://td.test/ns/c/sa/d"), attest.CertificateInvalid},
		{"escaped", root.leaf(t, nil, "spiffe://td.test/ns/a/sa/%62"), attest.CertificateInvalid},
		{"query", root.leaf(t, nil, "spiffe://td.test/ns/a/sa/b?c"), attest.CertificateInvalid},
		{"port", root.leaf(t, nil, "spiffe://td.test:443/ns/a/sa/b"), attest.CertificateInvalid},
		{"SPIRE's own", root.leaf(t, nil, "spiffe://td.test/spire/server"), attest.CertificateInvalid},
		{"is an authority", set(func(c *x509.Certificate) { c.IsCA = true }), attest.CertificateInvalid},
		{"signs certificates", set(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), attest.CertificateInvalid},
		{"signs CRLs", set(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), attest.CertificateInvalid},
		{"no digitalSignature", set(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), attest.CertificateInvalid},
		{"no key usage", set(func(c *x509.Certificate) { c.KeyUsage = 0 }), attest.CertificateInvalid},
		{"for servers only", set(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), attest.CertificateInvalid},
		{"RSA 1024", root.leafFor(t, &rsa1024.PublicKey, nil, order), attest.CertificateInvalid},
		{"P-224", root.leafFor(t, p224.Public(), nil, order), attest.CertificateInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			caller, err := newCertificates(t, 0, root.cert).attest(t, test.leaf)
			wantRefusal(t, err, test.want)
			if caller != nil {
				t.Errorf("caller %v beside an error", caller)
			}
		})
	}
}

// weakRSA is a key that Go does not make any more: only its public half has to be there.
func weakRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), 1023)
	return &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}}
}

func TestCertificateNamesThatDoNotParse(t *testing.T) {
	// Go refuses to parse some URI names at all: whoever presents one does not get as far as attestation.
	root := newAuthority(t, "root")
	for _, name := range []string{"spiffe://td.test/ns/a\x00/sa/b", "spiffe://td..test/ns/a/sa/b"} {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(7), KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: start, NotAfter: start.Add(time.Hour),
			ExtraExtensions: []pkix.Extension{uriExtension(t, []string{name})},
		}
		der, err := x509.CreateCertificate(rand.Reader, template, root.cert, newKey(t).Public(), root.key)
		if err != nil {
			continue
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		_, err = newCertificates(t, 0, root.cert).attest(t, cert)
		wantRefusal(t, err, attest.CertificateInvalid)
	}
}

// TestRootsAreReadPerCall is surprise 25 of identity §11: a root that comes or goes counts at once, on connections that
// are open as well.
func TestRootsAreReadPerCall(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	c := newCertificates(t, 0, first.cert)
	presented := attest.Present([]*x509.Certificate{second.leaf(t, nil, order)})
	ask := func() error {
		_, err := c.Attest(t.Context(), attest.Evidence{Certificate: presented})
		return err
	}
	wantRefusal(t, ask(), attest.CertificateInvalid)
	c.roots = append(c.roots, second.cert)
	if err := ask(); err != nil {
		t.Errorf("after its root was added: %v", err)
	}
	c.roots = c.roots[:1]
	wantRefusal(t, ask(), attest.CertificateInvalid)
}

func TestCertificateExpiresOnAnOpenConnection(t *testing.T) {
	root := newAuthority(t, "root")
	c := newCertificates(t, 0, root.cert)
	presented := attest.Present([]*x509.Certificate{root.leaf(t, nil, order)})
	if _, err := c.Attest(t.Context(), attest.Evidence{Certificate: presented}); err != nil {
		t.Fatal(err)
	}
	c.clock.advance(time.Hour + time.Second)
	_, err := c.Attest(t.Context(), attest.Evidence{Certificate: presented})
	wantRefusal(t, err, attest.CertificateExpired)
}

func TestGrace(t *testing.T) {
	root := newAuthority(t, "root")
	leaf := root.leaf(t, nil, order)
	for _, test := range []struct {
		name         string
		grace, after time.Duration
		known        bool
		want         attest.Reason // empty: accepted
	}{
		{"off", 0, time.Minute, true, attest.CertificateExpired},
		{"on, known", time.Hour, time.Minute, true, ""},
		{"on, not in the ledger", time.Hour, time.Minute, false, attest.CertificateExpired},
		{"on, too late", time.Hour, time.Hour + time.Second, true, attest.CertificateExpired},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCertificates(t, test.grace, root.cert)
			if test.known {
				c.store.record(leaf, id(t, order), "join_token:x")
			}
			c.clock.advance(leaf.NotAfter.Sub(start) + test.after)
			_, err := c.attest(t, leaf)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefusal(t, err, test.want)
		})
	}
	t.Run("revoked", func(t *testing.T) {
		c := newCertificates(t, time.Hour, root.cert)
		c.store.record(leaf, id(t, order), "join_token:x")
		c.store.change(serialOf(leaf), func(e *ca.Entry) { e.Revoked = &ca.Revocation{Reason: "keyCompromise"} })
		c.clock.advance(leaf.NotAfter.Sub(start) + time.Minute)
		_, err := c.attest(t, leaf)
		wantRefusal(t, err, attest.CertificateRevoked)
	})
}

func TestRevokedCertificate(t *testing.T) {
	root := newAuthority(t, "root")
	leaf := root.leaf(t, nil, order)
	c := newCertificates(t, 0, root.cert)
	c.store.record(leaf, id(t, order), "join_token:x")
	if _, err := c.attest(t, leaf); err != nil {
		t.Fatal(err)
	}
	c.denied[order] = true
	_, err := c.attest(t, leaf)
	wantRefusal(t, err, attest.CertificateRevoked)
	delete(c.denied, order)
	c.store.change(serialOf(leaf), func(e *ca.Entry) { e.Revoked = &ca.Revocation{Reason: "superseded"} })
	_, err = c.attest(t, leaf)
	wantRefusal(t, err, attest.CertificateRevoked)
}

// TestForgedCertificate: our root signed it, under a serial number of ours, but not through the ledger.
func TestForgedCertificate(t *testing.T) {
	root := newAuthority(t, "root")
	leaf := root.leaf(t, nil, order)
	c := newCertificates(t, 0, root.cert)
	c.store.record(leaf, id(t, order), "join_token:x")
	c.store.change(serialOf(leaf), func(e *ca.Entry) { e.Certificate = []byte("another") })
	_, err := c.attest(t, leaf)
	wantRefusal(t, err, attest.CertificateForged)
}

func TestCertificateWithoutLedger(t *testing.T) {
	root := newAuthority(t, "root")
	c := newCertificates(t, 0, root.cert)
	c.store.breakDown()
	_, err := c.attest(t, root.leaf(t, nil, order))
	wantRefusal(t, err, attest.StoreUnavailable)
}

func TestTooManyPresented(t *testing.T) {
	root := newAuthority(t, "root")
	chain := []*x509.Certificate{root.leaf(t, nil, order)}
	for range 8 {
		chain = append(chain, root.cert)
	}
	_, err := newCertificates(t, 0, root.cert).attest(t, chain...)
	wantRefusal(t, err, attest.CertificateInvalid)
}

func TestNewCertificatesRefuses(t *testing.T) {
	good := attest.CertificatesConfig{
		TrustDomain: domain(t), Bundle: func() *ca.Bundle { return nil }, Ledger: newMemory(), Deny: denied{},
	}
	for name, change := range map[string]func(*attest.CertificatesConfig){
		"no trust domain":          func(c *attest.CertificatesConfig) { c.TrustDomain = spiffeid.ID{} },
		"trust domain with a path": func(c *attest.CertificatesConfig) { c.TrustDomain = id(t, order) },
		"no bundle":                func(c *attest.CertificatesConfig) { c.Bundle = nil },
		"no deny list":             func(c *attest.CertificatesConfig) { c.Deny = nil },
		"no ledger":                func(c *attest.CertificatesConfig) { c.Ledger = nil },
		"negative grace":           func(c *attest.CertificatesConfig) { c.Grace = -1 },
		"grace for ever":           func(c *attest.CertificatesConfig) { c.Grace = 31 * 24 * time.Hour },
	} {
		cfg := good
		change(&cfg)
		if _, err := attest.NewCertificates(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
