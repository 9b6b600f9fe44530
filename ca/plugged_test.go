package ca_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// files is a certificate authority that somebody else runs, as files: a root, a policy CA under it, and the signer.
type files struct {
	dir                string
	rootKey, middleKey *ecdsa.PrivateKey
	root, middle       *x509.Certificate
	key                *ecdsa.PrivateKey
	cert               *x509.Certificate
}

func issuerOf(tb testing.TB, name string, change func(*x509.Certificate), public any, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		tb.Fatal(err)
	}
	at := newClock().now()
	id := make([]byte, 20)
	_, _ = rand.Read(id)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: at.Add(-24 * time.Hour), NotAfter: at.Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: id,
	}
	if change != nil {
		change(template)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		tb.Fatal(err)
	}
	return parse(tb, der)
}

// newFiles writes Istio's cacerts layout.
func newFiles(tb testing.TB) *files {
	tb.Helper()
	f := &files{dir: tb.TempDir(), rootKey: newKey(tb), middleKey: newKey(tb), key: newKey(tb)}
	f.root = issuerOf(tb, "root", nil, f.rootKey.Public(), nil, f.rootKey)
	f.middle = issuerOf(tb, "policy", nil, f.middleKey.Public(), f.root, f.rootKey)
	f.cert = issuerOf(tb, "signer", func(c *x509.Certificate) { c.MaxPathLenZero = true }, f.key.Public(), f.middle, f.middleKey)
	f.write(tb)
	return f
}

func (f *files) write(tb testing.TB) {
	tb.Helper()
	f.put(tb, "ca-cert.pem", pemOf(f.cert))
	f.put(tb, "cert-chain.pem", pemOf(f.cert, f.middle, f.root))
	f.put(tb, "root-cert.pem", pemOf(f.root))
	f.put(tb, "ca-key.pem", keyPEM(tb, f.key))
}

func (f *files) put(tb testing.TB, name string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), content, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(tb testing.TB, key any) []byte {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (f *files) crl(tb testing.TB, issuer *x509.Certificate, key *ecdsa.PrivateKey, until time.Time, revoked ...*x509.Certificate) []byte {
	tb.Helper()
	list := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: until.Add(-48 * time.Hour), NextUpdate: until}
	for _, c := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: list.ThisUpdate})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// plugIn loads an authority from files.
