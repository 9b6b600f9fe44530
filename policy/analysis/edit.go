package analysis

import "github.com/writ-auth/writ/policy"

// Edit is one change to a document that changes no answer: a field is removed, or a text is written another way.
type Edit struct {
	Field  string // as in [policy.Problem]
	Remove bool
	Old    string // the text that is there; "" for a rule
	New    string // the text in its place, unless it is removed
}

// codeEmptySelector is the code of validation for a selector that selects everything, as if it were absent.
const codeEmptySelector = "WRIT280"

// FixOf returns what mends a problem that [policy.Decode] found, without changing any answer; nil if nothing does.
func FixOf(p policy.Problem) []Edit {
	if p.Code == codeEmptySelector && p.Field == "spec.selector" {
		return []Edit{{Field: p.Field, Remove: true}}
	}
	return nil
}
