package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// denied is a check with everything in it, secrets included.
func denied(t testing.TB) *telemetry.Check {
	t.Helper()
	docs := policy.Decode("a.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: audit, namespace: shop}
spec: {action: AUDIT, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: try, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {rules: [{}, {to: [{operation: {methods: [GET]}}]}]}
`))
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "shop", Labels: map[string]string{"app": "order", "a": "b"}, ServiceAccount: "order"})
	if err != nil {
		t.Fatal(err)
	}
	r := &policy.Request{
		Names:    []string{"order.example", "spiffe://cluster.local/ns/shop/sa/web"},
		SourceIP: netip.MustParseAddr("10.0.0.1"), RemoteIP: netip.MustParseAddr("192.0.2.7"), DestPort: 8080, SNI: "order.example",
		Method: "GET", HasMethod: true, Path: "/admin", RawPath: "/admin?token=SECRET", Host: "order", HasHost: true,
		Headers: []policy.Header{{Name: "authorization", Value: "Bearer SECRET"}, {Name: "cookie", Value: "SECRET"}},
	}
	var d authz.Decision
	new(authz.Engine).Decide(context.Background(), snap, bound, r, &d)
	return &telemetry.Check{Time: time.Date(2026, 8, 1, 12, 0, 0, 5000, time.UTC), Duration: 1500 * time.Nanosecond, RequestID: "req-1", Request: r, Decision: &d}
}

// logOf returns what a decision log writes about checks.
func logOf(t *testing.T, what telemetry.LogWhat, checks ...*telemetry.Check) string {
	t.Helper()
	var out bytes.Buffer
	l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: what, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		l.Observe(c)
	}
	run(t, l)
	return out.String()
}

// run lets the log write what is queued.
func run(t *testing.T, l *telemetry.DecisionLog) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	line := logOf(t, telemetry.LogDenials, denied(t))
	line = regexp.MustCompile(`"decision_id":"[0-9a-z]+-[0-9a-z]+"`).ReplaceAllString(line, `"decision_id":"ID"`)
	const want = `{"time":"2026-08-01T12:00:00.000005Z","decision_id":"ID","request_id":"req-1","decision":"deny","status":403,` +
		`"layer":"deny","reason":"denied","policy":"shop/no-admin","rule":0,` +
		`"workload":{"namespace":"shop","service_account":"order","labels":{"a":"b","app":"order"}},` +
		`"source":"spiffe://cluster.local/ns/shop/sa/web","source_ip":"10.0.0.1","remote_ip":"192.0.2.7","port":8080,"sni":"order.example",` +
		`"method":"GET","host":"order","path":"/admin","generation":1,"duration_us":1.5,"audit":"shop/audit[0]",` +
		`"shadow":{"allow":"shop/try[0]"}}` + "\n"
	if line != want {
		t.Errorf("got  %swant %s", line, want)
	}
}

func TestLineOfAlmostNothing(t *testing.T) {
	t.Parallel()
	var d authz.Decision
	authz.Deny(&d, authz.ReasonNoSnapshot, "no documents")
	line := logOf(t, telemetry.LogAll, &telemetry.Check{Decision: &d}, &telemetry.Check{Decision: &d, Request: &policy.Request{TCP: true, DestPort: 5432}})
	for text := range strings.Lines(line) {
		if !json.Valid([]byte(text)) {
			t.Errorf("no JSON: %s", text)
		}
	}
	if !strings.Contains(line, `"port":5432,"tcp":true`) {
		t.Error(line)
	}
}

// FuzzLine demands that whatever a caller sends, a decision is one line of JSON, in which nothing steers a terminal.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{"/x", "/\n{\"decision\":\"allow\"}", "\x1b[2J", "\xff\xfe", `"\`, "\u2028\u202e\U0001f600\U000e0001", strings.Repeat("é", 3000), "/a?b#c"} {
		f.Add(seed)
	}
	base := denied(f)
	f.Fuzz(func(t *testing.T, s string) {
		c := *base
		c.RequestID = s
		c.Request = &policy.Request{Names: []string{s}, Method: s, Path: s, Host: s, SNI: s}
		line := logOf(t, telemetry.LogAll, &c)
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if strings.Count(line, "\n") != 1 || strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
			t.Errorf("not one printable line: %q", line)
		}
		if len(line) > 64<<10 {
			t.Errorf("%d bytes", len(line))
		}
		if path, _ := v["path"].(string); strings.ContainsAny(path, "?#") {
			t.Errorf("path with a query: %q", path)
		}
	})
}

