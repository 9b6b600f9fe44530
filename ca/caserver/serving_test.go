package caserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// TestRootAddedWhileRunning is surprise 25 of identity §11: a certificate under a root that came later proves its caller
// without a restart, and the server's own certificate moves on as well.
func TestRootAddedWhileRunning(t *testing.T) {
	b := newBench(t, options{})
	old := b.certificate(t, call{bearer: b.orderToken(t)})
	rotate := func(step ca.Step) {
		t.Helper()
		r, err := b.admin.Rotate(t.Context(), "test", caserver.RotateRequest{Step: step, Override: true, Reason: "test"})
		if err != nil || r.Refused != nil {
			t.Fatalf("%s: %v, %+v", step, err, r.Refused)
		}
	}
	for _, step := range []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate} {
		rotate(step)
	}
	young := b.certificate(t, call{certificate: old})
	issuerOf := func(pair *tls.Certificate) string {
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return string(leaf.AuthorityKeyId)
	}
	if issuerOf(young) == issuerOf(old) {
		t.Fatal("the new certificate is under the old root")
	}
	if _, err := b.do(t, call{certificate: young}); err != nil {
		t.Errorf("under the new root: %v, %v", err, b.last(t).Err)
	}
	before := b.admin.Status(t.Context()).Server.Certificate
	rotate(ca.StepTaint)
	waitFor(t, "the server's certificate under the new root", func() bool { return b.admin.Status(t.Context()).Server.Certificate != before })
	rotate(ca.StepRevoke)
	if _, err := b.do(t, call{certificate: young}); err != nil {
		t.Errorf("after the old root went: %v, %v", err, b.last(t).Err)
	}
	_, err := b.do(t, call{certificate: old})
	wantCode(t, err, codes.Unauthenticated)
}

// TestIdleRotation: an authority that has issued to nobody but its own server goes from one root to the next without an
// override and without waiting for a certificate to end; whoever trusts its bundle reaches it all the way.
func TestIdleRotation(t *testing.T) {
	b := newBench(t, options{})
	health := healthv1.NewHealthClient
	start := b.authority.Bundle()
	reach := func(step ca.Step) {
		t.Helper()
		if _, err := health(b.dial(t, nil)).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
			t.Errorf("after %s: %v", step, err)
		}
	}
	reach("the start")
	for _, step := range []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate, ca.StepTaint, ca.StepRevoke} {
		var refused *caserver.Refusal
		waitFor(t, string(step), func() bool {
			r, err := b.admin.Rotate(t.Context(), "test", caserver.RotateRequest{Step: step})
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if refused = r.Refused; refused != nil && (len(refused.Dependents) != 1 || refused.Dependents[0].Kind != "replica") {
				t.Fatalf("%s: held up by %+v", step, refused.Dependents)
			}
			return refused == nil
		})
		reach(step)
	}
	now := b.authority.Bundle()
	if len(now.Roots) != 1 || now.Roots[0].Certificate.Equal(start.Roots[0].Certificate) || b.authority.Status().Phase != ca.PhaseStable {
		t.Errorf("%d roots, phase %s", len(now.Roots), b.authority.Status().Phase)
	}
	events, err := b.admin.Events(t.Context(), caserver.EventsRequest{})
	if err != nil || slices.ContainsFunc(events, func(e caserver.Event) bool { return e.What == "override" }) {
		t.Errorf("%v, %v", events, err)
	}
	b.store.CheckCertificates()
}

