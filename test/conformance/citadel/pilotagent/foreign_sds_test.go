package pilotagent_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/writ-auth/writ/test/conformance/citadel/internal/built"
)

const (
	// foreignSocket is where an agent of Istio looks for somebody else's SDS server (identity §3.2), in its working
	// directory and under a name that is not its own.
	foreignSocket = "var/run/secrets/workload-spiffe-uds/writ.sock"
	filesSocket   = "var/run/secrets/credential-uds/files-socket"
	ownSocket     = "var/run/secrets/workload-spiffe-uds/socket"
	secretType    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// TestForeignSDS is recipe E of identity §3.3: pilot-agent finds the socket of writ agent, leaves certificates to it and
// asks no authority. The Envoy that it starts is pointed at our socket, and what Istio calls its secrets is served there.
func TestForeignSDS(t *testing.T) {
	a := built.Start(t, life)
	dir := t.TempDir()
	ours := startWrit(t, a, dir)
	bootstrap, said := startForeign(t, a, dir)

	built.Until(t, patience, "bootstrap of Envoy", func() error {
		text, err := os.ReadFile(bootstrap())
		if err == nil && !strings.Contains(string(text), foreignSocket) {
			err = fmt.Errorf("it does not name %s:\n%s", foreignSocket, text)
		}
		return err
	})
	if log := said(); !strings.Contains(log, "Existing workload SDS socket found at") || !strings.Contains(log, filepath.Base(foreignSocket)) {
		t.Errorf("pilot-agent does not say that it found our socket:\n%s", log)
	}
	built.Until(t, patience, "socket for files", func() error {
		_, err := os.Stat(filepath.Join(dir, filesSocket))
		return err
	})
	if _, err := os.Stat(filepath.Join(dir, ownSocket)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pilot-agent serves certificates itself: %v", err)
	}

	// As Istio's Envoys ask: by these names, on this socket.
	chain := fetch(t, filepath.Join(dir, foreignSocket), "default").GetTlsCertificate().GetCertificateChain().GetInlineBytes()
	leaf := built.Certificates(t, chain)[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != order {
		t.Errorf("default is a certificate for %v", leaf.URIs)
	}
	roots := fetch(t, filepath.Join(dir, foreignSocket), "ROOTCA").GetValidationContext().GetTrustedCa().GetInlineBytes()
	if block, _ := pem.Decode(roots); block == nil || string(roots) != string(a.Roots()) {
		t.Errorf("ROOTCA is\n%s", roots)
	}
	ours.Stop()
	a.Stop()
	for _, c := range a.Calls() {
		if c.Cluster != "" || c.Caller.Method == "oidc" {
			t.Errorf("pilot-agent asked for a certificate: %+v", c)
		}
	}
}

// startWrit runs a writ agent that serves the workload at the foreign socket below dir.
func startWrit(t *testing.T, a *built.Authority, dir string) *built.Process {
	t.Helper()
	a.Do("token", "create", "-c", "writ.yaml", "--id", order, "--out", "agent-token")
	socket := filepath.Join(dir, foreignSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(a.Dir, "agent.yaml"), fmt.Appendf(nil,
		"trust_domain: %s\nauthority: {address: %q, bundle: ./state/bundle.pem}\nattest: {join_token_file: ./agent-token}\nsds: {listen: %q}\nworkloads: [{id: %q, uid: %d}]\n",
		built.TrustDomain, a.Address, "unix://"+socket, order, os.Getuid()))
	program, err := filepath.Abs(os.Getenv("WRIT"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "agent", "-c", "agent.yaml")
	cmd.Dir = a.Dir
	process := built.StartProcess(t, "writ agent", cmd, func(string) {})
	built.Until(t, patience, "socket of writ agent", func() error {
		_, err := os.Stat(socket)
		return err
	})
	return process
}

// startForeign runs pilot-agent below dir with an Envoy that does nothing. It returns where it writes Envoy's bootstrap, and
// what it has said so far.
func startForeign(t *testing.T, a *built.Authority, dir string) (bootstrap, said func() string) {
	t.Helper()
	program, err := filepath.Abs(os.Getenv(agentEnv))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "var/run/secrets/tokens/istio-token"), []byte(a.Issuer.Token(t, "coffee-shop", "order")))
	write(t, filepath.Join(dir, "var/run/secrets/istio/root-cert.pem"), a.Roots())
	envoy := filepath.Join(dir, "envoy")
	if err := os.WriteFile(envoy, []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	istio, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio").Output()
	if err != nil {
		t.Fatalf("where are the sources of Istio: %v", err)
	}
	cmd := exec.Command(program, "proxy", "sidecar")
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"CA_ADDR=" + a.Address, "TRUST_DOMAIN=" + built.TrustDomain, "POD_NAME=order-1", "POD_NAMESPACE=coffee-shop",
		"SERVICE_ACCOUNT=order", "ISTIO_META_CLUSTER_ID=c1", "INSTANCE_IP=127.0.0.1",
		"WORKLOAD_IDENTITY_SOCKET_FILE=" + filepath.Base(foreignSocket),
		fmt.Sprintf(`PROXY_CONFIG={"discoveryAddress":%q,"statusPort":%d,"configPath":%q,"binaryPath":%q,"proxyBootstrapTemplatePath":%q,"terminationDrainDuration":"0s"}`,
			a.Address, freePort(t), filepath.Join(dir, "cfg"), envoy,
			filepath.Join(strings.TrimSpace(string(istio)), "tools/packaging/common/envoy_bootstrap.json")),
	}
	var mu sync.Mutex
	var log strings.Builder
	built.StartProcess(t, "pilot-agent", cmd, func(line string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(&log, line)
	})
	said = func() string {
		mu.Lock()
		defer mu.Unlock()
		return log.String()
	}
	return func() string { return filepath.Join(dir, "cfg", "envoy-rev.json") }, said
}

// fetch gets one secret as Envoy does.
func fetch(t *testing.T, socket, name string) *tlsv3.Secret {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := secret.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := &discovery.DiscoveryRequest{Node: &core.Node{Id: "sidecar~127.0.0.1~order-1.coffee-shop~coffee-shop.svc.cluster.local"}, ResourceNames: []string{name}, TypeUrl: secretType}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got := &tlsv3.Secret{}
	if err := response.GetResources()[0].UnmarshalTo(got); err != nil {
		t.Fatal(err)
	}
	return got
}
