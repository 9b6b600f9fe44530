package provider_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/policy"
)

func TestGRPCAnswers(t *testing.T) {
	for _, test := range []struct {
		name, response string
		want           authz.Answer
	}{
		{"allow", `status {} ok_response {}`, authz.Answer{Allow: true}},
		{"allow by status alone", `status { code: 0 }`, authz.Answer{Allow: true}},
		{"allow by response alone", `ok_response {}`, authz.Answer{Allow: true}},
		{"request headers", `status {} ok_response {
			headers { header { key: "X-User" value: "ann" } }
			headers { header { key: "x-a" value: "1" } append { value: true } }
			headers { header { key: "x-b" value: "2" } append { value: false } append_action: ADD_IF_ABSENT }
			headers { header { key: "x-c" value: "3" } append_action: ADD_IF_ABSENT }
			headers { header { key: "x-d" value: "4" } append_action: OVERWRITE_IF_EXISTS }
			headers { header { key: "x-e" value: "5" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
			headers { header { key: "x-f" raw_value: "6" } }
			headers { header { key: ":path" value: "/other" } }
			headers_to_remove: "Cookie" }`,
			authz.Answer{Allow: true, Changes: authz.Changes{
				RequestHeaders: []authz.HeaderChange{
					{Name: "x-user", Value: "ann"}, {Name: "x-a", Value: "1", Append: authz.HeaderAppendOrAdd}, {Name: "x-b", Value: "2"},
					{Name: "x-c", Value: "3", Append: authz.HeaderAddIfAbsent}, {Name: "x-d", Value: "4", Append: authz.HeaderOverwriteIfExists},
					{Name: "x-e", Value: "5"}, {Name: "x-f", Value: "6"}, {Name: ":path", Value: "/other"},
				},
				RemoveHeaders: []string{"cookie"},
			}}},
		{"response headers and parameters", `status {} ok_response {
			response_headers_to_add { header { key: "set-cookie" value: "a=1" } }
			response_headers_to_add { header { key: "x-b" value: "2" } append { value: false } }
			query_parameters_to_set { key: "k" value: "v" } query_parameters_to_remove: "gone" }`,
			authz.Answer{Allow: true, Changes: authz.Changes{
				ResponseHeaders: []authz.HeaderChange{{Name: "set-cookie", Value: "a=1", Append: authz.HeaderAppendOrAdd}, {Name: "x-b", Value: "2"}},
				SetParams:       []authz.Param{{Name: "k", Value: "v"}}, RemoveParams: []string{"gone"},
			}}},
		{"metadata", `status {} ok_response {} dynamic_metadata { fields { key: "level" value { number_value: 3 } } }`,
			authz.Answer{Allow: true, Changes: authz.Changes{Metadata: map[string]any{"level": 3.0}}}},
		{"metadata of the deprecated field wins", `status {} ok_response { dynamic_metadata { fields { key: "a" value { bool_value: true } } } }
			dynamic_metadata { fields { key: "b" value { bool_value: true } } }`,
			authz.Answer{Allow: true, Changes: authz.Changes{Metadata: map[string]any{"a": true}}}},

		{"deny", `status { code: 7 }`, authz.Answer{Detail: "status PermissionDenied"}},
		{"deny beside an ok_response", `status { code: 16 message: "who?" } ok_response {}`, authz.Answer{Detail: "status Unauthenticated: who?"}},
		{"deny with all", `status { code: 7 } denied_response { status { code: Found } body: "go"
			headers { header { key: "Location" value: "https://login" } append { value: true } }
			headers { header { key: "set-cookie" value: "a" } } headers { header { key: "set-cookie" value: "b" } } }
			dynamic_metadata { fields { key: "k" value { string_value: "v" } } }`,
			authz.Answer{Status: 302, Body: "go", Detail: "status PermissionDenied", Changes: authz.Changes{
				ResponseHeaders: []authz.HeaderChange{{Name: "location", Value: "https://login"}, {Name: "set-cookie", Value: "a"}, {Name: "set-cookie", Value: "b"}},
				Metadata:        map[string]any{"k": "v"},
			}}},
		{"deny with no HTTP status", `status { code: 7 } denied_response { status { code: Continue } }`,
			authz.Answer{Detail: "status PermissionDenied; left out: HTTP status 100, want 200 to 599"}},
		{"a denial with a header that cannot be is a denial", `status { code: 7 } denied_response { body: "no" headers { header { key: "x" value: "a\r\nset-cookie: b" } } }`,
			authz.Answer{Body: "no", Detail: `status PermissionDenied; left out: the value of header "x" holds a control character or is not UTF-8`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, always(t, test.response))})
			var got authz.Answer
			if err := p.Ask(within(t, plenty), question(t), &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLargeDenials has denials with bodies that providers may send and that no client gets.
func TestLargeDenials(t *testing.T) {
	noLeaks(t)
	body := strings.Repeat("x", authz.MaxProviderBody+1)
	const limit = 2 << 20
	for kind, p := range map[string]closer{
		"grpc": newGRPC(t, provider.GRPCConfig{MaxAnswerBytes: limit, Target: serveChecks(t, denyWith(body))}),
		"http": newHTTP(t, provider.HTTPConfig{MaxAnswerBytes: limit, Target: serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, body, http.StatusForbidden)
		}).URL}),
	} {
		t.Run(kind, func(t *testing.T) {
			var a authz.Answer
			if err := p.Ask(within(t, plenty), question(t), &a); err != nil || a.Allow || a.Body != "" || !strings.Contains(a.Detail, "more than 1048576 bytes") {
				t.Errorf("a body of %d bytes, detail %q, allow %v, error %v", len(a.Body), a.Detail, a.Allow, err)
			}
		})
	}
}

