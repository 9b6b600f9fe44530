// Package bootstrap writes the Envoy configuration of one workload: what its PeerAuthentication, DestinationRule, Gateway
// and RequestAuthentication documents ask of a proxy, with certificates over SDS and every decision asked of writ. Start
// with [New].
//
// It decides nothing by itself. Modes come from package policy, the shape of each filter chain from authorization-policy
// §8.2 to §8.4, and the settings around ext_authz are those of deploy/envoy/sidecar.yaml, which explains each.
package bootstrap
