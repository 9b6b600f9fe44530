package e2e_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit"
	"github.com/writ-auth/writ/sds"
)

const sdsID = "spiffe://cluster.local/ns/shop/sa/payment"

// sdsBootstrap is an Envoy that gets certificate and roots over SDS and answers 200 to who has a certificate under them.
// It waits for both for ever, as Istio's proxies do: while one is missing, its listener is closed.
const sdsBootstrap = `
static_resources:
  clusters:
  - name: sds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: sds, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]q}}}}]}]}
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs: [{name: default, sds_config: &sds %[2]s}]
            combined_validation_context:
              default_validation_context:
                match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "spiffe://cluster.local/"}}]
              validation_context_sds_secret_config: {name: ROOTCA, sds_config: *sds}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

const (
	sdsSource = `{resource_api_version: V3, initial_fetch_timeout: 0s, api_config_source: {api_type: %s,` +
		` transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: sds}}]}}`
	sdsSotW  = "GRPC"
	sdsDelta = "DELTA_GRPC"
)

// sdsServer is writ's SDS server in this process, for an Envoy that may have one identity.
type sdsServer struct {
	t      *testing.T
	socket string
	vault  *sds.Vault
	server *sds.Server
	stop   func()
}

type sdsEntry struct{ sds.Entitlement }

func (e sdsEntry) Entitled(*sds.Caller) (sds.Entitlement, error) { return e.Entitlement, nil }
func (sdsEntry) Changed() <-chan struct{}                        { return nil }

func startSDS(t *testing.T, socket string, names sds.Names) *sdsServer {
	t.Helper()
	id, err := spiffeid.Parse(sdsID)
	if err != nil {
		t.Fatal(err)
	}
	s := &sdsServer{t: t, socket: socket, vault: &sds.Vault{}}
	s.server, err = sds.New(sds.Config{
		Vault: s.vault, TrustDomain: sdsDomain(t), Names: names,
		Authorizer: sdsEntry{sds.Entitlement{Identities: []spiffeid.ID{id}, Bundles: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ctx, listener) }()
	stopped := false
	s.stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(s.stop)
	return s
}

func sdsDomain(t *testing.T) spiffeid.ID {
	t.Helper()
	td, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// sdsCA is an authority of identities in this test.
type sdsCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSDSCA(t *testing.T, name string) *sdsCA {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca := &sdsCA{cert: template}
	ca.cert, ca.key = ca.sign(t, template)
	return ca
}

func (ca *sdsCA) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := ca.key
	if signer == nil {
		signer = key
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

func (ca *sdsCA) identity(t *testing.T, name string) *sds.Identity {
	t.Helper()
	uri, err := url.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	id, err := spiffeid.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := ca.sign(t, &x509.Certificate{
		URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &sds.Identity{ID: id, Chain: []*x509.Certificate{certificate}, Key: der}
}

func (ca *sdsCA) crl(t *testing.T, revoked ...*x509.Certificate) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (s *sdsServer) setBundle(version int64, crls [][]byte, cas ...*sdsCA) {
	s.t.Helper()
	b := &sds.Bundle{TrustDomain: sdsDomain(s.t), Version: version, CRLs: crls}
	for _, ca := range cas {
		b.Roots = append(b.Roots, ca.cert)
	}
	if err := s.vault.SetBundle(b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sdsServer) setIdentity(i *sds.Identity) *sds.Identity {
	s.t.Helper()
	if err := s.vault.SetIdentity(i); err != nil {
		s.t.Fatal(err)
	}
	return i
}

// secret finds one on any stream of the inventory.
func (s *sdsServer) secret(name string) (sds.SecretStatus, bool) {
	for _, stream := range s.server.Inventory().Snapshot().Streams {
		for _, secret := range stream.Secrets {
			if secret.Name == name && strings.HasPrefix(stream.Node, "sds") {
				return secret, true
			}
		}
	}
	return sds.SecretStatus{}, false
}

// sdsCall opens a new connection to Envoy with a client certificate of an authority, or none, and returns the certificate
// that Envoy showed.
func sdsCall(ctx context.Context, address string, client *sds.Identity, roots ...*sdsCA) (*x509.Certificate, error) {
	pool := x509.NewCertPool()
	for _, ca := range roots {
		pool.AddCert(ca.cert)
	}
	var shown *x509.Certificate
	config := &tls.Config{
		InsecureSkipVerify: true, // there is no host name to verify; the chain is, below
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			leaf, err := x509.ParseCertificate(raw[0])
			if err != nil {
				return err
			}
			shown = leaf
			_, err = leaf.Verify(x509.VerifyOptions{Roots: pool})
			return err
		},
	}
	if client != nil {
		key, err := x509.ParsePKCS8PrivateKey(client.Key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{client.Chain[0].Raw}, PrivateKey: key}}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/", nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	if response.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("status %d", response.StatusCode))
	}
	return shown, err
}

func soon(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// startSDSEnvoy starts Envoy while its secrets are not there, and has them come one after the other.
func startSDSEnvoy(t *testing.T, s *sdsServer, protocol string, first *sds.Identity, ca *sdsCA) *testkit.Envoy {
	t.Helper()
	type started struct {
		envoy *testkit.Envoy
		err   error
	}
	up := make(chan started, 1)
	go func() {
		envoy, err := testkit.StartEnvoy(t.Context(), testkit.EnvoyConfig{
			Name: "sds-" + strings.ToLower(protocol), Dir: t.TempDir(),
			Bootstrap: fmt.Sprintf(sdsBootstrap, s.socket, fmt.Sprintf(sdsSource, protocol)),
		})
		up <- started{envoy, err}
	}()
	for _, name := range []string{"default", "ROOTCA"} { // one missing secret holds the listener: so status says which
		soon(t, func() error {
			if got, ok := s.secret(name); !ok || got.Waiting == "" || got.Since.IsZero() {
				return fmt.Errorf("%s is not waited for: %+v", name, got)
			}
			return nil
		})
	}
	s.setBundle(1, nil, ca)
	s.setIdentity(first)
	select {
	case got := <-up:
		if got.err != nil {
			t.Fatal(got.err)
		}
		t.Cleanup(got.envoy.Stop)
		return got.envoy
	case <-time.After(patience):
		t.Fatal("Envoy does not start")
	}
	return nil
}

// TestSDS has a real Envoy get its certificate and roots, serve mutual TLS with them, and follow every change, by both
// protocols.
func TestSDS(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{sdsSotW, sdsDelta} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			old, next := newSDSCA(t, "old"), newSDSCA(t, "next")
			s := startSDS(t, filepath.Join(t.TempDir(), "s"), sds.Names{})
			i := old.identity(t, sdsID)
			envoy := startSDSEnvoy(t, s, protocol, i, old)
			client := old.identity(t, "spiffe://cluster.local/ns/shop/sa/order")
			serves := func(i, client *sds.Identity, roots ...*sdsCA) {
				t.Helper()
				soon(t, func() error {
					shown, err := sdsCall(t.Context(), envoy.Listener("in"), client, roots...)
					if err == nil && !bytes.Equal(shown.Raw, i.Chain[0].Raw) {
						err = errors.New("Envoy shows another certificate")
					}
					return err
				})
			}
			refuses := func(client *sds.Identity) {
				t.Helper()
				soon(t, func() error {
					if _, err := sdsCall(t.Context(), envoy.Listener("in"), client, old, next); err == nil {
						return errors.New("Envoy takes the client")
					}
					return nil
				})
			}
			serves(i, client, old)
			refuses(nil)
			refuses(next.identity(t, "spiffe://cluster.local/ns/shop/sa/order"))

			for range 3 { // renewals
				i = s.setIdentity(old.identity(t, sdsID))
				serves(i, client, old)
			}
			s.setBundle(2, nil, old, next) // the root, by its phases
			i = s.setIdentity(next.identity(t, sdsID))
			serves(i, client, old, next)
			late := next.identity(t, "spiffe://cluster.local/ns/shop/sa/order")
			serves(i, late, next)
			s.setBundle(3, nil, next)
			refuses(client)
			serves(i, late, next)
			s.setBundle(4, [][]byte{next.crl(t, late.Chain[0])}, next) // a revocation
			refuses(late)
			serves(i, next.identity(t, "spiffe://cluster.local/ns/shop/sa/order"), next)

			soon(t, func() error {
				for _, c := range s.server.Inventory().Consumers() {
					if c.Bundle != 4 || c.ID.String() != sdsID || !c.Connected {
						return fmt.Errorf("follower %+v", c)
					}
				}
				return nil
			})
			for name, updates := range map[string]uint64{"default": 5, "ROOTCA": 4} {
				soon(t, func() error {
					n, err := envoy.Counter(t.Context(), "sds."+name+".update_success")
					if err == nil && n < updates {
						err = fmt.Errorf("Envoy counts %d updates of %s, want %d", n, name, updates)
					}
					return err
				})
			}
			if n, err := envoy.Counter(t.Context(), "sds.default.update_rejected"); err != nil || n != 0 {
				t.Errorf("Envoy rejected %d updates, %v", n, err)
			}
		})
	}
}

// TestSDSRejection has a server come back whose secrets fit Envoy's configuration no longer: Envoy rejects, which shows and
// is not answered with more of the same, and keeps serving what it had.
func TestSDSRejection(t *testing.T) {
	t.Parallel()
	ca := newSDSCA(t, "root")
	s := startSDS(t, filepath.Join(t.TempDir(), "s"), sds.Names{})
	i := ca.identity(t, sdsID)
	envoy := startSDSEnvoy(t, s, sdsSotW, i, ca)
	client := ca.identity(t, "spiffe://cluster.local/ns/shop/sa/order")
	served := func() error {
		_, err := sdsCall(t.Context(), envoy.Listener("in"), client, ca)
		return err
	}
	soon(t, served)
	s.stop()
	if err := served(); err != nil {
		t.Errorf("without the server: %v", err)
	}
	s = startSDS(t, s.socket, sds.Names{Default: "other", Roots: "default", All: "ROOTCA"}) // no certificate under that name
	s.setBundle(2, nil, ca)
	var got sds.SecretStatus
	soon(t, func() error {
		var ok bool
		if got, ok = s.secret("default"); !ok || got.Rejections == 0 {
			return fmt.Errorf("nothing is rejected: %+v", got)
		}
		return nil
	})
	if got.Error == "" || got.Rejected != got.Sent || got.Acked != "" {
		t.Errorf("inventory: %+v", got)
	}
	if err := served(); err != nil {
		t.Errorf("after the rejection: %v", err)
	}
	s.setBundle(3, nil, ca, newSDSCA(t, "next")) // changed: sent again, once
	soon(t, func() error {
		if again, _ := s.secret("default"); again.Rejections != got.Rejections+1 {
			return fmt.Errorf("not one rejection for each version: %+v", again)
		}
		return nil
	})
	if n, err := envoy.Counter(t.Context(), "sds.default.update_rejected"); err != nil || n == 0 {
		t.Errorf("Envoy counts %d rejections, %v", n, err)
	}
}
