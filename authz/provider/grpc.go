package provider

import (
	"cmp"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // asks servers how they are, if GRPCConfig.Health is set
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/authz"
)

// GRPC asks a server of envoy.service.auth.v3.Authorization. It implements [authz.Provider] and is safe for concurrent
// use.
type GRPC struct {
	pool     *pool[[]*grpc.ClientConn]
	security *security     // nil for plaintext
	next     atomic.Uint32 // the connection of the next call
	calls    *calls
	breaker  *breaker
	limit    int // bytes of an answer
}

var _ authz.Provider = (*GRPC)(nil)

const (
	checkMethod = "/envoy.service.auth.v3.Authorization/Check"

	maxMetadataBytes = 64 << 10 // headers and trailers of an answer

	// A server that does not say otherwise takes pings more often than every five minutes for abuse. Between them the
	// kernel gives a connection up whose data is not acknowledged for keepaliveTimeout (TCP_USER_TIMEOUT).
	keepaliveTime    = 5*time.Minute + 30*time.Second
	keepaliveTimeout = 5 * time.Second

	firstRetry, lastRetry = 100 * time.Millisecond, 2 * time.Second // of a connection that cannot be made
)

// Every address of the target is used in turn; addresses that say they do not serve are left out.
const (
	serviceConfig       = `{"loadBalancingConfig":[{"round_robin":{}}]}`
	healthServiceConfig = `{"loadBalancingConfig":[{"round_robin":{}}],"healthCheckConfig":{"serviceName":""}}`
)

// NewGRPC checks the configuration and reads its files; an error of the former kind is [Problems]. The first question
// makes the connection. Close has to be called.
func NewGRPC(c GRPCConfig) (*GRPC, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p := &GRPC{calls: newCalls(), breaker: newBreaker(c.Breaker), limit: cmp.Or(c.MaxAnswerBytes, defaultMaxAnswer)}
	credentials := insecure.NewCredentials()
	if c.TLS != nil {
		security, err := newSecurity(c.TLS)
		if err != nil {
			return nil, err
		}
		p.security, credentials = security, &handshaker{security}
	}
	options := append(c.dialOptions(), grpc.WithTransportCredentials(credentials))
	pool, err := newPool(func() ([]*grpc.ClientConn, error) { return openGRPC(&c, options) }, closeGRPC)
	if err != nil {
		return nil, Problems{{Field: "target", Message: err.Error()}}
	}
	p.pool = pool
	return p, nil
}

