package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
)

// IdentityConfig says who this process is to servers, and who proves it.
type IdentityConfig struct {
	ID     string       // the SPIFFE ID
	Socket string       // path of the Unix socket of a SPIFFE Workload API
	Logger *slog.Logger // nil discards
}

// Identity is who this process is to servers of [TLS.Identity]: a certificate, and the roots and CRLs to know servers by.
// It follows the Workload API (SPIFFE Workload API §6, X509-SVID profile), so renewals, root rotations and revocations
// arrive as they happen. While there is no certificate that is good, no connection is made and no question put:
// [authz.ReasonProviderNoIdentity]. It is safe for concurrent use.
//
// An agent that is gone takes nothing away before it ends. One that says that the identity is not ours, or no longer, does
// so at once.
type Identity struct {
	config IdentityConfig
	now    atomic.Pointer[svid] // nil while there is none

	mu         sync.Mutex // guards what follows, and changes of now
	generation uint64
	last       *workload.X509SVIDResponse // what now was made of
	problem    error                      // of the last attempt
}

// IdentityStatus is how an Identity is doing.
type IdentityStatus struct {
	ID       string    `json:"id"`
	Socket   string    `json:"workload_api"`
	Ready    bool      `json:"ready"`              // there is a certificate, and it is good
	Serial   string    `json:"serial,omitempty"`   // hex
	NotAfter time.Time `json:"not_after,omitzero"` // when the certificate ends, or ended
	Error    string    `json:"error,omitempty"`    // why there is none, or why it may not be renewed
}

// NewIdentity checks the configuration. It asks nobody: Run does.
func NewIdentity(c IdentityConfig) (*Identity, error) {
	if err := checkSPIFFEID(c.ID); err != nil {
		return nil, err
	}
	if c.Socket == "" {
		return nil, errors.New("the socket of the Workload API is missing")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Identity{config: c, problem: errors.New("the Workload API did not answer yet")}, nil
}

// Run follows the Workload API until ctx ends. It always returns nil.
func (i *Identity) Run(ctx context.Context) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		answered, err := i.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		i.failed(err)
		if answered {
			wait = firstRetry
		}
		pause := time.NewTimer(wait/2 + rand.N(wait)) //nolint:gosec // spreads those who come back, and keeps no secret
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
	}
}

// Status returns how it is doing.
func (i *Identity) Status() IdentityStatus {
	out := IdentityStatus{ID: i.config.ID, Socket: i.config.Socket}
	if s := i.now.Load(); s != nil {
		out.Serial, out.NotAfter = s.leaf().SerialNumber.Text(16), s.leaf().NotAfter
	}
	_, err := i.current()
	out.Ready = err == nil
	if err == nil {
		err = i.trouble()
	}
	if err != nil {
		out.Error = err.Error()
	}
	return out
}

// current returns the certificate with what it is verified by, or a fault that says why there is none.
func (i *Identity) current() (*svid, error) {
	if s := i.now.Load(); s.flaw() == "" {
		return s, nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.now.Load() // it may have come just now
	why := s.flaw()
	if why == "" {
		return s, nil
	}
	if i.problem != nil {
		why += ": " + i.problem.Error()
	}
	return nil, faultf(authz.ReasonProviderNoIdentity, "not asked as %s: %s", i.config.ID, why)
}

// trouble is what was wrong with the last attempt, nil if nothing was.
func (i *Identity) trouble() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.problem
}

// follow takes over what the Workload API says until it says no more. answered tells whether it said anything.
func (i *Identity) follow(ctx context.Context) (answered bool, err error) {
	conn, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", i.config.Socket)
		}))
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true") // SPIFFE Workload Endpoint §6.1
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return false, err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return answered, err
		}
		answered = true
		i.take(r)
	}
}

// take puts an answer in force. One that cannot be used leaves the last good one in force.
func (i *Identity) take(r *workload.X509SVIDResponse) {
	i.mu.Lock()
	defer i.mu.Unlock()
	r = about(i.config.ID, r)
	if r == nil {
		i.drop(errNotGiven)
		return
	}
	if i.last != nil && proto.Equal(r, i.last) {
		i.problem = nil
		return
	}
	next, err := newSVID(i.config.ID, r)
	if err != nil {
		i.complain(fmt.Errorf("the Workload API gives what cannot be used: %w", err))
		return
	}
	i.generation++
	next.generation = i.generation
	i.last, i.problem = r, nil
	i.now.Store(next)
	attrs := []any{"id", i.config.ID, "serial", next.leaf().SerialNumber.Text(16), "not_after", next.leaf().NotAfter}
	if next.revoked {
		i.config.Logger.Error("the certificate for providers was revoked: those that need it are not asked", attrs...)
		return
	}
	i.config.Logger.Info("certificate for providers", attrs...)
}

// failed takes note of the end of a stream.
func (i *Identity) failed(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := status.Convert(err)
	if s.Code() == codes.PermissionDenied {
		i.drop(fmt.Errorf("%w: %s", errNotGiven, excerpt(s.Message())))
		return
	}
	i.complain(fmt.Errorf("the Workload API at %s: %s", i.config.Socket, excerpt(s.Message())))
}

// drop takes the certificate away. The caller holds mu.
func (i *Identity) drop(why error) {
	i.last = nil
	i.now.Store(nil)
	i.complain(why)
}

// complain takes note of a problem, and logs it if it is another than before. The caller holds mu.
func (i *Identity) complain(problem error) {
	if i.problem == nil || i.problem.Error() != problem.Error() {
		i.config.Logger.Warn("the identity for providers", "id", i.config.ID, "error", problem)
	}
	i.problem = problem
}

// isSPIFFE reports whether a server name is meant to be a SPIFFE ID.
func isSPIFFE(name string) bool { return strings.HasPrefix(name, spiffeScheme) }
