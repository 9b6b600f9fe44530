package citadel_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

// event is a line of what the service says; see ca/caserver/testdata/authority.
type event struct {
	Ready *struct {
		Address string `json:"address"`
		Roots   string `json:"roots"`
	} `json:"ready"`
	Call  *callEvent `json:"call"`
	Done  string     `json:"done"`
	Error string     `json:"error"`
}

// callEvent is a call that the service answered.
type callEvent struct {
	Outcome string `json:"outcome"`
	Code    string `json:"code"`
	Reason  string `json:"reason"`
}

// faulty is an authority that fails as it is told.
type faulty struct {
	address string
	roots   string // file
	issuer  *built.Issuer

	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan event

	mu    sync.Mutex
	calls []callEvent
}

// startFaulty starts a service with a new ledger for the length of a test.
func startFaulty(t *testing.T) *faulty {
	t.Helper()
	root, err := built.Checkout()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, keys := filepath.Join(dir, "authority"), filepath.Join(dir, "keys.json")
	if err := built.Build(root, program, "./ca/caserver/testdata/authority"); err != nil {
		t.Fatal(err)
	}
	a := &faulty{issuer: built.NewIssuer(t), roots: filepath.Join(dir, "root.pem")}
	a.issuer.WriteKeys(t, keys)
	a.cmd = exec.Command(program, "-state", filepath.Join(dir, "state"), "-trust-domain", built.TrustDomain,
		"-issuer", built.IssuerName, "-jwks", keys, "-ttl", life.String())
	a.start(t)
	t.Cleanup(func() { a.stop(t) })
	return a
}

func (a *faulty) start(t *testing.T) {
	t.Helper()
	var err error
	a.cmd.Stderr = logWriter{t}
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.answers = make(chan event, 16)
	go a.listen(out, a.answers)
	ready := a.answer(t)
	if ready.Ready == nil {
		t.Fatalf("the service says %+v", ready)
	}
	a.address = ready.Ready.Address
	if err := os.WriteFile(a.roots, []byte(ready.Ready.Roots), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listen sorts what the service says.
func (a *faulty) listen(out io.Reader, answers chan<- event) {
	defer close(answers)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e = event{Error: err.Error()}
		}
		if e.Call == nil {
			answers <- e
			continue
		}
		a.mu.Lock()
		a.calls = append(a.calls, *e.Call)
		a.mu.Unlock()
	}
}

func (a *faulty) answer(t *testing.T) event {
	t.Helper()
	select {
	case e, ok := <-a.answers:
		if !ok || e.Error != "" {
			t.Fatalf("the service ended or failed: %+v", e)
		}
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("the service says nothing")
		return event{}
	}
}

// command has the service do something.
func (a *faulty) command(t *testing.T, format string, args ...any) event {
	t.Helper()
	if _, err := fmt.Fprintf(a.in, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
	return a.answer(t)
}

// stop ends the service.
func (a *faulty) stop(t *testing.T) {
	t.Helper()
	a.in.Close()
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("service: %v", err)
	}
}

// seen returns the calls since the last time it was asked.
func (a *faulty) seen() []callEvent {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

// logWriter shows the service's log with the test's.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("service: %s", p)
	return len(p), nil
}
