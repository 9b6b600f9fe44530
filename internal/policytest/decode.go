package policytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/policy"
)

// Decoder reads test files strictly: an unknown key, a value of another type and a name that means nothing are problems
// with their place.
type Decoder struct {
	// Suggest returns words to append to a message about an unknown word, "" when no known one is near; nil suggests nothing.
	Suggest func(word string, known []string) string
}

// Decode reads one file, which may hold several YAML documents. With problems there are no suites.
func (d Decoder) Decode(file string, data []byte) ([]Suite, []Problem) {
	f := &fileDecoder{file: file, suggest: d.Suggest}
	if f.suggest == nil {
		f.suggest = func(string, []string) string { return "" }
	}
	if len(data) > MaxFileBytes {
		f.problems = []Problem{{File: file, Message: fmt.Sprintf("%d bytes, at most %d are read: split the file", len(data), MaxFileBytes)}}
		return nil, f.problems
	}
	var suites []Suite
	for _, root := range f.documents(data) {
		if s := f.suite(root); s != nil {
			suites = append(suites, *s)
		}
	}
	f.uniqueNames(suites)
	if len(f.problems) > 0 {
		return nil, f.problems
	}
	return suites, nil
}

// fileDecoder reads one file.
type fileDecoder struct {
	file     string
	suggest  func(string, []string) string
	problems []Problem
	cases    int
}

func (f *fileDecoder) problem(n *yaml.Node, field, format string, args ...any) {
	p := Problem{File: f.file, Field: field, Message: fmt.Sprintf(format, args...)}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	if len(f.problems) < maxProblems && !slices.Contains(f.problems, p) { // a value of a matrix is read in every combination
		f.problems = append(f.problems, p)
	}
}

// documents parses the file. What follows a syntax error is not read.
func (f *fileDecoder) documents(data []byte) []*yaml.Node {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		f.problem(nil, "", "%v", err)
		return nil
	}
	var roots []*yaml.Node
	for {
		var doc yaml.Node
		err := loader.Load(&doc)
		if errors.Is(err, io.EOF) {
			return roots
		}
		if err != nil {
			f.syntax(err)
			return nil
		}
		if len(doc.Content) > 0 && !isNull(doc.Content[0]) {
			roots = append(roots, doc.Content[0])
		}
	}
}

func (f *fileDecoder) syntax(err error) {
	p := Problem{File: f.file, Message: "no valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	var le *yaml.LoadError
	if errors.As(err, &le) {
		p.Message, p.Line, p.Column = "no valid YAML: "+le.Message, le.Mark.Line, max(le.Mark.Column, 1)
	}
	f.problems = append(f.problems, p)
}

// field is one key of an object with the function that reads its value.
type field struct {
	name string
	read func(n *yaml.Node, path string)
}

// object reads an object by its fields.
func (f *fileDecoder) object(n *yaml.Node, path string, fields []field) {
	names := make([]string, len(fields))
	for i := range fields {
		names[i] = fields[i].name
	}
	f.entries(n, path, func(key, value *yaml.Node, at string) {
		i := slices.Index(names, key.Value)
		if i < 0 {
			f.problem(key, at, "unknown key%s", f.suggest(key.Value, names))
			return
		}
		fields[i].read(value, at)
	})
}

// entries calls each for every key of an object that is written once.
func (f *fileDecoder) entries(n *yaml.Node, path string, each func(key, value *yaml.Node, path string)) {
	if !f.plain(n, path) {
		return
	}
	if n.Kind != yaml.MappingNode {
		f.problem(n, path, "want keys and values, not %s", describe(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := join(path, key.Value)
		if line, twice := seen[key.Value]; twice {
			f.problem(key, at, "given twice, first on line %d", line)
			continue
		}
		seen[key.Value] = key.Line
		if f.plain(value, at) {
			each(key, value, at)
		}
	}
}

// plain refuses aliases: they could make a small file a large one, and defaults serve the same end.
func (f *fileDecoder) plain(n *yaml.Node, path string) bool {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		f.problem(n, path, "anchors and aliases (& and *) are not used here: write the value out, or use defaults")
		return false
	}
	return true
}

// items are the elements of a list.
func (f *fileDecoder) items(n *yaml.Node, path string, each func(n *yaml.Node, path string)) {
	if n.Kind != yaml.SequenceNode {
		f.problem(n, path, "want a list, not %s", describe(n))
		return
	}
	for i, item := range n.Content {
		if at := path + "[" + strconv.Itoa(i) + "]"; f.plain(item, at) {
			each(item, at)
		}
	}
}

// text reads a scalar as it is written: a port or a status of a header need no quotes.
func (f *fileDecoder) text(n *yaml.Node, path string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		f.problem(n, path, "want text, not %s", describe(n))
		return "", false
	}
	return n.Value, true
}

func (f *fileDecoder) set(to *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) { *to, _ = f.text(n, path) }
}

