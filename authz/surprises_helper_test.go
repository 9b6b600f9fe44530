package authz_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// check is one question as a proxy asks it; the zero value is a plaintext GET / for example.com to port 8080.
type check struct {
	tcp                       bool
	principal                 string
	source                    string
	port                      uint32
	method, path, host, sni   string
	noPath, noHost, emptyHost bool
	headers                   map[string]string
	rawHeaders                []string // name, value, name, value: the encode_raw_headers form
	claims                    claims   // of a token the proxy's caller sent and that was verified
	trustedHops               int
	paths                     extauthz.PathMode
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func address(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// message is what Envoy would send.
func (c check) message() *authv3.CheckRequest {
	port := c.port
	if port == 0 {
		port = 8080
	}
	attributes := &authv3.AttributeContext{
		Source:      &authv3.AttributeContext_Peer{Address: address(or(c.source, "10.0.0.1"), 40000), Principal: c.principal},
		Destination: &authv3.AttributeContext_Peer{Address: address("10.9.0.1", port)},
		TlsSession:  &authv3.AttributeContext_TLSSession{Sni: c.sni},
	}
	if !c.tcp {
		http := &authv3.AttributeContext_HttpRequest{Method: or(c.method, "GET"), Path: or(c.path, "/"), Host: or(c.host, "example.com")}
		if c.noPath {
			http.Path = ""
		}
		if c.noHost || c.emptyHost {
			http.Host = ""
		}
		http.Headers = map[string]string{}
		maps.Copy(http.Headers, c.headers)
		if !c.noHost {
			http.Headers[":authority"] = http.Host
		}
		if len(c.rawHeaders) > 0 {
			http.HeaderMap = &corev3.HeaderMap{}
			for k, v := range http.Headers {
				http.HeaderMap.Headers = append(http.HeaderMap.Headers, &corev3.HeaderValue{Key: k, RawValue: []byte(v)})
			}
			for i := 0; i < len(c.rawHeaders); i += 2 {
				http.HeaderMap.Headers = append(http.HeaderMap.Headers,
					&corev3.HeaderValue{Key: c.rawHeaders[i], RawValue: []byte(c.rawHeaders[i+1])})
			}
			http.Headers = nil
		}
		attributes.Request = &authv3.AttributeContext_Request{Http: http}
	}
	return &authv3.CheckRequest{Attributes: attributes}
}

// claims is a verified token's payload with string claims and lists of strings.
type claims map[string]any

func (c claims) Issuer() string  { s, _ := c["iss"].(string); return s }
func (c claims) Subject() string { s, _ := c["sub"].(string); return s }

func (c claims) Strings(path []string) []string {
	var at any = map[string]any(c)
	for _, p := range path {
		object, _ := at.(map[string]any)
		at = object[p]
	}
	switch v := at.(type) {
	case string:
		return []string{v}
	case []string:
		return v
	}
	return nil
}

// setup is documents in force and the workload they protect.
type setup struct {
	mesh     policy.Mesh
	workload policy.Workload
	docs     []string
	broken   bool // the documents are expected to have errors
}

// decide sends c through decoder and engine, as the server does.
func (s setup) decide(t *testing.T, c check) authz.Decision {
	t.Helper()
	if s.workload.Namespace == "" {
		s.workload = policy.Workload{Namespace: "foo", Labels: map[string]string{"app": "httpbin"}}
	}
	raw, err := proto.Marshal(c.message())
	if err != nil {
		t.Fatal(err)
	}
	var d authz.Decision
	var r policy.Request
	_, err = extauthz.DecodeRequest(raw, extauthz.Options{TrustedHops: c.trustedHops, Paths: c.paths}, &r)
	if refused := new(extauthz.RequestError); errors.As(err, &refused) {
		authz.Deny(&d, refused.Reason, refused.Detail)
		return d
	} else if err != nil {
		t.Fatal(err)
	}
	if c.claims != nil {
		r.Claims = c.claims
	}
	documents := policy.Decode("test.yaml", []byte(strings.Join(s.docs, "---\n")))
	for _, doc := range documents {
		if doc.Broken() && !s.broken {
			t.Fatalf("valid document refused: %v", doc.Problems)
		}
	}
	snap := policy.NewSnapshot(documents, s.mesh)
	bound, err := snap.Resolve(s.workload)
	if err != nil {
		t.Fatal(err)
	}
	(&authz.Engine{}).Decide(t.Context(), snap, bound, &r, &d)
	return d
}

// named is a document; allow and deny are the usual policies of namespace foo with one rule.
func named(namespace, name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: %s, name: %s}\nspec: %s\n",
		namespace, name, spec)
}

func dryRun(name, spec string) string {
	return strings.Replace(named("foo", name, spec), "metadata: {", "metadata: {annotations: {istio.io/dry-run: \"true\"}, ", 1)
}

func allow(rule string) string { return named("foo", "allow", "{action: ALLOW, rules: ["+rule+"]}") }
func deny(rule string) string  { return named("foo", "deny", "{action: DENY, rules: ["+rule+"]}") }

func from(source string) string  { return "{from: [{source: {" + source + "}}]}" }
func to(operation string) string { return "{to: [{operation: {" + operation + "}}]}" }
func when(key, values string) string {
	return "{when: [{key: '" + key + "', " + values + "}]}"
}

// broken reports whether a document with this spec is refused.
func broken(t *testing.T, document string) bool {
	t.Helper()
	docs := policy.Decode("test.yaml", []byte(document))
	if len(docs) != 1 {
		t.Fatalf("decoded to %d documents:\n%s", len(docs), document)
	}
	return docs[0].Broken()
}
