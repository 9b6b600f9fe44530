package extauthz_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// recorded returns CheckRequests that a real Envoy sent, HTTP in both header encodings and TCP, as wire bytes.
func recorded(t testing.TB) [][]byte {
	t.Helper()
	file, err := os.Open("testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var all [][]byte
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		raw, err := extauthz.ParseJSON(lines.Bytes())
		if err != nil {
			t.Fatalf("line %d: %v", len(all)+1, err)
		}
		all = append(all, raw)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("testdata/requests.jsonl holds %d requests, want 40", len(all))
	}
	return all
}

// fromJSON makes wire bytes of a CheckRequest in protobuf JSON.
func fromJSON(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := extauthz.ParseJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestDecodeAgreesWithProtobuf(t *testing.T) {
	for i, raw := range recorded(t) {
		var want authv3.CheckRequest
		if err := proto.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		got, err := extauthz.DecodeWire(raw)
		if err != nil {
			t.Errorf("request %d: %v", i, err)
			continue
		}
		compare(t, got, &want)
	}
}

// compare holds a decoded message against protobuf's own reading of the same bytes.
func compare(t *testing.T, got *extauthz.Decoded, request *authv3.CheckRequest) {
	t.Helper()
	want := request.GetAttributes()
	http := want.GetRequest().GetHttp()
	equal := func(name string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %q, protobuf says %q", name, got, want)
		}
	}
	equal("attributes", got.Attributes, want != nil)
	equal("http", got.HTTP, http != nil)
	equal("source", got.Source, peerOf(want.GetSource()))
	equal("destination", got.Destination, peerOf(want.GetDestination()))
	equal("sni", got.SNI, want.GetTlsSession().GetSni())
	equal("method", got.Method, http.GetMethod())
	equal("path", got.Path, http.GetPath())
	equal("host", got.Host, http.GetHost())
	if labels := want.GetDestination().GetLabels(); len(labels) > 0 || len(got.Labels) > 0 {
		equal("labels", got.Labels, labels)
	}
	extensions := map[string]string{}
	for k, v := range want.GetContextExtensions() {
		switch k {
		case "writ.namespace", "writ.labels":
			extensions[k] = v
		case "writ.service_account", "writ.name", "writ.service":
			if v != "" {
				extensions[k] = v
			}
		}
	}
	equal("context_extensions", got.Extensions, extensions)
	if http.GetHeaders() == nil || http.GetHeaderMap() == nil { // with both, only the order is not told apart
		equal("headers", sorted(got.Headers), sorted(headersOf(http)))
	}
	compareMetadata(t, got.Metadata, want.GetMetadataContext())
}

func peerOf(p *authv3.AttributeContext_Peer) extauthz.DecodedPeer {
	socket := p.GetAddress().GetSocketAddress()
	return extauthz.DecodedPeer{
		Address: socket.GetAddress(), Port: uint16(socket.GetPortValue()),
		Principal: p.GetPrincipal(), Certificate: p.GetCertificate(), Service: p.GetService(),
	}
}

func headersOf(http *authv3.AttributeContext_HttpRequest) []policy.Header {
	var all []policy.Header
	for k, v := range http.GetHeaders() {
		all = append(all, policy.Header{Name: k, Value: v})
	}
	for _, h := range http.GetHeaderMap().GetHeaders() {
		value := h.GetValue()
		if len(h.GetRawValue()) > 0 {
			value = string(h.GetRawValue())
		}
		all = append(all, policy.Header{Name: h.GetKey(), Value: value})
	}
	return all
}

func sorted(headers []policy.Header) []policy.Header {
	headers = slices.Clone(headers)
	slices.SortFunc(headers, func(a, b policy.Header) int {
		return strings.Compare(a.Name+"\x00"+a.Value, b.Name+"\x00"+b.Value)
	})
	if headers == nil {
		return []policy.Header{}
	}
	return headers
}

