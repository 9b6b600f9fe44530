package sds

import (
	"errors"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec of every message but ours
	"google.golang.org/grpc/mem"
)

// codecName is the content-subtype that clients of protobuf services ask for.
const codecName = "proto"

// codec hands responses to gRPC as the buffers that they are made of, so that a secret is copied once for each connection
// it is written to, and no more. Other messages go to the standard codec.
type codec struct{ standard encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(codecName)} }

// Name implements [encoding.CodecV2].
func (codec) Name() string { return codecName }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return r.buffers, nil
	}
	return c.standard.Marshal(v)
}

// Unmarshal implements [encoding.CodecV2].
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return c.standard.Unmarshal(data, v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	r.decode(b.ReadOnlyData())
	return nil
}

// The standard codec carries our messages too, on servers that are not ours: for it they are protobuf messages of the first
// API (google.golang.org/protobuf/protoadapt.MessageV1) that encode themselves.

// Reset clears the message.
func (r *request) Reset() { *r = request{delta: r.delta} }

// String says nothing of what is in the message.
func (*request) String() string { return "SDS request" }

// ProtoMessage marks a protobuf message.
func (*request) ProtoMessage() {}

// Marshal is not needed: we send no requests.
func (*request) Marshal() ([]byte, error) { return nil, errors.New("sds: a request is only read") }

// Unmarshal decodes the message.
func (r *request) Unmarshal(b []byte) error {
	r.decode(b)
	return nil
}

// Reset clears the message.
func (r *response) Reset() { *r = response{} }

// String says nothing of what is in the message, which may hold private keys.
func (*response) String() string { return "SDS response" }

// ProtoMessage marks a protobuf message.
func (*response) ProtoMessage() {}

// Marshal encodes the message.
func (r *response) Marshal() ([]byte, error) { return r.buffers.Materialize(), nil }

// Unmarshal is not needed: we receive no responses.
func (*response) Unmarshal([]byte) error { return errors.New("sds: a response is only written") }
