package agent_test

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/sds/agent"
)

// TestTokenUsedTwice: a token that somebody else used is not sent again and again, and the next one is picked up.
func TestTokenUsedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.file("token", "writ-join-used")
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		pass(10 * time.Minute)
		if n := len(w.seen()); n != 1 {
			t.Errorf("it was sent %d times", n)
		}
		if got := a.Status().Own; got.Alarm != "lost" || !strings.Contains(got.Error, "good once") {
			t.Errorf("status %+v", got)
		}
		w.file("token", token)
		pass(20 * time.Second)
		a.ready(t)
	})
}

// TestServiceAccountToken: read for every call that needs it, not needed for renewals, and needed again where the
// certificate is refused.
func TestServiceAccountToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		current := "sa-1"
		w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
			switch {
			case c.Bearer == current:
				return c.certify(nodeID, nil), nil
			case c.Bearer != "" || current == "sa-2": // certificates are good until then
				return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
			}
			return c.issue()
		}
		file := w.file("sa", "sa-1\n")
		a := w.start(func(c *agent.Config) { c.JoinTokenFile, c.TokenFile, c.Identities = "", file, nil })
		a.ready(t)
		pass(time.Hour)
		w.do(func() { current = "sa-2" })
		w.file("sa", "sa-2\n")
		pass(time.Hour)
		if len(a.NotReady()) != 0 {
			t.Fatalf("%q", a.NotReady())
		}
		calls := w.seen()
		if calls[0].Bearer != "sa-1" || calls[1].Bearer != "" || calls[1].Presented != nodeID {
			t.Errorf("calls %+v, %+v", calls[0], calls[1])
		}
		last := calls[len(calls)-1]
		if last.Bearer != "sa-2" || last.Presented != "" || last.Err != nil {
			t.Errorf("last call %+v", last)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("the token's file is gone: %v", err)
		}
	})
}
