package analysis

import (
	"fmt"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// Providers are those that the configuration of an authority has.
type Providers struct {
	File string // of the configuration
	All  []Provider
}

// Provider is what is known of one.
type Provider struct {
	Name     string
	FailOpen bool // a request passes to the other layers while the provider gives no answer

	Key          string // of the configuration
	Line, Column int    // 1-based
}

// find returns the provider of a name, or nil.
func (ps *Providers) find(name string) *Provider {
	for i := range ps.All {
		if ps.All[i].Name == name {
			return &ps.All[i]
		}
	}
	return nil
}

// checkConfigured compares what CUSTOM policies name with what is configured. It reports about policies, and returns what
// is to be said of the configuration.
func checkConfigured(l *linter, ps *Providers) []Finding {
	if ps == nil {
		return nil
	}
	named := map[string]bool{}
	for _, p := range l.policies {
		if p.action != actionCustom {
			continue
		}
		named[p.provider] = true
		if p.dryRun {
			continue
		}
		switch configured := ps.find(p.provider); {
		case configured == nil:
			l.report(p.doc, codeProviderMissing, "spec.provider.name",
				fmt.Sprintf("%s has no provider %q: %s is denied to %s", ps.File, p.provider, p.matched(), p.scope.whom()), ps.known())
		case configured.FailOpen:
			l.report(p.doc, codeProviderFailsOpen, "spec.provider.name",
				fmt.Sprintf("provider %q fails open: while it is down, slow or broken, %s passes to %s without being asked about%s",
					p.provider, p.matched(), p.scope.whom(), l.leftOver(p)),
				"remove fail_open from "+configured.Key+" in "+ps.File)
		}
	}
	var out []Finding
	for i := range ps.All {
		p := &ps.All[i]
		if named[p.Name] {
			continue
		}
		out = append(out, Finding{Problem: policy.Problem{
			Code: codeProviderUnused, Severity: severityOf(codeProviderUnused), File: ps.File, Line: p.Line, Column: p.Column, Field: p.Key,
			Message: fmt.Sprintf("no CUSTOM policy of these documents names provider %q: it is never asked", p.Name),
			Hint:    "remove it, or name it in spec.provider.name of a policy",
		}})
	}
	return out
}

// known names the providers that there are, for a hint.
func (ps *Providers) known() string {
	if len(ps.All) == 0 {
		return "configure it in authz.providers"
	}
	names := make([]string, 0, len(ps.All))
	for i := range ps.All {
		names = append(names, ps.All[i].Name)
	}
	return "configure it in authz.providers, or name one that is there: " + quoted(names)
}

// matched is what the policy asks about, in words.
func (v *view) matched() string {
	for i := range v.rules {
		if v.rules[i].empty() {
			return "every request"
		}
	}
	return "what the policy matches"
}

// leftOver says what still decides on a request that a provider was not asked about, for a message.
func (l *linter) leftOver(p *view) string {
	allow, deny := false, false
	for _, other := range l.policies {
		if other.dryRun || !p.scope.overlaps(other.scope) {
			continue
		}
		allow = allow || other.action == actionAllow
		deny = deny || other.action == securityv1beta1.AuthorizationPolicy_DENY
	}
	var left []string
	if deny {
		left = append(left, "DENY")
	}
	if allow {
		left = append(left, "ALLOW")
	}
	if len(left) == 0 {
		return "; no other policy of these documents decides on it, so it is let through"
	}
	return "; only " + strings.Join(left, " and ") + " policies decide on it then"
}
