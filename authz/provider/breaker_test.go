package provider_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

func TestBreakerOpensAndSaysWhy(t *testing.T) {
	noLeaks(t)
	p := newGRPC(t, provider.GRPCConfig{Target: refusing(t), Breaker: provider.Breaker{Failures: 3, OpenFor: time.Hour}})
	ask := func() error {
		var a authz.Answer
		return p.Ask(within(t, plenty), question(t), &a)
	}
	for i := range 3 {
		if c := p.Circuit(); c.Open || c.Failures != i {
			t.Errorf("circuit %+v after %d failures", c, i)
		}
		wantFault(t, ask(), authz.ReasonProviderUnreachable)
	}
	wantFault(t, ask(), authz.ReasonProviderCircuitOpen, "3 calls in a row since 20", "next attempt in ", "refused")
	c := p.Circuit()
	if !c.Open || c.Failures != 3 || c.Since.IsZero() || time.Until(c.RetryAt) < 50*time.Minute || c.Last == nil {
		t.Errorf("circuit %+v, want it open with what is known", c)
	}
}

func TestBreakerLetsOneCallTry(t *testing.T) {
	noLeaks(t)
	var asked atomic.Int32
	release := make(chan struct{})
	healthy := make(chan struct{})
	p := newHTTP(t, provider.HTTPConfig{
		Target: serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			select {
			case <-healthy:
			case <-r.Context().Done():
			}
			<-release
		}).URL,
		Breaker: provider.Breaker{Failures: 2, OpenFor: time.Second},
	})
	var a authz.Answer
	for range 2 {
		wantFault(t, p.Ask(within(t, 500*time.Millisecond), question(t), &a), authz.ReasonProviderTimeout)
	}
	close(healthy)
	close(release)
	// The first that may try again finds the server well, and everybody may ask again.
	eventually(t, func() bool {
		err := p.Ask(within(t, plenty), question(t), &a)
		if err != nil {
			wantFault(t, err, authz.ReasonProviderCircuitOpen)
		}
		return err == nil
	})
	if n := asked.Load(); n > 3 {
		t.Errorf("the server was asked %d times, want 3 at most", n)
	}
	if c := p.Circuit(); c.Open || c.Failures != 0 {
		t.Errorf("circuit %+v after an answer", c)
	}
}

func TestBreakerHasOneProbeAtATime(t *testing.T) {
	noLeaks(t)
	target, started := slowHTTP(t)
	p := newHTTP(t, provider.HTTPConfig{Target: target, Breaker: provider.Breaker{Failures: 1, OpenFor: time.Millisecond}})
	var a authz.Answer
	wantFault(t, p.Ask(within(t, 500*time.Millisecond), question(t), &a), authz.ReasonProviderTimeout)
	<-started

	eventually(t, func() bool { return time.Now().After(p.Circuit().RetryAt) })
	ctx, cancel := context.WithCancel(t.Context())
	probe, q := make(chan error, 1), question(t)
	go func() {
		var a authz.Answer
		probe <- p.Ask(ctx, q, &a)
	}()
	<-started
	wantFault(t, p.Ask(within(t, plenty), question(t), &a), authz.ReasonProviderCircuitOpen, "under way")
	cancel() // a probe that is given up lets another one try
	wantFault(t, <-probe, authz.ReasonProviderTimeout)
	wantFault(t, p.Ask(within(t, 500*time.Millisecond), question(t), &a), authz.ReasonProviderTimeout)
	<-started
}

// TestBreakerCountsOnlyMissingAnswers: what a server answers, and what a caller is to blame for, opens nothing.
func TestBreakerCountsOnlyMissingAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error)
		wait   time.Duration
	}{
		{"denials", always(t, `status { code: 7 }`), plenty},
		{"failures", fails(codes.Internal), plenty},
		{"nonsense", always(t, ``), plenty},
		{"callers in a hurry", hang, 10 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, test.answer), Breaker: provider.Breaker{Failures: 1, OpenFor: time.Hour}})
			for range 3 {
				var a authz.Answer
				_ = p.Ask(within(t, test.wait), question(t), &a)
			}
			if c := p.Circuit(); c.Open || c.Failures != 0 {
				t.Errorf("circuit %+v, want it closed", c)
			}
		})
	}
}
