package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/writ-auth/writ/internal/testkit"
)

// recorded are instructions by hot path, and the Go that compiled them.
type recorded struct {
	goVersion string
	counts    map[string]int
}

// recordFile is where the counts of this architecture are kept.
func recordFile() (string, error) {
	root, err := testkit.Root()
	return filepath.Join(root, "test", "bench", "testdata", "instructions_"+runtime.GOARCH+".txt"), err
}

const recordHead = "# Instructions of hot paths (make bench-instructions explains them, make bench-instructions-record writes this file): "

func readRecord() (*recorded, error) {
	file, err := recordFile()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &recorded{counts: map[string]int{}}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(recordHead)); ok {
			r.goVersion = string(bytes.TrimSpace(rest))
			continue
		}
		var path string
		var count int
		if _, err := fmt.Sscan(string(line), &path, &count); err != nil || count <= 0 {
			return nil, fmt.Errorf("%s: line %q: want a path and a count", file, line)
		}
		r.counts[path] = count
	}
	return r, nil
}

func (r *recorded) write() error {
	file, err := recordFile()
	if err != nil {
		return err
	}
	var b bytes.Buffer
	fmt.Fprintln(&b, recordHead+r.goVersion)
	for _, path := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintln(&b, path, r.counts[path])
	}
	return os.WriteFile(file, b.Bytes(), 0o644) //nolint:gosec // G306: part of the repository
}

// judge compares the instructions of so many calls with what is recorded for as many.
func (r *recorded) judge(path hotPath, took, calls int) error {
	was, ok := r.counts[path.name]
	if !ok {
		return fmt.Errorf("hot path %q has no recorded count: make bench-instructions-record", path.name)
	}
	was *= calls
	if ratio := float64(took) / float64(was); ratio > path.most {
		return fmt.Errorf("hot path %q (%s) takes %s instructions, %+.1f %% beside the recorded %s, with a tolerance of %.0f %% (recorded with %s, this is %s): "+
			"see in which functions with make bench-instructions; if it is meant to be so, make bench-instructions-record and say why in the commit",
			path.name, path.what, count(took), 100*(ratio-1), count(was), 100*(path.most-1), r.goVersion, runtime.Version())
	}
	return nil
}

// instructions counts those of every hot path and prints them, with the functions that have most of them; it records
// them, or fails if there are too many.
func instructions(ctx context.Context, record bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	now := &recorded{runtime.Version(), map[string]int{}}
	was := &recorded{}
	if !record {
		if was, err = readRecord(); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(os.Stdout)
	defer func() { _ = out.Flush() }()
	var failed []error
	for _, path := range hotPaths() {
		s, err := stepThrough(ctx, self, path, 1)
		if err != nil {
			return err
		}
		now.counts[path.name] = s.count
		fmt.Fprintf(out, "%s: %s; recorded %s; %s\n", path.name, count(s.count), count(was.counts[path.name]), path.what)
		s.printFunctions(out)
		_ = out.Flush()
		if !record {
			failed = append(failed, was.judge(path, s.count, 1))
		}
	}
	if record {
		return now.write()
	}
	return errors.Join(failed...)
}

// printFunctions lists the functions with most of the instructions.
func (s *stepped) printFunctions(out io.Writer) {
	const most = 15
	names := slices.SortedFunc(maps.Keys(s.in), func(a, b string) int { return cmp.Or(s.in[b]-s.in[a], cmp.Compare(a, b)) })
	for _, name := range names[:min(most, len(names))] {
		fmt.Fprintf(out, "%10s  %s\n", count(s.in[name]), name)
	}
}
