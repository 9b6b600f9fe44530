package conformance_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// recordedSet is one line of testdata/authz/sets.jsonl.gz.
type recordedSet struct {
	Set      string          `json:"set"`
	Workload json.RawMessage `json:"workload"`
	Policies string          `json:"policies"`
	Cases    []recordedCase  `json:"cases"`
}

type recordedCase struct {
	ID           string          `json:"id"`
	CheckRequest json.RawMessage `json:"check_request"`
	TCP          bool            `json:"tcp"`
	Status       int             `json:"status"`
	Body         string          `json:"body"`
	Challenge    string          `json:"www_authenticate"`
}

// answer is what is compared.
type answer struct {
	allow     bool
	status    int
	body      string
	challenge string // the www-authenticate header
}

// want is Envoy's answer. HEAD answers and connections have no body to compare.
func (c *recordedCase) want() answer {
	return answer{c.Status == http.StatusOK, c.Status, c.Body, c.Challenge}
}

func (c *recordedCase) comparesBody() bool {
	return !c.TCP && !strings.Contains(string(c.CheckRequest), `"method":"HEAD"`)
}

const recordedCases = 1920

func recordedSets(t *testing.T) []recordedSet {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "authz", "sets.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var sets []recordedSet
	for dec := json.NewDecoder(z); ; {
		var s recordedSet
		if err := dec.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("set %d: %v", len(sets), err)
		}
		sets = append(sets, s)
	}
	if len(sets) != 120 {
		t.Fatalf("%d sets, want 120", len(sets))
	}
	return sets
}

// TestAuthorization compares every recorded answer with the library's, in process, and with the binary's.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	compared := new(atomic.Int64)
	t.Run("sets", func(t *testing.T) {
		for _, s := range recordedSets(t) {
			t.Run(s.Set, func(t *testing.T) {
				t.Parallel()
				library, binary := s.askLibrary(t), s.askBinary(t)
				for i := range s.Cases {
					s.Cases[i].compare(t, "library", library[i])
					s.Cases[i].compare(t, "writ check", binary[i])
					compared.Add(1)
				}
			})
		}
	})
	if n := compared.Load(); n != recordedCases {
		t.Errorf("%d cases compared, want %d", n, recordedCases)
	}
}

func (c *recordedCase) compare(t *testing.T, by string, got answer) {
	t.Helper()
	want := c.want()
	if !c.comparesBody() {
		got.body, want.body = "", ""
	}
	if got != want {
		t.Errorf("%s by %s: %+v, Istio and Envoy: %+v", c.ID, by, got, want)
	}
}

// askLibrary answers all cases of the set by the code that serves.
func (s *recordedSet) askLibrary(t *testing.T) []answer {
	t.Helper()
	docs := policy.Decode("policies.yaml", []byte(s.Policies))
	for _, d := range docs {
		if d.Broken() {
			t.Fatalf("valid document refused: %v", d.Problems)
		}
	}
	var about struct {
		policy.Workload
		TrustDomain        string   `json:"trust_domain"`
		TrustDomainAliases []string `json:"trust_domain_aliases"`
		RootNamespace      string   `json:"root_namespace"`
	}
	if err := json.Unmarshal(s.Workload, &about); err != nil {
		t.Fatal(err)
	}
	store := policy.NewStore(policy.Mesh{
		TrustDomain: about.TrustDomain, TrustDomainAliases: about.TrustDomainAliases, RootNamespace: about.RootNamespace,
	})
	store.Update(docs)
	server, err := extauthz.New(extauthz.Config{Snapshot: store.Load, Engine: &authz.Engine{}})
	if err != nil {
		t.Fatal(err)
	}
	var out []answer
	for _, c := range s.Cases {
		raw, err := extauthz.ParseJSON(c.CheckRequest)
		if err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		d := server.Decide(t.Context(), raw, &about.Workload)
		out = append(out, answer{d.Allow, d.Status, d.Body, d.Challenge()})
	}
	return out
}

// askBinary answers all cases of the set by one run of `writ check`.
func (s *recordedSet) askBinary(t *testing.T) []answer {
	t.Helper()
	dir := t.TempDir()
	var requests bytes.Buffer
	for _, c := range s.Cases {
		requests.Write(c.CheckRequest)
		requests.WriteByte('\n')
	}
	for name, content := range map[string][]byte{
		"policies.yaml": []byte(s.Policies), "workload.json": s.Workload, "requests.jsonl": requests.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), writBinary, "check", "--policies", "policies.yaml", "--workload", "workload.json",
		"--requests", "requests.jsonl", "-o", "json")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	const denied = 2 // the exit code when some answer is a denial
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != denied) {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, stdout, &stderr)
	}
	var out []answer
	for dec := json.NewDecoder(bytes.NewReader(stdout)); ; {
		var line struct {
			Decision   string            `json:"decision"`
			HTTPStatus int               `json:"http_status"`
			Body       string            `json:"body"`
			Headers    map[string]string `json:"headers"`
		}
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("output of writ check: %v\n%s", err, stdout)
		}
		if line.Decision != "ALLOW" && line.Decision != "DENY" {
			t.Fatalf("decision %q, want ALLOW or DENY", line.Decision)
		}
		out = append(out, answer{line.Decision == "ALLOW", line.HTTPStatus, line.Body, line.Headers["www-authenticate"]})
	}
	if len(out) != len(s.Cases) {
		t.Fatalf("writ check printed %d answers for %d requests\n%s", len(out), len(s.Cases), &stderr)
	}
	return out
}
