package extauthz

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// inbound is what the gate knows of what the client sends.
type inbound struct {
	buffer []byte
	r, w   int // what is in it is buffer[r:w]
	pass   int // bytes at r that gRPC gets, of which some may not have arrived yet
	skip   int // bytes at r that nobody gets
	insert []byte

	reset   [frameHeader + 4]byte             // what insert points to
	headed  [frameHeader + maxKnownBlock]byte // likewise
	highest uint32                            // number of a stream
	shed    map[uint32]struct{}               // turned away, with a request that is not complete
	maxOpen int

	answered bool // a stream, since the last ping

	headers     *hpack.Decoder
	path        string // of the header block that was decoded last
	counts      []bool // which of its fields do
	known       []byte // a block that does not change the table and stands for a check as long as nothing else changes it
	brief       []byte // what counts of it
	split       []byte // a header block in pieces, as far as it has arrived
	splitStream uint32
	splitEnds   bool
	splitting   bool
}

const (
	checkPath      = "/" + ServiceName + "/Check"
	prefaceBytes   = len(http2.ClientPreface)
	headerTable    = 4096 // the default of HPACK, and what gRPC's decoder allows
	maxHeaderBlock = 2 * maxHeaderBytes
	maxKnownBlock  = 1 << 10
	windowUpdate   = frameHeader + 4
	settingBytes   = 6
	pingBytes      = 8
)

func (in *inbound) init(maxOpen int) {
	in.buffer = make([]byte, gateBuffer)
	in.pass = prefaceBytes
	in.shed = make(map[uint32]struct{})
	in.maxOpen = maxOpen
	in.headers = hpack.NewDecoder(headerTable, func(f hpack.HeaderField) {
		if f.Name == ":path" {
			in.path = f.Value
		}
		in.counts = append(in.counts, counts(f.Name))
	})
	in.headers.SetMaxStringLength(maxHeaderBytes)
}

// Read implements [net.Conn]: it returns what gRPC is to see.
func (g *gate) Read(p []byte) (int, error) {
	in := &g.in
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case in.pass > 0 && in.r < in.w:
			n := copy(p, in.buffer[in.r:min(in.w, in.r+in.pass)])
			in.r, in.pass = in.r+n, in.pass-n
			return n, nil
		case in.pass > 0:
			if err := g.fill(); err != nil {
				return 0, err
			}
		case len(in.insert) > 0:
			n := copy(p, in.insert)
			in.insert = in.insert[n:]
			return n, nil
		case in.skip > 0 && in.r < in.w:
			n := min(in.skip, in.w-in.r)
			in.r, in.skip = in.r+n, in.skip-n
		case in.skip > 0 || in.w-in.r < frameHeader:
			if err := g.fill(); err != nil {
				return 0, err
			}
		default:
			if err := g.next(); err != nil {
				return 0, err
			}
		}
	}
}

// fill reads from the connection. What is to be sent is sent first: nothing waits while the client does.
func (g *gate) fill() error {
	in := &g.in
	if err := g.flush(); err != nil {
		return err
	}
	if in.r > 0 {
		in.w = copy(in.buffer, in.buffer[in.r:in.w])
		in.r = 0
	}
	n, err := g.Conn.Read(in.buffer[in.w:])
	in.w += n
	if n > 0 {
		return nil // an error will come again
	}
	return err
}

// whole makes sure that all of a frame is in the buffer. A frame that does not fit is larger than gRPC accepts.
func (g *gate) whole(f frameHead) error {
	if f.length > gateBuffer-frameHeader {
		return fmt.Errorf("extauthz: a %v frame of %d bytes", f.kind, f.length)
	}
	for g.in.w-g.in.r < frameHeader+f.length {
		if err := g.fill(); err != nil {
			return err
		}
	}
	return nil
}

