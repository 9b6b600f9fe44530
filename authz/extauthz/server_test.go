package extauthz_test

import (
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// running is a server on a loopback port, and a connection to it.
type running struct {
	*grpc.ClientConn
	checks authv3.AuthorizationClient
	stop   context.CancelFunc
	served chan error
}

func start(t *testing.T, server *extauthz.Server, creds credentials.TransportCredentials) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startOn(t, server, listener, listener.Addr().String(), creds)
}

func startOn(t *testing.T, server *extauthz.Server, listener net.Listener, target string, creds credentials.TransportCredentials) *running {
	t.Helper()
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(128<<20)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{conn, authv3.NewAuthorizationClient(conn), cancel, make(chan error, 1)}
	go func() { r.served <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
	})
	return r
}

func request(t testing.TB, attributes string) *authv3.CheckRequest {
	t.Helper()
	r := new(authv3.CheckRequest)
	if err := proto.Unmarshal(fromJSON(t, `{"attributes":{`+attributes+`}}`), r); err != nil {
		t.Fatal(err)
	}
	return r
}

const openShop = `"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=open"},`

func reasonOf(r *authv3.CheckResponse) string {
	return r.GetDynamicMetadata().GetFields()["reason"].GetStringValue()
}

func TestCheck(t *testing.T) {
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load}), nil)
	tests := []struct {
		name, http string
		want       map[string]any
		status     int32
	}{
		{"allowed by a rule", `"method":"GET","path":"/menu"`, map[string]any{
			"decision": "allow", "layer": "allow", "reason": "allowed", "policy": "shop/get-only", "rule": 0.0, "rule_id": "ns[shop]-policy[get-only]-rule[0]",
			"audit": "ns[shop]-policy[look]-rule[0]", "istio_dry_run_deny_shadow_engine_result": "allowed", "generation": 1.0}, 0},
		{"denied by a rule", `"method":"GET","path":"/admin?x"`, map[string]any{
			"decision": "deny", "layer": "deny", "reason": "denied", "policy": "shop/no-admin", "rule": 0.0, "rule_id": "ns[shop]-policy[no-admin]-rule[0]",
			"audit": "ns[shop]-policy[look]-rule[0]", "istio_dry_run_deny_shadow_engine_result": "allowed", "generation": 1.0}, 403},
		{"no rule allows, and a dry run denies", `"method":"POST","path":"/menu"`, map[string]any{
			"decision": "deny", "layer": "allow", "reason": "no_allow_match", "audit": "ns[shop]-policy[look]-rule[0]",
			"istio_dry_run_deny_shadow_engine_result":       "denied",
			"istio_dry_run_deny_shadow_effective_policy_id": "ns[shop]-policy[trial]-rule[0]", "generation": 1.0}, 403},
		{"path that is not normalized", `"method":"GET","path":"/menu/../admin"`, map[string]any{
			"decision": "deny", "layer": "system", "reason": "path_not_normalized", "generation": 1.0}, 403},
	}
	seen := map[string]bool{}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, err := r.checks.Check(t.Context(), request(t, openShop+`"request":{"http":{`+c.http+`}}`))
			if err != nil {
				t.Fatal(err)
			}
			if got.Status == nil || (got.Status.Code == 0) != (c.status == 0) || int32(got.GetDeniedResponse().GetStatus().GetCode()) != c.status {
				t.Errorf("got %v", got)
			}
			if c.status != 0 && got.GetDeniedResponse().GetBody() != "RBAC: access denied" {
				t.Errorf("body %q", got.GetDeniedResponse().GetBody())
			}
			fields := got.GetDynamicMetadata().AsMap()
			if id, _ := fields["decision_id"].(string); id == "" || seen[id] {
				t.Errorf("decision_id %q: want one of its own", id)
			} else {
				seen[id] = true
			}
			delete(fields, "decision_id")
			for k, want := range c.want {
				if fields[k] != want {
					t.Errorf("%s: got %v, want %v", k, fields[k], want)
				}
				delete(fields, k)
			}
			if len(fields) > 0 {
				t.Errorf("more metadata than expected: %v", fields)
			}
		})
	}
}

