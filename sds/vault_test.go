package sds_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/writ-auth/writ/sds"
)

// An acknowledgement is no proof that a certificate works (identity §4.3): what does not is never sent.
func TestVaultRefusesIdentity(t *testing.T) {
	root := newIssuer(t, "root", nil)
	intermediate := newIssuer(t, "intermediate", root)
	good := intermediate.leaf(t, payment, nil, intermediate)
	for name, test := range map[string]struct {
		identity *sds.Identity
		want     string
	}{
		"another's key":    {&sds.Identity{ID: good.ID, Chain: good.Chain, Key: root.leaf(t, payment, nil).Key}, "the key does not fit"},
		"no chain":         {&sds.Identity{ID: good.ID, Key: good.Key}, "no certificate"},
		"another's name":   {&sds.Identity{ID: id(t, order), Chain: good.Chain, Key: good.Key}, "the certificate is for"},
		"SEC 1 key":        {&sds.Identity{ID: good.ID, Chain: good.Chain, Key: must[[]byte](t)(x509.MarshalECPrivateKey(newKey(t)))}, "PKCS #8"},
		"chain of another": {root.leaf(t, payment, nil, intermediate), "is not signed by the next one"},
		"ended": {root.leaf(t, payment, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		}), "ended at"},
		"an issuer":        {root.leaf(t, payment, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), "an issuer's"},
		"may sign others":  {root.leaf(t, payment, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "an issuer's"},
		"may not sign":     {root.leaf(t, payment, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "digitalSignature"},
		"two names":        {root.leaf(t, payment, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "the certificate is for"},
		"a trust domain's": {root.leaf(t, "spiffe://cluster.local", nil), "the certificate is for"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &sds.Vault{}
			if err := v.SetIdentity(test.identity); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if v.Identity(good.ID) != nil {
				t.Error("it is in the vault nevertheless")
			}
		})
	}
	if err := (&sds.Vault{}).SetIdentity(good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// An identity goes after the roots that verify it.
func TestVaultRefusesIdentityOfUnknownRoot(t *testing.T) {
	old, next := newIssuer(t, "old", nil), newIssuer(t, "next", nil)
	v := &sds.Vault{}
	td := id(t, "spiffe://cluster.local")
	if err := v.SetBundle(&sds.Bundle{TrustDomain: td, Version: 1, Roots: []*x509.Certificate{old.cert}}); err != nil {
		t.Fatal(err)
	}
	i := next.leaf(t, payment, nil)
	if err := v.SetIdentity(i); !errors.Is(err, sds.ErrUntrusted) {
		t.Errorf("got %v", err)
	}
	if err := v.SetBundle(&sds.Bundle{TrustDomain: td, Version: 2, Roots: []*x509.Certificate{old.cert, next.cert}}); err != nil {
		t.Fatal(err)
	}
	if err := v.SetIdentity(i); err != nil {
		t.Error(err)
	}
}

func TestVaultRefusesBundle(t *testing.T) {
	root, other := newIssuer(t, "root", nil), newIssuer(t, "other", nil)
	replica := newIssuer(t, "replica", root)
	impostor := newIssuer(t, "replica", other) // the same name, another key
	impostor.cert.RawSubject, impostor.cert.SubjectKeyId = replica.cert.RawSubject, replica.cert.SubjectKeyId
	td := id(t, "spiffe://cluster.local")
	partial := must[[]byte](t)(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: serial(t), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}},
	}, replica.cert, replica.key))
	many := make([]*x509.Certificate, 21)
	for n := range many {
		many[n] = newIssuer(t, "root", nil).cert
	}
	for name, test := range map[string]struct {
		bundle sds.Bundle
		want   string
	}{
		"no roots":          {sds.Bundle{TrustDomain: td}, "0 roots"},
		"many roots":        {sds.Bundle{TrustDomain: td, Roots: many}, "21 roots"},
		"a root twice":      {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert, root.cert}}, "twice"},
		"a leaf":            {sds.Bundle{TrustDomain: td, Roots: root.leaf(t, payment, nil).Chain}, "no issuer"},
		"an ID":             {sds.Bundle{TrustDomain: id(t, payment), Roots: []*x509.Certificate{root.cert}}, "no trust domain"},
		"another's taint":   {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, Tainted: []*x509.Certificate{other.cert}}, "none of its roots"},
		"no CRL":            {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{{1}}}, "CRL"},
		"ended CRL":         {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{replica.crl(t, -time.Minute)}}, "ended at"},
		"two CRLs":          {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{replica.crl(t, time.Hour), replica.crl(t, 2*time.Hour)}}, "two CRLs"},
		"missing CRL":       {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{root.crl(t, time.Hour)}}, "none of"},
		"an impostor's CRL": {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{impostor.crl(t, time.Hour)}}, "is not signed by it"},
		"partial CRL":       {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{partial}}, "covers part"},
		"no JWKS":           {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, JWTKeys: []byte(`{"key":1}`)}, "no keys"},
		"long JWKS":         {sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, JWTKeys: bytes.Repeat([]byte(" "), 70000)}, "JWT keys"},
		"negative version":  {sds.Bundle{TrustDomain: td, Version: -1, Roots: []*x509.Certificate{root.cert}}, "version"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &sds.Vault{}
			if err := v.SetIdentity(replica.leaf(t, payment, nil, replica)); err != nil {
				t.Fatal(err)
			}
			if err := v.SetBundle(&test.bundle); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if len(v.Bundles()) != 0 {
				t.Error("it is in the vault nevertheless")
			}
		})
	}
	v := &sds.Vault{}
	if err := v.SetIdentity(replica.leaf(t, payment, nil, replica)); err != nil {
		t.Fatal(err)
	}
	unknown := newIssuer(t, "another replica", root).crl(t, time.Hour) // of which nothing is known here
	if err := v.SetBundle(&sds.Bundle{TrustDomain: td, Roots: []*x509.Certificate{root.cert}, CRLs: [][]byte{replica.crl(t, time.Hour), unknown}}); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// TestLayouts holds what is sent to identity §4.2.
