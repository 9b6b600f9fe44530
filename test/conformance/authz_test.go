package conformance_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"istio.io/api/security/v1beta1"

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
}

// answer is what is compared.
type answer struct {
	allow  bool
	status int
	body   string
}

// want is Envoy's answer. HEAD answers and connections have no body to compare.
func (c *recordedCase) want() answer { return answer{c.Status == http.StatusOK, c.Status, c.Body} }

func (c *recordedCase) comparesBody() bool {
	return !c.TCP && !strings.Contains(string(c.CheckRequest), `"method":"HEAD"`)
}

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
	var compared, skipped atomic.Int64
	t.Run("sets", func(t *testing.T) {
		for _, s := range recordedSets(t) {
			t.Run(s.Set, func(t *testing.T) {
				t.Parallel()
				docs := policy.Decode("policies.yaml", []byte(s.Policies))
				locations := tokenLocations(t, docs)
				library, binary := s.askLibrary(t, docs), s.askBinary(t)
				for i := range s.Cases {
					c := &s.Cases[i]
					if !supported(c, locations) {
						skipped.Add(1)
						continue
					}
					compared.Add(1)
					c.compare(t, "library", library[i])
					c.compare(t, "writ check", binary[i])
				}
			})
		}
	})
	t.Logf("%d cases compared, %d carry a token and are not", compared.Load(), skipped.Load())
	if n := compared.Load(); n < minCompared {
		t.Errorf("%d cases compared, want at least %d: the test looks away too often", n, minCompared)
	}
}

// minCompared guards against a test that skips everything.
const minCompared = 1499

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
func (s *recordedSet) askLibrary(t *testing.T, docs []*policy.Document) []answer {
	t.Helper()
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
		out = append(out, answer{d.Allow, d.Status, d.Body})
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
			Decision   string `json:"decision"`
			HTTPStatus int    `json:"http_status"`
			Body       string `json:"body"`
		}
		if err := dec.Decode(&line); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("output of writ check: %v\n%s", err, stdout)
		}
		if line.Decision != "ALLOW" && line.Decision != "DENY" {
			t.Fatalf("decision %q, want ALLOW or DENY", line.Decision)
		}
		out = append(out, answer{line.Decision == "ALLOW", line.HTTPStatus, line.Body})
	}
	if len(out) != len(s.Cases) {
		t.Fatalf("writ check printed %d answers for %d requests\n%s", len(out), len(s.Cases), &stderr)
	}
	return out
}

// supported says which cases this version has to get right: those whose request carries no token where a rule of
// the set looks for one, because writ does not verify tokens yet.
func supported(c *recordedCase, locations []location) bool {
	for _, l := range locations {
		if l.holdsToken(c) {
			return false
		}
	}
	return true
}

// location is one place where a RequestAuthentication rule looks for a token (request-authentication §2.1).
type location struct {
	header, prefix string
	param          string
	cookie         string
}

func tokenLocations(t *testing.T, docs []*policy.Document) []location {
	t.Helper()
	var out []location
	for _, d := range docs {
		ra, ok := d.Spec.(*v1beta1.RequestAuthentication)
		if !ok {
			continue
		}
		for _, rule := range ra.GetJwtRules() {
			if len(rule.GetFromHeaders())+len(rule.GetFromParams())+len(rule.GetFromCookies()) == 0 {
				out = append(out, location{header: "authorization", prefix: "Bearer "}, location{param: "access_token"})
			}
			for _, h := range rule.GetFromHeaders() {
				out = append(out, location{header: strings.ToLower(h.GetName()), prefix: h.GetPrefix()})
			}
			for _, p := range rule.GetFromParams() {
				out = append(out, location{param: p})
			}
			for _, c := range rule.GetFromCookies() {
				out = append(out, location{cookie: c})
			}
		}
	}
	return out
}

// holdsToken reads the recorded JSON itself, so that it does not depend on the code under test.
func (l location) holdsToken(c *recordedCase) bool {
	headers, path := c.http()
	switch {
	case l.header != "":
		for _, v := range headers[l.header] {
			if strings.Contains(v, l.prefix) {
				return true
			}
		}
	case l.param != "":
		_, query, _ := strings.Cut(path, "?")
		values, _ := url.ParseQuery(query) // what parses is enough; a bad pair holds no token
		return values.Has(l.param)
	case l.cookie != "":
		for _, v := range headers["cookie"] {
			for pair := range strings.SplitSeq(v, ";") {
				if name, _, _ := strings.Cut(pair, "="); strings.TrimSpace(name) == l.cookie {
					return true
				}
			}
		}
	}
	return false
}

// http returns headers and path of either header encoding.
func (c *recordedCase) http() (headers map[string][]string, path string) {
	var check struct {
		Attributes struct {
			Request struct {
				HTTP struct {
					Path      string
					Headers   map[string]string
					HeaderMap struct {
						Headers []struct{ Key, Value, RawValue string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal(c.CheckRequest, &check); err != nil {
		panic(err) // recorded data is valid
	}
	headers = map[string][]string{}
	for k, v := range check.Attributes.Request.HTTP.Headers {
		headers[k] = append(headers[k], v)
	}
	for _, h := range check.Attributes.Request.HTTP.HeaderMap.Headers {
		raw, err := base64.StdEncoding.DecodeString(h.RawValue)
		if err != nil {
			panic(err)
		}
		headers[h.Key] = append(headers[h.Key], h.Value+string(raw))
	}
	return headers, check.Attributes.Request.HTTP.Path
}
