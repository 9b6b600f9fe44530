package provider

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/writ-auth/writ/authz"
)

// patience is how long a call has to last before its timeout says something of the server: a caller in more of a hurry
// only says something of itself.
const patience = 100 * time.Millisecond

// breaker stops calls to a server that does not answer.
type breaker struct {
	limit   int // failures in a row that open it; negative for never
	openFor time.Duration

	mu       sync.Mutex
	failures int       // in a row
	since    time.Time // of the first of them
	last     error     // of the last of them
	retryAt  time.Time // when it is open: the next call may try then
	probing  bool      // that call is on its way
}

func newBreaker(c Breaker) *breaker {
	return &breaker{limit: cmp.Or(c.Failures, defaultFailures), openFor: cmp.Or(c.OpenFor, defaultOpenFor)}
}

// Circuit is the state of a provider's breaker.
type Circuit struct {
	Open     bool      // calls are not made
	Failures int       // calls in a row without an answer
	Since    time.Time // when the first of them ended; zero without failures
	RetryAt  time.Time // when one call may try again; zero unless Open
	Last     error     // of the last of them; nil without failures
}

func (b *breaker) circuit() Circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := Circuit{Open: b.open(), Failures: b.failures, Since: b.since, Last: b.last}
	if c.Open {
		c.RetryAt = b.retryAt
	}
	return c
}

func (b *breaker) open() bool { return b.limit > 0 && b.failures >= b.limit }

// guard makes a call unless the server is not to be asked. A call that is a probe tries a server that did not answer.
func (b *breaker) guard(ctx context.Context, call func(probe bool) error) error {
	probe, err := b.enter()
	if err != nil {
		return err
	}
	done := false
	defer func() {
		if !done { // a panic says nothing of the server
			b.leave(probe, false, nil)
		}
	}()
	start := time.Now()
	err = call(probe)
	done = true
	counts, failed := says(ctx, err, time.Since(start))
	if failed {
		b.leave(probe, true, err)
	} else {
		b.leave(probe, counts, nil)
	}
	return err
}

// says tells what the end of a call says of the server: nothing, that it answers, or that it does not.
func says(ctx context.Context, err error, lasted time.Duration) (something, failed bool) {
	var fault *authz.Fault
	if !errors.As(err, &fault) {
		return true, false
	}
	switch fault.Reason {
	case authz.ReasonProviderUnreachable:
		failed = ctx.Err() == nil
		return failed, failed
	case authz.ReasonProviderTimeout:
		failed = lasted >= patience && !errors.Is(ctx.Err(), context.Canceled)
		return failed, failed
	case authz.ReasonProviderBadRequest:
		return false, false
	default:
		return true, false
	}
}

// enter lets a call through, or says since when and why not.
func (b *breaker) enter() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open() {
		return false, nil
	}
	now := time.Now()
	if b.probing || now.Before(b.retryAt) {
		return false, faultf(authz.ReasonProviderCircuitOpen, "not asked: no answer to %d calls in a row since %s, next attempt %s; the last error: %w",
			b.failures, b.since.UTC().Format(time.RFC3339), b.next(now), b.last)
	}
	b.probing = true
	return true, nil
}

func (b *breaker) next(now time.Time) string {
	if b.probing {
		return "under way"
	}
	return "in " + b.retryAt.Sub(now).Round(time.Millisecond).String()
}

// leave takes note of a call's end: a failure, an answer if counts is set, or nothing.
func (b *breaker) leave(probe, counts bool, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	switch {
	case failure != nil:
		now := time.Now()
		if b.failures == 0 {
			b.since = now
		}
		b.failures++
		b.last, b.retryAt = failure, now.Add(b.openFor)
	case counts:
		b.failures, b.since, b.last = 0, time.Time{}, nil
	}
}
