package agent_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/sds/agent"
)

// TestRetryCodes holds the codes of identity §2.7: those that mean "later" are tried again soon, those that mean "no" not.
func TestRetryCodes(t *testing.T) {
	for code, soon := range map[codes.Code]bool{
		codes.Unavailable: true, codes.Internal: true, codes.ResourceExhausted: true, codes.Aborted: true, codes.DeadlineExceeded: true,
		codes.Unauthenticated: false, codes.PermissionDenied: false, codes.InvalidArgument: false, codes.FailedPrecondition: false, codes.Unimplemented: false,
	} {
		t.Run(code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve("a.test:8081", nil)
				w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
					if c.Asked == order {
						return nil, status.Error(code, "no")
					}
					return c.issue()
				}
				w.start(nil)
				pass(3 * time.Minute)
				n := 0
				for _, c := range w.seen() {
					if c.Asked == order {
						n++
					}
				}
				if least, most := 5, 90; soon && (n < least || n > most) {
					t.Errorf("%d calls in three minutes, want %d to %d", n, least, most)
				}
				if !soon && (n < 2 || n > 30) {
					t.Errorf("%d calls in three minutes after a no", n)
				}
			})
		})
	}
}

// TestOutage: nothing is lost while certificates live, alarms rise, and everything is renewed when the authority is back.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.serve("a.test:8081", nil)
		a := w.start(nil)
		a.ready(t)
		stop()
		pass(40 * time.Minute)
		if len(a.NotReady()) != 0 || len(a.Alarms()) != 0 || a.Status().Own.Failures == 0 {
			t.Fatalf("after 40 minutes: %+v", a.Status())
		}
		pass(10 * time.Minute) // less than a quarter is left
		if got := a.Status().Identities[0].Alarm; got != "late" || len(a.Alarms()) != 2 {
			t.Errorf("alarm %q, %q", got, a.Alarms())
		}
		pass(8 * time.Minute)
		if got := a.Status().Identities[0].Alarm; got != "critical" {
			t.Errorf("alarm %q", got)
		}
		pass(3 * time.Minute)
		if got := a.Status(); got.Identities[0].Alarm != "lost" || len(a.NotReady()) != 2 {
			t.Errorf("alarm %+v", got)
		}
		for _, want := range []string{"level=WARN msg=\"a certificate was not renewed in time\"", "level=ERROR msg=\"a certificate was not renewed in time\"", "alarm=critical", "alarm=lost"} {
			if !strings.Contains(w.logged(), want) {
				t.Errorf("the log does not say %s", want)
			}
		}
		w.serve("a.test:8081", nil)
		pass(2 * time.Minute)
		if len(a.NotReady()) != 0 || len(a.Alarms()) != 0 {
			t.Errorf("after it is back: %q", a.NotReady())
		}
	})
}

// TestSecondAuthority: the next one in the list is asked when one is gone, and stays.
func TestSecondAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.serve("a.test:8081", nil)
		w.serve("b.test:8081", nil)
		a := w.start(func(c *agent.Config) { c.Authorities = append(c.Authorities, "b.test:8081") })
		a.ready(t)
		stop()
		pass(time.Hour)
		if len(a.NotReady()) != 0 || a.Status().Authority != "b.test:8081" || a.Status().Own.Failures != 0 {
			t.Fatalf("status %+v", a.Status())
		}
		w.serve("a.test:8081", nil)
		pass(time.Hour)
		if got := a.Status().Authority; got != "b.test:8081" {
			t.Errorf("it went back to %s", got)
		}
	})
}

// TestOutageIsOneQuestion: fifty identities do not ask fifty times while nobody answers.
func TestOutageIsOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(func(c *agent.Config) {
			c.Identities = nil
			for i := range 50 {
				c.Identities = append(c.Identities, mustID(t, order+strings.Repeat("x", i)))
			}
		})
		a.ready(t)
		before := len(w.seen())
		w.do(func() {
			w.answer = func(*call) (*securityv1.IstioCertificateResponse, error) {
				return nil, status.Error(codes.Unavailable, "not ready")
			}
		})
		pass(45 * time.Minute)
		if n := len(w.seen()) - before; n > 150 {
			t.Errorf("%d calls in an outage of about a quarter of an hour", n)
		}
		w.do(func() { w.answer = nil })
		pass(time.Minute)
		if len(a.Alarms()) != 0 || len(a.NotReady()) != 0 {
			t.Errorf("%q", a.Alarms())
		}
	})
}
