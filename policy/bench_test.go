package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
)

// ruleShape makes rule i of a benchmark's set and a request that it matches.
type ruleShape struct {
	name    string
	rule    func(i int) *securityv1beta1.Rule
	request func(i int) *Request
}

// usual rules name a caller, methods and paths, as most policies do.
var usual = ruleShape{
	name: "usual",
	rule: func(i int) *securityv1beta1.Rule {
		return &securityv1beta1.Rule{
			From: []*securityv1beta1.Rule_From{{Source: &securityv1beta1.Source{
				Principals: []string{fmt.Sprintf("cluster.local/ns/team-%d/sa/svc-%d", i%97, i)},
			}}},
			To: []*securityv1beta1.Rule_To{{Operation: &securityv1beta1.Operation{
				Methods: []string{"GET", "POST"},
				Paths:   []string{fmt.Sprintf("/api/v1/items-%d/*", i), "/healthz"},
			}}},
		}
	},
	request: func(i int) *Request {
		return benchRequest(
			fmt.Sprintf("spiffe://cluster.local/ns/team-%d/sa/svc-%d", i%97, i),
			fmt.Sprintf("/api/v1/items-%d/42", i), "tenant-0")
	},
}

// worst rules have nothing exact to be looked up by but a header: suffix paths and header conditions.
var worst = ruleShape{
	name: "worst",
	rule: func(i int) *securityv1beta1.Rule {
		return &securityv1beta1.Rule{
			To: []*securityv1beta1.Rule_To{{Operation: &securityv1beta1.Operation{
				Paths: []string{fmt.Sprintf("*/report-%d.html", i)},
			}}},
			When: []*securityv1beta1.Condition{{Key: "request.headers[x-tenant]", Values: []string{fmt.Sprintf("tenant-%d*", i%100)}}},
		}
	},
	request: func(i int) *Request {
		return benchRequest("spiffe://cluster.local/ns/a/sa/b", fmt.Sprintf("/2026/11/report-%d.html", i), fmt.Sprintf("tenant-%d", i%100))
	},
}

func benchRequest(principal, path, tenant string) *Request {
	return &Request{
		Names: []string{principal}, SourceIP: netip.MustParseAddr("10.1.2.3"), RemoteIP: netip.MustParseAddr("203.0.113.9"),
		DestIP: netip.MustParseAddr("10.9.8.7"), DestPort: 8080, Method: "GET", HasMethod: true,
		Path: path, RawPath: path, Host: "order.coffee-shop:8080", HasHost: true,
		Headers: []Header{
			{":authority", "order.coffee-shop:8080"}, {":method", "GET"}, {":path", path}, {":scheme", "https"},
			{"accept", "*/*"}, {"user-agent", "curl/8.5.0"}, {"x-request-id", "0b5ba5ed-8e7c-4b1c-9b27-0b0a6a6e2c11"},
			{"x-forwarded-proto", "https"}, {"x-tenant", tenant}, {"content-type", "application/json"},
		},
	}
}

// benchDocuments spreads n rules over policies of 500, the shape Kubernetes allows.
func benchDocuments(n int, s ruleShape) []*Document {
	var docs []*Document
	for from := 0; from < n; from += 500 {
		spec := &securityv1beta1.AuthorizationPolicy{Selector: &typev1beta1.WorkloadSelector{MatchLabels: map[string]string{"app": "order"}}}
		for i := from; i < min(n, from+500); i++ {
			spec.Rules = append(spec.Rules, s.rule(i))
		}
		docs = append(docs, &Document{
			Object: Object{KindAuthorizationPolicy, "coffee-shop", fmt.Sprintf("p-%05d", from)}, File: "bench", Line: 1, Spec: spec,
		})
	}
	return docs
}

func benchRuleset(tb testing.TB, docs []*Document) *Ruleset {
	tb.Helper()
	b, err := NewSnapshot(docs, Mesh{}).Resolve(Workload{Namespace: "coffee-shop", Labels: map[string]string{"app": "order"}})
	if err != nil {
		tb.Fatal(err)
	}
	b.Rules.index(trafficHTTP)
	return b.Rules
}

func BenchmarkDecide(b *testing.B) {
	for _, s := range []ruleShape{usual, worst} {
		for _, n := range []int{10, 100, 1000, 10000, 100000} {
			b.Run(fmt.Sprintf("%s/rules=%d", s.name, n), func(b *testing.B) {
				rs := benchRuleset(b, benchDocuments(n, s))
				requests := make([]*Request, 64)
				for i := range requests {
					requests[i] = s.request(i * 7919 % n)
				}
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					if v := rs.Evaluate(requests[i%len(requests)]); v.Allow == nil {
						b.Fatal("no match")
					}
				}
			})
		}
	}
}

// BenchmarkDecideOverScan reports how the index compares with trying every rule of the worst shape, in one run.
func BenchmarkDecideOverScan(b *testing.B) {
	const n = 10000
	rs := benchRuleset(b, benchDocuments(n, worst))
	ix := rs.index(trafficHTTP).allow
	requests := make([]*Request, 64)
	for i := range requests {
		requests[i] = worst.request(i * 7919 % n)
	}
	scan := func(r *Request) *Rule {
		for i, body := range ix.bodies {
			if body.matches(r) {
				return ix.rules[i]
			}
		}
		return nil
	}
	var indexed, scanned time.Duration
	i := 0
	for b.Loop() {
		i++
		r := requests[i%len(requests)]
		t0 := time.Now()
		found := ix.first(r)
		t1 := time.Now()
		want := scan(r)
		t2 := time.Now()
		if found != want {
			b.Fatal("the index and the scan disagree")
		}
		indexed += t1.Sub(t0)
		scanned += t2.Sub(t1)
	}
	b.ReportMetric(float64(indexed)/float64(scanned), "of-scan")
}

func BenchmarkCompile(b *testing.B) {
	for _, s := range []ruleShape{usual, worst} {
		for _, n := range []int{10000, 100000} {
			b.Run(fmt.Sprintf("%s/rules=%d", s.name, n), func(b *testing.B) {
				docs := benchDocuments(n, s)
				b.ReportAllocs()
				var rs *Ruleset
				for b.Loop() {
					rs = benchRuleset(b, docs)
				}
				b.StopTimer()
				with := liveHeap()
				runtime.KeepAlive(rs)
				runtime.KeepAlive(docs)
				rs, docs = nil, nil
				_, _ = rs, docs
				b.ReportMetric(float64(with-liveHeap())/(1<<20), "MiB-held")
			})
		}
	}
}

// liveHeap is what is on the heap after a collection, in bytes.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // G115: no heap has 2^63 bytes
}

// TestEvaluateDoesNotAllocate states the cost of the hot path: no allocation, whatever the size of the ruleset.
func TestEvaluateDoesNotAllocate(t *testing.T) {
	for _, s := range []ruleShape{usual, worst} {
		rs := benchRuleset(t, benchDocuments(10000, s))
		r := s.request(4711)
		r.Host = strings.ToUpper(r.Host)
		if got := testing.AllocsPerRun(100, func() { rs.Evaluate(r) }); got != 0 {
			t.Errorf("%s: Evaluate allocates %v times, want 0", s.name, got)
		}
	}
}
