package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// This file turns an edit of a field into the smallest change of a file's text. It works on places, not on a tree, so that
// everything around stays as it is, comments included. Whenever it is not sure it does nothing: a fix that is not made is
// still a finding.

// textEdit replaces the bytes from start up to end.
type textEdit struct {
	start, end int
	text       string
}

// fileText is a file with its lines.
type fileText struct {
	text   string
	starts []int // of the lines
	shared bool  // it has anchors or aliases: one text may be several fields
}

// anchored matches what may be an anchor or an alias. That it may match elsewhere does no harm.
var anchored = regexp.MustCompile(`(?m)(^|[\s\[{,])[&*][^\s,\]}"']`)

func newFileText(text string) *fileText {
	f := &fileText{text: text, starts: []int{0}, shared: anchored.MatchString(text)}
	for i := range len(text) {
		if text[i] == '\n' {
			f.starts = append(f.starts, i+1)
		}
	}
	return f
}

// offset is where a place is, which counts characters; false if there is none.
func (f *fileText) offset(line, column int) (int, bool) {
	if line < 1 || line > len(f.starts) || column < 1 {
		return 0, false
	}
	at := f.starts[line-1]
	for range column - 1 {
		if at >= len(f.text) || f.text[at] == '\n' {
			return 0, false
		}
		_, n := utf8.DecodeRuneInString(f.text[at:])
		at += n
	}
	return at, true
}

// place is the reverse of offset.
func (f *fileText) place(at int) (line, column int) {
	line, found := slices.BinarySearch(f.starts, at)
	if found {
		line++
	}
	return line, 1 + utf8.RuneCountInString(f.text[f.starts[line-1]:at])
}

// line is the text of a line, 1-based, without its end; false after the last one.
func (f *fileText) line(n int) (string, bool) {
	if n < 1 || n > len(f.starts) {
		return "", false
	}
	text, _, _ := strings.Cut(f.text[f.starts[n-1]:], "\n")
	return strings.TrimSuffix(text, "\r"), true
}

// editor finds the places of one document in its file.
type editor struct {
	*fileText
	places *policy.Locator
}

// at is where a field begins, if it is there: the place of something that is not is that of what is around it.
func (e *editor) at(field, around string) (int, bool) {
	line, column := e.places.Position(field)
	if outerLine, outerColumn := e.places.Position(around); line == outerLine && column == outerColumn {
		return 0, false
	}
	return e.offset(line, column)
}

// edit is the change of text that an edit of the document comes to.
func (e *editor) edit(edit analysis.Edit) (textEdit, bool) {
	if e.shared {
		return textEdit{}, false
	}
	list, last, ok := cutIndex(edit.Field)
	index, err := strconv.Atoi(last)
	switch {
	case !ok:
		return e.removeEntry(edit)
	case err != nil:
		return e.removeEntry(edit)
	case edit.Remove:
		return e.removeElement(list, index, edit.Old)
	}
	start, ok := e.at(edit.Field, list)
	if !ok {
		return textEdit{}, false
	}
	end, ok := e.scalarEnd(start, edit.Old)
	if !ok {
		return textEdit{}, false
	}
	switch quote := e.text[start]; {
	case quote == '"' || quote == '\'':
		return textEdit{start + 1, end - 1, edit.New}, true
	case strings.HasPrefix(edit.New, ":"):
		return textEdit{start, end, `"` + edit.New + `"`}, true
	}
	return textEdit{start, end, edit.New}, true
}

// cutIndex splits a[b] into a and b.
func cutIndex(field string) (list, index string, ok bool) {
	open := strings.LastIndexByte(field, '[')
	if open < 0 || !strings.HasSuffix(field, "]") {
		return "", "", false
	}
	return field[:open], field[open+1 : len(field)-1], true
}

// scalarEnd is where a text ends that begins at start, stands on one line and means old.
func (e *editor) scalarEnd(start int, old string) (int, bool) {
	rest, _, _ := strings.Cut(e.text[start:], "\n")
	n := len(old)
	if rest == "" {
		return 0, false
	}
	if quote := rest[0]; quote == '"' || quote == '\'' {
		n = quotedEnd(rest)
	}
	var value string
	if n <= 0 || n > len(rest) || yaml.Load([]byte(rest[:n]), &value) != nil || value != old {
		return 0, false
	}
	if rest[0] != '"' && rest[0] != '\'' && rest[:n] != old {
		return 0, false
	}
	return start + n, true
}

// quotedEnd is the length of the quoted text that s begins with, 0 if it does not end.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[0] == '"' && s[i] == '\\':
			i++
		case s[i] != s[0]:
		case s[0] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		default:
			return i + 1
		}
	}
	return 0
}

// removeElement takes an element out of a list of at least two.
func (e *editor) removeElement(list string, index int, old string) (textEdit, bool) {
	element := func(i int) (int, bool) { return e.at(list+"["+strconv.Itoa(i)+"]", list) }
	start, ok := element(index)
	if !ok {
		return textEdit{}, false
	}
	next, hasNext := element(index + 1)
	previous, hasPrevious := element(index - 1)
	if index == 0 {
		hasPrevious = false
	}
	if !hasNext && !hasPrevious {
		return textEdit{}, false
	}
	line, column := e.place(start)
	if before := e.text[e.starts[line-1]:start]; strings.TrimSpace(before) == "-" {
		return e.removeItem(line, strings.IndexByte(before, '-'), column, old, hasNext)
	}
	end, ok := e.elementEnd(start, old)
	if !ok {
		return textEdit{}, false
	}
	if hasNext {
		return textEdit{start, next, ""}, next > end && separates(e.text[end:next])
	}
	end2, ok := e.elementEnd(previous, "")
	if !ok || end2 > start {
		return textEdit{}, false
	}
	return textEdit{end2, end, ""}, separates(e.text[end2:start])
}

