package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	rpc "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/writ-auth/writ/internal/testkit"
)

// caseHeader names the answer that a request wants from whoever is asked about it.
const caseHeader = "x-case"

// remote is an authorization server of either kind, which answers each request as its case says. It can be stopped and
// started again at the same address.
type remote struct {
	address string
	start   func(net.Listener) (stop func())

	mu    sync.Mutex
	heard []string // what was asked, in order
	stop  func()
}

func newRemote(t *testing.T, start func(r *remote) func(net.Listener) func()) *remote {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &remote{address: l.Addr().String()}
	r.start = start(r)
	r.stop = r.start(l)
	t.Cleanup(func() { r.stop() })
	return r
}

// restart has a remote that was stopped listen again.
func (r *remote) restart(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	r.stop = r.start(l)
}

func (r *remote) hear(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, what)
}

// said returns what was asked since the last call.
func (r *remote) said() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard := r.heard
	r.heard = nil
	return heard
}

// grpcRemote answers with a CheckResponse in text form by case; a case that is missing is an error.
func grpcRemote(t *testing.T, answers map[string]string) *remote {
	t.Helper()
	parsed := map[string]*authv3.CheckResponse{}
	for name, text := range answers {
		parsed[name] = new(authv3.CheckResponse)
		if err := prototext.Unmarshal([]byte(text), parsed[name]); err != nil {
			t.Fatalf("case %q: %v", name, err)
		}
	}
	return newRemote(t, func(r *remote) func(net.Listener) func() {
		return func(l net.Listener) func() {
			s := grpc.NewServer()
			authv3.RegisterAuthorizationServer(s, &checks{remote: r, answers: parsed})
			return serving(func() { _ = s.Serve(l) }, s.Stop)
		}
	})
}

// serving runs serve until the returned function has called stop.
func serving(serve, stop func()) func() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve()
	}()
	return func() {
		stop()
		<-done
	}
}

type checks struct {
	authv3.UnimplementedAuthorizationServer
	remote  *remote
	answers map[string]*authv3.CheckResponse
}

func (c *checks) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	name := "tcp"
	if headers := r.GetAttributes().GetRequest().GetHttp().GetHeaders(); headers != nil {
		name = headers[caseHeader]
	}
	c.remote.hear(name)
	if answer := c.answers[name]; answer != nil {
		return answer, nil
	}
	return nil, rpc.Errorf(codes.Internal, "there is no case %q", name)
}

// httpAnswer is the status, the headers ("name: value") and the body of an answer.
type httpAnswer struct {
	status  int
	headers []string
	body    string
}

// httpRemote answers by case; a case that is missing is a 500. It hears whole checks.
func httpRemote(t *testing.T, answers map[string]httpAnswer) *remote {
	t.Helper()
	return newRemote(t, func(r *remote) func(net.Listener) func() {
		return func(l net.Listener) func() {
			s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
				r.hear(checkText(request))
				answer, ok := answers[request.Header.Get(caseHeader)]
				if !ok {
					answer = httpAnswer{status: http.StatusInternalServerError}
				}
				for _, line := range answer.headers {
					name, value, _ := strings.Cut(line, ": ")
					w.Header().Add(name, value)
				}
				w.WriteHeader(answer.status)
				_, _ = io.WriteString(w, answer.body)
			})}
			return serving(func() { _ = s.Serve(l) }, func() { _ = s.Close() })
		}
	})
}

// checkText is a check without what Envoy adds for an upstream of its own, which a server does not decide by.
func checkText(r *http.Request) string {
	lines := []string{}
	for name, values := range r.Header {
		switch name {
		case "X-Envoy-Internal", "X-Envoy-Expected-Rq-Timeout-Ms", "X-Forwarded-For", "X-Request-Id", "Content-Length":
		default:
			lines = append(lines, strings.ToLower(name)+": "+strings.Join(values, ","))
		}
	}
	slices.Sort(lines)
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	return fmt.Sprintf("%s %s host: %s\n%s\n\n%s%v", r.Method, r.RequestURI, r.Host, strings.Join(lines, "\n"), body, err)
}

// Listeners of askingEnvoy. All have the same routes to the same service.
const (
	viaRaw     = "raw"    // asks writ, with headers as they came
	viaJoined  = "joined" // asks writ, with repeated headers joined
	directGRPC = "grpc"   // asks the gRPC server itself
	directHTTP = "http"   // asks the HTTP server itself, as Istio configures it
)

