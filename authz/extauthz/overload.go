package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// OverloadAnswer is what a check gets that is turned away because too many are waiting.
type OverloadAnswer string

// Answers under overload. None of them allows.
const (
	// OverloadDeny is a denial in the response, as every other denial: HTTP status 503. It denies whatever Envoy's
	// failure_mode_allow says.
	OverloadDeny OverloadAnswer = "deny"
	// OverloadExhausted is the gRPC status RESOURCE_EXHAUSTED, which Envoy treats as a failure of the server: with
	// failure_mode_allow it lets the request pass.
	OverloadExhausted OverloadAnswer = "resource_exhausted"
)

// Defaults and bounds of a [LimiterConfig].
const (
	DefaultOverloadTarget = 2 * time.Millisecond
	MinOverloadTarget     = 500 * time.Microsecond
	MaxOverloadTarget     = time.Second
)

// The limiter's pace.
const (
	overloadInterval = 100 * time.Millisecond // a queue that lasts this long is no burst, as in CoDel (RFC 8289 §3.2)
	overloadGap      = 50 * time.Millisecond  // without a queue for this long, the overload is over
	relapseInterval  = 20 * time.Millisecond  // a queue that lasts this long is overload again
	relapseWithin    = 200 * time.Millisecond // of the last overload
	busyShare        = 0.85                   // of an interval: more is overload
	shedShare        = 0.25                   // of what was answered: with more, reading what is turned away is work, too
	maxAtWork        = 4096                   // checks, overload or not
	leastLimit       = 256                    // checks at work are never too many: a few busy proxies, answered in milliseconds
	logOverloadEvery = 10 * time.Second
)

// LimiterConfig says when and how checks are turned away. Every zero value is a default.
type LimiterConfig struct {
	Answer OverloadAnswer // default OverloadDeny
	// Target is how long checks may be at work, waiting for their turn included, when there are more than can be
	// answered. Default DefaultOverloadTarget.
	Target time.Duration
	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil is the clock
}

// Limiter turns checks away while more arrive than can be answered, so that those it lets in are answered in time and
// memory does not grow.
//
// What it bounds is the number of checks at work: complete requests without an answer, but for those that wait for
// somebody else ([Limiter.Waiting]). By Little's law such a number is a time, once one knows how many are answered in
// a second of work: limit = rate × Target. A burst is no overload: up to a bound on memory, more than the limit are let in
// until there has been a queue for 100 ms in which the server was hardly ever idle. The overload is over when nothing has
// met the limit for 50 ms; right after it, 20 ms of a queue are overload again. How long the server was idle, and so what it can do, is measured while the limit is met and
// not otherwise: then a check costs a few atomic operations and nothing reads the clock.
//
// A Limiter is safe for concurrent use.
type Limiter struct {
	answer OverloadAnswer
	target time.Duration
	now    func() time.Time
	start  time.Time
	logger *slog.Logger

	atWork, limit atomic.Int64
	answered      atomic.Uint64
	shed          atomic.Uint64

	watching  atomic.Bool  // for idleness: the limit was met not long ago
	lastMet   atomic.Int64 // nanoseconds from start
	idleSince atomic.Int64 // the same, 0 while there is work
	idle      atomic.Int64 // nanoseconds without work, as far as they were watched

	mu         sync.Mutex // guards what follows, which is of interest only while the limit is met
	overloaded bool
	interval   mark          // where the present one began
	lastOver   time.Duration // when an interval of overload last ended
	logged     time.Duration
}

// mark is what had happened at a time.
type mark struct {
	at, idle       time.Duration
	answered, shed uint64
}

// NewLimiter checks the configuration.
func NewLimiter(cfg LimiterConfig) (*Limiter, error) {
	l := &Limiter{answer: cfg.Answer, target: cfg.Target, now: cfg.Now, logger: cfg.Logger}
	if l.answer == "" {
		l.answer = OverloadDeny
	}
	if l.target == 0 {
		l.target = DefaultOverloadTarget
	}
	if l.now == nil {
		l.now = time.Now
	}
	l.start = l.now()
	if l.logger == nil {
		l.logger = slog.New(slog.DiscardHandler)
	}
	if l.answer != OverloadDeny && l.answer != OverloadExhausted {
		return nil, fmt.Errorf("extauthz: overload answer %q: want %q or %q", l.answer, OverloadDeny, OverloadExhausted)
	}
	if l.target < MinOverloadTarget || l.target > MaxOverloadTarget {
		return nil, fmt.Errorf("extauthz: overload target %v: want %v to %v", l.target, MinOverloadTarget, MaxOverloadTarget)
	}
	l.limit.Store(leastLimit)
	return l, nil
}

