package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// jwt is the parent of what looks at tokens.
func (c *cli) jwt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jwt",
		Short: "Look at a token, or verify it as an authority would",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.jwtVerify(), c.jwtInspect())
	return cmd
}

// oneToken is what the commands for tokens take.
func oneToken(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("jwt %s: which token? One file, or - for standard input", cmd.Name())
	}
	return nil
}

// verifyFlags say by which rules a token is verified.
type verifyFlags struct {
	policies []string
	config   string
	target   target
	tokens   tokenFlags
}

func (c *cli) jwtVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE|-",
		Short: "Verify a token by the rules of documents, or by keys",
		Long: "verify asks every rule of RequestAuthentication documents, or of those for one workload, what it says of a token;\n" +
			"without documents, it verifies with the keys of --jwks for their issuers, whatever the audience. Nothing is fetched:\n" +
			"keys that an authority would fetch are given by --jwks. The token is never shown.\n\n" +
			"Exit codes: 0 a rule takes the token, 2 none does, 3 a document or key set is invalid, 6 it cannot be told without keys.",
		Example: "  writ jwt verify token.jwt --policies ./policies --to coffee-shop/order --labels app=order\n" +
			"  writ jwt verify - --jwks https://idp.example=keys.json --time 2026-08-01T12:00:00Z <token.jwt",
		Args: oneToken,
	}
	f := &verifyFlags{}
	cmd.Flags().StringArrayVarP(&f.policies, "policies", "p", nil, "`path` of documents: file, directory, or - for standard input; repeatable")
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "configuration `file` to take the trust domain, documents and the rest from")
	f.target.flags(cmd)
	f.tokens.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		report, err := c.verifyToken(cmd, f, args[0])
		if err != nil {
			return err
		}
		if out.value != "text" {
			err = out.encode(c.out, report)
		} else {
			err = report.write(c.out, c.colours(c.out))
		}
		if err != nil {
			return err
		}
		if code := report.exitCode(); code != exitOK {
			return exitWith(code)
		}
		return nil
	}
	return cmd
}

// verifyReport is the answer of jwt verify.
type verifyReport struct {
	Verdict  string        `json:"verdict"` // verified, refused or unknown
	Reason   string        `json:"reason"`  // valid, unknown, no_rule, or why the token is refused
	Body     string        `json:"body"`    // what a client would be told
	Detail   string        `json:"detail,omitempty"`
	Rule     string        `json:"rule,omitempty"` // that takes it
	Time     time.Time     `json:"time"`
	Identity *identity     `json:"identity,omitempty"`
	Rules    []ruleVerdict `json:"rules"` // in the order they are asked
}

