package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/authz/extauthz"
)

// BenchmarkCandidate pairs the built binary that tries another set of documents on every check with one that does not.
// The ratio is what the trial costs: it shall stay below 1.1.
func BenchmarkCandidate(b *testing.B) {
	s := scenario{rules: 10}
	request, err := extauthz.ParseJSON([]byte(question))
	if err != nil {
		b.Fatal(err)
	}
	documents := s.documents(b, nil)
	for _, bench := range []struct{ name, candidate string }{
		{"workload=unchanged", documents},
		{"workload=changed", strings.ReplaceAll(documents, "caller-1]", "caller-one]")},
		{"answer=changed", strings.ReplaceAll(documents, "[GET]", "[POST]")},
	} {
		for _, concurrency := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/streams=%d", bench.name, concurrency), func(b *testing.B) {
				pair(b, startWithCandidate(b, documents, bench.candidate), s.start(b, nil), request, concurrency)
			})
		}
	}
}

func startWithCandidate(b *testing.B, documents, candidate string) *peer {
	b.Helper()
	dir := b.TempDir()
	for name, text := range map[string]string{
		"policies.yaml":  documents,
		"candidate.yaml": candidate,
		"writ.yaml":      "documents: policies.yaml\ndocuments_candidate: candidate.yaml\nauthz:\n  listen: 127.0.0.1:0\n  token_cache: {entries: 0}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return startServe(b, filepath.Join(dir, "writ.yaml"))
}
