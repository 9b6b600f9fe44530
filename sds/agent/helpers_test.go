package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

const (
	order    = "spiffe://td.test/ns/coffee-shop/sa/order"
	payment  = "spiffe://td.test/ns/coffee-shop/sa/payment"
	nodeID   = "spiffe://td.test/node/n1"
	serverID = "spiffe://td.test/writ/authority"
	token    = "writ-join-1"
)

func mustID(t testing.TB, text string) spiffeid.ID {
	t.Helper()
	id, err := spiffeid.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// world is what an agent meets: authorities that do as they are told.
type world struct {
	t     *testing.T
	root  *issuer
	inter *issuer
	dir   string

	mu     sync.Mutex
	roots  []*x509.Certificate // that answers carry
	ttl    time.Duration
	answer func(c *call) (*securityv1.IstioCertificateResponse, error) // nil to issue
	calls  []*call
	token  func(id string, audiences []string) string // makes JWT-SVIDs; nil if nobody does
	log    bytes.Buffer

	servers map[string]*authority
}

// call is one request for a certificate.
type call struct {
	world     *world
	Authority string
	At        time.Time
	Bearer    string
	Presented string // identity of the client certificate
	Asked     string // to impersonate
	TTL       int64
	Key       any
	Err       error
}

// authority is one address that answers.
type authority struct {
	securityv1.UnimplementedIstioCertificateServiceServer
	world    *world
	name     string
	listener *bufconn.Listener
	server   *grpc.Server
	done     chan struct{}
	secrets  *sds.Server // nil if it serves no bundles
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, root: newRoot(t, "root 1"), dir: t.TempDir(), ttl: time.Hour, servers: map[string]*authority{}}
	w.inter = w.root.intermediate(t)
	w.roots = []*x509.Certificate{w.root.cert}
	w.file("root.pem", pemOf(w.root.cert))
	w.file("token", token)
	return w
}

