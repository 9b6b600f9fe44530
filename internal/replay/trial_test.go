package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

const enforced = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: menu, namespace: shop}
spec:
  selector: {matchLabels: {app: order}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/gateway]}}]
    to: [{operation: {methods: [GET], paths: [/menu*]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*]}}]}]
`

// candidate lets POST in, forbids /menu/secret, and names the denial of /admin otherwise.
const candidate = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: menu, namespace: shop}
spec:
  selector: {matchLabels: {app: order}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/gateway]}}]
    to: [{operation: {methods: [GET, POST], paths: [/menu*]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: forbidden, namespace: shop}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/admin*, /menu/secret]}}]}]
`

func snapshot(t testing.TB, documents string) *policy.Snapshot {
	t.Helper()
	snap := policy.NewSnapshot(policy.Decode("test.yaml", []byte(documents)), policy.Mesh{})
	for _, p := range snap.Problems() {
		if p.Severity == policy.SeverityError {
			t.Log(p)
		}
	}
	return snap
}

// ask is one request for the workload with the label app.
type ask struct {
	app, from, method, path string
	headers                 map[string]string
}

func (a ask) raw(t testing.TB) []byte {
	t.Helper()
	headers := map[string]string{":path": a.path, ":method": a.method, "cookie": "secret=1", "x-request-id": "r1"}
	maps.Copy(headers, a.headers)
	line, err := json.Marshal(map[string]any{"attributes": map[string]any{
		"source":            map[string]any{"principal": a.from, "address": map[string]any{"socketAddress": map[string]any{"address": "10.1.2.3", "portValue": 5}}},
		"destination":       map[string]any{"address": map[string]any{"socketAddress": map[string]any{"address": "10.9.9.9", "portValue": 8080}}},
		"request":           map[string]any{"http": map[string]any{"method": a.method, "path": a.path, "host": "shop.example", "headers": headers}},
		"contextExtensions": map[string]string{"writ.namespace": "shop", "writ.labels": "app=" + a.app},
	}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := extauthz.ParseJSON(line)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

const gateway = "spiffe://cluster.local/ns/shop/sa/gateway"

// tryout is a server whose answers are tried on another set.
type tryout struct {
	server *extauthz.Server
	trial  *replay.Trial
}

func newTryout(t testing.TB, old, other *policy.Snapshot, engine *authz.Engine, cfg replay.TrialConfig) *tryout {
	t.Helper()
	cfg.Name, cfg.Snapshot, cfg.Tokens = "candidate", func() *policy.Snapshot { return other }, engine.Tokens
	trial, err := replay.NewTrial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return old }, Engine: engine, Observe: trial.Observe})
	if err != nil {
		t.Fatal(err)
	}
	return &tryout{server, trial}
}

func (o *tryout) want(t *testing.T, want map[replay.Kind]uint64) {
	t.Helper()
	for _, k := range replay.Kinds() {
		if got := o.trial.Tally().Count(k); got != want[k] {
			t.Errorf("%v: %d, want %d", k, got, want[k])
		}
	}
}

func TestTrialFindsDifferencesOfFinalAnswers(t *testing.T) {
	t.Parallel()
	o := newTryout(t, snapshot(t, enforced), snapshot(t, candidate), &authz.Engine{}, replay.TrialConfig{})
	for _, a := range []struct {
		ask   ask
		allow bool
	}{
		{ask{"order", gateway, "GET", "/menu?token=SECRET", nil}, true},
		{ask{"order", gateway, "POST", "/menu?token=SECRET", nil}, false},
		{ask{"order", gateway, "POST", "/menu/2", nil}, false},
		{ask{"order", gateway, "GET", "/menu/secret", nil}, true},
		{ask{"order", gateway, "GET", "/admin", nil}, false},
		{ask{"order", gateway, "GET", "/admin/../x", nil}, false}, // not normalized: whatever documents say
		{ask{"other", "", "GET", "/x", nil}, true},
	} {
		if d := o.server.Decide(t.Context(), a.ask.raw(t), nil); d.Allow != a.allow {
			t.Fatalf("%+v: %v %s", a.ask, d.Allow, d.Reason)
		}
	}
	o.want(t, map[replay.Kind]uint64{replay.Same: 3, replay.NewlyAllowed: 2, replay.NewlyDenied: 1, replay.OtherPolicy: 1})
	groups, omitted, _ := o.trial.Tally().Groups()
	if len(groups) != 3 || omitted != 0 {
		t.Fatalf("%d groups: %+v", len(groups), groups)
	}
	first := groups[0]
	if first.Kind != replay.NewlyAllowed || first.Count != 2 || first.Old.By != "no_allow_match" || first.New.By != "shop/menu[0]" || len(first.Examples) != 2 {
		t.Errorf("%+v", first)
	}
	if e := first.Examples[0]; e.Path != "/menu" || e.Source != gateway || e.RequestID != "r1" || e.Workload != "shop/order" || e.DecisionID == "" {
		t.Errorf("%+v", e)
	}
	text, err := json.Marshal(groups)
	if err != nil || strings.Contains(strings.ToLower(string(text)), "secret=") || strings.Contains(string(text), "SECRET") {
		t.Errorf("%s %v", text, err)
	}
}

