package main

import "strings"

// nobody is a caller without a certificate, in plaintext.
const nobody = "(nobody)"

// Requests that are none: a connection to the database, and one that ends with the handshake.
const (
	methodTCP     = "TCP"
	methodConnect = "connect"
)

// request is something to ask, and what the answer should be.
type request struct {
	caller  string // whose certificate; nobody = plaintext
	service string
	method  string
	path    string
	header  string // "name: value", or empty
	token   string // see shop.token; empty = none
	answer  string // HTTP status and whom the service was told it is for, or open, closed, refused
	why     string
}

// Every row follows from deploy/coffee-shop; the number in brackets is the rule's, counted from 0.

var callers = []request{
	{"customer-service", "order-service", "GET", "/orders?drink=espresso", "", "", "200", "allow coffee-shop/order-callers[0]"},
	{"customer-service", "order-service", "POST", "/orders", "", "", "201", "allow coffee-shop/order-callers[0]"},
	{"customer-service", "order-service", "GET", "/orders/7", "", "", "200", "allow coffee-shop/order-callers[0]"},
	{"customer-service", "order-service", "PUT", "/orders/7/status", "", "", "403", "no_allow_match"},
	{"barista-service", "order-service", "PUT", "/orders/7/status", "", "", "200", "allow coffee-shop/order-callers[1]"},
	{"barista-service", "order-service", "PUT", "/orders/7/../status", "", "", "403", "no_allow_match"},
	{"customer-service", "payment-service", "POST", "/payments", "", "", "403", "no_allow_match, audited, dry run: denied"},
	{"order-service", "payment-service", "POST", "/payments", "", "", "200", "allow coffee-shop/payment-from-order[0], audited, dry run: denied"},
	{"order-service", "payment-service", "POST", "/payments", "idempotency-key: 7", "", "200", "allow coffee-shop/payment-from-order[0], audited"},
	{"order-service", "inventory-service", "GET", "/inventory/espresso", "", "", "200", "allow coffee-shop/inventory-callers[0]"},
	{"order-service", "inventory-service", "PUT", "/inventory/espresso", "", "", "403", "no_allow_match"},
	{"barista-service", "inventory-service", "PUT", "/inventory/espresso", "", "", "200", "allow coffee-shop/inventory-callers[1]"},
	{"inventory-service", databaseService, methodTCP, "", "", "", "open", "allow coffee-shop/inventory-database[0]"},
	{"order-service", databaseService, methodTCP, "", "", "", "closed", "no_allow_match"},
	{"order-service", "customer-service", "DELETE", "/customers/7", "", "", "403", "deny coffee-shop/customer-delete-by-admin-only[0]"},
	{"admin-service", "customer-service", "DELETE", "/customers/7", "", "", "200", "allow coffee-shop/customer-admin[0]"},
	{"payment-service", "order-service", "GET", "/healthz", "", "", "200", "allow coffee-shop/health[0]"},
	{"printer", "order-service", "GET", "/healthz", "", "", "403", "no_allow_match"},
}

var strangers = []request{
	{impostor, "order-service", methodConnect, "", "", "", "refused", "handshake: unknown certificate authority"},
	{nobody, "inventory-service", "GET", "/healthz", "", "", "refused", plaintextRefused},
	{nobody, "barista-service", "GET", "/healthz", "", "", "refused", plaintextRefused},
	{nobody, "payment-service", "GET", "/healthz", "", "", "403", "plaintext_refused"},
	{nobody, "order-service", "GET", "/healthz", "", "", "403", "deny istio-system/require-identity[0]"},
	{nobody, "order-service", "GET", "/menu", "", "", "200", "allow coffee-shop/menu[0]"},
}

var customers = []request{
	{"order-service", "customer-service", "GET", "/customers/7", "", "", "403", "no_allow_match"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "alice", "200 for alice", "allow coffee-shop/require-jwt[0]"},
	{"payment-service", "customer-service", "GET", "/customers/7", "", "alice", "403", "no_allow_match"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "expired", "401", "token_refused: expired"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "forged", "401", "token_refused: signature_invalid"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "unsigned", "401", "token_refused: algorithm_unsupported"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "another-provider", "401", "token_refused: issuer_unknown"},
	{"order-service", "customer-service", "GET", "/customers/7", "", "another-service", "403", "token_refused: audience_denied"},
	{"order-service", "customer-service", "GET", "/customers/7", "x-customer-id: root", "alice", "200 for alice", "allow coffee-shop/require-jwt[0]"},
	{"order-service", "customer-service", "GET", "/healthz", "x-customer-id: root", "", "200", "allow coffee-shop/health[0]"},
	{"order-service", "customer-service", "GET", "/customers/7/rewards", "", "alice", "403", "no_allow_match"},
	{"order-service", "customer-service", "GET", "/customers/7/rewards", "", "carol", "200 for carol", "allow coffee-shop/require-jwt[1]"},
	{"order-service", "customer-service", "PUT", "/customers/7/address", "", "alice", "200 for alice", "allow coffee-shop/require-jwt[2]"},
	{"order-service", "customer-service", "PUT", "/customers/7/address", "", "carol", "403", "no_allow_match"},
	{"barista-service", "customer-service", "GET", "/customers", "", "dave", "200 for dave", "allow coffee-shop/require-jwt[3]"},
}

var brewsWhileOpen = []request{
	{"order-service", "barista-service", "POST", "/brews", "x-order-id: 7", "", "200", "allow coffee-shop/barista-brews[0]"},
	{"order-service", "barista-service", "POST", "/brews", "", "", "403", "no_allow_match"},
	{"order-service", "barista-service", "POST", "/brews/reserve", "x-order-id: 7", "", "403", custom + "the reserve is for gold customers"},
	{"order-service", "barista-service", "POST", "/brews/reserve", "x-order-id: 7", "alice", "403", custom + "the reserve is for gold customers"},
	{"order-service", "barista-service", "POST", "/brews/reserve", "x-order-id: 7", "carol", "200 for carol", "allow coffee-shop/barista-brews[0]"},
	{"order-service", "barista-service", "POST", "/brews/reserve", "x-order-id: 7", "forged", "403", custom + "the reserve is for gold customers"},
}

var brewsWhileClosed = []request{
	{"order-service", "barista-service", "POST", "/brews", "x-order-id: 7", "", "403", custom + "we are closed"},
	{"order-service", "barista-service", "POST", "/brews/reserve", "x-order-id: 7", "carol", "403", custom + "we are closed"},
}

const (
	custom           = "custom coffee-shop/barista-house-rules[0]: "
	plaintextRefused = "its Envoy takes mutual TLS only"
)

// String is the request as a person would write it.
func (r request) String() string {
	text := r.method
	if r.path != "" {
		text += " " + r.path
	}
	var with []string
	if r.header != "" {
		with = append(with, r.header)
	}
	if r.token != "" {
		with = append(with, "token: "+r.token)
	}
	if len(with) > 0 {
		text += "  (" + strings.Join(with, ", ") + ")"
	}
	return text
}
