package sds_test

import (
	"bytes"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/sds"
)

// TestSurprises are the rows of identity §11 that concern the SDS server, each in the shortest form. Row 18 is a choice of
// whoever writes Envoy's configuration, and row 23 the agent's.
func TestSurprises(t *testing.T) {
	t.Run("surprise 13: a first request with an unknown nonce is answered", func(t *testing.T) {
		f := start(t, nil)
		f.newIdentity(payment)
		s, d := f.sotw(), f.delta()
		s.send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}, ResponseNonce: "of another stream", VersionInfo: "old"})
		s.next()
		d.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default"}, ResponseNonce: "of another stream"})
		d.next()
	})
	t.Run("surprise 14: a rejected secret is not sent again until it changes", func(t *testing.T) {
		f := start(t, nil)
		f.newIdentity(payment)
		s := f.sotw()
		s.ask(nil, "default")
		s.reject(s.next(), "no", "default")
		eventually(t, func() string {
			if f.only().Secrets[0].Rejections != 1 {
				return "not rejected"
			}
			return ""
		})
		f.quiet(s)
		f.newIdentity(payment)
		s.next()
	})
	t.Run("surprise 15: nothing empty is sent to revoke", func(t *testing.T) {
		f := start(t, nil)
		f.newIdentity(payment)
		s := f.sotw()
		s.ask(nil, "default")
		s.ask(s.next(), "default")
		f.vault.RemoveIdentity(id(t, payment)) // it waits for the next one
		f.quiet(s)
		f.entries.set(sds.Entitlement{}, nil) // and with the right the stream ends
		s.end(codes.PermissionDenied)
	})
	t.Run("surprise 16: no new version without other bytes", func(t *testing.T) {
		f := start(t, nil)
		i := f.newIdentity(payment)
		f.setBundle(1, nil)
		s := f.sotw()
		s.ask(nil, "default", "ROOTCA")
		s.ask(s.next(), "default", "ROOTCA")
		f.setIdentity(i)
		f.quiet(s) // which sets bundles of later versions with the same roots
	})
	t.Run("surprise 17: one CRL for every issuer of leaves, for leaves only, or none", func(t *testing.T) {
		f := start(t, nil)
		one, two := newIssuer(t, "one", f.root), newIssuer(t, "two", f.root)
		f.setIdentity(one.leaf(t, payment, nil, one))
		b := f.setBundle(1, nil)
		missing := *b
		missing.CRLs = [][]byte{two.crl(t, patience)}
		if err := f.vault.SetBundle(&missing); err == nil {
			t.Error("a set without the CRL of one is taken")
		}
		f.setBundle(2, func(b *sds.Bundle) { b.CRLs = [][]byte{one.crl(t, patience), two.crl(t, patience)} })
		s := f.sotw()
		s.ask(nil, "ROOTCA")
		v := secretsOf(t, s.next())[0].GetValidationContext()
		if n := bytes.Count(v.GetCrl().GetInlineBytes(), []byte("BEGIN X509 CRL")); n != 2 || !v.OnlyVerifyLeafCertCrl {
			t.Errorf("%d CRLs, leaves only: %v", n, v.OnlyVerifyLeafCertCrl)
		}
	})
	t.Run("surprise 19: a store of roots for each trust domain", TestLayouts)
	t.Run("surprise 30: another process with the caller's connection gets nothing", TestCallerIsGone)
}
