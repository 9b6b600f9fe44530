package main

import (
	"bytes"
	"context"
	"net/netip"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// coffeeDocuments are those of the coffee shop.
func coffeeDocuments(t *testing.T) []*policy.Document {
	t.Helper()
	c := &cli{err: t.Output()}
	docs, _, err := c.validDocuments([]string{"../../deploy/coffee-shop/policies"}, policy.Mesh{})
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

// coffeeRequests is a choice of callers, ports, methods and paths.
func coffeeRequests() []*policy.Request {
	var out []*policy.Request
	for _, from := range []string{"", "spiffe://cluster.local/ns/coffee-shop/sa/order-service", "spiffe://cluster.local/ns/coffee-shop/sa/customer-service", "spiffe://cluster.local/ns/tea-house/sa/a"} {
		var names []string
		if from != "" {
			names = []string{from}
		}
		for _, path := range []string{"/menu", "/orders", "/orders/7", "/brews", "/charges", "/stock", "/customers/7"} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				r := &policy.Request{Method: method, HasMethod: true, Path: path, RawPath: path + "?q=1", DestPort: 8080, Host: "shop", HasHost: true}
				r.SourceIP = netip.MustParseAddr("10.0.0.7")
				r.RemoteIP = r.SourceIP
				r.Names = names
				r.Headers = []policy.Header{{Name: "x-order-id", Value: "7"}, {Name: "x-request-id", Value: "r"}}
				out = append(out, r)
			}
		}
		out = append(out, &policy.Request{TCP: true, DestPort: 5432, Names: names})
	}
	return out
}

// TestExplainLoggedAgreesWithTheLog: a decision that is explained by the documents that made it is the logged one, or cannot be
// told, whatever the log has left out.
func TestExplainLoggedAgreesWithTheLog(t *testing.T) {
	t.Parallel()
	docs := coffeeDocuments(t)
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	set := replay.NewSet(docs, snap, map[string]bool{"house-rules": true}, false)
	providers, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "house-rules", Provider: stub(true)})
	if err != nil {
		t.Fatal(err)
	}
	engine := authz.Engine{Providers: providers}
	ids, told, open := authz.NewIDs(), 0, 0
	for _, account := range []string{"order-service", "customer-service", "barista-service", "payment-service", "inventory-service"} {
		b, err := snap.Resolve(policy.Workload{Namespace: "coffee-shop", ServiceAccount: account, Labels: map[string]string{"app": account}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range coffeeRequests() {
			d := authz.Decision{ID: ids.Next()}
			engine.Decide(t.Context(), snap, b, r, &d)
			l := loggedDecision(t, &telemetry.Check{RequestID: "r", Request: r, Decision: &d})
			found := set.Explain(l, l.Workload)
			switch kind := replay.Compare(&l.Outcome, &found.Outcome); kind {
			case replay.Same:
				told++
			case replay.Undecided:
				open++
			default:
				t.Errorf("%s %s for %s: %v: logged %+v, explained %+v", r.Method, r.Path, account, kind, l.Outcome, found.Outcome)
			}
		}
	}
	if told < 300 || open == 0 {
		t.Errorf("%d told, %d left open: hardly a trial", told, open)
	}
}

// loggedDecision writes a decision to a log, and finds it there.
func loggedDecision(t *testing.T, c *telemetry.Check) *replay.Logged {
	t.Helper()
	var text bytes.Buffer
	log, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogAll, Stdout: &text})
	if err != nil {
		t.Fatal(err)
	}
	log.Observe(c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	l, err := replay.FindDecision(t.Context(), "log", &text, c.Decision.ID.String())
	if err != nil {
		t.Fatal(err)
	}
	if l.Workload == nil {
		t.Fatalf("no workload in %s", text.String())
	}
	return l
}
