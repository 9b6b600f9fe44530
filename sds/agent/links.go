package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	maxAnswerBytes = 8 << 20 // a bundle document with its CRLs; a chain is a few kilobytes
	linkPing       = 30 * time.Second
	linkPingWait   = 10 * time.Second
	linkIdle       = 2 * time.Minute
)

// links are the connections to the authorities. Those that prove who we are by a certificate are kept, for the next call
// and for the stream of bundles; a new certificate needs a new connection. It is safe for concurrent use.
type links struct {
	cfg   *Config
	trust *trust

	mu      sync.Mutex // guards what follows
	sticky  int        // the authority that answered last
	open    map[string]*link
	closing sync.WaitGroup
}

// link is a connection to one authority.
type link struct {
	conn     *grpc.ClientConn
	address  string
	own      *held // what it proves us by; nil for nothing
	identity *prover
	users    int
	dropped  bool // of no further use
}

func newLinks(cfg *Config, t *trust) *links {
	return &links{cfg: cfg, trust: t, open: map[string]*link{}}
}

// each calls do with a connection to one authority after the other, beginning with the one that answered last, until one
// answers: an answer is also a no. own is nil where a token is the proof. It returns who answered.
func (l *links) each(ctx context.Context, own *held, do func(context.Context, *grpc.ClientConn) error) (address string, err error) {
	l.mu.Lock()
	first := l.sticky
	l.mu.Unlock()
	var failed []error
	for n := range l.cfg.Authorities {
		i := (first + n) % len(l.cfg.Authorities)
		address = l.cfg.Authorities[i]
		err := l.one(ctx, address, own, do)
		if err == nil || !isOutage(err) {
			l.mu.Lock()
			l.sticky = i
			l.mu.Unlock()
			return address, err
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return address, errors.Join(failed...)
}

// one calls do with a connection to one authority. After an outage the connection is given up: the next call is the time
// to dial again, not a timer of its own, of which a thousand agents would have a thousand.
func (l *links) one(ctx context.Context, address string, own *held, do func(context.Context, *grpc.ClientConn) error) error {
	c, err := l.acquire(address, own)
	if err != nil {
		return fmt.Errorf("%s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.CallTime)
	defer cancel()
	err = do(ctx, c.conn)
	l.release(c, err != nil && isOutage(err))
	if err == nil {
		return nil
	}
	if handshake := c.identity.lastError(); handshake != nil && status.Code(err) == codes.Unavailable {
		return &outageError{fmt.Errorf("%s: %w", address, l.explain(address, handshake))}
	}
	return fmt.Errorf("%s: %w", address, err)
}

// explain adds what to do about an authority that did not prove itself.
func (l *links) explain(address string, err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		source := "the bundle in force"
		if l.trust.bundle() == nil {
			source = l.cfg.BundleFile
		}
		return fmt.Errorf("%w: it is not under the roots of %s: if that is the right authority, put its roots (writ ca bundle) into %s", err, source, l.cfg.BundleFile)
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("%w: add %s to ca.names of the authority, or set authority.server_name or authority.id here", err, address)
	}
	return err
}

// acquire finds the connection to an authority, or makes it. Nothing is dialled yet.
func (l *links) acquire(address string, own *held) (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.open[address]; own != nil && c != nil {
		if c.own == own {
			c.users++
			return c, nil
		}
		l.drop(c)
	}
	c := &link{address: address, own: own, users: 1, identity: &prover{}, dropped: own == nil}
	c.identity.config = func() (*tls.Config, error) { return l.transport(own) }
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(c.identity),
		grpc.WithContextDialer(l.cfg.Dial),
		grpc.WithIdleTimeout(linkIdle),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: linkPing, Timeout: linkPingWait}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("writ-agent"),
	)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	if own != nil {
		l.open[address] = c
	}
	return c, nil
}

// release gives a connection back.
func (l *links) release(c *link, broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.users--
	if broken && !c.dropped {
		l.drop(c)
	} else if c.dropped && c.users == 0 {
		l.close(c)
	}
}

// drop takes a connection out of use; whoever uses it may end.
func (l *links) drop(c *link) {
	c.dropped = true
	if l.open[c.address] == c {
		delete(l.open, c.address)
	}
	if c.users == 0 {
		l.close(c)
	}
}

func (l *links) close(c *link) { l.closing.Go(func() { _ = c.conn.Close() }) }

// closeAll ends every connection.
func (l *links) closeAll() {
	l.mu.Lock()
	for _, c := range l.open {
		l.drop(c)
	}
	l.mu.Unlock()
	l.closing.Wait()
}

// transport is TLS by the roots of this moment, which has to prove the authority, and us if there is a certificate.
func (l *links) transport(own *held) (*tls.Config, error) {
	roots, err := l.trust.roots()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		pool.AddCert(root)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: l.cfg.ServerName}
	if own != nil {
		certificate := own.certificate()
		// Not Certificates, which are not sent if the server's list of authorities names none of ours.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	if want := l.cfg.ServerID; !want.IsZero() {
		config.InsecureSkipVerify = true //nolint:gosec // VerifyConnection verifies the chain, and the SPIFFE ID instead of a host name
		config.VerifyConnection = func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			if _, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between}); err != nil {
				return err
			}
			if id, err := identityOf(s.PeerCertificates[0]); err != nil || id != want {
				return fmt.Errorf("the authority is %v, not %s: see authority.id", s.PeerCertificates[0].URIs, want)
			}
			return nil
		}
	}
	return config, nil
}

// prover is TLS with a configuration of its own for every handshake: the roots change, and a connection that is made again
// after an outage goes by those of that moment. It remembers what was wrong with the last handshake, which gRPC tells as text.
type prover struct {
	config func() (*tls.Config, error)

	mu   sync.Mutex
	last error
}

// ClientHandshake implements [credentials.TransportCredentials].
func (p *prover) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := p.config()
	if err != nil {
		p.failed(err)
		return nil, nil, err
	}
	conn, info, err := credentials.NewTLS(config).ClientHandshake(ctx, cmp.Or(config.ServerName, authority), raw)
	p.failed(err)
	return conn, info, err
}

func (p *prover) failed(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = err
}

func (p *prover) lastError() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// ServerHandshake implements [credentials.TransportCredentials]; there is no server here.
func (p *prover) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("agent: no server")
}

// Info implements [credentials.TransportCredentials].
func (p *prover) Info() credentials.ProtocolInfo { return credentials.NewTLS(nil).Info() }

// Clone implements [credentials.TransportCredentials]; nothing of a prover belongs to one connection.
func (p *prover) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements [credentials.TransportCredentials].
func (p *prover) OverrideServerName(string) error {
	return errors.New("agent: the server's name is configured")
}

// outageError is a failure that may be over the next time.
type outageError struct{ err error }

func (e *outageError) Error() string { return e.err.Error() }
func (e *outageError) Unwrap() error { return e.err }

// isOutage tells a failure from a no: the codes that Istio's agents try again after (identity §2.7).
func isOutage(err error) bool {
	if _, ok := errors.AsType[*outageError](err); ok {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Internal, codes.ResourceExhausted, codes.Aborted, codes.DeadlineExceeded, codes.Canceled:
		return true
	default:
		return false
	}
}
