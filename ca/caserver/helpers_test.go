package caserver_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

const (
	issuer  = "https://kubernetes.default.svc"
	order   = "spiffe://td.test/ns/coffee-shop/sa/order"
	payment = "spiffe://td.test/ns/coffee-shop/sa/payment"
	node    = "spiffe://td.test/node/n1"
)

func mustID(t testing.TB, text string) spiffeid.ID {
	t.Helper()
	id, err := spiffeid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// bench is an authority with a server in front of it, an issuer of tokens and everything a test turns.
type bench struct {
	authority *ca.Authority
	config    ca.Config
	store     *memstore.Store
	admin     *caserver.Admin
	server    *caserver.Server
	address   string
	key       *ecdsa.PrivateKey // of the token issuer
	shift     atomic.Int64      // nanoseconds the clock is ahead
	logged    *logBuffer

	mu   sync.Mutex
	seen []caserver.Observation
}

type logBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *logBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.String()
}

func (b *bench) now() time.Time { return time.Now().Add(time.Duration(b.shift.Load())) }

// advance moves the clock, and waits for the server to have a certificate that is good by then.
func (b *bench) advance(t testing.TB, d time.Duration) {
	t.Helper()
	b.shift.Add(int64(d))
	waitFor(t, "the server's certificate after the clock moved", func() bool {
		until := b.admin.Status(t.Context()).Server.NotAfter
		return until.Sub(b.now()) > 10*time.Minute
	})
}

// options change a bench before it starts.
type options struct {
	server    func(*caserver.Config)
	authority func(caserver.Authority) caserver.Authority // stands between the server and the authority
	grace     time.Duration
}

func newBench(t testing.TB, o options) *bench {
	t.Helper()
	b := &bench{store: memstore.New(t), key: newKey(t), logged: &logBuffer{}}
	b.config = ca.Config{TrustDomain: mustID(t, "spiffe://td.test"), Store: b.store, Keys: ca.InsecureKeyring(), Now: b.now, JWT: true}
	var err error
	if b.authority, err = ca.Init(t.Context(), b.config, ca.InitOptions{By: "test"}); err != nil {
		t.Fatal(err)
	}
	cfg := caserver.Config{
		Authority: b.authority, Attestor: b.attestor(t, o.grace), Profile: newProfile(t, "workload", 24*time.Hour),
		Signers:       map[string]*ca.Profile{"short": newProfile(t, "short", 5*time.Minute)},
		ServerProfile: newProfile(t, "server", 24*time.Hour),
		Names: caserver.Names{
			ID: mustID(t, "spiffe://td.test/writ/authority"), DNS: []string{"ca.test", "istiod.istio-system.svc"},
			IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		},
		Observe: b.observe, Logger: slog.New(slog.NewTextHandler(b.logged, nil)), Now: b.now, DrainTimeout: 2 * time.Second,
	}
	if o.authority != nil {
		cfg.Authority = o.authority(b.authority)
	}
	if o.server != nil {
		o.server(&cfg)
	}
	if b.server, err = caserver.New(cfg); err != nil {
		t.Fatal(err)
	}
	if b.admin, err = caserver.NewAdmin(caserver.AdminConfig{Authority: b.authority, Store: b.store, Server: b.server, Now: b.now}); err != nil {
		t.Fatal(err)
	}
	b.address = b.serve(t)
	return b
}

