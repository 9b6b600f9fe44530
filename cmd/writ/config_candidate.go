package main

import (
	"path/filepath"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// checkCandidate looks at the set of documents that is tried on live traffic.
func (d *configDecoder) checkCandidate(c *config) {
	switch {
	case c.DocumentsCandidate == "":
	case c.Authz == nil:
		d.bad("documents_candidate", "%q: without authz no request is answered that it could be tried on", c.DocumentsCandidate)
	case within(c.Documents, c.DocumentsCandidate) || within(c.DocumentsCandidate, c.Documents):
		d.bad("documents_candidate", "%q and documents, %q, are one inside the other, and what is in documents is enforced: keep them apart",
			c.DocumentsCandidate, c.Documents)
	}
}

// within reports whether path is dir or somewhere below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// candidateProblems reads the candidate documents and says what is wrong with them.
func (c *config) candidateProblems() ([]policy.Problem, error) {
	if c.DocumentsCandidate == "" {
		return nil, nil
	}
	docs, err := policy.Directory{Path: c.DocumentsCandidate}.Read()
	if err != nil {
		return nil, err
	}
	return policy.NewSnapshot(docs, c.mesh()).Problems(), nil
}
