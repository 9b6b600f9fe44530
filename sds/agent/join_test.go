package agent_test

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"
)

// joins has an authority that binds join tokens to keys as ours does, and loses the first answers.
func joins(w *world, lost int) {
	var bound *ecdsa.PublicKey
	w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
		if c.Bearer == "" {
			return c.issue()
		}
		key := c.Key.(*ecdsa.PublicKey)
		if bound == nil {
			bound = key
		}
		if !bound.Equal(key) {
			return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
		}
		if lost > 0 {
			lost--
			return nil, status.Error(codes.Unavailable, "the connection broke")
		}
		return c.certify(nodeID, nil), nil
	}
}

// keysOf are the keys that join tokens came with.
func keysOf(w *world) (keys []*ecdsa.PublicKey) {
	for _, c := range w.seen() {
		if c.Bearer != "" {
			keys = append(keys, c.Key.(*ecdsa.PublicKey))
		}
	}
	return keys
}

func joinUnderWay(t *testing.T, w *world) bool {
	t.Helper()
	info, err := os.Stat(filepath.Join(w.dir, "state", "join.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err == nil && info.Mode() != 0o600 {
		t.Errorf("join.json has mode %v", info.Mode())
	}
	return err == nil
}

// TestLostAnswer: the authority used the token, and its answer is lost: asking again with the same key gets one, and
// renewals have keys of their own.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		joins(w, 2)
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		a.ready(t)
		keys := keysOf(w)
		if len(keys) != 3 || !keys[0].Equal(keys[1]) || !keys[0].Equal(keys[2]) {
			t.Errorf("keys %v", keys)
		}
		if joinUnderWay(t, w) {
			t.Error("the key of the join is still in the state")
		}
		pass(40 * time.Minute)
		for _, c := range w.seen()[len(keys):] {
			if keys[0].Equal(c.Key) {
				t.Errorf("the key of the join is used for %q", c.Asked)
			}
		}
	})
}

// TestLostAnswerAndRestart: the agent ends before it has an answer, however it does, and its state has the key.
func TestLostAnswerAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		joins(w, 1)
		stop := w.serve("a.test:8081", nil)
		a := w.start(nil)
		pass(time.Millisecond)
		stop()
		a.stop()
		if len(keysOf(w)) != 1 || !joinUnderWay(t, w) {
			t.Fatalf("%d calls, key in the state: %v", len(keysOf(w)), joinUnderWay(t, w))
		}
		w.serve("a.test:8081", nil)
		w.start(nil).ready(t)
		if keys := keysOf(w); len(keys) != 2 || !keys[0].Equal(keys[1]) {
			t.Errorf("keys %v", keys)
		}
		if joinUnderWay(t, w) {
			t.Error("the key of the join is still in the state")
		}
	})
}

// TestJoinIsForgotten: a no ends a join, another token is another join, and a key that cannot be read is replaced.
func TestJoinIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
			return nil, status.Error(codes.InvalidArgument, "no")
		}
		stop := w.serve("a.test:8081", nil)
		a := w.start(nil)
		pass(2 * time.Minute)
		if keys := keysOf(w); len(keys) < 2 || keys[0].Equal(keys[1]) {
			t.Errorf("keys %v: want one each after a no", keys)
		}
		if joinUnderWay(t, w) {
			t.Error("the key is in the state after a no")
		}
		w.do(func() { joins(w, 100) })
		pass(5 * time.Minute)
		if !joinUnderWay(t, w) {
			t.Error("the key is not in the state while there is no answer")
		}
		a.stop()
		stop()
		for i, broken := range []string{"{", `{"format": 2}`, `{"format": 1, "token": "x", "key": "y"}`} {
			w.do(func() { w.log.Reset(); joins(w, 0) })
			if err := os.WriteFile(filepath.Join(w.dir, "state", "join.json"), []byte(broken), 0o600); err != nil {
				t.Fatal(err)
			}
			w.file("token", fmt.Sprint(token, "-", i))
			stop = w.serve("a.test:8081", nil)
			a = w.start(nil)
			a.ready(t)
			a.stop()
			stop()
			if !strings.Contains(w.logged(), "is lost") || joinUnderWay(t, w) {
				t.Errorf("%s: log\n%s", broken, w.logged())
			}
		}
	})
}
