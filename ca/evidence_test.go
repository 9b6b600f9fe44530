package ca_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// TestRotationRevokeEvidence: a consumer that never got the new root would trust nobody once the old one is gone. What
// counts is the version that the new root came with: taint and rollback make versions that nobody need ever see, because
// the roots are the same.
func TestRotationRevokeEvidence(t *testing.T) {
	t.Parallel()
	seen := &followers{}
	b := newAuthority(t, func(c *ca.Config) { c.Evidence = seen })
	id := mustID(t, order)
	lagging, current := ca.Consumer{Name: "10.0.0.1", ID: id, Bundle: 1}, ca.Consumer{Name: "10.0.0.2", ID: id, Bundle: 2}
	b.step(t, ca.StepPrepare)
	b.step(t, ca.StepDistribute)
	seen.set(current)
	for _, s := range []ca.Step{ca.StepActivate, ca.StepTaint, ca.StepRollback, ca.StepActivate, ca.StepTaint} {
		b.step(t, s)
	}
	if b.Bundle().Version <= current.Bundle {
		t.Fatalf("bundle %d", b.Bundle().Version)
	}
	seen.set(current, lagging) // it came back from somewhere with an old bundle
	d := b.refused(t, ca.StepRevoke, ca.ErrDependents)
	if len(d.Dependents) != 1 || d.Dependents[0].Kind != "consumer" || d.Dependents[0].Name != lagging.Name {
		t.Errorf("dependents %v", d.Dependents)
	}
	lagging.Bundle = 2
	seen.set(current, lagging)
	b.step(t, ca.StepRevoke)
}

// unknown is an inventory that cannot be read.
type unknown struct{}

func (unknown) Consumers(context.Context) ([]ca.Consumer, error) {
	return nil, errors.New("the inventory is gone")
}

// TestRotationEvidenceFails: what is not known holds up a rotation, as long as nobody decides otherwise.
func TestRotationEvidenceFails(t *testing.T) {
	t.Parallel()
	b := newAuthority(t, func(c *ca.Config) { c.Evidence = unknown{} })
	override := ca.StepOptions{By: "test", Override: true, Reason: "the inventory is down, the key is on the internet"}
	b.step(t, ca.StepPrepare)
	b.step(t, ca.StepDistribute)
	for _, s := range []ca.Step{ca.StepActivate, ca.StepRevoke} {
		if s == ca.StepRevoke {
			b.step(t, ca.StepTaint)
		}
		d := b.refused(t, s, ca.ErrDependents)
		if len(d.Dependents) != 1 || d.Dependents[0].Kind != "evidence" || !strings.Contains(d.Error(), "the inventory is gone") {
			t.Errorf("%s: dependents %v", s, d)
		}
		if err := b.Rotate(t.Context(), s, override); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if got := strings.Count(audited(t, b), "override"); got != 2 {
		t.Errorf("%d overrides in the audit: %s", got, audited(t, b))
	}
}

// showing has the authority certify its own server, as ca/caserver does.
func (b *bench) showing(tb testing.TB) {
	tb.Helper()
	ap, err := ca.Approve(mustID(tb, "spiffe://cluster.local/writ/authority"), newCSR(tb, newKey(tb)), ca.ApprovalRequest{
		Profile: b.profile, Caller: ca.CallerServer, Seconds: 24 * 3600,
	})
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := b.Issue(tb.Context(), ap); err != nil {
		tb.Fatal(err)
	}
}

// TestRotationOfServers: the certificates of the authorities' own servers hold up a rotation until each server shows one
// under the new root; those it showed before, which live on, do not.
func TestRotationOfServers(t *testing.T) {
	t.Parallel()
	one, two := pair(t)
	both := []*bench{one, two}
	for _, b := range both {
		b.showing(t)
	}
	one.clock.advance(time.Second)
	for _, s := range []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate} {
		one.step(t, s)
	}
	blocked := func(s ca.Step, want ...string) {
		t.Helper()
		d := one.refused(t, s, ca.ErrDependents)
		var got []string
		for _, x := range d.Dependents {
			got = append(got, x.Kind+" "+x.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: held up by %v, want %v", s, got, want)
		}
	}
	blocked(ca.StepTaint, "replica main", "replica second")
	one.showing(t)
	blocked(ca.StepTaint, "replica second")
	two.showing(t) // before it has seen the step: under the old root still
	blocked(ca.StepTaint, "replica second")
	if err := two.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	two.showing(t)
	one.step(t, ca.StepTaint)
	one.step(t, ca.StepRevoke)

	// The next rotation is gone back on: nobody may show the root that is dropped.
	for _, s := range []ca.Step{ca.StepPrepare, ca.StepDistribute, ca.StepActivate} {
		one.step(t, s)
	}
	one.showing(t)
	one.step(t, ca.StepRollback)
	blocked(ca.StepRollback, "replica main")
	one.showing(t)
	one.step(t, ca.StepRollback)
	if one.Status().Phase != ca.PhaseStable {
		t.Errorf("phase %s", one.Status().Phase)
	}
}
