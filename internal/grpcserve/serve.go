// Package grpcserve ends gRPC servers the way all of ours end: they stop accepting, tell clients to go elsewhere, let calls
// in flight end for a while, and cut off the rest. Start with [Serve].
package grpcserve

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
)

// Drain says how a server ends.
type Drain struct {
	Timeout time.Duration // how long calls in flight may take
	Begin   func()        // called when the end begins, while the server still answers; nil for nothing
	Late    func()        // called when the timeout is over and calls are about to be cut off; nil for nothing
}

// heed is how long calls that were cut off have to notice it. One that does not notice is left behind: what waits for
// the end of a server may not wait for ever.
const heed = time.Second

// Serve answers on l until ctx is done, then drains the server and returns nil. It closes l. The error is that of a
// listener which failed before.
func Serve(ctx context.Context, server *grpc.Server, l net.Listener, drain Drain) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		server.Stop()
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	if drain.Begin != nil {
		drain.Begin()
	}
	drain.wait(server)
	<-served // nil, or the error of a listener that failed while it was closed on purpose
	return nil
}

// wait lets calls in flight end while the timeout lasts.
func (d Drain) wait(server *grpc.Server) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		server.GracefulStop()
	}()
	timeout := time.NewTimer(d.Timeout)
	defer timeout.Stop()
	select {
	case <-drained:
	case <-timeout.C:
		if d.Late != nil {
			d.Late()
		}
		server.Stop()
		timeout.Reset(heed)
		select {
		case <-drained:
		case <-timeout.C:
		}
	}
}
