package replay

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// TrialConfig is what a [Trial] needs. Name and Snapshot are required.
type TrialConfig struct {
	Name string // in metrics and logs: candidate, dry_run
	// Snapshot returns the set on trial, nil while there is none: then nothing is compared.
	Snapshot func() *policy.Snapshot
	// Tokens is how the enforcing engine verifies tokens. Of its sources only keys that are already there are used.
	Tokens authz.Tokens
	// Providers are those of the enforcing engine. They are never asked: what they answered it is taken over.
	Providers []authz.ProviderConfig
	Logger    *slog.Logger // hears of new kinds of differences; nil discards
}

// Trial decides live requests by another set of documents as well, and keeps how the final answers differ. It never
// touches the enforced answer: it runs after the decision, waits for nothing, and its own panics end in it.
type Trial struct {
	name     string
	snapshot func() *policy.Snapshot
	engine   authz.Engine
	metadata bool // claims are the proxy's: nothing is verified
	log      *slog.Logger
	tally    *Tally
	fresh    chan *Group
	pool     sync.Pool
	panics   atomic.Uint64
	seed     maphash.Seed
	pairs    [1 << 12]atomic.Pointer[pair]
}

// pair is what two snapshots make of one workload. It is immutable.
type pair struct {
	enforced *policy.Bound
	snapshot *policy.Snapshot // on trial
	bound    *policy.Bound    // in it; nil if it cannot tell whom the request is for
	refusal  Outcome          // then
	same     bool             // the same documents govern the workload
	tokens   bool             // the same rules verify its tokens
}

// NewTrial prepares a trial. It starts nothing.
func NewTrial(cfg TrialConfig) (*Trial, error) {
	if cfg.Snapshot == nil || cfg.Name == "" {
		return nil, fmt.Errorf("replay: TrialConfig.Name and TrialConfig.Snapshot are required")
	}
	t := &Trial{name: cfg.Name, snapshot: cfg.Snapshot, log: cfg.Logger, tally: NewTally(DefaultExamples), fresh: make(chan *Group, maxGroups),
		seed: maphash.MakeSeed(), metadata: cfg.Tokens.Mode == authz.TokensMetadata}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	providers, err := takenOver(cfg.Providers)
	if err != nil {
		return nil, err
	}
	t.engine = authz.Engine{Tokens: keysAtHand(cfg.Tokens), Providers: providers}
	t.pool.New = func() any { return &evaluation{Context: context.Background()} }
	return t, nil
}

// Tally is what is kept of the differences.
func (t *Trial) Tally() *Tally { return t.tally }

// Panics is how many requests ended in a panic of the trial, which changed nothing else.
func (t *Trial) Panics() uint64 { return t.panics.Load() }

// Run logs differences that were not seen before, until ctx ends.
func (t *Trial) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case g := <-t.fresh:
			e := &g.Examples[0]
			t.log.Info("a request would be answered otherwise", "by", t.name, "difference", g.Kind.String(), "enforced", g.Old.Decision,
				"enforced_by", g.Old.By, "would_be", g.New.Decision, "would_be_by", g.New.By, "decision_id", e.DecisionID, "request", e.String())
		}
	}
}

// Observe compares one answered request. It is called on the request's goroutine, and keeps nothing it is given.
func (t *Trial) Observe(o *extauthz.Observation) {
	claims := o.Request.Claims
	defer func() {
		o.Request.Claims = claims
		if p := recover(); p != nil {
			if t.panics.Add(1) == 1 {
				t.log.Error("panic while a request was tried; the enforced answer is as it was", "by", t.name, "panic", p, "stack", string(debug.Stack()))
			}
		}
	}()
	snap := t.snapshot()
	if snap == nil {
		return
	}
	d := o.Decision
	if settled(d) {
		t.tally.add(Same, nil, nil)
		return
	}
	p := t.pair(o, snap)
	if p.same {
		t.tally.add(Same, nil, nil)
		return
	}
	before := OutcomeOf(d)
	after := p.refusal
	if p.bound != nil {
		after = t.decide(o, snap, p)
	}
	kind := Compare(&before, &after)
	if !t.tally.add(kind, &before, &after) {
		return
	}
	var w *policy.Workload
	if p.bound != nil {
		w = &p.bound.Workload
	}
	e := exampleOf(o.Request, w)
	e.Time, e.DecisionID, e.RequestID = time.Now().UTC(), d.ID.String(), shown(o.RequestID)
	if g := t.tally.illustrate(kind, &before, &after, &e); g != nil {
		select {
		case t.fresh <- g:
		default: // it is in the status all the same
		}
	}
}

