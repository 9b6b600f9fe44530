package policy

import (
	"hash/maphash"
	"sync/atomic"
)

// cache remembers which rules govern a workload under the bytes that named it. Entries are only ever added, so readers
// need no lock; it dies with its snapshot. The names come from the operator's proxies, not from callers; should they
// still be endless, those beyond cacheMax are resolved anew each time.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cacheEntry]
	size  atomic.Int64
}

const (
	cacheSlots = 1 << 12
	cacheMax   = 1 << 16
)

type cacheEntry struct {
	key   string
	asked Workload // as it was named, before labels were looked up: what the next snapshot resolves again
	bound *Bound
	next  *cacheEntry
	idle  int         // so many loads before this snapshot's it was last asked for
	used  atomic.Bool // asked for in this snapshot
}

// maxIdle is for how many loads a workload is resolved again without being asked for: documents often change several
// times in a row, and few requests come between.
const maxIdle = 8

func newCache() cache {
	return cache{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[cacheEntry], cacheSlots)}
}

func (c *cache) slot(hash uint64) *atomic.Pointer[cacheEntry] { return &c.slots[hash%cacheSlots] }

func (c *cache) get(key []byte) *Bound {
	for e := c.slot(maphash.Bytes(c.seed, key)).Load(); e != nil; e = e.next {
		if e.key == string(key) {
			if !e.used.Load() {
				e.used.Store(true)
			}
			return e.bound
		}
	}
	return nil
}

func (c *cache) put(key string, asked Workload, b *Bound, idle int, used bool) {
	slot := c.slot(maphash.String(c.seed, key))
	e := &cacheEntry{key: key, asked: asked, bound: b, idle: idle}
	e.used.Store(used)
	for {
		e.next = slot.Load()
		for old := e.next; old != nil; old = old.next {
			if old.key == key {
				return
			}
		}
		if c.size.Load() >= cacheMax {
			return
		}
		if slot.CompareAndSwap(e.next, e) {
			c.size.Add(1)
			return
		}
	}
}

// each calls f for every entry.
func (c *cache) each(f func(*cacheEntry)) {
	for i := range c.slots {
		for e := c.slots[i].Load(); e != nil; e = e.next {
			f(e)
		}
	}
}
