package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
	key := newECDSA(u.t, elliptic.P256())
	cert := sign(u.t, u.template(name), u.root, key.Public(), u.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		u.t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return map[string]string{"ca/tls.crt": text("CERTIFICATE", cert.Raw), "ca/tls.key": text("PRIVATE KEY", der), "ca/ca.crt": text("CERTIFICATE", u.root.Raw)}
}

// signer is the common name of what signs, and the alarms that are up.
func (p *authorityProcess) signer() (name string, alarms []string) {
	p.t.Helper()
	out, _ := command(p.t, p.dir, 0, "ca", "show", "-c", "writ.yaml", "-o", "json")
	var r caReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		p.t.Fatal(err)
	}
	for _, a := range r.Alarms {
		alarms = append(alarms, string(a.Code))
	}
	return r.Signer.Subject, alarms
}

// TestPluggedAuthority signs with somebody else's authority, takes new files up when told, and keeps the last good ones.
func TestPluggedAuthority(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	config := strings.Replace(caOnly, `"127.0.0.1:0"`, `"127.0.0.1:0", plugged: {dir: ./ca}`, 1)
	p := serveCA(t, config, u.issuer("first"))
	p.join("order", orderID)
	if name, alarms := p.signer(); name != "CN=first" || len(alarms) != 0 {
		t.Errorf("signs with %s, alarms %v", name, alarms)
	}
	signsWith := func(want string, alarm bool) {
		t.Helper()
		p.signal(syscall.SIGHUP)
		p.eventually("signing with "+want, func() error {
			if name, alarms := p.signer(); name != want || (len(alarms) > 0) != alarm {
				return fmt.Errorf("signs with %s, alarms %v", name, alarms)
			}
			return nil
		})
	}
	write(t, p.dir, u.issuer("second"))
	signsWith("CN=second", false)
	p.renew(0, "order")

	if err := os.Remove(filepath.Join(p.dir, "ca", "tls.key")); err != nil {
		t.Fatal(err)
	}
	signsWith("CN=second", true)
	p.renew(0, "order")
	if text, _ := command(t, p.dir, 0, "status", "-c", "writ.yaml"); !strings.Contains(text, "reload") || !strings.Contains(text, "plugged in") {
		t.Errorf("status:\n%s", text)
	}
	// Another root would cut off whoever has a certificate.
	write(t, p.dir, newUpstream(t).issuer("stranger"))
	signsWith("CN=second", true)
	write(t, p.dir, u.issuer("third"))
	signsWith("CN=third", false)
	command(t, p.dir, 1, "ca", "rotate", "prepare", "-c", "writ.yaml")
	p.stop()
	command(t, p.dir, 1, "ca", "init", "-c", "writ.yaml")
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
