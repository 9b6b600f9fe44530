package provider_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

// workloadAPI is an agent that says what it is told to.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	socket string

	mu      sync.Mutex
	answer  *workload.X509SVIDResponse // nil: it says nothing
	err     error                      // ends streams
	changed chan struct{}
}

// serveWorkloadAPI listens on a socket; stop ends it before the test does.
func serveWorkloadAPI(t *testing.T, socket string) (api *workloadAPI, stop func()) {
	t.Helper()
	api = &workloadAPI{socket: socket, changed: make(chan struct{})}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, api)
	serveGRPC(t, l, s)
	return api, s.Stop
}

func (w *workloadAPI) say(answer *workload.X509SVIDResponse, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer, w.err = answer, err
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if headers, _ := metadata.FromIncomingContext(stream.Context()); strings.Join(headers.Get("workload.spiffe.io"), "") != "true" {
		return status.Error(codes.InvalidArgument, "the header is missing")
	}
	for {
		w.mu.Lock()
		answer, err, changed := w.answer, w.err, w.changed
		w.mu.Unlock()
		if err != nil {
			return err
		}
		if answer != nil {
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// given is a certificate as the Workload API has it.
func given(t *testing.T, ca *testCA, id string, c tls.Certificate) *workload.X509SVIDResponse {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{
		{SpiffeId: ourID + "-other"}, {SpiffeId: id, X509Svid: c.Certificate[0], X509SvidKey: key, Bundle: ca.cert.Raw},
	}}
}

// crl revokes certificates; it ends at nextUpdate.
func (ca *testCA) crl(t *testing.T, nextUpdate time.Time, revoked ...tls.Certificate) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: nextUpdate}
	for _, c := range revoked {
		leaf, err := x509.ParseCertificate(c.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// runIdentity follows a Workload API until the test ends.
func runIdentity(t *testing.T, socket string) *provider.Identity {
	t.Helper()
	identity, err := provider.NewIdentity(provider.IdentityConfig{ID: ourID, Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- identity.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return identity
}

// untilStatus waits until the status is as it is wanted.
func untilStatus(t *testing.T, identity *provider.Identity, what string, want func(provider.IdentityStatus) bool) {
	t.Helper()
	ctx := within(t, plenty)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !want(identity.Status()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never %s: %+v", what, identity.Status())
		}
	}
}

func ready(s provider.IdentityStatus) bool { return s.Ready }

// stands wants a certificate or its absence, with a word of the reason.
func stands(isReady bool, word string) func(provider.IdentityStatus) bool {
	return func(s provider.IdentityStatus) bool { return s.Ready == isReady && strings.Contains(s.Error, word) }
}

// countingListener knows how many of its connections are open.
type countingListener struct {
	net.Listener
	open atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
}

type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// callers collects the serial numbers of the certificates that servers were called with.
type callers struct {
	grpc, http *countingListener // where they call

	mu  sync.Mutex
	all map[string]int
}

func (c *callers) saw(state *tls.ConnectionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]int{}
	}
	c.all[state.PeerCertificates[0].URIs[0].String()+" "+state.PeerCertificates[0].SerialNumber.Text(16)]++
}

func (c *callers) times(serial string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[ourID+" "+serial]
}

// mutual starts a server of each kind that wants client certificates, and returns providers that ask them by an identity.
func mutual(t *testing.T, config *tls.Config, identity *provider.Identity, serverID string) (map[string]closer, *callers) {
	t.Helper()
	seen := &callers{grpc: &countingListener{Listener: listen(t)}}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	allow := always(t, `status {}`)
	authv3.RegisterAuthorizationServer(s, &checkServer{answer: func(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		p, _ := peer.FromContext(ctx)
		state := p.AuthInfo.(credentials.TLSInfo).State
		seen.saw(&state)
		return allow(ctx, r)
	}})
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen.saw(r.TLS) }))
	seen.http = &countingListener{Listener: h.Listener}
	h.Listener, h.TLS, h.Config.ErrorLog = seen.http, config.Clone(), quiet()
	h.StartTLS()
	t.Cleanup(h.Close)
	client := &provider.TLS{Identity: identity, ServerName: serverID}
	return map[string]closer{
		"grpc": newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, seen.grpc, s), TLS: client, Breaker: provider.Breaker{Failures: -1}}),
		"http": newHTTP(t, provider.HTTPConfig{Target: h.URL, TLS: client, Breaker: provider.Breaker{Failures: -1}}),
	}, seen
}

func demanding(ca *testCA, certificate tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool()}
}

func askAll(t *testing.T, all map[string]closer, want authz.Reason, words ...string) {
	t.Helper()
	for kind, p := range all {
		var a authz.Answer
		err := p.Ask(within(t, plenty), question(t), &a)
		wantFault(t, err, want, words...)
		if a.Allow != (want == "") {
			t.Errorf("%s: allow is %v", kind, a.Allow)
		}
	}
}
