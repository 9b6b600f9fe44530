package extauthz

import "google.golang.org/protobuf/encoding/protowire"

// jsonKind is what a field holds.
type jsonKind uint8

const (
	jsonText     jsonKind = iota // string
	jsonNested                   // a message
	jsonRepeated                 // repeated messages
	jsonTexts                    // map<string, string>
	jsonStructs                  // map<string, google.protobuf.Struct>
	jsonBytes
	jsonTime // google.protobuf.Timestamp
	jsonEnum
	jsonInt64
	jsonUint32
	jsonBool
	jsonEmpty // a map of which only the empty one is translated
)

// jsonField is a field of a message in protobuf JSON.
type jsonField struct {
	name, proto string // lowerCamelCase, and as in the .proto if that is another: both are read
	number      protowire.Number
	kind        jsonKind
	message     *jsonMessage // of jsonNested and jsonRepeated
	values      []string     // of jsonEnum, by number
	oneof       bool         // one of the fields of a oneof; no message here has two oneofs
}

// jsonMessage are the fields of a message that [JSONReader] translates.
type jsonMessage struct{ fields []jsonField }

// field finds a field by its key, nil if it is not translated here.
func (m *jsonMessage) field(key []byte) *jsonField {
	for i := range m.fields {
		if f := &m.fields[i]; string(key) == f.name || f.proto != "" && string(key) == f.proto {
			return f
		}
	}
	return nil
}

// checkRequestJSON is envoy.service.auth.v3.CheckRequest, with all fields but those that no ext_authz filter fills.
func checkRequestJSON() *jsonMessage {
	metadata := &jsonMessage{[]jsonField{
		{name: "filterMetadata", proto: "filter_metadata", number: 1, kind: jsonStructs},
		{name: "typedFilterMetadata", proto: "typed_filter_metadata", number: 2, kind: jsonEmpty},
	}}
	peer := peerJSON()
	request := &jsonMessage{[]jsonField{
		{name: "time", number: 1, kind: jsonTime},
		{name: "http", number: 2, kind: jsonNested, message: httpJSON()},
	}}
	session := &jsonMessage{[]jsonField{{name: "sni", number: 1}}}
	return &jsonMessage{[]jsonField{{name: "attributes", number: 1, kind: jsonNested, message: &jsonMessage{[]jsonField{
		{name: "source", number: 1, kind: jsonNested, message: peer},
		{name: "destination", number: 2, kind: jsonNested, message: peer},
		{name: "request", number: 4, kind: jsonNested, message: request},
		{name: "contextExtensions", proto: "context_extensions", number: 10, kind: jsonTexts},
		{name: "metadataContext", proto: "metadata_context", number: 11, kind: jsonNested, message: metadata},
		{name: "tlsSession", proto: "tls_session", number: 12, kind: jsonNested, message: session},
		{name: "routeMetadataContext", proto: "route_metadata_context", number: 13, kind: jsonNested, message: metadata},
	}}}}}
}

func peerJSON() *jsonMessage {
	socket := &jsonMessage{[]jsonField{
		{name: "protocol", number: 1, kind: jsonEnum, values: []string{"TCP", "UDP"}},
		{name: "address", number: 2},
		{name: "portValue", proto: "port_value", number: 3, kind: jsonUint32, oneof: true},
		{name: "resolverName", proto: "resolver_name", number: 5},
		{name: "ipv4Compat", proto: "ipv4_compat", number: 6, kind: jsonBool},
	}}
	pipe := &jsonMessage{[]jsonField{{name: "path", number: 1}, {name: "mode", number: 2, kind: jsonUint32}}}
	address := &jsonMessage{[]jsonField{
		{name: "socketAddress", proto: "socket_address", number: 1, kind: jsonNested, message: socket, oneof: true},
		{name: "pipe", number: 2, kind: jsonNested, message: pipe, oneof: true},
	}}
	return &jsonMessage{[]jsonField{
		{name: "address", number: 1, kind: jsonNested, message: address},
		{name: "service", number: 2},
		{name: "labels", number: 3, kind: jsonTexts},
		{name: "principal", number: 4},
		{name: "certificate", number: 5},
	}}
}

func httpJSON() *jsonMessage {
	header := &jsonMessage{[]jsonField{
		{name: "key", number: 1},
		{name: "value", number: 2},
		{name: "rawValue", proto: "raw_value", number: 3, kind: jsonBytes},
	}}
	headers := &jsonMessage{[]jsonField{{name: "headers", number: 1, kind: jsonRepeated, message: header}}}
	return &jsonMessage{[]jsonField{
		{name: "id", number: 1},
		{name: "method", number: 2},
		{name: "headers", number: 3, kind: jsonTexts},
		{name: "path", number: 4},
		{name: "host", number: 5},
		{name: "scheme", number: 6},
		{name: "query", number: 7},
		{name: "fragment", number: 8},
		{name: "size", number: 9, kind: jsonInt64},
		{name: "protocol", number: 10},
		{name: "body", number: 11},
		{name: "rawBody", proto: "raw_body", number: 12, kind: jsonBytes},
		{name: "headerMap", proto: "header_map", number: 13, kind: jsonNested, message: headers},
	}}
}
