package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const (
	issuer        = "https://idp.example"
	audience      = "shop"
	rulesInPolicy = 500 // Kubernetes bounds the size of an object

	manyCallers = 256  // that ask, each with a token of its own
	asked       = 4096 // questions made beforehand, in the order in which they are sent
	oneIn       = 10   // is denied
)

// question is one CheckRequest in protobuf encoding and what is right to answer.
type question struct {
	raw     []byte
	allowed bool
	caller  uint64 // whose it is, the most frequent first
}

// corpus is a policy and the questions about it: rule i lets caller-i, with a token of user-i, GET /api/v1/*.
type corpus struct {
	rules     int
	key       *rsa.PrivateKey
	questions []question
	tokens    []string // of the callers, the most frequent first
}

// newCorpus makes the questions of so many callers, each of whom some rule is about. They are drawn by Zipf's law, so a
// few of them ask most, and every tenth question is denied. The same questions come out each time, but for the key.
func newCorpus(rules, callers int) (*corpus, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	c := &corpus{rules: rules, key: key}
	var distinct [][2]question // by caller: allowed, denied
	for rank := range min(callers, rules) {
		rule := rank * rules / min(callers, rules)
		token, err := signed(key, fmt.Sprintf("user-%d", rule))
		if err != nil {
			return nil, err
		}
		c.tokens = append(c.tokens, token)
		account := fmt.Sprintf("caller-%d", rule)
		yes, err := ask(account, "GET", token)
		if err != nil {
			return nil, err
		}
		no, err := ask(account, "DELETE", token)
		if err != nil {
			return nil, err
		}
		distinct = append(distinct, [2]question{{yes, true, uint64(rank)}, {no, false, uint64(rank)}})
	}
	for i, caller := range drawn(len(distinct)) {
		q := distinct[caller]
		if i%oneIn == oneIn-1 {
			c.questions = append(c.questions, q[1])
		} else {
			c.questions = append(c.questions, q[0])
		}
	}
	return c, nil
}

// drawn are so many callers' numbers in the order in which they ask: by Zipf's law, the same each time.
func drawn(callers int) []uint64 {
	random := mathrand.New(mathrand.NewPCG(1, 2)) //nolint:gosec // G404: the same draw each time is the point
	zipf := mathrand.NewZipf(random, 1.1, 1, uint64(callers-1))
	list := make([]uint64, asked)
	for i := range list {
		list[i] = zipf.Uint64()
	}
	return list
}

// template is a request of a browser behind a gateway, as Envoy describes it.
const template = `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.244.1.17","portValue":43210}}},
	"destination":{"address":{"socketAddress":{"address":"10.244.2.5","portValue":8080}},"principal":"spiffe://cluster.local/ns/shop/sa/order"},
	"request":{"time":"2026-11-21T06:29:28.485212Z","http":{"id":"17785514492460819318","path":"/api/v1/menu?size=20&page=3",
	"host":"shop.example.com","scheme":"https","protocol":"HTTP/2","headers":{
	":authority":"shop.example.com",":path":"/api/v1/menu?size=20&page=3",":scheme":"https",
	"accept":"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8","accept-encoding":"gzip, deflate, br",
	"accept-language":"en-US,en;q=0.5","cookie":"session=0123456789abcdef0123456789abcdef; theme=dark",
	"user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"x-forwarded-for":"203.0.113.7,10.244.1.17","x-forwarded-proto":"https","x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}},
	"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=order"},"metadataContext":{},"routeMetadataContext":{},
	"tlsSession":{"sni":"shop.example.com"}}}`

// orderLabels are those of the workload that the rules are for.
const orderLabels = "app=order"

// ask encodes what Envoy asks about a request of the caller.
func ask(account, method, token string) ([]byte, error) {
	return askAbout(account, method, token, orderLabels)
}

// askAbout is ask about the workload with these labels.
func askAbout(account, method, token, labels string) ([]byte, error) {
	r, err := newAsking(labels)
	if err != nil {
		return nil, err
	}
	return r.ask(account, method, token)
}

// asking makes questions about one workload from the template.
type asking struct{ request authv3.CheckRequest }

