package agent_test

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

// publish puts a bundle in an authority's vault.
func publish(t *testing.T, v *sds.Vault, version int64, tainted []*x509.Certificate, roots ...*x509.Certificate) {
	t.Helper()
	b := &sds.Bundle{TrustDomain: mustID(t, "spiffe://td.test"), Version: version, Roots: roots, Tainted: tainted}
	if err := v.SetBundle(b); err != nil {
		t.Fatal(err)
	}
}

// acked is the version of the bundle that an authority was told is in force at the agent.
func acked(a *authority) int64 {
	for _, c := range a.secrets.Inventory().Consumers() {
		if c.Connected && c.ID.String() == nodeID {
			return c.Bundle
		}
	}
	return -1
}

// newFollowing is an agent that has all it needs, and the bundle of a version, from an authority that can be stopped.
func newFollowing(t *testing.T, version int64) (w *world, vault *sds.Vault, a *running, stop func()) {
	t.Helper()
	w, vault = newWorld(t), &sds.Vault{}
	publish(t, vault, version, nil, w.root.cert)
	stop = w.serve("a.test:8081", vault)
	a = w.start(nil)
	a.ready(t)
	pass(time.Second)
	return w, vault, a, stop
}

// TestFollow: new roots, CRLs and keys of tokens arrive within a round trip, and are acknowledged.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault, a, _ := newFollowing(t, 7)
		if b := a.vault.Bundle("td.test"); b.Version != 7 {
			t.Fatalf("version %d", b.Version)
		}
		second := newRoot(t, "root 2")
		crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		}, w.inter.cert, w.inter.key)
		if err != nil {
			t.Fatal(err)
		}
		err = vault.SetBundle(&sds.Bundle{
			TrustDomain: mustID(t, "spiffe://td.test"), Version: 8, Roots: []*x509.Certificate{w.root.cert, second.cert}, CRLs: [][]byte{crl},
		})
		if err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		b := a.vault.Bundle("td.test")
		if b.Version != 8 || len(b.Roots) != 2 || len(b.CRLs) != 1 {
			t.Errorf("bundle %+v", b)
		}
		if s := a.Status().Bundle; !s.Followed || s.Acked != 8 || s.From != "a.test:8081" || s.Behind != "" {
			t.Errorf("status %+v", s)
		}
		if got := acked(w.servers["a.test:8081"]); got != 8 {
			t.Errorf("the authority was told %d", got)
		}
		calls := len(w.seen())
		pass(5 * time.Minute)
		if len(w.seen()) != calls {
			t.Error("a new root alone made certificates be renewed: a whole fleet would ask at once")
		}
		pass(24 * time.Hour) // through many certificates of its own
		if got := acked(w.servers["a.test:8081"]); got != 8 || len(a.NotReady()) != 0 {
			t.Errorf("after a day the authority was told %d; not ready %q", got, a.NotReady())
		}
	})
}

// TestTaint: what is under a root that is about to go is renewed at once, spread by jitter, and not again.
func TestTaint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault := newWorld(t), &sds.Vault{}
		second := newRoot(t, "root 2")
		publish(t, vault, 1, nil, w.root.cert, second.cert)
		w.roots = append(w.roots, second.cert)
		w.serve("a.test:8081", vault)
		a := w.start(nil)
		a.ready(t)
		pass(time.Second)
		before := len(w.seen())
		w.do(func() { w.root, w.inter = second, second.intermediate(t) })
		publish(t, vault, 2, w.roots[:1], w.roots...)
		pass(61 * time.Second)
		calls := w.seen()[before:]
		if len(calls) != 2 {
			t.Fatalf("%d renewals after a root was tainted, want 2", len(calls))
		}
		for _, id := range []string{order} {
			if got := a.vault.Identity(mustID(t, id)); got.Chain[1].CheckSignatureFrom(second.cert) != nil {
				t.Errorf("%s is still under the tainted root", id)
			}
		}
		pass(10 * time.Minute)
		if n := len(w.seen()); n != before+2 {
			t.Errorf("%d renewals more", n-before-2)
		}
		publish(t, vault, 3, nil, second.cert)
		pass(10 * time.Minute)
		if n := len(w.seen()); n != before+2 {
			t.Errorf("%d renewals more once the root was gone", n-before-2)
		}
	})
}

// TestTaintWithoutEffect: an authority that goes on issuing under a tainted root is asked once, not in a loop.
func TestTaintWithoutEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault, _, _ := newFollowing(t, 1)
		before := len(w.seen())
		publish(t, vault, 2, w.roots, w.root.cert)
		pass(15 * time.Minute)
		if n := len(w.seen()) - before; n != 2 || !strings.Contains(w.logged(), "still issues under a root that is about to go") {
			t.Errorf("%d renewals", n)
		}
	})
}