// Waiting says that the check whose context this is stops working to wait for somebody else, such as a provider. It does
// not count until done is called. What waits is bounded where it waits. Questions that belong to no call of a [Server],
// which nobody counted, change nothing.
func (l *Limiter) Waiting(ctx context.Context) (done func()) {
	if l == nil || grpc.ServerTransportStreamFromContext(ctx) == nil {
		return func() {}
	}
	l.left(1, 0)
	return l.arrived
}

// OverloadStatus is a limiter at a moment.
type OverloadStatus struct {
	Overloaded bool   // checks are being turned away
	AtWork     int    // checks
	Limit      int    // of checks at work under overload
	Shed       uint64 // checks turned away since the start
}

// Status is the limiter now. Of nil it is the zero status.
func (l *Limiter) Status() OverloadStatus {
	if l == nil {
		return OverloadStatus{}
	}
	l.mu.Lock()
	overloaded := l.overloaded && !l.over(l.clock())
	l.mu.Unlock()
	return OverloadStatus{
		Overloaded: overloaded, AtWork: int(max(0, l.atWork.Load())), Limit: int(l.limit.Load()), Shed: l.shed.Load(),
	}
}

// clock is the time since the start.
func (l *Limiter) clock() time.Duration { return l.now().Sub(l.start) }

// over reports whether the limit has not been met for so long that whatever happened then is over.
func (l *Limiter) over(now time.Duration) bool {
	return now-time.Duration(l.lastMet.Load()) > overloadGap
}

// arrived counts a complete request.
func (l *Limiter) arrived() {
	if l.atWork.Add(1) == 1 && l.watching.Load() {
		l.woke()
	}
}

// woke ends a time without work.
func (l *Limiter) woke() {
	now := l.clock()
	if since := l.idleSince.Swap(0); since != 0 {
		l.idle.Add(int64(now) - since)
	}
	if l.over(now) {
		l.watching.Store(false)
	}
}

// left uncounts requests, of which so many were answered.
func (l *Limiter) left(n, answered int) {
	l.answered.Add(uint64(answered)) //nolint:gosec // G115: a count
	if l.atWork.Add(int64(-n)) == 0 && n > 0 && l.watching.Load() {
		l.idleSince.Store(int64(l.clock()))
	}
}

// admits reports whether another check may come in.
func (l *Limiter) admits() bool {
	n := l.atWork.Load()
	return n < l.limit.Load() || l.met(n)
}

// met is what happens at the limit. It reports whether another check may come in all the same.
func (l *Limiter) met(atWork int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := mark{l.clock(), time.Duration(l.idle.Load()), l.answered.Load(), l.shed.Load()}
	if !l.watching.Swap(true) || l.over(now.at) {
		l.overloaded, l.interval = false, now
		l.idleSince.Store(0)
	}
	l.lastMet.Store(int64(now.at))
	interval := overloadInterval
	if !l.overloaded && l.lastOver != 0 && now.at-l.lastOver < relapseWithin {
		interval = relapseInterval
	}
	if now.at-l.interval.at >= interval {
		l.judge(now)
	}
	return !l.overloaded && atWork < maxAtWork
}

// judge ends an interval in which the limit was met again and again: it was overload if the server was busy all along,
// and a row of bursts if not. The caller holds mu.
func (l *Limiter) judge(now mark) {
	took := now.at - l.interval.at
	busy := max(took-(now.idle-l.interval.idle), took/100)
	answered, shed := float64(now.answered-l.interval.answered), float64(now.shed-l.interval.shed)
	l.interval = now
	l.limit.Store(min(max(int64(answered/busy.Seconds()*l.target.Seconds()), leastLimit), maxAtWork))
	l.overloaded = busy.Seconds() >= busyShare*took.Seconds() || l.overloaded && shed > shedShare*answered
	if !l.overloaded {
		return
	}
	if took >= overloadInterval { // a relapse alone is no reason for the next
		l.lastOver = now.at
	}
	l.log(now.at)
}

// log says that checks are being turned away, not too often. The caller holds mu.
func (l *Limiter) log(now time.Duration) {
	if l.logged != 0 && now-l.logged < logOverloadEvery {
		return
	}
	l.logged = now
	l.logger.Warn("overloaded: more checks arrive than can be answered, some are turned away", "answer", l.answer,
		"limit", l.limit.Load(), "target", l.target, "shed_so_far", l.shed.Load())
}
