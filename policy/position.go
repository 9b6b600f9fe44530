package policy

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Position finds where a field stands in the document's file, 1-based. field is written as in [Problem]. If there is no
// such field, the place is that of the nearest one around it; a document that does not parse is its first line.
//
// Positions are not kept: the text is parsed again. Whoever asks for many uses [Document.Locator].
func (d *Document) Position(field string) (line, column int) { return d.Locator().Position(field) }

// Locator finds the places of many fields of one document with one parse of its text.
type Locator struct {
	doc  *Document
	root *yaml.Node // nil when the text does not parse
}

// Locator parses the document's text for its positions.
func (d *Document) Locator() *Locator {
	root, err := parseYAML(d.source)
	if err != nil || root == nil {
		return &Locator{doc: d}
	}
	_, root = findField(root, d.within)
	return &Locator{d, root}
}

// Position is [Document.Position].
func (l *Locator) Position(field string) (line, column int) {
	if l.root == nil {
		return l.doc.Line, 1
	}
	at, _ := findField(l.root, field)
	return l.doc.linesAbove + at.Line, at.Column
}

// findField follows a field path down from root as far as it goes. value is what is there; at is where to point: at a text
// itself, at the key of an object or a list, whose value starts on a later line.
func findField(root *yaml.Node, field string) (at, value *yaml.Node) {
	value = resolved(root)
	at = value
	for field != "" {
		var step string
		step, field = nextStep(field)
		k, v := fieldChild(value, step)
		if v == nil {
			return at, value
		}
		at, value = nearer(k, v), v
	}
	return at, value
}

// nextStep splits a field path after its first step, which is returned without dot and brackets.
func nextStep(field string) (step, rest string) {
	if field[0] == '[' {
		// the key of a map may hold dots and brackets itself: it ends at a bracket that is followed by a step
		for i := 1; i < len(field); i++ {
			if field[i] == ']' && (i+1 == len(field) || field[i+1] == '.' || field[i+1] == '[') {
				return field[1:i], strings.TrimPrefix(field[i+1:], ".")
			}
		}
		return field[1:], ""
	}
	if i := strings.IndexAny(field, ".["); i > 0 {
		return field[:i], strings.TrimPrefix(field[i:], ".")
	}
	return strings.TrimPrefix(field, "."), ""
}

// fieldChild is one step down: the element of a list, or the value of a key in either spelling. key is where the entry
// stands, for an element the element.
func fieldChild(n *yaml.Node, step string) (key, value *yaml.Node) {
	switch n.Kind {
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			e := resolved(n.Content[i])
			return e, e
		}
	case yaml.MappingNode:
		content := entries(n)
		for i := 0; i+1 < len(content); i += 2 {
			if k := content[i]; k.Value == step || camelCase(k.Value) == step {
				return k, resolved(content[i+1])
			}
		}
	}
	return nil, nil
}

// camelCase is the JSON name of a field that is spelled as in its .proto file.
func camelCase(name string) string {
	if !strings.Contains(name, "_") {
		return name
	}
	var b strings.Builder
	upper := false
	for _, r := range name {
		switch {
		case r == '_':
			upper = true
		case upper:
			b.WriteString(strings.ToUpper(string(r)))
			upper = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
