package policy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/policy"
)

func namedPolicy(name string) string {
	return strings.Replace(goodPolicy, "name: good", "name: "+name, 1)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// names lists the documents of a directory, the broken ones by file and code.
func names(t *testing.T, path string) string {
	t.Helper()
	docs, err := policy.Directory{Path: path}.Read()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range docs {
		if d.Broken() {
			out = append(out, filepath.Base(d.File)+" "+d.Problems[0].Code)
			continue
		}
		out = append(out, d.Name)
	}
	return strings.Join(out, ", ")
}

func TestReadDirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b.yaml"), namedPolicy("b"))
	write(t, filepath.Join(dir, "a.yml"), namedPolicy("a"))
	write(t, filepath.Join(dir, "c", "d.json"), `{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{"name":"d","namespace":"x-y"}}`)
	write(t, filepath.Join(dir, "README.md"), "not a document")
	write(t, filepath.Join(dir, ".hidden.yaml"), namedPolicy("hidden"))
	write(t, filepath.Join(dir, ".git", "x.yaml"), namedPolicy("hidden"))
	link(t, "..", filepath.Join(dir, "c", "loop"))
	link(t, "nowhere", filepath.Join(dir, "dangling"))
	if got := names(t, dir); got != "a, b, d" {
		t.Errorf("got %s", got)
	}
	if got := names(t, filepath.Join(dir, "b.yaml")); got != "b" {
		t.Errorf("one file: got %s", got)
	}
}

