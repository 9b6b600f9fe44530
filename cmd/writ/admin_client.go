package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/ca/store"
)

const maxAdminAnswer = 64 << 20

// whereFlags say which authority a command is about.
type whereFlags struct{ config, admin string }

func (f *whereFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.config, "config", "c", "", "configuration `file` of the authority")
	cmd.Flags().StringVar(&f.admin, "admin", "", "`address` of its admin socket: unix:///path")
}

// control is the admin interface of an authority: of one that runs, through its socket, or of one that does not, by
// opening its state. What is asked and answered is the same.
type control struct {
	transport http.RoundTripper
	where     string
	state     *caState // nil when the authority runs
}

// control finds the authority: by the admin socket if something listens there, else in the state that -c names.
func (c *cli) control(ctx context.Context, cmd *cobra.Command, f *whereFlags) (*control, error) {
	if f.admin != "" {
		where, err := c.adminAddress(f.config, f.admin)
		if err != nil {
			return nil, err
		}
		return &control{transport: unixTransport(where), where: where.String()}, nil
	}
	if f.config == "" {
		return nil, usagef("%s: which authority? -c writ.yaml, or --admin unix:///run/writ/admin.sock", cmd.CommandPath())
	}
	cfg, err := c.caConfig(f.config)
	if err != nil {
		return nil, err
	}
	if where, ok := running(cfg); ok {
		return &control{transport: unixTransport(where), where: where.String()}, nil
	}
	state, err := openCAState(ctx, cfg, c.env, slog.New(slog.DiscardHandler), false)
	if err != nil {
		if where, ok := started(ctx, cfg, err); ok {
			return &control{transport: unixTransport(where), where: where.String()}, nil
		}
		return nil, notRunning(cfg, err)
	}
	return &control{transport: inProcess{state.offline(state.load(ctx))}, where: f.config, state: state}, nil
}

// caConfig reads a configuration that has a certificate authority.
func (c *cli) caConfig(file string) (*config, error) {
	cfg, err := c.loadConfig(file, nil)
	if err == nil && cfg.CA == nil {
		err = invalidf("%s has no ca block: it configures no certificate authority", file)
	}
	return cfg, err
}

// running finds the admin socket of an authority that runs. Whatever is wrong with a socket that is there comes up when
// it is used.
func running(cfg *config) (address, bool) {
	if cfg.Admin == "" {
		return address{}, false
	}
	where, err := parseAddress(cfg.Admin)
	if err != nil {
		return address{}, false
	}
	conn, err := net.DialTimeout(where.network, where.address, adminTimeout)
	if err == nil {
		_ = conn.Close()
	}
	return where, !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}

// startPatience is how long a command waits for an authority that is being started beside it.
const startPatience = 3 * time.Second

// started waits for the admin socket of an authority that may be just starting: it has the state open, or there is none
// because it is about to make it.
func started(ctx context.Context, cfg *config, err error) (address, bool) {
	if cfg.Admin == "" || !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, store.ErrNone) {
		return address{}, false
	}
	patience := time.NewTimer(startPatience)
	defer patience.Stop()
	for {
		select {
		case <-ctx.Done():
			return address{}, false
		case <-patience.C:
			return address{}, false
		case <-time.After(startPatience / 60):
		}
		if where, ok := running(cfg); ok {
			return where, true
		}
	}
}

// notRunning adds what to do when another process has the state open and cannot be asked.
func notRunning(cfg *config, err error) error {
	if errors.Is(err, syscall.EWOULDBLOCK) && cfg.Admin == "" {
		return fmt.Errorf("%w; writ serve runs and has no admin socket to ask: add admin: unix:///run/writ/admin.sock and restart it", err)
	}
	return err
}

// offline is the admin interface of a state that nobody serves. Where the authority could not be loaded there is only
// what the ledger alone can answer.
func (s *caState) offline(failed error) http.Handler {
	mux := http.NewServeMux()
	s.routes(mux, s.report)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ledgerOnly := r.URL.Path == "/ca/verify" || r.URL.Path == "/ca/backup"; failed != nil && !ledgerOnly {
			writeJSON(w, http.StatusInternalServerError, adminError{failed.Error()})
			return
		}
		mux.ServeHTTP(w, r.WithContext(withOperator(r.Context(), ourselves())))
	})
}

// close lets go of the state.
func (o *control) close() error {
	if o.state == nil {
		return nil
	}
	return o.state.close()
}

// get asks for answer.
func (o *control) get(ctx context.Context, path string, answer any) error {
	return o.do(ctx, http.MethodGet, path, http.NoBody, answer)
}

// post sends question and reads answer.
func (o *control) post(ctx context.Context, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return o.do(ctx, http.MethodPost, path, bytes.NewReader(body), answer)
}

func (o *control) do(ctx context.Context, method, path string, body io.Reader, answer any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, body)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: o.transport}).Do(request)
	if err != nil {
		return noAnswer(o.where, err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer+1))
	if err != nil {
		return fmt.Errorf("%s: the answer to %s ends early: %w", o.where, path, err)
	}
	if response.StatusCode != http.StatusOK {
		return o.refused(response, path, data)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s: the answer to %s cannot be read: %w", o.where, path, err)
	}
	return nil
}

// refused turns an answer that is none into the exit code that it means.
func (o *control) refused(response *http.Response, path string, data []byte) error {
	var e adminError
	if json.Unmarshal(data, &e) != nil || e.Error == "" {
		return fmt.Errorf("%s answers %s to %s: is it an authority of this version, with a ca block?", o.where, response.Status, path)
	}
	code := exitFailed
	switch response.StatusCode {
	case http.StatusBadRequest:
		code = exitUsage
	case http.StatusConflict:
		code = exitNo
	}
	return &exitError{code: code, err: errors.New(printable(e.Error))}
}

func noAnswer(where string, err error) error {
	return fmt.Errorf("no authority answers at %s: is writ serve running, with this admin address, and may you open the socket? (%w)", where, err)
}

func unixTransport(where address) http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: adminTimeout}).DialContext(ctx, where.network, where.address)
		},
	}
}

// inProcess calls a handler instead of a server.
type inProcess struct{ handler http.Handler }

// RoundTrip implements [http.RoundTripper].
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	w := &answerWriter{header: http.Header{}, status: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status, Header: w.header,
		Body: io.NopCloser(&w.body), Request: r,
	}, nil
}

// answerWriter keeps an answer in memory.
type answerWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *answerWriter) Header() http.Header         { return w.header }
func (w *answerWriter) WriteHeader(status int)      { w.status = status }
func (w *answerWriter) Write(b []byte) (int, error) { return w.body.Write(b) }
