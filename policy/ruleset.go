package policy

import (
	"sync"
	"sync/atomic"
)

// Ruleset is the part of a snapshot that governs one workload. Workloads to which the same policies apply share one.
// All methods are safe for concurrent use.
type Ruleset struct {
	policies []*Policy
	forms    [2]lazyForm // HTTP, TCP
}

// lazyForm is a form that is indexed when it is first needed.
type lazyForm struct {
	once sync.Once
	form atomic.Pointer[form]
}

// form is a ruleset for one kind of traffic (§5).
type form struct {
	custom                                      []*index // one for each provider, by name; stand-ins for broken policies come first
	shadowCustom                                []*index // the same of dry-run policies
	audit, deny, allow, shadowDeny, shadowAllow *index
	hasAllow, hasShadowDeny, hasShadowAllow     bool
}

func newRuleset(policies []*Policy) *Ruleset { return &Ruleset{policies: policies} }

// Traffic kinds, as indexes of Ruleset.forms.
const (
	trafficHTTP = iota
	trafficTCP
)

var bodyOf = [...]func(*Rule) *ruleBody{
	trafficHTTP: func(r *Rule) *ruleBody { return r.http },
	trafficTCP:  func(r *Rule) *ruleBody { return r.tcp },
}

// index returns one form, made on first use.
func (rs *Ruleset) index(traffic int) *form {
	l := &rs.forms[traffic]
	if f := l.form.Load(); f != nil {
		return f
	}
	l.once.Do(func() { l.form.Store(newForm(rs.policies, bodyOf[traffic])) })
	return l.form.Load()
}

// indexed reports whether the form has been made.
func (rs *Ruleset) indexed(traffic int) bool { return rs.forms[traffic].form.Load() != nil }

// size counts the rules.
func (rs *Ruleset) size() int {
	n := 0
	for _, p := range rs.policies {
		n += len(p.rules)
	}
	return n
}

func newForm(policies []*Policy, body func(*Rule) *ruleBody) *form {
	var audit, deny, allow, shadowDeny, shadowAllow []*Policy
	custom, shadowCustom := map[string][]*Policy{}, map[string][]*Policy{}
	f := &form{}
	for _, p := range policies {
		switch {
		case p.Action == ActionCustom && !p.DryRun:
			// A stand-in denies by itself: a rule of the same provider with a smaller ID must not hide it.
			provider := p.Provider
			if p.Broken {
				provider = ""
			}
			custom[provider] = append(custom[provider], p)
		case p.Action == ActionCustom:
			shadowCustom[p.Provider] = append(shadowCustom[p.Provider], p)
		case p.Action == ActionAudit && !p.DryRun:
			audit = append(audit, p)
		case p.Action == ActionDeny && p.DryRun:
			shadowDeny, f.hasShadowDeny = append(shadowDeny, p), true
		case p.Action == ActionDeny:
			deny = append(deny, p)
		case p.Action == ActionAllow && p.DryRun:
			shadowAllow, f.hasShadowAllow = append(shadowAllow, p), true
		case p.Action == ActionAllow: // counts even if every rule is lost: it then allows nothing (§4.2)
			allow, f.hasAllow = append(allow, p), true
		}
	}
	for _, provider := range sortedKeys(custom) {
		f.custom = append(f.custom, newIndex(custom[provider], body))
	}
	for _, provider := range sortedKeys(shadowCustom) {
		f.shadowCustom = append(f.shadowCustom, newIndex(shadowCustom[provider], body))
	}
	f.audit = newIndex(audit, body)
	f.deny = newIndex(deny, body)
	f.allow = newIndex(allow, body)
	f.shadowDeny = newIndex(shadowDeny, body)
	f.shadowAllow = newIndex(shadowAllow, body)
	return f
}

func (rs *Ruleset) form(r *Request) *form {
	if r.TCP {
		return rs.index(trafficTCP)
	}
	return rs.index(trafficHTTP)
}

// Policies are those that apply, enforced and dry-run, in load order. The slice must not be changed.
func (rs *Ruleset) Policies() []*Policy { return rs.policies }

// Custom walks through the CUSTOM rules that match r: for each provider the one with the smallest ID, in the order of the
// providers' names, after those of broken policies, which name no provider that counts. It starts with after 0, and goes
// on with what it returned until there is no rule left. It does not allocate.
func (rs *Ruleset) Custom(r *Request, after int) (rule *Rule, next int) {
	return firstAfter(rs.form(r).custom, r, after)
}

// ShadowCustom walks in the same way through the matching rules of CUSTOM policies under dry run.
func (rs *Ruleset) ShadowCustom(r *Request, after int) (rule *Rule, next int) {
	return firstAfter(rs.form(r).shadowCustom, r, after)
}

func firstAfter(all []*index, r *Request, after int) (rule *Rule, next int) {
	for i := after; i < len(all); i++ {
		if rule := all[i].first(r); rule != nil {
			return rule, i + 1
		}
	}
	return nil, len(all)
}

// Verdict is what the AUDIT, DENY and ALLOW policies of a ruleset say of one request.
type Verdict struct {
	Audit    *Rule // matching AUDIT rule, or nil
	Deny     *Rule // matching enforced DENY rule, or nil
	Allow    *Rule // matching enforced ALLOW rule, or nil
	HasAllow bool  // an enforced ALLOW policy applies: no match is a denial (§4.2)

	// Results of the dry-run policies alone (§7); nil rule = no match, false = no dry-run policy of that action applies.
	ShadowDeny, ShadowAllow       *Rule
	HasShadowDeny, HasShadowAllow bool
}

// Evaluate matches r against the AUDIT, DENY and ALLOW policies, dry-run ones included, and reports for each layer the
// matching rule with the smallest ID. It does not allocate.
//
// A request that a DENY rule hits is denied whatever ALLOW says; Allow is then left nil.
func (rs *Ruleset) Evaluate(r *Request) Verdict {
	f := rs.form(r)
	v := Verdict{HasAllow: f.hasAllow, HasShadowDeny: f.hasShadowDeny, HasShadowAllow: f.hasShadowAllow}
	v.Audit = f.audit.first(r)
	v.ShadowDeny = f.shadowDeny.first(r)
	v.ShadowAllow = f.shadowAllow.first(r)
	if v.Deny = f.deny.first(r); v.Deny == nil {
		v.Allow = f.allow.first(r)
	}
	return v
}
