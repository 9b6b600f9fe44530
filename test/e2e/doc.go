// Package e2e drives a real Envoy that asks a real `writ serve`. The Envoy runs deploy/envoy/sidecar.yaml, the
// reference that users copy, with only its addresses and the setting under test replaced.
//
// The tests need an Envoy binary (scripts/envoy.sh finds or fetches one) and fail, saying what to do, without it.
package e2e
