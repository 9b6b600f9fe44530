package bootstrap

import (
	"fmt"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v4"
)

// What a tree is written as. Every text goes through the YAML library, which quotes what has to be quoted.
type (
	// field is one key of a mapping, and why it is there.
	field struct {
		key   string
		value any
		why   string
	}
	object []field // in this order
	inline []field // the same on one line
	list   []any
	words  []string // a list on one line
	// item is an element of a list, and why it is there.
	item struct {
		why   string
		value any
	}
	// shared is written where it stands first, and referred to everywhere else.
	shared struct {
		anchor string
		value  any
	}
)

func f(key string, value any, why ...string) field {
	return field{key, value, strings.Join(why, " ")}
}

// typed is an extension of Envoy's API.
func typed(extension string, fields ...field) object {
	return append(object{f("@type", "type.googleapis.com/envoy.extensions."+extension)}, fields...)
}

// extension is an extension with the name that Envoy finds it by.
func extension(name, kind string, fields ...field) object {
	return object{f("name", name), f("typed_config", typed(kind, fields...))}
}

// commentWidth is where comments are broken.
const commentWidth = 100

// writer makes YAML nodes of trees.
type writer struct{ anchors map[string]*yaml.Node }

// marshal writes the tree under a heading.
func marshal(heading string, tree object) ([]byte, error) {
	w := &writer{anchors: map[string]*yaml.Node{}}
	n := w.node(tree)
	out, err := yaml.Dump(n, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, err
	}
	return append([]byte(comment(heading)+"\n\n"), out...), nil
}

func (w *writer) node(v any) *yaml.Node {
	switch v := v.(type) {
	case object:
		return w.mapping(v, 0)
	case inline:
		return w.mapping(v, yaml.FlowStyle)
	case list:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, e := range v {
			n.Content = append(n.Content, w.node(e))
		}
		return n
	case words:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, s := range v {
			n.Content = append(n.Content, scalar(s))
		}
		return n
	case item:
		n := w.node(v.value)
		n.HeadComment = comment(v.why)
		return n
	case shared:
		return w.shared(v)
	case string:
		return scalar(v)
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)} // numbers and booleans
}

func (w *writer) mapping(fields []field, style yaml.Style) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode, Style: style}
	for _, f := range fields {
		key := scalar(f.key)
		key.HeadComment = comment(f.why)
		n.Content = append(n.Content, key, w.node(f.value))
	}
	return n
}

// shared repeats a value by reference. An anchor has one value in a bootstrap: the first.
func (w *writer) shared(v shared) *yaml.Node {
	if first, ok := w.anchors[v.anchor]; ok {
		return &yaml.Node{Kind: yaml.AliasNode, Value: v.anchor, Alias: first}
	}
	n := w.node(v.value)
	n.Anchor = v.anchor
	w.anchors[v.anchor] = n
	return n
}

// scalar is a text, quoted if it could be read as anything else.
func scalar(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// comment makes comment lines of a text. What documents contribute cannot end a line.
func comment(text string) string {
	if text == "" {
		return ""
	}
	var lines []string
	for paragraph := range strings.SplitSeq(text, "\n") {
		line := "#"
		for word := range strings.FieldsSeq(strings.Map(printable, paragraph)) {
			if len(line)+1+len(word) > commentWidth && line != "#" {
				lines = append(lines, line)
				line = "#"
			}
			line += " " + word
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}
