package ca

import (
	"context"
	"fmt"
	"sync/atomic"
)

// DenyList is what is revoked, for questions on a hot path: they take no lock and allocate nothing. The zero value
// denies nobody.
type DenyList struct {
	now atomic.Pointer[denied]
}

type denied struct {
	ids     map[string]struct{}
	serials map[Serial]struct{}
	keys    map[[32]byte]struct{}
	list    []Revocation
}

// ID reports whether an identity is revoked, by its text.
func (d *DenyList) ID(id string) bool {
	n := d.now.Load()
	if n == nil {
		return false
	}
	_, found := n.ids[id]
	return found
}

// Serial reports whether a certificate is revoked, by its serial number alone.
func (d *DenyList) Serial(s Serial) bool {
	n := d.now.Load()
	if n == nil {
		return false
	}
	_, found := n.serials[s]
	return found
}

// Key reports whether a key is revoked, by its [KeyHash].
func (d *DenyList) Key(hash [32]byte) bool {
	n := d.now.Load()
	if n == nil {
		return false
	}
	_, found := n.keys[hash]
	return found
}

// Len is how many revocations are in force.
func (d *DenyList) Len() int { return len(d.All()) }

// All lists the revocations in force, oldest first. The caller must not change it.
func (d *DenyList) All() []Revocation {
	if n := d.now.Load(); n != nil {
		return n.list
	}
	return nil
}

func (d *DenyList) set(list []Revocation) {
	n := &denied{ids: map[string]struct{}{}, serials: map[Serial]struct{}{}, keys: map[[32]byte]struct{}{}, list: list}
	for _, r := range list {
		switch {
		case !r.ID.IsZero():
			n.ids[r.ID.String()] = struct{}{}
		case !r.Serial.IsZero():
			n.serials[r.Serial] = struct{}{}
		default:
			n.keys[r.KeyHash] = struct{}{}
		}
	}
	d.now.Store(n)
}

// refreshDenyList reads what is revoked, here or by another replica. A failure keeps the last list.
func (a *Authority) refreshDenyList(ctx context.Context) error {
	a.denyMu.Lock()
	defer a.denyMu.Unlock()
	list, err := a.cfg.Store.Revoked(ctx, a.cfg.Now())
	if err != nil {
		return fmt.Errorf("read the deny list: %w", err)
	}
	a.deny.set(list)
	return nil
}
