package extauthz_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// A proxy that normalizes decodes every unreserved character (RFC 3986 §2.3), so none arrives escaped from it.
func TestReviewPathHazard(t *testing.T) {
	t.Parallel()
	decode := func(path string) error {
		raw := fromJSON(t, fmt.Sprintf(`{"attributes":{"request":{"http":{"method":"GET","path":%q}}}}`, path))
		_, err := extauthz.DecodeRequest(raw, extauthz.Options{}, new(policy.Request))
		return err
	}
	for _, c := range []string{"%2D", "%2d", "%2E", "%2e", "%5F", "%5f", "%7E", "%7e", "%41", "%39"} {
		if decode("/admin"+c+"panel") == nil {
			t.Errorf("%s passes: a rule about /admin-panel can be dodged", c)
		}
	}
	for _, c := range []string{"%2F", "%5C", "%25", "%3A", "%zz", "%2", "%"} {
		if err := decode("/admin" + c + "/panel"); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// Claims that the proxy verified are read while others are being looked at: an index goes through the elements of one
// list and asks for other claims on the way.
func TestReviewProxyClaimsDoNotChange(t *testing.T) {
	t.Parallel()
	var rules strings.Builder
	for i := range 12 {
		fmt.Fprintf(&rules, "  - when: [{key: 'request.auth.claims[groups]', values: [g%d]}, {key: 'request.auth.claims[other]', values: [%s]}]\n",
			i, []string{"zzz", "p"}[i&1])
	}
	docs := policy.Decode("f.yaml", []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: shop, name: p}\nspec:\n  action: DENY\n  rules:\n"+rules.String()))
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	server, err := extauthz.New(extauthz.Config{
		Snapshot: func() *policy.Snapshot { return snap },
		Engine:   &authz.Engine{Tokens: authz.Tokens{Mode: authz.TokensMetadata}},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw := fromJSON(t, `{"attributes":{`+openShop+`"request":{"http":{"method":"GET","path":"/"}},"metadataContext":{"filterMetadata":{`+
		`"envoy.filters.http.jwt_authn":{"payload":{"iss":"i","sub":"s","groups":["g0","g7"],"other":["p","q"]}}}}}}`)
	if d := server.Decide(context.Background(), raw, nil); d.Allow {
		t.Errorf("FAILS OPEN: rule 7 denies group g7, got %+v", d.Reason)
	}
}

// Whatever loads meanwhile, a server that drains stays out of service.
func TestReviewHealthWhileDraining(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	entered := make(chan struct{})
	server, err := extauthz.New(extauthz.Config{
		Snapshot: func() *policy.Snapshot { return nil }, Engine: &authz.Engine{}, DrainTimeout: time.Second,
		Observe: func(*extauthz.Observation) { close(entered); <-release },
	})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, server, nil)
	server.SetReady(true)
	watch, err := healthv1.NewHealthClient(r).Watch(context.Background(), &healthv1.HealthCheckRequest{Service: extauthz.ServiceName}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = r.checks.Check(context.Background(), &authv3.CheckRequest{}) }()
	<-entered
	for {
		answer, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			break
		}
	}
	r.stop()
	if answer, err := watch.Recv(); err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Fatalf("%v, %v", answer, err)
	}
	server.SetReady(true) // a load that was under way
	server.SetReady(false)
	close(release)
	for {
		answer, err := watch.Recv()
		if err != nil {
			return
		}
		if answer.GetStatus() == healthv1.HealthCheckResponse_SERVING {
			t.Error("in service again")
		}
	}
}

// Nothing a client sends makes the response unreadable: Envoy takes that for an error, which failure_mode_allow lets pass.
func TestReviewResponseIsReadable(t *testing.T) {
	t.Parallel()
	docs := policy.Decode("f.yaml", []byte(`{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {namespace: shop, name: r}, spec: {jwtRules: [{issuer: i, jwksUri: "https://idp.example/"}]}}`))
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return snap }, Engine: &authz.Engine{}})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, server, nil)
	long := strings.Repeat("é", 200)
	for _, headers := range [][2]string{{":authority", "\xff\xfe"}, {":path", "/\xff"}, {":path", "/" + long}, {":path", "/x" + long}, {":authority", "a\r\nx: \"y\\"}} {
		check := request(t, openShop+`"request":{"http":{"method":"GET","scheme":"https"}}`)
		http := check.GetAttributes().GetRequest().GetHttp()
		http.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: "Authorization", RawValue: []byte("Bearer \xff\x00.b.c")}, {Key: ":path", RawValue: []byte("/")}, {Key: headers[0], RawValue: []byte(headers[1])},
		}}
		if headers[0] == ":path" {
			http.HeaderMap.Headers = append(http.HeaderMap.Headers[:1], http.HeaderMap.Headers[2:]...)
		}
		answer, err := r.checks.Check(context.Background(), check, grpc.WaitForReady(true))
		if err != nil {
			t.Errorf("%q: %v", headers, err)
			continue
		}
		if answer.GetStatus().GetCode() != 16 {
			t.Errorf("%q: %v", headers, answer)
		}
		for _, h := range answer.GetDeniedResponse().GetHeaders() {
			if strings.ContainsAny(h.GetHeader().GetValue(), "\r\n\x00") {
				t.Errorf("%q: %q", headers, h)
			}
		}
	}
}