func TestLayouts(t *testing.T) {
	f := start(t, nil)
	intermediate := newIssuer(t, "intermediate", f.root)
	i := intermediate.leaf(t, payment, nil, intermediate)
	f.setIdentity(i)
	get := func(name string) *tlsv3.Secret {
		s := f.sotw()
		s.ask(nil, name)
		secret := secretsOf(t, s.next())[0]
		if secret.Name != name {
			t.Errorf("asked for %q, got %q", name, secret.Name)
		}
		return secret
	}
	for _, name := range []string{"default", payment} {
		certificate := get(name).GetTlsCertificate()
		if !bytes.Equal(certificate.GetCertificateChain().GetInlineBytes(), pemOf(i.Chain...)) ||
			!strings.Contains(string(certificate.GetPrivateKey().GetInlineBytes()), "BEGIN PRIVATE KEY") {
			t.Errorf("%s: %v", name, certificate)
		}
	}

	f.setBundle(1, nil)
	other := newIssuer(t, "other", nil)
	federated := &sds.Bundle{TrustDomain: id(t, "spiffe://other.example"), Roots: []*x509.Certificate{other.cert}}
	if err := f.vault.SetBundle(federated); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]*issuer{"ROOTCA": f.root, "spiffe://cluster.local": f.root, "spiffe://other.example": other} {
		v := get(name).GetValidationContext()
		if !bytes.Equal(v.GetTrustedCa().GetInlineBytes(), pemOf(root.cert)) || v.Crl != nil || v.OnlyVerifyLeafCertCrl {
			t.Errorf("%s: %v", name, v)
		}
	}

	b := f.setBundle(2, func(b *sds.Bundle) { b.CRLs = [][]byte{intermediate.crl(t, time.Hour), f.root.crl(t, time.Hour)} })
	v := get("ROOTCA").GetValidationContext()
	if n := bytes.Count(v.GetCrl().GetInlineBytes(), []byte("BEGIN X509 CRL")); n != 2 || !v.OnlyVerifyLeafCertCrl {
		t.Errorf("with CRLs: %v", v)
	}

	custom := get("ALL").GetValidationContext().GetCustomValidatorConfig()
	config := &tlsv3.SPIFFECertValidatorConfig{}
	if err := custom.GetTypedConfig().UnmarshalTo(config); err != nil {
		t.Fatal(err)
	}
	if custom.Name != "envoy.tls.cert_validator.spiffe" || len(config.TrustDomains) != 2 || // a store for each, never a pool
		config.TrustDomains[0].Name != "cluster.local" || !bytes.Equal(config.TrustDomains[0].TrustBundle.GetInlineBytes(), pemOf(f.root.cert)) ||
		config.TrustDomains[1].Name != "other.example" || !bytes.Equal(config.TrustDomains[1].TrustBundle.GetInlineBytes(), pemOf(other.cert)) {
		t.Errorf("ALL: %v", custom)
	}

	got, err := sds.DecodeBundle(get("writ.bundle").GetGenericSecret().GetSecret().GetInlineBytes())
	if err != nil || got.Version != 2 || !got.Roots[0].Equal(b.Roots[0]) || len(got.CRLs) != 2 {
		t.Errorf("writ.bundle: %+v, %v", got, err)
	}

	if err := f.vault.RemoveBundle("other.example"); err != nil {
		t.Fatal(err)
	}
	if err := get("ALL").GetValidationContext().GetCustomValidatorConfig().GetTypedConfig().UnmarshalTo(config); err != nil || len(config.TrustDomains) != 1 {
		t.Errorf("ALL after a removal: %v, %v", config, err)
	}
}

func TestNames(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.Names = sds.Names{Default: "mine", Roots: "theirs", All: "ROOTCA"} })
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.sotw()
	s.ask(nil, "mine", "theirs", "ROOTCA")
	if got := namesOf(t, s.next()); got != "theirs ROOTCA mine" {
		t.Errorf("got %q", got)
	}
	for _, names := range []sds.Names{{Default: "ROOTCA"}, {Roots: "*"}, {All: "spiffe://td"}, {Bundle: strings.Repeat("x", 300)}} {
		if _, err := sds.New(sds.Config{Vault: &sds.Vault{}, Authorizer: f.entries, TrustDomain: id(t, "spiffe://td"), Names: names}); err == nil {
			t.Errorf("%+v is taken", names)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	td := id(t, "spiffe://td")
	for name, cfg := range map[string]sds.Config{
		"nothing":         {},
		"no vault":        {Authorizer: &entries{}, TrustDomain: td},
		"no authorizer":   {Vault: &sds.Vault{}, TrustDomain: td},
		"no trust domain": {Vault: &sds.Vault{}, Authorizer: &entries{}},
		"an ID":           {Vault: &sds.Vault{}, Authorizer: &entries{}, TrustDomain: id(t, payment)},
		"negative bound":  {Vault: &sds.Vault{}, Authorizer: &entries{}, TrustDomain: td, MaxStreams: -1},
	} {
		if _, err := sds.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
