package extauthz_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/writ-auth/writ/authz/extauthz"
)

// wire is a connection in memory: reads come from what the client sent, writes are kept.
type wire struct {
	net.Conn
	in   io.Reader
	sent bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.Read(p) }
func (w *wire) Write(p []byte) (int, error) { return w.sent.Write(p) }
func (w *wire) Close() error                { return nil }

// client writes what a client sends.
type client struct {
	bytes.Buffer
	frames *http2.Framer
	block  bytes.Buffer
	hpack  *hpack.Encoder
	stream uint32
}

func newClient() *client {
	c := &client{stream: 1}
	c.WriteString(http2.ClientPreface)
	c.frames, c.hpack = http2.NewFramer(&c.Buffer, nil), hpack.NewEncoder(&c.block)
	_ = c.frames.WriteSettings()
	_ = c.frames.WriteWindowUpdate(0, 1<<20)
	return c
}

// call sends a call with one message, and returns its stream.
func (c *client) call(path, message string, more ...hpack.HeaderField) uint32 {
	c.block.Reset()
	for _, f := range append([]hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":path", Value: path}, {Name: "te", Value: "trailers"}}, more...) {
		_ = c.hpack.WriteField(f)
	}
	stream := c.stream
	c.stream += 2
	_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: true})
	_ = c.frames.WriteData(stream, true, []byte(message))
	return stream
}

const checkPath = "/" + extauthz.ServiceName + "/Check"

// throughGate is what gRPC gets to see of what a client sends, and what the gate answers.
func throughGate(t testing.TB, l *extauthz.Limiter, sent []byte) (seen, answered []byte, err error) {
	t.Helper()
	w := &wire{in: bytes.NewReader(sent)}
	gate := extauthz.Gate(w, l)
	seen, err = io.ReadAll(gate)
	if err := gate.Close(); err != nil {
		t.Error(err)
	}
	return seen, w.sent.Bytes(), err
}

func frameKinds(t *testing.T, b []byte) string {
	t.Helper()
	framer := http2.NewFramer(nil, bytes.NewReader(b))
	var kinds []string
	for {
		f, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) {
			return strings.Join(kinds, " ")
		}
		if err != nil {
			t.Fatalf("after %v: %v", kinds, err)
		}
		kinds = append(kinds, f.Header().Type.String())
	}
}

func TestGate(t *testing.T) {
	tests := []struct {
		name           string
		full           bool
		send           func(c *client)
		seen, answered string // frames
		shed           uint64
	}{
		{"nothing is wrong", false, func(c *client) { c.call(checkPath, "a") }, "SETTINGS WINDOW_UPDATE HEADERS DATA", "", 0},
		// The first block adds to HPACK's table: gRPC has to see it, and that the stream is given up.
		{"too many, new headers", true, func(c *client) { c.call(checkPath, "a") }, "SETTINGS WINDOW_UPDATE HEADERS RST_STREAM", "HEADERS DATA HEADERS", 1},
		{"too many, known headers", true, func(c *client) { c.call(checkPath, "a"); c.call(checkPath, "b"); c.call(checkPath, "c") },
			"SETTINGS WINDOW_UPDATE HEADERS RST_STREAM", "HEADERS DATA HEADERS HEADERS DATA HEADERS HEADERS DATA HEADERS", 3},
		{"another service", true, func(c *client) { c.call("/grpc.health.v1.Health/Check", "a") }, "SETTINGS WINDOW_UPDATE HEADERS DATA", "", 0},
		{"given up by the client", true, func(c *client) {
			_ = c.call(checkPath, "a")
			c.Truncate(c.Len() - 10) // without the message
			_ = c.frames.WriteRSTStream(1, http2.ErrCodeCancel)
		}, "SETTINGS WINDOW_UPDATE HEADERS RST_STREAM", "", 0},
		{"a client that has no room for a message", true, func(c *client) {
			_ = c.frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			c.call(checkPath, "a")
		}, "SETTINGS WINDOW_UPDATE SETTINGS HEADERS DATA", "", 0},
		{"a ping after an answer", true, func(c *client) {
			c.call(checkPath, "a")
			_ = c.frames.WritePing(false, [8]byte{1})
			_ = c.frames.WritePing(false, [8]byte{2})
		}, "SETTINGS WINDOW_UPDATE HEADERS RST_STREAM PING", "HEADERS DATA HEADERS PING", 1},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			l := newLimiter(t, "")
			if c.full {
				defer l.Fill()()
			}
			client := newClient()
			c.send(client)
			seen, answered, err := throughGate(t, l, client.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if got := frameKinds(t, seen[len(http2.ClientPreface):]); got != c.seen {
				t.Errorf("gRPC sees %s\nwant %s", got, c.seen)
			}
			if got := frameKinds(t, answered); got != c.answered {
				t.Errorf("the gate answers %s\nwant %s", got, c.answered)
			}
			if got := l.Status().Shed; got != c.shed {
				t.Errorf("%d counted, want %d", got, c.shed)
			}
		})
	}
}

