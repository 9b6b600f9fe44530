package opa

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	maxDescriptorBytes = 16 << 20
	grpcHead           = 5 // bytes before a message: a flag, and the length (gRPC over HTTP/2, Length-Prefixed-Message)
)

// services knows the messages of gRPC services, as the plugin's proto-descriptor does.
type services struct{ files *protoregistry.Files }

// readServices reads a FileDescriptorSet, with everything that its files import.
func readServices(file string) (*services, error) {
	data, err := readBounded(file, maxDescriptorBytes)
	if err != nil {
		return nil, fmt.Errorf("proto_descriptor: %w", err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	err = proto.Unmarshal(data, set)
	if err == nil && len(set.GetFile()) == 0 {
		err = errors.New("it describes nothing")
	}
	var files *protoregistry.Files
	if err == nil {
		files, err = protodesc.NewFiles(set)
	}
	if err != nil {
		return nil, fmt.Errorf("proto_descriptor: %s: %w: want what protoc --include_imports --descriptor_set_out writes", file, err)
	}
	return &services{files}, nil
}

// parse reads the first message of a call as protobuf JSON. It is null where the plugin's is: without descriptors, if the
// proxy does not send bytes (pack_as_bytes), and for calls that are compressed, unknown, or streams of the client's.
func (s *services) parse(h *httpPart) (body ast.Value, truncated bool, err error) {
	if s == nil || h.rawBody == "" {
		return ast.NullValue, false, nil
	}
	u, err := url.Parse(h.path)
	if err != nil {
		return nil, false, err
	}
	service, method, ok := strings.Cut(strings.TrimLeft(u.Path, "/"), "/")
	if !ok || strings.Contains(method, "/") {
		return nil, false, errors.New("the path of a gRPC call is /SERVICE/METHOD")
	}
	if len(h.rawBody) < grpcHead {
		return nil, false, fmt.Errorf("a gRPC message has a head of %d bytes, this has %d in all", grpcHead, len(h.rawBody))
	}
	message := s.message(service, method)
	size := uint64(binary.BigEndian.Uint32([]byte(h.rawBody[1:grpcHead])))
	switch rest := uint64(len(h.rawBody) - grpcHead); {
	case h.rawBody[0] != 0: // compressed
		return ast.NullValue, false, nil
	case size > rest:
		return ast.NullValue, true, nil
	case message == nil:
		return ast.NullValue, false, nil
	}
	if err := (proto.UnmarshalOptions{RecursionLimit: maxBodyDepth}).Unmarshal([]byte(h.rawBody[grpcHead:grpcHead+size]), message); err != nil {
		return nil, false, errors.New("no valid protobuf message")
	}
	text, err := protojson.Marshal(message)
	if err != nil {
		return nil, false, fmt.Errorf("the message has no JSON form: %w", err)
	}
	body, err = parseJSON(string(text))
	return body, false, err
}

// message is an empty one of what a method takes, nil if it is not known.
func (s *services) message(service, method string) *dynamicpb.Message {
	found, err := s.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	known, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	m := known.Methods().ByName(protoreflect.Name(method))
	if m == nil || m.IsStreamingClient() {
		return nil
	}
	return dynamicpb.NewMessage(m.Input())
}
