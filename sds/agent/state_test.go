package agent_test

import (
	"crypto/x509"
	"errors"
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

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds/agent"
)

// TestRestart: a restarted agent serves at once from its state, proves itself by its certificate, and goes on with the half
// life that was running.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.serve("a.test:8081", nil)
		shared := func(c *agent.Config) { c.Identities = append(c.Identities, mustID(t, nodeID)) }
		a := w.start(shared)
		a.ready(t)
		own, due := a.serial(t, nodeID), a.Status().Own.Renewal
		a.stop()
		stop() // nobody has to answer for what is saved
		pass(10 * time.Minute)
		a = w.start(shared)
		if got := a.serial(t, nodeID); got != own {
			t.Errorf("serial %q from the state, want %q", got, own)
		}
		if b := a.vault.Bundle("td.test"); b == nil || !b.Roots[0].Equal(w.root.cert) {
			t.Errorf("bundle %+v", b)
		}
		if got := a.Status().Own.Renewal.Sub(due).Abs(); got > 7*time.Minute {
			t.Errorf("the renewal moved by %v", got)
		}
		before := len(w.seen())
		w.serve("a.test:8081", nil)
		pass(time.Minute)
		a.ready(t)
		if c := w.seen()[before]; c.Presented != nodeID || c.Bearer != "" || c.Asked != order {
			t.Errorf("the first call after the restart: %+v", c)
		}
		for _, name := range []string{"identity.json", "bundle.json"} {
			info, err := os.Stat(filepath.Join(w.dir, "state", name))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", name, info, err)
			}
		}
		if info, err := os.Stat(filepath.Join(w.dir, "state")); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("state: %v, %v", info, err)
		}
	})
}

// TestOnlyOwnKeyIsSaved: keys of workloads stay in memory.
func TestOnlyOwnKeyIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		w.start(nil).ready(t)
		text := readAll(t, filepath.Join(w.dir, "state"))
		if n := strings.Count(text, "PRIVATE KEY"); n != 2 { // begin and end of one
			t.Errorf("%d markers of private keys in the state", n)
		}
		if strings.Contains(text, order) {
			t.Error("a workload's identity is in the state")
		}
	})
}

// TestMemoryOnly: without a state nothing is written, and the token is the way back.
func TestMemoryOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve("a.test:8081", nil)
		a := w.start(func(c *agent.Config) { c.StateDir = "" })
		a.ready(t)
		a.stop()
		if _, err := os.Stat(filepath.Join(w.dir, "state")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a state was made: %v", err)
		}
		a = w.start(func(c *agent.Config) { c.StateDir = "" })
		pass(time.Second)
		if got := a.Status().Own.Error; !strings.Contains(got, "no join token") {
			t.Errorf("error %q", got)
		}
	})
}

// TestBrokenState: a state that is not ours, or not whole, is said to be so, and a token takes its place.
func TestBrokenState(t *testing.T) {
	for _, c := range []struct {
		name, file string
		change     func(string) string
		mode       fs.FileMode
		config     func(*testing.T, *agent.Config)
		want       string
	}{
		{name: "cut", file: "identity.json", change: func(s string) string { return s[:len(s)/2] }, want: "cannot be read"},
		{name: "empty", file: "identity.json", change: func(string) string { return "" }, want: "cannot be read"},
		{name: "unknown member", file: "identity.json", change: func(s string) string { return strings.Replace(s, `"format"`, `"extra": 1, "format"`, 1) }, want: "unknown field"},
		{name: "later format", file: "identity.json", change: func(s string) string { return strings.Replace(s, `"format": 1`, `"format": 2`, 1) }, want: "format 2"},
		{name: "text after it", file: "identity.json", change: func(s string) string { return s + "{}" }, want: "after its end"},
		{name: "another's name", file: "identity.json", change: func(s string) string { return strings.Replace(s, nodeID, order, 1) }, want: "is of " + nodeID},
		{name: "another key", file: "identity.json", change: otherKey, want: "does not fit"},
		{name: "open to others", file: "identity.json", mode: 0o640, want: "only its owner"},
		{name: "too large", file: "identity.json", change: func(string) string { return strings.Repeat(" ", 9<<20) }, want: "more than"},
		{name: "another identity is configured", file: "identity.json", config: func(t *testing.T, c *agent.Config) { c.ID = mustID(t, payment) }, want: "the configuration says"},
		{name: "another trust domain", file: "identity.json", config: func(t *testing.T, c *agent.Config) {
			c.TrustDomain, c.Identities = mustID(t, "spiffe://other.test"), nil
		}, want: "not of other.test"},
		{name: "bundle cut", file: "bundle.json", change: func(s string) string { return s[:len(s)/2] }, want: "cannot be read"},
		{name: "bundle changed", file: "bundle.json", change: func(s string) string { return strings.Replace(s, `"bundle": "ey`, `"bundle": "eX`, 1) }, want: "bundle.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				stop := w.serve("a.test:8081", nil)
				a := w.start(nil)
				a.ready(t)
				a.stop()
				stop()
				path := filepath.Join(w.dir, "state", c.file)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if c.change != nil {
					changed := c.change(string(text))
					if changed == string(text) {
						t.Fatal("the test changes nothing")
					}
					w.file(filepath.Join("state", c.file), changed)
				}
				if c.mode != 0 {
					if err := os.Chmod(path, c.mode); err != nil {
						t.Fatal(err)
					}
				}
				w.file("token", token+"-again")
				a = w.start(func(cfg *agent.Config) {
					if c.config != nil {
						c.config(t, cfg)
					}
				})
				if got := strings.Join(a.Alarms(), "\n"); !strings.Contains(got, c.want) || !strings.Contains(w.logged(), "level=ERROR") {
					t.Errorf("alarms %q, want %q", got, c.want)
				}
				if c.config != nil { // these want another authority
					return
				}
				w.serve("a.test:8081", nil)
				pass(time.Minute)
				if len(a.NotReady()) != 0 || len(a.Alarms()) != 0 {
					t.Errorf("with a token: not ready %q, alarms %q", a.NotReady(), a.Alarms())
				}
			})
		})
	}
}

