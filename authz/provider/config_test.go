package provider_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz/provider"
)

// fieldsOf lists the fields that an error of a configuration names.
func fieldsOf(t *testing.T, err error) []string {
	t.Helper()
	var problems provider.Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatalf("error %v (%T), want Problems", err, err)
	}
	var fields []string
	for _, p := range problems {
		fields = append(fields, p.Field)
		if !strings.Contains(err.Error(), p.Field+": "+p.Message) || p.Message == "" {
			t.Errorf("error %q does not say that %s: %s", err, p.Field, p.Message)
		}
	}
	return fields
}

func TestGRPCConfig(t *testing.T) {
	const target = "authz.example:9000"
	for _, test := range []struct {
		name   string
		config provider.GRPCConfig
		fields []string
	}{
		{"host and port", provider.GRPCConfig{Target: target}, nil},
		{"dns", provider.GRPCConfig{Target: "dns:///authz.example:9000"}, nil},
		{"IPv6", provider.GRPCConfig{Target: "[::1]:9000"}, nil},
		{"socket", provider.GRPCConfig{Target: "unix:///run/authz.sock"}, nil},
		{"all of it", provider.GRPCConfig{Target: target, Authority: "authz", TLS: &provider.TLS{CA: "a", Cert: "b", Key: "c", ServerName: "spiffe://td/ns/a/sa/b"},
			Connections: 4, ConnectTimeout: time.Second, MaxAnswerBytes: 1 << 10, Health: true, Breaker: provider.Breaker{Failures: -1, OpenFor: time.Second}}, nil},

		{"no target", provider.GRPCConfig{}, []string{"target"}},
		{"no port", provider.GRPCConfig{Target: "authz.example"}, []string{"target"}},
		{"port by name", provider.GRPCConfig{Target: "authz.example:grpc"}, []string{"target"}},
		{"port 0", provider.GRPCConfig{Target: "authz.example:0"}, []string{"target"}},
		{"port beyond", provider.GRPCConfig{Target: "authz.example:65536"}, []string{"target"}},
		{"no host", provider.GRPCConfig{Target: ":9000"}, []string{"target"}},
		{"name server of its own", provider.GRPCConfig{Target: "dns://1.2.3.4/authz.example:9000"}, []string{"target"}},
		{"dns without port", provider.GRPCConfig{Target: "dns:///authz.example"}, []string{"target"}},
		{"another scheme", provider.GRPCConfig{Target: "xds:///authz"}, []string{"target"}},
		{"URL", provider.GRPCConfig{Target: "http://authz.example:9000"}, []string{"target"}},
		{"relative socket", provider.GRPCConfig{Target: "unix://run/authz.sock"}, []string{"target"}},
		{"authority", provider.GRPCConfig{Target: target, Authority: "a b"}, []string{"authority"}},
		{"numbers", provider.GRPCConfig{Target: target, Connections: 17, ConnectTimeout: -1, MaxAnswerBytes: 65 << 20, Breaker: provider.Breaker{OpenFor: -1}},
			[]string{"connections", "connect_timeout", "max_answer_bytes", "breaker.open_for"}},
		{"certificate without key", provider.GRPCConfig{Target: target, TLS: &provider.TLS{Cert: "c"}}, []string{"tls"}},
		{"server name", provider.GRPCConfig{Target: target, TLS: &provider.TLS{ServerName: "https://authz"}}, []string{"tls.server_name"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.fields, fieldsOf(t, test.config.Check())); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if test.fields != nil {
				_, err := provider.NewGRPC(test.config)
				fieldsOf(t, err)
			}
		})
	}
}

