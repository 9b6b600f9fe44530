package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

var (
	oidNames      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidUsage      = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtUsage   = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidBasic      = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidMustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}
)

// rawCSR is a request with exactly these extensions.
func rawCSR(tb testing.TB, extensions ...pkix.Extension) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: extensions}, newKey(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func der(tb testing.TB, v any) []byte {
	tb.Helper()
	out, err := asn1.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// sans is a subjectAltName extension of raw general names.
func sans(tb testing.TB, list ...asn1.RawValue) pkix.Extension {
	return pkix.Extension{Id: oidNames, Critical: true, Value: der(tb, list)}
}

func uriName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)}
}

func dnsName(s string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(s)}
}

// TestRequestNames: a name in the request can only confirm the caller's identity, byte for byte (surprise 5).
func TestRequestNames(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	mail := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, Bytes: []byte("a@b.c")}
	ip := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 7, Bytes: []byte{10, 0, 0, 1}}
	for _, c := range []struct {
		name string
		csr  []byte
		want ca.Reason
	}{
		{"no names", rawCSR(t), ""},
		{"the identity", rawCSR(t, sans(t, uriName(order))), ""},
		{"surprise 5: another identity", rawCSR(t, sans(t, uriName("spiffe://cluster.local/ns/coffee-shop/sa/payment"))), ca.ReasonName},
		{"surprise 7: the identity twice", rawCSR(t, sans(t, uriName(order), uriName(order))), ca.ReasonName},
		{"surprise 6: a comma", rawCSR(t, sans(t, uriName(order+",spiffe://cluster.local/x"))), ca.ReasonName},
		{"the identity and a DNS name", rawCSR(t, sans(t, uriName(order), dnsName("order"))), ca.ReasonName},
		{"a DNS name and the identity", rawCSR(t, sans(t, dnsName("order"), uriName(order))), ca.ReasonName},
		{"a DNS name", rawCSR(t, sans(t, dnsName("order"))), ca.ReasonName},
		{"the identity as a DNS name", rawCSR(t, sans(t, dnsName(order))), ca.ReasonName},
		{"an e-mail address", rawCSR(t, sans(t, mail)), ca.ReasonName},
		{"an IP address", rawCSR(t, sans(t, ip)), ca.ReasonName},
		{"scheme in capitals", rawCSR(t, sans(t, uriName("SPIFFE"+order[6:]))), ca.ReasonName},
		{"an escape", rawCSR(t, sans(t, uriName(strings.Replace(order, "order", "%6Frder", 1)))), ca.ReasonName},
		{"a trailing slash", rawCSR(t, sans(t, uriName(order+"/"))), ca.ReasonName},
		{"a dot segment", rawCSR(t, sans(t, uriName(order+"/../order"))), ca.ReasonName},
		{"a NUL", rawCSR(t, sans(t, uriName(order+"\x00"))), ca.ReasonName},
		{"a query", rawCSR(t, sans(t, uriName(order+"?a"))), ca.ReasonName},
		{"an empty URI", rawCSR(t, sans(t, uriName(""))), ca.ReasonName},
		{"an empty list", rawCSR(t, sans(t)), ca.ReasonSyntax},
		{"no list", rawCSR(t, pkix.Extension{Id: oidNames, Value: []byte{5, 0}}), ca.ReasonSyntax},
		{"something after the list", rawCSR(t, pkix.Extension{Id: oidNames, Value: append(der(t, []asn1.RawValue{uriName(order)}), 5, 0)}), ca.ReasonSyntax},
	} {
		expect(t, c.name, c.csr, p, c.want)
	}
}

