package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func loadAgent(t *testing.T, text string, env map[string]string, sets ...string) (*agentConfig, error) {
	t.Helper()
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"agent.yaml": text}), "agent.yaml")
	return loadAgentConfig(file, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, sets)
}

const smallAgent = "authority: {address: 'ca.example:8081', bundle: ./root.pem}\nattest: {join_token_file: ./token}\n"

func TestAgentConfigDefaults(t *testing.T) {
	t.Parallel()
	c, err := loadAgent(t, "authority: {address: 'ca.example:8081', bundle: /root.pem}\nattest: {join_token_file: /token}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &agentConfig{
		TrustDomain: "cluster.local", AlarmPercent: 25, Authority: &authorityConfig{Address: "ca.example:8081", Bundle: "/root.pem"},
		Attest: agentAttestConfig{JoinTokenFile: "/token"}, SDS: agentSDSConfig{Listen: "unix:///run/writ/agent.sock", SocketMode: 0o666},
		Log: logConfig{Level: "info", Format: "text"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// TestAgentConfigOverrides: flags beat the environment, which beats the file.
func TestAgentConfigOverrides(t *testing.T) {
	t.Parallel()
	env := map[string]string{"WRIT_AUTHORITY_ADDRESS": "env.example:1", "WRIT_TTL": "2h", "WRIT_SDS_SOCKET_MODE": "0600"}
	c, err := loadAgent(t, smallAgent, env, "authority.address=flag.example:2", "state=/s")
	if err != nil {
		t.Fatal(err)
	}
	if c.Authority.Address != "flag.example:2" || c.TTL != 2*time.Hour || c.SDS.SocketMode != 0o600 || c.State != "/s" {
		t.Errorf("got %+v", c)
	}
	if !filepath.IsAbs(c.Authority.Bundle) || !filepath.IsAbs(c.Attest.JoinTokenFile) {
		t.Errorf("paths of the file are relative to it: %q, %q", c.Authority.Bundle, c.Attest.JoinTokenFile)
	}
	if _, err := loadAgent(t, smallAgent, nil, "authority.adress=x"); err == nil || !strings.Contains(err.Error(), `did you mean "authority.address"`) {
		t.Errorf("a misspelt key: %v", err)
	}
	if got := misspeltOf(&agentConfig{}, []string{"WRIT_AUTHORITY_ADRESS=x"}); got["WRIT_AUTHORITY_ADRESS"] != "WRIT_AUTHORITY_ADDRESS" {
		t.Errorf("misspelt variables: %v", got)
	}
}

// TestAgentDocs holds the table of docs/agent.md to the keys there are, and to no others, and its example to the decoder.
func TestAgentDocs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/agent.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	keys := configKeys(reflect.TypeFor[agentConfig](), "")
	for _, key := range keys {
		if !strings.Contains(text, "`"+key+"`") {
			t.Errorf("docs/agent.md does not mention %s", key)
		}
	}
	table, _, _ := strings.Cut(text[strings.Index(text, "## Keys of agent.yaml"):], "## Who may have what")
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(table, -1) {
		if !slices.Contains(keys, m[1]) {
			t.Errorf("docs/agent.md has a row for %q, which is no key", m[1])
		}
	}
	_, rest, _ := strings.Cut(text, "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	if c, err := loadAgent(t, example, nil); err != nil || len(c.Workloads) != 1 {
		t.Errorf("the example of docs/agent.md: %v", err)
	}
}

func FuzzAgentConfig(f *testing.F) {
	f.Add(smallAgent)
	f.Add(smallAgent + "workloads:\n- {id: spiffe://cluster.local/a, uid: 1, path: /x}\n")
	f.Add("authority: {addresses: [a:1, b:2], bundle: x, id: spiffe://cluster.local/w}\nattest: {service_account_token: t}\nsds: {socket_mode: '0777'}\n")
	f.Fuzz(func(t *testing.T, text string) {
		d := newConfigDecoder("agent.yaml")
		c := defaultAgentConfig()
		if !d.document([]byte(text), c) {
			return
		}
		if d.checkAgent(c); len(d.problems) > 0 {
			return
		}
		if _, err := c.agent(); err != nil {
			t.Errorf("accepted, and no good: %v", err)
		}
		if rules, err := c.workloads(); err != nil || len(rules) != len(c.Workloads) {
			t.Errorf("accepted, and no good: %v", err)
		}
	})
}
