// Package caserver is the certificate authority on the wire: Istio's certificate service, as istio-agent, ztunnel and
// writ's own agent call it, and what operators may do, as plain functions. Start with [New] and [Server.Serve]; operators
// start with [NewAdmin].
//
// One call is one certificate. Who asks is found out by package attest; the certificate request gives the public key and
// nothing else; package ca decides and signs. The answer is the chain as agents want it (identity §2.6), the failure a
// status that has them try again where that may help and not where it cannot (identity §2.7). What a caller is told of a
// failure is its kind; the log and [Observation] have the rest.
//
// There is no listener without TLS: credentials travel on it.
package caserver
