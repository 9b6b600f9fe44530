package ca_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

var by = ca.InitOptions{By: "test"}

// TestLoadStates: every state that a start may find has a name.
func TestLoadStates(t *testing.T) {
	t.Parallel()
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		cfg, _, _ := newConfig(t)
		if _, err := ca.Load(t.Context(), cfg); !errors.Is(err, ca.ErrNotInitialised) {
			t.Error(err)
		}
	})
	t.Run("everything", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		first, entries := b.issue(t, order, 0), len(b.store.Entries())
		b = b.reopen(t)
		if len(b.store.Entries()) != entries {
			t.Error("a start made an intermediate that nobody needs")
		}
		if second := b.issue(t, order, 0); second.Issuer != first.Issuer || second.Bundle != first.Bundle {
			t.Errorf("issuer %s after %s, bundle %d after %d", second.Issuer, first.Issuer, second.Bundle, first.Bundle)
		}
		if _, err := ca.Init(t.Context(), b.cfg, by); !errors.Is(err, ca.ErrInitialised) {
			t.Errorf("init again: %v", err)
		}
	})
	t.Run("roots lost", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		b.issue(t, order, 0)
		b.store.Forget("ca/roots")
		if _, err := ca.Load(t.Context(), b.cfg); !errors.Is(err, ca.ErrStateLost) {
			t.Errorf("load: %v", err)
		}
		if _, err := ca.Init(t.Context(), b.cfg, by); !errors.Is(err, ca.ErrStateLost) {
			t.Errorf("init: %v", err)
		}
		// And while it runs: the last good state stays in use.
		if err := b.Maintain(t.Context()); !errors.Is(err, ca.ErrStateLost) || !alarmed(b.Authority, ca.AlarmState) {
			t.Errorf("maintain: %v, alarms %v", err, b.Status().Alarms)
		}
		b.issue(t, order, 0)
	})
	t.Run("bundle file left", func(t *testing.T) {
		t.Parallel()
		cfg, store, _ := newConfig(t)
		path := filepath.Join(t.TempDir(), "root.pem")
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ca.Init(t.Context(), cfg, ca.InitOptions{By: "test", BundleFiles: []string{path + ".absent", path}})
		if !errors.Is(err, ca.ErrStateLost) || !strings.Contains(err.Error(), path) || len(store.Documents()) != 0 {
			t.Errorf("init: %v, documents %v", err, store.Documents())
		}
	})
	t.Run("no intermediate", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		first := b.issue(t, order, 0)
		b.store.Forget("ca/signer/main")
		b = b.reopen(t)
		if second := b.issue(t, order, 0); second.Issuer == first.Issuer || second.Bundle != first.Bundle {
			t.Error("no new intermediate under the old root")
		}
	})
	t.Run("another replica", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		cfg := b.cfg
		cfg.Replica = "second"
		a, err := ca.Load(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if a.Status().Signer.Equal(b.Status().Signer) || !bytes.Equal(a.Bundle().PEM, b.Bundle().PEM) {
			t.Error("replicas share an intermediate, or do not share the roots")
		}
		if err := b.Maintain(t.Context()); err != nil || len(b.CRLs().List) != 2 {
			t.Errorf("the first replica sees %d CRLs, want both issuers': %v", len(b.CRLs().List), err)
		}
	})
	t.Run("another trust domain", func(t *testing.T) {
		t.Parallel()
		b := newAuthority(t)
		cfg := b.cfg
		cfg.TrustDomain = mustID(t, "spiffe://other.local")
		if _, err := ca.Load(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "other.local") {
			t.Error(err)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		t.Parallel()
		for _, doc := range []string{"ca/roots", "ca/signer/main"} {
			b := newAuthority(t)
			value, version, err := b.store.Get(t.Context(), doc)
			if err != nil {
				t.Fatal(err)
			}
			for _, broken := range [][]byte{
				value[:len(value)/2], []byte("{}"), []byte("null"), append(bytes.Clone(value), '{'),
				bytes.Replace(value, []byte(`"format":1`), []byte(`"format":2`), 1),
				bytes.Replace(value, []byte(`"certificate":"`), []byte(`"certificate":"AAAA`), 1),
				bytes.Replace(value, []byte(`"key":"`), []byte(`"key":"AAAA`), 1),
				bytes.Replace(value, []byte(`{`), []byte(`{"future":1,`), 1),
			} {
				if err := b.store.Put(t.Context(), doc, broken, version); err != nil {
					t.Fatal(err)
				}
				version++
				if _, err := ca.Load(t.Context(), b.cfg); !errors.Is(err, ca.ErrCorrupt) {
					t.Errorf("%s as %.80s: %v", doc, broken, err)
				}
			}
		}
	})
	t.Run("keys of another", func(t *testing.T) {
		t.Parallel()
		b, other := newAuthority(t), newAuthority(t)
		foreign, _, err := other.store.Get(t.Context(), "ca/signer/main")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.Put(t.Context(), "ca/signer/main", foreign, 1); err != nil {
			t.Fatal(err)
		}
		b = b.reopen(t) // its own root did not sign those: it makes one that is
		if err := verify(t, b.issue(t, order, 0).Chain, b.clock.now()); err != nil {
			t.Error(err)
		}
	})
}

