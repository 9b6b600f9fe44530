package attest_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"github.com/writ-auth/writ/ca/attest"
)

// FuzzBearer: what comes out is one word, and the same however its scheme is spelled.
func FuzzBearer(f *testing.F) {
	for _, seed := range []string{"", "Bearer abc", "bearer a.b.c==", "Basic YTpi", "Bearer  x", "Bearer\tx", "Bearer =", "Bearer a b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		token, err := attest.Bearer(value)
		if err != nil {
			if token != "" {
				t.Errorf("token %q beside an error", token)
			}
			return
		}
		if token == "" || strings.ContainsAny(token, " \t\r\n,\x00") {
			t.Errorf("token %q of %q", token, value)
		}
		if again, err := attest.Bearer("BEARER " + token); err != nil || again != token {
			t.Errorf("%q again is %q, %v", token, again, err)
		}
	})
}

// FuzzURINames: names that are malformed are no names.
func FuzzURINames(f *testing.F) {
	f.Add([]byte{0x30, 0x05, 0x86, 0x03, 'a', ':', 'b'})
	f.Add([]byte{0x30, 0x00})
	f.Add([]byte{0x30, 0x80})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		names, err := attest.URINames(&x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}})
		if err != nil && names != nil {
			t.Errorf("names %q beside an error", names)
		}
	})
}
