package policytest

import (
	"context"
	"fmt"
	"strconv"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// Config says what cases are decided by. Documents are without errors; every other zero value is that of the server.
type Config struct {
	Documents []*policy.Document
	Mesh      policy.Mesh

	TrustedHops int
	Paths       extauthz.PathMode
	Tokens      authz.TokenMode

	// Providers are those that are asked for real, unless a case says what they answer.
	Providers []authz.ProviderConfig
	// Remote are those that are somewhere else, without their Provider: a case says what they answer, or it is Unknown. One
	// that is in neither list does not exist, and who needs it is denied.
	Remote []authz.ProviderConfig

	Coverage *policy.Coverage // counts what the cases exercise; nil does not
}

// Runner decides the cases of one set of documents, one after the other: it is not safe for concurrent use.
type Runner struct {
	snapshot *policy.Snapshot
	server   *extauthz.Server
	options  extauthz.Options
	tokens   authz.TokenMode
	issuer   *Issuer
	verifier authz.Tokens
	coverage *policy.Coverage
	stubs    *stubs
	probes   map[*securityv1beta1.JWTRule]*probe
	accounts Accounts
	now      time.Time // of the case at hand; zero is the clock's
}

// New prepares a runner.
func New(cfg Config) (*Runner, error) {
	issuer, err := NewIssuer()
	if err != nil {
		return nil, err
	}
	r := &Runner{
		options: extauthz.Options{TrustedHops: cfg.TrustedHops, Paths: cfg.Paths}, tokens: cfg.Tokens, issuer: issuer, coverage: cfg.Coverage,
		probes: map[*securityv1beta1.JWTRule]*probe{}, accounts: NewAccounts(cfg.Documents),
	}
	r.snapshot = policy.NewSnapshot(issuer.Lend(cfg.Documents), cfg.Mesh)
	r.stubs = newStubs(&cfg)
	providers, err := authz.NewProviders(nil, r.stubs.configs...)
	if err != nil {
		return nil, err
	}
	if r.coverage != nil {
		if cfg.Tokens == authz.TokensMetadata {
			r.coverage.TokensElsewhere()
		}
		r.coverage.Add(r.snapshot)
	}
	r.verifier = authz.Tokens{Mode: cfg.Tokens, Source: issuer.Source, Now: r.Now}
	r.server, err = extauthz.New(extauthz.Config{
		Snapshot:    func() *policy.Snapshot { return r.snapshot },
		Engine:      &authz.Engine{Tokens: r.verifier, Providers: providers},
		TrustedHops: cfg.TrustedHops,
		Paths:       cfg.Paths,
	})
	return r, err
}

// Now is the time of the case that is being decided, for providers that ask.
func (r *Runner) Now() time.Time {
	if r.now.IsZero() {
		return time.Now()
	}
	return r.now
}

// Outcome is what became of a case.
type Outcome string

// Outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Unknown Outcome = "unknown" // the answer depends on something that the case leaves open
)

// Result is what became of one case.
type Result struct {
	Case       *Case
	Outcome    Outcome
	Mismatches []Mismatch // of a failed case
	Open       []string   // of an unknown one: what to say in it
	Unasked    []string   // providers that a matching policy names and for which nobody answers
	Took       time.Duration

	Decision authz.Decision
	Request  policy.Request // as policies saw it, with the claims they saw
}

// Mismatch is one expectation that is not met.
type Mismatch struct {
	Field string `json:"field"`
	Want  string `json:"want"`
	Got   string `json:"got"`
}

// Run decides one case. The error is that of a request that cannot be made.
func (r *Runner) Run(ctx context.Context, c *Case) (*Result, error) {
	started := time.Now()
	raw, err := r.prepare(c)
	if err != nil {
		return nil, fmt.Errorf("%s:%d: %s: %w", c.File, c.Line, c.ID(), err)
	}
	to := r.accounts.Complete(c.Request.To)
	out := &Result{Case: c, Decision: r.server.Decide(ctx, raw, &to)}
	d := &out.Decision
	r.seen(raw, d, &out.Request)
	out.Unasked = r.stubs.missing
	out.Open = r.open()
	nobody := unlabelled(c, d)
	if nobody != "" {
		out.Open = append(out.Open, nobody)
	}
	switch {
	case nobody != "" || len(out.Open) > 0 && !r.deniedAnyway(c, d):
		out.Outcome = Unknown
	default:
		out.Open = nil
		out.Mismatches = r.compare(&c.Expect, d)
		if out.Outcome = Passed; len(out.Mismatches) > 0 {
			out.Outcome = Failed
		}
		if r.coverage != nil && d.Workload != nil {
			o := reached(d)
			o.Tokens = r.tokensSeen(ctx, d, &out.Request)
			r.coverage.Record(d.Workload, &out.Request, o)
		}
	}
	out.Took = time.Since(started)
	return out, ctx.Err()
}

