package main

import (
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// trialReport says how the answers of a set on trial differ from the enforced ones.
type trialReport struct {
	Set         string                  `json:"set"` // candidate or dry_run
	Path        string                  `json:"path"`
	Hash        string                  `json:"hash,omitempty"` // absent while there is nothing to compare with
	LastLoad    loadReport              `json:"last_load,omitzero"`
	Broken      []policy.DocumentStatus `json:"broken,omitempty"`
	Checks      map[string]uint64       `json:"checks"`      // since the start, by difference
	Since       time.Time               `json:"since"`       // of the differences: since then the same documents are compared
	Differences []replay.Group          `json:"differences"` // with their first examples
	Omitted     uint64                  `json:"omitted,omitempty"`
	Panics      uint64                  `json:"panics,omitempty"`
}

// report says what was found. A set of dry-run policies is left out while there is none.
func (t *trials) report() []trialReport {
	var out []trialReport
	for _, s := range t.all() {
		snap := s.current.Load()
		if snap == nil && s.name == trialDryRun {
			continue
		}
		s.mu.Lock()
		r := trialReport{Set: s.name, Path: s.path, LastLoad: s.lastLoad, Checks: s.Tally().Counts(), Panics: s.Panics()}
		s.mu.Unlock()
		r.Differences, r.Omitted, r.Since = s.Tally().Groups()
		if snap != nil {
			r.Hash = snap.Hash()
			documents := documentsReport{Documents: snap.Documents()}
			r.Broken = documents.broken()
		}
		out = append(out, r)
	}
	return out
}

// maxDifferences bounds the groups of differences that are listed without --all.
const maxDifferences = 10

// trials shows what other documents would answer.
func (sw *statusWriter) trials(all []trialReport) {
	for i := range all {
		r := &all[i]
		what := "candidate " + printable(r.Path)
		if r.Set == trialDryRun {
			what = "dry-run policies, as if enforced"
		}
		fmt.Fprintf(&sw.b, "\n%s\n", sw.colours.bold(what))
		if r.LastLoad.Error != "" {
			fmt.Fprintf(&sw.b, "  %s last load %s ago failed: %s\n", sw.colours.red("!"), sw.since(r.LastLoad.Time), printable(r.LastLoad.Error))
		}
		for i := range r.Broken {
			d := &r.Broken[i]
			fmt.Fprintf(&sw.b, "  %s %s is broken: %s\n", sw.colours.red("!"), printable(d.Object.String()), printable(firstError(d)))
		}
		if r.Panics > 0 {
			fmt.Fprintf(&sw.b, "  %s %s ended in a panic, see the log\n", sw.colours.red("!"), plural(int(r.Panics), "check")) //nolint:gosec // a count for people
		}
		if r.Hash == "" {
			sw.b.WriteString("  not loaded: nothing is compared\n")
			continue
		}
		sw.differences(r)
	}
}

// differences shows the counts, and each group with its first example.
func (sw *statusWriter) differences(r *trialReport) {
	var rows [][]string
	for _, k := range replay.Kinds() {
		if n := r.Checks[k.String()]; n > 0 || k == replay.NewlyAllowed || k == replay.NewlyDenied {
			rows = append(rows, []string{fmt.Sprint(n), k.String()})
		}
	}
	sw.table(rows)
	shown := len(r.Differences)
	if !sw.all {
		shown = min(shown, maxDifferences)
	}
	for i := range r.Differences[:shown] {
		g := &r.Differences[i]
		fmt.Fprintf(&sw.b, "  %s: %s %s (%s) would be %s (%s)\n", sw.kind(g.Kind), plural(int(g.Count), "check"), //nolint:gosec // a count for people
			g.Old.Decision, printable(g.Old.By), g.New.Decision, printable(g.New.By))
		if len(g.Examples) > 0 {
			fmt.Fprintf(&sw.b, "    %s\n", printable(g.Examples[0].String()))
		}
	}
	if hidden := len(r.Differences) - shown; hidden > 0 {
		fmt.Fprintf(&sw.b, "  and %d more (--all lists them)\n", hidden)
	}
	if r.Omitted > 0 {
		fmt.Fprintf(&sw.b, "  and %d checks that differ in yet other ways\n", r.Omitted)
	}
}

// kind is a kind of difference in its colour.
func (sw *statusWriter) kind(k replay.Kind) string {
	switch k {
	case replay.NewlyAllowed:
		return sw.colours.red(k.String())
	case replay.NewlyDenied:
		return sw.colours.yellow(k.String())
	}
	return k.String()
}