// TestRequestExtensions: a request may ask for what every leaf gets, and for nothing else.
func TestRequestExtensions(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	usage := func(b byte) pkix.Extension {
		return pkix.Extension{Id: oidUsage, Critical: true, Value: der(t, asn1.BitString{Bytes: []byte{b}, BitLength: 8})}
	}
	ext := func(last ...int) pkix.Extension {
		var list []asn1.ObjectIdentifier
		for _, n := range last {
			list = append(list, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, n})
		}
		return pkix.Extension{Id: oidExtUsage, Value: der(t, list)}
	}
	for _, c := range []struct {
		name string
		csr  []byte
		want ca.Reason
	}{
		{"digital signature", rawCSR(t, usage(0x80)), ""},
		{"digital signature and key encipherment", rawCSR(t, usage(0xa0)), ""},
		{"certificate signing", rawCSR(t, usage(0x04)), ca.ReasonExtension},
		{"digital signature and CRL signing", rawCSR(t, usage(0x82)), ca.ReasonExtension},
		{"key agreement", rawCSR(t, usage(0x08)), ca.ReasonExtension},
		{"server", rawCSR(t, ext(1)), ""},
		{"server and client", rawCSR(t, ext(1, 2)), ""},
		{"code signing", rawCSR(t, ext(1, 3)), ca.ReasonExtension},
		{"all three", rawCSR(t, sans(t, uriName(order)), usage(0x80), ext(1, 2)), ""},
		{"twice", rawCSR(t, ext(1), ext(2)), ca.ReasonExtension},
		{"not a CA", rawCSR(t, pkix.Extension{Id: oidBasic, Value: []byte{0x30, 0}}), ca.ReasonExtension},
		{"a CA", rawCSR(t, pkix.Extension{Id: oidBasic, Value: []byte{0x30, 3, 1, 1, 0xff}}), ca.ReasonExtension},
		{"must staple", rawCSR(t, pkix.Extension{Id: oidMustStaple, Value: []byte{0x30, 3, 2, 1, 5}}), ca.ReasonExtension},
		{"broken usage", rawCSR(t, pkix.Extension{Id: oidUsage, Value: []byte{1}}), ca.ReasonSyntax},
		{"broken extended usage", rawCSR(t, pkix.Extension{Id: oidExtUsage, Value: []byte{0x30, 1, 1}}), ca.ReasonSyntax},
	} {
		expect(t, c.name, c.csr, p, c.want)
	}
}

func TestRequestFraming(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	good := newCSR(t, newKey(t), order)
	block, _ := pem.Decode(good)
	block.Headers = map[string]string{"Proc-Type": "4,ENCRYPTED"}
	for _, c := range []struct {
		name string
		csr  []byte
		want ca.Reason
	}{
		{"as it is", good, ""},
		{"white space around", []byte("\n \t\r\n" + string(good) + "\n\n"), ""},
		{"CR LF", bytes.ReplaceAll(good, []byte("\n"), []byte("\r\n")), ""},
		{"no line end at the end", bytes.TrimSpace(good), ""},
		{"nil", nil, ca.ReasonFraming},
		{"white space alone", []byte("\n\n"), ca.ReasonFraming},
		{"DER", block.Bytes, ca.ReasonFraming},
		{"text before", append([]byte("x\n"), good...), ca.ReasonFraming},
		{"text after", append(bytes.Clone(good), "x\n"...), ca.ReasonFraming},
		{"twice", append(bytes.Clone(good), good...), ca.ReasonFraming},
		{"headers", pem.EncodeToMemory(block), ca.ReasonFraming},
		{"no end", good[:len(good)-20], ca.ReasonFraming},
		{"another end", bytes.Replace(good, []byte("END CERTIFICATE REQUEST"), []byte("END NEW CERTIFICATE REQUEST"), 1), ca.ReasonFraming},
		{"one line", bytes.ReplaceAll(good, []byte("\n"), nil), ca.ReasonFraming},
		{"not base64", bytes.Replace(good, []byte("MII"), []byte("M*I"), 1), ca.ReasonFraming},
		{"nothing inside", []byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"), ca.ReasonSyntax},
		{"just over 16 KiB", append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 16<<10+1-len(good))...), ca.ReasonSize},
		{"4 MiB", bytes.Repeat([]byte("A"), 4<<20), ca.ReasonSize},
		{"cut off inside", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes[:40]}), ca.ReasonSyntax},
		{"more after the request", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: append(bytes.Clone(block.Bytes), 0)}), ca.ReasonSyntax},
	} {
		expect(t, c.name, c.csr, p, c.want)
	}
	exactly := append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 16<<10-len(good))...)
	expect(t, "exactly 16 KiB", exactly, p, "")
}

