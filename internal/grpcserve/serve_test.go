package grpcserve_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/writ-auth/writ/internal/grpcserve"
)

// slow answers after a while, or when the call is cut off.
type slow struct {
	healthv1.UnimplementedHealthServer
	took time.Duration
	deaf bool // it does not notice that it is cut off
}

func (s slow) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	cut := ctx.Done()
	if s.deaf {
		cut = nil
	}
	select {
	case <-cut:
		return nil, ctx.Err()
	case <-time.After(s.took):
		return &healthv1.HealthCheckResponse{}, nil
	}
}

// TestDrain: a call in flight ends within the timeout, or is cut off at its end, and nobody comes in meanwhile.
func TestDrain(t *testing.T) {
	for _, test := range []struct {
		name string
		took time.Duration
		deaf bool
		want codes.Code
		ends time.Duration
		late bool
	}{
		{"in time", 3 * time.Second, false, codes.OK, 3 * time.Second, false},
		{"too late", time.Minute, false, codes.Unavailable, 10 * time.Second, true},
		{"deaf", time.Minute, true, codes.Unavailable, 11 * time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := bufconn.Listen(1 << 16)
				server := grpc.NewServer()
				healthv1.RegisterHealthServer(server, slow{took: test.took, deaf: test.deaf})
				var events []string
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() {
					ended <- grpcserve.Serve(ctx, server, l, grpcserve.Drain{
						Timeout: 10 * time.Second,
						Begin:   func() { events = append(events, "begin") },
						Late:    func() { events = append(events, "late") },
					})
				}()
				conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				answer := make(chan error, 1)
				go func() {
					_, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
					answer <- err
				}()
				synctest.Wait()
				start := time.Now()
				stop()
				synctest.Wait()
				if _, err := l.DialContext(t.Context()); err == nil {
					t.Error("it still accepts connections")
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took != test.ends {
					t.Errorf("ended after %v, want %v", took, test.ends)
				}
				if err := <-answer; status.Code(err) != test.want {
					t.Errorf("the call in flight: %v, want %v", err, test.want)
				}
				if got, want := strings.Join(events, " "), map[bool]string{true: "begin late", false: "begin"}[test.late]; got != want {
					t.Errorf("events %q, want %q", got, want)
				}
				<-time.After(time.Minute) // for what was left behind to end
			})
		})
	}
}

// TestListenerFails: the error is told, and names the address.
func TestListenerFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	err := grpcserve.Serve(t.Context(), grpc.NewServer(), failing{bufconn.Listen(1), broken}, grpcserve.Drain{})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "bufconn") {
		t.Errorf("error %v", err)
	}
}

type failing struct {
	*bufconn.Listener
	err error
}

func (f failing) Accept() (net.Conn, error) { return nil, f.err }
