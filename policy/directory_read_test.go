package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-auth/writ/policy"
)

// Files that are read side by side come out as if they were read one after another: in order of their paths, each problem
// with its file.
func TestReadManyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var want []string
	for i := range 200 {
		path := filepath.Join(dir, fmt.Sprintf("%03d.yaml", i))
		switch i % 10 {
		case 3:
			write(t, path, "kind: [")
			want = append(want, filepath.Base(path)+" WRIT101")
		case 5:
			link(t, "nowhere", path)
			want = append(want, filepath.Base(path)+" WRIT100")
		case 7:
			write(t, path, "# nothing\n")
		default: // some much larger than others
			text := strings.Repeat("# some text before it\n", i%7*1000)
			write(t, path, text+namedPolicy(fmt.Sprintf("a%d", i))+"---\n"+namedPolicy(fmt.Sprintf("b%d", i)))
			want = append(want, fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i))
		}
	}
	for range 5 {
		if got := names(t, dir); got != strings.Join(want, ", ") {
			t.Fatalf("got %s\nwant %s", got, strings.Join(want, ", "))
		}
	}
}

// The text of a problem is the same for a file of many as for a file alone.
func TestReadProblemsNameTheirFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 8 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), strings.Repeat("\n", i)+"kind: [")
	}
	docs, err := policy.Directory{Path: dir}.Read()
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range docs {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		alone := policy.Decode(path, text)
		if got, want := fmt.Sprint(d.Problems), fmt.Sprint(alone[0].Problems); d.File != path || got != want {
			t.Errorf("%d: %s: %s\nwant %s", i, d.File, got, want)
		}
	}
}

// Bounds are those of each file: any number of files, each as large or as full of values as a file may be, is read, and
// one that is too large or too full keeps nobody waiting.
func TestReadBoundsOfEachFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	large := "# " + strings.Repeat("x", policy.MaxFileBytes-4096) + "\n"
	full := "kind: X\nspec: [" + strings.Repeat("1,", 1<<20) + "1]\n"
	var want []string
	for i := range 3 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d-a-large.yaml", i)), large+namedPolicy(fmt.Sprintf("large%d", i)))
		write(t, filepath.Join(dir, fmt.Sprintf("%d-b-too-large.yaml", i)), large+strings.Repeat("#\n", 4096))
		write(t, filepath.Join(dir, fmt.Sprintf("%d-c-too-full.yaml", i)), full)
		write(t, filepath.Join(dir, fmt.Sprintf("%d-d-small.yaml", i)), namedPolicy(fmt.Sprintf("small%d", i)))
		want = append(want, fmt.Sprintf("large%d", i), fmt.Sprintf("%d-b-too-large.yaml WRIT103", i),
			fmt.Sprintf("%d-c-too-full.yaml WRIT105", i), fmt.Sprintf("small%d", i))
	}
	if got := names(t, dir); got != strings.Join(want, ", ") {
		t.Errorf("got %s\nwant %s", got, strings.Join(want, ", "))
	}
}
