package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

func testTokens(t *testing.T, p place) {
	s := p.open(t)
	a, b, c := idOf("/node/a"), idOf("/node/b"), idOf("/node/c")
	key, another := intentOf(1).KeyHash, intentOf(2).KeyHash
	want := ca.Token{Hash: [32]byte{1}, IDs: []spiffeid.ID{b, a}, Node: "n1", Expires: epoch.Add(time.Hour), Created: epoch, By: "unix:root"}
	expired := ca.Token{Hash: [32]byte{2}, IDs: []spiffeid.ID{a, c}, Expires: epoch.Add(time.Minute), Created: epoch}
	other := ca.Token{Hash: [32]byte{3}, IDs: []spiffeid.ID{b, c}, Expires: epoch.Add(time.Hour), Created: epoch}
	for _, token := range []ca.Token{want, expired, other} {
		if err := s.PutToken(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutToken(t.Context(), want); !errors.Is(err, ca.ErrConflict) {
		t.Errorf("same hash again: %v", err)
	}
	grants := func(token ca.Token, want ...spiffeid.ID) {
		t.Helper()
		got, err := s.Grants(t.Context(), token.Hash)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("grants of token %d: %v, %v, want %v", token.Hash[0], got, err, want)
		}
	}
	grants(want)
	got, err := s.TakeToken(t.Context(), want.Hash, key, epoch.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b })); d != "" {
		t.Error(d)
	}
	grants(want, a, b)
	grants(other)

	// The same key again: the same answer, and nothing is written.
	if again, err := s.TakeToken(t.Context(), want.Hash, key, want.Expires.Add(-1)); err != nil || !slices.Equal(again.IDs, want.IDs) || !again.Expires.Equal(want.Expires) {
		t.Errorf("the same key again: %v, %v", again, err)
	}
	grants(want, a, b)

	// Used by another key, expired to the instant, burnt by that, and unknown: one answer.
	var answers []string
	for _, take := range []struct {
		hash byte
		now  time.Time
	}{{1, epoch.Add(time.Minute)}, {2, expired.Expires}, {2, epoch}, {9, epoch}} {
		token, err := s.TakeToken(t.Context(), [32]byte{take.hash}, another, take.now)
		if !errors.Is(err, ca.ErrNotFound) || token.IDs != nil || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("token %d: %v, %v", take.hash, token, err)
		}
		answers = append(answers, err.Error())
	}
	if len(slices.Compact(answers)) != 1 {
		t.Errorf("answers differ: %q", answers)
	}
	// All of them were written and synced: the expired one in the journal, the others as a number.
	if misses, err := s.ReadRows(t.Context(), `SELECT CAST(misses AS TEXT) FROM head`, 1); err != nil || !slices.Equal(misses, []string{"3"}) {
		t.Errorf("misses %v, %v", misses, err)
	}
	grants(want, a, b)
	grants(expired)
	if _, err := s.TakeToken(t.Context(), other.Hash, key, epoch); err != nil {
		t.Fatal(err)
	}
	grants(want, a, b) // two nodes that share an identity do not share the others
	grants(other, b, c)
	verify(t, s, 1+3+3)
}

