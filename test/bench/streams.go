package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const (
	roleSDS    = "serve-sds"
	mostSDS    = 5000
	workload   = "spiffe://cluster.local/ns/shop/sa/payment"
	secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// streamsCurve opens ever more SDS streams, each on a connection of its own as of an Envoy.
func streamsCurve(ctx context.Context, dir, _ string) (*curve, error) {
	out := &curve{head: []string{"SDS streams", "resident, MiB", "of which for a stream, KiB"}}
	socket := filepath.Join(dir, "sds.sock")
	s, err := startSelf(ctx, roleSDS, socket)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	ctx, cancel := context.WithCancel(ctx)
	var conns []*grpc.ClientConn
	defer func() {
		cancel()
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	before, err := residentMiB(s.pid, residentNow)
	if err != nil {
		return nil, err
	}
	for _, streams := range []int{1, 10, 100, 1000, mostSDS} {
		for len(conns) < streams {
			c, err := subscribe(ctx, socket)
			if err != nil {
				return nil, fmt.Errorf("stream %d: %w", len(conns)+1, err)
			}
			conns = append(conns, c)
		}
		now, err := residentMiB(s.pid, residentNow)
		if err != nil {
			return nil, err
		}
		out.rows = append(out.rows, []string{count(streams), figure(now), figure((now - before) * 1024 / float64(streams))})
	}
	return out, nil
}

// subscribe opens a connection with one stream, and returns once the stream has the secret and has acknowledged it.
func subscribe(ctx context.Context, socket string) (*grpc.ClientConn, error) {
	c, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10))
	if err != nil {
		return nil, err
	}
	stream, err := secretv3.NewSecretDiscoveryServiceClient(c).StreamSecrets(ctx)
	if err != nil {
		return c, err
	}
	err = stream.Send(&discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "sidecar"}, TypeUrl: secretType, ResourceNames: []string{workload}})
	if err != nil {
		return c, err
	}
	r, err := stream.Recv()
	if err != nil {
		return c, err
	}
	if len(r.Resources) != 1 {
		return c, fmt.Errorf("%d secrets, want 1", len(r.Resources))
	}
	return c, stream.Send(&discoveryv3.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: []string{workload}, ResponseNonce: r.Nonce, VersionInfo: r.VersionInfo,
	})
}

// anyone may have the identity.
type anyone struct{ id spiffeid.ID }

func (a anyone) Entitled(*sds.Caller) (sds.Entitlement, error) {
	return sds.Entitlement{Identities: []spiffeid.ID{a.id}}, nil
}

func (anyone) Changed() <-chan struct{} { return nil }

// serveSDS serves one certificate on the socket until its standard input ends.
func serveSDS(ctx context.Context, socket string) error {
	identity, err := selfSigned()
	if err != nil {
		return err
	}
	domain, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		return err
	}
	vault := &sds.Vault{}
	if err := vault.SetIdentity(identity); err != nil {
		return err
	}
	s, err := sds.New(sds.Config{
		Vault: vault, Authorizer: anyone{identity.ID}, TrustDomain: domain,
		MaxStreams: 2 * mostSDS, MaxConnections: 2 * mostSDS, MaxPerCaller: 2 * mostSDS,
	})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	var served error
	wait.Go(func() { served = s.Serve(ctx, listener) })
	fmt.Println(socket)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until its end
	stop()
	wait.Wait()
	return served
}

// selfSigned is a certificate of the workload: what is in it does not matter to who carries it.
func selfSigned() (*sds.Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(workload)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), URIs: []*url.URL{uri}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id, err := spiffeid.Parse(workload)
	return &sds.Identity{ID: id, Chain: []*x509.Certificate{certificate}, Key: private}, err
}
