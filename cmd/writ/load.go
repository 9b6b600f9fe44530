package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/policy"
)

// Results of a load.
const (
	loadOK       = "ok"
	loadDegraded = "degraded" // a document is broken: it is not in force as written
	loadFailed   = "failed"   // the documents cannot be read: the last snapshot stays in force
)

// reload reads the documents and puts them in force. When they cannot be read, the snapshot in force stays. trigger
// says in the log what asked for it.
func (a *authority) reload(trigger string) {
	a.loading.Lock()
	defer a.loading.Unlock()
	started := time.Now()
	docs, err := a.directory.Read()
	report := loadReport{Time: started, Result: loadOK}
	if err != nil {
		report.Result, report.Error = loadFailed, err.Error()
		a.log.Error("the documents cannot be read, the last snapshot stays in force", "path", a.config.Documents, "trigger", trigger,
			"generation", a.generation(), "error", err)
		a.metrics.ObserveLoad(telemetry.Load{Result: loadFailed})
		a.setLoad(report, time.Time{})
		return
	}
	snap := a.store.Update(docs)
	a.trials.enforced(docs, snap)
	if snap.Broken() > 0 {
		report.Result = loadDegraded
	}
	a.setLoad(report, started)
	a.metrics.ObserveLoad(loadOf(snap, report))
	a.logLoad(snap, trigger, time.Since(started))
}

func (a *authority) generation() uint64 {
	if snap := a.store.Load(); snap != nil {
		return snap.Generation()
	}
	return 0
}

func (a *authority) setLoad(r loadReport, loaded time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastLoad = r
	if !loaded.IsZero() {
		a.loaded = loaded
	}
}

func loadOf(snap *policy.Snapshot, r loadReport) telemetry.Load {
	l := telemetry.Load{Result: r.Result, Published: true, Time: r.Time, Generation: snap.Generation(),
		Documents: map[telemetry.DocumentLabels]int{}, Problems: countProblems(snap.Problems())}
	for _, d := range snap.Documents() {
		l.Documents[telemetry.DocumentLabels{Kind: boundedKind(d.Object.Kind), State: string(d.State)}]++
	}
	return l
}

// boundedKind keeps what a document calls itself from becoming a label of its own.
func boundedKind(kind string) string {
	known := []string{
		policy.KindAuthorizationPolicy, policy.KindRequestAuthentication, policy.KindPeerAuthentication,
		policy.KindDestinationRule, policy.KindGateway, policy.KindWorkloadEntry, policy.KindWorkloadGroup,
	}
	if slices.Contains(known, kind) {
		return kind
	}
	return "other"
}

// logLoad says once what changed, and one line for each error. Warnings are lint's business, except at debug level.
func (a *authority) logLoad(snap *policy.Snapshot, trigger string, took time.Duration) {
	documents := snap.Documents()
	a.log.Info("documents loaded", "path", a.config.Documents, "trigger", trigger, "documents", len(documents),
		"broken", snap.Broken(), "generation", snap.Generation(), "hash", shortHash(snap.Hash()), "took", took.Round(time.Microsecond))
	for i := range documents {
		d := &documents[i]
		for j := range d.Problems {
			logProblem(a.log, d, &d.Problems[j])
		}
	}
}

// shortHash is enough of a hash to tell snapshots apart.
func shortHash(hash string) string { return hash[:min(12, len(hash))] }

func logProblem(log *slog.Logger, d *policy.DocumentStatus, p *policy.Problem) {
	args := []any{"at", place(p), "code", p.Code, "object", p.Object.String(), "field", p.Field, "message", p.Message, "hint", p.Hint}
	if p.Severity != policy.SeverityError {
		log.Debug("document "+p.Severity.String(), args...)
		return
	}
	log.Error("document error", append(args, "state", string(d.State), "effect", meaning(d.State))...)
}

// readiness says whether the authority enforces its documents as they are written, and if not, why.
func (a *authority) readiness(ctx context.Context) readiness {
	a.mu.Lock()
	last, draining := a.lastLoad, a.draining
	a.mu.Unlock()
	var reasons []string
	if draining {
		reasons = append(reasons, "shutting down")
	}
	if a.issuing != nil {
		if why := a.issuing.notReady(ctx); why != "" {
			reasons = append(reasons, why)
		}
	}
	if a.checks == nil { // documents are nobody's business
		return readiness{Ready: len(reasons) == 0, Reasons: reasons}
	}
	snap := a.store.Load()
	if snap == nil {
		reasons = append(reasons, "no documents have been loaded yet: every check is denied")
	}
	if last.Result == loadFailed {
		reasons = append(reasons, "the last load failed: "+last.Error)
	}
	if snap != nil {
		reasons = append(reasons, brokenReasons(snap.Documents())...)
	}
	reasons = append(reasons, a.providers.notReady()...)
	return readiness{Ready: len(reasons) == 0, Reasons: reasons}
}

// maxReasons bounds the broken documents that readiness names one by one.
const maxReasons = 20

func brokenReasons(documents []policy.DocumentStatus) []string {
	report := documentsReport{Documents: documents}
	broken := report.broken()
	var reasons []string
	for i := range broken {
		if i == maxReasons {
			reasons = append(reasons, fmt.Sprintf("and %d more broken documents", len(broken)-i))
			break
		}
		d := &broken[i]
		reasons = append(reasons, fmt.Sprintf("%s is broken, %s: %s", d.Object, meaning(d.State), firstError(d)))
	}
	return reasons
}

// status is the whole picture, for GET /status.
func (a *authority) status(ctx context.Context) statusReport {
	checks, err := a.metrics.CheckCounts()
	if err != nil {
		a.log.Error("counters cannot be read", "error", err)
	}
	r := statusReport{readiness: a.readiness(ctx), Build: a.build, Started: a.started, Listeners: a.listening, Checks: checks}
	if a.issuing != nil {
		report := a.issuing.report(ctx)
		r.CA, r.Warnings = &report, report.warnings()
	}
	if a.local != nil {
		local := a.local.status()
		r.Agent = local.Agent
		r.Warnings = append(r.Warnings, local.Warnings...)
	}
	if a.checks == nil {
		return r
	}
	r.Tokens = a.tokensReport()
	r.Warnings = append(r.Warnings, r.Tokens.warnings()...)
	r.Trials = a.trials.report()
	r.Providers = a.providers.report()
	r.Warnings = append(r.Warnings, a.providers.warnings()...)
	r.Overload = a.overloadReport()
	r.Warnings = append(r.Warnings, r.Overload.warnings()...)
	r.DecisionLog = decisionLogReport{a.config.Authz.DecisionLog.To, a.config.Authz.DecisionLog.Log, a.decisions.Dropped()}
	a.mu.Lock()
	last, loaded := a.lastLoad, a.loaded
	a.mu.Unlock()
	r.Documents = documentsReport{Path: a.config.Documents, LastLoad: last, States: map[string]int{}, Documents: []policy.DocumentStatus{}}
	if snap := a.store.Load(); snap != nil {
		r.Documents.Generation, r.Documents.Hash, r.Documents.Loaded = snap.Generation(), snap.Hash(), &loaded
		r.Documents.Documents = snap.Documents()
	}
	for _, d := range r.Documents.Documents {
		r.Documents.States[string(d.State)]++
	}
	return r
}
