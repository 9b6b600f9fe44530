package jwt_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// fakeIDP is an identity provider whose answer a test changes while it runs.
type fakeIDP struct {
	*httptest.Server

	hits   atomic.Int64
	mu     sync.Mutex
	answer http.HandlerFunc
	last   *http.Request
}

func newIDP(t *testing.T, answer http.HandlerFunc) *fakeIDP {
	t.Helper()
	idp := &fakeIDP{answer: answer}
	idp.Server = httptest.NewServer(idp)
	t.Cleanup(idp.Close)
	return idp
}

// newTLSIDP is one with a certificate of its own authority, whose PEM file it returns.
func newTLSIDP(t *testing.T, answer http.HandlerFunc) (idp *fakeIDP, caFile string) {
	t.Helper()
	idp = &fakeIDP{answer: answer}
	idp.Server = httptest.NewUnstartedServer(idp)
	cert, authority := newCertificate(t)
	idp.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	idp.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	idp.StartTLS()
	t.Cleanup(idp.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	return idp, caFile
}

func (i *fakeIDP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.hits.Add(1)
	i.mu.Lock()
	i.last = r
	answer := i.answer
	i.mu.Unlock()
	answer(w, r)
}

func (i *fakeIDP) now(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *fakeIDP) lastRequest() *http.Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last
}

// newCertificate makes an authority and a certificate of it for 127.0.0.1. Both have long begun in the year 2000, which is
// when synctest's clock starts.
func newCertificate(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "private authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
}

// newJWK is the JSON of a fresh public key.
func newJWK(kid string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	text := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","alg":"ES256","kid":%q,"x":%q,"y":%q}`, kid, text(point[1:33]), text(point[33:]))
}

func newJWKS(kids ...string) string {
	var keys []string
	for _, kid := range kids {
		keys = append(keys, newJWK(kid))
	}
	return `{"keys":[` + strings.Join(keys, ",") + `]}`
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// byPath answers with the handler of the request's path.
func byPath(paths map[string]http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if h := paths[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		http.NotFound(w, r)
	}
}

// nearby is a configuration that may fetch from the test's servers.
func nearby() jwt.SourcesConfig {
	return jwt.SourcesConfig{AllowHTTP: true, Networks: jwt.Networks{Allow: prefixes("127.0.0.0/8", "::1/128")}}
}

func newSources(t *testing.T, cfg jwt.SourcesConfig) *jwt.Sources {
	t.Helper()
	s, err := jwt.NewSources(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running runs the sources until the test, or its bubble, ends.
func running(t *testing.T, s *jwt.Sources) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// started is a running set of sources that wants one key set, after its first fetch.
func started(t *testing.T, cfg jwt.SourcesConfig, w jwt.Wanted) (*jwt.Sources, jwt.Source) {
	t.Helper()
	s := newSources(t, cfg)
	s.Set([]jwt.Wanted{w})
	running(t, s)
	src := s.Source(w)
	settled(t, s)
	return s, src
}

// settled waits until every source has ended a fetch.
func settled(t *testing.T, s *jwt.Sources) {
	t.Helper()
	waitFor(t, "a fetch to end", func() bool {
		for _, st := range s.Status() {
			if st.LastSuccess.IsZero() && st.LastErrorAt.IsZero() {
				return false
			}
		}
		return true
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// pass lets the time of a bubble pass, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func kids(keys *jwt.KeySet) string {
	if keys == nil {
		return "none"
	}
	var out []string
	for i := range keys.Len() {
		out = append(out, keys.Key(i).ID())
	}
	return strings.Join(out, " ")
}

// only is the status of the one source there is.
func only(t *testing.T, s *jwt.Sources) jwt.SourceStatus {
	t.Helper()
	all := s.Status()
	if len(all) != 1 {
		t.Fatalf("%d sources, want 1", len(all))
	}
	return all[0]
}

// logBook keeps what is logged, a line each.
type logBook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// tally counts what the sources report.
type tally struct {
	mu        sync.Mutex
	fetched   map[jwt.FetchResult]int
	refetched map[jwt.RefetchOutcome]int
}

func newTally() *tally {
	return &tally{fetched: map[jwt.FetchResult]int{}, refetched: map[jwt.RefetchOutcome]int{}}
}

func (c *tally) Fetched(r jwt.FetchResult, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetched[r]++
}

func (c *tally) Refetched(o jwt.RefetchOutcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refetched[o]++
}

func (c *tally) count(r jwt.FetchResult) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fetched[r]
}

func (c *tally) refetches(o jwt.RefetchOutcome) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refetched[o]
}
