package policy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// decodeGood decodes one document that must be without errors.
func decodeGood(t *testing.T, data string) *policy.Document {
	t.Helper()
	docs := policy.Decode("f.yaml", []byte(data))
	if len(docs) != 1 || docs[0].Broken() {
		t.Fatalf("want one good document, got\n%s", describeDocuments(docs))
	}
	return docs[0]
}

func authorizationPolicy(t *testing.T, spec string) *securityv1beta1.AuthorizationPolicy {
	t.Helper()
	d := decodeGood(t, "apiVersion: security.istio.io/v1beta1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: "+spec)
	p, ok := d.Spec.(*securityv1beta1.AuthorizationPolicy)
	if !ok {
		t.Fatalf("spec is %T", d.Spec)
	}
	return p
}

// TestSameMeaning has spellings of one policy.
func TestSameMeaning(t *testing.T) {
	want := authorizationPolicy(t, `{action: DENY, rules: [{from: [{source: {notIpBlocks: ["10.0.0.0/8"]}}]}]}`)
	for name, spec := range map[string]string{
		"snake case":     `{action: DENY, rules: [{from: [{source: {not_ip_blocks: ["10.0.0.0/8"]}}]}]}`,
		"enum by number": `{action: 1, rules: [{from: [{source: {notIpBlocks: [10.0.0.0/8]}}]}]}`,
		"JSON":           "\t{\"action\":\"DENY\",\n\t\"rules\":[{\"from\":[{\"source\":{\"notIpBlocks\":[\"10.0.0.0\\/8\"]}}]}]}\n",
		"block":          "\n  action: 'DENY'\n  rules:\n  - from:\n    - source:\n        notIpBlocks:\n        - !!str 10.0.0.0/8 # comment\n",
		"alias":          "\n  rules:\n  - from:\n    - source: {notIpBlocks: [&net 10.0.0.0/8]}\n  action: DENY\n",
		"merge":          "\n  <<: {action: DENY, rules: [{}]}\n  rules: [{from: [{source: {<<: [{notIpBlocks: [10.0.0.0/8]}, {notIpBlocks: [x]}]}}]}]\n",
		"nulls":          `{action: DENY, provider: null, selector: ~, rules: [{to: , when: null, from: [{source: {ipBlocks: ~, notIpBlocks: [10.0.0.0/8]}}]}]}`,
		"empty lists":    `{action: DENY, rules: [{to: [], when: [], from: [{source: {ipBlocks: [], notIpBlocks: [10.0.0.0/8]}}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got := authorizationPolicy(t, spec); !proto.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestNullRule shows that a null rule is an empty rule, which matches everything (authorization-policy §1.1, §12 row 3),
// and that no rules at all are fine for ALLOW.
func TestNullRule(t *testing.T) {
	p := authorizationPolicy(t, "{rules: [null]}")
	if len(p.GetRules()) != 1 || p.GetRules()[0] == nil || len(p.GetRules()[0].GetFrom()) != 0 {
		t.Errorf("rules: %v", p.GetRules())
	}
	for _, spec := range []string{"{}", "", "{rules: []}", "{rules: null}"} {
		if p := authorizationPolicy(t, spec); len(p.GetRules()) != 0 {
			t.Errorf("%s: rules: %v", spec, p.GetRules())
		}
	}
}

// TestTexts has unquoted values that look like something else and are text in YAML 1.1 too.
func TestTexts(t *testing.T) {
	values := []string{"nO", "yEs", "truE", "1.2.3", "10.0.0.1", "2026-01-01", "0x", "1_a", "12e", "n/a", "+1.2.3", "1:20", "<<", "=", "yess", "nullable", "é"}
	p := authorizationPolicy(t, "{rules: [{to: [{operation: {hosts: ["+strings.Join(values, ", ")+"]}}]}]}")
	if got := p.GetRules()[0].GetTo()[0].GetOperation().GetHosts(); strings.Join(got, " ") != strings.Join(values, " ") {
		t.Errorf("got %q, want %q", got, values)
	}
}

// TestNotTexts has unquoted values that YAML 1.1, and so Istio, does not take for text.
func TestNotTexts(t *testing.T) {
	for _, v := range []string{
		"y", "Y", "yes", "Yes", "YES", "n", "N", "no", "on", "On", "off", "OFF", "true", "False", "1", "-1", "+1", "010", "0o7", "0x1F", "0b1",
		"1_000", "1.5", ".5", "1.", "1e3", "-1.5E-3", ".inf", "-.Inf", ".nan", "18446744073709551615", "!!binary aGk=", "!x y",
	} {
		data := "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {rules: [{to: [{operation: {hosts: [" + v + "]}}]}]}"
		d := policy.Decode("f.yaml", []byte(data))[0]
		if !d.Broken() || d.Problems[0].Field != "spec.rules[0].to[0].operation.hosts[0]" {
			t.Errorf("%s: %v", v, d.Problems)
		}
	}
}

func TestRequestAuthentication(t *testing.T) {
	d := decodeGood(t, `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop, labels: {app: x}, annotations: {note: text}}
spec:
  jwtRules:
  - {issuer: a, timeout: 1.5s, forward_original_token: on, fromHeaders: [{name: x-jwt}]}
status: {anything: [goes]}
`)
	r, ok := d.Spec.(*securityv1beta1.RequestAuthentication)
	if !ok {
		t.Fatalf("spec is %T", d.Spec)
	}
	rule := r.GetJwtRules()[0]
	if rule.GetTimeout().AsDuration() != 1500*time.Millisecond || !rule.GetForwardOriginalToken() || rule.GetFromHeaders()[0].GetName() != "x-jwt" {
		t.Errorf("rule %v", rule)
	}
	if d.Labels["app"] != "x" || d.Annotations["note"] != "text" || d.APIVersion != "security.istio.io/v1" || d.Line != 2 {
		t.Errorf("document %+v", d)
	}
}

func TestWorkloadKinds(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1", "v1alpha3"} {
		d := decodeGood(t, "apiVersion: networking.istio.io/"+version+`
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 10.0.0.5, labels: {app: orders, 8: eight}, serviceAccount: orders, ports: {http: 8080, grpc: "9090"}, weight: 4294967295}
`)
		e, ok := d.Spec.(*networkingv1alpha3.WorkloadEntry)
		if !ok || e.GetLabels()["app"] != "orders" || e.GetLabels()["8"] != "eight" || e.GetPorts()["grpc"] != 9090 || e.GetWeight() != 4294967295 {
			t.Errorf("%s: %T %v", version, d.Spec, d.Spec)
		}
	}
	d := decodeGood(t, `
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vms, namespace: shop}
spec: {metadata: {labels: {app: orders}}, template: {serviceAccount: orders}, probe: {httpGet: {port: 80}, timeoutSeconds: 3}}
`)
	g, ok := d.Spec.(*networkingv1alpha3.WorkloadGroup)
	if !ok || g.GetMetadata().GetLabels()["app"] != "orders" || g.GetProbe().GetHttpGet().GetPort() != 80 || g.GetProbe().GetTimeoutSeconds() != 3 {
		t.Errorf("%T %v", d.Spec, d.Spec)
	}
}

func TestPosition(t *testing.T) {
	data := `# first
