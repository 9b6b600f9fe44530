package extauthz_test

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"fmt"
	"math/rand/v2"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
)

const goodCheck = openShop + `"request":{"http":{"method":"GET","path":"/"}}`

func newLimiter(t *testing.T, answer extauthz.OverloadAnswer) *extauthz.Limiter {
	t.Helper()
	// So long a target that nothing but Fill makes it turn anything away.
	l, err := extauthz.NewLimiter(extauthz.LimiterConfig{Answer: answer, Target: extauthz.MaxOverloadTarget})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// gated is a running server with a limiter.
func gated(t *testing.T, answer extauthz.OverloadAnswer) (*running, *extauthz.Limiter) {
	t.Helper()
	l := newLimiter(t, answer)
	return start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, Limiter: l}), nil), l
}

func wantAllowed(t *testing.T, r *running) {
	t.Helper()
	got, err := r.checks.Check(t.Context(), request(t, goodCheck))
	if err != nil || got.GetStatus().GetCode() != 0 || got.GetOkResponse() == nil {
		t.Fatalf("%v, %v: want it allowed", got, err)
	}
}

func wantShed(t *testing.T, got *authv3.CheckResponse, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	denied := got.GetDeniedResponse()
	if got.GetStatus().GetCode() != int32(codes.PermissionDenied) || got.GetOkResponse() != nil || denied.GetStatus().GetCode() != 503 ||
		reasonOf(got) != string(authz.ReasonOverloaded) || got.GetDynamicMetadata().GetFields()["layer"].GetStringValue() != "system" {
		t.Fatalf("got %v, want a denial with status 503", got)
	}
	if h := denied.GetHeaders(); len(h) != 1 || h[0].GetHeader().GetKey() != "x-envoy-ratelimited" {
		t.Errorf("headers %v, want x-envoy-ratelimited, or proxies would try again", h)
	}
}

func TestOverloadDenies(t *testing.T) {
	r, l := gated(t, "")
	wantAllowed(t, r)
	empty := l.Fill()
	for _, attributes := range []string{goodCheck, `"source":{"address":{"socketAddress":{"address":"10.0.0.1"}}}`} { // HTTP and TCP
		got, err := r.checks.Check(t.Context(), request(t, attributes))
		wantShed(t, got, err)
	}
	if _, err := healthv1.NewHealthClient(r).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("a health check on the same connection: %v", err)
	}
	if shed := l.Status().Shed; shed != 2 {
		t.Errorf("%d counted, want 2", shed)
	}
	empty()
	wantAllowed(t, r)
	if s := l.Status(); s.AtWork != 0 || s.Shed != 2 {
		t.Errorf("afterwards %+v", s)
	}
}

func TestOverloadExhausted(t *testing.T) {
	r, l := gated(t, extauthz.OverloadExhausted)
	wantAllowed(t, r)
	empty := l.Fill()
	_, err := r.checks.Check(t.Context(), request(t, goodCheck))
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "overloaded") {
		t.Errorf("got %v", err)
	}
	empty()
	wantAllowed(t, r)
}

// Answers at the door and gRPC's take turns on one connection, with headers that are the same and that change HPACK's
// table, requests that fill the windows of both sides many times, and callers that give up: nothing gets out of step.
func TestOverloadComesAndGoes(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", encrypted), func(t *testing.T) {
			l := newLimiter(t, "")
			cfg := extauthz.Config{Snapshot: storeOf(t, shop).Load, Limiter: l, MaxConcurrentStreams: 32}
			var creds credentials.TransportCredentials
			if encrypted {
				cfg.TLS, creds = serverTLS(t)
			}
			r := start(t, newServer(t, cfg), creds)
			const callers, each = 16, 150
			var all sync.WaitGroup
			for i := range callers {
				all.Go(func() {
					for k := range each {
						if err := r.ask(t, i, k); err != nil {
							t.Error(err)
							return
						}
						if k%10 == i%10 { // full, for as long as the next check takes
							empty := l.Fill()
							err := r.ask(t, i, k+1)
							empty()
							if err != nil {
								t.Error(err)
								return
							}
						}
					}
				})
			}
			all.Wait()
			eventually(t, func() bool { return l.Status().AtWork == 0 })
			if l.Status().Shed == 0 {
				t.Error("nothing was turned away")
			}
			wantAllowed(t, r)
		})
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	again, enough := time.NewTicker(time.Millisecond), time.After(time.Minute)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-enough:
			t.Fatal("it never came to hold")
		}
	}
}

// ask asks a check in one of several ways, and holds the answer against both that are right.
func (r *running) ask(t *testing.T, i, k int) error {
	q := request(t, goodCheck)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	switch (i + k) % 5 {
	case 1:
		ctx = metadata.AppendToOutgoingContext(ctx, "x-trace", fmt.Sprintf("%d-%d", i, k)) // changes the table
	case 2:
		q.Attributes.Request.Http.Body = strings.Repeat("x", 200<<10) // many frames
	case 3:
		ctx = metadata.AppendToOutgoingContext(ctx, "x-long", strings.Repeat("y", 20<<10)) // headers in pieces
	case 4:
		short, stop := context.WithTimeout(ctx, rand.N(2*time.Millisecond))
		defer stop()
		ctx = short
	}
	got, err := r.checks.Check(ctx, q)
	switch {
	case (i+k)%5 == 4 && (status.Code(err) == codes.DeadlineExceeded):
		return nil
	case err != nil:
		return fmt.Errorf("caller %d, check %d: %w", i, k, err)
	case got.GetOkResponse() != nil && got.GetStatus().GetCode() == 0:
		return nil
	case got.GetDeniedResponse().GetStatus().GetCode() == 503 && got.GetStatus().GetCode() != 0:
		return nil
	}
	return fmt.Errorf("caller %d, check %d: %v", i, k, got)
}

