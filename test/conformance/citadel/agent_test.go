package citadel_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/credentialfetcher"
	"istio.io/istio/security/pkg/nodeagent/cache"
	"istio.io/istio/security/pkg/nodeagent/caclient/providers/citadel"
	"istio.io/istio/security/pkg/nodeagent/sds"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// options are what pilot-agent makes of its environment, for an authority at this address.
func options(t *testing.T, address, token string) *security.Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "istio-token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	fetcher, err := credentialfetcher.NewCredFetcher(security.JWT, built.TrustDomain, file, "")
	if err != nil {
		t.Fatal(err)
	}
	return &security.Options{
		CAEndpoint: address, CAProviderName: "Citadel", TrustDomain: built.TrustDomain, WorkloadNamespace: "coffee-shop",
		ServiceAccount: "order", ClusterID: "c1", ECCSigAlg: "ECDSA", SecretTTL: 24 * time.Hour,
		SecretRotationGracePeriodRatio: 0.5, SecretRotationGracePeriodRatioJitter: 0.01, CredFetcher: fetcher,
	}
}

// client is Istio's client of an authority with these roots.
func client(t *testing.T, options *security.Options, roots string, more ...func(*citadel.TLSOptions)) *citadel.CitadelClient {
	t.Helper()
	tlsOptions := &citadel.TLSOptions{RootCert: roots}
	for _, change := range more {
		change(tlsOptions)
	}
	client, err := citadel.NewCitadelClient(options, tlsOptions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// agent is the part of istio-agent between the authority and Envoy.
type agent struct {
	socket string
	failed chan struct{} // gets something, if there is room, when a stream ends by itself
}

// startAgent runs the secret cache and the SDS server, in a directory of its own because their socket's path is relative.
func startAgent(t *testing.T, a *built.Authority) *agent {
	t.Helper()
	t.Chdir(t.TempDir())
	options := options(t, a.Address, a.Issuer.Token(t, "coffee-shop", "order"))
	manager, err := cache.NewSecretManagerClient(client(t, options, a.RootsFile()), options)
	if err != nil {
		t.Fatal(err)
	}
	server := sds.NewServer(options, manager, nil)
	manager.RegisterSecretHandler(server.OnSecretUpdate)
	t.Cleanup(func() {
		server.Stop()
		manager.Close()
	})
	socket, err := filepath.Abs(security.GetIstioSDSServerSocketPath())
	if err != nil {
		t.Fatal(err)
	}
	return &agent{socket: socket, failed: make(chan struct{}, 1)}
}

// delivery is a secret as it comes to Envoy.
type delivery struct {
	*tlsv3.Secret
	at time.Time
}

// subscribe opens a stream for one secret, as Envoy does, and acknowledges what comes.
func (g *agent) subscribe(t *testing.T, name string) <-chan delivery {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+g.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	secrets := make(chan delivery, 64)
	done := make(chan struct{})
	t.Cleanup(func() {
		stop()
		<-done
		conn.Close()
	})
	go func() {
		defer close(done)
		for ctx.Err() == nil { // a stream ends while the authority is away; Envoy opens another one
			g.follow(ctx, conn, name, secrets)
			select {
			case g.failed <- struct{}{}:
			default:
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return secrets
}

func (g *agent) follow(ctx context.Context, conn *grpc.ClientConn, name string, secrets chan<- delivery) {
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	request := &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "sidecar~127.0.0.1~order.coffee-shop~coffee-shop.svc.cluster.local"}, TypeUrl: secretType, ResourceNames: []string{name},
	}
	for {
		if err := stream.Send(request); err != nil {
			return
		}
		answer, err := stream.Recv()
		if err != nil {
			return
		}
		for _, resource := range answer.GetResources() {
			secret := &tlsv3.Secret{}
			if err := resource.UnmarshalTo(secret); err == nil {
				secrets <- delivery{secret, time.Now()}
			}
		}
		request.VersionInfo, request.ResponseNonce = answer.GetVersionInfo(), answer.GetNonce()
	}
}

// next is the next secret of a stream.
func next(t *testing.T, secrets <-chan delivery, within time.Duration) delivery {
	t.Helper()
	select {
	case s := <-secrets:
		return s
	case <-time.After(within):
		t.Fatalf("no secret within %v", within)
		return delivery{}
	}
}
