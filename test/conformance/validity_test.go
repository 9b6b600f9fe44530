package conformance_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// validityCase is one of the 400 documents of testdata/validity.jsonl with what Istio's own decoding and validation
// (development branch of August 2026) said of it when it was recorded.
type validityCase struct {
	ID      string `json:"id"`
	YAML    string `json:"yaml"`
	Valid   bool   `json:"valid"`
	Error   string `json:"error"`
	Warning string `json:"warning"`
}

// TestValidity holds Decode to Istio's verdict on every document of the corpus: an error exactly where Istio refuses
// it, a warning wherever Istio warns of an AuthorizationPolicy.
func TestValidity(t *testing.T) {
	for _, c := range readValidity(t) {
		t.Run(c.ID, func(t *testing.T) {
			docs := policy.Decode(c.ID+".yaml", []byte(c.YAML))
			if len(docs) != 1 {
				t.Fatalf("got %d documents, want 1:\n%s", len(docs), c.YAML)
			}
			d := docs[0]
			if d.Broken() == c.Valid {
				t.Errorf("broken = %v, Istio says valid = %v\n%s\nproblems: %v\nIstio: %s", d.Broken(), c.Valid, c.YAML, d.Problems, c.Error)
			}
			if c.Warning != "" && d.Kind == policy.KindAuthorizationPolicy && !hasSeverity(d, policy.SeverityWarning) {
				t.Errorf("no warning\n%s\nIstio: %s", c.YAML, c.Warning)
			}
			for _, p := range d.Problems {
				if p.Line == 0 || p.Column == 0 {
					t.Errorf("problem without a place: %v", p)
				}
			}
		})
	}
}

func hasSeverity(d *policy.Document, s policy.Severity) bool {
	for _, p := range d.Problems {
		if p.Severity == s {
			return true
		}
	}
	return false
}

func readValidity(t *testing.T) []validityCase {
	t.Helper()
	f, err := os.Open("testdata/validity.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	var cases []validityCase
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c validityCase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatalf("line %d: %v", len(cases)+1, err)
		}
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 400 {
		t.Fatalf("testdata/validity.jsonl has %d cases, want 400", len(cases))
	}
	return cases
}
