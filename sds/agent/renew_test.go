package agent_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds/agent"
)

// TestFirstCertificates: the join token brings the agent's own certificate, that one everybody else's, and the token is gone.
func TestFirstCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(func(c *agent.Config) { c.Identities = append(c.Identities, mustID(t, payment)) })
		a.ready(t)
		calls := w.seen()
		if len(calls) != 3 || calls[0].Bearer != token || calls[0].Presented != "" || calls[0].Asked != "" {
			t.Fatalf("first call %+v of %d", calls[0], len(calls))
		}
		for _, c := range calls[1:] {
			if c.Bearer != "" || c.Presented != nodeID || c.Asked == "" {
				t.Errorf("call %+v", c)
			}
		}
		if a.serial(t, order) == "" || a.serial(t, payment) == "" {
			t.Error("an identity is not in the vault")
		}
		if a.vault.Identity(mustID(t, nodeID)) != nil {
			t.Error("the agent's own identity is in the vault, and no workload's")
		}
		if b := a.vault.Bundle("td.test"); b == nil || b.Version != 0 || len(b.Roots) != 1 {
			t.Errorf("bundle %+v", b)
		}
		if _, err := os.Stat(w.dir + "/token"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the token's file is still there: %v", err)
		}
		if s := a.Status(); s.Own.ID != mustID(t, nodeID) || s.Authority != "a.test:8081" || len(s.Problems) != 0 || len(a.Alarms()) != 0 || a.Stuck() {
			t.Errorf("status %+v", s)
		}
	})
}

// TestRenewal: at half of the life, give or take a tenth, counted from receipt, each time with a new key, and for ever.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		a.ready(t)
		last := map[string]*call{}
		keys := map[any]bool{}
		pass(10 * time.Hour)
		for _, c := range w.seen() {
			who := c.Asked
			if before := last[who]; before != nil {
				if gap := c.At.Sub(before.At); gap < 27*time.Minute-time.Second || gap > 33*time.Minute+time.Second {
					t.Errorf("%q was renewed after %v", who, gap)
				}
				if c.Bearer != "" || c.Presented != nodeID {
					t.Errorf("renewed by %+v", c)
				}
			}
			last[who] = c
			if keys[c.Key] {
				t.Error("a key was used twice")
			}
			keys[c.Key] = true
		}
		if n := len(w.seen()); n < 36 || n > 46 {
			t.Errorf("%d calls in ten hours", n)
		}
		if strings.Contains(w.logged(), "level=WARN") || strings.Contains(w.logged(), "level=ERROR") {
			t.Error("something was wrong")
		}
	})
}

// TestOwnIsShared: a workload with the agent's own identity gets the agent's certificate, not a second one.
func TestOwnIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(func(c *agent.Config) { c.Identities = []spiffeid.ID{mustID(t, nodeID)} })
		a.ready(t)
		before := a.serial(t, nodeID)
		pass(time.Hour)
		if n := len(w.seen()); n < 2 || n > 3 {
			t.Errorf("%d calls", n)
		}
		if now := a.serial(t, nodeID); now == before || before == "" {
			t.Errorf("serial %q, before %q", now, before)
		}
		if s := a.Status(); len(s.Identities) != 1 || !s.Identities[0].Shared {
			t.Errorf("status %+v", s.Identities)
		}
	})
}

// TestIdentityIsAsked: a configured identity is asked for, and another one in the answer is refused.
func TestIdentityIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(func(c *agent.Config) { c.ID, c.Identities = mustID(t, payment), nil })
		a.ready(t)
		if c := w.seen()[0]; c.Asked != payment || a.Status().Own.ID != mustID(t, payment) {
			t.Errorf("asked %q", c.Asked)
		}
	})
}

