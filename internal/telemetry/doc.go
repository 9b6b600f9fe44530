// Package telemetry is what operators see of the checks: Prometheus metrics with bounded labels, and the decision log.
//
// Start with [NewMetrics] and [NewDecisionLog]; both take each decided [Check]. Neither blocks a check, neither keeps
// anything of it, and neither ever holds a header, a token or a query.
package telemetry

import (
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// Check is one decided check. Its fields are only read during the call they are passed to.
type Check struct {
	Time      time.Time // when it was decided
	Duration  time.Duration
	RequestID string          // x-request-id of the request, empty when there is none
	Request   *policy.Request // as far as it could be read
	Decision  *authz.Decision
}

// claims are those that policies were asked about, nil without a token.
func (c *Check) claims() policy.Claims {
	if c.Request == nil || c.Decision.Layer == authz.LayerJWT {
		return nil
	}
	return c.Request.Claims
}

// workload is whom the check was for, or nil when that is not known.
func (c *Check) workload() *policy.Workload {
	if c.Decision.Workload == nil {
		return nil
	}
	return &c.Decision.Workload.Workload
}
