package agent_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/writ-auth/writ/sds/agent"
)

func TestLife(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		received time.Time
		want     time.Duration
	}{
		"clocks agree: the time set back does not count": {now, time.Hour},
		"our clock is a minute ahead":                    {now.Add(time.Minute), 59 * time.Minute},
		"our clock is an hour slow: the span counts":     {now.Add(-time.Hour), 62 * time.Minute},
	} {
		if got := agent.Life(c.received, now.Add(-2*time.Minute), now.Add(time.Hour)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestRenewalAfter(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 27 * time.Minute, .5: 30 * time.Minute, .999999: 33 * time.Minute} {
		if got := agent.RenewalAfter(time.Hour, random).Round(time.Second); got != want {
			t.Errorf("random %v: %v, want %v", random, got, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		name        string
		failures    int
		left        time.Duration
		least, most time.Duration
	}{
		{"first", 1, time.Hour, 250 * time.Millisecond, time.Second},
		{"fourth", 4, time.Hour, 250 * time.Millisecond, 8 * time.Second},
		{"many: a minute at most", 1000, 24 * time.Hour, 250 * time.Millisecond, time.Minute},
		{"little time left: more often", 1000, 16 * time.Second, 250 * time.Millisecond, 2 * time.Second},
		{"hardly any time left", 1000, time.Second, 250 * time.Millisecond, time.Second},
		{"no certificate", 1000, 0, 250 * time.Millisecond, time.Minute},
	} {
		if got := agent.RetryAfter(c.failures, c.left, 0); got != c.least {
			t.Errorf("%s: at least %v, want %v", c.name, got, c.least)
		}
		if got := agent.RetryAfter(c.failures, c.left, 1); got != c.most {
			t.Errorf("%s: at most %v, want %v", c.name, got, c.most)
		}
	}
	if got := agent.RefusedAfter(100, 1); got != 5*time.Minute {
		t.Errorf("after a hundred refusals: at most %v", got)
	}
}

// TestSpread: of a thousand agents whose root is tainted at one moment, each of them anywhere in the life of its
// certificate, none is late and no second sees more than an authority does with one hand (it was built for a thousand).
func TestSpread(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const agents, life = 1000, time.Hour
	perSecond := map[int64]int{}
	for range agents {
		left := life/2 + time.Duration(random.Float64()*float64(life/2))
		wait := agent.Spread(left, random.Float64())
		if wait < 0 || wait > time.Minute {
			t.Fatalf("a wait of %v with %v left", wait, left)
		}
		perSecond[int64(wait/time.Second)]++
	}
	busiest := 0
	for _, n := range perSecond {
		busiest = max(busiest, n)
	}
	if busiest > 40 || len(perSecond) < 55 {
		t.Errorf("%d in the busiest second of %d", busiest, len(perSecond))
	}
	for _, left := range []time.Duration{0, -time.Minute, 8 * time.Second} {
		if got := agent.Spread(left, .999); got > 2*time.Second {
			t.Errorf("with %v left: %v", left, got)
		}
	}
}

// TestRenewalsStaySpread: certificates that were issued in one second are renewed over a fifth of their half life, and after
// a few renewals over all of it.
func TestRenewalsStaySpread(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const agents = 1000
	at := make([]time.Duration, agents)
	for range 20 {
		for i := range at {
			at[i] += agent.RenewalAfter(time.Hour, random.Float64())
		}
	}
	slices.Sort(at)
	busiest := 0
	for i := range at {
		n := 0
		for j := i; j < agents && at[j]-at[i] < time.Second; j++ {
			n++
		}
		busiest = max(busiest, n)
	}
	if busiest > 8 {
		t.Errorf("%d of %d renewals in one second", busiest, agents)
	}
}