func compareMetadata(t *testing.T, got policy.Metadata, want *corev3.Metadata) {
	t.Helper()
	for namespace, fields := range want.GetFilterMetadata() {
		for key, value := range fields.GetFields() {
			text, isText := got.Text(namespace, key)
			wantText, wantIsText := value.GetKind().(*structpb.Value_StringValue)
			if isText != wantIsText || isText && text != wantText.StringValue {
				t.Errorf("metadata %q %q: got text %q, %v, protobuf says %v", namespace, key, text, isText, value)
			}
			var wantList []string
			for _, item := range value.GetListValue().GetValues() {
				if s, ok := item.GetKind().(*structpb.Value_StringValue); ok {
					wantList = append(wantList, s.StringValue)
				}
			}
			if list := slices.Clone(got.List(namespace, key)); !slices.Equal(list, wantList) {
				t.Errorf("metadata %q %q: got list %q, protobuf says %q", namespace, key, list, wantList)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, raw := range recorded(f)[:20] {
		f.Add(raw)
	}
	for _, raw := range merging() {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := extauthz.DecodeWire(raw)
		var want authv3.CheckRequest
		protoErr := proto.Unmarshal(raw, &want)
		if err != nil {
			if protoErr == nil && !extauthz.BeyondBounds(err) {
				t.Errorf("protobuf accepts what the decoder refuses: %v", err)
			}
		} else if protoErr == nil {
			compare(t, got, &want)
		}
		var r policy.Request
		_, _ = extauthz.DecodeRequest(raw, extauthz.Options{TrustedHops: len(raw) % 3}, &r)
	})
}

// merging makes messages whose parts come in pieces and more than once, which protobuf defines and few decoders do.
func merging() [][]byte {
	bytesField := func(n protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), slices.Concat(parts...))
	}
	str := func(n protowire.Number, s string) []byte { return bytesField(n, []byte(s)) }
	varint := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
	}
	header := func(k, v string) []byte { return bytesField(3, str(1, k), str(2, v)) }
	http := func(parts ...[]byte) []byte { return bytesField(4, bytesField(2, parts...)) }
	group := slices.Concat(protowire.AppendTag(nil, 77, protowire.StartGroupType), str(1, "in a group"),
		protowire.AppendTag(nil, 77, protowire.EndGroupType))
	value := func(parts ...[]byte) []byte {
		return bytesField(11, bytesField(1, str(1, "envoy.filters.x"), bytesField(2, bytesField(1, str(1, "k"), bytesField(2, parts...)))))
	}
	return [][]byte{
		// attributes, request and http in two parts: they merge, and the last scalar wins
		slices.Concat(
			bytesField(1, http(str(2, "GET"), str(4, "/first"), header("a", "1"))),
			bytesField(1, http(str(4, "/second"), header("a", "2"), header("b", "3")))),
		// map entries with value before key, without key, without value, and a key that comes three times
		bytesField(1, http(bytesField(3, str(2, "v"), str(1, "k")), bytesField(3, str(2, "v")), bytesField(3, str(1, "e")),
			header("dup", "1"), header("other", "x"), header("dup", "2"), header("dup", "3"))),
		// header_map entries with value and raw_value
		bytesField(1, http(bytesField(13, bytesField(1, str(1, "a"), str(2, "v")), bytesField(1, str(1, "a"), str(3, "\xff\xfe")),
			bytesField(1, str(1, "b"), str(2, "v"), str(3, "raw"))), bytesField(13, bytesField(1, str(1, "c"))))),
		// a oneof that changes its mind: socket, pipe, socket; port, named port
		bytesField(1, bytesField(1, bytesField(1, bytesField(1, str(2, "10.0.0.1"), varint(3, 80)), bytesField(2, str(1, "/run/x")),
			bytesField(1, varint(3, 443)))), bytesField(2, bytesField(1, bytesField(1, str(2, "::1"), varint(3, 1), str(4, "http"))))),
		// unknown fields of every wire type, known numbers with another type, overlong varints
		slices.Concat(varint(99, 1<<63), group, bytesField(1, varint(1, 7), group,
			protowire.AppendFixed32(protowire.AppendTag(nil, 500, protowire.Fixed32Type), 1),
			protowire.AppendFixed64(protowire.AppendTag(nil, 4, protowire.Fixed64Type), 1),
			[]byte{0x8a, 0x80, 0x00, 0x81, 0x00, 'x'}, http(str(2, "GET")))),
		// labels and context_extensions, repeated
		bytesField(1, bytesField(2, bytesField(3, str(1, "app"), str(2, "a")), bytesField(3, str(1, "app"), str(2, "b")), str(4, "spiffe://td/ns/a/sa/b")),
			bytesField(10, str(1, "writ.namespace"), str(2, "a")), bytesField(10, str(1, "writ.namespace"), str(2, "b")),
			bytesField(10, str(1, "writ.labels")), bytesField(10, str(1, "other"), str(2, "\xff"))),
		// metadata: text, list, number, and a namespace that comes twice
		bytesField(1, value(str(3, "first"))),
		bytesField(1, value(str(3, "first")), value(bytesField(6, bytesField(1, str(3, "a")), bytesField(1, varint(4, 1)), bytesField(1, str(3, "b"))))),
		bytesField(1, value(varint(1, 0)), value(bytesField(5, bytesField(1, str(1, "n"), bytesField(2, str(3, "deep")))))),
	}
}

