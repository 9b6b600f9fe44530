package ca

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"
)

// Step is a step of a root rotation (identity §5.2).
type Step string

// The steps, in order. Rollback goes back to before activate, or from there to where the rotation began, and is possible
// until revoke.
const (
	StepPrepare    Step = "prepare"    // make the new root
	StepDistribute Step = "distribute" // publish it beside the old
	StepActivate   Step = "activate"   // sign under it
	StepTaint      Step = "taint"      // have every leaf under the old renewed at once
	StepRevoke     Step = "revoke"     // remove the old
	StepRollback   Step = "rollback"
)

// Phase is where a rotation stands.
type Phase string

// The phases, each named after the step that led to it.
const (
	PhaseStable       Phase = "stable"
	PhasePrepared     Phase = "prepared"
	PhaseDistributing Phase = "distributing"
	PhaseActivated    Phase = "activated"
	PhaseTainted      Phase = "tainted"
)

// ErrPhase says that a step does not follow from where the rotation stands. No override skips a step.
var ErrPhase = errors.New("the rotation is not there")

// StepOptions goes with what an operator asks for.
type StepOptions struct {
	By       string // who asks, for the audit; required
	Override bool   // go on although somebody still depends on the old state
	Reason   string // why, for the audit
	// RootOut takes a new root's key offline, as in InitOptions. Only with prepare.
	RootOut string
}

func (r *roots) phase() Phase {
	switch {
	case r.in(RootPrepared) != nil:
		return PhasePrepared
	case r.in(RootPublished) != nil:
		return PhaseDistributing
	case r.in(RootRetiring) != nil:
		return PhaseActivated
	case r.in(RootTainted) != nil:
		return PhaseTainted
	default:
		return PhaseStable
	}
}

// Rotate takes one step. It is refused with [ErrPhase] out of order, with a [DependentsError] while somebody depends on
// what the step takes away, and with [ErrConflict] when another replica was faster. Other replicas follow within the
// interval of their Run. When Rotate fails after the step was taken, the error says so and Run completes it.
func (a *Authority) Rotate(ctx context.Context, step Step, o StepOptions) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots == nil {
		return fmt.Errorf("%s: the authority is plugged in: replace its files and reload", step)
	}
	if o.By == "" {
		return fmt.Errorf("%s: say who asks for it", step)
	}
	if err := a.follow(ctx); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	next, err := a.plan(ctx, step, o)
	if err != nil {
		return err // names the step
	}
	if err := audit(ctx, a.cfg, o.By, "rotation_"+string(step), map[string]any{
		"from": a.roots.phase(), "bundle": next.Bundle, "override": o.Override, "reason": o.Reason,
	}); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if err := writeDoc(ctx, a.cfg.Store, docRoots, next, a.roots.version); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if err := a.follow(ctx); err != nil {
		return fmt.Errorf("%s is done, but: %w", step, err)
	}
	if err := a.lookAfter(ctx); err != nil {
		return fmt.Errorf("%s is done, but: %w", step, err)
	}
	return nil
}

// plan is the document after a step, if the step may be taken.
func (a *Authority) plan(ctx context.Context, step Step, o StepOptions) (rootsDoc, error) {
	next := a.roots.doc
	next.Roots = append([]rootDoc(nil), a.roots.doc.Roots...)
	now := a.cfg.Now().UTC()
	phase := a.roots.phase()
	from := map[Step]Phase{
		StepPrepare: PhaseStable, StepDistribute: PhasePrepared, StepActivate: PhaseDistributing, StepTaint: PhaseActivated,
		StepRevoke: PhaseTainted, StepRollback: phase,
	}
	needs, known := from[step]
	switch {
	case !known:
		return next, fmt.Errorf("step %.50q: want prepare, distribute, activate, taint, revoke or rollback", step)
	case needs != phase || step == StepRollback && phase == PhaseStable:
		return next, fmt.Errorf("%s: %w: it is %s, the step needs %s", step, ErrPhase, phase, describePhase(step, needs))
	}
	dependents, err := a.dependents(ctx, step)
	if err != nil {
		return next, fmt.Errorf("%s: %w", step, err)
	}
	if err := a.permit(ctx, string(step), o, dependents); err != nil {
		return next, err
	}
	switch step {
	case StepPrepare:
		made, err := a.prepareRoot(ctx, o, now)
		if err != nil {
			return next, fmt.Errorf("%s: %w", step, err)
		}
		next.Roots = append(next.Roots, made)
	case StepDistribute:
		next.Bundle++
		next.move(RootPrepared, RootPublished, now)
	case StepActivate:
		next.move(RootActive, RootRetiring, now)
		next.move(RootPublished, RootActive, now)
	case StepTaint:
		next.move(RootRetiring, RootTainted, now)
		next.Bundle++
	case StepRevoke:
		next.drop(RootTainted)
		next.Bundle++
	case StepRollback:
		next.rollback(phase, now)
	}
	return next, nil
}