// next decides what becomes of the frame at r, whose head is in the buffer.
func (g *gate) next() error {
	in := &g.in
	f := parseFrame(in.buffer[in.r:])
	if in.splitting != (f.kind == http2.FrameContinuation) {
		return errors.New("extauthz: a header block in pieces with something in between, or a piece of none")
	}
	switch f.kind {
	case http2.FrameData:
		return g.data(f)
	case http2.FrameHeaders:
		return g.header(f)
	case http2.FrameContinuation:
		return g.continuation(f)
	case http2.FrameRSTStream:
		if _, ok := in.shed[f.stream]; ok {
			delete(in.shed, f.stream)
			in.skip = frameHeader + f.length
			return nil
		}
		g.mu.Lock()
		atWork := g.flows.ended(f.stream)
		g.mu.Unlock()
		if atWork {
			g.limiter.left(1, 0)
		}
	case http2.FrameWindowUpdate:
		return g.window(f)
	case http2.FrameSettings:
		return g.settings(f)
	case http2.FramePing:
		return g.ping(f)
	default: // gRPC's alone
	}
	in.pass = frameHeader + f.length
	return nil
}

func (g *gate) data(f frameHead) error {
	if _, ok := g.in.shed[f.stream]; ok {
		g.in.skip = frameHeader + f.length
		g.out.credit(f.length, f.stream, !f.ends())
		if f.ends() {
			g.turnAway(f.stream)
		}
		return nil
	}
	g.in.pass = frameHeader + f.length
	if f.ends() {
		g.complete(f.stream)
	}
	return nil
}

func (g *gate) complete(stream uint32) {
	g.mu.Lock()
	arrived := g.flows.complete(stream)
	g.mu.Unlock()
	if arrived {
		g.limiter.arrived()
	}
}

// turnAway answers a stream whose request is complete.
func (g *gate) turnAway(stream uint32) {
	delete(g.in.shed, stream)
	g.in.answered = true
	g.out.add(g.answer, stream)
	g.limiter.shed.Add(1)
}

// header deals with a HEADERS frame.
func (g *gate) header(f frameHead) error {
	if err := g.whole(f); err != nil {
		return err
	}
	in := &g.in
	in.pass = frameHeader + f.length
	block, err := fragment(f, in.buffer[in.r+frameHeader:in.r+in.pass])
	if err != nil {
		return err
	}
	if !f.flags.Has(http2.FlagHeadersEndHeaders) {
		in.splitting, in.split, in.splitStream, in.splitEnds = true, append(in.split[:0], block...), f.stream, f.ends()
		return nil
	}
	read, err := in.read(block)
	if err != nil {
		return err
	}
	return g.opened(f, read, true)
}

// continuation deals with a further piece of a header block. Checks whose headers come in pieces are not turned away.
func (g *gate) continuation(f frameHead) error {
	in := &g.in
	if f.stream != in.splitStream || len(in.split)+f.length > maxHeaderBlock {
		return fmt.Errorf("extauthz: pieces of headers of several streams, or more than %d bytes of them", maxHeaderBlock)
	}
	if err := g.whole(f); err != nil {
		return err
	}
	in.pass = frameHeader + f.length
	in.split = append(in.split, in.buffer[in.r+frameHeader:in.r+in.pass]...)
	if !f.flags.Has(http2.FlagContinuationEndHeaders) {
		return nil
	}
	in.splitting = false
	read, err := in.read(in.split)
	if err != nil {
		return err
	}
	if in.splitEnds {
		f.kind, f.flags = http2.FrameHeaders, http2.FlagHeadersEndStream
	}
	return g.opened(f, read, false)
}