func TestGRPCBadAnswers(t *testing.T) {
	deep := strings.Repeat("{ list_value { values ", 40) + "{ bool_value: true }" + strings.Repeat(" } }", 40)
	many := strings.Repeat(`headers { header { key: "a" value: "b" } } `, 257)
	for _, test := range []struct {
		name, response string
		reason         authz.Reason
		says           string
	}{
		{"empty", ``, authz.ReasonProviderBadAnswer, "neither a status nor a response"},
		{"only metadata", `dynamic_metadata {}`, authz.ReasonProviderBadAnswer, "neither a status nor a response"},
		{"status OK and denied", `status {} denied_response {}`, authz.ReasonProviderBadAnswer, "beside a denied_response"},
		{"no status and denied", `denied_response {}`, authz.ReasonProviderBadAnswer, "beside a denied_response"},
		{"failed", `status { code: 13 } error_response { status { code: BadGateway } }`, authz.ReasonProviderError, "HTTP status 502"},
		{"failed with status OK", `status {} error_response {}`, authz.ReasonProviderError, "it failed"},
		{"header with CR LF", `status {} ok_response { headers { header { key: "a" value: "b\r\nx-admin: 1" } } }`, authz.ReasonProviderBadAnswer, "control character"},
		{"header with LF in raw_value", `status {} ok_response { headers { header { key: "a" raw_value: "b\nc" } } }`, authz.ReasonProviderBadAnswer, "control character"},
		{"response header with NUL", `status {} ok_response { response_headers_to_add { header { key: "a" value: "\x00" } } }`, authz.ReasonProviderBadAnswer, "control character"},
		{"header that is not UTF-8", `status {} ok_response { headers { header { key: "a" raw_value: "\xff" } } }`, authz.ReasonProviderBadAnswer, "UTF-8"},
		{"header name with CR LF", `status {} ok_response { headers { header { key: "a\r\nb" value: "c" } } }`, authz.ReasonProviderBadAnswer, "no header name"},
		{"header without a name", `status {} ok_response { headers { header { value: "c" } } }`, authz.ReasonProviderBadAnswer, "no header name"},
		{"header to remove with a space", `status {} ok_response { headers_to_remove: "a b" }`, authz.ReasonProviderBadAnswer, "no header name"},
		{"unknown append_action", `status {} ok_response { headers { header { key: "a" } append_action: 9 } }`, authz.ReasonProviderBadAnswer, "append_action 9"},
		{"many headers", `status {} ok_response { ` + many + ` }`, authz.ReasonProviderBadAnswer, "more than 256"},
		{"many parameters", `status {} ok_response { ` + strings.Repeat(`query_parameters_to_remove: "a" `, 257) + ` }`, authz.ReasonProviderBadAnswer, "more than 256"},
		{"deep metadata", `status {} dynamic_metadata { fields { key: "a" value ` + deep + ` } }`, authz.ReasonProviderBadAnswer, "nested"},
		{"metadata that is no number", `status {} dynamic_metadata { fields { key: "a" value { number_value: nan } } }`, authz.ReasonProviderBadAnswer, "NaN"},
		{"metadata without a value", `status {} dynamic_metadata { fields { key: "a" value {} } }`, authz.ReasonProviderBadAnswer, "no kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, always(t, test.response))})
			var got authz.Answer
			err := p.Ask(within(t, plenty), question(t), &got)
			wantFault(t, err, test.reason, test.says)
			if diff := cmp.Diff(authz.Answer{}, got); diff != "" {
				t.Errorf("an answer beside the error (-want +got):\n%s", diff)
			}
		})
	}
}

