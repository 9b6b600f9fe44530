// Package pilotagent holds writ's certificate service against the program that runs in every Istio sidecar: pilot-agent,
// built from Istio's sources and not changed. The tests start it without Kubernetes, without istiod and without Envoy: it
// gets certificates from the writ binary, writes them to files and renews them.
package pilotagent
