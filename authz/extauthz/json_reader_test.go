package extauthz_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// translated holds a JSONReader against protojson, and reports whether the reader took the line by itself.
func translated(t *testing.T, r *extauthz.JSONReader, line []byte) bool {
	t.Helper()
	want, wantErr := extauthz.ParseJSON(line)
	raw, own := r.Translate(line)
	if own {
		if wantErr != nil {
			t.Fatalf("taken, protojson says %v:\n%s", wantErr, line)
		}
		var a, b authv3.CheckRequest
		if err := proto.Unmarshal(raw, &a); err != nil {
			t.Fatalf("%v:\n%s", err, line)
		}
		if err := proto.Unmarshal(want, &b); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&a, &b) {
			t.Fatalf("%s\nread as     %v\nprotojson's %v", line, &a, &b)
		}
	}
	raw, err := r.Read(line)
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("error %v, want %v", err, wantErr)
	}
	if err == nil {
		sameRequest(t, raw, want, line)
	}
	return own
}

// sameRequest compares what the server makes of both, the order of headers included.
func sameRequest(t *testing.T, raw, want, line []byte) {
	t.Helper()
	var a, b policy.Request
	idA, errA := extauthz.DecodeRequest(raw, extauthz.Options{}, &a)
	idB, errB := extauthz.DecodeRequest(want, extauthz.Options{}, &b)
	a.Metadata, b.Metadata, a.ProxyClaims, b.ProxyClaims = nil, nil, nil, nil // proto.Equal has seen them
	if idA != idB || fmt.Sprint(errA) != fmt.Sprint(errB) || !reflect.DeepEqual(a, b) {
		t.Fatalf("%s\ndecoded as  %+v, %v\nprotojson's %+v, %v", line, a, errA, b, errB)
	}
}

