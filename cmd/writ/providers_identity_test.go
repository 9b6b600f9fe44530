package main

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	spiffe "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/writ-auth/writ/authz/provider"
)

const (
	writID  = "spiffe://cluster.local/ns/istio-system/sa/writ"
	authzID = "spiffe://cluster.local/ns/authz/sa/authz"
)

// askedPolicy asks the provider of a path's name.
func askedPolicy(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: ask-%s, namespace: coffee-shop}\n"+
			"spec: {action: CUSTOM, provider: {name: %s}, rules: [{to: [{operation: {paths: [/%s]}}]}]}\n", name, name, name)
	}
	return b.String()
}

// spiffeServers are authorization servers of somebody else's make, which let in writ alone, by its SPIFFE ID.
type spiffeServers struct {
	authv3.UnimplementedAuthorizationServer
	grpc, http net.Listener

	mu      sync.Mutex
	issuers map[string]map[string]int // calls by server and key ID of the issuer of writ's certificate
}

func (s *spiffeServers) Check(ctx context.Context, _ *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, errors.New("plaintext")
	}
	s.saw("grpc", &info.State)
	return &authv3.CheckResponse{Status: &rpcstatus.Status{}}, nil
}

func (s *spiffeServers) saw(kind string, state *tls.ConnectionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.issuers[kind] == nil {
		s.issuers[kind] = map[string]int{}
	}
	s.issuers[kind][hex.EncodeToString(state.PeerCertificates[0].AuthorityKeyId)]++
}

// sawIssuers wants both servers to have been asked by certificates of so many issuers.
func (s *spiffeServers) sawIssuers(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.issuers["grpc"]) != n || len(s.issuers["http"]) != n {
		return fmt.Errorf("calls by issuer: %v", s.issuers)
	}
	return nil
}

func newSPIFFEServers(t *testing.T) *spiffeServers {
	t.Helper()
	s := &spiffeServers{issuers: map[string]map[string]int{}}
	for _, l := range []*net.Listener{&s.grpc, &s.http} {
		opened, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*l = opened
	}
	return s
}

// serve starts the servers, with what the Workload API gives them.
func (s *spiffeServers) serve(t *testing.T, socket string) {
	t.Helper()
	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)),
		workloadapi.WithDefaultX509SVIDPicker(func(all []*x509svid.SVID) *x509svid.SVID {
			for _, one := range all {
				if one.ID.String() == authzID {
					return one
				}
			}
			return nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	config := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(spiffe.RequireFromString(writID)))
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	authv3.RegisterAuthorizationServer(g, s)
	go func() { _ = g.Serve(s.grpc) }()
	t.Cleanup(g.Stop)
	h := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0), // refusals are meant
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { s.saw("http", r.TLS) })}
	go func() { _ = h.Serve(tls.NewListener(s.http, config)) }()
	t.Cleanup(func() { _ = h.Close() })
}

// identityConfig is an authority that asks two servers by the identity that it issues itself, and two more in vain.
func identityConfig(s *spiffeServers) string {
	tls := func(server string) string { return "tls: {identity: '" + writID + "', server_name: '" + server + "'}" }
	return "documents: ./policies\nstate: ./state\nadmin: unix:admin.sock\ndiagnostics: 127.0.0.1:0\n" +
		"ca: {listen: '127.0.0.1:0', default_ttl: 20s}\n" +
		fmt.Sprintf("sds:\n  listen: unix:agent.sock\n  workloads:\n  - {id: '%[1]s', uid: %[4]d}\n  - {id: '%[2]s', uid: %[4]d}\n  - {id: '%[3]s', uid: %[4]d}\n",
			agentNode, writID, authzID, os.Getuid()) + // the first is the local agent's own, which outlives the others' revocation
		"authz:\n  listen: unix:authz.sock\n  decision_log: {to: decisions.jsonl, log: all}\n  providers:\n" +
		"  - {name: over-grpc, timeout: 5s, grpc: {target: '" + s.grpc.Addr().String() + "', breaker: {failures: -1}, " + tls(authzID) + "}}\n" +
		"  - {name: over-http, timeout: 5s, http: {target: 'https://" + s.http.Addr().String() + "', breaker: {failures: -1}, " + tls(authzID) + "}}\n" +
		"  - {name: mistaken, timeout: 5s, grpc: {target: '" + s.grpc.Addr().String() + "', breaker: {failures: -1}, " + tls(authzID+"-2") + "}}\n" +
		"  - {name: unknown, timeout: 5s, http: {target: 'https://" + s.http.Addr().String() + "', " +
		"tls: {identity: '" + writID + "', workload_api: 'unix:nobody.sock', server_name: '" + authzID + "'}}}\n"
}

