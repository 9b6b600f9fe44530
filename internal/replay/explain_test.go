package replay_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// explainLine finds decision d in a log of one line, and explains it by documents.
func explainLine(t *testing.T, documents, line string) (*replay.Logged, *replay.Explained) {
	t.Helper()
	docs := policy.Decode("test.yaml", []byte(documents))
	snap := policy.NewSnapshot(docs, policy.Mesh{})
	if snap.Broken() > 0 {
		t.Fatal(snap.Problems())
	}
	l, err := replay.FindDecision(t.Context(), "log", strings.NewReader("other\n"+line+"\n"), "d")
	if err != nil {
		t.Fatal(err)
	}
	w := l.Workload
	if w == nil {
		w = &policy.Workload{Namespace: "shop", Labels: map[string]string{}}
	}
	return l, replay.NewSet(docs, snap, nil, false).Explain(l, w)
}

// TestExplainWhatWasTakenOut: a value that somebody took out of a log is not known, and what hangs on it cannot be told.
func TestExplainWhatWasTakenOut(t *testing.T) {
	t.Parallel()
	const (
		start = `{"decision_id":"d","decision":"allow","status":200,"layer":"default","reason":"no_allow_policy","workload":{"namespace":"shop"},`
		rest  = `"source_ip":"10.0.0.1","port":80,"sni":"s","method":"GET","host":"h","path":"/p"}`
	)
	line := func(field, value string) string {
		text := start + `"source":"spiffe://cluster.local/ns/shop/sa/a",` + rest
		at := strings.Index(text, `"`+field+`":`)
		end := at + strings.IndexAny(text[at:], ",}")
		return text[:at] + `"` + field + `":` + value + text[end:]
	}
	for _, tc := range []struct{ field, rule, lacks string }{
		{"source", `{from: [{source: {principals: ["*"]}}]}`, "source.principal"},
		{"source_ip", `{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}`, "source.ip"},
		{"source_ip", `{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}`, "remote.ip"},
		{"port", `{to: [{operation: {ports: ["80"]}}]}`, "destination.port"},
		{"sni", `{when: [{key: connection.sni, values: [s]}]}`, "connection.sni"},
		{"method", `{to: [{operation: {methods: [GET]}}]}`, "method"},
		{"host", `{to: [{operation: {hosts: [h]}}]}`, "host"},
		{"path", `{to: [{operation: {paths: [/p]}}]}`, "path"},
	} {
		for _, value := range []string{"null", `"[REDACTED]"`, `"***"`, `"(token withheld)"`, `"<masked>"`} {
			_, e := explainLine(t, allow(tc.rule), line(tc.field, value))
			if e.Outcome.Word() != "UNKNOWN" || !slices.Contains(e.Lacks, tc.lacks) || !e.Trace.Policies[0].Unknown {
				t.Errorf("%s is %s: %+v, lacks %q", tc.field, value, e.Outcome, e.Lacks)
			}
		}
		if _, e := explainLine(t, allow(tc.rule), start+`"source":"spiffe://cluster.local/ns/shop/sa/a",`+rest); e.Outcome.Word() != "ALLOW" || slices.Contains(e.Lacks, tc.lacks) {
			t.Errorf("%s is there: %+v, lacks %q", tc.field, e.Outcome, e.Lacks)
		}
	}
}

// TestExplainTokenOfALog: what the log says of a token counts while a rule for its issuer is there, and that is said.
func TestExplainTokenOfALog(t *testing.T) {
	t.Parallel()
	const line = `{"decision_id":"d","decision":"allow","status":200,"layer":"allow","reason":"allowed","workload":{"namespace":"shop"},"method":"GET","path":"/",` +
		`"token":{"result":"valid","issuer":"https://idp.example","request_principal":"https://idp.example/alice"}}`
	alice := allow(`{from: [{source: {requestPrincipals: ["https://idp.example/alice"]}}]}`)
	for name, tc := range map[string]struct {
		documents, line, want string
		assumed               int
	}{
		"by its rule":           {users + alice, line, "ALLOW", 1},
		"by another issuer's":   {strings.ReplaceAll(users, "issuer: https://idp.example", "issuer: https://other.example") + alice, line, "UNKNOWN", 0},
		"where nobody looks":    {alice, line, "DENY", 0},
		"without its principal": {users + alice, strings.Replace(line, `"https://idp.example/alice"`, `null`, 1), "UNKNOWN", 0},
		"taken out":             {users + alice, line[:strings.Index(line, `{"result`)] + `"[REDACTED]"}`, "UNKNOWN", 0},
		"none":                  {users + alice, line[:strings.Index(line, `,"token"`)] + "}", "DENY", 0},
	} {
		_, e := explainLine(t, tc.documents, tc.line)
		if e.Outcome.Word() != tc.want || len(e.Assumed) != tc.assumed {
			t.Errorf("%s: %+v, assumed %q", name, e.Outcome, e.Assumed)
		}
	}
}

