package extauthz

// Tags of the fields that are read: number<<3 | wire type, by message of envoy.service.auth.v3,
// envoy.config.core.v3 and google.protobuf. Everything else (time, id, size, body, raw_body, …) is skipped.
const (
	mapKey   = 1<<3 | 2
	mapValue = 2<<3 | 2

	checkAttributes = 1<<3 | 2 // CheckRequest.attributes

	attrSource      = 1<<3 | 2  // AttributeContext.source
	attrDestination = 2<<3 | 2  // .destination
	attrRequest     = 4<<3 | 2  // .request
	attrExtensions  = 10<<3 | 2 // .context_extensions
	attrMetadata    = 11<<3 | 2 // .metadata_context
	attrTLSSession  = 12<<3 | 2 // .tls_session

	peerAddress     = 1<<3 | 2 // Peer.address
	peerService     = 2<<3 | 2 // .service
	peerLabels      = 3<<3 | 2 // .labels
	peerPrincipal   = 4<<3 | 2 // .principal
	peerCertificate = 5<<3 | 2 // .certificate

	addressSocket   = 1<<3 | 2 // Address.socket_address
	addressPipe     = 2<<3 | 2 // .pipe
	addressInternal = 3<<3 | 2 // .envoy_internal_address

	socketAddress   = 2<<3 | 2 // SocketAddress.address
	socketPort      = 3<<3 | 0 // .port_value
	socketNamedPort = 4<<3 | 2 // .named_port

	requestHTTP = 2<<3 | 2 // Request.http

	httpMethod    = 2<<3 | 2  // HttpRequest.method
	httpHeaders   = 3<<3 | 2  // .headers
	httpPath      = 4<<3 | 2  // .path
	httpHost      = 5<<3 | 2  // .host
	httpScheme    = 6<<3 | 2  // .scheme
	httpHeaderMap = 13<<3 | 2 // .header_map

	headerMapHeaders = 1<<3 | 2 // HeaderMap.headers

	headerKey      = 1<<3 | 2 // HeaderValue.key
	headerValue    = 2<<3 | 2 // .value
	headerRawValue = 3<<3 | 2 // .raw_value

	tlsSNI = 1<<3 | 2 // TLSSession.sni

	mapField   = 1<<3 | 2 // Metadata.filter_metadata and Struct.fields
	listValues = 1<<3 | 2 // ListValue.values

	valueNull   = 1<<3 | 0 // Value.null_value
	valueNumber = 2<<3 | 1 // .number_value
	valueString = 3<<3 | 2 // .string_value
	valueBool   = 4<<3 | 0 // .bool_value
	valueStruct = 5<<3 | 2 // .struct_value
	valueList   = 6<<3 | 2 // .list_value
)

// Bounds of what is decoded. Whatever exceeds one is denied, never cut.
const (
	maxHeaders     = 1024     // Envoy's own default is 100
	maxLabels      = 512      // of destination.labels
	maxCertificate = 64 << 10 // bytes of source.certificate, URL-encoded
	maxMetadata    = 64       // nesting of a Struct in metadata_context
)
