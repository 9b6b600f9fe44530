package sds_test

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/sds"
)

func document(t testing.TB) (*sds.Bundle, []byte) {
	t.Helper()
	old, next := newIssuer(t, "old", nil), newIssuer(t, "next", nil)
	b := &sds.Bundle{
		TrustDomain: id(t, "spiffe://cluster.local"), Version: 7, Roots: []*x509.Certificate{old.cert, next.cert}, Tainted: []*x509.Certificate{old.cert},
		CRLs: [][]byte{old.crl(t, time.Hour)}, JWTKeys: []byte(`{"keys":[{"kty":"EC"}]}`), RefreshHint: 5 * time.Minute,
	}
	return b, must[[]byte](t)(sds.EncodeBundle(b))
}

func TestBundleDocument(t *testing.T) {
	b, text := document(t)
	got := must[*sds.Bundle](t)(sds.DecodeBundle(text))
	if got.TrustDomain != b.TrustDomain || got.Version != 7 || len(got.Roots) != 2 || !got.Roots[1].Equal(b.Roots[1]) || len(got.Tainted) != 1 ||
		!got.Tainted[0].Equal(b.Tainted[0]) || !bytes.Equal(got.CRLs[0], b.CRLs[0]) || !bytes.Equal(got.JWTKeys, b.JWTKeys) || got.RefreshHint != b.RefreshHint {
		t.Errorf("got %+v", got)
	}
}

func TestBundleDocumentRefused(t *testing.T) {
	_, good := document(t)
	replace := func(old, with string) string {
		changed := strings.Replace(string(good), old, with, 1)
		if changed == string(good) {
			t.Fatalf("the document has no %s", old)
		}
		return changed
	}
	for name, text := range map[string]string{
		"nothing":              "",
		"no JSON":              "roots",
		"another format":       replace(`"format":1`, `"format":2`),
		"another trust domain": replace(`cluster.local`, `Cluster.local`),
		"an ID":                replace(`cluster.local`, `cluster.local/x`),
		"unknown member":       replace(`"version"`, `"also":1,"version"`),
		"repeated member":      replace(`"version":7`, `"version":7,"version":7`),
		"other spelling":       replace(`"version"`, `"Version"`),
		"white space":          replace(`"version":7`, `"version": 7`),
		"trailing bytes":       string(good) + "\n",
		"two documents":        string(good) + string(good),
		"negative version":     replace(`"version":7`, `"version":-7`),
		"huge hint":            replace(`"refresh_hint":300`, `"refresh_hint":9223372036854775807`),
		"negative hint":        replace(`"refresh_hint":300`, `"refresh_hint":-1`),
		"broken root":          replace(`"certificate":"MII`, `"certificate":"AAA`),
		"JWKS without keys":    replace(`{"keys":[{"kty":"EC"}]}`, `{}`),
		"too long":             strings.Repeat(" ", 5<<20),
	} {
		if b, err := sds.DecodeBundle([]byte(text)); err == nil || b != nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzDecodeBundle(f *testing.F) {
	_, good := document(f)
	f.Add(good)
	f.Add([]byte(`{"format":1,"trust_domain":"td","version":1,"roots":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := sds.DecodeBundle(text)
		if err != nil {
			if b != nil {
				t.Error("an error and a bundle")
			}
			return
		}
		again, err := sds.EncodeBundle(b)
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("encoded again: %v\n%s\n%s", err, text, again)
		}
	})
}
