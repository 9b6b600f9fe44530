package citadel_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	trustDomain = "td.test"
	issuer      = "https://kubernetes.test"
	// life of a certificate: the shortest there is.
	life = 10 * time.Second
)

// event is a line of what the service says; see ca/caserver/testdata/authority.
type event struct {
	Ready *struct {
		Address string `json:"address"`
		Roots   string `json:"roots"`
	} `json:"ready"`
	Call  *callEvent `json:"call"`
	Token *struct {
		Token string `json:"token"`
	} `json:"token"`
	Rotate *struct {
		Phase string `json:"phase"`
	} `json:"rotate"`
	Done  string `json:"done"`
	Error string `json:"error"`
}

// callEvent is a call that the service answered.
type callEvent struct {
	Outcome string `json:"outcome"`
	Code    string `json:"code"`
	Reason  string `json:"reason"`
	Caller  string `json:"caller"`
	Detail  string `json:"detail"`
	ID      string `json:"id"`
	Cluster string `json:"cluster"`
}

// build compiles the service once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "citadel-authority")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "authority")
	cmd := exec.Command("go", "build", "-o", path, "./ca/caserver/testdata/authority")
	cmd.Dir = "../../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// authority is a running service.
type authority struct {
	address string
	roots   string
	dir     string // of its state, and of the token issuer's keys
	key     *ecdsa.PrivateKey

	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan event

	mu    sync.Mutex
	calls []callEvent
}

// startAuthority starts a service with a new ledger for the length of a test.
func startAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{dir: t.TempDir(), key: key, address: "127.0.0.1:0"}
	a.writeKeys(t)
	a.start(t)
	t.Cleanup(func() { a.stop(t) })
	return a
}

func (a *authority) start(t *testing.T) {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd = exec.Command(program, "-listen", a.address, "-state", filepath.Join(a.dir, "state"), "-trust-domain", trustDomain,
		"-issuer", issuer, "-jwks", filepath.Join(a.dir, "keys.json"), "-ttl", life.String())
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
	a.address, a.roots = ready.Ready.Address, ready.Ready.Roots
}

// listen sorts what the service says.
func (a *authority) listen(out io.Reader, answers chan<- event) {
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

func (a *authority) answer(t *testing.T) event {
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
func (a *authority) command(t *testing.T, format string, args ...any) event {
	t.Helper()
	if _, err := fmt.Fprintf(a.in, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
	return a.answer(t)
}

// stop ends the service as its operator would.
func (a *authority) stop(t *testing.T) {
	t.Helper()
	if a.cmd == nil {
		return
	}
	a.in.Close()
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("service: %v", err)
	}
	a.cmd = nil
}

// seen returns the calls since the last time it was asked.
func (a *authority) seen() []callEvent {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

// writeKeys publishes the token issuer's key.
func (a *authority) writeKeys(t *testing.T) {
	t.Helper()
	point, err := a.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"keys": []map[string]string{{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": segment(point[1:33]), "y": segment(point[33:]),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "keys.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func segment(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// token is what a Kubernetes API server gives a service account (RFC 7515, ES256).
func (a *authority) token(t *testing.T, namespace, account string) string {
	t.Helper()
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": "system:serviceaccount:" + namespace + ":" + account, "aud": []string{"istio-ca"},
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signed := segment([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + segment(claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + segment(slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))))
}

// logWriter shows the service's log with the test's.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("service: %s", p)
	return len(p), nil
}
