package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Trace is the whole story of one answer: every policy that was looked at, whether it applies, every rule, every
// condition, what was wanted, what the request had, and how near a miss was. Made by [Snapshot.Explain], for people.
type Trace struct {
	Workload  Workload        `json:"workload"`
	Error     string          `json:"error,omitempty"` // why the workload could not be resolved
	MTLS      *MTLSTrace      `json:"mtls,omitempty"`  // nil where no PeerAuthentication says anything
	Policies  []PolicyTrace   `json:"policies"`
	Documents []DocumentTrace `json:"documents,omitempty"` // all others that say something of requests, or seem to
}

// MTLSTrace is what PeerAuthentication says of the port that a request is for.
type MTLSTrace struct {
	Mode    Mode   `json:"mode"`
	By      string `json:"by"`                // namespace/name of the document
	Refused bool   `json:"refused"`           // the port is STRICT and the caller has no identity
	Unknown bool   `json:"unknown,omitempty"` // whether it refuses depends on what is not known of the request
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
	Unknown bool        `json:"unknown,omitempty"` // no rule matches for certain, and one may
	Rules   []RuleTrace `json:"rules,omitempty"`   // only when the policy applies
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
	// that the request meets, and Nearness is how near the missing ones came, from 0 to 1. Unknown counts those that read
	// what is not known of the request: with Missing 0 the rule may match. Rules that missed are ranked by Missing, Unknown,
	// Met and Nearness, in this order.
	Missing  int     `json:"missing"`
	Unknown  int     `json:"unknown,omitempty"`
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
	Unknown   bool     `json:"unknown,omitempty"` // what it reads is not known: neither met nor missed
	Values    []string `json:"values,omitempty"`
	NotValues []string `json:"not_values,omitempty"`
	Got       []string `json:"got"` // what the request had; empty = absent
	// Hit is the value that matched: of Values when Matched, of NotValues when that is why the condition missed.
	Hit      string  `json:"hit,omitempty"`
	Nearest  string  `json:"nearest,omitempty"` // of Values, the one that a miss came nearest to
	Why      string  `json:"why"`
	Nearness float64 `json:"nearness"` // of a miss, from 0 (nothing in common) to just under 1
}

// Explain tells what every policy says of r for workload w. It is slow, allocates, and uses the same matchers as
// [Ruleset.Evaluate].
func (s *Snapshot) Explain(w Workload, r *Request) *Trace { return s.ExplainPartly(w, r, nil) }

// ExplainPartly is Explain for a request of which not everything is known, such as one that a log holds: a condition that
// reads an attribute which unknown reports is neither met nor missed. A nil unknown reports none.
func (s *Snapshot) ExplainPartly(w Workload, r *Request, unknown func(Attribute) bool) *Trace {
	if unknown == nil {
		unknown = func(Attribute) bool { return false }
	}
	in := &inquiry{r, unknown}
	t := &Trace{Workload: w}
	b, err := s.Resolve(w)
	if err != nil {
		t.Error = err.Error()
	} else {
		w = b.Workload
		t.Workload = w
		t.MTLS = in.mtls(b)
	}
	for _, ns := range sortedKeys(s.policies) {
		for _, p := range s.policies[ns] {
			t.Policies = append(t.Policies, s.explainPolicy(p, &w, in))
		}
	}
	slices.SortStableFunc(t.Policies, func(a, b PolicyTrace) int { return layerOrder(&a) - layerOrder(&b) })
	t.Documents = s.explainDocuments(&w)
	return t
}

// inquiry is a request with what is not known of it.
type inquiry struct {
	*Request
	unknown func(Attribute) bool
}

