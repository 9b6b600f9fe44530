package extauthz_test

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/authz/extauthz"
)

// typical is a request as Envoy sends it for a browser behind a gateway: 14 headers and the pseudo headers.
func typical(b testing.TB) []byte {
	return fromJSON(b, `{"attributes":{
	"source":{"address":{"socketAddress":{"address":"10.244.1.17","portValue":43210}},"principal":"spiffe://cluster.local/ns/shop/sa/gateway"},
	"destination":{"address":{"socketAddress":{"address":"10.244.2.5","portValue":8080}},"principal":"spiffe://cluster.local/ns/shop/sa/vm"},
	"request":{"time":"2026-11-21T06:29:28.485212Z","http":{"id":"17785514492460819318","method":"GET","path":"/api/v1/menu?size=20&page=3","host":"shop.example.com","scheme":"https","protocol":"HTTP/2","headers":{
		":authority":"shop.example.com",":method":"GET",":path":"/api/v1/menu?size=20&page=3",":scheme":"https",
		"accept":"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8","accept-encoding":"gzip, deflate, br",
		"accept-language":"en-US,en;q=0.5","cookie":"session=0123456789abcdef0123456789abcdef; theme=dark","user-agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"x-forwarded-for":"203.0.113.7,10.244.1.17","x-forwarded-proto":"https","x-request-id":"f8829f87-699e-4949-b1db-d78ccc345b44"}}},
	"contextExtensions":{"writ.namespace":"shop","writ.labels":"app=open"},"metadataContext":{},"routeMetadataContext":{},"tlsSession":{"sni":"shop.example.com"}}}`)
}

func BenchmarkDecode(b *testing.B) {
	for name, raw := range map[string][]byte{"typical": typical(b), "certificate": recorded(b)[0]} {
		b.Run(name, func(b *testing.B) {
			decode := extauthz.ReusedDecoder(extauthz.Options{})
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := decode(raw); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkDecodeProtobuf is what the decoder stands in for.
func BenchmarkDecodeProtobuf(b *testing.B) {
	raw := typical(b)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := proto.Unmarshal(raw, new(authv3.CheckRequest)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	server := newServer(b, extauthz.Config{Snapshot: storeOf(b, shop).Load})
	d := server.Decide(b.Context(), typical(b), nil)
	if d.Reason != authz.ReasonAllowed {
		b.Fatal(d.Detail)
	}
	out := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		out = extauthz.AppendResponse(out[:0], &d)
	}
}

// BenchmarkCheck is everything between gRPC's bytes in and gRPC's bytes out.
func BenchmarkCheck(b *testing.B) {
	server := newServer(b, extauthz.Config{Snapshot: storeOf(b, shop).Load})
	raw := typical(b)
	out := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		out = server.CheckBytes(raw, out[:0])
	}
}
