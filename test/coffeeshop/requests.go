package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/writ-auth/writ/internal/testkit"
)

// nobody is a caller without a certificate, on plaintext.
const nobody = "(nobody)"

// forgedCertificate is why a handshake is refused.
const forgedCertificate = "its certificate is of another authority"

// request is one row of the table.
type request struct {
	caller  string // whose certificate; nobody = plaintext
	service string
	method  string // "TCP" for a connection to the database
	path    string
	header  string // "name: value", or empty
	token   string // see shop.token; empty = none
	answer  string // HTTP status and whom the service was told it is for, or open, closed, refused
	why     string
}

// Every row follows from deploy/coffee-shop/policies; the number in brackets is the rule's, counted from 0.
var requests = []request{
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
	{"order-service", "barista-service", "POST", "/brews", "", "", "403", "no_allow_match"},
	{"order-service", "barista-service", "POST", "/brews", "x-order-id: 7", "", "200", "allow coffee-shop/barista-brews[0]"},
	{"order-service", "customer-service", "DELETE", "/customers/7", "", "", "403", "deny coffee-shop/customer-delete-by-admin-only[0]"},
	{"admin-service", "customer-service", "DELETE", "/customers/7", "", "", "200", "allow coffee-shop/customer-admin[0]"},
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
	{"payment-service", "order-service", "GET", "/healthz", "", "", "200", "allow coffee-shop/health[0]"},
	{"printer", "order-service", "GET", "/healthz", "", "", "403", "no_allow_match"},
	{nobody, "order-service", "GET", "/healthz", "", "", "403", "deny istio-system/require-identity[0]"},
	{nobody, "barista-service", "GET", "/healthz", "", "", "403", "unknown_workload"},
	{impostor, "order-service", "POST", "/orders", "", "", "refused", forgedCertificate},
	{"inventory-service", databaseService, "TCP", "", "", "", "open", "allow coffee-shop/inventory-database[0]"},
	{"order-service", databaseService, "TCP", "", "", "", "closed", "no_allow_match"},
}

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

// logged is what the access log says of one request. Envoy writes null for what is absent.
type logged struct {
	Filter      string `json:"filter"`
	RequestID   string `json:"request_id"`
	Layer       string `json:"layer"`
	Reason      string `json:"reason"`
	Policy      string `json:"policy"`
	Rule        int    `json:"rule"`
	Token       string `json:"token"` // why it was refused
	Audit       any    `json:"audit"`
	DryRunAllow string `json:"dry_run_allow"`
	DryRunDeny  string `json:"dry_run_deny"`
}

// why is the short form.
func (l logged) why() string {
	text := l.Reason
	if l.Token != "" {
		text += ": " + l.Token
	}
	if l.Policy != "" {
		text = fmt.Sprintf("%s %s[%d]", l.Layer, l.Policy, l.Rule)
	}
	if l.Audit != nil && l.Audit != false {
		text += ", audited"
	}
	if l.DryRunDeny == "denied" || l.DryRunAllow == "denied" {
		text += ", dry run: denied"
	}
	return text
}

// send makes the request and reads the access log for the reason.
func (s *shop) send(ctx context.Context, r request) (answer, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if r.method == "TCP" {
		return s.sendTCP(ctx, r)
	}
	return s.sendHTTP(ctx, r)
}

func (s *shop) sendHTTP(ctx context.Context, r request) (answer, why string, err error) {
	port := 0
	for _, m := range members {
		if m.name == r.service {
			port = s.ports[m.port]
		}
	}
	url, transport := "http://"+local(port)+r.path, &http.Transport{DisableKeepAlives: true}
	if r.caller != nobody {
		config, err := s.tlsConfig(r.caller, r.service)
		if err != nil {
			return "", "", err
		}
		url, transport.TLSClientConfig = "https://"+local(port)+r.path, config
	}
	req, err := http.NewRequestWithContext(ctx, r.method, url, nil)
	if err != nil {
		return "", "", err
	}
	id := rand.Text()
	req.Header.Set("X-Request-Id", id)
	if name, value, ok := strings.Cut(r.header, ": "); ok {
		req.Header.Set(name, value)
	}
	if r.token != "" {
		token, err := s.token(r.token)
		if err != nil {
			return "", "", err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	sidecar := s.sidecars[r.service]
	mark := sidecar.Output.Mark()
	client := http.Client{Transport: transport}
	resp, err := client.Do(req)
	if rejected(err) {
		return "refused", forgedCertificate, nil
	}
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", "", err
	}
	line, err := waitLog(ctx, sidecar, mark, func(l logged) bool { return l.RequestID == id })
	return strconv.Itoa(resp.StatusCode) + customerOf(body), line.why(), err
}

// rejected reports whether the server ended the TLS handshake.
func rejected(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (op.Op == "remote error" || op.Op == "read" || op.Op == "write")
}

// sendTCP opens a connection to the database and says something, as its clients do.
func (s *shop) sendTCP(ctx context.Context, r request) (answer, why string, err error) {
	const service = "inventory-service"
	config, err := s.tlsConfig(r.caller, service)
	if err != nil {
		return "", "", err
	}
	sidecar := s.sidecars[service]
	mark := sidecar.Output.Mark()
	dialer := tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", local(s.ports[portDatabase]))
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", "", err
		}
	}
	answer = "open"
	_, err = fmt.Fprintln(conn, "SELECT beans FROM inventory")
	if err == nil {
		_, err = bufio.NewReader(conn).ReadString('\n')
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", "", err
	}
	if err != nil {
		answer = "closed"
	}
	_ = conn.Close() // the connection is logged when it ends
	line, err := waitLog(ctx, sidecar, mark, func(l logged) bool { return l.Filter == "network" })
	return answer, line.why(), err
}

// tlsConfig is the caller's end of mTLS: who answers has to be the service that was called.
func (s *shop) tlsConfig(caller, service string) (*tls.Config, error) {
	files := s.identity(caller)
	if caller == impostor {
		files = s.forged
	}
	own, trusted, err := files.credentials()
	if err != nil {
		return nil, err
	}
	called, err := spiffeid.FromString(serviceID(service))
	if err != nil {
		return nil, err
	}
	return tlsconfig.MTLSClientConfig(own, trusted, tlsconfig.AuthorizeID(called)), nil
}

func waitLog(ctx context.Context, envoy *testkit.Envoy, mark int, match func(logged) bool) (found logged, err error) {
	_, err = envoy.Output.Wait(ctx, mark, func(line string) bool {
		var l logged
		if json.Unmarshal([]byte(line), &l) != nil || !match(l) {
			return false
		}
		found = l
		return true
	})
	return found, err
}
