package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// diffFlags are the flags of diff.
type diffFlags struct {
	config, failOn, traffic, test string
	reasons, curl                 bool
	out                           *format
	paths                         [2]string
}

// diffReport is the answer of diff.
type diffReport struct {
	Differences []diffEntry           `json:"differences"`
	Unknown     []analysis.Unknown    `json:"unknown"`
	Counts      map[analysis.Kind]int `json:"counts"`    // of differences by kind
	Workloads   int                   `json:"workloads"` // classes of workloads that were compared
}

// diffEntry is one class of requests, with what the flags ask for besides.
type diffEntry struct {
	analysis.Difference
	Curl string `json:"curl,omitempty"`
}

func (c *cli) diff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say which requests two sets of documents decide differently",
		Long: "diff compares two sets of Istio documents (files, directories, or - for standard input) by what they decide. It\n" +
			"lists classes of requests that are newly allowed or newly denied, by workload and by the rules that decide, each with\n" +
			"an example that was decided both ways by the code the server runs. What it cannot compare completely is UNKNOWN,\n" +
			"with the reason. docs/diff.md says how it is found and what is assumed.\n\n" +
			"Exit codes: 0 no difference, 2 a difference that --fail-on names, 6 none and something is UNKNOWN, 3 a document is\n" +
			"invalid.",
		Example: "  writ diff ./policies ./policies-new\n" +
			"  writ diff --fail-on widen main/policies policies -o json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("diff: want two sets of documents, the old and the new one: writ diff ./policies ./policies-new")
			}
			return nil
		},
	}
	d := &diffFlags{out: addOutput(cmd)}
	f := cmd.Flags()
	f.StringVarP(&d.config, "config", "c", "", "configuration `file` to take the trust domain, the root namespace and how requests are read from")
	f.StringVar(&d.failOn, "fail-on", "any", "exit 2 on these `differences`: any, widen, narrow or never")
	f.StringVar(&d.traffic, "traffic", "all", "compare this `traffic`: http, tcp or all")
	f.BoolVar(&d.reasons, "reasons", false, "list requests with the same decision by another policy as well")
	f.BoolVar(&d.curl, "emit-curl", false, "show each example as a curl command")
	f.StringVar(&d.test, "emit-test", "", "write the examples to this `file`, as tests of the new documents for writ test")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d.paths = [2]string(args)
		return c.runDiff(cmd.Context(), d)
	}
	return cmd
}

// check refuses command lines that cannot be meant.
func (d *diffFlags) check() error {
	for _, word := range []struct {
		flag, value string
		known       []string
	}{
		{"--fail-on", d.failOn, []string{"any", "widen", "narrow", "never"}},
		{"--traffic", d.traffic, []string{"all", "http", "tcp"}},
	} {
		if !slices.Contains(word.known, word.value) {
			return usagef("%s %q: want %s%s", word.flag, word.value, strings.Join(word.known, ", "), didYouMean(word.value, word.known))
		}
	}
	if d.test != "" && !policy.IsTestName(d.test) {
		return usagef("--emit-test %s: writ test reads files named *_test.yaml", d.test)
	}
	if d.test != "" && d.paths[1] == "-" {
		return usagef("--emit-test: the tests name the documents they are about, and the new ones are standard input: use files")
	}
	return onceStdin(d.paths[:]...)
}

func (c *cli) runDiff(ctx context.Context, d *diffFlags) error {
	if err := d.check(); err != nil {
		return err
	}
	cfg, err := c.diffConfig(d.config)
	if err != nil {
		return err
	}
	var docs [2][]*policy.Document
	for i, path := range d.paths {
		if docs[i], _, err = c.validDocuments([]string{path}, cfg.mesh()); err != nil {
			return err
		}
	}
	options := analysis.DiffOptions{Reasons: d.reasons, RawPaths: extauthz.PathMode(cfg.Authz.Paths) == extauthz.PathsNone}
	if d.traffic != "all" {
		options.Traffic = []string{d.traffic}
	}
	found, err := analysis.Diff(docs[0], docs[1], cfg.mesh(), options)
	if err != nil {
		return err
	}
	server, err := newDiffServer(docs, cfg.mesh(), cfg.Authz)
	if err != nil {
		return err
	}
	tests, err := server.confirm(ctx, found)
	if err != nil {
		return err
	}
	if d.test != "" {
		if err := writeDiffTests(c.err, d.test, d.paths[1], tests); err != nil {
			return fmt.Errorf("--emit-test: %w", err)
		}
	}
	report := newDiffReport(found, d.curl, server.hops)
	if d.out.value != "text" {
		err = d.out.encode(c.out, report)
	} else {
		w := &diffWriter{w: c.out, colours: c.colours(c.out), docs: docs}
		err = w.write(report)
	}
	if err != nil {
		return err
	}
	return report.exit(d.failOn)
}

// diffConfig is the configuration of a file, or the default one, with what it says of decisions.
func (c *cli) diffConfig(file string) (*config, error) {
	cfg := defaultConfig()
	if file != "" {
		loaded, err := c.loadConfig(file, nil)
		if err != nil {
			return nil, err
		}
		cfg = loaded
	}
	if cfg.Authz == nil {
		cfg.Authz = &authzConfig{}
		cfg.Authz.defaults()
	}
	return cfg, nil
}

func newDiffReport(found *analysis.Report, curl bool, hops int) *diffReport {
	r := &diffReport{Differences: []diffEntry{}, Unknown: found.Unknown, Counts: map[analysis.Kind]int{}, Workloads: found.Workloads}
	for _, difference := range found.Differences {
		entry := diffEntry{Difference: difference}
		if curl {
			entry.Curl = curlOf(&difference.Witness.Request, hops)
		}
		r.Differences = append(r.Differences, entry)
		r.Counts[difference.Kind]++
	}
	return r
}

// exit ends the command with the code for what was found. Other providers may allow more, or less: both count.
func (r *diffReport) exit(failOn string) error {
	kinds := map[string][]analysis.Kind{
		"any":    {analysis.Widened, analysis.Narrowed, analysis.Changed, analysis.Reason},
		"widen":  {analysis.Widened, analysis.Changed},
		"narrow": {analysis.Narrowed, analysis.Changed},
	}[failOn]
	switch {
	case slices.ContainsFunc(kinds, func(k analysis.Kind) bool { return r.Counts[k] > 0 }):
		return exitWith(exitNo)
	case failOn != "never" && len(r.Unknown) > 0:
		return exitWith(exitUnknown)
	}
	return nil
}