// TestIdentities: nobody gets a certificate for what is no workload of this trust domain. Text that is no SPIFFE ID
// does not get as far as Approve: spiffeid.Parse is the only way to an ID, and has tests of its own.
func TestIdentities(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	csr := newCSR(t, newKey(t))
	for _, c := range []struct {
		id string
		ok bool
	}{
		{order, true},
		{"spiffe://cluster.local/x", true},
		{"spiffe://cluster.local/spired", true},
		{"spiffe://cluster.local", false},
		{"spiffe://other.local/ns/coffee-shop/sa/order", false},
		{"spiffe://cluster.local.evil/ns/coffee-shop/sa/order", false},
		{"spiffe://cluster.loca/ns/coffee-shop/sa/order", false},
		{"spiffe://cluster.local/spire", false},
		{"spiffe://cluster.local/spire/agent/x", false},
	} {
		_, err := ca.Approve(mustID(t, c.id), csr, ca.ApprovalRequest{Profile: p, Caller: "test:id"})
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ca.ErrIdentity) {
			t.Errorf("%s: %v", c.id, err)
		}
	}
	if _, err := ca.Approve(spiffeid.ID{}, csr, ca.ApprovalRequest{Profile: p, Caller: "test:id"}); !errors.Is(err, ca.ErrIdentity) {
		t.Errorf("no identity: %v", err)
	}
	for _, text := range []string{
		order + ",spiffe://cluster.local/x", order + "\x00", "spiffe://cluster.local/../x", "spiffe://x,istiod.istio-system.svc,y/ns/a/sa/b",
		order + "/", order + "%41", "spiffe://cluster.local/ns//sa/x", "SPIFFE://cluster.local/x", "spiffe://a..b/x",
	} {
		if id, err := spiffeid.Parse(text); err == nil {
			t.Errorf("%q is the identity %s", text, id)
		}
	}
}

// TestGrantedNames: names beside the identity come from the operator and end in the certificate.
func TestGrantedNames(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	dns, ip := []string{"ca.example", "localhost"}, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	ap, err := ca.Approve(mustID(t, order), newCSR(t, newKey(t)), ca.ApprovalRequest{
		Profile: b.profile, Caller: "test:names", DNSNames: dns, IPAddresses: ip,
	})
	if err != nil {
		t.Fatal(err)
	}
	dns[0] = "evil.example" // the approval has its own
	issued, err := b.Issue(t.Context(), ap)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, issued.Certificate)
	if strings.Join(leaf.DNSNames, " ") != "ca.example localhost" || len(leaf.URIs) != 1 || len(leaf.IPAddresses) != 2 ||
		!leaf.IPAddresses[0].Equal(net.ParseIP("192.0.2.1")) || !leaf.IPAddresses[1].Equal(net.ParseIP("2001:db8::1")) {
		t.Errorf("names %v %v %v", leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
	for _, name := range []string{"", "a,b", "*.example", "UPPER.example", "a b", "a\x00b", "-a", "a..b", "a.", "ä.example", strings.Repeat("a.", 127) + "a", "spiffe://x"} {
		_, err := ca.Approve(mustID(t, order), newCSR(t, newKey(t)), ca.ApprovalRequest{Profile: b.profile, Caller: "test:names", DNSNames: []string{name}})
		if err == nil {
			t.Errorf("DNS name %q is granted", name)
		}
	}
	for _, bad := range []netip.Addr{{}, netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("::ffff:192.0.2.1")} {
		_, err := ca.Approve(mustID(t, order), newCSR(t, newKey(t)), ca.ApprovalRequest{Profile: b.profile, Caller: "test:names", IPAddresses: []netip.Addr{bad}})
		if err == nil {
			t.Errorf("IP address %v is granted", bad)
		}
	}
}

// TestOnlyTheKey: of everything a request says, only the key is in the certificate.
func TestOnlyTheKey(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	key := newKey(t)
	uri, err := url.Parse(order)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "evil.example", Organization: []string{"Evil"}}, URIs: []*url.URL{uri},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	ap, err := ca.Approve(mustID(t, order), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}),
		ca.ApprovalRequest{Profile: b.profile, Caller: "test:key"})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := b.Issue(t.Context(), ap)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, issued.Certificate)
	if bytes.Contains(issued.Certificate, []byte("vil")) || leaf.Subject.String() != "" {
		t.Errorf("the request's subject is in the certificate: %s", leaf.Subject)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		t.Error("the certificate has another key")
	}
	if want, err := ca.KeyHash(key.Public()); err != nil || ap.KeyHash() != want {
		t.Errorf("key hash %x, want %x", ap.KeyHash(), want)
	}
}

