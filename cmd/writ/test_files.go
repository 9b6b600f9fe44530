package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// maxTestFiles bounds how many test files one run reads.
const maxTestFiles = 50_000

// testFiles finds the test files below the paths, each once, in order. A file that is named itself may have any name.
func testFiles(paths []string) ([]string, error) {
	var files []string
	known := map[string]bool{}
	for _, root := range paths {
		named := filepath.Clean(root)
		err := walkFiles(named, func(path string, info fs.FileInfo, err error) error {
			switch {
			case err != nil && path != named && errors.Is(err, fs.ErrNotExist) && !policy.IsTestName(path):
				return nil // a dangling link to something else
			case err != nil:
				return err
			case known[path] || path != named && !policy.IsTestName(path):
				return nil
			case path != named && !info.Mode().IsRegular():
				return fmt.Errorf("%s: not a regular file", path) // a pipe could keep the reader waiting
			case len(files) == maxTestFiles:
				return fmt.Errorf("%s: more than %d test files", root, maxTestFiles)
			}
			known[path] = true
			files = append(files, path)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// walkFiles calls each for every file below root, or for root if it is one, in the order of their names, and for what cannot
// be looked at. As where documents are read (policy.Directory), links are followed, each directory is entered once, and
// names that begin with a dot are passed over.
func walkFiles(root string, each func(path string, info fs.FileInfo, err error) error) error {
	w := &fileWalk{entered: map[string]bool{}, each: each}
	return w.walk(root)
}

type fileWalk struct {
	entered map[string]bool // real paths of directories, so that links cannot lead round in circles
	each    func(path string, info fs.FileInfo, err error) error
}

func (w *fileWalk) walk(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return w.each(path, info, err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return w.each(path, nil, err)
	}
	if w.entered[real] {
		return nil
	}
	w.entered[real] = true
	entries, err := os.ReadDir(path)
	if err != nil {
		return w.each(path, nil, err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := w.walk(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