// testTokenOnce: of many that present a token at once, each with a key of its own, one gets it.
func testTokenOnce(t *testing.T, p place) {
	stores := several(t, p)
	for round := range 5 {
		token := ca.Token{Hash: [32]byte{1, byte(round)}, IDs: []spiffeid.ID{idOf("/n/%d", round)}, Expires: epoch.Add(time.Hour), Created: epoch}
		if err := stores[0].PutToken(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		errs := atOnce(32, func(i int) error {
			_, err := stores[i%len(stores)].TakeToken(t.Context(), token.Hash, intentOf(i).KeyHash, epoch)
			return err
		})
		if got := count(errs, nil); got != 1 {
			t.Errorf("%d took the token", got)
		}
		if got := count(errs, ca.ErrNotFound); got != 31 {
			t.Errorf("%d were told that there is none: %v", got, errs)
		}
	}
	verify(t, stores[0], 1+5*2)
}

func testTokenRefuses(t *testing.T, p place) {
	s := p.open(t)
	many := make([]spiffeid.ID, 257)
	for i := range many {
		many[i] = idOf("/n/%d", i)
	}
	for _, test := range []struct {
		change func(*ca.Token)
		want   string
	}{
		{func(k *ca.Token) { k.Hash = [32]byte{} }, "hash is zero"},
		{func(k *ca.Token) { k.IDs = nil }, "0 identities"},
		{func(k *ca.Token) { k.IDs = many }, "257 identities"},
		{func(k *ca.Token) { k.IDs = []spiffeid.ID{{}} }, "empty or given twice"},
		{func(k *ca.Token) { k.IDs = append(k.IDs, k.IDs...) }, "empty or given twice"},
		{func(k *ca.Token) { k.Expires = time.Time{} }, "expiry"},
		{func(k *ca.Token) { k.Created = time.Time{} }, "creation"},
		{func(k *ca.Token) { k.Node = "\x00" }, "has a NUL"},
	} {
		k := ca.Token{Hash: [32]byte{1}, IDs: []spiffeid.ID{idOf("/n/1")}, Expires: epoch.Add(1), Created: epoch}
		test.change(&k)
		if err := s.PutToken(t.Context(), k); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
	if _, err := s.TakeToken(t.Context(), [32]byte{1}, [32]byte{1}, time.Time{}); err == nil || errors.Is(err, ca.ErrNotFound) {
		t.Errorf("without a time: %v", err)
	}
}

// tokenOf is a join token of an hour.
func tokenOf(n int) ca.Token {
	return ca.Token{Hash: [32]byte{1, byte(n)}, IDs: []spiffeid.ID{idOf("/n/%d", n)}, Node: "n", Expires: epoch.Add(time.Hour), Created: epoch, By: "unix:root"}
}

// testTokenOfAKey: a token that one key has used is good again for that key, whoever else asks meanwhile, through whatever
// store and after a restart, until it expires or a certificate of the key is revoked.
func testTokenOfAKey(t *testing.T, p place) {
	stores := several(t, p)
	s := stores[0]
	keys := [][32]byte{intentOf(0).KeyHash, intentOf(1).KeyHash}
	for round := range 5 {
		token := tokenOf(round)
		must(t, s.PutToken(t.Context(), token))
		errs := atOnce(32, func(i int) error {
			_, err := stores[i%len(stores)].TakeToken(t.Context(), token.Hash, keys[i/2%2], epoch)
			return err
		})
		var won [2]int
		for i, err := range errs {
			switch {
			case err == nil:
				won[i/2%2]++
			case !errors.Is(err, ca.ErrNotFound):
				t.Error(err)
			}
		}
		if slices.Sort(won[:]); won != [2]int{0, 16} {
			t.Errorf("calls that two keys won: %v, want all of one and none of the other", won)
		}
	}
	verify(t, s, 1+5*2)

	token := tokenOf(100)
	must(t, s.PutToken(t.Context(), token))
	take := func(s ca.Store, key [32]byte, now time.Time) error {
		got, err := s.TakeToken(t.Context(), token.Hash, key, now)
		if err == nil && (!slices.Equal(got.IDs, token.IDs) || got.Node != token.Node || got.By != token.By || !got.Expires.Equal(token.Expires) || !got.Created.Equal(token.Created)) {
			t.Errorf("token %+v, want %+v", got, token)
		}
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ca.ErrNotFound) || errors.Is(err, ca.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, take(s, keys[0], epoch), take(s, keys[0], epoch))
	for _, s := range stores {
		must(t, s.Close())
	}
	s = p.open(t)
	must(t, take(s, keys[0], token.Expires.Add(-time.Microsecond)))
	refused("another key", take(s, keys[1], epoch))
	refused("no key", take(s, [32]byte{}, epoch))
	refused("expired", take(s, keys[0], token.Expires))
	must(t, take(s, keys[0], epoch)) // having asked too late spoils nothing

	must(t, s.Begin(t.Context(), intentOf(0)), s.Finish(t.Context(), outcomeOf(0)), s.Begin(t.Context(), intentOf(1)))
	must(t, s.Revoke(t.Context(), ca.Revocation{Serial: serialOf(1), At: epoch}), take(s, keys[0], epoch))
	must(t, s.Revoke(t.Context(), ca.Revocation{Serial: serialOf(0), At: epoch}))
	refused("after its certificate was revoked", take(s, keys[0], epoch))
	if ids, err := s.Grants(t.Context(), token.Hash); err != nil || !slices.Equal(ids, token.IDs) {
		t.Errorf("grants %v, %v", ids, err)
	}
	verify(t, s, 1+5*2+2+3+2)
}

// testTokenWithoutKey: a use without a key is the only one.
func testTokenWithoutKey(t *testing.T, p place) {
	s := p.open(t)
	must(t, s.PutToken(t.Context(), tokenOf(1)))
	_, err := s.TakeToken(t.Context(), tokenOf(1).Hash, [32]byte{}, epoch)
	must(t, err)
	for _, key := range [][32]byte{{}, {1}} {
		if _, err := s.TakeToken(t.Context(), tokenOf(1).Hash, key, epoch); !errors.Is(err, ca.ErrNotFound) {
			t.Errorf("key %x: %v", key[:1], err)
		}
	}
	verify(t, s, 3)
}
