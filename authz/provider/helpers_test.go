package provider_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/policy"
)

// plenty is more time than anything here takes.
const plenty = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noLeaks fails the test if it leaves a goroutine behind. It is called before what the test cleans up by itself.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		deadline := time.Now().Add(plenty)
		err := goleak.Find(before)
		for err != nil && time.Now().Before(deadline) {
			err = goleak.Find(before) // waits between its own attempts
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

type closer interface {
	authz.Provider
	Close() error
}

func closing[P closer](t *testing.T, p P, err error) P {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newGRPC(t *testing.T, c provider.GRPCConfig) *provider.GRPC {
	t.Helper()
	p, err := provider.NewGRPC(c)
	return closing(t, p, err)
}

func newHTTP(t *testing.T, c provider.HTTPConfig) *provider.HTTP {
	t.Helper()
	p, err := provider.NewHTTP(c)
	return closing(t, p, err)
}

// reasonOf is why there is no answer, "" if there is one.
func reasonOf(t *testing.T, err error) authz.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var fault *authz.Fault
	if !errors.As(err, &fault) {
		t.Fatalf("error %v (%T) is no fault", err, err)
	}
	return fault.Reason
}

// wantFault fails unless err has the reason and says all of the words.
func wantFault(t *testing.T, err error, want authz.Reason, words ...string) {
	t.Helper()
	if got := reasonOf(t, err); got != want {
		t.Errorf("reason %q, want %q: %v", got, want, err)
	}
	for _, word := range words {
		if err != nil && !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not say %q", err, word)
		}
	}
}

// checkServer is a gRPC authorization server that answers with a function.
type checkServer struct {
	authv3.UnimplementedAuthorizationServer
	answer func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)
}

func (s *checkServer) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return s.answer(ctx, r)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveGRPC serves until the test ends and returns the address.
func serveGRPC(t *testing.T, l net.Listener, s *grpc.Server) string {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return l.Addr().String()
}

func serveChecks(t *testing.T, answer func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error), options ...grpc.ServerOption) string {
	t.Helper()
	s := grpc.NewServer(options...)
	authv3.RegisterAuthorizationServer(s, &checkServer{answer: answer})
	return serveGRPC(t, listen(t), s)
}

// always answers every check with the same message, in text form.
func always(t *testing.T, text string) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	t.Helper()
	r := new(authv3.CheckResponse)
	if err := prototext.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) { return r, nil }
}

func serveHTTP(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.DisableGeneralOptionsHandler = true // "OPTIONS *" is for the handler
	s.Config.ErrorLog = quiet()
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// serveRaw accepts connections and hands each to a function, which need not close it.
func serveRaw(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var open []chan struct{}
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			ended := make(chan struct{})
			open = append(open, ended)
			go func() {
				defer close(ended)
				defer conn.Close()
				serve(conn)
			}()
		}
		for _, ended := range open {
			<-ended
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// question is a GET with some headers, and its CheckRequest.
func question(t *testing.T) *authz.Question {
	t.Helper()
	return questionWith(t, "GET", "/menu?size=large", "", map[string]string{"x-user": "ann", "authorization": "Bearer t", "cookie": "c=1"})
}

func questionWith(t *testing.T, method, path, body string, headers map[string]string) *authz.Question {
	t.Helper()
	r := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
		Method: method, Path: path, Host: "shop.example", Headers: headers, Body: body,
	}}}}
	raw, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	q := &authz.Question{Raw: raw, Request: &policy.Request{
		Method: method, HasMethod: true, RawPath: path, Host: "shop.example", HasHost: true,
		Headers: []policy.Header{{Name: ":method", Value: method}, {Name: ":path", Value: path}, {Name: ":authority", Value: "shop.example"}},
	}}
	for name, value := range headers {
		q.Request.Headers = append(q.Request.Headers, policy.Header{Name: name, Value: value})
	}
	return q
}

// testCA signs certificates for tests.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca.key = newKey(t)
	ca.cert = signed(t, template, template, ca.key, ca.key)
	return ca
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf is for a DNS name, an IP address or a URI, and ends at notAfter.
func (ca *testCA) leaf(t *testing.T, name string, notAfter time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	switch ip := net.ParseIP(name); {
	case ip != nil:
		template.IPAddresses = []net.IP{ip}
	case strings.Contains(name, "://"):
		u, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	default:
		template.DNSNames = []string{name}
	}
	key := newKey(t)
	cert := signed(t, template, ca.cert, key, ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func pemFile(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// pair writes a certificate and its key.
func pair(t *testing.T, dir string, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemFile(t, dir, "cert.pem", "CERTIFICATE", c.Certificate[0]), pemFile(t, dir, "key.pem", "PRIVATE KEY", der)
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(plenty)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it never came to hold")
		}
		<-tick.C
	}
}

func wantError(t *testing.T, err error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("error %v, want one that says %q", err, says)
	}
}

// quiet is for servers whose handshakes fail on purpose.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