func TestGateEndsWhatItCannotFollow(t *testing.T) {
	for name, send := range map[string]func(c *client){
		"a block that HPACK forbids": func(c *client) {
			_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff}, EndHeaders: true})
		},
		"pieces of headers without end": func(c *client) {
			_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			for range 100 {
				_ = c.frames.WriteContinuation(1, false, make([]byte, 16<<10))
			}
		},
		"something between pieces of headers": func(c *client) {
			_ = c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			_ = c.frames.WritePing(false, [8]byte{})
		},
		"checks that never end": func(c *client) {
			for range 1000 {
				c.call(checkPath, "")
				c.Truncate(c.Len() - 9)
			}
		},
	} {
		for _, full := range []bool{false, true} {
			l := newLimiter(t, "")
			if full {
				defer l.Fill()()
			}
			c := newClient()
			send(c)
			if _, _, err := throughGate(t, l, c.Bytes()); err == nil {
				t.Errorf("%s, full %t: the connection goes on", name, full)
			}
		}
	}
}

// Answers stand between gRPC's frames, wherever its writes are cut, and never inside a header block.
func TestGateSendsBetweenFrames(t *testing.T) {
	var grpcSends bytes.Buffer
	framer := http2.NewFramer(&grpcSends, nil)
	for range 50 {
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1001, BlockFragment: []byte{0x88}})
		_ = framer.WriteContinuation(1001, false, []byte{0x88})
		_ = framer.WriteContinuation(1001, true, []byte{0x88})
		_ = framer.WriteData(1001, false, make([]byte, 30))
	}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // G404: a test
		l := newLimiter(t, "")
		empty := l.Fill()
		c := newClient()
		feed := &feeder{}
		w := &wire{in: feed}
		gate := extauthz.Gate(w, l)
		buffer := make([]byte, 64<<10)
		for rest := grpcSends.Bytes(); len(rest) > 0; {
			c.call(checkPath, "x")
			feed.Write(c.Next(c.Len()))
			for n, err := gate.Read(buffer); n > 0 && err == nil; n, err = gate.Read(buffer) {
			}
			n := 1 + random.IntN(min(40, len(rest)))
			if _, err := gate.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		kinds := frameKinds(t, w.sent.Bytes())
		if strings.Count(kinds, "CONTINUATION") != 100 || l.Status().Shed == 0 || strings.Count(kinds, "DATA") != 50+int(l.Status().Shed) {
			t.Fatalf("seed %d: %d turned away, frames %s", seed, l.Status().Shed, kinds)
		}
		empty()
	}
}

// feeder gives what there is and then nothing, without an end.
type feeder struct{ bytes.Buffer }

func (f *feeder) Read(p []byte) (int, error) {
	if f.Len() == 0 {
		return 0, errNothing
	}
	return f.Buffer.Read(p)
}

