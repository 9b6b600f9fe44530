// Package sds gives proxies and workloads the secrets they may have: Envoy's Secret Discovery Service, in both its
// protocols, and what the SPIFFE Workload API (package workloadapi) shares with it.
//
// A [Vault] holds what there is to give, checked and encoded once. An [Authorizer] says who may have which of it, and a
// [Server] brings the two together: start with [New]. The [Inventory] knows what every stream holds.
//
// Private keys leave through a Unix socket only, to a process that the kernel names, unless the configuration says
// otherwise. What a caller may have is asked when it opens a stream and whenever the answer may have changed.
package sds
