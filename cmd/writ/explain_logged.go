package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/internal/replay"
	"github.com/writ-auth/writ/policy"
)

// Reasons of answers to logged requests, besides those of the server.
const (
	reasonNotInLog  authz.Reason = "not_in_log"  // the answer depends on what the log does not hold
	reasonInAnyCase authz.Reason = "in_any_case" // the answer is certain, and by whom depends on what the log does not hold
)

// loggedAnswer is what a decision log says of a request, and how the answer of the documents compares with it.
type loggedAnswer struct {
	DecisionID string       `json:"decision_id"`
	RequestID  string       `json:"request_id,omitempty"`
	Time       time.Time    `json:"time,omitzero"`
	Place      string       `json:"place"` // file:line
	Decision   string       `json:"decision"`
	HTTPStatus int          `json:"http_status"`
	Layer      authz.Layer  `json:"layer"`
	Reason     authz.Reason `json:"reason"`
	Policy     string       `json:"policy,omitempty"`
	Rule       *int         `json:"rule,omitempty"`
	Difference replay.Kind  `json:"difference"`        // of the answer that the documents give
	Settled    bool         `json:"settled,omitempty"` // answered before any document counted
	Lacks      []string     `json:"lacks"`             // of the request
	Assumed    []string     `json:"assumed,omitempty"` // what is taken from the log unseen
}

// explainLogged explains one decision of a log by the documents of the session.
func (c *cli) explainLogged(cmd *cobra.Command, s *session, q *questions, x *explainFlags, target *whyNotTarget, out *format) error {
	in, name := c.in, stdinName
	if x.log != "-" {
		f, err := os.Open(x.log)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		defer func() { _ = f.Close() }()
		in, name = f, x.log
	}
	l, err := replay.FindDecision(cmd.Context(), name, in, x.decision)
	if err != nil {
		return fmt.Errorf("--decision: %w", err)
	}
	asked := s.workload
	if asked == nil {
		asked = l.Workload
	}
	if asked == nil {
		return usagef("explain: the log does not say whom the request was for: --to namespace/name --labels k=v, or --workload FILE")
	}
	stubs, err := q.providers.parse()
	if err != nil {
		return err
	}
	set := replay.NewSet(s.docs, s.snapshot, stubs, s.tokens.Mode == authz.TokensMetadata)
	found := set.Explain(l, asked)
	e := &explanation{answer: answerOf(&found.Outcome, found.Trace), Logged: loggedAnswerOf(l, found)}
	e.answer.Workload = &found.Trace.Workload
	e.complete(l.Request, found.Trace, &extauthz.Options{}, target)
	e.Canonical = nil // the log has the request as policies saw it
	r := e.reply(l.Request, x.all)
	if err := r.write(c.out, out, c.colours(c.out)); err != nil {
		return err
	}
	if r.code != exitOK {
		return exitWith(r.code)
	}
	return nil
}

// answerOf is the answer of documents to a request of which not everything is known.
func answerOf(o *replay.Outcome, trace *policy.Trace) *answer {
	a := &answer{Decision: o.Word(), HTTPStatus: o.Status, Headers: map[string]string{}, Reason: o.Reason, Layer: o.Layer}
	switch {
	case trace.Error != "":
		a.Reason, a.Detail = reasonNotInLog, "whom the request was for is not known: "+trace.Error
		return a
	case o.Unknown != "":
		a.Reason, a.Detail = reasonNotInLog, "it depends on "+o.Unknown+", which the log does not hold"
		return a
	case o.Vague:
		a.Reason, a.Detail = reasonInAnyCase, "which policy decides depends on what the log does not hold"
		return a
	}
	switch o.Layer {
	case authz.LayerDeny, authz.LayerAllow, authz.LayerMTLS:
		if !o.Allow {
			a.Body = authz.DeniedBody
		}
	default:
	}
	if o.Policy == "" {
		return a
	}
	rule := o.Rule
	a.Policy, a.Rule = o.Namespace+"/"+o.Policy, &rule
	for i := range trace.Policies {
		if p := &trace.Policies[i]; p.Policy == a.Policy {
			a.File = p.File
			for j := range p.Rules {
				if p.Rules[j].Index == rule {
					a.Line = p.Rules[j].Line
				}
			}
		}
	}
	return a
}

func loggedAnswerOf(l *replay.Logged, found *replay.Explained) *loggedAnswer {
	o := &l.Outcome
	out := &loggedAnswer{
		DecisionID: l.ID, RequestID: l.RequestID, Time: l.Time, Place: l.Place, Decision: o.Word(), HTTPStatus: o.Status, Layer: o.Layer,
		Reason: o.Reason, Difference: replay.Compare(o, &found.Outcome), Settled: found.Settled, Lacks: found.Lacks, Assumed: found.Assumed,
	}
	if o.Policy != "" {
		rule := o.Rule
		out.Policy, out.Rule = o.Namespace+"/"+o.Policy, &rule
	}
	return out
}

// lacks names what of the request is not known.
func (l *loggedAnswer) lacks() []string {
	if l == nil {
		return nil
	}
	return l.Lacks
}

// because says why the request was answered as it was, as far as the log does.
func (l *loggedAnswer) because() string {
	text := strings.ReplaceAll(string(l.Reason), "_", " ")
	if l.Rule != nil {
		text += fmt.Sprintf(", rule %d of %s", *l.Rule, l.Policy)
	}
	return text
}

// verdict says whether the documents still give the logged answer.
func (l *loggedAnswer) verdict() string {
	switch {
	case l.Settled:
		return "the same, for it was answered before any document counted"
	case l.Difference == replay.Same:
		return "these documents give the same answer"
	case l.Difference == replay.Undecided:
		return "whether these documents give the same answer cannot be told"
	}
	return "these documents answer otherwise: " + strings.ReplaceAll(l.Difference.String(), "_", " ")
}

// logged draws what the log says of the request, if it is from one.
func (tw *traceWriter) logged(l *loggedAnswer) {
	if l == nil {
		return
	}
	row := func(name, value string) {
		tw.line(1, "%s %s", tw.colours.dim(fmt.Sprintf("%-9s", name)), printable(value))
	}
	at := l.Place
	if !l.Time.IsZero() {
		at = l.Time.UTC().Format(time.RFC3339Nano) + ", " + at
	}
	row("decision", l.DecisionID+", "+at)
	row("logged", l.Decision+": "+l.because())
	row("now", l.verdict())
	for _, text := range l.Assumed {
		row("assumed", text)
	}
	row("unknown", "the log does not hold "+strings.Join(l.Lacks, ", "))
	tw.b.WriteByte('\n')
}
