package ca

import (
	"fmt"
	"time"
)

// The rules that set a certificate's lifetime, as answers, log and ledger name them.
const (
	TTLRequested = "requested" // what was asked for
	TTLDefault   = "default"   // nothing was asked for
	TTLMin       = "min"       // less was asked for than the profile allows
	TTLMax       = "max"       // more was asked for than the profile allows
	TTLIssuer    = "issuer"    // the issuer's certificate ends before
)

// lifetime turns the seconds a request asks for into a lifetime, and names the rule that set it. The range is checked
// before anything is multiplied: 2^62 seconds is a long time, not a negative one (identity §2.5).
func (p *Profile) lifetime(seconds int64) (time.Duration, string) {
	switch {
	case seconds <= 0:
		return p.ttl, TTLDefault
	case seconds > int64(p.max/time.Second):
		return p.max, TTLMax
	case seconds < int64(p.min/time.Second):
		return p.min, TTLMin
	default:
		return time.Duration(seconds) * time.Second, TTLRequested
	}
}

// validity is the time a certificate is good for: backdated, and never longer than its issuer. An issuer that leaves less
// than a quarter of the lifetime is no use to the caller, who would be back at once: that is an [ErrNotReady].
func validity(now time.Time, ttl time.Duration, rule string, notBefore, notAfter time.Time) (from, to time.Time, by string, err error) {
	now = now.UTC().Truncate(time.Second)
	if now.Before(notBefore) {
		return from, to, "", fmt.Errorf("%w: its certificate becomes valid at %s, and the clock says %s: set the clock",
			ErrNotReady, notBefore.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	from, to, by = now.Add(-backdate), now.Add(ttl), rule
	if from.Before(notBefore) {
		from = notBefore
	}
	if to.After(notAfter) {
		to, by = notAfter, TTLIssuer
		if left := to.Sub(now); left < ttl/4 {
			return time.Time{}, time.Time{}, "", fmt.Errorf("%w: its certificate ends at %s, which leaves %v of %v",
				ErrNotReady, notAfter.Format(time.RFC3339), left, ttl)
		}
	}
	return from, to, by, nil
}
