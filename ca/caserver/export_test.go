package caserver

import (
	"net/netip"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// MaxBuckets is how many sources a limiter tells apart.
const MaxBuckets = maxBuckets

// NewLimiter returns what decides whether an identity at an address may make one more call.
func NewLimiter(rate float64, burst int, now func() time.Time) func(spiffeid.ID, netip.Addr) bool {
	l := newLimiter(rate, burst, now)
	return func(id spiffeid.ID, from netip.Addr) bool { return l.allow(newSource(id, from)) }
}
