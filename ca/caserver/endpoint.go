package caserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/writ-auth/writ/ca"
)

// Paths of the bundle endpoint.
const (
	pathBundle    = "/"
	pathDiscovery = "/.well-known/openid-configuration" // OpenID Connect Discovery 1.0 §4
	pathKeys      = "/keys"
)

const (
	endpointTimeout = 10 * time.Second
	maxEndpointHead = 8 << 10
)

// Publisher is what a bundle endpoint publishes; [*ca.Authority] does.
type Publisher interface {
	Bundle() *ca.Bundle
	JWTKeys() *ca.JWTKeys
}

// Endpoint serves the trust domain's public keys over HTTPS to whoever asks (SPIFFE Federation §5): its SPIFFE bundle at /,
// and, if JWT-SVIDs have an issuer, what OpenID Connect needs to verify them.
type Endpoint struct {
	Publisher Publisher
	// Issuer is the iss of JWT-SVIDs and the URL at which clients find this endpoint; empty: no discovery.
	Issuer string
	Logger *slog.Logger
}

// ServeHTTP answers GET and HEAD.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	var text []byte
	var err error
	switch {
	case r.URL.Path == pathBundle:
		text, err = e.bundle()
	case r.URL.Path == pathDiscovery && e.Issuer != "":
		text, err = e.discovery()
	case r.URL.Path == pathKeys && e.Issuer != "":
		text, err = e.keys()
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		e.Logger.WarnContext(r.Context(), "the bundle endpoint has nothing to show", "path", r.URL.Path, "error", err)
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	sum := sha256.Sum256(text)
	header := w.Header()
	header.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Header.Get("If-None-Match") == header.Get("ETag") {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(text) // to a client that went away
}

func (e *Endpoint) bundle() ([]byte, error) {
	b := e.Publisher.Bundle()
	if b == nil {
		return nil, ca.ErrNotReady
	}
	return SPIFFEBundle(b, e.Publisher.JWTKeys())
}

func (e *Endpoint) keys() ([]byte, error) {
	keys := e.Publisher.JWTKeys()
	if keys == nil {
		return nil, fmt.Errorf("%w: no key for JWT-SVIDs", ca.ErrNotReady)
	}
	return keys.JWKS, nil
}

// discovery is the least that OpenID Connect Discovery 1.0 §3 asks for; there is no authorization endpoint to name.
func (e *Endpoint) discovery() ([]byte, error) {
	return json.MarshalIndent(struct {
		Issuer     string   `json:"issuer"`
		KeysURL    string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{e.Issuer, e.Issuer + pathKeys, []string{"id_token"}, []string{"public"}, []string{"ES256"}}, "", "  ")
}

// Serve answers on l until ctx is done, and closes it. The certificate is asked for with every handshake: the server's own
// (profile https_spiffe), or one that the world trusts (https_web). Nobody's certificate is asked for in return.
func (e *Endpoint) Serve(ctx context.Context, l net.Listener, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	server := &http.Server{
		Handler:           e,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: endpointTimeout, ReadTimeout: endpointTimeout, WriteTimeout: endpointTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxEndpointHead,
		ErrorLog:       slog.NewLogLogger(e.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(l, "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("bundle endpoint %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endpointTimeout)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		_ = server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("bundle endpoint %s: %w", l.Addr(), err)
	}
	return nil
}

// Certificate is the server's own certificate, as [tls.Config.GetCertificate] wants it.
func (s *Server) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.identity.get(hello)
}
