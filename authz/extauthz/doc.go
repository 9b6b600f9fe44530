// Package extauthz speaks Envoy's external authorization API (envoy.service.auth.v3.Authorization/Check): it decodes
// what the proxy asks, finds out which workload is asked about, lets package authz decide and writes the answer. It is
// the only code that knows that API.
//
// Start with [New] and [Server.Serve]. [Server.Decide] answers one CheckRequest without a network, by the same code;
// [DecodeRequest] only reads one.
//
// A Check costs less than the RPC that carries it: only the fields that policies can see are decoded, in place, into
// one reused [policy.Request], and the answer is appended to a pooled buffer. No step of it allocates.
//
// The package refuses rather than guesses. Bytes that cannot be read, a workload that is not named, a path that the
// proxy should have normalized, a missing snapshot and a panic are denials inside the response. A gRPC error is never
// returned by the handler, because Envoy's failure_mode_allow would turn it into an allow.
package extauthz
