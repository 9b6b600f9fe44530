package jwt

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// Cache remembers verified tokens, so that the signature of a token is computed once and not for each request. Refused
// tokens are never stored. It is safe for concurrent use, takes no lock, and may serve many validators, such as those of
// successive snapshots.
//
// A token is found by all of its bytes, the rule that verified it, and the keys it was verified with: when a rule or its
// keys change, none of what they verified is found again. Times and audience are checked on each use, so a stored token
// is worth no more than its signature. Entries are dropped after five minutes. Tokens are kept in memory as they are: a
// hash of them costs more than all the rest (request-authentication §9).
type Cache struct {
	seed     maphash.Seed
	sets     []cacheSet
	maxBytes int64
	bytes    atomic.Int64
	hand     atomic.Uint64 // the set that is looked through next for entries to drop
	count    atomic.Int64
}

const (
	cacheWays     = 8
	cacheSeconds  = 300
	entryOverhead = 1 << 10 // bytes an entry is taken to need besides twice its token
)

// cacheSet holds the entries whose hashes select it.
type cacheSet [cacheWays]atomic.Pointer[cacheEntry]

// cacheEntry is immutable but for used.
type cacheEntry struct {
	hash  uint64
	token string
	rule  *rule
	keys  *KeySet
	proof *Token
	at    uint64 // when it was verified, in seconds since 1970
	cost  int64
	used  atomic.Bool // since the last time a place was needed
}

// NewCache makes a cache of at least entries tokens, rounded up to a power of two, that take about maxBytes at most. What
// is not above zero is set to 16,384 entries and 64 MiB.
func NewCache(entries int, maxBytes int64) *Cache {
	if entries <= 0 {
		entries = 16 << 10
	}
	if maxBytes <= 0 {
		maxBytes = 64 << 20
	}
	sets := 1 << bits.Len(uint(max(entries, cacheWays)/cacheWays-1))
	return &Cache{seed: maphash.MakeSeed(), sets: make([]cacheSet, sets), maxBytes: maxBytes}
}

// Len is the number of tokens stored, for a gauge.
func (c *Cache) Len() int { return int(c.count.Load()) }

// Bytes is about how much memory they take.
func (c *Cache) Bytes() int64 { return c.bytes.Load() }

// hash only spreads tokens over the sets; all bytes are compared then. The end of a token is the end of its signature,
// which nobody but the issuer can choose.
func (c *Cache) hash(token string) uint64 {
	const end = 64
	return maphash.String(c.seed, token[max(len(token)-end, 0):])
}

// get returns the entry of the token for the rule with the keys in force. If there is none but another rule verified the
// token, known is its claims: good enough to refuse it by, not to accept it.
func (c *Cache) get(hash uint64, token string, r *rule, now uint64) (entry *cacheEntry, known *claims) {
	set := &c.sets[hash%uint64(len(c.sets))]
	for i := range set {
		e := set[i].Load()
		if e == nil || e.hash != hash || e.token != token {
			continue
		}
		if e.rule != r && e.rule.identity != r.identity {
			known = e.proof.claims
			continue
		}
		if e.stale(now) || r.source == nil || !e.keys.Equal(r.source.Keys()) {
			c.drop(&set[i], e)
			continue
		}
		if !e.used.Load() {
			e.used.Store(true)
		}
		return e, nil
	}
	return nil, known
}

// stale also says so of an entry from the future: the clock was set back.
func (e *cacheEntry) stale(now uint64) bool { return now < e.at || now-e.at > cacheSeconds }

// put stores an entry in a free place of its set, or that of one not used of late.
func (c *Cache) put(e *cacheEntry) {
	e.cost = 2*int64(len(e.token)) + entryOverhead
	set := &c.sets[e.hash%uint64(len(c.sets))]
	old := set.place(e).Swap(e)
	c.bytes.Add(e.cost)
	c.count.Add(1)
	c.forget(old)
	c.reclaim(e.at)
}

func (s *cacheSet) place(e *cacheEntry) *atomic.Pointer[cacheEntry] {
	for i := range s {
		if old := s[i].Load(); old == nil || old.stale(e.at) {
			return &s[i]
		}
	}
	first := e.hash >> 32 // anywhere, so that not always the same place turns over
	for i := range uint64(cacheWays) {
		place := &s[(first+i)%cacheWays]
		if old := place.Load(); old == nil || !old.used.Swap(false) {
			return place
		}
	}
	return &s[first%cacheWays]
}

// reclaim drops the stale entries of one set, so that traffic sweeps them all in time, and any entries while there are
// too many bytes.
func (c *Cache) reclaim(now uint64) {
	for range len(c.sets) {
		set := &c.sets[c.hand.Add(1)%uint64(len(c.sets))]
		full := c.bytes.Load() > c.maxBytes
		for i := range set {
			if e := set[i].Load(); e != nil && (e.stale(now) || full && !e.used.Swap(false)) {
				c.drop(&set[i], e)
			}
		}
		if c.bytes.Load() <= c.maxBytes {
			return
		}
	}
}

func (c *Cache) drop(place *atomic.Pointer[cacheEntry], e *cacheEntry) {
	if place.CompareAndSwap(e, nil) {
		c.forget(e)
	}
}

func (c *Cache) forget(e *cacheEntry) {
	if e != nil {
		c.bytes.Add(-e.cost)
		c.count.Add(-1)
	}
}
