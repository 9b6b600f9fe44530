package opa

import (
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/topdown"
)

// guardEvery is how often the heap is looked at while something is evaluated. Evaluations that end sooner, as nearly all
// do, are not looked at.
const guardEvery = 5 * time.Millisecond

// guard stops evaluations in which the heap grows beyond a bound. OPA's evaluator has none of its own, and Go does not say
// who allocates what: so the bound is on what the process grows by while an evaluation is under way, and all that have been
// for a while are stopped then.
type guard struct {
	limit uint64
	heap  func() uint64 // bytes of objects, those that nobody holds any more included until the collector has been there

	mu      sync.Mutex // guards what follows
	running map[*evaluation]struct{}
	looking bool // the next look is due
}

// evaluation is one that is under way.
type evaluation struct {
	cancel topdown.Cancel
	looked bool
	least  uint64 // bytes on the heap since it was first looked at
	tooBig atomic.Bool
}

func newGuard(limit int) *guard {
	return &guard{limit: uint64(limit), heap: heapBytes, running: map[*evaluation]struct{}{}} //nolint:gosec // G115: checked to be positive
}

// begin watches an evaluation until end.
func (g *guard) begin() *evaluation {
	e := &evaluation{cancel: topdown.NewCancel()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running[e] = struct{}{}
	if !g.looking {
		g.looking = true
		time.AfterFunc(guardEvery, g.look)
	}
	return e
}

func (g *guard) end(e *evaluation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, e)
}

// look stops what has grown too much, and comes again while anything is under way.
func (g *guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.looking = len(g.running) > 0; !g.looking {
		return
	}
	now := g.heap()
	for e := range g.running {
		if !e.looked {
			e.looked, e.least = true, now
		}
		e.least = min(e.least, now)
		if now-e.least > g.limit {
			e.tooBig.Store(true)
			e.cancel.Cancel()
		}
	}
	time.AfterFunc(guardEvery, g.look)
}

func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a Go that does not say: only time is bounded then
	}
	return sample[0].Value.Uint64()
}
