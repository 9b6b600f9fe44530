package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// clock is a clock that tests move.
type clock struct{ at atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	c.set(time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC))
	return c
}

func (c *clock) now() time.Time          { return *c.at.Load() }
func (c *clock) set(t time.Time)         { c.at.Store(&t) }
func (c *clock) advance(d time.Duration) { c.set(c.now().Add(d)) }

// bench is an authority with everything around it.
type bench struct {
	*ca.Authority
	store   *memstore.Store
	clock   *clock
	cfg     ca.Config
	profile *ca.Profile
}

func mustID(tb testing.TB, s string) spiffeid.ID {
	tb.Helper()
	id, err := spiffeid.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func newConfig(tb testing.TB) (ca.Config, *memstore.Store, *clock) {
	tb.Helper()
	store, clock := memstore.New(tb), newClock()
	return ca.Config{
		TrustDomain: mustID(tb, "spiffe://cluster.local"), Store: store, Keys: ca.InsecureKeyring(), Now: clock.now,
	}, store, clock
}

func newProfile(tb testing.TB, c ca.ProfileConfig) *ca.Profile {
	tb.Helper()
	if c.TrustDomain.IsZero() {
		c.TrustDomain = mustID(tb, "spiffe://cluster.local")
	}
	p, err := ca.NewProfile(c)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func newAuthority(tb testing.TB, change ...func(*ca.Config)) *bench {
	tb.Helper()
	cfg, store, clock := newConfig(tb)
	for _, c := range change {
		c(&cfg)
	}
	a, err := ca.Init(tb.Context(), cfg, ca.InitOptions{By: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	return &bench{Authority: a, store: store, clock: clock, cfg: cfg, profile: newProfile(tb, ca.ProfileConfig{})}
}

// reopen loads the authority again from its store.
func (b *bench) reopen(tb testing.TB) *bench {
	tb.Helper()
	a, err := ca.Load(tb.Context(), b.cfg)
	if err != nil {
		tb.Fatal(err)
	}
	again := *b
	again.Authority = a
	return &again
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func keyOf(tb testing.TB, kind string) crypto.Signer {
	tb.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "P-256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "RSA 2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		tb.Fatalf("no key of kind %s", kind)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// newCSR is a request with the given URIs, signed by key.
func newCSR(tb testing.TB, key crypto.Signer, uris ...string) []byte {
	tb.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{""}}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			tb.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

const order = "spiffe://cluster.local/ns/coffee-shop/sa/order"

// approve approves a fresh key.
func (b *bench) approve(tb testing.TB, id string, seconds int64) *ca.Approval {
	tb.Helper()
	ap, err := ca.Approve(mustID(tb, id), newCSR(tb, newKey(tb), id), ca.ApprovalRequest{
		Profile: b.profile, Caller: "test:" + id, Seconds: seconds,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return ap
}

func (b *bench) issue(tb testing.TB, id string, seconds int64) *ca.Issued {
	tb.Helper()
	issued, err := b.Issue(tb.Context(), b.approve(tb, id, seconds))
	if err != nil {
		tb.Fatal(err)
	}
	return issued
}

func parse(tb testing.TB, der []byte) *x509.Certificate {
	tb.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// parsePEM reads all certificates of a text.
func parsePEM(tb testing.TB, text string) []*x509.Certificate {
	tb.Helper()
	var out []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		out = append(out, parse(tb, block.Bytes))
	}
	if strings.TrimSpace(string(rest)) != "" {
		tb.Fatalf("text after the last certificate: %q", rest)
	}
	return out
}

// verify verifies an answer as a client does: the last element is what it trusts.
func verify(tb testing.TB, chain []string, at time.Time) error {
	tb.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range parsePEM(tb, chain[len(chain)-1]) {
		roots.AddCert(r)
	}
	for _, element := range chain[1 : len(chain)-1] {
		for _, c := range parsePEM(tb, element) {
			between.AddCert(c)
		}
	}
	_, err := parsePEM(tb, chain[0])[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func alarmed(a *ca.Authority, code ca.AlarmCode) bool {
	for _, alarm := range a.Status().Alarms {
		if alarm.Code == code {
			return true
		}
	}
	return false
}

func cancelled(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	cancel()
	return ctx
}

// audited lists what the audit has, in order.
func audited(tb testing.TB, b *bench) string {
	tb.Helper()
	events, err := b.store.Events(tb.Context(), time.Time{}, time.Time{}, 1000)
	if err != nil {
		tb.Fatal(err)
	}
	var out []string
	for _, e := range slices.Backward(events) {
		out = append(out, e.What)
	}
	return strings.Join(out, " ")
}