// TestManyAgents: agents that learn at one moment that their root is tainted come spread over a minute, and none of them too
// late. TestSpread has a thousand of them.
func TestManyAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault := newWorld(t), &sds.Vault{}
		second := newRoot(t, "root 2")
		publish(t, vault, 1, nil, w.root.cert, second.cert)
		w.roots = append(w.roots, second.cert)
		w.serve("a.test:8081", vault)
		w.answer = func(c *call) (*securityv1.IstioCertificateResponse, error) { return c.certify(nodeID, nil), nil }
		const agents = 150
		var all []*running
		for range agents {
			all = append(all, w.start(func(c *agent.Config) {
				c.Identities, c.StateDir, c.JoinTokenFile, c.TokenFile, c.Logger = nil, "", "", w.dir+"/token", nil
			}))
		}
		for _, a := range all {
			a.ready(t)
		}
		pass(5 * time.Second)
		before := len(w.seen())
		w.do(func() { w.root, w.inter = second, second.intermediate(t) })
		publish(t, vault, 2, w.roots[:1], w.roots...)
		start := time.Now()
		pass(61 * time.Second)
		calls := w.seen()[before:]
		perSecond := map[int64]int{}
		for _, c := range calls {
			perSecond[int64(c.At.Sub(start)/time.Second)]++
		}
		busiest := 0
		for _, n := range perSecond {
			busiest = max(busiest, n)
		}
		if len(calls) != agents || busiest > 12 {
			t.Errorf("%d renewals, %d in the busiest second", len(calls), busiest)
		}
	})
}

// TestOlderBundle: a version before the one in force is refused, unless the operator starts over.
func TestOlderBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, a, stop := newFollowing(t, 7)
		second := newRoot(t, "root 2")
		stop()
		old := &sds.Vault{} // an authority that was restored from a backup
		publish(t, old, 6, nil, w.root.cert, second.cert)
		w.serve("a.test:8081", old)
		pass(2 * time.Minute)
		if b := a.vault.Bundle("td.test"); b.Version != 7 || len(b.Roots) != 1 {
			t.Fatalf("version %d with %d roots", b.Version, len(b.Roots))
		}
		if s := a.Status().Bundle; !strings.Contains(s.Error, "older") || !strings.Contains(s.Error, "root.pem") {
			t.Errorf("status %+v", s)
		}
		a.stop()
		a = w.start(nil) // nor after a restart
		pass(2 * time.Minute)
		if b := a.vault.Bundle("td.test"); b.Version != 7 {
			t.Fatalf("version %d after a restart", b.Version)
		}
		w.file("root.pem", pemOf(w.root.cert, second.cert))
		a.stop()
		a = w.start(nil)
		pass(2 * time.Minute)
		if b := a.vault.Bundle("td.test"); b.Version != 6 || len(b.Roots) != 2 {
			t.Errorf("version %d with %d roots after the file was replaced", b.Version, len(b.Roots))
		}
	})
}

// TestLateReplica: a replica that has not caught up is no cause for alarm; one that never does is.
func TestLateReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault, a, stop := newFollowing(t, 7)
		stop()
		late := &sds.Vault{}
		publish(t, late, 6, nil, w.root.cert)
		w.serve("a.test:8081", late)
		pass(40 * time.Second)
		if got := w.logged(); !strings.Contains(got, "older bundle") || strings.Contains(got, "level=ERROR") {
			t.Error("a replica that is late: want a line of it, and no error")
		}
		if s := a.Status().Bundle; !strings.Contains(s.Error, "older") {
			t.Errorf("status %+v", s)
		}
		publish(t, late, 7, nil, w.root.cert)
		pass(2 * time.Minute)
		if s := a.Status().Bundle; strings.Contains(w.logged(), "level=ERROR") || s.Error != "" {
			t.Errorf("it has caught up: status %+v", s)
		}
		a.stop()
		publish(t, vault, 8, nil, w.root.cert)
		w.serve("a.test:8081", vault)
		a = w.start(nil)
		a.ready(t)
		pass(time.Second)
		w.serve("b.test:8081", late)
		a.stop()
		w.start(func(c *agent.Config) { c.Authorities = []string{"b.test:8081"} })
		pass(30 * time.Second)
		if strings.Contains(w.logged(), "level=ERROR") {
			t.Error("an error before it had time to catch up")
		}
		pass(2 * time.Minute)
		if got := w.logged(); !strings.Contains(strings.Join(strings.Split(got, "level=ERROR")[1:], ""), "restored from a backup") {
			t.Error("no error tells of the backup")
		}
	})
}

