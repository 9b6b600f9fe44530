package main

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// watchInterval is how often --watch looks for changes.
const watchInterval = 300 * time.Millisecond

// watchTests runs the tests, and again after every change of a file they depend on, until ctx is done. That tests fail,
// or cannot be read, is shown and waits for the next change.
func (c *cli) watchTests(ctx context.Context, t *testFlags) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	seen := ""
	for {
		if before := t.fingerprint(t.inputs); before != seen {
			known := t.inputs
			if _, message := exitCode(c.testOnce(ctx, t)); message != "" && ctx.Err() == nil {
				_, _ = fmt.Fprintln(c.err, "writ: "+message)
			}
			_, _ = fmt.Fprintln(c.err, "writ: waiting for changes, ^C ends")
			if t.fingerprint(known) == before { // nothing changed meanwhile; the run may have found more to look at
				seen = t.fingerprint(t.inputs)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fingerprint changes when a file does that the tests depend on: test files, documents, the configuration and its Rego.
// The page of the coverage is written by the tests themselves.
func (t *testFlags) fingerprint(inputs []string) string {
	roots := slices.Concat(t.paths, inputs)
	var b strings.Builder
	seen := map[string]bool{}
	for _, root := range roots {
		if seen[root] {
			continue
		}
		seen[root] = true
		b.WriteString(root + "\n")
		_ = walkFiles(root, func(path string, info fs.FileInfo, err error) error {
			if err == nil && !samePath(path, t.html) { // what is gone will be missed by the tests
				fmt.Fprintf(&b, "%s %d %d\n", path, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
	}
	return b.String()
}

// samePath reports whether two names are of the same file, relative or not.
func samePath(a, b string) bool {
	if filepath.Base(a) != filepath.Base(b) {
		return false
	}
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}
