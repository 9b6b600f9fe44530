package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	// patience bounds one request; this is no test of speed.
	patience = 20 * time.Second

	// listening is how long a connection is listened to for the end of its handshake: with TLS 1.3 the server looks at the
	// client's certificate when the client is done already.
	listening = 5 * time.Second
)

// logged is what the access log says of one request. Envoy writes null for what is absent.
type logged struct {
	Filter      string `json:"filter"`
	RequestID   string `json:"request_id"`
	Layer       string `json:"layer"`
	Reason      string `json:"reason"`
	Policy      string `json:"policy"`
	Rule        int    `json:"rule"`
	Token       string `json:"token"` // why it was refused
	Audit       any    `json:"audit"`
	DryRunAllow string `json:"dry_run_allow"`
	DryRunDeny  string `json:"dry_run_deny"`
}

// layerCustom is where a provider has the word, whose text is then the body.
const layerCustom = "custom"

// why is the short form. The body is what the caller got.
func (l logged) why(body []byte) string {
	text := l.Reason
	if l.Token != "" {
		text += ": " + l.Token
	}
	if l.Policy != "" {
		text = fmt.Sprintf("%s %s[%d]", l.Layer, l.Policy, l.Rule)
	}
	if l.Layer == layerCustom {
		text += ": " + string(body)
	}
	if l.Audit != nil && l.Audit != false {
		text += ", audited"
	}
	if l.DryRunDeny == "denied" || l.DryRunAllow == "denied" {
		text += ", dry run: denied"
	}
	return text
}

// send makes the request on a connection of its own and reads the access log for the reason.
func (s *shop) send(ctx context.Context, r request) (answer, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch r.method {
	case methodTCP:
		return s.sendTCP(ctx, r)
	case methodConnect:
		return s.connect(ctx, r)
	}
	client, err := s.client(r.caller, r.service)
	if err != nil {
		return "", "", err
	}
	defer client.CloseIdleConnections()
	return s.sendHTTP(ctx, client, r)
}

// address is where a service is, that is, its sidecar.
func (s *shop) address(service string) string {
	if service == databaseService {
		return local(s.ports[portDatabase])
	}
	for _, m := range members {
		if m.name == service {
			return local(s.ports[m.port])
		}
	}
	panic("no service " + service) // a row that is written wrong
}

// client speaks to a service in the caller's name, or in nobody's.
func (s *shop) client(caller, service string) (*http.Client, error) {
	transport := &http.Transport{}
	if caller != nobody {
		config, err := s.tlsConfig(caller, service)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = config
	}
	return &http.Client{Transport: transport}, nil
}

// ask builds the HTTP request of a row.
func (s *shop) ask(ctx context.Context, r request, id string) (*http.Request, error) {
	scheme := "https://"
	if r.caller == nobody {
		scheme = "http://"
	}
	req, err := http.NewRequestWithContext(ctx, r.method, scheme+s.address(r.service)+r.path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Request-Id", id)
	if name, value, ok := strings.Cut(r.header, ": "); ok {
		req.Header.Set(name, value)
	}
	if r.token == "" {
		return req, nil
	}
	token, err := s.token(r.token)
	req.Header.Set("Authorization", "Bearer "+token)
	return req, err
}

func (s *shop) sendHTTP(ctx context.Context, client *http.Client, r request) (answer, why string, err error) {
	id := rand.Text()
	req, err := s.ask(ctx, r, id)
	if err != nil {
		return "", "", err
	}
	sidecar := s.sidecars[r.service]
	mark := sidecar.Output.Mark()
	resp, err := client.Do(req)
	if r.caller == nobody && hungUp(err) {
		return "refused", plaintextRefused, nil
	}
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", "", err
	}
	line, err := waitLog(ctx, sidecar, mark, func(l logged) bool { return l.RequestID == id })
	return strconv.Itoa(resp.StatusCode) + customerOf(body), line.why(body), err
}

// hungUp reports whether the server ended the connection without an answer.
func hungUp(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &op) && (op.Op == "read" || op.Op == "write")
}

// connect makes a TLS connection and asks nothing, to see whether the certificate is let in.
func (s *shop) connect(ctx context.Context, r request) (answer, why string, err error) {
	config, err := s.tlsConfig(r.caller, r.service)
	if err != nil {
		return "", "", err
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", s.address(r.service))
	if err == nil {
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(listening)); err != nil {
			return "", "", err
		}
		_, err = conn.Read(make([]byte, 1))
	}
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "open", "", nil
	case errors.As(err, &op) && op.Op == "remote error":
		return "refused", "handshake: " + strings.TrimPrefix(op.Err.Error(), "tls: "), nil
	}
	return "", "", err
}

// sendTCP opens a connection to the database and says something, as its clients do.
func (s *shop) sendTCP(ctx context.Context, r request) (answer, why string, err error) {
	const service = "inventory-service"
	config, err := s.tlsConfig(r.caller, service)
	if err != nil {
		return "", "", err
	}
	sidecar := s.sidecars[service]
	mark := sidecar.Output.Mark()
	dialer := tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", s.address(r.service))
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", "", err
		}
	}
	answer = "open"
	_, err = fmt.Fprintln(conn, "SELECT beans FROM inventory")
	if err == nil {
		_, err = bufio.NewReader(conn).ReadString('\n')
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", "", err
	}
	if err != nil {
		answer = "closed"
	}
	_ = conn.Close() // the connection is logged when it ends
	line, err := waitLog(ctx, sidecar, mark, func(l logged) bool { return l.Filter == "network" })
	return answer, line.why(nil), err
}

// tlsConfig is the caller's end of mutual TLS, with the identity that it has at the time of the handshake. Who answers has to
// be the service that was called.
func (s *shop) tlsConfig(caller, service string) (*tls.Config, error) {
	called, err := spiffeid.FromString(serviceID(service))
	if err != nil {
		return nil, err
	}
	if caller == impostor {
		// It trusts whom everybody trusts.
		config := tlsconfig.TLSClientConfig(s.machines["customer-service"].source, tlsconfig.AuthorizeID(called))
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.forged, nil }
		return config, nil
	}
	source := s.machines[caller].source
	return tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(called)), nil
}

func waitLog(ctx context.Context, envoy *testkit.Envoy, mark int, match func(logged) bool) (found logged, err error) {
	_, err = envoy.Output.Wait(ctx, mark, func(line string) bool {
		var l logged
		if json.Unmarshal([]byte(line), &l) != nil || !match(l) {
			return false
		}
		found = l
		return true
	})
	return found, err
}
