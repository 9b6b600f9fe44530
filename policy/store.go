package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Store publishes snapshots. Load may be called from any goroutine at any time; updates are serialized.
type Store struct {
	mesh    Mesh
	current atomic.Pointer[Snapshot]
	prepare func(*Snapshot)

	mu         sync.Mutex // guards what follows
	generation uint64
	good       map[Object]*Document // last version of each document that was valid
}

// NewStore makes a store without a snapshot: until the first Update there is nothing to decide by.
func NewStore(mesh Mesh) *Store {
	return &Store{mesh: mesh.withDefaults(), good: map[Object]*Document{}}
}

// BeforePublish has prepare called with every snapshot before it comes into force, so that whatever its rules need is
// there when the first request meets them. Call it before the first Update.
func (s *Store) BeforePublish(prepare func(*Snapshot)) { s.prepare = prepare }

// Load returns the snapshot in force, nil before the first Update.
func (s *Store) Load() *Snapshot { return s.current.Load() }

// DocumentState is what became of a document.
type DocumentState string

// States of a document.
const (
	StateActive     DocumentState = "active"      // in force as written
	StateLastGood   DocumentState = "last_good"   // has errors; its last valid version is in force
	StateFailClosed DocumentState = "fail_closed" // has errors and never was valid: forbids what it may have been meant to
	StateIgnored    DocumentState = "ignored"     // of a kind that means nothing here
)

// DocumentStatus tells an operator what became of one document.
type DocumentStatus struct {
	Object   Object        `json:"object"`
	File     string        `json:"file"`
	Line     int           `json:"line"`
	State    DocumentState `json:"state"`
	Problems []Problem     `json:"problems,omitempty"`
}

// Documents lists every document of the source in source order, with what became of it.
func (s *Snapshot) Documents() []DocumentStatus { return s.documents }

// Problems lists the problems of all documents in source order.
func (s *Snapshot) Problems() []Problem {
	var out []Problem
	for i := range s.documents {
		out = append(out, s.documents[i].Problems...)
	}
	return out
}

// Broken counts the documents that are not in force as written.
func (s *Snapshot) Broken() int {
	n := 0
	for i := range s.documents {
		if st := s.documents[i].State; st == StateLastGood || st == StateFailClosed {
			n++
		}
	}
	return n
}

// Update compiles the full set of documents and publishes the snapshot. It never fails: a broken document keeps its own
// last good version and does not hold up its neighbours; one that was never valid fails closed for whom it targets (see
// docs/adr/0001).
//
// The indexes of workloads that the snapshot in force already serves, and of those that documents tell of, are made before
// the swap as far as some bounds allow, so that requests do not wait for them.
func (s *Store) Update(docs []*Document) *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.compile(docs)
	if s.prepare != nil {
		s.prepare(snap)
	}
	snap.warm(s.current.Load())
	s.current.Store(snap)
	return snap
}

// compile makes a snapshot of documents. The caller holds mu.
func (s *Store) compile(docs []*Document) *Snapshot {
	s.generation++
	snap := &Snapshot{
		generation: s.generation,
		mesh:       s.mesh,
		policies:   map[string][]*Policy{},
		tokens:     map[string][]*requestAuthentication{},
		peers:      map[string][]*peerAuthentication{},
		routes:     map[string][]*destinationRule{},
		registry:   map[account][]registered{},
		unread:     map[string][]*Document{},
		rulesets:   map[string]*Ruleset{},
		merged:     map[string]*Authentication{},
		modes:      map[string]*peerModes{},
		cache:      newCache(),
	}
	l := &loading{store: s, snap: snap, compiler: newCompiler(s.mesh), kept: map[Object]bool{}, hash: sha256.New()}
	l.run(docs)
	snap.sortByAge()
	snap.hash = hex.EncodeToString(l.hash.Sum(nil))
	s.good = l.nextGood()
	return snap
}

// loading is one Update under way.
type loading struct {
	store    *Store
	snap     *Snapshot
	compiler *compiler
	kept     map[Object]bool // last good versions already put in force
	inForce  []*Document
	ordinal  int
	hash     hash.Hash
}

func (l *loading) run(docs []*Document) {
	clash := duplicates(docs)
	present := map[Object]bool{}
	for _, d := range docs {
		present[d.Object] = true
	}
	for _, d := range docs {
		st := DocumentStatus{Object: d.Object, File: d.File, Line: d.Line, Problems: d.Problems, State: StateIgnored}
		switch {
		case d.Ignored:
		case clash[d] != nil:
			st.Problems = append(slices.Clone(d.Problems), *clash[d])
			st.State = l.broken(d, present)
		case d.Broken():
			st.State = l.broken(d, present)
		default:
			st.State = StateActive
			if err := l.enforce(d); err != nil { // validation let through what cannot be compiled: a defect, but fail closed
				st.Problems = append(slices.Clone(d.Problems), Problem{
					Code: codeUncompilable, Severity: SeverityError, Object: d.Object, File: d.File, Line: d.Line, Column: 1,
					Message: err.Error(),
				})
				st.State = l.broken(d, present)
			}
		}
		l.snap.documents = append(l.snap.documents, st)
	}
}

