package citadel_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"istio.io/istio/security/pkg/nodeagent/caclient/providers/citadel"
	pkiutil "istio.io/istio/security/pkg/pki/util"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

const (
	order = "spiffe://" + built.TrustDomain + "/ns/coffee-shop/sa/order"
	// life of a certificate: the shortest there is.
	life = 10 * time.Second
	// patience is for what takes no time by itself, on a busy machine, and for the steps of a rotation, of which some
	// wait for half a minute.
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(built.Main(m)) }

// checkPair demands of a secret what Envoy and its peers do at that time, and returns the leaf.
func checkPair(t *testing.T, secret delivery, roots []byte) *x509.Certificate {
	t.Helper()
	chain, key := secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes(), secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes()
	if _, err := tls.X509KeyPair(chain, key); err != nil {
		t.Fatalf("the key does not fit the certificate: %v", err)
	}
	certs := built.Certificates(t, chain)
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	if !anchors.AppendCertsFromPEM(roots) {
		t.Fatal("no roots")
	}
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between, CurrentTime: secret.at}); err != nil {
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
	a := built.Start(t, life)
	g := startAgent(t, a)
	pairs, anchors := g.subscribe(t, "default"), g.subscribe(t, "ROOTCA")

	first := next(t, pairs, patience)
	roots := next(t, anchors, patience).GetValidationContext().GetTrustedCa().GetInlineBytes()
	if !bytes.Equal(bytes.TrimSpace(roots), bytes.TrimSpace(a.Roots())) {
		t.Errorf("Envoy is to trust\n%s\nwant\n%s", roots, a.Roots())
	}
	last := checkPair(t, first, roots)
	if n := len(built.Certificates(t, first.GetTlsCertificate().GetCertificateChain().GetInlineBytes())); n != 3 {
		t.Errorf("%d certificates, want leaf, intermediate and root", n)
	}
	for range 3 {
		secret := next(t, pairs, life)
		renewed := checkPair(t, secret, roots)
		if renewed.SerialNumber.Cmp(last.SerialNumber) == 0 || bytes.Equal(renewed.RawSubjectPublicKeyInfo, last.RawSubjectPublicKeyInfo) {
			t.Error("the renewed certificate has the old serial number or key")
		}
		if left := last.NotAfter.Sub(secret.at); left < life/4 {
			t.Errorf("the old certificate had %v of %v left when the new one came, want about half", left, life)
		}
		last = renewed
	}
	a.Stop()
	for _, c := range a.Calls() {
		if c.Outcome != "issued" || c.ID != order || c.Cluster != "c1" || c.Caller.Method != "oidc" || c.Caller.ID != order {
			t.Errorf("the authority saw %+v", c)
		}
	}
}

// TestChain is the layout of the answer, identity §2.6: leaf, intermediate, and all roots in one string at the end.
func TestChain(t *testing.T) {
	a := built.Start(t, life)
	ask := func() []string {
		t.Helper()
		csr, _ := request(t, order)
		chain, err := client(t, options(t, a.Address, a.Issuer.Token(t, "coffee-shop", "order")), a.RootsFile()).CSRSign(csr, 60)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	check := func(chain []string, roots int) {
		t.Helper()
		if len(chain) != 3 {
			t.Fatalf("%d elements, want leaf, intermediate and roots", len(chain))
		}
		for i, want := range []int{1, 1, roots} {
			if n := len(built.Certificates(t, []byte(chain[i]))); n != want || !strings.HasSuffix(chain[i], "\n") {
				t.Errorf("element %d has %d certificates, want %d, and a newline at the end:\n%s", i, n, want, chain[i])
			}
		}
		if chain[2] != string(a.Roots()) {
			t.Errorf("the last element is\n%s\nand published are\n%s", chain[2], a.Roots())
		}
	}
	check(ask(), 1)
	for _, step := range []string{"prepare", "distribute"} {
		a.RotateWithin(step, patience)
	}
	check(ask(), 2)
}

// anchorsOf waits until Envoy is to trust so many roots.
func anchorsOf(t *testing.T, anchors <-chan delivery, count int) []byte {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		roots := next(t, anchors, time.Until(deadline)).GetValidationContext().GetTrustedCa().GetInlineBytes()
		if len(built.Certificates(t, roots)) == count {
			return roots
		}
	}
}

// TestAgentFollowsRotation: an operator replaces the root, step by step and without an override. The agent hands both
// roots to Envoy in between, so that nobody is cut off, and the steps wait for it.
func TestAgentFollowsRotation(t *testing.T) {
	a := built.Start(t, life)
	g := startAgent(t, a)
	pairs, anchors := g.subscribe(t, "default"), g.subscribe(t, "ROOTCA")
	oldRoots := a.Roots()
	old := checkPair(t, next(t, pairs, patience), oldRoots)
	next(t, anchors, patience)

	a.RotateWithin("prepare", patience)
	a.RotateWithin("distribute", patience)
	if a.Rotate("activate") {
		t.Error("the new root signs although the agent cannot have it yet")
	}
	both := anchorsOf(t, anchors, 2)
	a.RotateWithin("activate", patience)
	if a.Rotate("taint") {
		t.Error("the old root is tainted although the agent's certificate is under it")
	}
	deadline := time.Now().Add(patience)
	for young := old; bytes.Equal(young.AuthorityKeyId, old.AuthorityKeyId); {
		young = checkPair(t, next(t, pairs, time.Until(deadline)), both)
	}
	a.RotateWithin("taint", patience)
	a.RotateWithin("revoke", patience)
	young := anchorsOf(t, anchors, 1)
	if bytes.Contains(oldRoots, bytes.TrimSpace(young)) || !bytes.Equal(bytes.TrimSpace(young), bytes.TrimSpace(a.Roots())) {
		t.Errorf("Envoy is to trust\n%s\nwant the new root alone\n%s", young, a.Roots())
	}
	checkPair(t, next(t, pairs, patience), young)
}

