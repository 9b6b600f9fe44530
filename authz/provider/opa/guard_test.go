package opa

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestGuard: what is under way while the heap grows is stopped, what came later is not, and nobody looks when nothing is
// under way.
func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(MinMaxMemory)
		heap, looks := uint64(500<<20), 0
		g.heap = func() uint64 { looks++; return heap }
		grow := func(bytes int64) {
			<-time.After(guardEvery)
			synctest.Wait()
			g.mu.Lock()
			heap += uint64(bytes) //nolint:gosec // G115: two's complement
			g.mu.Unlock()
		}
		quick := g.begin()
		g.end(quick)
		first := g.begin()
		grow(MinMaxMemory) // looked at for the first time, before it grows
		second := g.begin()
		grow(1)
		if first.tooBig.Load() {
			t.Error("stopped at the bound instead of beyond it")
		}
		grow(0)
		if !first.tooBig.Load() || !first.cancel.Cancelled() {
			t.Error("not stopped beyond the bound")
		}
		if second.tooBig.Load() || second.cancel.Cancelled() || quick.cancel.Cancelled() {
			t.Error("stopped although it took nothing")
		}
		grow(-400 << 20) // the collector was there
		grow(0)
		grow(MinMaxMemory + 1)
		grow(0)
		if !second.tooBig.Load() {
			t.Error("what is left by the collector is where growth begins")
		}
		g.end(first)
		g.end(second)
		grow(0)
		g.mu.Lock()
		before := looks
		g.mu.Unlock()
		grow(0)
		g.mu.Lock()
		defer g.mu.Unlock()
		if looks != before || g.looking {
			t.Errorf("%d looks while nothing is under way", looks-before)
		}
	})
}