func TestTrialBindsInItsOwnRegistry(t *testing.T) {
	t.Parallel()
	entry := func(app string) string {
		return `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 10.0.0.9, serviceAccount: vm, labels: {app: ` + app + `}}
---` + enforced
	}
	raw, err := extauthz.ParseJSON([]byte(`{"attributes":{"destination":{"principal":"spiffe://cluster.local/ns/shop/sa/vm"},
		"request":{"http":{"method":"GET","path":"/x"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	o := newTryout(t, snapshot(t, entry("other")), snapshot(t, entry("order")), &authz.Engine{}, replay.TrialConfig{})
	if d := o.server.Decide(t.Context(), raw, nil); !d.Allow {
		t.Fatal(d.Detail)
	}
	o.want(t, map[replay.Kind]uint64{replay.NewlyDenied: 1}) // there the workload is one that the policy selects

	unregistered := newTryout(t, snapshot(t, enforced), snapshot(t, entry("other")), &authz.Engine{}, replay.TrialConfig{})
	if d := unregistered.server.Decide(t.Context(), raw, nil); d.Reason != authz.ReasonUnknownLabels {
		t.Fatal(d.Reason)
	}
	unregistered.want(t, map[replay.Kind]uint64{replay.NewlyAllowed: 1})
}

// counting answers as it is told and counts how often it is asked.
type counting struct {
	asked int
	allow bool
	err   error
}

func (c *counting) Ask(_ context.Context, _ *authz.Question, a *authz.Answer) error {
	c.asked++
	a.Allow = c.allow
	return c.err
}

func TestTrialAsksNoProviderTwice(t *testing.T) {
	t.Parallel()
	custom := func(provider, path string) string {
		return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: %s}, rules: [{to: [{operation: {paths: ["%s"]}}]}]}
`, provider, path)
	}
	for name, test := range map[string]struct {
		old, other string
		provider   counting
		failOpen   bool
		want       replay.Kind
		asked      int
	}{
		"taken over, allowed":       {custom("p", "/*"), custom("p", "/m*"), counting{allow: true}, false, replay.Same, 1},
		"taken over, denied":        {custom("p", "/*"), custom("p", "/m*"), counting{}, false, replay.Same, 1},
		"taken over, fails closed":  {custom("p", "/*"), custom("p", "/m*"), counting{err: errors.New("down")}, false, replay.Same, 1},
		"taken over, fails open":    {custom("p", "/*"), custom("p", "/m*"), counting{err: errors.New("down")}, true, replay.Same, 1},
		"not asked any more":        {custom("p", "/*"), custom("p", "/x"), counting{}, false, replay.NewlyAllowed, 1},
		"not asked":                 {custom("p", "/x"), custom("p", "/*"), counting{allow: true}, false, replay.Undecided, 0},
		"nobody of that name":       {custom("p", "/x"), custom("q", "/*"), counting{allow: true}, false, replay.NewlyDenied, 0},
		"denied whatever it says":   {custom("p", "/x"), custom("p", "/*") + "---" + strings.ReplaceAll(enforced, "/admin", "/menu"), counting{}, false, replay.NewlyDenied, 0},
		"another provider was":      {custom("other", "/*"), custom("p", "/*"), counting{allow: true}, false, replay.Undecided, 1},
		"denied by other, now by p": {custom("other", "/*"), custom("p", "/*"), counting{}, false, replay.Undecided, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &test.provider
			configs := []authz.ProviderConfig{
				{Name: "p", Provider: p, FailOpen: test.failOpen, StatusOnError: 503}, {Name: "other", Provider: p},
			}
			providers, err := authz.NewProviders(nil, configs...)
			if err != nil {
				t.Fatal(err)
			}
			o := newTryout(t, snapshot(t, test.old), snapshot(t, test.other), &authz.Engine{Providers: providers}, replay.TrialConfig{Providers: configs})
			o.server.Decide(t.Context(), ask{"x", gateway, "GET", "/menu", nil}.raw(t), nil)
			o.want(t, map[replay.Kind]uint64{test.want: 1})
			if p.asked != test.asked {
				t.Errorf("asked %d times, want %d", p.asked, test.asked)
			}
		})
	}
}

// waiting is a source without keys, which counts what is asked of it.
type waiting struct{ asked int }

func (w *waiting) Keys() *jwt.KeySet { return nil }
func (w *waiting) Refetch(context.Context) *jwt.KeySet {
	w.asked++
	return nil
}

func TestTrialWaitsForNoKeys(t *testing.T) {
	t.Parallel()
	const token = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: users, namespace: shop}
