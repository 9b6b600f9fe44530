package citadel_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"istio.io/istio/security/pkg/nodeagent/caclient/providers/citadel"
	pkiutil "istio.io/istio/security/pkg/pki/util"
)

const order = "spiffe://" + trustDomain + "/ns/coffee-shop/sa/order"

// certificates reads all certificates of a PEM text.
func certificates(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// checkPair demands of a secret what Envoy and its peers do, and returns the leaf.
func checkPair(t *testing.T, secret *tlsv3.Secret, roots []byte) *x509.Certificate {
	t.Helper()
	chain, key := secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes()
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		t.Fatalf("the key does not fit the certificate: %v", err)
	}
	certs := certificates(t, chain)
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	if !anchors.AppendCertsFromPEM(roots) {
		t.Fatal("no roots")
	}
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between}); err != nil {
		t.Fatal(err)
	}
	if uris := certs[0].URIs; len(uris) != 1 || uris[0].String() != order {
		t.Fatalf("certificate for %v", uris)
	}
	return certs[0]
}

func request(t *testing.T, identity string) ([]byte, []byte) {
	t.Helper()
	csr, key, err := pkiutil.GenCSR(pkiutil.CertOptions{Host: identity, ECSigAlg: pkiutil.EcdsaSigAlg, RSAKeySize: 2048})
	if err != nil {
		t.Fatal(err)
	}
	return csr, key
}

// TestAgentGetsAndRenews: istio-agent brings a certificate to Envoy, and a new one at half of its life, without a gap.
func TestAgentGetsAndRenews(t *testing.T) {
	a := startAuthority(t)
	g := a.startAgent(t)
	pairs, anchors := g.subscribe(t, "default"), g.subscribe(t, "ROOTCA")

	first := next(t, pairs, 30*time.Second)
	roots := next(t, anchors, 30*time.Second).GetValidationContext().GetTrustedCa().GetInlineBytes()
	if !bytes.Equal(bytes.TrimSpace(roots), bytes.TrimSpace([]byte(a.roots))) {
		t.Errorf("Envoy is to trust\n%s\nwant\n%s", roots, a.roots)
	}
	last := checkPair(t, first, roots)
	if n := len(certificates(t, first.GetTlsCertificate().GetCertificateChain().GetInlineBytes())); n != 3 {
		t.Errorf("%d certificates, want leaf, intermediate and root", n)
	}
	for range 3 {
		renewed := checkPair(t, next(t, pairs, life), roots)
		if renewed.SerialNumber.Cmp(last.SerialNumber) == 0 || bytes.Equal(renewed.RawSubjectPublicKeyInfo, last.RawSubjectPublicKeyInfo) {
			t.Error("the renewed certificate has the old serial number or key")
		}
		if !time.Now().Before(last.NotAfter) {
			t.Error("the old certificate had ended when the new one came")
		}
		last = renewed
	}
	for _, c := range a.seen() {
		if c.Outcome != "issued" || c.ID != order || c.Cluster != "c1" || !strings.HasPrefix(c.Caller, "oidc:system:serviceaccount:coffee-shop:order") {
			t.Errorf("the authority saw %+v", c)
		}
	}
}

// anchorsOf waits until Envoy is to trust so many roots.
func anchorsOf(t *testing.T, anchors <-chan *tlsv3.Secret, count int) []byte {
	t.Helper()
	for deadline := time.Now().Add(4 * life); ; {
		roots := next(t, anchors, time.Until(deadline)).GetValidationContext().GetTrustedCa().GetInlineBytes()
		if len(certificates(t, roots)) == count {
			return roots
		}
	}
}

// TestAgentFollowsRotation: during a rotation the agent hands both roots to Envoy, so that nobody is cut off.
func TestAgentFollowsRotation(t *testing.T) {
	a := startAuthority(t)
	g := a.startAgent(t)
	pairs, anchors := g.subscribe(t, "default"), g.subscribe(t, "ROOTCA")
	old := checkPair(t, next(t, pairs, 30*time.Second), []byte(a.roots))
	next(t, anchors, 30*time.Second)
	for _, step := range []string{"prepare", "distribute"} {
		a.command(t, "rotate %s", step)
	}
	both := anchorsOf(t, anchors, 2) // while a new one is published
	a.command(t, "rotate activate")
	deadline := time.Now().Add(3 * life)
	for young := old; bytes.Equal(young.AuthorityKeyId, old.AuthorityKeyId); {
		if time.Now().After(deadline) {
			t.Fatal("no certificate under the new root")
		}
		young = checkPair(t, next(t, pairs, 2*life), both)
	}
	for _, step := range []string{"taint", "revoke"} {
		a.command(t, "rotate %s", step)
	}
	young := anchorsOf(t, anchors, 1)
	if bytes.Contains([]byte(a.roots), bytes.TrimSpace(young)) {
		t.Error("the old root is what is left")
	}
}

