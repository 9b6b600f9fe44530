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
	fmt.Fprintln(out)
	different, err = s.rows(ctx, out, requests)
	if err == nil {
		fmt.Fprintf(out, "\n%d requests, %d as expected, %d not.\n", len(requests), len(requests)-different, different)
	}
	return different, err
}

// rows is the table of some requests.
func (s *shop) rows(ctx context.Context, out io.Writer, requests []request) (different int, err error) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tcaller\tcalls\trequest\texpected\tseen\twhy (from the access log of the callee's Envoy)")
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
	return different, w.Flush()
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
		"{identity}", local(s.ports[portIdentity]),
		"{database}", local(s.ports[portDatabase]),
		"{authority}", local(s.ports[portAuthority]),
		"{diagnostics}", local(s.ports[portDiagnostics]),
		"{writ}", s.writ,
		"{payments}", filepath.Join(s.policies, "payment.yaml"),
	).Replace(invitation))
}

const invitation = `
The shop is open. In another terminal:

  SHOP={dir}

Ask as somebody: order-service, payment-service, inventory-service, customer-service, barista-service, admin-service, or
printer of another namespace. Each has a folder with its key, its certificate, and a curl.conf that uses them:

  curl -i -K $SHOP/customer-service/curl.conf https://{order}/orders
  curl -i -K $SHOP/customer-service/curl.conf -X POST https://{payment}/payments    # 403
  curl -i -K $SHOP/customer-service/curl.conf -X POST https://{order}/orders
      # order-service asks three others, each with its own identity, through its own Envoy
  curl -i http://{order}/orders                                                   # nobody: 403

Ask for a customer. The tokens are alice, carol (gold), dave (a barista), expired, forged, unsigned, another-service and
another-provider; the good ones are so for an hour:

  curl -i -K $SHOP/order-service/curl.conf -H "Authorization: Bearer $(cat $SHOP/alice.jwt)" https://{customer}/customers/7
  curl -i -K $SHOP/order-service/curl.conf -H "Authorization: Bearer $(cat $SHOP/forged.jwt)" https://{customer}/customers/7
  curl -i -K $SHOP/order-service/curl.conf https://{customer}/customers/7                  # no token: 403
  {writ} jwt inspect $SHOP/alice.jwt
  {writ} explain --policies {policies} --to coffee-shop/customer-service --labels app=customer-service \
      --from coffee-shop/order-service --path /customers/7/rewards \
      --jwt $SHOP/alice.jwt --jwks https://auth.coffeeshop.com=$SHOP/keys.json

Change the answer. Add  , "cluster.local/ns/coffee-shop/sa/customer-service"  to the principals of payment-from-order in

  {payments}

save, and run the second curl again: no restart, the next request is decided by the new file. Break the file, and its
last good version stays in force; writ status and /readyz say so until it is mended.

Take an identity away, and run the first curl again: 403, and its next certificate is refused as well. --lift gives it back:

  {writ} ca revoke -c $SHOP/writ.yaml --id spiffe://cluster.local/ns/coffee-shop/sa/customer-service --reason keyCompromise

Get one more certificate, for a service that you make up:

  {writ} token create -c $SHOP/writ.yaml --id spiffe://cluster.local/ns/coffee-shop/sa/tea --out $SHOP/tea.token
  {writ} cert request --authority {authority} --bundle $SHOP/state/bundle.pem --token-file $SHOP/tea.token --out $SHOP/tea
  {writ} cert $SHOP/tea/cert.pem --bundle $SHOP/tea/bundle.pem

Look inside:

  {writ} status -c $SHOP/writ.yaml
  {writ} explain --policies {policies} --to coffee-shop/payment-service --labels app=payment-service \
      --from coffee-shop/customer-service --method POST --path /payments
  {writ} ca list -c $SHOP/writ.yaml        # every certificate, and who was let in how
  tail -f $SHOP/decisions.jsonl            # every decision and its reason
  curl http://{diagnostics}/metrics

  order {order}   payment {payment}   inventory {inventory}   customer {customer}   barista {barista}
  inventory database (TCP) {database}   writ certificates {authority}   diagnostics {diagnostics}   identity provider {identity}

Ctrl-C closes the shop.
`
