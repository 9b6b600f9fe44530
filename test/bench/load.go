package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// connections to each server: Envoy has one from each of its workers.
const connections = 2

// load is a server under load.
type load struct {
	*server

	questions []question
	strict    bool // answers are to be right; the stock server's are only to be there
	conns     []*conn
	asked     int // where in the questions the next round starts
}

func newLoad(ctx context.Context, s *server, questions []question, strict bool) (*load, error) {
	l := &load{server: s, questions: questions, strict: strict}
	for range connections {
		c, err := dial(ctx, s.address)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.conns = append(l.conns, c)
	}
	return l, nil
}

func (l *load) Close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// closed asks n questions, as soon as others are answered, so that so many are open all the time. It returns the CPU
// time that one took the server.
func (l *load) closed(n, open int) (time.Duration, error) {
	before, err := l.cpu()
	if err != nil {
		return 0, err
	}
	var wait sync.WaitGroup
	failed := make([]error, len(l.conns))
	for i, c := range l.conns {
		from := l.asked + i*n/len(l.conns)
		wait.Go(func() { failed[i] = l.rounds(c, from, n/len(l.conns), open/len(l.conns)) })
	}
	wait.Wait()
	l.asked += n
	if err := errors.Join(failed...); err != nil {
		return 0, fmt.Errorf("%s: %w", l.name, err)
	}
	after, err := l.cpu()
	return (after - before) / time.Duration(n), err
}

// rounds asks n questions on one connection.
func (l *load) rounds(c *conn, from, n, open int) error {
	sent, answered := 0, 0
	ask := func() error {
		sent++
		return c.ask(&l.questions[(from+sent)%len(l.questions)], time.Time{})
	}
	for sent < min(open, n) {
		if err := ask(); err != nil {
			return err
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	for answered < n {
		err := c.frame(func(k *call) error {
			answered++
			if err := k.verify(l.strict); err != nil {
				return err
			}
			if sent < n {
				return ask()
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return c.flush()
}

// took are latencies, from when a request was due to its answer: one that could not be sent in time has waited, and so
// would whoever wanted it.
type took []time.Duration

func (t took) quantile(q float64) time.Duration {
	slices.Sort(t)
	return t[min(len(t)-1, int(q*float64(len(t))))]
}

// ticks calls due so many times at a steady rate, with the time at which each call ought to have happened and whether the next
// one is due already. It does not wait for what due starts. The thread is its own and sleeps to the microsecond.
func ticks(ctx context.Context, perSecond float64, total int, due func(i int, at time.Time, more bool) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	for i := range total {
		at := start.Add(time.Duration(float64(i) / perSecond * 1e9))
		if wait := time.Until(at); wait > 0 {
			pause := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&pause, nil) // a signal ends it early, which does no harm
		}
		if err := cmp.Or(ctx.Err(), due(i, at, i+1 < total && time.Since(at) > time.Duration(1e9/perSecond))); err != nil {
			return err
		}
	}
	return nil
}

// opened is what became of the questions of an open loop.
type opened struct {
	waited, served took // of those that were answered by the policies: from when they were due, and from when they were sent
	shed           int  // were turned away
	lastShed       time.Duration
	asking, all    time.Duration // until the last was asked, and until the last answer
}

// open asks at a steady rate, whatever is answered, for a while.
func (l *load) open(ctx context.Context, perSecond float64, duration time.Duration) (opened, error) {
	const batch = 16 // questions in a row on one connection, sent together if they are late
	total := (int(perSecond*duration.Seconds())/(batch*connections) + 1) * batch * connections
	var wait sync.WaitGroup
	each, failed := make([]opened, len(l.conns)), make([]error, len(l.conns))
	start := time.Now()
	for i, c := range l.conns {
		n, o := total/len(l.conns), &each[i]
		wait.Go(func() {
			for len(o.served)+o.shed < n && failed[i] == nil {
				failed[i] = c.frame(func(k *call) error {
					if k.turnedAway() {
						o.shed, o.lastShed = o.shed+1, time.Since(start)
						return nil
					}
					o.waited, o.served = append(o.waited, time.Since(k.due)), append(o.served, time.Since(k.sent))
					return k.verify(l.strict)
				})
			}
		})
	}
	err := ticks(ctx, perSecond, total, func(i int, at time.Time, more bool) error {
		c := l.conns[i/batch%len(l.conns)]
		err := c.ask(&l.questions[(l.asked+i)%len(l.questions)], at)
		if err == nil && (!more || i%batch == batch-1) {
			err = c.flush()
		}
		return err
	})
	sum := opened{asking: time.Since(start)}
	if err != nil { // the readers would wait for what was never asked
		l.Close()
	}
	wait.Wait()
	l.asked += total
	for _, o := range each {
		sum.waited, sum.served = append(sum.waited, o.waited...), append(sum.served, o.served...)
		sum.shed, sum.lastShed = sum.shed+o.shed, max(sum.lastShed, o.lastShed)
	}
	sum.all = time.Since(start)
	if err == nil && len(sum.served) == 0 && errors.Join(failed...) == nil {
		err = fmt.Errorf("%s turned all of %d questions away", l.name, total)
	}
	return sum, errors.Join(append(failed, err)...)
}
