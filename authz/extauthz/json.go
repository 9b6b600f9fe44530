package extauthz

import (
	"fmt"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// ParseJSON turns a CheckRequest in protobuf JSON into the bytes a proxy would send. Unknown fields are errors: a
// misspelt one would be a missing attribute.
func ParseJSON(line []byte) ([]byte, error) {
	var request authv3.CheckRequest
	if err := protojson.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("CheckRequest: %w", err)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&request)
	if err != nil {
		return nil, fmt.Errorf("CheckRequest: %w", err)
	}
	return raw, nil
}

// Options is how a CheckRequest is read.
type Options struct {
	TrustedHops int      // as in [Config]
	Paths       PathMode // as in [Config]

	certificates *certificateCache
}

// RequestError is why a CheckRequest is denied before any policy is asked.
type RequestError struct {
	Reason authz.Reason
	Detail string
}

// Error is the detail, which is for operators and never for the client.
func (e *RequestError) Error() string { return e.Detail }

// DecodeRequest reads a CheckRequest into r, as the server does, and returns its x-request-id. An error is a
// *[RequestError]; r then holds what could be read. r refers to raw, which must not change while r is in use.
func DecodeRequest(raw []byte, opts Options, r *policy.Request) (requestID string, err error) {
	c := new(call)
	refused := c.read(input{raw, len(raw)}, &opts, maxMessageBytes)
	*r = c.message.request
	if refused != nil {
		return "", &RequestError{refused.reason, refused.detail}
	}
	return c.message.headerAt(c.message.requestID), nil
}
