package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
	"github.com/open-policy-agent/opa/v1/util"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
)

// Roles of this program as a peer.
const (
	roleStock   = "serve-stock"
	roleOPA     = "serve-opa"
	roleCompile = "compile"
)

// serveStock is the least a server written with Envoy's Go types can do: it decodes the request and answers an empty OK.
func serveStock(ctx context.Context) error { return servePeer(ctx, stock{}) }

// servePeer listens, prints its address, and serves until its standard input or ctx ends.
func servePeer(ctx context.Context, peer authv3.AuthorizationServer) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, peer)
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		server.Stop()
	}()
	fmt.Println(listener.Addr())
	return server.Serve(listener)
}

type stock struct {
	authv3.UnimplementedAuthorizationServer
}

func (stock) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return allow(), nil
}

func allow() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: 0},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}
}

func deny() *authv3.CheckResponse {
	return &authv3.CheckResponse{
		Status:       &status.Status{Code: 7},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}},
	}
}

// plugin does what OPA's Envoy plugin does with a check, and nothing else: no decision log, no metrics. Verified tokens
// are remembered, which OPA does if it is told to.
type plugin struct {
	authv3.UnimplementedAuthorizationServer

	query rego.PreparedEvalQuery
}

func serveOPA(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	entries := 16384 // as writ remembers
	values := cache.NewInterQueryValueCache(ctx, &cache.Config{
		InterQueryBuiltinValueCache: cache.InterQueryBuiltinValueCacheConfig{
			NamedCacheConfigs: map[string]*cache.NamedValueCacheConfig{"io_jwt": {MaxNumEntries: &entries}},
		},
	})
	query, err := rego.New(
		rego.Query("data.envoy.authz.allow"), rego.Module("p.rego", string(text)), rego.InterQueryBuiltinValueCache(values),
	).PrepareForEval(ctx)
	if err != nil {
		return err
	}
	return servePeer(ctx, plugin{query: query})
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
		return deny(), nil
	}
	return allow(), nil
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
