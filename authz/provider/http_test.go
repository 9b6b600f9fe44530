package provider_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
	"github.com/writ-auth/writ/policy"
)

// heard is a check as a server got it: the request line, the host and the headers in order of their names.
func heard(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
	var lines []string
	for name, values := range r.Header {
		for _, v := range values {
			lines = append(lines, strings.ToLower(name)+": "+v)
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	if body, _ := io.ReadAll(r.Body); len(body) > 0 {
		fmt.Fprintf(&b, "\n%s", body)
	}
	return b.String()
}

func TestHTTPCheck(t *testing.T) {
	for _, test := range []struct {
		name     string
		config   provider.HTTPConfig
		question *authz.Question
		want     string
	}{
		{"only what always goes", provider.HTTPConfig{}, question(t), "GET /menu?size=large shop.example\nauthorization: Bearer t\n"},
		{"path prefix", provider.HTTPConfig{PathPrefix: "/check"}, question(t), "GET /check/menu?size=large shop.example\nauthorization: Bearer t\n"},
		{"authority", provider.HTTPConfig{Authority: "authz.example:80"}, question(t), "GET /menu?size=large authz.example:80\nauthorization: Bearer t\n"},
		{"listed headers", provider.HTTPConfig{IncludeRequestHeadersInCheck: []string{"X-*", "*OKIE"}}, question(t),
			"GET /menu?size=large shop.example\nauthorization: Bearer t\ncookie: c=1\nx-user: ann\n"},
		{"additional headers win", provider.HTTPConfig{
			IncludeRequestHeadersInCheck:    []string{"x-user"},
			IncludeAdditionalHeadersInCheck: map[string]string{"X-USER": "nobody", "authorization": "mine", "user-agent": "writ", "x-new": ""},
		}, question(t), "GET /menu?size=large shop.example\nauthorization: mine\nuser-agent: writ\nx-new: \nx-user: nobody\n"},
		{"headers of the connection stay", provider.HTTPConfig{IncludeRequestHeadersInCheck: []string{"c*", "t*", "u*", "e*", "accept*", "host", "keep-alive"}},
			questionWith(t, "POST", "/", "", map[string]string{
				"connection": "x-user", "te": "trailers", "transfer-encoding": "chunked", "upgrade": "websocket", "content-length": "17",
				"keep-alive": "1", "expect": "100-continue", "accept-encoding": "gzip", "host": "evil.example", "content-type": "text/plain",
			}), "POST / shop.example\ncontent-length: 0\ncontent-type: text/plain\n"},
		{"paths as they are", provider.HTTPConfig{}, questionWith(t, "GET", `/a%2Fb/{c}|"é?x={y}`, "", nil), "GET /a%2Fb/{c}|\"é?x={y} shop.example\n"},
		{"a path that begins with two slashes", provider.HTTPConfig{}, questionWith(t, "GET", "//evil.example/a%2fb?", "", nil), "GET //evil.example/a%2fb? shop.example\n"},
		{"that behind a prefix", provider.HTTPConfig{PathPrefix: "/check"}, questionWith(t, "GET", "//{x}", "", nil), "GET /check//{x} shop.example\n"},
		{"dots", provider.HTTPConfig{}, questionWith(t, "GET", "/a/../b/./c", "", nil), "GET /a/../b/./c shop.example\n"},
		{"asterisk", provider.HTTPConfig{}, questionWith(t, "OPTIONS", "*", "", nil), "OPTIONS * shop.example\n"},
		{"idempotency key of the client", provider.HTTPConfig{IncludeRequestHeadersInCheck: []string{"idempotency-key"}},
			questionWith(t, "POST", "/", "", map[string]string{"idempotency-key": "k"}), "POST / shop.example\ncontent-length: 0\nidempotency-key: k\n"},

		{"a body that is not asked for", provider.HTTPConfig{}, questionWith(t, "POST", "/", "coffee", nil), "POST / shop.example\ncontent-length: 0\n"},
		{"a body", provider.HTTPConfig{IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 6}}, questionWith(t, "POST", "/", "coffee", nil),
			"POST / shop.example\ncontent-length: 6\nx-envoy-auth-partial-body: false\n\ncoffee"},
		{"a body cut by us", provider.HTTPConfig{IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 3, AllowPartialMessage: true}},
			questionWith(t, "POST", "/", "coffee", map[string]string{"x-envoy-auth-partial-body": "false"}),
			"POST / shop.example\ncontent-length: 3\nx-envoy-auth-partial-body: true\n\ncof"},
		{"a body cut by Envoy", provider.HTTPConfig{IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 9, AllowPartialMessage: true}},
			questionWith(t, "POST", "/", "coffee", map[string]string{"x-envoy-auth-partial-body": "true"}),
			"POST / shop.example\ncontent-length: 6\nx-envoy-auth-partial-body: true\n\ncoffee"},
		{"no body to send", provider.HTTPConfig{IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 9}, IncludeRequestHeadersInCheck: []string{"x-*"}},
			questionWith(t, "GET", "/", "", map[string]string{"x-envoy-auth-partial-body": "true"}), "GET / shop.example\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			seen := make(chan string, 1)
			test.config.Target = serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { seen <- heard(r) }).URL
			p := newHTTP(t, test.config)
			var a authz.Answer
			if err := p.Ask(within(t, plenty), test.question, &a); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, <-seen); diff != "" {
				t.Errorf("check (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(authz.Answer{Allow: true}, a); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHTTPRepeatedHeaders sends headers apart that Envoy sent apart.
func TestHTTPRepeatedHeaders(t *testing.T) {
	seen := make(chan string, 1)
	p := newHTTP(t, provider.HTTPConfig{
		Target:                       serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { seen <- heard(r) }).URL,
		IncludeRequestHeadersInCheck: []string{"x-a"},
	})
	q := questionWith(t, "GET", "/", "", nil)
	q.Request.RawHeaders = true
	q.Request.Headers = []policy.Header{{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}}
	q.Request.HasHost = false
	var a authz.Answer
	if err := p.Ask(within(t, plenty), q, &a); err != nil {
		t.Fatal(err)
	}
	if got, want := <-seen, "\nx-a: 1\nx-a: 2\n"; !strings.HasSuffix(got, want) || !strings.HasPrefix(got, "GET / 127.0.0.1:") {
		t.Errorf("the server saw %q, want it to end with %q", got, want)
	}
}

func TestHTTPCannotAsk(t *testing.T) {
	tcp := question(t)
	tcp.Request.TCP = true
	host := question(t)
	host.Request.Host = "shop example\r\nx: y"
	broken := questionWith(t, "POST", "/", "coffee", nil)
	broken.Raw = broken.Raw[:len(broken.Raw)-1]
	for _, test := range []struct {
		name     string
		question *authz.Question
		reason   authz.Reason
	}{
		{"TCP", tcp, authz.ReasonProviderHTTPOnly},
		{"CONNECT", questionWith(t, "CONNECT", "/", "", nil), authz.ReasonProviderBadRequest},
		{"no method", questionWith(t, "", "/", "", nil), authz.ReasonProviderBadRequest},
		{"method with a space", questionWith(t, "GET /x HTTP/1.1\r\nA: b\r\n\r\nGET", "/", "", nil), authz.ReasonProviderBadRequest},
		{"no path", questionWith(t, "GET", "", "", nil), authz.ReasonProviderBadRequest},
		{"absolute URL", questionWith(t, "GET", "http://evil.example/", "", nil), authz.ReasonProviderBadRequest},
		{"path with a space", questionWith(t, "GET", "/a HTTP/1.1", "", nil), authz.ReasonProviderBadRequest},
		{"path with CR LF", questionWith(t, "GET", "/a\r\nx: y", "", nil), authz.ReasonProviderBadRequest},
		{"two slashes and what cannot follow them", questionWith(t, "GET", "//{x}", "", nil), authz.ReasonProviderBadRequest},
		{"host", host, authz.ReasonProviderBadRequest},
		{"header with CR LF", questionWith(t, "GET", "/", "", map[string]string{"authorization": "a\r\nx: y"}), authz.ReasonProviderBadRequest},
		{"CheckRequest that is cut short", broken, authz.ReasonProviderBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newHTTP(t, provider.HTTPConfig{
				Target:                    serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked: %s", heard(r)) }).URL,
				IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 100},
			})
			var a authz.Answer
			wantFault(t, p.Ask(within(t, plenty), test.question, &a), test.reason)
			if c := p.Circuit(); c.Failures != 0 {
				t.Errorf("circuit %+v: the question is to blame, not the server", c)
			}
		})
	}
}

