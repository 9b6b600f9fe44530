package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

func TestSQLite(t *testing.T) {
	t.Parallel()
	suite(t, sqlitePlace)
}

// suite is what every engine has to pass. fresh makes a new place for each test.
func suite(t *testing.T, fresh func(t *testing.T) place) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, p place)
	}{
		{"Ledger", testLedger},
		{"LedgerRefuses", testLedgerRefuses},
		{"Find", testFind},
		{"FindPages", testFindPages},
		{"FindLive", testFindLive},
		{"FindOpen", func(t *testing.T, p place) { testFindOpen(t, several(t, p)) }},
		{"FindShowsRevocation", testFindShowsRevocation},
		{"FindRefuses", testFindRefuses},
		{"Tokens", testTokens},
		{"TokenOnce", testTokenOnce},
		{"TokenOfAKey", testTokenOfAKey},
		{"TokenWithoutKey", testTokenWithoutKey},
		{"TokenRefuses", testTokenRefuses},
		{"Revocations", testRevocations},
		{"RevocationRefuses", testRevocationRefuses},
		{"State", testState},
		{"StateOneWins", testStateOneWins},
		{"Events", func(t *testing.T, p place) {
			s := p.open(t)
			testEvents(t, []ca.Store{s})
			verify(t, s, 31)
		}},
		{"EventRefuses", testEventRefuses},
		{"Everything", testEverything},
		{"Neighbours", testNeighbours},
		{"SameSerialAtOnce", testSameSerialAtOnce},
		{"KeyOwner", func(t *testing.T, p place) { testKeyOwner(t, several(t, p)) }},
		{"KeyOwnerAtOnce", func(t *testing.T, p place) { testKeyOwnerAtOnce(t, several(t, p)) }},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
		{"ClockBack", testClockBack},
		{"Verify", testVerify},
		{"VerifyTampered", testVerifyTampered},
		{"AppendOnly", testAppendOnly},
		{"Backup", testBackup},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, fresh(t))
		})
	}
}

func testLedger(t *testing.T, p place) {
	s := p.open(t)
	want := make([]ca.Entry, 0, 20)
	for n := range 19 {
		issue(t, s, n, n+1)
		want = append(want, entryOf(n))
	}
	if err := s.Begin(t.Context(), intentOf(19)); err != nil {
		t.Fatal(err)
	}
	want = append(want, ca.Entry{Intent: intentOf(19), State: ca.StateIntended})
	slices.Reverse(want)
	check := func(s ca.Store) {
		t.Helper()
		got, next, err := s.Find(t.Context(), ca.Query{})
		if err != nil || next != "" {
			t.Fatalf("find: next %q, %v", next, err)
		}
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); d != "" {
			t.Error(d)
		}
	}
	check(s)
	verify(t, s, 1+19*2+1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = p.open(t)
	check(s)
	verify(t, s, 1+19*2+1)
	if err := s.Begin(t.Context(), intentOf(3)); !errors.Is(err, ca.ErrSerialExists) {
		t.Errorf("serial of before: %v", err)
	}
}

