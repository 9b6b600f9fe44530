package analysis

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// tokenView is one RequestAuthentication.
type tokenView struct {
	doc   *policy.Document
	scope scope
	rules []*securityv1beta1.JWTRule
}

func (v *tokenView) field(i int) string { return fmt.Sprintf("spec.jwtRules[%d]", i) }

func (v *tokenView) rule(i int) string { return fmt.Sprintf("%s jwtRules[%d]", name(v.doc), i) }

// checkTokens reports hazards of one RequestAuthentication, next to the others and to the policies.
func checkTokens(l *linter, v *tokenView) {
	if len(v.rules) == 0 {
		l.report(v.doc, codeNoTokenRules, "spec", "it has no jwtRules and does nothing; those of others stay in force",
			"remove it, or write jwtRules")
		return
	}
	if !l.tokenRequired(v.scope) {
		l.report(v.doc, codeTokenNotRequired, "spec", "bad tokens are refused, and requests without a token pass: no policy asks "+v.scope.whom()+" for one",
			`add an ALLOW policy with requestPrincipals: ["*"], or a DENY policy with notRequestPrincipals: ["*"]`)
	}
	for i, r := range v.rules {
		checkAudiences(l, v, i, r)
		checkKeyAddress(l, v, i, r)
		checkKeys(l, v, i, r)
		checkNeighbours(l, v, i, r)
	}
}

// tokenRequired reports whether an enforced policy for some of the same workloads asks about tokens. What a CUSTOM
// policy's provider asks about nobody knows.
func (l *linter) tokenRequired(s scope) bool {
	for _, p := range l.policies {
		if p.dryRun || !mayMeet(s, p.scope) {
			continue
		}
		if p.action == actionCustom || (p.action == actionAllow || p.action == actionDeny) && slices.ContainsFunc(p.rules, rule.onTokens) {
			return true
		}
	}
	return false
}

// mayMeet is overlaps for a RequestAuthentication and a policy. Of targets it only compares the namespace: a selector may
// select the gateway that another document targets.
func mayMeet(a, b scope) bool {
	if len(a.refs)+len(b.refs) > 0 {
		return a.root || b.root || a.namespace == b.namespace
	}
	return a.overlaps(b)
}

func (c *condition) onToken() bool {
	return c.attr == "requestPrincipals" || strings.HasPrefix(c.attr, "request.auth.")
}

func (r rule) onTokens() bool { return r.tokenCondition() != nil }

// tokenCondition is the rule's first condition on tokens, or nil.
func (r *rule) tokenCondition() (first *condition) {
	r.all(func(c *condition) {
		if first == nil && c.onToken() {
			first = c
		}
	})
	return first
}

// checkAudiences reports a rule that takes tokens for whatever audience.
func checkAudiences(l *linter, v *tokenView, i int, r *securityv1beta1.JWTRule) {
	if len(r.GetAudiences()) > 0 {
		return
	}
	const hint = "list in audiences what tokens for this service have as aud"
	for j := range l.tokens {
		other := &l.tokens[j]
		if !mayMeet(v.scope, other.scope) {
			continue
		}
		for k, o := range other.rules {
			if o.GetIssuer() == r.GetIssuer() && len(o.GetAudiences()) > 0 {
				l.report(v.doc, codeAudienceUndone, v.field(i),
					fmt.Sprintf("the rule takes tokens of %s for any audience, so the audiences of %s restrict nothing: either rule is enough", issuerText(r), other.rule(k)), hint)
				return
			}
		}
	}
	l.report(v.doc, codeAnyAudience, v.field(i), "the rule takes every token of "+issuerText(r)+", also those made for other services", hint)
}

func issuerText(r *securityv1beta1.JWTRule) string {
	if r.GetIssuer() == "" {
		return "any issuer"
	}
	return fmt.Sprintf("%q", r.GetIssuer())
}