// TestBadAnswers: what is not what was asked for is not used, whoever signed it.
func TestBadAnswers(t *testing.T) {
	for name, change := range map[string]func(w *world, c *call) *securityv1.IstioCertificateResponse{
		"another identity": func(_ *world, c *call) *securityv1.IstioCertificateResponse { return c.certify(payment, nil) },
		"another trust domain": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify("spiffe://other.test/ns/a/sa/b", nil)
		},
		"no identity": func(_ *world, c *call) *securityv1.IstioCertificateResponse { return c.certify("", nil) },
		"a trust domain": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify("spiffe://td.test", nil)
		},
		"upper case": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify("", func(l *x509.Certificate) {
				l.ExtraExtensions = []pkix.Extension{rawURI("SPIFFE://td.test/ns/coffee-shop/sa/order")}
			})
		},
		"another key": func(w *world, c *call) *securityv1.IstioCertificateResponse {
			c.Key = newKey(w.t).Public()
			return c.certify(order, nil)
		},
		"two identities": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify(order, func(l *x509.Certificate) { l.URIs = append(l.URIs, l.URIs[0]) })
		},
		"an authority": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify(order, func(l *x509.Certificate) { l.IsCA = true })
		},
		"the future": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify(order, func(l *x509.Certificate) { l.NotBefore = time.Now().Add(5 * time.Minute) })
		},
		"the past": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify(order, func(l *x509.Certificate) { l.NotAfter = time.Now().Add(-time.Minute) })
		},
		"clients only": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			return c.certify(order, func(l *x509.Certificate) { l.ExtKeyUsage = l.ExtKeyUsage[1:] })
		},
		"no roots": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain = r.CertChain[:1]
			return r
		},
		"another root": func(w *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain[len(r.CertChain)-1] = pemOf(newRoot(w.t, "other").cert)
			return r
		},
		"a workload as a root": func(w *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain[len(r.CertChain)-1] += r.CertChain[0]
			return r
		},
		"no intermediate": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain = []string{r.CertChain[0], r.CertChain[len(r.CertChain)-1]}
			return r
		},
		"no PEM": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain[0] = "hello"
			return r
		},
		"text around it": func(_ *world, c *call) *securityv1.IstioCertificateResponse {
			r := c.certify(order, nil)
			r.CertChain[0] += "hello"
			return r
		},
		"nothing": func(*world, *call) *securityv1.IstioCertificateResponse {
			return &securityv1.IstioCertificateResponse{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve("a.test:8081", nil)
				w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
					if c.Asked != order {
						return c.issue()
					}
					return change(w, c), nil
				}
				var outcomes []agent.Outcome
				a := w.start(func(c *agent.Config) { c.Observe = func(e agent.Event) { outcomes = append(outcomes, e.Outcome) } })
				pass(2 * time.Second)
				if len(outcomes) < 2 || outcomes[1] != agent.BadAnswer {
					t.Errorf("outcomes %v", outcomes)
				}
				if a.serial(t, order) != "" {
					t.Error("it is in the vault")
				}
				if s := a.Status().Identities[0]; !strings.Contains(s.Error, "not what was asked for") {
					t.Errorf("status %+v", s)
				}
				if b := a.vault.Bundle("td.test"); len(b.Roots) != 1 || !b.Roots[0].Equal(w.root.cert) {
					t.Error("the roots of the answer are trusted")
				}
			})
		})
	}
}

// rawURI is a name as it is: Go's URLs have their scheme in lower case.
func rawURI(text string) pkix.Extension {
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(text)}})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

// TestWrongRoots: an authority that the roots do not prove is not told anything, and the error says what to do.
func TestWrongRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.file("root.pem", pemOf(newRoot(t, "another").cert))
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		pass(10 * time.Second)
		if len(w.seen()) != 0 {
			t.Error("it was asked all the same")
		}
		if got := a.Status().Own.Error; !strings.Contains(got, "root.pem") || !strings.Contains(got, "writ ca bundle") {
			t.Errorf("error %q", got)
		}
		w.file("root.pem", pemOf(w.root.cert)) // without a restart
		a.ready(t)
	})
}

// TestServerIdentity: by name, or by SPIFFE ID where that is configured.
func TestServerIdentity(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*agent.Config)
		want   string // in the error; empty for none
	}{
		{"another name", func(c *agent.Config) { c.ServerName = "other.test" }, "authority.server_name"},
		{"its name", func(c *agent.Config) { c.ServerName = "a.test" }, ""},
		{"its identity", func(c *agent.Config) {
			c.ServerID, _ = spiffeid.Parse(serverID)
			c.Authorities = []string{"other.test:1"}
		}, ""},
		{"another identity", func(c *agent.Config) { c.ServerID, _ = spiffeid.Parse(order) }, "see authority.id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve("a.test:8081", nil)
				w.servers["other.test:1"] = w.servers["a.test:8081"]
				a := w.start(c.change)
				if c.want == "" {
					a.ready(t)
					return
				}
				pass(3 * time.Second)
				if got := a.Status().Own.Error; !strings.Contains(got, c.want) || len(w.seen()) != 0 {
					t.Errorf("error %q, %d calls", got, len(w.seen()))
				}
			})
		})
	}
}

// TestSetIdentities: what is new is asked for at once, what is dropped is forgotten.
func TestSetIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(nil)
		a.ready(t)
		a.SetIdentities([]spiffeid.ID{mustID(t, payment)})
		pass(time.Second)
		if a.serial(t, order) != "" || a.serial(t, payment) == "" {
			t.Errorf("order %q, payment %q", a.serial(t, order), a.serial(t, payment))
		}
		pass(2 * time.Hour)
		for _, c := range w.seen() {
			if c.Asked == order && c.At.After(w.seen()[2].At) {
				t.Error("a dropped identity was renewed")
			}
		}
	})
}

// TestNewToken: a token that was not used is used at the next start, and by it the node gets other identities.
func TestNewToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		granted := false
		w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
			if c.Asked == payment && !granted {
				return nil, status.Error(codes.PermissionDenied, "permission denied")
			}
			if c.Bearer == "writ-join-2" {
				granted = true
				return c.certify(nodeID, nil), nil
			}
			return c.issue()
		}
		a := w.start(func(c *agent.Config) { c.Identities = append(c.Identities, mustID(t, payment)) })
		pass(time.Minute)
		if a.serial(t, order) == "" || a.serial(t, payment) != "" || len(a.NotReady()) != 1 {
			t.Fatalf("not ready: %q", a.NotReady())
		}
		w.file("token", "writ-join-2")
		pass(40 * time.Minute) // the agent's own renewal comes first
		if a.serial(t, payment) == "" || len(a.NotReady()) != 0 {
			t.Errorf("not ready: %q", a.NotReady())
		}
	})
}
