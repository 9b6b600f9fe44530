// Package authz decides one request: it asks the layers in Istio's order (mutual TLS, CUSTOM, token, AUDIT, DENY, ALLOW) and
// returns a [Decision] with its reason. Start with [Engine.Decide].
//
// It refuses to guess: a missing snapshot, an unknown workload or a panic is a denial with a [Reason].
package authz