func TestWhatIsLogged(t *testing.T) {
	t.Parallel()
	no := denied(t)
	yes := &telemetry.Check{Decision: &authz.Decision{Allow: true, Status: 200}}
	for what, want := range map[telemetry.LogWhat]int{"": 0, telemetry.LogOff: 0, telemetry.LogDenials: 1, telemetry.LogAll: 2} {
		if got := strings.Count(logOf(t, what, no, yes), "\n"); got != want {
			t.Errorf("%q: %d lines, want %d", what, got, want)
		}
	}
	if _, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: "denial"}); err == nil {
		t.Error("an unknown word is accepted")
	}
}

// TestSlowDestination fills the queue: nothing waits, and what is lost is counted.
func TestSlowDestination(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogAll, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	const n = 10_000
	c := denied(t)
	for range n {
		l.Observe(c)
	}
	run(t, l)
	if written := strings.Count(out.String(), "\n"); written == 0 || l.Dropped() == 0 || uint64(written)+l.Dropped() != n {
		t.Errorf("%d written, %d dropped, of %d", written, l.Dropped(), n)
	}
}

type failing struct {
	mu    sync.Mutex
	fails bool
	got   bytes.Buffer
}

func (f *failing) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fails {
		return 0, errors.New("disk full")
	}
	return f.got.Write(p)
}

// TestFailingDestination loses lines while the destination fails, says so, and goes on once it works.
func TestFailingDestination(t *testing.T) {
	t.Parallel()
	w := &failing{fails: true}
	l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stderr", Log: telemetry.LogAll, Stderr: w})
	if err != nil {
		t.Fatal(err)
	}
	l.Observe(denied(t))
	run(t, l)
	if l.Dropped() == 0 {
		t.Error("a lost line is not counted")
	}
	w.fails = false
	l.Observe(denied(t))
	run(t, l)
	if n := strings.Count(w.got.String(), "\n"); n != 1 {
		t.Errorf("%d lines after it works again, want 1", n)
	}
}

func TestFileIsAppendedTo(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	for range 2 {
		l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: file, Log: telemetry.LogAll})
		if err != nil {
			t.Fatal(err)
		}
		l.Observe(denied(t))
		run(t, l)
	}
	data, err := os.ReadFile(file)
	if err != nil || bytes.Count(data, []byte("\n")) != 2 {
		t.Errorf("%v:\n%s", err, data)
	}
	if _, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: t.TempDir(), Log: telemetry.LogAll}); err == nil {
		t.Error("a directory is accepted")
	}
}

// TestObserveDoesNotAllocate holds both observers to no garbage per check.
func TestObserveDoesNotAllocate(t *testing.T) {
	m := telemetry.NewMetrics(telemetry.Build{})
	c := denied(t)
	if n := testing.AllocsPerRun(1000, func() { m.ObserveCheck(c) }); n != 0 {
		t.Errorf("metrics: %v allocations", n)
	}
}