func plugIn(tb testing.TB, f *files, change ...func(*ca.Config)) *bench {
	tb.Helper()
	cfg, store, clock := newConfig(tb)
	cfg.Plugged = f.dir
	for _, c := range change {
		c(&cfg)
	}
	a, err := ca.Load(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return &bench{Authority: a, store: store, clock: clock, cfg: cfg, profile: newProfile(tb, ca.ProfileConfig{})}
}

func TestPluggedIstio(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	b := plugIn(t, f)
	issued := b.issue(t, order, 0)
	// Surprise 2: leaf, signer, policy CA, each by itself; the root, which cert-chain.pem has as well, only at the end.
	var got []string
	for _, element := range issued.Chain {
		var names []string
		for _, c := range parsePEM(t, element) {
			names = append(names, c.Subject.CommonName)
		}
		got = append(got, strings.Join(names, "+"))
	}
	if want := ",signer,policy,root"; strings.Join(got, ",") != want {
		t.Errorf("the chain is %q, want %q", strings.Join(got, ","), want)
	}
	if err := verify(t, issued.Chain, b.clock.now()); err != nil {
		t.Error(err)
	}
	if _, err := ca.Init(t.Context(), b.cfg, ca.InitOptions{By: "test"}); err == nil {
		t.Error("made a root beside a plugged-in authority")
	}
	if err := b.Rotate(t.Context(), ca.StepPrepare, ca.StepOptions{By: "test"}); err == nil {
		t.Error("rotates roots that are not its own")
	}
}

func TestPluggedKubernetes(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	dir := t.TempDir()
	f.dir = filepath.Join(dir, "..2026")
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(f.key)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, "tls.crt", pemOf(f.cert, f.middle))
	f.put(t, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	f.put(t, "ca.crt", pemOf(f.root))
	if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	f.dir = dir
	b := plugIn(t, f)
	if err := verify(t, b.issue(t, order, 0).Chain, b.clock.now()); err != nil {
		t.Error(err)
	}
}

// TestPluggedChecks is identity §5.1: what Istio checks, and what it does not.
func TestPluggedChecks(t *testing.T) {
	t.Parallel()
	const soon = 5 * time.Minute
	at := newClock().now()
	signer := func(f *files, change func(*x509.Certificate)) *x509.Certificate {
		return issuerOf(t, "signer", change, f.key.Public(), f.middle, f.middleKey)
	}
	for _, c := range []struct {
		name   string
		change func(f *files)
		want   string
	}{
		{"nothing", func(f *files) { f.dir = t.TempDir() }, "no certificate authority"},
		{"no key", func(f *files) { remove(t, f, "ca-key.pem") }, "incomplete"},
		{"no chain", func(f *files) { remove(t, f, "cert-chain.pem") }, "incomplete"},
		{"no root", func(f *files) { remove(t, f, "root-cert.pem") }, "incomplete"},
		{"half of another layout", func(f *files) { f.put(t, "tls.crt", pemOf(f.cert)) }, "incomplete"},
		{"two layouts", func(f *files) {
			f.put(t, "tls.crt", pemOf(f.cert))
			f.put(t, "tls.key", keyPEM(t, f.key))
			f.put(t, "ca.crt", pemOf(f.root))
		}, "keep one"},
		{"another key", func(f *files) { f.put(t, "ca-key.pem", keyPEM(t, newKey(t))) }, "not that of the certificate"},
		{"a broken key", func(f *files) {
			f.put(t, "ca-key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
		}, "does not parse"},
		{"two keys", func(f *files) { f.put(t, "ca-key.pem", append(keyPEM(t, f.key), keyPEM(t, f.key)...)) }, "more than one"},
		{"another root", func(f *files) {
			other := newKey(t)
			f.put(t, "root-cert.pem", pemOf(issuerOf(t, "root", nil, other.Public(), nil, other)))
		}, "does not lead to a root"},
		{"the policy CA missing", func(f *files) { f.put(t, "cert-chain.pem", pemOf(f.cert, f.root)) }, "does not lead to a root"},
		{"a chain that begins elsewhere", func(f *files) { f.put(t, "cert-chain.pem", pemOf(f.middle, f.root)) }, "begins with"},
		{"not a CA", func(f *files) {
			f.cert = signer(f, func(c *x509.Certificate) { c.IsCA = false })
			f.write(t)
		}, "not a CA"},
		{"may not sign certificates", func(f *files) {
			f.cert = signer(f, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
			f.write(t)
		}, "keyCertSign"},
		{"no levels left", func(f *files) {
			f.middle = issuerOf(t, "policy", func(c *x509.Certificate) { c.MaxPathLenZero = true }, f.middleKey.Public(), f.root, f.rootKey)
			f.cert = signer(f, nil)
			f.write(t)
		}, "allows 0 issuers below"},
		{"ended", func(f *files) {
			f.cert = signer(f, func(c *x509.Certificate) { c.NotAfter = at.Add(-time.Hour) })
			f.write(t)
		}, "the clock says"},
		{"about to end", func(f *files) {
			f.cert = signer(f, func(c *x509.Certificate) { c.NotAfter = at.Add(soon) })
			f.write(t)
		}, "the clock says"},
		{"not yet valid", func(f *files) {
			f.cert = signer(f, func(c *x509.Certificate) { c.NotBefore = at.Add(time.Hour) })
			f.write(t)
		}, "the clock says"},
		{"a weak curve", func(f *files) {
			weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			f.cert = issuerOf(t, "signer", nil, weak.Public(), f.middle, f.middleKey)
			f.write(t)
			f.put(t, "ca-key.pem", keyPEM(t, weak))
		}, "P-224"},
		{"a short RSA key", func(f *files) {
			t.Helper()
			weak, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			f.cert = issuerOf(t, "signer", nil, weak.Public(), f.middle, f.middleKey)
			f.write(t)
			f.put(t, "ca-key.pem", keyPEM(t, weak))
		}, "1024 bits"},
		{"a CRL of the root alone", func(f *files) { f.put(t, "ca-crl.pem", f.crl(t, f.root, f.rootKey, at.Add(time.Hour))) }, "every issuer needs one"},
		{"a CRL by somebody else", func(f *files) {
			f.put(t, "ca-crl.pem", f.crls(t, at.Add(time.Hour), f.crl(t, f.middle, f.rootKey, at.Add(time.Hour))))
		}, "every issuer needs one"},
		{"an old CRL", func(f *files) { f.put(t, "ca-crl.pem", f.allCRLs(t, at.Add(-time.Hour))) }, "fetch a new one"},
		{"a revoked signer", func(f *files) { f.put(t, "ca-crl.pem", f.allCRLs(t, at.Add(time.Hour), f.cert)) }, "is revoked by"},
		{"a root that is no certificate", func(f *files) { f.put(t, "root-cert.pem", keyPEM(t, f.key)) }, "want CERTIFICATE"},
		{"an empty root", func(f *files) { f.put(t, "root-cert.pem", nil) }, "no PEM block"},
		{"a huge root", func(f *files) { f.put(t, "root-cert.pem", make([]byte, 1<<20+1)) }, "more than"},
	} {
		f := newFiles(t)
		c.change(f)
		cfg, _, _ := newConfig(t)
		cfg.Plugged = f.dir
		_, err := ca.Load(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error quotes the key: %v", c.name, err)
		}
	}
}

func remove(tb testing.TB, f *files, name string) {
	tb.Helper()
	if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
		tb.Fatal(err)
	}
}

func (f *files) allCRLs(tb testing.TB, until time.Time, revoked ...*x509.Certificate) []byte {
	return f.crls(tb, until, f.crl(tb, f.middle, f.middleKey, until, revoked...))
}

// crls are those of root and signer, and one more.
func (f *files) crls(tb testing.TB, until time.Time, middle []byte) []byte {
	out := append(f.crl(tb, f.root, f.rootKey, until), f.crl(tb, f.cert, f.key, until)...)
	return append(out, middle...)
}

func TestPluggedReload(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	b := plugIn(t, f)
	first := b.issue(t, order, 0)
	by := ca.StepOptions{By: "test"}

	// A partial update is refused, and the last good files stay.
	chain := pemOf(f.cert, f.middle, f.root)
	remove(t, f, "cert-chain.pem")
	if err := b.Reload(t.Context(), by); err == nil {
		t.Error("took a partial set of files")
	}
	if !alarmed(b.Authority, ca.AlarmReload) {
		t.Error("no alarm")
	}
	b.issue(t, order, 0)

	// A new signer under the same root is taken at once, with the same bundle version.
	f.put(t, "cert-chain.pem", chain)
	f.key = newKey(t)
	f.cert = issuerOf(t, "signer 2", nil, f.key.Public(), f.middle, f.middleKey)
	f.write(t)
	if err := b.Reload(t.Context(), by); err != nil {
		t.Fatal(err)
	}
	second := b.issue(t, order, 0)
	if second.Issuer == first.Issuer || second.Bundle != first.Bundle || alarmed(b.Authority, ca.AlarmReload) {
		t.Errorf("issuer %s, bundle %d after %d, alarms %v", second.Issuer, second.Bundle, first.Bundle, b.Status().Alarms)
	}
	if n := len(b.CRLs().List); n != 2 {
		t.Errorf("%d CRLs, want those of the new and of the old signer", n)
	}

	// Another root altogether cuts off those who have certificates: refused, unless overridden.
	other := newFiles(t)
	other.dir = f.dir
	other.write(t)
	var dependents *ca.DependentsError
	if err := b.Reload(t.Context(), by); !errors.As(err, &dependents) || len(dependents.Dependents) != 1 || dependents.Dependents[0].Name != order {
		t.Fatalf("reload with another root: %v", err)
	}
	if got := b.issue(t, order, 0); got.Issuer != second.Issuer {
		t.Error("the refused files are in use")
	}
	if err := b.Reload(t.Context(), ca.StepOptions{By: "test", Override: true, Reason: "drill"}); err != nil {
		t.Fatal(err)
	}
	third := b.issue(t, order, 0)
	if third.Bundle != first.Bundle+1 {
		t.Errorf("bundle %d after %d", third.Bundle, first.Bundle)
	}
	if got := audited(t, b); !strings.Contains(got, "override") {
		t.Errorf("audit: %s", got)
	}
	again := b.reopen(t)
	if got := again.Bundle().Version; got != third.Bundle {
		t.Errorf("bundle %d after a restart, want %d", got, third.Bundle)
	}
}

// TestPluggedWithoutCRLSign: no CRL, a clear alarm, and the deny list works.
func TestPluggedWithoutCRLSign(t *testing.T) {
	t.Parallel()
	f := newFiles(t)
	f.cert = issuerOf(t, "signer", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }, f.key.Public(), f.middle, f.middleKey)
	f.write(t)
	b := plugIn(t, f)
	issued := b.issue(t, order, 0)
	if !alarmed(b.Authority, ca.AlarmCRL) {
		t.Errorf("alarms %v", b.Status().Alarms)
	}
	err := b.Revoke(t.Context(), ca.Revocation{Serial: issued.Serial, By: "test"})
	if err == nil || !strings.Contains(err.Error(), "cRLSign") || !b.Deny().Serial(issued.Serial) {
		t.Errorf("revoke: %v; denied %v", err, b.Deny().Serial(issued.Serial))
	}
}
