package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles bounds how many files a directory tree may have.
const maxFiles = 50_000

// Directory is a source of documents: a file, or a directory tree of .yaml, .yml and .json files. The layout of
// kubelet's volumes (files that are links into ..data, which is a link to a directory named by the time) is understood.
// Tests of policies (KindPolicyTest) in files named *_test.yaml are nobody's documents and left out, broken ones too.
type Directory struct {
	Path string
}

// Read decodes all files, in order of their paths. Names that start with a dot are passed over. A file or subdirectory
// that cannot be read is a broken document that knows its File and nothing else; it is an error only if it is Path
// itself.
func (d Directory) Read() ([]*Document, error) {
	// A volume that kubelet swaps meanwhile would be read half old, half new.
	for range 3 {
		before := d.generation()
		docs, err := d.read()
		if err != nil || before == d.generation() {
			return docs, err
		}
	}
	return nil, fmt.Errorf("%s: replaced again and again while it was read", d.Path)
}

// generation is the directory that kubelet's ..data link leads to, "" if there is none.
func (d Directory) generation() string {
	target, err := os.Readlink(filepath.Join(d.Path, kubeletData))
	if err != nil {
		return ""
	}
	return target
}

// ErrNoFiles is wrapped when a directory holds no file of documents. To enforce nothing on purpose, a file with only a
// comment will do.
var ErrNoFiles = errors.New("no .yaml, .yml or .json file in it (to enforce nothing, put a file there with only a comment)")

// kubeletData is the link that kubelet replaces when a volume changes.
const kubeletData = "..data"

func (d Directory) read() ([]*Document, error) {
	info, err := os.Stat(d.Path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return newReader().file(d.Path)
	}
	t := newTree(func(string) {})
	if err := t.walk(d.Path); err != nil {
		return nil, err
	}
	var docs []*Document
	others := 0 // files of documents, not of tests
	for i, read := range readFiles(t.files) {
		f := &t.files[i]
		all := len(read)
		if IsTestName(f.path) {
			read = slices.DeleteFunc(read, (*Document).isTest)
		}
		if all == 0 || len(read) > 0 {
			others++
		}
		docs = append(docs, read...)
	}
	if others == 0 { // a volume that is not mounted looks like this, and no policies means that everything is allowed
		return nil, fmt.Errorf("%s: %w", d.Path, ErrNoFiles)
	}
	return docs, nil
}

// What a document of policy tests says it is.
const (
	TestAPIVersion = "writ.dev/v1alpha1"
	KindPolicyTest = "PolicyTest"
)

// IsTestName reports whether a file is named as tests of policies are: *_test.yaml, *_test.yml or *_test.json.
func IsTestName(path string) bool {
	return isDocumentName(path) && strings.HasSuffix(strings.TrimSuffix(path, filepath.Ext(path)), "_test")
}

// isTest reports whether the document says that it is one of tests. The file's name alone does not make it one: a policy
// that is passed over forbids nothing.
func (d *Document) isTest() bool { return d.APIVersion == TestAPIVersion && d.Kind == KindPolicyTest }

// tree is what a walk through a directory finds.
type tree struct {
	files []treeFile
	seen  map[string]bool  // real paths, so that links cannot lead round in circles
	visit func(dir string) // called with the real path of each directory before it is listed
}

func newTree(visit func(dir string)) *tree {
	return &tree{seen: map[string]bool{}, visit: visit}
}

type treeFile struct {
	path string
	err  error // why it cannot even be looked at
}

// walk lists dir. Links are followed, each directory is entered once.
func (t *tree) walk(dir string) error {
	if !t.enter(dir) {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		switch {
		case err != nil && vanished(path): // deleted meanwhile; the watch will say so again
		case err != nil && (isDocumentName(path) || e.IsDir()):
			t.files = append(t.files, treeFile{path, err})
		case err != nil: // a dangling link of some other name
		case info.IsDir():
			if err := t.walk(path); err != nil {
				t.files = append(t.files, treeFile{path, err})
			}
		case isDocumentName(path):
			t.files = append(t.files, treeFile{path: path})
			t.visitTarget(path)
		}
		if len(t.files) > maxFiles {
			return fmt.Errorf("%s: more than %d files", dir, maxFiles)
		}
	}
	return nil
}

// enter notes a directory and reports whether it is new.
func (t *tree) enter(dir string) bool {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if t.seen[dir] {
		return false
	}
	t.seen[dir] = true
	t.visit(dir)
	return true
}

// visitTarget visits the directory that a link to a file leads to, for it is there that changes happen.
func (t *tree) visitTarget(path string) {
	if target, err := filepath.EvalSymlinks(path); err == nil && filepath.Dir(target) != filepath.Dir(path) {
		t.visit(filepath.Dir(target))
	}
}

func vanished(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

func isDocumentName(path string) bool {
	switch filepath.Ext(path) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}
