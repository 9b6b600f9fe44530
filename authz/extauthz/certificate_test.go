package extauthz_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// issuer makes self-signed certificates, in the URL-encoded PEM that Envoy sends.
type issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func newIssuer(t testing.TB) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, key}
}

func (i *issuer) certificate(serial int64, subject pkix.Name, uris, dns []string) string {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject, DNSNames: dns,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			i.t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &i.key.PublicKey, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return escape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// escape encodes as Envoy does: a space is %20 and never a plus.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// derOf and poolOf open one PEM certificate.
func derOf(t *testing.T, text string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}

func poolOf(t *testing.T, text string) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		t.Fatal("no certificate")
	}
	return pool
}

// Every name counts, in the order Envoy's RBAC tries them: URI SANs, DNS SANs, subject (authorization-policy §1.4).
func TestNames(t *testing.T) {
	i := newIssuer(t)
	subject := pkix.Name{CommonName: "web, \"1\"", Organization: []string{"Café"}}
	const printed = `CN=web\, \"1\",O=Caf\C3\A9`
	uris := []string{"spiffe://cluster.local/ns/a/sa/b", "https://other.example/x"}
	dns := []string{"a.example", "b.example"}
	tests := []struct {
		name, principal, certificate string
		want                         []string
	}{
		{"plaintext", "", "", nil},
		{"principal alone", uris[0], "", uris[:1]},
		{"all kinds", uris[0], i.certificate(1, subject, uris, dns), slices.Concat(uris, dns, []string{printed})},
		{"principal empty", "", i.certificate(2, subject, uris[:1], nil), []string{uris[0], printed}},
		{"subject only", printed, i.certificate(3, subject, nil, nil), []string{printed}},
		{"no subject", uris[0], i.certificate(4, pkix.Name{}, uris[:1], nil), uris[:1]},
		{"nameless", "", i.certificate(5, pkix.Name{}, nil, nil), nil},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			raw, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{
				Source: &authv3.AttributeContext_Peer{Principal: c.principal, Certificate: c.certificate}}})
			if err != nil {
				t.Fatal(err)
			}
			var r policy.Request
			if _, err := extauthz.DecodeRequest(raw, extauthz.Options{}, &r); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.Names, c.want) {
				t.Errorf("got %q, want %q", r.Names, c.want)
			}
		})
	}
}

func TestCertificatesThatDoNotParse(t *testing.T) {
	good := newIssuer(t).certificate(1, pkix.Name{CommonName: "x"}, nil, nil)
	certificates := extauthz.NewCertificates()
	for name, text := range map[string]string{
		"junk":                "junk",
		"bad escape":          "%zz" + good,
		"another PEM block":   escape("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
		"bytes of no DER":     escape("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"cut short":           good[:len(good)/2],
		"larger than allowed": good + strings.Repeat("%0A", 40_000),
	} {
		for range 2 { // an error is an error the second time, too
			if names, err := certificates.Names(text); err == nil {
				t.Errorf("%s: got names %q, want an error", name, names)
			}
		}
	}
	if n := certificates.Len(); n != 0 {
		t.Errorf("%d certificates remembered that do not parse", n)
	}
}

func TestCertificateCache(t *testing.T) {
	i := newIssuer(t)
	certificates := extauthz.NewCertificates()
	first := i.certificate(1, pkix.Name{CommonName: "first"}, nil, nil)
	want, err := certificates.Names(first)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if got, err := certificates.Names(first); err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %q, %v", got, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations on a hit, want 0", n)
	}

	// A client with endless certificates replaces entries, and nobody ever gets another's names. Trailing new lines
	// make other texts of one certificate.
	other := i.certificate(2, pkix.Name{CommonName: "other"}, nil, nil)
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for n := range extauthz.MaxCertificates / 2 {
				text, name := first, "CN=first"
				if (n+g)%2 == 0 {
					text, name = other, "CN=other"
				}
				text += strings.Repeat("%0A", n%700) + strings.Repeat("%20", g)
				if got, err := certificates.Names(text); err != nil || len(got) != 1 || got[0] != name {
					t.Errorf("got %q, %v, want %s", got, err, name)
				}
			}
		})
	}
	wait.Wait()
	if n := certificates.Len(); n == 0 || n > extauthz.MaxCertificates {
		t.Errorf("%d certificates remembered, want at most %d", n, extauthz.MaxCertificates)
	}
}

// The subject is printed as Envoy prints it: RFC 2253, OpenSSL's short names, \XX beyond ASCII.
func TestSubjectName(t *testing.T) {
	type attribute = pkix.AttributeTypeAndValue
	name := func(rdns ...pkix.RelativeDistinguishedNameSET) []byte {
		der, err := asn1.Marshal(pkix.RDNSequence(rdns))
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	oid := func(n ...int) asn1.ObjectIdentifier { return n }
	cn, c, o := oid(2, 5, 4, 3), oid(2, 5, 4, 6), oid(2, 5, 4, 10)
	tests := []struct {
		der  []byte
		want string
	}{
		{name(), ""},
		{name(pkix.RelativeDistinguishedNameSET{{Type: c, Value: "DE"}}, pkix.RelativeDistinguishedNameSET{{Type: o, Value: "Shop"}},
			pkix.RelativeDistinguishedNameSET{{Type: cn, Value: "web"}}), "CN=web,O=Shop,C=DE"},
		{name(pkix.RelativeDistinguishedNameSET{{Type: cn, Value: ` #a,b+c"d\e<f>g;h=i `}}), `CN=\ #a\,b\+c\"d\\e\<f\>g\;h=i\ `},
		{name(pkix.RelativeDistinguishedNameSET{{Type: cn, Value: "#x"}}), `CN=\#x`},
		{name(pkix.RelativeDistinguishedNameSET{{Type: cn, Value: "é\n"}}), `CN=\C3\A9\0A`},
		{name(pkix.RelativeDistinguishedNameSET{{Type: oid(1, 2, 840, 113549, 1, 9, 1), Value: "a@b"}}), `emailAddress=a@b`},
		{name(pkix.RelativeDistinguishedNameSET{{Type: oid(1, 2, 3, 4), Value: "x"}}), `1.2.3.4=#130178`},
	}
	for _, c := range tests {
		if got, err := extauthz.SubjectName(c.der); err != nil || got != c.want {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
	for _, der := range [][]byte{nil, {0x30}, {0x30, 0x01, 0x00}, append(name(), 0)} {
		if got, err := extauthz.SubjectName(der); err == nil {
			t.Errorf("%x: got %q, want an error", der, got)
		}
	}
	multi := name(pkix.RelativeDistinguishedNameSET{attribute{Type: cn, Value: "a"}, attribute{Type: o, Value: "b"}})
	if got, _ := extauthz.SubjectName(multi); got != "O=b+CN=a" {
		t.Errorf("got %q, want both attributes of the one RDN, joined by +", got)
	}
}
