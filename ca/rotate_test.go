package ca_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

var operator = ca.StepOptions{By: "unix:0"}

func (b *bench) step(tb testing.TB, s ca.Step) {
	tb.Helper()
	if err := b.Rotate(tb.Context(), s, operator); err != nil {
		tb.Fatalf("%s: %v", s, err)
	}
}

func (b *bench) refused(tb testing.TB, s ca.Step, want error) *ca.DependentsError {
	tb.Helper()
	before := b.Status().Phase
	err := b.Rotate(tb.Context(), s, operator)
	if !errors.Is(err, want) {
		tb.Fatalf("%s: %v, want %v", s, err, want)
	}
	if b.Status().Phase != before {
		tb.Errorf("%s was refused, and the rotation is %s after %s", s, b.Status().Phase, before)
	}
	var d *ca.DependentsError
	errors.As(err, &d)
	return d
}

// followers is what an SDS server would know.
type followers struct {
	mu   sync.Mutex
	list []ca.Consumer
}

func (f *followers) Consumers(context.Context) ([]ca.Consumer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]ca.Consumer(nil), f.list...), nil
}

func (f *followers) set(list ...ca.Consumer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = list
}

// TestRotation goes from one root to the next while workloads renew at half of their life, and a client that trusts what
// its last answer held verifies every other's certificate at every moment.
func TestRotation(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	ids := []string{order, order + "-b", order + "-c"}
	held := map[string]*ca.Issued{}
	renewAt := map[string]time.Time{}
	tick := func() {
		t.Helper()
		b.clock.advance(10 * time.Minute)
		if err := b.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids {
			if b.clock.now().Before(renewAt[id]) {
				continue
			}
			held[id] = b.issue(t, id, 3600)
			renewAt[id] = b.clock.now().Add(time.Duration(25+5*i) * time.Minute)
		}
		for _, client := range ids {
			for _, server := range ids {
				// The server shows its chain, the client trusts its own last element.
				shown := append(append([]string(nil), held[server].Chain[:len(held[server].Chain)-1]...), held[client].Chain[len(held[client].Chain)-1])
				if err := verify(t, shown, b.clock.now()); err != nil {
					t.Fatalf("%s, %s: %s does not verify %s: %v", b.clock.now(), b.Status().Phase, client, server, err)
				}
			}
		}
	}
	ticks := func(n int) {
		for range n {
			tick()
		}
	}
	ticks(12)
	old := b.Bundle().Roots[0].Certificate
	b.step(t, ca.StepPrepare)
	if n := len(b.Bundle().Roots); n != 1 {
		t.Errorf("%d roots published before distribution", n)
	}
	tick()
	b.step(t, ca.StepDistribute)
	if n := len(b.Bundle().Roots); n != 2 || b.Bundle().Version != 2 {
		t.Errorf("%d roots, bundle %d", n, b.Bundle().Version)
	}
	if d := b.refused(t, ca.StepActivate, ca.ErrDependents); len(d.Dependents) != 3 {
		t.Errorf("activate at once: %v", d)
	}
	steps := 0
	for b.Rotate(t.Context(), ca.StepActivate, operator) != nil {
		tick()
		if steps++; steps > 6 {
			t.Fatal("nobody got the new bundle within an hour")
		}
	}
	if steps < 3 {
		t.Errorf("activated after %d minutes, before all had renewed", steps*10)
	}
	if d := b.refused(t, ca.StepTaint, ca.ErrDependents); d == nil {
		t.Error("tainted at once")
	}
	for steps = 0; b.Rotate(t.Context(), ca.StepTaint, operator) != nil; steps++ {
		tick()
		if steps > 6 {
			t.Fatal("not every leaf was renewed within an hour")
		}
	}
	if !b.Bundle().Tainted() {
		t.Error("the bundle does not say that a root is tainted")
	}
	for steps = 0; b.Rotate(t.Context(), ca.StepRevoke, operator) != nil; steps++ {
		tick()
		if steps > 6 {
			t.Fatal("leaves under the old root live for more than an hour")
		}
	}
	if b.Status().Phase != ca.PhaseStable || len(b.Bundle().Roots) != 1 || b.Bundle().Roots[0].Certificate.Equal(old) || b.Bundle().Tainted() {
		t.Errorf("%s with %d roots", b.Status().Phase, len(b.Bundle().Roots))
	}
	ticks(6)
	if len(b.CRLs().List) != 1 {
		t.Errorf("%d CRLs, want the new issuer's alone", len(b.CRLs().List))
	}
	b.store.CheckCertificates()
	if got, want := audited(t, b), "root_created rotation_prepare rotation_distribute rotation_activate rotation_taint rotation_revoke"; got != want {
		t.Errorf("audit %q, want %q", got, want)
	}
	again := b.reopen(t)
	if !bytes.Equal(again.Bundle().PEM, b.Bundle().PEM) || again.Bundle().Version != b.Bundle().Version {
		t.Error("another bundle after a restart")
	}
}

