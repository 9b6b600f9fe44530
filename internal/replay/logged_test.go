package replay_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

const users = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: shop}
spec: {jwtRules: [{issuer: https://idp.example, jwksUri: "https://idp.example/keys"}]}
---
`

// allow is a policy of one ALLOW rule.
func allow(rule string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {rules: [%s]}
`, rule)
}

func replayLines(t *testing.T, old, other, lines string) *replay.Report {
	t.Helper()
	set := func(text string) *replay.Set {
		docs := policy.Decode("test.yaml", []byte(text))
		snap := policy.NewSnapshot(docs, policy.Mesh{})
		if snap.Broken() > 0 {
			t.Fatal(snap.Problems())
		}
		return replay.NewSet(docs, snap, nil, false)
	}
	r := replay.New(replay.Config{Old: set(old), New: set(other)})
	if err := r.Read(t.Context(), "log", strings.NewReader(lines)); err != nil {
		t.Fatal(err)
	}
	return r.Report(10)
}

// TestTokensOfTheDecisionLog: what a line says of a token holds for a set that verifies tokens by the same rules.
func TestTokensOfTheDecisionLog(t *testing.T) {
	t.Parallel()
	const (
		alice  = `,"token":{"result":"valid","rule":"shop/users jwtRules[0]","issuer":"https://idp.example","request_principal":"https://idp.example/alice"}`
		nobody = `,"token":{"result":"valid","rule":"shop/users jwtRules[0]","issuer":"https://idp.example"}`
		bad    = `,"token":{"result":"expired","rule":"shop/users jwtRules[0]"}`
	)
	stricter := strings.ReplaceAll(users, "issuer: https://idp.example,", "issuer: https://idp.example, audiences: [shop],")
	byAlice, byClaim := allow(`{from: [{source: {requestPrincipals: ["https://idp.example/alice"]}}]}`), allow(`{when: [{key: "request.auth.claims[role]", values: [x]}]}`)
	byPath, everything := allow(`{to: [{operation: {paths: [/x]}}]}`), allow(`{}`)
	for name, test := range map[string]struct {
		old, other, layer, token string
		want                     string // old -> new
		by                       string // why it cannot be told
	}{
		"whose it is is logged":            {users + byAlice, users + byPath, "allow", alice, "ALLOW -> DENY", ""},
		"whose it is is not logged":        {users + byAlice, users + byPath, "allow", nobody, "UNKNOWN -> DENY", "request.auth.principal"},
		"other claims are not logged":      {users + everything, users + byClaim, "allow", alice, "ALLOW -> UNKNOWN", "request.auth.claims[role]"},
		"no token":                         {users + everything, users + byClaim, "allow", "", "ALLOW -> DENY", ""},
		"a bad token":                      {users + everything, users + byPath, "jwt", bad, "DENY -> DENY", ""},
		"verified by other rules":          {users + everything, stricter + everything, "allow", alice, "ALLOW -> UNKNOWN", "request.auth: whether its token is good"},
		"denied whatever the rules":        {users + everything, stricter + byPath, "allow", alice, "ALLOW -> DENY", ""},
		"verified by nobody before":        {everything, users + everything, "allow", "", "ALLOW -> UNKNOWN", "request.auth: whether its token is good"},
		"verified by nobody any more":      {users + everything, everything, "jwt", bad, "DENY -> ALLOW", ""},
		"denied before it was looked at":   {users + everything, users + byPath, "mtls", "", "UNKNOWN -> DENY", "request.auth: whether its token is good"},
		"the workload is as it was before": {users + byClaim, users + byClaim, "allow", alice, "UNKNOWN -> UNKNOWN", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := fmt.Sprintf(`{"decision_id":"d","decision":"allow","status":200,"layer":%q,"reason":"r","workload":{"namespace":"shop"},"method":"GET","path":"/y"%s}`,
				test.layer, test.token)
			report := replayLines(t, test.old, test.other, line)
			if len(report.Moves) != 1 || report.Moves[0].Old+" -> "+report.Moves[0].New != test.want {
				t.Fatalf("%+v %+v", report.Moves, report.Groups)
			}
			if test.by == "" {
				if report.Count(replay.Undecided) > 0 {
					t.Errorf("%+v", report.Groups)
				}
				return
			}
			if g := report.Groups[0]; g.Old.By != test.by && g.New.By != test.by {
				t.Errorf("because of %q and %q, want %q", g.Old.By, g.New.By, test.by)
			}
		})
	}
}

func TestCutValuesAreUnknown(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("a", 1023) + "…"
	line := `{"decision_id":"d","layer":"allow","reason":"r","workload":{"namespace":"shop"},"method":"GET","path":"` + long + `"}`
	report := replayLines(t, allow(`{}`), allow(`{to: [{operation: {paths: [/a*]}}]}`), line)
	if g := report.Groups[0]; g.New.By != "path" || len(g.Examples[0].Path) > 300 {
		t.Errorf("%+v", g)
	}
}

func TestUnreadableLinesAreCounted(t *testing.T) {
	t.Parallel()
	report := replayLines(t, allow(`{}`), allow(`{}`), "\n"+`{"decision_id":"d","layer":"allow","workload":{"namespace":"shop"},"method":"GET"}`+"\n"+`{"level":"info"}`+"\nno JSON\n")
	if report.Requests != 3 || report.Unreadable != 2 || report.Count(replay.Same) != 1 || !strings.HasPrefix(report.FirstError, "log:3: no field holds the method") {
		t.Errorf("%+v", report)
	}
}

func TestOldDocumentsThatWereNotInForce(t *testing.T) {
	t.Parallel()
	line := `{"decision_id":"d","decision":"deny","layer":"deny","workload":{"namespace":"shop"},"method":"GET","path":"/y"}`
	if report := replayLines(t, allow(`{}`), allow(`{}`), line); report.Compared != 1 || report.Mismatched != 1 {
		t.Errorf("%+v", report)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&lines, `{"decision_id":"d","layer":"allow","workload":{"namespace":"shop"},"source":"spiffe://cluster.local/ns/shop/sa/%d","method":"GET","path":"/%d"}`+"\n", i%10, i)
	}
	report := replayLines(t, allow(`{}`), allow(`{to: [{operation: {paths: [/x]}}]}`), lines.String())
	if len(report.Groups) != 1 || report.Groups[0].Count != 5000 || len(report.Groups[0].Examples) != 3 {
		t.Errorf("%+v", report.Groups)
	}
	if len(report.Sources) != 10 || report.Sources[0].Count != 500 || report.Sources[0].Error != 0 {
		t.Errorf("%+v", report.Sources)
	}
	if len(report.Paths) != 10 || report.Paths[0].Error == 0 || report.Paths[0].Count-report.Paths[0].Error > 1 {
		t.Errorf("%+v", report.Paths)
	}
}

func TestFieldsOfAccessLogs(t *testing.T) {
	t.Parallel()
	for attribute, ok := range map[string]bool{
		"method": true, "request.headers[X-Team]": true, "workload.labels": true,
		"methods": false, "request.headers[]": false, "request.headers": false, "source.namespace": false,
	} {
		if _, err := replay.NewFields(map[string]string{attribute: "f"}); (err == nil) != ok {
			t.Errorf("%s: %v", attribute, err)
		}
	}
	many := map[string]string{}
	for i := range 40 {
		many[fmt.Sprintf("request.headers[h%d]", i)] = "f"
	}
	if _, err := replay.NewFields(many); err == nil {
		t.Error("40 headers are taken")
	}
}
