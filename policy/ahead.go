package policy

import (
	"cmp"
	"slices"
	"strings"
)

// Bounds of what a load makes before its snapshot comes into force. They count rules and policies, not time, for this
// package reads no clock. What they leave out, the first request that needs it makes, as it would without them.
const (
	// aheadRules are filed at most, the last index aside: two or three seconds of one core, and some 100 MiB.
	aheadRules = 1_000_000
	// aheadLooks is how many policies are looked at to find out which apply to the workloads that were served: about a second.
	aheadLooks = 2_000_000
	// toldLooks is the same for those that nobody has asked about yet: about a quarter of it.
	toldLooks = 500_000
	// toldRules and toldShare bound what is filed for those: so many rules, or so many times those that the documents have,
	// whichever is more. A load then takes time and memory in proportion to its documents.
	toldRules = 10_000
	toldShare = 4
)

// ahead makes the indexes of a snapshot that is not in force yet. An index takes a tenth of a second or more when there are
// 100,000 rules, and Envoy waits for an answer for 200 ms unless told otherwise.
type ahead struct {
	snap *Snapshot
	aheadBounds

	filed int // rules so far
}

// aheadBounds are aheadRules and the others, but for tests.
type aheadBounds struct{ rules, looks, toldLooks, toldRules int }

// warm resolves and indexes, before the snapshot is published, what requests will ask for: first the workloads that the old
// one served, then those that documents tell of, for at the first load nobody was served yet.
func (s *Snapshot) warm(old *Snapshot) {
	a := &ahead{snap: s, aheadBounds: aheadBounds{rules: aheadRules, looks: aheadLooks, toldLooks: toldLooks, toldRules: toldRules}}
	a.run(old)
}

func (a *ahead) run(old *Snapshot) {
	if old != nil {
		a.served(old)
	}
	a.told()
}

// aheadSet is a ruleset and the kinds of traffic that it is wanted for.
type aheadSet struct {
	rules *Ruleset
	size  int
	wants [len(bodyOf)]bool
}

// index makes the indexes of sets, the largest first, until so many rules are filed: what is left out are those that a
// request makes soonest.
func (a *ahead) index(sets []*aheadSet, limit int) {
	slices.SortStableFunc(sets, func(x, y *aheadSet) int { return cmp.Compare(y.size, x.size) })
	for _, set := range sets {
		for traffic, wanted := range set.wants {
			if !wanted || set.rules.indexed(traffic) {
				continue
			}
			if a.filed >= limit {
				return
			}
			a.filed += set.size
			set.rules.index(traffic)
		}
	}
}

// served resolves the workloads that the old snapshot served, and makes the indexes that they used.
func (a *ahead) served(old *Snapshot) {
	var sets []*aheadSet
	bySet := map[*Ruleset]*aheadSet{}
	old.cache.each(func(e *cacheEntry) {
		idle := 0
		if !e.used.Load() {
			idle = e.idle + 1
		}
		if idle > maxIdle || a.looks <= 0 {
			return
		}
		a.looks -= a.snap.inScope(&e.asked)
		b, err := a.snap.Resolve(e.asked)
		if err != nil {
			return
		}
		a.snap.cache.put(e.key, e.asked, b, idle, false)
		set := bySet[b.Rules]
		if set == nil {
			set = &aheadSet{rules: b.Rules, size: b.Rules.size()}
			bySet[b.Rules] = set
			sets = append(sets, set)
		}
		for traffic := range set.wants {
			set.wants[traffic] = set.wants[traffic] || e.bound.Rules.indexed(traffic)
		}
	})
	a.index(sets, a.rules)
}

// inScope counts the policies whose namespace is one that w takes policies from.
func (s *Snapshot) inScope(w *Workload) int {
	n := 0
	for _, ns := range w.namespaces(&s.mesh) {
		n += len(s.policies[ns])
	}
	return n
}

// told makes the indexes for HTTP of the sets of policies that documents alone tell of: for each namespace the one of a
// workload without labels, for each selector and target the one of a workload that is just what it asks for, and those of
// registered workloads. Whom two selectors reach, only a request can tell.
func (a *ahead) told() {
	var sets []*aheadSet
	seen := map[*Ruleset]bool{}
	for _, t := range a.snap.toldWorkloads() {
		if a.toldLooks <= 0 {
			break
		}
		a.toldLooks -= a.snap.inScope(&t.workload)
		rules := a.snap.ruleset(a.snap.candidates(&t.workload).applying(&a.snap.mesh, &t.workload).policies)
		if !seen[rules] {
			seen[rules] = true
			set := &aheadSet{rules: rules, size: rules.size()}
			set.wants[trafficHTTP] = true
			sets = append(sets, set)
		}
	}
	total := 0
	for _, of := range a.snap.policies {
		for _, p := range of {
			total += len(p.rules)
		}
	}
	a.index(sets, min(a.rules, a.filed+max(a.toldRules, toldShare*total)))
}

// toldWorkload is a workload that documents tell of, and how many rules there are in those that do.
type toldWorkload struct {
	key      string
	workload Workload
	rules    int
}

// toldWorkloads lists them: those of the most rules first, so that a bound leaves out the others. Where namespaces have no
// policies of their own, the root namespace's stands for them all.
func (s *Snapshot) toldWorkloads() []*toldWorkload {
	var told []*toldWorkload
	byKey := map[string]*toldWorkload{}
	tell := func(w Workload, rules int) {
		key := workloadKey(&w)
		t := byKey[key]
		if t == nil {
			t = &toldWorkload{key: key, workload: w}
			byKey[key] = t
			told = append(told, t)
		}
		t.rules += rules
	}
	for _, ns := range sortedKeys(s.policies) {
		tell(Workload{Namespace: ns, Labels: map[string]string{}}, 0)
		for _, p := range s.policies[ns] {
			for _, w := range p.targets() {
				tell(w, len(p.rules))
			}
		}
	}
	for of, workloads := range s.registry {
		for _, r := range workloads {
			tell(Workload{Namespace: of.namespace, Labels: r.labels}, 0)
		}
	}
	slices.SortFunc(told, func(a, b *toldWorkload) int {
		return cmp.Or(cmp.Compare(b.rules, a.rules), cmp.Compare(a.key, b.key))
	})
	return told
}

// workloadKey tells workloads apart by all that policies select by.
func workloadKey(w *Workload) string {
	var b strings.Builder
	b.WriteString(w.Namespace)
	for _, k := range sortedKeys(w.Labels) {
		b.WriteString("\x00" + k + "=" + w.Labels[k])
	}
	for _, s := range w.Services {
		b.WriteString("\x01" + s)
	}
	return b.String()
}

// targets are workloads that are just what a target asks for.
func (t *target) targets() []Workload {
	if len(t.refs) == 0 {
		labels := t.selector
		if labels == nil {
			labels = map[string]string{} // known to have none
		}
		return []Workload{{Namespace: t.namespace, Labels: labels}}
	}
	var out []Workload
	for _, ref := range t.refs {
		w := Workload{Namespace: t.namespace, Labels: map[string]string{}}
		switch ref.kind {
		case "Gateway":
			w.Labels[labelGatewayName] = ref.name
		case "GatewayClass":
			w.Labels[labelManaged] = managedWaypoint
		default:
			w.Services = []string{ref.kind + " " + t.namespace + "/" + ref.name}
		}
		out = append(out, w)
	}
	return out
}
