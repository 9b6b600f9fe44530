package opa_test

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/provider/opa"
)

// kitchen is a service with a unary method and one to which clients stream, and every kind of field whose JSON is not what
// its name says.
const kitchen = `
name: "kitchen.proto" package: "shop" syntax: "proto3"
dependency: ["google/protobuf/timestamp.proto", "google/protobuf/duration.proto", "google/protobuf/any.proto", "google/protobuf/struct.proto", "google/protobuf/wrappers.proto"]
enum_type { name: "State" value { name: "UNKNOWN" number: 0 } value { name: "WAITING" number: 1 } }
message_type { name: "Person" field { name: "id" number: 1 type: TYPE_UINT64 label: LABEL_OPTIONAL } field { name: "parent" number: 2 type: TYPE_MESSAGE type_name: ".shop.Person" label: LABEL_OPTIONAL } }
message_type {
	name: "Order"
	field { name: "person" number: 1 type: TYPE_MESSAGE type_name: ".shop.Person" label: LABEL_OPTIONAL }
	field { name: "state" number: 2 type: TYPE_ENUM type_name: ".shop.State" label: LABEL_OPTIONAL }
	field { name: "cup_size" number: 3 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
	field { name: "now" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
	field { name: "period" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" label: LABEL_OPTIONAL }
	field { name: "neat" number: 6 type: TYPE_MESSAGE type_name: ".google.protobuf.Any" label: LABEL_OPTIONAL }
	field { name: "object" number: 7 type: TYPE_MESSAGE type_name: ".google.protobuf.Struct" label: LABEL_OPTIONAL }
	field { name: "big_int" number: 8 type: TYPE_MESSAGE type_name: ".google.protobuf.Int64Value" label: LABEL_OPTIONAL }
	field { name: "raw" number: 9 type: TYPE_BYTES label: LABEL_OPTIONAL }
	field { name: "name" number: 10 type: TYPE_STRING label: LABEL_OPTIONAL }
}
service { name: "Kitchen" method { name: "Cook" input_type: ".shop.Order" output_type: ".shop.Order" } method { name: "Stream" input_type: ".shop.Order" output_type: ".shop.Order" client_streaming: true } }
`

// descriptors is the kitchen with what it imports, in a file and in force.
func descriptors(t *testing.T) (file string, order func(text string) []byte) {
	t.Helper()
	own := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(kitchen), own); err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, m := range []proto.Message{&timestamppb.Timestamp{}, &durationpb.Duration{}, &anypb.Any{}, &structpb.Struct{}, &wrapperspb.Int64Value{}} {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(m.ProtoReflect().Descriptor().ParentFile()))
	}
	set.File = append(set.File, own)
	data, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "services.pb")
	write(t, file, string(data))
	known, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	found, err := known.FindDescriptorByName("shop.Order")
	if err != nil {
		t.Fatal(err)
	}
	kind := found.(protoreflect.MessageDescriptor)
	return file, func(text string) []byte {
		m := dynamicpb.NewMessage(kind)
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		out, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// framed is a message as gRPC sends it.
func framed(flag byte, size int, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(size)), message...)
}

