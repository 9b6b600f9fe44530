package provider

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/writ-auth/writ/authz"
)

// calls are those that are under way, so that closing ends them and waits for them.
type calls struct {
	mu      sync.Mutex
	closed  bool
	waiting sync.WaitGroup
	cancel  context.CancelFunc                // ends all
	onClose func(f func()) (stop func() bool) // calls f when all are ended
}

func newCalls() *calls {
	ctx, cancel := context.WithCancel(context.Background())
	return &calls{cancel: cancel, onClose: func(f func()) func() bool { return context.AfterFunc(ctx, f) }}
}

// begin returns a context that ends with close as well. end has to be called.
func (c *calls) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed()
	}
	c.waiting.Add(1)
	ctx, cancel := c.bound(ctx)
	return ctx, func() {
		cancel()
		c.waiting.Done()
	}, nil
}

// bound returns a context that ends with close as well.
func (c *calls) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := c.onClose(func() { cancel(errClosed()) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// close ends all calls and waits for them. It reports false if that was done before.
func (c *calls) close() bool {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.waiting.Wait()
	return first
}

func errClosed() error {
	return faultf(authz.ReasonProviderNotReady, "the provider is closed, because the configuration changed or the authority stops")
}

// faultf makes a fault; it formats as fmt.Errorf does.
func faultf(reason authz.Reason, format string, args ...any) *authz.Fault {
	return &authz.Fault{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// ended is the fault of a call whose context is done: too late, given up or closed.
func ended(ctx context.Context, err error) *authz.Fault {
	var closed *authz.Fault
	switch {
	case errors.As(context.Cause(ctx), &closed):
		return closed
	case errors.Is(ctx.Err(), context.Canceled):
		return faultf(authz.ReasonProviderTimeout, "the caller gave up before there was an answer")
	}
	return faultf(authz.ReasonProviderTimeout, "no answer in time: %s", excerpt(err.Error()))
}

// maxExcerpt bounds what of a server's words goes into an error.
const maxExcerpt = 300

// excerpt is the beginning of a text.
func excerpt(s string) string {
	if len(s) > maxExcerpt {
		return s[:maxExcerpt] + "…"
	}
	return s
}
