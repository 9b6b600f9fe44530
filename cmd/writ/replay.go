package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// maxMapBytes bounds the file that says which field of an access log holds what.
const maxMapBytes = 1 << 20

// replayFlags are those of writ replay.
type replayFlags struct {
	old, new         []string
	config           string
	format, fieldMap string
	failOn           string
	examples, top    int
	emit             string
	target           target
	tokens           tokenFlags
	providers        providerFlags
}

func (c *cli) replay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay --old PATH --new PATH FILE...",
		Short: "Say what other documents would have answered to recorded traffic",
		Long: "replay answers recorded requests by an old and a new set of documents and shows where the answers differ. It reads, line by\n" +
			"line, writ's decision log, CheckRequests in protobuf JSON, and Envoy's access log in JSON. What a log does not hold is not\n" +
			"known, and never guessed: a request whose answer depends on it cannot be told. Nothing shown holds a token, a header or a query.\n\n" +
			"Exit codes: 0 no answer differs, 2 answers differ (--fail-on says which count), 3 a document is invalid, 6 none differs and of\n" +
			"some it cannot be told.",
		Example: "  writ replay --old ./policies --new ./changed decisions.jsonl\n" +
			"  writ replay -c writ.yaml --fail-on widen /var/log/writ/decisions.jsonl\n" +
			"  kubectl logs order-0 -c istio-proxy | writ replay --old ./policies --new ./changed --to coffee-shop --labels app=order -",
		Args: cobra.MinimumNArgs(1),
	}
	r := &replayFlags{}
	f := cmd.Flags()
	f.StringArrayVar(&r.old, "old", nil, "`path` of the old documents: file or directory; repeatable. Without it, documents of -c")
	f.StringArrayVar(&r.new, "new", nil, "`path` of the new documents; repeatable. Without it, documents_candidate of -c")
	f.StringVarP(&r.config, "config", "c", "", "configuration `file` to take the trust domain, documents and the rest from")
	f.StringVar(&r.format, "format", string(replay.FormatAuto), "what the lines are: auto, decisions, requests or envoy")
	f.StringVar(&r.fieldMap, "map", "", "`file` that says which fields of an access log hold which attributes (YAML)")
	f.StringVar(&r.failOn, "fail-on", "any", "exit 2 on these `differences`: any, widen, narrow or never")
	f.IntVar(&r.examples, "examples", replay.DefaultExamples, "requests shown of each kind of difference, at most 100")
	f.IntVar(&r.top, "top", 10, "callers and paths listed")
	f.StringVar(&r.emit, "emit-test", "", "write the examples to this `file`, as tests of the new documents for writ test")
	r.target.flags(cmd)
	r.tokens.flags(cmd)
	r.providers.flags(cmd)
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.runReplay(cmd, r, out, args) }
	return cmd
}

// consistent refuses command lines that cannot be meant.
func (r *replayFlags) consistent(files []string) error {
	switch {
	case len(r.old) == 0 && r.config == "":
		return usagef("replay: which old documents? --old PATH, or -c writ.yaml")
	case len(r.new) == 0 && r.config == "":
		return usagef("replay: which new documents? --new PATH, or -c writ.yaml with documents_candidate")
	case r.examples < 1 || r.examples > 100:
		return usagef("--examples %d: want 1 to 100", r.examples)
	case r.top < 0 || r.top > 1000:
		return usagef("--top %d: want 0 to 1000", r.top)
	case r.emit != "" && !policy.IsTestName(r.emit):
		return usagef("--emit-test %s: writ test reads files named *_test.yaml", r.emit)
	case r.emit != "" && slices.Contains(r.new, "-"):
		return usagef("--emit-test: the tests name the documents they are about, and the new ones are standard input: use files")
	}
	for _, choice := range []struct {
		flag, value string
		known       []string
	}{{"format", r.format, replay.Formats()}, {"fail-on", r.failOn, []string{"any", "widen", "narrow", "never"}}} {
		if err := (&format{known: choice.known}).Set(choice.value); err != nil {
			return usagef("--%s %q: %w", choice.flag, choice.value, err)
		}
	}
	return onceStdin(append(append(append([]string{}, r.old...), r.new...), files...)...)
}