// TestJSONReader: every spelling is read as protojson reads it; own says which are translated without it.
func TestJSONReader(t *testing.T) {
	t.Parallel()
	http := func(fields string) string {
		return `{"attributes":{"request":{"http":{"method":"GET","path":"/",` + fields + `}}}}`
	}
	for name, test := range map[string]struct {
		line string
		own  bool
	}{
		"empty object":                {`{}`, true},
		"white space":                 {" {\t\"attributes\" :\r\n { } } ", true},
		"null message":                {`{"attributes":null}`, true},
		"null scalar":                 {http(`"host":null`), true},
		"null twice":                  {http(`"host":null,"host":null`), false},
		"null literal with a tail":    {http(`"host":nullx`), false},
		"snake case":                  {`{"attributes":{"tls_session":{"sni":"a"},"context_extensions":{"writ.namespace":"a"},"metadata_context":{"filter_metadata":{}}}}`, true},
		"camel case":                  {`{"attributes":{"tlsSession":{"sni":"a"},"contextExtensions":{"writ.namespace":"a"},"metadataContext":{"filterMetadata":{}}}}`, true},
		"both spellings of one field": {`{"attributes":{"tlsSession":{"sni":"a"},"tls_session":{"sni":"b"}}}`, false},
		"another case":                {`{"attributes":{"TlsSession":{"sni":"a"}}}`, false},
		"escaped key":                 {`{"\u0061ttributes":{}}`, true},
		"unknown field":               {http(`"metod":"GET"`), false},
		"extension":                   {http(`"[envoy.x]":"GET"`), false},
		"duplicate field":             {http(`"path":"/x"`), false},
		"duplicate header":            {http(`"headers":{"a":"1","b":"2","a":"3"}`), false},
		"headers out of order":        {http(`"headers":{"b":"2","a":"1","X-A":"3","x-a":"4","":"","é":"5"}`), true},
		"header that is null":         {http(`"headers":{"a":null}`), false},
		"header that is a number":     {http(`"headers":{"a":1}`), false},
		"headers in a list":           {http(`"headers":["a"]`), false},
		"escapes":                     {http(`"host":"\"\\\/\b\f\n\r\té\u0000\u2028"`), true},
		"surrogates":                  {http(`"host":"\ud83d\ude00"`), false},
		"lone surrogate":              {http(`"host":"\ud83d"`), false},
		"bad escape":                  {http(`"host":"\x"`), false},
		"short escape":                {http(`"host":"\u00`), false},
		"escape with a sign":          {http(`"host":"\u+0ff"`), false},
		"control character":           {http("\"host\":\"a\x01\""), false},
		"control behind an escape":    {http("\"host\":\"\\\\a\x01\""), false},
		"delete is none":              {http("\"host\":\"a\x7f\""), true},
		"UTF-8":                       {http(`"host":"köln😀"`), true},
		"no UTF-8":                    {http("\"host\":\"k\xffln\""), false},
		"no UTF-8 behind an escape":   {http("\"host\":\"\\tk\xffln\""), false},
		"base64":                      {http(`"rawBody":"+/8="`), true},
		"base64url":                   {http(`"raw_body":"-_8="`), true},
		"base64 without padding":      {http(`"rawBody":"+/8"`), true},
		"base64url without padding":   {http(`"rawBody":"-_8"`), true},
		"base64 of both alphabets":    {http(`"rawBody":"+_8="`), false},
		"base64 of nothing":           {http(`"rawBody":""`), true},
		"base64 with line ends":       {http(`"rawBody":"+/\n8="`), false}, // 5 bytes, and protojson takes it for one without padding
		"base64 with four line ends":  {http(`"rawBody":"+/\n\n\n\n8="`), true},
		"no base64":                   {http(`"rawBody":"=="`), false},
		"raw headers":                 {http(`"headerMap":{"headers":[{"key":"a","rawValue":"YQ=="},{"key":"b","value":"v"},{},{"key":"a","raw_value":"Yg"}]}`), true},
		"a raw header that is null":   {http(`"headerMap":{"headers":[null]}`), false},
		"no raw headers":              {http(`"headerMap":{"headers":[]}`), true},
		"comma at the end of a list":  {http(`"headerMap":{"headers":[{},]}`), false},
		"comma at the end":            {`{"attributes":{},}`, false},
		"comma at the beginning":      {`{,"attributes":{}}`, false},
		"no comma":                    {http(`"host":"a" "id":"b"`), false},
		"no colon":                    {`{"attributes" {}}`, false},
		"no end":                      {`{"attributes":{}`, false},
		"two values":                  {`{} {}`, false},
		"a byte too many":             {"{}\x00", false},
		"no object":                   {`"attributes"`, false},
		"null alone":                  {`null`, false},
		"nothing":                     {``, false},
		"byte order mark":             {"\ufeff{}", false},
		"size as text":                {http(`"size":"-1"`), true},
		"size as number":              {http(`"size":42`), true},
		"size with fraction":          {http(`"size":42.0`), false},
		"size with exponent":          {http(`"size":1e3`), false},
		"size with zero":              {http(`"size":042`), false},
		"size minus zero":             {http(`"size":-0`), true},
		"size beyond 64 bits":         {http(`"size":"9223372036854775808"`), false},
		"largest size":                {http(`"size":"9223372036854775807"`), true},
		"size with space":             {http(`"size":" 1"`), false},
		"size of nothing":             {http(`"size":""`), false},
		"size in words":               {http(`"size":true`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if own := translated(t, extauthz.NewJSONReader(), []byte(test.line)); own != test.own {
				t.Errorf("translated without protojson: %v, want %v", own, test.own)
			}
		})
	}
}

