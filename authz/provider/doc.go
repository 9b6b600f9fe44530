// Package provider asks remote services for CUSTOM policies: servers of Envoy's external authorization API over gRPC
// ([NewGRPC]) and over HTTP ([NewHTTP]). Start with [GRPCConfig] and [HTTPConfig]; [FromExtension] makes either from an
// entry of Istio's MeshConfig.
//
// A remote answers as it would answer Envoy itself (authorization-policy §6): a gRPC one is sent the CheckRequest byte by
// byte as it came, an HTTP one the request that Envoy's own client would make of it.
//
// The package trusts what a remote decides and nothing else about it. What is not a whole answer in time, within bounds,
// is an [authz.Fault] with its own reason and never an allow. Nothing is asked twice because it failed, redirects are not
// followed, and no proxy, service configuration or resolver of the environment is used but DNS. Close ends every call and
// connection.
package provider