func testLedgerRefuses(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 7) // the last fails
	begin := func(change func(*ca.Intent)) func() error {
		return func() error {
			i := intentOf(100)
			change(&i)
			return s.Begin(t.Context(), i)
		}
	}
	finish := func(n int, change func(*ca.Outcome)) func() error {
		return func() error {
			o := outcomeOf(n)
			change(&o)
			return s.Finish(t.Context(), o)
		}
	}
	year10000 := time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name string
		do   func() error
		want string
		is   error
	}{
		{"serial of a certificate", begin(func(i *ca.Intent) { i.Serial = serialOf(1) }), "serial number is in the ledger", ca.ErrSerialExists},
		{"serial of a failure", begin(func(i *ca.Intent) { i.Serial = serialOf(6) }), "serial number is in the ledger", ca.ErrSerialExists},
		{"serial zero", begin(func(i *ca.Intent) { i.Serial = ca.Serial{} }), "serial is zero", nil},
		{"serial negative", begin(func(i *ca.Intent) { i.Serial[0] |= 0x80 }), "top bit", nil},
		{"no identity", begin(func(i *ca.Intent) { i.ID = spiffeid.ID{} }), "identity is empty", nil},
		{"no issuer", begin(func(i *ca.Intent) { i.Issuer = "" }), "issuer is empty", nil},
		{"no caller", begin(func(i *ca.Intent) { i.Caller = "" }), "caller is empty", nil},
		{"caller with NUL", begin(func(i *ca.Intent) { i.Caller = "oidc:\x00" }), "has a NUL", nil},
		{"caller not UTF-8", begin(func(i *ca.Intent) { i.Caller = "oidc:\xff" }), "not UTF-8", nil},
		{"caller long", begin(func(i *ca.Intent) { i.Caller = strings.Repeat("x", 2561) }), "more than 2560", nil},
		{"no time", begin(func(i *ca.Intent) { i.At = time.Time{} }), "between the years", nil},
		{"after time", begin(func(i *ca.Intent) { i.NotAfter = year10000 }), "between the years", nil},
		{"no life", begin(func(i *ca.Intent) { i.NotAfter = i.NotBefore }), "is not before", nil},
		{"outcome again", finish(1, func(*ca.Outcome) {}), "ended before", ca.ErrConflict},
		{"outcome of a failure again", finish(6, func(*ca.Outcome) {}), "ended before", ca.ErrConflict},
		{"outcome of nothing", finish(50, func(*ca.Outcome) {}), "no intent", ca.ErrNotFound},
		{"neither", finish(1, func(o *ca.Outcome) { o.Certificate = nil }), "either", nil},
		{"both", finish(1, func(o *ca.Outcome) { o.Failure = "x" }), "either", nil},
		{"certificate long", finish(1, func(o *ca.Outcome) { o.Certificate = make([]byte, 65<<10) }), "more than 65536", nil},
		{"failure with NUL", finish(1, func(o *ca.Outcome) { o.Certificate, o.Failure = nil, "\x00" }), "has a NUL", nil},
	} {
		err := test.do()
		if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("%s: %v is about the store", test.name, err)
		}
	}
	verify(t, s, 1+7*2)
}

func testRevocations(t *testing.T, p place) {
	s := p.open(t)
	serial := ca.Revocation{Serial: serialOf(1), Reason: "keyCompromise", By: "unix:root", At: epoch, Until: epoch.Add(time.Hour)}
	id := ca.Revocation{ID: idOf("/ns/x/sa/y"), Reason: "cessationOfOperation", By: "unix:root", At: epoch.Add(2 * time.Second)}
	key := ca.Revocation{KeyHash: [32]byte{7}, Reason: "keyCompromise", At: epoch.Add(time.Second), Until: epoch.Add(2 * time.Hour)}
	revoked := func(now time.Time, want ...ca.Revocation) {
		t.Helper()
		got, err := s.Revoked(t.Context(), now)
		if d := cmp.Diff(want, got, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); err != nil || d != "" {
			t.Errorf("at %v: %v %s", now, err, d)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	revoked(epoch)
	for _, r := range []ca.Revocation{serial, id, key} {
		do(s.Revoke(t.Context(), r))
	}
	revoked(epoch, serial, key, id)
	revoked(epoch.Add(-2*365*24*time.Hour), serial, key, id) // a clock that was set back lifts nothing
	revoked(serial.Until, key, id)
	revoked(key.Until, id)

	// Again: not for less long and since the first time, with the new reason.
	again := serial
	again.At, again.Until, again.Reason, again.By = epoch.Add(time.Minute), epoch.Add(time.Minute*2), "superseded", "unix:other"
	do(s.Revoke(t.Context(), again))
	again.At, again.Until = serial.At, serial.Until
	revoked(epoch, again, key, id)
	again.Until = time.Time{}
	do(s.Revoke(t.Context(), again))
	revoked(serial.Until, again, key, id)

	// What had run out starts anew.
	late := key
	late.At, late.Until = key.Until.Add(time.Second), key.Until.Add(time.Hour)
	do(s.Revoke(t.Context(), late))
	revoked(key.Until.Add(time.Second), again, id, late)

	if err := s.Unrevoke(t.Context(), ca.Revocation{Serial: serialOf(1), At: epoch}); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("lift a certificate's: %v", err)
	}
	do(s.Unrevoke(t.Context(), ca.Revocation{ID: id.ID, By: "unix:root", At: epoch}))
	revoked(epoch, again, late)
	if err := s.Unrevoke(t.Context(), ca.Revocation{ID: id.ID, At: epoch}); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("lift again: %v", err)
	}
	if err := s.Unrevoke(t.Context(), ca.Revocation{KeyHash: [32]byte{8}, At: epoch}); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("lift what never was: %v", err)
	}
	id.At = epoch.Add(3 * time.Second)
	do(s.Revoke(t.Context(), id))
	revoked(epoch, again, id, late)
	verify(t, s, 1+3+3+1+1)
}

