package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"

	"github.com/writ-auth/writ/ca/caserver"
)

// bundleRefreshHint is how often whoever federates should ask again, in seconds.
const bundleRefreshHint = 300

// spiffeDocument is a bundle as SPIFFE federation exchanges it (SPIFFE Trust Domain and Bundle §4).
type spiffeDocument struct {
	Sequence    int64       `json:"spiffe_sequence"`
	RefreshHint int         `json:"spiffe_refresh_hint"`
	Keys        []spiffeKey `json:"keys"`
}

// spiffeKey is a root: its public key as a JWK (RFC 7517), and itself as the only element of x5c.
type spiffeKey struct {
	Use string   `json:"use"`
	Kty string   `json:"kty"`
	Crv string   `json:"crv,omitempty"`
	X   string   `json:"x,omitempty"`
	Y   string   `json:"y,omitempty"`
	N   string   `json:"n,omitempty"`
	E   string   `json:"e,omitempty"`
	X5c [][]byte `json:"x5c"` // standard base64, which is what encoding/json writes
}

func spiffeBundle(r *caserver.BundleResponse) (string, error) {
	d := spiffeDocument{Sequence: r.Version, RefreshHint: bundleRefreshHint, Keys: []spiffeKey{}}
	for block, rest := pem.Decode([]byte(r.PEM)); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return "", fmt.Errorf("bundle: %w", err)
		}
		key, err := newSPIFFEKey(root.PublicKey)
		if err != nil {
			return "", fmt.Errorf("bundle: root %q: %w", root.Subject, err)
		}
		key.X5c = [][]byte{root.Raw}
		d.Keys = append(d.Keys, key)
	}
	text, err := json.MarshalIndent(d, "", "  ")
	return string(text) + "\n", err
}

func newSPIFFEKey(public crypto.PublicKey) (spiffeKey, error) {
	encode := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, X, Y (SEC 1 §2.3.3)
		if err != nil {
			return spiffeKey{}, err
		}
		half := len(point) / 2
		return spiffeKey{Use: "x509-svid", Kty: "EC", Crv: k.Params().Name, X: encode(point[1 : 1+half]), Y: encode(point[1+half:])}, nil
	case *rsa.PublicKey:
		return spiffeKey{Use: "x509-svid", Kty: "RSA", N: encode(k.N.Bytes()), E: encode(big.NewInt(int64(k.E)).Bytes())}, nil
	}
	return spiffeKey{}, fmt.Errorf("key of type %T: want ECDSA or RSA", public)
}
