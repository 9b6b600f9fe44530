// Package workloadapi is the SPIFFE Workload API (SPIFFE Workload API, X509-SVID and JWT-SVID profiles) on the secrets of
// package sds: workloads of this machine ask who they are and get the certificates, keys, tokens and bundles that say so.
package workloadapi
