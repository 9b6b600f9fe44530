package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds of one file. What exceeds them is refused as a whole document, never read in part.
const (
	MaxFileBytes = 8 << 20 // size of a file
	MaxDepth     = 64      // levels of objects and lists, aliases followed
	MaxDocuments = 10_000  // documents in a file, items of lists among them

	maxNodes    = 1 << 20 // values in a file, aliases followed
	maxProblems = 100     // problems listed of one document
)

// Decode reads a file of Kubernetes objects: YAML or JSON, several documents, lists of objects. It validates each as
// Istio's admission does. Every object in data has its Document in the result, in order; what is wrong with it is in
// its Problems. Objects that cannot be read are Broken and name themselves as far as their text shows.
//
// file is only a name for messages. Decode keeps no reference to data.
func Decode(file string, data []byte) []*Document {
	d := &decoder{file: file, nodes: maxNodes}
	if len(data) > MaxFileBytes {
		return []*Document{tooLarge(file, int64(len(data)))}
	}
	for _, c := range splitDocuments(data) {
		if len(d.docs) >= MaxDocuments {
			d.tooMany(c)
			break
		}
		d.chunk(c)
	}
	return d.docs
}

// decoder reads one file.
type decoder struct {
	file  string
	nodes int // values that may still be read
	docs  []*Document
}

// place is a position in the file, 1-based; zero when there is none.
type place struct{ line, column int }

// chunk reads the text between two document separators. A chunk that does not parse leaves its neighbours alone.
func (d *decoder) chunk(c chunk) {
	if !utf8.Valid(c.text) {
		d.unreadable(c, codeEncoding, c.placeOf(invalidUTF8(c.text)), "invalid UTF-8", "save the file as UTF-8")
		return
	}
	if estimateNodes(c.text) > d.nodes {
		d.unreadable(c, codeTooManyNodes, place{c.linesAbove + 1, 1}, tooManyNodes(), "split the file")
		return
	}
	root, err := parseYAML(c.text)
	if err != nil {
		at, message := c.syntaxError(err)
		d.unreadable(c, codeSyntax, at, message, c.syntaxHint(at))
		return
	}
	if root == nil || isNull(root) {
		return
	}
	w := walker{nodes: d.nodes}
	if code, n := w.check(root, 1); code != "" {
		message, hint := tooManyNodes(), "use fewer aliases"
		if code == codeTooDeep {
			message, hint = fmt.Sprintf("nested more than %d levels deep", MaxDepth), "no object needs this"
		}
		d.unreadable(c, code, c.place(n), message, hint)
		return
	}
	d.nodes = w.nodes
	d.object(c, root, typeMeta{})
}

func tooManyNodes() string {
	return fmt.Sprintf("the file has more than %d values, aliases followed", maxNodes)
}

