package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// token is the parent of what makes join tokens.
func (c *cli) token() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make tokens that let nodes in",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.tokenCreate())
	return cmd
}

func (c *cli) tokenCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --id SPIFFE-ID",
		Short: "Make a join token: good once, for exactly these identities",
		Long: "create prints a token, for the only time: the authority keeps its hash alone. The node that uses it may hold exactly\n" +
			"the identities it was made for; the first is what it gets if it names none. Afterwards the node renews by its\n" +
			"certificate.",
		Example: "  writ token create -c writ.yaml --id spiffe://cluster.local/ns/coffee-shop/sa/order --out token",
		Args:    cobra.NoArgs,
	}
	where := &whereFlags{}
	where.flags(cmd)
	ids := cmd.Flags().StringArray("id", nil, "an identity `spiffe://…` that the node may hold; repeatable")
	ttl := cmd.Flags().Duration("ttl", 0, "how long the token is good if nobody uses it; by default what ca.attest.join_token.ttl says, 10m")
	groups := cmd.Flags().StringArray("workload-group", nil, "a `file` with a WorkloadGroup document, whose service account the node may be; repeatable")
	node := cmd.Flags().String("node", "", "a `label` for people: which node it is for")
	file := cmd.Flags().String("out", "", "write the token to this `file`, mode 0600, instead of stdout; it must not exist")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := caserver.CreateTokenRequest{TTL: caserver.Duration(*ttl), Node: *node}
		if len(*ids)+len(*groups) == 0 {
			return usagef("token create: for whom? --id spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, or --workload-group FILE")
		}
		for _, text := range *ids {
			id, err := spiffeid.Parse(text)
			if err != nil {
				return usagef("token create: --id: %w", err)
			}
			request.IDs = append(request.IDs, id)
		}
		return c.withControl(cmd, where, func(ctx context.Context, o *control) error {
			if err := c.addWorkloadGroups(ctx, o, *groups, &request); err != nil {
				return err
			}
			return c.createToken(ctx, o, request, *file, out)
		})
	}
	return cmd
}

// createToken makes a token once it is known that there is a place to write it to.
func (c *cli) createToken(ctx context.Context, o *control, request caserver.CreateTokenRequest, path string, out *format) (err error) {
	to := c.out
	if path != "" {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() {
			if closed := f.Close(); err == nil {
				err = closed
			}
		}()
		to = f
	}
	var r caserver.CreateTokenResponse
	if err := o.post(ctx, "/ca/tokens", request, &r); err != nil {
		if path != "" {
			_ = os.Remove(path) // made above, and empty
		}
		return err
	}
	if out.value != "text" {
		return out.encode(to, r)
	}
	if _, err := fmt.Fprintln(to, r.Token); err != nil {
		return err
	}
	ids := make([]string, len(r.IDs))
	for i, id := range r.IDs {
		ids[i] = id.String()
	}
	_, err = fmt.Fprintf(c.err, "good once, until %s, for %s\n", r.Expires.Format(time.RFC3339), strings.Join(ids, ", "))
	return err
}
