package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// mostAgentMemory is what an agent with fifty identities may hold resident, in KiB.
const mostAgentMemory = 30 << 10

// TestAgentMemory measures the binary as it is shipped, not the one of the test with everything that tests bring.
func TestAgentMemory(t *testing.T) {
	t.Parallel()
	binary, err := testkit.BuildWrit(t.Context(), t.TempDir(), "-trimpath")
	if err != nil {
		t.Fatal(err)
	}
	dir := write(t, t.TempDir(), map[string]string{
		"writ.yaml": "state: ./state\nca: {listen: '127.0.0.1:0', default_ttl: 10m}\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n",
	})
	authority := serve(t, dir)
	authority.ready()
	var ids []string
	var workloads strings.Builder
	for i := range 50 {
		ids = append(ids, fmt.Sprintf("spiffe://cluster.local/ns/coffee-shop/sa/w%d", i))
		workloads.WriteString(ourUID(ids[i]))
	}
	joinToken(t, dir, append([]string{agentNode}, ids...)...)
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), workloads.String())})
	p := startAgentBinary(t, dir, binary)
	p.ready()
	for _, id := range []string{"default", "ROOTCA", ids[49]} {
		if _, err := p.secret(id); err != nil {
			t.Error(err)
		}
	}
	got := 0
	p.eventually("slim", func() (err error) {
		if got, err = resident(p.cmd.Process.Pid); err == nil && got > mostAgentMemory {
			err = fmt.Errorf("%d KiB resident with 50 identities, want at most %d", got, mostAgentMemory)
		}
		return err
	})
	t.Logf("%d KiB resident", got)
	p.stop()
}

// resident is how much memory a process holds, in KiB (proc(5), VmRSS).
func resident(pid int) (int, error) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
		}
	}
	return 0, errors.New("no VmRSS")
}

func TestCleanMapping(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"00400000-012d7000 r-xp 00000000 fe:00 10610573                           /usr/bin/writ":  true,
		"012d7000-023ca000 r--p 00ed7000 fe:00 10610573                           /usr/bin/writ":  true,
		"023ca000-02497000 rw-p 01fca000 fe:00 10610573                           /usr/bin/writ":  false, // what was written is only here
		"00400000-012d7000 r-xp 00000000 fe:00 10610573                           /usr/bin/other": false,
		"00400000-012d7000 r-xs 00000000 fe:00 10610573                           /usr/bin/writ":  false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                                             false,
		"x-y r-xp 00000000 fe:00 1 /usr/bin/writ":                                                 false,
		"": false,
	} {
		if _, _, ok := cleanMapping(line, "/usr/bin/writ"); ok != want {
			t.Errorf("%q: %v", line, ok)
		}
	}
	start, end, _ := cleanMapping("00400000-012d7000 r-xp 00000000 fe:00 1 /usr/bin/writ", "/usr/bin/writ")
	if start != 0x400000 || end != 0x12d7000 {
		t.Errorf("%x-%x", start, end)
	}
}
