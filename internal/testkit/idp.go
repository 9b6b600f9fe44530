package testkit

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Paths of an [IdentityProvider].
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/jwks.json"
)

// Fault is a way in which an [IdentityProvider] does not answer as it should.
type Fault int

// Faults.
const (
	FaultNone        Fault = iota
	FaultDown              // closes every connection at once, as a load balancer with nobody behind it
	FaultSlowHeaders       // takes the request and says nothing
	FaultSlowBody          // begins the answer and does not end it
	FaultUnavailable       // 503
	FaultHTML              // 200 with a page for people
	FaultNoKeys            // 200 with an empty key set
)

// IdentityProviderConfig says how to serve one.
type IdentityProviderConfig struct {
	Address string // host:port on loopback; empty = 127.0.0.1 and any free port
	Issuer  string // what its tokens say; empty = its URL
	CA      *CA    // signs its certificate
}

// IdentityProvider is an OpenID provider over HTTPS as far as verifiers see one: a discovery document, a key set, and
// tokens. It is safe for concurrent use.
type IdentityProvider struct {
	URL    string // https://host:port
	Issuer string

	keyring
	fault   atomic.Int32
	fetches atomic.Int64
	closing chan struct{}
	close   func() error
}

// ServeIdentityProvider starts one with a key for each of the [Algorithms].
func ServeIdentityProvider(ctx context.Context, cfg IdentityProviderConfig) (*IdentityProvider, error) {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("identity provider: %w", err)
	}
	p := &IdentityProvider{URL: "https://" + listener.Addr().String(), closing: make(chan struct{})}
	p.Issuer = cmp.Or(cfg.Issuer, p.URL)
	for _, algorithm := range Algorithms() {
		p.Rotate(algorithm)
	}
	host, _, _ := net.SplitHostPort(listener.Addr().String()) // of a listener, so it can be split
	leaf, err := cfg.CA.Leaf(Names{CN: "identity provider", DNS: []string{"localhost"}, IPs: []string{host}})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+DiscoveryPath, p.discovery)
	mux.HandleFunc("GET "+KeysPath, p.keySet)
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0), // handshakes that clients break off are what some tests are about
	}
	secured := tls.NewListener(&faultyListener{listener, &p.fault}, &tls.Config{
		Certificates: []tls.Certificate{*leaf}, MinVersion: tls.VersionTLS12,
	})
	done := make(chan error, 1)
	go func() { done <- server.Serve(secured) }()
	p.close = sync.OnceValue(func() error {
		close(p.closing)
		err := server.Close()
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	})
	return p, nil
}

// Close ends the server, open connections included: from then on they are refused. It may be called more than once.
func (p *IdentityProvider) Close() error { return p.close() }

// JWKSURI is where the keys are.
func (p *IdentityProvider) JWKSURI() string { return p.URL + KeysPath }

// Fail makes every answer from now on that of the fault.
func (p *IdentityProvider) Fail(f Fault) { p.fault.Store(int32(f)) }

// Fetches is how often the keys were asked for, answered or not.
func (p *IdentityProvider) Fetches() int { return int(p.fetches.Load()) }

func (p *IdentityProvider) discovery(w http.ResponseWriter, r *http.Request) {
	p.answer(w, r, map[string]any{
		"issuer": p.Issuer, "jwks_uri": p.JWKSURI(), "id_token_signing_alg_values_supported": Algorithms(),
	})
}

func (p *IdentityProvider) keySet(w http.ResponseWriter, r *http.Request) {
	p.fetches.Add(1)
	p.answer(w, r, p.published())
}

func (p *IdentityProvider) answer(w http.ResponseWriter, r *http.Request, document map[string]any) {
	hang := func() {
		select {
		case <-r.Context().Done():
		case <-p.closing:
		}
		panic(http.ErrAbortHandler) // returning would complete the answer
	}
	w.Header().Set("Content-Type", "application/json")
	switch Fault(p.fault.Load()) {
	case FaultSlowHeaders:
		hang()
	case FaultSlowBody:
		_, _ = w.Write([]byte(`{"keys":[`))
		_ = http.NewResponseController(w).Flush()
		hang()
	case FaultUnavailable:
		http.Error(w, "try again later", http.StatusServiceUnavailable)
	case FaultHTML:
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<!doctype html><title>Sign in</title>"))
	case FaultNoKeys:
		_, _ = w.Write([]byte(`{"keys":[]}`))
	default:
		_ = json.NewEncoder(w).Encode(document) // a client that went away is its own problem
	}
}

// faultyListener closes what it accepts while the fault is FaultDown.
type faultyListener struct {
	net.Listener
	fault *atomic.Int32
}

func (l *faultyListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || Fault(l.fault.Load()) != FaultDown {
			return conn, err
		}
		_ = conn.Close()
	}
}
