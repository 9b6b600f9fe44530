package replay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// Logged is one decision of a decision log, with its request as far as the line holds it.
type Logged struct {
	ID, RequestID string
	Time          time.Time // zero if the line does not say
	Place         string    // name:line
	// Outcome is the logged answer. It is unknown if the line does not say, and vague if it does not say by whom.
	Outcome  Outcome
	Request  *policy.Request  // what the line lacks is empty in it
	Workload *policy.Workload // nil if the line does not say

	record record
}

// ErrNoDecision is the error of a log that does not hold a decision.
var ErrNoDecision = errors.New("the decision is not in the log")

// FindDecision finds a decision by its ID in the lines of a decision log; lines that are something else are passed over.
// name is what errors and the result call the log. The error is [ErrNoDecision] if none has the ID.
func FindDecision(ctx context.Context, name string, in io.Reader, id string) (*Logged, error) {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 256<<10), maxLineBytes)
	lines, decisions, unread := 0, 0, 0
	for scanner.Scan() {
		lines++
		if lines%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if bytes.Contains(scanner.Bytes(), []byte(`"decision_id"`)) {
			decisions++
		}
		if !bytes.Contains(scanner.Bytes(), []byte(id)) {
			continue
		}
		l := &Logged{Place: name + ":" + strconv.Itoa(lines)}
		switch err := l.read(string(scanner.Bytes())); {
		case err != nil && bytes.Contains(scanner.Bytes(), []byte(`"`+id+`"`)):
			unread = lines
		case err == nil && l.ID == id:
			return l, nil
		}
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%s:%d: %w (a line has at most %d bytes)", name, lines+1, err, maxLineBytes)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case unread > 0:
		return nil, fmt.Errorf("%w: %s:%d has %q and cannot be read as a decision: it is cut off, or no line of a decision log", ErrNoDecision, name, unread, id)
	}
	return nil, fmt.Errorf("%w: %s has no decision %q among its %d lines, of which %d are of decisions", ErrNoDecision, name, id, lines, decisions)
}

// read takes a line for a decision.
func (l *Logged) read(line string) error {
	r := &l.record
	if err := r.readDecision(line, decisionLayout()); err != nil {
		return err
	}
	l.ID, l.RequestID, l.Request = r.decisionID, r.requestID, &r.request
	l.Time, _ = time.Parse(time.RFC3339Nano, r.time)
	l.Outcome = Outcome{Allow: r.decision == "allow", Status: r.status}
	if r.decision != "allow" && r.decision != "deny" {
		l.Outcome = unknown("the logged decision")
	}
	if err := members(line, func(key, value string) error {
		l.answered(key, value)
		if masked(key, value) {
			l.unmask(key)
		}
		return nil
	}); err != nil {
		return err
	}
	if r.workload != "" {
		if w, err := r.parse(r.workload); err == nil && w.Namespace != "" && !withheld(w.Namespace) {
			l.Workload = unmaskedWorkload(w)
		}
	}
	return nil
}

// answered reads by whom the decision was made.
func (l *Logged) answered(key, value string) {
	text, _ := unquote(value)
	o := &l.Outcome
	switch hidden := withheld(text) || strings.HasSuffix(text, cutMark); key {
	case "layer", "reason", "policy":
		if hidden {
			o.Vague = true
			return
		}
	}
	switch key {
	case "layer":
		o.Layer = authz.Layer(text)
	case "reason":
		o.Reason = authz.Reason(text)
	case "policy":
		o.Namespace, o.Policy, _ = strings.Cut(text, "/")
	case "rule":
		o.Rule, _ = strconv.Atoi(value)
	}
}

// loggedFields are the attributes that fields of a line hold.
func loggedFields() map[string]attributes {
	return map[string]attributes{
		"source": lacksIdentity, "source_ip": lacksSourceIP, "remote_ip": lacksRemoteIP, "port": lacksPort, "sni": lacksSNI,
		"method": lacksMethod, "host": lacksHost, "path": lacksPath,
	}
}

// masked reports whether somebody took the value of a field out of the line: it is null, a word that says so, or no address
// or number where there has to be one.
func masked(key, value string) bool {
	text, isText := unquote(value)
	if value == "null" || isText && withheld(text) {
		return true
	}
	switch key {
	case "source_ip", "remote_ip":
		return !address(value).IsValid()
	case "port":
		_, err := strconv.ParseUint(value, 10, 16)
		return err != nil
	case "token":
		hidden := false
		err := members(value, func(key, value string) error {
			text, _ := unquote(value)
			hidden = hidden || (key == "result" || key == "issuer" || key == "request_principal") && (value == "null" || withheld(text))
			return nil
		})
		return hidden || err != nil
	}
	return false
}

// mask finds what those who redact logs write in the place of values, alone or inside of one.
var mask = regexp.MustCompile(`(?i)^[\[(<{*# ]*(redacted|masked|withheld|hidden|removed)[\])>}*# ]*$|\*{3}|[\[(<][a-z ]*(redacted|masked|withheld)[\])>]`)

func withheld(text string) bool { return mask.MatchString(text) }

// unmask makes what a masked field held unknown.
func (l *Logged) unmask(key string) {
	r := &l.record
	r.shape.lacks |= loggedFields()[key]
	q := &r.request
	switch key {
	case "source":
		q.Names = q.Names[:0]
	case "source_ip":
		if !q.RemoteIP.IsValid() { // it is written where it differs
			r.shape.lacks |= lacksRemoteIP
		}
	case "remote_ip":
		q.RemoteIP = netip.Addr{}
	case "tcp": // it is written where it is true
		q.TCP = true
	case "method":
		q.Method, q.HasMethod = "", false
	case "host":
		q.Host, q.HasHost = "", false
	case "path":
		q.Path, q.RawPath = "", ""
	case "sni":
		q.SNI = ""
	case "request_id":
		r.shape.missing |= 1
		q.Headers, l.RequestID = nil, ""
	case "token":
		r.claims, r.token = loggedClaims{}, tokenUnknown
	}
}

