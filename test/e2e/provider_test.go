package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/internal/testkit"
)

// remoteCase is one answer of a remote server, and what a client gets of it.
type remoteCase struct {
	name   string
	status int // for the client
	// differs is set where Envoy, asking the server itself, does otherwise on purpose of ours.
	differs bool
}

// grpcCases are CheckResponses by the name of their case.
func grpcCases() (map[string]string, []remoteCase) {
	answers := map[string]string{
		"allow":       `status {} ok_response {}`,
		"status only": `status {}`,
		"headers": `status {} ok_response {
			headers { header { key: "x-a" value: "new" } append { value: true } }
			headers { header { key: "x-b" value: "new" } append { value: false } }
			headers { header { key: "x-c" value: "new" } }
			headers_to_remove: "x-d"
			response_headers_to_add { header { key: "set-cookie" value: "one" } append { value: true } }
			response_headers_to_add { header { key: "set-cookie" value: "two" } append { value: true } }
			response_headers_to_add { header { key: "content-type" value: "text/new" } append { value: false } } }`,
		"unset": `status {} ok_response { headers { header { key: "x-a" value: "new" } } response_headers_to_add { header { key: "x-x" value: "new" } } }`,
		// Envoy 1.40 adds no value to a header that is not there, and does not look at the action for request headers:
		// it overwrites. Later ones do as the API says, and so does writ.
		"append": `status {} ok_response { headers { header { key: "x-c" value: "new" } append { value: true } } }`,
		"keep":   `status {} ok_response { headers { header { key: "x-a" value: "new" } append_action: ADD_IF_ABSENT } }`,
		"actions": `status {} ok_response {
			headers { header { key: "x-b" value: "new" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
			headers { header { key: "x-c" value: "new" } append_action: OVERWRITE_IF_EXISTS_OR_ADD }
			headers { header { key: "x-d" value: "new" } append_action: OVERWRITE_IF_EXISTS }
			headers { header { key: "x-e" value: "new" } append_action: ADD_IF_ABSENT }
			response_headers_to_add { header { key: "content-type" value: "new" } append_action: ADD_IF_ABSENT }
			response_headers_to_add { header { key: "x-x" value: "new" } append_action: OVERWRITE_IF_EXISTS } }`,
		"parameters":  `status {} ok_response { query_parameters_to_set { key: "a" value: "9" } query_parameters_to_remove: "b" }`,
		"deny":        `status { code: 7 }`,
		"deny and ok": `status { code: 16 } ok_response { headers { header { key: "x-a" value: "new" } } }`,
		"login": `status { code: 16 } denied_response { status { code: Found } body: "this way"
			headers { header { key: "location" value: "https://login.example" } } headers { header { key: "x-why" value: "who?" } } }`,
		"busy":         `status { code: 8 } denied_response { status { code: TooManyRequests } headers { header { key: "retry-after" value: "3" } } }`,
		"empty":        ``,
		"ok but no":    `status {} denied_response { status { code: Forbidden } }`,
		"it failed":    `status { code: 13 } error_response { status { code: BadGateway } body: "oops" }`,
		"someone else": `status {} ok_response { headers { header { key: "x-forwarded-host" value: "evil.example" } } }`,
	}
	return answers, []remoteCase{
		{"allow", 200, false}, {"status only", 200, false}, {"headers", 200, false}, {"unset", 200, false}, {"actions", 200, false},
		{"append", 200, true}, {"keep", 200, true}, {"parameters", 200, false},
		{"deny", 403, false}, {"deny and ok", 403, false}, {"login", 302, false}, {"busy", 429, false}, {"no such case", 403, false},
		// Stricter: Envoy takes the first three for an allow, or passes a server's own words about its failure on.
		{"empty", 403, true}, {"ok but no", 403, true}, {"it failed", 403, true}, {"someone else", 200, true},
	}
}

func httpCases() (map[string]httpAnswer, []remoteCase) {
	answers := map[string]httpAnswer{
		"allow":   {200, nil, "thanks"},
		"headers": {200, []string{"x-user: ann", "x-role-a: admin", "x-other: no", "set-cookie: one", "x-envoy-auth-headers-to-remove: x-d, x-e"}, ""},
		"deny":    {403, nil, "no"},
		"login":   {302, []string{"location: https://login.example", "x-why: who?", "x-other: no"}, "this way"},
		"who":     {401, []string{"www-authenticate: Bearer", "set-cookie: one"}, ""},
		"made":    {201, nil, "made"},
		"broken":  {503, nil, "sorry"},
	}
	return answers, []remoteCase{
		{"allow", 200, false}, {"headers", 200, false}, {"deny", 403, false}, {"login", 302, false}, {"who", 401, false},
		{"made", 201, false}, {"broken", 403, false}, {"no such case", 403, false},
	}
}

