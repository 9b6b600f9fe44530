package telemetry

import (
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
)

// States of a key set that is fetched.
const (
	keysFresh = "fresh"
	keysStale = "stale" // not renewed in time, and still in force
	keysEmpty = "empty" // nothing fetched yet, or too old: tokens that need it are refused
)

// KeyState is how a key set fares, in one of three words: fresh, stale or empty.
func KeyState(s *jwt.SourceStatus) string {
	switch {
	case s.Keys == 0:
		return keysEmpty
	case s.Stale:
		return keysStale
	}
	return keysFresh
}

// fetchResults and refetchOutcomes are all there are, so that every time series is there from the start.
func fetchResults() []jwt.FetchResult {
	return []jwt.FetchResult{
		jwt.FetchOK, jwt.FetchTimeout, jwt.FetchDNS, jwt.FetchConnect, jwt.FetchTLS, jwt.FetchProtocol, jwt.FetchStatus, jwt.FetchTooLarge,
		jwt.FetchBadKeys, jwt.FetchBadDiscovery, jwt.FetchRefusedURL, jwt.FetchRefusedAddress, jwt.FetchRefusedRedirect,
	}
}

func refetchOutcomes() []jwt.RefetchOutcome {
	return []jwt.RefetchOutcome{
		jwt.RefetchStarted, jwt.RefetchJoined, jwt.RefetchLimited, jwt.RefetchCrowded, jwt.RefetchImpossible,
	}
}

// Fetched implements [jwt.SourceMetrics].
func (m *Metrics) Fetched(result jwt.FetchResult, took time.Duration) {
	m.tokens.fetches.WithLabelValues(string(result)).Inc()
	m.tokens.fetchDuration.Observe(took.Seconds())
}

// Refetched implements [jwt.SourceMetrics].
func (m *Metrics) Refetched(outcome jwt.RefetchOutcome) {
	m.tokens.refetches.WithLabelValues(string(outcome)).Inc()
}

// observe counts what became of a check's tokens. It neither allocates nor locks.
func (t *tokenMetrics) observe(c *Check) {
	if !t.verifying || !c.tokensRead() {
		return
	}
	result := &c.Decision.Token
	if result.Token == nil && result.Reason == jwt.Valid {
		t.none.Inc()
	} else if counter, ok := t.results[result.Reason]; ok {
		counter.Inc()
	}
	if result.Verified > 0 {
		t.verified.Add(float64(result.Verified))
	}
	if result.Cached > 0 {
		t.cached.Add(float64(result.Cached))
	}
	if result.EmbeddedKey {
		t.embedded.Inc()
	}
}

// tokensRead reports whether the request's tokens were looked for: its workload has rules for them, and no earlier layer
// decided.
func (c *Check) tokensRead() bool {
	d := c.Decision
	return (d.Evaluated || d.Layer == authz.LayerJWT) && d.Workload != nil && d.Workload.Authentication != nil &&
		c.Request != nil && !c.Request.TCP
}

// appendToken appends what became of the request's tokens. The token itself, its other claims and what a client sent
// instead of one are never written; whose it is, only if subjects is set.
func appendToken(b []byte, c *Check, subjects bool) []byte {
	d := c.Decision
	claims := c.claims()
	if claims == nil && d.Token.Reason == jwt.Valid {
		return b
	}
	result := d.Token.Reason.String()
	if claims != nil && d.Token.Token == nil { // the proxy's own filter verified it
		result = "proxy"
	}
	b = append(append(append(b, `,"token":{"result":"`...), result...), '"')
	b = appendString(b, "rule", d.Token.Rule)
	b = appendString(b, "key_id", d.Token.KeyID)
	if claims != nil {
		b = appendString(b, "issuer", claims.Issuer())
		if subjects {
			b = appendString(b, "request_principal", claims.Issuer()+"/"+claims.Subject())
		}
	}
	return append(b, '}')
}
