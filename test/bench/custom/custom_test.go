// Package custom_test measures what a CUSTOM policy with embedded Rego costs, beside a plain grpc-go server that makes the
// input of OPA's Envoy plugin from the same request and evaluates the same prepared query with OPA's library.
package custom_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/authz/provider/opa"
	"github.com/writ-auth/writ/policy"
)

// roleVariable makes the test binary serve instead of test. The servers are processes of their own, so that their CPU
// time is theirs alone.
const roleVariable = "WRIT_BENCH_SERVER"

func TestMain(m *testing.M) {
	role := os.Getenv(roleVariable)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := serve(role); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// rules are ten, the last of which matches: path, method, header and identity, as such policies usually look at.
const rules = `package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow if { http_request.method == "DELETE"; glob.match("/api/v1/orders/*", ["/"], http_request.path); is_admin }
allow if { http_request.method == "PUT"; input.parsed_path[2] == "orders"; input.attributes.source.principal == "spiffe://cluster.local/ns/shop/sa/clerk" }
allow if { http_request.method == "GET"; input.parsed_path == ["health"] }
allow if { http_request.method == "GET"; http_request.path == "/metrics"; net.cidr_contains("10.0.0.0/8", input.attributes.source.address.socketAddress.address); is_admin }
allow if { http_request.method == "POST"; input.parsed_path[2] == "cart"; http_request.headers["content-type"] == "application/json" }
allow if { http_request.headers["x-api-version"] == "2"; startswith(http_request.path, "/api/v2/") }
allow if { http_request.method == "GET"; input.parsed_query.debug[_] == "1"; is_admin }
allow if { http_request.method == "OPTIONS"; http_request.headers.origin }
allow if { input.parsed_path[0] == "static"; http_request.method in {"GET", "HEAD"} }
allow if { http_request.method == "GET"; input.parsed_path[2] == "menu"; to_number(input.parsed_query.size[0]) <= 50; startswith(input.attributes.source.principal, "spiffe://cluster.local/ns/shop/") }

is_admin if input.attributes.source.principal == "spiffe://cluster.local/ns/shop/sa/admin"
`

const documents = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: menu, namespace: shop}
spec: {action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {paths: [/api/*]}}]}]}
`

const question = `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.244.1.17","portValue":43210}},"principal":"spiffe://cluster.local/ns/shop/sa/gateway"},
	"destination":{"address":{"socketAddress":{"address":"10.244.2.5","portValue":8080}},"principal":"spiffe://cluster.local/ns/shop/sa/order"},
	"request":{"time":"2026-11-21T06:29:28.485212Z","http":{"id":"17785514492460819318","method":"GET","path":"/api/v1/menu?size=20&page=3",
	"host":"shop.example.com","scheme":"https","protocol":"HTTP/2","headers":{
	":authority":"shop.example.com",":method":"GET",":path":"/api/v1/menu?size=20&page=3",":scheme":"https",
	"accept":"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8","accept-encoding":"gzip, deflate, br",
	"accept-language":"en-US,en;q=0.5","cookie":"session=0123456789abcdef0123456789abcdef; theme=dark",
	"user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	"x-forwarded-for":"203.0.113.7,10.244.1.17","x-forwarded-proto":"https","x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}},
	"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=order"},"metadataContext":{},"routeMetadataContext":{},
	"tlsSession":{"sni":"shop.example.com"}}}`

// serve listens, prints its address, and then answers each line of its standard input with the CPU time it has used.
func serve(role string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if role == "plugin" {
		if err := servePlugin(ctx, listener, rules); err != nil {
			return err
		}
	} else if err := serveWrit(ctx, listener, role); err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var used syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
			return err
		}
		fmt.Println(used.Utime.Nano() + used.Stime.Nano())
	}
	return nil
}

// serveWrit answers by the documents. As "whole" its policy mentions all of the input, so that all of it is made; as
// "missed" the CUSTOM policy never matches, and as "none" there is none.
func serveWrit(ctx context.Context, l net.Listener, role string) error {
	dir, err := os.MkdirTemp("", "writ-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	text, docs := rules, documents
	switch role {
	case "whole":
		text += "\nwhole := input\n"
	case "missed":
		docs = strings.ReplaceAll(docs, "/api/*", "/elsewhere/*")
	case "none":
		docs = ""
	}
	if err := os.WriteFile(filepath.Join(dir, "p.rego"), []byte(text), 0o600); err != nil {
		return err
	}
	provider, err := opa.New(opa.Config{Name: "opa", Bundle: dir})
	if err == nil {
		err = provider.Load(ctx)
	}
	if err != nil {
		return err
	}
	providers, err := authz.NewProviders(slog.Default(), authz.ProviderConfig{Name: "opa", Provider: provider})
	if err != nil {
		return err
	}
	store := policy.NewStore(policy.Mesh{})
	store.Update(policy.Decode("bench.yaml", []byte(docs)))
	server, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{Providers: providers}})
	if err != nil {
		return err
	}
	go func() { _ = server.Serve(ctx, l) }()
	return nil
}

// plugin does what OPA's Envoy plugin does with a check, and nothing else: no decision log, no metrics.
type plugin struct {
	authv3.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

func servePlugin(ctx context.Context, l net.Listener, text string) error {
	query, err := rego.New(rego.Query("data.envoy.authz.allow"), rego.Module("p.rego", text)).PrepareForEval(ctx)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, plugin{query: query})
	go func() { _ = server.Serve(l) }()
	return nil
}

func (p plugin) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	in, err := pluginInput(r)
	if err != nil {
		return nil, err
	}
	value, err := ast.InterfaceToValue(in)
	if err != nil {
		return nil, err
	}
	results, err := p.query.Eval(ctx, rego.EvalParsedInput(value))
	if err != nil {
		return nil, err
	}
	if !results.Allowed() {
		return &authv3.CheckResponse{
			Status:       &status.Status{Code: 7},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}},
		}, nil
	}
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: 0},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

// pluginInput is the plugin's input: the request in protobuf JSON, decoded, with the path and query taken apart.
func pluginInput(r *authv3.CheckRequest) (map[string]any, error) {
	text, err := protojson.Marshal(r)
	if err != nil {
		return nil, err
	}
	var in map[string]any
	if err := util.UnmarshalJSON(text, &in); err != nil {
		return nil, err
	}
	u, err := url.Parse(r.GetAttributes().GetRequest().GetHttp().GetPath())
	if err != nil {
		return nil, err
	}
	segments := []any{}
	for segment := range strings.SplitSeq(strings.TrimLeft(u.Path, "/"), "/") {
		segments = append(segments, segment)
	}
	query := map[string]any{}
	for name, values := range u.Query() {
		list := make([]any, len(values))
		for i, v := range values {
			list[i] = v
		}
		query[name] = list
	}
	in["parsed_path"], in["parsed_query"] = segments, query
	in["parsed_body"], in["truncated_body"] = nil, false
	in["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
	return in, nil
}

// peer is one server process and the connections to it: like Envoy, one from each worker.
type peer struct {
	conns []*grpc.ClientConn
	in    io.Writer
	out   *bufio.Reader
}

const workers = 2

func startPeer(b *testing.B, role string) *peer {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	command := exec.CommandContext(context.Background(), self) // ends with its standard input
	command.Env = append(os.Environ(), roleVariable+"="+role)
	command.Stderr = os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	p := &peer{in: in, out: bufio.NewReader(out)}
	b.Cleanup(func() {
		for _, c := range p.conns {
			_ = c.Close()
		}
		_ = in.Close() // ends the process
		if err := command.Wait(); err != nil {
			b.Errorf("%s: %v", role, err)
		}
	})
	address, err := p.out.ReadString('\n')
	if err != nil {
		b.Fatalf("%s did not start: %v", role, err)
	}
	for range workers {
		conn, err := grpc.NewClient(strings.TrimSpace(address), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		if err != nil {
			b.Fatal(err)
		}
		p.conns = append(p.conns, conn)
	}
	return p
}

// cpu is the CPU time the process has used.
func (p *peer) cpu(b *testing.B) time.Duration {
	b.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		b.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(ns)
}

// raw is a client codec that sends bytes made beforehand, so that the client stays out of the way.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	return proto.Unmarshal(data.Materialize(), v.(*authv3.CheckResponse))
}

// round sends n requests, so many at a time on each connection, and returns the CPU time of one in the server.
func (p *peer) round(b *testing.B, request []byte, n, concurrency int) time.Duration {
	b.Helper()
	before := p.cpu(b)
	var wait sync.WaitGroup
	for _, conn := range p.conns {
		for range concurrency {
			wait.Go(func() {
				for range n / workers / concurrency {
					answer := new(authv3.CheckResponse)
					if err := conn.Invoke(b.Context(), "/envoy.service.auth.v3.Authorization/Check", request, answer); err != nil || answer.GetOkResponse() == nil {
						b.Errorf("answer %v, error %v", answer, err)
						return
					}
				}
			})
		}
	}
	wait.Wait()
	return (p.cpu(b) - before) / time.Duration(n)
}

// BenchmarkCustom reports the CPU time of one check in each server process and their ratio, measured in turns.
func BenchmarkCustom(b *testing.B) {
	request, err := extauthz.ParseJSON([]byte(question))
	if err != nil {
		b.Fatal(err)
	}
	for _, tc := range []struct{ ours, theirs string }{
		{"mentioned", "plugin"}, // the input as far as the policy mentions it
		{"whole", "plugin"},     // all of it
		{"missed", "none"},      // a CUSTOM rule that does not match
	} {
		for _, concurrency := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/streams=%d", tc.ours, concurrency), func(b *testing.B) {
				pair(b, startPeer(b, tc.ours), startPeer(b, tc.theirs), request, concurrency)
			})
		}
	}
}

// pair measures both in turns and reports the medians.
func pair(b *testing.B, ours, theirs *peer, request []byte, concurrency int) {
	b.Helper()
	const n = 4000
	ours.round(b, request, n/4, concurrency)
	theirs.round(b, request, n/4, concurrency)
	var a, z []time.Duration
	var ratios []float64
	for b.Loop() {
		x, y := ours.round(b, request, n, concurrency), theirs.round(b, request, n, concurrency)
		a, z, ratios = append(a, x), append(z, y), append(ratios, float64(x)/float64(y))
	}
	b.ReportMetric(float64(median(a))/1e3, "ours-µs")
	b.ReportMetric(float64(median(z))/1e3, "theirs-µs")
	b.ReportMetric(median(ratios), "ratio")
}

func median[T float64 | time.Duration](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}
