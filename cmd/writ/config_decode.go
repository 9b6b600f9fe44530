package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// configDecoder fills a config from YAML, from the environment and from flags. It accepts known keys with values of
// their type and nothing else, and collects every problem with its place.
type configDecoder struct {
	file, dir string // dir is what relative paths in the file are relative to
	problems  []configProblem
	places    map[string]configProblem // where each key was set; only Source, Line, Column and Key are used
}

func newConfigDecoder(file string) *configDecoder {
	return &configDecoder{file: file, dir: filepath.Dir(file), places: map[string]configProblem{}}
}

// document decodes one YAML or JSON document into the struct that into points to. It reports whether the text parses.
func (d *configDecoder) document(data []byte, into any) bool {
	var n yaml.Node
	if err := yaml.Load(data, &n); err != nil {
		d.problems = append(d.problems, syntaxProblem(d.file, err))
		return false
	}
	if len(n.Content) > 0 { // an empty file says nothing, and what is required will be missed
		d.value(n.Content[0], reflect.ValueOf(into).Elem(), "", "")
	}
	return true
}

func syntaxProblem(file string, err error) configProblem {
	p := configProblem{Source: file, Message: "no valid YAML: " + err.Error()}
	var le *yaml.LoadError
	if errors.As(err, &le) {
		p.Message = "no valid YAML: " + le.Message
		p.Line, p.Column = le.Mark.Line, max(le.Mark.Column, 1)
	}
	return p
}

func (d *configDecoder) at(n *yaml.Node, key string) configProblem {
	return configProblem{Source: d.file, Line: n.Line, Column: n.Column, Key: key}
}

func (d *configDecoder) problem(p configProblem, format string, args ...any) {
	p.Message = fmt.Sprintf(format, args...)
	d.problems = append(d.problems, p)
}

// value decodes n, the value of key, into v. rel is v's rel tag.
func (d *configDecoder) value(n *yaml.Node, v reflect.Value, key, rel string) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.problem(d.at(n, key), "anchors and aliases (& and *) are not used here: write the value out")
		return
	}
	d.places[key] = d.at(n, key)
	if e, ok := v.Addr().Interface().(*extensionConfig); ok {
		if err := e.decode(n); err != nil {
			d.problem(d.at(n, key), "%v", err)
		}
		return
	}
	switch {
	case isNull(n) && (v.Kind() == reflect.Slice || v.Kind() == reflect.Map): // no values
	case v.Kind() == reflect.Pointer:
		allocate(v)
		d.value(n, v.Elem(), key, rel)
	case v.Kind() == reflect.Struct:
		d.object(n, v, key)
	case v.Kind() == reflect.Slice:
		d.list(n, v, key)
	case v.Kind() == reflect.Map:
		d.table(n, v, key, rel)
	case n.Kind == yaml.MappingNode && slices.Contains(laterKeys(), key+"."+firstKey(n)):
		d.problem(d.at(n, key), "%q is not in this version of writ", firstKey(n))
	case n.Kind != yaml.ScalarNode:
		d.problem(d.at(n, key), "want %s, not %s", typeName(v), nodeName(n))
	case !tagFits(n, v):
		d.problem(d.at(n, key), "%s: want %s", scalarName(n), typeName(v))
	default:
		if err := setScalar(v, n.Value, rel, d.dir); err != nil {
			d.problem(d.at(n, key), "%v", err)
		}
	}
}

