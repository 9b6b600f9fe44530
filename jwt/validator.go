package jwt

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"
)

// Header is one request header; Name is in lower case. It is shaped like policy.Header, so that one converts to the other.
type Header = struct{ Name, Value string }

// Input is what a validator reads of a request. Its strings may point into a buffer that is reused after the call.
type Input struct {
	Headers []Header // in the order received
	Raw     bool     // repeated headers are apart; otherwise the proxy has joined them with commas
	Method  string
	Path    string // with the query, as received
	Host    string // :authority
	Scheme  string // for the challenge of a refusal
	Now     time.Time
}

// Result is the answer to one request. It may be reused: its lists keep their memory, and hold until the next call.
type Result struct {
	Status       int    // 0 if not refused, else 401 or 403
	Reason       Reason // of the refusal, or Valid
	Body         string // of the refusal, Envoy's text
	Authenticate string // value of the www-authenticate header of the refusal
	Rule         string // ID of the rule that refused, or of the one the token is from
	KeyID        string // kid of the token that was refused, or of the key that verified it; printable
	Token        *Token // nil if the request has no identity

	// What to do to a request that is not refused. A header is never both set and removed.
	SetHeaders    []Header // replacing what the client sent
	RemoveHeaders []string
	RemoveParams  []string // query parameters

	Verified    int  // signatures computed
	Cached      int  // tokens found in the cache
	EmbeddedKey bool // a token's header offered a key of its own; it was not looked at

	candidates candidates
	scratch    []byte
	workspace  workspace
}

// Reset empties the result and keeps its memory.
func (r *Result) Reset() {
	clear(r.candidates.all)
	clear(r.SetHeaders)
	*r = Result{
		SetHeaders:    r.SetHeaders[:0],
		RemoveHeaders: r.RemoveHeaders[:0],
		RemoveParams:  r.RemoveParams[:0],
		candidates:    candidates{all: r.candidates.all[:0]},
		scratch:       r.scratch[:0],
		workspace:     r.workspace,
	}
}

// Validator decides who requests to one workload are from. It is immutable and safe for concurrent use.
type Validator struct {
	rules    []*rule
	finder   *finder
	outputs  []string // every header a rule may set, so that clients may not
	required bool     // a rule has presence REQUIRED
	cache    *Cache
}

// Options are what a validator may be given besides its rules.
type Options struct {
	Cache *Cache // nil: every token is verified on every request
}

// NewValidator makes the validator of a workload from all the rules that apply to it, in the order of their policies.
// They are concatenated, not overridden, and evaluated in the order of their issuers (request-authentication §1.4).
//
// sources is called for each rule and returns where its keys come from, nil if it has none: then its tokens are refused.
func NewValidator(rules []Rule, sources func(Rule) Source, options Options) *Validator {
	v := &Validator{cache: options.Cache}
	for _, r := range rules {
		made := newRule(r, sources(r))
		v.rules = append(v.rules, made)
		v.required = v.required || r.Required
		for _, o := range made.outputs {
			v.outputs = append(v.outputs, o.header)
		}
	}
	slices.SortStableFunc(v.rules, func(a, b *rule) int { return strings.Compare(a.Issuer, b.Issuer) })
	slices.Sort(v.outputs)
	v.outputs = slices.Compact(v.outputs)
	v.finder = newFinder(v.rules)
	return v
}

// Validate decides who a request is from and writes the answer to out. It waits for keys within ctx, and only if the
// request has a token that they may verify.
//
// A request without a token is not refused, and has no identity, unless a rule requires one.
func (v *Validator) Validate(ctx context.Context, in *Input, out *Result) {
	out.Reset()
	if !isPreflight(in) {
		out.scratch = v.finder.find(in, &out.candidates, out.scratch)
		switch {
		case out.candidates.tooMany:
			out.refuse(in, nil, TooManyTokens, "")
		case len(out.candidates.all) > 0 || v.required:
			v.combine(ctx, in, out)
		}
	}
	v.removeOutputs(out)
}

// isPreflight is CORS's question before a request: it carries no identity (request-authentication §2.4).
func isPreflight(in *Input) bool {
	return in.Method == "OPTIONS" && in.has("origin") && in.has("access-control-request-method")
}

