package opa_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
	"github.com/writ-auth/writ/jwt"
)

// TestResults is the forms in which policies for OPA's Envoy plugin answer, and what is no answer.
func TestResults(t *testing.T) {
	t.Parallel()
	header := func(how authz.HeaderAppend, pairs ...string) (out []authz.HeaderChange) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, authz.HeaderChange{Name: pairs[i], Value: pairs[i+1], Append: how})
		}
		return out
	}
	const set, add = authz.HeaderOverwrite, authz.HeaderAppendOrAdd
	for _, tc := range []struct {
		name, rules string
		want        authz.Answer
	}{
		{"true", `allow := true`, authz.Answer{Allow: true}},
		{"false", `allow := false`, authz.Answer{}},
		{"an object that allows", `allow := {"allowed": true}`, authz.Answer{Allow: true}},
		{"an object that denies", `allow := {"allowed": false}`, authz.Answer{}},
		{
			"an allow with everything", `allow := {"allowed": true, "headers": {"x": "1", "y": ["2", "3"]}, "response_headers_to_add": {"r": "4"},
				"request_headers_to_remove": ["z"], "query_parameters_to_set": {"p": "5", "q": ["6", "7"]}, "query_parameters_to_remove": ["u"],
				"dynamic_metadata": {"a": 1, "b": [true, null, "s"], "c": {"d": 1.5}}, "body": "ignored", "http_status": 418}`,
			authz.Answer{Allow: true, Changes: authz.Changes{
				RequestHeaders: header(set, "x", "1", "y", "2", "y", "3"), ResponseHeaders: header(add, "r", "4"), RemoveHeaders: []string{"z"},
				SetParams: []authz.Param{{Name: "p", Value: "5"}, {Name: "q", Value: "6"}, {Name: "q", Value: "7"}}, RemoveParams: []string{"u"},
				Metadata: map[string]any{"a": 1.0, "b": []any{true, nil, "s"}, "c": map[string]any{"d": 1.5}},
			}},
		},
		{
			"a denial with everything", `allow := {"allowed": false, "headers": {"set-cookie": ["a", "b"]}, "body": "no", "http_status": 302,
				"dynamic_metadata": {"why": "hours"}, "response_headers_to_add": {"ignored": "1"}, "request_headers_to_remove": ["ignored"]}`,
			authz.Answer{Status: 302, Body: "no", Changes: authz.Changes{
				ResponseHeaders: header(set, "set-cookie", "a", "set-cookie", "b"), Metadata: map[string]any{"why": "hours"},
			}},
		},
		{"headers as a list of objects", `allow := {"allowed": true, "headers": [{"x": "1"}, {"x": "2", "y": "3"}]}`, authz.Answer{Allow: true, Changes: authz.Changes{RequestHeaders: header(set, "x", "1", "x", "2", "y", "3")}}},
		{"a set of names", `allow := {"allowed": true, "request_headers_to_remove": {"b", "a"}}`, authz.Answer{Allow: true, Changes: authz.Changes{RemoveHeaders: []string{"a", "b"}}}},
		{"parts that are rules", "allow.allowed := true\nallow.headers[\"x\"] := \"1\"", authz.Answer{Allow: true, Changes: authz.Changes{RequestHeaders: header(set, "x", "1")}}},
		{"empty parts", `allow := {"allowed": true, "headers": {}, "request_headers_to_remove": [], "dynamic_metadata": {}}`, authz.Answer{Allow: true, Changes: authz.Changes{Metadata: map[string]any{}}}},
		{"a function that fails is undefined", "default allow := false\nallow if to_number(\"x\") == 1", authz.Answer{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var a authz.Answer
			if err := rego(t, tc.rules).Ask(t.Context(), question(wire(t, typical)), &a); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, a); diff != "" {
				t.Error(diff)
			}
		})
	}
	for name, rules := range map[string]string{
		"undefined": "allow if 1 == 2", "undefined by input": `allow if input.attributes.request.http.method == "PUT"`,
		"undefined in part": `allow := {"allowed": x} if { x := input.nothing }`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			denies(t, rego(t, rules), authz.ReasonProviderUndefined)
		})
	}
	for name, rules := range map[string]string{
		"text": `allow := "true"`, "a number": `allow := 1`, "null": `allow := null`, "a list": `allow := [true]`, "a set": "allow contains true",
		"an empty object": `allow := {}`, "allowed is text": `allow := {"allowed": "true"}`, "allowed is null": `allow := {"allowed": null}`,
		"headers are a list of text": `allow := {"allowed": true, "headers": ["x"]}`, "headers are text": `allow := {"allowed": true, "headers": "x"}`,
		"a header is a number": `allow := {"allowed": true, "headers": {"x": 1}}`, "a header holds a number": `allow := {"allowed": true, "headers": {"x": ["1", 2]}}`,
		"a header's name is a number": `allow := {"allowed": true, "headers": {1: "x"}}`, "body is an object": `allow := {"allowed": false, "body": {}}`,
		"status is text": `allow := {"allowed": false, "http_status": "403"}`, "status is no status": `allow := {"allowed": false, "http_status": 42}`,
		"status is a fraction": `allow := {"allowed": false, "http_status": 403.5}`, "metadata is a list": `allow := {"allowed": true, "dynamic_metadata": []}`,
		"removes a number": `allow := {"allowed": true, "request_headers_to_remove": [1]}`, "removes text": `allow := {"allowed": true, "request_headers_to_remove": "x"}`,
		"sets parameters to numbers": `allow := {"allowed": true, "query_parameters_to_set": {"x": 1}}`,
		"a package":                  "p := true\nallow.x := 1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			denies(t, rego(t, rules), authz.ReasonProviderBadAnswer)
		})
	}
}

