package analysis

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// Decision is what becomes of a request.
type Decision string

// Decisions.
const (
	Allow Decision = "ALLOW"
	Deny  Decision = "DENY"
)

// Outcome is a decision and what it rests on.
type Outcome struct {
	Decision  Decision `json:"decision"`
	Providers []string `json:"providers,omitempty"` // it is ALLOW only if all of these agree, which CUSTOM policies ask; sorted
	Layer     string   `json:"layer"`
	Policy    string   `json:"policy,omitempty"` // namespace/name; empty where nothing matched
	Rule      *int     `json:"rule,omitempty"`   // index in the policy
}

// String is the outcome for people: what, and by what.
func (o Outcome) String() string { return o.What() + " by " + o.By() }

// What is the decision, with the condition it stands under.
func (o Outcome) What() string {
	if len(o.Providers) > 0 && o.Decision == Allow {
		return "ALLOW if " + strings.Join(o.Providers, " and ") + " does"
	}
	return string(o.Decision)
}

// By is what the decision rests on.
func (o Outcome) By() string {
	switch {
	case o.Rule != nil:
		return o.Policy + " rule " + strconv.Itoa(*o.Rule)
	case o.Layer == layerMTLS:
		return "PeerAuthentication " + o.Policy
	case o.Layer == layerJWT:
		return "no token rule takes the token"
	case o.Layer == layerDefault:
		return "no ALLOW policy applies"
	}
	return "no ALLOW rule matches"
}

func (o Outcome) key() string { return o.What() + "\x00" + o.Layer + "\x00" + o.By() }

// Kind is what a change does to a class of requests.
type Kind string

// Kinds of differences.
const (
	Widened  Kind = "widened"  // newly allowed, or fewer providers have to agree
	Narrowed Kind = "narrowed" // newly denied, or more providers have to agree
	Changed  Kind = "changed"  // other providers have to agree
	Reason   Kind = "reason"   // the same decision, by something else
)

