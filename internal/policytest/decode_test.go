package policytest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/policytest"
)

const head = "apiVersion: writ.dev/v1alpha1\nkind: PolicyTest\n"

// suites reads a file that must be right.
func suites(t testing.TB, text string) []policytest.Suite {
	t.Helper()
	s, problems := policytest.Decoder{}.Decode("dir/a_test.yaml", []byte(text))
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return s
}

func TestDecodeExpandsMatrices(t *testing.T) {
	t.Parallel()
	s := suites(t, head+`
workloads: {web: {namespace: shop, labels: {app: web}}, db: {namespace: shop, labels: {}}}
defaults:
  providers: {a: allow}
  request:
    headers: {X-One: "1", x-two: [a, b]}
    unverified_claims: {iss: i, sub: alice}
tests:
- name: many
  request: {to: web, headers: {x-two: [], x-three: c}}
  providers: {b: deny}
  matrix:
    from: [shop/a, '']
    unverified_claims: [null, {sub: null, groups: [x]}, {groups: [x], sub: null}]
  expect: {decision: DENY}
- name: one
  request: {to: {namespace: other, service_account: api}, path: "/a?b", method: PUT}
  expect: {status: 403}
---
`+head+"name: second\ntests:\n- {name: it, request: {to: shop/x, tcp: true, port: 5432}, expect: {layer: default}}\n")
	var names []string
	for _, c := range s[0].Cases {
		names = append(names, c.ID())
	}
	want := []string{
		"a/many [from=shop/a unverified_claims=none]", `a/many [from=shop/a unverified_claims={"groups":["x"],"sub":null}]`,
		`a/many [from=shop/a unverified_claims={"groups":["x"],"sub":null} #3]`,
		"a/many [from='' unverified_claims=none]", `a/many [from='' unverified_claims={"groups":["x"],"sub":null}]`,
		`a/many [from='' unverified_claims={"groups":["x"],"sub":null} #3]`, "a/one",
	}
	if !slices.Equal(names, want) {
		t.Errorf("names %q", names)
	}
	first, other := s[0].Cases[1], s[0].Cases[6]
	if h := first.Request.Headers; len(h) != 2 || h[0].Name != "x-one" || h[1].Name != "x-three" {
		t.Errorf("headers %v", h)
	}
	if c := first.Request.Claims; len(c) != 2 || c["iss"] != "i" || s[0].Cases[0].Request.Claims != nil {
		t.Errorf("claims %v", c)
	}
	if len(first.Providers) != 2 || len(other.Providers) != 1 || len(other.Request.Headers) != 3 {
		t.Errorf("%v, %v, %v", first.Providers, other.Providers, other.Request.Headers)
	}
	if got := other.Request.String(); got != "PUT /a?b from a caller without a certificate to other/api" {
		t.Errorf("%q", got)
	}
	if got := s[1].Cases[0].Request.String(); s[1].Name != "second" || got != "TCP connection, port 5432, from a caller without a certificate to shop/x" {
		t.Errorf("%q of %q", got, s[1].Name)
	}
	if p := s[0].Paths(); !slices.Equal(p, []string{"dir"}) {
		t.Errorf("paths %q", p)
	}
}