func TestHTTPBodyTooLarge(t *testing.T) {
	for name, q := range map[string]*authz.Question{
		"for the provider": questionWith(t, "POST", "/", "coffee", map[string]string{"x-envoy-auth-partial-body": "false"}),
		"for Envoy":        questionWith(t, "POST", "/", "c", map[string]string{"x-envoy-auth-partial-body": "true"}),
	} {
		t.Run(name, func(t *testing.T) {
			p := newHTTP(t, provider.HTTPConfig{
				Target:                    serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked: %s", heard(r)) }).URL,
				IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 3},
			})
			var a authz.Answer
			if err := p.Ask(within(t, plenty), q, &a); err != nil {
				t.Fatal(err)
			}
			if a.Allow || a.Status != 413 || a.Reason != authz.ReasonProviderBadRequest || !strings.Contains(a.Detail, "max_request_bytes") {
				t.Errorf("answer %+v, want 413 with a reason", a)
			}
		})
	}
}

func header(lines ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header()["Date"] = nil
		for _, line := range lines {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
	}
}

func TestHTTPAnswers(t *testing.T) {
	lists := provider.HTTPConfig{
		HeadersToUpstreamOnAllow:   []string{"X-User", "x-role*", "content-length"},
		HeadersToDownstreamOnAllow: []string{"*-cookie", "x-user"},
		HeadersToDownstreamOnDeny:  []string{"X-Why"},
	}
	for _, test := range []struct {
		name    string
		config  provider.HTTPConfig
		status  int
		headers []string
		body    string
		want    authz.Answer
	}{
		{"allow", lists, 200, []string{"X-User: ann", "x-role-a: 1", "x-role-a: 2", "x-other: 3", "set-cookie: s", "content-type: text/plain"}, "ignored",
			authz.Answer{Allow: true, Changes: authz.Changes{
				RequestHeaders: []authz.HeaderChange{{Name: "x-role-a", Value: "1"}, {Name: "x-role-a", Value: "2"}, {Name: "x-user", Value: "ann"}},
				ResponseHeaders: []authz.HeaderChange{
					{Name: "set-cookie", Value: "s", Append: authz.HeaderAppendOrAdd}, {Name: "x-user", Value: "ann", Append: authz.HeaderAppendOrAdd},
				},
			}}},
		{"allow passes nothing on by itself", provider.HTTPConfig{}, 200, []string{"x-user: ann", "set-cookie: a"}, "", authz.Answer{Allow: true}},
		{"headers to remove", provider.HTTPConfig{}, 200, []string{"X-Envoy-Auth-Headers-To-Remove: Cookie, x-a,", "x-envoy-auth-headers-to-remove: x-b"}, "",
			authz.Answer{Allow: true, Changes: authz.Changes{RemoveHeaders: []string{"cookie", "x-a", "x-b"}}}},
		{"deny with all headers", provider.HTTPConfig{}, 401, []string{"www-authenticate: Bearer", "x-why: you", "x-envoy-auth-headers-to-remove: a", "set-cookie: a", "set-cookie: b", "content-type: text/plain"}, "who?",
			authz.Answer{Status: 401, Body: "who?", Detail: "HTTP status 401", Changes: authz.Changes{ResponseHeaders: []authz.HeaderChange{
				{Name: "content-type", Value: "text/plain"}, {Name: "set-cookie", Value: "a"}, {Name: "set-cookie", Value: "b"},
				{Name: "www-authenticate", Value: "Bearer"}, {Name: "x-why", Value: "you"},
			}}}},
		{"deny with listed headers", lists, 302, []string{"location: https://login", "x-why: you", "set-cookie: a", "www-authenticate: Basic"}, "",
			authz.Answer{Status: 302, Detail: "HTTP status 302", Changes: authz.Changes{ResponseHeaders: []authz.HeaderChange{
				{Name: "location", Value: "https://login"}, {Name: "www-authenticate", Value: "Basic"}, {Name: "x-why", Value: "you"},
			}}}},
		{"any other status denies", lists, 204, nil, "", authz.Answer{Status: 204, Detail: "HTTP status 204"}},
		{"201 too", lists, 201, nil, "made", authz.Answer{Status: 201, Body: "made", Detail: "HTTP status 201"}},
		{"a body that is no text", lists, 403, nil, "\xff\xfe", authz.Answer{Status: 403, Detail: "HTTP status 403; without its body, which is not UTF-8"}},
		{"a denial with a header that is not UTF-8", provider.HTTPConfig{}, 403, []string{"content-type: a", "x: \xff"}, "no",
			authz.Answer{Status: 403, Body: "no", Detail: `HTTP status 403; left out: the value of header "x" holds a control character or is not UTF-8`, Changes: authz.Changes{
				ResponseHeaders: []authz.HeaderChange{{Name: "content-type", Value: "a"}},
			}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			test.config.Target = serveHTTP(t, func(w http.ResponseWriter, _ *http.Request) {
				header(test.headers...)(w)
				if test.status == 201 || test.body == "\xff\xfe" {
					w.Header()["Content-Type"] = nil
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}).URL
			p := newHTTP(t, test.config)
			var a authz.Answer
			if err := p.Ask(within(t, plenty), question(t), &a); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, a); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}
