package main

import (
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// statusReport is what a running authority says of itself: the answer of GET /status and of writ status -o json.
type statusReport struct {
	readiness
	Warnings    []string               `json:"warnings,omitempty"` // what does not work and does not count for readiness
	Build       buildInfo              `json:"build"`
	Started     time.Time              `json:"started"`
	Listeners   []listenerStatus       `json:"listeners"`
	Documents   documentsReport        `json:"documents"`
	Tokens      tokensReport           `json:"tokens"`
	Providers   []providerReport       `json:"providers,omitempty"` // that CUSTOM policies may ask
	Trials      []trialReport          `json:"trials,omitempty"`    // of other documents on live traffic
	Checks      []telemetry.CheckCount `json:"checks"`
	Overload    *overloadReport        `json:"overload,omitempty"` // what becomes of checks that are too many
	DecisionLog decisionLogReport      `json:"decision_log"`
	CA          *caReport              `json:"ca,omitempty"`    // absent without a certificate authority
	Agent       *agentReport           `json:"agent,omitempty"` // of an agent, which has nothing of the rest
}

type listenerStatus struct {
	Name    string `json:"name"` // authz, ca, admin or diagnostics
	Address string `json:"address"`
	TLS     bool   `json:"tls"`
}

// documentsReport says what is enforced, and what became of the last attempt to change it.
type documentsReport struct {
	Path       string                  `json:"path"`
	Generation uint64                  `json:"generation"` // 0 before the first snapshot
	Hash       string                  `json:"hash,omitempty"`
	Loaded     *time.Time              `json:"loaded,omitempty"` // when the snapshot in force was made
	LastLoad   loadReport              `json:"last_load"`
	States     map[string]int          `json:"states"`
	Documents  []policy.DocumentStatus `json:"documents"`
}

type loadReport struct {
	Time   time.Time `json:"time"`
	Result string    `json:"result"` // ok, degraded or failed
	Error  string    `json:"error,omitempty"`
}

type decisionLogReport struct {
	To      string `json:"to"`
	Log     string `json:"log"`
	Dropped uint64 `json:"dropped"`
}

// broken lists the documents that are not in force as written.
func (d *documentsReport) broken() []policy.DocumentStatus {
	var out []policy.DocumentStatus
	for _, s := range d.Documents {
		if s.State == policy.StateLastGood || s.State == policy.StateFailClosed {
			out = append(out, s)
		}
	}
	return out
}

// firstError is the first error of a document, for a message of one line.
func firstError(s *policy.DocumentStatus) string {
	for i := range s.Problems {
		if p := &s.Problems[i]; p.Severity == policy.SeverityError {
			text := place(p) + ": " + p.Code + ": "
			if p.Field != "" {
				text += p.Field + ": "
			}
			return text + p.Message
		}
	}
	return fmt.Sprintf("%s:%d", s.File, s.Line)
}

// meaning says in words what a state does to requests.
func meaning(s policy.DocumentState) string {
	switch s {
	case policy.StateLastGood:
		return "its last valid version is in force"
	case policy.StateFailClosed:
		return "it was never valid and fails closed: what it governs is denied, or may not be sent in plaintext"
	case policy.StateActive:
		return "in force as written"
	default:
		return "of no meaning here"
	}
}
