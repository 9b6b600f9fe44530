package agent

import (
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Status is what an agent holds.
type Status struct {
	TrustDomain string           `json:"trust_domain"`
	Own         IdentityStatus   `json:"own"`
	Identities  []IdentityStatus `json:"identities"` // for workloads, by ID
	Authority   string           `json:"authority,omitempty"`
	Authorities []string         `json:"authorities"`
	Paused      time.Time        `json:"paused,omitzero"` // nobody is asked before
	Bundle      *BundleStatus    `json:"bundle,omitempty"`
	State       string           `json:"state,omitempty"`    // directory; empty if nothing outlives the process
	Problems    []string         `json:"problems,omitempty"` // with the state
}

// IdentityStatus is what there is of one identity.
type IdentityStatus struct {
	ID        spiffeid.ID `json:"id,omitzero"`
	Serial    string      `json:"serial,omitempty"`
	NotAfter  time.Time   `json:"not_after,omitzero"` // zero while there is no certificate
	Renewal   time.Time   `json:"renewal"`            // when the authority is asked next
	Why       string      `json:"why,omitempty"`      // it is asked then
	Alarm     string      `json:"alarm"`              // ok, late, critical or lost
	Failures  int         `json:"failures,omitempty"` // in a row
	Error     string      `json:"error,omitempty"`    // of the last attempt
	ErrorTime time.Time   `json:"error_time,omitzero"`
	Shared    bool        `json:"shared,omitempty"` // it is the agent's own certificate
}

// BundleStatus is what is trusted.
type BundleStatus struct {
	Version   int64     `json:"version"` // 0 if it came with a certificate and no authority was followed yet
	Roots     int       `json:"roots"`
	Tainted   int       `json:"tainted"`
	CRLs      int       `json:"crls"`
	JWTKeys   bool      `json:"jwt_keys"`
	Followed  bool      `json:"followed"`         // a stream delivers it right now
	From      string    `json:"from,omitempty"`   // the authority that is followed
	Acked     int64     `json:"acked,omitempty"`  // the version that the authority was told is in force here
	Behind    string    `json:"behind,omitempty"` // who does not have it yet
	Error     string    `json:"error,omitempty"`
	ErrorTime time.Time `json:"error_time,omitzero"`
}

// Status is the whole picture.
func (a *Agent) Status() Status {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		TrustDomain: a.cfg.TrustDomain.TrustDomain(), Authority: a.authority, Authorities: a.cfg.Authorities, State: a.cfg.StateDir,
		Identities: []IdentityStatus{}, Bundle: a.bundleStatus(),
	}
	if a.paused.After(now) {
		s.Paused = a.paused
	}
	s.Own = a.statusOf(a.own, now)
	for _, id := range a.wanted {
		if id == a.own.id {
			shared := s.Own
			shared.Shared = true
			s.Identities = append(s.Identities, shared)
			continue
		}
		s.Identities = append(s.Identities, a.statusOf(a.others[id], now))
	}
	for _, err := range []error{a.stateErr, a.trust.trouble()} {
		if err != nil {
			s.Problems = append(s.Problems, err.Error())
		}
	}
	return s
}

func (a *Agent) statusOf(k *keeper, now time.Time) IdentityStatus {
	s := IdentityStatus{ID: k.id, Renewal: k.due, Why: k.why, Alarm: k.alarm(now, a.cfg.AlarmPart).String(), Failures: k.failures}
	for _, earliest := range []time.Time{now, a.paused} {
		if s.Renewal.Before(earliest) {
			s.Renewal = earliest
		}
	}
	if k.now != nil {
		s.Serial, s.NotAfter = k.now.identity.Chain[0].SerialNumber.Text(16), k.now.notAfter()
	}
	if k.err != nil {
		s.Error, s.ErrorTime = k.err.Error(), k.errTime
	}
	return s
}

func (a *Agent) bundleStatus() *BundleStatus {
	b := a.trust.bundle()
	if b == nil {
		return nil
	}
	f := &a.following
	s := &BundleStatus{
		Version: b.Version, Roots: len(b.Roots), Tainted: len(b.Tainted), CRLs: len(b.CRLs), JWTKeys: len(b.JWTKeys) > 0,
		Followed: f.connected, Acked: f.acked, Behind: f.waiting,
	}
	if f.connected {
		s.From = f.address
	}
	if f.err != nil {
		s.Error, s.ErrorTime = f.err.Error(), f.errTime
	}
	return s
}

// NotReady says what keeps the agent from serving all it should, nil if nothing does.
func (a *Agent) NotReady() []string {
	s, now := a.Status(), time.Now()
	var reasons []string
	for i, one := range append([]IdentityStatus{s.Own}, s.Identities...) {
		if one.Shared || one.NotAfter.After(now) {
			continue
		}
		reason := "the agent itself"
		if !one.ID.IsZero() {
			reason = one.ID.String()
		}
		if one.NotAfter.IsZero() {
			reason += ": no certificate yet"
		} else {
			reason += ": its certificate ended at " + stamp(one.NotAfter)
		}
		if one.Error != "" {
			reason += ": " + one.Error
		}
		if i > maxReasons {
			reasons = append(reasons, fmt.Sprintf("and %d more identities", len(s.Identities)-i))
			break
		}
		reasons = append(reasons, reason)
	}
	return reasons
}

// maxReasons bounds the identities that NotReady names.
const maxReasons = 20

// Alarms says in words what is about to be lost, and what is wrong with the state.
func (a *Agent) Alarms() []string {
	s := a.Status()
	list := s.Problems
	for _, one := range append([]IdentityStatus{s.Own}, s.Identities...) {
		if one.Shared || one.Alarm == calm.String() || one.NotAfter.IsZero() {
			continue
		}
		list = append(list, fmt.Sprintf("%s: %s: its certificate ends at %s and was not renewed: %s", one.ID, one.Alarm, stamp(one.NotAfter), one.Error))
	}
	return list
}

// Stuck reports whether the agent has not been at work for longer than any call may take: a reason to end it and start anew.
func (a *Agent) Stuck() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	longest := 2*lookEvery + a.cfg.CallTime*time.Duration(4*len(a.cfg.Authorities)+1)
	return time.Since(a.alive) > longest
}

// Why says why there is no certificate of an identity, or no bundle of the trust domain, for whoever waits for it; empty if
// the agent knows of no reason.
func (a *Agent) Why(id spiffeid.ID) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	own, k := a.own, a.own
	if id != a.own.id && id.Path() != "" {
		k = a.others[id]
	}
	switch {
	case k == nil:
		return "the agent is not configured to have it"
	case k.err != nil:
		return k.err.Error()
	case own.now == nil && own.err != nil:
		return "the agent has no certificate of its own to ask with: " + own.err.Error()
	default:
		return ""
	}
}
