package provider_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

// hang answers when the caller has given up.
func hang(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func fails(code codes.Code) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return nil, status.Error(code, "as told")
	}
}

func denyWith(body string) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 7}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{Body: body},
		}}, nil
	}
}

// refusing is an address where nobody listens.
func refusing(t *testing.T) string {
	l := listen(t)
	defer l.Close()
	return l.Addr().String()
}

// readSome reads what a client says first.
func readSome(conn net.Conn) { _, _ = conn.Read(make([]byte, 1<<10)) }

func TestGRPCFaults(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(t *testing.T) string
		wait   time.Duration // for an answer; plenty if 0
		reason authz.Reason
		says   string
	}{
		{"hangs", func(t *testing.T) string { return serveChecks(t, hang) }, 100 * time.Millisecond, authz.ReasonProviderTimeout, "no answer in time"},
		{"accepts and says nothing", func(t *testing.T) string {
			return serveRaw(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		}, 100 * time.Millisecond, authz.ReasonProviderTimeout, "no answer in time"},
		{"refuses", refusing, 0, authz.ReasonProviderUnreachable, "refused"},
		{"resets", func(t *testing.T) string {
			return serveRaw(t, func(conn net.Conn) {
				readSome(conn)
				_ = conn.(*net.TCPConn).SetLinger(0)
			})
		}, 0, authz.ReasonProviderUnreachable, ""},
		{"talks garbage", func(t *testing.T) string {
			return serveRaw(t, func(conn net.Conn) {
				_, _ = io.WriteString(conn, "\x00\xff garbage, garbage, garbage\r\n")
				_, _ = io.Copy(io.Discard, conn)
			})
		}, 0, authz.ReasonProviderUnreachable, ""},
		{"is an HTTP server", func(t *testing.T) string {
			return serveHTTP(t, nil).Listener.Addr().String()
		}, 0, authz.ReasonProviderUnreachable, ""},
		{"answers with garbage", func(t *testing.T) string {
			server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				response := []byte("\xff\xff garbage")
				return s.SendMsg(&response)
			}))
			return serveGRPC(t, listen(t), server)
		}, 0, authz.ReasonProviderBadAnswer, "no CheckResponse"},
		{"answers with half an answer", func(t *testing.T) string {
			server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				response := []byte{1<<3 | 2, 0, 3<<3 | 2, 40, 2<<3 | 2} // an ok_response of 40 bytes, and then one
				return s.SendMsg(&response)
			}))
			return serveGRPC(t, listen(t), server)
		}, 0, authz.ReasonProviderBadAnswer, "no CheckResponse"},
		{"answers twice", func(t *testing.T) string {
			server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
				response := []byte{1<<3 | 2, 0}
				_ = s.SendMsg(&response)
				return s.SendMsg(&response)
			}))
			return serveGRPC(t, listen(t), server)
		}, 0, authz.ReasonProviderError, ""},
		{"ends without an answer", func(t *testing.T) string {
			server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))
			return serveGRPC(t, listen(t), server)
		}, 0, authz.ReasonProviderError, ""},
		{"answers with 100 MB", func(t *testing.T) string { return serveChecks(t, denyWith(strings.Repeat("x", 100<<20))) }, 0, authz.ReasonProviderBadAnswer, "larger than 1048576 bytes"},
		{"has huge headers", func(t *testing.T) string {
			return serveChecks(t, func(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
				_ = grpc.SetHeader(ctx, metadata.Pairs("x", strings.Repeat("x", 200<<10)))
				return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
			})
		}, 0, authz.ReasonProviderError, ""},
		{"has no ext_authz", func(t *testing.T) string { return serveGRPC(t, listen(t), grpc.NewServer()) }, 0, authz.ReasonProviderError, "does not offer"},
		{"fails inside", func(t *testing.T) string { return serveChecks(t, fails(codes.Internal)) }, 0, authz.ReasonProviderError, "Internal: as told"},
		{"denies by the wrong status", func(t *testing.T) string { return serveChecks(t, fails(codes.PermissionDenied)) }, 0, authz.ReasonProviderError, "PermissionDenied"},
		{"is too busy", func(t *testing.T) string { return serveChecks(t, fails(codes.ResourceExhausted)) }, 0, authz.ReasonProviderError, "ResourceExhausted"},
		{"is unavailable", func(t *testing.T) string { return serveChecks(t, fails(codes.Unavailable)) }, 0, authz.ReasonProviderUnreachable, "as told"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newGRPC(t, provider.GRPCConfig{Target: test.server(t)})
			wait := test.wait
			if wait == 0 {
				wait = plenty
			}
			var a authz.Answer
			wantFault(t, p.Ask(within(t, wait), question(t), &a), test.reason, test.says)
			if a.Allow {
				t.Error("it is allowed")
			}
		})
	}
}

