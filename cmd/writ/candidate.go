package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Names of the sets that live traffic is tried on.
const (
	trialCandidate = "candidate" // documents_candidate
	trialDryRun    = "dry_run"   // the documents in force with their dry-run policies enforced
)

// trials decide live requests by other documents as well, beside the answer that is enforced. A nil one does nothing.
type trials struct {
	candidate *trialSet // nil without documents_candidate
	dryRun    *trialSet
	directory policy.Directory
	log       *slog.Logger
	wanted    func() // has the keys fetched that the candidate needs

	loading sync.Mutex // one load at a time
}

// trialSet is one set on trial.
type trialSet struct {
	*replay.Trial
	name    string
	path    string // of its documents
	store   *policy.Store
	current atomic.Pointer[policy.Snapshot] // nil while there is nothing to compare with

	mu            sync.Mutex // guards what follows
	lastLoad      loadReport
	own, enforced string // hashes of what is compared
}

// newTrials prepares the trials, which verify tokens as the enforcing engine does.
func (a *authority) newTrials(tokens authz.Tokens) (*trials, error) {
	t := &trials{directory: policy.Directory{Path: a.config.DocumentsCandidate}, log: a.log, wanted: func() {}}
	if a.sources != nil {
		t.wanted = func() {
			if snap := a.store.Load(); snap != nil {
				a.sources.Set(append(authz.WantedKeys(snap), t.wantedKeys()...))
			}
		}
	}
	var configs []authz.ProviderConfig
	for _, p := range a.providers.all {
		c := p.config
		c.Name = p.name
		configs = append(configs, c)
	}
	newSet := func(name, path string) (*trialSet, error) {
		s := &trialSet{name: name, path: path, store: policy.NewStore(a.config.mesh())}
		trial, err := replay.NewTrial(replay.TrialConfig{Name: name, Snapshot: s.current.Load, Tokens: tokens, Providers: configs, Logger: a.log})
		s.Trial = trial
		return s, err
	}
	var err error
	if t.dryRun, err = newSet(trialDryRun, a.config.Documents); err != nil {
		return nil, err
	}
	if a.config.DocumentsCandidate != "" {
		if t.candidate, err = newSet(trialCandidate, a.config.DocumentsCandidate); err != nil {
			return nil, err
		}
	}
	return t, replay.Register(a.metrics.Registry(), t.tried()...)
}

// all lists the sets that there are.
func (t *trials) all() []*trialSet {
	if t == nil {
		return nil
	}
	if t.candidate == nil {
		return []*trialSet{t.dryRun}
	}
	return []*trialSet{t.candidate, t.dryRun}
}

func (t *trials) tried() []replay.Tried {
	var out []replay.Tried
	for _, s := range t.all() {
		out = append(out, replay.Tried{Trial: s.Trial, Loaded: s.loaded, Failed: s.failed})
	}
	return out
}

// observe tries one answered request. It runs on the check's own goroutine.
func (t *trials) observe(o *extauthz.Observation) {
	for _, s := range [...]*trialSet{t.candidate, t.dryRun} {
		if s != nil {
			s.Observe(o)
		}
	}
}

// run logs new differences and follows the candidate documents until ctx ends.
func (t *trials) run(ctx context.Context, g *errgroup.Group) {
	for _, s := range t.all() {
		g.Go(func() error { return s.Run(ctx) })
	}
	if t != nil && t.candidate != nil {
		g.Go(func() error { return t.watch(ctx) })
	}
}

// watch loads the candidate documents whenever they change; from time to time if they cannot be watched.
func (t *trials) watch(ctx context.Context) error {
	for {
		err := t.directory.Watch(ctx, func() { t.load("change") })
		if ctx.Err() != nil {
			return nil
		}
		t.log.Error("the candidate documents cannot be watched, they are loaded again from time to time", "path", t.directory.Path,
			"every", watchAgain, "error", err)
		t.load("change")
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchAgain):
		}
	}
}

// load reads the candidate documents. What is wrong with them is shown and changes nothing that is enforced.
func (t *trials) load(trigger string) {
	if t == nil || t.candidate == nil {
		return
	}
	t.loading.Lock()
	defer t.loading.Unlock()
	s := t.candidate
	report := loadReport{Time: time.Now(), Result: loadOK}
	docs, err := t.directory.Read()
	if err != nil {
		report.Result, report.Error = loadFailed, err.Error()
		t.log.Error("the candidate documents cannot be read, the last ones stay on trial", "path", t.directory.Path, "trigger", trigger, "error", err)
		s.note(report)
		return
	}
	snap := s.store.Update(docs)
	if snap.Broken() > 0 {
		report.Result = loadDegraded
	}
	s.note(report)
	if s.compare(&s.own, snap.Hash()) {
		t.log.Info("candidate documents loaded: they are tried, not enforced", "path", t.directory.Path, "trigger", trigger,
			"documents", len(snap.Documents()), "broken", snap.Broken(), "hash", shortHash(snap.Hash()))
	}
	s.current.Store(snap)
	t.wanted()
}

// enforced hears of the documents in force.
func (t *trials) enforced(docs []*policy.Document, snap *policy.Snapshot) {
	if t == nil {
		return
	}
	for _, s := range t.all() {
		s.compare(&s.enforced, snap.Hash())
	}
	if changed, n := replay.DryRunEnforced(docs); n > 0 {
		t.dryRun.current.Store(t.dryRun.store.Update(changed))
	} else {
		t.dryRun.current.Store(nil)
	}
}

// wantedKeys lists the key sets that only the candidate may need.
func (t *trials) wantedKeys() []jwt.Wanted {
	if t == nil || t.candidate == nil {
		return nil
	}
	if snap := t.candidate.current.Load(); snap != nil {
		return authz.WantedKeys(snap)
	}
	return nil
}

func (s *trialSet) note(r loadReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastLoad = r
}

// compare says which documents one side of the comparison has now. With others, earlier differences mean nothing any more.
func (s *trialSet) compare(side *string, hash string) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *side == hash {
		return false
	}
	*side = hash
	s.Tally().Reset()
	return true
}

func (s *trialSet) loaded() bool { return s.current.Load() != nil }

func (s *trialSet) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastLoad.Result == loadFailed || s.lastLoad.Result == loadDegraded
}
