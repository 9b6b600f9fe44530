package ca_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// A new authority issues its first certificate: for an identity that somebody has proven, and a key that comes as a
// certificate request.
func Example() {
	ctx := context.Background()
	trustDomain, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		log.Fatal(err)
	}
	authority, err := ca.Init(ctx, ca.Config{
		TrustDomain: trustDomain, Store: memstore.New(nil), Keys: ca.InsecureKeyring(),
	}, ca.InitOptions{By: "example"})
	if err != nil {
		log.Fatal(err)
	}
	profile, err := ca.NewProfile(ca.ProfileConfig{TrustDomain: trustDomain})
	if err != nil {
		log.Fatal(err)
	}
	id, err := spiffeid.Workload("cluster.local", "coffee-shop", "order")
	if err != nil {
		log.Fatal(err)
	}
	approval, err := ca.Approve(id, exampleRequest(), ca.ApprovalRequest{Profile: profile, Caller: "oidc:order"})
	if err != nil {
		log.Fatal(err)
	}
	issued, err := authority.Issue(ctx, approval)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(issued.ID, "for", issued.TTL, "by rule", issued.TTLRule, "with a chain of", len(issued.Chain))
	// Output: spiffe://cluster.local/ns/coffee-shop/sa/order for 1h0m0s by rule default with a chain of 3
}

func exampleRequest() []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		log.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