// parseYAML returns the root of a chunk, or nil when it is empty.
func parseYAML(text []byte) (*yaml.Node, error) {
	var doc yaml.Node
	if err := yaml.Load(text, &doc, yaml.WithV4Defaults()); err != nil {
		return nil, err
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return doc.Content[0], nil
}

// typeMeta is what a list gives its items that do not say it themselves.
type typeMeta struct{ apiVersion, kind string }

// object reads one object, or the items of a list.
func (d *decoder) object(c chunk, root *yaml.Node, inherit typeMeta) {
	if len(d.docs) >= MaxDocuments {
		d.tooMany(c)
		return
	}
	if again := repeatedTopLevel(root); again != nil && c.within == "" {
		d.unreadable(c, codeDuplicateKey, c.place(again), fmt.Sprintf("%q is given twice", again.Value),
			"separate documents with a line ---")
		return
	}
	o := newObjectDecoder(d.file, c, root)
	switch o.head(inherit) {
	case headList:
		d.list(c, o)
		return
	case headKnown:
		o.known()
	case headOther:
		o.other()
	case headBroken:
		o.describeSelf()
	}
	d.docs = append(d.docs, o.finish())
}

// list reads the items of a Kubernetes list. An item without kind and apiVersion takes them from the list's.
func (d *decoder) list(c chunk, o *objectDecoder) {
	items := o.items
	if items == nil || isNull(items) {
		return
	}
	if items.Kind != yaml.SequenceNode {
		o.push("items")
		o.wrongType(items, items, "a list of objects")
		d.docs = append(d.docs, o.finish())
		return
	}
	inherit := typeMeta{}
	if kind := strings.TrimSuffix(o.doc.Kind, "List"); kind != "" {
		inherit = typeMeta{apiVersion: o.doc.APIVersion, kind: kind}
	}
	for i, item := range items.Content {
		ic := c
		ic.within = joinPath(c.within, fmt.Sprintf("items[%d]", i))
		d.object(ic, resolved(item), inherit)
		if len(d.docs) > MaxDocuments {
			return
		}
	}
}

// joinPath appends one field path to another.
func joinPath(path, field string) string {
	switch {
	case path == "":
		return field
	case field == "" || field[0] == '[':
		return path + field
	}
	return path + "." + field
}

// repeatedTopLevel finds the second of two equal top-level keys: most often two documents whose separator is missing.
func repeatedTopLevel(root *yaml.Node) *yaml.Node {
	if root.Kind != yaml.MappingNode {
		return nil
	}
	var seen []string
	for i := 0; i < len(root.Content); i += 2 {
		k := root.Content[i]
		if k.Kind != yaml.ScalarNode || k.Tag == mergeTag {
			continue
		}
		if slices.Contains(topLevel, k.Value) && slices.Contains(seen, k.Value) {
			return k
		}
		seen = append(seen, k.Value)
	}
	return nil
}

// unreadable records a chunk that yields no object: one broken document for each object its text seems to hold.
func (d *decoder) unreadable(c chunk, code string, at place, message, hint string) {
	for _, s := range scanObjects(c.text) {
		if len(d.docs) >= MaxDocuments {
			d.tooMany(c)
			return
		}
		d.broken(c, s, code, at, message, hint)
	}
}

func (d *decoder) broken(c chunk, s scanned, code string, at place, message, hint string) {
	doc := s.document()
	doc.File, doc.Line = d.file, c.linesAbove+s.line
	doc.source, doc.linesAbove = c.text, c.linesAbove
	doc.Problems = []Problem{{
		Code: code, Severity: severityOf(code), Object: doc.Object,
		File: d.file, Line: at.line, Column: at.column, Message: message, Hint: hint,
	}}
	d.docs = append(d.docs, doc)
}

func (d *decoder) tooMany(c chunk) {
	if len(d.docs) == MaxDocuments {
		d.broken(c, scanned{line: 1}, codeTooManyDocs, place{c.linesAbove + 1, 1},
			fmt.Sprintf("the file has more than %d documents; this and what follows is not read", MaxDocuments), "split the file")
	}
}

// syntaxError says where and why the parser stopped.
func (c chunk) syntaxError(err error) (place, string) {
	var load *yaml.LoadError
	if !errors.As(err, &load) {
		return place{c.linesAbove + 1, 1}, strings.TrimPrefix(err.Error(), "yaml: ")
	}
	message := load.Message
	if load.ContextMsg != "" {
		message += " " + load.ContextMsg
		if load.ContextMark.Line > 0 && load.ContextMark.Line != load.Mark.Line {
			message += fmt.Sprintf(" that starts on line %d", c.linesAbove+load.ContextMark.Line)
		}
	}
	if load.Mark.Line == 0 {
		return place{c.linesAbove + 1, 1}, message
	}
	return place{c.linesAbove + load.Mark.Line, max(load.Mark.Column, 1)}, message
}

// syntaxHint knows the commonest reason for a syntax error.
func (c chunk) syntaxHint(at place) string {
	lines := bytes.Split(c.text, []byte{'\n'})
	i := at.line - c.linesAbove - 1
	if i >= len(lines) {
		return ""
	}
	text := lines[i]
	if indent := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]; bytes.IndexByte(indent, '\t') >= 0 {
		return "indent with spaces, YAML does not allow tabs"
	}
	return ""
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8.
func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return 0
}

// placeOf turns a byte offset of the chunk into a place of the file. Columns count bytes.
func (c chunk) placeOf(offset int) place {
	above := c.text[:offset]
	return place{c.linesAbove + 1 + bytes.Count(above, []byte{'\n'}), offset - bytes.LastIndexByte(above, '\n')}
}

// place is where a node stands in the file.
func (c chunk) place(n *yaml.Node) place { return place{c.linesAbove + n.Line, n.Column} }