// bytesCodec has a server see what stood on the wire.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func TestGRPCForwardsBytes(t *testing.T) {
	noLeaks(t)
	seen := make(chan string, 1)
	server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var request []byte
		if err := s.RecvMsg(&request); err != nil {
			return err
		}
		method, _ := grpc.MethodFromServerStream(s)
		md, _ := metadata.FromIncomingContext(s.Context())
		seen <- fmt.Sprintf("%s %v %v %x", method, md["content-type"], md[":authority"], request)
		response := []byte{1<<3 | 2, 0}
		return s.SendMsg(&response)
	}))
	p := newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, listen(t), server), Authority: "authz.example", Connections: 3})

	q := question(t)
	q.Raw = protowire.AppendTag(q.Raw, 12345, protowire.BytesType) // a field that no API of ours knows
	q.Raw = protowire.AppendString(q.Raw, "kept")
	for range 6 {
		var a authz.Answer
		if err := p.Ask(within(t, plenty), q, &a); err != nil || !a.Allow {
			t.Fatalf("answer %+v, error %v", a, err)
		}
		want := fmt.Sprintf("/envoy.service.auth.v3.Authorization/Check [application/grpc] [authz.example] %x", q.Raw)
		if got := <-seen; got != want {
			t.Errorf("the server saw\n%s, want\n%s", got, want)
		}
	}
}

// TestGRPCRawHeaders has Envoy encode raw headers: servers that read the usual form find it as well.
func TestGRPCRawHeaders(t *testing.T) {
	seen := make(chan *authv3.AttributeContext_HttpRequest, 1)
	p := newGRPC(t, provider.GRPCConfig{Target: serveChecks(t, func(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
		seen <- r.GetAttributes().GetRequest().GetHttp()
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
	})})
	q := questionWith(t, "GET", "/menu", "coffee", nil)
	q.Request.RawHeaders = true
	q.Request.Headers = []policy.Header{{Name: ":path", Value: "/menu"}, {Name: "x-a", Value: "1"}, {Name: "x-b", Value: "\xff\uFFFDé\xc3"}, {Name: "x-a", Value: "2"}}
	var a authz.Answer
	if err := p.Ask(within(t, plenty), q, &a); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	if diff := cmp.Diff(map[string]string{":path": "/menu", "x-a": "1,2", "x-b": "!\uFFFDé!"}, got.GetHeaders()); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if got.GetMethod() != "GET" || got.GetPath() != "/menu" || got.GetBody() != "coffee" || got.GetHost() != "shop.example" {
		t.Errorf("the rest is %v", got)
	}
}

func TestGRPCWithoutCheckRequest(t *testing.T) {
	p := newGRPC(t, provider.GRPCConfig{Target: "127.0.0.1:1"})
	q := question(t)
	q.Raw = nil
	var a authz.Answer
	wantFault(t, p.Ask(within(t, plenty), q, &a), authz.ReasonProviderBadRequest, "no CheckRequest")
	if c := p.Circuit(); c.Failures != 0 {
		t.Errorf("circuit %+v: the question is to blame, not the server", c)
	}
}

// TestGRPCKeepsNothing gives a call up while it is being sent, and writes over the question as its owner would.
func TestGRPCKeepsNothing(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	var broken int
	server := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}), grpc.MaxRecvMsgSize(8<<20), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var request []byte
		if err := s.RecvMsg(&request); err != nil {
			return err
		}
		if strings.Trim(string(request), "q") != "" {
			mu.Lock()
			broken++
			mu.Unlock()
		}
		<-s.Context().Done()
		return nil
	}))
	p := newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, listen(t), server), Breaker: provider.Breaker{Failures: -1}})
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		q := question(t)
		q.Raw = []byte(strings.Repeat("q", 1<<20))
		done := make(chan error, 1)
		go func() {
			var a authz.Answer
			done <- p.Ask(ctx, q, &a)
		}()
		cancel()
		<-done
		for i := range q.Raw {
			q.Raw[i] = 'x'
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if broken > 0 {
		t.Errorf("%d questions were read after the call had returned", broken)
	}
}

func TestGRPCHealth(t *testing.T) {
	noLeaks(t)
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, &checkServer{answer: always(t, `status {}`)})
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	p := newGRPC(t, provider.GRPCConfig{Target: serveGRPC(t, listen(t), server), Health: true, Breaker: provider.Breaker{Failures: -1}})

	var a authz.Answer
	if err := p.Ask(within(t, plenty), question(t), &a); err != nil {
		t.Fatal(err)
	}
	state.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	eventually(t, func() bool {
		err := p.Ask(within(t, plenty), question(t), &a)
		return err != nil && reasonOf(t, err) == authz.ReasonProviderUnreachable
	})
	state.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	eventually(t, func() bool { return p.Ask(within(t, plenty), question(t), &a) == nil })
}