func metricsText(t *testing.T, m *telemetry.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestCheckMetrics(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics(telemetry.Build{})
	before := strings.Count(metricsText(t, m), "\nwrit_check_total{")
	m.ObserveCheck(denied(t))
	m.ObserveCheck(&telemetry.Check{Decision: &authz.Decision{Layer: "made", Reason: "up"}})
	text := metricsText(t, m)
	for _, want := range []string{
		`writ_check_total{decision="deny",layer="deny",reason="denied"} 1`, `writ_check_total{decision="deny",layer="other",reason="other"} 1`,
		`writ_audit_total 1`, `writ_shadow_total{action="allow",result="matched"} 1`, `writ_shadow_total{action="deny",result="matched"} 0`,
		`writ_check_duration_seconds_count 2`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
	if after := strings.Count(text, "\nwrit_check_total{"); after != before {
		t.Errorf("checks made %d time series of %d: labels are not bounded", after, before)
	}
	counts, err := m.CheckCounts()
	if err != nil || len(counts) != 2 {
		t.Errorf("counts %v (%v)", counts, err)
	}
}

func TestLoadMetrics(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics(telemetry.Build{})
	m.ObserveLoad(telemetry.Load{Result: "degraded", Published: true, Time: time.Unix(100, 0), Generation: 3,
		Documents: map[telemetry.DocumentLabels]int{{Kind: "AuthorizationPolicy", State: "fail_closed"}: 2}, Problems: map[string]int{"error": 4}})
	m.ObserveLoad(telemetry.Load{Result: "failed"})
	expect(t, m, `writ_policy_load_failed 1`, `writ_policy_generation 3`, `writ_policy_problems{severity="error"} 4`,
		`writ_policy_documents{kind="AuthorizationPolicy",state="fail_closed"} 2`, `writ_policy_load_total{result="failed"} 1`,
		`writ_policy_load_timestamp_seconds 100`)
	m.ObserveLoad(telemetry.Load{Result: "ok", Published: true, Time: time.Unix(200, 0), Generation: 4})
	expect(t, m, `writ_policy_load_failed 0`, `writ_policy_problems{severity="error"} 0`)
	if strings.Contains(metricsText(t, m), "\nwrit_policy_documents{") {
		t.Error("documents that are gone are still counted")
	}
}

func expect(t *testing.T, m *telemetry.Metrics, lines ...string) {
	t.Helper()
	text := metricsText(t, m)
	for _, want := range lines {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("%s is missing", want)
		}
	}
}

// TestMetricsDocs holds docs/metrics.md to the registry: name, type, labels and help of each of our metrics.
func TestMetricsDocs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "| `writ_") && strings.Count(line, "|") == 5 {
			documented = append(documented, strings.TrimSpace(line))
		}
	}
	want := rows(t)
	if !slices.Equal(documented, want) {
		t.Errorf("the table of docs/metrics.md should be\n%s", strings.Join(want, "\n"))
	}
}

// rows describes the registry as the table of docs/metrics.md does.
func rows(t *testing.T) []string {
	t.Helper()
	m := telemetry.NewMetrics(telemetry.Build{})
	l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{})
	if err != nil {
		t.Fatal(err)
	}
	m.WatchDecisionLog(l)
	m.WatchTokens(sources(t), jwt.NewCache(0, 0))
	m.WatchCustom([]telemetry.CustomSource{{
		Name: "opa", InFlight: func() int { return 0 }, Ready: func() bool { return true }, Failing: func() bool { return false },
		IdentityEnds: func() time.Time { return time.Time{} },
	}})
	m.WatchShadows(authz.NewShadows(nil, nil, nil))
	m.ObserveLoad(telemetry.Load{Result: "ok", Published: true, Documents: map[telemetry.DocumentLabels]int{{}: 1}})
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "writ_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		column := strings.Join(labels, ", ")
		if column != "" {
			column += " "
		}
		out = append(out, "| `"+f.GetName()+"` | "+strings.ToLower(f.GetType().String())+" | "+column+"| "+f.GetHelp()+" |")
	}
	return out
}

func BenchmarkObserve(b *testing.B) {
	c := denied(b)
	b.Run("metrics", func(b *testing.B) {
		m := telemetry.NewMetrics(telemetry.Build{})
		b.ReportAllocs()
		for b.Loop() {
			m.ObserveCheck(c)
		}
	})
	b.Run("decision-log", func(b *testing.B) {
		l, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogAll, Stdout: io.Discard})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		b.ReportAllocs()
		for b.Loop() {
			l.Observe(c)
		}
		cancel()
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	})
}
