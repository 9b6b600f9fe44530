package testkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Backend is a server on a loopback port. Close ends it.
type Backend struct {
	Addr  string // host:port
	close func() error
}

// Close ends the backend and waits for what it is doing.
func (b *Backend) Close() error { return b.close() }

// Echo is what [EchoHandler] answers, as JSON.
type Echo struct {
	Service string      `json:"service"`
	Method  string      `json:"method"`
	Path    string      `json:"path"` // with the query, as received
	Headers http.Header `json:"headers"`
	Body    string      `json:"body,omitempty"`
}

// EchoHandler answers every request with what it was asked.
func EchoHandler(service string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(Echo{
			Service: service, Method: r.Method, Path: r.RequestURI, Headers: r.Header, Body: string(body),
		}) // a client that went away is its own problem
	})
}

// ServeHTTP serves handler on a free loopback port.
func ServeHTTP(ctx context.Context, handler http.Handler) (*Backend, error) {
	listener, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return &Backend{Addr: listener.Addr().String(), close: func() error {
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}}, nil
}

// ServeTCPEcho sends every connection a greeting line and then back what it sends.
func ServeTCPEcho(ctx context.Context, greeting string) (*Backend, error) {
	listener, err := listen(ctx)
	if err != nil {
		return nil, err
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns = map[net.Conn]bool{} // nil once closed
	)
	serve := func(conn net.Conn) {
		defer conn.Close()
		if _, err := fmt.Fprintln(conn, greeting); err == nil {
			_, _ = io.Copy(conn, conn) // ends with the connection
		}
		mu.Lock()
		delete(conns, conn)
		mu.Unlock()
	}
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			mu.Lock()
			if conns == nil {
				_ = conn.Close()
			} else {
				conns[conn] = true
				wg.Go(func() { serve(conn) })
			}
			mu.Unlock()
		}
	})
	return &Backend{Addr: listener.Addr().String(), close: func() error {
		err := listener.Close()
		mu.Lock()
		for conn := range conns {
			_ = conn.Close()
		}
		conns = nil
		mu.Unlock()
		wg.Wait()
		return err
	}}, nil
}

func listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", "127.0.0.1:0")
}