// checkKeyAddress reports keys that come over http: named, or discovered from the issuer.
func checkKeyAddress(l *linter, v *tokenView, i int, r *securityv1beta1.JWTRule) {
	if r.GetJwks() != "" {
		return
	}
	field, address := ".jwksUri", r.GetJwksUri()
	if address == "" {
		field, address = ".issuer", r.GetIssuer()
		if !discoverable(address) {
			l.report(v.doc, codeNotDiscoverable, v.field(i)+field, fmt.Sprintf("%q is no URL that keys can be discovered from: every token of this rule is refused", address),
				"write jwksUri, or the keys themselves as jwks")
			return
		}
	}
	if !strings.HasPrefix(strings.ToLower(address), "http://") {
		return
	}
	l.report(v.doc, codePlainKeys, v.field(i)+field, "the keys are fetched over http: whoever is on the way can replace them and make tokens",
		"use https, with a CA of your own if need be (authz.jwks.ca); writ refuses http unless authz.jwks.allow_http is set")
}

// discoverable reports whether an issuer can have a discovery document (OpenID Connect Discovery 1.0 §4).
func discoverable(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.RawQuery == "" && u.Fragment == ""
}

// checkNeighbours compares a rule with those before it that may apply to the same workload, its own document's included.
func checkNeighbours(l *linter, v *tokenView, i int, r *securityv1beta1.JWTRule) {
	sharing, slash := false, false
	for j := range l.tokens {
		other := &l.tokens[j]
		if !mayMeet(v.scope, other.scope) {
			continue
		}
		for k, o := range other.rules {
			if other == v && k >= i {
				return
			}
			if o.GetIssuer() == r.GetIssuer() {
				continue
			}
			if !slash && strings.TrimSuffix(o.GetIssuer(), "/") == strings.TrimSuffix(r.GetIssuer(), "/") {
				slash = true
				l.report(v.doc, codeIssuerSlash, v.field(i)+".issuer",
					fmt.Sprintf("%q differs from the issuer of %s by a trailing slash only, and they are two issuers", r.GetIssuer(), other.rule(k)),
					"write the iss of its tokens, byte for byte")
			}
			if place := sharedLocation(r, o); !sharing && place != "" && r.GetIssuer() != "" && o.GetIssuer() != "" {
				sharing = true
				l.report(v.doc, codeSharedLocation, v.field(i),
					fmt.Sprintf("%s looks into %s for tokens of another issuer, too: a request with tokens of both is refused", other.rule(k), place),
					"nothing to do if requests carry one token; else give each issuer its own header (fromHeaders)")
			}
		}
	}
}

// sharedLocation is a place where both rules look for tokens, or "".
func sharedLocation(a, b *securityv1beta1.JWTRule) string {
	for _, place := range locations(a) {
		if slices.Contains(locations(b), place) {
			return place
		}
	}
	return ""
}

func locations(r *securityv1beta1.JWTRule) []string {
	var places []string
	for _, h := range r.GetFromHeaders() {
		places = append(places, fmt.Sprintf("header %s %q", strings.ToLower(h.GetName()), h.GetPrefix()))
	}
	for _, p := range r.GetFromParams() {
		places = append(places, "parameter "+p)
	}
	for _, c := range r.GetFromCookies() {
		places = append(places, "cookie "+c)
	}
	if len(places) == 0 {
		return []string{`header authorization "Bearer "`, "parameter access_token"}
	}
	return places
}

// checkTokenNeeds reports rules of a policy that ask about tokens where no token is ever verified.
func checkTokenNeeds(l *linter, p *view) {
	whom, bare := l.withoutTokens(p.scope)
	if !bare {
		return
	}
	for i := range p.rules {
		c := p.rules[i].tokenCondition()
		if c == nil {
			continue
		}
		field, effect := c.field, "the rule never matches"
		if len(c.values) == 0 {
			field, effect = c.notField, "the condition holds for every request"
		}
		l.report(p.doc, codeTokenNeverThere, field, fmt.Sprintf("no RequestAuthentication applies to %s, so no request has a verified token there: %s", whom, effect),
			"add a RequestAuthentication with the issuer's rule for these workloads, or lint it together with this policy")
	}
}

