package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// listed is what `go list -json` says of one package.
type listed struct {
	ImportPath string
	Dir        string
	Name       string
	Doc        string
	GoFiles    []string
	Deps       []string // of the package without its tests, all the way down
	Error      *struct{ Err string }
}

// room is the package's path below the module.
func (l listed) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, module), "/")
}

func packages(t *testing.T) []listed {
	t.Helper()
	goList := func(args ...string) []byte {
		cmd := exec.Command("go", append([]string{"list"}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list %s: %v\n%s(this test needs the go command on PATH)", strings.Join(args, " "), err, &stderr)
		}
		return out
	}
	name, root, _ := strings.Cut(strings.TrimSpace(string(goList("-m", "-f={{.Path}} {{.Dir}}"))), " ")
	if name != module {
		t.Fatalf("module is %q, want %q: update the constant", name, module)
	}
	touchDirectories(t, root)
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(goList("-e", "-deps=false", "-json=ImportPath,Dir,Name,Doc,GoFiles,Deps,Error", module+"/...")))
	for {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	if len(all) < 3 {
		t.Fatalf("go list found %d packages: the test looks at the wrong module", len(all))
	}
	return all
}

// touchDirectories reads every directory of the module, so that a cached result of this test does not outlive a new
// package: go test's cache sees what this process opens, and nothing of what go list does.
func touchDirectories(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRooms holds every package to its row in rooms.
func TestRooms(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if p.Error != nil && len(p.GoFiles) > 0 {
			t.Errorf("%s: %s", p.ImportPath, p.Error.Err)
		}
		allowed, known := rooms()[p.room()]
		if !known {
			t.Errorf("package %s is in no room: add a row to rooms that says what it may import", p.ImportPath)
			continue
		}
		if slices.Contains(allowed, anything) {
			continue
		}
		for _, dep := range p.Deps {
			if !under(module)(dep) {
				continue
			}
			if room := strings.TrimPrefix(dep, module+"/"); !slices.Contains(allowed, room) {
				t.Errorf("%s reaches %s, its row allows only %v", p.ImportPath, dep, allowed)
			}
		}
	}
}

// TestProductionDoesNotReachTestHelpers keeps test authorities, fakes and proxies out of the binary.
func TestProductionDoesNotReachTestHelpers(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if isTestHelper(p.room()) {
			continue
		}
		for _, dep := range p.Deps {
			if room, ours := strings.CutPrefix(dep, module+"/"); ours && isTestHelper(room) {
				t.Errorf("%s reaches the test helper %s", p.ImportPath, dep)
			}
		}
	}
}

// TestForeignImports looks into every file, whatever its build tags, for libraries that have one place only.
func TestForeignImports(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		for file, imports := range importsOf(t, p.Dir) {
			inTest := strings.HasSuffix(file, "_test.go") || isTestHelper(p.room())
			for _, f := range foreigners() {
				mayHere := slices.Contains(f.pkgs, p.room()) || f.file != "" && filepath.Base(file) == f.file || inTest && !f.tests
				if i := slices.IndexFunc(imports, f.matches); i >= 0 && !mayHere {
					t.Errorf("%s imports %s: %s belong to packages %v, files %q", file, imports[i], f.name, f.pkgs, f.file)
				}
			}
		}
	}
}

// importsOf maps every Go file of a directory to what it imports.
func importsOf(t *testing.T, dir string) map[string][]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string, len(files))
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, spec := range parsed.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Errorf("%s: %v", file, err)
			}
			out[file] = append(out[file], path)
		}
	}
	return out
}

// TestPurePackages looks for calls that would make a decision depend on more than documents and request.
func TestPurePackages(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if !slices.Contains(pure(), p.room()) {
			continue
		}
		for _, name := range p.GoFiles {
			if watches(name) {
				continue
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Errorf("%v", err)
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(impure(), x.Name+"."+sel.Sel.Name) {
						t.Errorf("%s uses %s.%s: package %s is pure", set.Position(n.Pos()), x.Name, sel.Sel.Name, p.room())
					}
				}
				return true
			})
		}
	}
}

// TestEveryPackageIsDocumented: a package says what it does and where to start.
func TestEveryPackageIsDocumented(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.ImportPath) + " "
		}
		if !strings.HasPrefix(p.Doc, want) {
			t.Errorf("%s: the package comment starts %q, want %q", p.ImportPath, p.Doc, want+"…")
		}
	}
}

// TestRulesCatch makes sure that the rules can fail: a rule that matches nothing protects nothing.
func TestRulesCatch(t *testing.T) {
	t.Parallel()
	caught := func(path string) bool {
		return slices.ContainsFunc(foreigners(), func(f foreign) bool { return f.matches(path) })
	}
	for _, path := range []string{
		"k8s.io/client-go/kubernetes", "sigs.k8s.io/yaml", "github.com/prometheus/client_golang/prometheus", "database/sql",
		"github.com/envoyproxy/go-control-plane/envoy/service/auth/v3", "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3",
	} {
		if !caught(path) {
			t.Errorf("no rule about %s", path)
		}
	}
	for _, path := range []string{"net/netip", "istio.io/api/security/v1beta1", "k8s.iot/x", "database/sqlite"} {
		if caught(path) {
			t.Errorf("a rule about %s", path)
		}
	}
	for room, allowed := range rooms() {
		for _, a := range allowed {
			if _, known := rooms()[a]; a != anything && !known {
				t.Errorf("room %s may import %s, which is no room", room, a)
			}
		}
	}
}
