package jwt_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// marker stands for what a key server sends and nobody but the fetcher may read.
const marker = "internal-secret-7"

func hijacked(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, raw)
		conn.Close()
	}
}

func large(size int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(marker+" ", 4096))
		for sent := 0; sent < size; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

// fault is an answer that brings no keys.
type fault struct {
	name   string
	answer http.HandlerFunc
	want   jwt.FetchResult
	once   bool // not worth another attempt at once
}

func faults() []fault {
	rsa := `{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"` + marker + `"}`
	many := make([]string, 257)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	return []fault{
		{"500", status(500, newJWKS("a")), jwt.FetchStatus, false},
		{"503", status(503, marker), jwt.FetchStatus, false},
		{"429", status(429, marker), jwt.FetchStatus, false},
		{"404", status(404, marker), jwt.FetchStatus, true},
		{"401", status(401, marker), jwt.FetchStatus, true},
		{"201 with keys", status(201, newJWKS("a")), jwt.FetchStatus, true},
		{"204", status(204, ""), jwt.FetchStatus, true},
		{"304", status(304, ""), jwt.FetchStatus, true},
		{"200 with HTML", says("<html>" + marker + "</html>"), jwt.FetchBadKeys, true},
		{"200 with text", says(marker), jwt.FetchBadKeys, true},
		{"200 with nothing", says(""), jwt.FetchBadKeys, true},
		{"an object without keys", says(`{"` + marker + `":1}`), jwt.FetchBadKeys, true},
		{"an empty set", says(`{"keys":[]}`), jwt.FetchBadKeys, true},
		{"keys null", says(`{"keys":null}`), jwt.FetchBadKeys, true},
		{"a list", says(`["` + marker + `"]`), jwt.FetchBadKeys, true},
		{"a bare key", says(newJWK("a")), jwt.FetchBadKeys, true},
		{"only symmetric keys", says(`{"keys":[{"kty":"oct","k":"` + marker + `"}]}`), jwt.FetchBadKeys, true},
		{"only a weak key", says(`{"keys":[` + rsa + `]}`), jwt.FetchBadKeys, true},
		{"an unknown kty", says(`{"keys":[{"kty":"` + marker + `"}]}`), jwt.FetchBadKeys, true},
		{"257 keys", says(newJWKS(many...)), jwt.FetchBadKeys, true},
		{"trailing text", says(newJWKS("a") + marker), jwt.FetchBadKeys, true},
		{"10 MB", large(10 << 20), jwt.FetchTooLarge, true},
		{"keys, then 1 MiB of blanks", says(newJWKS("a") + strings.Repeat(" ", 1<<20)), jwt.FetchTooLarge, true},
		{"the banner of another protocol", hijacked("SSH-2.0-" + marker + "\r\n"), jwt.FetchProtocol, false},
		{"nothing at all", hijacked(""), jwt.FetchProtocol, false},
		{"a body cut short", hijacked("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + newJWKS("a")), jwt.FetchProtocol, false},
		{"1 MB of headers", hijacked("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat(marker, 60000) + "\r\n\r\n"), jwt.FetchProtocol, false},
		{"a redirect without a target", status(302, marker), jwt.FetchStatus, true},
		{"redirects without end", redirect("/again"), jwt.FetchRefusedRedirect, true},
		{"a redirect to the metadata address", redirect("http://169.254.169.254/latest/meta-data/"), jwt.FetchRefusedAddress, true},
		{"a redirect to it in NAT64", redirect("http://[64:ff9b::a9fe:a9fe]/latest/"), jwt.FetchRefusedAddress, true},
		{"a redirect to it as IPv4 in IPv6", redirect("http://[::ffff:169.254.169.254]/latest/"), jwt.FetchRefusedAddress, true},
		{"a redirect to a private address", redirect("http://10.1.2.3/keys"), jwt.FetchRefusedAddress, true},
		{"a redirect to a file", redirect("file:///etc/passwd"), jwt.FetchRefusedURL, true},
		{"a redirect with credentials", redirect("http://user:" + marker + "@127.0.0.1/"), jwt.FetchRefusedURL, true},
	}
}

// From the start on: no keys, and a status that says why without quoting.
func TestSourceFaultAtStart(t *testing.T) {
	for _, tt := range faults() {
		t.Run(tt.name, func(t *testing.T) {
			idp := newIDP(t, tt.answer)
			synctest.Test(t, func(t *testing.T) {
				logs := &logBook{}
				cfg := nearby()
				cfg.Logger = logs.logger()
				s, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL + "/jwks?token=" + marker, Issuer: "https://idp"})
				if src.Keys() != nil {
					t.Fatalf("keys %s", kids(src.Keys()))
				}
				st := only(t, s)
				if st.LastError != tt.want || st.Keys != 0 || st.Failures != 1 {
					t.Errorf("status %+v, want last error %s", st, tt.want)
				}
				if n := idp.hits.Load(); tt.name != "redirects without end" && (n == 1) != tt.once {
					t.Errorf("%d attempts in one fetch", n)
				}
				if text := fmt.Sprintf("%+v", st) + logs.String(); strings.Contains(text, marker) {
					t.Errorf("status or log quotes the server or the query: %s", text)
				}

				idp.now(says(newJWKS("good")))
				pass(time.Second) // the first backoff
				if got := kids(src.Keys()); got != "good" {
					t.Errorf("keys %s after recovery, want good", got)
				}
			})
		})
	}
}

// Later: the keys in force stay, whatever comes instead of new ones (request-authentication §10 rows 48, 49).
func TestSourceFaultLater(t *testing.T) {
	for _, tt := range faults() {
		t.Run(tt.name, func(t *testing.T) {
			idp := newIDP(t, says(newJWKS("old")))
			synctest.Test(t, func(t *testing.T) {
				s, src := started(t, nearby(), jwt.Wanted{JWKSURI: idp.URL})
				before := src.Keys()
				idp.now(tt.answer)
				pass(23 * time.Minute)
				if src.Keys() != before || before == nil {
					t.Errorf("keys %s, want old", kids(src.Keys()))
				}
				if st := only(t, s); st.LastError != tt.want || !st.Stale || st.Keys != 1 {
					t.Errorf("status %+v, want stale with %s", st, tt.want)
				}
				idp.now(says(newJWKS("new")))
				pass(time.Minute) // the longest backoff
				if got := kids(src.Keys()); got != "new" {
					t.Errorf("keys %s after recovery, want new", got)
				}
				if st := only(t, s); st.Stale || st.Failures != 0 {
					t.Errorf("status %+v after recovery", st)
				}
			})
		})
	}
}

// A server that takes its time is given up after the rule's timeout, wherever it dawdles.
func TestSourceSlowServer(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	drip := func(conn net.Conn, text string) {
		for {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
				if _, err := io.WriteString(conn, text); err != nil {
					return
				}
			}
		}
	}
	for _, tt := range []struct {
		name  string
		want  jwt.FetchResult
		serve func(net.Conn)
	}{
		{"never answers", jwt.FetchTimeout, func(net.Conn) { <-over }},
		{"slow headers", jwt.FetchTimeout, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nX-A: "); drip(c, "a") }},
		{"slow body", jwt.FetchTimeout, func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n{"); drip(c, " ") }},
		{"interim answers without end", jwt.FetchProtocol, func(c net.Conn) { drip(c, "HTTP/1.1 103 Early Hints\r\n\r\n") }},
	} {
		for _, scheme := range []string{"http", "https"} {
			if scheme == "https" && tt.name != "never answers" { // before the handshake they are all the same
				continue
			}
			t.Run(tt.name+" over "+scheme, func(t *testing.T) {
				t.Parallel()
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { listener.Close() })
				go func() {
					for {
						conn, err := listener.Accept()
						if err != nil {
							return
						}
						go func() { defer conn.Close(); tt.serve(conn) }()
					}
				}()
				begin := time.Now()
				s, src := started(t, nearby(), jwt.Wanted{JWKSURI: scheme + "://" + listener.Addr().String(), Timeout: 80 * time.Millisecond})
				if took := time.Since(begin); took > 10*time.Second {
					t.Errorf("three attempts of 80 ms took %v", took)
				}
				if st := only(t, s); src.Keys() != nil || st.LastError != tt.want {
					t.Errorf("keys %s, status %+v, want %s", kids(src.Keys()), st, tt.want)
				}
			})
		}
	}
}

func TestSourceServerDown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var server *http.Server
	t.Cleanup(func() {
		if server != nil {
			server.Close()
		}
	})
	answer := says(newJWKS("a"))
	synctest.Test(t, func(t *testing.T) {
		s, src := started(t, nearby(), jwt.Wanted{JWKSURI: "http://" + address})
		pass(10 * time.Minute)
		st := only(t, s)
		if src.Keys() != nil || st.LastError != jwt.FetchConnect || st.Detail != "connection refused" {
			t.Fatalf("keys %s, status %+v, want connect: connection refused", kids(src.Keys()), st)
		}
		if st.Failures < 12 || st.Failures > 24 { // 1+2+4+8+16+32 s, then every minute, less the jitter
			t.Errorf("%d fetches in 10 minutes", st.Failures)
		}
		if wait := time.Until(st.NextAttempt); wait <= 0 || wait > time.Minute {
			t.Errorf("next attempt in %v", wait)
		}
	})
	listener, err = net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port just closed cannot be opened again: %v", err)
	}
	server = &http.Server{Handler: answer}
	go server.Serve(listener)
	synctest.Test(t, func(t *testing.T) {
		_, src := started(t, nearby(), jwt.Wanted{JWKSURI: "http://" + address})
		if got := kids(src.Keys()); got != "a" {
			t.Fatalf("keys %s, want a", got)
		}
		server.Close()
		pass(23 * time.Hour)
		if got := kids(src.Keys()); got != "a" {
			t.Errorf("keys %s 23 hours after the provider went down, want a", got)
		}
	})
}

func TestSourceOneBadKeyAmongGood(t *testing.T) {
	bad := []string{`{"kty":"AKP","alg":"ML-DSA-44"}`, `{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, `7`, `{"kty":"oct","k":"AA"}`}
	set := `{"keys":[` + newJWK("a") + "," + strings.Join(bad, ",") + "," + newJWK("b") + `]}`
	idp := newIDP(t, says(set))
	logs := &logBook{}
	cfg := nearby()
	cfg.Logger = logs.logger()
	s, src := started(t, cfg, jwt.Wanted{JWKSURI: idp.URL})
	if got := kids(src.Keys()); got != "a b" {
		t.Errorf("keys %s, want a b", got)
	}
	if st := only(t, s); st.Keys != 2 || st.Skipped != len(bad) {
		t.Errorf("status %+v, want 2 keys and %d skipped", st, len(bad))
	}
	if !strings.Contains(logs.String(), "skipped=4") {
		t.Errorf("log does not tell of the bad keys: %s", logs)
	}
}
