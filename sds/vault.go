package sds

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Vault holds the secrets that there are. It is safe for concurrent use; its zero value is empty and ready.
type Vault struct {
	mu         sync.RWMutex // guards what follows
	identities map[spiffeid.ID]*Identity
	bundles    map[string]*Bundle // by trust domain
	changed    chan struct{}
}

// SetIdentity puts an identity in the place of the one with the same ID. It fails, and changes nothing, if the parts do not
// fit: Envoy acknowledges a key that does not fit its certificate (identity §4.3), so nothing unchecked may reach it.
func (v *Vault) SetIdentity(i *Identity) error {
	if err := i.check(); err != nil {
		return fmt.Errorf("secret %s: %w", i.ID, err)
	}
	v.change(func() {
		if v.identities == nil {
			v.identities = map[spiffeid.ID]*Identity{}
		}
		v.identities[i.ID] = i
	})
	return nil
}

// RemoveIdentity takes an identity away.
func (v *Vault) RemoveIdentity(id spiffeid.ID) { v.change(func() { delete(v.identities, id) }) }

// SetBundle puts a bundle in the place of the one of the same trust domain.
func (v *Vault) SetBundle(b *Bundle) error {
	if err := b.check(); err != nil {
		return fmt.Errorf("bundle of %s: %w", b.TrustDomain, err)
	}
	v.change(func() {
		if v.bundles == nil {
			v.bundles = map[string]*Bundle{}
		}
		v.bundles[b.TrustDomain.TrustDomain()] = b
	})
	return nil
}

// Identity returns an identity, nil if there is none.
func (v *Vault) Identity(id spiffeid.ID) *Identity {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.identities[id]
}

// Bundle returns the bundle of a trust domain, nil if there is none.
func (v *Vault) Bundle(trustDomain string) *Bundle {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.bundles[trustDomain]
}

// Bundles lists all bundles by trust domain.
func (v *Vault) Bundles() []*Bundle {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.SortedFunc(maps.Values(v.bundles), func(a, b *Bundle) int {
		return strings.Compare(a.TrustDomain.TrustDomain(), b.TrustDomain.TrustDomain())
	})
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

func (v *Vault) change(do func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	do()
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}