// TestDecodeRefuses: what cannot be meant is a problem with its place, and nothing of the file is run.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	const rest = "\ntests:\n- {name: n, request: {to: a/b}, expect: {decision: DENY}}\n"
	one := func(test string) string { return head + "tests:\n- " + test + "\n" }
	for _, tc := range []struct{ name, text, want string }{
		{"another kind", "apiVersion: v1\nkind: ConfigMap\ndata: {}\n", `dir/a_test.yaml:1:1: want apiVersion: writ.dev/v1alpha1 and kind: PolicyTest, not "v1" and "ConfigMap"`},
		{"no object", "- a\n", `dir/a_test.yaml:1:1: want apiVersion`},
		{"no YAML", head + "tests: [\n", "dir/a_test.yaml:4:1: no valid YAML: "},
		{"no tests", head, "dir/a_test.yaml:1:1: tests: missing: a file without tests would pass"},
		{"no list of tests", head + "tests: {}\n", "dir/a_test.yaml:3:8: tests: want a list, not keys and values"},
		{"an unknown key", head + "test: []" + rest, "dir/a_test.yaml:3:1: test: unknown key (known: apiVersion"},
		{"a key twice", head + "name: a\nname: b" + rest, "dir/a_test.yaml:4:1: name: given twice, first on line 3"},
		{"an anchor", head + "name: &a b" + rest, "dir/a_test.yaml:3:7: name: anchors and aliases"},
		{"an alias", one("{name: n, request: &r {to: a/b}, expect: {decision: DENY}}"), "tests[0].request: anchors and aliases"},
		{"empty policies", head + "policies: []" + rest, "policies: names nothing"},
		{"a workload without namespace", head + "workloads: {w: {labels: {a: b}}}" + rest, "workloads.w.namespace: missing"},
		{"no name", one("{request: {to: a/b}, expect: {decision: DENY}}"), "tests[0].name: missing"},
		{"the same name", head + strings.TrimPrefix(rest, "\n") + "- {name: n, request: {to: a/b}, expect: {decision: DENY}}\n", `dir/a_test.yaml:5:3: tests[1]: "a/n" is the name of another test, on line 4`},
		{"no workload", one("{name: n, expect: {decision: DENY}}"), `"n": whom is the request for?`},
		{"an unknown workload", one("{name: n, request: {to: web}, expect: {decision: DENY}}"), `tests[0].request.to: "web": no workload of this name`},
		{"no expectation", one("{name: n, request: {to: a/b}}"), "tests[0].expect: missing"},
		{"an empty expectation", one("{name: n, request: {to: a/b}, expect: {}}"), "tests[0].expect: expects nothing"},
		{"an unknown decision", one("{name: n, request: {to: a/b}, expect: {decision: UNKNOWN}}"), `"UNKNOWN": want ALLOW, DENY`},
		{"an unknown layer", one("{name: n, request: {to: a/b}, expect: {layer: rbac}}"), `"rbac": want system, `},
		{"a status that is none", one("{name: n, request: {to: a/b}, expect: {status: 99}}"), `"99": want a whole number from 200 to 599`},
		{"a policy without namespace", one("{name: n, request: {to: a/b}, expect: {policy: p}}"), `"p": want namespace/name of a policy, or none`},
		{"a negative rule", one("{name: n, request: {to: a/b}, expect: {rule: -1}}"), `"-1": want a whole number`},
		{"a caller without namespace", one("{name: n, request: {to: a/b, from: x}, expect: {decision: DENY}}"), `"x": want spiffe://`},
		{"an address that is none", one("{name: n, request: {to: a/b, source_ip: here}, expect: {decision: DENY}}"), `"here": want an IPv4 or IPv6 address`},
		{"a pseudo header", one(`{name: n, request: {to: a/b, headers: {":path": /}}, expect: {decision: DENY}}`), "want the name of a header"},
		{"a header of keys", one(`{name: n, request: {to: a/b, headers: {x: {y: z}}}, expect: {decision: DENY}}`), "want text, not keys and values"},
		{"a matrix of an unknown key", one("{name: n, request: {to: a/b}, matrix: {verb: [GET]}, expect: {decision: DENY}}"), "tests[0].matrix.verb: unknown key"},
		{"an empty side", one("{name: n, request: {to: a/b}, matrix: {path: []}, expect: {decision: DENY}}"), "an empty list would leave no test"},
		{"a side with a mistake, said once", one("{name: n, request: {to: a/b}, matrix: {path: [/a, /b], port: [x]}, expect: {decision: DENY}}"), `tests[0].matrix.port[0]: "x": want a whole number`},
		{"HTTP over TCP", one("{name: n, request: {to: a/b, tcp: true, host: h}, expect: {decision: DENY}}"), "a TCP connection has no method, path, host, headers and token"},
		{"a path over TCP", one("{name: n, request: {to: a/b, tcp: true, path: /x}, expect: {decision: DENY}}"), "a TCP connection has no method, path,"},
		{"a method over TCP, of a matrix", one("{name: n, request: {to: a/b, tcp: true}, matrix: {method: [GET]}, expect: {decision: DENY}}"), "a TCP connection has no method, path,"},
		{"a mistake in several combinations, said once", one("{name: n, request: {to: a/b, tcp: true}, matrix: {port: [1, 2, 3], headers: [{x: y}, {z: y}]}, expect: {decision: DENY}}"), "a TCP connection has no method, path,"},
		{"an empty method", one("{name: n, request: {to: a/b, method: ''}, expect: {decision: DENY}}"), "tests[0].request.method: empty: leave it out for GET"},
		{"a header of two lines", one(`{name: n, request: {to: a/b, headers: {x: "a\nb"}}, expect: {decision: DENY}}`), `"a\nb": the value of a header is one line`},
		{"a blank name", one("{name: ' ', request: {to: a/b}, expect: {decision: DENY}}"), "tests[0].name: missing"},
		{"a suite without a name", head + "name: ''" + rest, "dir/a_test.yaml:1:1: name: empty: leave it out for the name of the file"},
		{"claims that are none", one("{name: n, request: {to: a/b, unverified_claims: alice}, expect: {decision: DENY}}"), `unverified_claims: want keys and values, not "alice"`},
		{"a time that is text", one("{name: n, request: {to: a/b, unverified_claims: {exp: soon}}, expect: {decision: DENY}}"), "unverified_claims.exp: want seconds since 1970"},
		{"a token that depends on the clock", one("{name: n, request: {to: a/b, unverified_claims: {exp: 1}}, expect: {decision: DENY}}"), "the test would not stay true: write time:"},
		{"two tokens", one("{name: n, request: {to: a/b, headers: {authorization: x}, unverified_claims: {}}, expect: {decision: DENY}}"), "say the same"},
		{"a time that is none", one("{name: n, time: later, request: {to: a/b}, expect: {decision: DENY}}"), `"later": want a time such as`},
		{"an answer that is none", one("{name: n, providers: {p: perhaps}, request: {to: a/b}, expect: {decision: DENY}}"), `"perhaps": want allow, deny, error`},
		{"metadata that is flat", one("{name: n, request: {to: a/b, metadata: {x: y}}, expect: {decision: DENY}}"), "metadata.x: want the keys and values of a filter"},
		{"a matrix without end", one("{name: n, request: {to: a/b}, matrix: {path: [" + strings.Repeat("/a,", 400) + "/b], method: [" + strings.Repeat("A,", 400) + "B]}, expect: {decision: DENY}}"),
			"more than 100000: split it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := policytest.Decoder{Suggest: func(_ string, known []string) string { return " (known: " + strings.Join(known, ", ") + ")" }}
			got, problems := d.Decode("dir/a_test.yaml", []byte(tc.text))
			if len(got) > 0 || len(problems) == 0 {
				t.Fatalf("%v, %v", got, problems)
			}
			n := 0
			for _, p := range problems {
				if strings.Contains(p.Error(), tc.want) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d of %q say %q", n, problems, tc.want)
			}
		})
	}
}