// enforce puts a valid document in force.
func (l *loading) enforce(d *Document) error {
	switch d.Kind {
	case KindAuthorizationPolicy:
		p, err := l.compiler.policy(d)
		if err != nil {
			return err
		}
		l.add(p)
	case KindRequestAuthentication:
		a, err := newAuthentication(d)
		if err != nil {
			return err
		}
		l.snap.tokens[d.Namespace] = append(l.snap.tokens[d.Namespace], a)
	case KindPeerAuthentication:
		p, err := newPeerAuthentication(d)
		if err != nil {
			return err
		}
		l.snap.peers[d.Namespace] = append(l.snap.peers[d.Namespace], p)
	case KindDestinationRule:
		r, err := newDestinationRule(d)
		if err != nil {
			return err
		}
		l.snap.routes[d.Namespace] = append(l.snap.routes[d.Namespace], r)
	case KindGateway:
		g, err := newGateway(d)
		if err != nil {
			return err
		}
		l.snap.gateways = append(l.snap.gateways, g)
	case KindWorkloadEntry, KindWorkloadGroup:
		l.snap.addWorkload(d)
	}
	l.inForce = append(l.inForce, d)
	fmt.Fprintf(l.hash, "%s\x00%d\x00", d.Object, len(d.source))
	l.hash.Write(d.source)
	return nil
}

func (l *loading) add(p *Policy) {
	p.ordinal = l.ordinal
	l.ordinal++
	l.snap.addPolicy(p)
}

// broken puts in force what stands in for a document with errors: its last good version, or a stand-in that fails
// closed.
func (l *loading) broken(d *Document, present map[Object]bool) DocumentState {
	state := StateFailClosed
	for _, old := range l.lastGood(d, present) {
		if !l.kept[old.Object] {
			l.kept[old.Object] = true
			if l.enforce(old) != nil {
				continue
			}
		}
		state = StateLastGood
	}
	if state == StateFailClosed {
		l.failClosed(d)
	}
	return state
}

// lastGood lists the versions in force of what a broken document may be. One whose kind, namespace or name cannot be
// read may be any that its file, or the directory that cannot be read, held: those that fit it and are gone from the
// source stay.
func (l *loading) lastGood(d *Document, present map[Object]bool) []*Document {
	if d.Name != "" {
		if old := l.store.good[d.Object]; old != nil {
			return []*Document{old}
		}
	}
	var olds []*Document
	if d.Name != "" && d.Namespace != "" && isKnownKind(d.Kind) {
		return nil
	}
	for _, old := range l.store.good {
		within := old.File == d.File || strings.HasPrefix(old.File, d.File+string(filepath.Separator))
		if within && !present[old.Object] && d.mayBe(old.Object) {
			olds = append(olds, old)
		}
	}
	slices.SortFunc(olds, func(a, b *Document) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Object.String(), b.Object.String()))
	})
	return olds
}

// mayBe reports whether what could be read of a broken document fits an object.
func (d *Document) mayBe(o Object) bool {
	return (d.Name == "" || d.Name == o.Name) && (d.Namespace == "" || d.Namespace == o.Namespace) &&
		(!isKnownKind(d.Kind) || d.Kind == o.Kind)
}

// failClosed puts in force what stands in for a document that was never good.
func (l *loading) failClosed(d *Document) {
	switch d.Kind {
	case KindWorkloadEntry, KindWorkloadGroup:
		l.snap.addBrokenWorkload(d)
	case KindPeerAuthentication:
		l.snap.peers[d.Namespace] = append(l.snap.peers[d.Namespace], brokenPeerAuthentication(d, l.snap.mesh.RootNamespace))
	case KindDestinationRule:
		l.snap.routes[d.Namespace] = append(l.snap.routes[d.Namespace], brokenDestinationRule(d))
	case KindGateway:
		l.snap.gateways = append(l.snap.gateways, brokenGateway(d))
	case "", KindAuthorizationPolicy, KindRequestAuthentication: // it forbids something, or could
		p := l.compiler.brokenPolicy(d)
		if p == nil {
			return
		}
		l.add(p)
	default:
		return
	}
	fmt.Fprintf(l.hash, "broken %s %s:%d\x00", d.Object, d.File, d.Line)
}

// nextGood is the last good version of every document that is in force now.
func (l *loading) nextGood() map[Object]*Document {
	good := make(map[Object]*Document, len(l.inForce))
	for _, d := range l.inForce {
		good[d.Object] = d
	}
	return good
}

// duplicates finds documents that share kind, namespace and name: which one is meant nobody can tell, so none is
// enforced as written.
func duplicates(docs []*Document) map[*Document]*Problem {
	first := map[Object]*Document{}
	out := map[*Document]*Problem{}
	for _, d := range docs {
		if d.Ignored || d.Name == "" {
			continue
		}
		f, ok := first[d.Object]
		if !ok {
			first[d.Object] = d
			continue
		}
		clash := func(d, other *Document) {
			out[d] = &Problem{
				Code: codeDuplicate, Severity: SeverityError, Object: d.Object, File: d.File, Line: d.Line, Column: 1,
				Field: "metadata.name", Message: fmt.Sprintf("the same object is defined again at %s:%d", other.File, other.Line),
				Hint: "keep one of them, or rename one",
			}
		}
		if out[f] == nil {
			clash(f, d)
		}
		clash(d, f)
	}
	return out
}
