package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conn is one HTTP/2 connection that asks checks as Envoy does, and does nothing else: requests are made beforehand,
// headers go through HPACK's table, and whatever can be sent at once is sent at once. That costs a fraction of what any
// server takes to answer, so that the generator is not what is measured.
type conn struct {
	net   net.Conn
	times *arrivals
	read  *bufio.Reader
	in    *http2.Framer
	table *hpack.Decoder

	mu      sync.Mutex // guards what follows: requests are sent by whoever has one
	write   *bufio.Writer
	out     *http2.Framer
	headers *hpack.Encoder
	block   bytes.Buffer
	calls   map[uint32]*call
	free    []*call
	fresh   []*call // written, and not sent yet
	next    uint32
	window  int     // bytes that the server still takes on the connection
	waiting []*call // from head on, for the window or a stream
	head    int
	limit   int // streams that the server allows at a time
	err     error
}

// call is a question that was asked.
type call struct {
	question *question
	due      time.Time // when it should have been sent, whenever it was
	sent     time.Time

	body   []byte
	status string
}

const (
	preface       = http2.ClientPreface
	ourWindow     = 1<<31 - 1
	defaultWindow = 65535
	bufferBytes   = 128 << 10
	grpcPrefix    = 5
)

// dial opens a connection, shakes hands, and reads until done says so.
func dial(ctx context.Context, address string) (*conn, error) {
	c := &conn{calls: map[uint32]*call{}, next: 1, window: defaultWindow, limit: 100}
	var err error
	if c.net, err = new(net.Dialer).DialContext(ctx, "tcp", address); err != nil {
		return nil, err
	}
	if c.times, err = newArrivals(c.net); err != nil {
		_ = c.net.Close()
		return nil, err
	}
	c.read, c.write = bufio.NewReaderSize(c.times, bufferBytes), bufio.NewWriterSize(c.net, bufferBytes)
	c.in, c.out = http2.NewFramer(nil, c.read), http2.NewFramer(c.write, nil)
	c.in.SetReuseFrames()
	c.table = hpack.NewDecoder(4096, func(hpack.HeaderField) {})
	c.headers = hpack.NewEncoder(&c.block)
	_, err = c.write.WriteString(preface)
	err = errors.Join(err,
		c.out.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: ourWindow}, http2.Setting{ID: http2.SettingEnablePush, Val: 0}),
		c.out.WriteWindowUpdate(0, ourWindow-defaultWindow), c.write.Flush())
	if err == nil { // the server's settings come first
		err = c.frame(nil)
	}
	if err != nil {
		_ = c.net.Close()
		return nil, fmt.Errorf("HTTP/2 with %s: %w", address, err)
	}
	return c, nil
}

func (c *conn) Close() error { return c.net.Close() }

// ask sends a question, or queues it while the server takes no more.
func (c *conn) ask(q *question, due time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var k *call
	if n := len(c.free); n > 0 {
		k, c.free = c.free[n-1], c.free[:n-1]
	} else {
		k = new(call)
	}
	k.question, k.due, k.body, k.status = q, due, k.body[:0], ""
	c.waiting = append(c.waiting, k)
	return c.sendWaiting()
}

// sendWaiting sends what the server's limits let pass. The caller holds mu.
func (c *conn) sendWaiting() error {
	for c.head < len(c.waiting) && c.window >= len(c.waiting[c.head].question.raw)+grpcPrefix && len(c.calls) < c.limit {
		c.send(c.waiting[c.head])
		c.head++
	}
	if c.head == len(c.waiting) {
		c.head, c.waiting = 0, c.waiting[:0]
	}
	return c.err
}

func (c *conn) send(k *call) {
	c.block.Reset()
	for _, f := range [...]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/envoy.service.auth.v3.Authorization/Check"},
		{Name: ":authority", Value: "writ"}, {Name: ":scheme", Value: "http"}, {Name: "te", Value: "trailers"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "grpc-timeout", Value: "10S"},
		{Name: "x-envoy-internal", Value: "true"}, {Name: "x-forwarded-for", Value: "10.244.1.17"},
	} {
		c.fail(c.headers.WriteField(f))
	}
	id := c.next
	c.next += 2
	c.fail(c.out.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true}))
	n := len(k.question.raw)
	message := c.block
	message.Reset()
	message.Write([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	message.Write(k.question.raw)
	c.fail(c.out.WriteData(id, true, message.Bytes()))
	c.block = message
	c.fresh = append(c.fresh, k)
	c.window -= n + grpcPrefix
	c.calls[id] = k
}

func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// flush sends what has been written.
func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, k := range c.fresh {
		k.sent = now
	}
	c.fresh = c.fresh[:0]
	c.fail(c.write.Flush())
	return c.err
}

// frame reads one frame and hands every answer to done, which may ask again. It flushes when there is no more to read
// for now.
func (c *conn) frame(done func(*call) error) error {
	f, err := c.in.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		if k := c.call(f.StreamID); k != nil {
			k.body = append(k.body, f.Data()...)
		}
		if f.StreamEnded() {
			return fmt.Errorf("stream %d ended without trailers", f.StreamID)
		}
	case *http2.HeadersFrame:
		err = c.answerHeaders(f, done)
	default:
		err = c.control(f)
	}
	if err != nil {
		return err
	}
	if c.read.Buffered() == 0 {
		return c.flush()
	}
	return nil
}

// whole reports whether all of a frame has arrived. The connection must be polled.
func (c *conn) whole() (bool, error) {
	const header = 9
	b, err := c.read.Peek(header)
	if err == nil {
		_, err = c.read.Peek(header + int(b[0])<<16 + int(b[1])<<8 + int(b[2]))
	}
	if errors.Is(err, errNothing) {
		return false, nil
	}
	return err == nil, err
}

func (c *conn) call(id uint32) *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[id]
}

func (c *conn) answerHeaders(f *http2.HeadersFrame, done func(*call) error) error {
	k := c.call(f.StreamID)
	if k == nil || !f.HeadersEnded() {
		return fmt.Errorf("headers of stream %d, which is not open, or in pieces", f.StreamID)
	}
	c.table.SetEmitFunc(func(h hpack.HeaderField) {
		if h.Name == "grpc-status" {
			k.status = h.Value
		}
	})
	if _, err := c.table.Write(f.HeaderBlockFragment()); err != nil {
		return err
	}
	if !f.StreamEnded() {
		return nil
	}
	err := done(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, f.StreamID)
	c.free = append(c.free, k)
	return errors.Join(err, c.sendWaiting())
}

func (c *conn) control(f http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if limit, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
			c.limit = int(limit)
		} else {
			c.limit = 1 << 20
		}
		return errors.Join(c.out.WriteSettingsAck(), c.sendWaiting())
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return c.out.WritePing(true, f.Data)
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int(f.Increment)
			return c.sendWaiting()
		}
		return nil
	case *http2.RSTStreamFrame:
		return fmt.Errorf("stream %d was reset: %v", f.StreamID, f.ErrCode)
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server goes away: %v %s", f.ErrCode, f.DebugData())
	}
	return errors.New("unexpected frame " + strconv.Quote(f.Header().String()))
}
