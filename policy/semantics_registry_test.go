package policy_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// TestRegisteredLabels: labels that the proxy does not send come from the WorkloadEntry and WorkloadGroup objects of its
// service account, when they all lead to the same policies.
func TestRegisteredLabels(t *testing.T) {
	t.Parallel()
	entry := func(name, account, labels string) string {
		return fmt.Sprintf("apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {namespace: foo, name: %s}\n"+
			"spec: {address: 10.0.0.9, serviceAccount: %s, labels: {%s}}\n", name, account, labels)
	}
	group := "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {namespace: foo, name: vms}\n" +
		"spec: {metadata: {labels: {app: httpbin}}, template: {serviceAccount: vm}}\n"
	selecting := document("{action: DENY, selector: {matchLabels: {app: httpbin}}, rules: [{}]}")
	for _, tc := range []struct {
		name     string
		docs     []string
		workload policy.Workload
		denied   bool
		want     error
	}{
		{"registered, selected", []string{selecting, entry("a", "web", "app: httpbin")}, policy.Workload{ServiceAccount: "web"}, true, nil},
		{"registered, not selected", []string{selecting, entry("a", "web", "app: other")}, policy.Workload{ServiceAccount: "web"}, false, nil},
		{"registered by a group", []string{selecting, group}, policy.Workload{ServiceAccount: "vm"}, true, nil},
		{"not registered", []string{selecting, entry("a", "web", "app: httpbin")}, policy.Workload{ServiceAccount: "api"}, false, policy.ErrUnknownLabels},
		{"two that agree where it matters", []string{selecting, entry("a", "web", "app: httpbin, v: '1'"), entry("b", "web", "app: httpbin, v: '2'")},
			policy.Workload{ServiceAccount: "web"}, true, nil},
		{"two that differ", []string{selecting, entry("a", "web", "app: httpbin"), entry("b", "web", "app: other")},
			policy.Workload{ServiceAccount: "web"}, false, policy.ErrAmbiguous},
		{"two that differ, one named", []string{selecting, entry("a", "web", "app: httpbin"), entry("b", "web", "app: other")},
			policy.Workload{ServiceAccount: "web", Name: "a"}, true, nil},
		{"two that differ and nothing selects", []string{entry("a", "web", "app: httpbin"), entry("b", "web", "app: other")},
			policy.Workload{ServiceAccount: "web"}, false, nil},
		{"labels the proxy sends count alone", []string{selecting, entry("a", "web", "app: httpbin")},
			policy.Workload{ServiceAccount: "web", Labels: map[string]string{}}, false, nil},
		{"of another namespace", []string{selecting, entry("a", "web", "app: httpbin")}, policy.Workload{Namespace: "bar", ServiceAccount: "web"}, false, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.workload.Namespace == "" {
				tc.workload.Namespace = "foo"
			}
			bound, err := policy.NewSnapshot(load(t, tc.docs...), policy.Mesh{}).Resolve(tc.workload)
			if !errors.Is(err, tc.want) {
				t.Fatalf("Resolve: %v, want %v", err, tc.want)
			}
			if err == nil && (bound.Rules.Evaluate(request()).Deny != nil) != tc.denied {
				t.Errorf("denied %v, want %v", !tc.denied, tc.denied)
			}
		})
	}
}