// openGRPC prepares connections, which the first calls make.
func openGRPC(c *GRPCConfig, options []grpc.DialOption) ([]*grpc.ClientConn, error) {
	var conns []*grpc.ClientConn
	for range cmp.Or(c.Connections, 1) {
		conn, err := grpc.NewClient(c.target(), options...)
		if err != nil {
			closeGRPC(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeGRPC(conns []*grpc.ClientConn) {
	for _, conn := range conns {
		_ = conn.Close() // fails only if it is closed
	}
}

func (c *GRPCConfig) target() string {
	if strings.Contains(c.Target, "://") {
		return c.Target
	}
	return "dns:///" + c.Target
}

// dialOptions are all but the credentials.
func (c *GRPCConfig) dialOptions() []grpc.DialOption {
	connectTimeout := cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
	config := serviceConfig
	if c.Health {
		config = healthServiceConfig
	}
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(config),
		grpc.WithDisableServiceConfig(), // a TXT record of the target's name has no say
		grpc.WithNoProxy(),              // nor has the environment
		grpc.WithDisableRetry(),
		grpc.WithMaxHeaderListSize(maxMetadataBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	}
	if c.Authority != "" {
		options = append(options, grpc.WithAuthority(c.Authority))
	}
	return options
}

// Ask implements [authz.Provider]. It forwards the CheckRequest byte by byte; if Envoy encodes raw headers, the headers
// in its usual form go with them, because that is what most servers read.
func (p *GRPC) Ask(ctx context.Context, q *authz.Question, a *authz.Answer) error {
	if q.Raw == nil {
		return faultf(authz.ReasonProviderBadRequest, "there is no CheckRequest to forward: a remote gRPC provider answers a running Envoy only")
	}
	ctx, end, err := p.calls.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	conns, done, err := take(p.pool, p.security)
	if err != nil {
		return err
	}
	defer done()
	conn := conns[int(p.next.Add(1))%len(conns)]
	check := message{q.Raw, joinedHeaders(q.Request)}
	return p.breaker.guard(ctx, func(probe bool) error { return p.ask(ctx, conn, check, a, probe) })
}

func (p *GRPC) ask(ctx context.Context, conn *grpc.ClientConn, check message, a *authz.Answer, probe bool) error {
	if probe { // finds out how the server is now and not how it was at the last attempt
		conn.ResetConnectBackoff()
	}
	var answer []byte
	err := conn.Invoke(ctx, checkMethod, check, &answer,
		grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(p.limit), grpc.WaitForReady(probe))
	if err != nil {
		return p.fault(ctx, err)
	}
	return decodeResponse(answer, a)
}

// fault says in which way a call failed.
func (p *GRPC) fault(ctx context.Context, err error) *authz.Fault {
	s := status.Convert(err)
	text := excerpt(s.Message())
	switch code := s.Code(); {
	case ctx.Err() != nil:
		return ended(ctx, err)
	case code == codes.DeadlineExceeded: // the server is told the deadline, and may find it passed a moment before us
		return faultf(authz.ReasonProviderTimeout, "no answer in time: %s", text)
	case code == codes.Unavailable, code == codes.Canceled: // we did not cancel it: the stream was reset
		return faultf(authz.ReasonProviderUnreachable, "%s", text)
	case code == codes.ResourceExhausted && strings.HasPrefix(s.Message(), "grpc: received message larger than max"):
		// The library's only mark of an answer that it did not take; a server that says so gets the same word.
		return faultf(authz.ReasonProviderBadAnswer, "the answer is larger than %d bytes", p.limit)
	case code == codes.Unimplemented:
		return faultf(authz.ReasonProviderError, "the server does not offer envoy.service.auth.v3.Authorization: %s", text)
	default:
		return faultf(authz.ReasonProviderError, "the server failed: %s: %s", code, text)
	}
}

// Circuit returns the state of the breaker.
func (p *GRPC) Circuit() Circuit { return p.breaker.circuit() }

// Close ends every call and connection. It may be called again.
func (p *GRPC) Close() error {
	if p.calls.close() {
		p.pool.end()
	}
	return nil
}

// message is a protobuf message in parts that follow each other on the wire.
type message [2][]byte

// rawCodec passes messages through as they stand on the wire.
type rawCodec struct{}

// Name implements [encoding.CodecV2]. Without a name calls are application/grpc, as those of Envoy are.
func (rawCodec) Name() string { return "" }

// Marshal implements [encoding.CodecV2]. The question is copied, because the library may still be sending it when a
// call that was given up has returned.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	var out mem.BufferSlice
	for _, part := range v.(message) {
		if len(part) > 0 {
			out = append(out, mem.Copy(part, mem.DefaultBufferPool()))
		}
	}
	return out, nil
}

// Unmarshal implements [encoding.CodecV2].
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// handshaker is TLS with what is in force at the time of the handshake.
type handshaker struct{ security *security }

// ClientHandshake implements [credentials.TransportCredentials].
func (h *handshaker) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := h.security.config(authority)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, config.ServerName, conn)
}

// ServerHandshake implements [credentials.TransportCredentials].
func (h *handshaker) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, faultf(authz.ReasonProviderError, "this is the client's side")
}

// Info implements [credentials.TransportCredentials].
func (h *handshaker) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (h *handshaker) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements [credentials.TransportCredentials]; the name is the configuration's.
func (h *handshaker) OverrideServerName(string) error { return nil }