---
apiVersion: v1
kind: List
items:
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: other, namespace: shop}
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata:
    name: p
    namespace: shop
    labels: {app.kubernetes.io/name: x, "a]b": z}
  spec:
    rules:
    - from:
      - source:
          ip_blocks:
          - 10.0.0.1
          - 10.0.0.2
      to: &to
      - operation: {paths: [/a]}
    - to: *to
`
	docs := policy.Decode("f.yaml", []byte(data))
	if len(docs) != 2 {
		t.Fatal(describeDocuments(docs))
	}
	d := docs[1]
	if d.Line != 9 {
		t.Errorf("line %d, want 9", d.Line)
	}
	for field, want := range map[string]string{
		"":              "9:3",
		"kind":          "10:9",
		"metadata":      "11:3",
		"metadata.name": "12:11",
		"metadata.labels[app.kubernetes.io/name]":  "14:38",
		"metadata.labels[a]b]":                     "14:48",
		"spec.rules[0]":                            "17:7",
		"spec.rules[0].from":                       "17:7",
		"spec.rules[0].from[0].source":             "18:9",
		"spec.rules[0].from[0].source.ipBlocks":    "19:11",
		"spec.rules[0].from[0].source.ipBlocks[1]": "21:13",
		"spec.rules[0].from[0].source.ipBlocks[7]": "19:11",
		"spec.rules[0].from[0].source.principals":  "18:9",
		"spec.rules[1].to[0].operation.paths[0]":   "23:29",
		"spec.rules[9].from":                       "16:5",
		"nonsense":                                 "9:3",
	} {
		if line, column := d.Position(field); fmt.Sprintf("%d:%d", line, column) != want {
			t.Errorf("%q at %d:%d, want %s", field, line, column, want)
		}
	}
}

// TestPositionOfBroken falls back to the first line.
func TestPositionOfBroken(t *testing.T) {
	d := policy.Decode("f.yaml", []byte("\n\nkind: [\n"))[0]
	if line, column := d.Position("spec.rules"); line != 3 || column != 1 {
		t.Errorf("got %d:%d, want 3:1", line, column)
	}
}

// TestManyWarnings: a valid policy stays valid however many warnings it gets.
func TestManyWarnings(t *testing.T) {
	rules := strings.Repeat("{to: [{operation: {methods: [GET]}}]}, ", 300)
	d := decodeGood(t, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {action: DENY, rules: ["+rules+"]}")
	if last := d.Problems[len(d.Problems)-1]; len(d.Problems) != 101 || last.Code != "WRIT108" {
		t.Errorf("%d problems, last %v", len(d.Problems), last)
	}
}
