package policy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

var update = flag.Bool("update", false, "rewrite the golden files of testdata")

// TestDecodeGolden compares every problem of every file in testdata/decode with what is recorded next to it.
func TestDecodeGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata/decode: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := describeDocuments(policy.Decode(name, data))
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (run with -update to make it)", err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// describeDocuments lists documents and their problems for people.
func describeDocuments(docs []*policy.Document) string {
	var b strings.Builder
	for _, d := range docs {
		state := "good"
		switch {
		case d.Broken():
			state = "broken"
		case d.Ignored:
			state = "passed over"
		}
		fmt.Fprintf(&b, "line %d: %s: %s\n", d.Line, d.Object, state)
		for _, p := range d.Problems {
			fmt.Fprintf(&b, "    %s\n", p.Error())
		}
	}
	return b.String()
}
