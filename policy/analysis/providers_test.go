package analysis_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// configured is what findings about providers say, each with its code, object and field.
func configured(t *testing.T, text string, providers *analysis.Providers) []string {
	t.Helper()
	var out []string
	for _, f := range analysis.Inspect(policy.Decode("test.yaml", []byte(text)), policy.Mesh{}, providers) {
		if f.Code >= "WRIT363" && f.Code <= "WRIT365" {
			out = append(out, f.Code+" "+f.Severity.String()+" "+f.Object.Name+" "+f.Field+": "+f.Message)
		}
	}
	return out
}

func TestConfiguredProviders(t *testing.T) {
	opa := &analysis.Providers{File: "writ.yaml", All: []analysis.Provider{{Name: "opa", Key: "authz.providers[0]", Line: 4, Column: 5}}}
	open := &analysis.Providers{File: "writ.yaml", All: []analysis.Provider{{Name: "opa", FailOpen: true, Key: "authz.providers[0]"}}}
	everything := authz("all", `{action: CUSTOM, provider: {name: opa}, rules: [{}]}`)
	tests := []struct {
		name      string
		text      string
		providers *analysis.Providers
		want      []string
	}{
		{"nothing is known", custom("a", "ldap"), nil, nil},
		{"named and there", custom("a", "opa"), opa, nil},
		{"missing", custom("a", "ldap") + custom("b", "opa"), opa, []string{
			`WRIT363 error a spec.provider.name: writ.yaml has no provider "ldap": what the policy matches is denied to every workload of namespace shop`,
		}},
		{"none at all", everything, &analysis.Providers{File: "writ.yaml"}, []string{
			`WRIT363 error all spec.provider.name: writ.yaml has no provider "opa": every request is denied to every workload of namespace shop`,
		}},
		{"never named", authz("a", `{}`), opa, []string{
			`WRIT365 info  authz.providers[0]: no CUSTOM policy of these documents names provider "opa": it is never asked`,
		}},
		{"fails open, and nothing else decides", everything, open, []string{
			`WRIT364 warning all spec.provider.name: provider "opa" fails open: while it is down, slow or broken, every request passes to every workload of namespace shop without being asked about; no other policy of these documents decides on it, so it is let through`,
		}},
		{"fails open, before others", custom("a", "opa") + authz("b", `{}`) + authz("c", `{action: DENY, rules: [{}]}`), open, []string{
			`WRIT364 warning a spec.provider.name: provider "opa" fails open: while it is down, slow or broken, what the policy matches passes to every workload of namespace shop without being asked about; only DENY and ALLOW policies decide on it then`,
		}},
		{"a dry run enforces nothing", strings.Replace(custom("a", "ldap")+custom("b", "opa"), "namespace: shop", "namespace: shop, annotations: {writ/dry-run: 'true'}", 1), opa, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := configured(t, tt.text, tt.providers); !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}