func kindOf(old, new Outcome) Kind {
	switch {
	case old.Decision != new.Decision && new.Decision == Allow:
		return Widened
	case old.Decision != new.Decision:
		return Narrowed
	case new.Decision == Deny || slices.Equal(old.Providers, new.Providers):
		return Reason
	case containsAll(old.Providers, new.Providers):
		return Widened
	case containsAll(new.Providers, old.Providers):
		return Narrowed
	}
	return Changed
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

// Difference is one class of requests that the two sets decide differently: those of some workloads, with the same two
// outcomes.
type Difference struct {
	Kind      Kind       `json:"kind"`
	Old       Outcome    `json:"old"`
	New       Outcome    `json:"new"`
	Workloads []Workload `json:"workloads"`
	Traffic   []string   `json:"traffic"` // http, tcp
	Witness   Witness    `json:"witness"`
}

// Witness is one request of a class, as plain as it can be. The evaluator that serves decided it both ways.
type Witness struct {
	Workload Workload `json:"workload"`
	Request  Request  `json:"request"`
}

// Unknown is what could not be compared, or not completely.
type Unknown struct {
	Workloads []Workload `json:"workloads"`
	Traffic   string     `json:"traffic,omitempty"` // empty: all
	Reason    string     `json:"reason"`
}

// Report is what Diff found.
type Report struct {
	Differences []Difference `json:"differences"`
	Unknown     []Unknown    `json:"unknown"`
	Workloads   int          `json:"workloads"` // classes of workloads that were compared
}

// DiffOptions say what to compare. The zero value compares decisions on HTTP and TCP.
type DiffOptions struct {
	Reasons bool     // other policy with the same decision is a difference
	Traffic []string // http, tcp; empty is both
	// RawPaths compares paths that no normalizing proxy sends as well. Without it the server denies them whatever the
	// documents say, and no difference rests on them.
	RawPaths bool
}

// Diff finds the classes of requests that two sets of documents decide differently. It is complete for every workload that
// Unknown does not name: the values of every attribute fall into cells that no rule of either set tells apart, rules are
// products of sets of cells, and the search through the products is exact. What exceeds a bound is in Unknown. Every
// witness was decided by the evaluator that serves.
//
// Requests are taken to be as proxies send them: the caller has no certificate or one with a single name, which is
// spiffe://TD/ns/NS/sa/SA, no SPIFFE ID, or what a rule names; only CONNECT has no path, and every request has a method and
// a host; addresses and the port are known, and a TCP connection has one address, whatever it went through; texts are UTF-8; tokens verify, and are refused only for their issuer and
// audience; a waypoint stands in front of one of the services that documents of its namespace name, all, or none.
// Dry-run and AUDIT policies decide nothing.
//
// Broken documents are an error: what they mean is not known.
func Diff(old, new []*policy.Document, mesh policy.Mesh, options DiffOptions) (*Report, error) {
	d := &differ{options: options, report: &Report{Differences: []Difference{}, Unknown: []Unknown{}}, index: map[string]int{}, listed: map[string]bool{}}
	for i, docs := range [][]*policy.Document{old, new} {
		d.snapshots[i] = policy.NewSnapshot(docs, mesh)
		if n := d.snapshots[i].Broken(); n > 0 {
			return nil, fmt.Errorf("%d broken documents in the %s set: mend them first (writ lint)", n, []string{"old", "new"}[i])
		}
	}
	classes, gaps := workloads(slices.Concat(old, new), d.snapshots[0].Mesh())
	d.report.Unknown = append(d.report.Unknown, gaps...)
	groups, err := d.group(classes)
	if err != nil {
		return nil, err
	}
	d.report.Workloads = len(groups)
	for i := range groups {
		d.compare(&groups[i])
	}
	d.sort()
	return d.report, nil
}

// differ is one run of Diff.
type differ struct {
	options   DiffOptions
	snapshots [2]*policy.Snapshot
	report    *Report
	index     map[string]int  // of Differences by key
	listed    map[string]bool // Workloads of Differences, by index and name
}

// group is workloads that the same documents govern.
type group struct {
	workloads []Workload
	bound     [2]*policy.Bound // of the first
}

// group puts workloads together that the same documents govern, old and new.
func (d *differ) group(workloads []Workload) ([]group, error) {
	var out []group
	index := map[string]int{}
	for _, w := range workloads {
		g, key := group{workloads: []Workload{w}}, ""
		for i, snap := range d.snapshots {
			b, err := snap.Resolve(w.policy())
			if err != nil {
				return nil, fmt.Errorf("workload %s: %w", w, err)
			}
			g.bound[i] = b
			key += fmt.Sprintf("%p %p %v;", b.Rules, b.Authentication, ports(b))
		}
		if i, known := index[key]; known {
			out[i].workloads = append(out[i].workloads, w)
			continue
		}
		index[key] = len(out)
		out = append(out, g)
	}
	return out, nil
}

// compare compares one group of workloads.
func (d *differ) compare(g *group) {
	if sameRules(g.bound[0], g.bound[1]) {
		return
	}
	d.changes(g)
	for _, traffic := range []string{trafficHTTP, trafficTCP} {
		if len(d.options.Traffic) > 0 && !slices.Contains(d.options.Traffic, traffic) {
			continue
		}
		m := newModel(g.bound[0], g.bound[1], traffic == trafficTCP, d.options.RawPaths)
		if m.built {
			m.compare(d.options.Reasons, func(old, new Outcome, r Request) { d.found(g.workloads, traffic, old, new, r) })
		}
		for _, gap := range m.gaps {
			d.report.Unknown = append(d.report.Unknown, Unknown{g.workloads, traffic, gap})
		}
	}
}

// Kinds of traffic.
const (
	trafficHTTP = "http"
	trafficTCP  = "tcp"
)

// found files a difference under its class.
func (d *differ) found(workloads []Workload, traffic string, old, new Outcome, r Request) {
	key := old.key() + "\x01" + new.key()
	i, ok := d.index[key]
	if !ok {
		i = len(d.report.Differences)
		d.index[key] = i
		d.report.Differences = append(d.report.Differences, Difference{
			Kind: kindOf(old, new), Old: old, New: new, Witness: Witness{workloads[0], r},
		})
	}
	of := &d.report.Differences[i]
	for _, w := range workloads {
		if name := strconv.Itoa(i) + " " + w.String(); !d.listed[name] {
			d.listed[name] = true
			of.Workloads = append(of.Workloads, w)
		}
	}
	if !slices.Contains(of.Traffic, traffic) {
		of.Traffic = append(of.Traffic, traffic)
	}
}

// sort puts what widens first, and inside a kind the classes by their policies.
func (d *differ) sort() {
	order := []Kind{Widened, Changed, Narrowed, Reason}
	slices.SortStableFunc(d.report.Differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)),
			cmp.Compare(a.Workloads[0].String(), b.Workloads[0].String()), cmp.Compare(a.New.key(), b.New.key()), cmp.Compare(a.Old.key(), b.Old.key()))
	})
}
