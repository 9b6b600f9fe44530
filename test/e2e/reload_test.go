package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// allowOnly lets GET of these paths through, and nothing else.
func allowOnly(paths ...string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only, namespace: coffee-shop}
spec:
  selector: {matchLabels: {app: order-service}}
  rules: [{to: [{operation: {methods: [GET], paths: ["%s"]}}]}]
`, strings.Join(paths, `", "`))
}

// wantAnswer waits until the answer to GET path is status.
func wantAnswer(t *testing.T, client *http.Client, envoy *testkit.Envoy, path string, status int) {
	t.Helper()
	eventually(t, fmt.Sprintf("GET %s is %d", path, status), func() error {
		if got := get(t, client, envoy, "GET", path); got.status != status {
			return fmt.Errorf("got %d %q", got.status, got.body)
		}
		return nil
	})
}

// TestReload changes the documents in the ways that people and tools do, and expects the next answers to follow.
func TestReload(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.policy(t, "a.yaml", allowOnly("/orders"))
	authority := b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	customer := b.caller(t, "customer-service")
	file := filepath.Join(b.file("policies"), "a.yaml")
	wantAnswer(t, customer, envoy, "/orders", 200)
	wantAnswer(t, customer, envoy, "/menu", 403)

	t.Run("replaced by rename", func(t *testing.T) {
		b.policy(t, "a.yaml", allowOnly("/menu"))
		wantAnswer(t, customer, envoy, "/menu", 200)
		wantAnswer(t, customer, envoy, "/orders", 403)
	})
	t.Run("written in place", func(t *testing.T) {
		if err := os.WriteFile(file, []byte(allowOnly("/orders")), 0o644); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, customer, envoy, "/orders", 200)
		wantAnswer(t, customer, envoy, "/menu", 403)
	})
	t.Run("file added", func(t *testing.T) {
		b.policy(t, "b.yaml", strings.Replace(allowOnly("/menu"), "name: only", "name: menu", 1))
		wantAnswer(t, customer, envoy, "/menu", 200)
		wantAnswer(t, customer, envoy, "/orders", 200)
	})
	t.Run("file removed", func(t *testing.T) {
		if err := os.Remove(filepath.Join(b.file("policies"), "b.yaml")); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, customer, envoy, "/menu", 403)
	})
	t.Run("broken and mended", func(t *testing.T) {
		b.policy(t, "a.yaml", strings.Replace(allowOnly("/menu"), "rules", "ruels", 1))
		eventually(t, "writ is not ready", func() error {
			if _, err := authority.Get(t.Context(), "/readyz"); err == nil {
				return fmt.Errorf("/readyz is 200")
			}
			return nil
		})
		wantAnswer(t, customer, envoy, "/orders", 200) // its last good version
		wantAnswer(t, customer, envoy, "/menu", 403)
		b.policy(t, "a.yaml", allowOnly("/menu"))
		wantAnswer(t, customer, envoy, "/menu", 200)
		if err := authority.WaitReady(bounded(t)); err != nil {
			t.Error(err)
		}
	})
	t.Run("SIGHUP", func(t *testing.T) {
		before := authority.Loads()
		if err := authority.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "loaded again", func() error {
			if authority.Loads() == before {
				return fmt.Errorf("%d loads as before", before)
			}
			return nil
		})
		wantAnswer(t, customer, envoy, "/menu", 200)
	})
	t.Run("directory vanishes and returns", func(t *testing.T) {
		away := b.file("away")
		if err := os.Rename(b.file("policies"), away); err != nil {
			t.Fatal(err)
		}
		eventually(t, "writ is not ready", func() error {
			if _, err := authority.Get(t.Context(), "/readyz"); err == nil {
				return fmt.Errorf("/readyz is 200")
			}
			return nil
		})
		wantAnswer(t, customer, envoy, "/menu", 200)
		wantAnswer(t, customer, envoy, "/orders", 403)
		if err := os.WriteFile(filepath.Join(away, "a.yaml"), []byte(allowOnly("/orders")), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(away, b.file("policies")); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, customer, envoy, "/orders", 200)
		wantAnswer(t, customer, envoy, "/menu", 403)
	})
}

// TestReloadConfigMap swaps documents as the kubelet does for a mounted ConfigMap: the files are links through ..data,
// which is a link to a dated folder and replaced by rename.
func TestReloadConfigMap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	mount := b.file("policies")
	publish := func(version, text string) {
		t.Helper()
		dated := filepath.Join(mount, "..2026_"+version)
		if err := os.Mkdir(dated, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dated, "policies.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Base(dated), filepath.Join(mount, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		old, _ := os.Readlink(filepath.Join(mount, "..data")) // none the first time
		if err := os.Rename(filepath.Join(mount, "..data_tmp"), filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
		if old == "" {
			if err := os.Symlink(filepath.Join("..data", "policies.yaml"), filepath.Join(mount, "policies.yaml")); err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := os.RemoveAll(filepath.Join(mount, old)); err != nil {
			t.Fatal(err)
		}
	}
	publish("01", allowOnly("/orders"))
	b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	customer := b.caller(t, "customer-service")
	wantAnswer(t, customer, envoy, "/orders", 200)
	wantAnswer(t, customer, envoy, "/menu", 403)
	publish("02", allowOnly("/menu"))
	wantAnswer(t, customer, envoy, "/menu", 200)
	wantAnswer(t, customer, envoy, "/orders", 403)
	publish("03", allowOnly("/orders", "/menu"))
	wantAnswer(t, customer, envoy, "/orders", 200)
	wantAnswer(t, customer, envoy, "/menu", 200)
}

// TestReloadUnderLoad flips the documents between versions that agree about the requests of the load, and disagree
// about others. Not one answer may be wrong or missing.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	const flips = 12
	b := newBench(t)
	version := func(i int) string {
		odd := ""
		if i%2 == 1 { // other rules before and after the ones that matter, other indexes, other neighbours
			odd = fmt.Sprintf(", \"/version/%d\", \"/extra/*\"", i)
		}
		return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only, namespace: coffee-shop}
spec:
  rules:
    - to: [{operation: {paths: ["/even"%s]}}]
    - from: [{source: {principals: ["cluster.local/ns/coffee-shop/sa/customer-service"]}}]
      to: [{operation: {methods: [GET], paths: ["/orders/{*}"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: istio-system}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/orders/never", "/flip/%d"]}}]}]
`, odd, i)
	}
	b.policy(t, "all.yaml", version(0))
	authority := b.serve(t, "authz.sock")
	envoy := b.envoy(t, echo(t), database(t))
	customer, barista := b.caller(t, "customer-service"), b.caller(t, "barista-service")
	traffic := startLoad(t, "https://"+envoy.Listener("http"), []probe{
		{customer, "GET", "/orders/7", 200},
		{customer, "GET", "/orders/8?again", 200},
		{barista, "GET", "/orders/7", 403},
		{customer, "GET", "/orders/never", 403},
		{customer, "GET", "/elsewhere", 403},
	})
	for i := 1; i <= flips; i++ {
		loads := authority.Loads()
		b.policy(t, "all.yaml", version(i))
		if i%3 == 0 { // twice at once
			if err := authority.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the flip is loaded", func() error {
			if authority.Loads() == loads {
				return fmt.Errorf("%d loads as before", loads)
			}
			return nil
		})
		traffic.waitFor(t, 50)
	}
	traffic.finish(t)
	// And a version that changes the answer does so.
	b.policy(t, "all.yaml", allowOnly("/menu"))
	wantAnswer(t, customer, envoy, "/menu", 200)
	wantAnswer(t, customer, envoy, "/orders/7", 403)
	if n := counter(t, envoy, "cluster.order.ext_authz.error"); n != 0 {
		t.Errorf("Envoy counted %d questions without an answer", n)
	}
	if n := counter(t, envoy, "cluster.order.ext_authz.ok"); n == 0 {
		t.Error("Envoy counted no question at all: are the counters named otherwise now?")
	}
}

func counter(t *testing.T, envoy *testkit.Envoy, name string) uint64 {
	t.Helper()
	n, err := envoy.Counter(bounded(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
