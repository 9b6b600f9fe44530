package policy

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestLookupKey(t *testing.T) {
	for _, c := range []struct {
		key  string
		row  string
		attr attribute
	}{
		{"source.ip", "source.ip", attribute{kind: attrSourceIP}},
		{"request.headers[X-Role]", "request.headers", attribute{kind: attrHeader, name: "x-role"}},
		{"request.headers[:path]", "request.headers", attribute{kind: attrHeader, name: ":path"}},
		{"request.headers[a[b]]", "request.headers", attribute{kind: attrHeader, name: "a[b]"}},
		{"request.auth.audiences", "request.auth.audiences", attribute{kind: attrClaim, path: []string{"aud"}}},
		{"request.auth.presenter", "request.auth.presenter", attribute{kind: attrClaim, path: []string{"azp"}}},
		{"request.auth.claims[a]", "request.auth.claims", attribute{kind: attrClaim, path: []string{"a"}}},
		{"request.auth.claims[a.b]", "request.auth.claims", attribute{kind: attrClaim, path: []string{"a.b"}}},
		{"request.auth.claims[a][b][c]", "request.auth.claims", attribute{kind: attrClaim, path: []string{"a", "b", "c"}}},
		{"request.auth.claims[[foo]]", "request.auth.claims", attribute{kind: attrClaim, path: []string{"[foo]"}}},
		{"request.auth.claims[a]b[c]", "request.auth.claims", attribute{kind: attrClaim, path: []string{"a]b[c"}}},
		{"experimental.envoy.filters.a.b[c]", "experimental.envoy.filters.", attribute{kind: attrMetadata, name: "envoy.filters.a.b", path: []string{"c"}}},
	} {
		k, attr, err := lookupKey(c.key)
		if err != nil {
			t.Errorf("%s: %v", c.key, err)
			continue
		}
		if k.name != c.row || attr.kind != c.attr.kind || attr.name != c.attr.name || !slices.Equal(attr.path, c.attr.path) {
			t.Errorf("%s: row %s, %+v; want row %s, %+v", c.key, k.name, attr, c.row, c.attr)
		}
	}
}

// TestLookupKeyRefuses has the keys that Istio refuses, and those it should have refused (authorization-policy §2).
func TestLookupKeyRefuses(t *testing.T) {
	for _, key := range []string{
		"", "source", "source.ipp", "source.ip[x]", "source.serviceaccount", "source.user", "request.host", "request.method",
		"request.path", "destination.labels[app]", "destination.namespace", "destination.name", "destination.user",
		"request.headers", "request.headers[]", "request.headers[a", "request.headers[a]b", "request.headersX[a]",
		"request.auth.claims", "request.auth.claims[]", "request.auth.claims[a][", "request.auth.claimsX[a]",
		"experimental.envoy.filters.a", "experimental.envoy.filters.a[]", "experimental.other[a]", strings.Repeat("x", 1000),
	} {
		if k, _, err := lookupKey(key); err == nil {
			t.Errorf("%q: accepted as %s", key, k.name)
		} else if !strings.Contains(err.Error(), "(") {
			t.Errorf("%q: no hint in %v", key, err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"principals", "notPrincipals", "namespaces", "paths", "ports"}
	for word, want := range map[string]string{
		"principal": "principals", "Principals": "principals", "pricnipals": "principals", "notprincipal": "notPrincipals",
		"namespace": "namespaces", "path": "paths", "pahts": "paths", "prots": "ports", "": "", "x": "", "methods": "",
		strings.Repeat("principals", 100): "",
	} {
		if got := nearest(word, words); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

// TestCodesTable keeps the table in order and complete.
func TestCodesTable(t *testing.T) {
	last := ""
	for _, c := range Codes() {
		if c.Code <= last {
			t.Errorf("%s after %s", c.Code, last)
		}
		if c.Title == "" || c.Explanation == "" {
			t.Errorf("%s has no text", c.Code)
		}
		last = c.Code
	}
	if severityOf("WRIT999") != SeverityError {
		t.Error("an unknown code must count as an error")
	}
}

// TestShapes makes sure that no field of a known kind is of a type the decoder does not read.
func TestShapes(t *testing.T) {
	zero := &yaml.Node{Kind: yaml.ScalarNode, Value: "0", Tag: "!!int"}
	for name, shape := range shapes() {
		if len(shape.names) >= 64 {
			t.Errorf("%s has %d fields, a seen set has 64 bits", name, len(shape.names))
		}
		for _, f := range shape.fields {
			fd := f.desc
			if fd.IsMap() {
				if key := fd.MapKey().Kind().String(); key != "string" && key != "uint32" {
					t.Errorf("%s.%s: keys of type %s", name, f.name, key)
				}
				fd = fd.MapValue()
			}
			switch fd.Kind().String() {
			case "string", "bool", "uint32", "uint64", "int32", "double", "enum":
			case "message":
				if f.message != nil {
					continue
				}
				if _, _, known := newObjectDecoder("t", chunk{}, zero).wellKnown(zero, zero, fd.Message().FullName()); !known {
					t.Errorf("%s.%s: type %s", name, f.name, fd.Message().FullName())
				}
			default:
				t.Errorf("%s.%s: type %s", name, f.name, fd.Kind())
			}
		}
	}
}
