package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// testCA signs leaf certificates for one test.
type testCA struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	next int64
}

func newTestCA(t *testing.T) *testCA {
	ca := &testCA{t: t, next: 1}
	ca.key = ca.newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	ca.cert = ca.sign(template, template, &ca.key.PublicKey)
	return ca
}

func (ca *testCA) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	return key
}

func (ca *testCA) sign(template, parent *x509.Certificate, public *ecdsa.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

// leaf returns a new certificate for this machine and its key, in PEM.
func (ca *testCA) leaf() (cert, key string) {
	ca.next++
	private := ca.newKey()
	leaf := ca.sign(&x509.Certificate{SerialNumber: big.NewInt(ca.next), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, ca.cert, &private.PublicKey)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		ca.t.Fatal(err)
	}
	return pemOf("CERTIFICATE", leaf.Raw), pemOf("PRIVATE KEY", der)
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

const tlsServeConfig = `
documents: ./policies
authz:
  listen: 127.0.0.1:0
  tls: {cert: server.pem, key: server.key, client_ca: root.pem}
diagnostics: {listen: "127.0.0.1:0", pprof: true}
`

func TestServeTLS(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	cert, key := ca.leaf()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": tlsServeConfig, "policies/order.yaml": allowCustomer,
		"server.pem": cert, "server.key": key, "root.pem": pemOf("CERTIFICATE", ca.cert.Raw)})
	p := serve(t, dir)
	p.ready()
	if _, err := p.get("/debug/pprof/", http.StatusOK); err != nil {
		t.Errorf("pprof is on: %v", err)
	}

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	clientCert, clientKey := ca.leaf()
	pair, err := tls.X509KeyPair([]byte(clientCert), []byte(clientKey))
	if err != nil {
		t.Fatal(err)
	}
	var serial *big.Int // of the server's certificate
	client := func(certificates ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: certificates,
			VerifyConnection: func(s tls.ConnectionState) error { serial = s.PeerCertificates[0].SerialNumber; return nil }})
	}
	if got, err := ask(t.Context(), p.dial(p.address("authz"), client(pair)), question("GET", "/orders")); err != nil || got != http.StatusOK {
		t.Errorf("with a client certificate: %d %v", got, err)
	}
	if got, err := ask(t.Context(), p.dial(p.address("authz"), client()), question("GET", "/orders")); err == nil {
		t.Errorf("without a client certificate: %d, want a failed handshake", got)
	}
	if got, err := ask(t.Context(), p.dial(p.address("authz"), nil), question("GET", "/orders")); err == nil {
		t.Errorf("without TLS: %d, want an error", got)
	}

	// A renewed certificate is used for new connections; a broken one is not.
	before := serial
	cert, key = ca.leaf()
	write(t, dir, map[string]string{"server.pem": cert, "server.key": key})
	p.signal(syscall.SIGHUP)
	p.eventually("renewed", func() error { return logged(p, "certificate renewed") })
	if _, err := ask(t.Context(), p.dial(p.address("authz"), client(pair)), question("GET", "/orders")); err != nil || serial.Cmp(before) == 0 {
		t.Errorf("after the renewal: certificate %v, before %v (%v)", serial, before, err)
	}
	write(t, dir, map[string]string{"server.pem": "no certificate"})
	p.signal(syscall.SIGHUP)
	p.eventually("refused", func() error { return logged(p, "the renewed certificate cannot be used") })
	if got, err := ask(t.Context(), p.dial(p.address("authz"), client(pair)), question("GET", "/orders")); err != nil || got != http.StatusOK {
		t.Errorf("with the last good certificate: %d %v", got, err)
	}
	p.stop()
}

func logged(p *authorityProcess, text string) error {
	if !strings.Contains(p.logged(), text) {
		return os.ErrNotExist
	}
	return nil
}

func TestCertificatesRefuse(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	cert, key := ca.leaf()
	_, otherKey := ca.leaf()
	dir := write(t, t.TempDir(), map[string]string{"cert.pem": cert, "key.pem": key, "other.pem": otherKey, "empty.pem": "",
		"huge.pem": strings.Repeat("#", maxPEMBytes+1)})
	file := func(name string) string { return filepath.Join(dir, name) }
	tests := []struct{ cert, key, clientCA, want string }{
		{"cert.pem", "other.pem", "", "private key does not match"},
		{"empty.pem", "key.pem", "", "failed to find any PEM data"},
		{"cert.pem", "absent.pem", "", "no such file"},
		{"cert.pem", "key.pem", "empty.pem", "holds no PEM certificate"},
		{"huge.pem", "key.pem", "", "larger than"},
	}
	for _, tt := range tests {
		files := &tlsConfig{Cert: file(tt.cert), Key: file(tt.key)}
		if tt.clientCA != "" {
			files.ClientCA = file(tt.clientCA)
		}
		if _, err := newCertificates(files); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}
