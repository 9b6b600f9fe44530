package jwt

import (
	"context"
	"slices"
	"strings"
	"time"
)

// evaluation is the work on one request.
type evaluation struct {
	validator *Validator
	in        *Input
	now       uint64
	out       *Result
	tries     int       // signatures that may still be computed
	waitUntil time.Time // how long keys are waited for, zero before the first wait
}

// refetch asks for newer keys. It waits for half of the time that is left in ctx, for all rules and tokens of the request
// together: who asked must get the answer before giving up. An Envoy with failure_mode_allow takes no answer for a yes.
func (e *evaluation) refetch(ctx context.Context, source Source) *KeySet {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return source.Refetch(ctx)
	}
	if e.waitUntil.IsZero() {
		e.waitUntil = deadline.Add(-time.Until(deadline) / 2)
	}
	ctx, cancel := context.WithDeadline(ctx, e.waitUntil)
	defer cancel()
	return source.Refetch(ctx)
}

// evaluate has one rule verify every token at its locations; all must be good. They are taken from the last to the first,
// and each takes the identity over, so that the first one's counts (request-authentication §2.1, §2.3). What a rule that
// fails did to the result is undone.
func (e *evaluation) evaluate(ctx context.Context, r *rule) verdict {
	out := e.out
	headers, removed, params, identity := len(out.SetHeaders), len(out.RemoveHeaders), len(out.RemoveParams), out.Token
	found := false
	for i := len(out.candidates.all) - 1; i >= 0; i-- {
		c := &out.candidates.all[i]
		if _, ours := slices.BinarySearch(r.locations, c.location); !ours {
			continue
		}
		found = true
		proof, kid, reason := e.verify(ctx, r, c)
		if reason != Valid {
			out.SetHeaders, out.RemoveHeaders = out.SetHeaders[:headers], out.RemoveHeaders[:removed]
			out.RemoveParams, out.Token = out.RemoveParams[:params], identity
			return verdict{r, reason, kid}
		}
		e.publish(r, c, proof)
	}
	if !found {
		return verdict{rule: r, reason: Missing}
	}
	return verdict{rule: r}
}

// publish makes a verified token the request's identity and has what the rule says done with it. Headers of the same rule
// that are set already get its values appended, as Envoy does. A repeated parameter or cookie is only removed.
func (e *evaluation) publish(r *rule, c *candidate, proof *Token) {
	out := e.out
	if !c.repeated {
		out.Token, out.Rule, out.KeyID = proof, r.ID, proof.shownID
		for _, h := range proof.outputs {
			out.appendHeader(h)
		}
	}
	if r.ForwardOriginalToken {
		return
	}
	switch l := &e.validator.finder.locations[c.location]; l.place {
	case inHeader:
		if !slices.Contains(out.RemoveHeaders, l.name) {
			out.RemoveHeaders = append(out.RemoveHeaders, l.name)
		}
	case inParam:
		// Envoy compares with the name as sent, percent signs and all.
		if !slices.Contains(out.RemoveParams, c.name) {
			out.RemoveParams = append(out.RemoveParams, c.name)
		}
	case inCookie: // Envoy never removes one
	}
}

func (r *Result) appendHeader(h Header) {
	for i := range r.SetHeaders {
		if set := &r.SetHeaders[i]; set.Name == h.Name {
			set.Value += "," + h.Value
			return
		}
	}
	r.SetHeaders = append(r.SetHeaders, h)
}

// verify has one rule verify one token: from the cache, or by all the checks.
func (e *evaluation) verify(ctx context.Context, r *rule, c *candidate) (proof *Token, kid string, reason Reason) {
	cache := e.validator.cache
	if len(c.token) > maxCachedBytes {
		cache = nil
	}
	if cache == nil || c.parsed != nil || c.reason != Valid {
		return e.verifyParsed(ctx, r, c, cache)
	}
	if c.known == nil || c.known.check(r, e.now) == Valid {
		proof = e.ask(cache, r, c)
	}
	if c.known != nil {
		if reason := c.known.check(r, e.now); reason != Valid {
			return nil, "", reason
		}
	}
	if proof != nil {
		e.out.Cached++
		return proof, proof.keyID, Valid
	}
	return e.verifyParsed(ctx, r, c, cache)
}

// ask looks a token up for a rule; nil if it has to be verified.
func (e *evaluation) ask(cache *Cache, r *rule, c *candidate) *Token {
	if !c.hashed {
		c.hash, c.hashed = cache.hash(c.token), true
	}
	entry, known := cache.get(c.hash, c.token, r, e.now)
	if entry != nil {
		c.known = entry.proof.claims
		return entry.proof
	}
	if known != nil {
		c.known = known
	}
	return nil
}

func (e *evaluation) verifyParsed(ctx context.Context, r *rule, c *candidate, cache *Cache) (*Token, string, Reason) {
	if c.parsed == nil && c.reason == Valid {
		c.parsed, c.reason = e.out.workspace.parseToken(c.token)
		e.out.workspace.reset()
	}
	if c.reason != Valid {
		return nil, "", c.reason
	}
	t := c.parsed
	e.out.EmbeddedKey = e.out.EmbeddedKey || t.header.embedded
	if reason := t.claims.check(r, e.now); reason != Valid {
		return nil, t.header.kid, reason
	}
	before := e.tries
	keys, key, reason := e.verifySignature(ctx, r, t)
	e.out.Verified += before - e.tries
	if reason != Valid {
		return nil, t.header.kid, reason
	}
	kept := strings.Clone(t.raw) // the request's memory will be used again
	proof := r.newToken(t, key, kept[strings.IndexByte(kept, '.')+1:len(t.signed)])
	if cache != nil {
		cache.put(&cacheEntry{hash: c.hash, token: kept, rule: r, keys: keys, proof: proof, at: e.now})
	}
	return proof, key.id, Valid
}
