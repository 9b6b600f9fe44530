package policy_test

import (
	"sync"
	"testing"

	"github.com/writ-auth/writ/policy"
)

const (
	denyX   = `{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}]}`
	allowX  = `{rules: [{to: [{operation: {paths: [/x]}}]}]}`
	unknown = `rulez: [{}]` // a field that nobody knows
)

// answered evaluates a GET of path for a workload of namespace foo with the given label, in the snapshot.
func answered(t *testing.T, snap *policy.Snapshot, namespace, app, path string) (allowed bool) {
	t.Helper()
	bound, err := snap.Resolve(policy.Workload{Namespace: namespace, Labels: map[string]string{"app": app}})
	if err != nil {
		t.Fatal(err)
	}
	r := request(pathOf(path))
	if rule, _ := bound.Rules.Custom(r, 0); rule != nil {
		return false
	}
	v := bound.Rules.Evaluate(r)
	return v.Deny == nil && (v.Allow != nil || !v.HasAllow)
}

// states is what became of each document.
func states(snap *policy.Snapshot) (out []policy.DocumentState) {
	for _, d := range snap.Documents() {
		out = append(out, d.State)
	}
	return out
}

// A broken document that never was valid fails closed for whom it targets, and for nobody else (docs/adr/0001).
func TestBrokenDocuments(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, spec           string
		target, other, place bool // allowed: the targeted workload, another of the namespace, another namespace
	}{
		{"DENY", `{action: DENY, ` + unknown + `}`, false, false, true},
		{"CUSTOM", `{action: CUSTOM, provider: {name: opa}, ` + unknown + `}`, false, false, true},
		{"ALLOW", `{` + unknown + `}`, false, false, true},
		{"action that cannot be read", `{action: deny, rules: [{}]}`, false, false, true},
		{"DENY with a selector", `{action: DENY, selector: {matchLabels: {app: httpbin}}, ` + unknown + `}`, false, true, true},
		{"ALLOW with a selector", `{selector: {matchLabels: {app: httpbin}}, ` + unknown + `}`, false, true, true},
		{"a selector that cannot be read", `{action: DENY, selector: {matchLabelz: {app: httpbin}}}`, false, false, true},
		{"AUDIT keeps nobody out", `{action: AUDIT, ` + unknown + `}`, true, true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			docs := policy.Decode("test.yaml", []byte(document(tc.spec)))
			snap := policy.NewSnapshot(docs, policy.Mesh{})
			if got := states(snap); len(got) != 1 || got[0] != policy.StateFailClosed {
				t.Errorf("states %v", got)
			}
			for _, w := range []struct {
				namespace, app string
				want           bool
			}{{"foo", "httpbin", tc.target}, {"foo", "stranger", tc.other}, {"bar", "httpbin", tc.place}} {
				if got := answered(t, snap, w.namespace, w.app, "/y"); got != w.want {
					t.Errorf("%s/%s: allowed %v, want %v", w.namespace, w.app, got, w.want)
				}
			}
		})
	}
}

// The last good version of a document stays until a good one comes or the document goes; neighbours never wait.
func TestLastGoodVersion(t *testing.T) {
	t.Parallel()
	store := policy.NewStore(policy.Mesh{})
	neighbour := documentNamed("bar", "neighbour", `{action: DENY, rules: [{to: [{operation: {paths: [/n]}}]}]}`)
	for _, step := range []struct {
		name  string
		docs  []string
		state policy.DocumentState
		x, y  bool // allowed at foo
		n     bool // allowed at bar
	}{
		{"good", []string{document(denyX)}, policy.StateActive, false, true, true},
		{"broken, and a new neighbour", []string{document(`{action: DENY, ` + unknown + `}`), neighbour}, policy.StateLastGood, false, true, false},
		{"still broken", []string{document(`{action: nonsense}`), neighbour}, policy.StateLastGood, false, true, false},
		{"mended", []string{document(allowX), neighbour}, policy.StateActive, true, false, false},
		{"gone", []string{neighbour}, policy.StateActive, true, true, false},
		{"back, and broken: what is gone is forgotten", []string{document(`{` + unknown + `}`), neighbour}, policy.StateFailClosed, false, false, false},
	} {
		var docs []*policy.Document
		for i, text := range step.docs {
			docs = append(docs, policy.Decode([]string{"a.yaml", "b.yaml"}[i], []byte(text))...)
		}
		snap := store.Update(docs)
		if got := states(snap); got[0] != step.state {
			t.Errorf("%s: state %v, want %v", step.name, got[0], step.state)
		}
		if x, y, n := answered(t, snap, "foo", "a", "/x"), answered(t, snap, "foo", "a", "/y"), answered(t, snap, "bar", "a", "/n"); x != step.x || y != step.y || n != step.n {
			t.Errorf("%s: allowed /x %v, /y %v, neighbour's /n %v; want %v, %v, %v", step.name, x, y, n, step.x, step.y, step.n)
		}
	}
}

// Two documents of one name are both errors, whatever their order; names that differ in case are two names, and the
// upper-case one is not a name.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	for _, docs := range [][]string{{document(allowX), document(denyX)}, {document(denyX), document(allowX)}, {document(allowX), document(allowX)}} {
		snap := policy.NewSnapshot(load(t, docs...), policy.Mesh{})
		if got := states(snap); len(got) != 2 || got[0] != policy.StateFailClosed || got[1] != policy.StateFailClosed {
			t.Errorf("states %v", got)
		}
		clashes := 0
		for _, p := range snap.Problems() {
			if p.Code == "WRIT133" {
				clashes++
			}
		}
		if clashes != 2 {
			t.Errorf("problems %v, want WRIT133 for both", snap.Problems())
		}
		if answered(t, snap, "foo", "a", "/x") || answered(t, snap, "foo", "a", "/y") {
			t.Error("one of them is enforced")
		}
	}
	snap := policy.NewSnapshot(policy.Decode("test.yaml", []byte(documentNamed("foo", "p", denyX)+"---\n"+documentNamed("foo", "P", denyX))), policy.Mesh{})
	if got := states(snap); got[0] != policy.StateActive || got[1] != policy.StateFailClosed {
		t.Errorf("states of p and P: %v", got)
	}
}

// Whoever loads a snapshot has all of one set of documents: of /x and /y exactly one is allowed in either.
func TestSwap(t *testing.T) {
	t.Parallel()
	sets := [][]*policy.Document{load(t, document(denyX)), load(t, document(allowX))}
	store := policy.NewStore(policy.Mesh{})
	if store.Load() != nil {
		t.Error("a snapshot before the first Update")
	}
	store.Update(sets[0])
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			var last uint64
			for {
				select {
				case <-stop:
					return
				default:
				}
				snap := store.Load()
				if snap.Generation() < last {
					t.Errorf("generation %d after %d", snap.Generation(), last)
				}
				last = snap.Generation()
				if x, y := answered(t, snap, "foo", "a", "/x"), answered(t, snap, "foo", "a", "/y"); x == y {
					t.Errorf("generation %d: /x and /y are both %v", last, x)
				}
			}
		})
	}
	for i := range 200 {
		store.Update(sets[i%2])
	}
	close(stop)
	readers.Wait()
}
