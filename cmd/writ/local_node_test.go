package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	spiffe "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// localConfig is an authority that serves its own machine, and publishes what verifies its identities.
func localConfig(extra string) string {
	return "state: ./state\nca: {listen: '127.0.0.1:0', default_ttl: 10m, jwt: {issuer: 'https://issuer.test'}, bundle_endpoint: '127.0.0.1:0'}\n" +
		"admin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\nsds:\n  listen: unix:agent.sock\n" + extra
}

// TestLocalNode is an authority that is its own machine's agent: whoever has an entry gets its secrets, by the names that
// the configuration gives them, and tokens; a restart takes no new set-up.
func TestLocalNode(t *testing.T) {
	t.Parallel()
	config := localConfig(fmt.Sprintf("  names: {roots: trust}\n  workloads:\n  - {id: %s, uid: %d}\n", paymentID, os.Getuid()))
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": config})
	for _, start := range []string{"first", "second"} {
		p := serve(t, dir)
		p.ready()
		local := &agentProcess{&process{t: t, dir: dir}}
		secret, err := local.secret("default")
		if err != nil || firstURI(t, string(secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes())) != paymentID {
			t.Fatalf("%s start: %v, %v", start, secret, err)
		}
		p.eventually("roots by the configured name, with a CRL", func() error {
			secret, err := local.secret("trust")
			if err == nil && len(secret.GetValidationContext().GetCrl().GetInlineBytes()) == 0 {
				err = errors.New("the CRL is missing")
			}
			return err
		})
		if _, err := local.secret(orderID); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s start: another's secret: %v", start, err)
		}
		p.eventually("followed by its own agent", func() error {
			if r := p.status(); r.Agent == nil || len(r.Agent.Identities) != 1 || r.CA == nil || len(r.CA.Followers) == 0 {
				return fmt.Errorf("status %+v", r)
			}
			return nil
		})
		text, err := p.get("/metrics/agent", http.StatusOK)
		if err != nil || !strings.Contains(text, "writ_agent_bundle_followed 1") {
			t.Errorf("%s start: metrics of the local agent: %v\n%s", start, err, text)
		}
		p.stop()
	}
}

// TestBundleEndpoint has a workload's token verified by somebody who knows the trust domain's bundle endpoint alone.
func TestBundleEndpoint(t *testing.T) {
	t.Parallel()
	config := localConfig(fmt.Sprintf("  workloads:\n  - {id: %s, uid: %d}\n", paymentID, os.Getuid()))
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": config})
	p := serve(t, dir)
	p.ready()
	var token *jwtsvid.SVID
	p.eventually("a token", func() (err error) {
		token, err = workloadapi.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "till"}, workloadapi.WithAddr("unix://"+filepath.Join(dir, "agent.sock")))
		return err
	})
	pem, err := os.ReadFile(filepath.Join(dir, "state", "bundle.pem"))
	if err != nil {
		t.Fatal(err)
	}
	td := spiffe.RequireTrustDomainFromString("cluster.local")
	known := spiffebundle.New(td)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, root := range parsedPEM(t, pem) {
		known.AddX509Authority(root)
	}
	endpoint := "https://" + p.address("bundle endpoint")
	fetched, err := federation.FetchBundle(t.Context(), td, endpoint+"/", federation.WithSPIFFEAuth(known, spiffe.RequireFromString("spiffe://cluster.local/writ/authority")))
	if err != nil {
		t.Fatal(err)
	}
	verified, err := jwtsvid.ParseAndValidate(token.Marshal(), fetched, []string{"till"})
	if err != nil || verified.ID.String() != paymentID || verified.Claims["iss"] != "https://issuer.test" {
		t.Errorf("%v, %v", verified, err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	for path, want := range map[string]string{"/keys": `"kid"`, "/.well-known/openid-configuration": `"https://issuer.test/keys"`} {
		response, err := client.Get(endpoint + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			t.Errorf("%s: %s, %s, %v", path, response.Status, text, err)
		}
	}
	if out, _ := command(t, dir, 0, "ca", "bundle", "-c", "writ.yaml", "--format", "spiffe"); !strings.Contains(out, `"jwt-svid"`) {
		t.Errorf("writ ca bundle lacks the keys of tokens: %s", out)
	}
	plain, err := http.Get("http://" + p.address("bundle endpoint") + "/") //nolint:noctx // that nothing answers is the point
	if err == nil {
		_ = plain.Body.Close()
		if plain.StatusCode == http.StatusOK {
			t.Error("the bundle is served in plaintext")
		}
	}
}

// TestDistribution is an Envoy, or an agent of another make, that follows the trust domain over mutual TLS: it gets what
// verifies others and never a key, it is what a rotation waits for, and a revocation ends it.
func TestDistribution(t *testing.T) {
	t.Parallel()
	p := serve(t, write(t, t.TempDir(), map[string]string{"writ.yaml": "state: ./state\nca: {listen: '127.0.0.1:0'}\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n"}))
	p.ready()
	p.join("order", orderID)
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.dir, "order", "cert.pem"), filepath.Join(p.dir, "order", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(filepath.Join(p.dir, "state", "bundle.pem"))
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	first := func(config *tls.Config, name string, headers ...string) (*follower, *tlsv3.Secret, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		f, err := follow(metadata.AppendToOutgoingContext(ctx, headers...), p.dial(p.address("ca"), credentials.NewTLS(config)), name)
		if err != nil {
			return nil, nil, err
		}
		secret, err := f.next()
		return f, secret, err
	}
	if _, _, err := first(config, "ROOTCA"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
	command(t, p.dir, 0, "token", "create", "-c", "writ.yaml", "--id", paymentID, "--out", "unused.token")
	token, err := os.ReadFile(filepath.Join(p.dir, "unused.token"))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = first(config, "ROOTCA", "authorization", "Bearer "+strings.TrimSpace(string(token)))
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("with a join token: %v", err)
	}
	config = config.Clone()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	if _, _, err := first(config, "default"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a private key over the network: %v", err)
	}
	f, secret, err := first(config, "ROOTCA")
	if err != nil || len(secret.GetValidationContext().GetCrl().GetInlineBytes()) == 0 || !secret.GetValidationContext().GetOnlyVerifyLeafCertCrl() {
		t.Fatalf("%v, %v", secret, err)
	}
	for _, step := range []string{"prepare", "distribute"} {
		command(t, p.dir, 0, "ca", "rotate", step, "-c", "writ.yaml", "--reason", "drill")
	}
	if secret, err = f.next(); err != nil {
		t.Fatal(err)
	}
	if len(parsedPEM(t, secret.GetValidationContext().GetTrustedCa().GetInlineBytes())) != 2 {
		t.Error("the new root does not arrive")
	}
	code, out, stderr := tryCommand(t, p.dir, "ca", "rotate", "activate", "-c", "writ.yaml", "--reason", "drill")
	if code == 0 || !strings.Contains(out+stderr, "consumer") {
		t.Errorf("activated before the follower acknowledged the new root: %d, %s%s", code, out, stderr)
	}
	text, _ := command(t, p.dir, 0, "status", "-c", "writ.yaml")
	if !strings.Contains(text, "who follows the bundle: 0 have version 2, 1 do not") {
		t.Errorf("status:\n%s", text)
	}
	command(t, p.dir, 0, "ca", "revoke", "-c", "writ.yaml", "--id", orderID, "--reason", "keyCompromise")
	for err = nil; err == nil; {
		_, err = f.next()
	}
	if status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unauthenticated {
		t.Errorf("a revoked follower: %v", err)
	}
}

func parsedPEM(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	list, err := parseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
