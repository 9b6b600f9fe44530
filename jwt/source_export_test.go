package jwt

import (
	"net"
	"net/http"
	"net/netip"
	"time"
)

// What black-box tests need of the key sources' insides.

const (
	MaxWaiters         = maxWaiters
	MaxConcurrentFetch = maxConcurrentFetch
)

// WithResolver has names resolved by r instead of the system.
func WithResolver(cfg SourcesConfig, r *net.Resolver) SourcesConfig {
	cfg.resolver = r
	return cfg
}

// CheckAddress says whether an address may be dialled, and panics on networks that are refused themselves.
func CheckAddress(n Networks, a netip.Addr) bool {
	f, err := newAddressFilter(n)
	if err != nil {
		panic(err)
	}
	return f.check(a) == nil
}

func ParseDiscovery(document []byte, issuer string) (string, error) {
	return parseDiscovery(document, issuer)
}

func MaxAge(h http.Header) (time.Duration, bool) { return maxAge(h) }

func NextRefresh(refresh time.Duration, h http.Header) time.Duration { return nextRefresh(refresh, h) }

func Backoff(failures int) time.Duration { return backoff(failures) }