// TestJSONReaderOfPeers are the fields outside of the HTTP request.
func TestJSONReaderOfPeers(t *testing.T) {
	t.Parallel()
	source := func(address string) string { return `{"attributes":{"source":{"address":` + address + `}}}` }
	metadata := func(value string) string {
		return `{"attributes":{"metadataContext":{"filterMetadata":{"a":{"k":` + value + `}}}}}`
	}
	at := func(time string) string { return `{"attributes":{"request":{"time":"` + time + `"}}}` }
	for name, test := range map[string]struct {
		line string
		own  bool
	}{
		"socket":                 {source(`{"socketAddress":{"address":"10.0.0.1","portValue":80}}`), true},
		"socket in snake case":   {source(`{"socket_address":{"address":"10.0.0.1","port_value":80}}`), true},
		"protocol":               {source(`{"socketAddress":{"protocol":"UDP","address":"10.0.0.1","portValue":0}}`), true},
		"protocol by number":     {source(`{"socketAddress":{"protocol":1}}`), false},
		"protocol that is none":  {source(`{"socketAddress":{"protocol":"SCTP"}}`), false},
		"port as text":           {source(`{"socketAddress":{"portValue":"80"}}`), true},
		"port below zero":        {source(`{"socketAddress":{"portValue":-1}}`), false},
		"port beyond 32 bits":    {source(`{"socketAddress":{"portValue":4294967296}}`), false},
		"largest port":           {source(`{"socketAddress":{"portValue":4294967295}}`), true},
		"named port":             {source(`{"socketAddress":{"namedPort":"http"}}`), false},
		"two ports":              {source(`{"socketAddress":{"portValue":1,"namedPort":"http"}}`), false},
		"pipe":                   {source(`{"pipe":{"path":"/run/x"}}`), true},
		"internal address":       {source(`{"envoyInternalAddress":{"serverListenerName":"x"}}`), false},
		"two addresses":          {source(`{"pipe":{"path":"/run/x"},"socketAddress":{}}`), false},
		"an address and null":    {source(`{"pipe":null,"socketAddress":{}}`), true},
		"time":                   {at("2026-11-21T06:29:31.757784Z"), true},
		"time in nanoseconds":    {at("2026-11-21T06:29:31.123456789Z"), true},
		"time of no fraction":    {at("2026-11-21T06:29:31Z"), true},
		"time elsewhere":         {at("2026-11-21T06:29:31+01:00"), false},
		"time too fine":          {at("2026-11-21T06:29:31.1234567891Z"), false},
		"time before time":       {at("0000-11-21T06:29:31Z"), false},
		"first time":             {at("0001-01-01T00:00:00Z"), true},
		"last time":              {at("9999-12-31T23:59:59.999999999Z"), true},
		"no time":                {at("yesterdayZ"), false},
		"no such day":            {at("2026-02-30T06:29:31Z"), false},
		"text":                   {metadata(`"v"`), true},
		"number":                 {metadata(`-1.5e3`), true},
		"zero":                   {metadata(`-0.0`), true},
		"number with a zero":     {metadata(`01`), false},
		"number of no fraction":  {metadata(`1.`), false},
		"number of no exponent":  {metadata(`1e`), false},
		"number too large":       {metadata(`1e999`), false},
		"no number":              {metadata(`NaN`), false},
		"truth":                  {metadata(`[true,false,null]`), true},
		"lie":                    {metadata(`falsey`), false},
		"objects":                {metadata(`{"b":{"c":[{},[]]},"a":1}`), true},
		"key twice":              {metadata(`{"a":1,"b":2,"a":1}`), false},
		"filter twice":           {`{"attributes":{"metadataContext":{"filterMetadata":{"a":{},"a":{}}}}}`, false},
		"filter that is null":    {`{"attributes":{"metadataContext":{"filterMetadata":{"a":null}}}}`, false},
		"typed metadata":         {`{"attributes":{"metadataContext":{"typedFilterMetadata":{"a":{}}}}}`, false},
		"no typed metadata":      {`{"attributes":{"metadataContext":{"typedFilterMetadata":{}}}}`, true},
		"compatible address":     {source(`{"socketAddress":{"ipv4Compat":true,"resolverName":""}}`), true},
		"compatible by number":   {source(`{"socketAddress":{"ipv4_compat":1}}`), false},
		"metadata of the route":  {`{"attributes":{"routeMetadataContext":{"filterMetadata":{"a":{"b":"c"}}}}}`, true},
		"deep":                   {metadata(strings.Repeat(`[`, 60) + strings.Repeat(`]`, 60)), true},
		"deeper":                 {metadata(strings.Repeat(`[`, 200) + strings.Repeat(`]`, 200)), false},
		"deeper than protobuf's": {metadata(strings.Repeat(`{"a":`, 20000) + `1` + strings.Repeat(`}`, 20000)), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if own := translated(t, extauthz.NewJSONReader(), []byte(test.line)); own != test.own {
				t.Errorf("translated without protojson: %v, want %v", own, test.own)
			}
		})
	}
}

