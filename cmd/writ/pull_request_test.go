package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

// workflow is deploy/ci/policies.yaml, as far as a test can run it: the steps that are commands.
type workflow struct {
	Jobs map[string]struct {
		Env   map[string]string
		Steps []workflowStep
	}
}

type workflowStep struct{ Name, Run string }

// readWorkflow reads it, and demands that docs/pull-requests.md shows the same.
func readWorkflow(t *testing.T) *workflow {
	t.Helper()
	text, err := os.ReadFile("../../deploy/ci/policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/pull-requests.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, text) {
		t.Error("docs/pull-requests.md shows another workflow than deploy/ci/policies.yaml")
	}
	w := &workflow{}
	if err := yaml.Load(text, w); err != nil {
		t.Fatal(err)
	}
	return w
}

// environment is that of the steps, with what GitHub would put in the place of its expressions.
func (w *workflow) environment(t *testing.T, workspace string, labelled bool) []string {
	t.Helper()
	failOn := "widen"
	if labelled {
		failOn = "never"
	}
	env := append(os.Environ(), "GORACE="+quickRace)
	for name, value := range w.Jobs["policies"].Env {
		value = strings.NewReplacer(
			"${{ github.workspace }}", workspace,
			"${{ contains(github.event.pull_request.labels.*.name, 'widens-access') && 'never' || 'widen' }}", failOn,
		).Replace(value)
		if strings.Contains(value, "${{") {
			t.Fatalf("env %s: this test does not know the expression in %q", name, value)
		}
		env = append(env, name+"="+value)
	}
	return env
}

// shell runs a script as GitHub does where "shell: bash" is set.
func shell(t *testing.T, dir string, env []string, script string) ([]byte, error) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Fatal("the steps of deploy/ci/policies.yaml need git and bash: install them")
	}
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	return cmd.CombinedOutput()
}

// pullRequest makes a repository as GitHub's checkout leaves it: a merge of a branch into its target.
func pullRequest(t *testing.T, before, after map[string]string) (workspace string) {
	t.Helper()
	workspace = filepath.Join(t.TempDir(), "repository")
	git := func(script string) {
		env := append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		if out, err := shell(t, workspace, env, script); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	write(t, workspace, map[string]string{"README": "policies\n"})
	write(t, workspace, before)
	git("git init --quiet --initial-branch=main && git add . && git commit --quiet -m before && git checkout --quiet -b change")
	write(t, workspace, after)
	git("git add . && git commit --quiet --allow-empty -m change && git checkout --quiet main && git merge --quiet --no-ff -m merge change")
	return workspace
}

// coffeeShop is the example's policies with their tests, as files of a repository.
func coffeeShop(t *testing.T) map[string]string {
	t.Helper()
	const dir = "../../deploy/coffee-shop/policies"
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files["policies/"+e.Name()] = string(text)
	}
	return files
}

