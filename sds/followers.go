package sds

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// maxGone is how many followers are remembered after they left.
const maxGone = 16384

// Consumer is somebody who follows the bundle of the server's trust domain, by any secret that it is in.
type Consumer struct {
	Name      string      `json:"name"`             // for people: the caller and its node
	ID        spiffeid.ID `json:"id,omitzero"`      // of its certificate, or the one it may have; zero if there is none
	Bundle    int64       `json:"bundle"`           // version that it acknowledged last; 0 for none
	Connected bool        `json:"connected"`        // else it left
	Until     time.Time   `json:"until,omitzero"`   // when it is forgotten, if it left
	Secret    string      `json:"secret,omitempty"` // by whose name it follows
}

// followerKey tells one follower from another, and knows it again when it comes back: by its certificate and its node, or
// by its user and its node.
type followerKey struct{ name, secret string }

type follower struct {
	ids    []spiffeid.ID
	bundle int64
	until  time.Time
}

type followers struct {
	mu   sync.Mutex
	gone map[followerKey]follower
}

// Consumers lists who follows the bundle, and who did until lately: whoever is away still trusts what it had. It is listed
// until it is back, until its certificate ends, or, if it identified itself by none, for the time of Config.Remember.
//
// A caller with several identities is listed with each.
func (i *Inventory) Consumers() []Consumer {
	var out []Consumer
	add := func(key followerKey, f follower, connected bool) {
		for _, id := range f.ids {
			out = append(out, Consumer{Name: key.name, ID: id, Bundle: f.bundle, Connected: connected, Until: f.until, Secret: key.secret})
		}
	}
	here := map[followerKey]bool{}
	for _, st := range i.server.all() {
		st.mu.Lock()
		for n := range st.subs {
			if key, f, ok := st.follower(&st.subs[n]); ok {
				here[key] = true
				add(key, f, true)
			}
		}
		st.mu.Unlock()
	}
	now := i.server.cfg.Now()
	i.followers.mu.Lock()
	for key, f := range i.followers.gone {
		switch {
		case !now.Before(f.until):
			delete(i.followers.gone, key)
		case !here[key]:
			add(key, f, false)
		}
	}
	i.followers.mu.Unlock()
	slices.SortStableFunc(out, func(a, b Consumer) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID.String(), b.ID.String()), strings.Compare(a.Secret, b.Secret))
	})
	return out
}

// follower describes a subscription to the bundle of the server's trust domain. Callers hold the stream's mu.
func (st *stream) follower(sub *subscription) (followerKey, follower, bool) {
	names := &st.server.cfg.Names
	td := st.server.cfg.TrustDomain
	if sub.refused != "" || sub.name != names.Roots && sub.name != names.Bundle && sub.name != names.All && sub.name != td.String() {
		return followerKey{}, follower{}, false
	}
	f := follower{ids: []spiffeid.ID{st.caller.ID}}
	if st.caller.Peer != nil && len(st.entitlement.Identities) > 0 {
		f.ids = st.entitlement.Identities
	}
	if sub.acked != nil {
		f.bundle = sub.acked.bundles[td.TrustDomain()]
	}
	return followerKey{st.caller.follows(st.node), sub.name}, f, true
}

// follows names a follower so that it has the same name when it comes back, with another process perhaps.
func (c *Caller) follows(node string) string {
	switch {
	case node == "":
		return c.String()
	case c.Peer != nil:
		return "uid " + strconv.FormatUint(uint64(c.Peer.UID), 10) + " node " + node
	}
	return c.String() + " node " + node
}

// remember keeps the followers of a stream that ends. Callers hold the stream's mu.
func (i *Inventory) remember(st *stream) {
	for n := range st.subs {
		key, f, ok := st.follower(&st.subs[n])
		if !ok {
			continue
		}
		f.until = st.caller.NotAfter
		if f.until.IsZero() {
			f.until = i.server.cfg.Now().Add(i.server.cfg.Remember)
		}
		i.followers.mu.Lock()
		if len(i.followers.gone) >= maxGone {
			i.followers.forgetFirst()
		}
		i.followers.gone[key] = f
		i.followers.mu.Unlock()
	}
}

// forgetFirst makes room: it drops the one that would be dropped next.
func (f *followers) forgetFirst() {
	var first followerKey
	var at time.Time
	for key, each := range f.gone {
		if at.IsZero() || each.until.Before(at) {
			first, at = key, each.until
		}
	}
	delete(f.gone, first)
}