func testRevocationRefuses(t *testing.T, p place) {
	s := p.open(t)
	for _, r := range []ca.Revocation{
		{At: epoch},
		{Serial: serialOf(1), ID: idOf("/x"), At: epoch},
		{ID: idOf("/x"), KeyHash: [32]byte{1}, At: epoch},
		{Serial: serialOf(1)},
		{Serial: serialOf(1), At: epoch, Reason: "\x00"},
		{Serial: serialOf(1), At: epoch, Until: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if err := s.Revoke(t.Context(), r); err == nil || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("%+v: %v", r, err)
		}
		if err := s.Unrevoke(t.Context(), r); err == nil {
			t.Errorf("lift %+v: accepted", r)
		}
	}
	verify(t, s, 1)
}

func testState(t *testing.T, p place) {
	s := p.open(t)
	if _, v, err := s.Get(t.Context(), "root"); !errors.Is(err, ca.ErrNotFound) || v != 0 {
		t.Errorf("no value: version %d, %v", v, err)
	}
	for i, value := range []string{"one", "", "three\x00\xff"} {
		if err := s.Put(t.Context(), "root", []byte(value), int64(i)); err != nil {
			t.Fatal(err)
		}
		got, v, err := s.Get(t.Context(), "root")
		if err != nil || string(got) != value || v != int64(i+1) {
			t.Errorf("get: %q version %d, %v, want %q", got, v, err, value)
		}
	}
	for _, v := range []int64{0, 2, 4, -1} {
		if err := s.Put(t.Context(), "root", []byte("x"), v); !errors.Is(err, ca.ErrConflict) {
			t.Errorf("put at version %d: %v", v, err)
		}
	}
	if err := s.Put(t.Context(), "other", nil, 1); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("first version 1: %v", err)
	}
	for _, key := range []string{"", "a\x00", strings.Repeat("k", 513)} {
		if err := s.Put(t.Context(), key, nil, 0); err == nil || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("key %.10q: %v", key, err)
		}
		if _, _, err := s.Get(t.Context(), key); err == nil || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("get key %.10q: %v", key, err)
		}
	}
	if err := s.Put(t.Context(), "big", make([]byte, 1<<20+1), 0); err == nil || errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("too big: %v", err)
	}
	if err := s.Put(t.Context(), "big", make([]byte, 1<<20), 0); err != nil {
		t.Errorf("as big as allowed: %v", err)
	}
	verify(t, s, 1+4)
}

