package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

// table sends all requests, prints what came back, and returns how many answers differ from what was expected.
func (s *shop) table(ctx context.Context, out io.Writer) (different int, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\n\tcaller\tcalls\trequest\texpected\tseen\twhy (from the access log of the callee's Envoy)")
	for _, r := range requests {
		answer, why, err := s.send(ctx, r)
		if err != nil {
			return 0, fmt.Errorf("%s → %s, %s: %w", r.caller, r.service, r, err)
		}
		mark := "✓"
		if answer != r.answer || why != r.why {
			mark = "✗"
			different++
		}
		if why != r.why {
			why += "  — expected: " + r.why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, r.caller, r.service, r, r.answer, answer, why)
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	fmt.Fprintf(out, "\n%d requests, %d as expected, %d not.\n", len(requests), len(requests)-different, different)
	return different, nil
}

// invite says what there is to try.
func (s *shop) invite(out io.Writer) {
	fmt.Fprint(out, strings.NewReplacer(
		"{dir}", s.dir,
		"{policies}", s.policies,
		"{order}", local(s.ports[portOrder]),
		"{payment}", local(s.ports[portPayment]),
		"{inventory}", local(s.ports[portInventory]),
		"{customer}", local(s.ports[portCustomer]),
		"{barista}", local(s.ports[portBarista]),
		"{database}", local(s.ports[portDatabase]),
		"{diagnostics}", local(s.ports[portDiagnostics]),
		"{writ}", s.writ,
		"{payments}", filepath.Join(s.policies, "payment.yaml"),
	).Replace(invitation))
}

const invitation = `
The shop is open. In another terminal:

  SHOP={dir}

Ask as somebody (the certificates are order-service, payment-service, inventory-service, customer-service,
barista-service, admin-service, printer of another namespace, impostor of another trust domain):

  curl -i --cacert $SHOP/ca.pem --cert $SHOP/customer-service.pem https://{order}/orders
  curl -i --cacert $SHOP/ca.pem --cert $SHOP/customer-service.pem -X POST https://{payment}/payments    # 403
  curl -i --cacert $SHOP/ca.pem --cert $SHOP/customer-service.pem -X POST https://{order}/orders
      # order-service asks three others, each with its own identity, through its own Envoy
  curl -i http://{order}/orders                                                   # nobody: 403

Change the answer. Add  , "cluster.local/ns/coffee-shop/sa/customer-service"  to the principals of payment-from-order in

  {payments}

save, and run the second curl again: no restart, the next request is decided by the new file. Break the file, and its
last good version stays in force; writ status and /readyz say so until it is mended.

Look inside:

  {writ} status -c $SHOP/writ.yaml
  {writ} explain --policies {policies} --to coffee-shop/payment-service --labels app=payment-service \
      --from coffee-shop/customer-service --method POST --path /payments
  tail -f $SHOP/decisions.jsonl            # every decision and its reason
  curl http://{diagnostics}/metrics

  order {order}   payment {payment}   inventory {inventory}   customer {customer}   barista {barista}
  inventory database (TCP) {database}   writ diagnostics {diagnostics}

Ctrl-C closes the shop.
`
