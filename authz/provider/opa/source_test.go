package opa_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"go.uber.org/goleak"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// allows reports what a provider says of a request.
func allows(t testing.TB, p *opa.Provider) bool {
	t.Helper()
	var a authz.Answer
	if err := p.Ask(t.Context(), question(wire(t, typical)), &a); err != nil {
		t.Fatal(err)
	}
	return a.Allow
}

func TestSources(t *testing.T) {
	t.Parallel()
	const byData = "package envoy.authz\nallow if input.attributes.request.http.method in data.methods"
	for name, tc := range map[string]struct {
		files map[string]string
		path  string
	}{
		"a file":                        {map[string]string{"p.rego": "package envoy.authz\nallow := true"}, "p.rego"},
		"a directory":                   {map[string]string{"p.rego": byData, "data.json": `{"methods": ["GET"]}`}, ""},
		"data by the names of folders":  {map[string]string{"a/p.rego": "package envoy.authz\nallow if data.x.y.z == 1", "x/y/any.yaml": "z: 1"}, ""},
		"YAML":                          {map[string]string{"p.rego": byData, "data.yml": "methods: [GET]"}, ""},
		"tests of policies are not run": {map[string]string{"p.rego": byData, "data.json": `{"methods": ["GET"]}`, "p_test.rego": "package envoy.authz\nallow := no_such_thing("}, ""},
		"hidden files are passed over":  {map[string]string{"p.rego": byData, "data.json": `{"methods": ["GET"]}`, "..data/p.rego": "nonsense", ".x.rego": "nonsense"}, ""},
		"other files are passed over":   {map[string]string{"p.rego": byData, "data.json": `{"methods": ["GET"]}`, "README.md": "#", "b.tar.gz": "x"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := loaded(t, opa.Config{Bundle: filepath.Join(files(t, tc.files), tc.path)})
			if !allows(t, p) {
				t.Error("denied")
			}
			if s := p.Status(); !s.Ready || s.Error != "" || s.Modules != 1 || s.Loaded.IsZero() {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestOldRego(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"p.rego": "package envoy.authz\ndefault allow = false\nallow { input.attributes.request.http.method == \"GET\" }"})
	if !allows(t, loaded(t, opa.Config{Bundle: dir, V0: true})) {
		t.Error("denied")
	}
	p, err := opa.New(opa.Config{Bundle: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Load(t.Context()); err == nil {
		t.Error("old Rego is read as new")
	}
}

// TestLastGood: what does not load is said with its place, and leaves what was loaded in force.
func TestLastGood(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, text, want string }{
		"no Rego":                 {"p.rego", "package envoy.authz\n\nallow := {{", "p.rego:3:11: unexpected eof token"},
		"an unknown function":     {"p.rego", "package envoy.authz\nallow if no_such(1)", "p.rego:2:10: "},
		"an unsafe variable":      {"p.rego", "package envoy.authz\nallow if x == y", "p.rego:2:"},
		"recursion":               {"p.rego", "package envoy.authz\nallow if p\np if allow", "recursive"},
		"a type error":            {"p.rego", "package envoy.authz\nallow if count(1) == 2", "p.rego:2:"},
		"another package":         {"p.rego", "package other\nallow := true", "no policy defines the decision envoy/authz/allow"},
		"data that is no JSON":    {"data.json", "{", "data.json"},
		"data that is no object":  {"data.json", "[1]", "data.json"},
		"data under a policy":     {"data.json", `{"envoy": {"authz": {"allow": true}}}`, ""},
		"two files of one module": {"q.rego", "package envoy.authz\ndefault allow := true\ndefault allow := false", "q.rego"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := files(t, map[string]string{"p.rego": "package envoy.authz\nallow := true"})
			var log strings.Builder
			p := loaded(t, opa.Config{
				Name: "coffee", Bundle: dir, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			write(t, filepath.Join(dir, tc.file), tc.text)
			err := p.Load(t.Context())
			if tc.want == "" { // taken: what matters is that it does not decide
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
			if s := p.Status(); !allows(t, p) || !s.Ready || s.Error == "" {
				t.Errorf("%+v", s)
			}
			_ = p.Load(t.Context())
			if n := strings.Count(log.String(), "cannot be loaded"); n != 1 || !strings.Contains(log.String(), "last good") {
				t.Errorf("logged %d times: %s", n, log.String())
			}
			write(t, filepath.Join(dir, tc.file), map[bool]string{true: "package envoy.authz\nallow := false", false: "{}"}[tc.file == "p.rego"])
			if tc.file == "q.rego" {
				write(t, filepath.Join(dir, tc.file), "package other")
			}
			if err := p.Load(t.Context()); err != nil || p.Status().Error != "" || allows(t, p) != (tc.file != "p.rego") {
				t.Errorf("mended: %v, %+v", err, p.Status())
			}
		})
	}
}

func TestNothingToLoad(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"an empty directory": t.TempDir(), "no directory": filepath.Join(t.TempDir(), "none"), "no bundle": filepath.Join(t.TempDir(), "none.tar.gz"),
		"no policies": files(t, map[string]string{"data.json": "{}"}),
	} {
		p, err := opa.New(opa.Config{Bundle: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Load(t.Context()); err == nil || p.Status().Ready {
			t.Errorf("%s: %v, %+v", name, err, p.Status())
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]opa.Config{
		"no bundle": {}, "http without a signature": {Bundle: "http://bundles.example/b.tar.gz"}, "a password in the URL": {Bundle: "https://u:p@bundles.example/b.tar.gz"},
		"no host": {Bundle: "https:///b"}, "a decision with a wildcard": {Bundle: "x", Decision: "a/*"}, "an empty decision": {Bundle: "x", Decision: "/"},
		"a function that is on": {Bundle: "x", AllowBuiltins: []string{"count"}}, "poll of files": {Bundle: "x", Poll: time.Minute},
		"a poll too short": {Bundle: "https://b.example/", Poll: time.Millisecond}, "a key for a directory": {Bundle: "x", Key: &opa.Key{File: "k"}},
		"a key without file": {Bundle: "x.tar.gz", Key: &opa.Key{}}, "a key that is a secret": {Bundle: "x.tar.gz", Key: &opa.Key{File: "k", Algorithm: "HS256"}},
		"input without end": {Bundle: "x", MaxInputBytes: 1 << 30}, "roots of files": {Bundle: "x", CA: "ca.pem"},
	} {
		if _, err := opa.New(c); err == nil {
			t.Errorf("%s is accepted", name)
		} else if strings.Contains(err.Error(), ":p@") {
			t.Errorf("the password is shown: %v", err)
		}
	}
	if _, err := opa.New(opa.Config{Bundle: "https://b.example/", CA: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("roots that are not there are accepted")
	}
}

// signingKey is a key pair for bundles.
type signingKey struct{ private, publicFile string }

func newSigningKey(t *testing.T) signingKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})))
	return signingKey{string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private})), file}
}

// tarball makes a bundle of one policy, signed if there is a key.
func tarball(t *testing.T, rules, revision string, key *signingKey) []byte {
	t.Helper()
	raw := []byte("package envoy.authz\n" + rules)
	b := bundle.Bundle{
		Manifest: bundle.Manifest{Revision: revision},
		Data:     map[string]any{"k": "v"},
		Modules:  []bundle.ModuleFile{{URL: "/p.rego", Path: "/p.rego", Raw: raw, Parsed: ast.MustParseModule(string(raw))}},
	}
	b.Manifest.Init()
	if key != nil {
		if err := b.GenerateSignature(bundle.NewSigningConfig(key.private, "ES256", ""), "some-key", false); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBundleFiles(t *testing.T) {
	t.Parallel()
	key, other := newSigningKey(t), newSigningKey(t)
	signed := tarball(t, `allow if data.k == "v"`, "r1", &key)
	changed := tarball(t, `allow := true`, "r1", nil)
	for name, tc := range map[string]struct {
		data []byte
		key  *opa.Key
		want string // part of the error
	}{
		"without a key":            {tarball(t, `allow if data.k == "v"`, "r1", nil), nil, ""},
		"signed, without a key":    {signed, nil, ""},
		"signed":                   {signed, &opa.Key{File: key.publicFile, Algorithm: "ES256"}, ""},
		"signed by somebody else":  {signed, &opa.Key{File: other.publicFile, Algorithm: "ES256"}, "verif"},
		"not signed":               {changed, &opa.Key{File: key.publicFile, Algorithm: "ES256"}, ".signatures.json"},
		"another algorithm":        {signed, &opa.Key{File: key.publicFile, Algorithm: "ES384"}, ""},
		"another scope":            {signed, &opa.Key{File: key.publicFile, Algorithm: "ES256", Scope: "write"}, "scope"},
		"a key that is not there":  {signed, &opa.Key{File: filepath.Join(t.TempDir(), "none"), Algorithm: "ES256"}, "key"},
		"a key that is none":       {signed, &opa.Key{File: filepath.Join(files(t, map[string]string{"k": "x"}), "k"), Algorithm: "ES256"}, ""},
		"garbage":                  {[]byte("garbage"), nil, "archive"},
		"cut off":                  {signed[:len(signed)/2], nil, "EOF"},
		"nothing":                  {nil, nil, "EOF"},
		"Rego that does not parse": {broken(t), nil, "p.rego:2:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "b.tar.gz")
			write(t, path, string(tc.data))
			p, err := opa.New(opa.Config{Bundle: path, Key: tc.key})
			if err != nil {
				t.Fatal(err)
			}
			err = p.Load(t.Context())
			fails := tc.want != "" || name == "another algorithm" || name == "a key that is none"
			if fails != (err != nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if !fails && (!allows(t, p) || p.Status().Revision != "r1") {
				t.Errorf("%+v", p.Status())
			}
		})
	}
}

// broken is a bundle whose policy does not parse.
func broken(t *testing.T) []byte {
	t.Helper()
	b := bundle.Bundle{Data: map[string]any{}, Modules: []bundle.ModuleFile{{
		URL: "/p.rego", Path: "/p.rego", Raw: []byte("package envoy.authz\nallow := {{"), Parsed: ast.MustParseModule("package x"),
	}}}
	b.Manifest.Init()
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).DisableFormat(true).Write(b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// server is a bundle server that does what it is told.
type server struct {
	mu       sync.Mutex
	data     []byte
	etag     string
	status   int
	cut      bool
	requests []http.Header
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r.Header.Clone())
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case s.etag != "" && r.Header.Get("If-None-Match") == s.etag:
		w.WriteHeader(http.StatusNotModified)
	case s.cut:
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(s.data)
		panic(http.ErrAbortHandler)
	default:
		_, _ = w.Write(s.data)
	}
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) all() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *server) request(i int) http.Header { return s.all()[i] }

// TestBundleURL: a bundle is fetched again when its ETag changes, and whatever goes wrong leaves the last one in force.
func TestBundleURL(t *testing.T) {
	t.Parallel()
	key := newSigningKey(t)
	s := &server{data: tarball(t, "allow := true", "r1", &key), etag: `"1"`}
	https := httptest.NewTLSServer(s)
	defer https.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: https.Certificate().Raw})))
	write(t, filepath.Join(dir, "token"), "secret\n")
	p := loaded(t, opa.Config{
		Bundle: https.URL + "/b.tar.gz?sig=hidden", CA: filepath.Join(dir, "ca.pem"), TokenFile: filepath.Join(dir, "token"),
		Key: &opa.Key{File: key.publicFile, Algorithm: "ES256"},
	})
	if status := p.Status(); !allows(t, p) || status.Revision != "r1" || strings.Contains(status.Bundle, "hidden") {
		t.Errorf("%+v", status)
	}
	if got := s.request(0).Get("Authorization"); got != "Bearer secret" {
		t.Errorf("authorization %q", got)
	}
	if err := p.Load(t.Context()); err != nil || s.request(1).Get("If-None-Match") != `"1"` {
		t.Errorf("%v, %v", err, s.request(1))
	}
	for _, tc := range []struct {
		name   string
		change func(*server)
	}{
		{"500", func(s *server) { s.status = 500 }},
		{"304 out of the blue", func(s *server) { s.status = 404 }},
		{"garbage", func(s *server) { s.status, s.etag, s.data = 0, `"2"`, []byte("garbage") }},
		{"cut off", func(s *server) { s.cut, s.etag = true, `"3"` }},
		{"unsigned", func(s *server) { s.cut, s.etag, s.data = false, `"4"`, tarball(t, "allow := false", "r2", nil) }},
		{"does not compile", func(s *server) { s.etag, s.data = `"5"`, tarball(t, "allow if no_such(1)", "r2", &key) }},
		{"too large", func(s *server) { s.etag, s.data = `"6"`, make([]byte, 65<<20) }},
	} {
		s.set(tc.change)
		if err := p.Load(t.Context()); err == nil || strings.Contains(err.Error(), "hidden") || !allows(t, p) || p.Status().Revision != "r1" {
			t.Errorf("%s: %v, %+v", tc.name, err, p.Status())
		}
	}
	s.set(func(s *server) { s.etag, s.data = `"7"`, tarball(t, "allow := false", "r3", &key) })
	if err := p.Load(t.Context()); err != nil || allows(t, p) || p.Status().Revision != "r3" {
		t.Errorf("mended: %v, %+v", err, p.Status())
	}
}

