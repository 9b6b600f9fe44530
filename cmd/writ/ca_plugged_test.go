package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit"
)

// upstream is a certificate authority that somebody else runs.
type upstream struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	root *x509.Certificate
	made int64
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{t: t, key: newECDSA(t, elliptic.P256())}
	template := u.template("root")
	u.root = sign(t, template, template, u.key.Public(), u.key)
	return u
}

func (u *upstream) template(name string) *x509.Certificate {
	u.made++
	return &x509.Certificate{
		SerialNumber: big.NewInt(u.made), Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(name), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// issuer is a new signing certificate, as the files of a kubernetes.io/tls secret.
func (u *upstream) issuer(name string) map[string]string {
	u.t.Helper()
	return u.issuerOf(name, newECDSA(u.t, elliptic.P256()))
}

// issuerOf is a signing certificate for a key.
func (u *upstream) issuerOf(name string, key *ecdsa.PrivateKey) map[string]string {
	u.t.Helper()
	cert := sign(u.t, u.template(name), u.root, key.Public(), u.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		u.t.Fatal(err)
	}
	return map[string]string{
		"ca/tls.crt": pemOf("CERTIFICATE", cert.Raw), "ca/tls.key": pemOf("PRIVATE KEY", der), "ca/ca.crt": pemOf("CERTIFICATE", u.root.Raw),
	}
}

// cacerts is a new signing certificate in Istio's layout.
func (u *upstream) cacerts(name string) map[string]string {
	u.t.Helper()
	f := u.issuer(name)
	return map[string]string{
		"ca/ca-cert.pem": f["ca/tls.crt"], "ca/ca-key.pem": f["ca/tls.key"], "ca/root-cert.pem": f["ca/ca.crt"], "ca/cert-chain.pem": f["ca/tls.crt"] + f["ca/ca.crt"],
	}
}

// signsWith is nil if certificates are signed by this subject and these alarms are up.
func (p *authorityProcess) signsWith(name string, alarms ...ca.AlarmCode) error {
	p.t.Helper()
	out, _ := command(p.t, p.dir, 0, "ca", "show", "-c", "writ.yaml", "-o", "json")
	var r caReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		p.t.Fatal(err)
	}
	var up []ca.AlarmCode
	for _, a := range r.Alarms {
		up = append(up, a.Code)
	}
	if r.Signer.Subject != name || !slices.Equal(up, alarms) {
		return fmt.Errorf("signs with %s, alarms %v", r.Signer.Subject, up)
	}
	return nil
}

// TestPluggedAuthority signs with somebody else's authority, takes new files up when told, and keeps the last good ones.
func TestPluggedAuthority(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	config := strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", plugged: {dir: ./ca}`, 1)
	p := serveCA(t, config, u.issuer("first"))
	p.join("order", orderID)
	if err := p.signsWith("CN=first"); err != nil {
		t.Error(err)
	}
	signsWith := func(want string, alarms ...ca.AlarmCode) {
		t.Helper()
		p.signal(syscall.SIGHUP)
		p.eventually("signing with "+want, func() error { return p.signsWith(want, alarms...) })
	}
	write(t, p.dir, u.issuer("second"))
	signsWith("CN=second")
	p.renew(0, "order")

	if err := os.Remove(filepath.Join(p.dir, "ca", "tls.key")); err != nil {
		t.Fatal(err)
	}
	signsWith("CN=second", ca.AlarmReload)
	p.renew(0, "order")
	if text, _ := command(t, p.dir, 0, "status", "-c", "writ.yaml"); !strings.Contains(text, "reload") || !strings.Contains(text, "plugged in") {
		t.Errorf("status:\n%s", text)
	}
	// Another root would cut off whoever has a certificate.
	write(t, p.dir, newUpstream(t).issuer("stranger"))
	signsWith("CN=second", ca.AlarmReload)
	write(t, p.dir, u.issuer("third"))
	signsWith("CN=third")
	command(t, p.dir, 1, "ca", "rotate", "prepare", "-c", "writ.yaml")
	p.stop()
	command(t, p.dir, 1, "ca", "init", "-c", "writ.yaml")
}

// TestValidatePlugged names what is wrong with key material without starting, or leaving, anything.
func TestValidatePlugged(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	leaf := u.template("leaf")
	leaf.IsCA, leaf.KeyUsage = false, x509.KeyUsageDigitalSignature
	ended := u.template("ended")
	ended.NotAfter = time.Now().Add(5 * time.Minute)
	issued := func(template *x509.Certificate) map[string]string {
		f := u.issuer("issuer")
		key := newECDSA(t, elliptic.P256())
		f["ca/tls.crt"] = pemOf("CERTIFICATE", sign(t, template, u.root, key.Public(), u.key).Raw)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		f["ca/tls.key"] = pemOf("PRIVATE KEY", der)
		return f
	}
	without := func(f map[string]string, name string) map[string]string {
		delete(f, name)
		return f
	}
	with := func(f map[string]string, name, content string) map[string]string {
		f[name] = content
		return f
	}
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"good":             {u.issuer("issuer"), ""},
		"good, as cacerts": {u.cacerts("issuer"), ""},
		"nothing":          {map[string]string{"ca/readme": ""}, "ca: no certificate authority: want ca-cert.pem"},
		"a file missing":   {without(u.cacerts("issuer"), "ca/root-cert.pem"), "the Istio cacerts layout is incomplete, missing or unreadable: root-cert.pem"},
		"another's key":    {with(u.issuer("issuer"), "ca/tls.key", u.issuer("other")["ca/tls.key"]), `the key is not that of the certificate "CN=issuer"`},
		"another's root":   {with(u.issuer("issuer"), "ca/ca.crt", newUpstream(t).issuer("x")["ca/ca.crt"]), "does not lead to a root of the bundle"},
		"no key at all":    {with(u.issuer("issuer"), "ca/tls.key", "secret"), "tls.key: no private key"},
		"no CA":            {issued(leaf), "leaf"},
		"soon over":        {issued(ended), "want 10m0s left"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tmp := t.TempDir()
			dir := write(t, t.TempDir(), tt.files)
			write(t, dir, map[string]string{"writ.yaml": "state: ./state\nca: {plugged: {dir: ./ca}}\n"})
			validate := writ(t, "validate", "-c", "writ.yaml")
			validate.Dir, validate.Env = dir, append(validate.Env, "TMPDIR="+tmp)
			out, err := validate.CombinedOutput()
			if (err == nil) != (tt.want == "") || !strings.Contains(string(out), tt.want) || err != nil && !strings.Contains(string(out), "writ.yaml: ca.plugged: ") {
				t.Errorf("%v, want %q:\n%s", err, tt.want, out)
			}
			if strings.Contains(string(out), "secret") {
				t.Errorf("it shows what the key file holds:\n%s", out)
			}
			_, err = os.Stat(filepath.Join(dir, "state"))
			if left, _ := os.ReadDir(tmp); err == nil || len(left) > 0 {
				t.Errorf("it left something behind: %v", left)
			}
		})
	}
}