// Explain tells what every policy says of a case that was run.
func (r *Runner) Explain(res *Result) *policy.Trace {
	w := r.accounts.Complete(res.Case.Request.To)
	if res.Decision.Workload != nil {
		w = res.Decision.Workload.Workload
	}
	return r.snapshot.Explain(w, &res.Request)
}

// prepare sets the stage for a case and makes its CheckRequest.
func (r *Runner) prepare(c *Case) ([]byte, error) {
	r.now, r.stubs.answers, r.stubs.missing = c.Time, c.Providers, nil
	r.issuer.Begin(c.Request.Claims != nil)
	sent := &c.Request
	switch {
	case sent.Claims == nil:
	case r.tokens == authz.TokensMetadata:
		sent = sent.withMetadata()
	default:
		token, err := r.issuer.Sign(sent.Claims)
		if err != nil {
			return nil, err
		}
		var rules []policy.JWTRule
		if b, err := r.snapshot.Resolve(r.accounts.Complete(sent.To)); err == nil && b.Authentication != nil {
			rules = b.Authentication.Rules
		}
		sent = sent.withToken(token, rules)
	}
	return sent.checkRequest(r.snapshot.Mesh().TrustDomain)
}

// seen is the request as the engine asked policies about it.
func (r *Runner) seen(raw []byte, d *authz.Decision, out *policy.Request) {
	_, _ = extauthz.DecodeRequest(raw, r.options, out) // a request that cannot be read is denied with the reason
	switch {
	case r.tokens == authz.TokensMetadata:
		out.Claims = out.ProxyClaims
	case d.Token.Token != nil:
		out.Claims = d.Token.Token
	}
}

// open says what the case at hand leaves open.
func (r *Runner) open() []string {
	var open []string
	for _, name := range r.stubs.missing {
		open = append(open, "what provider "+name+" answers: write providers: {"+name+": allow} or deny")
	}
	for _, name := range r.issuer.missing {
		open = append(open, "the keys of "+name+", which only an authority fetches: write unverified_claims in the place of the token")
	}
	return open
}

// deniedAnyway reports whether no provider could change what the case expects: something else denies the request, and
// nothing but the decision is asked for.
func (r *Runner) deniedAnyway(c *Case, d *authz.Decision) bool {
	return len(r.issuer.missing) == 0 && !d.Allow && c.Expect == Expect{Decision: c.Expect.Decision}
}

// reached says how far a decision went.
func reached(d *authz.Decision) policy.Reached {
	o := policy.Reached{MTLS: true, Custom: true, Policies: d.Evaluated}
	switch d.Layer {
	case authz.LayerSystem, authz.LayerRevoked:
		o.MTLS, o.Custom = false, false
	case authz.LayerMTLS:
		o.Custom = false
	case authz.LayerCustom, authz.LayerDeny:
		o.DeniedBy = d.Rule
	default:
	}
	return o
}

// compare lists the expectations that a decision does not meet.
func (r *Runner) compare(e *Expect, d *authz.Decision) []Mismatch {
	var out []Mismatch
	differ := func(field, want, got string) {
		if want != "" && want != got {
			out = append(out, Mismatch{field, want, got})
		}
	}
	decision, policyName, rule := "DENY", None, None
	if d.Allow {
		decision = "ALLOW"
	}
	if d.Rule != nil {
		policyName, rule = d.Rule.Policy.String(), strconv.Itoa(d.Rule.Index)
	}
	differ("decision", e.Decision, decision)
	if e.Status != 0 {
		differ("status", strconv.Itoa(e.Status), strconv.Itoa(d.Status))
	}
	differ("layer", string(e.Layer), string(d.Layer))
	differ("policy", e.Policy, policyName)
	if e.Rule != nil {
		differ("rule", strconv.Itoa(*e.Rule), rule)
	}
	for _, beside := range []struct {
		field, want string
		rule        *policy.Rule
	}{
		{"audit", e.Audit, d.Verdict.Audit},
		{"dry_run_deny", e.DryRunDeny, d.Verdict.ShadowDeny},
		{"dry_run_allow", e.DryRunAllow, d.Verdict.ShadowAllow},
	} {
		got := None
		if d.Evaluated && beside.rule != nil {
			got = beside.rule.Policy.String()
		}
		differ(beside.field, beside.want, got)
	}
	return out
}
