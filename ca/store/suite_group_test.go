package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// testNeighbours: those that are refused do not harm those that are written in the same group.
func testNeighbours(t *testing.T, p place) {
	stores := several(t, p)
	issue(t, stores[0], 0, 10)
	const good = 200
	odd := []string{"\x00", "\xff\xfe", "'; DROP TABLE journal; --", "$1", "?", strings.Repeat("x", 3000), "\u2028 \U0001f511"}
	errs := atOnce(2*good, func(i int) error {
		s := stores[i%len(stores)]
		n := 100 + i/2
		if i%2 == 0 {
			return errors.Join(s.Begin(t.Context(), intentOf(n)), s.Finish(t.Context(), outcomeOf(n)))
		}
		bad := intentOf(n % 10) // its serial is taken
		bad.Caller = odd[n%len(odd)]
		if s.Begin(t.Context(), bad) == nil {
			return fmt.Errorf("caller %.10q and a serial that is taken: accepted", bad.Caller)
		}
		if s.Finish(t.Context(), outcomeOf(n%10)) == nil {
			return errors.New("a second outcome: accepted")
		}
		if _, err := s.TakeToken(t.Context(), [32]byte{byte(n)}, [32]byte{1}, epoch); !errors.Is(err, ca.ErrNotFound) {
			return err
		}
		return nil
	})
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	verify(t, stores[0], 1+20+2*good)
}

// testSameSerialAtOnce: of many intents with one serial, in one group, one is recorded.
func testSameSerialAtOnce(t *testing.T, p place) {
	stores := several(t, p)
	for n := range 5 {
		errs := atOnce(24, func(i int) error { return stores[i%len(stores)].Begin(t.Context(), intentOf(n)) })
		if count(errs, nil) != 1 || count(errs, ca.ErrSerialExists) != 23 {
			t.Errorf("begin: %v", errs)
		}
		errs = atOnce(24, func(i int) error { return stores[i%len(stores)].Finish(t.Context(), outcomeOf(n)) })
		if count(errs, nil) != 1 || count(errs, ca.ErrConflict) != 23 {
			t.Errorf("finish: %v", errs)
		}
	}
	verify(t, stores[0], 1+10)
}

// testClockBack: with a clock two years back, records follow in the order they were made, and nothing is hidden.
func testClockBack(t *testing.T, p place) {
	s := p.open(t)
	issue(t, s, 0, 5)
	const back = -2 * 365 * 24 * time.Hour
	for n := 5; n < 10; n++ {
		i := intentOf(n)
		i.At, i.NotBefore, i.NotAfter = i.At.Add(back), i.NotBefore.Add(back), i.NotAfter.Add(back)
		if err := errors.Join(s.Begin(t.Context(), i), s.Finish(t.Context(), outcomeOf(n))); err != nil {
			t.Fatal(err)
		}
	}
	find := func(q ca.Query, want ...int) {
		t.Helper()
		for _, limit := range []int{0, 2} {
			q.Limit = limit
			if got := numbers(t, findAll(t, s, q)); !slices.Equal(got, want) {
				t.Errorf("%+v: got %v, want %v", q, got, want)
			}
		}
	}
	find(ca.Query{}, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
	find(ca.Query{After: epoch}, 4, 3, 2, 1, 0)
	find(ca.Query{Before: epoch}, 9, 8, 7, 6, 5)
	find(ca.Query{LiveAt: epoch}, 4, 3, 2, 1, 0)
	find(ca.Query{LiveAt: epoch.Add(back)}, 4, 3, 2, 1, 0, 9, 8, 7, 5)
	verify(t, s, 21)
}

// testVerify: a store with one of everything, changed often, holds together while others write.
func testVerify(t *testing.T, p place) {
	stores := several(t, p)
	done := make(chan error)
	go func() {
		done <- errors.Join(atOnce(8, func(i int) error {
			var errs []error
			for n := i * 100; n < i*100+15; n++ {
				errs = append(errs, everyChange(t, stores[i%len(stores)], n))
			}
			return errors.Join(errs...)
		})...)
	}()
	for last := int64(0); ; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			verify(t, stores[0], 1+8*15*12)
			return
		default:
		}
		n, err := stores[0].Verify(t.Context())
		if err != nil || n < last {
			t.Fatalf("%d records after %d, %v", n, last, err)
		}
		last = n
	}
}

// everyChange makes twelve records, of all kinds.
func everyChange(t *testing.T, s ca.Store, n int) error {
	ctx := t.Context()
	used := ca.Token{Hash: intentOf(n).KeyHash, IDs: []spiffeid.ID{idOf("/n/%d", n), idOf("/n/%d", n+1)}, Created: epoch, Expires: at(100)}
	expired, kept := used, used
	expired.Hash[0]++
	kept.Hash[0]--
	id := ca.Revocation{ID: idOf("/n/%d", n), At: at(n), Reason: "unspecified"}
	_, err := s.TakeToken(ctx, used.Hash, intentOf(n).KeyHash, epoch)
	if !errors.Is(err, ca.ErrNotFound) {
		return err
	}
	errs := []error{
		s.Begin(ctx, intentOf(n)), s.Finish(ctx, outcomeOf(n)),
		s.PutToken(ctx, used), s.PutToken(ctx, expired), s.PutToken(ctx, kept),
		s.Revoke(ctx, ca.Revocation{Serial: serialOf(n), At: at(n), Until: at(n + 10)}),
		s.Revoke(ctx, id), s.Unrevoke(ctx, id),
		s.Put(ctx, fmt.Sprintf("key %d", n), []byte("value"), 0),
		s.Record(ctx, ca.Event{At: at(n), What: "x", Detail: "{}"}),
	}
	if _, err := s.TakeToken(ctx, used.Hash, intentOf(n).KeyHash, epoch); err != nil {
		errs = append(errs, err)
	}
	if _, err := s.TakeToken(ctx, expired.Hash, intentOf(n).KeyHash, at(100)); !errors.Is(err, ca.ErrNotFound) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
