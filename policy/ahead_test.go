package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// aheadPolicy is a document with so many rules, which let caller-0 and the others of its namespace GET anything.
func aheadPolicy(namespace, name, target string, rules int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: %s, name: %s}\nspec:\n  %s\n  rules:\n", namespace, name, target)
	for i := range rules {
		fmt.Fprintf(&b, "  - {from: [{source: {principals: [td/ns/%s/sa/caller-%d]}}], to: [{operation: {methods: [GET]}}]}\n", namespace, i)
	}
	return b.String()
}

func aheadDocuments(tb testing.TB, texts ...string) []*Document {
	tb.Helper()
	docs := Decode("test.yaml", []byte(strings.Join(texts, "---\n")))
	for _, d := range docs {
		if d.Broken() {
			tb.Fatal(d.Problems)
		}
	}
	return docs
}

// rulesOf resolves a workload of namespace shop unless it says otherwise.
func rulesOf(tb testing.TB, snap *Snapshot, w Workload) *Ruleset {
	tb.Helper()
	if w.Namespace == "" {
		w.Namespace = "shop"
	}
	if w.Labels == nil {
		w.Labels = map[string]string{}
	}
	b, err := snap.Resolve(w)
	if err != nil {
		tb.Fatal(err)
	}
	return b.Rules
}

const (
	selectA = "selector: {matchLabels: {app: a}}"
	selectB = "selector: {matchLabels: {version: b}}"
)

// The first load makes the indexes that documents alone tell of, for HTTP.
func TestIndexedAheadOfTheFirstRequest(t *testing.T) {
	t.Parallel()
	plain, one, other := aheadPolicy("shop", "plain", "", 1), aheadPolicy("shop", "one", selectA, 1), aheadPolicy("shop", "other", selectB, 1)
	root := aheadPolicy("istio-system", "root", "", 1)
	gateway := aheadPolicy("shop", "gateway", "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]", 1)
	class := aheadPolicy("istio-system", "class", "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]", 1)
	service := aheadPolicy("shop", "service", "targetRefs: [{kind: Service, group: \"\", name: menu}]", 1)
	entry := "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {namespace: shop, name: vm}\nspec: {address: 10.0.0.1, labels: {app: a, version: b}}\n"
	for _, tc := range []struct {
		name     string
		docs     []string
		workload Workload
		want     bool
	}{
		{"nothing applies", []string{root}, Workload{Namespace: "shop"}, true},
		{"no documents at all", nil, Workload{}, false},
		{"a namespace", []string{plain}, Workload{}, true},
		{"a workload with labels that nobody selects", []string{plain, one}, Workload{Labels: map[string]string{"app": "c"}}, true},
		{"a selector", []string{plain, one}, Workload{Labels: map[string]string{"app": "a"}}, true},
		{"a selector and more labels", []string{one}, Workload{Labels: map[string]string{"app": "a", "version": "v1"}}, true},
		{"two selectors, each alone", []string{one, other}, Workload{Labels: map[string]string{"version": "b"}}, true},
		{"two selectors at once, which no document tells of", []string{one, other}, Workload{Labels: map[string]string{"app": "a", "version": "b"}}, false},
		{"two selectors at once, of a registered workload", []string{one, other, entry}, Workload{Labels: map[string]string{"app": "a", "version": "b"}}, true},
		{"a namespace and the root namespace", []string{plain, root}, Workload{}, true},
		{"a namespace that only the root namespace's reach", []string{plain, root}, Workload{Namespace: "bar"}, true},
		{"a gateway", []string{plain, gateway}, Workload{Labels: map[string]string{labelGatewayName: "front"}}, true},
		{"a waypoint, by its class", []string{plain, class}, Workload{Namespace: "istio-system", Labels: map[string]string{labelManaged: managedWaypoint}}, true},
		{"a waypoint, by its service", []string{plain, service}, Workload{Services: []string{"Service shop/menu"}}, true},
	} {
		snap := NewStore(Mesh{}).Update(aheadDocuments(t, tc.docs...))
		rules := rulesOf(t, snap, tc.workload)
		if got := rules.indexed(trafficHTTP); got != tc.want {
			t.Errorf("%s: indexed %v, want %v", tc.name, got, tc.want)
		}
		if rules.indexed(trafficTCP) {
			t.Errorf("%s: indexed for TCP, which nobody asked for", tc.name)
		}
		if rulesOf(t, NewSnapshot(aheadDocuments(t, tc.docs...), Mesh{}), tc.workload).indexed(trafficHTTP) {
			t.Errorf("%s: NewSnapshot indexes, which serves nobody", tc.name)
		}
	}
}

