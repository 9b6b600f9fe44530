package policy

import (
	"strings"

	"go.yaml.in/yaml/v4"
)

// LinePosition finds where a line of a text of several lines stands, n counted from 0: text in a block (after "|") has its
// lines in the file. Of any other text, and of a line that there is not, it is the place of the whole.
func (l *Locator) LinePosition(field string, n int) (line, column int) {
	line, column = l.Position(field)
	if l.root == nil || n < 0 {
		return line, column
	}
	_, value := findField(l.root, field)
	if value.Kind != yaml.ScalarNode || value.Style&yaml.LiteralStyle == 0 || n >= strings.Count(value.Value, "\n")+1 {
		return line, column
	}
	at := value.Line + 1 + n // the text begins on the line after its mark
	lines := strings.Split(string(l.doc.source), "\n")
	if at > len(lines) {
		return line, column
	}
	indent := len(lines[at-1]) - len(strings.TrimLeft(lines[at-1], " "))
	return l.doc.linesAbove + at, indent + 1
}