// TestRemoteParity has Envoy ask each server itself and ask writ, which asks the server: clients and the service see
// the same, and so does the server.
func TestRemoteParity(t *testing.T) {
	t.Parallel()
	grpcAnswers, grpcTests := grpcCases()
	httpAnswers, httpTests := httpCases()
	byGRPC, byHTTP := grpcRemote(t, grpcAnswers), httpRemote(t, httpAnswers)
	b := newBench(t)
	b.policy(t, "custom.yaml", custom("asks-grpc", "by-grpc", "/*")+custom("asks-http", "by-http", "/*"))
	b.serve(t, "authz.sock", providers(byGRPC, byHTTP, ""))
	envoy := b.askingEnvoy(t, echo(t), byGRPC, byHTTP, "asks-grpc", "asks-http")

	for _, kind := range []struct {
		name   string
		remote *remote
		tests  []remoteCase
	}{{directGRPC, byGRPC, grpcTests}, {directHTTP, byHTTP, httpTests}} {
		for _, test := range kind.tests {
			t.Run(kind.name+" "+test.name, func(t *testing.T) {
				client := plain(t)
				client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				send := func(listener string) (response, []string) {
					got := ask(t, client, envoy, listener, "asks-"+kind.name, "POST", "/a%20b/c?a=1&b=2&c=3", caseHeader+": "+test.name,
						"x-a: old", "x-b: old", "x-d: old", "x-role-a: none", "x-role-b: old", "authorization: Bearer t", "cookie: c=1")
					return got, kind.remote.said()
				}
				direct, want := send(kind.name)
				for _, listener := range []string{viaRaw, viaJoined} {
					got, heard := send(listener)
					if got.status != test.status {
						t.Errorf("%s: status %d %q, want %d", listener, got.status, got.body, test.status)
					}
					if diff := cmp.Diff(want, heard); diff != "" {
						t.Errorf("%s: the server heard (-Envoy +writ):\n%s", listener, diff)
					}
					if diff := cmp.Diff(seenOf(t, direct), seenOf(t, got)); (diff != "") != test.differs {
						t.Errorf("%s: differs from Envoy: %v, want %v (-Envoy +writ):\n%s", listener, diff != "", test.differs, diff)
					}
				}
			})
		}
	}
}

// seen is what a client got and what reached the service.
type seen struct {
	Status  int
	Body    string
	Headers http.Header
	Service testkit.Echo
}

// seenOf leaves out what differs from one request to the next, and a body of Envoy's or writ's own.
func seenOf(t *testing.T, r response) seen {
	s := seen{Status: r.status, Body: r.body, Headers: r.header.Clone()}
	for _, name := range []string{"Date", "Server", "X-Envoy-Upstream-Service-Time", "Content-Length"} {
		s.Headers.Del(name)
	}
	if r.status == http.StatusOK {
		s.Body, s.Service = "", echoed(t, r)
	} else if r.body == "RBAC: access denied" {
		s.Body = "" // writ says so where the server has no words of its own; Envoy says nothing
		s.Headers.Del("Content-Type")
	}
	return s
}