var errNothing = io.ErrNoProgress

// What gRPC sees is what the client sent, but for windows and headers that do not count, as long as nothing is turned away; and whatever is sent, the
// gate comes to an end.
func FuzzGate(f *testing.F) {
	c := newClient()
	c.call(checkPath, "a")
	c.call(checkPath, "b", hpack.HeaderField{Name: "x", Value: "y"})
	_ = c.frames.WriteRSTStream(3, http2.ErrCodeCancel)
	f.Add(c.Bytes(), true)
	f.Add(c.Bytes(), false)
	f.Fuzz(func(t *testing.T, sent []byte, full bool) {
		l, err := extauthz.NewLimiter(extauthz.LimiterConfig{Now: func() time.Time { return time.Unix(1e9, 0) }})
		if err != nil {
			t.Fatal(err)
		}
		if full {
			defer l.Fill()()
		}
		seen, _, _ := throughGate(t, l, sent)
		if n := l.Status().AtWork; !full && n != 0 {
			t.Fatalf("%d at work after the end", n)
		}
		if full || len(sent) < len(http2.ClientPreface) || bytes.Contains(sent[len(http2.ClientPreface):], []byte{byte(http2.FrameWindowUpdate)}) {
			return
		}
		want, got := meaning(sent[len(http2.ClientPreface):]), meaning(seen[min(len(seen), len(http2.ClientPreface)):])
		if len(got) > len(want) || !slices.Equal(got, want[:len(got)]) {
			t.Fatalf("gRPC sees %x\n%q\nsent was %x\n%q", seen, got, sent, want)
		}
	})
}

// meaning is what gRPC makes of frames, as far as they are whole and HPACK can read them.
func meaning(b []byte) []string {
	const head = 9
	var all []string
	var block []byte
	decoder := hpack.NewDecoder(4096, nil)
	for len(b) >= head {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if len(b) < head+n {
			break
		}
		kind, flags, payload := http2.FrameType(b[3]), http2.Flags(b[4]), b[head:head+n]
		frame := fmt.Sprintf("%v %x %d", kind, b[5:head], flags&http2.FlagHeadersEndStream)
		switch kind {
		case http2.FrameHeaders:
			padding := 0
			if flags.Has(http2.FlagHeadersPadded) && len(payload) > 0 {
				padding, payload = int(payload[0]), payload[1:]
			}
			if flags.Has(http2.FlagHeadersPriority) {
				payload = payload[min(5, len(payload)):]
			}
			block = append(block[:0], payload[:max(0, len(payload)-padding)]...)
		case http2.FrameContinuation:
			block = append(block, payload...)
		default:
			frame = fmt.Sprintf("%x", b[:head+n])
		}
		if (kind == http2.FrameHeaders || kind == http2.FrameContinuation) && flags.Has(http2.FlagHeadersEndHeaders) {
			fields, err := decoder.DecodeFull(block)
			if err != nil {
				break
			}
			for _, f := range fields {
				if extauthz.Counts(f.Name) {
					frame += " " + f.Name + "=" + f.Value
				}
			}
		}
		all, b = append(all, frame), b[head+n:]
	}
	return all
}

// Of the headers that a proxy sends every time, gRPC sees those that count.
func TestGateAbridges(t *testing.T) {
	c := newClient()
	for range 3 {
		c.call(checkPath, "a", hpack.HeaderField{Name: "x-forwarded-for", Value: "10.0.0.1"}, hpack.HeaderField{Name: "x-b3-traceid", Value: "7", Sensitive: true},
			hpack.HeaderField{Name: "writ-namespace", Value: "shop", Sensitive: true}, hpack.HeaderField{Name: "grpc-timeout", Value: "200m"})
	}
	seen, _, err := throughGate(t, newLimiter(t, ""), c.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(io.Discard, bytes.NewReader(seen[len(http2.ClientPreface):]))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var got []string
	for {
		f, err := framer.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.MetaHeadersFrame); ok {
			names := make([]string, 0, len(h.Fields))
			for _, f := range h.Fields {
				names = append(names, f.Name)
			}
			got = append(got, strings.Join(names, " "))
		}
	}
	all, brief := ":method :path te x-forwarded-for x-b3-traceid writ-namespace grpc-timeout", ":method :path writ-namespace grpc-timeout"
	if want := []string{all, all, brief}; !slices.Equal(got, want) { // the first adds to HPACK's table, the second is the first like the third
		t.Errorf("gRPC sees %q, want %q", got, want)
	}
}

