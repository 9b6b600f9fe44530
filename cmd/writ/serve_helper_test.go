package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// authorityProcess is a running writ serve, with its sockets in dir.
type authorityProcess struct{ *process }

const serveConfig = `
documents: ./policies
authz:
  listen: unix:authz.sock
  decision_log: {to: decisions.jsonl, log: all}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`

// serve starts writ serve -c writ.yaml in dir and waits until it listens.
func serve(t *testing.T, dir string) *authorityProcess {
	t.Helper()
	p := &authorityProcess{start(t, dir, writ(t, "serve", "-c", filepath.Join(dir, "writ.yaml")))}
	p.eventually("live", func() error {
		_, err := p.get("/livez", http.StatusOK)
		return err
	})
	return p
}

// metric waits until /metrics holds the given line.
func (p *authorityProcess) metric(line string) {
	p.t.Helper()
	p.eventually("metric "+line, func() error {
		body, err := p.get("/metrics", http.StatusOK)
		if err == nil && !strings.Contains(body, "\n"+line+"\n") {
			err = errors.New("not there")
		}
		return err
	})
}

// dial connects to the ext_authz socket.
func (p *authorityProcess) dial(target string, creds credentials.TransportCredentials) *grpc.ClientConn {
	p.t.Helper()
	if target == "" {
		target = "unix:" + filepath.Join(p.dir, "authz.sock")
	}
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends one check and returns the HTTP status of the answer, 200 when it is allowed.
func ask(ctx context.Context, conn *grpc.ClientConn, r *authv3.CheckRequest) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := authv3.NewAuthorizationClient(conn).Check(ctx, r)
	if err != nil {
		return 0, err
	}
	if response.GetStatus().GetCode() == 0 {
		return http.StatusOK, nil
	}
	return int(response.GetDeniedResponse().GetStatus().GetCode()), nil
}

// status asks the admin socket.
func (p *authorityProcess) status() statusReport {
	p.t.Helper()
	return p.admin("admin.sock")
}

// reload posts to the admin socket, and returns once the documents have been loaded.
func (p *authorityProcess) reload() readiness {
	p.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.dir, "admin.sock"))
		}}}
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://admin/reload", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var r readiness
	if err := json.NewDecoder(response.Body).Decode(&r); err != nil {
		p.t.Fatal(err)
	}
	return r
}