// settled reports whether a request was answered before any document counted.
func settled(d *authz.Decision) bool {
	if d.Layer == authz.LayerRevoked {
		return true
	}
	switch d.Reason {
	case authz.ReasonBadRequest, authz.ReasonPathNotNormalized, authz.ReasonNoSnapshot, authz.ReasonInternal:
		return d.Layer == authz.LayerSystem
	}
	return false
}

// pair finds out what both snapshots make of the workload. What was found is remembered in a table of fixed size.
func (t *Trial) pair(o *extauthz.Observation, snap *policy.Snapshot) *pair {
	enforced := o.Decision.Workload
	if enforced == nil { // the enforced snapshot cannot tell whom the request is for
		return t.newPair(o, snap)
	}
	slot := &t.pairs[maphash.Comparable(t.seed, enforced)%uint64(len(t.pairs))]
	if p := slot.Load(); p != nil && p.enforced == enforced && p.snapshot == snap {
		return p
	}
	p := t.newPair(o, snap)
	slot.Store(p)
	return p
}

func (t *Trial) newPair(o *extauthz.Observation, snap *policy.Snapshot) *pair {
	p := &pair{enforced: o.Decision.Workload, snapshot: snap}
	bound, err := o.Bind(snap)
	if err != nil {
		p.refusal = denied(authz.LayerSystem, refusalOf(err))
		return p
	}
	p.bound = bound
	if p.enforced != nil {
		p.tokens = alikeTokens(p.enforced.Authentication, bound.Authentication)
		p.same = p.tokens && alike(p.enforced, bound)
	}
	return p
}

// evaluation is the memory of one decision on trial. As the decision's context it tells the providers and key sources that
// stand in for the real ones which request they are asked about.
type evaluation struct {
	context.Context //nolint:containedctx // this is a context, and carries itself
	enforced        *authz.Decision
	provider, keys  string // what was asked for and is not known
	decision        authz.Decision
	bound           policy.Bound
}

type evaluationKey struct{}

// Value implements [context.Context].
func (e *evaluation) Value(key any) any {
	if key == (evaluationKey{}) {
		return e
	}
	return e.Context.Value(key)
}

// decide answers by the set on trial.
func (t *Trial) decide(o *extauthz.Observation, snap *policy.Snapshot, p *pair) Outcome {
	e := t.pool.Get().(*evaluation)
	live := o.Decision
	e.enforced, e.provider, e.keys, e.bound = live, "", "", *p.bound
	reached := live.Evaluated || live.Layer == authz.LayerJWT
	taken := !t.metadata && p.tokens && reached
	if taken { // tokens are not verified twice
		e.bound.Authentication = nil
	} else {
		o.Request.Claims = nil
	}
	d := &e.decision
	d.ID, d.Raw = live.ID, live.Raw
	t.engine.Decide(e, snap, &e.bound, o.Request, d)
	after := OutcomeOf(d)
	switch {
	case e.keys != "" && d.Layer == authz.LayerJWT:
		after = unknown(e.keys)
	case e.provider != "" && d.Allow:
		after = unknown(e.provider)
	case e.provider != "": // denied, whatever the provider would say
		after.Vague = true
	case taken && d.Evaluated && live.Layer == authz.LayerJWT: // the token is refused by both
		after = OutcomeOf(live)
	}
	e.enforced, e.bound, d.Raw = nil, policy.Bound{}, nil
	d.Reset()
	t.pool.Put(e) // not after a panic: what state it is in would be a guess
	return after
}
