package extauthz

import (
	"encoding/binary"
	"sync"

	"golang.org/x/net/http2"
)

// outbound is what the gate knows of what is sent to the client, by gRPC and by itself.
type outbound struct {
	writing sync.Mutex // held while writing to the connection; guards what follows
	head    [frameHeader]byte
	have    int  // bytes of head
	rest    int  // bytes of the payload of gRPC's present frame that are still to come
	block   bool // gRPC is in the middle of a header block

	waiting sync.Mutex // guards what follows
	answers []byte     // and window updates, which wait for gRPC to be between two frames
	spare   []byte
	owed    int // bytes of requests that were turned away: room to give back to the client
}

const (
	maxAnswers  = 64 << 10              // bytes that may wait; nothing is turned away while there are more
	creditEvery = connectionWindow / 16 // bytes
)

// add queues an answer.
func (o *outbound) add(a *shedAnswer, stream uint32) {
	o.waiting.Lock()
	o.answers = a.appendTo(o.answers, stream)
	o.waiting.Unlock()
}

// credit gives the client room for bytes of which gRPC knows nothing: on the connection, and on the stream if there is to
// come more of it.
func (o *outbound) credit(n int, stream uint32, more bool) {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	if more && n > 0 {
		o.answers = appendWindowUpdate(o.answers, stream, n)
	}
	if o.owed += n; o.owed >= creditEvery {
		o.answers = appendWindowUpdate(o.answers, 0, o.owed)
		o.owed = 0
	}
}

// pong answers a ping.
func (o *outbound) pong(data []byte) {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	o.answers = append(o.answers, 0, 0, pingBytes, byte(http2.FramePing), byte(http2.FlagPingAck), 0, 0, 0, 0)
	o.answers = append(o.answers, data...)
}

func appendWindowUpdate(b []byte, stream uint32, n int) []byte {
	b = append(b, 0, 0, 4, byte(http2.FrameWindowUpdate), 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, stream), uint32(n)) //nolint:gosec // G115: below 2^25
}

func (o *outbound) full() bool {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	return len(o.answers) > maxAnswers
}

func (o *outbound) empty() bool {
	o.waiting.Lock()
	defer o.waiting.Unlock()
	return len(o.answers) == 0
}

// flush sends what waits, unless gRPC is writing: then gRPC's goroutine does.
func (g *gate) flush() error {
	o := &g.out
	for !o.empty() && o.writing.TryLock() {
		err := g.sendAnswers()
		between := o.between()
		o.writing.Unlock()
		if err != nil || !between {
			return err
		}
	}
	return nil
}

// between reports whether gRPC is between two frames, where others may stand. The caller holds writing.
func (o *outbound) between() bool { return o.rest == 0 && o.have == 0 && !o.block }

// sendAnswers sends what waits if it may be sent now. The caller holds writing.
func (g *gate) sendAnswers() error {
	o := &g.out
	if !o.between() {
		return nil
	}
	o.waiting.Lock()
	answers := o.answers
	o.answers, o.spare = o.spare[:0], nil
	o.waiting.Unlock()
	if len(answers) == 0 {
		return nil
	}
	_, err := g.Conn.Write(answers)
	o.waiting.Lock()
	o.spare = answers[:0]
	o.waiting.Unlock()
	return err
}

// Write implements [net.Conn] for gRPC.
func (g *gate) Write(p []byte) (int, error) {
	o := &g.out
	o.writing.Lock()
	if !o.empty() {
		if err := g.sendAnswers(); err != nil {
			o.writing.Unlock()
			return 0, err
		}
	}
	g.follow(p)
	n, err := g.Conn.Write(p)
	o.writing.Unlock()
	if err == nil {
		err = g.flush()
	}
	return n, err
}

// follow notes which streams end with what gRPC sends. The caller holds writing.
func (g *gate) follow(p []byte) {
	o := &g.out
	answered := 0
	g.mu.Lock()
	for len(p) > 0 {
		if o.rest > 0 {
			n := min(o.rest, len(p))
			o.rest, p = o.rest-n, p[n:]
			continue
		}
		n := copy(o.head[o.have:], p)
		o.have, p = o.have+n, p[n:]
		if o.have < frameHeader {
			break
		}
		o.have = 0
		f := parseFrame(o.head[:])
		o.rest = f.length
		if g.sent(f) {
			answered++
		}
	}
	g.mu.Unlock()
	if answered > 0 {
		g.limiter.left(answered, answered)
	}
}

// sent notes one frame of gRPC's, and reports whether it ends a check that was at work. The caller holds writing and mu.
func (g *gate) sent(f frameHead) bool {
	switch f.kind {
	case http2.FrameHeaders:
		g.out.block = !f.flags.Has(http2.FlagHeadersEndHeaders)
	case http2.FrameContinuation:
		g.out.block = !f.flags.Has(http2.FlagContinuationEndHeaders)
	case http2.FrameData:
		g.flows.window -= int64(f.length)
	case http2.FrameRSTStream:
		return g.flows.ended(f.stream)
	default:
	}
	return f.ends() && g.flows.ended(f.stream)
}
