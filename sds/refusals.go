package sds

import (
	"slices"
	"sync"
	"time"
)

const (
	maxRefusals  = 128         // that are kept
	refusalQuiet = time.Minute // between two lines of the log about the same
)

// Refusal is somebody who got no secret, for people who ask why.
type Refusal struct {
	Caller string    `json:"caller"`
	Node   string    `json:"node,omitempty"`
	Secret string    `json:"secret,omitempty"` // name; empty if the whole stream was refused
	Reason Reason    `json:"reason"`
	Detail string    `json:"detail"`
	First  time.Time `json:"first"`
	Last   time.Time `json:"last"`
	Times  int       `json:"times"`

	logged time.Time
}

type refusalKey struct {
	caller string
	secret string
	reason Reason
}

// refusals keeps the latest, those that are alike as one: a proxy that is refused comes back for ever.
type refusals struct {
	mu   sync.Mutex
	list map[refusalKey]*Refusal
}

// add takes a refusal down, and reports whether the log should have it, too.
func (r *refusals) add(key refusalKey, node, detail string, now time.Time) (log bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.list[key]
	if !ok {
		if len(r.list) >= maxRefusals {
			r.forgetOldest()
		}
		known = &Refusal{Caller: key.caller, Secret: key.secret, Reason: key.reason, First: now}
		r.list[key] = known
	}
	log = known.Detail != detail || now.Sub(known.logged) >= refusalQuiet
	known.Node, known.Detail, known.Last = node, detail, now
	known.Times++
	if log {
		known.logged = now
	}
	return log
}

func (r *refusals) forgetOldest() {
	var oldest *Refusal
	var key refusalKey
	for k, each := range r.list {
		if oldest == nil || each.Last.Before(oldest.Last) {
			oldest, key = each, k
		}
	}
	delete(r.list, key)
}

// all lists them, latest first.
func (r *refusals) all() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Refusal, 0, len(r.list))
	for _, each := range r.list {
		out = append(out, *each)
	}
	slices.SortFunc(out, func(a, b Refusal) int { return b.Last.Compare(a.Last) })
	return out
}

// refused counts, keeps and logs a refusal.
func (s *Server) refused(c *Caller, node, name string, r *refusal) {
	r.noted = true
	s.counts.refused[r.reason].Add(1)
	if s.inventory.refusals.add(refusalKey{c.String(), name, r.reason}, node, r.detail, s.cfg.Now()) {
		s.cfg.Logger.Warn("a secret was refused", "caller", c, "node", node, "secret", name, "reason", r.reason, "detail", r.detail)
	}
}