// TestExplainWhomTheLogMeant: a workload that was not logged, or in parts, is not made up.
func TestExplainWhomTheLogMeant(t *testing.T) {
	t.Parallel()
	const line = `{"decision_id":"d","decision":"allow","status":200,"layer":"default","reason":"no_allow_policy","workload":W,"method":"GET","path":"/"}`
	for w, known := range map[string]string{
		`{"namespace":"shop","labels":{"app":"web"}}`: "web",
		`{"namespace":"shop","labels":{"app":"***"}}`: "?",
		`{"namespace":"shop"}`:                        "?",
		`{"namespace":"[redacted]"}`:                  "nobody",
		`null`:                                        "nobody",
	} {
		l, _ := explainLine(t, allow(`{}`), strings.Replace(line, "W", w, 1))
		got := "nobody"
		if l.Workload != nil {
			if got = l.Workload.Labels["app"]; l.Workload.Labels == nil {
				got = "?"
			}
		}
		if got != known {
			t.Errorf("%s: %q, want %q", w, got, known)
		}
	}
}

// TestFindDecision: lines that are something else, or of another decision, are passed over.
func TestFindDecision(t *testing.T) {
	t.Parallel()
	log := `no JSON with d` + "\n" + `{"decision_id":"d","shadow_custom":{}}` + "\n" + `{"decision_id":"dd","layer":"allow"}` + "\n" +
		`{"decision_id":"x","layer":"allow","request_id":"d"}` + "\n\n" + `{"decision_id":"d","layer":"deny","decision":"deny","policy":"shop/p","rule":2}` + "\n"
	l, err := replay.FindDecision(t.Context(), "log", strings.NewReader(log), "d")
	if err != nil || l.Place != "log:6" || l.Outcome.Policy != "p" || l.Outcome.Rule != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	_, err = replay.FindDecision(t.Context(), "log", strings.NewReader(log), "e")
	if !errors.Is(err, replay.ErrNoDecision) || !strings.Contains(err.Error(), `log has no decision "e" among its 6 lines, of which 4 are of decisions`) {
		t.Errorf("%v", err)
	}
	_, err = replay.FindDecision(t.Context(), "log", strings.NewReader(log+`{"decision_id":"cut","layer":"al`), "cut")
	if !errors.Is(err, replay.ErrNoDecision) || !strings.Contains(err.Error(), `log:7 has "cut" and cannot be read as a decision: it is cut off`) {
		t.Errorf("a line that is cut off: %v", err)
	}
	if _, err = replay.FindDecision(t.Context(), "log", iotest.ErrReader(errors.New("is a directory")), "d"); err == nil || err.Error() != "log: is a directory" {
		t.Errorf("what cannot be read: %v", err)
	}
	if _, err = replay.FindDecision(t.Context(), "log", strings.NewReader(strings.Repeat("x", 9<<20)), "d"); err == nil || errors.Is(err, replay.ErrNoDecision) {
		t.Errorf("a line without an end: %v", err)
	}
}

// TestExplainSettled: what was answered before any document counted is answered so by all of them.
func TestExplainSettled(t *testing.T) {
	t.Parallel()
	_, e := explainLine(t, allow(`{}`), `{"decision_id":"d","decision":"deny","status":403,"layer":"revoked","reason":"revoked","workload":{"namespace":"shop"},"method":"GET","path":"/"}`)
	if !e.Settled || e.Outcome.Allow || e.Outcome.Reason != "revoked" {
		t.Errorf("%+v", e)
	}
}