// askingEnvoy runs an Envoy with the listeners. Workloads are told apart by the first label of the host.
func (b *bench) askingEnvoy(t *testing.T, service string, byGRPC, byHTTP *remote, workloads ...string) *testkit.Envoy {
	t.Helper()
	http2 := object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("upstreams.http.v3.HttpProtocolOptions",
		object{"explicit_http_config": object{"http2_protocol_options": object{}}})}
	var listeners list
	for _, name := range []string{viaRaw, viaJoined, directGRPC, directHTTP} {
		listeners = append(listeners, askingListener(name, byHTTP, workloads))
	}
	text := asJSON(t, object{"static_resources": object{
		"listeners": listeners,
		"clusters": list{
			cluster("service", object{"socket_address": socket(service)}, nil),
			cluster("writ", object{"pipe": object{"path": b.file("authz.sock")}}, http2),
			cluster("grpc", object{"socket_address": socket(byGRPC.address)}, http2),
			cluster("http", object{"socket_address": socket(byHTTP.address)}, nil),
		},
	}})
	envoy, err := testkit.StartEnvoy(bounded(t), testkit.EnvoyConfig{Name: "asking", Binary: b.tools.envoy, Bootstrap: text, Dir: b.dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, envoy.Process) })
	return envoy
}

func askingListener(name string, byHTTP *remote, workloads []string) object {
	ask := object{"transport_api_version": "V3", "with_request_body": object{"max_request_bytes": 1024, "allow_partial_message": true}}
	switch name {
	case viaRaw, viaJoined:
		ask["grpc_service"] = object{"envoy_grpc": object{"cluster_name": "writ"}, "timeout": "20s"}
		ask["encode_raw_headers"] = name == viaRaw
	case directGRPC:
		ask["grpc_service"] = object{"envoy_grpc": object{"cluster_name": "grpc"}, "timeout": "20s"}
	case directHTTP:
		ask["http_service"] = object{
			"server_uri": object{"uri": "http://" + byHTTP.address, "cluster": "http", "timeout": "20s"}, "path_prefix": "/check",
			"authorization_request": object{"headers_to_add": list{object{"key": "x-added", "value": "by us"}}},
			"authorization_response": object{
				"allowed_upstream_headers":          patterns(object{"exact": "x-user"}, object{"prefix": "x-role"}),
				"allowed_client_headers":            patterns(object{"exact": "x-why"}),
				"allowed_client_headers_on_success": patterns(object{"suffix": "-cookie"}),
			},
		}
		ask["allowed_headers"] = patterns(object{"prefix": "x-c"}, object{"exact": "cookie"})
	}
	var hosts list
	for _, workload := range workloads {
		host := object{
			"name": workload, "domains": list{workload + ".example"},
			"routes": list{object{"match": object{"prefix": "/"}, "route": object{"cluster": "service"}}},
		}
		host["typed_per_filter_config"] = object{extAuthz: typed("filters.http.ext_authz.v3.ExtAuthzPerRoute", object{"check_settings": object{
			"context_extensions": object{"writ.namespace": "coffee-shop", "writ.labels": "app=" + workload},
		}})}
		hosts = append(hosts, host)
	}
	manager := typed("filters.network.http_connection_manager.v3.HttpConnectionManager", object{
		"stat_prefix": name, "normalize_path": true, "merge_slashes": true,
		"route_config": object{"name": name, "virtual_hosts": hosts},
		"http_filters": list{
			object{"name": extAuthz, "typed_config": typed("filters.http.ext_authz.v3.ExtAuthz", ask)},
			object{"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", object{})},
		},
	})
	return object{
		"name": name, "address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}},
		"filter_chains": list{object{"filters": list{
			object{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
		}}},
	}
}

func patterns(all ...object) object {
	var out list
	for _, p := range all {
		out = append(out, p)
	}
	return object{"patterns": out}
}

// custom is a CUSTOM policy for a workload: it asks the provider about everything under the paths.
func custom(workload, provider string, paths ...string) string {
	return authorization(workload, provider, "CUSTOM", paths...) + "  provider: {name: " + provider + "}\n---\n"
}

// authorization is a policy for a workload that matches the paths.
func authorization(workload, name, action string, paths ...string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s-%s, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: %s}}
  action: %s
  rules: [{to: [{operation: {paths: [%s]}}]}]
`, workload, name, workload, action, `"`+strings.Join(paths, `", "`)+`"`)
}

// providers is the configuration of both, one line a list. more goes to each of them.
func providers(byGRPC, byHTTP *remote, more string) string {
	return fmt.Sprintf(`providers: [{name: by-grpc, grpc: {target: "%s", timeout: 15s, breaker: {open_for: 200ms}}%s}, `+
		`{name: by-http, http: {target: "http://%s", timeout: 15s, breaker: {open_for: 200ms}, path_prefix: /check, include_request_headers_in_check: [x-c*, cookie], `+
		`include_additional_headers_in_check: {x-added: by us}, include_request_body_in_check: {max_request_bytes: 1024, allow_partial_message: true}, `+
		`headers_to_upstream_on_allow: [x-user, x-role*], headers_to_downstream_on_deny: [x-why], headers_to_downstream_on_allow: ["*-cookie"]}%s}]`,
		byGRPC.address, more, byHTTP.address, more)
}
