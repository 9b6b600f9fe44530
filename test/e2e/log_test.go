package e2e_test

import (
	"encoding/json"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// logged is one line of the reference's access log, as far as writ's answer goes. Envoy writes null for what is absent.
type logged struct {
	RequestID string `json:"request_id"`
	Listener  string `json:"listener"`
	From      string `json:"from"`
	why
	Token       string `json:"token"`      // why a token was refused
	TokenRule   string `json:"token_rule"` // that refused it, or whose token it is
	Audit       any    `json:"audit"`
	DryRunAllow string `json:"dry_run_allow"`
	DryRunDeny  string `json:"dry_run_deny"`
	BytesOut    int    `json:"bytes_out"`
}

// why is the reason of a decision.
type why struct {
	Decision string `json:"decision"`
	Layer    string `json:"layer"`
	Reason   string `json:"reason"`
	Policy   string `json:"policy"`
	Rule     int    `json:"rule"`
	RuleID   string `json:"rule_id"`
}

// logOf finds the access log line of one HTTP request.
func logOf(t *testing.T, envoy *testkit.Envoy, r response) logged {
	t.Helper()
	return waitLog(t, envoy, 0, func(l logged) bool { return l.RequestID == r.id })
}

func waitLog(t *testing.T, envoy *testkit.Envoy, mark int, match func(logged) bool) (found logged) {
	t.Helper()
	_, err := envoy.Output.Wait(bounded(t), mark, func(line string) bool {
		var l logged
		if json.Unmarshal([]byte(line), &l) != nil || !match(l) {
			return false
		}
		found = l
		return true
	})
	if err != nil {
		t.Fatalf("access log: %v", err)
	}
	return found
}