func TestGRPCDiesInTheMiddle(t *testing.T) {
	noLeaks(t)
	asked := make(chan struct{})
	l := listen(t)
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, &checkServer{answer: func(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		close(asked)
		return hang(ctx, r)
	}})
	p := newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, l, server)})
	go func() {
		<-asked
		server.Stop()
	}()
	var a authz.Answer
	wantFault(t, p.Ask(within(t, plenty), question(t), &a), authz.ReasonProviderUnreachable)
}

// TestGRPCFlaps has a server go away and come back at the same address.
func TestGRPCFlaps(t *testing.T) {
	noLeaks(t)
	l := listen(t)
	address := l.Addr().String()
	p := newGRPC(t, provider.GRPCConfig{Target: address, Breaker: provider.Breaker{Failures: 3, OpenFor: 20 * time.Millisecond}})
	for range 3 {
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, &checkServer{answer: always(t, `status {}`)})
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		var a authz.Answer
		eventually(t, func() bool { return p.Ask(within(t, plenty), question(t), &a) == nil })
		if c := p.Circuit(); c.Open || c.Failures != 0 || c.Last != nil || !c.Since.IsZero() {
			t.Errorf("circuit %+v after an answer", c)
		}
		server.Stop()
		<-done

		seen := map[authz.Reason]bool{}
		eventually(t, func() bool {
			seen[reasonOf(t, p.Ask(within(t, time.Second), question(t), &a))] = true
			return seen[authz.ReasonProviderUnreachable] && seen[authz.ReasonProviderCircuitOpen]
		})
		if seen[""] {
			t.Error("a server that is gone answered")
		}
		var err error
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
}

func TestGRPCCloseEndsCalls(t *testing.T) {
	noLeaks(t)
	started := make(chan struct{}, 64)
	p, err := provider.NewGRPC(provider.GRPCConfig{Connections: 2, Target: serveChecks(t, func(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		started <- struct{}{}
		return hang(ctx, r)
	})})
	if err != nil {
		t.Fatal(err)
	}
	testCloseEndsCalls(t, p, started)
}

// testCloseEndsCalls closes a provider while 64 slow calls are under way.
func testCloseEndsCalls(t *testing.T, p closer, started <-chan struct{}) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		q := question(t)
		wg.Go(func() {
			var a authz.Answer
			errs[i] = p.Ask(t.Context(), q, &a)
		})
	}
	for range errs {
		<-started
	}
	for range 2 { // the second does nothing
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for _, err := range errs {
		wantFault(t, err, authz.ReasonProviderNotReady, "closed")
	}
	var a authz.Answer
	wantFault(t, p.Ask(t.Context(), question(t), &a), authz.ReasonProviderNotReady, "closed")
}

func TestGRPCGivenUp(t *testing.T) {
	noLeaks(t)
	started := make(chan struct{}, 64)
	p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, func(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		started <- struct{}{}
		return hang(ctx, r)
	})})
	testGivenUp(t, p, started)
}

// testGivenUp has 64 callers give up: none waits on, none leaves anything behind, and the server is not to blame.
func testGivenUp(t *testing.T, p interface {
	closer
	Circuit() provider.Circuit
}, started <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		q := question(t)
		wg.Go(func() {
			var a authz.Answer
			errs[i] = p.Ask(ctx, q, &a)
		})
	}
	for range errs {
		<-started
	}
	cancel()
	wg.Wait()
	for _, err := range errs {
		wantFault(t, err, authz.ReasonProviderTimeout, "gave up")
	}
	if c := p.Circuit(); c.Open || c.Failures > 0 {
		t.Errorf("circuit %+v: callers who give up say nothing of the server", c)
	}
}

// TestGRPCExcerpt checks that an error quotes little of what a server says.
func TestGRPCExcerpt(t *testing.T) {
	p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		return nil, status.Error(codes.Internal, strings.Repeat("x", 10_000))
	})})
	var a authz.Answer
	err := p.Ask(within(t, plenty), question(t), &a)
	wantFault(t, err, authz.ReasonProviderError)
	if len(err.Error()) > 500 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}