// TestPluggedFilesAreWatched: an authority that runs takes up new files in Istio's layout by itself, and keeps the last good
// ones while what is there is no good, visibly.
func TestPluggedFilesAreWatched(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	p := serveCA(t, strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", plugged: {dir: ./ca}`, 1), u.cacerts("first"))
	p.join("order", orderID)
	p.issuedBy("order", "CN=first")
	p.metric(`writ_ca_alarm{code="reload"} 0`)

	write(t, p.dir, u.cacerts("second"))
	p.eventually("signing with the second", func() error { return p.signsWith("CN=second") })
	p.renew(0, "order")
	p.issuedBy("order", "CN=second")

	broken := u.cacerts("third")
	broken["ca/ca-key.pem"] = u.cacerts("of another key")["ca/ca-key.pem"]
	write(t, p.dir, broken)
	p.eventually("an alarm", func() error { return p.signsWith("CN=second", ca.AlarmReload) })
	p.metric(`writ_ca_alarm{code="reload"} 1`)
	p.ready() // it issues as before
	p.renew(0, "order")
	p.issuedBy("order", "CN=second")
	if text, _ := command(t, p.dir, 0, "status", "-c", "writ.yaml"); !strings.Contains(text, "certificates: reload: ") || !strings.Contains(text, "key") {
		t.Errorf("status:\n%s", text)
	}

	write(t, p.dir, u.cacerts("fourth"))
	p.eventually("signing with the fourth", func() error { return p.signsWith("CN=fourth") })
	p.metric(`writ_ca_alarm{code="reload"} 0`)
	if taken := strings.Count(p.logged(), "the plugged-in authority was read again"); taken != 2 {
		t.Errorf("files were taken up %d times, want 2", taken)
	}
	p.stop()
}

// issuedBy holds the certificate in a directory to its issuer.
func (p *authorityProcess) issuedBy(out, issuer string) {
	p.t.Helper()
	text, _ := command(p.t, p.dir, 0, "cert", out+"/cert.pem", "--bundle", out+"/bundle.pem")
	if !strings.Contains(text, "signed by  "+issuer+",") {
		p.t.Errorf("%s is not by %s:\n%s", out, issuer, text)
	}
}

// TestServiceAccountToken lets Kubernetes' service accounts in by their tokens, and nobody else once that is configured.
func TestServiceAccountToken(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	idp := identityProvider(t, keys)
	attest := fmt.Sprintf(`"127.0.0.1:0", attest: {oidc: [{issuer: "https://kubernetes.test", audiences: [istio-ca], jwks_file: keys.json}, `+
		`{issuer: %q, audiences: [istio-ca]}], jwks: {allow_networks: [127.0.0.0/8], ca: {%q: %q}}}`, idp.Issuer, idp.Issuer, filepath.Join(keys, "idp-ca.pem"))
	p := serveCA(t, strings.Replace(caOnly, `"127.0.0.1:0"`, attest, 1), map[string]string{"keys.json": idp.JWKS()})
	token := func(claims map[string]any) string {
		if claims["iss"] == nil {
			claims["iss"] = "https://kubernetes.test"
		}
		return idp.Sign(testkit.Token{Claims: claims})
	}
	for name, tt := range map[string]struct {
		token string
		code  int
	}{
		"good":         {token(map[string]any{"sub": "system:serviceaccount:coffee-shop:order", "aud": []string{"istio-ca"}}), 0},
		"fetched":      {token(map[string]any{"iss": idp.Issuer, "sub": "system:serviceaccount:coffee-shop:order", "aud": "istio-ca"}), 0},
		"stranger":     {token(map[string]any{"iss": "https://stranger.test", "sub": "system:serviceaccount:coffee-shop:order", "aud": "istio-ca"}), 2},
		"other-aud":    {token(map[string]any{"sub": "system:serviceaccount:coffee-shop:order", "aud": []string{"vault"}}), 2},
		"also-for-api": {token(map[string]any{"sub": "system:serviceaccount:coffee-shop:order", "aud": []string{"istio-ca", "api"}}), 2},
		"short-sub":    {token(map[string]any{"sub": "system:serviceaccount", "aud": []string{"istio-ca"}}), 2},
		"forged":       {idp.Sign(testkit.Token{Forged: true, Claims: map[string]any{"iss": "https://kubernetes.test", "sub": "system:serviceaccount:coffee-shop:order", "aud": "istio-ca"}}), 2},
	} {
		write(t, p.dir, map[string]string{name + ".token": tt.token})
		out, _ := command(t, p.dir, tt.code, "cert", "request", "--authority", p.address("ca"), "--bundle", "state/bundle.pem", "--token-file", name+".token", "--out", name)
		if tt.code == 0 && !strings.HasPrefix(out, orderID+" until ") {
			t.Errorf("%s: %s", name, out)
		}
		if _, err := os.Stat(filepath.Join(p.dir, name)); tt.code != 0 && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: files of a certificate that was refused", name)
		}
	}
	// With attest, only what it lists is accepted.
	p.renew(2, "good")
	_, stderr := command(t, p.dir, 64, "token", "create", "-c", "writ.yaml", "--id", orderID)
	if !strings.Contains(stderr, "join tokens are not accepted here") {
		t.Errorf("a join token that nobody takes: %s", stderr)
	}
	p.stop()
}
