package custom_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/policy"
)

const slowDocuments = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: slow, namespace: shop}
spec: {action: CUSTOM, provider: {name: slow}, rules: [{to: [{operation: {paths: [/slow*]}}]}]}
`

// sleeper is a gRPC provider that takes a second for every answer.
type sleeper struct {
	authv3.UnimplementedAuthorizationServer
}

func (sleeper) Check(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	return nil, ctx.Err()
}

// BenchmarkIsolation reports the p99 of checks that need no provider, while 64 others wait for a provider that takes a
// second, divided by the p99 without those, measured in turns.
func BenchmarkIsolation(b *testing.B) {
	address, providers := serveSlow(b)
	request, err := extauthz.ParseJSON([]byte(question))
	if err != nil {
		b.Fatal(err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	check := func(ctx context.Context, r []byte) error {
		return conn.Invoke(ctx, "/envoy.service.auth.v3.Authorization/Check", r, new(authv3.CheckResponse))
	}
	p99 := func() time.Duration {
		const n = 5000
		took := make([]time.Duration, n)
		for i := range took {
			start := time.Now()
			if err := check(b.Context(), request); err != nil {
				b.Fatal(err)
			}
			took[i] = time.Since(start)
		}
		slices.Sort(took)
		return took[n*99/100]
	}
	slow, err := extauthz.ParseJSON([]byte(`{"attributes":{"request":{"http":{"method":"GET","path":"/slow"}},"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=order"}}}`))
	if err != nil {
		b.Fatal(err)
	}
	p99()
	var ratios []float64
	for b.Loop() {
		alone := p99()
		ctx, cancel := context.WithCancel(b.Context())
		var wait sync.WaitGroup
		for range 64 {
			wait.Go(func() {
				for ctx.Err() == nil {
					_ = check(ctx, slow)
				}
			})
		}
		for providers.InFlight("slow") < 64 {
			runtime.Gosched()
		}
		ratios = append(ratios, float64(p99())/float64(alone))
		cancel()
		wait.Wait()
	}
	b.ReportMetric(median(ratios), "ratio")
}

// serveSlow starts a provider that is slow, and writ in front of it.
func serveSlow(b *testing.B) (string, *authz.Providers) {
	b.Helper()
	listen := func() net.Listener {
		l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	remote, front := listen(), listen()
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, sleeper{})
	go func() { _ = server.Serve(remote) }()
	b.Cleanup(server.Stop)
	asked, err := provider.NewGRPC(provider.GRPCConfig{Target: remote.Addr().String()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = asked.Close() })
	providers, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "slow", Provider: asked, Timeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("bench.yaml", []byte(slowDocuments)))
	writ, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{Providers: providers}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- writ.Serve(ctx, front) }()
	b.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			b.Error(fmt.Errorf("writ: %w", err))
		}
	})
	return front.Addr().String(), providers
}
