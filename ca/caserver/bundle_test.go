package caserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
)

// TestSPIFFEBundle is read by another library, for each kind of root.
func TestSPIFFEBundle(t *testing.T) {
	t.Parallel()
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	b := &ca.Bundle{Version: 12}
	var roots []*x509.Certificate
	for _, key := range []crypto.Signer{newECDSA(t, elliptic.P256()), newECDSA(t, elliptic.P384()), newECDSA(t, elliptic.P521()), strong} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Unix(1785589200, 0)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		root, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots, b.Roots = append(roots, root), append(b.Roots, ca.Root{Certificate: root})
	}
	text, err := caserver.SPIFFEBundle(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := jwk.Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if sequence, _ := set.Get("spiffe_sequence"); sequence != 12.0 || set.Len() != len(roots) {
		t.Errorf("sequence %v, %d keys", sequence, set.Len())
	}
	for i, root := range roots {
		key, _ := set.Key(i)
		var public any
		if err := key.Raw(&public); err != nil {
			t.Fatal(err)
		}
		if equal, ok := root.PublicKey.(interface{ Equal(x crypto.PublicKey) bool }); !ok || !equal.Equal(public) {
			t.Errorf("key %d is another: %v", i, public)
		}
		chain := key.X509CertChain()
		if key.KeyUsage() != "x509-svid" || key.KeyID() != "" || chain == nil || chain.Len() != 1 {
			t.Fatalf("key %d: use %q, kid %q, x5c %v", i, key.KeyUsage(), key.KeyID(), chain)
		}
		if der, _ := chain.Get(0); string(der) != base64.StdEncoding.EncodeToString(root.Raw) {
			t.Errorf("key %d: another certificate: %s", i, der)
		}
	}
}

func newECDSA(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