func TestHTTPConfig(t *testing.T) {
	const target = "http://authz.example:8000"
	with := func(change func(*provider.HTTPConfig)) provider.HTTPConfig {
		c := provider.HTTPConfig{Target: target}
		change(&c)
		return c
	}
	long := make([]string, 257)
	for i := range long {
		long[i] = "x"
	}
	for _, test := range []struct {
		name   string
		config provider.HTTPConfig
		fields []string
	}{
		{"plain", provider.HTTPConfig{Target: target}, nil},
		{"TLS", provider.HTTPConfig{Target: "https://authz.example", TLS: &provider.TLS{CA: "a"}}, nil},
		{"slash", provider.HTTPConfig{Target: target + "/"}, nil},
		{"lists", with(func(c *provider.HTTPConfig) {
			c.PathPrefix = "/check"
			c.IncludeRequestHeadersInCheck = []string{"cookie", "X-*", "*-id"}
			c.IncludeAdditionalHeadersInCheck = map[string]string{"x-new": "1"}
			c.IncludeRequestBodyInCheck = &provider.Body{MaxRequestBytes: 1}
		}), nil},

		{"no target", provider.HTTPConfig{}, []string{"target"}},
		{"host and port alone", provider.HTTPConfig{Target: "authz.example:8000"}, []string{"target"}},
		{"no host", provider.HTTPConfig{Target: "http://"}, []string{"target"}},
		{"user", provider.HTTPConfig{Target: "http://u:p@authz.example"}, []string{"target"}},
		{"path", provider.HTTPConfig{Target: target + "/check"}, []string{"target"}},
		{"query", provider.HTTPConfig{Target: target + "?"}, []string{"target"}},
		{"another scheme", provider.HTTPConfig{Target: "ftp://authz.example"}, []string{"target"}},
		{"port", provider.HTTPConfig{Target: "http://authz.example:0"}, []string{"target"}},
		{"TLS on plaintext", with(func(c *provider.HTTPConfig) { c.TLS = &provider.TLS{} }), []string{"target"}},
		{"relative prefix", with(func(c *provider.HTTPConfig) { c.PathPrefix = "check" }), []string{"path_prefix"}},
		{"prefix with a query", with(func(c *provider.HTTPConfig) { c.PathPrefix = "/check?a=" }), []string{"path_prefix"}},
		{"prefix with CR LF", with(func(c *provider.HTTPConfig) { c.PathPrefix = "/a\r\nb: c" }), []string{"path_prefix"}},
		{"lone star", with(func(c *provider.HTTPConfig) { c.HeadersToUpstreamOnAllow = []string{"a", "*"} }), []string{"headers_to_upstream_on_allow"}},
		{"two stars", with(func(c *provider.HTTPConfig) { c.HeadersToDownstreamOnAllow = []string{"*a*"} }), []string{"headers_to_downstream_on_allow"}},
		{"star inside", with(func(c *provider.HTTPConfig) { c.HeadersToDownstreamOnDeny = []string{"a*b"} }), []string{"headers_to_downstream_on_deny"}},
		{"empty and spaced names", with(func(c *provider.HTTPConfig) { c.IncludeRequestHeadersInCheck = []string{"", "a b", ":path"} }),
			[]string{"include_request_headers_in_check", "include_request_headers_in_check", "include_request_headers_in_check"}},
		{"long list", with(func(c *provider.HTTPConfig) { c.HeadersToUpstreamOnAllow = long }), []string{"headers_to_upstream_on_allow"}},
		{"additional headers", with(func(c *provider.HTTPConfig) {
			c.IncludeAdditionalHeadersInCheck = map[string]string{"a b": "", "Content-Length": "1", "Host": "x", "x": "a\nb"}
		}), []string{"include_additional_headers_in_check", "include_additional_headers_in_check", "include_additional_headers_in_check", "include_additional_headers_in_check"}},
		{"body", with(func(c *provider.HTTPConfig) { c.IncludeRequestBodyInCheck = &provider.Body{} }), []string{"include_request_body_in_check.max_request_bytes"}},
		{"numbers", with(func(c *provider.HTTPConfig) { c.MaxConnections, c.Authority = -1, "a/b" }), []string{"authority", "max_connections"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.fields, fieldsOf(t, test.config.Check())); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if test.fields != nil {
				_, err := provider.NewHTTP(test.config)
				fieldsOf(t, err)
			}
		})
	}
}
