package workloadapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/workloadapi"
)

const (
	order   = "spiffe://cluster.local/ns/coffee-shop/sa/order"
	payment = "spiffe://cluster.local/ns/coffee-shop/sa/payment"
)

// node is a Workload API with everything behind it played by the test.
type node struct {
	vault  sds.Vault
	root   *x509.Certificate
	key    *ecdsa.PrivateKey // of the root, and of tokens
	socket string
	rights
	minted int
	seen   map[string]codes.Code
	seenMu sync.Mutex
}

// rights is an Authorizer that tests change.
type rights struct {
	mu      sync.Mutex
	ids     []spiffeid.ID
	unknown error
	changed chan struct{}
	asked   chan struct{} // closed once somebody asked
	once    sync.Once
}

func (r *rights) Entitled(*sds.Caller) (sds.Entitlement, error) {
	r.once.Do(func() { close(r.asked) })
	r.mu.Lock()
	defer r.mu.Unlock()
	return sds.Entitlement{Identities: r.ids, Bundles: len(r.ids) > 0, Reason: "no entry of the test"}, r.unknown
}

func (r *rights) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// allow says what callers may have from now on.
func (r *rights) allow(err error, ids ...spiffeid.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids, r.unknown = ids, err
	if r.changed != nil {
		close(r.changed)
	}
	r.changed = make(chan struct{})
}

func mustID(t testing.TB, text string) spiffeid.ID {
	t.Helper()
	id, err := spiffeid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newNode serves the Workload API on a socket for the length of the test.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{key: newKey(t), socket: filepath.Join(t.TempDir(), "api.sock"), seen: map[string]codes.Code{}}
	n.asked = make(chan struct{})
	n.allow(nil, mustID(t, order))
	n.root = n.certify(t, "spiffe://cluster.local", &n.key.PublicKey, true, time.Hour)
	server, err := workloadapi.New(workloadapi.Config{
		Vault: &n.vault, Authorizer: n, Minter: n,
		Caller: func(context.Context) (*sds.Caller, error) { return &sds.Caller{Address: "unix:test"}, nil },
		Observe: func(o *workloadapi.Observation) {
			n.seenMu.Lock()
			defer n.seenMu.Unlock()
			n.seen[o.Method] = o.Code
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	server.Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(listener) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// certify makes a certificate under the node's root.
func (n *node) certify(t testing.TB, id string, public *ecdsa.PublicKey, isCA bool, life time.Duration) *x509.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life), URIs: []*url.URL{uri},
		BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent := n.root
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, n.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issue puts a new certificate into the vault.
func (n *node) issue(t testing.TB, id string) *x509.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := n.certify(t, id, &key.PublicKey, false, time.Hour)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.vault.SetIdentity(&sds.Identity{ID: mustID(t, id), Chain: []*x509.Certificate{leaf}, Key: der}); err != nil {
		t.Fatal(err)
	}
	return leaf
}

// publish puts the bundle of the node's trust domain into the vault.
func (n *node) publish(t testing.TB, version int64) {
	t.Helper()
	point, err := n.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	keys, err := json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "EC", "crv": "P-256", "kid": "k1", "x": encode(point[1:33]), "y": encode(point[33:])},
	}})
	if err != nil {
		t.Fatal(err)
	}
	err = n.vault.SetBundle(&sds.Bundle{
		TrustDomain: mustID(t, "spiffe://cluster.local"), Version: version, Roots: []*x509.Certificate{n.root}, JWTKeys: keys,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// MintJWT signs by the key that the node publishes.
func (n *node) MintJWT(_ context.Context, id spiffeid.ID, audiences []string) (workloadapi.Token, error) {
	n.mu.Lock()
	n.minted++
	n.mu.Unlock()
	if audiences[0] == "broken" {
		return workloadapi.Token{}, errors.New("the authority is away")
	}
	expires := time.Now().Add(5 * time.Minute)
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"sub": id.String(), "aud": audiences, "exp": expires.Unix(), "iat": time.Now().Unix(),
	})
	token.Header["kid"] = "k1"
	text, err := token.SignedString(n.key)
	return workloadapi.Token{Text: text, Expires: expires}, err
}