// separates reports whether a text between two elements is a comma and nothing that anybody would miss.
func separates(s string) bool { return strings.TrimSpace(s) == "," }

// elementEnd is where an element of a list in brackets ends. old is its text, "" if that is not known.
func (e *editor) elementEnd(start int, old string) (int, bool) {
	if old != "" {
		return e.scalarEnd(start, old)
	}
	depth := 0
	for i := start; i < len(e.text); i++ {
		switch c := e.text[i]; {
		case c == '#':
			return 0, false
		case (c == '"' || c == '\'') && (i == start || strings.IndexByte("[{,: \t\n", e.text[i-1]) >= 0):
			n := quotedEnd(e.text[i:])
			if n == 0 {
				return 0, false
			}
			i += n - 1
		case c == '[' || c == '{':
			depth++
		case (c == ']' || c == '}') && depth > 0:
			if depth--; depth == 0 {
				return i + 1, true
			}
			continue
		case c == ']' || c == '}' || c == ',' && depth == 0:
			return start + len(strings.TrimRight(e.text[start:i], " \t\r\n")), true
		}
	}
	return 0, false
}

// removeItem takes the lines of an item out of a list with dashes.
func (e *editor) removeItem(line, dash, column int, old string, hasNext bool) (textEdit, bool) {
	if above, ok := e.line(line - 1); ok && strings.HasPrefix(strings.TrimSpace(above), "#") {
		return textEdit{}, false // a comment about the item, which would then be about the next one
	}
	if old != "" {
		start, _ := e.offset(line, column)
		end, ok := e.scalarEnd(start, old)
		if !ok || strings.TrimSpace(lineRest(e.text[end:])) != "" {
			return textEdit{}, false
		}
	}
	after, last := e.itemEnd(line, dash)
	for n := line; n <= last; n++ {
		if text, _ := e.line(n); strings.Contains(text, "#") {
			return textEdit{}, false
		}
	}
	if !e.endsAt(after, dash) {
		return textEdit{}, false
	}
	if next, _ := e.line(after); !hasNext || strings.HasPrefix(strings.TrimSpace(next), "#") { // blank lines stay with what follows
		after = last + 1
	}
	return e.lines(line, after)
}

// itemEnd is the line after a list item, blank lines skipped, and the last one of it.
func (e *editor) itemEnd(line, dash int) (after, last int) {
	last = line
	for after = line + 1; ; after++ {
		text, ok := e.line(after)
		blank := strings.TrimSpace(text) == ""
		switch {
		case !ok || !blank && indent(text) <= dash:
			return after, last
		case !blank:
			last = after
		}
	}
}

// endsAt reports whether a list item is over at a line, comments there not counted.
func (e *editor) endsAt(line, dash int) bool {
	for ; ; line++ {
		text, ok := e.line(line)
		if !ok {
			return true
		}
		if trimmed := strings.TrimSpace(text); trimmed != "" && trimmed[0] != '#' {
			return indent(text) <= dash
		}
	}
}

// lines is the removal of lines, up to but not including after.
func (e *editor) lines(from, after int) (textEdit, bool) {
	end := len(e.text)
	if after <= len(e.starts) {
		end = e.starts[after-1]
	}
	return textEdit{e.starts[from-1], end, ""}, true
}

func lineRest(s string) string {
	rest, _, _ := strings.Cut(s, "\n")
	return rest
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// removeEntry takes out a key that stands on a line of its own with its value, and has neighbours.
func (e *editor) removeEntry(edit analysis.Edit) (textEdit, bool) {
	around, key, ok := cutIndex(edit.Field)
	if !ok {
		dot := strings.LastIndexByte(edit.Field, '.')
		around, key = edit.Field[:max(dot, 0)], edit.Field[dot+1:]
	}
	start, ok := e.at(edit.Field, around)
	if !ok || !edit.Remove {
		return textEdit{}, false
	}
	number, _ := e.place(start)
	text, _ := e.line(number)
	above, _ := e.line(number - 1)
	var entry map[string]any
	if yaml.Load([]byte(text), &entry) != nil || len(entry) != 1 || strings.Contains(text, "#") || strings.HasPrefix(strings.TrimSpace(above), "#") {
		return textEdit{}, false
	}
	value, ok := entry[key]
	if !ok || edit.Old == "" && !isEmptyMap(value) || edit.Old != "" && value != edit.Old {
		return textEdit{}, false
	}
	if !e.hasNeighbour(number, -1, indent(text)) && !e.hasNeighbour(number, 1, indent(text)) {
		return textEdit{}, false
	}
	if below, ok := e.line(number + 1); ok && strings.TrimSpace(below) != "" && indent(below) > indent(text) {
		return textEdit{}, false
	}
	return e.lines(number, number+1)
}

func isEmptyMap(v any) bool {
	m, ok := v.(map[string]any)
	return ok && len(m) == 0
}

// hasNeighbour looks up or down for another key of the same object.
func (e *editor) hasNeighbour(line, step, depth int) bool {
	for {
		line += step
		text, ok := e.line(line)
		trimmed := strings.TrimSpace(text)
		switch {
		case !ok:
			return false
		case trimmed == "" || trimmed[0] == '#':
		case indent(text) < depth:
			return false
		case indent(text) == depth && trimmed[0] != '-': // a dash at this depth is an item of the key above it
			return true
		}
	}
}
