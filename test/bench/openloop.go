package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// opened is what became of the questions of an open loop.
type opened struct {
	waited, served took // of those that were answered by the policies: from when they were due, and from when they were sent
	shed           int  // were turned away
	lastShed       time.Duration
	asking, all    time.Duration // until the last was asked, and until the last answer
}

// Bounds of an open loop.
const (
	batch       = 16               // questions in a row on one connection, sent together if they are late
	lastAnswer  = 30 * time.Second // after the last question
	longestWait = 10 * time.Millisecond
)

// openLoop asks at a steady rate, whatever is answered. One thread sends and receives: two would wait for each other's
// processor, and that would look like the server's time.
type openLoop struct {
	*load
	opened

	start     time.Time
	perSecond float64
	total     int
	sent      int
	polled    []unix.PollFd
}

// open asks at a steady rate, whatever is answered, for a while.
func (l *load) open(ctx context.Context, perSecond float64, duration time.Duration) (opened, error) {
	o := &openLoop{load: l, perSecond: perSecond, total: int(perSecond*duration.Seconds()) + 1}
	for _, c := range l.conns {
		fd, err := c.times.poll(true)
		if err != nil {
			return o.opened, err
		}
		o.polled = append(o.polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}) //nolint:gosec // G115: a file descriptor
	}
	runtime.LockOSThread()
	err := o.run(ctx)
	runtime.UnlockOSThread()
	for _, c := range l.conns {
		_, e := c.times.poll(false)
		err = errors.Join(err, e)
	}
	l.asked += o.total
	if err == nil && len(o.served) == 0 {
		err = fmt.Errorf("%s turned all of %d questions away", l.name, o.total)
	}
	return o.opened, err
}

func (o *openLoop) run(ctx context.Context) error {
	o.start = time.Now()
	for len(o.served)+o.shed < o.total {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := o.send(); err != nil {
			return err
		}
		read := 0
		for _, c := range o.conns {
			n, err := o.receive(c)
			if err != nil {
				return err
			}
			read += n
		}
		if read == 0 {
			if err := o.wait(); err != nil {
				return err
			}
		}
	}
	o.all = time.Since(o.start)
	return nil
}

// dueAt is when a question ought to be sent.
func (o *openLoop) dueAt(i int) time.Time {
	return o.start.Add(time.Duration(float64(i) / o.perSecond * 1e9))
}

// send sends what is due, a batch at most.
func (o *openLoop) send() error {
	c := o.conns[o.sent/batch%len(o.conns)]
	for asked := 0; o.sent < o.total; asked++ {
		at := o.dueAt(o.sent)
		if time.Until(at) > 0 || asked > 0 && o.sent%batch == 0 {
			break
		}
		if err := c.ask(&o.questions[(o.asked+o.sent)%len(o.questions)], at); err != nil {
			return err
		}
		if o.sent++; o.sent == o.total {
			o.asking = time.Since(o.start)
		}
	}
	return c.flush()
}

// receive reads the answers that are there.
func (o *openLoop) receive(c *conn) (n int, err error) {
	for {
		whole, err := c.whole()
		if err != nil || !whole {
			return n, err
		}
		n++
		err = c.frame(func(k *call) error {
			if k.turnedAway() {
				o.shed, o.lastShed = o.shed+1, time.Since(o.start)
				return nil
			}
			o.waited, o.served = append(o.waited, c.times.last.Sub(k.due)), append(o.served, c.times.last.Sub(k.sent))
			return k.verify(o.strict)
		})
		if err != nil {
			return n, err
		}
	}
}

// wait waits for an answer, or until a question is due.
func (o *openLoop) wait() error {
	pause := longestWait
	if o.sent < o.total {
		pause = min(pause, time.Until(o.dueAt(o.sent)))
	} else if time.Since(o.dueAt(o.total)) > lastAnswer {
		return fmt.Errorf("%s has not answered %d of %d questions", o.name, o.total-len(o.served)-o.shed, o.total)
	}
	if pause <= 0 {
		return nil
	}
	timeout := unix.NsecToTimespec(pause.Nanoseconds())
	if _, err := unix.Ppoll(o.polled, &timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for answers: %w", err)
	}
	return nil
}