func denies(t *testing.T, p *opa.Provider, reason authz.Reason) {
	t.Helper()
	var a authz.Answer
	if err := p.Ask(t.Context(), question(wire(t, typical)), &a); err != nil || a.Allow || a.Reason != reason || a.Detail == "" || len(a.RequestHeaders) > 0 {
		t.Errorf("%v, %+v", err, a)
	}
}

// TestPluginExamples is policies as the plugin's documentation has them, written anew, with requests they were meant for.
func TestPluginExamples(t *testing.T) {
	t.Parallel()
	const roles = `
import input.attributes.request.http as http_request
import input.parsed_path

default allow := false

allow if {
	parsed_path[0] == "health"
	http_request.method == "GET"
}

allow if {
	some role in roles_of_user
	some grant in granted[role]
	grant.method == http_request.method
	grant.path == http_request.path
}

roles_of_user contains role if some role in user_roles[user_name]

user_name := parsed if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[parsed, _] := split(base64url.decode(encoded), ":")
}

user_roles := {"alice": ["guest"], "bob": ["admin"]}

granted := {
	"guest": [{"method": "GET", "path": "/productpage"}],
	"admin": [{"method": "GET", "path": "/productpage"}, {"method": "GET", "path": "/api/v1/products"}],
}`
	const object = `
import input.attributes.request.http as http_request

default allow := {
	"allowed": false,
	"headers": {"x-ext-auth-allow": "no"},
	"body": "Unauthorized Request",
	"http_status": 301,
}

allow := response if {
	http_request.method == "GET"
	response := {
		"allowed": true,
		"headers": {"x-current-user": "alice"},
		"request_headers_to_remove": ["x-secret"],
		"response_headers_to_add": {"x-served-by": "opa"},
		"dynamic_metadata": {"role": "guest"},
	}
}`
	basic := func(user string) string {
		return `"authorization":"Basic ` + map[string]string{"alice": "YWxpY2U6cGFzc3dvcmQ=", "bob": "Ym9iOnBhc3N3b3Jk"}[user] + `"`
	}
	for _, tc := range []struct {
		name, rules, request string
		allow                bool
	}{
		{"alice may see the page", roles, `{"method":"GET","path":"/productpage","headers":{` + basic("alice") + `}}`, true},
		{"alice may not see the products", roles, `{"method":"GET","path":"/api/v1/products","headers":{` + basic("alice") + `}}`, false},
		{"bob may", roles, `{"method":"GET","path":"/api/v1/products","headers":{` + basic("bob") + `}}`, true},
		{"bob may not change them", roles, `{"method":"POST","path":"/api/v1/products","headers":{` + basic("bob") + `}}`, false},
		{"nobody in particular", roles, `{"method":"GET","path":"/productpage","headers":{}}`, false},
		{"health is for all", roles, `{"method":"GET","path":"/health?x","headers":{}}`, true},
		{"an object allows", object, `{"method":"GET","path":"/"}`, true},
		{"an object denies", object, `{"method":"POST","path":"/"}`, false},
		{"a body", `allow if input.parsed_body.firstname == "alice"`, `{"method":"POST","path":"/people","headers":{"content-type":"application/json"},"body":"{\"firstname\":\"alice\"}"}`, true},
		{"another body", `default allow := false` + "\n" + `allow if input.parsed_body.firstname == "alice"`, `{"method":"POST","path":"/people","headers":{"content-type":"application/json"},"body":"{\"firstname\":\"bob\"}"}`, false},
		{"a truncated body", "default allow := false\nallow if not input.truncated_body", `{"method":"POST","path":"/people","headers":{"content-type":"application/json","content-length":"1000"},"body":"{\"first"}`, false},
		{"a query", `allow if input.parsed_query.lang == ["hawaiian"]`, `{"method":"GET","path":"/people?lang=hawaiian"}`, true},
		{"the protocol's version", `allow if input.version.ext_authz == "v3"`, `{"method":"GET","path":"/"}`, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var a authz.Answer
			raw := wire(t, `{"attributes":{"request":{"http":`+tc.request+`}}}`)
			if err := rego(t, tc.rules).Ask(t.Context(), question(raw), &a); err != nil || a.Allow != tc.allow {
				t.Errorf("%v, %+v", err, a)
			}
			if tc.rules == object && !tc.allow && (a.Status != 301 || a.Body != "Unauthorized Request" || a.ResponseHeaders[0].Name != "x-ext-auth-allow") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestClaims: the token is verified when a policy asks for its claims, and not before.
func TestClaims(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rules string
		calls int
		allow bool
	}{
		"asked for":       {"default allow := false\nallow if input.writ.claims.sub == \"alice\"", 1, false},
		"null without":    {"allow if input.writ.claims == null", 1, true},
		"not asked for":   {"allow if input.writ.identity.namespace == \"shop\"", 0, true},
		"all of the rest": {"allow if input.writ.workload.labels.app == \"menu\"", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			q := question(wire(t, typical))
			q.Token = func(context.Context) *jwt.Result { calls++; return &jwt.Result{} }
			var a authz.Answer
			if err := rego(t, tc.rules).Ask(t.Context(), q, &a); err != nil || a.Allow != tc.allow || calls != tc.calls {
				t.Errorf("%v, %+v, %d calls", err, a, calls)
			}
		})
	}
}

// TestEndlessEvaluation: an evaluation that does not end is stopped with its question.
func TestEndlessEvaluation(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{
		"a product of sets":  "allow if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000); a + b + c < 0 }",
		"one large range":    "allow if { count(numbers.range(1, 100000000000)) < 0 }",
		"many strings":       `allow if { x := [s | some a in numbers.range(1, 1000000); some b in numbers.range(1, 1000000); s := sprintf("%d-%d", [a, b])]; count(x) < 0 }`,
		"walking everything": "big := {a: {b: c | some b in numbers.range(1, 500); c := b} | some a in numbers.range(1, 500)}\nallow if { some i in numbers.range(1, 100000); walk(big, [p, v]); v == -i }",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := loaded(t, opa.Config{MaxMemory: 16 << 30, Bundle: files(t, map[string]string{"p.rego": "package envoy.authz\n" + rules})})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			start := time.Now()
			var a authz.Answer
			err := p.Ask(ctx, question(wire(t, typical)), &a)
			var fault *authz.Fault
			if !errors.As(err, &fault) || fault.Reason != authz.ReasonProviderTimeout || a.Allow {
				t.Errorf("%v, %+v", err, a)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("stopped after %v", took)
			}
		})
	}
}