func TestCheckTCPByInitialMetadata(t *testing.T) {
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load}), nil)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "writ-namespace", "shop", "writ-labels", "app=other")
	got, err := r.checks.Check(ctx, request(t, `"source":{"address":{"socketAddress":{"address":"10.0.0.1"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	// DENY paths: [/admin] denies all TCP (authorization-policy §5, §12 row 40).
	if got.Status.GetCode() != int32(codes.PermissionDenied) || reasonOf(got) != "denied" {
		t.Errorf("got %v", got)
	}
}

// Whatever goes wrong is a denial in the response: a gRPC error would let failure_mode_allow turn it into an allow.
func TestFailuresAreDenials(t *testing.T) {
	good := openShop + `"request":{"http":{"method":"GET","path":"/"}}`
	snapshot := storeOf(t, shop).Load
	big := request(t, good)
	big.Attributes.Request.Http.Body = strings.Repeat("x", 5<<20)
	split := request(t, good)
	split.Attributes.Request.Http.Body = strings.Repeat("x", 100<<10) // several DATA frames
	split.Attributes.ContextExtensions["z"] = strings.Repeat("x", 50<<10)
	tests := []struct {
		name    string
		config  extauthz.Config
		request *authv3.CheckRequest
		reason  authz.Reason
		panics  uint64
	}{
		{"a good one is allowed", extauthz.Config{Snapshot: snapshot}, request(t, good), authz.ReasonAllowed, 0},
		{"one in several frames is allowed", extauthz.Config{Snapshot: snapshot}, split, authz.ReasonAllowed, 0},
		{"no snapshot", extauthz.Config{Snapshot: func() *policy.Snapshot { return nil }}, request(t, good), authz.ReasonNoSnapshot, 0},
		{"panic while deciding", extauthz.Config{Snapshot: func() *policy.Snapshot { panic("boom") }}, request(t, good), authz.ReasonInternal, 1},
		{"panic while observing", extauthz.Config{Snapshot: snapshot, Observe: func(*extauthz.Observation) { panic("boom") }},
			request(t, good), authz.ReasonInternal, 1},
		{"empty", extauthz.Config{Snapshot: snapshot}, &authv3.CheckRequest{}, authz.ReasonBadRequest, 0},
		{"no workload", extauthz.Config{Snapshot: snapshot}, request(t, `"request":{"http":{"method":"GET","path":"/"}}`), authz.ReasonUnknownWorkload, 0},
		{"larger than 4 MiB", extauthz.Config{Snapshot: snapshot}, big, authz.ReasonBadRequest, 0},
		{"larger than configured", extauthz.Config{Snapshot: snapshot, MaxRequestBytes: 20}, request(t, good), authz.ReasonBadRequest, 0},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var log strings.Builder
			c.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
			server := newServer(t, c.config)
			r := start(t, server, nil)
			got, err := r.checks.Check(t.Context(), c.request)
			if err != nil {
				t.Fatalf("a gRPC error: %v", err)
			}
			allow := c.reason == authz.ReasonAllowed
			if reasonOf(got) != string(c.reason) || got.Status == nil || (got.Status.Code == 0) != allow || (got.GetDeniedResponse() == nil) != allow {
				t.Errorf("got %v, want reason %s", got, c.reason)
			}
			if server.Panics() != c.panics || strings.Contains(log.String(), "goroutine") != (c.panics > 0) {
				t.Errorf("%d panics, want %d; log: %s", server.Panics(), c.panics, &log)
			}
		})
	}
}

// Bytes no protobuf encoder writes go through the handler, not through gRPC's codec.
func TestBadBytesAreDenied(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load})
	whole := fromJSON(t, `{"attributes":{`+openShop+`"request":{"http":{"method":"GET","path":"/"}}}}`)
	for n := range len(whole) {
		var got authv3.CheckResponse
		if err := proto.Unmarshal(server.CheckBytes(whole[:n], nil), &got); err != nil {
			t.Fatal(err)
		}
		if got.Status.GetCode() != int32(codes.PermissionDenied) {
			t.Errorf("the first %d of %d bytes: %v", n, len(whole), &got)
		}
	}
}

func TestObservation(t *testing.T) {
	var seen atomic.Int32
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, Observe: func(o *extauthz.Observation) {
		seen.Add(1)
		if o.RequestID != "id-7" || !o.Decision.Allow || o.Request.Method != "GET" || o.Duration <= 0 || o.Decision.Workload == nil {
			t.Errorf("got %+v", o)
		}
	}}), nil)
	if _, err := r.checks.Check(t.Context(), request(t, openShop+`"request":{"http":{"method":"GET","path":"/","headers":{"x-request-id":"id-7"}}}`)); err != nil {
		t.Fatal(err)
	}
	if seen.Load() != 1 {
		t.Errorf("observed %d times, want once", seen.Load())
	}
}

func TestHealth(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load})
	r := start(t, server, nil)
	client := healthv1.NewHealthClient(r)
	for _, ready := range []bool{false, true, false, true} {
		if ready {
			server.SetReady(true)
		} else {
			server.SetReady(false)
		}
		for _, service := range []string{"", extauthz.ServiceName} {
			got, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			if serving := got.Status == healthv1.HealthCheckResponse_SERVING; serving != ready {
				t.Errorf("service %q: %v with ready %v", service, got.Status, ready)
			}
		}
	}
	if _, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "other"}); status.Code(err) != codes.NotFound {
		t.Errorf("another service: got %v, want NotFound", err)
	}
}

func TestUnknownService(t *testing.T) {
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load}), nil)
	err := r.Invoke(t.Context(), "/envoy.service.auth.v2.Authorization/Check", &authv3.CheckRequest{}, &authv3.CheckResponse{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v, want Unimplemented", err)
	}
}

func TestReflection(t *testing.T) {
	for _, on := range []bool{false, true} {
		r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, Reflection: on}), nil)
		stream, err := reflectionv1.NewServerReflectionClient(r).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{
			FileContainingSymbol: extauthz.ServiceName}})
		got, err := stream.Recv() // says why, when Send could not
		if on && (err != nil || got.GetFileDescriptorResponse() == nil) {
			t.Errorf("on: got %v, %v", got, err)
		}
		if !on && status.Code(err) != codes.Unimplemented {
			t.Errorf("off: got %v, want Unimplemented", err)
		}
	}
}

// A call in flight when the server is told to stop is answered; Serve then returns, and nothing listens any more.
func TestDrain(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, DrainTimeout: time.Minute, Observe: func(*extauthz.Observation) {
		close(inside)
		<-release
	}})
	server.SetReady(true)
	r := start(t, server, nil)
	type answer struct {
		response *authv3.CheckResponse
		err      error
	}
	answered := make(chan answer, 1)
	call := request(t, openShop+`"request":{"http":{"method":"GET","path":"/"}}`)
	go func() {
		response, err := r.checks.Check(context.Background(), call)
		answered <- answer{response, err}
	}()
	<-inside
	r.stop()
	select {
	case err := <-r.served:
		t.Fatalf("Serve returned %v with a call in flight", err)
	case got := <-answered:
		t.Fatalf("answered before the handler did: %v", got)
	default:
	}
	close(release)
	if got := <-answered; got.err != nil || got.response.GetStatus().GetCode() != 0 {
		t.Errorf("got %v", got)
	}
	if err := <-r.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	r := start(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, DrainTimeout: time.Millisecond, Observe: func(*extauthz.Observation) {
		close(inside)
		<-release
	}}), nil)
	call := request(t, openShop+`"request":{"http":{"method":"GET","path":"/"}}`)
	failed := make(chan error, 1)
	go func() {
		_, err := r.checks.Check(context.Background(), call)
		failed <- err
	}()
	<-inside
	r.stop()
	if err := <-r.served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := <-failed; err == nil {
		t.Error("a call that never ended was answered")
	}
}

func TestServeSaysWhyItEnds(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load}).Serve(t.Context(), listener); err == nil {
		t.Error("a closed listener: want an error")
	}
}

func TestTLS(t *testing.T) {
	i := newIssuer(t)
	encoded := i.certificate(1, pkix.Name{CommonName: "writ"}, nil, []string{"writ.example"})
	text, err := url.PathUnescape(encoded)
	if err != nil {
		t.Fatal(err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{derOf(t, text)}, PrivateKey: i.key}
	r := func(maxVersion uint16) error {
		server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, TLS: &tls.Config{
			Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS10}})
		client := start(t, server, credentials.NewTLS(&tls.Config{RootCAs: poolOf(t, text), ServerName: "writ.example",
			MinVersion: tls.VersionTLS10, MaxVersion: maxVersion}))
		_, err := client.checks.Check(t.Context(), request(t, openShop+`"request":{"http":{"method":"GET","path":"/"}}`))
		return err
	}
	if err := r(tls.VersionTLS12); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
	if err := r(tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
}

func TestNewRefuses(t *testing.T) {
	snapshot := func() *policy.Snapshot { return nil }
	for name, c := range map[string]struct {
		config extauthz.Config
		want   string
	}{
		"no snapshot":   {extauthz.Config{Engine: &authz.Engine{}}, "Snapshot"},
		"no engine":     {extauthz.Config{Snapshot: snapshot}, "Engine"},
		"hops":          {extauthz.Config{Snapshot: snapshot, Engine: &authz.Engine{}, TrustedHops: -1}, "trusted hops -1"},
		"paths":         {extauthz.Config{Snapshot: snapshot, Engine: &authz.Engine{}, Paths: "bass"}, `"bass"`},
		"request bytes": {extauthz.Config{Snapshot: snapshot, Engine: &authz.Engine{}, MaxRequestBytes: 65 << 20}, "max request bytes"},
		"drain":         {extauthz.Config{Snapshot: snapshot, Engine: &authz.Engine{}, DrainTimeout: -1}, "drain timeout"},
	} {
		if server, err := extauthz.New(c.config); err == nil || server != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	server := newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load, Observe: func(*extauthz.Observation) {}})
	check, out := server.CheckReused(), make([]byte, 0, 4096)
	for name, raw := range map[string][]byte{
		"allowed":        fromJSON(t, `{"attributes":{`+openShop+`"request":{"http":{"method":"GET","path":"/","headers":{"a":"b"}}}}}`),
		"denied":         fromJSON(t, `{"attributes":{`+openShop+`"request":{"http":{"method":"GET","path":"/admin"}}}}`),
		"by certificate": fromJSON(t, `{"attributes":{"destination":{"principal":"spiffe://td/ns/shop/sa/vm"},"request":{"http":{"method":"GET","path":"/"}}}}`),
	} {
		check(raw, out)
		if n := testing.AllocsPerRun(200, func() { check(raw, out) }); n != 0 {
			t.Errorf("%s: %v allocations from bytes to bytes, want 0", name, n)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "authz.sock"))
	if err != nil {
		t.Fatal(err)
	}
	r := startOn(t, newServer(t, extauthz.Config{Snapshot: storeOf(t, shop).Load}), listener, "unix:"+listener.Addr().String(), nil)
	got, err := r.checks.Check(t.Context(), request(t, openShop+`"request":{"http":{"method":"GET","path":"/"}}`))
	if err != nil || got.Status == nil || got.Status.Code != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}
