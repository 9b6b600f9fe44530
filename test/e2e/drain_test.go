package e2e_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// TestDrain restarts one of two authorities under load. Envoy knows both, and retries a question that a draining one
// did not take: no caller notices.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "all.yaml", allowOnly("/orders"))
	sockets := []string{"authz.sock", "second.sock"}
	running := []*testkit.Authority{b.serve(t, sockets[0]), b.serve(t, sockets[1])}
	envoy := b.envoy(t, echo(t), database(t), edit{
		"- endpoint: { address: { " + writAddress + " } } # <authz.listen>",
		fmt.Sprintf("- endpoint: { address: { pipe: { path: %s } } }\n              - endpoint: { address: { pipe: { path: %s } } }",
			b.file(sockets[0]), b.file(sockets[1])),
	}, edit{"circuit_breakers:", "# " + writAddress + "\n      circuit_breakers:"})
	customer := b.caller(t, "customer-service")
	traffic := startLoad(t, "https://"+envoy.Listener("http"), []probe{
		{customer, "GET", "/orders", 200},
		{customer, "GET", "/menu", 403},
	})
	traffic.waitFor(t, 200)
	for i := range 4 {
		old := running[i%2]
		if err := old.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := old.Err(); err != nil {
			t.Errorf("writ serve, told to stop: %v", err)
		}
		traffic.waitFor(t, 100) // with the other one alone
		running[i%2] = b.serve(t, sockets[i%2])
		traffic.waitFor(t, 100)
	}
	traffic.finish(t)
}
