package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
)

// Errors of [Snapshot.Resolve]. Each means: deny, for whom the request is meant is in doubt.
var (
	ErrNoWorkload    = errors.New("the request does not say which workload it is for")
	ErrUnknownLabels = errors.New("a policy in scope selects by label and the workload's labels are not known")
	ErrAmbiguous     = errors.New("registered workloads of this service account differ in the policies that apply to them")
)

// Snapshot is the immutable, compiled form of all documents. All methods are safe for concurrent use.
type Snapshot struct {
	generation uint64
	hash       string
	mesh       Mesh
	documents  []DocumentStatus
	policies   map[string][]*Policy                // by namespace, in load order
	tokens     map[string][]*requestAuthentication // by namespace, oldest first
	peers      map[string][]*peerAuthentication    // by namespace, oldest first
	routes     map[string][]*destinationRule       // by namespace, oldest first
	gateways   []*gateway                          // oldest first
	registry   map[account][]registered            // workloads that documents name
	unread     map[string][]*Document              // by namespace, those that cannot be read and were never good
	cache      cache

	mu       sync.Mutex // guards rulesets, merged and modes
	rulesets map[string]*Ruleset
	merged   map[string]*Authentication
	modes    map[string]*peerModes
}

// account is a service account of a namespace.
type account struct{ namespace, name string }

// registered is one workload of the registry (WorkloadEntry, WorkloadGroup).
type registered struct {
	name   string
	labels map[string]string
}

// Bound is a workload together with the rules that govern it.
type Bound struct {
	Workload Workload
	Rules    *Ruleset
	// Authentication holds the token rules for the workload, nil when no RequestAuthentication applies: tokens are then
	// not looked at.
	Authentication *Authentication

	peers *peerModes // nil where no PeerAuthentication says anything
}

// Generation counts the snapshots a Store has published, from 1.
func (s *Snapshot) Generation() uint64 { return s.generation }

// Hash identifies the documents in force: equal hash, equal answers.
func (s *Snapshot) Hash() string { return s.hash }

// Mesh is what the snapshot was compiled for, defaults filled in.
func (s *Snapshot) Mesh() Mesh { return s.mesh }

// NewSnapshot compiles documents into what is enforced. Broken ones fail closed for whom they target, as
// [Store.Update] describes; nothing is kept from earlier snapshots, and rules are indexed when they are first asked for.
func NewSnapshot(docs []*Document, mesh Mesh) *Snapshot {
	s := NewStore(mesh)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compile(docs)
}

// addPolicy files a compiled policy.
func (s *Snapshot) addPolicy(p *Policy) { s.policies[p.Namespace] = append(s.policies[p.Namespace], p) }

// sortByAge puts the documents of each namespace into the order in which they count.
func (s *Snapshot) sortByAge() {
	for _, of := range s.tokens {
		slices.SortStableFunc(of, func(a, b *requestAuthentication) int { return older(a.doc, b.doc) })
	}
	for _, of := range s.peers {
		slices.SortStableFunc(of, func(a, b *peerAuthentication) int { return older(a.doc, b.doc) })
	}
	for _, of := range s.routes {
		slices.SortStableFunc(of, func(a, b *destinationRule) int { return older(a.doc, b.doc) })
	}
	slices.SortStableFunc(s.gateways, func(a, b *gateway) int { return older(a.doc, b.doc) })
}

// addWorkload files a WorkloadEntry or WorkloadGroup as a registered workload.
func (s *Snapshot) addWorkload(doc *Document) {
	labels := map[string]string{}
	switch spec := doc.Spec.(type) {
	case *networkingv1alpha3.WorkloadEntry:
		maps.Copy(labels, doc.Labels)
		maps.Copy(labels, spec.GetLabels())
	case *networkingv1alpha3.WorkloadGroup:
		maps.Copy(labels, spec.GetMetadata().GetLabels())
		maps.Copy(labels, spec.GetTemplate().GetLabels())
	}
	sa, _ := doc.ServiceAccount()
	key := account{doc.Namespace, cmp.Or(sa, DefaultServiceAccount)}
	s.registry[key] = append(s.registry[key], registered{doc.Name, labels})
}

// DefaultServiceAccount is the account of workloads that name none, as in Kubernetes.
const DefaultServiceAccount = "default"

// ServiceAccount is the account that a WorkloadEntry or WorkloadGroup names, which may be none; false for other documents.
func (d *Document) ServiceAccount() (account string, workload bool) {
	switch spec := d.Spec.(type) {
	case *networkingv1alpha3.WorkloadEntry:
		return spec.GetServiceAccount(), true
	case *networkingv1alpha3.WorkloadGroup:
		return spec.GetTemplate().GetServiceAccount(), true
	}
	return "", false
}

// addBrokenWorkload files a WorkloadEntry or WorkloadGroup that exists and whose labels are not known.
func (s *Snapshot) addBrokenWorkload(doc *Document) {
	s.unread[doc.Namespace] = append(s.unread[doc.Namespace], doc)
}

// unreadWorkload returns a broken document that may name the workload, if there is one. Its labels are then not known,
// whatever other documents say of workloads with the same service account.
func (s *Snapshot) unreadWorkload(w *Workload) *Document {
	for _, namespace := range []string{w.Namespace, ""} { // an unknown namespace may be any
		for _, d := range s.unread[namespace] {
			sa, _ := d.ServiceAccount()
			if (w.Name == "" || d.Name == "" || w.Name == d.Name) && (sa == "" || sa == w.ServiceAccount) {
				return d
			}
		}
	}
	return nil
}

