package ca

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// openFor is how long an intent may be without an outcome before a crash is taken to have cut it short. Issuing takes
	// seconds; the rest is for replicas whose clocks differ. An intent that is ended although somebody was about to sign
	// does no harm: that outcome is then refused, and its certificate never handed out.
	openFor = skew
	// maxOpen is how many intents one round ends.
	maxOpen = 1000
)

// endOpen ends the intents that a crash, or a store that failed, has left without an outcome, of whatever replica: no
// certificate was handed out for them, because that takes an outcome, so they failed. Their serial numbers and keys stay
// taken. An intermediate is its own replica's business, which may have it, see finishIssuer.
//
// What cannot be ended now is ended in a later round.
func (a *Authority) endOpen(ctx context.Context) error {
	now := a.cfg.Now()
	entries, _, err := a.cfg.Store.Find(ctx, Query{Open: true, Before: now.Add(-openFor), Limit: maxOpen})
	if err != nil {
		return fmt.Errorf("find what a crash has cut short: %w", err)
	}
	ended := 0
	for i := range entries {
		e := &entries[i]
		if e.Profile == profileIntermediate && (e.Caller != a.self() || a.hasIssuer(e.Serial)) {
			continue
		}
		failure := fmt.Sprintf("cut short: without an outcome after %v; no certificate was handed out", openFor.Truncate(time.Minute))
		err := a.cfg.Store.Finish(ctx, Outcome{Serial: e.Serial, Failure: failure, At: now})
		switch {
		case errors.Is(err, ErrConflict): // it came to its end after all, or another replica was faster
		case err != nil:
			return fmt.Errorf("end %s, which a crash has cut short: %w", e.Serial, err)
		default:
			ended++
		}
	}
	if ended > 0 {
		a.cfg.Log.WarnContext(ctx, "intents that had been cut short are ended in the ledger: nobody was given a certificate for them", "count", ended)
	}
	return nil
}

// hasIssuer reports whether an intermediate of this replica has a serial number.
func (a *Authority) hasIssuer(serial Serial) bool {
	for i := range a.signers {
		if s, ok := SerialOf(a.signers[i].cert.SerialNumber); ok && s == serial {
			return true
		}
	}
	return false
}
