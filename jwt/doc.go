// Package jwt verifies the bearer tokens of requests as Istio's RequestAuthentication asks for, with Envoy's answers, and
// never less strictly. Start with [NewValidator]; [Validator.Validate] says who a request is from. A [*Token] is proof of
// a verification: nothing else makes one.
//
// Authentication never requires a token, unless a rule says so: a request without one has no identity, and it is for
// authorization to refuse it. A token that is there must be good. Where Envoy would take a request with an odd-looking
// token for anonymous, the token is verified instead.
//
// What this package refuses although Envoy does not: HS* and every other algorithm but RS, PS and ES with 256, 384 and
// 512 bits and EdDSA; keys that are weak or not meant for the algorithm; base64 with padding, white space or unused bits;
// JSON that only a lenient reader takes; crit; more or larger tokens than the bounds in limits.go; an exp of 0. Comments
// that name a section of request-authentication cite the specification of what Envoy does, which docs/semantics.md
// summarises.
package jwt
