package telemetry_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// TestCustom: what providers were asked is counted by provider and outcome, and is in the decision log in their order; an
// answer under dry run has a line and a counter of its own. No name that a policy makes up becomes a label.
func TestCustom(t *testing.T) {
	t.Parallel()
	rule := func(provider string) *policy.Rule {
		return &policy.Rule{Policy: &policy.Policy{Namespace: "shop", Name: "ask", Provider: provider}, Index: 2}
	}
	var out strings.Builder
	log, err := telemetry.NewDecisionLog(telemetry.DecisionLogConfig{To: "stdout", Log: telemetry.LogDenials, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	m := telemetry.NewMetrics(telemetry.Build{})
	source := func(name string) telemetry.CustomSource {
		return telemetry.CustomSource{Name: name, InFlight: func() int { return 3 }}
	}
	m.WatchCustom([]telemetry.CustomSource{source("a"), source("b")})
	check := &telemetry.Check{Time: time.Unix(0, 0), Decision: &authz.Decision{
		Status: 403, Layer: authz.LayerCustom, Reason: authz.ReasonProviderUnknown,
		Asked: []authz.Asked{
			{Provider: "a", Rule: rule("a"), Outcome: authz.ReasonProviderAllowed, Refused: 2, Took: 1500 * time.Nanosecond},
			{Provider: "b", Rule: rule("b"), Outcome: authz.ReasonProviderTimeout, Open: true},
			{Provider: "made\nup", Rule: rule("made\nup"), Outcome: authz.ReasonProviderUnknown},
		},
	}}
	m.ObserveCheck(check)
	log.Observe(check)
	for _, outcome := range []authz.Reason{authz.ReasonProviderDenied, authz.ReasonProviderAllowed} {
		shadow := &authz.ShadowAnswer{Rule: rule("a"), Outcome: outcome, Detail: "why", Took: 2 * time.Microsecond}
		m.ObserveShadow(shadow)
		log.ObserveShadow(time.Unix(0, 0), shadow)
	}
	m.ObserveShadow(&authz.ShadowAnswer{Rule: rule("made up"), Outcome: authz.ReasonProviderUnknown})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	const (
		asked  = `"custom":[{"provider":"a","rule":"shop/ask[2]","outcome":"provider_allowed","refused_changes":2,"duration_us":1.5},{"provider":"b","rule":"shop/ask[2]","outcome":"provider_timeout","failed_open":true,"duration_us":0.0},{"provider":"made\u000aup","rule":"shop/ask[2]","outcome":"provider_unknown","duration_us":0.0}]`
		shadow = `{"time":"1970-01-01T00:00:00Z","decision_id":"0-0","shadow_custom":{"provider":"a","rule":"shop/ask[2]","outcome":"provider_denied","duration_us":2.0},"detail":"why"}` + "\n"
	)
	if !strings.Contains(out.String(), asked) || !strings.HasSuffix(out.String(), shadow) || strings.Count(out.String(), "\n") != 2 {
		t.Error(out.String())
	}
	if diff := cmp.Diff(map[string]float64{
		"writ_custom_total provider_allowed a": 1, "writ_custom_total provider_timeout b": 1, "writ_custom_total provider_unknown _unknown": 1,
		"writ_custom_fail_open_total b": 1, "writ_custom_refused_changes_total a": 2, "writ_custom_in_flight a": 3, "writ_custom_in_flight b": 3,
		"writ_custom_shadow_total provider_denied a": 1, "writ_custom_shadow_total provider_allowed a": 1, "writ_custom_shadow_total provider_unknown _unknown": 1,
	}, customMetrics(t, m)); diff != "" {
		t.Error(diff)
	}
}

// customMetrics are the counters and gauges of providers that are not zero, by name and label values.
func customMetrics(t *testing.T, m *telemetry.Metrics) map[string]float64 {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "writ_custom_") {
			continue
		}
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			for _, l := range metric.GetLabel() {
				name += " " + l.GetValue()
			}
			if v := metric.GetCounter().GetValue() + metric.GetGauge().GetValue(); v != 0 {
				found[name] = v
			}
		}
	}
	return found
}
