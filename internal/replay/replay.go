package replay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// Bounds of what is read and kept.
const (
	maxLineBytes = 8 << 20
	maxSites     = 64 << 10 // workloads
	maxSiteName  = 8 << 10  // bytes of a workload in a record
	maxTop       = 1000     // sources and paths that are counted at a time
)

// Errors of single lines. They are counted, and the first one is kept.
var (
	errNotDecision = errors.New("no line of a decision log: it has no decision_id or layer")
	errFormat      = errors.New("neither a decision (decision_id), nor a CheckRequest (attributes), nor an access log's line")
)

// Format is what a line of traffic is.
type Format string

// Formats.
const (
	FormatAuto      Format = "auto"      // told by each line itself
	FormatDecisions Format = "decisions" // writ's decision log
	FormatRequests  Format = "requests"  // CheckRequests in protobuf JSON
	FormatEnvoy     Format = "envoy"     // Envoy's access log in JSON
)

// Formats lists them all.
func Formats() []string {
	return []string{string(FormatAuto), string(FormatDecisions), string(FormatRequests), string(FormatEnvoy)}
}

// Config is what a [Replay] needs. Old and New are required.
type Config struct {
	Old, New *Set
	Format   Format            // default FormatAuto
	Fields   *Fields           // of access logs; nil for DefaultFields
	Workload *policy.Workload  // whom all requests are for; nil if records say so
	Paths    extauthz.PathMode // what is assumed of paths in access logs, as the server does
	Examples int               // of each group, default DefaultExamples

	// Whole answers CheckRequests; nil if there may be none.
	Whole *Whole
	// Different is called with every record that the sets answer differently, or nil. What it is given is reused.
	Different func(*Case)
}

// Answered are both answers to one whole request.
type Answered struct {
	Old, New  Outcome
	Request   *policy.Request
	Workload  *policy.Workload // nil if it is not known
	RequestID string
}

// Case is one record with both answers.
type Case struct {
	Kind     Kind
	Old, New *Outcome
	Request  *policy.Request
	Workload *policy.Workload
	Whole    bool // nothing of the request is lacking
	Place    string
}

// Replay answers recorded requests by two sets of documents. Its memory is bounded, however long the records are. It is
// not safe for concurrent use.
type Replay struct {
	cfg    Config
	record record

	before, after Outcome // of the record at hand
	compare       Case

	decisions *layout
	sites     map[string]*site
	fixed     *site
	tally     *Tally
	moves     [answers][answers]uint64 // by old and new answer
	sources   *top
	paths     *top
	mismatch  uint64 // recorded answers that the old set does not give
	compared  uint64 // recorded answers that were compared with it
	total     uint64
	bad       uint64
	firstBad  string
}

// site is one workload under both sets.
type site struct {
	workload *policy.Workload
	old, new *side
	same     bool // the same documents govern it
	tokens   bool // the same rules verify its tokens
}

// New prepares a replay.
func New(cfg Config) *Replay {
	if cfg.Format == "" {
		cfg.Format = FormatAuto
	}
	if cfg.Fields == nil {
		cfg.Fields = DefaultFields()
	}
	if cfg.Examples == 0 {
		cfg.Examples = DefaultExamples
	}
	r := &Replay{cfg: cfg, decisions: decisionLayout(), sites: map[string]*site{}, tally: NewTally(cfg.Examples),
		sources: newTop(maxTop), paths: newTop(maxTop)}
	if cfg.Workload != nil {
		r.fixed = r.newSite(cfg.Workload)
	}
	return r
}

func (r *Replay) newSite(w *policy.Workload) *site {
	s := &site{workload: w, old: newSide(r.cfg.Old, w), new: newSide(r.cfg.New, w)}
	if s.old.bound != nil && s.new.bound != nil {
		s.tokens = alikeTokens(s.old.bound.Authentication, s.new.bound.Authentication)
		s.same = s.tokens && alike(s.old.bound, s.new.bound)
	}
	return s
}

// Read replays lines of JSON; empty ones are passed over. name is what errors and examples call the source.
func (r *Replay) Read(ctx context.Context, name string, in io.Reader) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 256<<10), maxLineBytes)
	n := 0
	for scanner.Scan() {
		n++
		if n%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line := bytes.TrimSpace(scanner.Bytes())
		if len(line) == 0 {
			continue
		}
		r.total++
		if err := r.line(ctx, line, name, n); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.bad++
			if r.firstBad == "" {
				r.firstBad = fmt.Sprintf("%s:%d: %v", name, n, err)
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w (a line has at most %d bytes)", name, n+1, err, maxLineBytes)
	}
	return nil
}

