package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// generator makes sets of documents and requests that meet each other often.
type generator struct{ *rand.Rand }

func (g generator) pick(values ...string) string { return values[g.IntN(len(values))] }

// field is one field of a source or operation with a value or two, positive or negative.
func (g generator) field(name string, values ...string) string {
	if g.IntN(3) == 0 {
		name = "not" + strings.ToUpper(name[:1]) + name[1:]
	}
	return fmt.Sprintf("%s: [%q, %q]", name, g.pick(values...), g.pick(values...))
}

func (g generator) source() string {
	switch g.IntN(5) {
	case 0:
		return g.field("namespaces", "shop", "web", "we*")
	case 1:
		return g.field("ipBlocks", "10.0.0.1", "10.0.0.0/24", "10.0.0.2")
	case 2:
		return g.field("remoteIpBlocks", "192.0.2.1", "192.0.2.0/24", "10.0.0.0/24")
	default:
		return g.field("principals", "*", "cluster.local/ns/shop/sa/a", "cluster.local/ns/web/sa/b")
	}
}

func (g generator) operation() string {
	switch g.IntN(4) {
	case 0:
		return g.field("hosts", "a.example", "*.example", "b.example")
	case 1:
		return g.field("ports", "80", "8080")
	case 2:
		return g.field("methods", "GET", "POST")
	default:
		return g.field("paths", "/a", "/a*", "/b")
	}
}

func (g generator) when() string {
	key := g.pick("request.headers[x-team]", "request.headers[x-team]", "request.headers[user-agent]", "connection.sni", "destination.ip", "source.ip",
		"destination.port", "request.headers[:path]")
	values := map[string][]string{
		"request.headers[x-team]": {"red", "blue", "*"}, "request.headers[user-agent]": {"curl", "*"}, "connection.sni": {"a.example", "*"},
		"destination.ip": {"10.9.9.9", "10.0.0.0/8", "192.0.2.9"}, "source.ip": {"10.0.0.1", "10.0.0.2"}, "destination.port": {"80", "8080"},
		"request.headers[:path]": {"/a", "/a*"},
	}[key]
	return fmt.Sprintf("{key: %q, %s}", key, g.field("values", values...))
}

func (g generator) rule(custom bool) string {
	rule := fmt.Sprintf("to: [{operation: {%s}}, {operation: {%s}}]", g.operation(), g.operation())
	if g.IntN(2) == 0 {
		rule = fmt.Sprintf("to: [{operation: {%s}}]", g.operation())
	}
	if g.IntN(2) == 0 && !custom {
		rule += fmt.Sprintf(", from: [{source: {%s}}]", g.source())
	}
	if g.IntN(2) == 0 && !custom {
		rule += fmt.Sprintf(", when: [%s]", g.when())
	}
	return "{" + rule + "}"
}

func (g generator) documents() string {
	var docs []string
	for i := range 1 + g.IntN(3) {
		action := g.pick("ALLOW", "DENY", "CUSTOM", "ALLOW", "DENY")
		extra := ""
		if action == "CUSTOM" {
			extra = ", provider: {name: " + g.pick("p", "q") + "}"
		}
		rules := g.rule(action == "CUSTOM")
		if g.IntN(2) == 0 {
			rules += ", " + g.rule(action == "CUSTOM")
		}
		docs = append(docs, fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p%d, namespace: shop}
spec: {action: %s%s, rules: [%s]}
`, i, action, extra, rules))
	}
	if g.IntN(4) == 0 {
		docs = append(docs, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: peers, namespace: shop}
spec: {selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
`)
	}
	return strings.Join(docs, "---")
}

// request is a CheckRequest with the line of an access log that goes with it.
func (g generator) request(t *testing.T) (raw, line []byte) {
	t.Helper()
	tcp := g.IntN(8) == 0
	source, remote, port := g.pick("10.0.0.1", "10.0.0.2"), g.pick("192.0.2.1", "192.0.2.2"), g.pick("80", "8080")
	principal := g.pick("", "spiffe://cluster.local/ns/shop/sa/a", "spiffe://cluster.local/ns/web/sa/b")
	method, path, host, sni := g.pick("GET", "POST"), g.pick("/a", "/a/b", "/b", "/a?q=1"), g.pick("a.example", "B.example"), g.pick("", "a.example")
	log := map[string]any{
		"method": method, "path": strings.Split(path, "?")[0], "authority": host, "downstream_peer_uri_san": orDash(principal),
		"downstream_direct_remote_address": source + ":1234", "downstream_remote_address": remote + ":0",
		"downstream_local_address": "10.9.9.9:" + port, "requested_server_name": orDash(sni), "user_agent": "-",
	}
	attributes := map[string]any{
		"source":            map[string]any{"principal": principal, "address": socket(source, "1234")},
		"destination":       map[string]any{"address": socket("10.9.9.9", port)},
		"tlsSession":        map[string]any{"sni": sni},
		"contextExtensions": map[string]string{"writ.namespace": "shop", "writ.labels": "app=x"},
	}
	if tcp {
		log["method"], log["path"], log["authority"] = nil, nil, nil
		log["downstream_remote_address"] = source + ":1234"
	} else {
		headers := map[string]string{":path": path, ":method": method, ":authority": host, "x-forwarded-for": remote}
		if agent := g.pick("", "curl"); agent != "" {
			headers["user-agent"], log["user_agent"] = agent, agent
		}
		if team := g.pick("", "red", "blue"); team != "" {
			headers["x-team"] = team
		}
		attributes["request"] = map[string]any{"http": map[string]any{"method": method, "path": path, "host": host, "headers": headers}}
	}
	for _, field := range []string{"downstream_peer_uri_san", "downstream_local_address", "path", "authority", "requested_server_name", "user_agent"} {
		if g.IntN(6) == 0 {
			delete(log, field)
		}
	}
	text, err := json.Marshal(map[string]any{"attributes": attributes})
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = extauthz.ParseJSON(text); err != nil {
		t.Fatal(err)
	}
	if line, err = json.Marshal(log); err != nil {
		t.Fatal(err)
	}
	return raw, line
}