// opened deals with a stream's headers, or trailers, which gRPC gets, or what counts of them, unless the check is turned
// away. gRPC's HPACK decoder has to see every block that changes the table; then gRPC is told that the client gave the
// stream up. whole says that the block is not in pieces.
func (g *gate) opened(f frameHead, block headerBlock, whole bool) error {
	in := &g.in
	if _, ok := in.shed[f.stream]; ok {
		return errors.New("extauthz: trailers after a request") // gRPC's clients send none
	}
	isNew := f.stream > in.highest
	in.highest = max(in.highest, f.stream)
	if !isNew || !block.check || f.ends() {
		if f.ends() {
			g.complete(f.stream)
		}
		return nil
	}
	if whole && !g.limiter.admits() && g.take() {
		if len(in.shed) >= in.maxOpen {
			return fmt.Errorf("extauthz: a client with more than %d requests that do not end", in.maxOpen)
		}
		in.shed[f.stream] = struct{}{}
		if block.changes {
			in.insert = appendReset(in.reset[:0], f.stream)
		} else {
			in.skip, in.pass = in.pass, 0
		}
		return nil
	}
	if whole && block.brief != nil {
		in.insert = appendHeaders(in.headed[:0], f.stream, block.brief)
		in.skip, in.pass = in.pass, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flows.shown(f.stream)
}

// take reports whether an answer may be sent on another stream: the client has to have room for it.
func (g *gate) take() bool {
	if g.out.full() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.flows.take(g.answer.data)
}

// window keeps a part of what the client grants for the connection.
func (g *gate) window(f frameHead) error {
	in := &g.in
	in.pass = frameHeader + f.length
	if f.stream != 0 || f.length != 4 {
		return nil
	}
	if err := g.whole(f); err != nil {
		return err
	}
	increment := in.buffer[in.r+frameHeader : in.r+windowUpdate]
	granted := int64(binary.BigEndian.Uint32(increment) &^ (1 << 31))
	if granted == 0 {
		return nil // an error, which gRPC knows how to deal with
	}
	g.mu.Lock()
	left := g.flows.granted(granted)
	g.mu.Unlock()
	if left == 0 { // must not be sent as it would mean an error
		in.pass, in.skip = 0, in.pass
		return nil
	}
	binary.BigEndian.PutUint32(increment, uint32(left)) //nolint:gosec // G115: at most what was granted
	return nil
}

// settings looks for the window of new streams.
func (g *gate) settings(f frameHead) error {
	if err := g.whole(f); err != nil {
		return err
	}
	in := &g.in
	in.pass = frameHeader + f.length
	if f.flags.Has(http2.FlagSettingsAck) {
		return nil
	}
	for list := in.buffer[in.r+frameHeader : in.r+in.pass]; len(list) >= settingBytes; list = list[settingBytes:] {
		if http2.SettingID(binary.BigEndian.Uint16(list)) == http2.SettingInitialWindowSize {
			g.mu.Lock()
			g.flows.stream = int64(binary.BigEndian.Uint32(list[2:]))
			g.mu.Unlock()
		}
	}
	return nil
}

// ping answers a ping that follows an answer of the gate's: a client may ping when it gets one, and gRPC, which knows
// nothing of it, would take that for abuse.
func (g *gate) ping(f frameHead) error {
	in := &g.in
	in.pass = frameHeader + f.length
	if !in.answered || f.length != pingBytes || f.flags.Has(http2.FlagPingAck) || f.stream != 0 {
		return nil
	}
	if err := g.whole(f); err != nil {
		return err
	}
	in.answered = false
	g.out.pong(in.buffer[in.r+frameHeader : in.r+in.pass])
	in.pass, in.skip = 0, in.pass
	return nil
}

// appendHeaders appends a whole header block, which more than headers will follow.
func appendHeaders(b []byte, stream uint32, block []byte) []byte {
	b = append(b, 0, byte(len(block)>>8), byte(len(block)), byte(http2.FrameHeaders), byte(http2.FlagHeadersEndHeaders)) //nolint:gosec // G115: at most maxKnownBlock
	return append(binary.BigEndian.AppendUint32(b, stream), block...)
}

func appendReset(b []byte, stream uint32) []byte {
	b = append(b, 0, 0, 4, byte(http2.FrameRSTStream), 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, stream), uint32(http2.ErrCodeCancel))
}
