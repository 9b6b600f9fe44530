package sds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Vault holds the secrets that there are, checked and encoded once. It is safe for concurrent use; its zero value is empty
// and ready.
type Vault struct {
	// Now tells the time by which certificates and CRLs end; nil for time.Now. It is set before the vault is used.
	Now func() time.Time

	now     atomic.Pointer[contents] // nil while it is empty
	mu      sync.Mutex               // serialises changes; guards what follows
	changed chan struct{}            // closed at the next change; nil if nobody waits
}

// contents is what a vault holds at one moment. It is not changed once it is published.
type contents struct {
	generation uint64
	identities map[spiffeid.ID]heldIdentity
	bundles    map[string]heldBundle // by trust domain
	validator  *secret               // of all bundles; nil if there are none
}

type heldIdentity struct {
	*Identity
	secret *secret
}

type heldBundle struct {
	*Bundle
	roots    *secret
	document *secret
}

// SetIdentity puts an identity in the place of the one with the same ID. It fails, and changes nothing, if the parts do not
// fit: Envoy acknowledges a key that does not fit its certificate (identity §4.3), so nothing unchecked may reach it. An
// error that wraps [ErrUntrusted] says that the bundle has to be renewed first.
func (v *Vault) SetIdentity(i *Identity) error {
	err := i.check(v.time())
	if err == nil {
		err = v.change(func(c *contents) error {
			if b, ok := c.bundles[i.ID.TrustDomain()]; ok {
				if err := i.checkTrusted(b.Bundle, v.time()); err != nil {
					return err
				}
			}
			s, err := encodeIdentity(i)
			if err != nil {
				return err
			}
			c.identities = with(c.identities, i.ID, heldIdentity{i, s})
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("secret %s: %w", i.ID, err)
	}
	return nil
}

// RemoveIdentity takes an identity away. Proxies keep what they have until it ends: a secret cannot be withdrawn
// (identity §4.3).
func (v *Vault) RemoveIdentity(id spiffeid.ID) {
	_ = v.change(func(c *contents) error { // cannot fail
		c.identities = maps.Clone(c.identities)
		delete(c.identities, id)
		return nil
	})
}

// SetBundle puts a bundle in the place of the one of the same trust domain. It fails, and changes nothing, if the bundle
// would have proxies refuse good certificates: because a CRL has ended, is not its issuer's, or is missing for an identity
// that is here (identity §9).
func (v *Vault) SetBundle(b *Bundle) error {
	err := b.check()
	if err == nil {
		err = v.change(func(c *contents) error {
			var own []*Identity
			for id, i := range c.identities {
				if id.TrustDomain() == b.TrustDomain.TrustDomain() {
					own = append(own, i.Identity)
				}
			}
			if err := b.checkCRLs(own, v.time()); err != nil {
				return err
			}
			roots, err := encodeRoots(b)
			if err != nil {
				return err
			}
			document, err := encodeDocument(b)
			if err != nil {
				return err
			}
			c.bundles = with(c.bundles, b.TrustDomain.TrustDomain(), heldBundle{b, roots, document})
			return c.encodeValidator()
		})
	}
	if err != nil {
		return fmt.Errorf("bundle of %s: %w", b.TrustDomain, err)
	}
	return nil
}

// RemoveBundle takes away the bundle of a trust domain that is federated with no longer.
func (v *Vault) RemoveBundle(trustDomain string) error {
	return v.change(func(c *contents) error {
		c.bundles = maps.Clone(c.bundles)
		delete(c.bundles, trustDomain)
		return c.encodeValidator()
	})
}

// Identity returns an identity, nil if there is none.
func (v *Vault) Identity(id spiffeid.ID) *Identity { return v.load().identities[id].Identity }

// Bundle returns the bundle of a trust domain, nil if there is none.
func (v *Vault) Bundle(trustDomain string) *Bundle { return v.load().bundles[trustDomain].Bundle }

// Bundles lists all bundles by trust domain.
func (v *Vault) Bundles() []*Bundle {
	var list []*Bundle
	for _, b := range v.load().sortedBundles() {
		list = append(list, b.Bundle)
	}
	return list
}

// Changed returns a channel that is closed at the next change. Obtain it before reading.
func (v *Vault) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.changed
}

// change publishes what do makes of a copy of the contents, unless it fails.
func (v *Vault) change(do func(*contents) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := *v.load()
	next.generation++
	if err := do(&next); err != nil {
		return err
	}
	v.now.Store(&next)
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
	return nil
}

func (v *Vault) load() *contents {
	if c := v.now.Load(); c != nil {
		return c
	}
	return &contents{}
}

func (v *Vault) time() time.Time {
	if v.Now == nil {
		return time.Now()
	}
	return v.Now()
}

func (c *contents) sortedBundles() []heldBundle {
	return slices.SortedFunc(maps.Values(c.bundles), func(a, b heldBundle) int {
		return strings.Compare(a.TrustDomain.TrustDomain(), b.TrustDomain.TrustDomain())
	})
}

func (c *contents) encodeValidator() (err error) {
	c.validator = nil
	if len(c.bundles) > 0 {
		c.validator, err = encodeValidator(c.sortedBundles())
	}
	return err
}

// with is a copy of m with one more entry.
func with[K comparable, V any](m map[K]V, key K, value V) map[K]V {
	next := make(map[K]V, len(m)+1)
	maps.Copy(next, m)
	next[key] = value
	return next
}
