package authz_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// dryCustom is a CUSTOM policy under dry run for all paths.
func dryCustom(name, provider string) string {
	return strings.Replace(custom(name, provider, "/*"), "metadata: {", "metadata: {annotations: {writ/dry-run: \"true\"}, ", 1)
}

// TestCustomDryRun: a CUSTOM policy under dry run decides nothing, and what its provider says is reported afterwards.
func TestCustomDryRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		said := map[string]authz.Reason{}
		seen := providerFunc(func(_ context.Context, q *authz.Question, a *authz.Answer) error {
			a.Allow = string(q.Raw) == "raw" && q.Request.Path == "/decoded" && q.Workload.Workload.Namespace == "foo" && q.Token(t.Context()) != nil
			return nil
		})
		failing := providerFunc(func(context.Context, *authz.Question, *authz.Answer) error { return errors.New("x") })
		e := delegate(t, []string{dryCustom("a", "refuses"), dryCustom("b", "seen"), dryCustom("c", "failing"), dryCustom("d", "nobody"), custom("e", "seen", "/never")},
			authz.ProviderConfig{Name: "refuses", Provider: no}, authz.ProviderConfig{Name: "seen", Provider: seen}, authz.ProviderConfig{Name: "failing", Provider: failing})
		shadows := authz.NewShadows(e.engine, func([]byte) (*policy.Request, error) { return &policy.Request{Path: "/decoded"}, nil }, func(a *authz.ShadowAnswer) {
			mu.Lock()
			defer mu.Unlock()
			said[a.Rule.Policy.Provider] = a.Outcome
		})
		e.engine.Shadows = shadows
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- shadows.Run(ctx) }()
		if d := e.ask(t.Context(), "/"); !d.Allow || len(d.Asked) > 0 {
			t.Errorf("%+v", d)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff(map[string]authz.Reason{
			"refuses": authz.ReasonProviderDenied, "seen": authz.ReasonProviderAllowed, "failing": authz.ReasonProviderError, "nobody": authz.ReasonProviderUnknown,
		}, said); diff != "" {
			t.Error(diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestCustomDryRunNeverWaits: questions that nobody takes are dropped, and requests go on.
func TestCustomDryRunNeverWaits(t *testing.T) {
	t.Parallel()
	e := delegate(t, []string{dryCustom("a", "refuses")}, authz.ProviderConfig{Name: "refuses", Provider: no})
	e.engine.Shadows = authz.NewShadows(e.engine, nil, nil) // does not run
	for range 300 {
		if d := e.ask(t.Context(), "/"); !d.Allow {
			t.Fatalf("%+v", d)
		}
	}
	if n := e.engine.Shadows.Dropped(); n != 300-256 {
		t.Errorf("%d dropped", n)
	}
}

// TestCustomDryRunAnnotation: each annotation is for its actions, and a value that is no boolean is an error.
func TestCustomDryRunAnnotation(t *testing.T) {
	t.Parallel()
	document := func(action, annotation, value string) string {
		text := map[string]string{"CUSTOM": custom("p", "opa", "/*"), "DENY": deny("{}"), "AUDIT": named("foo", "p", "{action: AUDIT, rules: [{}]}")}[action]
		return strings.Replace(text, "metadata: {", "metadata: {annotations: {"+annotation+": \""+value+"\"}, ", 1)
	}
	for _, tc := range []struct {
		action, annotation, value string
		broken                    bool
	}{
		{"CUSTOM", "writ/dry-run", "true", false}, {"CUSTOM", "writ/dry-run", "false", false}, {"CUSTOM", "writ/dry-run", "perhaps", true},
		{"CUSTOM", "istio.io/dry-run", "true", true}, {"DENY", "writ/dry-run", "true", true}, {"DENY", "istio.io/dry-run", "true", false},
		{"AUDIT", "istio.io/dry-run", "true", true}, {"AUDIT", "writ/dry-run", "true", true},
	} {
		if got := broken(t, document(tc.action, tc.annotation, tc.value)); got != tc.broken {
			t.Errorf("%s with %s: %s: broken %v", tc.action, tc.annotation, tc.value, got)
		}
	}
	// switched off, it is enforced
	e := delegate(t, []string{document("CUSTOM", "writ/dry-run", "false")}, authz.ProviderConfig{Name: "opa", Provider: no})
	if d := e.ask(t.Context(), "/"); d.Allow {
		t.Errorf("%+v", d)
	}
}
