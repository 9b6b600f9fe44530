package provider_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

// secured starts one of each kind behind a server configuration and returns providers that ask them.
func secured(t *testing.T, server *tls.Config, client *provider.TLS) map[string]closer {
	t.Helper()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(server)))
	authv3.RegisterAuthorizationServer(s, &checkServer{answer: always(t, `status {}`)})
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	h.TLS = server.Clone()
	h.Config.ErrorLog = quiet()
	h.StartTLS()
	t.Cleanup(h.Close)
	return map[string]closer{
		"grpc": newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, listen(t), s), TLS: client, Breaker: provider.Breaker{Failures: -1}}),
		"http": newHTTP(t, provider.HTTPConfig{Target: h.URL, TLS: client, Breaker: provider.Breaker{Failures: -1}}),
	}
}

func TestTLS(t *testing.T) {
	ca, other, dir := newCA(t), newCA(t), t.TempDir()
	root := pemFile(t, dir, "ca.pem", "CERTIFICATE", ca.cert.Raw)
	tomorrow, yesterday := time.Now().Add(24*time.Hour), time.Now().Add(-time.Hour)
	serves := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	cert, key := pair(t, dir, ca.leaf(t, "writ.example", tomorrow))
	const id = "spiffe://cluster.local/ns/authz/sa/authz"
	mutual := serves(ca.leaf(t, "127.0.0.1", tomorrow))
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool()
	old := serves(ca.leaf(t, "127.0.0.1", tomorrow))
	old.MaxVersion = tls.VersionTLS11

	for _, test := range []struct {
		name   string
		server *tls.Config
		client provider.TLS
		says   string // "" if it works
	}{
		{"the target's address", serves(ca.leaf(t, "127.0.0.1", tomorrow)), provider.TLS{CA: root}, ""},
		{"a name", serves(ca.leaf(t, "authz.example", tomorrow)), provider.TLS{CA: root, ServerName: "authz.example"}, ""},
		{"another name", serves(ca.leaf(t, "authz.example", tomorrow)), provider.TLS{CA: root}, "x509"},
		{"expired", serves(ca.leaf(t, "127.0.0.1", yesterday)), provider.TLS{CA: root}, "expired"},
		{"unknown authority", serves(other.leaf(t, "127.0.0.1", tomorrow)), provider.TLS{CA: root}, "unknown authority"},
		{"system roots", serves(ca.leaf(t, "127.0.0.1", tomorrow)), provider.TLS{}, "unknown authority"},
		{"TLS 1.1", old, provider.TLS{CA: root}, "protocol version"},
		{"mutual", mutual, provider.TLS{CA: root, Cert: cert, Key: key}, ""},
		{"mutual without a certificate", mutual, provider.TLS{CA: root}, ":"}, // the alert, or that the connection is gone
		{"SPIFFE ID", serves(ca.leaf(t, id, tomorrow)), provider.TLS{CA: root, ServerName: id}, ""},
		{"another SPIFFE ID", serves(ca.leaf(t, id+"2", tomorrow)), provider.TLS{CA: root, ServerName: id}, "and not for " + id},
		{"SPIFFE ID, expired", serves(ca.leaf(t, id, yesterday)), provider.TLS{CA: root, ServerName: id}, "expired"},
		{"SPIFFE ID, unknown authority", serves(other.leaf(t, id, tomorrow)), provider.TLS{CA: root, ServerName: id}, "unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			for kind, p := range secured(t, test.server, &test.client) {
				t.Run(kind, func(t *testing.T) {
					var a authz.Answer
					err := p.Ask(within(t, plenty), question(t), &a)
					if test.says == "" {
						wantFault(t, err, "")
					} else {
						wantFault(t, err, authz.ReasonProviderUnreachable, test.says)
					}
					if a.Allow != (test.says == "") {
						t.Errorf("allow is %v", a.Allow)
					}
				})
			}
		})
	}
}

func TestTLSToPlaintext(t *testing.T) {
	noLeaks(t)
	ca := newCA(t)
	root := pemFile(t, t.TempDir(), "ca.pem", "CERTIFICATE", ca.cert.Raw)
	h := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	p := newHTTP(t, provider.HTTPConfig{Target: "https://" + h.Listener.Addr().String(), TLS: &provider.TLS{CA: root}})
	var a authz.Answer
	wantFault(t, p.Ask(within(t, plenty), question(t), &a), authz.ReasonProviderUnreachable, "tls")
}

// TestTLSReload renews the files while the provider runs: new connections use them, and files that cannot be used
// leave the last good ones in force.
func TestTLSReload(t *testing.T) {
	noLeaks(t)
	first, second, dir := newCA(t), newCA(t), t.TempDir()
	root := pemFile(t, dir, "ca.pem", "CERTIFICATE", first.cert.Raw)
	certs := make(chan tls.Certificate, 1)
	current := first.leaf(t, "127.0.0.1", time.Now().Add(time.Hour))
	server := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		select {
		case current = <-certs:
		default:
		}
		return &tls.Config{Certificates: []tls.Certificate{current}}, nil
	}}
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("connection", "close") }))
	h.TLS, h.Config.ErrorLog = server, quiet()
	h.StartTLS()
	t.Cleanup(h.Close)
	p := newHTTP(t, provider.HTTPConfig{Target: h.URL, TLS: &provider.TLS{CA: root}})

	ask := func() error {
		var a authz.Answer
		return p.Ask(within(t, plenty), question(t), &a)
	}
	wantFault(t, ask(), "")
	pemFile(t, dir, "ca.pem", "NOTHING", []byte("half a file"))
	wantFault(t, ask(), "")
	certs <- second.leaf(t, "127.0.0.1", time.Now().Add(time.Hour))
	wantFault(t, ask(), authz.ReasonProviderUnreachable, "unknown authority")
	pemFile(t, dir, "ca.pem", "CERTIFICATE", second.cert.Raw)
	wantFault(t, ask(), "")
}

func TestTLSFilesAtStart(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	root := pemFile(t, dir, "ca.pem", "CERTIFICATE", ca.cert.Raw)
	empty := pemFile(t, dir, "empty.pem", "NOTHING", nil)
	cert, _ := pair(t, dir, ca.leaf(t, "a.example", time.Now().Add(time.Hour)))
	for _, test := range []struct {
		name string
		tls  provider.TLS
		says string
	}{
		{"no such file", provider.TLS{CA: dir + "/none.pem"}, "none.pem"},
		{"no certificate in it", provider.TLS{CA: empty}, "no PEM certificate"},
		{"no key in it", provider.TLS{CA: root, Cert: cert, Key: empty}, "tls.key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := provider.NewGRPC(provider.GRPCConfig{Target: "authz.example:9000", TLS: &test.tls})
			wantError(t, err, test.says)
			_, err = provider.NewHTTP(provider.HTTPConfig{Target: "https://authz.example", TLS: &test.tls})
			wantError(t, err, test.says)
		})
	}
}
