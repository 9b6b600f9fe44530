package provider

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/authz"
)

// HTTP asks a server of Envoy's HTTP authorization service: 200 allows, 5xx is an error, any other status denies. It
// implements [authz.Provider] and is safe for concurrent use.
//
// A check is asked again only if a connection that served others before breaks without a byte of an answer, as one does
// that the server closed while it was idle.
type HTTP struct {
	target   *url.URL
	pool     *pool[*http.Transport]
	security *security
	calls    *calls
	breaker  *breaker
	limit    int64 // bytes of an answer's body

	authority  string
	pathPrefix string
	body       *Body
	send       headerList
	additional http.Header

	toUpstream, toClientOnAllow headerList
	toClientOnDeny              *headerList // nil for all
}

var _ authz.Provider = (*HTTP)(nil)

const (
	maxHeadBytes = 64 << 10 // status line and headers of an answer
	idleTimeout  = time.Minute
)

// NewHTTP checks the configuration and reads its files; an error of the former kind is [Problems]. Close has to be called.
func NewHTTP(c HTTPConfig) (*HTTP, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	target, err := url.Parse(c.Target)
	if err != nil {
		return nil, Problems{{Field: "target", Message: err.Error()}}
	}
	p := &HTTP{
		target: target, calls: newCalls(), breaker: newBreaker(c.Breaker), limit: int64(cmp.Or(c.MaxAnswerBytes, defaultMaxAnswer)),
		authority: c.Authority, pathPrefix: c.PathPrefix,
		send: newHeaderList(c.IncludeRequestHeadersInCheck), additional: http.Header{},
		toUpstream: newHeaderList(c.HeadersToUpstreamOnAllow), toClientOnAllow: newHeaderList(c.HeadersToDownstreamOnAllow),
	}
	if c.IncludeRequestBodyInCheck != nil {
		body := *c.IncludeRequestBodyInCheck
		p.body = &body
	}
	if len(c.HeadersToDownstreamOnDeny) > 0 {
		list := newHeaderList(append([]string{"www-authenticate", "location"}, c.HeadersToDownstreamOnDeny...))
		p.toClientOnDeny = &list
	}
	for name, value := range c.IncludeAdditionalHeadersInCheck {
		p.additional.Set(name, value)
	}
	if p.security, err = newSecurity(c.TLS); err != nil {
		return nil, err
	}
	open := func() (*http.Transport, error) { return p.newTransport(&c), nil }
	p.pool, err = newPool(open, (*http.Transport).CloseIdleConnections)
	return p, err
}

func (p *HTTP) newTransport(c *HTTPConfig) *http.Transport {
	timeout := cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := p.calls.bound(ctx)
		defer cancel()
		return (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, address)
	}
	secure := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := p.calls.bound(ctx)
		defer cancel()
		ctx, done := context.WithTimeout(ctx, timeout)
		defer done()
		authority := cmp.Or(c.Authority, p.target.Host)
		config, err := p.security.config(authority)
		if err != nil {
			return nil, err
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return secured, nil
	}
	most := cmp.Or(c.MaxConnections, defaultHTTPConns)
	http1 := new(http.Protocols)
	http1.SetHTTP1(true)
	return &http.Transport{ // no Proxy: the environment has no say
		DialContext: dial, DialTLSContext: secure, Protocols: http1,
		MaxConnsPerHost: most, MaxIdleConns: most, MaxIdleConnsPerHost: most, IdleConnTimeout: idleTimeout,
		MaxResponseHeaderBytes: maxHeadBytes, DisableCompression: true,
	}
}

// Ask implements [authz.Provider].
func (p *HTTP) Ask(ctx context.Context, q *authz.Question, a *authz.Answer) error {
	ctx, end, err := p.calls.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	check, err := p.newCheck(q)
	if errors.Is(err, errBodyTooLarge) { // as Envoy does, which does not ask either, whatever failOpen says
		a.Status, a.Reason, a.Detail = http.StatusRequestEntityTooLarge, authz.ReasonProviderBadRequest, err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	transport, done, err := take(p.pool, p.security)
	if err != nil {
		return err
	}
	defer done()
	return p.breaker.guard(ctx, func(bool) error { return p.ask(ctx, transport, check, a) })
}

func (p *HTTP) ask(ctx context.Context, transport *http.Transport, check *http.Request, a *authz.Answer) error {
	var answered atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { answered.Store(true) }})
	response, err := transport.RoundTrip(check.WithContext(ctx))
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ended(ctx, err)
	case answered.Load():
		return badAnswer("no proper HTTP answer, or a head of more than %d bytes: %s", maxHeadBytes, excerpt(err.Error()))
	default:
		return faultf(authz.ReasonProviderUnreachable, "%s", excerpt(err.Error()))
	}
	defer func() { _ = response.Body.Close() }() // what is left of it ends the connection
	if !authz.IsProviderStatus(response.StatusCode) {
		return badAnswer("HTTP status %d, want 200 to 599", response.StatusCode)
	}
	body, err := p.read(ctx, response)
	return p.decode(response, body, err, a)
}

// read returns the whole body, or a fault that says why there is none.
func (p *HTTP) read(ctx context.Context, response *http.Response) ([]byte, error) {
	if response.ContentLength > p.limit {
		return nil, p.tooLarge()
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, p.limit+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ended(ctx, err)
	case err != nil:
		return nil, badAnswer("the body was cut short: %s", excerpt(err.Error()))
	case int64(len(body)) > p.limit:
		return nil, p.tooLarge()
	}
	return body, nil
}

func (p *HTTP) tooLarge() error { return badAnswer("the answer is larger than %d bytes", p.limit) }

// decode turns an answer into one of ours. incomplete says why there is no whole body.
func (p *HTTP) decode(response *http.Response, body []byte, incomplete error, a *authz.Answer) error {
	switch status := response.StatusCode; {
	case status == http.StatusOK:
		if incomplete != nil {
			return incomplete
		}
		if err := p.decodeAllowed(response.Header, a); err != nil {
			*a = authz.Answer{}
			return err
		}
		return nil
	case status >= http.StatusInternalServerError:
		return faultf(authz.ReasonProviderError, "the server failed: HTTP status %d", status)
	default:
		p.decodeDenial(response, body, incomplete, a)
		return nil
	}
}

// Circuit returns the state of the breaker.
func (p *HTTP) Circuit() Circuit { return p.breaker.circuit() }

// Close ends every call and connection. It may be called again.
func (p *HTTP) Close() error {
	if p.calls.close() {
		p.pool.end()
	}
	return nil
}

// newBody is a body that can be sent again on another connection.
func newBody(data []byte) (io.ReadCloser, func() (io.ReadCloser, error)) {
	again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
	first, _ := again()
	return first, again
}
