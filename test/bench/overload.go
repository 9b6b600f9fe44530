package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// Bounds of overload.
const (
	leastOffered    = 1.6 // times what the server can answer: else the asking side was the bottleneck
	leastThroughput = 0.3 // of what the server answers when it is never asked more than it can do
	mostLatency     = 5   // p99 of what is let in, to that of an idle server
	mostGrowth      = 1.5 // of the highest resident memory while it lasts: it is for the streams, not for the time
	mostAfterwards  = 5   // p99 after it, to that before it
	mostRecovery    = time.Second
	overloadFor     = 4 * time.Second
	overloadMarkers = "bench-overload"
)

// overload asks twice of what the server can do for some seconds, and half of it at once afterwards. The server has
// one processor to itself, so that the asking side has another.
func overload(ctx context.Context, dir, write string, rounds int) error {
	busy, err := loadAverage()
	if err != nil {
		return err
	}
	start := time.Now()
	binary, err := testkit.BuildWrit(ctx, dir)
	if err != nil {
		return err
	}
	c, err := newCorpus(1000, manyCallers)
	if err != nil {
		return err
	}
	answers := []string{"deny", "resource_exhausted"}
	all := make([]*bearing, len(answers))
	for range rounds {
		for i, answer := range answers {
			r, err := overloadedBy(ctx, dir, binary, answer, c)
			if err != nil {
				return fmt.Errorf("overload.answer %s: %w", answer, err)
			}
			if all[i] == nil {
				all[i] = new(bearing)
			}
			all[i].add(r)
		}
	}
	text := bearings(all) + fmt.Sprintf("\nMeasured on %s, with %s, in %v.\n", start.Format(time.DateOnly), machine(ctx, busy, ""), time.Since(start).Round(time.Second))
	if err := publish(write, overloadMarkers, text); err != nil {
		return err
	}
	var failed []error
	for i, b := range all {
		if err := b.judge(); err != nil {
			failed = append(failed, fmt.Errorf("overload.answer %s: %w", answers[i], err))
		}
	}
	return errors.Join(failed...)
}

func overloadedBy(ctx context.Context, dir, binary, answer string, c *corpus) (*borne, error) {
	s, err := startWrit(ctx, dir, binary, c.documents(), cachedTokens, "GOMAXPROCS=1", "WRIT_AUTHZ_OVERLOAD_ANSWER="+answer)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	l, err := newLoad(ctx, s, c.questions, true)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	release, err := apart(s.pid)
	if err != nil {
		return nil, err
	}
	r, err := l.overloaded(ctx)
	return r, errors.Join(err, release())
}

// borne is what an overloaded server did.
type borne struct {
	capacity, offered, throughput float64 // a second; the last of what was let in
	idle, loaded, waited, after   time.Duration
	memory, early, peak           float64 // MiB, the latter the highest after a third and at the end
	shed                          int
	halfShed                      float64       // of what was asked then
	recovery                      time.Duration // until nothing was turned away any more, at half of what it can do
}

func (l *load) overloaded(ctx context.Context) (*borne, error) {
	const many, open = 30_000, 32 // so few are always let in
	r := &borne{}
	if _, err := l.closed(many, open); err != nil { // warms up
		return nil, err
	}
	start := time.Now()
	if _, err := l.closed(many, open); err != nil {
		return nil, err
	}
	r.capacity = many / time.Since(start).Seconds()
	var err error
	if r.memory, err = residentMiB(l.pid, residentNow); err != nil {
		return nil, err
	}
	calm, err := l.open(ctx, r.capacity/10, 2*time.Second)
	if err != nil {
		return nil, err
	}
	r.idle = calm.served.quantile(0.99)
	if _, err = l.open(ctx, 2*r.capacity, overloadFor/2); err != nil {
		return nil, err
	}
	if r.early, err = residentMiB(l.pid, residentPeak); err != nil {
		return nil, err
	}
	heavy, err := l.open(ctx, 2*r.capacity, overloadFor)
	if err != nil {
		return nil, err
	}
	r.offered = float64(len(heavy.served)+heavy.shed) / heavy.asking.Seconds()
	r.throughput, r.shed = float64(len(heavy.served))/heavy.all.Seconds(), heavy.shed
	r.loaded, r.waited = heavy.served.quantile(0.99), heavy.waited.quantile(0.99)
	if r.peak, err = residentMiB(l.pid, residentPeak); err != nil {
		return nil, err
	}
	half, err := l.open(ctx, r.capacity/2, 2*time.Second)
	if err != nil {
		return nil, err
	}
	r.recovery, r.halfShed = half.lastShed, float64(half.shed)/float64(half.shed+len(half.served))
	calm, err = l.open(ctx, r.capacity/10, 2*time.Second)
	r.after = calm.served.quantile(0.99)
	return r, err
}

