package authz

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Bounds of the questions of policies under dry run.
const (
	maxShadowQueue = 256
	shadowWorkers  = 4
)

// ShadowAnswer is what a provider says for a CUSTOM policy under dry run.
type ShadowAnswer struct {
	ID      ID // of the decision that the question belongs to
	Rule    *policy.Rule
	Outcome Reason // ReasonProviderAllowed, or why not
	Detail  string // for operators
	Took    time.Duration
}

// Shadows asks providers for CUSTOM policies under dry run: after the decision, beside the requests, and without any
// effect on them. Questions beyond what fits the queue are dropped and counted.
type Shadows struct {
	engine  *Engine
	decode  func(raw []byte) (*policy.Request, error)
	observe func(*ShadowAnswer)
	queue   chan *Question
	dropped atomic.Uint64
}

// NewShadows makes the questions of an engine, which has to be told of it (Engine.Shadows). decode reads a CheckRequest
// anew, for a request is gone when its question is put. observe is called with every answer, by several goroutines at a
// time.
func NewShadows(e *Engine, decode func(raw []byte) (*policy.Request, error), observe func(*ShadowAnswer)) *Shadows {
	return &Shadows{engine: e, decode: decode, observe: observe, queue: make(chan *Question, maxShadowQueue)}
}

// Dropped counts the questions that were not put because others waited.
func (s *Shadows) Dropped() uint64 { return s.dropped.Load() }

// Run puts questions until ctx ends. It returns nil.
func (s *Shadows) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range shadowWorkers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case q := <-s.queue:
					s.ask(ctx, q)
				}
			}
		})
	}
	workers.Wait()
	return nil
}

// note queues a question for each provider of which a rule under dry run matches. It does not wait, and allocates only
// if one does.
func (s *Shadows) note(b *policy.Bound, r *policy.Request, d *Decision) {
	if s == nil || d.Raw == nil {
		return
	}
	var raw []byte
	for rule, next := b.Rules.ShadowCustom(r, 0); rule != nil; rule, next = b.Rules.ShadowCustom(r, next) {
		if raw == nil {
			raw = bytes.Clone(d.Raw)
		}
		select {
		case s.queue <- &Question{Raw: raw, Workload: b, Rule: rule, ID: d.ID}:
		default:
			s.dropped.Add(1)
		}
	}
}

func (s *Shadows) ask(ctx context.Context, q *Question) {
	answer := &ShadowAnswer{ID: q.ID, Rule: q.Rule, Outcome: ReasonProviderAllowed}
	start := time.Now()
	if fault, a := s.put(ctx, q); fault != nil {
		answer.Outcome, answer.Detail = fault.Reason, fault.Err.Error()
	} else if !a.Allow {
		answer.Outcome, answer.Detail = ReasonProviderDenied, a.Detail
		if a.Reason != "" {
			answer.Outcome = a.Reason
		}
	}
	answer.Took = time.Since(start)
	s.observe(answer)
}

func (s *Shadows) put(ctx context.Context, q *Question) (*Fault, *Answer) {
	a := &Answer{}
	g := s.engine.Providers.lookup(q.Rule.Policy.Provider)
	if g == nil {
		return &Fault{ReasonProviderUnknown, errUnknownProvider}, a
	}
	r, err := s.decode(q.Raw)
	if err != nil {
		return &Fault{ReasonProviderBadRequest, err}, a
	}
	q.Request = r
	var scratch Decision
	q.Token = func(ctx context.Context) *jwt.Result {
		s.engine.Tokens.verify(ctx, q.Workload.Authentication, r, &scratch)
		return &scratch.Token
	}
	if fault := g.ask(ctx, q, a); fault != nil {
		return fault, a
	}
	return a.check(), a
}