// ruleVerdict is what one rule says of the token.
type ruleVerdict struct {
	Rule   string `json:"rule"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	Issuer string `json:"issuer"`
	Keys   string `json:"keys"` // inline, given or missing
	Result string `json:"result"`
	KeyID  string `json:"key_id,omitempty"`

	reason jwt.Reason
}

func (r *verifyReport) exitCode() int {
	switch r.Verdict {
	case "verified":
		return exitOK
	case "unknown":
		return exitUnknown
	}
	return exitNo
}

func (c *cli) verifyToken(cmd *cobra.Command, f *verifyFlags, file string) (*verifyReport, error) {
	if err := onceStdin(append([]string{file}, f.policies...)...); err != nil {
		return nil, err
	}
	now, err := f.tokens.now()
	if err != nil {
		return nil, err
	}
	keys, err := c.readKeys(f.tokens.jwks)
	if err != nil {
		return nil, err
	}
	rules, docs, err := c.tokenRules(cmd, f, keys)
	if err != nil {
		return nil, err
	}
	token, err := c.readToken("token", file)
	if err != nil {
		return nil, err
	}
	report := judgeToken(cmd.Context(), token, now().UTC(), rules, docs, keys)
	if report.Verdict == "verified" && docs == nil {
		report.Detail = "without documents the audience is not checked"
	}
	return report, nil
}

// tokenRules finds the rules to ask: of the documents, of those for a workload, or one for each issuer of --jwks.
func (c *cli) tokenRules(cmd *cobra.Command, f *verifyFlags, keys *offlineKeys) ([]policy.JWTRule, []*policy.Document, error) {
	cfg := defaultConfig()
	if f.config != "" {
		loaded, err := c.loadConfig(f.config, nil)
		if err != nil {
			return nil, nil, err
		}
		cfg = loaded
	}
	paths := f.policies
	if len(paths) == 0 && cfg.Documents != "" {
		paths = []string{cfg.Documents}
	}
	mesh := cfg.mesh()
	workload, err := f.target.resolve(cmd, &mesh)
	switch {
	case err != nil:
		return nil, nil, err
	case len(paths) == 0 && len(keys.names) == 0:
		return nil, nil, usagef("jwt verify: by which rules? --policies PATH, or --jwks ISSUER=FILE")
	case len(paths) == 0 && workload != nil:
		return nil, nil, usagef("jwt verify: which rules has the workload? --policies PATH")
	case len(paths) == 0:
		return rulesOfKeys(keys), nil, nil
	}
	docs, snap, err := c.validDocuments(paths, mesh)
	if err != nil {
		return nil, nil, err
	}
	c.sayUnused(keys, authz.WantedKeys(snap))
	if workload == nil {
		rules := snap.JWTRules()
		slices.SortStableFunc(rules, func(a, b policy.JWTRule) int { return strings.Compare(a.Spec.GetIssuer(), b.Spec.GetIssuer()) })
		return rules, docs, nil
	}
	bound, err := snap.Resolve(*workload)
	if err != nil {
		return nil, nil, err
	}
	if bound.Authentication == nil {
		return nil, docs, nil
	}
	return bound.Authentication.Rules, docs, nil
}

// rulesOfKeys makes a rule of each --jwks, which asks for nothing but the issuer and a signature.
func rulesOfKeys(keys *offlineKeys) []policy.JWTRule {
	rules := make([]policy.JWTRule, 0, len(keys.names))
	for _, issuer := range keys.names {
		rules = append(rules, policy.JWTRule{ID: "--jwks " + issuer, Spec: &securityv1beta1.JWTRule{Issuer: issuer}})
	}
	return rules
}

// judgeToken asks each rule by itself, and puts together what a request with the token would be answered.
func judgeToken(ctx context.Context, token string, now time.Time, rules []policy.JWTRule, docs []*policy.Document, keys *offlineKeys) *verifyReport {
	r := &verifyReport{Verdict: "refused", Reason: "no_rule", Time: now, Rules: []ruleVerdict{}}
	tokens := authz.Tokens{Source: keys.source}
	for _, rule := range rules {
		keys.missing = nil
		answer := tokens.Validator(&policy.Authentication{Rules: []policy.JWTRule{rule}}).Verify(ctx, token, now)[0]
		v := ruleVerdict{Rule: rule.ID, Issuer: rule.Spec.GetIssuer(), Keys: keys.described(rule), Result: answer.Reason.String(),
			KeyID: answer.KeyID, reason: answer.Reason}
		v.File, v.Line = rulePlaceOf(rule, docs)
		switch {
		case len(keys.missing) > 0:
			v.Result = "unknown"
			if r.Verdict == "refused" {
				r.Verdict, r.Reason, r.Detail = "unknown", "unknown", howToGive(keys.missing)
			}
		case answer.Token != nil && r.Verdict != "verified":
			r.Verdict, r.Reason, r.Detail, r.Rule, r.Identity = "verified", v.Result, "", rule.ID, identityOfToken(answer.Token)
		}
		r.Rules = append(r.Rules, v)
	}
	switch {
	case len(rules) == 0:
		r.Detail = "no rule of a RequestAuthentication applies: tokens are not looked at"
	case r.Verdict == "refused":
		reason := combined(r.Rules)
		r.Reason, r.Body = reason.String(), reason.Body()
	}
	return r
}

// combined is the reason a request is refused for whose token no rule takes: that of the first rule, but that it is not
// its issuer counts only if no other rule knows more (request-authentication §1.5).
func combined(rules []ruleVerdict) jwt.Reason {
	reason := rules[0].reason
	for _, r := range rules[1:] {
		if rules[0].reason == jwt.IssuerUnknown && r.reason != jwt.IssuerUnknown {
			reason = r.reason
		}
	}
	return reason
}

func (r *verifyReport) write(w io.Writer, colours palette) error {
	var b strings.Builder
	switch r.Verdict {
	case "verified":
		fmt.Fprintf(&b, "%s by %s\n", colours.bold(colours.green("VERIFIED")), printable(r.Rule))
		for _, row := range r.Identity.rows(r.Time) {
			fmt.Fprintf(&b, "  %s %s\n", colours.dim(fmt.Sprintf("%-9s", row[0])), printable(row[1]))
		}
		if r.Detail != "" {
			fmt.Fprintf(&b, "  %s\n", colours.yellow(r.Detail))
		}
	case "unknown":
		fmt.Fprintf(&b, "%s %s\n", colours.bold(colours.yellow("UNKNOWN")), printable(r.Detail))
	default:
		why := r.Detail
		if why == "" {
			why = strings.ReplaceAll(r.Reason, "_", " ") + colours.dim(fmt.Sprintf("  clients are told %q", r.Body))
		}
		fmt.Fprintf(&b, "%s %s\n", colours.bold(colours.red("NOT VERIFIED")), why)
	}
	if len(r.Rules) > 0 {
		b.WriteByte('\n')
	}
	for i := range r.Rules {
		r.Rules[i].write(&b, colours)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (v *ruleVerdict) write(b *strings.Builder, colours palette) {
	text := resultWords(v.Result)
	if v.KeyID != "" {
		text += fmt.Sprintf(", key %q", v.KeyID)
	}
	place := ""
	if v.File != "" {
		place = fmt.Sprintf("  %s:%d", printable(v.File), v.Line)
	}
	fmt.Fprintf(b, "%s %s%s\n    %s\n", colours.resultMark(v.Result), printable(v.Rule),
		colours.dim(fmt.Sprintf("%s  issuer %s, keys %s", place, printable(orAny(v.Issuer)), v.Keys)), printable(text))
}

func orAny(issuer string) string {
	if issuer == "" {
		return "any"
	}
	return issuer
}
