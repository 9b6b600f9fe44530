package workloadapi

import (
	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/sds"
)

// FetchX509SVID streams the caller's certificates with their keys and the bundles to verify others by.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) (err error) {
	ctx := stream.Context()
	c, err := s.begin(ctx, "FetchX509SVID")
	defer func() { s.end(ctx, "FetchX509SVID", c, err) }()
	if err != nil {
		return err
	}
	return follow(ctx, c, func(e sds.Entitlement) (*workload.X509SVIDResponse, func(*workload.X509SVIDResponse) bool) {
		next := s.x509SVIDs(e)
		return next, func(last *workload.X509SVIDResponse) bool { return proto.Equal(last, next) }
	}, stream.Send)
}

// x509SVIDs is the whole answer: identities that cannot be had right now are left out, and nil says that there is none.
// One without its trust domain's bundle could verify nobody and waits for it.
func (s *Server) x509SVIDs(e sds.Entitlement) *workload.X509SVIDResponse {
	out := &workload.X509SVIDResponse{}
	own := map[string]bool{}
	for _, id := range e.Identities {
		identity, bundle := s.cfg.Vault.Identity(id), s.cfg.Vault.Bundle(id.TrustDomain())
		if identity == nil || bundle == nil || !s.cfg.Now().Before(identity.NotAfter()) {
			continue
		}
		own[id.TrustDomain()] = true
		out.Svids = append(out.Svids, &workload.X509SVID{
			SpiffeId: id.String(), X509Svid: concatenated(identity.Chain), X509SvidKey: identity.Key, Bundle: concatenated(bundle.Roots),
		})
	}
	if len(out.Svids) == 0 {
		return nil
	}
	for _, b := range s.cfg.Vault.Bundles() {
		out.Crl = append(out.Crl, b.CRLs...)
		if !own[b.TrustDomain.TrustDomain()] {
			if out.FederatedBundles == nil {
				out.FederatedBundles = map[string][]byte{}
			}
			out.FederatedBundles[b.TrustDomain.String()] = concatenated(b.Roots)
		}
	}
	return out
}

// FetchX509Bundles streams the roots of every trust domain that is known.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) (err error) {
	ctx := stream.Context()
	c, err := s.begin(ctx, "FetchX509Bundles")
	defer func() { s.end(ctx, "FetchX509Bundles", c, err) }()
	if err != nil {
		return err
	}
	return follow(ctx, c, func(sds.Entitlement) (*workload.X509BundlesResponse, func(*workload.X509BundlesResponse) bool) {
		next := s.x509Bundles()
		return next, func(last *workload.X509BundlesResponse) bool { return proto.Equal(last, next) }
	}, stream.Send)
}

func (s *Server) x509Bundles() *workload.X509BundlesResponse {
	out := &workload.X509BundlesResponse{Bundles: map[string][]byte{}}
	for _, b := range s.cfg.Vault.Bundles() {
		out.Bundles[b.TrustDomain.String()] = concatenated(b.Roots)
		out.Crl = append(out.Crl, b.CRLs...)
	}
	if len(out.Bundles) == 0 {
		return nil
	}
	return out
}

// concatenated is DER after DER, as X509-SVID's profile of the Workload API wants it.
func concatenated(certificates []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, c.Raw...)
	}
	return out
}
