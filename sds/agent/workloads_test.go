package agent_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
	"github.com/writ-auth/writ/sds"
	"github.com/writ-auth/writ/sds/agent"
)

// ourselves is this process, as the other end of a Unix socket.
func ourselves(t *testing.T) *unixpeer.Peer {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	p, err := unixpeer.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func TestEntitled(t *testing.T) {
	p := ourselves(t)
	program, err := p.Program()
	if err != nil {
		t.Fatal(err)
	}
	uid, gid, sum := p.UID, p.GID, sumOf(t, program)
	other := uid + 1
	a, b := mustID(t, order), mustID(t, payment)
	for _, c := range []struct {
		name  string
		rules []agent.Workload
		want  []spiffeid.ID
	}{
		{"nothing configured", nil, nil},
		{"uid", []agent.Workload{{ID: a, UID: &uid}}, []spiffeid.ID{a}},
		{"another uid", []agent.Workload{{ID: a, UID: &other}}, nil},
		{"gid", []agent.Workload{{ID: a, GID: &gid}}, []spiffeid.ID{a}},
		{"another gid", []agent.Workload{{ID: a, GID: &other}}, nil},
		{"path", []agent.Workload{{ID: a, Path: program}}, []spiffeid.ID{a}},
		{"another path", []agent.Workload{{ID: a, Path: program + "x"}}, nil},
		{"hash", []agent.Workload{{ID: a, SHA256: sum}}, []spiffeid.ID{a}},
		{"another hash", []agent.Workload{{ID: a, SHA256: strings.Repeat("0", 64)}}, nil},
		{"all", []agent.Workload{{ID: a, UID: &uid, GID: &gid, Path: program, SHA256: sum}}, []spiffeid.ID{a}},
		{"all but the uid", []agent.Workload{{ID: a, UID: &other, GID: &gid, Path: program, SHA256: sum}}, nil},
		{"all but the hash", []agent.Workload{{ID: a, UID: &uid, GID: &gid, Path: program, SHA256: strings.Repeat("0", 64)}}, nil},
		{"several, in order, each once", []agent.Workload{{ID: b, UID: &uid}, {ID: a, Path: program}, {ID: b, SHA256: sum}}, []spiffeid.ID{b, a}},
	} {
		w, err := agent.NewWorkloads(mustID(t, "spiffe://td.test"), c.rules)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := w.Entitled(&sds.Caller{Peer: p})
		if err != nil || !slices.Equal(got.Identities, c.want) || got.Bundles != (len(c.want) > 0) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if (got.Reason == "") != (len(c.want) > 0) {
			t.Errorf("%s: reason %q", c.name, got.Reason)
		}
	}
}

// TestRefusalSaysWhatWasSeen: whoever reads it can write the entry that is missing.
func TestRefusalSaysWhatWasSeen(t *testing.T) {
	p := ourselves(t)
	program, _ := p.Program()
	w, err := agent.NewWorkloads(mustID(t, "spiffe://td.test"), []agent.Workload{{ID: mustID(t, order), SHA256: strings.Repeat("0", 64)}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Entitled(&sds.Caller{Peer: p})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"uid ", "gid ", program, sumOf(t, program), "workloads"} {
		if !strings.Contains(got.Reason, want) {
			t.Errorf("no %q in %q", want, got.Reason)
		}
	}
	if got, err := w.Entitled(&sds.Caller{Address: "192.0.2.1:1"}); err != nil || len(got.Identities) != 0 || got.Bundles || got.Reason == "" {
		t.Errorf("a caller of the network: %+v, %v", got, err)
	}
}

// TestGoneProcess: a process that ended is nobody, whoever has its number now.
func TestGoneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestConnectAndWait$")
	cmd.Env = append(os.Environ(), "AGENT_TEST_SOCKET="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p, err := unixpeer.Of(server)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	uid := p.UID
	w, err := agent.NewWorkloads(mustID(t, "spiffe://td.test"), []agent.Workload{{ID: mustID(t, order), UID: &uid}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := w.Entitled(&sds.Caller{Peer: p}); err != nil || len(got.Identities) != 1 {
		t.Errorf("while it lives: %+v, %v", got, err)
	}
	_ = stdin.Close()
	_ = cmd.Wait()
	if got, err := w.Entitled(&sds.Caller{Peer: p}); err == nil {
		t.Errorf("after its end: %+v", got)
	}
}

// TestConnectAndWait is the other process of TestGoneProcess.
func TestConnectAndWait(t *testing.T) {
	path := os.Getenv("AGENT_TEST_SOCKET")
	if path == "" {
		return // as a test of its own it has nothing to say
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestWorkloadsRefused(t *testing.T) {
	uid := uint32(1)
	id := mustID(t, order)
	for name, rule := range map[string]agent.Workload{
		"no condition":         {ID: id},
		"no identity":          {UID: &uid},
		"foreign trust domain": {ID: mustID(t, "spiffe://other.test/a"), UID: &uid},
		"a trust domain":       {ID: mustID(t, "spiffe://td.test"), UID: &uid},
		"relative path":        {ID: id, Path: "bin/envoy"},
		"path with dots":       {ID: id, Path: "/usr/../bin/envoy"},
		"short hash":           {ID: id, SHA256: "abc"},
		"hash in upper case":   {ID: id, SHA256: strings.Repeat("A", 64)},
		"no hash":              {ID: id, SHA256: strings.Repeat("x", 64)},
	} {
		if _, err := agent.NewWorkloads(mustID(t, "spiffe://td.test"), []agent.Workload{rule}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestWorkloadsSet: what is in force changes whole or not at all, and everybody learns of it.
func TestWorkloadsSet(t *testing.T) {
	uid := uint32(os.Getuid())
	w, err := agent.NewWorkloads(mustID(t, "spiffe://td.test"), []agent.Workload{{ID: mustID(t, order), UID: &uid}})
	if err != nil {
		t.Fatal(err)
	}
	changed := w.Changed()
	if err := w.Set([]agent.Workload{{ID: mustID(t, payment), UID: &uid}, {ID: mustID(t, payment)}}); err == nil {
		t.Error("a rule without a condition is in force")
	}
	select {
	case <-changed:
		t.Error("a change that was refused is announced")
	default:
	}
	if err := w.Set([]agent.Workload{{ID: mustID(t, payment), UID: &uid}, {ID: mustID(t, payment), Path: "/x"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("a change is not announced")
	}
	if got := w.Identities(); !slices.Equal(got, []spiffeid.ID{mustID(t, payment)}) {
		t.Errorf("identities %v", got)
	}
}