// TestRemoteLayers is the decision table of authorization-policy §4.2 with servers of both kinds.
func TestRemoteLayers(t *testing.T) {
	t.Parallel()
	byGRPC := grpcRemote(t, map[string]string{"yes": `status {} ok_response {}`, "no": `status { code: 7 } denied_response { status { code: TooManyRequests } body: "short and stout" }`})
	byHTTP := httpRemote(t, map[string]httpAnswer{"yes": {200, nil, ""}, "no": {429, nil, "short and stout"}})
	documents := ""
	for _, kind := range []string{"grpc", "http"} {
		for _, workload := range []string{"alone", "with-allow"} {
			name := kind + "-" + workload
			documents += custom(name, "by-"+kind, "/asked/*") + authorization(name, "deny", "DENY", "*/secret") + "---\n"
			if workload == "with-allow" {
				documents += authorization(name, "allow", "ALLOW", "*/menu", "*/secret") + "---\n"
			}
		}
	}
	b := newBench(t)
	b.policy(t, "layers.yaml", documents)
	b.serve(t, "authz.sock", providers(byGRPC, byHTTP, ""))
	envoy := b.askingEnvoy(t, echo(t), byGRPC, byHTTP, "grpc-alone", "grpc-with-allow", "http-alone", "http-with-allow")
	client := plain(t)

	for _, test := range []struct {
		workload, path, answer string
		status                 int
		asked                  bool
	}{
		{"alone", "/free/menu", "no", 200, false},    // no hit: not called, rows above decide
		{"alone", "/free/secret", "yes", 403, false}, // no hit, DENY hit
		{"alone", "/asked/menu", "yes", 200, true},   // OK, no DENY hit, no ALLOW policy
		{"alone", "/asked/secret", "yes", 403, true}, // a CUSTOM allow never skips DENY
		{"alone", "/asked/menu", "no", 429, true},    // denied with the provider's status
		{"alone", "/asked/secret", "no", 429, true},  // denied ends it
		{"alone", "/asked/menu", "?", 403, true},     // errors
		{"with-allow", "/free/menu", "no", 200, false},
		{"with-allow", "/free/other", "no", 403, false},
		{"with-allow", "/asked/menu", "yes", 200, true},
		{"with-allow", "/asked/other", "yes", 403, true}, // a CUSTOM allow never skips ALLOW
		{"with-allow", "/asked/secret", "yes", 403, true},
		{"with-allow", "/asked/menu", "no", 429, true},
		{"with-allow", "/asked/other", "?", 403, true},
	} {
		for kind, remote := range map[string]*remote{"grpc": byGRPC, "http": byHTTP} {
			t.Run(fmt.Sprintf("%s %s %s %s", kind, test.workload, test.path, test.answer), func(t *testing.T) {
				got := ask(t, client, envoy, viaRaw, kind+"-"+test.workload, "GET", test.path, caseHeader+": "+test.answer)
				if got.status != test.status || test.status == 429 && got.body != "short and stout" {
					t.Errorf("got %d %q, want %d", got.status, got.body, test.status)
				}
				if n := len(remote.said()); n > 1 || (n == 1) != test.asked {
					t.Errorf("the server was asked %d times, want it asked: %v", n, test.asked)
				}
			})
		}
	}
}

// TestRemoteMerge has one workload ask both: in the order of their names, each sees the request as it came, and the
// later one's word counts where both change the same.
func TestRemoteMerge(t *testing.T) {
	t.Parallel()
	byGRPC := grpcRemote(t, map[string]string{
		"both": `status {} ok_response { headers { header { key: "x-user" value: "grpc" } } headers { header { key: "x-grpc" value: "yes" } }
			response_headers_to_add { header { key: "set-cookie" value: "grpc" } append { value: true } } headers_to_remove: "x-d" }`,
		"first":  `status { code: 7 } denied_response { status { code: TooManyRequests } }`,
		"second": `status {} ok_response { response_headers_to_add { header { key: "x-leak" value: "grpc" } } }`,
	})
	byHTTP := httpRemote(t, map[string]httpAnswer{
		"both": {200, []string{"x-user: http", "set-cookie: http"}, ""}, "first": {200, nil, ""}, "second": {401, []string{"x-why: http"}, "http says no"},
	})
	b := newBench(t)
	b.policy(t, "merge.yaml", custom("both", "by-http", "/*")+custom("both", "by-grpc", "/*"))
	b.serve(t, "authz.sock", providers(byGRPC, byHTTP, ""))
	envoy := b.askingEnvoy(t, echo(t), byGRPC, byHTTP, "both")
	send := func(name string) response {
		return ask(t, plain(t), envoy, viaRaw, "both", "GET", "/", caseHeader+": "+name, "x-d: old")
	}
	asked := func(grpc, http int) {
		t.Helper()
		if g, h := len(byGRPC.said()), len(byHTTP.said()); g != grpc || h != http {
			t.Errorf("gRPC was asked %d times and HTTP %d times, want %d and %d", g, h, grpc, http)
		}
	}

	got := send("both")
	service := echoed(t, got)
	for name, want := range map[string]string{"X-User": "http", "X-Grpc": "yes", "X-D": ""} {
		if value := service.Headers.Get(name); value != want {
			t.Errorf("the service saw %s: %q, want %q", name, value, want)
		}
	}
	if diff := cmp.Diff([]string{"grpc", "http"}, got.header.Values("set-cookie")); diff != "" {
		t.Errorf("cookies (-want +got):\n%s", diff)
	}
	asked(1, 1)
	if got := send("first"); got.status != 429 {
		t.Errorf("got %d, want 429 of the first", got.status)
	}
	asked(1, 0)
	if got := send("second"); got.status != 401 || got.body != "http says no" || got.header.Get("x-why") != "http" || got.header.Get("x-leak") != "" {
		t.Errorf("got %d %q %v, want what the second says and nothing of the first", got.status, got.body, got.header)
	}
	asked(1, 1)
}