func TestReadUnreadable(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a"))
	link(t, "nowhere", filepath.Join(dir, "dangling.yaml"))
	if err := os.Mkdir(filepath.Join(dir, "directory.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "/dev/null", filepath.Join(dir, "null.yaml"))
	write(t, filepath.Join(dir, "large.yaml"), strings.Repeat("# nothing\n", 1<<20))
	if got := names(t, dir); got != "a, dangling.yaml WRIT100, large.yaml WRIT103, null.yaml WRIT100" {
		t.Errorf("got %s", got)
	}
	for _, path := range []string{filepath.Join(dir, "missing"), filepath.Join(dir, "dangling.yaml"), "/dev/null"} {
		if docs, err := (policy.Directory{Path: path}).Read(); err == nil {
			t.Errorf("%s: no error, %d documents", path, len(docs))
		}
	}
}

// kubelet mimics how kubelet writes a volume: files are links into ..data, which is swapped in one step.
type kubelet struct {
	dir        string
	generation int
}

func (k *kubelet) write(t *testing.T, files map[string]string) {
	t.Helper()
	k.generation++
	stamp := fmt.Sprintf("..2026_01_01_%d", k.generation)
	for name, text := range files {
		write(t, filepath.Join(k.dir, stamp, name), text)
	}
	old, _ := os.Readlink(filepath.Join(k.dir, "..data"))
	link(t, stamp, filepath.Join(k.dir, "..data_tmp"))
	if err := os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")); err != nil {
		t.Fatal(err)
	}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		if _, err := os.Lstat(filepath.Join(k.dir, top)); err != nil {
			link(t, filepath.Join("..data", top), filepath.Join(k.dir, top))
		}
	}
	if old != "" {
		if err := os.RemoveAll(filepath.Join(k.dir, old)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadKubeletVolume(t *testing.T) {
	k := &kubelet{dir: t.TempDir()}
	k.write(t, map[string]string{"a.yaml": namedPolicy("a1"), "sub/b.yaml": namedPolicy("b1")})
	if got := names(t, k.dir); got != "a1, b1" {
		t.Errorf("got %s", got)
	}
	k.write(t, map[string]string{"a.yaml": namedPolicy("a2"), "sub/b.yaml": namedPolicy("b2")})
	if got := names(t, k.dir); got != "a2, b2" {
		t.Errorf("after the swap: got %s", got)
	}
}

// watched runs a watch for the length of a test and hands out what it reports.
type watched struct {
	t       *testing.T
	changes chan struct{}
}

func startWatch(t *testing.T, path string) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{t: t, changes: make(chan struct{}, 100)}
	done := make(chan error, 1)
	go func() {
		done <- policy.Directory{Path: path}.Watch(ctx, func() { w.changes <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	w.next("the start")
	return w
}

// next waits for a report.
func (w *watched) next(after string) {
	w.t.Helper()
	select {
	case <-w.changes:
	case <-time.After(10 * time.Second):
		w.t.Fatalf("no report within 10s after %s", after)
	}
}

// until waits until the directory reads as wanted after some report.
func (w *watched) until(path, want string) {
	w.t.Helper()
	for got := ""; ; {
		w.next("writing " + want + ", last read: " + got)
		docs, err := policy.Directory{Path: path}.Read()
		if err != nil {
			got = "error"
		} else {
			got = names(w.t, path)
		}
		if got == want && (err != nil || len(docs) >= 0) {
			return
		}
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	w := startWatch(t, dir)

	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a"))
	w.until(dir, "a")
	write(t, filepath.Join(dir, "sub", "deep", "b.yaml"), namedPolicy("b"))
	w.until(dir, "a, b")
	write(t, filepath.Join(dir, "sub", "deep", "b.yaml"), namedPolicy("b2"))
	w.until(dir, "a, b2")

	tmp := filepath.Join(dir, ".new") // editors write elsewhere and rename
	write(t, tmp, namedPolicy("a2"))
	if err := os.Rename(tmp, filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until(dir, "a2, b2")
	if err := os.RemoveAll(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	w.until(dir, "a2")
}

// TestWatchBurst writes faster than the watch settles: it reports once, not for every file.
func TestWatchBurst(t *testing.T) {
	dir := t.TempDir()
	w := startWatch(t, dir)
	for i := range 50 {
		write(t, filepath.Join(dir, fmt.Sprintf("%02d.yaml", i)), namedPolicy(fmt.Sprintf("p%d", i)))
	}
	w.next("a burst")
	if docs, err := (policy.Directory{Path: dir}).Read(); err != nil || len(docs) != 50 {
		t.Errorf("%d documents, %v", len(docs), err)
	}
	if n := len(w.changes); n > 2 {
		t.Errorf("%d more reports", n)
	}
}

// TestWatchVanish takes the directory away and brings it back, also in one step, and by a link above it.
func TestWatchVanish(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "policies")
	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a1"))
	w := startWatch(t, dir)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	w.until(dir, "error")
	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a2"))
	w.until(dir, "a2")
	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a3"))
	w.until(dir, "a3")

	write(t, filepath.Join(base, "next", "a.yaml"), namedPolicy("a4"))
	if err := os.Rename(dir, filepath.Join(base, "old")); err != nil {
		t.Fatal(err)
	}
	link(t, "next", dir)
	w.until(dir, "a4")
	write(t, filepath.Join(base, "next", "a.yaml"), namedPolicy("a5"))
	w.until(dir, "a5")

	write(t, filepath.Join(base, "third", "a.yaml"), namedPolicy("a6"))
	link(t, "third", filepath.Join(base, "link"))
	if err := os.Rename(filepath.Join(base, "link"), dir); err != nil {
		t.Fatal(err)
	}
	w.until(dir, "a6")
}

func TestWatchAbsentAtStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	w := startWatch(t, dir)
	write(t, filepath.Join(dir, "a.yaml"), namedPolicy("a"))
	w.until(dir, "a")
}

func TestWatchKubeletVolume(t *testing.T) {
	k := &kubelet{dir: t.TempDir()}
	k.write(t, map[string]string{"a.yaml": namedPolicy("a1"), "sub/b.yaml": namedPolicy("b1")})
	w := startWatch(t, k.dir)
	for i := 2; i < 5; i++ {
		k.write(t, map[string]string{"a.yaml": namedPolicy(fmt.Sprintf("a%d", i)), "sub/b.yaml": namedPolicy(fmt.Sprintf("b%d", i))})
		w.until(k.dir, fmt.Sprintf("a%d, b%d", i, i))
	}
}

func TestWatchFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, namedPolicy("a1"))
	w := startWatch(t, file)
	write(t, file, namedPolicy("a2"))
	w.until(file, "a2")
	write(t, file+".new", namedPolicy("a3"))
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	w.until(file, "a3")
}

// TestWatchLinkedFile follows a link to a file elsewhere.
func TestWatchLinkedFile(t *testing.T) {
	base := t.TempDir()
	target := filepath.Join(base, "elsewhere", "real.yaml")
	write(t, target, namedPolicy("a1"))
	dir := filepath.Join(base, "policies")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, target, filepath.Join(dir, "a.yaml"))
	w := startWatch(t, dir)
	write(t, target, namedPolicy("a2"))
	w.until(dir, "a2")
}

// TestDirectoryWithoutFiles: a volume that is not mounted reads as an empty directory, and no policies would mean that
// everything is allowed. Whoever means it says so with a file.
func TestDirectoryWithoutFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("not a document"), 0o600); err != nil {
		t.Fatal(err)
	}
	if docs, err := (policy.Directory{Path: dir}).Read(); !errors.Is(err, policy.ErrNoFiles) {
		t.Fatalf("%d documents, error %v, want ErrNoFiles", len(docs), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "none.yaml"), []byte("# nothing is enforced here, on purpose\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if docs, err := (policy.Directory{Path: dir}).Read(); err != nil || len(docs) != 0 {
		t.Fatalf("%d documents, error %v, want none and no error", len(docs), err)
	}
}

// TestUnknownSecurityKind: the API server refuses a kind that security.istio.io does not have; passed over, it would
// forbid nothing.
func TestUnknownSecurityKind(t *testing.T) {
	t.Parallel()
	docs := policy.Decode("a.yaml", []byte("apiVersion: security.istio.io/v1\nkind: Firewall\nmetadata: {name: a, namespace: foo}\nspec: {}\n"))
	if len(docs) != 1 || !docs[0].Broken() {
		t.Errorf("got %+v, want one broken document", docs)
	}
	docs = policy.Decode("a.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: foo}\nspec: {}\n"))
	if len(docs) != 1 || !docs[0].Ignored || docs[0].Broken() {
		t.Errorf("got %+v, want one document that is passed over", docs)
	}
}