// TestPullRequestWorkflow runs the steps of the workflow on pull requests to the coffee shop.
func TestPullRequestWorkflow(t *testing.T) {
	t.Parallel()
	const order = "policies/order.yaml"
	w, shop := readWorkflow(t), coffeeShop(t)
	replaced := func(old, with string) map[string]string {
		if strings.Count(shop[order], old) != 1 {
			t.Fatalf("%s no longer has one %q", order, old)
		}
		return map[string]string{order: strings.Replace(shop[order], old, with, 1)}
	}
	deeper := replaced(`paths: ["/orders/{*}"] #`, `paths: ["/orders/{**}"] #`)
	fewer := replaced(`methods: ["GET", "POST"]`, `methods: ["GET"]`)
	traffic := func(path string) map[string]string {
		return map[string]string{"traffic/monday.jsonl": `{"attributes":{"source":{"principal":"spiffe://cluster.local/ns/coffee-shop/sa/customer-service"},"contextExtensions":{"writ.namespace":"coffee-shop","writ.labels":"app=order-service"},"request":{"http":{"method":"GET","host":"order","path":"` + path + `"}}}}` + "\n" +
			`{"time":"2026-08-01T12:00:00Z","decision_id":"d","decision":"deny","status":403,"layer":"allow","reason":"no_allow_match","workload":{"namespace":"coffee-shop","labels":{"app":"order-service"}},"source_ip":"10.0.0.1","method":"GET","host":"order","path":"/x"}` + "\n"}
	}
	without := maps.Clone(shop)
	delete(without, "policies/order_test.yaml")
	for name, test := range map[string]struct {
		before, after map[string]string
		labelled      bool
		fail          []string // steps
		says          map[string]string
	}{
		"nothing changes":            {before: shop, says: map[string]string{"Diff": "no difference", "Replay": "there is no directory traffic"}},
		"more is allowed":            {before: shop, after: deeper, fail: []string{"Diff"}, says: map[string]string{"Diff": "widened   coffee-shop app=order-service, http"}},
		"more is allowed on purpose": {before: shop, after: deeper, labelled: true, says: map[string]string{"Diff": "widened"}},
		"too few tests":              {before: without, fail: []string{"Test"}, says: map[string]string{"Test": "coverage"}},
		"less is allowed":            {before: shop, after: fewer, fail: []string{"Test"}, says: map[string]string{"Diff": "narrowed", "Test": "file=policies/order_test.yaml"}},
		"the first policies":         {after: shop, says: map[string]string{"Diff": "narrowed"}},
		"an invalid document": {before: shop, after: replaced("  action: ALLOW\n  rules:\n    - from:", "  action: ALOW\n  rules:\n    - from:"),
			fail: []string{"Diff", "Lint", "Report", "Test"}},
		"traffic that is newly allowed": {before: with(shop, traffic("/orders/7/status")), after: deeper, fail: []string{"Diff", "Replay"},
			says: map[string]string{"Replay": "1 newly allowed"}},
		"traffic that is answered alike": {before: with(shop, traffic("/orders/7")), says: map[string]string{"Replay": "2 requests: 2 answered alike"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			workspace := pullRequest(t, test.before, test.after)
			env := w.environment(t, workspace, test.labelled)
			var failed []string
			for _, step := range w.Jobs["policies"].Steps {
				if step.Run == "" || step.Name == "Install writ" {
					continue
				}
				out, err := shell(t, workspace, env, step.Run)
				if err != nil {
					failed = append(failed, step.Name)
				}
				if !bytes.Contains(out, []byte(test.says[step.Name])) {
					t.Errorf("%s says\n%s\nwant %q", step.Name, out, test.says[step.Name])
				}
			}
			if slices.Sort(failed); !slices.Equal(failed, test.fail) {
				t.Errorf("failed: %q, want %q", failed, test.fail)
			}
			checkArtifacts(t, workspace, slices.Contains(test.fail, "Report"))
		})
	}
}

// with is the files of both.
func with(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// checkArtifacts reads what the steps leave for people and programs.
func checkArtifacts(t *testing.T, workspace string, invalid bool) {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(workspace, name))
		if err != nil {
			t.Error(err)
		}
		return data
	}
	var sarif struct {
		Version string
		Runs    []struct {
			Results []struct {
				Locations []struct {
					PhysicalLocation struct{ ArtifactLocation struct{ URI string } }
				}
			}
		}
	}
	if err := json.Unmarshal(read("lint.sarif"), &sarif); err != nil || sarif.Version != "2.1.0" || len(sarif.Runs) != 1 {
		t.Fatalf("lint.sarif: %v, %+v", err, sarif)
	}
	var places []string
	for _, r := range sarif.Runs[0].Results {
		places = append(places, r.Locations[0].PhysicalLocation.ArtifactLocation.URI)
	}
	if invalid {
		if !slices.Contains(places, "policies/order.yaml") {
			t.Errorf("lint.sarif: findings in %q", places)
		}
		return
	}
	checkJUnit(t, read("policies.xml"))
	if html := read("coverage.html"); !bytes.Contains(html, []byte("order-callers")) {
		t.Error("coverage.html does not tell of order-callers")
	}
	for _, test := range []string{"policies/diff_test.yaml", "policies/replay_test.yaml"} { // they pass, and count
		if _, err := os.Stat(filepath.Join(workspace, test)); err == nil {
			if out, err := writ(t, "test", filepath.Join(workspace, test)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", test, err, out)
			}
		}
	}
}
