// Package sds gives proxies and workloads the secrets they may have: Envoy's Secret Discovery Service, in both its
// protocols, and what the SPIFFE Workload API (package workloadapi) shares with it.
//
// A [Vault] holds what there is to give, checked and encoded once. An [Authorizer] says who may have which of it, and a
// [Server] brings the two together, one loop for each stream. The [Inventory] knows what every stream holds.
package sds
