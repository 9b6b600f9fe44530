// Package citadel holds writ's certificate service against the code that istio-agent runs: Istio's own citadel client,
// its secret cache and its SDS server, as a library. The tests run the writ binary with a ca block and look at what both
// sides say; where the authority has to fail on demand, they run ca/caserver/testdata/authority instead.
// [github.com/writ-auth/writ/test/conformance/citadel/pilotagent] does the same with the pilot-agent binary.
//
// It is a module of its own because Istio is large: some 250 modules to download, and minutes to compile the first time.
package citadel
