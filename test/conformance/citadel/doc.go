// Package citadel holds writ's certificate service against the code that istio-agent runs: Istio's own citadel client,
// its secret cache and its SDS server, as a library. The tests start the service in a process of its own and look at what
// both sides say.
//
// It is a module of its own because Istio is large: some 250 modules to download, and minutes to compile the first time.
package citadel
