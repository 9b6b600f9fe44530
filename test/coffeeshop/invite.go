package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

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
printer of another namespace. The Envoys have their certificates from agents; for your curl each has, besides, a folder
with a certificate in files, good for a day, and a curl.conf that uses it:

  curl -i -K $SHOP/customer-service/curl.conf https://{order}/orders
  curl -i -K $SHOP/customer-service/curl.conf -X POST https://{payment}/payments    # 403
  curl -i -K $SHOP/customer-service/curl.conf -X POST https://{order}/orders
      # order-service asks three others, each with its own identity, through its own Envoy
  curl -i http://{order}/menu        # nobody, in plaintext: order-service is PERMISSIVE, and the menu is for everybody
  curl -i http://{order}/orders      # 403 by policy
  curl -i http://{payment}/payments    # 403: STRICT
  curl -i http://{customer}/           # STRICT at the listener: not even an answer

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
last good version stays in force; writ status and /readyz say so until it is mended. The Rego that barista-service asks
is in $SHOP/rego; change it, and see a second later:

  curl -i -K $SHOP/order-service/curl.conf -H "x-order-id: 7" -H "Authorization: Bearer $(cat $SHOP/carol.jwt)" \
      -X POST https://{barista}/brews/reserve

Take an identity away, and run the first curl again: Envoy refuses the handshake, writ every request of connections that
stand, and the next certificate of its agent is refused as well. --lift instead of --reason … gives it all back:

  {writ} ca revoke -c $SHOP/writ.yaml --id spiffe://cluster.local/ns/coffee-shop/sa/customer-service --reason keyCompromise

Look inside:

  {writ} status -c $SHOP/writ.yaml
  {writ} status -c $SHOP/order-service/agent.yaml    # what its Envoy has been given, and has acknowledged
  {writ} explain --policies {policies} --to coffee-shop/payment-service --labels app=payment-service \
      --from coffee-shop/customer-service --method POST --path /payments
  {writ} ca list -c $SHOP/writ.yaml        # every certificate, and who was let in how
  tail -f $SHOP/decisions.jsonl            # every decision and its reason
  curl http://{diagnostics}/metrics

  order {order}   payment {payment}   inventory {inventory}   customer {customer}   barista {barista}
  inventory database (TCP) {database}   writ certificates {authority}   diagnostics {diagnostics}   identity provider {identity}

Ctrl-C closes the shop.
`
