package jwt

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxWaiters    = 1024             // requests that wait for one source's fetch; more are answered with the keys in force
	forgottenFor  = time.Minute      // how long a source no longer wanted keeps its keys, for requests under way
	repeatFailure = 10 * time.Minute // how often a lasting failure is logged
)

// remote is the [Source] of a key set that is fetched. One goroutine, run, fetches; everybody else reads and asks.
type remote struct {
	s       *Sources
	target  target
	refused *fetchError   // why nothing is ever fetched, nil if it is
	wake    chan struct{} // a token asked for newer keys; buffers one

	keys    atomic.Pointer[KeySet]
	waiters atomic.Int32

	mu        sync.Mutex // guards what follows
	need      need
	forgotten bool
	pending   chan struct{} // closed when the fetch that is asked for or under way ends, nil if there is none
	expiry    *time.Timer   // takes the keys out of force, nil before the first success
	record    record
}

// record is what became of a source's fetches so far. Times are of the monotonic clock, except where they say wall.
type record struct {
	tried, succeeded time.Time // when the last fetch, and the last good one, ended
	succeededWall    time.Time
	nextWall         time.Time
	failures         int // in a row
	last             *fetchError
	failedWall       time.Time
	logged           time.Time
	loggedAs         FetchResult
	loggedLevel      slog.Level
}

func newRemote(s *Sources, t target) *remote {
	r := &remote{s: s, target: t, refused: s.checkTarget(t), wake: make(chan struct{}, 1)}
	if r.refused == nil {
		r.pending = make(chan struct{}) // the first fetch needs no asking
	}
	return r
}

// Keys implements [Source].
func (r *remote) Keys() *KeySet { return r.keys.Load() }

// Refetch implements [Source]. All callers together cause at most one fetch per 30 seconds; those who come while a fetch
// is under way, the first one included, wait for it.
func (r *remote) Refetch(ctx context.Context) *KeySet {
	done, outcome := r.ask()
	if done != nil {
		defer r.waiters.Add(-1)
		if r.waiters.Add(1) > maxWaiters {
			done, outcome = nil, RefetchCrowded
		}
	}
	r.s.cfg.Metrics.Refetched(outcome)
	if done != nil {
		if waiting := r.s.cfg.Waiting; waiting != nil {
			defer waiting(ctx)()
		}
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	return r.Keys()
}

// ask has keys fetched if that may be, and returns what is closed when they are there.
func (r *remote) ask() (<-chan struct{}, RefetchOutcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.forgotten || r.refused != nil || !r.s.running.Load():
		return nil, RefetchImpossible
	case r.pending != nil:
		return r.pending, RefetchJoined
	case time.Since(r.record.tried) < refetchInterval:
		return nil, RefetchLimited
	}
	r.pending = make(chan struct{})
	select {
	case r.wake <- struct{}{}:
	default: // run is being woken already
	}
	return r.pending, RefetchStarted
}

// run fetches, now and whenever it is time or a token asks, until ctx ends.
func (r *remote) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		timeout := r.begin()
		start := time.Now()
		got, err := r.fetch(ctx, timeout)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		result := FetchOK
		if err == nil {
			wait = r.succeed(got)
		} else {
			wait, result = r.fail(err), err.result
		}
		r.s.cfg.Metrics.Fetched(result, time.Since(start))
		timer.Reset(wait)
	}
}

// begin marks a fetch as under way.
func (r *remote) begin() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending == nil {
		r.pending = make(chan struct{})
	}
	select { // asked for while the timer fired: this fetch is the answer
	case <-r.wake:
	default:
	}
	return r.need.timeout
}

// fetch makes an attempt, and two more if it fails in a way that may pass.
func (r *remote) fetch(ctx context.Context, timeout time.Duration) (fetched, *fetchError) {
	for n := 0; ; n++ {
		got, err := r.s.fetcher.fetch(ctx, r.target, timeout)
		if err == nil {
			return got, nil
		}
		e := describeError(ctx, err)
		if !e.transient || n == maxRetries {
			return fetched{}, e
		}
		select {
		case <-time.After(spread(retryPause<<n, 0.5)):
		case <-ctx.Done():
			return fetched{}, e
		}
	}
}

// succeed puts what a fetch brought in force, lets those go who waited for it, and says how long to wait for the next.
func (r *remote) succeed(got fetched) time.Duration {
	wait := nextRefresh(r.s.cfg.Refresh, got.header)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forgotten {
		return wait
	}
	old := r.keys.Load()
	if !got.keys.Equal(old) { // the same document stays the same *KeySet: caches of verified tokens hold on to it
		r.keys.Store(got.keys)
		r.logKeys(old, got.keys)
	}
	if r.record.failures > 0 {
		r.s.cfg.Logger.Info("keys fetched again", r.about("failures", r.record.failures)...)
	}
	now := time.Now()
	r.record = record{
		tried: now, succeeded: now, succeededWall: r.s.cfg.Now(), nextWall: r.s.cfg.Now().Add(wait),
		last: r.record.last, failedWall: r.record.failedWall,
	}
	if r.expiry == nil {
		r.expiry = time.AfterFunc(r.s.cfg.MaxStale, r.expire)
	} else {
		r.expiry.Reset(r.s.cfg.MaxStale)
	}
	r.release()
	return wait
}

// fail keeps what is in force, lets those go who waited, and says how long to wait before the next fetch.
func (r *remote) fail(e *fetchError) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.record.failures++
	wait := backoff(r.record.failures)
	r.record.tried = time.Now()
	r.record.last, r.record.failedWall = e, r.s.cfg.Now()
	if r.refused == nil {
		r.record.nextWall = r.record.failedWall.Add(wait)
	}
	r.logFailure()
	r.release()
	return wait
}

// release lets those go who wait for the fetch. The caller holds mu.
func (r *remote) release() {
	if r.pending != nil {
		close(r.pending)
		r.pending = nil
	}
}

// expire takes keys out of force that could not be renewed for too long.
func (r *remote) expire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.forgotten && time.Since(r.record.succeeded) < r.s.cfg.MaxStale {
		return // renewed while the timer fired
	}
	if r.keys.Swap(nil) != nil && !r.forgotten {
		r.s.cfg.Logger.Error("keys dropped: not renewed for too long; tokens that need them are refused",
			r.about("limit", r.s.cfg.MaxStale)...)
	}
}

// forget ends the source's life: nobody waits any more, and the keys go once the requests under way are done.
func (r *remote) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.forgotten {
		return
	}
	r.forgotten = true
	r.release()
	if r.expiry != nil {
		r.expiry.Reset(forgottenFor)
	}
}

func (r *remote) setNeed(n need) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.need = n
}
