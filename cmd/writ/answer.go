package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// answer is what check prints of one request.
type answer struct {
	Decision   string            `json:"decision"` // ALLOW, DENY or UNKNOWN
	HTTPStatus int               `json:"http_status"`
	Body       string            `json:"body"`
	Headers    map[string]string `json:"headers"`
	Reason     authz.Reason      `json:"reason"`
	Layer      authz.Layer       `json:"layer"`
	Policy     string            `json:"policy,omitempty"` // namespace/name of the policy that decided
	Rule       *int              `json:"rule,omitempty"`   // index of the rule that decided
	File       string            `json:"file,omitempty"`
	Line       int               `json:"line,omitempty"`
	Detail     string            `json:"detail,omitempty"`
	Token      *tokenAnswer      `json:"token,omitempty"`
	Custom     []askedAnswer     `json:"custom,omitempty"` // the providers that were asked
	Changes    *changesAnswer    `json:"changes,omitempty"`
	Audit      *ruleRef          `json:"audit,omitempty"`
	Shadow     *shadow           `json:"shadow,omitempty"`
	Workload   *policy.Workload  `json:"workload,omitempty"`

	UnverifiedClaims bool `json:"unverified_claims,omitempty"` // claims that nobody verified count in the place of a token
}

// tokenAnswer is what became of the request's token, and what it does to an allowed request.
type tokenAnswer struct {
	Reason        string            `json:"reason"`         // valid, or why it was refused
	Rule          string            `json:"rule,omitempty"` // of the RequestAuthentication that refused it, or whose it is
	KeyID         string            `json:"key_id,omitempty"`
	SetHeaders    map[string]string `json:"set_headers,omitempty"`
	RemoveHeaders []string          `json:"remove_headers,omitempty"`
	RemoveParams  []string          `json:"remove_query_parameters,omitempty"`
}

func tokenAnswerOf(d *authz.Decision) *tokenAnswer {
	t := &d.Token
	if t.Token == nil && t.Reason == jwt.Valid && len(t.RemoveHeaders) == 0 {
		return nil
	}
	a := &tokenAnswer{Reason: t.Reason.String(), Rule: t.Rule, KeyID: t.KeyID}
	if t.Token == nil && t.Reason == jwt.Valid {
		a.Reason = "none"
	}
	if !d.Allow {
		return a
	}
	a.RemoveHeaders, a.RemoveParams = t.RemoveHeaders, t.RemoveParams
	for _, h := range t.SetHeaders {
		if a.SetHeaders == nil {
			a.SetHeaders = map[string]string{}
		}
		a.SetHeaders[h.Name] = h.Value
	}
	return a
}

// reasonKeysNotGiven is the reason of an answer that depends on keys which only a running authority fetches.
const reasonKeysNotGiven authz.Reason = "keys_not_given"

// unknown is the answer in place of a, which was decided without keys that a token has to be verified with.
func (a *answer) unknown(missing []jwt.Wanted) *answer {
	return &answer{
		Decision: "UNKNOWN", Headers: map[string]string{}, Reason: reasonKeysNotGiven, Layer: authz.LayerJWT, Detail: howToGive(missing),
		Token: &tokenAnswer{Reason: "unknown"}, Workload: a.Workload,
	}
}

// exitCode is that of a command with this answer alone.
func (a *answer) exitCode() int {
	switch a.Decision {
	case "ALLOW":
		return exitOK
	case "UNKNOWN":
		return exitUnknown
	}
	return exitNo
}

// paint is the decision in its colour.
func (a *answer) paint(colours palette) string {
	switch a.Decision {
	case "ALLOW":
		return colours.green(a.Decision)
	case "UNKNOWN":
		return colours.yellow(a.Decision)
	}
	return colours.red(a.Decision)
}

// refusal says in words why the token is refused, and by which rule.
func (t *tokenAnswer) refusal() string {
	text := "the token is refused: " + strings.ReplaceAll(t.Reason, "_", " ")
	if t.KeyID != "" {
		text += ", key " + strconv.Quote(t.KeyID)
	}
	if t.Rule != "" {
		text += " (" + t.Rule + ")"
	}
	return text
}

// ruleRef names one rule.
type ruleRef struct {
	Policy string `json:"policy"`
	Rule   int    `json:"rule"`
}

// shadow is what the policies under dry run would have said.
type shadow struct {
	Deny  *shadowResult `json:"deny,omitempty"`
	Allow *shadowResult `json:"allow,omitempty"`
}

type shadowResult struct {
	Matched bool     `json:"matched"`
	By      *ruleRef `json:"by,omitempty"`
}

