package replay_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// cpuTime is what the process has used: the machine may have others to serve.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkReplay reports how many requests of a log are replayed through two sets of 200 policies in a second of one core.
func BenchmarkReplay(b *testing.B) {
	documents := func(method string) []*policy.Document {
		var all []string
		for i := range 200 {
			team := ""
			if i%20 == 0 { // one workload in twenty asks for what logs do not hold
				team = `
  - when: [{key: "request.headers[x-team]", values: [red]}]
    to: [{operation: {paths: [/team/*]}}]`
			}
			all = append(all, fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p%d, namespace: shop}
spec:
  selector: {matchLabels: {app: app%d}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/caller%d]}}]
    to: [{operation: {methods: [%s], paths: [/api/%d/*]}}]%s
`, i, i%20, i, method, i, team))
		}
		return policy.Decode("bench.yaml", []byte(strings.Join(all, "---")))
	}
	set := func(docs []*policy.Document) *replay.Set {
		return replay.NewSet(docs, policy.NewSnapshot(docs, policy.Mesh{}), nil, false)
	}
	var decisions, access bytes.Buffer
	for i := range 10_000 {
		method := []string{"GET", "GET", "GET", "POST"}[i%4]
		fmt.Fprintf(&decisions, `{"time":"2026-11-21T06:29:28.485212Z","decision_id":"3w5e11264sg0-%d","request_id":"f8829f87-699e-4949-b1db-d78ccc345b44","decision":"allow","status":200,`+
			`"layer":"allow","reason":"allowed","policy":"shop/p%d","rule":0,"workload":{"namespace":"shop","service_account":"app","labels":{"app":"app%d","version":"v1"}},`+
			`"source":"spiffe://cluster.local/ns/shop/sa/caller%d","source_ip":"10.244.1.17","remote_ip":"203.0.113.7","port":8080,"sni":"shop.example.com",`+
			`"method":"%s","host":"shop.example.com","path":"/api/%d/items/17","generation":7,"duration_us":3.4}`+"\n", i, i%200, i%20, i%200, method, i%200)
		line, err := json.Marshal(map[string]any{
			"start_time": "2026-11-21T06:29:28.485Z", "method": method, "path": fmt.Sprintf("/api/%d/items/17?x=1", i%200), "protocol": "HTTP/2", "response_code": 200,
			"response_flags": "-", "bytes_received": 0, "bytes_sent": 532, "duration": 12, "upstream_service_time": "10", "x_forwarded_for": "203.0.113.7",
			"user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0)", "request_id": "f8829f87-699e-4949-b1db-d78ccc345b44", "authority": "shop.example.com",
			"upstream_host": "10.0.0.1:8080", "upstream_cluster": "inbound|8080||", "downstream_local_address": "10.244.2.5:8080",
			"downstream_remote_address": "203.0.113.7:0", "downstream_direct_remote_address": "10.244.1.17:4711", "requested_server_name": nil, "route_name": "default",
			"downstream_peer_uri_san": fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/caller%d", i%200), "ns": "shop", "labels": fmt.Sprintf("app=app%d", i%20),
		})
		if err != nil {
			b.Fatal(err)
		}
		access.Write(append(line, '\n'))
	}
	fields, err := replay.NewFields(map[string]string{"workload.namespace": "ns", "workload.labels": "labels"})
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		log  []byte
	}{{"decisions", decisions.Bytes()}, {"envoy", access.Bytes()}} {
		b.Run(bench.name, func(b *testing.B) {
			r := replay.New(replay.Config{Old: set(documents("GET, POST")), New: set(documents("GET")), Fields: fields})
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				if err := r.Read(b.Context(), "log", bytes.NewReader(bench.log)); err != nil {
					b.Fatal(err)
				}
			}
			report := r.Report(1)
			if report.Unreadable > 0 || report.Count(replay.NewlyDenied)*4 != report.Requests {
				b.Fatalf("%+v", report)
			}
			b.ReportMetric(float64(report.Requests)/(cpuTime(b)-before).Seconds(), "requests/cpu-s")
		})
	}
}
