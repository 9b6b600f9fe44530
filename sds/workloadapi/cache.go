package workloadapi

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const maxTokens = 4096 // of the cache

// tokenCache keeps tokens until half of their life. The zero value is empty.
type tokenCache struct {
	mu     sync.Mutex
	tokens map[string]cached
}

type cached struct {
	token   Token
	renewAt time.Time
}

// token returns a token from the cache, or a new one.
func (s *Server) token(ctx context.Context, id spiffeid.ID, audiences []string) (Token, error) {
	key, now := tokenKey(id, audiences), s.cfg.Now()
	if t, ok := s.cache.get(key, now); ok {
		return t, nil
	}
	t, err := s.cfg.Minter.MintJWT(ctx, id, audiences)
	if err != nil {
		return Token{}, err
	}
	s.cache.put(key, cached{t, now.Add(t.Expires.Sub(now) / 2)}, now)
	return t, nil
}

// tokenKey tells ["ab","cd"] from ["a","bcd"]: every part comes after its length.
func tokenKey(id spiffeid.ID, audiences []string) string {
	sorted := slices.Clone(audiences)
	slices.Sort(sorted)
	var key []byte
	for _, part := range append([]string{id.String()}, slices.Compact(sorted)...) {
		key = binary.AppendUvarint(key, uint64(len(part)))
		key = append(key, part...)
	}
	return string(key)
}

func (c *tokenCache) get(key string, now time.Time) (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.tokens[key]
	return t.token, ok && now.Before(t.renewAt)
}

func (c *tokenCache) put(key string, t cached, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens == nil {
		c.tokens = map[string]cached{}
	}
	if len(c.tokens) >= maxTokens {
		for k, old := range c.tokens {
			if !now.Before(old.renewAt) {
				delete(c.tokens, k)
			}
		}
		if len(c.tokens) >= maxTokens {
			clear(c.tokens) // as good as any other choice, and nobody gains from filling it but work
		}
	}
	c.tokens[key] = t
}