func TestDecodeMerges(t *testing.T) {
	for i, raw := range merging() {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			got, err := extauthz.DecodeWire(raw)
			var want authv3.CheckRequest
			if protoErr := proto.Unmarshal(raw, &want); protoErr != nil {
				if err == nil && i != 5 { // 5 has a context extension of somebody else that is not UTF-8: not read
					t.Fatalf("accepted, protobuf says %v", protoErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, &want)
		})
	}
}

const httpRequest = `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.1.2.3","portValue":4000}},"principal":"spiffe://cluster.local/ns/a/sa/b"},
	"destination":{"address":{"socketAddress":{"address":"10.0.0.9","portValue":8080}}},
	"request":{"http":{"method":"GET","path":"/a/b?q=../x#f","host":"shop:80","headers":{
		":authority":"shop:80",":method":"GET",":path":"/a/b?q=../x#f","x-request-id":"id-1","x-forwarded-for":"1.1.1.1, 2.2.2.2 ,3.3.3.3"}}},
	"tlsSession":{"sni":"shop.example"}}}`

func TestDecodeRequest(t *testing.T) {
	var r policy.Request
	id, err := extauthz.DecodeRequest(fromJSON(t, httpRequest), extauthz.Options{}, &r)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string][2]any{
		"request id": {id, "id-1"},
		"tcp":        {r.TCP, false},
		"names":      {r.Names, []string{"spiffe://cluster.local/ns/a/sa/b"}},
		"source ip":  {r.SourceIP, netip.MustParseAddr("10.1.2.3")},
		"remote ip":  {r.RemoteIP, netip.MustParseAddr("3.3.3.3")},
		"dest ip":    {r.DestIP, netip.MustParseAddr("10.0.0.9")},
		"dest port":  {r.DestPort, uint16(8080)},
		"sni":        {r.SNI, "shop.example"},
		"method":     {r.Method, "GET"},
		"path":       {r.Path, "/a/b"},
		"raw path":   {r.RawPath, "/a/b?q=../x#f"},
		"host":       {r.Host, "shop:80"},
		"has host":   {r.HasHost, true},
		"has method": {r.HasMethod, true},
		"headers":    {len(r.Headers), 5},
		"metadata":   {r.Metadata, nil},
	} {
		if !reflect.DeepEqual(c[0], c[1]) {
			t.Errorf("%s: got %v, want %v", name, c[0], c[1])
		}
	}
}