// TestDecodeTCP: what the defaults say of requests does not keep a test from being about a connection.
func TestDecodeTCP(t *testing.T) {
	t.Parallel()
	s := suites(t, head+"defaults: {request: {to: a/b, method: POST, path: /x}}\ntests:\n- {name: n, request: {tcp: true}, expect: {decision: DENY}}\n")
	if got := s[0].Cases[0].Request.String(); got != "TCP connection from a caller without a certificate to a/b" {
		t.Errorf("%s", got)
	}
}

func TestDecodeBounds(t *testing.T) {
	t.Parallel()
	_, problems := policytest.Decoder{}.Decode("a_test.yaml", make([]byte, policytest.MaxFileBytes+1))
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "split the file") {
		t.Errorf("%v", problems)
	}
	if s, problems := (policytest.Decoder{}).Decode("a_test.yaml", []byte("# nothing\n---\n")); s != nil || problems != nil {
		t.Errorf("an empty file: %v, %v", s, problems)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(head + "tests:\n- {name: n, request: {to: a/b}, matrix: {path: [/a, /b]}, expect: {decision: DENY}}\n"))
	f.Add([]byte(head + "defaults: {request: {unverified_claims: {a: [1, {b: c}]}}}\ntests: [{name: x}]\n"))
	f.Add([]byte("a: &a [*a, *a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, problems := policytest.Decoder{}.Decode("f_test.yaml", data)
		if len(problems) > 0 && s != nil {
			t.Errorf("suites in spite of %v", problems)
		}
	})
}