// TestBundleURLWithoutETag: the content itself tells whether anything changed.
func TestBundleURLWithoutETag(t *testing.T) {
	t.Parallel()
	s := &server{data: tarball(t, "allow := true", "r1", nil)}
	https := httptest.NewTLSServer(s)
	defer https.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: https.Certificate().Raw})))
	p := loaded(t, opa.Config{Bundle: https.URL, CA: ca})
	first := p.Status().Loaded
	for range 3 {
		if err := p.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if p.Status().Loaded != first || s.request(1).Get("If-None-Match") != "" {
		t.Errorf("loaded again, or asked with %v", s.request(1))
	}
}

// TestRedirects: a bundle server may send elsewhere, but not to plain http, and the token does not go along.
func TestRedirects(t *testing.T) {
	t.Parallel()
	target := &server{data: tarball(t, "allow := true", "r1", nil)}
	elsewhere := httptest.NewTLSServer(target)
	defer elsewhere.Close()
	plain := httptest.NewServer(target)
	defer plain.Close()
	var to atomic.Value
	https := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, to.Load().(string), http.StatusFound)
	}))
	defer https.Close()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: https.Certificate().Raw})))
	write(t, filepath.Join(dir, "token"), "secret")
	for url, ok := range map[string]bool{elsewhere.URL: true, plain.URL: false, https.URL: false} {
		to.Store(url)
		p, err := opa.New(opa.Config{Bundle: https.URL, CA: filepath.Join(dir, "ca.pem"), TokenFile: filepath.Join(dir, "token")})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Load(t.Context()); (err == nil) != ok {
			t.Errorf("to %s: %v", url, err)
		}
	}
	for _, header := range target.all() {
		if header.Get("Authorization") != "" {
			t.Error("the token went along")
		}
	}
}

