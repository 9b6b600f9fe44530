package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// segment is one step of a field path: a field, an element of a list, or a key of a map.
type segment struct {
	name  string
	index int  // when name is empty
	key   bool // name is a key of a map, written [name]
}

// push goes down into a field; pop goes back up.
func (o *objectDecoder) push(field string)  { o.path = append(o.path, segment{name: field}) }
func (o *objectDecoder) pushIndex(i int)    { o.path = append(o.path, segment{index: i}) }
func (o *objectDecoder) pushKey(key string) { o.path = append(o.path, segment{name: key, key: true}) }
func (o *objectDecoder) pop()               { o.path = o.path[:len(o.path)-1] }

// field is where the decoder is, as in spec.rules[0].from[0].source.ipBlocks[1].
func (o *objectDecoder) field() string {
	var b strings.Builder
	for _, s := range o.path {
		switch {
		case s.key:
			b.WriteString("[" + s.name + "]")
		case s.name == "":
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.name)
		}
	}
	return b.String()
}

// report adds a problem of the field the decoder is at, which stands at n.
func (o *objectDecoder) report(code string, n *yaml.Node, message, hint string) {
	o.add(code, o.field(), o.c.place(n), message, hint)
}

func (o *objectDecoder) add(code, field string, at place, message, hint string) {
	severity := severityOf(code)
	if o.full() {
		o.hidden++
		o.hiddenErrors = o.hiddenErrors || severity == SeverityError
		return
	}
	o.doc.Problems = append(o.doc.Problems, Problem{
		Code: code, Severity: severity, File: o.doc.File, Line: at.line, Column: at.column,
		Field: field, Message: message, Hint: hint,
	})
}

// full reports whether the document has so many problems that more would only cost memory.
func (o *objectDecoder) full() bool { return len(o.doc.Problems) >= maxProblems }

// stopped reports whether there is no use in decoding on: more problems were found than are listed.
func (o *objectDecoder) stopped() bool { return o.hidden > 0 }

// finish puts the problems in source order, names their object, and returns the document.
func (o *objectDecoder) finish() *Document {
	d := o.doc
	slices.SortStableFunc(d.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if o.hidden > 0 {
		code := codeMoreWarnings
		if o.hiddenErrors {
			code = codeMoreProblems
		}
		d.Problems = append(d.Problems, Problem{
			Code: code, Severity: severityOf(code), File: d.File, Line: d.Line, Column: 1,
			Message: fmt.Sprintf("at least %d more problems are not listed", o.hidden), Hint: "fix the ones that are, then look again",
		})
	}
	for i := range d.Problems {
		d.Problems[i].Object = d.Object
	}
	return d
}

// wrongType reports a value of another type than the field's. key is where the value's key stands, or the value itself.
func (o *objectDecoder) wrongType(key, n *yaml.Node, want string) {
	hint := ""
	if want == wantTexts && n.Kind == yaml.ScalarNode && !isNull(n) {
		hint = fmt.Sprintf("write [%q]", n.Value)
	}
	o.report(codeWrongType, nearer(key, n), "want "+want+", got "+describe(n), hint)
}

// nearer is where to point at: a text at itself, an object or a list at its key, for it starts on a later line.
func nearer(key, n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.ScalarNode {
		return n
	}
	return key
}

// maxQuoted bounds how much of a value a message repeats, in bytes.
const maxQuoted = 80

// quoted is a value for messages.
func quoted(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return strconv.Quote(s)
}

// describe names a value's type, and the value itself when it is short.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch scalarKind(n) {
	case scalarNull:
		return "null"
	case scalarBool:
		return "the boolean " + n.Value
	case scalarNumber:
		return "the number " + n.Value
	default:
		return "the text " + quoted(n.Value)
	}
}
