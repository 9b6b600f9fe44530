package policy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// requestAuthentication applies request-authentication §1.3.
func (v *validator) requestAuthentication(r *securityv1beta1.RequestAuthentication) {
	v.target(r.GetSelector(), r.GetTargetRef(), r.GetTargetRefs())
	if n := len(r.GetJwtRules()); n > maxJWTRules {
		v.report(codeSchemaLimit, "spec.jwtRules", fmt.Sprintf("%d rules, the Kubernetes API takes %d", n, maxJWTRules), "split the document")
	}
	for i, rule := range r.GetJwtRules() {
		v.jwtRule("spec.jwtRules["+strconv.Itoa(i)+"]", rule)
	}
}

func (v *validator) jwtRule(field string, r *securityv1beta1.JWTRule) {
	if r.GetIssuer() == "" && r.GetJwksUri() == "" {
		hint := "write issuer, the iss claim of its tokens"
		if r.GetJwks() != "" {
			hint += "; inline jwks do not replace it"
		}
		v.report(codeIssuer, field, "the rule has neither issuer nor jwksUri", hint)
	}
	v.notEmpty(field+".audiences", "audience", r.GetAudiences())
	v.notEmpty(field+".fromParams", "parameter name", r.GetFromParams())
	v.notEmpty(field+".fromCookies", "cookie name", r.GetFromCookies())
	for i, h := range r.GetFromHeaders() {
		if h.GetName() == "" {
			v.report(codeEmptyJWT, fmt.Sprintf("%s.fromHeaders[%d]", field, i), "the header has no name", "write name")
		}
	}
	if uri := r.GetJwksUri(); uri != "" {
		v.jwksURI(field+".jwksUri", uri)
	}
	if jwks := r.GetJwks(); jwks != "" {
		v.jwks(field+".jwks", jwks)
	}
	v.outputHeaders(field, r)
	if t := r.GetTimeout(); t != nil {
		if d := t.AsDuration(); d < time.Millisecond || d%time.Millisecond != 0 {
			v.report(codeTimeout, field+".timeout", d.String()+" is not a timeout", "at least 1ms, in whole milliseconds")
		}
	}
	if n := len(r.GetSpaceDelimitedClaims()); n > maxSpaceClaims {
		v.report(codeSchemaLimit, field+".spaceDelimitedClaims", fmt.Sprintf("%d claims, the Kubernetes API takes %d", n, maxSpaceClaims), "")
	}
}

func (v *validator) notEmpty(field, what string, values []string) {
	for i, value := range values {
		if value == "" {
			v.report(codeEmptyJWT, fmt.Sprintf("%s[%d]", field, i), "the "+what+" is empty", "remove it")
		}
	}
}

func (v *validator) jwksURI(field, uri string) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		v.report(codeJWKSURI, field, quoted(uri)+" is not an http or https URL", "write https://host/path")
	}
	if len(uri) > maxJWKSURI {
		v.report(codeSchemaLimit, field, fmt.Sprintf("the URL has %d characters, the Kubernetes API takes %d", len(uri), maxJWKSURI), "")
	}
}

// reservedHeaders steer the proxy or prove who is calling; a token must not be able to set them. Read only.
var reservedHeaders = []string{
	"host", "authorization", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
	"te", "trailer", "transfer-encoding", "upgrade",
}

// outputHeaders checks where a rule puts claims (request-authentication §1.3). outputPayloadToHeader is not checked for
// its alphabet, as in Istio.
func (v *validator) outputHeaders(field string, r *securityv1beta1.JWTRule) {
	used := map[string]bool{}
	if h := r.GetOutputPayloadToHeader(); h != "" {
		v.outputHeader(field+".outputPayloadToHeader", h)
	}
	for i, o := range r.GetOutputClaimToHeaders() {
		at := fmt.Sprintf("%s.outputClaimToHeaders[%d]", field, i)
		header := o.GetHeader()
		switch {
		case header == "" || o.GetClaim() == "":
			v.report(codeOutputHeader, at, "header and claim are both needed", "write header and claim")
			continue
		case strings.IndexFunc(header, notHeaderRune) >= 0:
			v.report(codeOutputHeader, at+".header", quoted(header)+" is not a header name", "letters, digits, '-' and '_'")
		case used[strings.ToLower(header)]:
			v.report(codeOutputHeader, at+".header", quoted(header)+" is set twice by this rule", "use another header")
		}
		used[strings.ToLower(header)] = true
		v.outputHeader(at+".header", header)
	}
}

func notHeaderRune(r rune) bool {
	return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

func (v *validator) outputHeader(field, header string) {
	name := strings.ToLower(header)
	if name[0] == ':' || slices.Contains(reservedHeaders, name) || strings.HasPrefix(name, "x-forwarded-") || strings.HasPrefix(name, "x-envoy-") {
		v.report(codeOutputHeader, field, "the header "+quoted(header)+" belongs to the proxy or proves who is calling", "use a header of your own, such as x-jwt-payload")
	}
}

// jwk is what is checked of a key: whether it is a key at all. Reading it is the business of package jwt.
type jwk map[string]any

// jwkMembers are the members that each key type cannot do without (RFC 7518 §6, RFC 8037 §2). Read only.
var jwkMembers = map[string][]string{
	"RSA": {"n", "e"},
	"EC":  {"crv", "x", "y"},
	"OKP": {"crv", "x"},
	"oct": {"k"},
}

// jwks checks an inline key set. Private and symmetric keys are only warned of, as in Istio.
func (v *validator) jwks(field, text string) {
	keys, err := parseJWKS(text)
	if err != nil {
		v.report(codeJWKS, field, "not a JWK Set: "+err.Error(), `write {"keys": [{"kty": …}]}`)
		return
	}
	for i, k := range keys {
		if k["kty"] == "oct" || k["d"] != nil {
			v.report(codePrivateKey, field, fmt.Sprintf("key %d is private or symmetric", i), "put the public key here, and replace this one")
		}
	}
}

// parseJWKS reads a JWK Set, or one JWK (RFC 7517).
func parseJWKS(text string) ([]jwk, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &top); err != nil {
		return nil, err
	}
	raw := []json.RawMessage{json.RawMessage(text)}
	if set, ok := top["keys"]; ok {
		raw = nil
		if err := json.Unmarshal(set, &raw); err != nil {
			return nil, errors.New("keys is not a list")
		}
	}
	keys := make([]jwk, len(raw))
	for i, r := range raw {
		if err := json.Unmarshal(r, &keys[i]); err != nil {
			return nil, fmt.Errorf("key %d is not an object", i)
		}
		if err := keys[i].check(); err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
	}
	return keys, nil
}

func (k jwk) check() error {
	kty, _ := k["kty"].(string)
	members, ok := jwkMembers[kty]
	if !ok {
		return fmt.Errorf("kty %q is none of RSA, EC, OKP, oct", kty)
	}
	for _, m := range members {
		value, _ := k[m].(string)
		if value == "" {
			return fmt.Errorf("%s is missing", m)
		}
		if m == "crv" {
			continue
		}
		if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(value, "=")); err != nil {
			return fmt.Errorf("%s is not base64url", m)
		}
	}
	return nil
}
