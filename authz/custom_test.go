package authz_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// providerFunc is a provider in a few words.
type providerFunc func(ctx context.Context, q *authz.Question, a *authz.Answer) error

func (f providerFunc) Ask(ctx context.Context, q *authz.Question, a *authz.Answer) error {
	return f(ctx, q, a)
}

var (
	yes = providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error { a.Allow = true; return nil })
	no  = providerFunc(func(context.Context, *authz.Question, *authz.Answer) error { return nil })
)

// custom is a CUSTOM policy for a path prefix.
func custom(name, provider, path string) string {
	return named("foo", name, "{action: CUSTOM, provider: {name: "+provider+"}, rules: ["+to("paths: ['"+path+"']")+"]}")
}

// delegated is an engine, the documents it decides by, and a workload of theirs.
type delegated struct {
	engine *authz.Engine
	snap   *policy.Snapshot
	bound  *policy.Bound
}

func delegate(t *testing.T, docs []string, providers ...authz.ProviderConfig) *delegated {
	t.Helper()
	table, err := authz.NewProviders(nil, providers...)
	if err != nil {
		t.Fatal(err)
	}
	snap := policy.NewSnapshot(policy.Decode("t.yaml", []byte(strings.Join(docs, "---\n"))), policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	return &delegated{&authz.Engine{Providers: table}, snap, bound}
}

// ask decides a GET of path with headers k, v, k, v.
func (e *delegated) ask(ctx context.Context, path string, headers ...string) authz.Decision {
	r := &policy.Request{Method: "GET", HasMethod: true, Path: path, RawPath: path, Host: "a.example", HasHost: true, Scheme: "https"}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Headers = append(r.Headers, policy.Header{Name: headers[i], Value: headers[i+1]})
	}
	d := authz.Decision{Raw: []byte("raw")}
	e.engine.Decide(ctx, e.snap, e.bound, r, &d)
	return d
}

