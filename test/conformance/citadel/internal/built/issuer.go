package built

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"
)

const (
	// TrustDomain is the trust domain of all tests.
	TrustDomain = "td.test"
	// IssuerName is the issuer of service account tokens.
	IssuerName = "https://kubernetes.test"
	// audience is whom they are for.
	audience = "istio-ca"
)

// Issuer signs service account tokens, as a Kubernetes API server does.
type Issuer struct {
	key *ecdsa.PrivateKey
}

// NewIssuer makes a key.
func NewIssuer(t *testing.T) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{key}
}

// WriteKeys publishes the key in a file (RFC 7517).
func (i *Issuer) WriteKeys(t *testing.T, path string) {
	t.Helper()
	point, err := i.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": segment(point[1:33]), "y": segment(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func segment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Token is what a service account gets, good for an hour (RFC 7515, ES256).
func (i *Issuer) Token(t *testing.T, namespace, account string) string {
	t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": IssuerName, "sub": "system:serviceaccount:" + namespace + ":" + account, "aud": []string{audience},
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := segment([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + segment(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + segment(slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))))
}
