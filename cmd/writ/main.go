// Command writ decides which request may reach which workload, as Istio's AuthorizationPolicy says, behind Envoy's
// ext_authz; it says, offline, what it would decide and why; and it issues the SPIFFE certificates that workloads are
// known by.
//
// Start with "writ check" to try a policy, "writ lint" to check it, and "writ serve" to run the authority.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)                                      // who asks a second time does not want to wait
	release := func() { signal.Reset(os.Interrupt, syscall.SIGTERM) } // and does not end the context, as stop would
	c := &cli{release: release, in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.LookupEnv, environ: os.Environ()}
	return c.execute(ctx, os.Args[1:])
}