// recordedLines are CheckRequests that a real Envoy sent, in protobuf JSON.
func recordedLines(t testing.TB) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(data), []byte("\n"))
}

// TestJSONReaderOfRecorded: nothing that Envoy sends needs the slow way.
func TestJSONReaderOfRecorded(t *testing.T) {
	t.Parallel()
	r := extauthz.NewJSONReader()
	for _, line := range recordedLines(t) {
		if !translated(t, r, line) {
			t.Errorf("left to protojson: %s", line)
		}
	}
}

// TestJSONReaderOfRandom writes random requests in random spellings, and damages some of them.
func TestJSONReaderOfRandom(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(8, 1))
	r := extauthz.NewJSONReader()
	lines, own, damaged := 400, 0, 0
	for range lines {
		options := protojson.MarshalOptions{UseProtoNames: rng.IntN(2) == 0, EmitUnpopulated: rng.IntN(4) == 0, UseEnumNumbers: rng.IntN(8) == 0}
		if rng.IntN(4) == 0 {
			options.Multiline = true
		}
		line, err := options.Marshal(randomCheck(rng))
		if err != nil {
			t.Fatal(err)
		}
		if translated(t, r, line) {
			own++
		}
		for range 4 {
			if translated(t, r, damage(rng, line)) {
				damaged++
			}
		}
	}
	if own < lines*2/3 || damaged == 0 {
		t.Errorf("%d of %d lines were translated without protojson, and %d damaged ones: the test shows nothing", own, lines, damaged)
	}
}

// damage changes a few bytes.
func damage(rng *rand.Rand, line []byte) []byte {
	line = bytes.Clone(line)
	const bytesOfJSON = "{}[]:,\"\\ n0-1eE.ut\x00\x1f\x80\xff"
	for range 1 + rng.IntN(3) {
		at := rng.IntN(len(line))
		switch rng.IntN(4) {
		case 0:
			line[at] = bytesOfJSON[rng.IntN(len(bytesOfJSON))]
		case 1:
			line = append(line[:at], line[at+1:]...)
		case 2:
			line = append(line[:at], append([]byte{bytesOfJSON[rng.IntN(len(bytesOfJSON))]}, line[at:]...)...)
		case 3: // a part comes again
			end := min(at+1+rng.IntN(60), len(line))
			line = append(line[:end:end], line[at:]...)
		}
		if len(line) == 0 {
			return line
		}
	}
	return line
}

func randomText(rng *rand.Rand) string {
	parts := []string{"", "a", "GET", "/orders/17?x=1", `sec-ch-ua "x"`, "ö", "😀", "\n", "\t\\", "\u2028", "<&>", "x-forwarded-for", strings.Repeat("long ", 40)}
	text := ""
	for range rng.IntN(4) {
		text += parts[rng.IntN(len(parts))]
	}
	return text
}

func randomTexts(rng *rand.Rand) map[string]string {
	texts := map[string]string{}
	for range rng.IntN(30) {
		texts[fmt.Sprintf("%s%d", []string{"x-", "X-", ":", ""}[rng.IntN(4)], rng.IntN(40))] = randomText(rng)
	}
	return texts
}

func randomValue(rng *rand.Rand, depth int) *structpb.Value {
	switch kind := rng.IntN(6); {
	case kind == 0:
		return structpb.NewNullValue()
	case kind == 1:
		return structpb.NewBoolValue(rng.IntN(2) == 0)
	case kind == 2:
		return structpb.NewNumberValue([]float64{0, -1, 1.5, 1e300, 1e-7, float64(rng.Int64())}[rng.IntN(6)])
	case kind == 3 && depth < 4:
		list := &structpb.ListValue{}
		for range rng.IntN(4) {
			list.Values = append(list.Values, randomValue(rng, depth+1))
		}
		return structpb.NewListValue(list)
	case kind == 4 && depth < 4:
		return structpb.NewStructValue(randomStruct(rng, depth+1))
	}
	return structpb.NewStringValue(randomText(rng))
}