// answers makes answers of decisions. It remembers where rules stand, because finding that out means parsing.
type answers struct{ places map[*policy.Rule]rulePlace }

type rulePlace struct {
	file string
	line int
}

func (as *answers) of(d *authz.Decision) *answer {
	a := &answer{Decision: "DENY", HTTPStatus: d.Status, Body: d.Body, Headers: map[string]string{}, Reason: d.Reason, Layer: d.Layer,
		Detail: d.Detail, Token: tokenAnswerOf(d)}
	if challenge := d.Challenge(); challenge != "" {
		a.Headers["www-authenticate"] = challenge
	}
	if d.Allow {
		a.Decision = "ALLOW"
	}
	a.custom(d)
	if d.Rule != nil {
		ref := refOf(d.Rule)
		a.Policy, a.Rule = ref.Policy, &ref.Rule
		place := as.place(d.Rule)
		a.File, a.Line = place.file, place.line
	}
	if d.Workload != nil {
		a.Workload = &d.Workload.Workload
	}
	if !d.Evaluated {
		return a
	}
	a.Audit = refOf(d.Verdict.Audit)
	if d.Verdict.HasShadowDeny || d.Verdict.HasShadowAllow {
		a.Shadow = &shadow{}
	}
	if d.Verdict.HasShadowDeny {
		a.Shadow.Deny = &shadowResult{d.Verdict.ShadowDeny != nil, refOf(d.Verdict.ShadowDeny)}
	}
	if d.Verdict.HasShadowAllow {
		a.Shadow.Allow = &shadowResult{d.Verdict.ShadowAllow != nil, refOf(d.Verdict.ShadowAllow)}
	}
	return a
}

func refOf(r *policy.Rule) *ruleRef {
	if r == nil {
		return nil
	}
	return &ruleRef{r.Policy.String(), r.Index}
}

// place is where a rule stands in its file.
func (as *answers) place(r *policy.Rule) rulePlace {
	if known, ok := as.places[r]; ok {
		return known
	}
	var p rulePlace
	if doc := r.Policy.Document(); doc != nil {
		line, _ := doc.Position(fmt.Sprintf("spec.rules[%d]", r.Index))
		p = rulePlace{doc.File, line}
	}
	if as.places == nil {
		as.places = map[*policy.Rule]rulePlace{}
	}
	as.places[r] = p
	return p
}

// because says in one sentence why the answer is what it is.
func (a *answer) because() string {
	rule := ""
	if a.Rule != nil {
		rule = fmt.Sprintf("rule %d of %s (%s:%d)", *a.Rule, a.Policy, a.File, a.Line)
	}
	switch a.Reason {
	case authz.ReasonAllowed:
		return "ALLOW " + rule + " matches"
	case authz.ReasonNoAllowPolicy:
		return "no policy denies it, and no ALLOW policy applies to this workload"
	case authz.ReasonDenied:
		return "DENY " + rule + " matches"
	case authz.ReasonNoAllowMatch:
		return "ALLOW policies apply to this workload and none of their rules matches"
	case authz.ReasonTokenRefused:
		return a.Token.refusal()
	case reasonKeysNotGiven, reasonProviderNotAsked, reasonNotInLog, reasonInAnyCase:
		return a.Detail
	}
	text := strings.ReplaceAll(string(a.Reason), "_", " ")
	if rule != "" {
		text += ": " + rule
	}
	if a.Detail != "" {
		text += ": " + a.Detail
	}
	return text
}

// notes are the facts beside the answer: what was audited and what dry-run policies say.
func (a *answer) notes() []string {
	notes := a.customNotes()
	if a.UnverifiedClaims {
		notes = append(notes, unverifiedNote)
	}
	if a.Audit != nil {
		notes = append(notes, fmt.Sprintf("audited: rule %d of %s", a.Audit.Rule, a.Audit.Policy))
	}
	if a.Shadow == nil {
		return notes
	}
	if s := a.Shadow.Deny; s != nil && s.Matched {
		notes = append(notes, fmt.Sprintf("dry run: DENY rule %d of %s would deny it", s.By.Rule, s.By.Policy))
	} else if s != nil {
		notes = append(notes, "dry run: no DENY rule matches")
	}
	if s := a.Shadow.Allow; s != nil && s.Matched {
		notes = append(notes, fmt.Sprintf("dry run: ALLOW rule %d of %s matches", s.By.Rule, s.By.Policy))
	} else if s != nil {
		notes = append(notes, "dry run: no ALLOW rule matches, it would be denied")
	}
	return notes
}