// line replays one record.
func (r *Replay) line(ctx context.Context, line []byte, name string, n int) error {
	format := r.cfg.Format
	if format == FormatAuto && beginsAsRequest(line) {
		format = FormatRequests
	}
	text := ""
	if format != FormatRequests {
		text = string(line) // strings of the record point into it
	}
	if format == FormatAuto {
		format = told(text)
	}
	var err error
	switch format {
	case FormatRequests:
		return r.whole(ctx, line, name, n)
	case FormatDecisions:
		err = r.record.readDecision(text, r.decisions)
	case FormatEnvoy:
		err = r.record.readAccess(text, r.cfg.Fields, r.cfg.Paths)
	default:
		return errFormat
	}
	if err == nil {
		r.logged(name, n)
	}
	return err
}

// beginsAsRequest reports whether the first key of a line tells that it is a CheckRequest, which has no other.
func beginsAsRequest(line []byte) bool {
	rest, object := bytes.CutPrefix(line, []byte("{"))
	rest, key := bytes.CutPrefix(bytes.TrimLeft(rest, " \t"), []byte(`"attributes"`))
	return object && key && bytes.HasPrefix(bytes.TrimLeft(rest, " \t"), []byte(":"))
}

// told is the format of a line, by its first telling key.
func told(line string) Format {
	if !strings.Contains(line, `"decision_id"`) && !strings.Contains(line, `"attributes"`) {
		return FormatEnvoy
	}
	found := FormatEnvoy
	err := members(line, func(key, _ string) error {
		switch key {
		case "decision_id":
			found = FormatDecisions
		case "attributes":
			found = FormatRequests
		default:
			return nil
		}
		return errFound
	})
	if err != nil && !errors.Is(err, errFound) {
		return ""
	}
	return found
}

var errFound = errors.New("found")

// whole replays a request that lacks nothing.
func (r *Replay) whole(ctx context.Context, line []byte, name string, n int) error {
	if r.cfg.Whole == nil {
		return errFormat
	}
	a, err := r.cfg.Whole.Answer(ctx, line)
	if err != nil {
		return err
	}
	kind := Compare(&a.Old, &a.New)
	r.record.reset(r.decisions) // nothing is lacking
	r.record.requestID = a.RequestID
	r.compare = Case{Kind: kind, Old: &a.Old, New: &a.New, Request: a.Request, Workload: a.Workload, Whole: true}
	r.count(&r.compare, name, n)
	return nil
}

// logged replays what a log holds of a request.
func (r *Replay) logged(name string, n int) {
	rec := &r.record
	if rec.settled {
		o := denied("system", "settled")
		r.count(&Case{Kind: Same, Old: &o, New: &o, Request: &rec.request}, name, n)
		return
	}
	s := r.site(rec)
	if s == nil {
		o := unknown("the workload")
		r.count(&Case{Kind: Undecided, Old: &o, New: &o, Request: &rec.request}, name, n)
		return
	}
	before, after := &r.before, &r.after
	*before = s.old.answer(rec, s.workload, rec.token)
	token := rec.token
	if !s.tokens {
		token = tokenUnknown // it was verified by other rules
	}
	*after = *before
	kind := Same
	if !s.same {
		*after = s.new.answer(rec, s.workload, token)
		kind = Compare(before, after)
	}
	if rec.decision != "" && before.Unknown == "" {
		r.compared++
		if (rec.decision == "allow") != before.Allow {
			r.mismatch++
		}
	}
	r.compare = Case{Kind: kind, Old: before, New: after, Request: &rec.request, Workload: s.workload}
	r.count(&r.compare, name, n)
}

// site finds the workload of a record, nil if it names none.
func (r *Replay) site(rec *record) *site {
	if r.fixed != nil {
		return r.fixed
	}
	if rec.workload == "" {
		return nil
	}
	if s, ok := r.sites[rec.workload]; ok {
		return s
	}
	w, err := rec.parse(rec.workload)
	if err != nil || w.Namespace == "" {
		return nil
	}
	s := r.newSite(w)
	if len(r.sites) < maxSites && len(rec.workload) <= maxSiteName {
		r.sites[strings.Clone(rec.workload)] = s
	}
	return s
}

// count files one comparison.
func (r *Replay) count(c *Case, name string, n int) {
	r.moves[c.Old.index()][c.New.index()]++
	wanted := r.tally.add(c.Kind, c.Old, c.New)
	if c.Kind == Same {
		return
	}
	if c.Kind != Undecided {
		source := identityOf(c.Request.Names)
		if r.record.shape.lacks&lacksIdentity != 0 {
			source = unknownSource
		}
		r.sources.add(source)
		if !c.Request.TCP {
			r.paths.add(withoutQuery(c.Request.Path))
		}
	}
	if wanted {
		e := r.record.example(c.Request, c.Workload)
		e.Place = fmt.Sprintf("%s:%d", name, n)
		r.tally.illustrate(c.Kind, c.Old, c.New, &e)
	}
	if r.cfg.Different != nil && c.Kind != Undecided {
		c.Place = name + ":" + strconv.Itoa(n)
		r.cfg.Different(c)
	}
}