func (d *configDecoder) object(n *yaml.Node, v reflect.Value, key string) {
	if isNull(n) && key != "" { // "authz:" alone: the block is there, with its defaults
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(d.at(n, key), "want keys and values (%s), not %s", strings.Join(keysOf(v.Type()), ", "), nodeName(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		full := join(key, name.Value)
		if line, twice := seen[name.Value]; twice {
			d.problem(d.at(name, full), "given twice, first on line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		field, ok := fieldOf(v.Type(), name.Value)
		switch {
		case ok && d.shorthand(value, field):
			d.short(value, v.FieldByIndex(field.Index), full, field.Tag.Get("short"))
		case ok:
			d.value(value, v.FieldByIndex(field.Index), full, field.Tag.Get("rel"))
		case slices.Contains(laterKeys(), full):
			d.problem(d.at(name, full), "not in this version of writ: remove it, or use a version that has it")
		default:
			d.problem(d.at(name, full), "unknown key%s", didYouMean(name.Value, keysOf(v.Type())))
		}
	}
}

// short decodes the short form of block, which is the value of its one key.
func (d *configDecoder) short(n *yaml.Node, block reflect.Value, full, key string) {
	if block.Kind() == reflect.Pointer {
		allocate(block)
		block = block.Elem()
	}
	d.value(n, block.FieldByName(exported(key)), join(full, key), "")
}

// shorthand reports whether value is the short form of a block: "diagnostics: host:port" for its listen key.
func (d *configDecoder) shorthand(value *yaml.Node, field reflect.StructField) bool {
	return field.Tag.Get("short") != "" && value.Kind == yaml.ScalarNode && !isNull(value)
}

func (d *configDecoder) list(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(d.at(n, key), "want a list, not %s", nodeName(n))
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, items.Index(i), fmt.Sprintf("%s[%d]", key, i), "")
	}
	v.Set(items)
}

func (d *configDecoder) table(n *yaml.Node, v reflect.Value, key, rel string) {
	if n.Kind != yaml.MappingNode {
		d.problem(d.at(n, key), "want keys and values, not %s", nodeName(n))
		return
	}
	items := make(map[string]string, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i]
		if _, twice := items[name.Value]; twice {
			d.problem(d.at(name, join(key, name.Value)), "given twice")
		}
		var s string
		d.value(n.Content[i+1], reflect.ValueOf(&s).Elem(), join(key, name.Value), rel)
		items[name.Value] = s
	}
	v.Set(reflect.ValueOf(items))
}

// environment lets WRIT_… variables override single values. Paths in them are relative to the working directory.
func (d *configDecoder) environment(c any, env func(string) (string, bool)) {
	for _, key := range singleKeys(c) {
		if text, ok := env(envOf(key)); ok && text != "" {
			d.override(c, key, text, configProblem{Source: "environment " + envOf(key), Key: key})
		}
	}
}

// flags lets --set key=value override single values.
func (d *configDecoder) flags(c any, sets []string) {
	keys := singleKeys(c)
	for _, set := range sets {
		key, text, ok := strings.Cut(set, "=")
		place := configProblem{Source: "--set " + set, Key: key}
		switch {
		case !ok:
			d.problem(place, "want key=value")
		case !slices.Contains(keys, key):
			d.problem(place, "unknown key%s", didYouMean(key, keys))
		default:
			d.override(c, key, text, place)
		}
	}
}

func (d *configDecoder) override(c any, key, text string, place configProblem) {
	v, rel := reflect.ValueOf(c).Elem(), ""
	for name := range strings.SplitSeq(key, ".") {
		if v.Kind() == reflect.Pointer {
			allocate(v)
			v = v.Elem()
		}
		field, _ := fieldOf(v.Type(), name)
		v, rel = v.FieldByIndex(field.Index), field.Tag.Get("rel")
		if short := field.Tag.Get("short"); short != "" && strings.HasSuffix(key, name) {
			v, rel = v.FieldByName(exported(short)), ""
			place.Key = join(key, short)
		}
	}
	d.places[place.Key] = place
	items := strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.ValueOf(items))
		return
	case reflect.Map:
		table := make(map[string]string, len(items))
		for _, item := range items {
			name, value, ok := cutLast(item, "=")
			if !ok {
				d.problem(place, "%q: want name=value, separated by commas", item)
			}
			table[name] = value
		}
		v.Set(reflect.ValueOf(table))
		return
	default:
	}
	if err := setScalar(v, text, rel, ""); err != nil {
		d.problem(place, "%v", err)
	}
}

// cutLast cuts s at the last separator: a name may be a URL that holds one, too.
func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

// allocate makes the block that v points to, with its defaults.
func allocate(v reflect.Value) {
	if !v.IsNil() {
		return
	}
	v.Set(reflect.New(v.Type().Elem()))
	if b, ok := v.Interface().(interface{ defaults() }); ok {
		b.defaults()
	}
}

// setScalar parses text into v. rel says how text is relative to dir; an empty dir leaves it to the working directory.
func setScalar(v reflect.Value, text, rel, dir string) error {
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = resolve(text, rel, dir)
		return nil
	case *time.Duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration: write a number and its unit, such as 10s or 1m30s", text)
		}
		*p = t
		return nil
	case *fileMode:
		mode, err := parseFileMode(text)
		*p = mode
		return err
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q: want true or false", text)
		}
		*p = text == "true"
		return nil
	case *int:
		i, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q: want a whole number", text)
		}
		*p = i
		return nil
	}
	return fmt.Errorf("no way to set a %s", v.Type())
}

// resolve makes a path, a unix: address or a log stream that is relative to the file independent of the working directory.
func resolve(text, rel, dir string) string {
	path, prefix := text, ""
	switch rel {
	case "file":
	case "bundle":
		if strings.Contains(text, "://") {
			return text
		}
	case "stream":
		if text == "stdout" || text == "stderr" {
			return text
		}
	case "address":
		rest, ok := strings.CutPrefix(text, "unix:")
		if !ok || strings.HasPrefix(rest, "//") {
			return text
		}
		path, prefix = rest, "unix:"
	default:
		return text
	}
	if path == "" || filepath.IsAbs(path) || dir == "" {
		return text
	}
	return prefix + filepath.Join(dir, path)
}
