package policy

import (
	"fmt"
	"strings"
)

// family is one value syntax of authorization-policy §1.3. Validation checks values by family; the compiler builds
// matchers by family.
type family uint8

const (
	familyString           family = iota // STR
	familyHeader                         // HDR
	familyPrincipal                      // PRIN
	familyNamespace                      // NS
	familyServiceAccount                 // SA
	familyTrustDomain                    // TD
	familyRequestPrincipal               // RP
	familyClaim                          // CLAIM
	familyIP                             // IP
	familyPort                           // PORT
	familyMetadata                       // META
)

// whenKey is one row of the table of `when` keys: the whole story of a key (authorization-policy §2).
type whenKey struct {
	name      string // whole key, or what comes before the bracket
	bracketed bool   // written name[argument]
	open      bool   // bracketed, and more may stand between name and bracket (experimental.envoy.filters.NS[k])
	family    family
	attr      attrKind
	claim     string // familyClaim without brackets: the one claim it reads
	httpOnly  bool   // has no value on a TCP connection (§5)
	noCustom  bool   // refused with action CUSTOM, which runs before identities and tokens are known (§3.4)
}

// whenKeys is read only.
var whenKeys = []whenKey{
	{name: "request.headers", bracketed: true, family: familyHeader, attr: attrHeader, httpOnly: true},
	{name: "source.ip", family: familyIP, attr: attrSourceIP},
	{name: "remote.ip", family: familyIP, attr: attrRemoteIP},
	{name: "source.namespace", family: familyNamespace, attr: attrNames, noCustom: true},
	{name: "source.principal", family: familyPrincipal, attr: attrNames, noCustom: true},
	{name: "source.serviceAccount", family: familyServiceAccount, attr: attrNames, noCustom: true},
	{name: "source.trustDomain", family: familyTrustDomain, attr: attrNames, noCustom: true},
	{name: "request.auth.principal", family: familyRequestPrincipal, attr: attrRequestPrincipal, httpOnly: true, noCustom: true},
	{name: "request.auth.audiences", family: familyClaim, attr: attrClaim, claim: "aud", httpOnly: true, noCustom: true},
	{name: "request.auth.presenter", family: familyClaim, attr: attrClaim, claim: "azp", httpOnly: true, noCustom: true},
	{name: "request.auth.claims", bracketed: true, family: familyClaim, attr: attrClaim, httpOnly: true, noCustom: true},
	{name: "destination.ip", family: familyIP, attr: attrDestIP},
	{name: "destination.port", family: familyPort, attr: attrDestPort},
	{name: "connection.sni", family: familyString, attr: attrSNI},
	{name: "experimental.envoy.filters.", bracketed: true, open: true, family: familyMetadata, attr: attrMetadata},
}

// retiredKeys are keys that Istio names in its refusals, each with what took its place. Read only.
var retiredKeys = []struct{ prefix, instead string }{
	{"destination.labels", "use spec.selector.matchLabels"},
	{"destination.namespace", "use metadata.namespace"},
	{"destination.name", "use spec.selector.matchLabels or spec.targetRefs"},
	{"destination.user", "use spec.selector.matchLabels"},
	{"source.user", "use source.principal"},
	{"request.host", "use to[].operation.hosts, or request.headers[:authority]"},
	{"request.method", "use to[].operation.methods"},
	{"request.path", "use to[].operation.paths"},
}

// keyError is a `when` key that means nothing.
type keyError struct{ message, hint string }

func (e *keyError) Error() string { return e.message + " (" + e.hint + ")" }

// lookupKey finds the row of a key as written in a document, and what of a request it reads: for headers the name in
// lower case, for claims the path, for metadata the filter's namespace and the key. The error is a *keyError.
//
// Istio compares bracketed keys by prefix only, so that request.auth.claimsX[a] passes its validation and then opens
// the rule up; here such a key is unknown (authorization-policy §2).
func lookupKey(key string) (*whenKey, attribute, error) {
	name, argument, bracketed := cutBracket(key)
	for i := range whenKeys {
		k := &whenKeys[i]
		switch {
		case !k.bracketed && key == k.name:
			return k, attribute{kind: k.attr, path: claimPath(k.claim)}, nil
		case !k.bracketed:
			continue
		case k.open && strings.HasPrefix(key, k.name), name == k.name:
			if !bracketed || argument == "" {
				return nil, attribute{}, &keyError{
					message: fmt.Sprintf("key %q lacks its [argument]", key),
					hint:    "write " + bracketExample(k),
				}
			}
			return k, bracketAttribute(k, name, argument), nil
		}
	}
	return nil, attribute{}, unknownKey(key)
}

// cutBracket splits a key at its first bracket. Without a bracket, or without a final one, bracketed is false and name
// is what stands before the first bracket, if any.
func cutBracket(key string) (name, argument string, bracketed bool) {
	name, rest, found := strings.Cut(key, "[")
	argument, closed := strings.CutSuffix(rest, "]")
	return name, argument, found && closed
}

func bracketAttribute(k *whenKey, name, argument string) attribute {
	a := attribute{kind: k.attr}
	switch k.family {
	case familyHeader:
		a.name = asciiLower(argument)
		if a.name == "host" { // Envoy keeps host and :authority as one header, under the name :authority
			a.name = ":authority"
		}
	case familyMetadata:
		a.name, a.path = strings.TrimPrefix(name, "experimental."), []string{argument}
	default:
		a.path = nestedClaim(argument)
	}
	return a
}

// nestedClaim reads a][b as the path a, b. Anything that does not nest properly is one literal name (§2).
func nestedClaim(argument string) []string {
	path := strings.Split(argument, "][")
	for _, p := range path {
		if strings.ContainsAny(p, "[]") {
			return []string{argument}
		}
	}
	return path
}

func claimPath(claim string) []string {
	if claim == "" {
		return nil
	}
	return []string{claim}
}

func bracketExample(k *whenKey) string {
	switch k.family {
	case familyHeader:
		return k.name + "[x-name]"
	case familyMetadata:
		return k.name + "NAME[key]"
	default:
		return k.name + "[name] or " + k.name + "[outer][inner]"
	}
}

func unknownKey(key string) error {
	e := &keyError{message: fmt.Sprintf("unknown key %q", key)}
	for _, r := range retiredKeys {
		if strings.HasPrefix(key, r.prefix) {
			e.hint = r.instead
			return e
		}
	}
	name, rest, bracketed := strings.Cut(key, "[")
	known := make([]string, len(whenKeys))
	for i := range whenKeys {
		known[i] = whenKeys[i].name
	}
	if near := nearest(name, known); near != "" {
		if bracketed {
			near += "[" + rest
		}
		e.hint = fmt.Sprintf("did you mean %q?", near)
		return e
	}
	e.hint = "known keys: " + strings.Join(known, ", ")
	return e
}