// TestProviderIdentity has servers that want a SPIFFE certificate of writ's own authority asked by writ's own identity: over a
// rotation of the root without a failure, never without a certificate, and not once one of the two is revoked.
func TestProviderIdentity(t *testing.T) {
	t.Parallel()
	servers := newSPIFFEServers(t)
	dir := write(t, t.TempDir(), map[string]string{
		"writ.yaml": identityConfig(servers), "policies/p.yaml": askedPolicy("over-grpc", "over-http", "mistaken", "unknown"),
	})
	p := serve(t, dir)
	p.ready("provider unknown is not asked, and whoever needs it is denied: not asked as " + writID + ": there is no certificate")
	servers.serve(t, filepath.Join(dir, "agent.sock"))
	conn := p.dial("", nil)
	answers := func(path string, want int) {
		t.Helper()
		p.comesToAnswer(conn, path, want)
	}
	answers("/over-grpc", http.StatusOK)
	answers("/over-http", http.StatusOK)
	answers("/mistaken", http.StatusForbidden)
	p.logs(`"provider":"mistaken"`, `"outcome":"provider_unreachable"`, "and not for "+authzID+"-2")
	answers("/unknown", http.StatusForbidden)
	p.logs(`"provider":"unknown"`, `"outcome":"provider_no_identity"`, "nobody.sock")
	p.metric(`writ_custom_identity_expiry_timestamp_seconds{provider="unknown"} 0`)

	p.rotateUnderCalls(conn, servers)

	out, _ := command(t, dir, 0, "status", "-c", "writ.yaml")
	for _, want := range []string{"answers    over-grpc  grpc  ", "  as " + writID + " until 20", "not asked  unknown    http  "} {
		if !strings.Contains(out, want) {
			t.Errorf("writ status does not say %q:\n%s", want, out)
		}
	}
	command(t, dir, 0, "ca", "revoke", "-c", "writ.yaml", "--id", authzID, "--reason", "keyCompromise")
	answers("/over-grpc", http.StatusForbidden)
	answers("/over-http", http.StatusForbidden)
	p.logs(`"provider":"over-http"`, `"outcome":"provider_unreachable"`, "was revoked")
	command(t, dir, 0, "ca", "revoke", "-c", "writ.yaml", "--id", writID, "--reason", "keyCompromise")
	p.eventually("without an identity", func() error {
		if s := p.identity("over-grpc"); s.Ready || !strings.Contains(s.Error, "was revoked") {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	answers("/over-grpc", http.StatusForbidden)
	p.logs(`"provider":"over-grpc"`, `"outcome":"provider_no_identity"`, "was revoked")
	p.metric(`writ_custom_identity_expiry_timestamp_seconds{provider="over-grpc"} 0`)
	p.stop()
}

// identity is the status of a provider's.
func (p *authorityProcess) identity(name string) provider.IdentityStatus {
	p.t.Helper()
	for _, r := range p.status().Providers {
		if r.Name == name && r.Identity != nil {
			return *r.Identity
		}
	}
	p.t.Fatalf("no identity in the status of provider %s", name)
	return provider.IdentityStatus{}
}

// logs waits for a line of the decision log that has all of the words.
func (p *authorityProcess) logs(words ...string) {
	p.t.Helper()
	p.eventually("in the decision log", func() error {
		text, err := readBounded(filepath.Join(p.dir, "decisions.jsonl"), 64<<20)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			all := true
			for _, word := range words {
				all = all && strings.Contains(line, word)
			}
			if all {
				return nil
			}
		}
		return fmt.Errorf("no line with %q", words)
	})
}

// rotateUnderCalls replaces the root of the authority while both servers are asked, until they are asked by certificates under
// the new one. Every answer has to be an allow.
func (p *authorityProcess) rotateUnderCalls(conn *grpc.ClientConn, servers *spiffeServers) {
	p.t.Helper()
	ctx, stop := context.WithCancel(p.t.Context())
	var busy sync.WaitGroup
	defer busy.Wait()
	defer stop()
	for _, path := range []string{"/over-grpc", "/over-http"} {
		busy.Go(func() {
			for ctx.Err() == nil {
				if got, err := ask(p.t.Context(), conn, menuRequest(path)); err != nil || got != http.StatusOK {
					p.t.Errorf("%s during the rotation: %d, %v", path, got, err)
					return
				}
			}
		})
	}
	rotate := func(step string, flags ...string) {
		command(p.t, p.dir, 0, append([]string{"ca", "rotate", step, "-c", "writ.yaml", "--reason", "drill"}, flags...)...)
	}
	rotate("prepare")
	rotate("distribute")
	p.eventually("told of the new root", func() error {
		if r := p.status(); r.Agent == nil || r.Agent.Bundle.Roots != 2 {
			return fmt.Errorf("%+v", r.Agent)
		}
		return nil
	})
	rotate("activate", "--override") // without waiting until all have renewed
	p.eventually("asking by certificates under the new root", func() error { return servers.sawIssuers(2) })
}