// testStateOneWins: of many that write the version they read, one does.
func testStateOneWins(t *testing.T, p place) {
	stores := several(t, p)
	for version := range int64(5) {
		errs := atOnce(24, func(i int) error {
			return stores[i%len(stores)].Put(t.Context(), "phase", fmt.Appendf(nil, "by %d", i), version)
		})
		if got := count(errs, nil); got != 1 {
			t.Errorf("version %d: %d wrote it", version, got)
		}
		if got := count(errs, ca.ErrConflict); got != 23 {
			t.Errorf("version %d: %d conflicts, %v", version, got, errs)
		}
	}
	verify(t, stores[0], 1+5)
}

func testEvents(t *testing.T, stores []ca.Store) {
	s := stores[0]
	var want []ca.Event
	for i := range 30 {
		e := ca.Event{At: epoch.Add(time.Duration(i) * 7 * time.Minute), By: "unix:root", What: "token_created", Detail: fmt.Sprintf(`{"n": %d,  "s":"<&>"}`, i)}
		if err := s.Record(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	slices.Reverse(want)
	for _, test := range []struct {
		after, before int // minutes after epoch, -1 = none
		limit         int
		want          []ca.Event
	}{
		{-1, -1, 0, want},
		{-1, -1, 3, want[:3]},
		{7 * 10, -1, 0, want[:20]},
		{-1, 7 * 10, 0, want[20:]},
		{7 * 5, 7 * 10, 0, want[20:25]},
		{7 * 5, 7 * 10, 2, want[20:22]},
		{7*5 + 1, 7*6 + 1, 0, want[23:24]},
		{7 * 100, -1, 0, nil},
		{-1, 0, 0, nil},
	} {
		var after, before time.Time
		if test.after >= 0 {
			after = epoch.Add(time.Duration(test.after) * time.Minute)
		}
		if test.before >= 0 {
			before = epoch.Add(time.Duration(test.before) * time.Minute)
		}
		got, err := s.Events(t.Context(), after, before, test.limit)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("after %d, before %d, limit %d: %d events, %v\n%v", test.after, test.before, test.limit, len(got), err, got)
		}
	}
}

func testEventRefuses(t *testing.T, p place) {
	s := p.open(t)
	for _, e := range []ca.Event{
		{What: "x"}, {At: epoch}, {At: epoch, What: "x\x00"}, {At: epoch, What: "x", Detail: strings.Repeat("x", 64<<10+1)},
		{At: epoch, What: "x", Detail: "not JSON"}, {At: epoch, What: "x", Detail: `["no object"]`},
	} {
		if err := s.Record(t.Context(), e); err == nil || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("%+.40v: %v", e, err)
		}
	}
	for _, limit := range []int{-1, 1001} {
		if _, err := s.Events(t.Context(), time.Time{}, time.Time{}, limit); err == nil {
			t.Errorf("limit %d: accepted", limit)
		}
	}
}

// several opens a place as often as it allows.
func several(t *testing.T, p place) []ca.Store {
	stores := []ca.Store{p.open(t)}
	if p.shared {
		stores = append(stores, p.open(t), p.open(t))
	}
	return stores
}

// atOnce runs n calls at the same time.
func atOnce(n int, call func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = call(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// count says how many of errs are the given one.
func count(errs []error, is error) (n int) {
	for _, err := range errs {
		if is == nil && err == nil || is != nil && errors.Is(err, is) {
			n++
		}
	}
	return n
}

func testCancelled(t *testing.T, p place) {
	s := p.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Begin(ctx, intentOf(1)); !errors.Is(err, context.Canceled) || !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("begin: %v", err)
	}
	if _, _, err := s.Find(ctx, ca.Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("find: %v", err)
	}
	if _, err := s.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("verify: %v", err)
	}
	issue(t, s, 1, 2) // and nothing has come of it
	verify(t, s, 3)
}

func testClosed(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 1)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Begin(t.Context(), intentOf(1)); !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("begin: %v", err)
	}
	if _, _, err := s.Find(t.Context(), ca.Query{}); !errors.Is(err, ca.ErrUnavailable) {
		t.Errorf("find: %v", err)
	}
}