// mtls says what PeerAuthentication makes of the request, nil where none says anything.
func (in *inquiry) mtls(b *Bound) *MTLSTrace {
	m := b.MTLS(in.DestPort)
	if m.By == "" {
		return nil
	}
	t := &MTLSTrace{Mode: m.Mode, By: m.By, Refused: m.Mode == ModeStrict && !in.HasIdentity()}
	port := in.unknown(Attribute{Kind: AttributeDestPort}) &&
		slices.ContainsFunc(b.MTLSPorts(), func(p PortMTLS) bool { return p.Mode != ModeStrict })
	if t.Refused && (port || in.unknown(Attribute{Kind: AttributeNames})) {
		t.Refused, t.Unknown = false, true
	}
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

func (s *Snapshot) explainPolicy(p *Policy, w *Workload, in *inquiry) PolicyTrace {
	t := PolicyTrace{
		Policy: p.String(), Action: p.Action, DryRun: p.DryRun, Broken: p.Broken,
		File: p.doc.File, Line: p.doc.Line, Scope: s.scope(p, w),
	}
	if !t.Scope.Applies {
		return t
	}
	places := p.doc.Locator()
	for _, rule := range p.rules {
		rt := p.explainRule(rule, in)
		rt.Line, _ = places.Position("spec.rules[" + strconv.Itoa(rule.Index) + "]")
		t.Matched = t.Matched || rt.Matched
		t.Unknown = t.Unknown || rt.MayMatch()
		t.Rules = append(t.Rules, rt)
	}
	t.Unknown = t.Unknown && !t.Matched
	return t
}

// scope is Policy.scope for any policy, candidate by namespace or not.
func (s *Snapshot) scope(p *Policy, w *Workload) Scope {
	return p.target.anyScope(&s.mesh, w)
}

// anyScope is scope for any document, candidate by namespace or not.
func (t *target) anyScope(mesh *Mesh, w *Workload) Scope {
	if !slices.Contains(w.namespaces(mesh), t.namespace) {
		return Scope{false, "it is in namespace " + t.namespace + ", the workload in " + w.Namespace}
	}
	scope := t.scope(mesh, w)
	if !scope.Applies && w.Labels == nil && len(t.selector) > 0 && len(t.refs) == 0 && !w.waypoint() {
		scope.Reason = "its selector wants " + selectorWords(t.selector) + ", and the labels of the workload are not known"
	}
	return scope
}

// selectorWords is a selector as k=v, k=v.
func selectorWords(selector map[string]string) string {
	words := make([]string, 0, len(selector))
	for _, k := range sortedKeys(selector) {
		words = append(words, k+"="+selector[k])
	}
	return strings.Join(words, ", ")
}

func (p *Policy) explainRule(rule *Rule, in *inquiry) RuleTrace {
	t := RuleTrace{Index: rule.Index, Nearness: 1}
	body := rule.http
	if in.TCP {
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
	t.From = explainClauses(body.from, in, &t)
	t.To = explainClauses(body.to, in, &t)
	for i := range body.when {
		c := explainCondition(&body.when[i], in)
		t.count(c)
		t.When = append(t.When, c)
	}
	t.Matched = body.matches(in.Request)
	if t.Unknown > 0 {
		t.Matched = false
	}
	return t
}

// MayMatch reports whether only what is not known of the request says whether the rule matches it.
func (t *RuleTrace) MayMatch() bool { return t.Missing == 0 && t.Unknown > 0 }

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
	switch {
	case c.Unknown:
		t.Unknown++
	case c.Matched:
		t.Met++
	default:
		t.Missing++
		t.Nearness = min(t.Nearness, c.Nearness)
	}
}

// CompareNearness orders rules by how near they came to matching, the nearest first.
func (t *RuleTrace) CompareNearness(other *RuleTrace) int {
	return cmp.Or(cmp.Compare(t.Missing, other.Missing), cmp.Compare(t.Unknown, other.Unknown), cmp.Compare(other.Met, t.Met),
		cmp.Compare(other.Nearness, t.Nearness))
}

// explainClauses explains alternatives; when all missed, the one with the fewest misses counts for the rule.
func explainClauses(clauses []clause, in *inquiry, t *RuleTrace) []ClauseTrace {
	var out []ClauseTrace
	best := RuleTrace{Missing: -1}
	for _, c := range clauses {
		ct := ClauseTrace{Matched: true, Conditions: []ConditionTrace{}}
		one := RuleTrace{Nearness: 1}
		for i := range c {
			cond := explainCondition(&c[i], in)
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
	t.Unknown += best.Unknown
	if best.Missing > 0 {
		t.Missing += best.Missing
		t.Nearness = min(t.Nearness, best.Nearness)
	}
	return out
}
