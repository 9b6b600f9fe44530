package jwt_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/jwt"
)

func TestNewSourcesRefuses(t *testing.T) {
	noPEM := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cfg  jwt.SourcesConfig
		want string
	}{
		{"refresh too short", jwt.SourcesConfig{Refresh: time.Second}, "refresh 1s: must be from 1m0s to 24h0m0s"},
		{"refresh negative", jwt.SourcesConfig{Refresh: -time.Hour}, "refresh -1h0m0s"},
		{"max stale too long", jwt.SourcesConfig{MaxStale: 8 * 24 * time.Hour}, "max stale 192h0m0s: must be from the refresh interval, 20m0s, to 168h0m0s"},
		{"max stale below refresh", jwt.SourcesConfig{MaxStale: time.Minute}, "max stale 1m0s"},
		{"no CA file named", jwt.SourcesConfig{CABundles: map[string]string{"https://idp": ""}}, `CA bundle of "https://idp": no file is named`},
		{"CA file missing", jwt.SourcesConfig{CABundles: map[string]string{"https://idp": "/nowhere.pem"}}, "/nowhere.pem: no such file"},
		{"CA file without certificate", jwt.SourcesConfig{CABundles: map[string]string{"https://idp": noPEM}}, "holds no PEM certificate"},
		{"network not valid", jwt.SourcesConfig{Networks: jwt.Networks{Allow: []netip.Prefix{{}}}}, "allowed network invalid Prefix"},
		{"network mapped", jwt.SourcesConfig{Networks: jwt.Networks{Deny: prefixes("::ffff:10.0.0.0/104")}}, "denied network ::ffff:10.0.0.0/104: write it as in 10.0.0.0/8"},
		{"proxy of another scheme", jwt.SourcesConfig{Proxy: &url.URL{Scheme: "socks5", Host: "p:1", User: url.UserPassword("u", "pw")}}, `proxy "socks5://u:xxxxx@p:1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := jwt.NewSources(tt.cfg)
			if err == nil || s != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestSourceRotation(t *testing.T) {
	a, b, c, again := newJWK("a"), newJWK("b"), newJWK("c"), newJWK("a")
	set := func(keys ...string) http.HandlerFunc { return says(`{"keys":[` + strings.Join(keys, ",") + `]}`) }
	idp := newIDP(t, set(a))
	synctest.Test(t, func(t *testing.T) {
		_, src := started(t, nearby(), jwt.Wanted{JWKSURI: idp.URL})
		first := src.Keys()
		step := func(name string, answer http.HandlerFunc, want string) *jwt.KeySet {
			t.Helper()
			idp.now(answer)
			pass(22 * time.Minute)
			if got := kids(src.Keys()); got != want {
				t.Fatalf("%s: keys %s, want %s", name, got, want)
			}
			return src.Keys()
		}
		if got := step("the same document", set(a), "a"); got != first {
			t.Error("an unchanged document made a new set: caches of verified tokens are emptied for nothing")
		}
		if got := step("a key added", set(a, b), "a b"); got == first || first.Len() != 1 {
			t.Error("a changed document changed the old set")
		}
		step("the first withdrawn", set(b), "b")
		step("all replaced", set(c), "c")
		withdrawn := step("the first kid comes back", set(a), "a")
		reused := step("with another key", set(again), "a")
		if withdrawn.Equal(reused) {
			t.Error("a kid reused for another key left the old key in force")
		}
	})
}

// Keys that cannot be renewed go after MaxStale, and the log is alarmed long before.
func TestSourceMaxStale(t *testing.T) {
	idp := newIDP(t, says(newJWKS("a")))
	synctest.Test(t, func(t *testing.T) {
		logs := &logBook{}
		cfg := nearby()
		cfg.Logger = logs.logger()
		s, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL})
		idp.now(status(404, ""))
		pass(5 * time.Hour)
		if text := logs.String(); !strings.Contains(text, "level=WARN") || strings.Contains(text, "level=ERROR") {
			t.Errorf("5 hours into the outage, want warnings only:\n%s", text)
		}
		pass(2 * time.Hour)
		if text := logs.String(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "dropped_in=") {
			t.Errorf("7 hours into the outage, want an error:\n%s", text)
		}
		pass(17*time.Hour - time.Second)
		if got := kids(src.Keys()); got != "a" {
			t.Errorf("a second before the limit: keys %s", got)
		}
		pass(time.Second)
		if src.Keys() != nil {
			t.Error("keys in force for longer than MaxStale")
		}
		if st := only(t, s); st.Keys != 0 || st.LastSuccess.IsZero() || st.LastError != jwt.FetchStatus {
			t.Errorf("status %+v", st)
		}
		if !strings.Contains(logs.String(), "keys dropped") {
			t.Error("the log does not tell that keys were dropped")
		}
		if lines := strings.Count(logs.String(), "\n"); lines > 24*6+20 {
			t.Errorf("%d log lines in a day", lines)
		}
		idp.now(says(newJWKS("a")))
		pass(time.Minute)
		if got := kids(src.Keys()); got != "a" {
			t.Errorf("keys %s after recovery", got)
		}
		pass(23 * time.Hour)
		if got := kids(src.Keys()); got != "a" {
			t.Errorf("keys %s a day after recovery", got)
		}
	})
}

// The wall clock decides nothing: neither a jump ahead drops keys nor one back keeps them.
func TestSourceClockJumps(t *testing.T) {
	idp := newIDP(t, says(newJWKS("a")))
	synctest.Test(t, func(t *testing.T) {
		var jump atomic.Int64
		cfg := nearby()
		cfg.MaxStale = 3 * time.Hour
		cfg.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		s, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL})
		jump.Store(int64(100 * 24 * time.Hour))
		pass(time.Minute)
		if st := only(t, s); src.Keys() == nil || st.Stale || st.AgeSeconds > 120 {
			t.Errorf("after a jump ahead: keys %s, status %+v", kids(src.Keys()), st)
		}
		jump.Store(int64(-100 * 24 * time.Hour))
		before := idp.hits.Load()
		pass(22 * time.Minute)
		if idp.hits.Load() != before+1 {
			t.Errorf("after a jump back: %d refreshes in 22 minutes, want 1", idp.hits.Load()-before)
		}
		idp.now(status(404, ""))
		pass(2 * time.Hour)
		if src.Keys() == nil {
			t.Error("keys dropped before their time")
		}
		jump.Store(int64(-200 * 24 * time.Hour))
		pass(time.Hour)
		if src.Keys() != nil {
			t.Error("a jump back kept keys beyond MaxStale")
		}
	})
}

func TestSourceCacheControl(t *testing.T) {
	idp := newIDP(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=420")
		fmt.Fprint(w, newJWKS("a"))
	})
	synctest.Test(t, func(t *testing.T) {
		started(t, nearby(), jwt.Wanted{JWKSURI: idp.URL})
		pass(70 * time.Minute)
		if n := idp.hits.Load(); n < 9 || n > 12 {
			t.Errorf("%d fetches in 70 minutes with max-age of 7", n)
		}
	})
}

// 10,000 tokens a second with kids nobody knows: at most one fetch in 30 seconds, and nothing is remembered of them.
func TestSourceUnknownKeyFlood(t *testing.T) {
	idp := newIDP(t, says(newJWKS("a")))
	synctest.Test(t, func(t *testing.T) {
		counts := newTally()
		cfg := nearby()
		cfg.Metrics = counts
		_, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL, Issuer: "https://idp"})
		const seconds, perSecond = 35, 10_000
		before := heap()
		for range seconds {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			for range perSecond {
				if src.Refetch(ctx).Len() != 1 {
					t.Fatal("the keys are gone")
				}
			}
			cancel()
			pass(time.Second)
		}
		if after := heap(); after > before+1<<20 {
			t.Errorf("heap grew from %d to %d bytes", before, after)
		}
		if n := idp.hits.Load(); n != 2 {
			t.Errorf("%d fetches in %d seconds of flood", n, seconds)
		}
		if got := counts.refetches(jwt.RefetchLimited); got < seconds*perSecond*99/100 {
			t.Errorf("%d of %d counted as limited", got, seconds*perSecond)
		}
	})
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A key that the issuer uses at once works as soon as a token asks for it.
func TestSourceRefetchBringsNewKey(t *testing.T) {
	idp := newIDP(t, says(newJWKS("a")))
	synctest.Test(t, func(t *testing.T) {
		_, src := started(t, nearby(), jwt.Wanted{JWKSURI: idp.URL})
		idp.now(says(newJWKS("a", "b")))
		if got := kids(src.Refetch(t.Context())); got != "a" {
			t.Errorf("keys %s right after a fetch: it is not rate limited", got)
		}
		pass(30 * time.Second)
		if got := kids(src.Refetch(t.Context())); got != "a b" {
			t.Errorf("keys %s, want a b", got)
		}
		pass(17 * time.Minute)
		if n := idp.hits.Load(); n != 2 {
			t.Errorf("%d fetches: a refetch did not put off the next refresh", n)
		}
	})
}

// Many ask together: one fetch, everybody gets its keys, and beyond a bound nobody waits.
func TestSourceRefetchSingleFlight(t *testing.T) {
	idp := newIDP(t, says(newJWKS("a")))
	gate := make(chan struct{})
	synctest.Test(t, func(t *testing.T) {
		counts := newTally()
		cfg := nearby()
		cfg.Metrics = counts
		var waiting, waited atomic.Int32
		cfg.Waiting = func(context.Context) func() {
			waiting.Add(1)
			return func() { waited.Add(1) }
		}
		_, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL})
		pass(30 * time.Second)
		idp.now(func(w http.ResponseWriter, _ *http.Request) {
			<-gate
			fmt.Fprint(w, newJWKS("b"))
		})
		var all sync.WaitGroup
		var fresh, old atomic.Int32
		const callers = jwt.MaxWaiters + 500
		for range callers {
			all.Go(func() {
				if kids(src.Refetch(t.Context())) == "b" {
					fresh.Add(1)
				} else {
					old.Add(1)
				}
			})
		}
		for counts.refetches(jwt.RefetchJoined)+counts.refetches(jwt.RefetchStarted)+counts.refetches(jwt.RefetchCrowded) < callers {
			runtime.Gosched()
		}
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if got := kids(src.Refetch(impatient)); got != "a" {
			t.Errorf("keys %s for a caller without time", got)
		}
		close(gate)
		all.Wait()
		if idp.hits.Load() != 2 || fresh.Load() != jwt.MaxWaiters || old.Load() != 500 {
			t.Errorf("%d fetches; %d got new keys, %d old", idp.hits.Load(), fresh.Load(), old.Load())
		}
		if waiting.Load() != jwt.MaxWaiters || waited.Load() != jwt.MaxWaiters {
			t.Errorf("%d began to wait and %d ended, want %d: those that were turned away never did", waiting.Load(), waited.Load(), jwt.MaxWaiters)
		}
	})
}

// A request may wait for the first fetch; without Run nobody waits for what will not come.
func TestSourceRefetchFirstFetch(t *testing.T) {
	gate := make(chan struct{})
	idp := newIDP(t, func(w http.ResponseWriter, _ *http.Request) {
		<-gate
		fmt.Fprint(w, newJWKS("a"))
	})
	w := jwt.Wanted{JWKSURI: idp.URL}
	s := newSources(t, nearby())
	early := s.Source(w)
	if early.Keys() != nil || early.Refetch(context.Background()) != nil {
		t.Error("a source that nobody wants has keys")
	}
	s.Set([]jwt.Wanted{w})
	src := s.Source(w)
	if src.Keys() != nil || src.Refetch(context.Background()) != nil {
		t.Error("keys before anything ran")
	}
	running(t, s)
	waitFor(t, "the first request", func() bool { return idp.hits.Load() == 1 })
	close(gate)
	if got := kids(src.Refetch(t.Context())); got != "a" {
		t.Errorf("keys %s, want a", got)
	}
	if early.Keys() != src.Keys() || early.Refetch(t.Context()) != src.Keys() {
		t.Error("a source asked for before it was wanted has other keys")
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("Run runs twice")
	}
}

func TestSourcesSet(t *testing.T) {
	one, two := newIDP(t, says(newJWKS("one"))), newIDP(t, says(newJWKS("two")))
	synctest.Test(t, func(t *testing.T) {
		s := newSources(t, nearby())
		running(t, s)
		shared := []jwt.Wanted{
			{JWKSURI: one.URL, Issuer: "https://b", Timeout: time.Second},
			{JWKSURI: one.URL, Issuer: "https://a"},
			{JWKSURI: one.URL, Issuer: "https://a", Timeout: time.Hour},
			{JWKSURI: one.URL},
		}
		s.Set(shared)
		pass(0)
		first := s.Source(shared[0])
		for _, w := range shared {
			if s.Source(w) != first {
				t.Errorf("%+v has a source of its own", w)
			}
		}
		if st := only(t, s); one.hits.Load() != 1 || fmt.Sprint(st.Issuers) != "[https://a https://b]" || st.Keys != 1 {
			t.Errorf("%d fetches, status %+v", one.hits.Load(), st)
		}

		other := jwt.Wanted{JWKSURI: two.URL}
		s.Set([]jwt.Wanted{other, shared[1]})
		pass(time.Minute)
		if s.Source(shared[1]) != first || one.hits.Load() != 1 {
			t.Error("a source that stays was started anew")
		}
		if kids(s.Source(other).Keys()) != "two" || len(s.Status()) != 2 {
			t.Errorf("status %+v", s.Status())
		}

		s.Set([]jwt.Wanted{other})
		pass(time.Second)
		if kids(first.Keys()) != "one" {
			t.Error("keys vanished under the requests under way")
		}
		pass(time.Minute)
		if first.Keys() != nil || first.Refetch(t.Context()) != nil || s.Source(shared[0]).Keys() != nil {
			t.Error("a source no longer wanted keeps its keys")
		}
		pass(24 * time.Hour)
		if one.hits.Load() != 1 || two.hits.Load() < 60 {
			t.Errorf("%d and %d fetches in a day, want 1 and about 72", one.hits.Load(), two.hits.Load())
		}
		s.Set(nil)
		pass(time.Hour)
		if n := two.hits.Load(); len(s.Status()) != 0 || n > 90 {
			t.Errorf("status %+v, %d fetches", s.Status(), n)
		}
	})
}

func TestSourcesSetBounded(t *testing.T) {
	var wanted []jwt.Wanted
	for i := range 5000 {
		wanted = append(wanted, jwt.Wanted{JWKSURI: fmt.Sprintf("https://idp.example/%d", i)})
	}
	s := newSources(t, jwt.SourcesConfig{})
	s.Set(wanted)
	if n := len(s.Status()); n != 4096 {
		t.Errorf("%d sources", n)
	}
	if s.Source(wanted[4999]).Keys() != nil {
		t.Error("a source beyond the bound has keys")
	}
}

// What can never be fetched is said at once, without a single request.
func TestSourceRefusedURL(t *testing.T) {
	for _, tt := range []struct {
		name string
		w    jwt.Wanted
		want jwt.FetchResult
		show string // the URL in the status
	}{
		{"http", jwt.Wanted{JWKSURI: "http://idp.example/keys"}, jwt.FetchRefusedURL, "http://idp.example/keys"},
		{"another scheme", jwt.Wanted{JWKSURI: "ftp://idp.example/keys"}, jwt.FetchRefusedURL, "ftp://idp.example/keys"},
		{"credentials", jwt.Wanted{JWKSURI: "https://u:" + marker + "@idp.example/keys?" + marker + "#" + marker}, jwt.FetchRefusedURL, "https://idp.example/keys"},
		{"no host", jwt.Wanted{JWKSURI: "https:///keys"}, jwt.FetchRefusedURL, "https:///keys"},
		{"no URL", jwt.Wanted{JWKSURI: "https://idp example/" + marker}, jwt.FetchRefusedURL, "(not a URL)"},
		{"long", jwt.Wanted{JWKSURI: "https://idp.example/" + strings.Repeat("k", 2048)}, jwt.FetchRefusedURL, "https://idp.example/" + strings.Repeat("k", 2048)},
		{"loopback", jwt.Wanted{JWKSURI: "https://127.0.0.1/keys"}, jwt.FetchRefusedAddress, "https://127.0.0.1/keys"},
		{"metadata with a final dot", jwt.Wanted{JWKSURI: "https://169.254.169.254./keys"}, jwt.FetchRefusedAddress, "https://169.254.169.254./keys"},
		{"link-local with a zone", jwt.Wanted{JWKSURI: "https://[fe80::1%25lo]/keys"}, jwt.FetchRefusedAddress, "https://[fe80::1%25lo]/keys"},
		{"issuer is an e-mail address", jwt.Wanted{Issuer: "a@idp.example"}, jwt.FetchRefusedURL, "a@idp.example/.well-known/openid-configuration"},
		{"issuer with credentials", jwt.Wanted{Issuer: "https://u:" + marker + "@idp.example"}, jwt.FetchRefusedURL, "https://idp.example/.well-known/openid-configuration"},
		{"issuer with a query", jwt.Wanted{Issuer: "https://idp.example?tenant=1"}, jwt.FetchRefusedURL, "https://idp.example"},
		{"issuer over http", jwt.Wanted{Issuer: "http://idp.example"}, jwt.FetchRefusedURL, "http://idp.example/.well-known/openid-configuration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			logs, counts := &logBook{}, newTally()
			s := newSources(t, jwt.SourcesConfig{Logger: logs.logger(), Metrics: counts})
			s.Set([]jwt.Wanted{tt.w})
			s.Set([]jwt.Wanted{tt.w})
			running(t, s)
			st := only(t, s)
			if st.LastError != tt.want || st.URL != tt.show || st.Failures != 1 || !st.NextAttempt.IsZero() || counts.count(tt.want) != 1 {
				t.Errorf("status %+v, want %s and URL %s", st, tt.want, tt.show)
			}
			if s.Source(tt.w).Refetch(t.Context()) != nil {
				t.Error("it has keys")
			}
			if text := fmt.Sprintf("%+v", st) + logs.String(); strings.Contains(text, marker) {
				t.Errorf("status or log shows the secret part of the URL: %s", text)
			}
			if strings.Count(logs.String(), "level=ERROR") != 1 {
				t.Errorf("want one line in the log:\n%s", logs)
			}
		})
	}
}

// When Run has returned nothing is left behind, even if it was in the middle of things.
func TestSourcesStop(t *testing.T) {
	over := make(chan struct{})
	idp := newIDP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			fmt.Fprint(w, "{")
			http.NewResponseController(w).Flush()
		}
		<-over
	})
	defer close(over)
	s := newSources(t, nearby())
	headers, body := jwt.Wanted{JWKSURI: idp.URL + "/headers"}, jwt.Wanted{JWKSURI: strings.Replace(idp.URL, "127.0.0.1", "localhost", 1) + "/body"}
	s.Set([]jwt.Wanted{headers, body})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	waitFor(t, "both requests", func() bool { return idp.hits.Load() == 2 })
	released := make(chan struct{})
	go func() {
		s.Source(headers).Refetch(context.Background())
		close(released)
	}()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	<-released
	s.Set([]jwt.Wanted{headers})
	if s.Source(headers).Refetch(context.Background()) != nil {
		t.Error("keys after the end")
	}
	waitFor(t, "every goroutine of a client to end", func() bool {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "jwt.(*remote)") && !strings.Contains(stacks, "jwt.(*transport)")
	})
}

// However many key sets there are, few requests are under way, and one to a host.
func TestSourcesConcurrency(t *testing.T) {
	var now, peak atomic.Int32
	answer := func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		<-time.After(20 * time.Millisecond)
		now.Add(-1)
		fmt.Fprint(w, newJWKS("a"))
	}
	for name, tt := range map[string]struct{ hosts, sets, most int }{
		"many hosts": {2 * jwt.MaxConcurrentFetch, 1, jwt.MaxConcurrentFetch},
		"one host":   {1, 12, 1},
	} {
		t.Run(name, func(t *testing.T) {
			peak.Store(0)
			var wanted []jwt.Wanted
			for range tt.hosts {
				idp := newIDP(t, answer)
				for i := range tt.sets {
					wanted = append(wanted, jwt.Wanted{JWKSURI: fmt.Sprintf("%s/%d", idp.URL, i)})
				}
			}
			s := newSources(t, nearby())
			s.Set(wanted)
			running(t, s)
			waitFor(t, "all keys", func() bool {
				for _, w := range wanted {
					if s.Source(w).Keys() == nil {
						return false
					}
				}
				return true
			})
			if got := int(peak.Load()); got > tt.most {
				t.Errorf("%d requests at once, want at most %d", got, tt.most)
			}
		})
	}
}
