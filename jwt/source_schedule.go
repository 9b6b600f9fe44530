package jwt

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// When keys are fetched (request-authentication §6.2, §6.4).
const (
	defaultRefresh  = 20 * time.Minute
	minRefresh      = time.Minute
	maxRefresh      = 24 * time.Hour
	refreshFloor    = 5 * time.Minute // however short a max-age the issuer sends
	defaultMaxStale = 24 * time.Hour
	maxMaxStale     = 7 * 24 * time.Hour
	maxRetries      = 2 // in one fetch, after the first attempt
	retryPause      = 200 * time.Millisecond
	firstBackoff    = time.Second
	maxBackoff      = time.Minute
	refetchInterval = 30 * time.Second // least time from one attempt's end to a fetch that a token asks for
)

// nextRefresh is the time from a successful fetch to the next: the configured one, or the answer's max-age if that is
// shorter, ±10 % so that replicas do not ask together.
func nextRefresh(refresh time.Duration, header http.Header) time.Duration {
	floor := min(refreshFloor, refresh)
	if age, ok := maxAge(header); ok {
		refresh = min(refresh, max(age, floor))
	}
	return max(spread(refresh, 0.1), floor*9/10)
}

// backoff is the time from the nth failed fetch in a row, counted from 1, to the next.
func backoff(failures int) time.Duration {
	d := maxBackoff
	if shift := failures - 1; shift < 6 { // 1 s << 6 exceeds a minute
		d = firstBackoff << shift
	}
	return spread(d*8/10, 0.25) // 0.6 to 1 of d: never above the bound
}

// spread is d, up or down by at most the given fraction.
func spread(d time.Duration, fraction float64) time.Duration {
	return time.Duration(float64(d) * (1 + fraction*(2*rand.Float64()-1))) //nolint:gosec // who predicts the jitter gains nothing
}

// maxAge is how long an answer may be reused by its Cache-Control (RFC 9111 §5.2.2), false if that does not say. Of
// several statements the shortest holds; one that cannot be read counts as "not at all" (§4.2.1).
func maxAge(header http.Header) (time.Duration, bool) {
	var age time.Duration
	found := false
	for _, line := range header.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			var d time.Duration
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "max-age":
				d = deltaSeconds(value)
			case "no-cache", "no-store":
			default:
				continue
			}
			if !found || d < age {
				age, found = d, true
			}
		}
	}
	return age, found
}

// deltaSeconds reads RFC 9111 §1.2.2's number, plain or quoted; too large a one is 2^31 seconds, another text is 0.
func deltaSeconds(text string) time.Duration {
	text = strings.Trim(strings.TrimSpace(text), `"`)
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > 1<<31 {
		n = 1 << 31
	}
	return time.Duration(n) * time.Second
}