func outcomes(d *authz.Decision) string {
	var out []string
	for _, a := range d.Asked {
		text := a.Provider + ":" + strings.TrimPrefix(string(a.Outcome), "provider_")
		if a.Open {
			text += ":open"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// TestCustomTable is authorization-policy §4.2 with a provider that answers, and §4.4 with several of them: each is asked
// if one of its rules matches, in the order of their names, and all must allow.
func TestCustomTable(t *testing.T) {
	t.Parallel()
	failing := providerFunc(func(context.Context, *authz.Question, *authz.Answer) error { return errors.New("broken") })
	denyD, allowA := deny(to("paths: ['*/d']")), named("foo", "a", "{rules: ["+to("paths: ['*/a']")+"]}")
	docs := []string{custom("c1", "b", "/b*"), custom("c2", "a", "/*"), custom("c3", "a", "/b*"), denyD, allowA}
	for _, tc := range []struct {
		name   string
		a, b   authz.Provider
		path   string
		allow  bool
		layer  authz.Layer
		reason authz.Reason
		asked  string
	}{
		{"both allow, and ALLOW hits", yes, yes, "/b/a", true, authz.LayerAllow, authz.ReasonAllowed, "a:allowed b:allowed"},
		{"both allow, and no ALLOW hits", yes, yes, "/b", false, authz.LayerAllow, authz.ReasonNoAllowMatch, "a:allowed b:allowed"},
		{"both allow, and DENY hits", yes, yes, "/b/d", false, authz.LayerDeny, authz.ReasonDenied, "a:allowed b:allowed"},
		{"the first denies", no, yes, "/b/a", false, authz.LayerCustom, authz.ReasonProviderDenied, "a:denied"},
		{"the second denies", yes, no, "/b/a", false, authz.LayerCustom, authz.ReasonProviderDenied, "a:allowed b:denied"},
		{"only one is asked", yes, no, "/a", true, authz.LayerAllow, authz.ReasonAllowed, "a:allowed"},
		{"the first fails", failing, yes, "/b/a", false, authz.LayerCustom, authz.ReasonProviderError, "a:error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := delegate(t, docs, authz.ProviderConfig{Name: "a", Provider: tc.a}, authz.ProviderConfig{Name: "b", Provider: tc.b})
			d := e.ask(t.Context(), tc.path)
			if d.Allow != tc.allow || d.Layer != tc.layer || d.Reason != tc.reason || outcomes(&d) != tc.asked {
				t.Errorf("allow %v by %s, %s after %q", d.Allow, d.Layer, d.Reason, outcomes(&d))
			}
		})
	}
	t.Run("nobody is asked when no rule matches", func(t *testing.T) {
		e := delegate(t, []string{custom("c", "a", "/x")}, authz.ProviderConfig{Name: "a", Provider: no})
		if d := e.ask(t.Context(), "/"); !d.Allow || len(d.Asked) > 0 {
			t.Errorf("%+v", d)
		}
	})
	t.Run("the rule that matched is named", func(t *testing.T) {
		var rule string
		e := delegate(t, docs, authz.ProviderConfig{Name: "a", Provider: providerFunc(func(_ context.Context, q *authz.Question, _ *authz.Answer) error {
			rule = q.Rule.ID()
			return nil
		})})
		d := e.ask(t.Context(), "/b")
		if want := "istio-ext-authz-a-ns[foo]-policy[c2]-rule[0]"; rule != want || d.Rule.ID() != want {
			t.Errorf("asked for %s, denied by %s", rule, d.Rule.ID())
		}
	})
}

// TestCustomFaults: whatever keeps a provider from answering denies with its own reason, unless it fails open.
func TestCustomFaults(t *testing.T) {
	t.Parallel()
	asks := func(f func(a *authz.Answer) error) authz.Provider {
		return providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error { return f(a) })
	}
	for _, tc := range []struct {
		name     string
		provider authz.Provider
		reason   authz.Reason
		opens    bool
	}{
		{"an error", asks(func(*authz.Answer) error { return errors.New("x") }), authz.ReasonProviderError, true},
		{"an error of its own kind", asks(func(*authz.Answer) error {
			return fmt.Errorf("wrapped: %w", &authz.Fault{Reason: authz.ReasonProviderUnreachable, Err: errors.New("x")})
		}), authz.ReasonProviderUnreachable, true},
		{"an error after an allow was written", asks(func(a *authz.Answer) error { a.Allow = true; return errors.New("x") }), authz.ReasonProviderError, true},
		{"a request it cannot be asked about", asks(func(*authz.Answer) error {
			return &authz.Fault{Reason: authz.ReasonProviderBadRequest, Err: errors.New("x")}
		}), authz.ReasonProviderBadRequest, false},
		{"a panic", asks(func(*authz.Answer) error { panic("x") }), authz.ReasonProviderPanic, false},
		{"a status that is none", asks(func(a *authz.Answer) error { a.Allow, a.Status = true, 99; return nil }), authz.ReasonProviderBadAnswer, true},
		{"too many headers", asks(func(a *authz.Answer) error {
			a.Allow, a.RequestHeaders = true, slices.Repeat([]authz.HeaderChange{{Name: "x", Value: "y"}}, 257)
			return nil
		}), authz.ReasonProviderBadAnswer, true},
		{"headers too large", asks(func(a *authz.Answer) error {
			a.Allow, a.RequestHeaders = true, []authz.HeaderChange{{Name: "x", Value: strings.Repeat("y", 64<<10)}}
			return nil
		}), authz.ReasonProviderBadAnswer, true},
		{"metadata that is no JSON", asks(func(a *authz.Answer) error {
			a.Allow, a.Metadata = true, map[string]any{"x": []any{make(chan int)}}
			return nil
		}), authz.ReasonProviderBadAnswer, true},
		{"deep metadata", asks(func(a *authz.Answer) error {
			var deep any
			for range 100 {
				deep = []any{deep}
			}
			a.Allow, a.Metadata = true, map[string]any{"x": deep}
			return nil
		}), authz.ReasonProviderBadAnswer, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			docs := []string{custom("c", "p", "/*")}
			d := delegate(t, docs, authz.ProviderConfig{Name: "p", Provider: tc.provider}).ask(t.Context(), "/")
			if d.Allow || d.Layer != authz.LayerCustom || d.Reason != tc.reason || d.Status != http.StatusForbidden || d.Detail == "" || d.Asked[0].Outcome != tc.reason {
				t.Errorf("closed: %+v", d)
			}
			d = delegate(t, docs, authz.ProviderConfig{Name: "p", Provider: tc.provider, StatusOnError: 503}).ask(t.Context(), "/")
			if d.Allow || d.Status != http.StatusServiceUnavailable {
				t.Errorf("status %d", d.Status)
			}
			d = delegate(t, append(docs, deny(to("paths: [/d]"))), authz.ProviderConfig{Name: "p", Provider: tc.provider, FailOpen: true}).ask(t.Context(), "/")
			if d.Allow != tc.opens || d.Asked[0].Open != tc.opens || len(d.Changes.RequestHeaders) > 0 {
				t.Errorf("fails open: %+v", d)
			}
		})
	}
}

