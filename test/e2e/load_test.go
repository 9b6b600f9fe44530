package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// callers is how many clients of a load ask at once.
const callers = 6

// load is a continuous stream of requests whose answers are known.
type load struct {
	requests atomic.Int64 // answered so far

	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	bad  []string // answers that were wrong, at most maxBad
	all  int      // how many were wrong
}

// maxBad bounds what a failing load reports.
const maxBad = 10

// probe is one request of a load.
type probe struct {
	client *http.Client
	method string
	target string
	status int // what is right
}

// startLoad has each of the callers send the probes in turn until finish is called.
func startLoad(t *testing.T, base string, probes []probe) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop}
	for caller := range callers {
		l.wg.Go(func() {
			for i := caller; ctx.Err() == nil; i++ {
				p := probes[i%len(probes)]
				// Not ctx: a request that was sent is answered, or that is a failure.
				sent := time.Now()
				got, err := try(t.Context(), p.client, base, p.method, p.target)
				if err != nil || got.status != p.status {
					l.wrong(fmt.Sprintf("%s %s: got %d %q (%v) after %v, want %d; x-request-id %s",
						p.method, p.target, got.status, got.body, err, time.Since(sent), p.status, got.id))
				}
				l.requests.Add(1)
			}
		})
	}
	t.Cleanup(func() { stop(); l.wg.Wait() })
	return l
}

func (l *load) wrong(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all++
	if len(l.bad) < maxBad {
		l.bad = append(l.bad, what)
	}
}

// waitFor returns after n more answers, so that what happened before it was met by traffic.
func (l *load) waitFor(t *testing.T, n int64) {
	t.Helper()
	target := l.requests.Load() + n
	eventually(t, fmt.Sprintf("%d more answers", n), func() error {
		if now := l.requests.Load(); now < target {
			return fmt.Errorf("%d are missing", target-now)
		}
		return nil
	})
}

// finish ends the load and fails the test for every wrong answer.
func (l *load) finish(t *testing.T) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d answers, %d wrong", l.requests.Load(), l.all)
	for _, what := range l.bad {
		t.Error(what)
	}
}