// A reload resolves whom the last snapshot served, and indexes for the traffic it served them.
func TestIndexedAheadForWhomWasServed(t *testing.T) {
	t.Parallel()
	docs := aheadDocuments(t, aheadPolicy("shop", "one", selectA, 1), aheadPolicy("shop", "other", selectB, 1),
		aheadPolicy("shop", "third", "selector: {matchLabels: {tier: c}}", 1))
	both := Workload{Namespace: "shop", Labels: map[string]string{"app": "a", "version": "b"}}
	stream := Workload{Namespace: "shop", Labels: map[string]string{"app": "a", "tier": "c"}}
	store := NewStore(Mesh{})
	first := store.Update(docs)
	for _, w := range []struct {
		key     string
		asked   Workload
		request *Request
	}{{"both", both, &Request{}}, {"stream", stream, &Request{TCP: true}}} {
		b, err := first.Bind([]byte(w.key), w.asked)
		if err != nil {
			t.Fatal(err)
		}
		b.Rules.Evaluate(w.request)
	}
	for load := range maxIdle + 1 { // nobody asks between the loads, the first aside
		snap := store.Update(docs)
		if rules := rulesOf(t, snap, both); !rules.indexed(trafficHTTP) || rules.indexed(trafficTCP) {
			t.Fatalf("load %d: what was asked about by HTTP alone is indexed for HTTP %v, for TCP %v", load, rules.indexed(trafficHTTP), rules.indexed(trafficTCP))
		}
		if rules := rulesOf(t, snap, stream); rules.indexed(trafficHTTP) || !rules.indexed(trafficTCP) {
			t.Fatalf("load %d: what was asked about by TCP alone is indexed for HTTP %v, for TCP %v", load, rules.indexed(trafficHTTP), rules.indexed(trafficTCP))
		}
	}
	snap := store.Update(docs)
	if rulesOf(t, snap, both).indexed(trafficHTTP) || snap.Cached([]byte("both")) != nil {
		t.Errorf("a workload that nobody asked about for %d loads is still resolved", maxIdle+1)
	}
}