// TestForeignBundle: bundles that cannot be right are refused, and said to be.
func TestForeignBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault, a, _ := newFollowing(t, 1)
		foreign := newRoot(t, "foreign")
		foreign.cert.RawSubject = nil
		template := *foreign.cert
		template.URIs = leaf(t, "spiffe://other.test", time.Hour).URIs
		publish(t, vault, 2, nil, w.root.cert, sign(t, &template, &template, foreign.key.Public(), foreign.key))
		pass(time.Second)
		if b := a.vault.Bundle("td.test"); b.Version != 1 {
			t.Errorf("version %d", b.Version)
		}
		if got := acked(w.servers["a.test:8081"]); got != 1 {
			t.Errorf("the authority was told %d", got)
		}
		streams := w.servers["a.test:8081"].secrets.Inventory().Snapshot().Streams
		if len(streams) != 1 || streams[0].Secrets[0].Rejections != 1 || !strings.Contains(streams[0].Secrets[0].Error, "not of the trust domain") {
			t.Errorf("the authority sees %+v", streams)
		}
	})
}

// TestConsumers: the authority hears of a version once everybody here has it, who is in the way if that takes too long, and
// of it all the same when they have come round.
func TestConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault := newWorld(t), &sds.Vault{}
		publish(t, vault, 1, nil, w.root.cert)
		w.serve("a.test:8081", vault)
		var mu sync.Mutex
		consumers := []sds.Consumer{{Name: "uid 1001 envoy", Bundle: 1, Connected: true}, {Name: "gone", Bundle: 0}}
		a := w.start(func(c *agent.Config) {
			c.Consumers = func() []sds.Consumer {
				mu.Lock()
				defer mu.Unlock()
				return append([]sds.Consumer(nil), consumers...)
			}
		})
		has := func(version int64) {
			mu.Lock()
			defer mu.Unlock()
			consumers[0].Bundle = version
		}
		a.ready(t)
		pass(time.Second)
		front := w.servers["a.test:8081"]
		if got := acked(front); got != 1 {
			t.Fatalf("acknowledged %d", got)
		}
		publish(t, vault, 2, nil, w.root.cert, newRoot(t, "root 2").cert)
		pass(10 * time.Second)
		if b := a.vault.Bundle("td.test"); b.Version != 2 {
			t.Errorf("it is not in force: version %d", b.Version)
		}
		if s := a.Status().Bundle; acked(front) != 1 || s.Behind != "uid 1001 envoy" || s.Acked != 1 {
			t.Errorf("acknowledged %d, status %+v", acked(front), s)
		}
		pass(30 * time.Second)
		if s := front.secrets.Inventory().Snapshot().Streams[0].Secrets[0]; s.Rejections != 1 || !strings.Contains(s.Error, "uid 1001 envoy") {
			t.Errorf("the authority sees %+v", s)
		}
		has(2)
		pass(2 * time.Second)
		if s := a.Status().Bundle; acked(front) != 2 || s.Behind != "" || s.Acked != 2 {
			t.Errorf("acknowledged %d, status %+v", acked(front), s)
		}
		publish(t, vault, 3, nil, w.root.cert)
		has(3)
		pass(2 * time.Second)
		if acked(front) != 3 {
			t.Errorf("acknowledged %d", acked(front))
		}
	})
}

// TestFollowOutage: while an authority serves no bundles, the roots that come with certificates do; and the stream is back
// when the authority is.
func TestFollowOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, vault, a, stop := newFollowing(t, 1)
		stop()
		w.serve("a.test:8081", nil) // one that serves no bundles
		second := newRoot(t, "root 2")
		w.do(func() { w.roots = append(w.roots, second.cert) })
		pass(time.Hour)
		if b := a.vault.Bundle("td.test"); len(b.Roots) != 2 || b.Version != 1 || a.Status().Bundle.Followed {
			t.Fatalf("%d roots, status %+v", len(b.Roots), a.Status().Bundle)
		}
		w.servers["a.test:8081"].server.Stop()
		publish(t, vault, 2, nil, w.root.cert, second.cert)
		w.serve("a.test:8081", vault)
		pass(20 * time.Minute)
		if s := a.Status().Bundle; !s.Followed || s.Version != 2 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestFollowLaggingReplica: a replica that is behind brings back no root that was revoked, neither by its bundle nor with
// its certificates.
func TestFollowLaggingReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, first, second := newWorld(t), &sds.Vault{}, &sds.Vault{}
		revoked := newRoot(t, "root 2")
		publish(t, first, 2, nil, w.root.cert)
		publish(t, second, 1, nil, w.root.cert, revoked.cert)
		stop := w.serve("a.test:8081", first)
		w.serve("b.test:8081", second)
		a := w.start(func(c *agent.Config) { c.Authorities = []string{"a.test:8081", "b.test:8081"} })
		a.ready(t)
		pass(time.Second)
		w.do(func() { w.roots = append(w.roots, revoked.cert) })
		stop()
		for range 60 {
			pass(time.Minute)
			if b := a.vault.Bundle("td.test"); len(b.Roots) != 1 || b.Version != 2 {
				t.Fatalf("version %d with %d roots", b.Version, len(b.Roots))
			}
		}
	})
}
