package replay_test

import (
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// BenchmarkTrial is what a trial adds to a check: its own cost is the difference to "without".
func BenchmarkTrial(b *testing.B) {
	old, other := snapshot(b, enforced), snapshot(b, candidate)
	raw := ask{"order", gateway, "GET", "/menu?x=1", map[string]string{"user-agent": "curl", "accept": "*/*"}}.raw(b)
	differs := ask{"order", gateway, "POST", "/menu?x=1", map[string]string{"user-agent": "curl", "accept": "*/*"}}.raw(b)
	for _, bench := range []struct {
		name  string
		other *policy.Snapshot
		raw   []byte
	}{{"without", nil, raw}, {"unchanged-workload", old, raw}, {"changed-workload", other, raw}, {"different-answer", other, differs}} {
		b.Run(bench.name, func(b *testing.B) {
			trial, err := replay.NewTrial(replay.TrialConfig{Name: "candidate", Snapshot: func() *policy.Snapshot { return bench.other }})
			if err != nil {
				b.Fatal(err)
			}
			server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return old }, Engine: &authz.Engine{}, Observe: trial.Observe})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				server.Decide(b.Context(), bench.raw, nil)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