// TestMemoryOfAnEvaluation: one that would take all memory there is is stopped long before its time is over, and others are
// answered afterwards.
func TestMemoryOfAnEvaluation(t *testing.T) {
	for name, rules := range map[string]string{
		"many strings": `x := [s | some a in numbers.range(1, 100000); some b in numbers.range(1, 100000); s := sprintf("%0100d-%d", [a, b])]`,
		"many objects": `x := {[a, b]: {"k": a} | some a in numbers.range(1, 100000); some b in numbers.range(1, 100000)}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := loaded(t, opa.Config{MaxMemory: opa.MinMaxMemory, Bundle: files(t, map[string]string{
				"p.rego": "package envoy.authz\nallow if input.attributes.request.http.method == \"GET\"\nallow if count(x) < 0\n" + rules,
			})})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			var a authz.Answer
			err := p.Ask(ctx, question(wire(t, `{"attributes":{"request":{"http":{"method":"POST","path":"/"}}}}`)), &a)
			var fault *authz.Fault
			if !errors.As(err, &fault) || fault.Reason != authz.ReasonProviderMemory || a.Allow || !strings.Contains(err.Error(), "max_memory: 67108864") {
				t.Errorf("%v, %+v", err, a)
			}
			if err := p.Ask(ctx, question(wire(t, `{"attributes":{"request":{"http":{"method":"GET","path":"/"}}}}`)), &a); err != nil || !a.Allow {
				t.Errorf("afterwards %v, %+v", err, a)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	small := loaded(t, opa.Config{Bundle: files(t, map[string]string{"p.rego": "package envoy.authz\nallow := true"}), MaxInputBytes: 100})
	empty, err := opa.New(opa.Config{Bundle: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		p      *opa.Provider
		raw    []byte
		reason authz.Reason
	}{
		{"nothing loaded", empty, wire(t, typical), authz.ReasonProviderNotReady},
		{"too large a request", small, wire(t, typical), authz.ReasonProviderBadRequest},
		{"bytes that are no CheckRequest", rego(t, "allow := input == {}"), []byte("\x0a\xff"), authz.ReasonProviderBadRequest},
		{"a conflict of rules", rego(t, "allow := 1 if true\nallow := 2 if true"), wire(t, typical), authz.ReasonProviderError},
		{"no path", rego(t, "allow if input.parsed_path"), wire(t, `{"attributes":{"request":{"http":{"path":"/%zz"}}}}`), authz.ReasonProviderBadRequest},
	} {
		var a authz.Answer
		var fault *authz.Fault
		if err := tc.p.Ask(t.Context(), question(tc.raw), &a); !errors.As(err, &fault) || fault.Reason != tc.reason || a.Allow {
			t.Errorf("%s: %v, %+v", tc.name, err, a)
		}
	}
}

// TestImpureFunctions: what reaches out of the policy is off unless it is allowed by name.
func TestImpureFunctions(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{
		"http.send":          `allow if http.send({"method": "GET", "url": "http://127.0.0.1:1/"}).status_code == 200`,
		"net.lookup_ip_addr": `allow if count(net.lookup_ip_addr("localhost")) > 0`,
		"opa.runtime":        `allow if opa.runtime().env.PATH`,
	} {
		dir := files(t, map[string]string{"p.rego": "package envoy.authz\n" + rules})
		p, err := opa.New(opa.Config{Bundle: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "undefined function "+name) || !strings.Contains(err.Error(), "p.rego:2:") {
			t.Errorf("%s: %v", name, err)
		}
		if p, err = opa.New(opa.Config{Bundle: dir, AllowBuiltins: []string{name}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Load(t.Context()); err != nil {
			t.Errorf("%s is allowed: %v", name, err)
		}
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	p := loaded(t, opa.Config{
		Name: "coffee", Bundle: files(t, map[string]string{"p.rego": "package envoy.authz\nallow if { print(\"method\", input.attributes.request.http.method); true }"}),
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	var a authz.Answer
	if err := p.Ask(t.Context(), question(wire(t, typical)), &a); err != nil || !a.Allow {
		t.Errorf("%v, %+v", err, a)
	}
	if text := log.String(); !strings.Contains(text, `provider=coffee decision_id=0-0`) || !strings.Contains(text, `text="method GET"`) || !strings.Contains(text, "p.rego:2") {
		t.Error(text)
	}
}
