package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unit reads a unit file: section and key to values.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	values, section := map[string][]string{}, ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch key, value, ok := strings.Cut(line, "="); {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		case ok:
			values[section+"."+key] = append(values[section+"."+key], value)
		default:
			t.Errorf("%s: %q", name, line)
		}
	}
	return values
}

// TestSystemdUnits: what the units must say, and what must not be said, for the program to work and to be confined.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{"writ.service": "serve", "writ-agent.service": "agent"} {
		u := unit(t, name)
		for key, want := range map[string]string{
			"Service.Type": "notify", "Service.Restart": "always", "Service.NoNewPrivileges": "yes", "Service.ProtectSystem": "strict",
			"Service.ProtectHome": "yes", "Service.StateDirectoryMode": "0700", "Service.RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
			"Service.SystemCallArchitectures": "native", "Service.MemoryDenyWriteExecute": "yes", "Install.WantedBy": "multi-user.target",
			"Service.ExecReload": "/bin/kill -HUP $MAINPID",
		} {
			if got := u[key]; !slices.Equal(got, []string{want}) {
				t.Errorf("%s: %s=%q, want %q", name, key, got, want)
			}
		}
		words := strings.Fields(u["Service.ExecStart"][0])
		found, _, err := (&cli{}).root().Find(words[1:2])
		if err != nil || found.Name() != command || found.Flags().ShorthandLookup("c") == nil || words[2] != "-c" {
			t.Errorf("%s: ExecStart=%q: %v", name, u["Service.ExecStart"], err)
		}
		for _, hides := range []string{"Service.ProtectProc", "Service.PrivateUsers", "Service.ProcSubset"} { // who connects could not be told
			if got := u[hides]; got != nil {
				t.Errorf("%s: %s=%q", name, hides, got)
			}
		}
		capabilities := map[string]string{"serve": "", "agent": "CAP_SYS_PTRACE"}[command]
		if got := u["Service.CapabilityBoundingSet"]; !slices.Equal(got, []string{capabilities}) {
			t.Errorf("%s: CapabilityBoundingSet=%q", name, got)
		}
	}
}

// TestSystemdVerify has systemd read the units, where it is installed: it knows its own keys best.
func TestSystemdVerify(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not here (Debian: apt install systemd): the units are held to TestSystemdUnits alone")
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"writ.service", "writ-agent.service"} {
		data, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "/usr/local/bin/writ", self) // it wants the program to be there
		write(t, dir, map[string]string{name: text})
		args = append(args, filepath.Join(dir, name))
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
