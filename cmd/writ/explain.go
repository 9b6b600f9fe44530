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
	Tokens *tokenTrace   `json:"tokens,omitempty"`
	Trace  *policy.Trace `json:"trace"`
}

func (c *cli) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why: every policy, rule and field, and what missed by how little",
		Long: "explain decides like check, and shows the whole way to the answer: which policies apply and why, which rules\n" +
			"match, and which condition kept the others from matching.\n\n" +
			"Exit codes: 0 all are allowed, 2 one is denied, 3 a document is invalid, 6 none is denied and of one that cannot be\n" +
			"told: it carries a token, and the keys to verify it with are not given (--jwks), or it is up to a provider that is not\n" +
			"asked offline (--provider).",
		Example: "  writ explain -p ./policies --to coffee-shop/order --labels app=order --from coffee-shop/customer --method DELETE --path /orders",
		Args:    cobra.NoArgs,
	}
	q := &questions{}
	q.flags(cmd)
	out := addOutput(cmd)
	all := cmd.Flags().Bool("all", false, "show every rule and policy, however far it missed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.replyToAll(cmd, q, out, func(s *session, raw []byte) reply {
			e, r := s.explain(cmd.Context(), raw)
			return reply{e.exitCode(), e, func(w io.Writer, colours palette) error { return writeTrace(w, colours, *all, e, r) }}
		})
	}
	return cmd
}

// explain decides one request, and finds out how it comes to that.
func (s *session) explain(ctx context.Context, raw []byte) (*explanation, *policy.Request) {
	d, a := s.decide(ctx, raw)
	r := new(policy.Request)
	_, _ = extauthz.DecodeRequest(raw, s.options, r) // a request that cannot be read is denied with the reason
	tokens := s.traceTokens(ctx, r, d)
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
	trace := s.snapshot.Explain(asked, r)
	withholdTokens(trace)
	return &explanation{a, tokens, trace}, r
}
