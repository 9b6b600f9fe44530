package caserver_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca/caserver"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(1000, 0)
	allow := caserver.NewLimiter(2, 3, func() time.Time { return now })
	a, b := mustID(t, order), mustID(t, payment)
	here, there := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for i := range 3 {
		if !allow(a, here) {
			t.Errorf("call %d of the burst is refused", i)
		}
	}
	if allow(a, here) {
		t.Error("one more than the burst")
	}
	if !allow(b, here) || !allow(a, there) {
		t.Error("another identity, or another address, pays for it")
	}
	now = now.Add(500 * time.Millisecond)
	if !allow(a, here) || allow(a, here) {
		t.Error("half a second at two a second is one call")
	}
	now = now.Add(-time.Hour)
	if allow(a, here) {
		t.Error("a clock that goes back refills the budget")
	}
}

func TestLimiterTakesAnIPv6NetworkForOne(t *testing.T) {
	now := time.Unix(1000, 0)
	allow := caserver.NewLimiter(1, 1, func() time.Time { return now })
	id := mustID(t, order)
	if !allow(id, netip.MustParseAddr("2001:db8::1")) || allow(id, netip.MustParseAddr("2001:db8::2")) {
		t.Error("each address of a network has its own budget")
	}
	if !allow(id, netip.MustParseAddr("2001:db8:0:1::1")) {
		t.Error("two networks share a budget")
	}
}

// TestLimiterIsBounded: a flood of sources is not a way around the limit, and is forgotten once it is over.
func TestLimiterIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	allow := caserver.NewLimiter(1, 2, func() time.Time { return now })
	id := mustID(t, order)
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range caserver.MaxBuckets {
		if !allow(id, address(i)) {
			t.Fatalf("source %d is refused", i)
		}
	}
	passed := 0
	for i := range 100 {
		if allow(id, address(caserver.MaxBuckets+i)) {
			passed++
		}
	}
	if passed != 2 {
		t.Errorf("%d calls of sources beyond the limit, want the 2 of one budget", passed)
	}
	now = now.Add(time.Minute)
	for i := range 100 {
		if !allow(id, address(caserver.MaxBuckets+i)) {
			t.Fatalf("source %d is refused after the flood", i)
		}
	}
}
