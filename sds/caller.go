package sds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
)

// String names the caller for people.
func (c *Caller) String() string {
	switch {
	case c.Peer != nil:
		return fmt.Sprintf("uid %d pid %d", c.Peer.UID, c.Peer.PID)
	case !c.ID.IsZero():
		return c.ID.String()
	}
	return cmp.Or(c.Address, "unknown")
}

// key is what a caller's streams are counted by.
func (c *Caller) key() string {
	if c.Peer != nil {
		return "pid " + strconv.Itoa(c.Peer.PID)
	}
	return c.ID.String()
}

// caller finds out who opened a stream.
func (s *Server) caller(ctx context.Context) (*Caller, *refusal) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return &Caller{}, refuse(codes.Unauthenticated, ReasonCaller, "a call without a connection")
	}
	if local, ok := p.AuthInfo.(unixInfo); ok {
		return local.caller, nil
	}
	c, err := s.cfg.Caller(ctx)
	if err != nil {
		refused := refuse(codes.Unauthenticated, ReasonCaller, err.Error())
		if said, ok := status.FromError(err); ok { // whoever proves callers tells a no from an outage
			refused = refuse(said.Code(), ReasonCaller, said.Message())
		}
		return &Caller{Address: p.Addr.String()}, refused
	}
	return c, nil
}

// Identify says who opened a call to one of Config.Services, and that it is still there.
func (s *Server) Identify(ctx context.Context) (*Caller, error) {
	c, refused := s.caller(ctx)
	if refused == nil {
		refused = s.stillThere(c)
	}
	if refused != nil {
		return nil, refused
	}
	return c, nil
}

// CallerByCertificate is who a TLS connection was verified to be from. It fails for a connection that proves nothing,
// plaintext above all.
func CallerByCertificate(ctx context.Context) (*Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("no connection")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil, fmt.Errorf("the connection from %s has no verified client certificate: use mutual TLS, or the Unix socket", p.Addr)
	}
	leaf := info.State.VerifiedChains[0][0]
	if len(leaf.URIs) != 1 {
		return nil, fmt.Errorf("the certificate from %s has %d URIs: want one SPIFFE ID", p.Addr, len(leaf.URIs))
	}
	id, err := spiffeid.Parse(leaf.URIs[0].String())
	if err != nil {
		return nil, fmt.Errorf("the certificate from %s: %w", p.Addr, err)
	}
	return &Caller{ID: id, NotAfter: leaf.NotAfter, Address: p.Addr.String()}, nil
}

// entitled asks what a caller may have now, and makes sure afterwards that it was the caller that was asked about.
func (s *Server) entitled(c *Caller) (Entitlement, *refusal) {
	e, err := s.cfg.Authorizer.Entitled(c)
	if err != nil {
		return Entitlement{}, refuse(codes.Unavailable, ReasonUncertain, err.Error())
	}
	return e, s.stillThere(c)
}

// stillThere makes sure that the caller is the one that connected, and is still what it proved to be (identity §4.5).
func (s *Server) stillThere(c *Caller) *refusal {
	if c.Peer != nil {
		if err := c.Peer.Check(); err != nil {
			refused := refuse(codes.PermissionDenied, ReasonCaller, err.Error())
			refused.noted = errors.Is(err, os.ErrClosed) // the connection is closed: there is nobody to refuse
			return refused
		}
	}
	if now := s.cfg.Now(); !c.NotAfter.IsZero() && !now.Before(c.NotAfter) {
		return refuse(codes.Unauthenticated, ReasonEnded, "the certificate of "+c.String()+" ended at "+c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// unixInfo is what calls are told of a connection to the Unix socket.
type unixInfo struct {
	credentials.CommonAuthInfo
	caller *Caller
}

// AuthType implements [credentials.AuthInfo].
func (unixInfo) AuthType() string { return "unix peer" }

// unixTransport passes on who the listener found at the other end. It takes connections of its listener only.
type unixTransport struct{}

// ServerHandshake implements [credentials.TransportCredentials].
func (unixTransport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := raw.(*unixConn)
	if !ok {
		return nil, nil, fmt.Errorf("a %T is no connection to a Unix socket", raw)
	}
	return conn, unixInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, conn.caller}, nil
}

// ClientHandshake implements [credentials.TransportCredentials]; there is no client.
func (unixTransport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info implements [credentials.TransportCredentials].
func (unixTransport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix peer"}
}

// Clone implements [credentials.TransportCredentials].
func (t unixTransport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName implements [credentials.TransportCredentials]; there is no name.
func (unixTransport) OverrideServerName(string) error { return nil }

// unixListener accepts connections of known processes, so many of each user.
type unixListener struct {
	net.Listener
	server *Server

	mu    sync.Mutex
	users map[uint32]int // connections
	total int
}

// Accept waits for the next connection whose process is known.
func (l *unixListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		conn, refused := l.admit(raw)
		if refused == nil {
			return conn, nil
		}
		_ = raw.Close()
	}
}

// admit finds out who connected. It logs a refusal.
func (l *unixListener) admit(raw net.Conn) (*unixConn, *refusal) {
	socket, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, l.turnAway(&Caller{Address: "unix"}, refuse(codes.Unauthenticated, ReasonCaller, fmt.Sprintf("a %T is no connection to a Unix socket", raw)))
	}
	p, err := unixpeer.Of(socket)
	if err != nil {
		return nil, l.turnAway(&Caller{Address: "unix"}, refuse(codes.Unauthenticated, ReasonCaller, err.Error()))
	}
	caller := &Caller{Peer: p, Address: "unix:" + strconv.Itoa(p.PID)}
	if refused := l.count(p.UID); refused != nil {
		_ = p.Close()
		return nil, l.turnAway(caller, refused)
	}
	return &unixConn{UnixConn: socket, caller: caller, listener: l}, nil
}

func (l *unixListener) turnAway(c *Caller, r *refusal) *refusal {
	l.server.refused(c, "", "", r)
	return r
}

// count adds a connection of a user, if there is room.
func (l *unixListener) count(uid uint32) *refusal {
	most := l.server.cfg.MaxConnections
	ofUser := most - most/4 // one user leaves room for others
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.total >= most:
		return refuse(codes.ResourceExhausted, ReasonLimit, fmt.Sprintf("more than %d connections", most))
	case l.users[uid] >= ofUser:
		return refuse(codes.ResourceExhausted, ReasonLimit, fmt.Sprintf("more than %d connections of uid %d", ofUser, uid))
	}
	l.total++
	l.users[uid]++
	return nil
}

func (l *unixListener) forget(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.users[uid]--; l.users[uid] == 0 {
		delete(l.users, uid)
	}
}

// unixConn is a connection that knows its process, and keeps hold of it until it is closed.
type unixConn struct {
	*net.UnixConn
	caller   *Caller
	listener *unixListener
	once     sync.Once
}

// Close closes the connection and lets go of the process.
func (c *unixConn) Close() error {
	c.once.Do(func() {
		c.listener.forget(c.caller.Peer.UID)
		_ = c.caller.Peer.Close()
	})
	return c.UnixConn.Close()
}
