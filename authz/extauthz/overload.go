package extauthz

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
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
	DefaultOverloadTarget = 500 * time.Microsecond
	MinOverloadTarget     = 100 * time.Microsecond
	MaxOverloadTarget     = time.Second
)

// The limiter's pace.
const (
	// crowd is how many checks at work may be too many: as many as an Envoy has open at most, unless its circuit breaker
	// says otherwise. Fewer are never turned away before there was an overload: proxies that ask again only once they
	// have their answer keep a server as busy as it can be, and nobody waits for long.
	crowd = 1024

	// While an overload may be over, fewer are a crowd: so many, and so many times the limit that there was.
	smallCrowd      = 256
	smallCrowdTimes = 4

	overloadInterval = 100 * time.Millisecond // a crowd that lasts this long is no burst, as in CoDel (RFC 8289 §3.2)
	overloadGap      = 50 * time.Millisecond  // without meeting the limit for this long, the overload is over
	relapseWithin    = 200 * time.Millisecond // of an overload's end, a crowd is overload at once
	tryEvery         = 10 * time.Second       // an overload is taken to be over, to see whether there is a crowd again
	busyShare        = 0.85                   // of an interval: more is overload
	shedShare        = 0.25                   // of what was answered: with less, an overload is over
	maxAtWork        = 4096                   // checks, overload or not
	leastPerCPU      = 6                      // checks at work that are not too many in overload either
	paceShare        = 0.8                    // of what can be answered is let in under overload
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
// a second of work: limit = rate × Target. That is the limit in an overload. In an overload checks also take turns, so many
// a second that the server is idle for a part of its time: a server that never is leaves what arrives in sockets, where no
// limit reaches it, until somebody looks (Go's scheduler does when it has nothing else to do, or every 10 ms). Without one it is a crowd, and a crowd is a
// burst until it has lasted for 100 ms in which the server was hardly ever idle. An overload is over when nothing has met
// its limit for 50 ms, or few were turned away. Then, and every ten seconds, checks are let in again until there is
// another crowd: what asks again at once when it is turned away would look like an overload for ever. How long the server was idle, and
// so what it can do, is measured while the limit is met and not otherwise: then a check costs a few atomic operations and
// nothing reads the clock.
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

	paced     atomic.Bool  // there is an overload, so every check takes a turn
	watching  atomic.Bool  // for idleness: the limit was met not long ago
	lastMet   atomic.Int64 // nanoseconds from start
	idleSince atomic.Int64 // the same, 0 while there is work
	idle      atomic.Int64 // nanoseconds without work, as far as they were watched

	mu         sync.Mutex // guards what follows, which is of interest only while the limit is met
	overloaded bool
	began      time.Duration // when it was overloaded
	last       int64         // the limit that it had
	pace       float64       // checks a second that are let in
	turns      float64       // checks that may come in now
	counted    time.Duration // until when turns is right
	ended      time.Duration // when it last was not any more, 0 before the first time
	interval   mark          // where the present one began
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
	l.limit.Store(crowd)
	return l, nil
}

// leastAtWork is the lowest limit in an overload: what keeps the processors busy while connections are read in turn.
func leastAtWork() int64 { return int64(leastPerCPU * (runtime.GOMAXPROCS(0) + 1)) }

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
	return n < l.limit.Load() && !l.paced.Load() || l.met(n)
}

// met is what happens at the limit. It reports whether another check may come in all the same.
func (l *Limiter) met(atWork int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := mark{l.clock(), time.Duration(l.idle.Load()), l.answered.Load(), l.shed.Load()}
	if l.over(now.at) {
		l.let(now, l.fewer())
	}
	if !l.overloaded && now.at-l.ended >= relapseWithin {
		l.limit.Store(crowd)
	}
	if atWork < l.limit.Load() && (!l.overloaded || l.turn(now.at)) {
		return true
	}
	if !l.watching.Swap(true) {
		l.interval = now
		l.idleSince.Store(0)
	}
	l.lastMet.Store(int64(now.at))
	again := !l.overloaded && l.ended != 0 && now.at-l.ended < relapseWithin
	if again || now.at-l.interval.at >= overloadInterval {
		l.judge(now, again)
	}
	return !l.overloaded && atWork < maxAtWork
}

// turn takes one of the turns that there are in an overload. The caller holds mu.
func (l *Limiter) turn(now time.Duration) bool {
	l.turns = min(l.turns+l.pace*(now-l.counted).Seconds(), float64(l.last))
	l.counted = now
	if l.turns < 1 {
		return false
	}
	l.turns--
	return true
}

// fewer is how many are a crowd now that an overload may be over: as many as ever if there was none. The caller holds mu.
func (l *Limiter) fewer() int64 {
	if !l.overloaded {
		return crowd
	}
	return min(max(smallCrowd, smallCrowdTimes*l.last), crowd)
}

// let ends an overload, if there is one, and begins to watch anew with another limit. The caller holds mu.
func (l *Limiter) let(now mark, limit int64) {
	if l.overloaded {
		l.overloaded, l.ended = false, now.at
		l.paced.Store(false)
	}
	l.interval = now
	l.limit.Store(limit)
}

// judge ends an interval in which the limit was met again and again. Without an overload so far it is one if the server
// was busy all along, or had one just now, and a row of bursts if not. The caller holds mu.
func (l *Limiter) judge(now mark, again bool) {
	took := now.at - l.interval.at
	busy := max(took-(now.idle-l.interval.idle), took/100)
	answered, shed := float64(now.answered-l.interval.answered), float64(now.shed-l.interval.shed)
	switch {
	case again: // the limit is what it was
		l.overloaded, l.began = true, now.at
		l.paced.Store(true)
		l.limit.Store(l.last)
	case l.overloaded && now.at-l.began >= tryEvery:
		l.let(now, crowd)
		return
	case l.overloaded && shed < shedShare*answered:
		l.let(now, l.fewer())
		return
	case l.overloaded || busy.Seconds() >= busyShare*took.Seconds():
		if !l.overloaded {
			l.overloaded, l.began = true, now.at
			l.paced.Store(true)
		}
		l.pace = max(paceShare*answered/busy.Seconds(), float64(leastAtWork())/overloadInterval.Seconds())
		l.last = min(max(int64(answered/busy.Seconds()*l.target.Seconds()), leastAtWork()), maxAtWork)
		l.limit.Store(l.last)
	}
	l.interval = now
	if l.overloaded {
		l.log(now.at)
	}
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