func (c *cli) runReplay(cmd *cobra.Command, r *replayFlags, out *format, files []string) error {
	if err := r.consistent(files); err != nil {
		return err
	}
	cfg, emitted, err := c.replayConfig(cmd, r)
	if err != nil {
		return err
	}
	rp := replay.New(*cfg)
	for _, file := range files {
		if err := c.replayFile(cmd.Context(), rp, file); err != nil {
			return err
		}
	}
	report := rp.Report(r.top)
	if report.Requests == report.Unreadable {
		if report.FirstError != "" {
			return fmt.Errorf("replay: no line is a record: %s", report.FirstError)
		}
		return errors.New("replay: nothing was recorded: the files are empty")
	}
	if out.value != "text" {
		err = out.encode(c.out, report)
	} else {
		err = (&replayWriter{colours: c.colours(c.out)}).write(c.out, report)
	}
	if err = errors.Join(err, emitted.write(c.err)); err != nil {
		return err
	}
	if code := r.exitCode(report); code != exitOK {
		return exitWith(code)
	}
	return nil
}

func (c *cli) replayFile(ctx context.Context, rp *replay.Replay, file string) error {
	if file == "-" {
		return rp.Read(ctx, stdinName, c.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	defer func() { _ = f.Close() }()
	return rp.Read(ctx, file, f)
}

// exitCode says no where a difference counts, and that it cannot tell where one may.
func (r *replayFlags) exitCode(report *replay.Report) int {
	widened, narrowed, other := report.Count(replay.NewlyAllowed), report.Count(replay.NewlyDenied), report.Count(replay.OtherPolicy)
	switch {
	case r.failOn == "never":
	case r.failOn != "narrow" && widened > 0, r.failOn != "widen" && narrowed > 0, r.failOn == "any" && other > 0:
		return exitNo
	case report.Count(replay.Undecided) > 0 || report.Unreadable > 0:
		return exitUnknown
	}
	return exitOK
}

// replayConfig reads both sets of documents and how they are to be asked.
func (c *cli) replayConfig(cmd *cobra.Command, r *replayFlags) (*replay.Config, *emittedTests, error) {
	fields, err := readFieldMap(r.fieldMap)
	if err != nil {
		return nil, nil, err
	}
	if len(r.new) == 0 {
		loaded, err := c.loadConfig(r.config, nil)
		if err != nil {
			return nil, nil, err
		}
		if loaded.DocumentsCandidate == "" {
			return nil, nil, usagef("replay: which new documents? --new PATH, or documents_candidate in %s", r.config)
		}
		r.new = []string{loaded.DocumentsCandidate}
	}
	cache := jwt.NewCache(0, 0)
	before, err := c.replaySession(cmd, r, r.old, cache)
	if err != nil {
		return nil, nil, err
	}
	after, err := c.replaySession(cmd, r, r.new, cache)
	if err != nil {
		return nil, nil, err
	}
	stubs, err := r.providers.parse()
	if err != nil {
		return nil, nil, err
	}
	set := func(s *session) *replay.Set {
		return replay.NewSet(s.docs, s.snapshot, stubs, s.tokens.Mode == "metadata")
	}
	emitted := newEmittedTests(r.emit, r.new, after, r.examples)
	cfg := &replay.Config{
		Old: set(before), New: set(after), Format: replay.Format(r.format), Fields: fields, Workload: before.workload,
		Paths: before.options.Paths, Examples: r.examples, Whole: whole(before, after),
	}
	if emitted != nil {
		cfg.Different = emitted.add
	}
	return cfg, emitted, nil
}

// replaySession prepares one set of documents like check does. Verified tokens are remembered, for traffic repeats them.
func (c *cli) replaySession(cmd *cobra.Command, r *replayFlags, paths []string, cache *jwt.Cache) (*session, error) {
	s, err := c.newSession(cmd, &questions{policies: paths, config: r.config, requests: "records", target: r.target, tokens: r.tokens, providers: r.providers})
	if err != nil {
		return nil, err
	}
	s.tokens.Cache = cache
	return s, s.makeServer()
}

// whole answers CheckRequests by both sets, by the code the server runs.
func whole(before, after *session) *replay.Whole {
	decider := func(s *session) replay.Decider {
		return replay.Decider{Server: s.server, Snapshot: s.snapshot, Unknown: s.lacking}
	}
	return replay.NewWhole(decider(before), decider(after), before.workload)
}

// lacking is what a decision depends on and this command line does not give, as decide says it.
func (s *session) lacking(d *authz.Decision) (reason authz.Reason) {
	switch {
	case len(s.keys.missing) > 0:
		reason = reasonKeysNotGiven
	case len(s.providers.missing) > 0 && d.Allow:
		reason = reasonProviderNotAsked
	}
	s.keys.missing, s.providers.missing = nil, nil
	return reason
}

// readFieldMap reads which fields of an access log hold which attributes.
func readFieldMap(file string) (*replay.Fields, error) {
	if file == "" {
		return replay.DefaultFields(), nil
	}
	data, err := readBounded(file, maxMapBytes)
	if err != nil {
		return nil, fmt.Errorf("--map: %w", err)
	}
	var overrides map[string]string
	if err := yaml.Load(data, &overrides); err != nil {
		return nil, invalidf("--map %s: want lines of ATTRIBUTE: FIELD: %w", file, err)
	}
	fields, err := replay.NewFields(overrides)
	if err != nil {
		return nil, invalidf("--map %s: %w", file, err)
	}
	return fields, nil
}

// replayWriter shows a report to people, in one piece: what others say meanwhile does not get into the middle of it.
type replayWriter struct {
	b       strings.Builder
	colours palette
}

func (rw *replayWriter) printf(format string, args ...any) { fmt.Fprintf(&rw.b, format, args...) }

// titles are the kinds of differences in words.
func titles() map[replay.Kind]string {
	return map[replay.Kind]string{
		replay.Same: "answered alike", replay.NewlyAllowed: "newly allowed", replay.NewlyDenied: "newly denied",
		replay.OtherPolicy: "by another policy", replay.Undecided: "cannot be told",
	}
}

func (rw *replayWriter) write(w io.Writer, r *replay.Report) error {
	rw.printf("%s:", rw.colours.bold(countOf(r.Requests-r.Unreadable, "request")))
	for i, k := range replay.Kinds() {
		if i > 0 {
			rw.printf(",")
		}
		rw.printf(" %d %s", r.Count(k), titles()[k])
	}
	rw.printf("\n")
	for _, m := range r.Moves {
		rw.printf("  %s -> %s: %d\n", m.Old, m.New, m.Count)
	}
	kind := replay.Same
	for i := range r.Groups {
		g := &r.Groups[i]
		if g.Kind != kind {
			kind = g.Kind
			rw.printf("\n%s\n", rw.paint(kind))
		}
		rw.printf("  %d: %s (%s) -> %s (%s)\n", g.Count, g.Old.Decision, printable(g.Old.By), g.New.Decision, printable(g.New.By))
		for j := range g.Examples {
			e := &g.Examples[j]
			rw.printf("    %s: %s\n", printable(e.Place), printable(e.String()))
		}
	}
	if r.Omitted > 0 {
		rw.printf("  and %d requests that differ in yet other ways\n", r.Omitted)
	}
	rw.counted("callers with other answers", r.Sources)
	rw.counted("paths with other answers", r.Paths)
	if r.Mismatched > 0 {
		rw.printf("\n%s %d of %d recorded answers are not those of the old documents: others were in force then\n", rw.colours.yellow("!"), r.Mismatched, r.Compared)
	}
	if r.Unreadable > 0 {
		rw.printf("\n%s %s could not be read: %s\n", rw.colours.yellow("!"), countOf(r.Unreadable, "line"), printable(r.FirstError))
	}
	_, err := io.WriteString(w, rw.b.String())
	return err
}

// countOf is a number with its noun.
func countOf(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func (rw *replayWriter) paint(k replay.Kind) string {
	switch title := titles()[k]; k {
	case replay.NewlyAllowed:
		return rw.colours.red(title)
	case replay.NewlyDenied, replay.Undecided:
		return rw.colours.yellow(title)
	default:
		return rw.colours.bold(title)
	}
}

func (rw *replayWriter) counted(title string, values []replay.Counted) {
	if len(values) == 0 {
		return
	}
	rw.printf("\n%s\n", rw.colours.bold(title))
	for _, v := range values {
		about, value := "", v.Value
		if v.Error > 0 {
			about = "at most "
		}
		if value == "" {
			value = "(none)"
		}
		rw.printf("  %s%d %s\n", about, v.Count, printable(value))
	}
}
