package provider_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz/provider"
)

func TestExtensions(t *testing.T) {
	for _, test := range []struct {
		name, entry string
		want        provider.Extension
		notes       []string // how the notes begin
	}{
		{"gRPC", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "authz.foo.svc.cluster.local", "port": 9000, "timeout": "0.5s"}}`, provider.Extension{
			Name: "ext", Timeout: 500 * time.Millisecond, StatusOnError: 403,
			GRPC: &provider.GRPCConfig{Target: "dns:///authz.foo.svc.cluster.local:9000", Authority: "authz.foo.svc.cluster.local"},
		}, nil},
		{"gRPC, all of it", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "foo/authz.example.com", "port": 9000, "failOpen": true, "statusOnError": "503",
			"clearRouteCache": true, "includeRequestBodyInCheck": {"maxRequestBytes": 10, "packAsBytes": true}}}`, provider.Extension{
			Name: "ext", Timeout: 600 * time.Second, FailOpen: true, StatusOnError: 503,
			GRPC: &provider.GRPCConfig{Target: "dns:///authz.example.com:9000", Authority: "authz.example.com"},
		}, []string{"service", "timeout", "clearRouteCache", "includeRequestBodyInCheck"}},
		{"gRPC at an address", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "fd00::1", "port": 9000, "timeout": "1s"}}`, provider.Extension{
			Name: "ext", Timeout: time.Second, StatusOnError: 403, GRPC: &provider.GRPCConfig{Target: "dns:///[fd00::1]:9000", Authority: "[fd00::1]"},
		}, nil},
		{"HTTP", `{"name": "ext", "envoyExtAuthzHttp": {"service": "127.0.0.1", "port": "8000", "timeout": "1s", "includeHeadersInCheck": ["x-old"]}}`, provider.Extension{
			Name: "ext", Timeout: time.Second, StatusOnError: 403,
			HTTP: &provider.HTTPConfig{Target: "http://127.0.0.1:8000", IncludeRequestHeadersInCheck: []string{"x-old"}},
		}, []string{"A TCP connection"}},
		{"HTTP, all of it", `{"name": "ext", "envoyExtAuthzHttp": {"service": "authz.example.com", "port": 8000, "timeout": "1s", "pathPrefix": "/check",
			"statusOnError": "500", "includeHeadersInCheck": ["x-old"], "includeRequestHeadersInCheck": ["x-*"], "includeAdditionalHeadersInCheck": {"a": "b"},
			"includeRequestBodyInCheck": {"maxRequestBytes": 10, "allowPartialMessage": true}, "headersToUpstreamOnAllow": ["u"],
			"headersToDownstreamOnDeny": ["d"], "headersToDownstreamOnAllow": ["*o"]}}`, provider.Extension{
			Name: "ext", Timeout: time.Second, StatusOnError: 500,
			HTTP: &provider.HTTPConfig{
				Target: "http://authz.example.com:8000", PathPrefix: "/check", IncludeRequestHeadersInCheck: []string{"x-*"},
				IncludeAdditionalHeadersInCheck: map[string]string{"a": "b"}, IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 10, AllowPartialMessage: true},
				HeadersToUpstreamOnAllow: []string{"u"}, HeadersToDownstreamOnDeny: []string{"d"}, HeadersToDownstreamOnAllow: []string{"*o"},
			},
		}, []string{"includeHeadersInCheck is deprecated", "includeRequestBodyInCheck", "A TCP connection"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := provider.ParseExtension([]byte(test.entry))
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Notes) != len(test.notes) {
				t.Errorf("notes %q, want %d", got.Notes, len(test.notes))
			}
			for i, begins := range test.notes[:min(len(test.notes), len(got.Notes))] {
				if !strings.HasPrefix(got.Notes[i], begins) || !strings.HasSuffix(got.Notes[i], ".") {
					t.Errorf("note %q, want a sentence about %s", got.Notes[i], begins)
				}
			}
			got.Notes = nil
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("extension (-want +got):\n%s", diff)
			}
			if got.GRPC != nil {
				newGRPC(t, *got.GRPC)
			} else {
				newHTTP(t, *got.HTTP)
			}
		})
	}
}

func TestBadExtensions(t *testing.T) {
	const ok = `"service": "a.example", "port": 1, "timeout": "1s"`
	for _, test := range []struct {
		name, entry string
		fields      []string
	}{
		{"no provider of authorization", `{"name": "ext", "zipkin": {"service": "a", "port": 1}}`, []string{"name"}},
		{"no provider", `{"name": "ext"}`, []string{"name"}},
		{"a name that cannot be", `{"name": "Ext_1", "envoyExtAuthzGrpc": {` + ok + `}}`, []string{"name"}},
		{"no service", `{"name": "ext", "envoyExtAuthzGrpc": {"port": 1, "timeout": "1s"}}`, []string{"envoyExtAuthzGrpc.service"}},
		{"no host", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "ns/", "port": 1, "timeout": "1s"}}`, []string{"envoyExtAuthzGrpc.service"}},
		{"two slashes", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "a/b/c", "port": 1, "timeout": "1s"}}`, []string{"envoyExtAuthzGrpc.service"}},
		{"wildcard", `{"name": "ext", "envoyExtAuthzHttp": {"service": "*.example", "port": 1, "timeout": "1s"}}`, []string{"envoyExtAuthzHttp.service"}},
		{"no port", `{"name": "ext", "envoyExtAuthzHttp": {"service": "a.example", "timeout": "1s"}}`, []string{"envoyExtAuthzHttp.port"}},
		{"port", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "a.example", "port": 65536, "timeout": "1s"}}`, []string{"envoyExtAuthzGrpc.port"}},
		{"timeout", `{"name": "ext", "envoyExtAuthzGrpc": {"service": "a.example", "port": 1, "timeout": "-1s"}}`, []string{"envoyExtAuthzGrpc.timeout"}},
		{"status", `{"name": "ext", "envoyExtAuthzGrpc": {` + ok + `, "statusOnError": "teapot"}}`, []string{"envoyExtAuthzGrpc.statusOnError"}},
		{"status that Envoy does not know", `{"name": "ext", "envoyExtAuthzGrpc": {` + ok + `, "statusOnError": "299"}}`, []string{"envoyExtAuthzGrpc.statusOnError"}},
		{"lists", `{"name": "ext", "envoyExtAuthzHttp": {` + ok + `, "pathPrefix": "check", "headersToUpstreamOnAllow": ["*"],
			"includeRequestBodyInCheck": {}, "includeAdditionalHeadersInCheck": {"host": "a"}}}`,
			[]string{"envoyExtAuthzHttp.pathPrefix", "envoyExtAuthzHttp.headersToUpstreamOnAllow", "envoyExtAuthzHttp.includeAdditionalHeadersInCheck", "envoyExtAuthzHttp.includeRequestBodyInCheck.maxRequestBytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := provider.ParseExtension([]byte(test.entry))
			if diff := cmp.Diff(test.fields, fieldsOf(t, err)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
	for _, text := range []string{``, `[]`, `{"name": "ext", "envoyExtAuthzGrpc": {` + ok + `, "retries": 3}}`} {
		if e, err := provider.ParseExtension([]byte(text)); err == nil {
			t.Errorf("%q is %+v, want an error", text, e)
		}
	}
}
