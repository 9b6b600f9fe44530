package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Trace is the whole story of one answer: every policy that was looked at, whether it applies, every rule, every
// condition, what was wanted, what the request had, and how near a miss was. Made by [Snapshot.Explain], for people.
type Trace struct {
	Workload Workload      `json:"workload"`
	Error    string        `json:"error,omitempty"` // why the workload could not be resolved
	MTLS     *MTLSTrace    `json:"mtls,omitempty"`  // nil where no PeerAuthentication says anything
	Policies []PolicyTrace `json:"policies"`
}

// MTLSTrace is what PeerAuthentication says of the port that a request is for.
type MTLSTrace struct {
	Mode    Mode   `json:"mode"`
	By      string `json:"by"`      // namespace/name of the document
	Refused bool   `json:"refused"` // the port is STRICT and the caller has no identity
}

// PolicyTrace is one policy of a [Trace].
type PolicyTrace struct {
	Policy  string      `json:"policy"` // namespace/name
	Action  Action      `json:"action"`
	DryRun  bool        `json:"dry_run,omitempty"`
	Broken  bool        `json:"broken,omitempty"` // a stand-in that fails closed
	File    string      `json:"file"`
	Line    int         `json:"line"`
	Scope   Scope       `json:"scope"`
	Matched bool        `json:"matched"`
	Rules   []RuleTrace `json:"rules,omitempty"` // only when the policy applies
}

// RuleTrace is one rule of an applying policy.
type RuleTrace struct {
	Index   int              `json:"index"`
	Line    int              `json:"line"`
	Matched bool             `json:"matched"`
	Note    string           `json:"note,omitempty"` // a fact about the rule as a whole
	From    []ClauseTrace    `json:"from,omitempty"`
	To      []ClauseTrace    `json:"to,omitempty"`
	When    []ConditionTrace `json:"when,omitempty"`
	// Missing counts the conditions that would have to change for the rule to match, 0 when it does; Met counts those
	// that the request meets, and Nearness is how near the missing ones came, from 0 to 1. Rules that missed are ranked
	// by the three, in this order.
	Missing  int     `json:"missing"`
	Met      int     `json:"met"`
	Nearness float64 `json:"nearness"`
}

// ClauseTrace is one source or operation.
type ClauseTrace struct {
	Matched    bool             `json:"matched"`
	Conditions []ConditionTrace `json:"conditions"`
}

