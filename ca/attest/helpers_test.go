package attest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// start is the moment the tests happen at.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const trustDomain = "td.test"

func id(t testing.TB, text string) spiffeid.ID {
	t.Helper()
	parsed, err := spiffeid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func domain(t testing.TB) spiffeid.ID { return id(t, "spiffe://"+trustDomain) }

// fakeClock is a clock that tests move.
type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *fakeClock { return &fakeClock{now: start} }

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// authority signs whatever a test asks for.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour),
	}
	return &authority{cert: sign(t, template, template, key.Public(), key), key: key}
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
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

// leaf signs an X509-SVID with the given URI names, changed as the test likes.
func (a *authority) leaf(t testing.TB, change func(*x509.Certificate), uris ...string) *x509.Certificate {
	t.Helper()
	return a.leafFor(t, newKey(t).Public(), change, uris...)
}

func (a *authority) leafFor(t testing.TB, public crypto.PublicKey, change func(*x509.Certificate), uris ...string) *x509.Certificate {
	t.Helper()
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + a.serial), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   start.Add(-time.Minute), NotAfter: start.Add(time.Hour),
	}
	if len(uris) > 0 {
		template.ExtraExtensions = []pkix.Extension{uriExtension(t, uris)}
	}
	if change != nil {
		change(template)
	}
	return sign(t, template, a.cert, public, a.key)
}

// uriExtension writes names that x509.CreateCertificate would refuse to.
func uriExtension(t testing.TB, uris []string) pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, uri := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

func serialOf(c *x509.Certificate) (s ca.Serial) {
	c.SerialNumber.FillBytes(s[:])
	return s
}

// memory is the store of an authority, in memory. A test sets broken to have it fail.
type memory struct {
	mu      sync.Mutex
	entries map[ca.Serial]ca.Entry
	tokens  map[[32]byte]ca.Token
	takers  map[[32]byte][32]byte // the key that a token was used by
	broken  bool
	taken   int
}

func newMemory() *memory {
	return &memory{entries: map[ca.Serial]ca.Entry{}, tokens: map[[32]byte]ca.Token{}, takers: map[[32]byte][32]byte{}}
}

func (m *memory) Find(_ context.Context, q ca.Query) ([]ca.Entry, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return nil, "", ca.ErrUnavailable
	}
	if e, ok := m.entries[q.Serial]; ok {
		return []ca.Entry{e}, "", nil
	}
	return nil, "", nil
}

func (m *memory) PutToken(_ context.Context, t ca.Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens[t.Hash] = t
	return nil
}

func (m *memory) TakeToken(_ context.Context, hash, key [32]byte, now time.Time) (ca.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return ca.Token{}, ca.ErrUnavailable
	}
	token, ok := m.tokens[hash]
	if by, used := m.takers[hash]; !ok || !now.Before(token.Expires) || used && (by != key || key == [32]byte{}) {
		return ca.Token{}, ca.ErrNotFound
	}
	m.taken++
	m.takers[hash] = key
	return token, nil
}

func (m *memory) Grants(_ context.Context, hash [32]byte) ([]spiffeid.ID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return nil, ca.ErrUnavailable
	}
	if _, used := m.takers[hash]; !used {
		return nil, nil
	}
	return m.tokens[hash].IDs, nil
}

// record puts a certificate into the ledger.
func (m *memory) record(c *x509.Certificate, who spiffeid.ID, caller string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries[serialOf(c)] = ca.Entry{
		Intent: ca.Intent{Serial: serialOf(c), ID: who, Caller: caller}, State: "issued", Certificate: c.Raw,
	}
}

func (m *memory) change(s ca.Serial, change func(*ca.Entry)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[s]
	change(&e)
	m.entries[s] = e
}

func (m *memory) breakDown() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = true
}

// token makes a join token for identities, good for ten minutes.
func (m *memory) token(t testing.TB, ids ...string) attest.JoinToken {
	t.Helper()
	made := attest.NewJoinToken()
	token := ca.Token{Hash: made.Hash(), Node: "n1", Created: start, Expires: start.Add(10 * time.Minute), By: "admin"}
	for _, text := range ids {
		token.IDs = append(token.IDs, id(t, text))
	}
	if err := m.PutToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	return made
}

func bearer(token string) []string { return []string{"Bearer " + token} }

// wantRefusal demands that err turns a caller away for a reason.
func wantRefusal(t testing.TB, err error, want attest.Reason) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %s", want)
	}
	e, ok := errors.AsType[*attest.Error](err)
	if !ok {
		t.Fatalf("error %v is a %T, want an *attest.Error", err, err)
	}
	if e.Reason != want {
		t.Errorf("refused with %v, want %s", err, want)
	}
}