func randomStruct(rng *rand.Rand, depth int) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for range rng.IntN(5) {
		s.Fields[fmt.Sprint(rng.IntN(9))] = randomValue(rng, depth)
	}
	return s
}

func randomMetadata(rng *rand.Rand) *corev3.Metadata {
	if rng.IntN(3) == 0 {
		return nil
	}
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	for range rng.IntN(3) {
		m.FilterMetadata[randomText(rng)] = randomStruct(rng, 0)
	}
	return m
}

func randomPeer(rng *rand.Rand) *authv3.AttributeContext_Peer {
	p := &authv3.AttributeContext_Peer{Service: randomText(rng), Labels: randomTexts(rng), Principal: randomText(rng)}
	switch rng.IntN(8) {
	case 0:
	case 1:
		p.Address = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: randomText(rng)}}}
	default:
		socket := &corev3.SocketAddress{Address: "10.0.0.1", Protocol: corev3.SocketAddress_Protocol(rng.IntN(2))}
		if rng.IntN(4) > 0 {
			socket.PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(rng.IntN(1 << 17))}
		}
		p.Address = &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: socket}}
	}
	return p
}

func randomCheck(rng *rand.Rand) *authv3.CheckRequest {
	http := &authv3.AttributeContext_HttpRequest{
		Id: randomText(rng), Method: "GET", Path: randomText(rng), Host: randomText(rng), Scheme: "https", Query: randomText(rng), Fragment: randomText(rng),
		Size: rng.Int64() - rng.Int64(), Protocol: "HTTP/2", Body: randomText(rng), RawBody: []byte(randomText(rng)),
	}
	if rng.IntN(2) == 0 {
		http.Headers = randomTexts(rng)
	} else {
		http.HeaderMap = &corev3.HeaderMap{}
		for name, value := range randomTexts(rng) {
			h := &corev3.HeaderValue{Key: name, Value: value}
			if rng.IntN(2) == 0 {
				h.RawValue = []byte(value)
			}
			http.HeaderMap.Headers = append(http.HeaderMap.Headers, h)
		}
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: randomPeer(rng), Destination: randomPeer(rng), ContextExtensions: randomTexts(rng), MetadataContext: randomMetadata(rng),
		RouteMetadataContext: randomMetadata(rng), TlsSession: &authv3.AttributeContext_TLSSession{Sni: randomText(rng)},
		Request: &authv3.AttributeContext_Request{Time: &timestamppb.Timestamp{Seconds: rng.Int64N(1 << 32), Nanos: rng.Int32N(1e9)}, Http: http},
	}}
}

func FuzzJSONReader(f *testing.F) {
	for _, line := range recordedLines(f)[:20] {
		f.Add(line)
	}
	for _, line := range []string{
		`{}`, `{"attributes":{"tls_session":{"sni":"\u00e9\n"},"metadataContext":{"filter_metadata":{"a":{"k":[1.5,null,true,{"x":"y"}]}}}}}`,
		`{"attributes":{"request":{"time":"2026-11-21T06:29:31Z","http":{"size":"-1","headers":{"b":"1","a":"2"},"rawBody":"-_8"}}}}`,
		`{"attributes":{"source":{"address":{"socketAddress":{"protocol":"TCP","portValue":"80"}}}}}`,
	} {
		f.Add([]byte(line))
	}
	r := extauthz.NewJSONReader()
	f.Fuzz(func(t *testing.T, line []byte) { translated(t, r, line) })
}

// BenchmarkJSONReader is one recorded request, with raw headers and the caller's certificate.
func BenchmarkJSONReader(b *testing.B) {
	line := recordedLines(b)[0]
	r := extauthz.NewJSONReader()
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := r.Read(line); err != nil {
			b.Fatal(err)
		}
	}
}