// TestCustomDenialStaysOne: whatever is wrong with a denial, failing open does not turn it into an allow.
func TestCustomDenialStaysOne(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(a *authz.Answer){
		"a status that is none": func(a *authz.Answer) { a.Status = 99 },
		"a body without end":    func(a *authz.Answer) { a.Body = strings.Repeat("x", authz.MaxProviderBody+1) },
		"headers without end": func(a *authz.Answer) {
			a.ResponseHeaders = []authz.HeaderChange{{Name: "x", Value: strings.Repeat("y", 65<<10)}}
		},
		"metadata that is no JSON": func(a *authz.Answer) { a.Metadata = map[string]any{"x": math.NaN()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error { spoil(a); return nil })
			e := delegate(t, []string{custom("c", "p", "/*")}, authz.ProviderConfig{Name: "p", Provider: p, FailOpen: true, StatusOnError: 503})
			d := e.ask(t.Context(), "/")
			if d.Allow || d.Reason != authz.ReasonProviderDenied || d.Status != http.StatusForbidden || len(d.Body) > 100 || d.Asked[0].Open {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestCustomFailsOpenToTheOtherLayers: a provider that fails open does not open what the other layers close.
func TestCustomFailsOpenToTheOtherLayers(t *testing.T) {
	t.Parallel()
	failing := providerFunc(func(context.Context, *authz.Question, *authz.Answer) error { return errors.New("x") })
	e := delegate(t, []string{custom("c", "a", "/*"), custom("c2", "b", "/b"), deny(to("paths: [/d]"))},
		authz.ProviderConfig{Name: "a", Provider: failing, FailOpen: true}, authz.ProviderConfig{Name: "b", Provider: no})
	for path, want := range map[string]authz.Reason{"/": authz.ReasonNoAllowPolicy, "/d": authz.ReasonDenied, "/b": authz.ReasonProviderDenied} {
		if d := e.ask(t.Context(), path); d.Reason != want {
			t.Errorf("%s: %s after %s", path, d.Reason, outcomes(&d))
		}
	}
}

func TestCustomUnknownProvider(t *testing.T) {
	t.Parallel()
	docs := []string{custom("c", "nobody", "/c")}
	for name, e := range map[string]*delegated{
		"no providers": delegate(t, docs), "another": delegate(t, docs, authz.ProviderConfig{Name: "somebody", Provider: yes, FailOpen: true}),
	} {
		if d := e.ask(t.Context(), "/c"); d.Allow || d.Reason != authz.ReasonProviderUnknown || d.Status != 403 || !strings.Contains(d.Detail, "nobody") {
			t.Errorf("%s: %+v", name, d)
		}
		if d := e.ask(t.Context(), "/"); !d.Allow { // §4.2: only requests that match
			t.Errorf("%s: %+v", name, d)
		}
	}
	e := delegate(t, docs)
	e.engine.Providers = nil
	if d := e.ask(t.Context(), "/c"); d.Allow || d.Reason != authz.ReasonProviderUnknown {
		t.Errorf("%+v", d)
	}
}

// TestCustomBrokenPolicy: a document that was never valid denies, whatever the provider it names would say, also when a
// valid policy of the same provider with a smaller ID matches.
func TestCustomBrokenPolicy(t *testing.T) {
	t.Parallel()
	broken := named("foo", "z", "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {ipBlocks: [10.0.0.300]}}]}]}")
	e := delegate(t, []string{custom("c", "a", "/*"), broken}, authz.ProviderConfig{Name: "a", Provider: yes})
	if d := e.ask(t.Context(), "/"); d.Allow || d.Reason != authz.ReasonBrokenPolicy || len(d.Asked) > 0 {
		t.Errorf("%+v", d)
	}
}

// TestCustomTCP: a provider of HTTP requests only denies connections, although it fails open; others are asked.
func TestCustomTCP(t *testing.T) {
	t.Parallel()
	docs := []string{custom("c", "p", "/x")} // on TCP the path counts as true
	for _, tc := range []struct {
		only  bool
		allow bool
	}{{true, false}, {false, true}} {
		e := delegate(t, docs, authz.ProviderConfig{Name: "p", Provider: yes, HTTPOnly: tc.only, FailOpen: true})
		var d authz.Decision
		e.engine.Decide(t.Context(), e.snap, e.bound, &policy.Request{TCP: true, DestPort: 5432}, &d)
		if d.Allow != tc.allow || !tc.allow && d.Reason != authz.ReasonProviderHTTPOnly {
			t.Errorf("HTTP only %v: %+v", tc.only, d)
		}
	}
}

// TestCustomDeadline: a provider gets its own time or what is left of the caller's, whichever is less, and something is
// kept for the answer.
func TestCustomDeadline(t *testing.T) {
	t.Parallel()
	const forever = 0
	for _, tc := range []struct{ own, callers, want time.Duration }{
		{time.Second, forever, time.Second},
		{time.Second, 10 * time.Second, time.Second},
		{time.Second, 200 * time.Millisecond, 180 * time.Millisecond},
		{0, forever, authz.DefaultProviderTimeout},
		{time.Minute, 10 * time.Second, 9950 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			slow := providerFunc(func(ctx context.Context, _ *authz.Question, _ *authz.Answer) error { <-ctx.Done(); return ctx.Err() })
			e := delegate(t, []string{custom("c", "p", "/*")}, authz.ProviderConfig{Name: "p", Provider: slow, Timeout: tc.own})
			ctx := t.Context()
			if tc.callers != forever {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.callers)
				defer cancel()
			}
			start := time.Now()
			d := e.ask(ctx, "/")
			if took := time.Since(start); took != tc.want || d.Allow || d.Reason != authz.ReasonProviderTimeout {
				t.Errorf("own %v, caller's %v: %s after %v, want %v", tc.own, tc.callers, d.Reason, took, tc.want)
			}
		})
	}
	t.Run("nothing left", func(t *testing.T) {
		ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		d := delegate(t, []string{custom("c", "p", "/*")}, authz.ProviderConfig{Name: "p", Provider: yes}).ask(ctx, "/")
		if d.Allow || d.Reason != authz.ReasonProviderTimeout {
			t.Errorf("%+v", d)
		}
	})
}

// TestCustomIsolation: a provider that hangs takes its own places and nobody else's.
func TestCustomIsolation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := providerFunc(func(ctx context.Context, _ *authz.Question, a *authz.Answer) error {
			select {
			case <-release:
				a.Allow = true
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		e := delegate(t, []string{custom("c1", "slow", "/slow"), custom("c2", "fast", "/fast")},
			authz.ProviderConfig{Name: "slow", Provider: slow, MaxConcurrent: 3, Timeout: 10 * time.Minute}, authz.ProviderConfig{Name: "fast", Provider: yes})
		var wait sync.WaitGroup
		var mu sync.Mutex
		answers := map[authz.Reason]int{}
		for range 64 {
			wait.Go(func() {
				d := e.ask(t.Context(), "/slow")
				mu.Lock()
				defer mu.Unlock()
				answers[d.Reason]++
			})
		}
		synctest.Wait()
		if n := e.engine.Providers.InFlight("slow"); n != 3 {
			t.Errorf("%d in flight", n)
		}
		if d := e.ask(t.Context(), "/fast"); !d.Allow {
			t.Errorf("fast: %+v", d)
		}
		close(release)
		wait.Wait()
		if diff := cmp.Diff(map[authz.Reason]int{authz.ReasonProviderOverload: 61, authz.ReasonNoAllowPolicy: 3}, answers); diff != "" {
			t.Error(diff)
		}
		if n := e.engine.Providers.InFlight("slow"); n != 0 {
			t.Errorf("%d left in flight", n)
		}
	})
}

// TestCustomDenial: status, headers and body of a denial are the provider's, and nothing of an allow before it is left.
func TestCustomDenial(t *testing.T) {
	t.Parallel()
	first := providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error {
		a.Allow = true
		a.RequestHeaders = append(a.RequestHeaders, authz.HeaderChange{Name: "x-first", Value: "1"})
		a.ResponseHeaders = append(a.ResponseHeaders, authz.HeaderChange{Name: "x-first", Value: "1"})
		a.Metadata = map[string]any{"first": true}
		return nil
	})
	second := providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error {
		a.Status, a.Body, a.Detail = 302, "go away", "for operators"
		a.ResponseHeaders = append(a.ResponseHeaders, authz.HeaderChange{Name: "Location", Value: "https://login.example"},
			authz.HeaderChange{Name: "set-cookie", Value: "a=1"}, authz.HeaderChange{Name: "set-cookie", Value: "b=2"},
			authz.HeaderChange{Name: "content-length", Value: "0"}, authz.HeaderChange{Name: ":status", Value: "200"}, authz.HeaderChange{Name: "x", Value: "a\r\nb: c"})
		a.RequestHeaders = append(a.RequestHeaders, authz.HeaderChange{Name: "x-second", Value: "1"})
		a.Metadata = map[string]any{"second": 1.0}
		return nil
	})
	e := delegate(t, []string{custom("c1", "a", "/*"), custom("c2", "b", "/*")},
		authz.ProviderConfig{Name: "a", Provider: first}, authz.ProviderConfig{Name: "b", Provider: second})
	d := e.ask(t.Context(), "/")
	if d.Allow || d.Status != 302 || d.Body != "go away" || d.Detail != "for operators" || d.Asked[1].Refused != 3 {
		t.Errorf("%+v", d)
	}
	want := authz.Changes{ResponseHeaders: []authz.HeaderChange{
		{Name: "location", Value: "https://login.example"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"},
	}, Metadata: map[string]any{"second": 1.0}}
	if diff := diffChanges(want, d.Changes); diff != "" {
		t.Error(diff)
	}
}

// diffChanges does not tell an empty list from none.
func diffChanges(want, got authz.Changes) string {
	empty := func(c authz.Changes) map[string]any {
		m := map[string]any{}
		add := func(name string, n int, v any) {
			if n > 0 {
				m[name] = v
			}
		}
		add("request headers", len(c.RequestHeaders), c.RequestHeaders)
		add("remove headers", len(c.RemoveHeaders), c.RemoveHeaders)
		add("response headers", len(c.ResponseHeaders), c.ResponseHeaders)
		add("set parameters", len(c.SetParams), c.SetParams)
		add("remove parameters", len(c.RemoveParams), c.RemoveParams)
		add("metadata", len(c.Metadata), c.Metadata)
		return m
	}
	return cmp.Diff(empty(want), empty(got))
}

// TestCustomMerge: what several providers want is merged as if their filters ran one after the other.
func TestCustomMerge(t *testing.T) {
	t.Parallel()
	type changes = authz.Changes
	set := func(name, value string, how ...authz.HeaderAppend) authz.HeaderChange {
		h := authz.HeaderChange{Name: name, Value: value}
		if len(how) > 0 {
			h.Append = how[0]
		}
		return h
	}
	headers := func(h ...authz.HeaderChange) changes { return changes{RequestHeaders: h} }
	const add, ifAbsent, ifThere = authz.HeaderAppendOrAdd, authz.HeaderAddIfAbsent, authz.HeaderOverwriteIfExists
	for _, tc := range []struct {
		name    string
		sent    []string
		a, b    changes
		want    changes
		refused int
	}{
		{"the later one overwrites", nil, headers(set("x", "1"), set("y", "1")), headers(set("X", "2")), headers(set("y", "1"), set("x", "2")), 0},
		{"the later one adds", nil, headers(set("x", "1")), headers(set("x", "2", add)), headers(set("x", "1"), set("x", "2", add)), 0},
		{"adds to what was sent", []string{"x", "0"}, headers(set("x", "1", add)), headers(set("x", "2", add)), headers(set("x", "1", add), set("x", "2", add)), 0},
		{"adds to nothing", nil, headers(set("x", "1", add)), changes{}, headers(set("x", "1")), 0},
		{"overwrites what was added", nil, headers(set("x", "1", add)), headers(set("x", "2")), headers(set("x", "2")), 0},
		{"the later one removes", nil, headers(set("x", "1")), changes{RemoveHeaders: []string{"X"}}, changes{RemoveHeaders: []string{"x"}}, 0},
		{"the later one sets what was removed", []string{"x", "0"}, changes{RemoveHeaders: []string{"x"}}, headers(set("x", "2", add)), headers(set("x", "2")), 0},
		{"one answer removes what it sets", nil, changes{RequestHeaders: []authz.HeaderChange{set("x", "1")}, RemoveHeaders: []string{"x"}}, changes{}, changes{RemoveHeaders: []string{"x"}}, 0},
		{"if absent, and it is", nil, headers(set("x", "1", ifAbsent)), headers(set("x", "2", ifAbsent)), headers(set("x", "1")), 0},
		{"if absent, and it was sent", []string{"x", "0"}, headers(set("x", "1", ifAbsent)), changes{}, changes{}, 0},
		{"if absent, after it was removed", []string{"x", "0"}, changes{RemoveHeaders: []string{"x"}}, headers(set("x", "1", ifAbsent)), headers(set("x", "1")), 0},
		{"if there, and it is not", nil, headers(set("x", "1", ifThere)), changes{}, changes{}, 0},
		{"if there, and it was sent", []string{"x", "0"}, headers(set("x", "1", ifThere)), changes{}, headers(set("x", "1")), 0},
		{"if there, after it was removed", []string{"x", "0"}, changes{RemoveHeaders: []string{"x"}}, headers(set("x", "1", ifThere)), changes{RemoveHeaders: []string{"x"}}, 0},
		{"the last of one answer counts", nil, headers(set("x", "1"), set("x", "2")), changes{}, headers(set("x", "2")), 0},
		{
			"response headers", nil,
			changes{ResponseHeaders: []authz.HeaderChange{set("a", "1"), set("a", "2", add), set("b", "1")}},
			changes{ResponseHeaders: []authz.HeaderChange{set("a", "3"), set("a", "4"), set("b", "2", add)}},
			changes{ResponseHeaders: []authz.HeaderChange{set("b", "1"), set("a", "3"), set("a", "4"), set("b", "2", add)}}, 0,
		},
		{
			"parameters", nil,
			changes{SetParams: []authz.Param{{"p", "1"}, {"q", "1"}}, RemoveParams: []string{"r", "s"}},
			changes{SetParams: []authz.Param{{"p", "2"}, {"r", "2"}}, RemoveParams: []string{"q", "s"}},
			changes{SetParams: []authz.Param{{"p", "2"}, {"r", "2"}}, RemoveParams: []string{"s", "q"}}, 0,
		},
		{"metadata", nil, changes{Metadata: map[string]any{"a": "1", "b": "1"}}, changes{Metadata: map[string]any{"b": "2"}}, changes{Metadata: map[string]any{"a": "1", "b": "2"}}, 0},
		{
			"what no provider may change", nil,
			headers(set(":authority", "x"), set("Host", "x"), set("x-forwarded-for", "x"), set("X-Forwarded-Client-Cert", "x"), set("x-envoy-internal", "x"),
				set("content-length", "0"), set("Transfer-Encoding", "chunked"), set("connection", "close"), set("forwarded", "x"), set("", "x"), set("a b", "x"),
				set("ok", "a\nb"), set("fine", "1")),
			changes{RemoveHeaders: []string{"x-forwarded-for", ":path", "host", "content-length", "fine"}},
			changes{RemoveHeaders: []string{"fine"}}, 16,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			wants := func(c changes) authz.Provider {
				return providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error {
					a.Allow, a.Changes = true, c
					return nil
				})
			}
			e := delegate(t, []string{custom("c1", "a", "/*"), custom("c2", "b", "/*")},
				authz.ProviderConfig{Name: "a", Provider: wants(tc.a)}, authz.ProviderConfig{Name: "b", Provider: wants(tc.b)})
			d := e.ask(t.Context(), "/", tc.sent...)
			if refused := d.Asked[0].Refused + d.Asked[1].Refused; !d.Allow || refused != tc.refused {
				t.Errorf("%d refused, %+v", refused, d)
			}
			if diff := diffChanges(tc.want, d.Changes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCustomAllowedHeaders: the configuration may trust a provider with more, but never with the framing.
func TestCustomAllowedHeaders(t *testing.T) {
	t.Parallel()
	sets := providerFunc(func(_ context.Context, _ *authz.Question, a *authz.Answer) error {
		a.Allow = true
		for _, name := range []string{":authority", "x-forwarded-for", "x-forwarded-host"} {
			a.RequestHeaders = append(a.RequestHeaders, authz.HeaderChange{Name: name, Value: "v"})
		}
		return nil
	})
	e := delegate(t, []string{custom("c", "a", "/*")},
		authz.ProviderConfig{Name: "a", Provider: sets, AllowHeaders: []string{":Authority", "X-Forwarded-For"}})
	d := e.ask(t.Context(), "/")
	if d.Asked[0].Refused != 1 || len(d.Changes.RequestHeaders) != 2 {
		t.Errorf("%+v", d.Changes)
	}
	for _, name := range []string{"content-length", "Transfer-Encoding", "", "a b", "upgrade"} {
		if _, err := authz.NewProviders(nil, authz.ProviderConfig{Name: "a", Provider: sets, AllowHeaders: []string{name}}); err == nil {
			t.Errorf("%q can be allowed", name)
		}
	}
}

// TestCustomAndTokens: CUSTOM comes first, may see the verified claims, and does not make up for a bad token; what tokens
// do to the headers of a request comes on top of what providers do.
func TestCustomAndTokens(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	authentication := fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: idp, namespace: foo}\n"+
		"spec: {jwtRules: [{issuer: %q, jwks: %q, outputClaimToHeaders: [{header: x-sub, claim: sub}, {header: x-level, claim: level}]}]}\n", idp, s.jwks)
	good := "Bearer " + s.token(t, map[string]any{"iss": idp, "sub": "alice"})
	bad := good + "x"
	var seen []string
	var mu sync.Mutex
	wants := providerFunc(func(ctx context.Context, q *authz.Question, a *authz.Answer) error {
		a.Allow = true
		claims := "none"
		if result := q.Token(ctx); result.Status != 0 {
			claims = "refused"
		} else if result.Token != nil {
			claims = result.Token.Subject()
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, claims)
		for _, name := range []string{"x-sub", "x-level", "x-own", "authorization"} {
			a.RequestHeaders = append(a.RequestHeaders, authz.HeaderChange{Name: name, Value: "provider"})
		}
		return nil
	})
	docs := []string{custom("c", "p", "/*"), custom("c2", "q", "/*"), authentication}
	plain := delegate(t, docs, authz.ProviderConfig{Name: "p", Provider: wants}, authz.ProviderConfig{Name: "q", Provider: yes})
	trusted := delegate(t, docs, authz.ProviderConfig{Name: "p", Provider: wants, AllowHeaders: []string{"x-sub", "x-level"}}, authz.ProviderConfig{Name: "q", Provider: yes})

	names := func(d *authz.Decision) string {
		set := map[string]string{}
		for _, h := range d.Changes.RequestHeaders {
			set[h.Name] = h.Value
		}
		for _, h := range d.Token.SetHeaders {
			set[h.Name] = h.Value + " (token)"
		}
		var out []string
		for _, name := range slices.Sorted(maps.Keys(set)) {
			out = append(out, name+"="+set[name])
		}
		return strings.Join(out, ", ")
	}
	for _, tc := range []struct {
		name    string
		e       *delegated
		token   string
		reason  authz.Reason
		claims  string
		headers string
	}{
		{"a good token", plain, good, authz.ReasonNoAllowPolicy, "alice", "x-own=provider, x-sub=alice (token)"},
		{"a good token, and a provider that may", trusted, good, authz.ReasonNoAllowPolicy, "alice", "x-level=provider, x-own=provider, x-sub=alice (token)"},
		{"no token", plain, "", authz.ReasonNoAllowPolicy, "none", "authorization=provider, x-own=provider"},
		{"no token, and a provider that may", trusted, "", authz.ReasonNoAllowPolicy, "none", "authorization=provider, x-level=provider, x-own=provider, x-sub=provider"},
		{"a bad token", plain, bad, authz.ReasonTokenRefused, "refused", ""},
	} {
		seen = nil
		var sent []string
		if tc.token != "" {
			sent = []string{"authorization", tc.token}
		}
		d := tc.e.ask(t.Context(), "/", sent...)
		if d.Reason != tc.reason || !slices.Equal(seen, []string{tc.claims}) || names(&d) != tc.headers {
			t.Errorf("%s: %s, claims %q, headers %s", tc.name, d.Reason, seen, names(&d))
		}
		if d.Token.Verified > 1 {
			t.Errorf("%s: %d signatures computed", tc.name, d.Token.Verified)
		}
	}
}

// TestCustomQuestion: a provider is told what it is asked about.
func TestCustomQuestion(t *testing.T) {
	t.Parallel()
	e := delegate(t, []string{custom("c", "p", "/*")}, authz.ProviderConfig{Name: "p", Provider: providerFunc(func(_ context.Context, q *authz.Question, a *authz.Answer) error {
		a.Allow = string(q.Raw) == "raw" && q.Request.Path == "/x" && q.Workload.Workload.Namespace == "foo" && q.Rule.Policy.Name == "c"
		return nil
	})})
	if d := e.ask(t.Context(), "/x"); !d.Allow {
		t.Errorf("%+v", d)
	}
}

// TestCustomMissCostsNothing: CUSTOM rules that do not match allocate nothing.
func TestCustomMissCostsNothing(t *testing.T) {
	docs := []string{named("foo", "a", "{rules: [{}]}")}
	for i := range 100 {
		docs = append(docs, custom(fmt.Sprintf("c%d", i), fmt.Sprintf("p%d", i%5), fmt.Sprintf("/never/%d", i)))
	}
	e := delegate(t, docs, authz.ProviderConfig{Name: "p0", Provider: no})
	r := &policy.Request{Method: "GET", HasMethod: true, Path: "/", RawPath: "/"}
	var d authz.Decision
	if n := testing.AllocsPerRun(100, func() { e.engine.Decide(t.Context(), e.snap, e.bound, r, &d) }); n != 0 || !d.Allow {
		t.Errorf("%v allocations, %+v", n, d)
	}
}

func TestNewProvidersRefuses(t *testing.T) {
	t.Parallel()
	good := authz.ProviderConfig{Name: "p", Provider: yes}
	if _, err := authz.NewProviders(nil, good, good); err == nil {
		t.Error("two of one name")
	}
	for name, change := range map[string]func(*authz.ProviderConfig){
		"no name": func(c *authz.ProviderConfig) { c.Name = "" }, "a name that is no label": func(c *authz.ProviderConfig) { c.Name = "a.b" },
		"upper case": func(c *authz.ProviderConfig) { c.Name = "OPA" }, "nobody": func(c *authz.ProviderConfig) { c.Provider = nil },
		"timeout": func(c *authz.ProviderConfig) { c.Timeout = -1 }, "long timeout": func(c *authz.ProviderConfig) { c.Timeout = time.Hour },
		"status": func(c *authz.ProviderConfig) { c.StatusOnError = 100 }, "concurrency": func(c *authz.ProviderConfig) { c.MaxConcurrent = -1 },
	} {
		c := good
		change(&c)
		if _, err := authz.NewProviders(nil, c); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
