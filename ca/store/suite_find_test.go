package store_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// findAll collects all pages of a query.
func findAll(t *testing.T, s ca.Store, q ca.Query) []ca.Entry {
	t.Helper()
	var all []ca.Entry
	for {
		page, next, err := s.Find(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		limit := q.Limit
		if limit == 0 {
			limit = 100
		}
		if len(page) > limit || next != "" && len(page) != limit {
			t.Fatalf("a page of %d, next %q, limit %d", len(page), next, limit)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		q.Cursor = next
	}
}

// numbers says which of the numbered certificates entries are.
func numbers(t *testing.T, entries []ca.Entry) []int {
	t.Helper()
	of := make(map[ca.Serial]int)
	for n := range 1000 {
		of[serialOf(n)] = n
	}
	out := make([]int, len(entries))
	for i, e := range entries {
		n, known := of[e.Serial]
		if !known {
			t.Fatalf("unknown serial %x", e.Serial)
		}
		out[i] = n
	}
	return out
}

// where lists, newest first, the numbers below limit for which keep is true.
func where(limit int, keep func(n int) bool) []int {
	var out []int
	for n := limit - 1; n >= 0; n-- {
		if keep(n) {
			out = append(out, n)
		}
	}
	return out
}

func at(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

func testFind(t *testing.T, p place) {
	const total = 120
	s := p.open(t)
	for n := range total {
		i := intentOf(n)
		i.At = at(n * 60) // over two hours: several spans
		if err := errors.Join(s.Begin(t.Context(), i), s.Finish(t.Context(), outcomeOf(n))); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		q    ca.Query
		want func(n int) bool
	}{
		{"all", ca.Query{}, func(int) bool { return true }},
		{"identity", ca.Query{ID: intentOf(3).ID}, func(n int) bool { return n%10 == 3 }},
		{"serial", ca.Query{Serial: serialOf(17)}, func(n int) bool { return n == 17 }},
		{"serial and other identity", ca.Query{Serial: serialOf(17), ID: intentOf(3).ID}, func(int) bool { return false }},
		{"unknown serial", ca.Query{Serial: serialOf(total)}, func(int) bool { return false }},
		{"caller", ca.Query{Caller: intentOf(1).Caller}, func(n int) bool { return n%3 == 1 }},
		{"issuer", ca.Query{Issuer: "issuer-1"}, func(n int) bool { return n%2 == 1 }},
		{"key", ca.Query{KeyHash: intentOf(5).KeyHash}, func(n int) bool { return n == 5 }},
		{"after", ca.Query{After: at(60 * 50)}, func(n int) bool { return n >= 50 }},
		{"before", ca.Query{Before: at(60 * 50)}, func(n int) bool { return n < 50 }},
		{"between", ca.Query{After: at(60 * 20), Before: at(60*40 + 1)}, func(n int) bool { return n >= 20 && n <= 40 }},
		{"in between", ca.Query{After: at(60*20 + 1), Before: at(60 * 21)}, func(int) bool { return false }},
		{"long ago", ca.Query{Before: at(-1)}, func(int) bool { return false }},
		{"in the future", ca.Query{After: at(1e6)}, func(int) bool { return false }},
		{"identity between", ca.Query{ID: intentOf(3).ID, After: at(60 * 20), Before: at(60 * 60)}, func(n int) bool { return n%10 == 3 && n >= 20 && n < 60 }},
		{"issuer, caller and identity", ca.Query{Issuer: "issuer-1", Caller: "oidc:caller-0", ID: intentOf(3).ID}, func(n int) bool { return n%30 == 3 }},
	} {
		want := where(total, test.want)
		for _, limit := range []int{0, 1, 7, 1000} {
			test.q.Limit = limit
			if got := numbers(t, findAll(t, s, test.q)); !slices.Equal(got, want) {
				t.Errorf("%s, limit %d: got %v, want %v", test.name, limit, got, want)
			}
		}
	}
}

// testFindOpen: intents that have no outcome, and no others.
func testFindOpen(t *testing.T, stores []ca.Store) {
	first, last := stores[0], stores[len(stores)-1]
	open := map[int]bool{2: true, 11: true, 12: true, 19: true}
	for n := range 20 {
		must(t, first.Begin(t.Context(), intentOf(n)))
		if !open[n] {
			must(t, first.Finish(t.Context(), outcomeOf(n)))
		}
	}
	for _, test := range []struct {
		q    ca.Query
		want []int
	}{
		{ca.Query{Open: true}, []int{19, 12, 11, 2}},
		{ca.Query{Open: true, Limit: 1}, []int{19, 12, 11, 2}},
		{ca.Query{Open: true, Before: at(12)}, []int{11, 2}},
		{ca.Query{Open: true, ID: intentOf(2).ID}, []int{12, 2}},
		{ca.Query{Open: true, Issuer: intentOf(2).Issuer}, []int{12, 2}},
		{ca.Query{Open: true, Serial: serialOf(3)}, nil},
		{ca.Query{Open: true, LiveAt: epoch}, nil},
	} {
		if got := numbers(t, findAll(t, last, test.q)); !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %v, want %v", test.q, got, test.want)
		}
	}
	for n := range open {
		must(t, first.Finish(t.Context(), outcomeOf(n)))
	}
	if got := findAll(t, last, ca.Query{Open: true}); len(got) != 0 {
		t.Errorf("%d open after all have ended", len(got))
	}
}

// testFindPages: what is added between pages does not shift them.
func testFindPages(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 10)
	var got []int
	q := ca.Query{Limit: 3}
	for n := 10; ; n++ {
		page, next, err := s.Find(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, numbers(t, page)...)
		if next == "" {
			break
		}
		q.Cursor = next
		issue(t, s, n, n+1)
	}
	if want := where(10, func(int) bool { return true }); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func testFindLive(t *testing.T, p place) {
	const total = 60
	s := p.open(t)
	for n := range total { // each one lives an hour from its second
		issue(t, s, n, n+1)
	}
	if err := s.Begin(t.Context(), intentOf(total)); err != nil { // never ends
		t.Fatal(err)
	}
	for _, r := range []ca.Revocation{
		{Serial: serialOf(40), At: at(100), Until: at(200)}, // a certificate is for good, whatever until says
		{ID: intentOf(2).ID, At: at(200)},
		{KeyHash: intentOf(43).KeyHash, At: at(100), Until: at(3640)},
		{ID: intentOf(4).ID, At: at(100)},
	} {
		if err := s.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unrevoke(t.Context(), ca.Revocation{ID: intentOf(4).ID, At: at(150)}); err != nil {
		t.Fatal(err)
	}
	live := func(now int, n int) bool {
		switch {
		case n%7 == 6, 3600+n <= now:
			return false
		case n == 40 && now >= 100, n%10 == 2 && now >= 200, n == 43 && now >= 100 && now < 3640:
			return false
		}
		return true
	}
	for _, now := range []int{-100, 0, 99, 100, 150, 199, 200, 3600, 3630, 3639, 3640, 3641, 3659, 3660, 10000} {
		for _, test := range []struct {
			name string
			q    ca.Query
			want func(n int) bool
		}{
			{"all", ca.Query{}, func(int) bool { return true }},
			{"issuer", ca.Query{Issuer: "issuer-1"}, func(n int) bool { return n%2 == 1 }},
			{"identity", ca.Query{ID: intentOf(2).ID}, func(n int) bool { return n%10 == 2 }},
			{"caller", ca.Query{Caller: "oidc:caller-1"}, func(n int) bool { return n%3 == 1 }},
			{"key", ca.Query{KeyHash: intentOf(43).KeyHash}, func(n int) bool { return n == 43 }},
			{"before", ca.Query{Before: at(30)}, func(n int) bool { return n < 30 }},
		} {
			test.q.LiveAt = at(now)
			want := where(total, func(n int) bool { return live(now, n) && test.want(n) })
			for _, limit := range []int{0, 1, 7} {
				test.q.Limit = limit
				if got := numbers(t, findAll(t, s, test.q)); !slices.Equal(got, want) {
					t.Errorf("%s live at %d, limit %d: got %v, want %v", test.name, now, limit, got, want)
				}
			}
		}
	}
}

func testFindShowsRevocation(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 6)
	bySerial := ca.Revocation{Serial: serialOf(1), Reason: "superseded", By: "a", At: epoch, Until: epoch.Add(time.Second)}
	byID := ca.Revocation{ID: intentOf(1).ID, Reason: "unspecified", By: "b", At: epoch}
	byKey := ca.Revocation{KeyHash: intentOf(2).KeyHash, Reason: "keyCompromise", By: "c", At: epoch}
	alsoID := ca.Revocation{ID: intentOf(2).ID, Reason: "unspecified", By: "d", At: epoch}
	onlyID := ca.Revocation{ID: intentOf(3).ID, Reason: "unspecified", By: "e", At: epoch}
	lifted := ca.Revocation{ID: intentOf(4).ID, Reason: "unspecified", At: epoch}
	over := ca.Revocation{ID: intentOf(5).ID, Reason: "unspecified", At: epoch.Add(-2), Until: epoch.Add(-1)}
	for _, r := range []ca.Revocation{bySerial, byID, byKey, alsoID, onlyID, lifted, over} {
		if err := s.Revoke(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Unrevoke(t.Context(), lifted); err != nil {
		t.Fatal(err)
	}
	want := []*ca.Revocation{nil, nil, &onlyID, &byKey, &bySerial, nil}
	for i, e := range findAll(t, s, ca.Query{}) {
		if d := cmp.Diff(want[i], e.Revoked, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); d != "" {
			t.Errorf("certificate %d: %s", 5-i, d)
		}
	}
}

func testFindRefuses(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 5)
	_, bySeq, err := s.Find(t.Context(), ca.Query{Limit: 2})
	if err != nil || bySeq == "" {
		t.Fatalf("%q, %v", bySeq, err)
	}
	_, byExpiry, err := s.Find(t.Context(), ca.Query{Limit: 2, LiveAt: epoch})
	if err != nil || byExpiry == "" {
		t.Fatalf("%q, %v", byExpiry, err)
	}
	for _, q := range []ca.Query{
		{Limit: -1}, {Limit: 1001},
		{Cursor: "x"}, {Cursor: "!"}, {Cursor: bySeq + "A"}, {Cursor: strings.Repeat("A", 1000)},
		{Cursor: byExpiry}, {Cursor: bySeq, LiveAt: epoch},
		{Cursor: "c3MxMg"}, // ss12
		{Cursor: "czAxMg"}, // s012
	} {
		if e, next, err := s.Find(t.Context(), q); err == nil || errors.Is(err, ca.ErrUnavailable) || e != nil || next != "" {
			t.Errorf("%+v: %d entries, %q, %v", q, len(e), next, err)
		}
	}
}

// testEverything compares Find with a filter over all entries, for random questions.
func testEverything(t *testing.T, p place) {
	const total = 150
	s := p.open(t)
	random := rand.New(rand.NewPCG(1, 2))
	var all []ca.Entry // oldest first
	for n := range total {
		i := intentOf(n)
		i.At = at(random.IntN(20000)) // the clock jumps
		i.NotBefore = i.At.Add(-time.Minute)
		i.NotAfter = i.At.Add(time.Duration(1+random.IntN(7200)) * time.Second)
		if err := s.Begin(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		e := ca.Entry{Intent: i, State: ca.StateIntended}
		if n%11 != 0 {
			o := outcomeOf(n)
			if err := s.Finish(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			e.State, e.Certificate, e.Failure = ca.StateIssued, o.Certificate, o.Failure
			if o.Failure != "" {
				e.State = ca.StateFailed
			}
		}
		all = append(all, e)
	}
	one := func() bool { return random.IntN(3) == 0 }
	for range 150 {
		q := ca.Query{Limit: 1 + random.IntN(40)}
		n := random.IntN(total)
		if one() {
			q.ID = intentOf(n).ID
		}
		if one() {
			q.Caller = intentOf(n).Caller
		}
		if one() {
			q.Issuer = intentOf(n).Issuer
		}
		if random.IntN(20) == 0 {
			q.KeyHash = intentOf(n).KeyHash
		}
		if one() {
			q.After = at(random.IntN(20000))
		}
		if one() {
			q.Before = at(random.IntN(20000))
		}
		if one() {
			q.LiveAt = at(random.IntN(25000))
		}
		var want []ca.Serial
		for _, e := range slices.Backward(all) {
			if matches(q, e) {
				want = append(want, e.Serial)
			}
		}
		var got []ca.Serial
		for _, e := range findAll(t, s, q) {
			got = append(got, e.Serial)
		}
		if !q.LiveAt.IsZero() { // ordered by expiry
			order := func(a, b ca.Serial) int { return slices.Compare(a[:], b[:]) }
			slices.SortFunc(want, order)
			slices.SortFunc(got, order)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: %d found, want %d", q, len(got), len(want))
		}
	}
	verify(t, s, 1+total+total-14)
}

// matches is what a query means.
func matches(q ca.Query, e ca.Entry) bool {
	return (q.ID.IsZero() || q.ID == e.ID) && (q.Caller == "" || q.Caller == e.Caller) && (q.Issuer == "" || q.Issuer == e.Issuer) &&
		(q.KeyHash == [32]byte{} || q.KeyHash == e.KeyHash) &&
		(q.After.IsZero() || !e.At.Before(q.After)) && (q.Before.IsZero() || e.At.Before(q.Before)) &&
		(q.LiveAt.IsZero() || e.State == ca.StateIssued && e.NotAfter.After(q.LiveAt))
}
