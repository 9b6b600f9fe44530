package extauthz_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/authz/extauthz"
)

// simulation is a limiter in front of a server that answers one check after the other, in a time of its own.
type simulation struct {
	t       *testing.T
	limiter *extauthz.Limiter
	now     time.Time
	log     strings.Builder

	queue    []time.Time // when those at work arrived
	free     time.Time   // when the server is done with the one it is at
	admitted int
	shed     int
	slowest  time.Duration
}

const service = 100 * time.Microsecond // of the simulated server, which so answers 10,000 a second

func simulate(t *testing.T, target time.Duration) *simulation {
	t.Helper()
	s := &simulation{t: t, now: time.Unix(1e9, 0)}
	var err error
	s.limiter, err = extauthz.NewLimiter(extauthz.LimiterConfig{
		Target: target, Now: func() time.Time { return s.now }, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// arrive has n checks arrive now.
func (s *simulation) arrive(n int) {
	for range n {
		if !s.limiter.Admits() {
			s.limiter.TurnedAway()
			s.shed++
			continue
		}
		s.limiter.Arrived()
		s.admitted++
		if len(s.queue) == 0 {
			s.free = s.now.Add(service)
		}
		s.queue = append(s.queue, s.now)
	}
}

// until has the server work until then.
func (s *simulation) until(then time.Time) {
	for len(s.queue) > 0 && !s.free.After(then) {
		s.now = s.free
		s.slowest = max(s.slowest, s.now.Sub(s.queue[0]))
		s.queue, s.free = s.queue[1:], s.free.Add(service)
		s.limiter.Answered(1)
	}
	s.now = then
}

// load has bursts of n checks arrive for a while, one after each pause.
func (s *simulation) load(n int, pause, duration time.Duration) {
	for end := s.now.Add(duration); s.now.Before(end); s.until(s.now.Add(pause)) {
		s.arrive(n)
	}
}

// clear forgets what happened so far.
func (s *simulation) clear() { s.admitted, s.shed, s.slowest = 0, 0, 0 }

func TestLimiterLetsBurstsIn(t *testing.T) {
	for _, c := range []struct {
		name  string
		burst int
		pause time.Duration
	}{
		{"half of what it can do", 1, 2 * service},
		{"at once 90 ms of work, every 200 ms", 900, 200 * time.Millisecond},
		{"a third of what it can do, in bursts of 10 ms of work", 100, 30 * time.Millisecond},
		{"six tenths of it, in bursts of 30 ms", 300, 50 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, 5*time.Millisecond)
			s.load(c.burst, c.pause, 5*time.Second)
			if status := s.limiter.Status(); s.shed != 0 || status.Overloaded {
				t.Errorf("%d of %d were turned away, %+v", s.shed, s.admitted+s.shed, status)
			}
		})
	}
}

// TestLimiterLetsClosedLoopsIn: proxies that ask again only when they have an answer keep the server as busy as it can be,
// and are no overload: nobody waits for long.
func TestLimiterLetsClosedLoopsIn(t *testing.T) {
	s := simulate(t, extauthz.MinOverloadTarget)
	s.arrive(extauthz.Crowd - 1)
	s.load(1, service, 5*time.Second)
	if status := s.limiter.Status(); s.shed != 0 || status.Overloaded {
		t.Errorf("%d of %d were turned away, %+v", s.shed, s.admitted+s.shed, status)
	}
}

func TestLimiterUnderOverload(t *testing.T) {
	const target = 10 * time.Millisecond
	for _, c := range []struct {
		name  string
		burst int
		pause time.Duration
	}{
		{"twice what it can do", 2, service},
		{"twice, in batches", 40, 20 * service},
		{"ten times", 10, service},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, target)
			s.load(c.burst, c.pause, 2*time.Second)
			status := s.limiter.Status()
			if !status.Overloaded || status.Limit < 90 || status.Limit > 110 {
				t.Errorf("%+v: want an overload with a limit of 10 ms of work, 100", status)
			}
			s.clear()
			s.load(c.burst, c.pause, 2*time.Second)
			if s.slowest > target*5/4 {
				t.Errorf("a check took %v, want %v", s.slowest, target)
			}
			if s.admitted < 15_500 || s.admitted > 16_500 {
				t.Errorf("%d checks let in, want 0.8 of the 20,000 that can be answered", s.admitted)
			}
			if strings.Count(s.log.String(), "overloaded: more checks arrive") != 1 {
				t.Errorf("logged:\n%s", &s.log)
			}

			s.until(s.now.Add(extauthz.OverloadGap + time.Millisecond)) // it is over, and so is what is left of it
			if status := s.limiter.Status(); status.Overloaded || status.AtWork != 0 {
				t.Errorf("afterwards %+v", status)
			}
			s.clear()
			s.load(1, 2*service, time.Second)
			if s.shed != 0 {
				t.Errorf("%d turned away when it was over", s.shed)
			}
		})
	}
}

