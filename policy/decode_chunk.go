package policy

import (
	"bytes"

	"go.yaml.in/yaml/v4"
)

// chunk is the text between two document separators of a file.
type chunk struct {
	text       []byte // a copy: Decode keeps nothing of its argument
	linesAbove int
	within     string // field path of the list item that is being read, or ""
}

var (
	byteOrderMark = []byte("\ufeff")
	startMarker   = []byte("---")
	endMarker     = []byte("...")
)

// splitDocuments cuts a file at its document markers, which YAML allows nowhere else at the start of a line, so that an error in
// one document cannot swallow the next. Chunks without content are left out, directives (%YAML) count as none.
func splitDocuments(data []byte) []chunk {
	data = bytes.TrimPrefix(data, byteOrderMark)
	var chunks []chunk
	start, startLine, line, content := 0, 0, 0, false
	cut := func(end int) {
		if content {
			chunks = append(chunks, chunk{text: bytes.Clone(data[start:end]), linesAbove: startLine})
		}
		content = false
	}
	for pos := 0; pos < len(data); line++ {
		next := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			next = pos + i + 1
		}
		text := data[pos:next]
		switch {
		case isMarker(text, startMarker):
			cut(pos)
			start, startLine = pos, line
			text = text[len(startMarker):]
		case isMarker(text, endMarker):
			cut(pos)
			start, startLine = next, line+1
			text = nil
		}
		if text = bytes.TrimSpace(text); len(text) > 0 && text[0] != '#' {
			if text[0] == '%' && !content {
				start, startLine = next, line+1
			} else {
				content = true
			}
		}
		pos = next
	}
	cut(len(data))
	return chunks
}

// isMarker reports whether a line starts with a document marker followed by white space or nothing.
func isMarker(line, marker []byte) bool {
	rest, ok := bytes.CutPrefix(line, marker)
	return ok && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t' || rest[0] == '\r' || rest[0] == '\n')
}

// estimateNodes is an upper bound of the values in a text, found without parsing it: every value but the first follows
// one of these.
func estimateNodes(text []byte) int {
	n := 1
	for i, b := range text {
		switch b {
		case '\n', '\r', ',', ':', '[', '{', '?':
			n++
		case ' ', '\t':
			if i > 0 && text[i-1] == '-' {
				n++
			}
		}
	}
	return n
}

// walker counts values and levels, aliases followed, so that everything after it may follow them freely.
type walker struct{ nodes int }

// check returns the code of the bound that n exceeds and the value that does, or "".
func (w *walker) check(n *yaml.Node, depth int) (string, *yaml.Node) {
	w.nodes--
	if w.nodes < 0 {
		return codeTooManyNodes, n
	}
	if depth > MaxDepth {
		return codeTooDeep, n
	}
	if n.Kind == yaml.AliasNode {
		return w.check(n.Alias, depth+1)
	}
	for _, c := range n.Content {
		if c.Kind == yaml.ScalarNode {
			w.nodes--
			continue
		}
		if code, at := w.check(c, depth+1); code != "" {
			return code, at
		}
	}
	return "", nil
}

// resolved follows an alias. A walker has made sure that it ends.
func resolved(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}
