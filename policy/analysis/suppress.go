package analysis

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/policy"
)

// IgnoreAnnotation holds suppressions of findings of its document, one a line: CODE at=FIELD until=DATE reason=TEXT. FIELD
// and DATE may be left out; the reason goes to the end of the line. It works for every kind and stays with the object in
// the cluster.
const IgnoreAnnotation = "writ/lint-ignore"

// maxSuppressions bounds the lines of an annotation.
const maxSuppressions = 100

// Suppressed is a finding that is not to be reported, and why.
type Suppressed struct {
	Finding
	Reason string
	Until  time.Time // the last day, UTC; zero is for good
}

// suppression is one line of the annotation.
type suppression struct {
	code, at, reason string
	until            time.Time
	line             int // of the annotation, from 0
}

// Suppress takes out the findings that their documents say are to be ignored on the day of now. Suppressions that are not
// understood, have expired, suppress nothing or an error are findings themselves. The order of findings is kept; those about
// suppressions come last. providers are those that [Inspect] was given: without any, a suppression of what is only found
// with them is left alone.
func Suppress(docs []*policy.Document, findings []Finding, providers *Providers, now time.Time) (open []Finding, suppressed []Suppressed) {
	type place struct {
		policy.Object
		file string
	}
	ignored := map[place][]*ignorance{}
	var all []*ignorance
	for _, doc := range docs {
		if doc.Annotations[IgnoreAnnotation] == "" {
			continue
		}
		at := place{doc.Object, doc.File}
		for _, g := range ignorances(doc, now) {
			ignored[at] = append(ignored[at], g)
			all = append(all, g)
		}
	}
	for _, f := range findings {
		if g := matching(ignored[place{f.Object, f.File}], &f); g != nil {
			suppressed = append(suppressed, Suppressed{f, g.reason, g.until})
		} else {
			open = append(open, f)
		}
	}
	for _, g := range all {
		if p, ok := g.finding(); ok && (p.Code != codeIgnoreUnused || providers != nil || !needsProviders(g.code)) {
			open = append(open, Finding{Problem: p})
		}
	}
	return open, suppressed
}

// ignorance is a suppression at work.
type ignorance struct {
	suppression
	doc     *policy.Document
	wrong   string // why it cannot be read
	expired bool
	used    bool
	refused bool // it would suppress an error
}

func ignorances(doc *policy.Document, now time.Time) []*ignorance {
	var out []*ignorance
	today := now.UTC().Truncate(24 * time.Hour)
	for i, text := range strings.Split(doc.Annotations[IgnoreAnnotation], "\n") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		if len(out) == maxSuppressions {
			return append(out, &ignorance{suppression: suppression{line: i}, doc: doc, wrong: fmt.Sprintf("more than %d suppressions", maxSuppressions)})
		}
		s, wrong := parseSuppression(text)
		s.line = i
		out = append(out, &ignorance{suppression: s, doc: doc, wrong: wrong, expired: !s.until.IsZero() && today.After(s.until)})
	}
	return out
}

// parseSuppression reads one line. wrong says why it cannot be read.
func parseSuppression(text string) (s suppression, wrong string) {
	rest := strings.TrimSpace(text)
	s.code, rest, _ = strings.Cut(rest, " ")
	if !known(s.code) {
		wrong = fmt.Sprintf("%q is no code", s.code)
		if meant := strings.ToUpper(strings.Trim(s.code, ",;:")); known(meant) {
			wrong += ", " + meant + " is"
		}
		return s, wrong
	}
	for {
		rest = strings.TrimSpace(rest)
		key, _, found := strings.Cut(rest, "=")
		if !found {
			return s, "there is no reason"
		}
		rest = rest[len(key)+1:]
		if key == "reason" {
			if s.reason = strings.TrimSpace(rest); s.reason == "" {
				return s, "the reason is empty"
			}
			return s, ""
		}
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		switch key {
		case "at":
			s.at = word
		case "until":
			until, err := time.Parse(time.DateOnly, word)
			if err != nil {
				return s, fmt.Sprintf("until=%s is no date such as 2027-01-31", word)
			}
			s.until = until
		default:
			return s, fmt.Sprintf("%q is neither at, until nor reason", key)
		}
	}
}

// known reports whether a code can be suppressed at all: what is said of suppressions themselves cannot.
func known(code string) bool {
	is := func(c policy.Code) bool { return c.Code == code }
	return slices.ContainsFunc(policy.Codes(), is) || slices.ContainsFunc(hazards, is) && code < codeIgnoreMalformed
}

// needsProviders reports whether a code is only found when the providers are known.
func needsProviders(code string) bool {
	return code == codeProviderMissing || code == codeProviderFailsOpen || code == codeProviderUnused
}

// matching is the suppression that a finding falls under, or nil.
func matching(all []*ignorance, f *Finding) *ignorance {
	for _, g := range all {
		if g.wrong != "" || g.code != f.Code || !g.covers(f.Field) {
			continue
		}
		if f.Severity == policy.SeverityError {
			g.refused = true
			continue
		}
		g.used = true
		if !g.expired {
			return g
		}
	}
	return nil
}

// covers reports whether a field is the one that the suppression names, or within it.
func (s *suppression) covers(field string) bool {
	rest, ok := strings.CutPrefix(field, s.at)
	return ok && (s.at == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// finding is what is to be said of the suppression itself.
func (g *ignorance) finding() (policy.Problem, bool) {
	const form = "write CODE reason=TEXT, with until=2027-01-31 or at=spec.rules[0] before the reason if need be, one a line"
	field := "metadata.annotations[" + IgnoreAnnotation + "]"
	p := policy.Problem{Object: g.doc.Object, File: g.doc.File, Field: field}
	switch {
	case g.wrong != "":
		p.Code, p.Message, p.Hint = codeIgnoreMalformed, fmt.Sprintf("line %d cannot be read and suppresses nothing: %s", g.line+1, g.wrong), form
	case g.refused:
		p.Code, p.Message = codeIgnoreRefused, fmt.Sprintf("%s is an error here, and errors cannot be suppressed (reason given: %s)", g.code, g.reason)
		p.Hint = "mend the document, and remove the suppression"
	case !g.used && g.doc.Broken(): // nobody has looked for hazards
		return p, false
	case !g.used:
		p.Code, p.Message = codeIgnoreUnused, fmt.Sprintf("there is no %s%s to suppress (reason given: %s)", g.code, g.where(), g.reason)
		p.Hint = "remove the suppression"
	case g.expired:
		p.Code, p.Message = codeIgnoreExpired, fmt.Sprintf("the suppression of %s%s was good until %s: what it suppressed is reported again (reason given: %s)",
			g.code, g.where(), g.until.Format(time.DateOnly), g.reason)
		p.Hint = "mend what is reported, or give it a new date"
	default:
		return p, false
	}
	p.Severity = severityOf(p.Code)
	p.Line, p.Column = g.doc.Locator().LinePosition(field, g.line)
	return p, true
}

func (s *suppression) where() string {
	if s.at == "" {
		return ""
	}
	return " at " + s.at
}
