package extauthz

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec of every service but ours
	"google.golang.org/grpc/mem"
)

// frame is the message type of Check on both sides: bytes as they stand on the wire. Decoding happens in the
// handler, so that bytes that cannot be read become a denial instead of a gRPC error.
type frame struct {
	in   mem.Buffer // the request, one reference held by the frame
	size int        // of the request; in is nil when it is more than the limit
	out  *[]byte    // the response, owned by the frame until it is marshalled
}

// drop gives the request's memory back.
func (f *frame) drop() {
	if f.in != nil {
		f.in.Free()
		f.in = nil
	}
}

// codec passes frames through and leaves every other message (health, reflection) to the standard codec.
type codec struct {
	standard encoding.CodecV2
	limit    int // bytes of a request that are kept
	frames   *sync.Pool
	buffers  responseBuffers
}

// codecName is the content-subtype clients of protobuf services ask for.
const codecName = "proto"

// Name implements [encoding.CodecV2].
func (c *codec) Name() string { return codecName }

// Unmarshal implements [encoding.CodecV2]. A message that arrived in one buffer is referenced, not copied.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.standard.Unmarshal(data, v)
	}
	f.drop()
	f.size = data.Len()
	if f.size <= c.limit {
		f.in = data.MaterializeToBuffer(mem.DefaultBufferPool())
	}
	return nil
}

// Marshal implements [encoding.CodecV2]. It hands the response's buffer to gRPC, which gives it back to the pool
// once it is written, and ends the life of the frame.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return c.standard.Marshal(v)
	}
	if f.out == nil {
		return nil, fmt.Errorf("check: a response without bytes")
	}
	response := mem.BufferSlice{mem.NewBuffer(f.out, c.buffers)}
	f.out = nil
	c.frames.Put(f)
	return response, nil
}

// Sizes of response buffers. gRPC pools none that is smaller than a KiB or so.
const (
	responseBufferSize = 2 << 10
	maxPooledResponse  = 16 << 10
)

// responseBuffers is a pool of response buffers; it implements [mem.BufferPool].
type responseBuffers struct{ pool *sync.Pool }

func newResponseBuffers() responseBuffers {
	return responseBuffers{&sync.Pool{New: func() any {
		b := make([]byte, 0, responseBufferSize)
		return &b
	}}}
}

// Get implements [mem.BufferPool].
func (p responseBuffers) Get(length int) *[]byte {
	b := p.pool.Get().(*[]byte)
	if cap(*b) < length {
		*b = make([]byte, length)
	}
	*b = (*b)[:length]
	return b
}

// Put implements [mem.BufferPool].
func (p responseBuffers) Put(b *[]byte) {
	if cap(*b) <= maxPooledResponse {
		p.pool.Put(b)
	}
}
