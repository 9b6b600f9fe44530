package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/testkit"
	"github.com/writ-auth/writ/policy"
)

// overloadEnvoy asks about requests and about connections. Extra headers differ from check to check, as tracing's do.
const overloadEnvoy = `
static_resources:
  listeners:
    - name: http
      address: {socket_address: {address: 127.0.0.1, port_value: 0}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: http
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]}]}
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service:
                        envoy_grpc: {cluster_name: writ}
                        timeout: 20s
                        initial_metadata: [{key: writ-namespace, value: shop}, {key: x-changing, value: "%%REQ(x-changing)%%"}]
                      encode_raw_headers: true
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
    - name: tcp
      address: {socket_address: {address: 127.0.0.1, port_value: 0}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.ext_authz
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz
                stat_prefix: tcp
                transport_api_version: V3
                grpc_service: {envoy_grpc: {cluster_name: writ}, timeout: 20s, initial_metadata: [{key: writ-namespace, value: shop}]}
            - name: envoy.filters.network.echo
              typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
  clusters:
    - name: writ
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      load_assignment: {cluster_name: writ, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

const overloadPolicies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: stuck}
spec: {action: CUSTOM, provider: {name: stuck}, rules: [{}]}
`

// stuckProvider keeps checks at work until it is closed.
type stuckProvider struct{ asked, release chan struct{} }

func (p *stuckProvider) Ask(_ context.Context, _ *authz.Question, a *authz.Answer) error {
	p.asked <- struct{}{}
	<-p.release
	a.Allow = true
	return nil
}

// overloadable is a server under whose clock a test makes an overload.
type overloadable struct {
	limiter  *extauthz.Limiter
	now      atomic.Int64
	provider *stuckProvider
	address  *net.TCPAddr
	checks   [3]authv3.AuthorizationClient // each over a connection of its own, which has no more than 1024 calls at a time
}

func newOverloadable(t *testing.T) *overloadable {
	t.Helper()
	o := &overloadable{provider: &stuckProvider{make(chan struct{}), make(chan struct{})}}
	var err error
	if o.limiter, err = extauthz.NewLimiter(extauthz.LimiterConfig{Now: func() time.Time { return time.Unix(1e9, o.now.Load()) }}); err != nil {
		t.Fatal(err)
	}
	providers, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "stuck", Provider: o.provider, Timeout: time.Minute, MaxConcurrent: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("test.yaml", []byte(overloadPolicies)))
	server, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{Providers: providers}, Limiter: o.limiter})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	o.address = listener.Addr().(*net.TCPAddr)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for i := range o.checks {
		conn, err := grpc.NewClient(o.address.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		o.checks[i] = authv3.NewAuthorizationClient(conn)
	}
	return o
}

func (o *overloadable) check(ctx context.Context, over int, namespace string) (*authv3.CheckResponse, error) {
	return o.checks[over].Check(ctx, &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		ContextExtensions: map[string]string{"writ.namespace": namespace},
		Request:           &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/"}},
	}})
}

// overload fills the server with checks that do not end, for longer than a burst takes.
func (o *overloadable) overload(t *testing.T) (end func()) {
	t.Helper()
	var stuck sync.WaitGroup
	const n = 1100 // more than are let in whatever happens
	for i := range n {
		stuck.Go(func() {
			if got, err := o.check(t.Context(), i%2, "stuck"); err != nil || got.GetOkResponse() == nil {
				t.Errorf("a check that was let in: %v, %v", got, err)
			}
		})
	}
	for range n {
		<-o.provider.asked
	}
	for !o.limiter.Status().Overloaded {
		o.now.Add(int64(10 * time.Millisecond))
		if _, err := o.check(bounded(t), 2, "shop"); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		close(o.provider.release)
		stuck.Wait()
		o.now.Add(int64(time.Second))
	}
}

// A real Envoy takes the answers that stand between gRPC's, for HTTP and for TCP, and goes on on the same connection.
func TestEnvoyUnderOverload(t *testing.T) {
	o := newOverloadable(t)
	envoy, err := testkit.StartEnvoy(bounded(t), testkit.EnvoyConfig{
		Name: "overload", Binary: mustTools(t).envoy, Bootstrap: fmt.Sprintf(overloadEnvoy, o.address.Port), Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, envoy.Process) })
	echo := func() string {
		conn, err := (&net.Dialer{}).DialContext(bounded(t), "tcp", envoy.Listener("tcp"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "ping")
		said := make([]byte, 4)
		n, _ := io.ReadFull(conn, said)
		return string(said[:n])
	}
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	get := func(i int) (int, string, http.Header) {
		request, err := http.NewRequestWithContext(bounded(t), http.MethodGet, "http://"+envoy.Listener("http")+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("x-changing", fmt.Sprint(i/10)) // the same ten times, then another
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body), response.Header
	}
	wantCalm := func() {
		t.Helper()
		if code, body, _ := get(0); code != 200 || body != "hello" || echo() != "ping" {
			t.Fatalf("without overload: HTTP %d %q", code, body)
		}
	}
	wantCalm()
	end := o.overload(t)
	before := o.limiter.Status().Shed
	const many = 500
	for i := range many {
		code, body, header := get(i)
		if code != 503 || !strings.Contains(body, "overloaded") || header.Get("x-envoy-ratelimited") == "" {
			t.Fatalf("request %d: HTTP %d %q %v", i, code, body, header)
		}
	}
	if said := echo(); said != "" {
		t.Errorf("a TCP connection said %q", said)
	}
	if shed := o.limiter.Status().Shed - before; shed < many+1 {
		t.Errorf("%d counted, want %d", shed, many+1)
	}
	end()
	wantCalm()
	counters, err := envoy.Counters(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"http2.rx_messaging_error", "http2.dropped_headers_with_underscores"} {
		if counters["cluster.writ."+name] != 0 {
			t.Errorf("%s: %d", name, counters["cluster.writ."+name])
		}
	}
	if n := counters["cluster.writ.upstream_cx_total"]; n > 4 {
		t.Errorf("%d connections to writ, want the few that Envoy begins with", n)
	}
	if n := o.limiter.Status().AtWork; n != 0 {
		t.Errorf("%d at work in the end", n)
	}
}