// TestRotationOrder: no step out of order, whatever is overridden.
func TestRotationOrder(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	all := []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate, ca.StepTaint, ca.StepRevoke, ca.StepRollback}
	after := map[ca.Phase][]ca.Step{
		ca.PhaseStable: {ca.StepPrepare}, ca.PhasePrepared: {ca.StepDistribute, ca.StepRollback},
		ca.PhaseDistributing: {ca.StepActivate, ca.StepRollback}, ca.PhaseActivated: {ca.StepTaint, ca.StepRollback},
		ca.PhaseTainted: {ca.StepRevoke, ca.StepRollback},
	}
	for _, next := range all[:5] {
		allowed := after[b.Status().Phase]
		for _, s := range all {
			ok := false
			for _, a := range allowed {
				ok = ok || a == s
			}
			if ok {
				continue
			}
			if err := b.Rotate(t.Context(), s, ca.StepOptions{By: "unix:0", Override: true}); !errors.Is(err, ca.ErrPhase) {
				t.Errorf("%s when %s: %v", s, b.Status().Phase, err)
			}
		}
		b.step(t, next)
		b = b.reopen(t) // every phase survives a restart
	}
	if b.Status().Phase != ca.PhaseStable {
		t.Errorf("phase %s at the end", b.Status().Phase)
	}
	if err := b.Rotate(t.Context(), ca.StepPrepare, ca.StepOptions{}); err == nil {
		t.Error("a step that nobody asked for")
	}
	if err := b.Rotate(t.Context(), "leap", operator); err == nil {
		t.Error("a step that does not exist")
	}
}

// TestRollback from every phase: certificates from before and from between verify under the bundle after.
func TestRollback(t *testing.T) {
	t.Parallel()
	forward := []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate, ca.StepTaint}
	for n := 1; n <= len(forward); n++ {
		b := newAuthority(t)
		old := b.Bundle().Roots[0].Certificate
		for _, s := range forward[:n] {
			b.step(t, s)
		}
		between := b.issue(t, order+"-between", 0)
		b.step(t, ca.StepRollback)
		if n > 2 {
			if b.Status().Phase != ca.PhaseDistributing || b.Bundle().Tainted() || len(b.Bundle().Roots) != 2 {
				t.Errorf("rollback after %s: %s with %d roots", forward[n-1], b.Status().Phase, len(b.Bundle().Roots))
			}
			shown := append(append([]string(nil), between.Chain[:len(between.Chain)-1]...), string(b.Bundle().PEM))
			if err := verify(t, shown, b.clock.now()); err != nil {
				t.Errorf("rollback after %s: the certificate from between: %v", forward[n-1], err)
			}
			// All the way back: not while a leaf under the new root lives.
			if d := b.refused(t, ca.StepRollback, ca.ErrDependents); d == nil || d.Dependents[0].Name != order+"-between" {
				t.Errorf("dropped a root in use: %v", d)
			}
			b.clock.advance(time.Hour + time.Minute)
			b.step(t, ca.StepRollback)
		}
		if b.Status().Phase != ca.PhaseStable || !b.Bundle().Roots[0].Certificate.Equal(old) || len(b.Bundle().Roots) != 1 {
			t.Errorf("rollback after %s ends %s with %d roots", forward[n-1], b.Status().Phase, len(b.Bundle().Roots))
		}
		if err := verify(t, b.issue(t, order, 0).Chain, b.clock.now()); err != nil {
			t.Error(err)
		}
	}
}

