package jwt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxSources bounds the distinct key sets of one policy load; rules beyond it have no keys and so refuse every token.
const maxSources = 4096

// SourcesConfig says how key sets are fetched. Its zero value fetches over https, from public addresses.
type SourcesConfig struct {
	// AllowHTTP permits http URLs, on which anybody on the way can replace the keys.
	AllowHTTP bool
	// Networks says which addresses may be visited.
	Networks Networks
	// CABundles maps an issuer, or else the host of a URL ("idp.example", "idp.example:8443"), to a PEM file with
	// authorities that are trusted for its keys besides the system's. The files are read once.
	CABundles map[string]string
	// Proxy is an http or https proxy for every fetch, nil for none; the environment's is never used. The proxy
	// resolves names, so it must do the filtering that Networks otherwise does.
	Proxy *url.URL
	// Refresh is the time between two fetches of a key set, 0 for 20 minutes. Each differs from it by up to 10 %, and is
	// shorter if the issuer's Cache-Control says so, down to 5 minutes. At least 1 minute, at most 24 hours.
	Refresh time.Duration
	// MaxStale is how long keys stay in force after the last successful fetch, 0 for 24 hours; then every token that
	// needs them is refused. At most 7 days.
	MaxStale time.Duration
	// UserAgent is sent with every request, empty for "writ".
	UserAgent string
	// Metrics is told of every fetch, nil for nobody.
	Metrics SourceMetrics
	// Logger is told of failures and recoveries, nil for nobody.
	Logger *slog.Logger
	// Waiting is told when a request begins to wait for a fetch, and what it returns when it has waited; nil for nobody.
	Waiting func(context.Context) (done func())
	// Now is the wall clock for times in [SourceStatus], nil for time.Now. Nothing is scheduled by it and no key ages
	// by it: a clock that jumps neither drops keys nor keeps them.
	Now func() time.Time

	resolver *net.Resolver // of tests, nil for the system's
}

func (c SourcesConfig) withDefaults() (SourcesConfig, error) {
	if c.Refresh == 0 {
		c.Refresh = defaultRefresh
	}
	if c.MaxStale == 0 {
		c.MaxStale = defaultMaxStale
	}
	if c.Refresh < minRefresh || c.Refresh > maxRefresh {
		return c, fmt.Errorf("refresh %v: must be from %v to %v", c.Refresh, minRefresh, maxRefresh)
	}
	if c.MaxStale < c.Refresh || c.MaxStale > maxMaxStale {
		return c, fmt.Errorf("max stale %v: must be from the refresh interval, %v, to %v", c.MaxStale, c.Refresh, maxMaxStale)
	}
	if c.Proxy != nil && ((c.Proxy.Scheme != "http" && c.Proxy.Scheme != "https") || c.Proxy.Host == "") {
		return c, fmt.Errorf("proxy %q: must be http://host:port or https://host:port", c.Proxy.Redacted())
	}
	if c.UserAgent == "" {
		c.UserAgent = "writ"
	}
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.CABundles = maps.Clone(c.CABundles)
	return c, nil
}

// Wanted names a key set that a rule verifies tokens with.
type Wanted struct {
	JWKSURI string        // where it is; empty: where the issuer's discovery document says
	Issuer  string        // the rule's issuer, may be empty if JWKSURI is not
	Timeout time.Duration // of one attempt to fetch it, 0 for 5 s; more than 30 s counts as 30 s
}

// Sources fetches the key sets that policies name and keeps them fresh. It is safe for concurrent use.
//
// Rules that name the same address with the same trust share one [Source], and its fetches.
type Sources struct {
	cfg     SourcesConfig
	fetcher *fetcher
	changed chan struct{} // wakes Run after Set; buffers one
	running atomic.Bool
	started atomic.Bool

	mu      sync.RWMutex // guards what follows
	remotes map[target]*remote
}

// NewSources checks the configuration and reads the CA bundles. Nothing is fetched before Run.
func NewSources(cfg SourcesConfig) (*Sources, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("key sources: %w", err)
	}
	f, err := newFetcher(cfg)
	if err != nil {
		return nil, fmt.Errorf("key sources: %w", err)
	}
	return &Sources{cfg: cfg, fetcher: f, changed: make(chan struct{}, 1), remotes: map[target]*remote{}}, nil
}

// Run fetches until ctx ends, then waits for every goroutine it started. Call it once.
func (s *Sources) Run(ctx context.Context) error {
	if !s.started.CompareAndSwap(false, true) {
		return errors.New("key sources: Run was called before")
	}
	var loops sync.WaitGroup
	defer loops.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.running.Store(true)

	stops := map[*remote]context.CancelFunc{}
	for {
		wanted := s.fetching()
		for r, stop := range stops {
			if !wanted[r] {
				stop()
				delete(stops, r)
			}
		}
		for r := range wanted {
			if stops[r] == nil {
				ctx, stop := context.WithCancel(ctx)
				stops[r] = stop
				loops.Go(func() {
					defer stop()
					r.run(ctx)
				})
			}
		}
		select {
		case <-ctx.Done():
			s.running.Store(false)
			for r := range s.fetching() {
				r.forget()
			}
			for _, stop := range stops {
				stop()
			}
			return nil
		case <-s.changed:
		}
	}
}