func describePhase(step Step, needs Phase) string {
	if step == StepRollback {
		return "a rotation that has begun"
	}
	return string(needs)
}

// move takes the root in one state to another.
func (d *rootsDoc) move(from, to RootState, now time.Time) {
	for i := range d.Roots {
		if r := &d.Roots[i]; r.State == from {
			r.State = to
			switch to {
			case RootPublished:
				if r.Published.IsZero() {
					r.Published, r.Since = now, d.Bundle
				}
			case RootActive:
				r.Activated = now
			}
			return
		}
	}
}

func (d *rootsDoc) drop(state RootState) {
	for i, r := range d.Roots {
		if r.State == state {
			d.Roots = append(d.Roots[:i], d.Roots[i+1:]...)
			return
		}
	}
}

// rollback returns to old and new in the bundle with the old signing; from there, or from before, to the old alone.
func (d *rootsDoc) rollback(from Phase, now time.Time) {
	switch from {
	case PhasePrepared:
		d.drop(RootPrepared)
	case PhaseDistributing:
		d.drop(RootPublished)
		d.Bundle++
	case PhaseTainted:
		d.Bundle++ // the mark goes
		d.move(RootActive, RootPublished, now)
		d.move(RootTainted, RootActive, now)
	case PhaseActivated:
		d.move(RootActive, RootPublished, now)
		d.move(RootRetiring, RootActive, now)
	case PhaseStable: // refused before
	}
}

// prepareRoot makes the new root and tries it: an intermediate under it, for a key that is thrown away.
func (a *Authority) prepareRoot(ctx context.Context, o StepOptions, now time.Time) (rootDoc, error) {
	cert, key, err := newRoot(a.cfg.TrustDomain, a.cfg.RootLife, now)
	if err != nil {
		return rootDoc{}, err
	}
	if err := proveRoot(a.cfg.TrustDomain, cert, key, now); err != nil {
		return rootDoc{}, err
	}
	sealed, err := a.cfg.Keys.seal(key, cert.SubjectKeyId)
	if err != nil {
		return rootDoc{}, err
	}
	made := rootDoc{Certificate: cert.Raw, Key: sealed, State: RootPrepared}
	if o.RootOut != "" {
		if err := writeRootKey(o.RootOut, sealed, cert); err != nil {
			return rootDoc{}, err
		}
		made.Key = nil
		// The intermediate under it is made while the key is still in memory.
		root := &caRoot{rootDoc: made, cert: cert}
		a.roots.list = append(a.roots.list, *root)
		own, err := a.newIntermediate(ctx, root, key, earlier(now.Add(a.cfg.IntermediateLife), cert.NotAfter))
		if err != nil {
			return rootDoc{}, err
		}
		return made, a.register(ctx, own)
	}
	return made, nil
}

// dependents is the evidence against a step.
func (a *Authority) dependents(ctx context.Context, step Step) ([]Dependent, error) {
	switch step {
	case StepActivate:
		return a.againstActivate(ctx)
	case StepTaint:
		return a.againstTaint(ctx)
	case StepRevoke:
		return a.againstRevoke(ctx)
	case StepRollback:
		if r := a.roots.in(RootPublished); r != nil { // it signed if there was a rollback before
			return a.dependOn(ctx, r)
		}
		return nil, nil
	default: // prepare and distribute take nothing away
		return nil, nil
	}
}

