package replay

import (
	"maps"
	"net/http"
	"slices"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// maxShapes bounds how many relaxed forms of a set are kept. Logs have one shape, or a few.
const maxShapes = 64

// Set is one set of documents that traffic is replayed through. It is not safe for concurrent use.
type Set struct {
	docs      []*policy.Document
	snapshot  *policy.Snapshot
	providers map[string]bool // what providers are said to answer; others as recorded, or unknown
	metadata  bool            // claims are the proxy's
	shapes    map[shape]*relaxed
	logged    *layout // of decisions that are explained
}

// NewSet takes documents with the snapshot that was compiled of them. providers are answers that are taken for given.
// metadata is set if the proxies verify tokens (authz.jwt: metadata).
func NewSet(docs []*policy.Document, snap *policy.Snapshot, providers map[string]bool, metadata bool) *Set {
	return &Set{docs: docs, snapshot: snap, providers: providers, metadata: metadata, shapes: map[shape]*relaxed{}, logged: decisionLayout()}
}

// relaxed returns the rules for a shape, nil if there are too many shapes.
func (s *Set) relaxed(of shape) *relaxed {
	r, ok := s.shapes[of]
	if !ok {
		if len(s.shapes) == maxShapes {
			return nil
		}
		r = of.relax(s.docs, s.snapshot)
		s.shapes[of] = r
	}
	return r
}

// side is what one set makes of one workload.
type side struct {
	set     *Set
	bound   *policy.Bound
	refusal Outcome // if bound is nil
	leaning map[shape]*leaning
}

// leaning is a workload under relaxed rules.
type leaning struct {
	rules           *relaxed
	favour, against *policy.Bound
	exact           bool // no rule that governs the workload reads what the shape lacks
}

func newSide(s *Set, w *policy.Workload) *side {
	out := &side{set: s, leaning: map[shape]*leaning{}}
	bound, err := s.snapshot.Resolve(*w)
	if err != nil {
		out.refusal = unknown("the workload: " + err.Error())
		return out
	}
	out.bound = bound
	return out
}

// lean finds the workload's rules for a shape.
func (s *side) lean(of shape, w *policy.Workload) *leaning {
	l, ok := s.leaning[of]
	if ok {
		return l
	}
	if rules := s.set.relaxed(of); rules != nil {
		l = &leaning{rules: rules, favour: s.bound, against: s.bound, exact: !rules.touch(s.bound.Rules.Policies())}
		if !l.exact { // the same documents select the workload: what fails was found before
			favour, err := rules.favour.Resolve(*w)
			against, err2 := rules.against.Resolve(*w)
			if err != nil || err2 != nil {
				l = nil
			} else {
				l.favour, l.against = favour, against
			}
		}
	}
	if len(s.leaning) < maxShapes {
		s.leaning[of] = l
	}
	return l
}

// answer is what the set answers to a record. token is what is known of its token under this set.
func (s *side) answer(r *record, w *policy.Workload, token tokenState) Outcome {
	if s.bound == nil {
		return s.refusal
	}
	q, of := s.question(r, token)
	l := s.lean(of, w)
	if l == nil {
		return unknown("what the record lacks: its records differ in too many ways")
	}
	best := q.decide(l.favour, false)
	if !q.guessed && l.exact {
		return best
	}
	worst := q.decide(l.against, true)
	switch {
	case best == worst:
		return best
	case best.Allow == worst.Allow:
		return Outcome{Allow: best.Allow, Vague: true}
	}
	return unknown(q.why(l.rules, &best, &worst))
}

// question is what is asked about a record, with the shape that counts for the workload: without rules for tokens none is
// lacking. The request gets the claims that are known.
func (s *side) question(r *record, token tokenState) (question, shape) {
	q := question{record: r, set: s.set, token: token, lacks: r.shape.lacks}
	of := r.shape
	switch {
	case r.request.TCP:
		q.token, of.lacks, of.missing = tokenNone, of.lacks&^ofHTTP, 0
	case s.bound.Authentication == nil && !s.set.metadata:
		q.token = tokenNone
		of.lacks &^= ofToken
	case token == tokenNone || token == tokenRefused:
		of.lacks &^= ofToken
	case token == tokenValid && r.claims.issuer != "" && r.claims.subject != "":
		of.lacks = of.lacks&^ofToken | lacksClaims
	default:
		of.lacks |= ofToken
	}
	r.request.Claims = nil
	if q.token == tokenValid && of.lacks&lacksRequestPrincipal == 0 {
		r.request.Claims = &r.claims
	}
	return q, of
}

// question is one decision between two leanings.
type question struct {
	*record
	set     *Set
	token   tokenState
	lacks   attributes
	guessed bool   // something was taken in favour of the request or against it
	doubt   string // what the denial hangs on, apart from rules
}

// decide goes through the layers of authorization-policy §4.1 that documents have a say in, with the rules that serve. What
// is not known is taken against the request, or else in its favour.
func (q *question) decide(b *policy.Bound, against bool) Outcome {
	r := &q.request
	if refused, o := q.plaintext(b, against); refused {
		return o
	}
	for rule, next := b.Rules.Custom(r, 0); rule != nil; rule, next = b.Rules.Custom(r, next) {
		if refused, o := q.custom(rule, against); refused {
			return o
		}
	}
	switch {
	case q.set.metadata || q.token == tokenNone || q.token == tokenValid:
	case q.token == tokenRefused || q.guess("request.auth: whether its token is good", against):
		return Outcome{Status: http.StatusUnauthorized, Layer: authz.LayerJWT, Reason: authz.ReasonTokenRefused}
	}
	switch v := b.Rules.Evaluate(r); {
	case v.Deny != nil:
		return ruled(false, authz.LayerDeny, authz.ReasonDenied, v.Deny)
	case !v.HasAllow:
		return ruled(true, authz.LayerDefault, authz.ReasonNoAllowPolicy, nil)
	case v.Allow != nil:
		return ruled(true, authz.LayerAllow, authz.ReasonAllowed, v.Allow)
	}
	return ruled(false, authz.LayerAllow, authz.ReasonNoAllowMatch, nil)
}

// guess notes that something is not known, and takes it for bad if that is against the request.
func (q *question) guess(what string, against bool) (bad bool) {
	q.guessed = true
	if against {
		q.doubt = what
	}
	return against
}

// plaintext is the layer of PeerAuthentication (§8.2).
func (q *question) plaintext(b *policy.Bound, against bool) (refused bool, o Outcome) {
	strict := b.MTLS(q.request.DestPort) // of a port that is not known: the strictest of all
	if strict.Mode != policy.ModeStrict || q.request.HasIdentity() {
		return false, Outcome{}
	}
	if q.lacks&lacksIdentity != 0 && !q.guess("source.principal", against) {
		return false, Outcome{}
	}
	if q.lacks&lacksPort != 0 {
		for _, port := range b.MTLSPorts() {
			if port.Mode != policy.ModeStrict && !q.guess("destination.port", against) {
				return false, Outcome{}
			}
		}
	}
	o = denied(authz.LayerMTLS, authz.ReasonPlaintextRefused)
	if strict.Broken {
		o.Reason = authz.ReasonBrokenPolicy
	}
	return true, o
}

// custom is the answer of the provider of a CUSTOM rule that matches.
func (q *question) custom(rule *policy.Rule, against bool) (refused bool, o Outcome) {
	p := rule.Policy
	if p.Broken {
		return true, ruled(false, authz.LayerCustom, authz.ReasonBrokenPolicy, rule)
	}
	if allow, given := q.set.providers[p.Provider]; given {
		return !allow, ruled(false, authz.LayerCustom, authz.ReasonProviderDenied, rule)
	}
	for i := range q.asked {
		a := &q.asked[i]
		if a.name != p.Provider {
			continue
		}
		o := ruled(false, authz.LayerCustom, a.outcome, rule)
		if q.status != 0 {
			o.Status = q.status
		}
		return !a.open && a.outcome != authz.ReasonProviderAllowed, o
	}
	return q.guess("the answer of provider "+p.Provider, against), ruled(false, authz.LayerCustom, authz.ReasonProviderDenied, rule)
}

func ruled(allow bool, layer authz.Layer, reason authz.Reason, rule *policy.Rule) Outcome {
	o := denied(layer, reason)
	if allow {
		o.Allow, o.Status = true, http.StatusOK
	}
	if rule != nil {
		o.Namespace, o.Policy, o.Rule = rule.Policy.Namespace, rule.Policy.Name, rule.Index
		if rule.Policy.Broken {
			o.Reason = authz.ReasonBrokenPolicy
		}
	}
	return o
}

// why names what the answer depends on: it is denied at worst and allowed at best.
func (q *question) why(rules *relaxed, best, worst *Outcome) string {
	if q.doubt != "" && (worst.Layer == authz.LayerMTLS || worst.Layer == authz.LayerCustom || worst.Layer == authz.LayerJWT) {
		if name := rules.lacked[nameOf(worst)]; name != "" {
			return name
		}
		return q.doubt
	}
	for _, o := range []*Outcome{worst, best} {
		if name := rules.lacked[nameOf(o)]; name != "" {
			return name
		}
	}
	if names := slices.Sorted(maps.Values(rules.lacked)); len(names) > 0 { // a rule that decides neither at best nor at worst
		return names[0]
	}
	return "what the record lacks"
}

func nameOf(o *Outcome) ruleName { return ruleName{o.Namespace, o.Policy, o.Rule} }
