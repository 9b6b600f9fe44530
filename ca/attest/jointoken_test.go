package attest_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca/attest"
)

func TestJoinTokenWorksOnce(t *testing.T) {
	e := newEverything(t)
	evidence := attest.Evidence{Authorization: bearer(e.store.token(t, order, payment).Reveal())}
	caller, err := e.Attest(t.Context(), evidence)
	if err != nil {
		t.Fatal(err)
	}
	if caller.ID != id(t, order) || len(caller.Grants) != 2 || !strings.HasPrefix(caller.String(), "join_token:") {
		t.Errorf("caller %+v", caller)
	}
	_, err = e.Attest(t.Context(), evidence)
	wantRefusal(t, err, attest.JoinTokenRefused)
}

// TestJoinTokenOneAnswer: nobody learns from the answer whether a token ever was.
func TestJoinTokenOneAnswer(t *testing.T) {
	e := newEverything(t)
	used := e.store.token(t, order).Reveal()
	if _, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(used)}); err != nil {
		t.Fatal(err)
	}
	expired := e.store.token(t, order).Reveal()
	e.clock.advance(10 * time.Minute)
	answers := map[string]bool{}
	for _, text := range []string{
		used, expired, attest.NewJoinToken().Reveal(), attest.JoinTokenPrefix, attest.JoinTokenPrefix + "short",
		attest.NewJoinToken().Reveal() + "A", attest.JoinTokenPrefix + strings.Repeat("=", 43),
	} {
		_, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(text)})
		wantRefusal(t, err, attest.JoinTokenRefused)
		answers[err.Error()] = true
	}
	if len(answers) != 1 {
		t.Errorf("%d different answers: %v", len(answers), answers)
	}
}

func TestJoinTokenTakenByOneOfMany(t *testing.T) {
	e := newEverything(t)
	evidence := attest.Evidence{Authorization: bearer(e.store.token(t, order).Reveal())}
	var won atomic.Int32
	var callers sync.WaitGroup
	for range 200 {
		callers.Go(func() {
			if _, err := e.Attest(t.Context(), evidence); err == nil {
				won.Add(1)
			}
		})
	}
	callers.Wait()
	if won.Load() != 1 {
		t.Errorf("%d callers used one token", won.Load())
	}
}

func TestBeforeJoinKeepsTheToken(t *testing.T) {
	e := newEverything(t)
	evidence := attest.Evidence{Authorization: bearer(e.store.token(t, order).Reveal())}
	slip := errors.New("bad request")
	evidence.BeforeJoin = func() ([32]byte, error) { return [32]byte{}, slip }
	if _, err := e.Attest(t.Context(), evidence); !errors.Is(err, slip) {
		t.Errorf("error %v, want the one of BeforeJoin", err)
	}
	evidence.BeforeJoin = func() ([32]byte, error) { return [32]byte{}, nil }
	if _, err := e.Attest(t.Context(), evidence); err != nil {
		t.Errorf("the token is gone: %v", err)
	}
	if _, err := e.Attest(t.Context(), evidence); err == nil {
		t.Error("a token that was used without a key was good again")
	}
}

// TestJoinTokenOfAKey: whoever used the token may say so again, with the key that it was used for, until it expires.
func TestJoinTokenOfAKey(t *testing.T) {
	e := newEverything(t)
	evidence := attest.Evidence{Authorization: bearer(e.store.token(t, order).Reveal())}
	by := func(key byte) (*attest.Caller, error) {
		evidence.BeforeJoin = func() ([32]byte, error) { return [32]byte{key}, nil }
		return e.Attest(t.Context(), evidence)
	}
	first, err := by(1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := by(1); err != nil || again.String() != first.String() || again.ID != first.ID || len(again.Grants) != len(first.Grants) {
		t.Errorf("the same key again: %v, %v", again, err)
	}
	_, err = by(2)
	wantRefusal(t, err, attest.JoinTokenRefused)
	e.clock.advance(10 * time.Minute)
	_, err = by(1)
	wantRefusal(t, err, attest.JoinTokenRefused)
}

func TestJoinTokenOfAnotherDomain(t *testing.T) {
	for _, who := range []string{"spiffe://other.test/ns/a/sa/b", "spiffe://td.test", "spiffe://td.test/spire/agent/x"} {
		e := newEverything(t)
		if _, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(e.store.token(t, order, who).Reveal())}); err == nil {
			t.Errorf("a token for %s was accepted", who)
		}
	}
}

func TestJoinTokenWithoutStore(t *testing.T) {
	e := newEverything(t)
	text := e.store.token(t, order).Reveal()
	e.store.breakDown()
	_, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(text)})
	wantRefusal(t, err, attest.StoreUnavailable)
	if kind := attest.ReasonOf(err).Kind(); kind != attest.Unavailable {
		t.Errorf("kind %v: the node would not try again", kind)
	}
}

func TestJoinTokenIsNotShown(t *testing.T) {
	made := attest.NewJoinToken()
	secret := strings.TrimPrefix(made.Reveal(), attest.JoinTokenPrefix)
	for _, format := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if text := fmt.Sprintf(format, made); strings.Contains(text, secret) {
			t.Errorf("%s shows the token: %s", format, text)
		}
	}
	if made.Reveal() == attest.NewJoinToken().Reveal() || len(secret) != 43 {
		t.Errorf("token %q is not 256 random bits", made.Reveal())
	}
}
