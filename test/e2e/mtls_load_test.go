package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

// Pauses between two requests of one caller: continuous, and no load test.
const (
	requestEvery = 20 * time.Millisecond
	connectEvery = 100 * time.Millisecond
	pieceEvery   = 100 * time.Millisecond // of what stays open
)

// traffic is everything that goes through a pair of Envoys at once, and must never fail.
type traffic struct {
	load
	envoy *testkit.Envoy // of the caller

	http1, http2, pieces, connections, echoes atomic.Int64
}

// startTraffic keeps HTTP/1.1 and HTTP/2 requests, TCP connections, two streams over HTTP/2 and two TCP connections that
// stay open going until finish is called.
func startTraffic(t *testing.T, envoy *testkit.Envoy) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	until, enough := context.WithCancel(ctx)
	stop := func() {
		enough()
		time.AfterFunc(patience, cancel) // what hangs is an error, and does not hang the test
	}
	tr := &traffic{load: load{stop: stop}, envoy: envoy}
	for range 2 {
		tr.wg.Go(func() { tr.ask(ctx, until, "HTTP/1.1", &tr.http1) })
		tr.wg.Go(func() { tr.ask(ctx, until, "HTTP/2", &tr.http2) })
		tr.wg.Go(func() { tr.report("a stream over HTTP/2", tr.stream(ctx, until)) })
		tr.wg.Go(func() { tr.report("a TCP connection", tr.connection(ctx, until)) })
	}
	tr.wg.Go(func() { tr.connect(ctx, until) })
	t.Cleanup(func() { cancel(); tr.wg.Wait() })
	return tr
}

func (tr *traffic) report(what string, err error) {
	if err != nil {
		tr.wrong(fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), what, err))
	}
}

// ask sends one request after the other by one version of HTTP. What was sent before the end is answered, or that is a
// failure.
func (tr *traffic) ask(ctx, until context.Context, version string, count *atomic.Int64) {
	client := plainClient(version)
	defer client.CloseIdleConnections()
	for wait(until, requestEvery) {
		got, err := try(ctx, client, "http://"+tr.envoy.Listener("http"), "GET", "/orders")
		switch {
		case err != nil:
		case got.status != http.StatusOK:
			err = fmt.Errorf("status %d %q", got.status, got.body)
		case !strings.HasPrefix(got.proto, version):
			err = fmt.Errorf("answered by %s", got.proto)
		}
		tr.report(version, err)
		count.Add(1)
		tr.requests.Add(1)
	}
}

// plainClient speaks one version of HTTP, without TLS.
func plainClient(version string) *http.Client {
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetHTTP1(version == "HTTP/1.1")
	transport.Protocols.SetUnencryptedHTTP2(version == "HTTP/2")
	return &http.Client{Transport: transport}
}

// stream keeps one request open and has its pieces come back, until its time is over.
func (tr *traffic) stream(ctx, until context.Context) error {
	body, pieces := io.Pipe()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+tr.envoy.Listener("http")+"/stream", body)
	if err != nil {
		return err
	}
	client := plainClient("HTTP/2")
	defer client.CloseIdleConnections()
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	if err := tr.converse(until, pieces, bufio.NewReader(response.Body), &tr.pieces); err != nil {
		return errors.Join(err, pieces.CloseWithError(err))
	}
	if err := pieces.Close(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		return fmt.Errorf("after its end: %q, %v", rest, err)
	}
	return nil
}

// connection keeps one TCP connection open and has what it sends come back, until its time is over.
func (tr *traffic) connection(ctx, until context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", tr.envoy.Listener("tcp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	reader := bufio.NewReader(conn)
	if err := greeted(conn, reader); err != nil {
		return err
	}
	return tr.converse(until, conn, reader, &tr.echoes)
}

// connect opens one TCP connection after the other.
func (tr *traffic) connect(ctx, until context.Context) {
	for wait(until, connectEvery) {
		tr.report("a new TCP connection", func() error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", tr.envoy.Listener("tcp"))
			if err != nil {
				return err
			}
			defer conn.Close()
			return errors.Join(conn.SetDeadline(time.Now().Add(patience)), greeted(conn, bufio.NewReader(conn)))
		}())
		tr.connections.Add(1)
	}
}

// greeted says hello, for which the service greets first and then repeats it.
func greeted(w io.Writer, r *bufio.Reader) error {
	if _, err := io.WriteString(w, "hello\n"); err != nil {
		return err
	}
	for _, want := range []string{"ready\n", "hello\n"} {
		if got, err := r.ReadString('\n'); err != nil || got != want {
			return fmt.Errorf("got %q, want %q: %v", got, want, err)
		}
	}
	return nil
}

// converse sends a line, reads it back and waits a little, until its time is over.
func (tr *traffic) converse(until context.Context, w io.Writer, r *bufio.Reader, count *atomic.Int64) error {
	for n := 0; wait(until, pieceEvery); n++ {
		line := fmt.Sprintf("piece %d\n", n)
		if _, err := io.WriteString(w, line); err != nil {
			return fmt.Errorf("piece %d: %w", n, err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != line {
			return fmt.Errorf("piece %d came back as %q: %v", n, got, err)
		}
		count.Add(1)
	}
	return nil
}

// wait reports whether the time has passed and ctx has not ended before.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// end is finish, with a summary.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.finish(t)
	t.Logf("%d HTTP/1.1 requests, %d HTTP/2 requests, %d pieces of two streams over HTTP/2, %d TCP connections, %d echoes on two that stayed open",
		tr.http1.Load(), tr.http2.Load(), tr.pieces.Load(), tr.connections.Load(), tr.echoes.Load())
}

// service is what the mesh protects: HTTP/1.1 and HTTP/2 without TLS. It answers with what it was asked; /stream sends
// back, piece by piece, what it is sent.
func service(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/stream", sendBack)
	mux.Handle("/", testkit.EchoHandler("payment"))
	server := &http.Server{Handler: mux, Protocols: &http.Protocols{}, ReadHeaderTimeout: patience}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// sendBack returns every piece of the body as it comes.
func sendBack(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return
	}
	buffer := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buffer)
		if n > 0 {
			if _, werr := w.Write(buffer[:n]); werr != nil || control.Flush() != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the caller is to see that it did not end well
		}
	}
}
