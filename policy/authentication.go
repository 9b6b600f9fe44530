package policy

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	securityv1beta1 "istio.io/api/security/v1beta1"
)

// requestAuthentication is one RequestAuthentication in force.
type requestAuthentication struct {
	target
	doc   *Document
	rules []*securityv1beta1.JWTRule
}

func newAuthentication(doc *Document) (*requestAuthentication, error) {
	spec, ok := doc.Spec.(*securityv1beta1.RequestAuthentication)
	if !ok {
		return nil, fmt.Errorf("%s: no RequestAuthentication spec", doc.Object)
	}
	return &requestAuthentication{target: newTarget(doc.Namespace, spec), doc: doc, rules: spec.GetJwtRules()}, nil
}

// JWTRule is one rule of a RequestAuthentication, named for logs.
type JWTRule struct {
	ID   string // namespace/name jwtRules[i]
	Spec *securityv1beta1.JWTRule
}

// Authentication is the token rules of one workload: the rules of every RequestAuthentication that applies, one after
// the other, sorted by issuer (request-authentication §1.4). Rules are never merged into one another: a token that is
// good under any of them is good. Workloads with the same documents share one.
type Authentication struct {
	Rules []JWTRule

	once     sync.Once
	compiled any
}

// Compiled returns what build makes of the rules, built once. It lets the verifier of the rules live and die with them.
func (a *Authentication) Compiled(build func([]JWTRule) any) any {
	a.once.Do(func() { a.compiled = build(a.Rules) })
	return a.compiled
}

// authentication merges the documents that apply to a workload. They come in the order of their namespaces (the
// workload's own, root, those of its services), inside one oldest first (request-authentication §1.4).
func (s *Snapshot) authentication(apply []*requestAuthentication) *Authentication {
	key, merged := "", &Authentication{}
	for _, a := range apply {
		key += a.namespace + "/" + a.doc.Name + ","
		merged.Rules = append(merged.Rules, a.jwtRules()...)
	}
	if len(merged.Rules) == 0 {
		return nil
	}
	slices.SortStableFunc(merged.Rules, func(a, b JWTRule) int { return cmp.Compare(a.Spec.GetIssuer(), b.Spec.GetIssuer()) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.merged[key]; ok {
		return known
	}
	s.merged[key] = merged
	return merged
}

func (a *requestAuthentication) jwtRules() []JWTRule {
	var out []JWTRule
	for i, r := range a.rules {
		out = append(out, JWTRule{ID: fmt.Sprintf("%s/%s jwtRules[%d]", a.namespace, a.doc.Name, i), Spec: r})
	}
	return out
}

// JWTRules lists the rules of every RequestAuthentication in force, whether a workload is bound to them or not, in a
// fixed order: whoever fetches keys starts with all of them.
func (s *Snapshot) JWTRules() []JWTRule {
	var out []JWTRule
	for _, ns := range sortedKeys(s.tokens) {
		for _, a := range s.tokens[ns] {
			out = append(out, a.jwtRules()...)
		}
	}
	return out
}