// TestAgentSurvivesOutage: the authority ends and comes back with its ledger; the agent goes on by itself.
func TestAgentSurvivesOutage(t *testing.T) {
	a := built.Start(t, life)
	g := startAgent(t, a)
	pairs := g.subscribe(t, "default")
	roots := a.Roots()
	before := checkPair(t, next(t, pairs, patience), roots)
	a.Stop()
	select {
	case <-g.failed: // it has asked in vain
	case <-time.After(patience):
		t.Fatal("the agent does not notice that the authority is away")
	}
	a.Serve()
	if !bytes.Equal(a.Roots(), roots) {
		t.Error("the authority came back with another root")
	}
	for after := before; after.SerialNumber.Cmp(before.SerialNumber) == 0; {
		after = checkPair(t, next(t, pairs, patience), roots)
	}
}

// TestRefusals are the rows of identity §2.7 that are final: Istio's client does not try again.
func TestRefusals(t *testing.T) {
	a := built.Start(t, life)
	good, revoked := a.Issuer.Token(t, "coffee-shop", "order"), a.Issuer.Token(t, "coffee-shop", "printer")
	const payment, printer = "spiffe://" + built.TrustDomain + "/ns/coffee-shop/sa/payment", "spiffe://" + built.TrustDomain + "/ns/coffee-shop/sa/printer"
	a.Do("ca", "revoke", "-c", "writ.yaml", "--id", printer, "--reason", "keyCompromise")
	used := a.JoinToken(order)
	for _, test := range []struct {
		name   string // and cluster, to find the calls in the log
		token  string
		id     string // in the request; "" = no request but nonsense
		signer string
		code   codes.Code
	}{
		{"issued", good, order, "", codes.OK},
		{"join token", used, order, "", codes.OK},
		{"no token", "", order, "", codes.Unauthenticated},
		{"bad token", "abc", order, "", codes.Unauthenticated},
		{"replayed join token", used, order, "", codes.Unauthenticated},
		{"another identity in the request", good, payment, "", codes.InvalidArgument},
		{"malformed request", good, "", "", codes.InvalidArgument},
		{"unknown signer", good, order, "other", codes.InvalidArgument},
		{"revoked", revoked, printer, "", codes.PermissionDenied},
	} {
		options := options(t, a.Address, test.token)
		options.CertSigner, options.ClusterID = test.signer, test.name
		csr := []byte("x")
		if test.id != "" {
			csr, _ = request(t, test.id)
		}
		_, err := client(t, options, a.RootsFile()).CSRSign(csr, 60)
		if (err == nil) != (test.code == codes.OK) || err != nil && !strings.Contains(err.Error(), "code = "+test.code.String()) {
			t.Errorf("%s: %v, want %v", test.name, err, test.code)
		}
	}
	a.Stop()
	attempts := map[string]int{}
	for _, c := range a.Calls() {
		attempts[c.Cluster]++
		if attempts[c.Cluster] > 1 {
			t.Errorf("%s: asked again: %+v", c.Cluster, c)
		}
	}
	if len(attempts) != 9 {
		t.Errorf("calls %v, want one for each of 9", attempts)
	}
}

// TestRetries are the rows of identity §2.7 that pass: Istio's client tries five times in all. They need an authority that
// fails when it is told.
func TestRetries(t *testing.T) {
	a := startFaulty(t)
	token := a.issuer.Token(t, "coffee-shop", "order")
	for _, test := range []struct {
		name     string
		fail     string
		code     string
		attempts int
	}{
		{"issued", "none", "OK", 1},
		{"store down", "unavailable", "Unavailable", 5},
		{"no signer", "not_ready", "Unavailable", 5},
		{"self-check", "internal", "Internal", 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			a.command(t, "fail %s", test.fail)
			csr, _ := request(t, order)
			_, err := client(t, options(t, a.address, token), a.roots).CSRSign(csr, 60)
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

// TestRenewalByCertificate is recipe D of identity §3.3: a machine renews by its certificate, and goes on sending the
// token it came with.
func TestRenewalByCertificate(t *testing.T) {
	a := built.Start(t, life)
	join, dir := a.JoinToken(order), t.TempDir()
	chainFile, keyFile := filepath.Join(dir, "cert-chain.pem"), filepath.Join(dir, "key.pem")
	renew := func(more ...func(*citadel.TLSOptions)) {
		t.Helper()
		csr, key := request(t, order)
		chain, err := client(t, options(t, a.Address, join), a.RootsFile(), more...).CSRSign(csr, 60)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{chainFile: []byte(strings.Join(chain, "")), keyFile: key} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	renew()
	for range 3 {
		renew(func(o *citadel.TLSOptions) { o.Cert, o.Key = chainFile, keyFile })
	}
	a.Stop()
	calls := a.Calls()
	if len(calls) != 4 || calls[0].Caller.Method != "join_token" {
		t.Fatalf("the authority saw %+v, want one call by join token and three after it", calls)
	}
	for _, c := range calls[1:] {
		if c.Outcome != "issued" || c.Caller.Method != "client_cert" || !strings.Contains(c.Caller.Detail, "set aside") {
			t.Errorf("the authority saw %+v", c)
		}
	}
}
