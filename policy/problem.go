package policy

import (
	"fmt"
	"strings"
)

// Severity ranks a [Problem].
type Severity int

// Severities, from harmless to fatal. Only SeverityError keeps a document from being enforced as written.
const (
	SeverityInfo Severity = iota
	SeverityWarning
	SeverityError
)

// String is "info", "warning" or "error".
func (s Severity) String() string {
	switch s {
	case SeverityInfo:
		return "info"
	case SeverityWarning:
		return "warning"
	default:
		return "error"
	}
}

// MarshalText writes the severity as its word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(b []byte) error {
	for _, c := range []Severity{SeverityInfo, SeverityWarning, SeverityError} {
		if c.String() == string(b) {
			*s = c
			return nil
		}
	}
	return fmt.Errorf("severity %q: want info, warning or error", b)
}

// Problem is one thing wrong, or risky, in one document. It names the thing, the value and the fix.
type Problem struct {
	Code     string   `json:"code"` // stable, listed in docs/lint.md
	Severity Severity `json:"severity"`
	Object   Object   `json:"object"`
	File     string   `json:"file"`
	Line     int      `json:"line"`            // 1-based; 0 when the problem has no place
	Column   int      `json:"column"`          // 1-based
	Field    string   `json:"field,omitempty"` // in camelCase, e.g. spec.rules[0].from[0].source.ipBlocks[1]
	Message  string   `json:"message"`
	Hint     string   `json:"hint,omitempty"` // what to write instead
}

// Error is the one-line form: file:line:column: code: object: field: message (hint).
func (p Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d:%d: %s %s: %s", p.File, p.Line, p.Column, p.Severity, p.Code, p.Object)
	if p.Field != "" {
		b.WriteString(": " + p.Field)
	}
	b.WriteString(": " + p.Message)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}
