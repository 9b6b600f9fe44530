package main

import (
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirstCertificate types what README.md says, all at once, as who pastes it does: later commands wait for the
// authority that the first one starts.
func TestFirstCertificate(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## A first certificate in three commands\n")
	_, rest, isYAML := strings.Cut(section, "```yaml\n")
	config, rest, closed := strings.Cut(rest, "```\n")
	_, rest, isBlock := strings.Cut(rest, "```\n")
	session, _, ends := strings.Cut(rest, "```\n")
	if !found || !isYAML || !closed || !isBlock || !ends {
		t.Fatal("README.md does not show a configuration and a session any more")
	}
	const address = "127.0.0.1:8081"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := listener.Addr().String()
	_ = listener.Close()
	var script strings.Builder
	for line := range strings.Lines(session) {
		if typed, ok := strings.CutPrefix(line, "$ "); ok {
			script.WriteString(strings.ReplaceAll(typed, address, free))
		}
	}
	if n := strings.Count(script.String(), "\n"); n != 3 {
		t.Fatalf("%d commands, want 3:\n%s", n, &script)
	}
	script.WriteString("code=$?; kill $!; wait $! && exit $code\n")

	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": strings.Replace(config, "ca: {}", "ca: {listen: \""+free+"\"}", 1)})
	bin, like := t.TempDir(), writ(t)
	if err := os.Symlink(like.Path, filepath.Join(bin, "writ")); err != nil {
		t.Fatal(err)
	}
	sh := exec.CommandContext(t.Context(), "sh", "-c", script.String())
	sh.Dir, sh.Env = dir, append(like.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := sh.CombinedOutput()
	if err != nil || !strings.Contains(string(out), orderID+" until ") {
		t.Fatalf("%v:\n%s\n%s", err, &script, out)
	}
	if err := fits(filepath.Join(dir, "order")); err != nil {
		t.Error(err)
	}
}

// TestServeWaitsForCommands starts an authority while a command has its state open.
func TestServeWaitsForCommands(t *testing.T) {
	t.Parallel()
	dir := write(t, t.TempDir(), map[string]string{"writ.yaml": caOnly})
	command(t, dir, 0, "ca", "init", "-c", "writ.yaml")
	state, err := openCAState(t.Context(), loaded(t, dir), os.LookupEnv, slog.New(slog.DiscardHandler), false)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Second, func() { _ = state.close() })
	p := serve(t, dir)
	p.ready()
	if !strings.Contains(p.logged(), "another process has the state open") {
		t.Error("it did not wait")
	}
	// A second authority has no place here.
	if _, stderr := command(t, dir, 1, "serve", "-c", "writ.yaml"); !strings.Contains(stderr, "another authority has this state open") {
		t.Errorf("a second authority: %s", stderr)
	}
	p.stop()
}

// loaded is the configuration in a directory.
func loaded(t *testing.T, dir string) *config {
	t.Helper()
	cfg, err := loadConfig(filepath.Join(dir, "writ.yaml"), os.LookupEnv, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestRequestSaysWhatToDo: errors that a newcomer meets name the cause and the remedy.
func TestRequestSaysWhatToDo(t *testing.T) {
	t.Parallel()
	p := serveCA(t, caOnly, map[string]string{"nonsense": "nonsense", "stranger.pem": pemOf("CERTIFICATE", newUpstream(t).root.Raw)})
	p.join("order", orderID)
	command(t, p.dir, 0, "token", "create", "-c", "writ.yaml", "--id", orderID, "--out", "token")
	command(t, p.dir, 0, "token", "create", "-c", "writ.yaml", "--id", orderID, "--ttl", "1s", "--out", "short")
	ended := time.After(1100 * time.Millisecond)
	_, port, _ := strings.Cut(p.address("ca"), ":")
	plain := p.address("diagnostics")
	for _, tt := range []struct {
		name string
		code int
		args string
		want string
	}{
		{"a used token", 2, "--token-file order.token --bundle state/bundle.pem", "is the token used or expired, or for another authority?"},
		{"a wrong token", 2, "--token-file nonsense --bundle state/bundle.pem", "is the token used or expired, or for another authority?"},
		{"not of the token", 2, "--token-file token --bundle state/bundle.pem --id " + paymentID, "is it revoked, or not what this proof is good for?"},
		{"other roots", 1, "--token-file token --bundle stranger.pem", "its certificate is not by the roots in stranger.pem: is this the authority that is meant"},
		{"another name", 1, "--token-file token --bundle state/bundle.pem --server-name nobody", "or add this one to ca.names"},
		{"no TLS", 1, "--token-file token --bundle state/bundle.pem --authority " + plain, "speaks no TLS: is it the authority's ca.listen?"},
		{"nobody there", 1, "--token-file token --bundle state/bundle.pem --authority 127.0.0.1:1", "is writ serve running, and is this its ca.listen?"},
		{"there is one already", 1, "--token-file token --bundle state/bundle.pem --out order", "order has a key already: --renew replaces it"},
		{"nothing to renew", 1, "--renew --out nothing", "there is no certificate in nothing"},
		{"an expired token", 2, "--token-file short --bundle state/bundle.pem", "is the token used or expired, or for another authority?"},
	} {
		if tt.name == "an expired token" {
			<-ended
		}
		args := append([]string{"cert", "request", "--authority", "localhost:" + port, "--out", "other"}, strings.Fields(tt.args)...)
		if _, stderr := command(t, p.dir, tt.code, args...); !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: %q is not in\n%s", tt.name, tt.want, stderr)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "other")); err == nil {
			t.Fatalf("%s: something was written", tt.name)
		}
	}
	p.stop()
	if _, stderr := p.renew(1, "order"); !strings.Contains(stderr, "is writ serve running") {
		t.Errorf("the authority is down: %s", stderr)
	}
}
