package extauthz

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

// gate stands between gRPC and a connection, and turns checks away where that costs least: before gRPC has read them.
// What a request costs is nearly all transport, so a server that reads, queues and schedules what it then denies can bear
// a third more than it can answer; one that answers at the door bears many times as much.
//
// It follows the frames of both directions (RFC 9113). What it does not know it passes on untouched for gRPC to judge;
// where it could lose track it ends the connection. It never lets anything in that gRPC does not see, and what it
// answers by itself is never an allow. While nothing is turned away it saves gRPC the headers that nobody reads.
type gate struct {
	net.Conn
	limiter *Limiter
	answer  *shedAnswer

	in  inbound // of gRPC's reading goroutine
	out outbound

	mu    sync.Mutex // guards what follows; held for moments only
	flows flows
}

// gateBuffer is read from the socket at a time. gRPC has no buffer of its own in front of it.
const gateBuffer = bufferSize

// maxOpenStreams is more than gRPC lets a client have; what exceeds it is no client.
func (s *Server) maxOpenStreams() int { return 2*int(s.maxStreams) + 16 }

// gatedCredentials put a gate on every connection, behind TLS if there is any.
type gatedCredentials struct {
	credentials.TransportCredentials
	server *Server
	answer *shedAnswer
}

// ServerHandshake implements [credentials.TransportCredentials].
func (c *gatedCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return newGate(conn, c.server.limiter, c.answer, c.server.maxOpenStreams()), info, nil
}

// Clone implements [credentials.TransportCredentials].
func (c *gatedCredentials) Clone() credentials.TransportCredentials {
	return &gatedCredentials{c.TransportCredentials.Clone(), c.server, c.answer}
}

// ClientHandshake implements [credentials.TransportCredentials]: these are a server's.
func (c *gatedCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("extauthz: these credentials are for servers")
}

func newGate(conn net.Conn, l *Limiter, a *shedAnswer, maxOpen int) *gate {
	g := &gate{Conn: conn, limiter: l, answer: a}
	g.in.init(maxOpen)
	g.flows.init(maxOpen)
	return g
}

// Close implements [net.Conn]. The connection's checks are not at work any more.
func (g *gate) Close() error {
	g.mu.Lock()
	atWork := g.flows.close()
	g.mu.Unlock()
	g.limiter.left(atWork, 0)
	return g.Conn.Close()
}

// frameHead is the head of an HTTP/2 frame.
type frameHead struct {
	length int
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
}

func parseFrame(b []byte) frameHead {
	return frameHead{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   http2.FrameType(b[3]),
		flags:  http2.Flags(b[4]),
		stream: binary.BigEndian.Uint32(b[5:]) &^ (1 << 31),
	}
}

func (f frameHead) ends() bool {
	return (f.kind == http2.FrameData || f.kind == http2.FrameHeaders) && f.flags.Has(http2.FlagDataEndStream)
}

// flows are the streams that gRPC has, and the client's windows for what is sent to it.
type flows struct {
	open   map[uint32]bool // checks that gRPC was shown and has not answered; true once they are at work
	atWork int             // of them
	max    int
	closed bool

	// A client's window on the connection counts what the gate sends as well, of which gRPC knows nothing. So a part of
	// what the client grants is kept from gRPC for that: never more in total than was granted.
	window  int64 // that is left, of all
	largest int64 // that there has been
	reserve int64 // of window, that gRPC does not know of
	stream  int64 // window of each new stream
}

const (
	initialWindow  = 65535 // RFC 9113 §6.9.2
	reservedOf     = 4     // one in so many bytes of the window is ours
	maxWindowBytes = 1<<31 - 1
)

func (f *flows) init(maxOpen int) {
	*f = flows{open: make(map[uint32]bool), max: maxOpen, window: initialWindow, largest: initialWindow, stream: initialWindow}
}

// shown records that gRPC gets to see a check.
func (f *flows) shown(stream uint32) error {
	if f.closed {
		return net.ErrClosed
	}
	if len(f.open) >= f.max {
		return fmt.Errorf("extauthz: a client with more than %d open streams", f.max)
	}
	f.open[stream] = false
	return nil
}

// complete records the end of a request, and reports whether it is a check that is at work now.
func (f *flows) complete(stream uint32) bool {
	if atWork, ok := f.open[stream]; !ok || atWork || f.closed {
		return false
	}
	f.open[stream] = true
	f.atWork++
	return true
}

// ended records the end of a stream, and reports whether it was at work.
func (f *flows) ended(stream uint32) bool {
	atWork, ok := f.open[stream]
	if !ok {
		return false
	}
	delete(f.open, stream)
	if atWork {
		f.atWork--
	}
	return atWork
}

func (f *flows) close() (atWork int) {
	atWork, f.closed, f.atWork = f.atWork, true, 0
	clear(f.open)
	return atWork
}

// granted takes what the client grants for the connection, and returns the part that gRPC may know of.
func (f *flows) granted(n int64) int64 {
	f.window += n
	f.largest = max(f.largest, min(f.window, maxWindowBytes))
	kept := min(n, max(0, f.largest/reservedOf-f.reserve))
	f.reserve += kept
	return n - kept
}

// take uses so much of the reserve for an answer, if there is enough.
func (f *flows) take(n int) bool {
	if int64(n) > f.reserve || int64(n) > f.stream {
		return n == 0
	}
	f.reserve -= int64(n)
	f.window -= int64(n)
	return true
}
