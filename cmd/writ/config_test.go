package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func noEnv(string) (string, bool) { return "", false }

func load(t *testing.T, text string, env map[string]string, sets ...string) (*config, error) {
	t.Helper()
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"writ.yaml": text}), "writ.yaml")
	return loadConfig(file, func(k string) (string, bool) { v, ok := env[k]; return v, ok }, sets)
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c, err := load(t, "documents: /etc/writ\nauthz:\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config{
		TrustDomain: "cluster.local", RootNamespace: "istio-system", Documents: "/etc/writ",
		Authz: &authzConfig{
			Listen: "127.0.0.1:9191", SocketMode: 0o660, Paths: "base", DecisionLog: decisionLogConfig{To: "stdout", Log: "denials"},
			JWT: "verify", JWKS: jwksConfig{Refresh: 20 * time.Minute, MaxStale: 24 * time.Hour}, TokenCache: tokenCacheConfig{16 << 10, 64 << 20},
			MaxRequestBytes: 4 << 20, DrainTimeout: 10 * time.Second, MaxConnections: 10_000,
			Overload: overloadConfig{Answer: "deny", Target: 500 * time.Microsecond},
		},
		Log: logConfig{Level: "info", Format: "text"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwith %+v\nwant %+v", c, c.Authz, want)
	}
}

// TestConfigPrecedence holds flags above the environment above the file, and each path to where it was written.
func TestConfigPrecedence(t *testing.T) {
	t.Parallel()
	const text = "documents: ./policies\ntrust_domain: file.example\nadmin: unix:admin.sock\n" +
		"authz: {listen: 'unix:///run/authz.sock', decision_log: {to: log.jsonl}}\n"
	env := map[string]string{
		"WRIT_TRUST_DOMAIN": "env.example", "WRIT_TRUST_DOMAIN_ALIASES": "a.example,b.example", "WRIT_AUTHZ_LISTEN": "127.0.0.1:1",
		"WRIT_DIAGNOSTICS": "127.0.0.1:9402", "WRIT_DIAGNOSTICS_PPROF": "true", "WRIT_AUTHZ_TLS_CERT": "cert.pem", "WRIT_AUTHZ_TLS_KEY": "key.pem",
		"WRIT_ROOT_NAMESPACE": "", "WRIT_PORT": "tcp://10.0.0.1:80", // Kubernetes sets this for a service named writ
	}
	c, err := load(t, text, env, "trust_domain=flag.example", "authz.trusted_hops=2")
	if err != nil {
		t.Fatal(err)
	}
	if c.TrustDomain != "flag.example" || !slices.Equal(c.TrustDomainAliases, []string{"a.example", "b.example"}) ||
		c.Authz.Listen != "127.0.0.1:1" || c.Authz.TrustedHops != 2 || c.Diagnostics != (diagnosticsConfig{"127.0.0.1:9402", true}) ||
		c.RootNamespace != "istio-system" {
		t.Errorf("got %+v %+v", c, c.Authz)
	}
	if !filepath.IsAbs(c.Documents) || !filepath.IsAbs(strings.TrimPrefix(c.Admin, "unix:")) || !filepath.IsAbs(c.Authz.DecisionLog.To) {
		t.Errorf("paths of the file are relative to it: %q %q %q", c.Documents, c.Admin, c.Authz.DecisionLog.To)
	}
	if c.Authz.TLS.Cert != "cert.pem" {
		t.Errorf("paths of the environment are relative to the working directory: %q", c.Authz.TLS.Cert)
	}
}