spec: {jwtRules: [{issuer: https://idp.example, jwksUri: "https://idp.example/keys"}]}
`
	source := &waiting{}
	engine := &authz.Engine{Tokens: authz.Tokens{Source: func(jwt.Wanted) jwt.Source { return source }}}
	// {"alg":"RS256"} . {"iss":"https://idp.example","exp":99999999999} . a signature
	bearer := "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwiZXhwIjo5OTk5OTk5OTk5OX0.AAAA"
	signed := ask{"x", gateway, "GET", "/menu", map[string]string{"authorization": "Bearer " + bearer}}

	o := newTryout(t, snapshot(t, "# nothing\n"), snapshot(t, token), engine, replay.TrialConfig{})
	if d := o.server.Decide(t.Context(), signed.raw(t), nil); !d.Allow {
		t.Fatal(d.Reason)
	}
	o.server.Decide(t.Context(), ask{"x", gateway, "GET", "/menu", nil}.raw(t), nil)
	o.want(t, map[replay.Kind]uint64{replay.Undecided: 1, replay.Same: 1})
	if source.asked != 0 {
		t.Errorf("keys were asked for %d times", source.asked)
	}

	// With the same rules, what became of the token is taken over.
	deny := strings.ReplaceAll(enforced, "/admin", "/menu")
	taken := newTryout(t, snapshot(t, token), snapshot(t, token+"---"+deny), engine, replay.TrialConfig{})
	if d := taken.server.Decide(t.Context(), signed.raw(t), nil); d.Layer != authz.LayerJWT {
		t.Fatal(d.Layer)
	}
	taken.want(t, map[replay.Kind]uint64{replay.Same: 1})
	if source.asked != 1 {
		t.Errorf("keys were asked for %d times, want once, for the enforced answer", source.asked)
	}
}

func TestTrialPanicsAlone(t *testing.T) {
	t.Parallel()
	old := snapshot(t, enforced)
	trial, err := replay.NewTrial(replay.TrialConfig{Name: "candidate", Snapshot: func() *policy.Snapshot { panic("broken") }})
	if err != nil {
		t.Fatal(err)
	}
	inside, err := replay.NewTrial(replay.TrialConfig{Name: "candidate", Snapshot: func() *policy.Snapshot { return new(policy.Snapshot) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, observe := range []*replay.Trial{trial, inside} {
		server, err := extauthz.New(extauthz.Config{Snapshot: func() *policy.Snapshot { return old }, Engine: &authz.Engine{}, Observe: observe.Observe})
		if err != nil {
			t.Fatal(err)
		}
		d := server.Decide(t.Context(), ask{"order", gateway, "GET", "/menu", nil}.raw(t), nil)
		if !d.Allow || server.Panics() != 0 || observe.Panics() != 1 {
			t.Errorf("allow %v, %d panics of the server, %d of the trial", d.Allow, server.Panics(), observe.Panics())
		}
	}
}

func TestTrialOfDryRunPolicies(t *testing.T) {
	t.Parallel()
	docs := policy.Decode("test.yaml", []byte(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: soon, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/menu/secret]}}]}]
---`+enforced))
	promoted, n := replay.DryRunEnforced(docs)
	if n != 1 {
		t.Fatalf("%d dry-run policies", n)
	}
	o := newTryout(t, policy.NewSnapshot(docs, policy.Mesh{}), policy.NewSnapshot(promoted, policy.Mesh{}), &authz.Engine{}, replay.TrialConfig{})
	for _, path := range []string{"/menu", "/menu/secret", "/menu/secret"} {
		if d := o.server.Decide(t.Context(), ask{"order", gateway, "GET", path, nil}.raw(t), nil); !d.Allow {
			t.Fatal(d.Reason)
		}
	}
	o.want(t, map[replay.Kind]uint64{replay.Same: 1, replay.NewlyDenied: 2})
	if _, n := replay.DryRunEnforced(promoted); n != 0 {
		t.Errorf("%d dry-run policies are left", n)
	}
}

func TestTallyIsBounded(t *testing.T) {
	t.Parallel()
	other := make([]string, 0, 400)
	for i := range 400 {
		other = append(other, fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p%d, namespace: shop}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/p%d]}}]}]}
`, i, i))
	}
	o := newTryout(t, snapshot(t, "# nothing\n"), snapshot(t, strings.Join(other, "---")), &authz.Engine{}, replay.TrialConfig{})
	for i := range 400 {
		o.server.Decide(t.Context(), ask{"x", gateway, "GET", fmt.Sprintf("/p%d", i), nil}.raw(t), nil)
	}
	groups, omitted, since := o.trial.Tally().Groups()
	if len(groups) != 256 || omitted != 144 || time.Since(since) > time.Hour {
		t.Errorf("%d groups, %d omitted", len(groups), omitted)
	}
	o.want(t, map[replay.Kind]uint64{replay.NewlyDenied: 400})
}