// withoutTokens reports whether workloads of the scope have no token rules, and which: all of them, or a registered one.
func (l *linter) withoutTokens(s scope) (whom string, found bool) {
	if !slices.ContainsFunc(l.tokens, func(v tokenView) bool { return len(v.rules) > 0 && mayMeet(s, v.scope) }) {
		return s.whom(), true
	}
	if len(s.refs) > 0 {
		return "", false
	}
	_, selected := l.candidates(s)
	for _, w := range selected {
		if !slices.ContainsFunc(l.tokens, func(v tokenView) bool { return len(v.rules) > 0 && v.scope.reaches(w) }) {
			return fmt.Sprintf("the workload with labels %s in namespace %s", labelText(w.labels), w.namespace), true
		}
	}
	return "", false
}

// reaches reports whether the scope holds a registered workload.
func (s scope) reaches(w registered) bool {
	return len(s.refs) == 0 && (s.root || s.namespace == w.namespace) && within(s.labels, w.labels)
}

// issuers are those whose tokens some workload of a policy takes.
type issuers struct {
	list  []string
	known map[string]bool
	all   bool // a rule takes any issuer's
}

// issuersFor lists the issuers whose tokens some workload of the policy takes. It is asked for every value of the policy,
// and looks once.
func (l *linter) issuersFor(p *view) *issuers {
	if p.issuers != nil {
		return p.issuers
	}
	p.issuers = &issuers{known: map[string]bool{}}
	for i := range l.tokens {
		if !mayMeet(p.scope, l.tokens[i].scope) {
			continue
		}
		for _, r := range l.tokens[i].rules {
			p.issuers.all = p.issuers.all || r.GetIssuer() == ""
			if !p.issuers.known[r.GetIssuer()] {
				p.issuers.known[r.GetIssuer()] = true
				p.issuers.list = append(p.issuers.list, r.GetIssuer())
			}
		}
	}
	return p.issuers
}

// namedIssuer is the issuer that a value asks for exactly, and the value for another issuer in its place.
func namedIssuer(c *condition, v string) (issuer string, with func(issuer string) string) {
	switch {
	case c.attr == "request.auth.claims[iss]" && !strings.Contains(v, "*"):
		return v, func(issuer string) string { return issuer }
	case c.family == famRequestPrincipal && !strings.HasPrefix(v, "*"):
		cut := strings.LastIndexByte(v, '/')
		if cut < 0 || v[:cut] == "https:/" || v[:cut] == "http:/" {
			return "", nil // WRIT312
		}
		return v[:cut], func(issuer string) string { return issuer + v[cut:] }
	}
	return "", nil
}

// issuerSlash finds an issuer that is one of a rule but for a trailing slash.
func issuerSlash(l *linter, r *rule, c *condition, v string) (message, hint string) {
	issuer, with := namedIssuer(c, v)
	if issuer == "" {
		return "", ""
	}
	issuers := l.issuersFor(r.policy)
	if issuers.all || issuers.known[issuer] {
		return "", ""
	}
	other := issuer + "/"
	if !issuers.known[other] {
		other = strings.TrimSuffix(issuer, "/")
	}
	if !issuers.known[other] {
		return "", ""
	}
	return fmt.Sprintf("%q asks for the issuer %q; the rule for tokens has %q", v, issuer, other), fmt.Sprintf("write %q", with(other))
}

// unknownIssuer finds an issuer that no rule has, where there are rules.
func unknownIssuer(l *linter, r *rule, c *condition, v string) (message, hint string) {
	issuer, _ := namedIssuer(c, v)
	if issuer == "" {
		return "", ""
	}
	issuers := l.issuersFor(r.policy)
	if issuers.all || len(issuers.list) == 0 || issuers.known[issuer] {
		return "", ""
	}
	for _, other := range []func(*linter, *rule, *condition, string) (string, string){issuerSlash, requestPrincipal} {
		if said, _ := other(l, r, c, v); said != "" {
			return "", ""
		}
	}
	return fmt.Sprintf("no rule for the tokens of these workloads has the issuer %q; they have %s", issuer, quoted(issuers.list)),
		"write the issuer as the RequestAuthentication has it, or add a rule for it"
}
