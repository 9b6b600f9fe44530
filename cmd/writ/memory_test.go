package main

import (
	"runtime"
	"testing"
	"time"
)

func TestCollectorPercent(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tt := range []struct {
		base uint64
		want int
	}{
		{0, 1600}, {1, 1600}, {mib, 1600}, {2 * mib, 1600}, {4 * mib, 1600}, {5 * mib, 1280}, {16 * mib, 400}, {63 * mib, 101}, {64 * mib, 100}, {65 * mib, 100}, {10 << 30, 100}, {1 << 63, 100},
	} {
		if got := collectorPercent(tt.base); got != tt.want {
			t.Errorf("%d bytes: %d %%, want %d", tt.base, got, tt.want)
		}
	}
	for base := uint64(4 * mib); base < 1<<32; base = base*5/4 + 1 {
		grown := base + base*uint64(collectorPercent(base))/100
		if least := max(base+minHeapGrowth, 2*base); grown > least || grown < least-least/50 {
			t.Errorf("%d bytes grow to %d before a collection, want about %d", base, grown, least)
		}
	}
}

// TestPaceCollector holds a large heap and lets it go: after collections the pace follows, until it is stopped.
func TestPaceCollector(t *testing.T) {
	t.Parallel()
	set := make(chan int, 1024)
	stop := paceCollector(func(percent int) { set <- percent })
	defer stop()
	<-set // at once
	held := make([]byte, 256<<20)
	until(t, set, func(percent int) bool { return percent == 100 })
	runtime.KeepAlive(held) // from here on nobody holds it
	until(t, set, func(percent int) bool { return percent > 100 })
}

// until collects garbage until a pace is set that suits.
func until(t *testing.T, set <-chan int, suits func(int) bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		runtime.GC()
		select {
		case percent := <-set:
			if suits(percent) {
				return
			}
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatal("the pace was never set")
}
