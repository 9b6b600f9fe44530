package e2e_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// The reference names the TCP workload in the gRPC call's metadata: coffee-shop, app=order-database.
const tcpPolicies = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: database, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-database}}
  rules:
    - from: [{source: {principals: ["cluster.local/ns/coffee-shop/sa/order-service"]}}]
    - from: [{source: {namespaces: [audit]}}]
      when: [{key: connection.sni, values: [db.internal]}]
    # An ALLOW rule with an HTTP field is dropped whole on TCP.
    - from: [{source: {serviceAccounts: [customer-service]}}]
      to: [{operation: {methods: [GET]}}]
---
# On TCP the path of a DENY rule counts as matching; the caller still limits it.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-writes, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-database}}
  action: DENY
  rules:
    - from: [{source: {namespaces: [audit], notPrincipals: ["*/sa/reader"]}}]
      to: [{operation: {paths: ["/write"]}}]
---
# For the HTTP workload in front of it, which is another one.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: order, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  rules: [{}]
`

// TestTCP asks through the network filter.
func TestTCP(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "tcp.yaml", tcpPolicies)
	b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	for _, test := range []struct {
		name string
		uri  string
		sni  string
		want why
	}{
		{"principal", id("order-service"), "localhost",
			why{"allow", "allow", "allowed", "coffee-shop/database", 0, "ns[coffee-shop]-policy[database]-rule[0]"}},
		{"sni", "spiffe://cluster.local/ns/audit/sa/reader", "db.internal",
			why{"allow", "allow", "allowed", "coffee-shop/database", 1, "ns[coffee-shop]-policy[database]-rule[1]"}},
		{"another sni", "spiffe://cluster.local/ns/audit/sa/reader", "localhost", why{Decision: "deny", Layer: "allow", Reason: "no_allow_match"}},
		{"rule with a method", id("customer-service"), "localhost", why{Decision: "deny", Layer: "allow", Reason: "no_allow_match"}},
		{"DENY with a path", "spiffe://cluster.local/ns/audit/sa/writer", "db.internal",
			why{"deny", "deny", "denied", "coffee-shop/no-writes", 0, "ns[coffee-shop]-policy[no-writes]-rule[0]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			mark := envoy.Output.Mark()
			certificate := b.certificate(t, "tcp", testkit.Names{URIs: []string{test.uri}})
			served, err := b.query(t, envoy, certificate, test.sni)
			if allowed := test.want.Decision == "allow"; err != nil && allowed || served != allowed {
				t.Errorf("the database answered: %v (%v), want %v", served, err, allowed)
			}
			line := waitLog(t, envoy, mark, func(l logged) bool { return l.Listener == "tcp" && l.From == test.uri })
			if line.why != test.want {
				t.Errorf("access log says %+v, want %+v", line.why, test.want)
			}
			if !served && line.BytesOut != 0 {
				t.Errorf("a denied caller got %d bytes", line.BytesOut)
			}
		})
	}
}

// query connects, says something as database clients do, and reports whether the database answered. A connection that
// was closed is no error.
func (b *bench) query(t *testing.T, envoy *testkit.Envoy, certificate *tls.Certificate, sni string) (served bool, err error) {
	t.Helper()
	config := b.tlsConfig(certificate)
	config.ServerName = sni
	config.InsecureSkipVerify = true // the server's certificate does not know all the names we ask for
	conn, err := (&tls.Dialer{Config: config}).DialContext(bounded(t), "tcp", envoy.Listener("tcp"))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	if _, err := fmt.Fprintln(conn, "SELECT 1"); err != nil {
		return false, nil
	}
	greeting, err := bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return false, err
	}
	if err == nil && strings.TrimSpace(greeting) != "ready" {
		return false, fmt.Errorf("the database said %q", greeting)
	}
	return err == nil, nil
}

// TestTCPServerFirst: the reference keeps a service that speaks first quiet until the caller has been let in.
func TestTCPServerFirst(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "tcp.yaml", tcpPolicies)
	b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	certificate := b.certificate(t, "tcp", testkit.Names{URIs: []string{id("customer-service")}})
	conn, err := (&tls.Dialer{Config: b.tlsConfig(certificate)}).DialContext(bounded(t), "tcp", envoy.Listener("tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 64)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a caller that has said nothing got %d bytes (%v), want silence", n, err)
	}
	if n := counter(t, envoy, "cluster.order-database.upstream_cx_total"); n != 0 {
		t.Errorf("Envoy made %d connections to the database before writ was asked", n)
	}
}
