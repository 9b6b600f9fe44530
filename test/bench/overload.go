package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// Bounds of overload, generous: they are about what must not happen on any machine.
const (
	leastThroughput = 0.3 // of what the server answers when it is never asked more than it can do
	mostGrowth      = 1.5 // of the highest resident memory while it lasts: it is for the streams, not for the time
	mostAfterwards  = 10  // p99 after it, to that before it

	goodLatency = 5 // p99 of what is accepted, to that of an idle server: what shedding would be for
)

// overload asks twice of what the server can do for some seconds, and again little at once afterwards.
func overload(ctx context.Context, dir string) error {
	binary, err := testkit.BuildWrit(ctx, dir)
	if err != nil {
		return err
	}
	c, err := newCorpus(1000, manyCallers)
	if err != nil {
		return err
	}
	// One core for the server, so that there is another to ask from.
	s, err := startWrit(ctx, dir, binary, c.documents(), cachedTokens, "GOMAXPROCS=1")
	if err != nil {
		return err
	}
	defer s.stop()
	l, err := newLoad(ctx, s, c.questions, true)
	if err != nil {
		return err
	}
	defer l.Close()
	r, err := l.overloaded(ctx)
	if err != nil {
		return err
	}
	return r.judge()
}

// borne is what an overloaded server did.
type borne struct {
	capacity, throughput float64 // answers a second
	idle, loaded, after  time.Duration
	waited               time.Duration // p99 from when it was due, which includes the asking side's queue
	memory, early, peak  float64       // MiB, the latter the highest after a third and at the end
}

func (l *load) overloaded(ctx context.Context) (*borne, error) {
	const many, open = 30_000, 128
	r := &borne{}
	if _, err := l.closed(many/3, open); err != nil { // warms up
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
	little := func() (time.Duration, error) {
		_, served, _, err := l.open(ctx, r.capacity/10, 2*time.Second)
		return served.quantile(0.99), err
	}
	if r.idle, err = little(); err != nil {
		return nil, err
	}
	if _, _, _, err := l.open(ctx, 2*r.capacity, 2*time.Second); err != nil {
		return nil, err
	}
	if r.early, err = residentMiB(l.pid, residentPeak); err != nil {
		return nil, err
	}
	waited, served, all, err := l.open(ctx, 2*r.capacity, 4*time.Second)
	if err != nil {
		return nil, err
	}
	r.throughput, r.loaded, r.waited = float64(len(served))/all.Seconds(), served.quantile(0.99), waited.quantile(0.99)
	if r.peak, err = residentMiB(l.pid, residentPeak); err != nil {
		return nil, err
	}
	r.after, err = little()
	return r, err
}

// judge prints what happened, and returns what must not.
func (r *borne) judge() error {
	fmt.Print(markdown([]string{"at twice what it can do", "", "bound"}, [][]string{
		{"answers a second / without overload", figure(r.throughput / r.capacity), fmt.Sprintf("at least %v", leastThroughput)},
		{"p99 from sending to answer / idle", figure(float64(r.loaded) / float64(r.idle)), fmt.Sprintf("none; to be %d if it shed", goodLatency)},
		{"p99 from when it was due / idle", figure(float64(r.waited) / float64(r.idle)), "none: the asking side queues"},
		{"resident memory at its highest, beyond that before", figure(r.peak-r.memory) + " MiB", "none: it is for open streams"},
		{"the same as it lasts, at the end / after a third", figure(r.peak / r.early), fmt.Sprintf("at most %v", mostGrowth)},
		{"p99 right afterwards / before", figure(float64(r.after) / float64(r.idle)), fmt.Sprintf("at most %d", mostAfterwards)},
	}))
	var failed []error
	for what, bad := range map[string]bool{
		"it answered much less than without overload":   r.throughput < leastThroughput*r.capacity,
		"its memory grew with what it could not answer": r.peak > mostGrowth*r.early,
		"it was still slow after the overload was over": r.after > mostAfterwards*r.idle,
	} {
		if bad {
			failed = append(failed, errors.New(what))
		}
	}
	return errors.Join(failed...)
}