// againstActivate: everyone must trust the new root before a leaf under it appears. The authorities' own servers do: they
// read the bundle with every handshake.
func (a *Authority) againstActivate(ctx context.Context) ([]Dependent, error) {
	published := a.roots.in(RootPublished)
	out, served := a.behind(ctx, a.roots.since(published))
	old, replicas, err := a.issuersUnder(ctx, a.roots.active().cert)
	if err != nil {
		return nil, err
	}
	late, err := a.notRenewed(ctx, old, old, published.Published)
	if err != nil {
		return nil, err
	}
	for id, detail := range late {
		if !served[id] {
			out = append(out, Dependent{"certificate", id.String(), detail})
		}
	}
	if published.key == nil { // then every replica needs its intermediate before
		_, have, err := a.issuersUnder(ctx, published.cert)
		if err != nil {
			return nil, err
		}
		for replica := range replicas {
			if !have[replica] {
				out = append(out, Dependent{"replica", replica, "has no intermediate under the new root, whose key is kept elsewhere"})
			}
		}
	}
	return sorted(out), nil
}

// againstTaint: everyone is to have come for a leaf under the new root.
func (a *Authority) againstTaint(ctx context.Context) ([]Dependent, error) {
	old, _, err := a.issuersUnder(ctx, a.roots.in(RootRetiring).cert)
	if err != nil {
		return nil, err
	}
	now, _, err := a.issuersUnder(ctx, a.roots.active().cert)
	if err != nil {
		return nil, err
	}
	late, err := a.notRenewed(ctx, old, now, a.roots.active().Activated)
	if err != nil {
		return nil, err
	}
	out, err := a.serversUnder(ctx, old)
	if err != nil {
		return nil, err
	}
	for id, detail := range late {
		out = append(out, Dependent{"certificate", id.String(), detail})
	}
	return sorted(out), nil
}

// againstRevoke: nobody is to have a leaf under the old root, and nobody the old root alone.
func (a *Authority) againstRevoke(ctx context.Context) ([]Dependent, error) {
	out, err := a.dependOn(ctx, a.roots.in(RootTainted))
	if err != nil {
		return nil, err
	}
	late, _ := a.behind(ctx, a.roots.since(a.roots.active()))
	return sorted(append(out, late...)), nil
}

// dependOn lists who has a live leaf under a root that is to go.
func (a *Authority) dependOn(ctx context.Context, root *caRoot) ([]Dependent, error) {
	issuers, _, err := a.issuersUnder(ctx, root.cert)
	if err != nil {
		return nil, err
	}
	live, err := a.liveUnder(ctx, issuers)
	if err != nil {
		return nil, err
	}
	servers, err := a.serversUnder(ctx, issuers)
	return sorted(append(live, servers...)), err
}

// RenewIntermediate makes an intermediate of this replica with a root's key that is kept elsewhere, see
// [Keyring.ReadRootKey]. The root is the active one, or the one that is to be.
func (a *Authority) RenewIntermediate(ctx context.Context, rootKey crypto.Signer, o StepOptions) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roots == nil || o.By == "" || rootKey == nil {
		return errors.New("renew the intermediate: want an authority with its own roots, the key of one, and who asks")
	}
	if err := a.follow(ctx); err != nil {
		return fmt.Errorf("renew the intermediate: %w", err)
	}
	for i := range a.roots.list {
		root := &a.roots.list[i]
		if root.State == RootRetiring || root.State == RootTainted || newSigner(rootKey).matches(root.cert) != nil {
			continue
		}
		if err := audit(ctx, a.cfg, o.By, "intermediate_renewed", map[string]any{"root": describe(root.cert)}); err != nil {
			return fmt.Errorf("renew the intermediate: %w", err)
		}
		own, err := a.newIntermediate(ctx, root, rootKey, earlier(a.cfg.Now().Add(a.cfg.IntermediateLife), root.cert.NotAfter))
		if err != nil {
			return fmt.Errorf("renew the intermediate: %w", err)
		}
		if err := a.register(ctx, own); err != nil {
			return fmt.Errorf("renew the intermediate: %w", err)
		}
		return a.lookAfter(ctx)
	}
	return errors.New("renew the intermediate: the key is of none of the roots that sign or are to sign")
}
