package opa_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
)

// TestInputIsProtobufJSON compares the members of the CheckRequest with what protobuf's own JSON has for it.
func TestInputIsProtobufJSON(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":            `{}`,
		"empty attributes": `{"attributes":{}}`,
		"typical":          typical,
		"every kind of value": `{"attributes":{
			"source":{"address":{"pipe":{"path":"/run/x.sock","mode":420}},"service":"s","labels":{"b":"2","a":"1"},"principal":"p","certificate":"c%0A"},
			"destination":{"address":{"envoyInternalAddress":{"serverListenerName":"l","endpointId":"e"}}},
			"request":{"time":"1969-12-31T23:59:59.000000001Z","http":{"size":"9223372036854775807","body":"ü","rawBody":"AAEC/w==","fragment":"f","query":"q",
				"headerMap":{"headers":[{"key":"a","rawValue":"gQ=="},{"key":"a","value":"b"}]}}},
			"metadataContext":{"filterMetadata":{"n":{"null":null,"t":true,"f":false,"num":1.5,"int":7,"big":1e300,"neg":-3,"s":"x","l":[1,"2",[],{}],"o":{"deep":{"er":[null]}},"":""}},
				"typedFilterMetadata":{"any":{"@type":"type.googleapis.com/google.protobuf.Duration","value":"1.5s"}}},
			"tlsSession":{"sni":"é"}}}`,
		"socket address with everything": `{"attributes":{"source":{"address":{"socketAddress":{"protocol":"UDP","address":"::1","namedPort":"http","resolverName":"r","ipv4Compat":true}}}}}`,
		"port zero":                      `{"attributes":{"source":{"address":{"socketAddress":{"address":"::1","portValue":0}}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			compareInput(t, wire(t, text))
		})
	}
}

// TestInputMerges: parts of one message that are written apart are one, and the last of two values counts, as protobuf has
// it.
func TestInputMerges(t *testing.T) {
	t.Parallel()
	a := wire(t, `{"attributes":{"source":{"principal":"a","labels":{"x":"1"}},"request":{"http":{"method":"GET","headers":{"h":"1","i":"1"}}}}}`)
	b := wire(t, `{"attributes":{"source":{"principal":"b","labels":{"x":"2"}},"request":{"http":{"path":"/","headers":{"h":"2"}}}}}`)
	compareInput(t, append(a, b...))
	pipe := wire(t, `{"attributes":{"source":{"address":{"pipe":{"path":"p"}}}}}`)
	socket := wire(t, `{"attributes":{"source":{"address":{"socketAddress":{"address":"::1","portValue":1}}}}}`)
	compareInput(t, append(pipe, socket...))
}

func compareInput(t *testing.T, raw []byte) {
	t.Helper()
	request := new(authv3.CheckRequest)
	if err := proto.Unmarshal(raw, request); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	decode(t, text, &want)
	got := input(t, question(raw))
	for _, ours := range []string{"parsed_path", "parsed_query", "parsed_body", "truncated_body", "version", "writ"} {
		if _, ok := got[ours]; !ok {
			t.Errorf("%s is missing", ours)
		}
		delete(got, ours)
	}
	if _, raw := lookup(want, "attributes", "request", "http", "headerMap"); raw { // see TestRawHeaders
		http, _ := lookup(got, "attributes", "request", "http")
		delete(http.(map[string]any), "headers")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-protobuf JSON +input:\n%s", diff)
	}
}

func lookup(v any, path ...string) (any, bool) {
	for _, name := range path {
		m, _ := v.(map[string]any)
		if v = m[name]; v == nil {
			return nil, false
		}
	}
	return v, true
}

func decode(t testing.TB, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// input is the whole input of a question, as JSON has it.
func input(t testing.TB, q *authz.Question) map[string]any {
	t.Helper()
	v, err := opa.Input(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return plain(t, v)
}

func plain(t testing.TB, v ast.Value) map[string]any {
	t.Helper()
	converted, err := ast.JSON(v)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(converted)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	decode(t, text, &m)
	return m
}

// TestRawHeaders: policies find headers in headers also when the proxy sends them raw.
func TestRawHeaders(t *testing.T) {
	t.Parallel()
	in := input(t, question(wire(t, `{"attributes":{"request":{"http":{"headerMap":{"headers":[
		{"key":"a","rawValue":"MQ=="},{"key":"b","value":"2"},{"key":"a","rawValue":"Mw=="},{"key":"bad","rawValue":"eIF5"}]}}}}}`)))
	got, _ := lookup(in, "attributes", "request", "http", "headers")
	if diff := cmp.Diff(map[string]any{"a": "1,3", "b": "2", "bad": "x!y"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParsedPathAndQuery(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"":                            `{"path":[""],"query":{}}`,
		"/":                           `{"path":[""],"query":{}}`,
		"/a/b":                        `{"path":["a","b"],"query":{}}`,
		"/a//b/":                      `{"path":["a","","b",""],"query":{}}`,
		"//a":                         `{"path":[""],"query":{}}`, // a is an authority, as the plugin's parser has it
		"/a%2Fb/c%20d":                `{"path":["a","b","c d"],"query":{}}`,
		"/a?x=1&y=2&x=3&z&w=%20;":     `{"path":["a"],"query":{"x":["1","3"],"y":["2"],"z":[""]}}`,
		"/a?lang=hawaiian&lang=ko%20": `{"path":["a"],"query":{"lang":["hawaiian","ko "]}}`,
	} {
		raw := wire(t, `{"attributes":{"request":{"http":{"method":"GET","path":`+quote(path)+`}}}}`)
		in := input(t, question(raw))
		var expected map[string]any
		decode(t, []byte(want), &expected)
		if diff := cmp.Diff(expected, map[string]any{"path": in["parsed_path"], "query": in["parsed_query"]}); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestParsedBody(t *testing.T) {
	t.Parallel()
	const form = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b\r\nContent-Disposition: form-data; name=\"j\"\r\n" +
		"Content-Type: application/json\r\n\r\n{\"x\":[1]}\r\n--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n2\r\n" +
		"--b\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--b--\r\n"
	for _, tc := range []struct {
		name, kind, length, body string
		want                     string // parsed_body as JSON, or "truncated", or "refused"
	}{
		{"no content type", "", "", `{"a":1}`, "null"},
		{"JSON", "application/json", "", `{"a":[1,2.5,"x",null,true]}`, `{"a":[1,2.5,"x",null,true]}`},
		{"JSON with a character set", "application/json; charset=utf-8", "7", `{"a":1}`, `{"a":1}`},
		{"JSON, not an object", "application/json", "", `"x"`, `"x"`},
		{"empty JSON", "application/json", "0", "", "null"},
		{"no JSON", "application/json", "", `{"a":`, "refused"},
		{"two values", "application/json", "", `{} {}`, "refused"},
		{"deep JSON", "application/json", "", strings.Repeat("[", 10_000), "refused"},
		{"truncated", "application/json", "100", `{"a":`, "truncated"},
		{"length unknown", "application/json", "-1", `{"a":1}`, `{"a":1}`},
		{"length no number", "application/json", "x", `{"a":1}`, "refused"},
		{"form", "application/x-www-form-urlencoded", "", "a=1&b=%20&a=2", `{"a":["1","2"],"b":[" "]}`},
		{"bad form", "application/x-www-form-urlencoded", "", "a=%zz", "refused"},
		{"truncated form", "application/x-www-form-urlencoded", "100", "a=1", "truncated"},
		{"multipart", "multipart/form-data; boundary=b", "", form, `{"a":["1","2"],"j":[{"x":[1]}]}`},
		{"multipart without boundary", "multipart/form-data", "", form, "null"},
		{"multipart cut off", "multipart/form-data; boundary=b", "", form[:strings.Index(form, "\r\n--b\r\n")], "refused"},
		{"gRPC", "application/grpc", "", "\x00\x00\x00\x00\x00", "null"},
		{"text", "text/plain", "", "x", "null"},
	} {
		for _, field := range []string{"body", "rawBody"} {
			t.Run(tc.name+", "+field, func(t *testing.T) {
				t.Parallel()
				request := new(authv3.CheckRequest)
				http := &authv3.AttributeContext_HttpRequest{Method: "POST", Path: "/", Headers: map[string]string{}}
				request.Attributes = &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}
				if tc.kind != "" {
					http.Headers["content-type"] = tc.kind
				}
				if tc.length != "" {
					http.Headers["content-length"] = tc.length
				}
				if field == "body" {
					http.Body = tc.body
				} else {
					http.RawBody = []byte(tc.body)
				}
				raw, err := proto.Marshal(request)
				if err != nil {
					t.Fatal(err)
				}
				v, err := opa.Input(t.Context(), question(raw))
				var fault *authz.Fault
				if tc.want == "refused" {
					if !errors.As(err, &fault) || fault.Reason != authz.ReasonProviderBadRequest {
						t.Errorf("%v, %v", v, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				in := plain(t, v)
				var want any
				if tc.want != "truncated" {
					decode(t, []byte(tc.want), &want)
				}
				if diff := cmp.Diff(want, in["parsed_body"]); diff != "" || in["truncated_body"] != (tc.want == "truncated") {
					t.Errorf("truncated %v: %s", in["truncated_body"], diff)
				}
			})
		}
	}
}

func TestInputWrit(t *testing.T) {
	t.Parallel()
	q := question(wire(t, typical))
	in := input(t, q)
	var want any
	decode(t, []byte(`{"identity":{"principal":"spiffe://cluster.local/ns/shop/sa/gateway","trust_domain":"cluster.local","namespace":"shop","service_account":"gateway"},
		"claims":null,"workload":{"namespace":"shop","name":"menu-1","service_account":"menu","labels":{"app":"menu"}},
		"policy":"shop/hours","rule":2,"provider":"opa","decision_id":"0-0"}`), &want)
	if diff := cmp.Diff(want, in["writ"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"ext_authz": "v3", "encoding": "protojson"}, in["version"]); diff != "" {
		t.Error(diff)
	}
	for name, identity := range map[string]string{
		"":                          "null",
		"spiffe://td/vm/1":          `{"principal":"spiffe://td/vm/1","trust_domain":"td"}`,
		"spiffe://td/ns/a/sa/b/c":   `{"principal":"spiffe://td/ns/a/sa/b/c","trust_domain":"td"}`,
		"CN=somebody,O=without URI": "null",
	} {
		q.Request.Names = []string{name}
		var want any
		decode(t, []byte(identity), &want)
		got, _ := lookup(input(t, q), "writ", "identity")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestInputIsWhatPoliciesMention: leaving out what policies do not mention never changes an answer, and what a policy may
// reach in any way is there.
func TestInputIsWhatPoliciesMention(t *testing.T) {
	t.Parallel()
	whole := input(t, question(wire(t, typical)))
	for name, tc := range map[string]struct{ rules, want string }{
		"one header":           {`allow if input.attributes.request.http.headers["x-request-id"] == "f8829f87-699e-4949-b1db-d78ccc345b44"`, `{"attributes":{"request":{"http":{"headers":{"x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}}}}`},
		"an import":            {"import input.attributes.request.http as http_request\nallow if http_request.method == \"GET\"", `{"attributes":{"request":{"http":{"method":"GET"}}}}`},
		"part of the path":     {`allow if input.parsed_path[0] == "api"`, `{"parsed_path":["api","v1","menu"]}`},
		"a local variable":     {`allow if { r := input.attributes.request; r.http.host == "shop.example.com" }`, ""},
		"the whole input":      {`allow if count(input) > 3`, ""},
		"walked through":       {`allow if { some p, v; walk(input, [p, v]); v == "GET" }`, ""},
		"an unknown name":      {`allow if { some k; input[k].request.http.method == "GET" }`, ""},
		"object.get":           {`allow if object.get(input, ["attributes", "request", "http", "method"], "") == "GET"`, ""},
		"a function":           {"get(x) := x.attributes.request.http.method\nallow if get(input) == \"GET\"", ""},
		"inside a reference":   {`allow if {"GET": true}[input.attributes.request.http.method]`, `{"attributes":{"request":{"http":{"method":"GET"}}}}`},
		"a reference by input": {`allow if input.attributes.request.http.headers[input.writ.policy] == "x"` + "\nallow if input.parsed_path[0] == \"api\"", ""},
		"a comprehension":      {`allow if count([v | some v in input.attributes.request.http.headers]) == 12`, ""},
		"with":                 {"m if input.attributes.request.http.method == \"PUT\"\nallow if m with input.attributes.request.http.method as \"PUT\"", `{"attributes":{"request":{"http":{"method":"GET"}}}}`},
		"with the whole input": {"m if input.attributes.request.http.method == \"PUT\"\nallow if m with input as {\"attributes\": {\"request\": {\"http\": {\"method\": \"PUT\"}}}}", ""},
		"nothing":              {`allow := true`, `{}`},
		"every":                {`allow if every k, v in input.attributes.contextExtensions { startswith(k, "writ."); v != "" }`, `{"attributes":{"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=open"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := rego(t, tc.rules)
			q := question(wire(t, typical))
			var a authz.Answer
			if err := p.Ask(t.Context(), q, &a); err != nil || !a.Allow {
				t.Errorf("not allowed: %v %+v", err, a)
			}
			v, err := p.InputFor(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			part := plain(t, v)
			if tc.want != "" {
				var want map[string]any
				decode(t, []byte(tc.want), &want)
				if diff := cmp.Diff(want, part); diff != "" {
					t.Error(diff)
				}
			}
			if !within(part, whole) {
				t.Errorf("%v is no part of the whole input", part)
			}
		})
	}
}

// within reports whether part is whole, or whole without some members.
func within(part, whole any) bool {
	p, ok := part.(map[string]any)
	w, both := whole.(map[string]any)
	if !ok || !both {
		return cmp.Equal(part, whole)
	}
	for name, v := range p {
		if other, ok := w[name]; !ok || !within(v, other) {
			return false
		}
	}
	return true
}

// FuzzInput: whatever comes is an input or an error, and what protobuf takes is shown as protobuf shows it.
func FuzzInput(f *testing.F) {
	for _, text := range []string{`{}`, typical} {
		f.Add(wire(f, text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := opa.Input(context.Background(), question(raw))
		if err != nil {
			return
		}
		request := new(authv3.CheckRequest)
		if proto.Unmarshal(raw, request) != nil {
			return // bytes that are not UTF-8 and the like
		}
		got := plain(t, v)
		text, err := protojson.Marshal(request)
		if err != nil {
			return // an Any of a type that is not known
		}
		var want map[string]any
		decode(t, text, &want)
		if method, ok := lookup(want, "attributes", "request", "http", "method"); ok {
			if m, _ := lookup(got, "attributes", "request", "http", "method"); m != method {
				t.Errorf("method %v, want %v", m, method)
			}
		}
	})
}
