package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// explanation is an answer with how it came about.
type explanation struct {
	*answer
	Logged     *loggedAnswer   `json:"logged,omitempty"` // of a request that a decision log holds
	WhyNot     *whyNot         `json:"why_not,omitempty"`
	Canonical  []canonicalStep `json:"canonical,omitempty"`
	NearMisses []ruleMiss      `json:"near_misses,omitempty"` // ALLOW rules, the one that came nearest first
	Tokens     *tokenTrace     `json:"tokens,omitempty"`
	Trace      *policy.Trace   `json:"trace,omitempty"` // not beside WhyNot
}

// explainFlags are those that only explain has.
type explainFlags struct {
	all           bool
	whyNot        string
	decision, log string
}

func (c *cli) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why: every policy, rule and field, and what missed by how little",
		Long: "explain decides like check, and shows the whole way to the answer: which policies apply and why, which rules\n" +
			"match, and which condition kept the others from matching. With --why-not it says why one policy or rule did not decide.\n" +
			"With --decision it finds a request in a decision log, and says what these documents make of it.\n\n" +
			"Exit codes: 0 all are allowed, 2 one is denied, 3 a document is invalid, 6 none is denied and of one that cannot be\n" +
			"told: it carries a token, and the keys to verify it with are not given (--jwks), it is up to a provider that is not\n" +
			"asked offline (--provider), or it depends on what the log does not hold.",
		Example: "  writ explain -p ./policies --to coffee-shop/order --labels app=order --from coffee-shop/customer --method DELETE --path /orders\n" +
			"  writ explain -p ./policies --to coffee-shop/order --labels app=order --path /orders --why-not coffee-shop/order/0\n" +
			"  writ explain -c writ.yaml --decision 3w5e11264sg1v-7 --log /var/log/writ/decisions.jsonl",
		Args: cobra.NoArgs,
	}
	q, x := &questions{}, &explainFlags{}
	q.flags(cmd)
	out := addOutput(cmd)
	f := cmd.Flags()
	f.BoolVar(&x.all, "all", false, "show every rule and policy, however far it missed")
	f.StringVar(&x.whyNot, "why-not", "", "say why this policy or rule did not decide: `NAMESPACE/POLICY[/RULE]`")
	f.StringVar(&x.decision, "decision", "", "`ID` of the decision to explain, as x-writ-decision-id and the decision log have it")
	f.StringVar(&x.log, "log", "", "decision log `file` that holds --decision, or -")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := x.consistent(cmd, q); err != nil {
			return err
		}
		s, err := c.newSession(cmd, q)
		if err != nil {
			return err
		}
		target, err := parseWhyNot(x.whyNot, s.docs)
		if err != nil {
			return err
		}
		if x.decision != "" {
			return c.explainLogged(cmd, s, q, x, target, out)
		}
		return c.replyBy(s, cmd, q, out, func(raw []byte) reply {
			e, r := s.explain(cmd.Context(), raw, target)
			return e.reply(r, x.all)
		})
	}
	return cmd
}

// consistent refuses command lines that cannot be meant.
func (x *explainFlags) consistent(cmd *cobra.Command, q *questions) error {
	switch {
	case x.decision == "" && x.log == "":
		return nil
	case x.decision == "":
		return usagef("explain: which decision of the log? --decision ID")
	case x.log == "":
		return usagef("explain: which log holds the decision? --log FILE, or - for standard input")
	case q.requests != "":
		return usagef("explain: --decision takes its request from the log, --requests brings others: give one of them")
	}
	for _, flag := range append(requestFlagNames(), "jwks", "time") {
		if cmd.Flags().Changed(flag) {
			return usagef("explain: --decision takes its request from the log: --%s means nothing beside it", flag)
		}
	}
	q.logged = true
	return onceStdin(append([]string{x.log}, q.policies...)...)
}

// reply is the explanation in the form that was asked for.
func (e *explanation) reply(r *policy.Request, all bool) reply {
	return reply{e.exitCode(), e, func(w io.Writer, colours palette) error {
		if e.WhyNot != nil {
			return writeWhyNot(w, colours, all, e, r)
		}
		return writeTrace(w, colours, all, e, r)
	}}
}

// complete adds what follows from the trace. Tokens are taken out of it.
func (e *explanation) complete(r *policy.Request, trace *policy.Trace, opts *extauthz.Options, target *whyNotTarget) {
	withholdTokens(trace)
	e.Canonical = canonical(r, opts)
	if target != nil {
		e.WhyNot = target.explain(e.answer, trace)
		return
	}
	e.Trace, e.NearMisses = trace, nearMisses(e.answer, trace)
}

// explain decides one request, and finds out how it comes to that.
func (s *session) explain(ctx context.Context, raw []byte, target *whyNotTarget) (*explanation, *policy.Request) {
	d, a := s.decide(ctx, raw)
	r := new(policy.Request)
	_, _ = extauthz.DecodeRequest(raw, s.options, r) // a request that cannot be read is denied with the reason
	e := &explanation{answer: a, Tokens: s.traceTokens(ctx, r, d)}
	if s.unverified != nil {
		e.Tokens.markUnverified()
	}
	switch { // what policies are asked about is what the engine asked them about
	case s.tokens.Mode == authz.TokensMetadata:
		r.Claims = r.ProxyClaims
	case d.Token.Token != nil && len(s.keys.missing) == 0:
		r.Claims = d.Token.Token
	}
	var asked policy.Workload
	switch {
	case d.Workload != nil:
		asked = d.Workload.Workload
	case s.workload != nil:
		asked = *s.workload
	}
	e.complete(r, s.snapshot.Explain(asked, r), &s.options, target)
	return e, r
}
