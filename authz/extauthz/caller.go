package extauthz

import (
	"context"

	"github.com/writ-auth/writ/policy"
)

// Caller asks a Server one request after the other, without a network, in memory that it reuses. It is not safe for
// concurrent use.
type Caller struct {
	server   *Server
	call     call
	observed Observation
}

// Caller makes a caller of the server.
func (s *Server) Caller() *Caller { return &Caller{server: s} }

// Ask answers one CheckRequest as [Server.Decide] does. What it returns is valid until the next call, and as long as raw
// does not change.
func (c *Caller) Ask(ctx context.Context, raw []byte, w *policy.Workload) *Observation {
	c.server.decide(ctx, &c.call, input{raw, len(raw)}, w)
	m := &c.call.message
	c.observed = Observation{
		Decision: &c.call.decision, Request: &m.request, RequestID: m.headerAt(m.requestID), ctx: ctx, call: &c.call, named: w,
	}
	return &c.observed
}