// A block that is said to leave HPACK's table alone does.
func FuzzChangesTable(f *testing.F) {
	var primer bytes.Buffer
	e := hpack.NewEncoder(&primer)
	_ = e.WriteField(hpack.HeaderField{Name: "first", Value: "one"})
	_ = e.WriteField(hpack.HeaderField{Name: "second", Value: "two"})
	for _, block := range [][]byte{{0x82, 0xbe}, {0x40, 1, 'a', 1, 'b'}, {0x00, 1, 'a', 1, 'b'}, {0x10, 1, 'a', 1, 'b'}, {0x20}, {0x3f, 0xe1, 0x1f}, {0x0f, 0x10, 1, 'x'}, {0x82, 0x84, 0xbe, 0x0f, 0x10, 1, 'x', 0x83}} {
		f.Add(block)
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		fields, good := extauthz.GoodBlock(primer.Bytes(), block)
		if extauthz.ChangesTable(block) || fields == nil && !good {
			return
		}
		if good {
			brief := extauthz.Abridge(primer.Bytes(), block)
			again, kept := extauthz.GoodBlock(primer.Bytes(), brief)
			if !kept || !slices.Equal(again, fields) || !slices.Equal(counted(t, primer.Bytes(), block), counted(t, primer.Bytes(), brief)) {
				t.Fatalf("%x became %x", block, brief)
			}
		}
		if !good || len(fields) != 2 || fields[0].Name != "second" || fields[1].Name != "first" {
			t.Fatalf("%x changed the table: %v", block, fields)
		}
	})
}

// counted are the fields of a block that count.
func counted(t *testing.T, primer, block []byte) []hpack.HeaderField {
	t.Helper()
	d := hpack.NewDecoder(4096, nil)
	if _, err := d.DecodeFull(primer); err != nil {
		t.Fatal(err)
	}
	fields, err := d.DecodeFull(block)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(fields, func(f hpack.HeaderField) bool { return !extauthz.Counts(f.Name) })
}

// BenchmarkGate is what following a check costs, in and out, and BenchmarkShed a check that is turned away; both without
// the system calls.
func BenchmarkGate(b *testing.B) { benchmarkGate(b, false) }
func BenchmarkShed(b *testing.B) { benchmarkGate(b, true) }

func benchmarkGate(b *testing.B, full bool) {
	const calls = 1000
	c := newClient()
	var answers bytes.Buffer
	framer := http2.NewFramer(&answers, nil)
	for range calls { // all but the first with the same headers, which HPACK knows then
		stream := c.call(checkPath, strings.Repeat("x", 1200), hpack.HeaderField{Name: "x-forwarded-for", Value: "10.244.1.17"})
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndHeaders: true})
		_ = framer.WriteData(stream, false, make([]byte, 150))
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndHeaders: true, EndStream: true})
	}
	l, err := extauthz.NewLimiter(extauthz.LimiterConfig{})
	if err != nil {
		b.Fatal(err)
	}
	if full {
		defer l.Fill()()
	}
	b.ReportAllocs()
	for b.Loop() {
		w := &wire{in: bytes.NewReader(c.Bytes())}
		gate := extauthz.GateOf(w, l, calls)
		if _, err := io.Copy(io.Discard, gate); err != nil {
			b.Fatal(err)
		}
		if !full {
			if _, err := gate.Write(answers.Bytes()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/check")
}