// TestGRPCBody is what policies see of gRPC calls, where the plugin with its proto-descriptor shows the same.
func TestGRPCBody(t *testing.T) {
	t.Parallel()
	file, order := descriptors(t)
	full := order(`{"person":{"id":123,"parent":{"id":"122"}},"state":"WAITING","cupSize":"0.12","now":"2020-12-02T10:48:42.118723+01:00","period":"30s",
		"neat":{"@type":"googleapis.com/google.protobuf.StringValue","value":"hi"},"object":{"foo":["bar",1,null]},"bigInt":101,"raw":"AAAA"}`)
	const rules = `allow if input.parsed_body == {"person": {"id": "123", "parent": {"id": "122"}}, "state": "WAITING", "cupSize": 0.12, "now": "2020-12-02T09:48:42.118723Z",
		"period": "30s", "neat": {"@type": "googleapis.com/google.protobuf.StringValue", "value": "hi"}, "object": {"foo": ["bar", 1, null]}, "bigInt": "101", "raw": "AAAA"}`
	const isNull = "allow if { input.parsed_body == null; not input.truncated_body }"
	var deep []byte // a person, and 300 parents
	for range 300 {
		deep = append(binary.AppendUvarint([]byte{2<<3 | 2}, uint64(len(deep))), deep...)
	}
	deep = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(deep))), deep...)
	for _, tc := range []struct {
		name, path, rules string
		body              []byte
		text              bool // the proxy sends text
		without           bool // without descriptors
		refused           string
	}{
		{name: "a message", path: "/shop.Kitchen/Cook", rules: rules, body: framed(0, len(full), full)},
		{name: "and another one after it", path: "/shop.Kitchen/Cook", rules: rules, body: append(framed(0, len(full), full), "more"...)},
		{name: "an empty one", path: "/shop.Kitchen/Cook", rules: "allow if input.parsed_body == {}", body: framed(0, 0, nil)},
		{name: "cut off", path: "/shop.Kitchen/Cook", rules: "allow if { input.parsed_body == null; input.truncated_body }", body: framed(0, len(full)+1, full)},
		{name: "compressed", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(1, len(full), full)},
		{name: "an unknown service", path: "/shop.Bar/Cook", rules: isNull, body: framed(0, len(full), full)},
		{name: "a message's name for a service", path: "/shop.Order/Cook", rules: isNull, body: framed(0, len(full), full)},
		{name: "an unknown method", path: "/shop.Kitchen/Clean", rules: isNull, body: framed(0, len(full), full)},
		{name: "a stream of the client's", path: "/shop.Kitchen/Stream", rules: isNull, body: framed(0, len(full), full)},
		{name: "no body", path: "/shop.Kitchen/Cook", rules: isNull},
		{name: "text", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, 0, nil), text: true},
		{name: "without descriptors", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, len(full), full), without: true},
		{name: "no call", path: "/shop.Kitchen", rules: isNull, body: framed(0, 0, nil), refused: "/SERVICE/METHOD"},
		{name: "a longer path", path: "/shop.Kitchen/Cook/it", rules: isNull, body: framed(0, 0, nil), refused: "/SERVICE/METHOD"},
		{name: "half a head", path: "/shop.Kitchen/Cook", rules: isNull, body: []byte{0, 0}, refused: "has a head"},
		{name: "garbage", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, 3, []byte{0xff, 0xff, 0xff}), refused: "no valid protobuf"},
		{name: "text that is not UTF-8", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, 3, []byte{10<<3 | 2, 1, 0xff}), refused: "no valid protobuf"},
		{name: "nested without end", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, len(deep), deep), refused: "no valid protobuf"},
		{name: "a type that nobody knows", path: "/shop.Kitchen/Cook", rules: isNull, body: framed(0, 5, []byte{6<<3 | 2, 3, 1<<3 | 2, 1, 'x'}), refused: "no JSON form"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			http := &authv3.AttributeContext_HttpRequest{Method: "POST", Path: tc.path, Headers: map[string]string{"content-type": "application/grpc"}, RawBody: tc.body}
			if tc.text {
				http.RawBody, http.Body = nil, string(tc.body)
			}
			raw, err := proto.Marshal(&authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: http}}})
			if err != nil {
				t.Fatal(err)
			}
			c := opa.Config{Name: "opa", Bundle: files(t, map[string]string{"p.rego": "package envoy.authz\ndefault allow := false\n" + tc.rules}), ProtoDescriptor: file}
			if tc.without {
				c.ProtoDescriptor = ""
			}
			var a authz.Answer
			err = loaded(t, c).Ask(t.Context(), question(raw), &a)
			var fault *authz.Fault
			switch {
			case tc.refused != "":
				if !errors.As(err, &fault) || fault.Reason != authz.ReasonProviderBadRequest || !strings.Contains(err.Error(), tc.refused) || a.Allow {
					t.Errorf("%v, %+v", err, a)
				}
			case err != nil || !a.Allow:
				t.Errorf("%v, %+v", err, a)
			}
		})
	}
}

func TestProtoDescriptorFiles(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"p.rego": "package envoy.authz\nallow := true", "empty.pb": "", "text.pb": "syntax = \"proto3\";"})
	own := new(descriptorpb.FileDescriptorProto)
	if err := prototext.Unmarshal([]byte(kitchen), own); err != nil {
		t.Fatal(err)
	}
	alone, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{own}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "alone.pb"), string(alone))
	for file, want := range map[string]string{
		"none.pb": "none.pb", "empty.pb": "describes nothing", "text.pb": "--include_imports", "alone.pb": "google/protobuf/timestamp.proto",
	} {
		_, err := opa.New(opa.Config{Bundle: filepath.Join(dir, "p.rego"), ProtoDescriptor: filepath.Join(dir, file)})
		if err == nil || !strings.HasPrefix(err.Error(), "proto_descriptor: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
