package ca

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// AlarmCode is a condition that somebody has to look at, from a small fixed set that fits a metric's label.
type AlarmCode string

// The alarms of an authority.
const (
	AlarmState       AlarmCode = "state"        // the store cannot be read or what is in it is damaged
	AlarmClock       AlarmCode = "clock"        // the signing certificate is not valid yet: the clock is wrong
	AlarmRenewal     AlarmCode = "renewal"      // the intermediate is due and could not be renewed
	AlarmSignerEnds  AlarmCode = "signer_ends"  // the signing certificate ends soon, or has ended
	AlarmRootEnds    AlarmCode = "root_ends"    // the active root ends soon: rotate
	AlarmLifetimeCut AlarmCode = "lifetime_cut" // a certificate was cut to the end of its issuer
	AlarmSelfCheck   AlarmCode = "self_check"   // a certificate was not what was approved: nothing was issued
	AlarmReload      AlarmCode = "reload"       // the plugged-in authority's files were refused, the last good ones stay
	AlarmCRL         AlarmCode = "crl"          // a CRL could not be made
	AlarmLedger      AlarmCode = "ledger"       // an intent or an outcome could not be recorded
	AlarmBundle      AlarmCode = "bundle"       // the bundle nears its limit of roots
)

// Alarm is a condition that holds.
type Alarm struct {
	Code   AlarmCode
	Detail string
	Since  time.Time
	Last   time.Time // when it was last seen
}

// passing is how long an alarm about one certificate stays up after it was last seen.
const passing = 15 * time.Minute

// alarmBoard holds the alarms that are up. The zero value is ready.
type alarmBoard struct {
	mu sync.Mutex
	up map[AlarmCode]Alarm
}

func (b *alarmBoard) raise(code AlarmCode, detail string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.up == nil {
		b.up = map[AlarmCode]Alarm{}
	}
	since := at
	if old, ok := b.up[code]; ok {
		since = old.Since
	}
	b.up[code] = Alarm{Code: code, Detail: detail, Since: since, Last: at}
}

func (b *alarmBoard) clear(code AlarmCode) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.up, code)
}

func (b *alarmBoard) list(now time.Time) []Alarm {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, code := range []AlarmCode{AlarmLifetimeCut, AlarmLedger} {
		if a, ok := b.up[code]; ok && now.Sub(a.Last) > passing {
			delete(b.up, code)
		}
	}
	out := make([]Alarm, 0, len(b.up))
	for _, a := range b.up {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y Alarm) int { return strings.Compare(string(x.Code), string(y.Code)) })
	return out
}
