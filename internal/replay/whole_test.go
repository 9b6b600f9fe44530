package replay_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// asJSON writes a CheckRequest as a recorder would.
func asJSON(t *testing.T, raw []byte) []byte {
	t.Helper()
	var request authv3.CheckRequest
	if err := proto.Unmarshal(raw, &request); err != nil {
		t.Fatal(err)
	}
	line, err := protojson.Marshal(&request)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// TestWholeRequests: whether a workload is asked about once or twice, both answers are those of the servers.
func TestWholeRequests(t *testing.T) {
	t.Parallel()
	const elsewhere = `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: elsewhere, namespace: shop}
spec: {selector: {matchLabels: {app: other}}}
`
	g := generator{rand.New(rand.NewPCG(3, 4))} //nolint:gosec // G404: the same every time
	differ := 0
	for round := range 60 {
		oldText := g.documents()
		newText := []string{g.documents(), oldText, oldText + elsewhere}[round%3]
		snapshot := func(text string) *policy.Snapshot {
			snap := policy.NewSnapshot(policy.Decode("test.yaml", []byte(text)), policy.Mesh{})
			if snap.Broken() > 0 {
				t.Fatal(snap.Problems())
			}
			return snap
		}
		oldSnap, newSnap := snapshot(oldText), snapshot(newText)
		servers := newTruth(t, oldSnap, newSnap)
		workload := []*policy.Workload{nil, {Namespace: "shop", Labels: map[string]string{"app": "x"}}}[round%2]
		unknown := func(d *authz.Decision) authz.Reason {
			if d.Reason == authz.ReasonNoAllowMatch {
				return "nobody knows"
			}
			return ""
		}
		whole := replay.NewWhole(replay.Decider{Server: servers.old, Snapshot: oldSnap},
			replay.Decider{Server: servers.other, Snapshot: newSnap, Unknown: unknown}, workload)
		for range 40 {
			raw, _ := g.request(t)
			a, err := whole.Answer(t.Context(), asJSON(t, raw))
			if err != nil {
				t.Fatal(err)
			}
			before, after := servers.old.Decide(t.Context(), raw, workload), servers.other.Decide(t.Context(), raw, workload)
			wantOld, wantNew := replay.OutcomeOf(&before), replay.OutcomeOf(&after)
			switch {
			case round%3 > 0: // the same documents: the first answer, which knows, is taken
				wantNew = wantOld
			case unknown(&after) != "":
				wantNew = replay.Outcome{Unknown: "nobody knows"}
			}
			if a.Old != wantOld || a.New != wantNew {
				t.Fatalf("round %d: %+v and %+v, want %+v and %+v\n%s\n%s", round, a.Old, a.New, wantOld, wantNew, oldText, newText)
			}
			if a.Old != a.New {
				differ++
			}
		}
	}
	if differ < 100 {
		t.Errorf("only %d requests differ: the test shows nothing", differ)
	}
}

// TestWholeRequestsThatAreNone are counted, and the first is named.
func TestWholeRequestsThatAreNone(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(nil, policy.Mesh{})
	servers := newTruth(t, snap, snap)
	for name, test := range map[string]struct {
		format replay.Format
		lines  []string
		bad    uint64
		err    string
	}{
		"told by the first key": {replay.FormatAuto, []string{`{"attributes":{"source":{"principal":"p"}}}`, `{ "attributes" :{}}`}, 0, ""},
		"told by a later key":   {replay.FormatRequests, []string{`{"attributes":null}`, `{}`}, 0, ""},
		"unknown field":         {replay.FormatAuto, []string{`{"attributes":{}}`, `{"attributes":{"sorce":{}}}`}, 1, `log:2: CheckRequest: proto:`},
		"cut off":               {replay.FormatAuto, []string{`{"attributes":{"source":{"principal":"p"`, `{"attributes":{}}`}, 1, `log:1: CheckRequest: proto:`},
		"duplicate":             {replay.FormatAuto, []string{`{"attributes":{},"attributes":{}}`}, 1, `log:1: CheckRequest: proto:`},
		"attributes in a value": {replay.FormatAuto, []string{`{"message":"attributes"}`}, 1, "log:1: no field holds the method"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := replay.NewWhole(replay.Decider{Server: servers.old, Snapshot: snap}, replay.Decider{Server: servers.other, Snapshot: snap}, nil)
			set := func() *replay.Set { return replay.NewSet(nil, snap, nil, false) }
			r := replay.New(replay.Config{Old: set(), New: set(), Format: test.format, Whole: whole})
			if err := r.Read(t.Context(), "log", strings.NewReader(strings.Join(test.lines, "\n"))); err != nil {
				t.Fatal(err)
			}
			report := r.Report(0)
			if report.Requests != uint64(len(test.lines)) || report.Unreadable != test.bad || !strings.HasPrefix(report.FirstError, test.err) || test.bad == 0 && report.FirstError != "" {
				t.Errorf("%+v", report)
			}
		})
	}
}

// TestWholeIsReused: what was said of one request is not said of the next.
func TestWholeIsReused(t *testing.T) {
	t.Parallel()
	snap := policy.NewSnapshot(policy.Decode("p.yaml", []byte(allow(`{to: [{operation: {paths: [/a]}}]}`))), policy.Mesh{})
	server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return snap }, Engine: &authz.Engine{}})
	if err != nil {
		t.Fatal(err)
	}
	d := replay.Decider{Server: server, Snapshot: snap}
	whole := replay.NewWhole(d, d, nil)
	for _, test := range []struct{ line, want string }{
		{`{"attributes":{"contextExtensions":{"writ.namespace":"shop","writ.labels":""},"request":{"http":{"method":"GET","path":"/a","headers":{"x-request-id":"1"}}}}}`, "shop/p[0]"},
		{`{"attributes":{"request":{"http":{"method":"GET","path":"/a"}}}}`, "unknown_workload"},
		{`{"attributes":{"contextExtensions":{"writ.namespace":"shop","writ.labels":""},"request":{"http":{"method":"GET","path":"/b"}}}}`, "no_allow_match"},
		{`{}`, "bad_request"},
	} {
		a, err := whole.Answer(t.Context(), []byte(test.line))
		if err != nil || a.Old.By() != test.want || a.New.By() != test.want {
			t.Errorf("%s: %+v, %v", test.line, a, err)
		}
		if named := test.want == "shop/p[0]" || test.want == "no_allow_match"; a != nil && (a.Workload != nil) != named {
			t.Errorf("%s: workload %v", test.line, a.Workload)
		}
	}
}