func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// serve starts an authority at an address of its own until the test ends, or stop is called. vault is what it serves
// bundles from; nil for none.
func (w *world) serve(address string, vault *sds.Vault) (stop func()) {
	w.t.Helper()
	host, _, _ := net.SplitHostPort(address)
	key := newKey(w.t)
	template := leaf(w.t, serverID, 9000*time.Hour)
	template.DNSNames = []string{host}
	cert := sign(w.t, template, w.inter.cert, key.Public(), w.inter.key)
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw, w.inter.cert.Raw}, PrivateKey: key}},
	}
	a := &authority{
		world: w, name: address, listener: bufconn.Listen(1 << 16), server: grpc.NewServer(grpc.Creds(credentials.NewTLS(config))), done: make(chan struct{}),
	}
	securityv1.RegisterIstioCertificateServiceServer(a.server, a)
	a.server.RegisterService(&jwtService, a)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var running sync.WaitGroup
	if vault != nil {
		var err error
		a.secrets, err = sds.New(sds.Config{
			Vault: vault, TrustDomain: mustID(w.t, "spiffe://td.test"), Authorizer: everybody{}, Caller: callerOf, Logger: w.logger(),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		a.secrets.Register(a.server)
		running.Go(func() { _ = a.secrets.Run(ctx) })
	}
	running.Go(func() { _ = a.server.Serve(a.listener) })
	w.mu.Lock()
	w.servers[address] = a
	w.mu.Unlock()
	stop = sync.OnceFunc(func() {
		w.mu.Lock()
		if w.servers[address] == a {
			delete(w.servers, address)
		}
		w.mu.Unlock()
		cancel()
		a.server.Stop()
		running.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

// everybody may have the bundle.
type everybody struct{}

func (everybody) Entitled(*sds.Caller) (sds.Entitlement, error) {
	return sds.Entitlement{Bundles: true}, nil
}
func (everybody) Changed() <-chan struct{} { return nil }

func callerOf(ctx context.Context) (*sds.Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("nobody")
	}
	info := p.AuthInfo.(credentials.TLSInfo)
	if len(info.State.PeerCertificates) == 0 {
		return nil, errors.New("no certificate")
	}
	c := info.State.PeerCertificates[0]
	id, err := spiffeid.Parse(c.URIs[0].String())
	return &sds.Caller{ID: id, NotAfter: c.NotAfter, Address: "test"}, err
}

func (w *world) dial(ctx context.Context, address string) (net.Conn, error) {
	w.mu.Lock()
	a := w.servers[address]
	w.mu.Unlock()
	if a == nil {
		return nil, errors.New("connection refused")
	}
	return a.listener.DialContext(ctx)
}

// CreateCertificate answers as the world says; by default it certifies whoever has the token or a certificate.
func (a *authority) CreateCertificate(ctx context.Context, r *securityv1.IstioCertificateRequest) (*securityv1.IstioCertificateResponse, error) {
	w := a.world
	c := &call{world: w, Authority: a.name, At: time.Now(), TTL: r.GetValidityDuration()}
	c.Asked = r.GetMetadata().GetFields()["ImpersonatedIdentity"].GetStringValue()
	if headers, ok := metadata.FromIncomingContext(ctx); ok {
		c.Bearer = strings.TrimPrefix(strings.Join(headers.Get("authorization"), ","), "Bearer ")
	}
	if caller, err := callerOf(ctx); err == nil {
		c.Presented = caller.ID.String()
	}
	block, _ := pem.Decode([]byte(r.GetCsr()))
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		return nil, status.Error(codes.InvalidArgument, "bad request")
	}
	c.Key = request.PublicKey
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	var response *securityv1.IstioCertificateResponse
	if answer != nil {
		response, c.Err = answer(c)
	} else {
		response, c.Err = c.issue()
	}
	w.mu.Lock()
	w.calls = append(w.calls, c)
	w.mu.Unlock()
	return response, c.Err
}

// issue answers like an authority that knows the token and every certificate.
func (c *call) issue() (*securityv1.IstioCertificateResponse, error) {
	id := c.Presented
	switch {
	case strings.HasPrefix(c.Bearer, token):
		id = nodeID
	case c.Bearer != "" || c.Presented == "":
		return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
	}
	if c.Asked != "" {
		id = c.Asked
	}
	return c.certify(id, nil), nil
}

// certify signs a certificate, changed by change if that is not nil.
func (c *call) certify(id string, change func(*x509.Certificate)) *securityv1.IstioCertificateResponse {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	template := leaf(w.t, id, w.ttl)
	if change != nil {
		change(template)
	}
	made := sign(w.t, template, w.inter.cert, c.Key, w.inter.key)
	chain := []string{pemOf(made)}
	for _, between := range w.inter.chain {
		chain = append(chain, pemOf(between))
	}
	return &securityv1.IstioCertificateResponse{CertChain: append(chain, pemOf(w.roots...))}
}

// do changes the world.
func (w *world) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// seen are the calls so far.
func (w *world) seen() []*call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*call(nil), w.calls...)
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

func (w *world) logger() *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// running is an agent at work.
type running struct {
	*agent.Agent
	vault *sds.Vault
	stop  func()
}

// config is that of an agent of this world.
func (w *world) config() agent.Config {
	return agent.Config{
		TrustDomain: mustID(w.t, "spiffe://td.test"), Authorities: []string{"a.test:8081"}, BundleFile: filepath.Join(w.dir, "root.pem"),
		JoinTokenFile: filepath.Join(w.dir, "token"), StateDir: filepath.Join(w.dir, "state"),
		Identities: []spiffeid.ID{mustID(w.t, order)}, Vault: &sds.Vault{}, Dial: w.dial, Logger: w.logger(),
	}
}

// start runs an agent until the test ends, or it is stopped.
func (w *world) start(change func(*agent.Config)) *running {
	w.t.Helper()
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	a, err := agent.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	r := &running{Agent: a, vault: cfg.Vault}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, a.Close()); err != nil {
			w.t.Errorf("agent: %v", err)
		}
	})
	w.t.Cleanup(func() {
		r.stop()
		if w.t.Failed() {
			w.t.Logf("log:\n%s", w.logged())
		}
	})
	return r
}

// pass lets time go by, and then everything that happens at that time.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// ready waits until every identity is there.
func (r *running) ready(t testing.TB) {
	t.Helper()
	for range 600 {
		if len(r.NotReady()) == 0 {
			return
		}
		pass(100 * time.Millisecond)
	}
	t.Fatalf("never ready: %q", r.NotReady())
}

// serials are those of the vault.
func (r *running) serial(t testing.TB, id string) string {
	t.Helper()
	i := r.vault.Identity(mustID(t, id))
	if i == nil {
		return ""
	}
	return i.Chain[0].SerialNumber.Text(16)
}
