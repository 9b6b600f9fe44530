package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// maxSourceBytes bounds what is read of one source of documents.
const maxSourceBytes = policy.MaxFileBytes

// stdinName is how documents from standard input are called in messages.
const stdinName = "<stdin>"

// readDocuments reads the documents of all paths: files, directories, or "-" for standard input.
func (c *cli) readDocuments(paths []string) ([]*policy.Document, sources, error) {
	var docs []*policy.Document
	kept := sources{}
	for _, path := range paths {
		if path == "-" {
			data, err := c.readStdin()
			if err != nil {
				return nil, nil, err
			}
			kept[stdinName] = strings.Split(string(data), "\n")
			docs = append(docs, policy.Decode(stdinName, data)...)
			continue
		}
		read, err := policy.Directory{Path: path}.Read()
		if err != nil {
			return nil, nil, err
		}
		docs = append(docs, read...)
	}
	return docs, kept, nil
}

// validDocuments reads the documents of all paths and compiles them. Errors in them are written and end the command:
// offline nobody is served by a guess.
func (c *cli) validDocuments(paths []string, mesh policy.Mesh) ([]*policy.Document, *policy.Snapshot, error) {
	docs, kept, err := c.readDocuments(paths)
	if err != nil {
		return nil, nil, err
	}
	snap := policy.NewSnapshot(docs, mesh)
	broken := errorsOf(snap.Problems())
	if len(broken) == 0 {
		return docs, snap, nil
	}
	sortProblems(broken)
	pw := &problemWriter{w: c.err, colours: c.colours(c.err), sources: kept}
	if err := pw.write(broken); err != nil {
		return nil, nil, err
	}
	return nil, nil, invalidDocuments(broken)
}

// invalidDocuments ends a command whose documents are broken, once it is said how.
func invalidDocuments(broken []policy.Problem) error {
	return invalidf("%s in the documents: nothing was decided", plural(len(broken), "error"))
}

func (c *cli) readStdin() ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(c.in, maxSourceBytes+1))
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	if len(data) > maxSourceBytes {
		return nil, fmt.Errorf("standard input is larger than %d bytes: use files", maxSourceBytes)
	}
	return data, nil
}

// onceStdin refuses "-" given to more than one flag or argument: standard input can be read once.
func onceStdin(names ...string) error {
	n := 0
	for _, name := range names {
		if name == "-" {
			n++
		}
	}
	if n > 1 {
		return usagef("- is given %d times, and standard input can be read once", n)
	}
	return nil
}

// errorsOf are the problems that keep documents from being enforced as written.
func errorsOf(problems []policy.Problem) []policy.Problem {
	var out []policy.Problem
	for _, p := range problems {
		if p.Severity == policy.SeverityError {
			out = append(out, p)
		}
	}
	return out
}

// plural is "1 document" or "2 documents".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