// TestInitFaults cuts the first start short at every step: what is left either starts, or says what is missing, and two
// roots never exist.
func TestInitFaults(t *testing.T) {
	t.Parallel()
	for _, op := range []string{
		"Get ca/roots", "Find", "Record", "Put ca/roots", "Begin", "Put ca/signer/main", "Finish", "Put ca/issuers", "Revoked",
	} {
		for _, fault := range []memstore.Fault{{Before: errDisk}, {After: errDisk}} {
			cfg, store, clock := newConfig(t)
			failed := false
			store.Inject(func(o string) memstore.Fault {
				if o == op && !failed {
					failed = true
					return fault
				}
				return memstore.Fault{}
			})
			if _, err := ca.Init(t.Context(), cfg, by); !failed || err == nil && op != "Put ca/signer/main" && op != "Begin" && op != "Finish" {
				t.Logf("%s %+v: init %v", op, fault, err) // some faults are overcome at once
			}
			store.Inject(nil)
			a, err := ca.Load(t.Context(), cfg)
			if errors.Is(err, ca.ErrNotInitialised) {
				a, err = ca.Init(t.Context(), cfg, by)
			}
			if err != nil {
				t.Errorf("%s %+v: the next start: %v", op, fault, err)
				continue
			}
			b := &bench{Authority: a, store: store, clock: clock, cfg: cfg, profile: newProfile(t, ca.ProfileConfig{})}
			if err := verify(t, b.issue(t, order, 0).Chain, clock.now()); err != nil {
				t.Errorf("%s %+v: %v", op, fault, err)
			}
			if n := len(a.Bundle().Roots); n != 1 {
				t.Errorf("%s %+v: %d roots", op, fault, n)
			}
			store.CheckCertificates()
		}
	}
}

func TestKeyring(t *testing.T) {
	t.Parallel()
	ring := func(s string) *ca.Keyring {
		k, err := ca.NewKeyring([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	const secret = "correct horse battery"
	b := newAuthority(t, func(c *ca.Config) { c.Keys = ring(secret) })
	first := b.issue(t, order, 0)
	for _, doc := range b.store.Documents() {
		value, _, err := b.store.Get(t.Context(), doc)
		if err != nil || bytes.Contains(value, []byte("YmFyZS1rZXk")) { // "bare-key" in base64
			t.Errorf("%s holds a bare key: %v", doc, err)
		}
	}
	b.cfg.Keys = ring(secret)
	b = b.reopen(t)
	if second := b.issue(t, order, 0); second.Issuer != first.Issuer {
		t.Error("another issuer after a restart")
	}
	for name, keys := range map[string]*ca.Keyring{"wrong": ring("wrong horse battery"), "none": ca.InsecureKeyring()} {
		cfg := b.cfg
		cfg.Keys = keys
		if _, err := ca.Load(t.Context(), cfg); !errors.Is(err, ca.ErrSealed) {
			t.Errorf("%s passphrase: %v", name, err)
		}
	}
	bare := newAuthority(t)
	bare.cfg.Keys = ring(secret)
	if _, err := ca.Load(t.Context(), bare.cfg); !errors.Is(err, ca.ErrSealed) {
		t.Errorf("bare keys although a passphrase is configured: %v", err)
	}
	for _, short := range []string{"", "short", strings.Repeat("x", 2000)} {
		if _, err := ca.NewKeyring([]byte(short)); err == nil {
			t.Errorf("passphrase of %d bytes", len(short))
		}
	}
	if s := ring(secret).String(); strings.Contains(s, secret) {
		t.Error("a keyring prints its passphrase")
	}
}

func TestReadPassphrase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "passphrase")
	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string
		ok      bool
	}{
		{"correct horse battery\n", 0o600, "correct horse battery", true},
		{"correct horse battery", 0o400, "correct horse battery", true},
		{"with spaces \r\n", 0o600, "with spaces ", true},
		{"correct horse battery", 0o640, "", false},
		{"correct horse battery", 0o604, "", false},
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ca.ReadPassphrase(path)
		if string(got) != c.want || (err == nil) != c.ok {
			t.Errorf("%q mode %o: %q, %v", c.content, c.mode, got, err)
		}
	}
	if _, err := ca.ReadPassphrase(path + ".absent"); err == nil {
		t.Error("read a passphrase that is not there")
	}
}