// unmaskedWorkload is the workload without what was taken out of it.
func unmaskedWorkload(w *policy.Workload) *policy.Workload {
	if withheld(w.Name) {
		w.Name = ""
	}
	if withheld(w.ServiceAccount) {
		w.ServiceAccount = ""
	}
	for _, value := range w.Labels {
		if withheld(value) || strings.HasSuffix(value, cutMark) {
			w.Labels = nil // not known: some of them are missing
		}
	}
	return w
}

// Explained is what a set of documents makes of a logged request.
type Explained struct {
	Outcome Outcome
	Trace   *policy.Trace // conditions that read what the log lacks are unknown in it
	// Lacks names what the log does not hold of the request.
	Lacks []string
	// Assumed says what was taken from the log as it is: nobody verified a token or asked a provider again.
	Assumed []string
	// Settled is set if the request was answered before any document counted. Outcome is then the logged one.
	Settled bool
}

// Explain says what the set answers to a logged request for a workload, and how it comes to that.
func (s *Set) Explain(l *Logged, w *policy.Workload) *Explained {
	r := &l.record
	r.shape.layout = s.logged // that of the log is the same, and shapes are compared by it
	of := newSide(s, w)
	token := r.token
	if token == tokenValid && of.bound != nil && !s.knowsIssuer(of.bound, r.claims.issuer) {
		token = tokenUnknown // it was verified by a rule that is no more
	}
	e := &Explained{Settled: r.settled, Outcome: l.Outcome}
	if !r.settled {
		e.Outcome = of.answer(r, w, token)
	}
	shape := r.shape
	if of.bound != nil {
		_, shape = of.question(r, token)
		e.Assumed = s.assumed(r, of.bound, token)
	}
	e.Lacks = shape.names(r.request.TCP)
	e.Trace = s.snapshot.ExplainPartly(*w, &r.request, shape.attribute)
	return e
}

// knowsIssuer reports whether a rule for the workload's tokens takes those of an issuer.
func (s *Set) knowsIssuer(b *policy.Bound, issuer string) bool {
	if s.metadata || b.Authentication == nil {
		return true
	}
	for _, rule := range b.Authentication.Rules {
		if of := rule.Spec.GetIssuer(); issuer != "" && (of == issuer || of == "") {
			return true
		}
	}
	return false
}

// assumed lists what is taken from the log.
func (s *Set) assumed(r *record, b *policy.Bound, token tokenState) []string {
	var out []string
	if b.Authentication != nil || s.metadata {
		switch token {
		case tokenValid:
			out = append(out, "the token was good when the request was decided; it is not verified again")
		case tokenRefused:
			out = append(out, "the token was refused when the request was decided; it is not verified again")
		case tokenNone, tokenUnknown:
		}
	}
	for _, a := range r.asked {
		out = append(out, fmt.Sprintf("provider %s answered %s; it is not asked again", a.name, a.outcome))
	}
	return out
}

// attribute reports whether the record lacks what a condition reads.
func (s *shape) attribute(a policy.Attribute) bool {
	switch a.Kind {
	case policy.AttributeHeader:
		return s.header(a.Name)
	case policy.AttributeNames:
		return s.lacks&lacksIdentity != 0
	case policy.AttributeSourceIP:
		return s.lacks&lacksSourceIP != 0
	case policy.AttributeRemoteIP:
		return s.lacks&lacksRemoteIP != 0
	case policy.AttributeDestIP:
		return s.lacks&lacksDestinationIP != 0
	case policy.AttributeDestPort:
		return s.lacks&lacksPort != 0
	case policy.AttributeSNI:
		return s.lacks&lacksSNI != 0
	case policy.AttributeMethod:
		return s.lacks&lacksMethod != 0
	case policy.AttributePath:
		return s.lacks&lacksPath != 0
	case policy.AttributeHost:
		return s.lacks&lacksHost != 0
	case policy.AttributeRequestPrincipal:
		return s.lacks&lacksRequestPrincipal != 0
	case policy.AttributeClaim:
		return s.lacks&lacksClaims != 0
	case policy.AttributeMetadata:
		return s.lacks&lacksMetadata != 0
	}
	return true // one that is not known here
}

// names lists what the record lacks, by the names of conditions where there are any.
func (s *shape) names(tcp bool) []string {
	all := []struct {
		lacks attributes
		name  string
	}{
		{lacksIdentity, "source.principal"}, {lacksSourceIP, "source.ip"}, {lacksRemoteIP, "remote.ip"}, {lacksDestinationIP, "destination.ip"},
		{lacksPort, "destination.port"}, {lacksSNI, "connection.sni"}, {lacksMethod, "method"}, {lacksHost, "host"}, {lacksPath, "path"},
		{lacksQuery, "the query"}, {lacksHeaders, "request.headers"}, {lacksRequestPrincipal, "request.auth.principal"},
		{lacksClaims, "request.auth.claims"}, {lacksMetadata, "filter metadata"},
	}
	var out []string
	for _, a := range all {
		if s.lacks&a.lacks != 0 && (!tcp || ofHTTP&a.lacks == 0) {
			out = append(out, a.name)
		}
	}
	return out
}