func serverTLS(t *testing.T) (*tls.Config, credentials.TransportCredentials) {
	t.Helper()
	i := newIssuer(t)
	text, err := url.PathUnescape(i.certificate(1, pkix.Name{CommonName: "writ"}, nil, []string{"writ.example"}))
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{derOf(t, text)}, PrivateKey: i.key}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		credentials.NewTLS(&tls.Config{RootCAs: poolOf(t, text), ServerName: "writ.example", MinVersion: tls.VersionTLS12})
}

// What is turned away leaves nothing behind, however much of it there is: no goroutine, no room in either window.
func TestOverloadLeavesNothing(t *testing.T) {
	before := goleak.IgnoreCurrent()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := newLimiter(t, "")
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, Limiter: l}), nil)
	wantAllowed(t, r)
	big := request(t, goodCheck)
	big.Attributes.Request.Http.Body = strings.Repeat("x", 1<<20)
	for range 40 { // more than the window of a connection, if it were not given back
		got, err := r.checks.Check(ctx, big)
		if err != nil || got.GetOkResponse() == nil {
			t.Fatal(got, err)
		}
	}
	empty := l.Fill()
	for range 40 {
		got, err := r.checks.Check(ctx, big)
		wantShed(t, got, err)
	}
	var goroutines, memory int
	for i := range 3000 {
		got, err := r.checks.Check(ctx, request(t, goodCheck))
		if err == nil && got.GetOkResponse() != nil { // there was no room for an answer in what this client grants
			continue
		}
		wantShed(t, got, err)
		if i == 500 {
			goroutines, memory = runtime.NumGoroutine(), heap()
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines+5 {
		t.Errorf("%d goroutines after more of it, %d before", n, goroutines)
	}
	if n := heap(); n > memory+4<<20 {
		t.Errorf("%d bytes on the heap after more of it, %d before", n, memory)
	}
	empty()
	for begin := time.Now(); ; { // until it is over
		if got, err := r.checks.Check(ctx, request(t, goodCheck)); err == nil && got.GetOkResponse() != nil {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("checks are turned away for ever")
		}
	}
	_ = r.Close()
	r.stop()
	if err := <-r.served; err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, before)
	if s := l.Status(); s.AtWork != 0 {
		t.Errorf("%d at work after the connection is gone", s.AtWork)
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// slowProvider answers when it is told to.
type slowProvider struct {
	limiter *extauthz.Limiter
	asked   chan struct{}
	answer  chan struct{}
}

func (p *slowProvider) Ask(ctx context.Context, _ *authz.Question, a *authz.Answer) error {
	defer p.limiter.Waiting(ctx)()
	p.asked <- struct{}{}
	<-p.answer
	a.Allow = true
	return nil
}

// Checks that wait for a provider are not at work: many of them turn nobody away.
func TestWaitingIsNotWork(t *testing.T) {
	const waiting = 200
	l := newLimiter(t, "")
	p := &slowProvider{l, make(chan struct{}), make(chan struct{})}
	providers, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "slow", Provider: p, Timeout: time.Minute, MaxConcurrent: waiting})
	if err != nil {
		t.Fatal(err)
	}
	server, err := extauthz.New(extauthz.Config{Limiter: l, Engine: &authz.Engine{Providers: providers}, Snapshot: storeOf(t, shop+`
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: slow}, rules: [{to: [{operation: {paths: [/ask]}}]}]}
`).Load})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, server, nil)
	var all sync.WaitGroup
	for range waiting {
		all.Go(func() {
			got, err := r.checks.Check(t.Context(), request(t, openShop+`"request":{"http":{"method":"GET","path":"/ask"}}`))
			if err != nil || got.GetOkResponse() == nil {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	for range waiting {
		<-p.asked
	}
	if n := l.Status().AtWork; n != 0 {
		t.Errorf("%d at work while all wait", n)
	}
	wantAllowed(t, r)
	close(p.answer)
	all.Wait()
	if s := l.Status(); s.AtWork != 0 || s.Shed != 0 {
		t.Errorf("afterwards %+v", s)
	}
	l.Waiting(t.Context())() // of no call
	if n := l.Status().AtWork; n != 0 {
		t.Errorf("%d at work after a wait that belongs to no call", n)
	}
}

// Requests that never end, and streams of other services, are no work, or somebody could pretend that there is some.
func TestIdleStreamsAreNotWork(t *testing.T) {
	r, l := gated(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 100 {
		if _, err := r.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/"+extauthz.ServiceName+"/Check"); err != nil {
			t.Fatal(err)
		}
		if _, err := healthv1.NewHealthClient(r).Watch(ctx, &healthv1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	wantAllowed(t, r)
	if n := l.Status().AtWork; n != 0 {
		t.Errorf("%d at work", n)
	}
}
