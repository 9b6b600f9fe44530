package e2e_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// buildShop builds the demo and gives it a folder of its own for its temporary files.
func buildShop(t *testing.T) (binary, temporary string) {
	t.Helper()
	b := newBench(t)
	binary, temporary = b.file("coffeeshop"), b.file("tmp")
	if err := os.Mkdir(temporary, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./test/coffeeshop")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./test/coffeeshop: %v\n%s", err, out)
	}
	t.Chdir(root)
	t.Setenv("TMPDIR", temporary)
	t.Setenv("WRIT", b.writ)
	t.Setenv("ENVOY", b.tools.envoy)
	return binary, temporary
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("left behind: %s", entry.Name())
	}
}

// TestCoffeeShop: every answer of `make run` is the expected one.
func TestCoffeeShop(t *testing.T) {
	binary, temporary := buildShop(t)
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), refetchPatience) // its identity provider rotates its keys
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-once", "-port", "0")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("coffeeshop -once: %v\n%s%s", err, &stdout, &stderr)
	}
	if out := stdout.String(); strings.Count(out, "✓") < 40 || strings.Contains(out, "✗") {
		t.Errorf("the table is not all ticks:\n%s", out)
	}
	wantEmpty(t, temporary)
}

// TestCoffeeShopDiffers: a document that decides otherwise shows up in the table and in the exit code.
func TestCoffeeShopDiffers(t *testing.T) {
	policies := t.TempDir()
	binary, temporary := buildShop(t)
	if err := os.CopyFS(policies, os.DirFS("deploy/coffee-shop/policies")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(policies + "/payment.yaml"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(bounded(t), binary, "-once", "-port", "0", "-policies", policies).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "✗") || !strings.Contains(string(out), "answers differ") {
		t.Errorf("without payment.yaml: %v, want a failure that shows the difference\n%s", err, out)
	}
	wantEmpty(t, temporary)
}

// TestCoffeeShopCloses: the shop stays open until Ctrl-C, and leaves nothing behind, nor when it is closed while it
// opens.
func TestCoffeeShopCloses(t *testing.T) {
	binary, temporary := buildShop(t)
	for name, until := range map[string]string{"open": "Ctrl-C closes the shop", "opening": "Opening the coffee shop"} {
		t.Run(name, func(t *testing.T) {
			shop, err := testkit.StartProcess("coffeeshop", binary, []string{"-port", "0"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { stop(t, shop) })
			if _, err := shop.Output.Wait(bounded(t), 0, func(line string) bool { return strings.Contains(line, until) }); err != nil {
				t.Fatalf("%v\n%s", err, shop.Output)
			}
			if err := shop.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if err := shop.Err(); err != nil {
				t.Errorf("after SIGINT: %v\n%s", err, shop.Output)
			}
			wantEmpty(t, temporary)
			if out, _ := exec.CommandContext(t.Context(), "pgrep", "-f", temporary).Output(); len(out) > 0 { // exit 1 = none
				t.Errorf("still running: %s", out)
			}
		})
	}
}