func TestDecodeTCP(t *testing.T) {
	for name, c := range map[string]struct{ attributes, sni string }{
		"sni of the session":            {`"tlsSession":{"sni":"a.example"},"destination":{"service":"b.example"}`, "a.example"},
		"sni of the destination":        {`"destination":{"service":"b.example"}`, "b.example"},
		"no sni":                        {`"destination":{}`, ""},
		"request without http is a TCP": {`"request":{"time":"2026-01-01T00:00:00Z"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r policy.Request
			raw := fromJSON(t, `{"attributes":{"source":{"address":{"socketAddress":{"address":"10.1.2.3"}}},`+c.attributes+`}}`)
			if _, err := extauthz.DecodeRequest(raw, extauthz.Options{TrustedHops: 2}, &r); err != nil {
				t.Fatal(err)
			}
			if !r.TCP || r.SNI != c.sni || r.RemoteIP != netip.MustParseAddr("10.1.2.3") || r.HasHost || r.HasMethod {
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestDecodePseudoHeaders(t *testing.T) {
	var r policy.Request
	raw := fromJSON(t, `{"attributes":{"request":{"http":{"headers":{":authority":"",":method":"PUT",":path":"/p?x","X-Mixed":"v","X-Request-ID":"7"}}}}}`)
	id, err := extauthz.DecodeRequest(raw, extauthz.Options{}, &r)
	if err != nil {
		t.Fatal(err)
	}
	if !r.HasHost || r.Host != "" || r.Method != "PUT" || r.RawPath != "/p?x" || r.Path != "/p" || id != "7" {
		t.Errorf("got %+v, id %q", r, id)
	}
	if v, ok := r.Header("x-mixed"); !ok || v != "v" {
		t.Errorf("x-mixed: got %q, %v: names are to be folded to lower case", v, ok)
	}
}

func TestSourceWithoutIP(t *testing.T) {
	for name, address := range map[string]string{
		"pipe":     `{"pipe":{"path":"/run/envoy.sock"}}`,
		"internal": `{"envoyInternalAddress":{"serverListenerName":"x"}}`,
		"name":     `{"socketAddress":{"address":"localhost"}}`,
		"none":     `{}`,
	} {
		var r policy.Request
		raw := fromJSON(t, `{"attributes":{"source":{"address":`+address+`},"request":{"http":{"method":"GET","path":"/"}}}}`)
		if _, err := extauthz.DecodeRequest(raw, extauthz.Options{}, &r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.SourceIP.IsValid() || r.RemoteIP.IsValid() {
			t.Errorf("%s: got source %v, remote %v, want none", name, r.SourceIP, r.RemoteIP)
		}
	}
}

// remote.ip is the (N+1)-th entry from the right, never the leftmost (authorization-policy §9.2).
func TestRemoteIP(t *testing.T) {
	tests := []struct {
		hops    int
		headers []string
		want    string
	}{
		{0, nil, "10.1.2.3"},
		{0, []string{"1.1.1.1"}, "1.1.1.1"},
		{0, []string{"1.1.1.1,2.2.2.2"}, "2.2.2.2"},
		{0, []string{"1.1.1.1, \t2.2.2.2 "}, "2.2.2.2"},
		{1, []string{"1.1.1.1,2.2.2.2"}, "1.1.1.1"},
		{2, []string{"1.1.1.1,2.2.2.2"}, "10.1.2.3"},
		{0, []string{""}, "10.1.2.3"},
		{0, []string{"1.1.1.1,"}, "10.1.2.3"},
		{1, []string{"1.1.1.1,"}, "1.1.1.1"},
		{0, []string{"1.1.1.1,junk"}, "10.1.2.3"},
		{0, []string{"1.1.1.1:80"}, "10.1.2.3"},
		{0, []string{"2001:db8::1"}, "2001:db8::1"},
		{0, []string{"fe80::1%eth0"}, "fe80::1"},
		{0, []string{"1.1.1.1", "2.2.2.2,3.3.3.3"}, "3.3.3.3"},
		{2, []string{"1.1.1.1", "2.2.2.2,3.3.3.3"}, "1.1.1.1"},
		{3, []string{"1.1.1.1", "2.2.2.2,3.3.3.3"}, "10.1.2.3"},
		{1, []string{"1.1.1.1", ""}, "1.1.1.1"},
	}
	for _, c := range tests {
		request := &authv3.CheckRequest{}
		if err := proto.Unmarshal(fromJSON(t, `{"attributes":{"source":{"address":{"socketAddress":{"address":"10.1.2.3"}}},
			"request":{"http":{"method":"GET","path":"/","headerMap":{"headers":[{"key":"a","value":"b"}]}}}}}`), request); err != nil {
			t.Fatal(err)
		}
		list := request.Attributes.Request.Http.HeaderMap
		for _, value := range c.headers {
			list.Headers = append(list.Headers, &corev3.HeaderValue{Key: "x-forwarded-for", RawValue: []byte(value)}, &corev3.HeaderValue{Key: "z"})
		}
		raw, err := proto.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		var r policy.Request
		if _, err := extauthz.DecodeRequest(raw, extauthz.Options{TrustedHops: c.hops}, &r); err != nil {
			t.Fatal(err)
		}
		if got := r.RemoteIP.String(); got != c.want {
			t.Errorf("hops %d, %q: got %s, want %s", c.hops, c.headers, got, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	manyHeaders := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/", Headers: map[string]string{}}}}}
	for i := range 10_000 {
		manyHeaders.Attributes.Request.Http.Headers[fmt.Sprintf("x-%d", i)] = "v"
	}
	many, err := proto.Marshal(manyHeaders)
	if err != nil {
		t.Fatal(err)
	}
	whole := fromJSON(t, httpRequest)
	tests := []struct {
		name string
		raw  []byte
		want string // part of the detail
	}{
		{"empty", nil, "attributes are missing"},
		{"no attributes", fromJSON(t, `{}`), "attributes are missing"},
		{"10,000 headers", many, "more than 1024 headers"},
		{"text that is not UTF-8", []byte(strings.Replace(string(whole), "shop.example", "shop\xff\xfe\xfd\xfcampl", 1)), "attributes.tls_session: text that is not UTF-8"},
		{"missing path", fromJSON(t, `{"attributes":{"request":{"http":{"method":"GET"}}}}`), "no path"},
		{"missing method", fromJSON(t, `{"attributes":{"request":{"http":{"path":"/"}}}}`), "no method"},
		{"empty http", fromJSON(t, `{"attributes":{"request":{"http":{}}}}`), "no method"},
		{"truncated", whole[:len(whole)-7], "truncated"},
		{"reserved wire type", []byte{0x0f, 0x00}, "truncated"},
		{"field number 0", []byte{0x02, 0x00}, "tag"},
		{"end of a group that never began", []byte{0x0c}, "truncated"},
		{"length beyond the end", []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, "truncated"},
		{"port beyond 65535", fromJSON(t, `{"attributes":{"destination":{"address":{"socketAddress":{"portValue":65616}}}}}`), "65535"},
		{"both header encodings", fromJSON(t, `{"attributes":{"request":{"http":{"method":"GET","path":"/","headers":{"a":"b"},
			"headerMap":{"headers":[{"key":"a","value":"c"}]}}}}}`), "both headers and header_map"},
		{"no certificate in source.certificate", fromJSON(t, `{"attributes":{"source":{"certificate":"junk"}}}`), "source.certificate"},
		{"metadata cut short", []byte{0x0a, 0x04, 0x5a, 0x02, 0x0a, 0x05}, "attributes.metadata_context: truncated"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			var r policy.Request
			_, err := extauthz.DecodeRequest(c.raw, extauthz.Options{}, &r)
			var refused *extauthz.RequestError
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a *RequestError", err)
			}
			if refused.Reason != authz.ReasonBadRequest || !strings.Contains(refused.Detail, c.want) {
				t.Errorf("got %s: %s, want %q", refused.Reason, refused.Detail, c.want)
			}
		})
	}
}

// A CONNECT request may have no path: positive paths do not match then, notPaths do (authorization-policy §9.3).
func TestConnectWithoutPath(t *testing.T) {
	var r policy.Request
	raw := fromJSON(t, `{"attributes":{"request":{"http":{"method":"CONNECT","host":"a:443"}}}}`)
	if _, err := extauthz.DecodeRequest(raw, extauthz.Options{}, &r); err != nil || r.Path != "" {
		t.Errorf("got path %q, error %v", r.Path, err)
	}
}

func TestParseJSONRefuses(t *testing.T) {
	for _, line := range []string{``, `{`, `{"atributes":{}}`, `{"attributes":{"source":{"principle":"x"}}}`, `[]`} {
		if raw, err := extauthz.ParseJSON([]byte(line)); err == nil {
			t.Errorf("%q: got %x, want an error", line, raw)
		}
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	metadata := fromJSON(t, `{"attributes":{"metadataContext":{"filterMetadata":{"envoy.filters.x":{"k":["a","b"],"o":{"s":"t"}}}},
		"request":{"http":{"method":"GET","path":"/"}}}}`)
	for name, raw := range map[string][]byte{
		"http": fromJSON(t, httpRequest), "recorded": recorded(t)[0], "recorded raw": recorded(t)[1], "metadata": metadata,
	} {
		decode := extauthz.ReusedDecoder(extauthz.Options{})
		decode(raw)
		if n := testing.AllocsPerRun(200, func() {
			if _, ok := decode(raw); !ok {
				t.Fatal("refused")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

// What one request leaves in the buffers must not be seen by the next.
func TestReuseLeavesNothing(t *testing.T) {
	decode := extauthz.ReusedDecoder(extauthz.Options{})
	for _, raw := range recorded(t) {
		decode(raw)
	}
	r, ok := decode(fromJSON(t, `{"attributes":{"source":{}}}`))
	if !ok || !r.TCP || len(r.Names) != 0 || len(r.Headers) != 0 || r.Method != "" || r.Path != "" || r.RawPath != "" || r.Host != "" ||
		r.HasHost || r.HasMethod || r.SNI != "" || r.SourceIP.IsValid() || r.RemoteIP.IsValid() || r.DestIP.IsValid() ||
		r.DestPort != 0 || r.Metadata != nil {
		t.Errorf("left over: %+v", r)
	}
}