// TestRemoteOutage stops the servers and starts them again.
func TestRemoteOutage(t *testing.T) {
	t.Parallel()
	byGRPC, byHTTP := grpcRemote(t, map[string]string{"yes": `status {}`}), httpRemote(t, map[string]httpAnswer{"yes": {200, nil, ""}})
	for name, more := range map[string]string{"closed": ", status_on_error: 503", "open": ", fail_open: true"} {
		b := newBench(t)
		b.policy(t, "outage.yaml", custom("asks-grpc", "by-grpc", "/*")+custom("asks-http", "by-http", "/*")+
			authorization("asks-grpc", "deny", "DENY", "/secret")+"---"+authorization("asks-http", "deny", "DENY", "/secret"))
		authority := b.serve(t, "authz.sock", providers(byGRPC, byHTTP, more))
		envoy := b.askingEnvoy(t, echo(t), byGRPC, byHTTP, "asks-grpc", "asks-http")
		client := plain(t)
		status := func(workload, path string) int {
			return ask(t, client, envoy, viaRaw, workload, "GET", path, caseHeader+": yes").status
		}
		for kind, remote := range map[string]*remote{"grpc": byGRPC, "http": byHTTP} {
			t.Run(name+" "+kind, func(t *testing.T) {
				workload := "asks-" + kind
				if got := status(workload, "/menu"); got != 200 {
					t.Errorf("got %d with the server there", got)
				}
				remote.stop()
				want := map[string]int{"closed": 503, "open": 200}[name]
				for range 15 { // the circuit opens on the way
					if got := status(workload, "/menu"); got != want {
						t.Errorf("got %d without the server, want %d", got, want)
					}
				}
				if got := status(workload, "/secret"); got == 200 {
					t.Error("a DENY rule no longer holds without the server")
				}
				if name == "open" && !strings.Contains(authority.Output.String(), "FAILED OPEN") {
					t.Error("the log does not say that the provider failed open")
				}
				remote.restart(t)
				remote.said()
				eventually(t, "asks the server again", func() error {
					if got := status(workload, "/menu"); got != 200 || len(remote.said()) == 0 {
						return fmt.Errorf("got %d", got)
					}
					return nil
				})
			})
		}
	}
}

// TestRemoteTCP asks about connections: a gRPC server judges them, an HTTP server cannot, which is a denial.
func TestRemoteTCP(t *testing.T) {
	t.Parallel()
	const policy = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: coffee-shop}
spec: {selector: {matchLabels: {app: order-database}}, action: CUSTOM, provider: {name: %s}, rules: [{}]}
`
	for _, test := range []struct {
		name, provider, answer string
		served                 bool
		asked                  int
	}{
		{"allowed", "by-grpc", `status {}`, true, 1},
		{"denied", "by-grpc", `status { code: 7 }`, false, 1},
		{"failed", "by-grpc", ``, false, 1},
		{"HTTP", "by-http", ``, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			byGRPC, byHTTP := grpcRemote(t, map[string]string{"tcp": test.answer}), httpRemote(t, nil)
			b.policy(t, "tcp.yaml", fmt.Sprintf(policy, test.provider))
			b.serve(t, "authz.sock", providers(byGRPC, byHTTP, ""))
			envoy := b.envoy(t, echo(t), database(t))
			certificate := b.certificate(t, "tcp", testkit.Names{URIs: []string{id("order-service")}})
			served, err := b.query(t, envoy, certificate, "localhost")
			if err != nil && test.served || served != test.served {
				t.Errorf("the database answered: %v (%v), want %v", served, err, test.served)
			}
			if n := len(byGRPC.said()) + len(byHTTP.said()); n != test.asked {
				t.Errorf("asked %d times, want %d", n, test.asked)
			}
		})
	}
}
