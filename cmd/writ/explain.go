package main

import (
	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// explanation is an answer with how it came about.
type explanation struct {
	*answer
	Trace *policy.Trace `json:"trace"`
}

func (c *cli) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why: every policy, rule and field, and what missed by how little",
		Long: "explain decides like check, and shows the whole way to the answer: which policies apply and why, which rules\n" +
			"match, and which condition kept the others from matching.\n\n" +
			"Exit codes: 0 all are allowed, 2 one is denied, 3 a document is invalid.",
		Example: "  writ explain -p ./policies --to coffee-shop/order --labels app=order --from coffee-shop/customer --method DELETE --path /orders",
		Args:    cobra.NoArgs,
	}
	q := &questions{}
	q.flags(cmd)
	out := addOutput(cmd)
	all := cmd.Flags().Bool("all", false, "show every rule and policy, however far it missed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := c.newSession(cmd, q)
		if err != nil {
			return err
		}
		colours := c.colours(c.out)
		return s.each(cmd, q, func(raw []byte) (bool, error) {
			d := s.server.Decide(cmd.Context(), raw, s.workload)
			var r policy.Request
			_, _ = extauthz.DecodeRequest(raw, s.options, &r) // a request that cannot be read is denied with the reason
			a := s.answers.of(&d)
			var asked policy.Workload
			switch {
			case d.Workload != nil:
				asked = d.Workload.Workload
			case s.workload != nil:
				asked = *s.workload
			}
			trace := s.snapshot.Explain(asked, &r)
			if out.value != "text" {
				return d.Allow, out.encodeLine(s.out, explanation{a, trace})
			}
			return d.Allow, writeTrace(s.out, colours, *all, a, &r, trace)
		})
	}
	return cmd
}
