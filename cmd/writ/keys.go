package main

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Bounds of the configuration of tokens. Those of the times are package jwt's own.
const (
	minKeyRefresh       = time.Minute
	maxKeyRefresh       = 24 * time.Hour
	maxKeyStale         = 7 * 24 * time.Hour
	maxTokenCacheCount  = 1 << 20
	minTokenCacheMemory = 1 << 20 // bytes
	maxTokenCacheMemory = 4 << 30
)

// checkTokens looks at how tokens are to be verified.
func (d *configDecoder) checkTokens(a *authzConfig) {
	d.oneOf("authz.jwt", a.JWT, string(authz.TokensVerify), string(authz.TokensMetadata))
	d.checkJWKS("authz.jwks", &a.JWKS)
	if n := a.TokenCache.Entries; n < 0 || n > maxTokenCacheCount {
		d.bad("authz.token_cache.entries", "%d: want 0, for no cache, to %d", n, maxTokenCacheCount)
	}
	if n := a.TokenCache.MaxBytes; n < minTokenCacheMemory || n > maxTokenCacheMemory {
		d.bad("authz.token_cache.max_bytes", "%d: want %d to %d", n, minTokenCacheMemory, maxTokenCacheMemory)
	}
}

// checkJWKS looks at how the keys of a block are to be fetched.
func (d *configDecoder) checkJWKS(key string, c *jwksConfig) {
	if _, err := parseNetworks(c.AllowNetworks); err != nil {
		d.bad(key+".allow_networks", "%v", err)
	}
	if _, err := parseNetworks(c.DenyNetworks); err != nil {
		d.bad(key+".deny_networks", "%v", err)
	}
	for name, file := range c.CA {
		if name == "" || file == "" {
			d.bad(key+".ca", "%q: %q: want the issuer, or the host of the keys' address, and a PEM file", name, file)
		}
	}
	if _, err := parseProxy(c.Proxy); err != nil {
		d.bad(key+".proxy", "%v", err)
	}
	if r := c.Refresh; r < minKeyRefresh || r > maxKeyRefresh {
		d.bad(key+".refresh", "%v: want %v to %v", r, minKeyRefresh, maxKeyRefresh)
	} else if s := c.MaxStale; s < r || s > maxKeyStale {
		d.bad(key+".max_stale", "%v: want %s.refresh, which is %v, to %v", s, key, r, maxKeyStale)
	}
}

// parseNetworks reads networks, and addresses as networks of one.
func parseNetworks(texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" && !a.Is4In6() {
			networks = append(networks, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || p.Addr().Is4In6():
			return nil, fmt.Errorf("%q: want a network such as 10.0.0.0/8 or fd00::/8, or an address", text)
		case p != p.Masked():
			return nil, fmt.Errorf("%q: bits behind the /%d are set: write %s for the network, or %s for the one address", text, p.Bits(), p.Masked(), p.Addr())
		}
		networks = append(networks, p)
	}
	return networks, nil
}

// parseProxy reads the address of a proxy, nil for none.
func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("want http://host:port or https://host:port") // the text may hold a password
	case u.User != nil:
		return nil, fmt.Errorf("%s: secrets are never values here: let this machine use the proxy without a user name", u.Redacted())
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q: want http://host:port or https://host:port and nothing behind it", text)
	}
	return u, nil
}

// sources is the configuration in the words of package jwt. It has been checked.
func (c *jwksConfig) sources() (jwt.SourcesConfig, error) {
	allow, err := parseNetworks(c.AllowNetworks)
	if err != nil {
		return jwt.SourcesConfig{}, err
	}
	deny, err := parseNetworks(c.DenyNetworks)
	if err != nil {
		return jwt.SourcesConfig{}, err
	}
	proxy, err := parseProxy(c.Proxy)
	return jwt.SourcesConfig{
		AllowHTTP: c.AllowHTTP,
		Networks:  jwt.Networks{Allow: allow, Deny: deny, OnlyAllowed: c.OnlyAllowed},
		CABundles: c.CA,
		Proxy:     proxy,
		Refresh:   c.Refresh,
		MaxStale:  c.MaxStale,
		UserAgent: "writ/" + readBuildInfo().Version,
	}, err
}

