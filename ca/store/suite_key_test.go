package store_test

import (
	"errors"
	"testing"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// TestMemstore: the store that other packages test with does what the durable ones do, where it matters to them.
func TestMemstore(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T, stores []ca.Store){
		"KeyOwner": testKeyOwner, "KeyOwnerAtOnce": testKeyOwnerAtOnce, "Events": testEvents, "FindOpen": testFindOpen,
	} {
		t.Run(name, func(t *testing.T) { test(t, []ca.Store{memstore.New(t)}) })
	}
}

// intentWith is the nth intent, for an identity and the key of another.
func intentWith(n int, id spiffeid.ID, key int) ca.Intent {
	i := intentOf(n)
	i.ID, i.KeyHash = id, intentOf(key).KeyHash
	return i
}

// testKeyOwner: a key belongs to the identity that it was first intended for, whatever came of that, and whichever
// connection asks.
func testKeyOwner(t *testing.T, stores []ca.Store) {
	owner, other := idOf("/ns/a/sa/owner"), idOf("/ns/a/sa/other")
	first, last := stores[0], stores[len(stores)-1]
	begin := func(s ca.Store, n int, id spiffeid.ID, want error) {
		t.Helper()
		if err := s.Begin(t.Context(), intentWith(n, id, 0)); !errors.Is(err, want) {
			t.Errorf("intent %d for %s: %v, want %v", n, id, err, want)
		}
	}
	begin(first, 0, owner, nil)
	begin(last, 1, other, ca.ErrKeyInUse) // while the intent is open
	if err := first.Finish(t.Context(), ca.Outcome{Serial: serialOf(0), Failure: "no", At: epoch}); err != nil {
		t.Fatal(err)
	}
	begin(last, 2, other, ca.ErrKeyInUse) // although nothing came of it
	begin(last, 3, owner, nil)
	if err := first.Finish(t.Context(), outcomeOf(3)); err != nil {
		t.Fatal(err)
	}
	begin(first, 4, other, ca.ErrKeyInUse)
	begin(last, 5, owner, nil) // again, as one that renews without a new key
	if err := first.Begin(t.Context(), intentWith(6, other, 6)); err != nil {
		t.Errorf("a key of its own: %v", err)
	}
	for _, n := range []int{1, 2, 4} { // what was refused has left nothing
		if got := findAll(t, first, ca.Query{Serial: serialOf(n)}); len(got) != 0 {
			t.Errorf("%d is in the ledger: %+v", n, got)
		}
	}
}

// testKeyOwnerAtOnce: of two identities that ask for one key at the same moment, one gets it, all of its requests and
// none of the other's.
func testKeyOwnerAtOnce(t *testing.T, stores []ca.Store) {
	ids := []spiffeid.ID{idOf("/ns/a/sa/one"), idOf("/ns/a/sa/two")}
	const callers = 24
	for round := range 10 {
		errs := atOnce(callers, func(i int) error {
			// Each identity through every connection.
			return stores[i/2%len(stores)].Begin(t.Context(), intentWith(round*callers+i, ids[i%2], round*callers))
		})
		won := [2]int{}
		for i, err := range errs {
			switch {
			case err == nil:
				won[i%2]++
			case !errors.Is(err, ca.ErrKeyInUse) || errors.Is(err, ca.ErrUnavailable):
				t.Errorf("round %d: %v", round, err)
			}
		}
		if won != [2]int{callers / 2, 0} && won != [2]int{0, callers / 2} {
			t.Errorf("round %d: %d and %d intents for one key", round, won[0], won[1])
		}
	}
	if _, err := stores[0].Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