// TestAgentSurvivesOutage: the authority ends and comes back with its ledger; the agent goes on by itself.
func TestAgentSurvivesOutage(t *testing.T) {
	a := startAuthority(t)
	g := a.startAgent(t)
	pairs := g.subscribe(t, "default")
	before := checkPair(t, next(t, pairs, 30*time.Second), []byte(a.roots))
	roots := a.roots
	a.stop(t)
	time.Sleep(life) //nolint:forbidigo // long enough for the agent to ask in vain
	a.start(t)
	if a.roots != roots {
		t.Error("the authority came back with another root")
	}
	after := before
	for after.SerialNumber.Cmp(before.SerialNumber) == 0 {
		after = checkPair(t, next(t, pairs, 60*time.Second), []byte(roots))
	}
}

// TestRetries is the table of identity §2.7: what makes Istio's client try again, five times in all, and what does not.
func TestRetries(t *testing.T) {
	a := startAuthority(t)
	good := a.token(t, "coffee-shop", "order")
	used := a.command(t, "token %s", order).Token.Token
	csr, _ := request(t, order)
	foreign, _ := request(t, "spiffe://"+trustDomain+"/ns/coffee-shop/sa/payment")
	if _, err := a.client(t, a.options(t, used)).CSRSign(csr, 60); err != nil {
		t.Fatal(err)
	}
	a.seen()
	for _, test := range []struct {
		name     string
		token    string
		csr      []byte
		signer   string
		fail     string
		code     string
		attempts int
	}{
		{"issued", good, nil, "", "none", "OK", 1},
		{"bad token", "abc", nil, "", "none", "Unauthenticated", 1},
		{"replayed join token", used, nil, "", "none", "Unauthenticated", 1},
		{"another identity in the request", good, foreign, "", "none", "InvalidArgument", 1},
		{"malformed request", good, []byte("x"), "", "none", "InvalidArgument", 1},
		{"unknown signer", good, nil, "other", "none", "InvalidArgument", 1},
		{"revoked", good, nil, "", "revoked", "PermissionDenied", 1},
		{"store down", good, nil, "", "unavailable", "Unavailable", 5},
		{"no signer", good, nil, "", "not_ready", "Unavailable", 5},
		{"self-check", good, nil, "", "internal", "Internal", 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.command(t, "fail %s", test.fail)
			options := a.options(t, test.token)
			options.CertSigner = test.signer
			client := a.client(t, options)
			defer client.Close()
			csr := test.csr
			if csr == nil {
				csr, _ = request(t, order)
			}
			_, err := client.CSRSign(csr, 60)
			if (err == nil) != (test.code == "OK") {
				t.Errorf("error %v", err)
			}
			a.command(t, "fail none") // by the time it answers, all calls before were written
			calls := a.seen()
			if len(calls) != test.attempts || slices.ContainsFunc(calls, func(c callEvent) bool { return c.Code != test.code }) {
				t.Errorf("%d attempts, want %d with %s: %+v", len(calls), test.attempts, test.code, calls)
			}
		})
	}
}

// TestRenewalByCertificate is recipe D: a machine renews by its certificate, and goes on sending the token it came with.
func TestRenewalByCertificate(t *testing.T) {
	a := startAuthority(t)
	join := a.command(t, "token %s", order).Token.Token
	csr, key := request(t, order)
	chain, err := a.client(t, a.options(t, join)).CSRSign(csr, 3600)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := func(o *citadel.TLSOptions) {
		o.Cert, o.Key = filepath.Join(dir, "cert-chain.pem"), filepath.Join(dir, "key.pem")
	}
	write := func(chain []string, key []byte) {
		t.Helper()
		for name, content := range map[string][]byte{"cert-chain.pem": []byte(strings.Join(chain, "")), "key.pem": key} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(chain, key)
	a.seen()
	for range 3 {
		csr, key := request(t, order)
		renewed, err := a.client(t, a.options(t, join), files).CSRSign(csr, 3600)
		if err != nil {
			t.Fatal(err)
		}
		write(renewed, key)
	}
	a.command(t, "fail none")
	calls := a.seen()
	if len(calls) != 3 {
		t.Errorf("%d calls", len(calls))
	}
	for _, c := range calls {
		if !strings.HasPrefix(c.Caller, "client_cert:join_token:") || !strings.Contains(c.Detail, "set aside") {
			t.Errorf("the authority saw %+v", c)
		}
	}
}
