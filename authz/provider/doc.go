// Package provider asks remote services for CUSTOM policies: servers of Envoy's external authorization API over gRPC
// ([NewGRPC]) and over HTTP ([NewHTTP]). Start with [GRPCConfig] and [HTTPConfig]; [FromExtension] makes either from an
// entry of Istio's MeshConfig.
//
// A remote answers as it would answer Envoy itself (authorization-policy §6): a gRPC one is sent the CheckRequest byte by
// byte as it came (raw headers also in Envoy's usual form), an HTTP one the request that Envoy's own client would make of
// it.
//
// The package trusts what a remote decides and nothing else about it. What is not a whole answer in time, within bounds,
// is an [authz.Fault] with its own reason and never an allow. A call that failed is not made again, redirects are not
// followed, and neither proxies of the environment nor what DNS says of services beyond their addresses has a say. Close
// ends every call and connection.
package provider
