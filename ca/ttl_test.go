package ca_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
)

// TestLifetime is identity §2.5.
func TestLifetime(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	drill := newProfile(t, ca.ProfileConfig{DefaultTTL: 10 * time.Second})
	usual := newProfile(t, ca.ProfileConfig{})
	for _, c := range []struct {
		name    string
		profile *ca.Profile
		seconds int64
		want    time.Duration
		rule    string
	}{
		{"none", usual, 0, time.Hour, "default"},
		{"negative", usual, -1, time.Hour, "default"},
		{"most negative", usual, math.MinInt64, time.Hour, "default"},
		{"one second", usual, 1, time.Minute, "min"},
		{"just below the least", usual, 59, time.Minute, "min"},
		{"the least", usual, 60, time.Minute, "requested"},
		{"in between", usual, 1800, 30 * time.Minute, "requested"},
		{"what Istio's agents ask for", usual, 86400, 24 * time.Hour, "requested"},
		{"just above the most", usual, 86401, 24 * time.Hour, "max"},
		{"surprise 10: 2^62 seconds", usual, 1 << 62, 24 * time.Hour, "max"},
		{"surprise 10: the first to overflow", usual, 9223372037, 24 * time.Hour, "max"},
		{"the most there is", usual, math.MaxInt64, 24 * time.Hour, "max"},
		{"a drill", drill, 0, 10 * time.Second, "default"},
		{"less than a drill", drill, 1, 10 * time.Second, "min"},
		{"a little more than a drill", drill, 11, 11 * time.Second, "requested"},
	} {
		key := newKey(t)
		ap, err := ca.Approve(mustID(t, order), newCSR(t, key), ca.ApprovalRequest{Profile: c.profile, Caller: "test:ttl", Seconds: c.seconds})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		issued, err := b.Issue(t.Context(), ap)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		leaf := parse(t, issued.Certificate)
		if issued.TTL != c.want || issued.TTLRule != c.rule || !leaf.NotAfter.Equal(b.clock.now().Add(c.want)) {
			t.Errorf("%s: %v by rule %s until %s, want %v by %s", c.name, issued.TTL, issued.TTLRule, leaf.NotAfter, c.want, c.rule)
		}
		// Surprises 11 and 12: backdated by two minutes, counted from now.
		if span := leaf.NotAfter.Sub(leaf.NotBefore); span != c.want+2*time.Minute {
			t.Errorf("%s: valid for %v, want %v and two minutes", c.name, span, c.want)
		}
		last := b.store.Entries()
		if got := last[len(last)-1].TTLRule; got != c.rule {
			t.Errorf("%s: the ledger says rule %s", c.name, got)
		}
	}
}

func TestProfileConfig(t *testing.T) {
	t.Parallel()
	td := mustID(t, "spiffe://cluster.local")
	for _, c := range []struct {
		name string
		cfg  ca.ProfileConfig
		ok   bool
	}{
		{"defaults", ca.ProfileConfig{TrustDomain: td}, true},
		{"10s", ca.ProfileConfig{TrustDomain: td, DefaultTTL: 10 * time.Second, MaxTTL: 10 * time.Second}, true},
		{"longest", ca.ProfileConfig{TrustDomain: td, MaxTTL: 90 * 24 * time.Hour}, true},
		{"no trust domain", ca.ProfileConfig{}, false},
		{"trust domain with a path", ca.ProfileConfig{TrustDomain: mustID(t, order)}, false},
		{"9s", ca.ProfileConfig{TrustDomain: td, DefaultTTL: 9 * time.Second}, false},
		{"negative", ca.ProfileConfig{TrustDomain: td, DefaultTTL: -time.Hour}, false},
		{"default above most", ca.ProfileConfig{TrustDomain: td, DefaultTTL: 2 * time.Hour, MaxTTL: time.Hour}, false},
		{"most above 90 days", ca.ProfileConfig{TrustDomain: td, MaxTTL: 91 * 24 * time.Hour}, false},
		{"least above default", ca.ProfileConfig{TrustDomain: td, MinTTL: 2 * time.Hour}, false},
		{"broken seconds", ca.ProfileConfig{TrustDomain: td, DefaultTTL: 90*time.Second + 1}, false},
		{"reserved name", ca.ProfileConfig{TrustDomain: td, Name: "intermediate"}, false},
	} {
		if _, err := ca.NewProfile(c.cfg); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestClamp: a certificate never outlives its issuer, and one that would be cut to less than a quarter is refused.
func TestClamp(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	end := b.Status().Signer.NotAfter
	for _, c := range []struct {
		left time.Duration
		rule string
		ok   bool
	}{
		{2 * time.Hour, "requested", true},
		{time.Hour, "requested", true},
		{59 * time.Minute, "issuer", true},
		{15 * time.Minute, "issuer", true},
		{15*time.Minute - time.Second, "", false},
		{0, "", false},
		{-time.Hour, "", false},
	} {
		b.clock.set(end.Add(-c.left))
		issued, err := b.Issue(t.Context(), b.approve(t, order, 3600))
		if !c.ok {
			if !errors.Is(err, ca.ErrNotReady) {
				t.Errorf("%v left: %v, want it refused as not ready", c.left, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v left: %v", c.left, err)
			continue
		}
		if issued.TTLRule != c.rule || issued.NotAfter.After(end) {
			t.Errorf("%v left: until %s by rule %s, want %s", c.left, issued.NotAfter, issued.TTLRule, c.rule)
		}
		if alarmed(b.Authority, ca.AlarmLifetimeCut) != (c.rule == "issuer") {
			t.Errorf("%v left: alarms %v", c.left, b.Status().Alarms)
		}
	}
}

// TestClockSetBack: two years back nothing is issued, an alarm is up, nothing is made anew, and all is well once the
// clock is right.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	right := b.clock.now()
	before := len(b.store.Entries())
	b.clock.set(right.AddDate(-2, 0, 0))
	b = b.reopen(t)
	if _, err := b.Issue(t.Context(), b.approve(t, order, 0)); !errors.Is(err, ca.ErrNotReady) {
		t.Errorf("issued two years back: %v", err)
	}
	if !alarmed(b.Authority, ca.AlarmClock) {
		t.Errorf("no alarm about the clock: %v", b.Status().Alarms)
	}
	if err := b.Ready(t.Context()); !errors.Is(err, ca.ErrNotReady) {
		t.Errorf("ready: %v", err)
	}
	if n := len(b.store.Entries()); n != before {
		t.Errorf("%d entries in the ledger, want %d", n, before)
	}
	b.clock.set(right)
	if err := b.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.issue(t, order, 0)
	if alarmed(b.Authority, ca.AlarmClock) {
		t.Error("the alarm stays up")
	}
}
