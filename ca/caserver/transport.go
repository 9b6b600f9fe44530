package caserver

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/writ-auth/writ/ca/attest"
)

// transport is TLS as every connection gets it. A client's certificate is asked for and TLS proves that the client holds
// its key; whether the certificate is worth anything is found out with each call, by the roots, the deny list and the
// clock of that moment. A connection outlives all three, and a client that is refused in the handshake never learns why,
// which its agent takes for an outage and tries again (identity §2.7).
func (s *Server) transport() credentials.TransportCredentials {
	return presenting{credentials.NewTLS(&tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.identity.get,
		ClientAuth:     tls.RequestClientCert,
		CipherSuites: []uint16{ // of TLS 1.2; all of 1.3 are good
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		SessionTicketsDisabled: true, // every connection proves its key
	})}
}

// presenting adds what the client presented to what calls are told of their connection.
type presenting struct {
	credentials.TransportCredentials
}

type connection struct {
	credentials.TLSInfo
	presented *attest.Presented
}

// ServerHandshake implements [credentials.TransportCredentials].
func (p presenting) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	c := connection{TLSInfo: info.(credentials.TLSInfo)} // what credentials.NewTLS always returns
	c.presented = attest.Present(c.State.PeerCertificates)
	return conn, c, nil
}

// Clone implements [credentials.TransportCredentials].
func (p presenting) Clone() credentials.TransportCredentials {
	return presenting{p.TransportCredentials.Clone()}
}

// evidence gathers what a call brought to prove who it is from.
func evidence(ctx context.Context) (attest.Evidence, netip.Addr) {
	var e attest.Evidence
	if headers, ok := metadata.FromIncomingContext(ctx); ok {
		e.Authorization = headers.Get("authorization")
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return e, netip.Addr{}
	}
	if c, ok := p.AuthInfo.(connection); ok {
		e.Certificate = c.presented
	}
	from := netip.Addr{}
	if address, ok := p.Addr.(*net.TCPAddr); ok {
		from = address.AddrPort().Addr().Unmap()
	}
	return e, from
}
