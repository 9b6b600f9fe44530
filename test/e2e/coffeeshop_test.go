package e2e_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

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

// shopPatience bounds one whole run, in which certificates of 20 s are renewed and the root of all is replaced.
const shopPatience = 4 * time.Minute

// TestCoffeeShop: every row of `make run` is as expected, among them those that tell of each thing the demo is to show; the
// shop then stays open until Ctrl-C, and leaves nothing behind.
func TestCoffeeShop(t *testing.T) {
	binary, temporary := buildShop(t)
	shop := openShop(t, binary)
	out := waitShop(t, shop, "Ctrl-C closes the shop")
	closeShop(t, shop, temporary)
	if strings.Count(out, "\n✓") < 60 || strings.Contains(out, "✗") {
		t.Errorf("the table is not all ticks:\n%s", out)
	}
	for _, shows := range []string{
		"ns/coffee-shop/sa/payment-service .* Envoy \\(SDS\\)",
		"handshake: unknown certificate authority",
		"its Envoy takes mutual TLS only",
		"GET /healthz .* 403 .* plaintext_refused",
		"\\(nobody\\) .* GET /menu .* 200 ",
		"token_refused: signature_invalid",
		"token: carol\\) .* 200 for carol .* allow coffee-shop/barista-brews",
		"barista-house-rules\\[0\\]: the reserve is for gold customers",
		"barista-house-rules\\[0\\]: we are closed",
		"the next certificate .* renewed .* 5 of 5 Envoys .* [0-9]+ orders meanwhile, none lost",
		"ca rotate activate .* done .* none lost",
		"ca rotate revoke .* done .* none lost",
		"\\(same connection\\) .* 403 .* revoked",
		"handshake: revoked certificate",
		"token: of the old key\\) .* 401 .* key_unknown",
	} {
		if !regexp.MustCompile("(?m)^.*" + shows).MatchString(out) {
			t.Errorf("no line has %q:\n%s", shows, out)
		}
	}
}

// openShop starts what `make run` does, at any ports.
func openShop(t *testing.T, binary string) *testkit.Process {
	t.Helper()
	shop, err := testkit.StartProcess("coffeeshop", binary, []string{"-port", "0"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, shop) })
	return shop
}

// waitShop waits for a line, and returns everything printed so far.
func waitShop(t *testing.T, shop *testkit.Process, until string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shopPatience)
	defer cancel()
	if _, err := shop.Output.Wait(ctx, 0, func(line string) bool { return strings.Contains(line, until) }); err != nil {
		t.Fatalf("%v\n%s", err, shop.Output)
	}
	return shop.Output.String()
}

// closeShop is Ctrl-C: the end is a good one, and nothing is left.
func closeShop(t *testing.T, shop *testkit.Process, temporary string) {
	t.Helper()
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
	ctx, cancel := context.WithTimeout(t.Context(), shopPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "-once", "-port", "0", "-policies", policies).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "✗") || !strings.Contains(string(out), "rows of the table differ") {
		t.Errorf("without payment.yaml: %v, want a failure that shows the difference\n%s", err, out)
	}
	wantEmpty(t, temporary)
}

// TestCoffeeShopCannotOpen: what keeps the shop from opening is said, with what to do about it.
func TestCoffeeShopCannotOpen(t *testing.T) {
	binary, temporary := buildShop(t)
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	long := filepath.Join(temporary, strings.Repeat("long", 25))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, temporary string
		args            []string
		want            string
	}{
		{"port", temporary, []string{"-port", strings.TrimPrefix(taken.Addr().String(), "127.0.0.1:")}, "choose others with -port"},
		{"folder", long, []string{"-port", "0"}, "TMPDIR=/tmp"},
		{"policies", temporary, []string{"-port", "0", "-policies", "no-such"}, "run this from the checkout"},
		{"rego", temporary, []string{"-port", "0", "-rego", "no-such"}, "run this from the checkout"},
		{"flag", temporary, []string{"-port", "80"}, "want 0, or 1024 to"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("TMPDIR", tc.temporary)
			out, err := exec.CommandContext(bounded(t), binary, append(tc.args, "-once")...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), tc.want) {
				t.Errorf("%v, want a failure that says %q\n%s", err, tc.want, out)
			}
		})
	}
	wantEmpty(t, long)
}

// TestCoffeeShopCloses: Ctrl-C leaves nothing behind in the middle of the table either, nor while the shop opens.
func TestCoffeeShopCloses(t *testing.T) {
	binary, temporary := buildShop(t)
	for name, until := range map[string]string{"in the middle": "ca rotate distribute", "opening": "Opening the coffee shop"} {
		t.Run(name, func(t *testing.T) {
			shop := openShop(t, binary)
			waitShop(t, shop, until)
			closeShop(t, shop, temporary)
		})
	}
}