func newAsking(labels string) (*asking, error) {
	a := &asking{}
	if err := protojson.Unmarshal([]byte(template), &a.request); err != nil {
		return nil, err
	}
	a.request.Attributes.ContextExtensions["writ.labels"] = labels
	return a, nil
}

func (a *asking) ask(account, method, token string) ([]byte, error) {
	attributes := a.request.Attributes
	attributes.Source.Principal = "spiffe://cluster.local/ns/shop/sa/" + account
	http := attributes.Request.Http
	http.Method, http.Headers[":method"] = method, method
	delete(http.Headers, "authorization")
	if token != "" {
		http.Headers["authorization"] = "Bearer " + token
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(&a.request)
}

// openPath is what every caller may read, with any token or none; closedPath is nobody's.
const openPath, closedPath = "/open/menu", "/closed/menu"

// documents are the policies as writ reads them.
func (c *corpus) documents() string {
	var doc strings.Builder
	for from := 0; from < c.rules; from += rulesInPolicy {
		fmt.Fprintf(&doc, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p-%06d, namespace: shop}\n"+
			"spec:\n  selector: {matchLabels: {app: order}}\n  rules:\n", from)
		for i := from; i < min(from+rulesInPolicy, c.rules); i++ {
			fmt.Fprintf(&doc, "  - from: [{source: {principals: [cluster.local/ns/shop/sa/caller-%d]}}]\n"+
				"    to: [{operation: {methods: [GET], paths: [/api/v1/*]}}]\n"+
				"    when: [{key: request.auth.principal, values: ['%s/user-%d']}]\n", i, issuer, i)
		}
		doc.WriteString("---\n")
	}
	fmt.Fprintf(&doc, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: open, namespace: shop}\n"+
		"spec: {rules: [{to: [{operation: {paths: [%s]}}]}]}\n---\n", openPath)
	fmt.Fprintf(&doc, "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: shop}\nspec:\n"+
		"  jwtRules: [{issuer: %q, audiences: [%s], jwks: '%s'}]\n", issuer, audience, c.jwks())
	return doc.String()
}

// rego is the same policy for OPA, in the form that its rule index likes best: one equality on the caller for each rule.
func (c *corpus) rego() string {
	var text strings.Builder
	fmt.Fprintf(&text, `package envoy.authz

import input.attributes.request.http as http_request

default allow := false

claims := payload if {
	startswith(http_request.headers.authorization, "Bearer ")
	[valid, _, payload] := io.jwt.decode_verify(substring(http_request.headers.authorization, 7, -1), {"cert": %q, "iss": %q, "aud": %q})
	valid
}

`, c.jwks(), issuer, audience)
	for i := range c.rules {
		fmt.Fprintf(&text, "allow if { input.attributes.source.principal == \"spiffe://cluster.local/ns/shop/sa/caller-%d\"; http_request.method == \"GET\"; "+
			"startswith(http_request.path, \"/api/v1/\"); claims.sub == \"user-%d\" }\n", i, i)
	}
	fmt.Fprintf(&text, "allow if http_request.path == %q\n", openPath)
	return text.String()
}

func (c *corpus) jwks() string {
	n := base64.RawURLEncoding.EncodeToString(c.key.N.Bytes())
	e := base64.RawURLEncoding.EncodeToString(big.NewInt(int64(c.key.E)).Bytes())
	return fmt.Sprintf(`{"keys":[{"kty":"RSA","kid":"k","alg":"RS256","n":%q,"e":%q}]}`, n, e)
}

// signed is an RS256 token of about 900 bytes, as identity providers make them.
func signed(key *rsa.PrivateKey, subject string) (string, error) {
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": subject, "aud": []string{audience}, "exp": time.Now().Add(6 * time.Hour).Unix(),
		"iat": time.Now().Unix(), "scope": "openid profile email orders:read orders:write", "email": subject + "@shop.example",
		"groups": []string{"customers", "gold", "newsletter"}, "jti": "f8829f87-699e-4949-b1db-d78ccc345b44", "name": "Alice Example",
	})
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"k","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
