package caserver

import (
	"net/netip"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxBuckets = 1 << 16
	sweepEvery = time.Second
)

// source is what has a budget of its own: an identity at an address. Either alone would let the many pods of one service
// account, or the many workloads behind one address, starve each other.
type source struct {
	id   spiffeid.ID
	from netip.Prefix
}

// newSource takes all addresses of an IPv6 network for one: whoever has one has the others.
func newSource(id spiffeid.ID, from netip.Addr) source {
	bits := 32
	if from.Is6() {
		bits = 64
	}
	prefix, err := from.Prefix(bits)
	if err != nil {
		prefix = netip.Prefix{} // no address: all such share a budget
	}
	return source{id, prefix}
}

// limiter gives each source a budget of calls, a token bucket. When there are too many sources to remember, those beyond
// share one budget: a flood of sources does not lift the limit.
type limiter struct {
	rate, burst float64
	now         func() time.Time

	mu       sync.Mutex // guards what follows
	buckets  map[source]*bucket
	overflow bucket
	swept    time.Time
}

type bucket struct {
	left float64
	at   time.Time // when left was right
}

func newLimiter(rate float64, burst int, now func() time.Time) *limiter {
	l := &limiter{rate: rate, burst: float64(burst), now: now, buckets: map[source]*bucket{}}
	l.overflow = bucket{l.burst, now()}
	return l
}

// allow takes one call from a source's budget, if there is one left.
func (l *limiter) allow(s source) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b := l.buckets[s]
	if b == nil {
		b = l.add(s, now)
	}
	b.left = l.refilled(b, now)
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func (l *limiter) refilled(b *bucket, now time.Time) float64 {
	return min(l.burst, b.left+max(now.Sub(b.at).Seconds(), 0)*l.rate)
}

func (l *limiter) add(s source, now time.Time) *bucket {
	if len(l.buckets) >= maxBuckets && now.Sub(l.swept) >= sweepEvery {
		l.swept = now
		for s, b := range l.buckets {
			if l.refilled(b, now) >= l.burst {
				delete(l.buckets, s) // a full budget is what a new one has
			}
		}
	}
	if len(l.buckets) >= maxBuckets {
		return &l.overflow
	}
	b := &bucket{l.burst, now}
	l.buckets[s] = b
	return b
}