// fetching are the sources that need a goroutine.
func (s *Sources) fetching() map[*remote]bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[*remote]bool, len(s.remotes))
	for _, r := range s.remotes {
		if r.refused == nil {
			out[r] = true
		}
	}
	return out
}

// Set says which key sets the policies need now: fetching begins for new ones and ends for those no longer wanted, which
// are forgotten; the others keep their keys and their schedule. Call it at each policy load, in the order of the loads.
func (s *Sources) Set(wanted []Wanted) {
	next := map[target]*remote{}
	needs := map[target]need{}
	s.mu.Lock()
	for _, known := range []bool{true, false} { // if there are too many, new ones take no place of old ones
		for _, w := range wanted {
			t := s.target(w)
			if (s.remotes[t] != nil) != known {
				continue
			}
			n := needs[t]
			n.add(w)
			needs[t] = n
			if next[t] != nil || len(next) >= maxSources {
				continue
			}
			next[t] = s.remotes[t]
			if next[t] == nil {
				next[t] = newRemote(s, t)
			}
		}
	}
	old := s.remotes
	for t, r := range next {
		r.setNeed(needs[t])
		if old[t] == nil && r.refused != nil {
			r.fail(r.refused)
			s.cfg.Metrics.Fetched(r.refused.result, 0)
		}
	}
	s.remotes = next
	s.mu.Unlock()

	for t, r := range old {
		if next[t] == nil {
			r.forget()
		}
	}
	if len(needs) > len(next) {
		s.cfg.Logger.Error("too many key sets: tokens that need the rest are refused", "wanted", len(needs), "limit", maxSources)
	}
	select {
	case s.changed <- struct{}{}:
	default: // Run is about to look
	}
}

// Source returns the source of a key set that is, or is about to be, named in Set. While it is not, it has no keys.
func (s *Sources) Source(w Wanted) Source {
	t := s.target(w)
	if r := s.remote(t); r != nil {
		return r
	}
	return lateSource{s: s, target: t}
}

func (s *Sources) remote(t target) *remote {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.remotes[t]
}

// lateSource is asked for before Set names its key set: policies come into force, and requests with them, a moment before
// their keys are wanted.
type lateSource struct {
	s      *Sources
	target target
}

// Keys implements [Source].
func (l lateSource) Keys() *KeySet {
	if r := l.s.remote(l.target); r != nil {
		return r.Keys()
	}
	return nil
}

// Refetch implements [Source].
func (l lateSource) Refetch(ctx context.Context) *KeySet {
	if r := l.s.remote(l.target); r != nil {
		return r.Refetch(ctx)
	}
	return nil
}

// target is what is fetched for w. The issuer is part of it only where the answer depends on it.
func (s *Sources) target(w Wanted) target {
	address := w.JWKSURI
	t := target{url: w.JWKSURI}
	if address == "" {
		t.issuer = w.Issuer
		address = w.Issuer
	}
	if ca, ok := s.cfg.CABundles[w.Issuer]; ok && w.Issuer != "" {
		t.ca = ca
	} else if u, err := url.Parse(address); err == nil && u.Host != "" {
		t.ca = s.cfg.CABundles[u.Host]
		if t.ca == "" {
			t.ca = s.cfg.CABundles[u.Hostname()]
		}
	}
	return t
}

// need is what the rules that share a source ask of it.
type need struct {
	issuers []string // sorted, as they may be shown
	timeout time.Duration
}

func (n *need) add(w Wanted) {
	issuer := w.Issuer
	if u, err := url.Parse(issuer); err == nil && u.User != nil {
		issuer = redactURL(issuer)
	}
	if i, found := slices.BinarySearch(n.issuers, issuer); !found && issuer != "" {
		n.issuers = slices.Insert(n.issuers, i, issuer)
	}
	timeout := w.Timeout
	if timeout <= 0 {
		timeout = defaultFetchTimeout
	}
	n.timeout = min(max(n.timeout, timeout), maxAttemptTimeout)
}

// checkTarget says why a target can never be fetched from, nil if it is worth trying.
func (s *Sources) checkTarget(t target) *fetchError {
	refuse := func(detail string) *fetchError { return &fetchError{result: FetchRefusedURL, detail: detail} }
	address := t.url
	if address == "" {
		address = t.issuer
	}
	if len(address) > maxSourceURLBytes {
		return refuse(fmt.Sprintf("longer than %d bytes", maxSourceURLBytes))
	}
	u, err := url.Parse(address)
	switch {
	case t.url == "" && (err != nil || u.Host == ""):
		return refuse("the issuer is no URL to discover keys from: give the rule jwks or jwksUri")
	case err != nil:
		return refuse("not a URL")
	case t.url == "" && (u.RawQuery != "" || u.Fragment != ""):
		return refuse("an issuer with a query or fragment has no discovery document")
	}
	return s.fetcher.checkURL(u)
}

// redactURL is an address as it may be shown: without credentials, query and fragment.
func redactURL(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Opaque != "" {
		return "(not a URL)"
	}
	u.User, u.RawQuery, u.ForceQuery, u.Fragment = nil, "", false, ""
	return u.String()
}
