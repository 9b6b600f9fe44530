package caserver_test

import (
	"testing"

	"github.com/writ-auth/writ/ca/caserver"
)

// BenchmarkRenewal is a call by certificate over TLS, client included, with the ledger in memory.
func BenchmarkRenewal(b *testing.B) {
	bench := newBench(b, options{server: func(c *caserver.Config) { c.Rate, c.Burst = 1e9, 1e9 }})
	client := bench.client(b, bench.certificate(b, call{bearer: bench.orderToken(b)}))
	request := csr(b, newKey(b), "")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (call{csr: request}).send(b, client); err != nil {
			b.Fatal(err)
		}
	}
}
