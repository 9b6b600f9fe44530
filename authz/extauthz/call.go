package extauthz

import (
	"context"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// Observation is one answered Check, for metrics and the decision log. It and everything it points to, strings
// included, are valid during the call of Observe only: all of it shares memory that the next request reuses.
type Observation struct {
	Decision  *authz.Decision
	Request   *policy.Request // as far as it could be read
	RequestID string          // x-request-id, "" when absent
	Duration  time.Duration   // from bytes to decision

	ctx   context.Context //nolint:containedctx // valid as long as the observation is; Bind reads the workload from it
	call  *call
	named *policy.Workload // by the caller of Decide, nil otherwise
}

// call is the state of one Check. Calls are pooled: all buffers of a request live in here.
type call struct {
	message  message
	decision authz.Decision
	initial  named
	key      []byte
	observed Observation
}

// input is a CheckRequest as it arrived.
type input struct {
	raw  []byte
	size int // bytes that arrived; more than len(raw) when they were too many to keep
}

// check answers a CheckRequest by appending a CheckResponse to out. It never fails: whatever goes wrong is a denial
// in the response.
func (s *Server) check(ctx context.Context, in input, out []byte) (response []byte) {
	start := len(out)
	defer func() {
		if p := recover(); p != nil { // in Observe, or in the encoder: the engine's own panics end in decide
			response = appendResponse(out[:start], s.panicked(p))
		}
	}()
	c := s.calls.Get().(*call)
	s.answer(ctx, c, in, nil)
	out = appendResponse(out, &c.decision)
	c.release()
	s.calls.Put(c) // not after a panic: what state c is in would be a guess
	return out
}

// answer decides and reports. w overrides the workload that the request names, if not nil.
func (s *Server) answer(ctx context.Context, c *call, in input, w *policy.Workload) {
	if s.observe == nil {
		s.decide(ctx, c, in, w)
		return
	}
	start := time.Now()
	s.decide(ctx, c, in, w)
	c.observed = Observation{
		Decision:  &c.decision,
		Request:   &c.message.request,
		RequestID: c.message.headerAt(c.message.requestID),
		Duration:  time.Since(start),
		ctx:       ctx,
		call:      c,
		named:     w,
	}
	s.observe(&c.observed)
}

// decide fills c.decision.
func (s *Server) decide(ctx context.Context, c *call, in input, w *policy.Workload) {
	defer func() {
		if p := recover(); p != nil {
			id := c.decision.ID
			c.decision = *s.panicked(p)
			c.decision.ID = id
		}
	}()
	d := &c.decision
	d.ID, d.Raw = s.ids.Next(), in.raw
	d.Reset()
	snap := s.snapshot()
	if snap != nil {
		d.Generation = snap.Generation()
	}
	if refused := c.read(in, &s.options, s.maxRequestBytes); refused != nil {
		refused.deny(d)
		return
	}
	if snap == nil {
		deny(d, authz.ReasonNoSnapshot, "no documents have been loaded yet")
		return
	}
	var bound *policy.Bound
	var refused *refusal
	if w != nil {
		bound, refused = c.bindWorkload(snap, w)
	} else {
		bound, refused = c.resolve(ctx, snap)
	}
	if refused != nil {
		refused.deny(d)
		return
	}
	s.engine.Decide(ctx, snap, bound, &c.message.request, d)
	if !coherent(d) {
		deny(d, authz.ReasonInternal, "the engine returned no decision")
	}
}

// read decodes what arrived into c.message.
func (c *call) read(in input, opts *Options, limit int) *refusal {
	m := &c.message
	m.reset()
	if in.size > limit {
		return badRequest("%d bytes, more than the limit of %d", in.size, limit)
	}
	if err := m.decode(in.raw); err != nil {
		return badRequest("%v", err)
	}
	return m.finish(opts)
}

// release drops every reference to the request's bytes, so that a pooled call neither keeps them alive nor shows
// them to the next request.
func (c *call) release() {
	c.message.reset()
	c.initial = named{}
	c.decision.Raw = nil
	c.decision.Reset()
	c.observed = Observation{}
}

// coherent reports whether d is an answer: a denial, or an allow that says which layer allowed and why. Anything
// else is not, and is denied.
func coherent(d *authz.Decision) bool {
	if d.Allow {
		return d.Status == http.StatusOK && d.Layer != "" && d.Reason != ""
	}
	return d.Reason != ""
}

func (r *refusal) deny(d *authz.Decision) { deny(d, r.reason, r.detail) }

// deny makes d a denial by writ itself. The generation stays.
func deny(d *authz.Decision, reason authz.Reason, detail string) {
	generation := d.Generation
	authz.Deny(d, reason, detail)
	d.Generation = generation
}

// panicked counts and logs a recovered panic and denies.
func (s *Server) panicked(p any) *authz.Decision {
	s.panics.Add(1)
	s.logger.Error("panic while answering a check: denied", "panic", p, "stack", string(debug.Stack()))
	d := new(authz.Decision)
	authz.Deny(d, authz.ReasonInternal, "panic, see the log")
	return d
}

func (m *message) headerAt(i int) string {
	if i < 0 || i >= len(m.request.Headers) {
		return ""
	}
	return m.request.Headers[i].Value
}