func (in *Input) has(name string) bool {
	for i := range in.Headers {
		if in.Headers[i].Name == name && in.Headers[i].Value != "" {
			return true
		}
	}
	return false
}

// now is in whole seconds since 1970.
func (in *Input) now() uint64 { return uint64(max(in.Now.Unix(), 0)) }

// verdict is what one rule says of a request: Valid, Missing, or why not.
type verdict struct {
	rule   *rule
	reason Reason
	kid    string
}

// combine is the closed form of Envoy's OR(P1…Pn, AND(OR(Pi, missing))), or of AND(Pi or OR(Pi, missing)) if a rule is
// required (request-authentication §1.5).
func (v *Validator) combine(ctx context.Context, in *Input, out *Result) {
	work := evaluation{validator: v, in: in, now: in.now(), out: out, tries: maxSignatures}
	var first, last verdict // last counts those that found more than an unknown issuer
	for _, r := range v.rules {
		this := work.evaluate(ctx, r)
		switch {
		case this.reason == Valid:
			if !v.required {
				return
			}
		case this.reason == Missing && !r.Required:
		case v.required:
			out.refuse(in, r, this.reason, this.kid)
			return
		default:
			if first.rule == nil {
				first = this
			}
			if this.reason != IssuerUnknown {
				last = this
			}
		}
	}
	if first.rule == nil {
		return
	}
	if first.reason == IssuerUnknown && last.rule != nil {
		first = last
	}
	out.refuse(in, first.rule, first.reason, first.kid)
}

// refuse turns the result into a refusal.
func (r *Result) refuse(in *Input, by *rule, reason Reason, kid string) {
	r.Status, r.Reason, r.Body = reason.Status(), reason, reason.Body()
	r.Authenticate = challenge(in, reason)
	r.Token, r.Rule, r.KeyID = nil, "", printableKeyID(kid)
	if by != nil {
		r.Rule = by.ID
	}
	r.SetHeaders, r.RemoveHeaders, r.RemoveParams = r.SetHeaders[:0], r.RemoveHeaders[:0], r.RemoveParams[:0]
}

// removeOutputs has every header that a rule may set removed unless it was set, whatever became of the request: else a
// client could send it (request-authentication §5.5).
func (v *Validator) removeOutputs(out *Result) {
	out.RemoveHeaders = slices.DeleteFunc(out.RemoveHeaders, out.sets)
	for _, name := range v.outputs {
		if !out.sets(name) && !slices.Contains(out.RemoveHeaders, name) {
			out.RemoveHeaders = append(out.RemoveHeaders, name)
		}
	}
}

func (r *Result) sets(name string) bool {
	for i := range r.SetHeaders {
		if r.SetHeaders[i].Name == name {
			return true
		}
	}
	return false
}

// challenge is the value of www-authenticate (RFC 6750 §3). The query of the URL is left out: it may hold the token.
func challenge(in *Input, reason Reason) string {
	const longest = 256
	path, _, _ := strings.Cut(in.Path, "?")
	path = path[:min(len(path), longest)]
	realm := strings.Map(func(r rune) rune {
		if r < ' ' || r == '"' || r == '\\' || r == 0x7f {
			return -1
		}
		return r
	}, in.Scheme+"://"+in.Host+path)
	text := `Bearer realm="` + realm + `"`
	if reason != Missing {
		text += `, error="invalid_token"`
	}
	return text
}

// Verdict is what one rule says of one token.
type Verdict struct {
	Rule   string // ID of the rule
	Reason Reason // Valid if the token passes
	KeyID  string // of the token's header, or of the key that verified it; printable
	Token  *Token // nil if it does not pass
}

// Verify asks every rule about one token, wherever a request would carry it, in the order rules are evaluated.
func (v *Validator) Verify(ctx context.Context, token string, now time.Time) []Verdict {
	verdicts := make([]Verdict, 0, len(v.rules))
	for _, r := range v.rules {
		tries := math.MaxInt
		c := candidate{token: token}
		work := evaluation{validator: v, now: (&Input{Now: now}).now(), out: new(Result), tries: tries}
		proof, kid, reason := work.verify(ctx, r, &c)
		verdicts = append(verdicts, Verdict{Rule: r.ID, Reason: reason, KeyID: printableKeyID(kid), Token: proof})
	}
	return verdicts
}
