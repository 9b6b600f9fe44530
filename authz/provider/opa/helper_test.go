package opa_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// typical is a request as Envoy sends it for a browser behind a gateway.
const typical = `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.244.1.17","portValue":43210}},"principal":"spiffe://cluster.local/ns/shop/sa/gateway"},
	"destination":{"address":{"socketAddress":{"address":"10.244.2.5","portValue":8080}},"principal":"spiffe://cluster.local/ns/shop/sa/vm"},
	"request":{"time":"2026-11-21T06:29:28.485212Z","http":{"id":"17785514492460819318","method":"GET","path":"/api/v1/menu?size=20&page=3&size=5","host":"shop.example.com","scheme":"https","protocol":"HTTP/2","size":"-1","headers":{
		":authority":"shop.example.com",":method":"GET",":path":"/api/v1/menu?size=20&page=3",":scheme":"https",
		"accept":"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8","accept-encoding":"gzip, deflate, br",
		"accept-language":"en-US,en;q=0.5","cookie":"session=0123456789abcdef0123456789abcdef; theme=dark","user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"x-forwarded-for":"203.0.113.7,10.244.1.17","x-forwarded-proto":"https","x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}},
	"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=open"},"metadataContext":{},"routeMetadataContext":{},"tlsSession":{"sni":"shop.example.com"}}}`

// wire is a CheckRequest in protobuf JSON as a proxy sends it.
func wire(t testing.TB, text string) []byte {
	t.Helper()
	request := new(authv3.CheckRequest)
	if err := protojson.Unmarshal([]byte(text), request); err != nil {
		t.Fatal(err)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// files writes files into a new directory.
func files(t testing.TB, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// loaded is a provider of the policies in a configuration.
func loaded(t testing.TB, c opa.Config) *opa.Provider {
	t.Helper()
	p, err := opa.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// rego is a provider of one policy file. The package is written for it.
func rego(t testing.TB, rules string) *opa.Provider {
	t.Helper()
	return loaded(t, opa.Config{Name: "opa", Bundle: files(t, map[string]string{"p.rego": "package envoy.authz\n" + rules})})
}

// question asks about a CheckRequest on behalf of policy shop/hours, rule 2.
func question(raw []byte) *authz.Question {
	r := &policy.Request{Names: []string{"spiffe://cluster.local/ns/shop/sa/gateway"}}
	return &authz.Question{
		Raw: raw, Request: r,
		Workload: &policy.Bound{Workload: policy.Workload{
			Namespace: "shop", Name: "menu-1", ServiceAccount: "menu", Labels: map[string]string{"app": "menu"},
		}},
		Rule:  &policy.Rule{Policy: &policy.Policy{Namespace: "shop", Name: "hours", Provider: "opa"}, Index: 2},
		Token: func(context.Context) *jwt.Result { return nil },
	}
}
