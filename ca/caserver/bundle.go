package caserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"github.com/writ-auth/writ/ca"
)

// bundleRefreshHint is how often whoever federates should ask again, in seconds.
const bundleRefreshHint = 300

// spiffeDocument is a bundle as SPIFFE federation exchanges it (SPIFFE Trust Domain and Bundle §4).
type spiffeDocument struct {
	Sequence    int64 `json:"spiffe_sequence"`
	RefreshHint int   `json:"spiffe_refresh_hint"`
	Keys        []any `json:"keys"`
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

// SPIFFEBundle is the trust domain's bundle as others federate with it: the roots, and the keys of JWT-SVIDs if there are
// any. Its sequence increases with every change of either.
func SPIFFEBundle(b *ca.Bundle, keys *ca.JWTKeys) ([]byte, error) {
	d := spiffeDocument{Sequence: b.Version, RefreshHint: bundleRefreshHint, Keys: []any{}}
	for _, r := range b.Roots {
		key, err := newSPIFFEKey(r.Certificate)
		if err != nil {
			return nil, fmt.Errorf("bundle: root %q: %w", r.Certificate.Subject, err)
		}
		d.Keys = append(d.Keys, key)
	}
	if keys != nil {
		var set struct {
			Keys []map[string]any `json:"keys"`
		}
		if err := json.Unmarshal(keys.JWKS, &set); err != nil {
			return nil, fmt.Errorf("bundle: keys of JWT-SVIDs: %w", err)
		}
		for _, key := range set.Keys {
			key["use"] = "jwt-svid"
			d.Keys = append(d.Keys, key)
		}
		d.Sequence += keys.Version // both only increase, and so does their sum
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return append(text, '\n'), nil
}

func newSPIFFEKey(root *x509.Certificate) (spiffeKey, error) {
	key, err := publicJWK(root.PublicKey)
	key.Use, key.X5c = "x509-svid", [][]byte{root.Raw}
	return key, err
}

func publicJWK(public crypto.PublicKey) (spiffeKey, error) {
	encode := base64.RawURLEncoding.EncodeToString
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, X, Y (SEC 1 §2.3.3)
		if err != nil {
			return spiffeKey{}, err
		}
		half := 1 + len(point)/2
		return spiffeKey{Kty: "EC", Crv: k.Params().Name, X: encode(point[1:half]), Y: encode(point[half:])}, nil
	case *rsa.PublicKey:
		return spiffeKey{Kty: "RSA", N: encode(k.N.Bytes()), E: encode(big.NewInt(int64(k.E)).Bytes())}, nil
	}
	return spiffeKey{}, fmt.Errorf("key of type %T: want ECDSA or RSA", public)
}