// Resolve finds the rules that govern w. Labels that w leaves out are taken from the registered workloads of its
// service account (or the one of its name); it fails when they are needed and unknown, or known and at odds.
func (s *Snapshot) Resolve(w Workload) (*Bound, error) {
	if w.Namespace == "" {
		return nil, ErrNoWorkload
	}
	in := s.candidates(&w)
	if w.Labels == nil {
		labels, err := s.registeredLabels(w, in)
		if err != nil {
			return nil, err
		}
		w.Labels = labels
	}
	out := in.applying(&s.mesh, &w)
	return &Bound{
		Workload: w, Rules: s.ruleset(out.policies), Authentication: s.authentication(out.tokens), peers: s.peerModes(out.peers, &w),
	}, nil
}

// candidates are documents that can apply to a workload by their namespace.
type candidates struct {
	policies []*Policy
	tokens   []*requestAuthentication
	peers    []*peerAuthentication
}

// candidates lists the policies of all namespaces that can apply to w, in a fixed order (§1.2).
func (s *Snapshot) candidates(w *Workload) candidates {
	c := candidates{peers: s.peerCandidates(w)}
	for _, ns := range w.namespaces(&s.mesh) {
		c.policies = append(c.policies, s.policies[ns]...)
		c.tokens = append(c.tokens, s.tokens[ns]...)
	}
	return c
}

// applying keeps those that apply to w.
func (c candidates) applying(mesh *Mesh, w *Workload) candidates {
	var out candidates
	for _, p := range c.policies {
		if p.scope(mesh, w).Applies {
			out.policies = append(out.policies, p)
		}
	}
	for _, a := range c.tokens {
		if a.scope(mesh, w).Applies {
			out.tokens = append(out.tokens, a)
		}
	}
	for _, p := range c.peers {
		if p.applies(mesh, w) {
			out.peers = append(out.peers, p)
		}
	}
	return out
}

// byLabels returns a document that applies to some label sets and not to others, if there is one.
func (c candidates) byLabels(mesh *Mesh) (name string, found bool) {
	for _, p := range c.policies {
		if p.needsLabels() {
			return p.String(), true
		}
	}
	for _, a := range c.tokens {
		if a.needsLabels() {
			return a.doc.Namespace + "/" + a.doc.Name, true
		}
	}
	if !slices.ContainsFunc(c.peers, (*peerAuthentication).strict) {
		return "", false // whichever apply, nobody is refused
	}
	for _, p := range c.peers {
		if p.needsLabels(mesh) {
			return p.name(), true
		}
	}
	return "", false
}

// registeredLabels finds labels for a workload that came without. Registered workloads that differ only in labels no
// document asks for are as good as one.
func (s *Snapshot) registeredLabels(w Workload, in candidates) (map[string]string, error) {
	var found []registered
	for _, r := range s.registry[account{w.Namespace, w.ServiceAccount}] {
		if w.Name == "" || w.Name == r.name {
			found = append(found, r)
		}
	}
	if d := s.unreadWorkload(&w); d != nil {
		if name, ok := in.byLabels(&s.mesh); ok {
			return nil, fmt.Errorf("%w: policy %s; and %s:%d, which may name it, is broken", ErrUnknownLabels, name, d.File, d.Line)
		}
	}
	if len(found) == 0 {
		if name, ok := in.byLabels(&s.mesh); ok {
			return nil, fmt.Errorf("%w: policy %s", ErrUnknownLabels, name)
		}
		return nil, nil
	}
	w.Labels = found[0].labels
	first := in.applying(&s.mesh, &w)
	modes := s.peerModes(first.peers, &w)
	for _, r := range found[1:] {
		w.Labels = r.labels
		other := in.applying(&s.mesh, &w)
		if !slices.Equal(first.policies, other.policies) || !slices.Equal(first.tokens, other.tokens) ||
			!refuseAlike(modes, s.peerModes(other.peers, &w)) {
			return nil, fmt.Errorf("%w: %s and %s", ErrAmbiguous, found[0].name, r.name)
		}
	}
	return found[0].labels, nil
}

// ruleset returns the one ruleset of a set of policies.
func (s *Snapshot) ruleset(policies []*Policy) *Ruleset {
	key := make([]byte, 0, 8*len(policies))
	for _, p := range policies {
		key = strconv.AppendInt(key, int64(p.ordinal), 36)
		key = append(key, ',')
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rs, ok := s.rulesets[string(key)]
	if !ok {
		rs = newRuleset(policies)
		s.rulesets[string(key)] = rs
	}
	return rs
}

// Cached returns what Bind stored under key, or nil. It does not allocate or lock.
func (s *Snapshot) Cached(key []byte) *Bound { return s.cache.get(key) }

// Bind resolves w and remembers the result under key, which the caller makes from the trusted input w came from.
// Failures are not remembered.
func (s *Snapshot) Bind(key []byte, w Workload) (*Bound, error) {
	b, err := s.Resolve(w)
	if err != nil {
		return nil, err
	}
	s.cache.put(string(key), w, b, 0, true)
	return b, nil
}