func newProfile(t testing.TB, name string, most time.Duration) *ca.Profile {
	t.Helper()
	p, err := ca.NewProfile(ca.ProfileConfig{Name: name, TrustDomain: mustID(t, "spiffe://td.test"), MaxTTL: most})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *bench) attestor(t testing.TB, grace time.Duration) *attest.Attestor {
	t.Helper()
	domain := mustID(t, "spiffe://td.test")
	file := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(file, jwks(t, b.key), 0o600); err != nil {
		t.Fatal(err)
	}
	oidc, err := attest.NewOIDC(attest.OIDCConfig{
		TrustDomain: domain, Issuers: []attest.Issuer{{Issuer: issuer, Audiences: []string{"istio-ca"}, JWKSFile: file}},
	})
	if err != nil {
		t.Fatal(err)
	}
	certificates, err := attest.NewCertificates(attest.CertificatesConfig{
		TrustDomain: domain, Bundle: b.authority.Bundle, Ledger: b.store, Deny: b.authority.Deny(), Grace: grace, Now: b.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := attest.New(attest.Config{TrustDomain: domain, Certificates: certificates, OIDC: oidc, JoinTokens: b.store, Now: b.now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// serve starts the server for the length of the test.
func (b *bench) serve(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- b.server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	waitFor(t, "the server's own certificate", func() bool {
		return b.admin.Status(t.Context()).Server.Certificate != ""
	})
	return listener.Addr().String()
}

func (b *bench) observe(o *caserver.Observation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, *o)
}

// last is what was observed last.
func (b *bench) last(t testing.TB) caserver.Observation {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) == 0 {
		t.Fatal("nothing was observed")
	}
	return b.seen[len(b.seen)-1]
}

// waitFor asks until the answer is yes.
func waitFor(t testing.TB, what string, ask func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ask() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: not in time", what)
		}
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// jwks is the public key as a JWK Set.
func jwks(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	enc := func(b []byte) string {
		return strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(base64Of(b)), "=")
	}
	text, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "kid": "k", "x": enc(point[1:33]), "y": enc(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func base64Of(b []byte) string {
	text, _ := json.Marshal(b)
	return strings.Trim(string(text), `"`)
}

// token is a service account's, good for the hour.
func (b *bench) token(t testing.TB, subject string) string {
	t.Helper()
	now := b.now()
	made := gojwt.NewWithClaims(gojwt.SigningMethodES256, gojwt.MapClaims{
		"iss": issuer, "sub": subject, "aud": []string{"istio-ca"}, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	made.Header["kid"] = "k"
	text, err := made.SignedString(b.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// orderToken is the token of the service account that order is the identity of.
func (b *bench) orderToken(t testing.TB) string {
	t.Helper()
	return b.token(t, "system:serviceaccount:coffee-shop:order")
}

func (b *bench) joinToken(t testing.TB, ids ...string) string {
	t.Helper()
	r := caserver.CreateTokenRequest{Node: "n1"}
	for _, id := range ids {
		r.IDs = append(r.IDs, mustID(t, id))
	}
	made, err := b.admin.CreateToken(t.Context(), "test", r)
	if err != nil {
		t.Fatal(err)
	}
	return made.Token
}

// csr is a certificate request as istio-agent makes it: one empty organisation and the identity it hopes for.
func csr(t testing.TB, key *ecdsa.PrivateKey, id string) string {
	t.Helper()
	template := &x509.CertificateRequest{Subject: pkix.Name{Organization: []string{""}}}
	if id != "" {
		template.URIs = append(template.URIs, mustURL(t, id))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// call is one call for a certificate.
type call struct {
	bearer      string
	certificate *tls.Certificate
	csr         string // empty: for a new key, without names
	seconds     int64
	metadata    map[string]any
	headers     []string // name, value, …
}

// client is a connection to the server, for many calls.
func (b *bench) client(t testing.TB, certificate *tls.Certificate) securityv1.IstioCertificateServiceClient {
	t.Helper()
	return securityv1.NewIstioCertificateServiceClient(b.dial(t, certificate))
}

func (b *bench) dial(t testing.TB, certificate *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	cfg := &tls.Config{RootCAs: roots(b.authority.Bundle()), MinVersion: tls.VersionTLS12, Time: b.now}
	if certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	conn, err := grpc.NewClient(b.address, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func roots(b *ca.Bundle) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, r := range b.Roots {
		pool.AddCert(r.Certificate)
	}
	return pool
}

func (b *bench) do(t testing.TB, c call) ([]string, error) {
	t.Helper()
	return c.send(t, b.client(t, c.certificate))
}

func (c call) send(t testing.TB, client securityv1.IstioCertificateServiceClient, options ...grpc.CallOption) ([]string, error) {
	t.Helper()
	ctx := t.Context()
	if c.bearer != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.bearer)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, c.headers...)
	r := &securityv1.IstioCertificateRequest{Csr: c.csr, ValidityDuration: c.seconds}
	if r.Csr == "" {
		r.Csr = csr(t, newKey(t), "")
	}
	if c.metadata != nil {
		var err error
		if r.Metadata, err = structpb.NewStruct(c.metadata); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := client.CreateCertificate(ctx, r, options...)
	return answer.GetCertChain(), err
}

// certificate has the server certify a new key, for callers that come by certificate.
func (b *bench) certificate(t testing.TB, c call) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	c.csr = csr(t, key, "")
	chain, err := b.do(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair(t, key, chain)
}

func keyPair(t testing.TB, key *ecdsa.PrivateKey, chain []string) *tls.Certificate {
	t.Helper()
	pair := &tls.Certificate{PrivateKey: key}
	for _, element := range chain[:len(chain)-1] {
		block, _ := pem.Decode([]byte(element))
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	return pair
}

// leafOf parses the first element of a chain.
func leafOf(t testing.TB, chain []string) *x509.Certificate {
	t.Helper()
	if block, rest := pem.Decode([]byte(chain[0])); block != nil && len(rest) == 0 {
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return leaf
	}
	t.Fatalf("first element is not one certificate: %q", chain[0])
	return nil
}

// wantCode demands a status, and that its text does not tell the caller more than it should.
func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("answered %v, want %v", err, want)
	}
	for _, secret := range []string{"spiffe://", "serial", "ledger", "writ-join-", "td.test", "store", "x509"} {
		if strings.Contains(status.Convert(err).Message(), secret) {
			t.Errorf("the answer tells the caller %q: %v", secret, err)
		}
	}
}

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
