package extauthz

import (
	"encoding/binary"
	"net/http"
	"slices"

	"golang.org/x/net/http2"

	"github.com/writ-auth/writ/authz"
)

const frameHeader = 9 // bytes before the payload of an HTTP/2 frame (RFC 9113 §4.1)

// shedAnswer is the answer to a check that is turned away: complete HTTP/2 frames, made once, in which only the number
// of the stream is missing. Their header blocks use nothing of HPACK's dynamic table (RFC 7541 §6.2.2) and leave it as it
// is, so that they may be sent between the frames of an encoder that knows nothing of them.
type shedAnswer struct {
	frames []byte
	ids    []int // where the numbers go
	data   int   // bytes that count for flow control
}

func newShedAnswer(how OverloadAnswer) *shedAnswer {
	head := appendField([]byte{1<<7 | 8}, "content-type", "application/grpc") // 8 is :status 200 (RFC 7541 appendix A)
	a := new(shedAnswer)
	if how == OverloadExhausted {
		head = appendField(head, "grpc-status", "8") // RESOURCE_EXHAUSTED
		head = appendField(head, "grpc-message", "overloaded")
		a.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, head)
		return a
	}
	response := overloadDenial()
	message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(response))) //nolint:gosec // G115: some hundred bytes
	message = append(message, response...)
	a.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders, head)
	a.add(http2.FrameData, 0, message)
	a.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, appendField(nil, "grpc-status", "0"))
	a.data = len(message)
	return a
}

// overloadDenial is the CheckResponse. The status 503 says that the request may be good at another time, and
// x-envoy-ratelimited keeps Envoys from sending it again at once, which would double the load.
func overloadDenial() []byte {
	var d authz.Decision
	authz.Deny(&d, authz.ReasonOverloaded, "")
	d.Status, d.Body = http.StatusServiceUnavailable, "RBAC: overloaded"
	d.Changes.ResponseHeaders = []authz.HeaderChange{{Name: "x-envoy-ratelimited", Value: "true"}}
	return appendResponse(nil, &d)
}

func (a *shedAnswer) add(kind http2.FrameType, flags http2.Flags, payload []byte) {
	n := len(payload)
	a.frames = append(a.frames, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags))
	a.ids = append(a.ids, len(a.frames))
	a.frames = append(append(a.frames, 0, 0, 0, 0), payload...)
}

// appendTo appends the answer on a stream.
func (a *shedAnswer) appendTo(b []byte, stream uint32) []byte {
	start := len(b)
	b = append(slices.Grow(b, len(a.frames)), a.frames...)
	for _, at := range a.ids {
		binary.BigEndian.PutUint32(b[start+at:], stream)
	}
	return b
}

// appendField appends a literal header field that is not indexed and has a new name. Both are shorter than 127 bytes.
func appendField(b []byte, name, value string) []byte {
	b = append(append(b, 0, byte(len(name))), name...)
	return append(append(b, byte(len(value))), value...)
}
