package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/writ-auth/writ/internal/durable"
	"github.com/writ-auth/writ/policy"
	"github.com/writ-auth/writ/policy/analysis"
)

// maxPasses bounds how often documents are looked at again after a fix, which may make way for another one.
const maxPasses = 10

// fixedFile is a file before and after.
type fixedFile struct {
	name     string
	old, new []byte
	fixes    int
	docs     []*policy.Document // all documents, of other files too, as they are when every file is written
}

func (f *fixedFile) diff() []byte { return diff.Diff(f.name, f.old, f.name+" (fixed)", f.new) }

// mend applies fixes until there are none left. Nothing is written. Files come in the order of their documents.
func mend(docs []*policy.Document, facts lintFacts, now time.Time) ([]fixedFile, error) {
	files := map[string]*fixedFile{}
	var order []string
	for range maxPasses {
		open, _ := analysis.Suppress(docs, findings(docs, facts), facts.providers, now)
		fixes := map[string][]analysis.Finding{}
		for _, f := range open {
			if len(f.Fix) > 0 {
				fixes[f.File] = append(fixes[f.File], f)
			}
		}
		changed := false
		for _, name := range fileNames(docs) {
			if len(fixes[name]) == 0 {
				continue
			}
			f := files[name]
			if f == nil {
				text, err := readBounded(name, maxSourceBytes)
				if err != nil {
					return nil, err
				}
				f = &fixedFile{name: name, old: text, new: text}
			}
			mended, n, ok := mendFile(docs, f, fixes[name])
			if !ok {
				continue
			}
			if files[name] == nil {
				files[name] = f
				order = append(order, name)
			}
			docs, changed = mended, true
			f.fixes += n
		}
		if !changed {
			break
		}
	}
	out := make([]fixedFile, 0, len(order))
	for _, name := range order {
		files[name].docs = docs
		out = append(out, *files[name])
	}
	return out, nil
}

// fileNames are the files of documents, each once, in order.
func fileNames(docs []*policy.Document) []string {
	var out []string
	seen := map[string]bool{}
	for _, d := range docs {
		if !seen[d.File] {
			seen[d.File] = true
			out = append(out, d.File)
		}
	}
	return out
}

// mendFile applies what it can of one file's fixes and returns all documents as they then are.
func mendFile(docs []*policy.Document, f *fixedFile, fixes []analysis.Finding) ([]*policy.Document, int, bool) {
	x := newFixer(docs)
	x.files[f.name] = newFileText(string(f.new))
	var edits []textEdit
	for i := range fixes {
		edits = append(edits, x.edits(&fixes[i])...)
	}
	if edits = apart(edits); len(edits) == 0 {
		return docs, 0, false
	}
	text := apply(string(f.new), edits)
	replaced := policy.Decode(f.name, []byte(text))
	var before, after []*policy.Document
	for _, d := range docs {
		switch {
		case d.File != f.name:
			after = append(after, d)
			continue
		case len(before) == 0:
			after = append(after, replaced...)
		}
		before = append(before, d)
	}
	if !sameObjects(before, replaced) {
		return docs, 0, false
	}
	f.new = []byte(text)
	return after, len(edits), true
}

// sameObjects reports whether a file still holds the same objects, none broken that was not.
func sameObjects(before, after []*policy.Document) bool {
	return slices.EqualFunc(before, after, func(a, b *policy.Document) bool { return a.Object == b.Object && a.Broken() == b.Broken() })
}

// fileObject is a document's name, and where it is.
type fileObject struct {
	file string
	policy.Object
}

// fixer turns fixes into changes of text. Files are read when they are first asked for.
type fixer struct {
	docs    map[fileObject]*policy.Document
	files   map[string]*fileText
	editors map[fileObject]*editor
}

func newFixer(docs []*policy.Document) *fixer {
	x := &fixer{docs: map[fileObject]*policy.Document{}, files: map[string]*fileText{}, editors: map[fileObject]*editor{}}
	for _, d := range docs {
		x.docs[fileObject{d.File, d.Object}] = d
	}
	return x
}

// edits are those that a fix comes to; none if it cannot be made for certain.
func (x *fixer) edits(f *analysis.Finding) []textEdit {
	if len(f.Fix) == 0 {
		return nil
	}
	at := fileObject{f.File, f.Object}
	e := x.editors[at]
	if e == nil {
		file := x.file(f.File)
		if doc := x.docs[at]; doc == nil || file == nil {
			return nil
		}
		e = &editor{file, x.docs[at].Locator()}
		x.editors[at] = e
	}
	var out []textEdit
	for _, edit := range f.Fix {
		t, ok := e.edit(edit)
		if !ok {
			return nil
		}
		out = append(out, t)
	}
	return out
}

// file is the text of a file, nil if it cannot be read.
func (x *fixer) file(name string) *fileText {
	f, ok := x.files[name]
	if !ok {
		if text, err := readBounded(name, maxSourceBytes); err == nil {
			f = newFileText(string(text))
		}
		x.files[name] = f
	}
	return f
}

// apart puts edits into order and leaves out those that overlap an earlier one.
func apart(edits []textEdit) []textEdit {
	slices.SortStableFunc(edits, func(a, b textEdit) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end)) })
	out := edits[:0]
	end := 0
	for _, t := range edits {
		if t.start >= end {
			out = append(out, t)
			end = t.end
		}
	}
	return out
}

// apply makes edits, which are in order and apart.
func apply(text string, edits []textEdit) string {
	var b strings.Builder
	done := 0
	for _, t := range edits {
		b.WriteString(text[done:t.start] + t.text)
		done = t.end
	}
	b.WriteString(text[done:])
	return b.String()
}

// writeFixes writes the files, each whole or not at all, says so, and returns the documents as they then are.
func (c *cli) writeFixes(files []fixedFile, docs []*policy.Document) ([]*policy.Document, error) {
	fixes := 0
	for i := range files {
		f := &files[i]
		if err := f.write(); err != nil {
			if i > 0 {
				err = fmt.Errorf("%w (%s in %s before it)", err, fixCount(fixes), plural(i, "file"))
			}
			return nil, err
		}
		fixes += f.fixes
		docs = f.docs
	}
	if len(files) > 0 {
		if _, err := fmt.Fprintf(c.err, "%s in %s\n", fixCount(fixes), plural(len(files), "file")); err != nil {
			return nil, err
		}
	}
	return docs, nil
}

func fixCount(n int) string {
	if n == 1 {
		return "1 fix"
	}
	return fmt.Sprintf("%d fixes", n)
}

// write replaces the file, or what a link leads to, unless somebody else has changed it since it was read.
func (f *fixedFile) write() error {
	path, err := filepath.EvalSymlinks(f.name)
	if err != nil {
		return err
	}
	now, err := readBounded(path, maxSourceBytes)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, f.old) {
		return fmt.Errorf("%s has changed meanwhile and is left alone", f.name)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, f.new, info.Mode().Perm())
}
