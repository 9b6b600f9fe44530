package sds_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const patience = 20 * time.Second // bounds every wait; never waited out when all is well

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func id(t testing.TB, text string) spiffeid.ID { return must[spiffeid.ID](t)(spiffeid.Parse(text)) }

// issuer is a certificate authority with a key.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (i *issuer) parent(own *issuer) *issuer {
	if i == nil {
		return own
	}
	return i
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func sign(t testing.TB, template *x509.Certificate, by *issuer, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template.SerialNumber = serial(t)
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Minute)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

// newIssuer makes a root, or an intermediate under another issuer.
func newIssuer(t testing.TB, name string, under *issuer) *issuer {
	t.Helper()
	own := &issuer{key: newKey(t)}
	own.cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	own.cert = sign(t, own.cert, under.parent(own), own.key.Public())
	return own
}

// leaf issues an identity; change, if not nil, alters the template.
func (i *issuer) leaf(t testing.TB, name string, change func(*x509.Certificate), above ...*issuer) *sds.Identity {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{must[*url.URL](t)(url.Parse(name))},
	}
	if change != nil {
		change(template)
	}
	chain := []*x509.Certificate{sign(t, template, i, key.Public())}
	for _, a := range above {
		chain = append(chain, a.cert)
	}
	return &sds.Identity{ID: id(t, name), Chain: chain, Key: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))}
}

// crl makes a CRL that ends after a while, which may be negative.
func (i *issuer) crl(t testing.TB, life time.Duration) []byte {
	t.Helper()
	return must[[]byte](t)(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(life),
	}, i.cert, i.key))
}

func pemOf(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}

const (
	payment = "spiffe://cluster.local/ns/shop/sa/payment"
	order   = "spiffe://cluster.local/ns/shop/sa/order"
)

// entries is an Authorizer whose answer is set by the test.
type entries struct {
	mu      sync.Mutex
	answer  sds.Entitlement
	err     error
	changed chan struct{}
	callers []sds.Caller
}

func (e *entries) Entitled(c *sds.Caller) (sds.Entitlement, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.callers = append(e.callers, *c)
	return e.answer, e.err
}

func (e *entries) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

func (e *entries) set(answer sds.Entitlement, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer, e.err = answer, err
	close(e.changed)
	e.changed = make(chan struct{})
}

// fixture is a server on a Unix socket, with what it serves.
type fixture struct {
	t       *testing.T
	root    *issuer
	vault   *sds.Vault
	entries *entries
	server  *sds.Server
	log     *logBuffer
	path    string // of the socket
	conn    *grpc.ClientConn
	client  secretv3.SecretDiscoveryServiceClient
	stop    func() // ends the server and waits for it
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start serves to a caller who may have the payment identity and bundles. There is nothing in the vault yet.
func start(t *testing.T, change func(*sds.Config)) *fixture {
	t.Helper()
	f := &fixture{
		t: t, root: newIssuer(t, "root", nil), vault: &sds.Vault{}, log: &logBuffer{},
		entries: &entries{answer: sds.Entitlement{Identities: []spiffeid.ID{id(t, payment)}, Bundles: true}, changed: make(chan struct{})},
	}
	cfg := sds.Config{
		Vault: f.vault, Authorizer: f.entries, TrustDomain: id(t, "spiffe://cluster.local"), Logger: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	f.server = must[*sds.Server](t)(sds.New(cfg))
	f.path = filepath.Join(t.TempDir(), "sds.sock")
	listener := must[net.Listener](t)(net.Listen("unix", f.path))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(ctx, listener) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			t.Error("Serve did not return")
		}
	})
	t.Cleanup(f.stop)
	eventually(t, func() string {
		if !f.server.Running() {
			return "the server does not run"
		}
		return ""
	})
	f.conn = dial(t, f.path)
	f.client = secretv3.NewSecretDiscoveryServiceClient(f.conn)
	return f
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials())))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (f *fixture) setIdentity(i *sds.Identity) {
	f.t.Helper()
	if err := f.vault.SetIdentity(i); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) newIdentity(name string) *sds.Identity {
	f.t.Helper()
	i := f.root.leaf(f.t, name, nil)
	f.setIdentity(i)
	return i
}

func (f *fixture) setBundle(version int64, change func(*sds.Bundle)) *sds.Bundle {
	f.t.Helper()
	b := &sds.Bundle{TrustDomain: id(f.t, "spiffe://cluster.local"), Version: version, Roots: []*x509.Certificate{f.root.cert}}
	if change != nil {
		change(b)
	}
	if err := f.vault.SetBundle(b); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// eventually waits until try finds nothing wrong.
func eventually(t testing.TB, try func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		wrong := try()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(wrong)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func chainOf(s *tlsv3.Secret) []byte {
	return s.GetTlsCertificate().GetCertificateChain().GetInlineBytes()
}

// follows says what is wrong if the only follower of the bundle does not have a version.
func (f *fixture) follows(version int64) string {
	list := f.server.Inventory().Consumers()
	if len(list) != 1 {
		return fmt.Sprintf("%d followers: %+v", len(list), list)
	}
	if list[0].Bundle != version {
		return fmt.Sprintf("the follower has bundle %d, want %d", list[0].Bundle, version)
	}
	return ""
}

// subscribed waits until the first stream has a number of subscriptions.
func (f *fixture) subscribed(count int) {
	f.t.Helper()
	eventually(f.t, func() string {
		if got := f.only().Secrets; len(got) != count {
			return fmt.Sprintf("%d subscriptions, want %d", len(got), count)
		}
		return ""
	})
}

// acknowledged waits until the first stream's first secret is acknowledged in a version.
func (f *fixture) acknowledged(version string) {
	f.t.Helper()
	eventually(f.t, func() string {
		if got := f.only().Secrets[0]; got.Acked != version {
			return fmt.Sprintf("version %q is acknowledged, want %q", got.Acked, version)
		}
		return ""
	})
}

func serial(t testing.TB) *big.Int {
	return must[*big.Int](t)(rand.Int(rand.Reader, big.NewInt(1<<62)))
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
func (rawCodec) Name() string                         { return "proto" }
