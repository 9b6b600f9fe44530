package provider_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider"
)

// says has a server say something to everybody, and wait then until the client goes.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		readSome(conn)
		_, _ = io.WriteString(conn, text)
		_, _ = io.Copy(io.Discard, conn)
	}
}

// saysAndEnds has a server say something and close.
func saysAndEnds(text string) func(net.Conn) {
	return func(conn net.Conn) {
		readSome(conn)
		_, _ = io.WriteString(conn, text)
	}
}

func TestHTTPFaults(t *testing.T) {
	const short = 100 * time.Millisecond
	for _, test := range []struct {
		name   string
		serve  func(net.Conn)
		wait   time.Duration // for an answer; plenty if 0
		reason authz.Reason
		says   string
	}{
		{"hangs", says(""), short, authz.ReasonProviderTimeout, "no answer in time"},
		{"hangs in the status line", says("HTTP/1.1 20"), short, authz.ReasonProviderTimeout, ""},
		{"hangs in the headers", says("HTTP/1.1 200 OK\r\nx: "), short, authz.ReasonProviderTimeout, ""},
		{"hangs in the body", says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), short, authz.ReasonProviderTimeout, ""},
		{"sends headers slowly", func(conn net.Conn) {
			readSome(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
				if _, err := io.WriteString(conn, "x: y\r\n"); err != nil {
					return
				}
			}
		}, short, authz.ReasonProviderTimeout, ""},
		{"closes", saysAndEnds(""), 0, authz.ReasonProviderUnreachable, "EOF"},
		{"resets", func(conn net.Conn) {
			readSome(conn)
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, 0, authz.ReasonProviderUnreachable, ""},
		{"dies in the headers", saysAndEnds("HTTP/1.1 200 OK\r\nx: "), 0, authz.ReasonProviderBadAnswer, "EOF"},
		{"dies in the body", saysAndEnds("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), 0, authz.ReasonProviderBadAnswer, "cut short"},
		{"dies in a chunk", saysAndEnds("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n{"), 0, authz.ReasonProviderBadAnswer, "cut short"},
		{"talks garbage", saysAndEnds("\x00\xff garbage\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "no proper HTTP answer"},
		{"speaks TLS", saysAndEnds("\x15\x03\x01\x00\x02\x02\x46"), 0, authz.ReasonProviderBadAnswer, ""},
		{"has a header without a name", saysAndEnds("HTTP/1.1 200 OK\r\n: y\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, ""},
		{"has two lengths", saysAndEnds("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"), 0, authz.ReasonProviderBadAnswer, ""},
		{"has a header with a control character", saysAndEnds("HTTP/1.1 200 OK\r\nx-user: a\x00b\r\ncontent-length: 0\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, ""},
		{"removes a header that is none", saysAndEnds("HTTP/1.1 200 OK\r\nx-envoy-auth-headers-to-remove: a b\r\ncontent-length: 0\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "no header name"},
		{"has huge headers", says("HTTP/1.1 200 OK\r\nx: " + strings.Repeat("x", 1<<20)), 0, authz.ReasonProviderBadAnswer, "65536"},
		{"has too many headers", saysAndEnds("HTTP/1.1 200 OK\r\n" + strings.Repeat("x-user: y\r\n", 300) + "content-length: 0\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "more than 256"},
		{"announces 100 MB", says("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "larger than"},
		{"sends 100 MB", func(conn net.Conn) {
			readSome(conn)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
			block := strings.Repeat("x", 1<<20)
			for range 100 {
				if _, err := io.WriteString(conn, block); err != nil {
					return
				}
			}
		}, 0, authz.ReasonProviderBadAnswer, "larger than"},
		{"switches protocols", says("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "101"},
		{"only says that it goes on", says(strings.Repeat("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", 10_000)), 0, authz.ReasonProviderBadAnswer, ""},
		{"has a status that is none", saysAndEnds("HTTP/1.1 999 Whatever\r\ncontent-length: 0\r\n\r\n"), 0, authz.ReasonProviderBadAnswer, "999"},
		{"500", saysAndEnds("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno"), 0, authz.ReasonProviderError, "HTTP status 500"},
		{"503 and cut short", saysAndEnds("HTTP/1.1 503 Oh\r\ncontent-length: 20\r\n\r\nno"), 0, authz.ReasonProviderError, "HTTP status 503"},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newHTTP(t, provider.HTTPConfig{
				Target: "http://" + serveRaw(t, test.serve), HeadersToUpstreamOnAllow: []string{"x-user"},
			})
			wait := test.wait
			if wait == 0 {
				wait = plenty
			}
			var a authz.Answer
			wantFault(t, p.Ask(within(t, wait), question(t), &a), test.reason, test.says)
			if diff := cmp.Diff(authz.Answer{}, a); diff != "" {
				t.Errorf("an answer beside the error (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHTTPDenialStays has a server deny and break then: no failure after a "no" makes it less of one, not even for a
// provider that fails open.
func TestHTTPDenialStays(t *testing.T) {
	for _, test := range []struct {
		name   string
		serve  func(net.Conn)
		wait   time.Duration
		reason authz.Reason
	}{
		{"dies in the body", saysAndEnds("HTTP/1.1 403 No\r\ncontent-length: 9\r\n\r\n{"), plenty, authz.ReasonProviderBadAnswer},
		{"hangs in the body", says("HTTP/1.1 403 No\r\ncontent-length: 9\r\n\r\n{"), time.Second, authz.ReasonProviderTimeout},
		{"has a huge body", says("HTTP/1.1 403 No\r\ncontent-length: 104857600\r\n\r\n"), plenty, authz.ReasonProviderBadAnswer},
	} {
		t.Run(test.name, func(t *testing.T) {
			noLeaks(t)
			p := newHTTP(t, provider.HTTPConfig{Target: "http://" + serveRaw(t, test.serve)})
			var a authz.Answer
			if err := p.Ask(within(t, test.wait), question(t), &a); err != nil {
				t.Fatal(err)
			}
			if a.Allow || a.Status != 403 || a.Body != "" || a.Reason != test.reason || !strings.Contains(a.Detail, "without its body") {
				t.Errorf("answer %+v, want a denial that says why it has no body", a)
			}
		})
	}
}

func TestHTTPRedirectIsNotFollowed(t *testing.T) {
	noLeaks(t)
	var asked atomic.Int32
	s := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "/allowed", http.StatusFound)
	})
	p := newHTTP(t, provider.HTTPConfig{Target: s.URL})
	var a authz.Answer
	if err := p.Ask(within(t, plenty), question(t), &a); err != nil || a.Allow || a.Status != 302 || asked.Load() != 1 {
		t.Errorf("answer %+v, error %v after %d requests; want 302 after one", a, err, asked.Load())
	}
}

func TestHTTPFlaps(t *testing.T) {
	noLeaks(t)
	l := listen(t)
	address := l.Addr().String()
	p := newHTTP(t, provider.HTTPConfig{Target: "http://" + address, Breaker: provider.Breaker{Failures: 3, OpenFor: 20 * time.Millisecond}})
	for range 3 {
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ReadHeaderTimeout: plenty}}
		s.Start()
		var a authz.Answer
		eventually(t, func() bool { return p.Ask(within(t, plenty), question(t), &a) == nil })
		s.Close()
		seen := map[authz.Reason]bool{}
		eventually(t, func() bool {
			seen[reasonOf(t, p.Ask(within(t, plenty), question(t), &a))] = true
			return seen[authz.ReasonProviderUnreachable] && seen[authz.ReasonProviderCircuitOpen]
		})
		if seen[""] {
			t.Error("a server that is gone answered")
		}
		var err error
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
}

// TestHTTPIdleConnectionClosed has a server close each connection after one answer without saying so: the next check,
// a POST at that, is asked on a new one.
func TestHTTPIdleConnectionClosed(t *testing.T) {
	noLeaks(t)
	address := serveRaw(t, func(conn net.Conn) {
		readSome(conn)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		readSome(conn) // the next request, or the end
	})
	p := newHTTP(t, provider.HTTPConfig{Target: "http://" + address, IncludeRequestBodyInCheck: &provider.Body{MaxRequestBytes: 100}})
	for i := range 20 {
		var a authz.Answer
		if err := p.Ask(within(t, plenty), questionWith(t, "POST", "/", fmt.Sprint("body ", i), nil), &a); err != nil || !a.Allow {
			t.Fatalf("check %d: answer %+v, error %v", i, a, err)
		}
	}
}

func TestHTTPConnectionsAreBounded(t *testing.T) {
	noLeaks(t)
	var mu sync.Mutex
	open, most := 0, 0
	release := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch state {
		case http.StateNew:
			open++
		case http.StateClosed, http.StateHijacked:
			open--
		default:
		}
		most = max(most, open)
	}
	s.Start()
	t.Cleanup(s.Close)
	p := newHTTP(t, provider.HTTPConfig{Target: s.URL, MaxConnections: 4})
	var wg sync.WaitGroup
	for range 32 {
		q := question(t)
		ctx := within(t, plenty)
		wg.Go(func() {
			var a authz.Answer
			if err := p.Ask(ctx, q, &a); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return open == 4
	})
	close(release)
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if most > 4 {
		t.Errorf("%d connections at a time, want at most 4", most)
	}
}

func slowHTTP(t *testing.T) (string, <-chan struct{}) {
	started := make(chan struct{}, 64)
	return serveHTTP(t, func(_ http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-r.Context().Done()
	}).URL, started
}

func TestHTTPCloseEndsCalls(t *testing.T) {
	noLeaks(t)
	target, started := slowHTTP(t)
	p, err := provider.NewHTTP(provider.HTTPConfig{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	testCloseEndsCalls(t, p, started)
}

func TestHTTPGivenUp(t *testing.T) {
	noLeaks(t)
	target, started := slowHTTP(t)
	testGivenUp(t, newHTTP(t, provider.HTTPConfig{Target: target}), started)
}

func TestHTTPUnreachable(t *testing.T) {
	noLeaks(t)
	p := newHTTP(t, provider.HTTPConfig{Target: "http://" + refusing(t)})
	var a authz.Answer
	wantFault(t, p.Ask(within(t, plenty), question(t), &a), authz.ReasonProviderUnreachable, "refused")
}