func TestApprovalRequest(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	csr := newCSR(t, newKey(t))
	for _, r := range []ca.ApprovalRequest{
		{}, {Profile: p}, {Caller: "test:x"}, {Profile: p, Caller: strings.Repeat("x", 3000)}, {Profile: p, Caller: "\xff"},
		{Profile: p, Caller: "test:x", DNSNames: make([]string, 33)},
	} {
		if _, err := ca.Approve(mustID(t, order), csr, r); err == nil {
			t.Errorf("approved with %+v", r)
		}
	}
}

// handmade is a request whose parts are as given, properly signed.
func handmade(tb testing.TB, version int, attributes ...asn1.RawValue) []byte {
	tb.Helper()
	key := newKey(tb)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	info := der(tb, struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{version, asn1.RawValue{FullBytes: []byte{0x30, 0}}, asn1.RawValue{FullBytes: spki}, attributes})
	sum := sha256.Sum256(info)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	whole := der(tb, struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: info}, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: whole})
}

// TestRequestAttributes: one list of extensions, and no other attribute, such as a password.
func TestRequestAttributes(t *testing.T) {
	t.Parallel()
	p := newProfile(t, ca.ProfileConfig{})
	attribute := func(oid asn1.ObjectIdentifier, values ...any) asn1.RawValue {
		return asn1.RawValue{FullBytes: der(t, struct {
			ID     asn1.ObjectIdentifier
			Values []any `asn1:"set"`
		}{oid, values})}
	}
	extensionRequest, password := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	names := []pkix.Extension{sans(t, uriName(order))}
	for _, c := range []struct {
		name string
		csr  []byte
		want ca.Reason
	}{
		{"none", handmade(t, 0), ""},
		{"extensions", handmade(t, 0, attribute(extensionRequest, names)), ""},
		{"no extensions", handmade(t, 0, attribute(extensionRequest, []pkix.Extension{})), ""},
		{"extensions twice", handmade(t, 0, attribute(extensionRequest, names), attribute(extensionRequest, names)), ca.ReasonSyntax},
		{"two lists", handmade(t, 0, attribute(extensionRequest, names, names)), ca.ReasonSyntax},
		{"no list", handmade(t, 0, attribute(extensionRequest)), ca.ReasonSyntax},
		{"a password", handmade(t, 0, attribute(password, "secret")), ca.ReasonExtension},
		{"a number", handmade(t, 0, asn1.RawValue{FullBytes: []byte{2, 1, 1}}), ca.ReasonSyntax},
		{"version 2", handmade(t, 1), ca.ReasonSyntax},
	} {
		expect(t, c.name, c.csr, p, c.want)
	}
	reasons := map[ca.Reason]bool{}
	for _, r := range ca.Reasons() {
		reasons[r] = true
	}
	if len(reasons) != 11 {
		t.Errorf("%d reasons", len(reasons))
	}
}