// TestRun: changes of files come into force by themselves, and at once when asked for.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"p.rego": "package envoy.authz\nallow := true"})
	p, err := opa.New(opa.Config{Bundle: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	until(t, func() bool { return p.Status().Ready && allows(t, p) })
	write(t, filepath.Join(dir, "p.rego"), "package envoy.authz\n\nallow := false")
	until(t, func() bool { return !allows(t, p) })
	if err := os.Remove(filepath.Join(dir, "p.rego")); err != nil {
		t.Fatal(err)
	}
	p.Reload()
	until(t, func() bool { return p.Status().Error != "" })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSwap: while policies change, every question is answered by the old ones or by the new ones.
func TestSwap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "p.rego")
	put := func(n string) {
		next := filepath.Join(dir, ".next")
		write(t, next, "package envoy.authz\nallow := {\"allowed\": a, \"headers\": {\"x\": b}}\na := true\nb := \""+n+"\"")
		if err := os.Rename(next, file); err != nil {
			t.Fatal(err)
		}
	}
	put("1")
	p := loaded(t, opa.Config{Bundle: dir})
	var wait sync.WaitGroup
	var stop atomic.Bool
	for range 4 {
		wait.Go(func() {
			for !stop.Load() {
				var a authz.Answer
				if err := p.Ask(context.Background(), question(nil), &a); err != nil || !a.Allow || len(a.RequestHeaders) != 1 {
					t.Errorf("%v, %+v", err, a)
					return
				}
			}
		})
	}
	for i := range 20 {
		put(strings.Repeat("x", i+1))
		if err := p.Load(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	wait.Wait()
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("not in time")
		}
	}
}

// TestDocs: the example of docs/custom.md compiles, and says what the page says it does.
func TestDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/custom.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(page), "```rego\n")
	example, _, _ = strings.Cut(example, "```")
	dir := files(t, map[string]string{"hours.rego": example})
	for hour, want := range map[int]bool{3: false, 9: true, 20: false} {
		p := loaded(t, opa.Config{Bundle: dir, Now: func() time.Time { return time.Date(2026, 11, 21, hour, 0, 0, 0, time.UTC) }})
		var a authz.Answer
		raw := wire(t, `{"attributes":{"request":{"http":{"method":"POST","path":"/orders"}}}}`)
		if err := p.Ask(t.Context(), question(raw), &a); err != nil || a.Allow != want {
			t.Errorf("at %d: %v, %+v", hour, err, a)
		}
		if want && (a.RequestHeaders[0].Name != "x-loyalty" || a.RequestHeaders[0].Value != "none") {
			t.Errorf("%+v", a.RequestHeaders)
		}
	}
}
