package sds

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// typeURL is the only type of resource that this service has.
const typeURL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Bounds of what a request may say. The size of the whole is bounded by the gRPC server.
const (
	maxNames     = 256
	maxName      = 2048 // a SPIFFE ID's longest
	maxNode      = 256
	maxErrorText = 512
)

var (
	errMalformed = errors.New("malformed request")
	errTooMany   = fmt.Errorf("more than %d names of secrets on one stream", maxNames)
)

// request is what we read of a DiscoveryRequest, a DeltaDiscoveryRequest, or both: they have no field in common but the
// node. Envoy's node lists its extensions in some ten KiB; of it only the ID is kept.
type request struct {
	delta   bool  // says which of the two to read
	bad     error // why it could not be read
	node    string
	typeURL string
	nonce   string
	failure *string // the error detail's text: the last response was rejected

	names   []string          // StreamSecrets: the whole set. DeltaSecrets: to be added
	drop    []string          // DeltaSecrets: to be taken away
	initial map[string]string // DeltaSecrets: versions that the client has, by name
}

// Fields of the two messages (envoy/service/discovery/v3/discovery.proto), of Node and of Status.
const (
	sotwNode, sotwNames, sotwType, sotwNonce, sotwError = 2, 3, 4, 5, 6

	deltaNode, deltaType, deltaSubscribe, deltaUnsubscribe = 1, 2, 3, 4
	deltaInitial, deltaNonce, deltaError                   = 5, 6, 7

	nodeID        = 1
	statusMessage = 2
	mapKey        = 1
	mapValue      = 2
)

// decode reads the fields of one message into r, which keeps nothing of b. A message that cannot be read is one, too: the
// stream's loop answers it.
func (r *request) decode(b []byte) {
	*r = request{delta: r.delta}
	r.bad = eachBytes(b, func(field protowire.Number, value []byte) error {
		if r.delta {
			return r.deltaField(field, value)
		}
		return r.sotwField(field, value)
	})
}

func (r *request) sotwField(field protowire.Number, value []byte) (err error) {
	switch field {
	case sotwNode:
		r.node, err = textIn(value, nodeID, maxNode)
	case sotwNames:
		r.names, err = addName(r.names, value)
	case sotwType:
		r.typeURL, err = text(value, maxName)
	case sotwNonce:
		r.nonce, err = text(value, maxName)
	case sotwError:
		err = r.rejected(value)
	}
	return err
}

func (r *request) deltaField(field protowire.Number, value []byte) (err error) {
	switch field {
	case deltaNode:
		r.node, err = textIn(value, nodeID, maxNode)
	case deltaType:
		r.typeURL, err = text(value, maxName)
	case deltaSubscribe:
		r.names, err = addName(r.names, value)
	case deltaUnsubscribe:
		r.drop, err = addName(r.drop, value)
	case deltaInitial:
		err = r.has(value)
	case deltaNonce:
		r.nonce, err = text(value, maxName)
	case deltaError:
		err = r.rejected(value)
	}
	return err
}

// rejected reads an error detail (google.rpc.Status).
func (r *request) rejected(value []byte) error {
	message, err := textIn(value, statusMessage, maxErrorText)
	r.failure = &message
	return err
}

// has reads one entry of initial_resource_versions.
func (r *request) has(value []byte) error {
	if len(r.initial) >= maxNames {
		return errTooMany
	}
	name, err := textIn(value, mapKey, maxName)
	if err != nil {
		return err
	}
	version, err := textIn(value, mapValue, maxName)
	if r.initial == nil {
		r.initial = map[string]string{}
	}
	r.initial[name] = version
	return err
}

func addName(names []string, value []byte) ([]string, error) {
	if len(names) >= maxNames {
		return names, errTooMany
	}
	name, err := text(value, maxName)
	return append(names, name), err
}

// text copies a string field, cut to a length: what is longer is no name of ours, and error texts are for people.
func text(value []byte, limit int) (string, error) {
	if !utf8.Valid(value) {
		return "", fmt.Errorf("%w: text that is not UTF-8", errMalformed)
	}
	if len(value) > limit {
		return strings.ToValidUTF8(string(value[:limit]), "") + "…", nil
	}
	return string(value), nil
}

// textIn copies one string field of a message.
func textIn(message []byte, wanted protowire.Number, limit int) (found string, err error) {
	err = eachBytes(message, func(field protowire.Number, value []byte) (err error) {
		if field == wanted {
			found, err = text(value, limit)
		}
		return err
	})
	return found, err
}

// eachBytes calls do with every length-delimited field of a message, and skips the others.
func eachBytes(b []byte, do func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		field, wireType, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		if wireType != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, wireType, b); n < 0 {
				return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		if err := do(field, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// resource is a secret under the name by which it was asked for.
type resource struct {
	name   string
	secret *secret
}

// response is a DiscoveryResponse or DeltaDiscoveryResponse as it goes out: small pieces made for it, and between them the
// bodies of secrets, which all streams share.
type response struct {
	buffers mem.BufferSlice
	size    int // bytes of all buffers
}

const (
	responseVersion, responseResource, responseType, responseNonce, responseRemoved = 1, 2, 4, 5, 6

	resourceVersion, resourceAny, resourceName = 1, 2, 3

	anyType, anyValue = 1, 2

	secretName = 1
)

// newResponse encodes resources in their order. It reports what was removed on delta streams only.
func newResponse(delta bool, version, nonce string, resources []resource, removed []string) *response {
	r := &response{buffers: make(mem.BufferSlice, 0, 2*len(resources)+1)}
	piece := make([]byte, 0, 256)
	piece = appendText(piece, responseVersion, version)
	piece = appendText(piece, responseType, typeURL)
	piece = appendText(piece, responseNonce, nonce)
	for _, name := range removed {
		piece = appendText(piece, responseRemoved, name)
	}
	for _, each := range resources {
		piece = appendHead(piece, delta, each)
		r.add(mem.SliceBuffer(piece))
		r.add(each.secret.body)
		piece = nil
	}
	if len(piece) > 0 {
		r.add(mem.SliceBuffer(piece))
	}
	return r
}

// appendHead encodes what of a resource comes before the body of its secret.
func appendHead(b []byte, delta bool, each resource) []byte {
	value := textSize(secretName, each.name) + each.secret.body.Len()
	wrapped := textSize(anyType, typeURL) + bytesSize(anyValue, value)
	if delta {
		size := textSize(resourceVersion, each.secret.version) + textSize(resourceName, each.name) + bytesSize(resourceAny, wrapped)
		b = appendLength(b, responseResource, size)
		b = appendText(b, resourceVersion, each.secret.version)
		b = appendText(b, resourceName, each.name)
		b = appendLength(b, resourceAny, wrapped)
	} else {
		b = appendLength(b, responseResource, wrapped)
	}
	b = appendText(b, anyType, typeURL)
	b = appendLength(b, anyValue, value)
	return appendText(b, secretName, each.name)
}

func (r *response) add(b mem.Buffer) {
	r.buffers = append(r.buffers, b)
	r.size += b.Len()
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return append(appendLength(b, field, len(s)), s...)
}

func appendLength(b []byte, field protowire.Number, size int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
}

func textSize(field protowire.Number, s string) int {
	if s == "" {
		return 0
	}
	return bytesSize(field, len(s))
}

func bytesSize(field protowire.Number, size int) int {
	return protowire.SizeTag(field) + protowire.SizeBytes(size)
}