func orDash(s string) any {
	if s == "" {
		return "-"
	}
	return s
}

func socket(address, port string) map[string]any {
	return map[string]any{"socketAddress": map[string]any{"address": address, "portValue": json.Number(port)}}
}

// answering is what the providers p and q say in the tests.
type answering bool

func (a answering) Ask(_ context.Context, _ *authz.Question, answer *authz.Answer) error {
	answer.Allow = bool(a)
	return nil
}

// truth decides whole requests, and keeps the decision log.
type truth struct {
	old, other *extauthz.Server
	log        *telemetry.DecisionLog
	written    bytes.Buffer
}

func newTruth(t *testing.T, old, other *policy.Snapshot) *truth {
	t.Helper()
	w := &truth{}
	var err error
	if w.log, err = telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogAll, Stdout: &w.written}); err != nil {
		t.Fatal(err)
	}
	server := func(snap *policy.Snapshot, observe func(*extauthz.Observation)) *extauthz.Server {
		providers, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "p", Provider: answering(true)}, authz.ProviderConfig{Name: "q", Provider: answering(false)})
		if err != nil {
			t.Fatal(err)
		}
		s, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return snap }, Engine: &authz.Engine{Providers: providers}, Observe: observe})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	w.old = server(old, func(o *extauthz.Observation) {
		w.log.Observe(&telemetry.Check{RequestID: o.RequestID, Request: o.Request, Decision: o.Decision})
	})
	w.other = server(other, nil)
	return w
}

// lines are those of the decision log.
func (w *truth) lines(t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(w.written.String()), "\n")
}

// TestNothingIsGuessed replays logs of random requests through random sets of documents: whatever a replay claims to know
// is what the server answers to the whole request.
func TestNothingIsGuessed(t *testing.T) {
	t.Parallel()
	g := generator{rand.New(rand.NewPCG(1, 2))} //nolint:gosec // G404: the same every time
	var known, all [2]int
	for range 25 {
		oldText, newText := g.documents(), g.documents()
		oldDocs, newDocs := policy.Decode("old.yaml", []byte(oldText)), policy.Decode("new.yaml", []byte(newText))
		oldSnap, newSnap := policy.NewSnapshot(oldDocs, policy.Mesh{}), policy.NewSnapshot(newDocs, policy.Mesh{})
		if oldSnap.Broken()+newSnap.Broken() > 0 {
			t.Fatal(oldSnap.Problems(), newSnap.Problems())
		}
		w := newTruth(t, oldSnap, newSnap)
		var access []string
		var want [][2]authz.Decision
		for range 40 {
			raw, line := g.request(t)
			want = append(want, [2]authz.Decision{w.old.Decide(t.Context(), raw, nil), w.other.Decide(t.Context(), raw, nil)})
			access = append(access, string(line))
		}
		for source, lines := range [][]string{w.lines(t), access} {
			for i, line := range lines {
				cfg := replay.Config{Old: replay.NewSet(oldDocs, oldSnap, nil, false), New: replay.NewSet(newDocs, newSnap, nil, false)}
				if source == 1 {
					cfg.Workload = &policy.Workload{Namespace: "shop", Labels: map[string]string{"app": "x"}}
				}
				r := replay.New(cfg)
				if err := r.Read(t.Context(), "log", strings.NewReader(line)); err != nil {
					t.Fatal(err)
				}
				report := r.Report(1)
				if report.Requests != 1 || report.Unreadable != 0 || len(report.Moves) != 1 || report.Mismatched != 0 {
					t.Fatalf("%s\n%+v", line, report)
				}
				all[source]++
				move := report.Moves[0]
				for side, claimed := range []string{move.Old, move.New} {
					if claimed == "UNKNOWN" {
						continue
					}
					known[source]++
					if d := want[i][side]; (claimed == "ALLOW") != d.Allow {
						t.Fatalf("source %d, set %d: %s claimed, %v %s %s is true\nline %s\nold %s\nnew %s\n%+v", source, side, claimed, d.Allow, d.Layer, d.Reason,
							line, oldText, newText, report.Groups)
					}
				}
			}
		}
	}
	t.Logf("known answers: %d of %d from decision logs, %d of %d from access logs", known[0], 2*all[0], known[1], 2*all[1])
	for source, n := range known {
		if n < all[source] { // of two answers each
			t.Errorf("source %d: only %d of %d answers are known", source, n, 2*all[source])
		}
	}
}