// TestOwnIdentityIsTaken: nobody else becomes the authority's server, by whatever they are entitled to.
func TestOwnIdentityIsTaken(t *testing.T) {
	b := newBench(t, options{})
	const own = "spiffe://td.test/writ/authority"
	for _, ids := range [][]spiffeid.ID{{mustID(t, own)}, {mustID(t, node), mustID(t, own)}} {
		token := attest.NewJoinToken()
		kept := ca.Token{Hash: token.Hash(), IDs: ids, Created: b.now(), Expires: b.now().Add(time.Hour), By: "test"}
		if err := b.store.PutToken(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
		_, err := b.do(t, call{bearer: token.Reveal(), metadata: map[string]any{"ImpersonatedIdentity": own}})
		wantCode(t, err, codes.PermissionDenied)
	}
}

func TestPlaintextRefused(t *testing.T) {
	b := newBench(t, options{})
	conn, err := grpc.NewClient(b.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = call{bearer: b.orderToken(t)}.send(t, securityv1.NewIstioCertificateServiceClient(conn))
	if err == nil {
		t.Error("a certificate was issued in clear")
	}
}

func TestTLSVersions(t *testing.T) {
	b := newBench(t, options{})
	for version, wanted := range map[uint16]bool{
		tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true,
	} {
		conn, err := tls.Dial("tcp", b.address, &tls.Config{
			RootCAs: roots(b.authority.Bundle()), MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"},
		})
		if (err == nil) != wanted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// TestServerCertificate: agents verify what they dial, and Istio's dial localhost as istiod.istio-system.svc (surprise 4).
func TestServerCertificate(t *testing.T) {
	b := newBench(t, options{})
	for name, good := range map[string]bool{"ca.test": true, "istiod.istio-system.svc": true, "127.0.0.1": true, "localhost": false} {
		conn, err := tls.Dial("tcp", b.address, &tls.Config{
			RootCAs: roots(b.authority.Bundle()), ServerName: name, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
		})
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			state := conn.ConnectionState()
			if uris := state.PeerCertificates[0].URIs; len(uris) != 1 || uris[0].String() != "spiffe://td.test/writ/authority" {
				t.Errorf("names %v", uris)
			}
			if len(state.PeerCertificates) != 2 {
				t.Errorf("%d certificates, want leaf and intermediate", len(state.PeerCertificates))
			}
			conn.Close()
		}
	}
}

// TestServerCertificateRenewed: at half of its life, on the running listener.
func TestServerCertificateRenewed(t *testing.T) {
	b := newBench(t, options{})
	before := b.admin.Status(t.Context()).Server.Certificate
	b.shift.Add(int64(31 * time.Minute))
	waitFor(t, "a new certificate", func() bool { return b.admin.Status(t.Context()).Server.Certificate != before })
	if _, err := b.do(t, call{bearer: b.orderToken(t)}); err != nil {
		t.Error(err)
	}
}

// slow is an authority whose signer takes its time.
type slow struct {
	caserver.Authority
	started chan struct{} // one for each call that begins
	until   chan struct{} // closed to let them go on
}

func (s slow) Issue(ctx context.Context, a *ca.Approval) (*ca.Issued, error) {
	if strings.HasSuffix(a.ID().String(), "/writ/authority") {
		return s.Authority.Issue(ctx, a)
	}
	s.started <- struct{}{}
	select {
	case <-s.until:
	case <-ctx.Done():
		return nil, fmt.Errorf("signer did not answer: %w", context.Cause(ctx))
	}
	return s.Authority.Issue(ctx, a)
}

func newSlow() slow { return slow{started: make(chan struct{}, 1000), until: make(chan struct{})} }

// TestSlowSigner is surprise 35 of identity §11: agents set no deadline, so the server does.
func TestSlowSigner(t *testing.T) {
	s := newSlow()
	b := newBench(t, options{
		authority: func(a caserver.Authority) caserver.Authority { s.Authority = a; return s },
		server:    func(c *caserver.Config) { c.Timeout = 50 * time.Millisecond },
	})
	_, err := b.do(t, call{bearer: b.orderToken(t)})
	wantCode(t, err, codes.DeadlineExceeded)
	if o := b.last(t); o.Outcome != caserver.TimedOut {
		t.Errorf("observed %s: %v", o.Outcome, o.Err)
	}
}

func TestOverload(t *testing.T) {
	s := newSlow()
	b := newBench(t, options{
		authority: func(a caserver.Authority) caserver.Authority { s.Authority = a; return s },
		server:    func(c *caserver.Config) { c.MaxConcurrent = 4 },
	})
	client := b.client(t, nil)
	done := make(chan error, 4)
	for range 4 {
		go func() {
			_, err := call{bearer: b.orderToken(t)}.send(t, client)
			done <- err
		}()
	}
	for range 4 {
		<-s.started
	}
	_, err := call{bearer: b.orderToken(t)}.send(t, client)
	wantCode(t, err, codes.ResourceExhausted)
	if o := b.last(t); o.Outcome != caserver.Overloaded {
		t.Errorf("observed %s", o.Outcome)
	}
	close(s.until)
	for range 4 {
		if err := <-done; err != nil {
			t.Errorf("one that was at work: %v", err)
		}
	}
	if _, err := (call{bearer: b.orderToken(t)}).send(t, client); err != nil {
		t.Errorf("after the others ended: %v", err)
	}
}

func TestRateLimit(t *testing.T) {
	b := newBench(t, options{server: func(c *caserver.Config) { c.Rate, c.Burst = 0.001, 3 }})
	client := b.client(t, nil)
	for range 3 {
		if _, err := (call{bearer: b.orderToken(t)}).send(t, client); err != nil {
			t.Fatal(err)
		}
	}
	_, err := call{bearer: b.orderToken(t)}.send(t, client)
	wantCode(t, err, codes.ResourceExhausted)
	if o := b.last(t); o.Outcome != caserver.RateLimited {
		t.Errorf("observed %s", o.Outcome)
	}
	if _, err := (call{bearer: b.token(t, "system:serviceaccount:coffee-shop:payment")}).send(t, client); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// TestFailuresOfTheAuthority is identity §2.7 for what is not the caller's fault.
func TestFailuresOfTheAuthority(t *testing.T) {
	for _, test := range []struct {
		name string
		err  error
		want codes.Code
	}{
		{"store down", fmt.Errorf("begin: %w", ca.ErrUnavailable), codes.Unavailable},
		{"store busy", fmt.Errorf("begin: %w: %w", ca.ErrUnavailable, ca.ErrOverloaded), codes.ResourceExhausted},
		{"no signer", ca.ErrNotReady, codes.Unavailable},
		{"self-check", ca.ErrSelfCheck, codes.Internal},
		{"revoked", ca.ErrRevoked, codes.PermissionDenied},
		{"identity", ca.ErrIdentity, codes.PermissionDenied},
		{"key of another", &ca.CSRError{Reason: ca.ReasonKeyReused, Detail: "was used for spiffe://td.test/other"}, codes.InvalidArgument},
		{"anything else", fmt.Errorf("boom"), codes.Internal},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, options{authority: func(a caserver.Authority) caserver.Authority { return failing{a, test.err, nil} }})
			_, err := b.do(t, call{bearer: b.orderToken(t)})
			wantCode(t, err, test.want)
			if o := b.last(t); o.Code() != test.want || o.Err == nil {
				t.Errorf("observed %s, %v", o.Code(), o.Err)
			}
		})
	}
	for want, fault := range map[codes.Code]error{
		codes.Unavailable:       ca.ErrUnavailable,
		codes.ResourceExhausted: fmt.Errorf("%w: %w", ca.ErrUnavailable, ca.ErrOverloaded),
	} {
		t.Run("join token: "+want.String(), func(t *testing.T) {
			b := newBench(t, options{})
			token := b.joinToken(t, node)
			b.store.Inject(func(op string) memstore.Fault {
				if op == "TakeToken" {
					return memstore.Fault{Before: fault}
				}
				return memstore.Fault{}
			})
			_, err := b.do(t, call{bearer: token})
			wantCode(t, err, want)
		})
	}
	t.Run("panic", func(t *testing.T) {
		b := newBench(t, options{authority: func(a caserver.Authority) caserver.Authority { return failing{a, nil, "boom"} }})
		client := b.client(t, nil)
		for range 2 { // the server goes on
			_, err := call{bearer: b.orderToken(t)}.send(t, client)
			wantCode(t, err, codes.Internal)
		}
	})
	t.Run("an answer of one element", func(t *testing.T) {
		b := newBench(t, options{authority: func(a caserver.Authority) caserver.Authority { return leafOnly{a} }})
		_, err := b.do(t, call{bearer: b.orderToken(t)})
		wantCode(t, err, codes.Internal)
	})
}

// failing is an authority that fails for workloads.
type failing struct {
	caserver.Authority
	err   error
	panic any
}

func (f failing) Issue(ctx context.Context, a *ca.Approval) (*ca.Issued, error) {
	switch {
	case strings.HasSuffix(a.ID().String(), "/writ/authority"):
		return f.Authority.Issue(ctx, a)
	case f.panic != nil:
		panic(f.panic)
	}
	return nil, f.err
}

// leafOnly is surprise 1 of identity §11.
type leafOnly struct{ caserver.Authority }

func (l leafOnly) Issue(ctx context.Context, a *ca.Approval) (*ca.Issued, error) {
	issued, err := l.Authority.Issue(ctx, a)
	if err == nil && !strings.HasSuffix(a.ID().String(), "/writ/authority") {
		issued.Chain = issued.Chain[:1]
	}
	return issued, err
}

func TestHealth(t *testing.T) {
	b := newBench(t, options{})
	client := healthv1.NewHealthClient(b.dial(t, nil))
	for _, name := range []string{"", caserver.ServiceName} {
		waitFor(t, "serving", func() bool {
			r, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
			return err == nil && r.Status == healthv1.HealthCheckResponse_SERVING
		})
	}
}

// TestDrain: calls in flight end, new ones find nobody.
func TestDrain(t *testing.T) {
	s := newSlow()
	var b *bench
	t.Run("serving", func(t *testing.T) {
		b = newBench(t, options{authority: func(a caserver.Authority) caserver.Authority { s.Authority = a; return s }})
		client := b.client(t, nil)
		done := make(chan error, 1)
		go func() {
			_, err := call{bearer: b.orderToken(t)}.send(t, client)
			done <- err
		}()
		<-s.started
		close(s.until)
		if err := <-done; err != nil {
			t.Errorf("call in flight: %v", err)
		}
	})
	conn, err := tls.Dial("tcp", b.address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // nobody is there
	if err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// TestOldRootServer: a client with the wrong roots refuses the server; no credential reaches it.
func TestOldRootServer(t *testing.T) {
	b, other := newBench(t, options{}), newBench(t, options{})
	conn, err := grpc.NewClient(b.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots(other.authority.Bundle()), MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := (call{bearer: b.orderToken(t)}).send(t, securityv1.NewIstioCertificateServiceClient(conn)); err == nil {
		t.Error("the client took the server for its own")
	}
}