// TestLimiterTriesAgain: what is turned away and asks again at once does not keep an overload going that is none.
func TestLimiterTriesAgain(t *testing.T) {
	s := simulate(t, 10*time.Millisecond)
	s.load(2, service, time.Second)
	if !s.limiter.Status().Overloaded {
		t.Fatal("no overload to begin with")
	}
	const callers = 500 // that each ask again soon after they have an answer, whatever it is
	loop := func(d time.Duration) {
		for end := s.now.Add(d); s.now.Before(end); s.until(s.now.Add(10 * service)) {
			s.arrive(callers - s.limiter.Status().AtWork)
		}
	}
	loop(11 * time.Second)
	s.clear()
	loop(10 * time.Second)
	if s.shed != 0 || s.admitted < 99_000 {
		t.Errorf("%d of %d callers' checks were turned away although all could be answered", s.shed, s.admitted+s.shed)
	}
}

// TestLimiterALittleTooMuch: in an overload that is barely one, nobody waits for longer than a crowd takes.
func TestLimiterALittleTooMuch(t *testing.T) {
	s := simulate(t, 10*time.Millisecond)
	s.load(11, 10*service, 2*time.Second)
	s.clear()
	s.load(11, 10*service, 4*time.Second)
	if s.slowest > extauthz.Crowd*service*5/4 || s.admitted < 36_000 || s.shed == 0 {
		t.Errorf("%d let in, %d turned away, the slowest took %v", s.admitted, s.shed, s.slowest)
	}
}

// The limit follows what the server can do.
func TestLimiterFollows(t *testing.T) {
	s := simulate(t, 100*time.Millisecond)
	s.load(2, service, 2*time.Second)
	if got := s.limiter.Status().Limit; got < 900 || got > 1100 {
		t.Errorf("limit %d, want 1000: 100 ms of 10,000 a second", got)
	}
	stuck := s.now.Add(time.Second)
	for s.now.Before(stuck) { // nothing is answered
		s.arrive(10)
		s.now = s.now.Add(10 * service)
	}
	if got := s.limiter.Status().Limit; got != extauthz.LeastAtWork() {
		t.Errorf("limit %d of a server that is stuck, want the least, %d", got, extauthz.LeastAtWork())
	}
	s.until(s.now.Add(service)) // it goes on
	s.load(2, service, time.Second)
	s.clear()
	s.load(2, service, time.Second)
	if s.admitted < 7_500 {
		t.Errorf("%d checks let in within a second after the server was stuck, want 0.8 of the 10,000 that can be answered", s.admitted)
	}
}

// Memory is bounded before it is known what is a burst.
func TestLimiterHasABound(t *testing.T) {
	s := simulate(t, time.Second)
	s.arrive(100_000)
	if s.admitted != extauthz.MaxAtWork || s.limiter.Status().AtWork != extauthz.MaxAtWork {
		t.Errorf("%d let in at once, want %d", s.admitted, extauthz.MaxAtWork)
	}
}

// Unloaded it takes no lock, reads no clock and allocates nothing.
func TestLimiterUnloaded(t *testing.T) {
	var reads int
	l, err := extauthz.NewLimiter(extauthz.LimiterConfig{Now: func() time.Time { reads++; return time.Unix(1e9, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	before := reads
	if n := testing.AllocsPerRun(1000, func() {
		if !l.Admits() {
			t.Fatal("turned away")
		}
		l.Arrived()
		l.Answered(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if reads != before {
		t.Errorf("the clock was read %d times", reads-before)
	}
}

func TestLimiterConcurrently(t *testing.T) {
	l, err := extauthz.NewLimiter(extauthz.LimiterConfig{Target: extauthz.MinOverloadTarget})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 2000 {
				in := 0
				for range 50 {
					if l.Admits() {
						l.Arrived()
						in++
					}
				}
				l.Answered(in)
				l.Status()
			}
		})
	}
	all.Wait()
	if got := l.Status().AtWork; got != 0 {
		t.Errorf("%d at work in the end", got)
	}
}

func TestLimiterRefuses(t *testing.T) {
	for _, cfg := range []extauthz.LimiterConfig{
		{Answer: "allow"}, {Target: -1}, {Target: time.Microsecond}, {Target: time.Minute},
	} {
		if _, err := extauthz.NewLimiter(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}
