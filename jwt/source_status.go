package jwt

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// SourceMetrics is told what the sources do. Its arguments have few values, so that they can be labels; how many keys
// there are and how old they are is in [Sources.Status]. Implementations are safe for concurrent use and do not block.
type SourceMetrics interface {
	// Fetched is called after each fetch, retries included, with the time it took.
	Fetched(result FetchResult, took time.Duration)
	// Refetched is called for each token that asked for newer keys.
	Refetched(outcome RefetchOutcome)
}

type noMetrics struct{}

func (noMetrics) Fetched(FetchResult, time.Duration) {}
func (noMetrics) Refetched(RefetchOutcome)           {}

// RefetchOutcome is what came of a token's asking for newer keys.
type RefetchOutcome string

// Outcomes of asking for newer keys.
const (
	RefetchStarted    RefetchOutcome = "started"    // a fetch began
	RefetchJoined     RefetchOutcome = "joined"     // one was under way
	RefetchLimited    RefetchOutcome = "limited"    // the last was too recent
	RefetchCrowded    RefetchOutcome = "crowded"    // too many wait already
	RefetchImpossible RefetchOutcome = "impossible" // nothing is ever fetched, or no longer
)

// SourceStatus tells an operator how one key set fares. It holds nothing that a server sent, and no credentials.
type SourceStatus struct {
	URL       string   `json:"url"` // of the key set, or of the discovery document; without user, query and fragment
	Discovery bool     `json:"discovery,omitempty"`
	Issuers   []string `json:"issuers,omitempty"` // whose rules use it, sorted

	Keys       int    `json:"keys"`              // usable ones in force; with 0 every token that needs them is refused
	Skipped    int    `json:"skipped,omitempty"` // keys of the set that cannot be used
	Generation string `json:"generation,omitempty"`

	LastSuccess time.Time `json:"last_success,omitzero"`
	AgeSeconds  int64     `json:"age_seconds,omitempty"` // since the last success, by a clock that does not jump
	// Stale says that the keys in force should have been renewed by now and were not.
	Stale bool `json:"stale"`

	Failures    int         `json:"failures,omitempty"` // in a row
	LastError   FetchResult `json:"last_error,omitempty"`
	Detail      string      `json:"detail,omitempty"` // of the last error
	LastErrorAt time.Time   `json:"last_error_at,omitzero"`
	NextAttempt time.Time   `json:"next_attempt,omitzero"` // zero: never, or not yet running
}

// Status lists every wanted key set, sorted by URL.
func (s *Sources) Status() []SourceStatus {
	s.mu.RLock()
	out := make([]SourceStatus, 0, len(s.remotes))
	for _, r := range s.remotes {
		out = append(out, r.status())
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b SourceStatus) int {
		if c := strings.Compare(a.URL, b.URL); c != 0 {
			return c
		}
		return slices.Compare(a.Issuers, b.Issuers)
	})
	return out
}

func (r *remote) status() SourceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := SourceStatus{
		URL: r.address(), Discovery: r.target.url == "", Issuers: r.need.issuers,
		LastSuccess: r.record.succeededWall, Failures: r.record.failures, NextAttempt: r.record.nextWall,
	}
	var age time.Duration
	if !r.record.succeeded.IsZero() {
		age = time.Since(r.record.succeeded)
		st.AgeSeconds = int64(age / time.Second)
	}
	if e := r.record.last; e != nil {
		st.LastError, st.Detail, st.LastErrorAt = e.result, e.detail, r.record.failedWall
	}
	if keys := r.keys.Load(); keys != nil {
		st.Keys, st.Generation = keys.Len(), keys.Generation()
		st.Skipped = skipped(keys)
		st.Stale = r.record.failures > 0 && age > r.s.cfg.Refresh
	}
	return st
}

// address is the URL as it may be shown.
func (r *remote) address() string {
	if r.target.url == "" {
		return redactURL(discoveryURL(r.target.issuer))
	}
	return redactURL(r.target.url)
}

// about are a log line's attributes. The caller holds mu.
func (r *remote) about(more ...any) []any {
	out := []any{"url", r.address()}
	if len(r.need.issuers) > 0 {
		out = append(out, "issuers", r.need.issuers[:min(len(r.need.issuers), 4)])
	}
	return append(out, more...)
}

// logFailure reports the last failure: as an error if tokens are refused for it or the keys have used up a quarter of
// their time, else as a warning; when that or the kind of failure changes, and every ten minutes while it lasts. The
// caller holds mu.
func (r *remote) logFailure() {
	rec := &r.record
	level, message := slog.LevelWarn, "keys not renewed; those in force stay"
	args := []any{"error", string(rec.last.result), "detail", rec.last.detail, "failures", rec.failures}
	switch {
	case r.keys.Load() == nil:
		level, message = slog.LevelError, "no keys: tokens that need them are refused"
	default:
		age := time.Since(rec.succeeded)
		args = append(args, "age", age.Round(time.Second), "dropped_in", (r.s.cfg.MaxStale - age).Round(time.Second))
		if age > r.s.cfg.MaxStale/4 {
			level = slog.LevelError
		}
	}
	now := time.Now()
	if rec.last.result == rec.loggedAs && level == rec.loggedLevel && now.Sub(rec.logged) < repeatFailure {
		return
	}
	rec.logged, rec.loggedAs, rec.loggedLevel = now, rec.last.result, level
	r.s.cfg.Logger.Log(context.Background(), level, message, r.about(args...)...)
}

// logKeys reports new keys. The caller holds mu.
func (r *remote) logKeys(old, keys *KeySet) {
	args := []any{"keys", keys.Len(), "generation", keys.Generation()}
	message := "keys fetched"
	if old != nil {
		message = "keys changed"
		args = append(args, "before", old.Generation())
	}
	if n := skipped(keys); n > 0 {
		r.s.cfg.Logger.Warn(message+"; some cannot be used", r.about(append(args, "skipped", n)...)...)
		return
	}
	r.s.cfg.Logger.Info(message, r.about(args...)...)
}

// skipped counts the keys of a set that are not used.
func skipped(keys *KeySet) int {
	n := 0
	for _, f := range keys.Findings() {
		if f.Skipped {
			n++
		}
	}
	return n
}
