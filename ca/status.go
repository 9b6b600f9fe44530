package ca

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Status is what an authority holds, for people and for metrics.
type Status struct {
	TrustDomain string
	Replica     string
	Plugged     string // directory of the plugged-in authority, or empty
	Signer      *x509.Certificate
	Bundle      *Bundle
	Phase       Phase        // of a rotation; empty when plugged in
	Roots       []RootStatus // none when plugged in
	Revoked     int
	CRLs        []CRL
	Alarms      []Alarm
}

// RootStatus is one root.
type RootStatus struct {
	Certificate *x509.Certificate
	State       RootState
	Offline     bool // its key is kept elsewhere
	Published   time.Time
	Activated   time.Time
}

// Status gathers what the authority holds.
func (a *Authority) Status() Status {
	s := Status{
		TrustDomain: a.cfg.TrustDomain.TrustDomain(), Replica: a.cfg.Replica, Plugged: a.cfg.Plugged,
		Bundle: a.Bundle(), Revoked: a.deny.Len(), Alarms: a.alarms.list(a.cfg.Now()),
	}
	if now := a.current.Load(); now != nil {
		s.Signer = now.issuer
	}
	if set := a.crls.Load(); set != nil {
		s.CRLs = set.List
	}
	if shown := a.shown.Load(); shown != nil {
		s.Phase, s.Roots = shown.phase, shown.list
	}
	return s
}

// shownRoots is what Status shows of roots, kept apart so that it waits for nothing.
type shownRoots struct {
	phase Phase
	list  []RootStatus
}

// show publishes the state of the roots. Callers hold mu.
func (a *Authority) show() {
	if a.roots == nil {
		return
	}
	s := &shownRoots{phase: a.roots.phase()}
	for _, r := range a.roots.list {
		s.list = append(s.list, RootStatus{
			Certificate: r.cert, State: r.State, Offline: r.key == nil, Published: r.Published, Activated: r.Activated,
		})
	}
	a.shown.Store(s)
}

// watchLives raises the alarms that only time brings. Callers hold mu.
func (a *Authority) watchLives() {
	now := a.cfg.Now()
	at := func(code AlarmCode, up bool, format string, args ...any) {
		if up {
			a.alarms.raise(code, fmt.Sprintf(format, args...), now)
		} else {
			a.alarms.clear(code)
		}
	}
	s := a.current.Load()
	if s == nil {
		at(AlarmSignerEnds, true, "there is no signing certificate")
		return
	}
	c := s.issuer
	at(AlarmClock, now.Before(c.NotBefore), "the signing certificate is valid from %s, the clock says %s: set the clock",
		c.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	// A renewal is due at a third. What cannot renew by itself, because the root's key or the whole authority is
	// elsewhere, is to be heard of at half: people need longer than programs.
	part := time.Duration(4)
	if a.roots == nil || a.roots.active().key == nil {
		part = 2
	}
	at(AlarmSignerEnds, c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/part, "the signing certificate ends at %s", c.NotAfter.Format(time.RFC3339))
	at(AlarmBundle, len(s.bundle.Roots) > maxRoots*3/4, "%d roots, %d is the limit", len(s.bundle.Roots), maxRoots)
	if a.roots != nil {
		root := a.roots.active().cert
		at(AlarmRootEnds, root.NotAfter.Sub(now) < max(2*a.cfg.IntermediateLife, root.NotAfter.Sub(root.NotBefore)/10),
			"root %s ends at %s: rotate to a new one", describe(root), root.NotAfter.Format(time.RFC3339))
	}
}