// bearing is what servers did, in ratios.
type bearing struct{ offered, throughput, shed, loaded, waited, idle, memory, growth, after, recovery, halfShed spread }

func (b *bearing) add(r *borne) {
	b.offered = append(b.offered, r.offered/r.capacity)
	b.throughput = append(b.throughput, r.throughput/r.capacity)
	b.shed = append(b.shed, float64(r.shed)/(overloadFor.Seconds()*r.offered))
	b.loaded = append(b.loaded, float64(r.loaded)/float64(r.idle))
	b.waited = append(b.waited, float64(r.waited)/float64(r.idle))
	b.idle = append(b.idle, r.idle.Seconds()*1000)
	b.memory = append(b.memory, r.peak-r.memory)
	b.growth = append(b.growth, r.peak/r.early)
	b.after = append(b.after, float64(r.after)/float64(r.idle))
	b.halfShed = append(b.halfShed, r.halfShed)
	b.recovery = append(b.recovery, r.recovery.Seconds()*1000)
}

// bearings is the table.
func bearings(all []*bearing) string {
	row := func(what, bound string, of func(*bearing) spread) []string {
		cells := []string{what, bound}
		for _, b := range all {
			cells = append(cells, of(b).String())
		}
		return cells
	}
	return markdown([]string{"at twice what it can do", "bound", "`answer: deny`", "`answer: resource_exhausted`"}, [][]string{
		row("asked a second / what it can answer", fmt.Sprintf("at least %v", leastOffered), func(b *bearing) spread { return b.offered }),
		row("answered by the policies a second / without overload", fmt.Sprintf("at least %v", leastThroughput), func(b *bearing) spread { return b.throughput }),
		row("turned away, of all", "", func(b *bearing) spread { return b.shed }),
		row("p99 of what is let in, from sending to answer / idle", fmt.Sprintf("at most %d", mostLatency), func(b *bearing) spread { return b.loaded }),
		row("the same from when it was due, the asking side's queue included", "", func(b *bearing) spread { return b.waited }),
		row("p99 when idle, ms", "", func(b *bearing) spread { return b.idle }),
		row("resident memory at its highest, beyond that before, MiB", "", func(b *bearing) spread { return b.memory }),
		row("the same as it lasts, at the end / after a third", fmt.Sprintf("at most %v", mostGrowth), func(b *bearing) spread { return b.growth }),
		row("at half of what it can do right afterwards: the last is turned away after, ms", fmt.Sprintf("at most %d", mostRecovery.Milliseconds()), func(b *bearing) spread { return b.recovery }),
		row("of which are turned away in these two seconds", "", func(b *bearing) spread { return b.halfShed }),
		row("p99 afterwards / before", fmt.Sprintf("at most %d", mostAfterwards), func(b *bearing) spread { return b.after }),
	})
}

// judge returns what must not happen.
func (b *bearing) judge() error {
	var failed []error
	for _, c := range []struct {
		bad  bool
		what string
	}{
		{b.offered.quantile(0.5) < leastOffered, "it was not asked twice of what it can answer: the machine is too busy to measure this"},
		{b.throughput.quantile(0.5) < leastThroughput, "it answered much less than without overload"},
		{b.loaded.quantile(0.5) > mostLatency, "what was let in waited too long"},
		{b.growth.quantile(0.5) > mostGrowth, "its memory grew with what it could not answer"},
		{b.recovery.quantile(0.5) > float64(mostRecovery.Milliseconds()), "it still turned checks away when the overload was over"},
		{b.after.quantile(0.5) > mostAfterwards, "it was still slow when the overload was over"},
	} {
		if c.bad {
			failed = append(failed, errors.New(c.what))
		}
	}
	return errors.Join(failed...)
}