// TestRotationEvidence: who has acknowledged the bundle counts, and who has not holds the rotation up.
func TestRotationEvidence(t *testing.T) {
	t.Parallel()
	seen := &followers{}
	b := newAuthority(t, func(c *ca.Config) { c.Evidence = seen })
	b.issue(t, order, 0)
	id := mustID(t, order)
	b.step(t, ca.StepPrepare)
	b.clock.advance(time.Second)
	b.step(t, ca.StepDistribute)
	seen.set(ca.Consumer{Name: "10.0.0.1", ID: id, Bundle: 2}, ca.Consumer{Name: "10.0.0.2", ID: id, Bundle: 1})
	d := b.refused(t, ca.StepActivate, ca.ErrDependents)
	if len(d.Dependents) != 2 || d.Dependents[1].Kind != "consumer" || d.Dependents[1].Name != "10.0.0.2" {
		t.Errorf("dependents %v", d.Dependents)
	}
	if !strings.Contains(d.Error(), "10.0.0.2") || !strings.Contains(d.Error(), order) {
		t.Errorf("the error does not name them: %v", d)
	}
	seen.set(ca.Consumer{Name: "10.0.0.1", ID: id, Bundle: 2}, ca.Consumer{Name: "10.0.0.2", ID: id, Bundle: 2})
	b.step(t, ca.StepActivate)
}

// TestRotationOverride goes on regardless, and the audit says who did and why.
func TestRotationOverride(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	b.issue(t, order, 0)
	b.clock.advance(time.Second)
	b.step(t, ca.StepPrepare)
	b.step(t, ca.StepDistribute)
	for _, s := range []ca.Step{ca.StepActivate, ca.StepTaint, ca.StepRevoke} {
		b.refused(t, s, ca.ErrDependents)
		if err := b.Rotate(t.Context(), s, ca.StepOptions{By: "unix:0", Override: true, Reason: "the key is on the internet"}); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	events, err := b.store.Events(t.Context(), time.Time{}, time.Time{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	overrides := 0
	for _, e := range events {
		if e.What == "override" && e.By == "unix:0" && strings.Contains(e.Detail, "on the internet") && strings.Contains(e.Detail, order) {
			overrides++
		}
	}
	if overrides != 3 {
		t.Errorf("%d overrides in the audit, want 3: %v", overrides, events)
	}
}

// TestRotationReplicas: others follow what one does, and of two that act at once one wins.
func TestRotationReplicas(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	cfg := b.cfg
	cfg.Replica = "second"
	a, err := ca.Load(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	second := &bench{Authority: a, store: b.store, clock: b.clock, cfg: cfg, profile: b.profile}
	b.step(t, ca.StepPrepare)
	second.step(t, ca.StepDistribute) // looks before it acts
	b.step(t, ca.StepActivate)
	if err := second.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bundle().PEM, second.Bundle().PEM) || b.Bundle().Version != second.Bundle().Version {
		t.Error("the replicas publish different bundles")
	}
	for _, replica := range []*bench{b, second} {
		issued := replica.issue(t, order, 0)
		signer := parsePEM(t, issued.Chain[1])[0]
		if err := signer.CheckSignatureFrom(b.Bundle().Roots[1].Certificate); err != nil {
			t.Errorf("%s signs under the old root: %v", replica.cfg.Replica, err)
		}
	}
	results := make(chan error, 2)
	var wg sync.WaitGroup
	for _, replica := range []*bench{b, second} {
		wg.Go(func() { results <- replica.Rotate(t.Context(), ca.StepTaint, operator) })
	}
	wg.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, ca.ErrConflict) && !errors.Is(err, ca.ErrPhase) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of two replicas tainted the root", won)
	}
}

// TestRotationOffline: a new root whose key is offline from the start; every replica must have its intermediate first.
func TestRotationOffline(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	cfg := b.cfg
	cfg.Replica = "second"
	second, err := ca.Load(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "root.pem")
	if err := b.Rotate(t.Context(), ca.StepPrepare, ca.StepOptions{By: "unix:0", RootOut: out}); err != nil {
		t.Fatal(err)
	}
	b.step(t, ca.StepDistribute)
	d := b.refused(t, ca.StepActivate, ca.ErrDependents)
	if len(d.Dependents) != 1 || d.Dependents[0].Kind != "replica" || d.Dependents[0].Name != "second" {
		t.Errorf("dependents %v", d.Dependents)
	}
	key, err := cfg.Keys.ReadRootKey(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.RenewIntermediate(t.Context(), key, operator); err != nil {
		t.Fatal(err)
	}
	b.step(t, ca.StepActivate)
	if err := second.Maintain(t.Context()); err != nil || second.Ready(t.Context()) != nil {
		t.Errorf("the second replica: %v, %v", err, second.Ready(t.Context()))
	}
	if err := verify(t, b.issue(t, order, 0).Chain, b.clock.now()); err != nil {
		t.Error(err)
	}
}
