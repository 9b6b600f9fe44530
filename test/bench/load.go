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

// ticks calls due so many times at a steady rate, with the time at which each call ought to have happened. It does not wait
// for what due starts. The thread is its own and sleeps to the microsecond.
func ticks(ctx context.Context, perSecond float64, total int, due func(i int, at time.Time) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := time.Now()
	for i := range total {
		at := start.Add(time.Duration(float64(i) / perSecond * 1e9))
		if wait := time.Until(at); wait > 0 {
			pause := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&pause, nil) // a signal ends it early, which does no harm
		}
		if err := cmp.Or(ctx.Err(), due(i, at)); err != nil {
			return err
		}
	}
	return nil
}
