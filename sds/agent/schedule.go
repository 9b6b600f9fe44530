package agent

import (
	"math/rand/v2"
	"time"
)

const (
	jitterPart = 10 // of the time until a renewal: one in so many, either way

	// spreadMost bounds how long agents wait with a renewal that cannot wait: long enough that a thousand of them come at a
	// rate which an authority takes in its stride, short enough for a root whose key is stolen.
	spreadMost = time.Minute
	spreadPart = 4 // of the time that is left

	retryLeast = 500 * time.Millisecond
	retryMost  = time.Minute
	retryPart  = 8 // of the time that is left: whoever has little of it asks more often

	refusedLeast = 5 * time.Second // a no is not a failure: asking again soon does not change it
	refusedMost  = 5 * time.Minute

	proofEvery = 3 * time.Second // between looks for a token while there is no proof at all
)

// life is how long a certificate is of use, from when it was received. It is counted from there and not from notBefore,
// which is set back for clients with slow clocks, so that span says too much (identity §3.1, §11 surprise 11); on a machine
// whose own clock is slow the span is the smaller of the two, and what it says is used.
func life(received, notBefore, notAfter time.Time) time.Duration {
	return min(notAfter.Sub(received), notAfter.Sub(notBefore))
}

// renewalAfter is how long after its receipt a certificate is renewed: half of its life, give or take a tenth of that.
// random is in [0,1).
func renewalAfter(life time.Duration, random float64) time.Duration {
	half := life / 2
	jitter := time.Duration((2*random - 1) * float64(half) / jitterPart)
	return half + jitter
}

// spread is how long to wait before a renewal that is due at once for everybody. random is in [0,1).
func spread(left time.Duration, random float64) time.Duration {
	window := min(max(left, 0)/spreadPart, spreadMost)
	return time.Duration(random * float64(window))
}

// retryAfter is how long to wait after so many failures, at least one, with that much time left on the certificate that
// is to be renewed, 0 if there is none: exponential, with full jitter, so that those who failed together do not come back
// together.
func retryAfter(failures int, left time.Duration, random float64) time.Duration {
	most := retryMost
	if left > 0 {
		most = min(most, max(left/retryPart, 2*retryLeast))
	}
	return backoff(retryLeast, most, failures, random)
}

// refusedAfter is the same after a no.
func refusedAfter(failures int, random float64) time.Duration {
	return backoff(refusedLeast, refusedMost, failures, random)
}

// backoff doubles least with every failure, up to most, and picks a time between half of least and that.
func backoff(least, most time.Duration, failures int, random float64) time.Duration {
	window := least << min(max(failures, 1), 16)
	window = min(window, most)
	floor := least / 2
	return floor + time.Duration(random*float64(max(window-floor, 0)))
}

// chance is in [0,1). It spreads load and keeps no secret.
func chance() float64 { return rand.Float64() } //nolint:gosec // see above