// Asking once is enough to be remembered for as many loads again.
func TestServedAgain(t *testing.T) {
	t.Parallel()
	docs := aheadDocuments(t, aheadPolicy("shop", "one", "", 1))
	store := NewStore(Mesh{})
	if _, err := store.Update(docs).Bind([]byte("k"), Workload{Namespace: "shop"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for load := range maxIdle {
			if store.Update(docs); load < maxIdle-1 {
				continue
			}
			if store.Load().Cached([]byte("k")) == nil {
				t.Fatalf("forgotten after %d loads", load+1)
			}
		}
	}
}

// What is made ahead is bounded, the largest come first, and what is left out is made by whoever asks.
func TestAheadIsBounded(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 5 { // 10, 20 … 50 rules for one label each
		texts = append(texts, aheadPolicy("shop", fmt.Sprintf("p%d", i), fmt.Sprintf("selector: {matchLabels: {app: a%d}}", i), 10*(i+1)))
	}
	docs := aheadDocuments(t, texts...)
	workload := func(i int) Workload {
		return Workload{Namespace: "shop", Labels: map[string]string{"app": fmt.Sprintf("a%d", i)}}
	}
	unbounded := aheadBounds{rules: aheadRules, looks: aheadLooks, toldLooks: toldLooks, toldRules: toldRules}
	for _, tc := range []struct {
		name   string
		served bool
		change func(*aheadBounds)
		want   string // which of the five are indexed
	}{
		{"told, none", false, func(b *aheadBounds) { b.rules = 0 }, "00000"},
		{"told, until the last takes it over the bound", false, func(b *aheadBounds) { b.rules = 51 }, "00011"},
		{"told, few looks", false, func(b *aheadBounds) { b.toldLooks = 6 }, "00011"}, // each of them looks at five policies
		{"told, all", false, func(*aheadBounds) {}, "11111"},
		{"served, until the last takes it over the bound", true, func(b *aheadBounds) { b.rules = 91 }, "00111"},
		{"served, and none is told of", true, func(b *aheadBounds) { b.toldLooks = 0 }, "11111"},
		{"served, no looks, and none is told of", true, func(b *aheadBounds) { b.looks, b.toldLooks = 0, 0 }, "00000"},
		{"served, no looks, but told of", true, func(b *aheadBounds) { b.looks = 0 }, "11111"},
	} {
		old, snap := NewSnapshot(docs, Mesh{}), NewSnapshot(docs, Mesh{})
		for i := range 5 {
			b, err := old.Bind([]byte{byte(i)}, workload(i))
			if err != nil {
				t.Fatal(err)
			}
			b.Rules.index(trafficHTTP)
		}
		if !tc.served {
			old = nil
		}
		a := &ahead{snap: snap, aheadBounds: unbounded}
		tc.change(&a.aheadBounds)
		a.run(old)
		got := ""
		for i := range 5 {
			rules := rulesOf(t, snap, workload(i))
			got += map[bool]string{false: "0", true: "1"}[rules.indexed(trafficHTTP)]
			v := rules.Evaluate(&Request{Names: []string{fmt.Sprintf("spiffe://td/ns/shop/sa/caller-%d", 10*i)}, Method: "GET", HasMethod: true})
			if v.Allow == nil || v.Allow.Index != 10*i {
				t.Errorf("%s: %d: rule %v answers", tc.name, i, v.Allow)
			}
		}
		if got != tc.want {
			t.Errorf("%s: indexed %s, want %s", tc.name, got, tc.want)
		}
	}
}

// Many workloads told of by documents of few rules take no more than a share of those rules, and those of most rules come
// first.
func TestAheadStaysInProportion(t *testing.T) {
	t.Parallel()
	const all, selected = 50, 40
	texts := []string{aheadPolicy("shop", "all", "", all)}
	for i := range selected {
		texts = append(texts, aheadPolicy("shop", fmt.Sprintf("p%d", i), fmt.Sprintf("selector: {matchLabels: {app: a%d}}", i), 1))
	}
	snap := NewSnapshot(aheadDocuments(t, texts...), Mesh{})
	a := &ahead{snap: snap, aheadBounds: aheadBounds{rules: aheadRules, looks: aheadLooks, toldLooks: toldLooks}}
	a.run(nil)
	if least := toldShare * (all + selected); a.filed < least || a.filed > least+all+1 {
		t.Errorf("%d rules filed for documents of %d, want %d and at most one index more", a.filed, all+selected, least)
	}
}

// While documents change, everybody's answers are those of one set of documents or the other, and their indexes are there
// before they ask.
func TestReloadWhileChecking(t *testing.T) {
	t.Parallel()
	sets := [][]*Document{
		aheadDocuments(t, aheadPolicy("shop", "p", "", 20), aheadPolicy("shop", "q", selectA, 10)),
		aheadDocuments(t, aheadPolicy("shop", "p", "", 10), aheadPolicy("shop", "q", selectA, 20)),
	}
	store := NewStore(Mesh{})
	store.Update(sets[0])
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for asker := range 4 {
		askers.Go(func() {
			w := Workload{Namespace: "shop", Labels: map[string]string{"app": "a", "asker": fmt.Sprint(asker)}}
			if asker%2 == 0 {
				w.Labels["app"] = "b"
			}
			key := fmt.Append(nil, asker)
			r := &Request{Names: []string{"spiffe://td/ns/shop/sa/caller-15"}, Method: "GET", HasMethod: true}
			for {
				select {
				case <-stop:
					return
				default:
				}
				snap := store.Load()
				b := snap.Cached(key)
				if b == nil {
					var err error
					if b, err = snap.Bind(key, w); err != nil {
						t.Error(err)
						return
					}
				}
				if !b.Rules.indexed(trafficHTTP) {
					t.Errorf("generation %d: asker %d waits for an index", snap.Generation(), asker)
					return
				}
				want := "p"
				if snap.Generation()%2 == 0 {
					want = "q"
				}
				v := b.Rules.Evaluate(r)
				switch {
				case asker%2 == 0 && want == "q": // the other workload has only the first ten there
					if v.Allow != nil {
						t.Errorf("generation %d: asker %d is let in by %s", snap.Generation(), asker, v.Allow.ID())
					}
				case v.Allow == nil || v.Allow.Policy.Name != want:
					t.Errorf("generation %d: asker %d: %v, want a rule of %s", snap.Generation(), asker, v.Allow, want)
				}
			}
		})
	}
	for i := range 200 {
		store.Update(sets[(i+1)%2])
	}
	close(stop)
	askers.Wait()
}

// A check after a reload allocates nothing: neither for the workload nor for its rules.
func TestFirstCheckAfterReloadDoesNotAllocate(t *testing.T) {
	docs := benchDocuments(1000, callers)
	store := NewStore(Mesh{})
	key := []byte("k")
	if _, err := store.Update(docs).Bind(key, Workload{Namespace: "coffee-shop", Labels: map[string]string{"app": "order", "version": "v1"}}); err != nil {
		t.Fatal(err)
	}
	store.Load().Cached(key).Rules.index(trafficHTTP)
	snaps := []*Snapshot{}
	for range 12 {
		snaps = append(snaps, store.Update(docs))
		store.Load().Cached(key)
	}
	r := &Request{Names: []string{"spiffe://cluster.local/ns/shop/sa/caller-7"}, Method: "GET", HasMethod: true}
	next := 0
	if got := testing.AllocsPerRun(len(snaps)-1, func() { // each time another snapshot, which was never asked
		snaps[next].Cached(key).Rules.Evaluate(r)
		next++
	}); got != 0 {
		t.Errorf("the first check after a load allocates %v times, want 0", got)
	}
}
