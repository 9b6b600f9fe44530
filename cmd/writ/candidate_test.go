package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/replay"
)

const candidateConfig = serveConfig + "documents_candidate: ./candidate\n"

// trialOf finds what status says of a set on trial.
func (p *authorityProcess) trialOf(set string) (trialReport, error) {
	p.t.Helper()
	report := p.status()
	for i := range report.Trials {
		if report.Trials[i].Set == set {
			return report.Trials[i], nil
		}
	}
	return trialReport{}, fmt.Errorf("no trial of %s in the status", set)
}

func TestServeTriesACandidate(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{
		"writ.yaml": candidateConfig, "policies/order.yaml": allowCustomer,
		"candidate/order.yaml": strings.ReplaceAll(allowCustomer, "methods: [GET]", "methods: [POST]"),
	})
	p := serve(t, dir)
	p.ready()
	p.answers(question("GET", "/menu?token=SECRET-QUERY"), 200)
	p.answers(question("POST", "/menu"), 403)
	p.answers(question("DELETE", "/menu"), 403)
	p.answers(question("GET", "/orders/7"), 200) // the dry-run policy would deny it

	p.metric(`writ_candidate_total{difference="newly_allowed",set="candidate"} 1`)
	p.metric(`writ_candidate_total{difference="newly_denied",set="candidate"} 2`)
	p.metric(`writ_candidate_total{difference="same",set="candidate"} 1`)
	p.metric(`writ_candidate_total{difference="newly_denied",set="dry_run"} 1`)
	p.metric(`writ_candidate_loaded{set="candidate"} 1`)
	p.metric(`writ_candidate_load_failed{set="candidate"} 0`)

	r, err := p.trialOf(trialCandidate)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Differences) != 2 || r.Differences[0].Kind != replay.NewlyAllowed || r.Differences[1].Count != 2 || r.Hash == "" {
		t.Errorf("%+v", r)
	}
	text, err := writ(t, "status", "-c", filepath.Join(dir, "writ.yaml")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"candidate ", "newly_denied: 2 checks ALLOW (coffee-shop/order[0]) would be DENY (no_allow_match)", "GET order/menu to coffee-shop/order",
		"dry-run policies, as if enforced", "would be DENY (coffee-shop/watch-orders[0])"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	p.eventually("logged", func() error {
		if !strings.Contains(p.logged(), "a request would be answered otherwise") {
			return errors.New(p.logged())
		}
		return nil
	})
	if all := p.logged() + string(text); strings.Contains(all, "SECRET") {
		t.Errorf("a secret is shown:\n%s", all)
	}
}

func TestServeSurvivesABrokenCandidate(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": candidateConfig, "policies/order.yaml": allowCustomer, "candidate/order.yaml": brokenOrder})
	p := serve(t, dir)
	p.ready()
	p.answers(question("GET", "/menu"), 200)
	p.metric(`writ_candidate_load_failed{set="candidate"} 1`)
	p.metric(`writ_candidate_total{difference="newly_denied",set="candidate"} 1`) // a broken document would fail closed

	// What differed from documents that are gone is forgotten.
	if err := os.WriteFile(filepath.Join(dir, "candidate/order.yaml"), []byte(allowCustomer), 0o600); err != nil {
		t.Fatal(err)
	}
	p.eventually("loaded again", func() error {
		r, err := p.trialOf(trialCandidate)
		if err == nil && (len(r.Broken) > 0 || len(r.Differences) > 0) {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
	p.answers(question("GET", "/menu"), 200)
	p.metric(`writ_candidate_total{difference="same",set="candidate"} 1`)

	if err := os.RemoveAll(filepath.Join(dir, "candidate")); err != nil {
		t.Fatal(err)
	}
	p.eventually("noticed", func() error {
		r, err := p.trialOf(trialCandidate)
		if err == nil && (r.LastLoad.Result != loadFailed || r.Hash == "") {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
	p.ready() // the enforced documents are as they are written
	p.answers(question("GET", "/menu"), 200)
	p.metric(`writ_candidate_total{difference="same",set="candidate"} 2`)
}

func TestServeWithoutItsCandidate(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": candidateConfig, "policies/order.yaml": allowCustomer})
	p := serve(t, dir)
	p.ready()
	p.answers(question("GET", "/menu"), 200)
	p.metric(`writ_candidate_loaded{set="candidate"} 0`)
	p.metric(`writ_candidate_total{difference="same",set="candidate"} 0`)
	r, err := p.trialOf(trialCandidate)
	if err != nil || r.LastLoad.Error == "" || r.Hash != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestCandidateConfiguration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"documents: ./policies\ndocuments_candidate: ./policies\nauthz: {}\n":      "one inside the other",
		"documents: ./policies\ndocuments_candidate: ./policies/next\nauthz: {}\n": "one inside the other",
		"documents: ./a/b\ndocuments_candidate: ./a\nauthz: {}\n":                  "one inside the other",
		"documents_candidate: ./next\nca: {}\nstate: ./state\n":                    "without authz",
	} {
		file := filepath.Join(t.TempDir(), "writ.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadConfig(file, func(string) (string, bool) { return "", false }, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