// ConditionTrace is one field or when key.
type ConditionTrace struct {
	Field     string   `json:"field"`
	Matched   bool     `json:"matched"`
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"not_values,omitempty"`
	Got       []string `json:"got"` // what the request had; empty = absent
	// Hit is the value that matched: of Values when Matched, of NotValues when that is why the condition missed.
	Hit      string  `json:"hit,omitempty"`
	Why      string  `json:"why"`
	Nearness float64 `json:"nearness"` // of a miss, from 0 (nothing in common) to just under 1
}

// Explain tells what every policy says of r for workload w. It is slow, allocates, and uses the same matchers as
// [Ruleset.Evaluate].
func (s *Snapshot) Explain(w Workload, r *Request) *Trace {
	t := &Trace{Workload: w}
	b, err := s.Resolve(w)
	if err != nil {
		t.Error = err.Error()
	} else {
		w = b.Workload
		t.Workload = w
		if m := b.MTLS(r.DestPort); m.By != "" {
			t.MTLS = &MTLSTrace{Mode: m.Mode, By: m.By, Refused: m.Mode == ModeStrict && !r.HasIdentity()}
		}
	}
	for _, ns := range sortedKeys(s.policies) {
		for _, p := range s.policies[ns] {
			t.Policies = append(t.Policies, s.explainPolicy(p, &w, r))
		}
	}
	slices.SortStableFunc(t.Policies, func(a, b PolicyTrace) int { return layerOrder(&a) - layerOrder(&b) })
	return t
}

// layerOrder sorts policies as they are asked: CUSTOM, AUDIT, DENY, ALLOW, those that do not apply last.
func layerOrder(p *PolicyTrace) int {
	order := map[Action]int{ActionCustom: 0, ActionAudit: 2, ActionDeny: 4, ActionAllow: 6}[p.Action]
	if p.DryRun {
		order++
	}
	if !p.Scope.Applies {
		order += 10
	}
	return order
}

func (s *Snapshot) explainPolicy(p *Policy, w *Workload, r *Request) PolicyTrace {
	t := PolicyTrace{
		Policy: p.String(), Action: p.Action, DryRun: p.DryRun, Broken: p.Broken,
		File: p.doc.File, Line: p.doc.Line, Scope: s.scope(p, w),
	}
	if !t.Scope.Applies {
		return t
	}
	places := p.doc.Locator()
	for _, rule := range p.rules {
		rt := p.explainRule(rule, r)
		rt.Line, _ = places.Position("spec.rules[" + strconv.Itoa(rule.Index) + "]")
		t.Matched = t.Matched || rt.Matched
		t.Rules = append(t.Rules, rt)
	}
	return t
}

// scope is Policy.scope for any policy, candidate by namespace or not.
func (s *Snapshot) scope(p *Policy, w *Workload) Scope {
	if !slices.Contains(w.namespaces(&s.mesh), p.Namespace) {
		return Scope{false, "it is in namespace " + p.Namespace + ", the workload in " + w.Namespace}
	}
	return p.scope(&s.mesh, w)
}

func (p *Policy) explainRule(rule *Rule, r *Request) RuleTrace {
	t := RuleTrace{Index: rule.Index, Nearness: 1}
	body := rule.http
	if r.TCP {
		body = rule.tcp
		t.Note = tcpNote(rule)
	}
	if p.Broken {
		t.Note = "the document has errors and never was valid: it stands for everything it could have meant"
	}
	if body == nil {
		t.Missing, t.Nearness = 1, 0
		return t
	}
	t.Matched = body.matches(r)
	t.From = explainClauses(body.from, r, &t)
	t.To = explainClauses(body.to, r, &t)
	for i := range body.when {
		c := explainCondition(&body.when[i], r)
		t.count(c)
		t.When = append(t.When, c)
	}
	return t
}

// tcpNote says what TCP traffic does to a rule that needs HTTP (§5).
func tcpNote(rule *Rule) string {
	switch {
	case rule.tcp == nil:
		return "it has HTTP conditions, so on TCP the whole ALLOW rule is lost"
	case rule.tcp != rule.http:
		return "on TCP its HTTP conditions count as true: " + rule.Policy.Action.String() + " gets wider"
	}
	return ""
}

func (t *RuleTrace) count(c ConditionTrace) {
	if c.Matched {
		t.Met++
		return
	}
	t.Missing++
	t.Nearness = min(t.Nearness, c.Nearness)
}

// CompareNearness orders rules by how near they came to matching, the nearest first.
func (t *RuleTrace) CompareNearness(other *RuleTrace) int {
	return cmp.Or(cmp.Compare(t.Missing, other.Missing), cmp.Compare(other.Met, t.Met), cmp.Compare(other.Nearness, t.Nearness))
}

// explainClauses explains alternatives; when all missed, the one with the fewest misses counts for the rule.
func explainClauses(clauses []clause, r *Request, t *RuleTrace) []ClauseTrace {
	var out []ClauseTrace
	best := RuleTrace{Missing: -1}
	for _, c := range clauses {
		ct := ClauseTrace{Matched: true, Conditions: []ConditionTrace{}}
		one := RuleTrace{Nearness: 1}
		for i := range c {
			cond := explainCondition(&c[i], r)
			ct.Matched = ct.Matched && cond.Matched
			ct.Conditions = append(ct.Conditions, cond)
			one.count(cond)
		}
		if best.Missing < 0 || one.CompareNearness(&best) < 0 {
			best = one
		}
		out = append(out, ct)
	}
	t.Met += best.Met
	if best.Missing > 0 {
		t.Missing += best.Missing
		t.Nearness = min(t.Nearness, best.Nearness)
	}
	return out
}

func explainCondition(c *condition, r *Request) ConditionTrace {
	t := ConditionTrace{
		Field: c.field, Matched: c.matches(r), Got: c.attr.got(r),
		Values: texts(c.values), NotValues: texts(c.notValues),
	}
	if len(c.values) == 0 && !strings.Contains(c.field, ".") { // a field that is used in its negative form only
		t.Field = notField(c.field)
	}
	var hit, forbidden *matcher
	if len(c.values) > 0 {
		hit = c.attr.match(c.values, r)
	}
	if len(c.notValues) > 0 {
		forbidden = c.attr.match(c.notValues, r)
	}
	switch {
	case forbidden != nil:
		t.Hit = forbidden.text
		t.Why = fmt.Sprintf("%s is excluded by %q", quoteAll(t.Got), forbidden.text)
	case len(c.values) > 0 && hit == nil && len(t.Got) == 0:
		t.Why = absence(c.attr)
	case len(c.values) > 0 && hit == nil:
		t.Why, t.Nearness = nearestValue(c, t.Got)
	case hit != nil:
		t.Hit = hit.text
		t.Why = fmt.Sprintf("%s matches %q", quoteAll(t.Got), hit.text)
	case len(t.Got) == 0:
		t.Why = "nothing to exclude: " + absence(c.attr)
	default:
		t.Why = quoteAll(t.Got) + " is not excluded"
	}
	return t
}

func texts(ms []matcher) []string {
	var out []string
	for i := range ms {
		out = append(out, ms[i].text)
	}
	return out
}

func quoteAll(vs []string) string {
	switch len(vs) {
	case 0:
		return "nothing"
	case 1:
		return strconv.Quote(vs[0])
	}
	return fmt.Sprintf("%q", vs)
}

// got lists the attribute's values in the request, none when it is absent.
func (a *attribute) got(r *Request) []string {
	one := func(v string, present bool) []string {
		if !present {
			return []string{}
		}
		return []string{v}
	}
	switch a.kind {
	case attrNames:
		return append([]string{}, r.Names...)
	case attrSourceIP:
		return one(r.SourceIP.String(), r.SourceIP.IsValid())
	case attrRemoteIP:
		return one(r.RemoteIP.String(), r.RemoteIP.IsValid())
	case attrDestIP:
		return one(r.DestIP.String(), r.DestIP.IsValid())
	case attrDestPort:
		return one(strconv.Itoa(int(r.DestPort)), r.DestPort != 0)
	case attrSNI:
		return one(r.SNI, r.SNI != "")
	case attrMethod:
		return one(r.Method, r.HasMethod)
	case attrPath:
		return one(r.Path, r.Path != "")
	case attrHost:
		return one(r.Host, r.HasHost)
	case attrHeader:
		return one(r.Header(a.name))
	}
	return a.gotToken(r)
}

func (a *attribute) gotToken(r *Request) []string {
	switch {
	case a.kind == attrRequestPrincipal && r.Claims != nil:
		return []string{r.Claims.Issuer() + "/" + r.Claims.Subject()}
	case a.kind == attrClaim && r.Claims != nil:
		return append([]string{}, r.Claims.Strings(a.path)...)
	case a.kind == attrMetadata && r.Metadata != nil:
		out := append([]string{}, r.Metadata.List(a.name, a.path[0])...)
		if v, ok := r.Metadata.Text(a.name, a.path[0]); ok {
			out = append(out, v)
		}
		return out
	}
	return []string{}
}

// absence says why an attribute has no value, as a user would want to hear it.
func absence(a attribute) string {
	switch a.kind {
	case attrNames:
		return "the caller has no certificate (plaintext, or TLS without a client certificate)"
	case attrRequestPrincipal, attrClaim:
		return "the request has no verified token with that claim"
	case attrSNI:
		return "the connection has no SNI"
	case attrHeader:
		return "the request has no header " + a.name
	case attrMetadata:
		return "the proxy sent no metadata " + a.name + "[" + a.path[0] + "]"
	case attrSourceIP, attrRemoteIP, attrDestIP:
		return "the address is not known"
	case attrPath:
		return "the request has no path"
	case attrHost:
		return "the request has no host"
	case attrMethod:
		return "the request has no method"
	case attrDestPort:
		return "the port is not known"
	}
	return "it is absent"
}
