package sds_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// envoyNode is a node of the size of Envoy's, which lists its extensions.
func envoyNode() *corev3.Node {
	node := &corev3.Node{Id: "sidecar", Cluster: "sidecar"}
	for n := range 500 {
		node.Extensions = append(node.Extensions, &corev3.Extension{
			Name: fmt.Sprintf("envoy.filters.http.extension_number_%d", n), Category: "envoy.filters.http",
			TypeUrls: []string{fmt.Sprintf("envoy.extensions.filters.http.extension_number_%d.v3.Config", n)},
		})
	}
	return node
}

// clients are many connections with one stream each. They acknowledge what they get.
type clients struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu   sync.Mutex
	got  map[int]int // how many clients have got how many responses
	full chan int    // a number of responses that all clients have got
}

func connect(b *testing.B, socket string, node *corev3.Node, count int) *clients {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &clients{stop: cancel, got: map[int]int{}, full: make(chan int, 1024)}
	for range count {
		conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
			grpc.WithStaticStreamWindowSize(1<<20), grpc.WithStaticConnWindowSize(1<<20)) // no pings to size it: Envoy sends none
		if err != nil {
			b.Fatal(err)
		}
		stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
		if err != nil {
			b.Fatal(err)
		}
		err = stream.Send(&discoveryv3.DiscoveryRequest{Node: node, TypeUrl: secretType, ResourceNames: []string{target}})
		if err != nil {
			b.Fatal(err)
		}
		c.done.Go(func() {
			c.run(stream, count)
			_ = conn.Close()
		})
	}
	return c
}

func (c *clients) run(stream secretv3.SecretDiscoveryService_StreamSecretsClient, count int) {
	for n := 1; ; n++ {
		r, err := stream.Recv()
		if err == nil {
			err = stream.Send(&discoveryv3.DiscoveryRequest{
				TypeUrl: secretType, ResourceNames: []string{target}, ResponseNonce: r.Nonce, VersionInfo: r.VersionInfo,
			})
		}
		if err != nil {
			return
		}
		c.mu.Lock()
		c.got[n]++
		if c.got[n] == count {
			c.full <- n
		}
		c.mu.Unlock()
	}
}

// wait returns when every client has got so many responses.
func (c *clients) wait(b *testing.B, n int) {
	b.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case full := <-c.full:
			if full == n {
				return
			}
		case <-timeout:
			c.mu.Lock()
			defer c.mu.Unlock()
			b.Fatalf("%d clients have got response %d", c.got[n], n)
		}
	}
}

func (c *clients) close() {
	c.stop()
	c.done.Wait()
}

func identities(b *testing.B) []*sds.Identity {
	b.Helper()
	list, err := makeIdentities()
	if err != nil {
		b.Fatal(err)
	}
	return list
}

// makeIdentities makes a few certificates for the same identity, under an intermediate as an authority's are.
func makeIdentities() ([]*sds.Identity, error) {
	id, err := spiffeid.Parse(target)
	if err != nil {
		return nil, err
	}
	rootKey, root, err := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	if err != nil {
		return nil, err
	}
	key, intermediate, err := issue(&x509.Certificate{Subject: pkix.Name{CommonName: "intermediate"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, root, rootKey)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	var list []*sds.Identity
	for range 4 {
		leafKey, leaf, err := issue(&x509.Certificate{URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature}, intermediate, key)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(leafKey)
		if err != nil {
			return nil, err
		}
		list = append(list, &sds.Identity{ID: id, Chain: []*x509.Certificate{leaf, intermediate}, Key: der})
	}
	return list, nil
}

func issue(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, by = template, key
	}
	template.BasicConstraintsValid, template.SerialNumber = true, big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return key, certificate, err
}

// secretOf is the message that writ makes of an identity, for the peer.
func secretOf(b *testing.B, i *sds.Identity) []byte {
	b.Helper()
	var chain bytes.Buffer
	for _, c := range i.Chain {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	inline := func(text []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
	}
	encoded, err := proto.Marshal(&tlsv3.Secret{Name: target, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain.Bytes()), PrivateKey: inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: i.Key})),
	}}})
	if err != nil {
		b.Fatal(err)
	}
	return encoded
}
