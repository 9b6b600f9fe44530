package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// agentProcess is a running writ agent, with its sockets in dir.
type agentProcess struct{ *process }

// startAgent starts writ agent -c agent.yaml in dir.
func startAgent(t *testing.T, dir string) *agentProcess { return startAgentBinary(t, dir, "") }

// startAgentBinary does so with another binary than the test's own, if it is given one.
func startAgentBinary(t *testing.T, dir, binary string) *agentProcess {
	t.Helper()
	cmd := writ(t, "agent", "-c", filepath.Join(dir, "agent.yaml"))
	if binary != "" {
		cmd.Path = binary
	}
	p := &agentProcess{start(t, dir, cmd)}
	p.eventually("running", func() error {
		if text := p.logged(); !strings.Contains(text, `msg="writ agent runs"`) {
			return errors.New(text)
		}
		return nil
	})
	return p
}

// status asks the admin socket.
func (p *agentProcess) status() statusReport {
	p.t.Helper()
	return p.admin("agent-admin.sock")
}

// dial connects to the agent's socket.
func (p *agentProcess) dial() *grpc.ClientConn {
	p.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(p.dir, "agent.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// secret asks for one secret, as Envoy does.
func (p *agentProcess) secret(name string) (*tlsv3.Secret, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	f, err := follow(ctx, p.dial(), name)
	if err != nil {
		return nil, err
	}
	return f.next()
}

// follower follows one secret of an SDS server, as Envoy does.
type follower struct {
	stream  secretv3.SecretDiscoveryService_StreamSecretsClient
	request *discoveryv3.DiscoveryRequest
}

// follow asks for a secret until ctx ends.
func follow(ctx context.Context, conn *grpc.ClientConn, name string) (*follower, error) {
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	if err != nil {
		return nil, err
	}
	f := &follower{stream: stream, request: &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "test"}, ResourceNames: []string{name}, TypeUrl: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	}}
	return f, f.send()
}

// send asks again, which acknowledges what came. A stream that the server has refused already says io.EOF: why it was
// refused is the next answer's to tell.
func (f *follower) send() error {
	if err := f.stream.Send(f.request); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// next waits for another version of the secret.
func (f *follower) next() (*tlsv3.Secret, error) {
	response, err := f.stream.Recv()
	if err != nil {
		return nil, err
	}
	f.request.VersionInfo, f.request.ResponseNonce = response.GetVersionInfo(), response.GetNonce()
	secret := &tlsv3.Secret{}
	return secret, response.GetResources()[0].UnmarshalTo(secret)
}

// newAgentDir makes an authority, and what an agent needs to join it.
func newAgentDir(t *testing.T, workloads string) (dir string, authority *authorityProcess) {
	t.Helper()
	dir = write(t, t.TempDir(), map[string]string{"writ.yaml": "state: ./state\nca: {listen: '127.0.0.1:0', default_ttl: 10m}\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n"})
	authority = serve(t, dir)
	authority.ready()
	joinToken(t, dir, agentNode, paymentID, orderID)
	write(t, dir, map[string]string{"agent.yaml": agentYAML(authority.address("ca"), workloads)})
	return dir, authority
}

func agentYAML(authority, workloads string) string {
	return "authority: {address: '" + authority + "', bundle: ./state/bundle.pem}\nattest: {join_token_file: ./token}\nstate: ./agent-state\n" +
		"sds: {listen: unix:agent.sock}\nadmin: unix:agent-admin.sock\ndiagnostics: 127.0.0.1:0\nworkloads:\n" + workloads
}

func joinToken(t *testing.T, dir string, ids ...string) {
	t.Helper()
	args := []string{"token", "create", "-c", filepath.Join(dir, "writ.yaml"), "--out", filepath.Join(dir, "token")}
	for _, id := range ids {
		args = append(args, "--id", id)
	}
	if out, err := writ(t, args...).CombinedOutput(); err != nil {
		t.Fatalf("token create: %v\n%s", err, out)
	}
}

func ourUID(id string) string { return fmt.Sprintf("- {id: %s, uid: %d}\n", id, os.Getuid()) }
