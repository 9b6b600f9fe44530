package testkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Algorithms are those an [IdentityProvider] signs with; the first is the default.
func Algorithms() []string { return []string{"ES256", "RS256", "EdDSA"} }

// Absent as the value of a claim or header member leaves it out.
const Absent = absent(0)

type absent int

// Token says what to put into a token. Its zero value is a good one for nobody: issuer and times only.
type Token struct {
	Algorithm string         // of the key that signs, see Algorithms; empty = ES256
	Key       string         // kid of an older key; empty = the algorithm's newest
	Claims    map[string]any // besides or instead of iss, iat and exp, which is in an hour
	Header    map[string]any // besides or instead of alg, kid and typ

	Payload    string // the payload itself, JSON or not; wins over Claims
	HeaderText string // the header itself; wins over Header
	Forged     bool   // sign with a key that nobody publishes
}

// keyring is what an [IdentityProvider] signs with.
type keyring struct {
	mu      sync.Mutex
	made    int
	keys    []signingKey // published and withdrawn, oldest first
	forgers map[string]crypto.Signer
}

// signingKey is one key and its public name.
type signingKey struct {
	id, algorithm string
	private       crypto.Signer
	withdrawn     bool
}

// Rotate makes a new key, which signs from now on, publishes it next to the others and returns its kid. An algorithm
// that is not one of the [Algorithms] is a mistake of the caller and panics.
func (k *keyring) Rotate(algorithm string) (kid string) {
	private := newKey(algorithm)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.made++
	kid = fmt.Sprintf("%s-%d", algorithm, k.made)
	k.keys = append(k.keys, signingKey{id: kid, algorithm: algorithm, private: private})
	return kid
}

// Withdraw takes keys out of the published set; they can still sign.
func (k *keyring) Withdraw(kids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.keys {
		if slices.Contains(kids, k.keys[i].id) {
			k.keys[i].withdrawn = true
		}
	}
}

// KeyID is the kid of the algorithm's newest key.
func (k *keyring) KeyID(algorithm string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.key(algorithm, "").id
}

// JWKS is the published set as JSON.
func (k *keyring) JWKS() string { return string(mustJSON(k.published())) }

func (k *keyring) published() map[string]any {
	k.mu.Lock()
	defer k.mu.Unlock()
	set := []map[string]any{}
	for _, key := range k.keys {
		if !key.withdrawn {
			set = append(set, key.jwk())
		}
	}
	return map[string]any{"keys": set}
}

// key is one key; the newest of the algorithm if kid is empty. An unknown one is a mistake of the caller and panics.
func (k *keyring) key(algorithm, kid string) signingKey {
	for _, key := range slices.Backward(k.keys) {
		if key.algorithm == algorithm && (kid == "" || key.id == kid) {
			return key
		}
	}
	panic(fmt.Sprintf("no %s key %q", algorithm, kid))
}

// Sign makes a token in the compact serialisation.
func (p *IdentityProvider) Sign(t Token) string {
	if t.Algorithm == "" {
		t.Algorithm = Algorithms()[0]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := p.key(t.Algorithm, t.Key)
	if t.HeaderText == "" {
		t.HeaderText = object(map[string]any{"alg": key.algorithm, "kid": key.id, "typ": "JWT"}, t.Header)
	}
	if t.Payload == "" {
		now := time.Now()
		t.Payload = object(map[string]any{"iss": p.Issuer, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}, t.Claims)
	}
	private := key.private
	if t.Forged {
		private = p.forger(t.Algorithm)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(t.HeaderText)) + "." + encode([]byte(t.Payload))
	signature, err := jwt.GetSigningMethod(t.Algorithm).Sign(signed, private)
	if err != nil {
		panic(fmt.Sprintf("sign with a %s key: %v", t.Algorithm, err))
	}
	return signed + "." + encode(signature)
}

// forger is a key that is in no set.
func (k *keyring) forger(algorithm string) crypto.Signer {
	if k.forgers[algorithm] == nil {
		if k.forgers == nil {
			k.forgers = map[string]crypto.Signer{}
		}
		k.forgers[algorithm] = newKey(algorithm)
	}
	return k.forgers[algorithm]
}

func newKey(algorithm string) crypto.Signer {
	var key crypto.Signer
	var err error
	switch algorithm {
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic(fmt.Sprintf("algorithm %q: want one of %v", algorithm, Algorithms()))
	}
	if err != nil {
		panic(fmt.Sprintf("make a %s key: %v", algorithm, err))
	}
	return key
}

// jwk is the public half (RFC 7517, RFC 7518 §6, RFC 8037 §2).
func (k signingKey) jwk() map[string]any {
	encode := base64.RawURLEncoding.EncodeToString
	out := map[string]any{"kid": k.id, "alg": k.algorithm, "use": "sig"}
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		out["kty"], out["n"], out["e"] = "RSA", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := public.Bytes() // 4, x, y
		if err != nil {
			panic(fmt.Sprintf("key %s: %v", k.id, err))
		}
		size := len(point) / 2
		out["kty"], out["crv"], out["x"], out["y"] = "EC", "P-256", encode(point[1:1+size]), encode(point[1+size:])
	case ed25519.PublicKey:
		out["kty"], out["crv"], out["x"] = "OKP", "Ed25519", encode(public)
	}
	return out
}

// object is base with the changes, as JSON.
func object(base, changes map[string]any) string {
	maps.Copy(base, changes)
	maps.DeleteFunc(base, func(_ string, value any) bool { return value == any(Absent) })
	return string(mustJSON(base))
}

func mustJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("as JSON: %v", err))
	}
	return text
}
