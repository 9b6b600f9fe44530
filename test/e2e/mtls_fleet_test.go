package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

// fleetOf is how many agents there are, how long their certificates live, and how long they wait at most with a renewal
// that is due at once for all of them (docs/agent.md): a hundred with two minutes, or as many as WRIT_AGENTS says with the
// hour that they have who do not ask for anything else.
func fleetOf(t *testing.T) (size int, ttl, spread time.Duration) {
	t.Helper()
	text := os.Getenv("WRIT_AGENTS")
	if text == "" {
		return 100, 2 * time.Minute, 30 * time.Second
	}
	size, err := strconv.Atoi(text)
	if err != nil || size < 1 {
		t.Fatalf("WRIT_AGENTS=%q: want a number of agents", text)
	}
	return size, time.Hour, time.Minute
}

// fleetJoining is how many agents join at a time. A token is good for one call, so an agent whose first answer is lost
// needs another: what is tested is a fleet that is there.
const fleetJoining = 20

// TestFleetRotates has the certificates of a whole fleet renewed at once, because their root is tainted: real agents, all in
// this process, against one built authority with its settings as they come. They spread themselves, nobody is refused, and
// nobody is late.
func TestFleetRotates(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	size, ttl, spread := fleetOf(t)
	main, address := m.authority(ttl, "")
	f := startFleet(t, main, address, size)
	f.follow(1)
	main.rotate("prepare")
	main.rotate("distribute")
	f.follow(2)
	main.rotate("activate")
	before := f.renewed()
	// The way to go with a root key that was stolen: nobody waits for the half of everybody's life.
	main.do("ca", "rotate", "taint", "--override", "--reason", "drill: the root key was stolen")
	tainted := time.Now()
	eventuallyWithin(t, spread+patience, "renewals", func() error {
		if missing := before + len(f.agents) - f.renewed(); missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
	f.report(tainted, spread)
}

// fleet is many agents and what happened to them.
type fleet struct {
	t      *testing.T
	main   unit
	agents []*agent.Agent

	mu     sync.Mutex
	events []fleetEvent
}

type fleetEvent struct {
	agent.Event
	at time.Time
}

func startFleet(t *testing.T, main unit, address string, size int) *fleet {
	t.Helper()
	f := &fleet{t: t, main: main}
	domain, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	began := time.Now()
	for n := range size {
		a, err := agent.New(agent.Config{
			TrustDomain: domain, Authorities: []string{address}, BundleFile: main.mesh.file("root.pem"),
			JoinTokenFile: f.token(fmt.Sprintf("spiffe://cluster.local/node/n%d", n)), Vault: &sds.Vault{}, Observe: f.observe,
		})
		if err != nil {
			t.Fatal(err)
		}
		f.agents = append(f.agents, a)
		running.Go(func() {
			if err := errors.Join(a.Run(ctx), a.Close()); err != nil {
				t.Error(err)
			}
		})
		f.joined(n + 1 - fleetJoining)
	}
	f.joined(size)
	t.Logf("%d agents have joined after %v", size, time.Since(began).Round(100*time.Millisecond))
	return f
}

// joined waits until so many have their first certificate.
func (f *fleet) joined(n int) {
	f.t.Helper()
	eventually(f.t, "first certificates", func() error {
		if missing := n - f.renewed(); missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
}

// token asks the admin socket for a join token, as writ token create does, and leaves it in a file.
func (f *fleet) token(id string) (file string) {
	f.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", f.main.mesh.file("main-admin.sock"))
		},
	}}
	question, err := json.Marshal(map[string]any{"ids": []string{id}})
	if err != nil {
		f.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(bounded(f.t), http.MethodPost, "http://admin/ca/tokens", bytes.NewReader(question))
	if err != nil {
		f.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || answer.Token == "" {
		f.t.Fatalf("a token for %s: %s %s", id, response.Status, text)
	}
	name := "token-" + answer.Token[:16]
	f.main.mesh.write(name, answer.Token)
	return f.main.mesh.file(name)
}

func (f *fleet) observe(e agent.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, fleetEvent{e, time.Now()})
}

// soFar is what happened.
func (f *fleet) soFar() []fleetEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// renewed counts the attempts that succeeded.
func (f *fleet) renewed() (n int) {
	for _, e := range f.soFar() {
		if e.Outcome == agent.Renewed {
			n++
		}
	}
	return n
}

// follow waits until the authority knows that everybody has a bundle of so many roots.
func (f *fleet) follow(roots int) {
	f.t.Helper()
	eventuallyWithin(f.t, 2*patience, fmt.Sprintf("%d roots at everybody", roots), func() error {
		for _, a := range f.agents {
			if b := a.Status().Bundle; b == nil || b.Roots != roots || b.Acked != b.Version {
				return fmt.Errorf("an agent has %+v", b)
			}
		}
		return nil
	})
}

// report says how the renewals after a moment went, and fails the test where they did not go well.
func (f *fleet) report(since time.Time, spread time.Duration) {
	f.t.Helper()
	var took []time.Duration
	var last time.Duration
	seconds := map[int]int{}
	for _, e := range f.soFar() {
		switch {
		case e.at.Before(since):
		case e.Outcome != agent.Renewed:
			f.t.Errorf("%s: %s: %v", e.ID, e.Outcome, e.Err)
		default:
			took, last = append(took, e.Took), max(last, e.at.Sub(since))
			seconds[int(e.at.Sub(since)/time.Second)]++
		}
	}
	busiest := 0
	for _, n := range seconds {
		busiest = max(busiest, n)
	}
	mean := float64(len(f.agents)) / spread.Seconds()
	if most := int(3*mean) + 10; busiest > most {
		f.t.Errorf("%d renewals in the busiest second, want at most %d: they are not spread", busiest, most)
	}
	if most := spread + 10*time.Second; last > most {
		f.t.Errorf("the last was renewed after %v, want at most %v", last, most)
	}
	for _, a := range f.agents {
		if s := a.Status(); s.Own.Alarm != "ok" || s.Own.Failures != 0 {
			f.t.Errorf("%s: alarm %s, %d failures: %s", s.Own.ID, s.Own.Alarm, s.Own.Failures, s.Own.Error)
		}
	}
	slices.Sort(took)
	f.t.Logf("%d agents renewed, the last after %v; %.1f a second in the mean, %d in the busiest; a renewal took %v in the median, %v at the 99th percentile, %v at most",
		len(took), last.Round(100*time.Millisecond), mean, busiest, took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond))
}