// word reads one of a few known words.
func (f *fileDecoder) word(n *yaml.Node, path string, known ...string) string {
	w, ok := f.text(n, path)
	if ok && !slices.Contains(known, w) {
		f.problem(n, path, "%q: want %s%s", w, strings.Join(known, ", "), f.suggest(w, known))
		return ""
	}
	return w
}

// number reads a whole number between two bounds, those included.
func (f *fileDecoder) number(n *yaml.Node, path string, least, most int) int {
	i, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || i < least || i > most {
		f.problem(n, path, "%s: want a whole number from %d to %d", describe(n), least, most)
	}
	return i
}

func (f *fileDecoder) boolean(n *yaml.Node, path string) bool {
	if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
		f.problem(n, path, "%s: want true or false", describe(n))
	}
	return n.Value == "true"
}

// free reads an object of whatever JSON can say.
func (f *fileDecoder) free(n *yaml.Node, path string) map[string]any {
	var v map[string]any
	if n.Kind != yaml.MappingNode {
		f.problem(n, path, "want keys and values, not %s", describe(n))
		return nil
	}
	if err := n.Decode(&v); err != nil {
		f.problem(n, path, "%v", err)
		return nil
	}
	if _, err := json.Marshal(v); err != nil {
		f.problem(n, path, "it holds something that JSON cannot say (%v): keys are text, numbers are finite", err)
		return nil
	}
	if v == nil {
		v = map[string]any{}
	}
	return v
}

// suite reads one document of the file.
func (f *fileDecoder) suite(root *yaml.Node) *Suite {
	s := &Suite{File: f.file, Name: suiteName(f.file)}
	b := &suiteDecoder{fileDecoder: f, suite: s, workloads: map[string]policy.Workload{}}
	before := len(f.problems)
	var apiVersion, kind string
	var defaults, tests *yaml.Node
	keep := func(to **yaml.Node) func(*yaml.Node, string) { return func(n *yaml.Node, _ string) { *to = n } }
	f.object(root, "", []field{
		{"apiVersion", f.set(&apiVersion)},
		{"kind", f.set(&kind)},
		{"name", f.set(&s.Name)},
		{"policies", b.policies},
		{"workloads", b.workloadsField},
		{"defaults", keep(&defaults)},
		{"tests", keep(&tests)},
	})
	if apiVersion != APIVersion || kind != Kind { // then its keys mean nothing here
		f.problems = f.problems[:before]
		hint := ""
		if policy.IsTestName(f.file) {
			hint = ": what is no test belongs into a file of another name"
		}
		f.problem(root, "", "want apiVersion: %s and kind: %s, not %q and %q%s", APIVersion, Kind, apiVersion, kind, hint)
		return nil
	}
	if defaults != nil { // after workloads, wherever it is written
		b.readDefaults(defaults)
	}
	if strings.TrimSpace(s.Name) == "" {
		f.problem(root, "name", "empty: leave it out for the name of the file")
	}
	if tests == nil {
		f.problem(root, "tests", "missing: a file without tests would pass")
		return nil
	}
	f.items(tests, "tests", b.test)
	return s
}

// suiteName is the file's name without its ending.
func suiteName(file string) string {
	name := filepath.Base(file)
	name = strings.TrimSuffix(name, filepath.Ext(name))
	return strings.TrimSuffix(name, "_test")
}

// uniqueNames refuses cases that could not be told apart in a report.
func (f *fileDecoder) uniqueNames(suites []Suite) {
	seen := map[string]int{}
	for i := range suites {
		for j := range suites[i].Cases {
			c := &suites[i].Cases[j]
			if line, twice := seen[c.ID()]; twice {
				f.problem(&yaml.Node{Line: c.Line, Column: c.Column}, c.path, "%q is the name of another test, on line %d", c.ID(), line)
				continue
			}
			seen[c.ID()] = c.Line
		}
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "keys and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return strconv.Quote(n.Value)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