// otherKey replaces the key by one that is as good, and not the certificate's.
func otherKey(text string) string {
	before, rest, _ := strings.Cut(text, "-----BEGIN PRIVATE KEY-----")
	_, after, _ := strings.Cut(rest, "-----END PRIVATE KEY-----")
	return before + `-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\nOF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n-----END PRIVATE KEY-----` + after
}

// TestUnusableState: a state that cannot be kept safe is no state to start with.
func TestUnusableState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cfg := w.config()
		cfg.StateDir = t.TempDir()
		if err := os.Chmod(cfg.StateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := agent.New(cfg); err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("a directory that others can look into: %v", err)
		}
		cfg.StateDir = w.file("file", "")
		if _, err := agent.New(cfg); err == nil {
			t.Error("a file is taken for a directory")
		}
		cfg.StateDir = filepath.Join(w.dir, "state")
		first, err := agent.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := agent.New(cfg); err == nil || !strings.Contains(err.Error(), "another agent") {
			t.Errorf("two agents with one state: %v", err)
		}
		if err := first.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestLongAbsence: an agent that comes back after its certificate ended asks all the same, for the authority may know it; and
// where that says no, a new token is the way back, without a restart.
func TestLongAbsence(t *testing.T) {
	for name, grace := range map[string]bool{"the authority gives grace": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve("a.test:8081", nil)
				a := w.start(nil)
				a.ready(t)
				a.stop()
				pass(100 * time.Hour)
				w.do(func() {
					w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
						if !grace && c.Bearer == "" && len(w.seen()) < 20 {
							return nil, status.Error(codes.Unauthenticated, "request authenticate failure")
						}
						return c.issue()
					}
				})
				before := len(w.seen())
				a = w.start(nil)
				pass(5 * time.Second)
				first := w.seen()[before]
				if first.Presented != nodeID {
					t.Errorf("the first call %+v", first)
				}
				if grace {
					a.ready(t)
					return
				}
				if got := a.Status().Own; got.Alarm != "lost" || !strings.Contains(got.Error, "no grace") || !strings.Contains(got.Error, "writ token create") {
					t.Errorf("status %+v", got)
				}
				w.do(func() { w.answer = nil })
				w.file("token", token+"-")
				w.do(func() {
					w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) {
						if c.Bearer == token+"-" {
							return c.certify(nodeID, nil), nil
						}
						return c.issue()
					}
				})
				pass(5 * time.Minute)
				if len(a.NotReady()) != 0 {
					t.Errorf("with a new token: %q", a.NotReady())
				}
			})
		})
	}
}

// TestMissedRotation: a machine that slept through a whole root rotation does not know the authority any more. Replacing the
// file with the roots is the way back.
func TestMissedRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stop := w.serve("a.test:8081", nil)
		a := w.start(nil)
		a.ready(t)
		a.stop()
		stop()
		w.do(func() {
			w.root = newRoot(t, "root 2")
			w.inter = w.root.intermediate(t)
			w.roots = []*x509.Certificate{w.root.cert}
		})
		w.serve("a.test:8081", nil)
		a = w.start(nil)
		pass(5 * time.Second)
		if got := a.Status().Identities[0].Error; !strings.Contains(got, "writ ca bundle") {
			t.Errorf("error %q", got)
		}
		w.file("root.pem", pemOf(w.root.cert))
		pass(time.Minute)
		if b := a.vault.Bundle("td.test"); len(a.NotReady()) != 0 || len(b.Roots) != 1 || !b.Roots[0].Equal(w.root.cert) {
			t.Errorf("not ready %q, %d roots", a.NotReady(), len(b.Roots))
		}
	})
}

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*agent.Config){
		"no trust domain":        func(c *agent.Config) { c.TrustDomain = spiffeid.ID{} },
		"trust domain with path": func(c *agent.Config) { c.TrustDomain = mustID(t, order) },
		"no vault":               func(c *agent.Config) { c.Vault = nil },
		"no bundle":              func(c *agent.Config) { c.BundleFile = "" },
		"no authority":           func(c *agent.Config) { c.Authorities = nil },
		"authority without port": func(c *agent.Config) { c.Authorities = []string{"a.test"} },
		"two tokens":             func(c *agent.Config) { c.TokenFile = "x" },
		"no proof":               func(c *agent.Config) { c.JoinTokenFile, c.StateDir = "", "" },
		"ttl":                    func(c *agent.Config) { c.TTL = time.Millisecond },
		"alarm":                  func(c *agent.Config) { c.AlarmPart = 1 },
		"call time":              func(c *agent.Config) { c.CallTime = -1 },
		"foreign identity":       func(c *agent.Config) { c.Identities = []spiffeid.ID{mustID(t, "spiffe://other.test/a")} },
		"own without path":       func(c *agent.Config) { c.ID = c.TrustDomain },
		"too many identities":    func(c *agent.Config) { c.Identities = make([]spiffeid.ID, 1025) },
	} {
		w := &world{t: t, dir: t.TempDir()}
		cfg := w.config()
		change(&cfg)
		if _, err := agent.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func readAll(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}
