package policytest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Issuer signs tokens of unverified claims, and lends every token rule the key to verify them with. The key is made for it
// and never leaves it: no server knows a token that it signs. It is not safe for concurrent use.
type Issuer struct {
	private ed25519.PrivateKey
	public  *jwt.KeySet
	inline  []*jwt.KeySet // keys that documents hold, by the number in the address that took their place

	claims  bool     // the request at hand has unverified claims
	missing []string // issuers whose keys a token of the request needs and only an authority fetches
}

// NewIssuer makes an issuer with a key of its own.
func NewIssuer() (*Issuer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	x := base64.RawURLEncoding.EncodeToString(public)
	set, err := jwt.ParseKeySet([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"` + x + `"}]}`))
	return &Issuer{private: private, public: set}, err
}

// Begin says whether the request that is decided next has unverified claims. Only then its rules take the issuer's key.
func (i *Issuer) Begin(claims bool) { i.claims, i.missing = claims, nil }

// Sign makes a token of claims. It is good for nobody but the rules that [Issuer.Lend] returned.
func (i *Issuer) Sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("unverified claims: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode(payload)
	return signed + "." + encode(ed25519.Sign(i.private, []byte(signed))), nil
}

// inlineAddress takes the place of keys inside a document, which the verifier would use whatever the case says.
const inlineAddress = "inline:"

// Lend returns the documents with the keys of their token rules replaced by addresses that [Issuer.Source] answers
// for.
func (i *Issuer) Lend(docs []*policy.Document) []*policy.Document {
	out := slices.Clone(docs)
	for n, doc := range docs {
		spec, ok := doc.Spec.(*securityv1beta1.RequestAuthentication)
		if !ok {
			continue
		}
		spec = proto.CloneOf(spec)
		for _, rule := range spec.GetJwtRules() {
			if rule.GetJwks() == "" {
				continue
			}
			set, err := jwt.ParseKeySet([]byte(rule.GetJwks()))
			if err != nil {
				set = nil // refuses every token, as it does in the server
			}
			rule.Jwks, rule.JwksUri = "", inlineAddress+strconv.Itoa(len(i.inline))
			i.inline = append(i.inline, set)
		}
		lent := *doc
		lent.Spec = spec
		out[n] = &lent
	}
	return out
}

// Source is where the keys of a rule come from. It is what [authz.Tokens] asks.
func (i *Issuer) Source(w jwt.Wanted) jwt.Source { return &keys{i, w} }

// keys are those of one rule, for the case at hand.
type keys struct {
	issuer *Issuer
	wanted jwt.Wanted
}

// Keys implements [jwt.Source].
func (k *keys) Keys() *jwt.KeySet {
	if k.issuer.claims {
		return k.issuer.public
	}
	set, _ := k.inline()
	return set
}

func (k *keys) inline() (set *jwt.KeySet, ok bool) {
	digits, ok := strings.CutPrefix(k.wanted.JWKSURI, inlineAddress)
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n >= len(k.issuer.inline) {
		return nil, false
	}
	return k.issuer.inline[n], true
}

// Refetch implements [jwt.Source]. It is called for a token that nothing but the keys can judge.
func (k *keys) Refetch(context.Context) *jwt.KeySet {
	if k.issuer.claims {
		return k.issuer.public
	}
	if set, ok := k.inline(); ok {
		return set
	}
	from := k.wanted.Issuer
	if from == "" {
		from = k.wanted.JWKSURI
	}
	if !slices.Contains(k.issuer.missing, from) {
		k.issuer.missing = append(k.issuer.missing, from)
	}
	return nil
}
