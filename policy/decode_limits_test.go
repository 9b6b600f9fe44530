package policy_test

import (
	"fmt"
	"strings"
	"testing"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

const goodPolicy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: good, namespace: coffee-shop}
spec: {}
`

// TestBounds feeds files that are meant to hurt. Each is refused with a code, and does not take its neighbours along.
func TestBounds(t *testing.T) {
	bomb := "a0: &a0 [x, x]\n"
	for i := 1; i < 30; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	for _, c := range []struct {
		name string
		data string
		want string // code of the first document
	}{
		{"ten megabytes", strings.Repeat("# nothing\n", 1<<20), "WRIT103"},
		{"alias bomb", bomb, "WRIT105"},
		{"alias of itself", "a: &a [*a]\n", "WRIT104"},
		{"merge of itself", "a: &a\n  <<: *a\n", "WRIT104"},
		{"many values", "[" + strings.Repeat("1,", 1<<20) + "1]\n", "WRIT105"},
		{"deep flow", strings.Repeat("[", 65) + strings.Repeat("]", 65), "WRIT104"},
		{"very deep flow", strings.Repeat("[", 500_000), "WRIT101"},
		{"deep block", strings.Repeat("- ", 100) + "x\n", "WRIT104"},
		{"invalid UTF-8", "kind: \xff\n", "WRIT102"},
		{"UTF-16", "\xff\xfek\x00i\x00n\x00d\x00", "WRIT102"},
		{"control character", "kind: \x01\n", "WRIT101"},
		{"tab", "kind: a\nspec:\n\tx: y\n", "WRIT101"},
		{"unknown alias", "kind: *x\n", "WRIT101"},
		{"two JSON values", "{}\n{}\n", "WRIT101"},
		{"list items out of place", "apiVersion: v1\nkind: List\nitems: 3\n", "WRIT122"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs := policy.Decode("f.yaml", []byte(c.data))
			if len(docs) == 0 || !docs[0].Broken() || docs[0].Problems[0].Code != c.want {
				t.Fatalf("got %s, want %s", describeDocuments(docs), c.want)
			}
			if len(c.data) > policy.MaxFileBytes {
				return
			}
			docs = policy.Decode("f.yaml", []byte(goodPolicy+"---\n"+c.data))
			if len(docs) < 2 || docs[0].Broken() || !docs[1].Broken() {
				t.Errorf("a neighbour suffered:\n%s", describeDocuments(docs))
			}
		})
	}
}

func TestManyDocuments(t *testing.T) {
	docs := policy.Decode("f.yaml", []byte(strings.Repeat("---\n"+goodPolicy, policy.MaxDocuments+2)))
	if len(docs) != policy.MaxDocuments+1 {
		t.Fatalf("got %d documents", len(docs))
	}
	last := docs[policy.MaxDocuments]
	if !last.Broken() || last.Problems[0].Code != "WRIT106" || last.Problems[0].Line != policy.MaxDocuments*5+1 {
		t.Errorf("last: %v", last.Problems)
	}
}

func TestManyProblems(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "  x%d: y\n", i)
	}
	d := policy.Decode("f.yaml", []byte(b.String()))[0]
	if n := len(d.Problems); n > 101 {
		t.Fatalf("%d problems", n)
	}
	if last := d.Problems[len(d.Problems)-1]; last.Code != "WRIT107" || last.Severity != policy.SeverityError {
		t.Errorf("last: %v", last)
	}
}

// TestNothingToRead has files without a document.
func TestNothingToRead(t *testing.T) {
	for _, data := range []string{"", "\n", "\ufeff", "# a\n---\n# b\n...\n", "---\n---\n", "~\n", "%YAML 1.2\n---\n"} {
		if docs := policy.Decode("f.yaml", []byte(data)); len(docs) != 0 {
			t.Errorf("%q: %s", data, describeDocuments(docs))
		}
	}
}

// TestByteOrderMark shows that a mark at the start of the file is no part of it, and that Decode keeps no reference to
// its argument.
func TestByteOrderMark(t *testing.T) {
	data := []byte("\ufeff" + goodPolicy)
	d := policy.Decode("f.yaml", data)[0]
	clear(data)
	if d.Broken() || d.Line != 1 {
		t.Fatalf("line %d: %v", d.Line, d.Problems)
	}
	if line, column := d.Position("metadata.name"); line != 3 || column != 18 {
		t.Errorf("metadata.name at %d:%d, want 3:18", line, column)
	}
}

// TestReach shows what a broken policy still says of whom it is for.
func TestReach(t *testing.T) {
	const head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: p\n  namespace: shop\n"
	for _, c := range []struct {
		name, data string
		object     policy.Object
		action     securityv1beta1.AuthorizationPolicy_Action
		labels     map[string]string
	}{
		{
			"syntax", head + "spec:\n  selector:\n    matchLabels:\n      app: x\n      \"tier\": 'y' # z\n  action: DENY\n  rules: [\n",
			policy.Object{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p"},
			securityv1beta1.AuthorizationPolicy_DENY, map[string]string{"app": "x", "tier": "y"},
		},
		{
			"unknown field", head + "spec:\n  selector:\n    matchLabels: {app: x}\n  action: CUSTOM\n  rulez: []\n",
			policy.Object{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p"},
			securityv1beta1.AuthorizationPolicy_CUSTOM, map[string]string{"app": "x"},
		},
		{
			"bad indentation", strings.Replace(head, "kind", " kind", 1) + "spec:\n  action: AUDIT\n",
			policy.Object{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p"},
			securityv1beta1.AuthorizationPolicy_AUDIT, nil,
		},
		{
			"JSON in lines", "{\n  \"apiVersion\": \"security.istio.io/v1\",\n  \"kind\": \"AuthorizationPolicy\",\n  \"metadata\": {\n    \"name\": \"p\",\n    \"namespace\": \"shop\"\n  },\n  \"spec\": {\n    \"action\": \"DENY\",\n    \"selector\": {\"matchLabels\": {}},\n",
			policy.Object{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p"},
			securityv1beta1.AuthorizationPolicy_DENY, nil,
		},
		{
			"flow metadata", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rules: [}\n",
			policy.Object{Kind: "AuthorizationPolicy", Namespace: "shop", Name: "p"},
			securityv1beta1.AuthorizationPolicy_ALLOW, nil,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs := policy.Decode("f.yaml", []byte(c.data))
			if len(docs) != 1 || !docs[0].Broken() {
				t.Fatal(describeDocuments(docs))
			}
			d := docs[0]
			if d.Object != c.object {
				t.Errorf("object %+v, want %+v", d.Object, c.object)
			}
			spec, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy)
			if !ok {
				t.Fatalf("spec is %T", d.Spec)
			}
			if spec.GetAction() != c.action {
				t.Errorf("action %v, want %v", spec.GetAction(), c.action)
			}
			if got := spec.GetSelector().GetMatchLabels(); fmt.Sprint(got) != fmt.Sprint(c.labels) {
				t.Errorf("labels %v, want %v", got, c.labels)
			}
		})
	}
}

// FuzzDecode demands that whatever is read, nothing panics, every broken document says why and where, and every place
// lies in the file.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(goodPolicy))
	f.Add([]byte(goodPolicy + "---\n{\"kind\": \"List\", \"apiVersion\": \"v1\", \"items\": [{}, null, &a [*a]]}\n"))
	f.Add([]byte("a: &a\n  <<: [*a, {b: c}]\n? [x]\n: y\n"))
	f.Add([]byte("apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nspec: {probe: {exec: {}, grpc: {port: 010}}}\n"))
	f.Add([]byte("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nspec: {jwtRules: [null, {timeout: 1h, jwks: '{}'}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 3*strings.Count(string(data), "\u2028") +
			strings.Count(string(data), "\u2029") + strings.Count(string(data), "\u0085") + 2
		for _, d := range policy.Decode("f.yaml", data) {
			if d.Broken() && len(d.Problems) == 0 {
				t.Errorf("broken without a problem: %+v", d)
			}
			if !d.Broken() && !d.Ignored && (d.Name == "" || d.Namespace == "" || d.Spec == nil) {
				t.Errorf("good without name, namespace or spec: %+v", d)
			}
			for _, p := range d.Problems {
				if p.Message == "" || p.Line < 1 || p.Column < 1 || p.Line > lines {
					t.Errorf("problem %+v, file of %d lines", p, lines)
				}
				if line, _ := d.Position(p.Field); line < 1 || line > lines {
					t.Errorf("position of %q is line %d of %d", p.Field, line, lines)
				}
			}
		}
	})
}
