package built

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// startPatience bounds how long the authority may take to be ready, on a busy machine.
const startPatience = 60 * time.Second

// Authority is a `writ serve`.
type Authority struct {
	Dir     string // writ.yaml, state, keys.json of the issuer
	Address string // where certificates are issued
	Issuer  *Issuer

	t       *testing.T
	program string
	life    time.Duration
	process *Process

	mu          sync.Mutex
	calls       []Call
	ca          string // address, as the log tells it
	diagnostics string
}

// Call is what the log says of a call for a certificate.
type Call struct {
	Outcome string `json:"outcome"` // issued, or the kind of failure
	Reason  string `json:"reason"`
	Error   string `json:"error"`
	ID      string `json:"id"`
	Cluster string `json:"cluster"`
	Caller  struct {
		ID     string `json:"id"`
		Method string `json:"method"`
		Detail string `json:"detail"`
	} `json:"caller"`
}

// Start runs an authority with a new ledger for the length of a test. No certificate of it lives longer than life.
func Start(t *testing.T, life time.Duration) *Authority {
	t.Helper()
	program, err := filepath.Abs(os.Getenv(writEnv)) // Main has seen to it
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{Dir: t.TempDir(), Address: "127.0.0.1:0", Issuer: NewIssuer(t), t: t, program: program, life: life}
	a.Issuer.WriteKeys(t, filepath.Join(a.Dir, "keys.json"))
	a.Serve()
	return a
}

const config = `
trust_domain: %s
state: ./state
ca:
  listen: %s
  default_ttl: %s
  max_ttl: %s
  attest:
    oidc: [{issuer: %q, audiences: [%s], jwks_file: keys.json}]
    client_cert: {}
    join_token: {}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
log: {format: json}
`

// Serve runs the authority, after [Authority.Stop] with the state and at the address that it had. It returns once it is
// ready.
func (a *Authority) Serve() {
	a.t.Helper()
	text := fmt.Sprintf(config, TrustDomain, a.Address, a.life, a.life, IssuerName, audience)
	if err := os.WriteFile(filepath.Join(a.Dir, "writ.yaml"), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.ca, a.diagnostics = "", ""
	cmd := exec.Command(a.program, "serve", "-c", "writ.yaml")
	cmd.Dir = a.Dir
	a.process = StartProcess(a.t, "writ", cmd, a.read)
	Until(a.t, startPatience, "ready writ serve", func() error {
		select {
		case <-a.process.Done():
			a.t.Fatal("writ serve has ended; its last words are above")
		default:
		}
		return a.ready()
	})
}

// Stop ends the authority. Afterwards every call that it answered is known.
func (a *Authority) Stop() { a.process.Stop() }

// read takes a line of the log.
func (a *Authority) read(line string) {
	var entry struct {
		Message string `json:"msg"`
		For     string `json:"for"`
		Address string `json:"address"`
		Call
	}
	if json.Unmarshal([]byte(line), &entry) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case entry.Outcome != "":
		if text, err := strconv.Unquote(entry.Cluster); err == nil { // the log quotes what a caller says of itself
			entry.Cluster = text
		}
		a.calls = append(a.calls, entry.Call)
	case entry.Message == "listening" && entry.For == "ca":
		a.ca = entry.Address
	case entry.Message == "listening" && entry.For == "diagnostics":
		a.diagnostics = entry.Address
	}
}

// ready fails until the authority says it is.
func (a *Authority) ready() error {
	a.mu.Lock()
	address, diagnostics := a.ca, a.diagnostics
	a.mu.Unlock()
	if address == "" || diagnostics == "" {
		return errors.New("it does not listen yet")
	}
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Get("http://" + diagnostics + "/readyz")
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("/readyz: " + response.Status)
	}
	a.Address = address
	return nil
}

// Calls are those that were answered so far.
func (a *Authority) Calls() []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Call(nil), a.calls...)
}

// RootsFile is where the authority publishes its roots, a moment after they change.
func (a *Authority) RootsFile() string { return filepath.Join(a.Dir, "state", "bundle.pem") }

// Roots are the roots of now, as PEM.
func (a *Authority) Roots() []byte {
	a.t.Helper()
	return []byte(a.Do("ca", "bundle", "-c", "writ.yaml"))
}

// Read returns a file in the authority's directory.
func (a *Authority) Read(name string) []byte {
	a.t.Helper()
	text, err := os.ReadFile(filepath.Join(a.Dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}

// Try runs a command of writ in the authority's directory, and returns what it prints and its exit code.
func (a *Authority) Try(args ...string) (stdout string, code int) {
	a.t.Helper()
	var out, failed bytes.Buffer
	cmd := exec.Command(a.program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = a.Dir, &out, &failed
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		a.t.Fatalf("writ %s: %v", strings.Join(args, " "), err)
	}
	a.t.Logf("$ writ %s\n%s%s", strings.Join(args, " "), &out, &failed)
	return out.String(), cmd.ProcessState.ExitCode()
}

// Do runs a command that has to succeed.
func (a *Authority) Do(args ...string) (stdout string) {
	a.t.Helper()
	stdout, code := a.Try(args...)
	if code != 0 {
		a.t.Fatalf("writ %s: exit code %d", strings.Join(args, " "), code)
	}
	return stdout
}

// JoinToken makes a join token for an identity.
func (a *Authority) JoinToken(id string) string {
	a.t.Helper()
	return strings.TrimSpace(a.Do("token", "create", "-c", "writ.yaml", "--id", id))
}

// Rotate takes a step of a root rotation, and says whether it was taken or refused.
func (a *Authority) Rotate(step string) (taken bool) {
	a.t.Helper()
	_, code := a.Try("ca", "rotate", step, "-c", "writ.yaml")
	if code != 0 && code != 2 { // 2 is no
		a.t.Fatalf("rotate %s: exit code %d", step, code)
	}
	return code == 0
}

// RotateWithin waits until everybody lets a step of a rotation be taken.
func (a *Authority) RotateWithin(step string, patience time.Duration) {
	a.t.Helper()
	Until(a.t, patience, "step "+step+" of the rotation", func() error {
		if !a.Rotate(step) {
			return errors.New("somebody would be cut off")
		}
		return nil
	})
}