func TestConfigRefusesBadOverrides(t *testing.T) {
	t.Parallel()
	const text = "documents: ./policies\nauthz: {}\n"
	tests := []struct {
		name string
		env  map[string]string
		sets []string
		want string
	}{
		{"number", map[string]string{"WRIT_AUTHZ_TRUSTED_HOPS": "one"}, nil, `environment WRIT_AUTHZ_TRUSTED_HOPS: authz.trusted_hops: "one": want a whole number`},
		{"bool", map[string]string{"WRIT_AUTHZ_REFLECTION": "1"}, nil, `environment WRIT_AUTHZ_REFLECTION: authz.reflection: "1": want true or false`},
		{"duration", map[string]string{"WRIT_AUTHZ_DRAIN_TIMEOUT": "10"}, nil, `"10" is not a duration`},
		{"shorthand", map[string]string{"WRIT_DIAGNOSTICS": "9402"}, nil, `environment WRIT_DIAGNOSTICS: diagnostics.listen: "9402": want host:port`},
		{"no value", nil, []string{"authz.listen"}, "--set authz.listen: authz.listen: want key=value"},
		{"unknown", nil, []string{"authz.hops=1"}, "--set authz.hops=1: authz.hops: unknown key"},
		{"block", nil, []string{"authz=1"}, "unknown key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, text, tt.env, tt.sets...)
			var invalid configError
			if !errors.As(err, &invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestMisspeltEnvironment(t *testing.T) {
	t.Parallel()
	got := misspelt([]string{"WRIT_AUTHZ_LISTN=x", "WRIT_AUTHZ_LISTEN=x", "WRIT_CONFIG=x", "WRIT_PORT=tcp://10.0.0.1:80", "WRIT_SERVICE_HOST=x", "HOME=/"})
	if want := map[string]string{"WRIT_AUTHZ_LISTN": "WRIT_AUTHZ_LISTEN"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestConfigIsBounded(t *testing.T) {
	t.Parallel()
	if _, err := load(t, "documents: x\n"+strings.Repeat("#", maxConfigBytes), nil); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a huge file: %v", err)
	}
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in    string
		want  string // empty: refused
		local bool
	}{
		{"127.0.0.1:9191", "127.0.0.1:9191", true},
		{"[::1]:9191", "[::1]:9191", true},
		{"localhost:0", "localhost:0", true},
		{"127.9.9.9:1", "127.9.9.9:1", true},
		{":9191", ":9191", false},
		{"0.0.0.0:9191", "0.0.0.0:9191", false},
		{"[::]:9191", "[::]:9191", false},
		{"[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:1", true},
		{"localhost.example:1", "localhost.example:1", false},
		{"unix:///run/writ/a.sock", "unix:/run/writ/a.sock", true},
		{"unix:a.sock", "unix:a.sock", true},
		{"9191", "", false},
		{"127.0.0.1", "", false},
		{"127.0.0.1:http", "", false},
		{"127.0.0.1:65536", "", false},
		{"127.0.0.1:00", "", false},
		{"http://127.0.0.1:1", "", false},
		{"unix:", "", false},
		{"unix://run/a.sock", "", false},
		{"unix:///" + strings.Repeat("a", maxSocketPath), "", false},
	}
	for _, tt := range tests {
		a, err := parseAddress(tt.in)
		if (err == nil) != (tt.want != "") || err == nil && (a.String() != tt.want || a.local() != tt.local) {
			t.Errorf("%q: %v, local %v (%v)", tt.in, a, a.local(), err)
		}
	}
}

// TestConfigurationDocs holds docs/configuration.md to the keys there are, and to no others.
func TestConfigurationDocs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	keys := configKeys(reflect.TypeFor[config](), "")
	for _, key := range keys {
		if !strings.Contains(string(data), "\n| `"+key+"` |") {
			t.Errorf("docs/configuration.md has no row for %s", key)
		}
	}
	_, table, _ := strings.Cut(string(data), "## Keys\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			if key, _, _ := strings.Cut(rest, "`"); !slices.Contains(keys, key) {
				t.Errorf("docs/configuration.md has a row for %q, which is no key", key)
			}
		}
	}
	example := codeBlock(string(data), "```yaml\n")
	if _, err := loadConfig(filepath.Join(write(t, t.TempDir(), map[string]string{"writ.yaml": example}), "writ.yaml"), noEnv, nil); err != nil {
		t.Errorf("the example of docs/configuration.md: %v", err)
	}
}

// codeBlock is the first block of text that opens with fence.
func codeBlock(text, fence string) string {
	_, rest, _ := strings.Cut(text, fence)
	block, _, _ := strings.Cut(rest, "```")
	return block
}

// FuzzConfig demands that no file makes the decoder panic, and that what it takes can be taken again.
func FuzzConfig(f *testing.F) {
	f.Add("documents: ./policies\nauthz: {}\n")
	f.Add("authz: {tls: {cert: a, key: b}, decision_log: {to: x}}\ndiagnostics: 127.0.0.1:1\n")
	f.Add("a: &x [*x]")
	f.Add("{}")
	f.Fuzz(func(t *testing.T, text string) {
		d := newConfigDecoder("writ.yaml")
		c := defaultConfig()
		if d.document([]byte(text), c) {
			d.check(c)
		}
		if len(d.problems) == 0 && (c.Authz == nil || c.Documents == "") {
			t.Errorf("accepted without what is required: %+v", c)
		}
	})
}