// checkKeyFiles reads the files that the configuration of keys names.
func (c *jwksConfig) checkKeyFiles() error {
	cfg, err := c.sources()
	if err == nil {
		_, err = jwt.NewSources(cfg)
	}
	return err
}

// tokens prepares the verification of tokens: where keys come from, and the memory of what was verified. It fetches
// nothing yet.
func (a *authority) tokens() (authz.Tokens, error) {
	t := authz.Tokens{Mode: authz.TokenMode(a.config.Authz.JWT)}
	if t.Mode == authz.TokensMetadata {
		return t, nil
	}
	cfg, err := a.config.Authz.JWKS.sources()
	if err != nil {
		return t, err
	}
	cfg.Metrics, cfg.Logger = a.metrics, a.log
	cfg.Waiting = func(ctx context.Context) func() { return a.limiter.Waiting(ctx) } // which is made later
	if a.sources, err = jwt.NewSources(cfg); err != nil {
		return t, err
	}
	t.Source = a.sources.Source
	if entries := a.config.Authz.TokenCache.Entries; entries > 0 {
		a.cache = jwt.NewCache(entries, int64(a.config.Authz.TokenCache.MaxBytes))
		t.Cache = a.cache
	}
	// Fetching begins before the first request can need the keys, and sources that are no longer wanted end.
	a.store.BeforePublish(func(snap *policy.Snapshot) { a.sources.Set(append(authz.WantedKeys(snap), a.trials.wantedKeys()...)) })
	a.metrics.WatchTokens(a.sources, a.cache)
	return t, nil
}

// tokensReport says how tokens are verified, and how every key set that is fetched fares.
type tokensReport struct {
	Mode    string             `json:"mode"` // verify or metadata
	Cache   *cacheReport       `json:"cache,omitempty"`
	Sources []jwt.SourceStatus `json:"sources,omitempty"`
}

type cacheReport struct {
	Entries int   `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

func (a *authority) tokensReport() tokensReport {
	r := tokensReport{Mode: a.config.Authz.JWT}
	if a.sources != nil {
		r.Sources = a.sources.Status()
	}
	if a.cache != nil {
		r.Cache = &cacheReport{a.cache.Len(), a.cache.Bytes()}
	}
	return r
}

// maxKeyWarnings bounds the key sources that warnings name one by one.
const maxKeyWarnings = 20

// warnings names the key sources that do not do what they should. They do not count for readiness: requests without
// tokens, and with tokens of other issuers, are decided as written.
func (r *tokensReport) warnings() []string {
	var warnings []string
	more := 0
	for i := range r.Sources {
		text := sourceWarning(&r.Sources[i])
		switch {
		case text == "":
		case len(warnings) == maxKeyWarnings:
			more++
		default:
			warnings = append(warnings, text)
		}
	}
	if more > 0 {
		warnings = append(warnings, fmt.Sprintf("and %d more key sources that do not work", more))
	}
	return warnings
}

func sourceWarning(s *jwt.SourceStatus) string {
	why := string(s.LastError)
	if s.Detail != "" {
		why += ": " + s.Detail
	}
	switch {
	case s.Keys == 0 && s.LastError == "":
		return "" // the first fetch is under way
	case s.Keys == 0:
		return fmt.Sprintf("no keys from %s, tokens that need them are refused: %s", s.URL, why)
	case s.Stale:
		return fmt.Sprintf("keys from %s should have been renewed, those of %s ago stay in force: %s", s.URL,
			time.Duration(s.AgeSeconds)*time.Second, why)
	}
	return ""
}
