package jwt

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
)

// transport carries one HTTP/1.1 request over a connection of its own, which ends with the request's context or with its
// body, whichever is first.
//
// It stands in for http.Transport because that reads before it has asked and logs what it read, which would be the banner
// of whatever a tenant's URL points to; and because it dials and keeps goroutines beyond the request.
type transport struct {
	dialer *net.Dialer
	tls    *tls.Config
	proxy  *url.URL // nil: none
	hosts  *hostLocks
}

// RoundTrip implements [http.RoundTripper]. The caller must close the body, or end the request's context.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	host := hostPort(req.URL)
	if err := t.hosts.lock(ctx, host); err != nil {
		return nil, err
	}
	unlock := sync.OnceFunc(func() { t.hosts.unlock(host) })
	conn, err := t.connect(ctx, req.URL)
	if err != nil {
		unlock()
		return nil, err
	}
	closed := &closer{conn: conn, stop: context.AfterFunc(ctx, func() { conn.Close() }), unlock: unlock}
	resp, err := t.exchange(req.Clone(ctx), conn)
	if err != nil {
		closed.Close()
		return nil, err
	}
	closed.Reader = resp.Body
	resp.Body = closed
	return resp, nil
}

// closer is a body that takes its connection with it.
type closer struct {
	io.Reader
	conn   net.Conn
	stop   func() bool
	unlock func()
}

func (c *closer) Close() error {
	defer c.unlock()
	c.stop()
	return c.conn.Close()
}

// exchange writes the request, which is the transport's own copy, and reads the head of the answer.
func (t *transport) exchange(req *http.Request, conn net.Conn) (*http.Response, error) {
	req.Close = true
	write := req.Write
	if t.proxy != nil && req.URL.Scheme == "http" {
		write = req.WriteProxy
		setProxyAuthorization(req.Header, t.proxy)
	}
	if err := write(conn); err != nil {
		return nil, err
	}
	bounded := &io.LimitedReader{R: conn, N: maxAnswerHeadBytes}
	in := bufio.NewReader(bounded)
	for range maxInterimAnswers {
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 1 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		bounded.N = maxAnswerBodyBytes
		return resp, nil
	}
	return nil, errors.New("too many interim answers")
}

// connect dials the host or the proxy, and secures the connection if the URL says so.
func (t *transport) connect(ctx context.Context, u *url.URL) (net.Conn, error) {
	if t.proxy == nil {
		conn, err := t.dialer.DialContext(ctx, "tcp", hostPort(u))
		if err != nil || u.Scheme != "https" {
			return conn, err
		}
		return t.secure(ctx, conn, u)
	}
	conn, err := t.dialer.DialContext(ctx, "tcp", hostPort(t.proxy))
	if err != nil {
		return nil, err
	}
	if t.proxy.Scheme == "https" {
		if conn, err = t.secure(ctx, conn, t.proxy); err != nil {
			return nil, err
		}
	}
	if u.Scheme != "https" {
		return conn, nil
	}
	if err := t.tunnel(ctx, conn, hostPort(u)); err != nil {
		conn.Close()
		return nil, err
	}
	return t.secure(ctx, conn, u)
}

// secure does the handshake; if it fails, the connection is closed.
func (t *transport) secure(ctx context.Context, conn net.Conn, u *url.URL) (net.Conn, error) {
	cfg := t.tls.Clone()
	cfg.ServerName = u.Hostname()
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, describeHandshake(ctx, err)
	}
	return secured, nil
}

// tunnel has the proxy connect to a host (RFC 9110 §9.3.6).
func (t *transport) tunnel(ctx context.Context, conn net.Conn, host string) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: host}, Host: host, Header: http.Header{}}).WithContext(ctx)
	setProxyAuthorization(req.Header, t.proxy)
	if err := req.Write(conn); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxAnswerHeadBytes))
	resp, err := http.ReadResponse(in, req)
	if err != nil {
		return err
	}
	early := in.Buffered() > 0 // what a host sends before it was asked is not read
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || early {
		return &fetchError{result: FetchConnect, detail: "the proxy does not connect to the host", transient: resp.StatusCode >= 500}
	}
	return nil
}

func setProxyAuthorization(h http.Header, proxy *url.URL) {
	if proxy.User != nil {
		password, _ := proxy.User.Password()
		h.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+password)))
	}
}

// hostPort is the address of a URL's server.
func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// hostLocks keeps connections to one host apart in time.
type hostLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the host is free
}

func (h *hostLocks) lock(ctx context.Context, host string) error {
	for {
		h.mu.Lock()
		busy := h.held[host]
		if busy == nil {
			h.held[host] = make(chan struct{})
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (h *hostLocks) unlock(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.held[host])
	delete(h.held, host)
}