// TestRootOffline: with the root's key elsewhere the authority starts and issues; it alarms long before the end, and
// goes on when somebody brings the key.
func TestRootOffline(t *testing.T) {
	t.Parallel()
	cfg, store, clock := newConfig(t)
	keys, err := ca.NewKeyring([]byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Keys = keys
	out := filepath.Join(t.TempDir(), "root-key.pem")
	a, err := ca.Init(t.Context(), cfg, ca.InitOptions{By: "test", RootOut: out})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{Authority: a, store: store, clock: clock, cfg: cfg, profile: newProfile(t, ca.ProfileConfig{})}
	if info, err := os.Stat(out); err != nil || info.Mode() != 0o600 {
		t.Errorf("root key: %v, %v", info.Mode(), err)
	}
	if !b.Status().Roots[0].Offline {
		t.Error("the root's key is in the store")
	}
	b = b.reopen(t)
	first := b.issue(t, order, 0)
	if len(b.Status().Alarms) != 0 {
		t.Errorf("alarms on the first day: %v", b.Status().Alarms)
	}
	clock.advance(16 * 24 * time.Hour)
	if err := b.Maintain(t.Context()); err != nil || !alarmed(b.Authority, ca.AlarmSignerEnds) {
		t.Errorf("half of the life is over: %v, alarms %v", err, b.Status().Alarms)
	}
	clock.advance(15 * 24 * time.Hour)
	if err := b.Maintain(t.Context()); err != nil || !alarmed(b.Authority, ca.AlarmRenewal) {
		t.Errorf("all of the life is over: %v, alarms %v", err, b.Status().Alarms)
	}
	if _, err := b.Issue(t.Context(), b.approve(t, order, 0)); !errors.Is(err, ca.ErrNotReady) {
		t.Errorf("issued by an ended intermediate: %v", err)
	}
	wrong := newKey(t)
	if err := b.RenewIntermediate(t.Context(), wrong, ca.StepOptions{By: "test"}); err == nil {
		t.Error("took another key for the root's")
	}
	key, err := keys.ReadRootKey(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RenewIntermediate(t.Context(), key, ca.StepOptions{By: "test"}); err != nil {
		t.Fatal(err)
	}
	second := b.issue(t, order, 0)
	if err := verify(t, second.Chain, clock.now()); err != nil || second.Issuer == first.Issuer || len(b.Status().Alarms) != 0 {
		t.Errorf("after the renewal: %v, alarms %v", err, b.Status().Alarms)
	}
	if _, err := ca.Init(t.Context(), cfg, ca.InitOptions{By: "test", RootOut: out}); !errors.Is(err, ca.ErrInitialised) {
		t.Error(err)
	}
	fresh, _, _ := newConfig(t)
	if _, err := ca.Init(t.Context(), fresh, ca.InitOptions{By: "test", RootOut: out}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("wrote over a root key: %v", err)
	}
}

// TestIntermediateRenewsByItself over a hundred days, a day at a time.
func TestIntermediateRenewsByItself(t *testing.T) {
	t.Parallel()
	b := newAuthority(t)
	issuers := map[string]bool{}
	for range 100 {
		b.clock.advance(24 * time.Hour)
		if err := b.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		issued := b.issue(t, order, 24*3600)
		if issued.TTLRule != "requested" {
			t.Fatalf("%s: cut by %s", b.clock.now(), issued.TTLRule)
		}
		issuers[issued.Issuer] = true
		if alarms := b.Status().Alarms; len(alarms) > 0 {
			t.Fatalf("%s: alarms %v", b.clock.now(), alarms)
		}
	}
	if n := len(issuers); n < 5 || n > 6 {
		t.Errorf("%d intermediates in 100 days, want one every 20 days", n)
	}
	if n := len(b.CRLs().List); n > 3 {
		t.Errorf("%d CRLs: those of ended intermediates stay", n)
	}
}
