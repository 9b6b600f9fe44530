package e2e_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	rpcstatus "google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/testkit"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// api is the address of an agent's Workload API, as go-spiffe wants it.
func (u unit) api() workloadapi.SourceOption {
	return workloadapi.WithClientOptions(workloadapi.WithAddr("unix://" + u.mesh.file(u.name+".sock")))
}

// dial connects to an agent's socket as any gRPC client does.
func (u unit) dial() *grpc.ClientConn {
	u.mesh.t.Helper()
	conn, err := grpc.NewClient("unix:"+u.mesh.file(u.name+".sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		u.mesh.t.Fatal(err)
	}
	u.mesh.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestWorkloadAPI holds a running agent to SPIFFE's own library: sources of X.509 and JWT identities, which follow renewals
// and a rotation of the root, and mutual TLS between two of them all the while.
func TestWorkloadAPI(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(mtlsTTL, ", jwt: {}")
	agent := m.agent("agent", main, []string{address}, []string{paymentID, orderID}, ours(orderID), ours(paymentID))
	agent.ready()

	sources := map[string]*workloadapi.X509Source{}
	for _, id := range []string{orderID, paymentID} {
		source, err := workloadapi.NewX509Source(bounded(t), agent.api(), workloadapi.WithDefaultX509SVIDPicker(pick(id)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = source.Close() })
		sources[id] = source
	}
	watched := &bundleWatcher{}
	t.Cleanup(watched.start(t, agent))
	tokens, err := workloadapi.NewJWTSource(bounded(t), agent.api())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tokens.Close() })

	call := mutualTLS(t, sources[orderID], sources[paymentID])
	if err := call(); err != nil {
		t.Fatal(err)
	}
	checkTokens(t, agent, tokens)

	serial := func() string {
		svid, err := sources[orderID].GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		return svid.Certificates[0].SerialNumber.Text(16)
	}
	first := serial()
	domain := spiffeid.RequireTrustDomainFromString("cluster.local")
	before, err := sources[orderID].GetX509BundleForTrustDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"prepare", "distribute", "activate", "taint", "revoke"} {
		main.rotate(step)
		if err := call(); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	eventually(t, "the new root alone", func() error {
		now, err := sources[orderID].GetX509BundleForTrustDomain(domain)
		if err != nil || len(now.X509Authorities()) != 1 || now.HasX509Authority(before.X509Authorities()[0]) {
			return fmt.Errorf("%v, %v", now, err)
		}
		return errors.Join(watched.saw(1), call())
	})
	if serial() == first {
		t.Error("X509Source has the certificate that it began with")
	}
	if err := watched.saw(2); err != nil {
		t.Errorf("the watcher of bundles: %v", err)
	}
	checkTokens(t, agent, tokens) // the keys of tokens are others than the roots, and stayed
}

// pick takes one identity of several.
func pick(id string) func([]*x509svid.SVID) *x509svid.SVID {
	return func(all []*x509svid.SVID) *x509svid.SVID {
		n := slices.IndexFunc(all, func(svid *x509svid.SVID) bool { return svid.ID.String() == id })
		return all[max(n, 0)]
	}
}

// mutualTLS serves as one identity, and returns a call as another, on a new connection each time.
func mutualTLS(t *testing.T, client, server *workloadapi.X509Source) func() error {
	t.Helper()
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].URIs[0].String())
	}))
	backend.Listener = tls.NewListener(backend.Listener, tlsconfig.MTLSServerConfig(server, server, tlsconfig.AuthorizeID(spiffeid.RequireFromString(orderID))))
	backend.Start()
	t.Cleanup(backend.Close)
	config := tlsconfig.MTLSClientConfig(client, client, tlsconfig.AuthorizeID(spiffeid.RequireFromString(paymentID)))
	caller := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: patience}
	return func() error {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+backend.Listener.Addr().String(), nil)
		if err != nil {
			return err
		}
		response, err := caller.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != orderID {
			return fmt.Errorf("the server saw %q, %v", body, err)
		}
		return nil
	}
}

// bundleWatcher is told of all bundles.
type bundleWatcher struct {
	seen chan int // numbers of roots, newest last
	all  map[int]bool
}

func (w *bundleWatcher) start(t *testing.T, agent unit) (stop func()) {
	t.Helper()
	w.seen, w.all = make(chan int, 1000), map[int]bool{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- workloadapi.WatchX509Bundles(ctx, w, workloadapi.WithAddr("unix://"+agent.mesh.file(agent.name+".sock")))
	}()
	return func() {
		cancel()
		<-done
	}
}

// OnX509BundlesUpdate implements workloadapi.X509BundleWatcher.
func (w *bundleWatcher) OnX509BundlesUpdate(set *x509bundle.Set) {
	for _, b := range set.Bundles() {
		w.seen <- len(b.X509Authorities())
	}
}

// OnX509BundlesWatchError implements workloadapi.X509BundleWatcher.
func (w *bundleWatcher) OnX509BundlesWatchError(error) {}

// saw reports whether there has been a bundle of n roots.
func (w *bundleWatcher) saw(n int) error {
	for {
		select {
		case roots := <-w.seen:
			w.all[roots] = true
		default:
			if !w.all[n] {
				return fmt.Errorf("no bundle of %d roots, only %v", n, w.all)
			}
			return nil
		}
	}
}

// checkTokens has JWT-SVIDs made, and verified by the source's keys and by the agent.
func checkTokens(t *testing.T, agent unit, source *workloadapi.JWTSource) {
	t.Helper()
	for _, id := range []string{orderID, paymentID} {
		svid, err := source.FetchJWTSVID(bounded(t), jwtsvid.Params{Audience: "bank", Subject: spiffeid.RequireFromString(id)})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"bank"}); err != nil || got.ID.String() != id {
			t.Errorf("the token of %s: %v, %v", id, got, err)
		}
		if _, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"another bank"}); err == nil {
			t.Error("the token counts for another audience")
		}
		api := workloadapi.WithAddr("unix://" + agent.mesh.file(agent.name+".sock"))
		if got, err := workloadapi.ValidateJWTSVID(bounded(t), svid.Marshal(), "bank", api); err != nil || got.ID.String() != id {
			t.Errorf("ValidateJWTSVID for %s: %v, %v", id, got, err)
		}
	}
	all, err := source.FetchJWTSVIDs(bounded(t), jwtsvid.Params{Audience: "bank"})
	if err != nil || len(all) != 2 {
		t.Errorf("one token for each identity: %v, %v", all, err)
	}
}

// TestWorkloadAPIRefuses: what the standard has a server refuse, and with which code; a client that gets InvalidArgument
// never comes back (identity §7).
func TestWorkloadAPIRefuses(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(mtlsTTL, ", jwt: {}")
	agent := m.agent("agent", main, []string{address}, []string{paymentID, orderID}, ours(orderID))
	process := agent.ready()
	api := workload.NewSpiffeWorkloadAPIClient(agent.dial())
	const header = "workload.spiffe.io"
	good := metadata.Pairs(header, "true")
	token := func(md metadata.MD, r *workload.JWTSVIDRequest) error {
		_, err := api.FetchJWTSVID(metadata.NewOutgoingContext(bounded(t), md), r)
		return err
	}
	validate := func(audience, svid string) error {
		_, err := api.ValidateJWTSVID(metadata.NewOutgoingContext(bounded(t), good), &workload.ValidateJWTSVIDRequest{Audience: audience, Svid: svid})
		return err
	}
	bank := []string{"bank"}
	for _, test := range []struct {
		name string
		want codes.Code
		err  error
	}{
		{"with the header", codes.OK, fetchX509(metadata.NewOutgoingContext(bounded(t), good), api)},
		{"without the header", codes.InvalidArgument, fetchX509(bounded(t), api)},
		{"with another value", codes.InvalidArgument, fetchX509(metadata.NewOutgoingContext(bounded(t), metadata.Pairs(header, "True")), api)},
		{"with the header twice", codes.InvalidArgument, fetchX509(metadata.NewOutgoingContext(bounded(t), metadata.Pairs(header, "true", header, "true")), api)},
		{"a token", codes.OK, token(good, &workload.JWTSVIDRequest{Audience: bank})},
		{"a token without the header", codes.InvalidArgument, token(nil, &workload.JWTSVIDRequest{Audience: bank})},
		{"a token for nobody", codes.InvalidArgument, token(good, &workload.JWTSVIDRequest{})},
		{"a token of no SPIFFE ID", codes.InvalidArgument, token(good, &workload.JWTSVIDRequest{Audience: bank, SpiffeId: "order"})},
		{"a token of another's", codes.PermissionDenied, token(good, &workload.JWTSVIDRequest{Audience: bank, SpiffeId: paymentID})},
		{"text for a token", codes.InvalidArgument, validate("bank", "not a token")},
		{"a token and no audience", codes.InvalidArgument, validate("", "a.b.c")},
	} {
		if got := rpcstatus.Code(test.err); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, test.err, test.want)
		}
	}

	// Who loses its right is told so, on a stream that is open.
	stream, err := api.FetchX509SVID(metadata.NewOutgoingContext(bounded(t), good), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	agent.setWorkloads([]string{address}, byPath(orderID, "/usr/bin/absent"))
	hangup(t, process)
	for err = error(nil); err == nil; {
		_, err = stream.Recv()
	}
	if rpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("the right is gone: %v, want PermissionDenied", err)
	}
}

// fetchX509 asks for X.509 identities and reads one answer.
func fetchX509(ctx context.Context, api workload.SpiffeWorkloadAPIClient) error {
	stream, err := api.FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// TestNoEntry: a process that no entry of workloads fits gets PermissionDenied on both APIs, and its operator finds the
// reason in the agent's log and in writ status, with what would have to be in the entry.
func TestNoEntry(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	main, address := m.authority(mtlsTTL, ", jwt: {}")
	agent := m.agent("agent", main, []string{address}, []string{paymentID}, byPath(paymentID, "/usr/bin/absent"))
	process := agent.ready()
	conn := agent.dial()
	api := workload.NewSpiffeWorkloadAPIClient(conn)
	ctx := metadata.AppendToOutgoingContext(bounded(t), "workload.spiffe.io", "true")
	bundles := func() error {
		stream, err := api.FetchX509Bundles(ctx, &workload.X509BundlesRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	keys := func() error {
		stream, err := api.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	_, jwt := api.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"bank"}})
	_, valid := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "bank", Svid: "a.b.c"})
	_, fetched := secretv3.NewSecretDiscoveryServiceClient(conn).FetchSecrets(bounded(t), secretRequest("default"))
	for method, err := range map[string]error{
		"FetchX509SVID": fetchX509(ctx, api), "FetchX509Bundles": bundles(), "FetchJWTSVID": jwt, "FetchJWTBundles": keys(), "ValidateJWTSVID": valid,
		"StreamSecrets": streamed(t, conn, "default"), "StreamSecrets of the roots": streamed(t, conn, "ROOTCA"), "FetchSecrets": fetched,
		"StreamSecrets by ID": streamed(t, conn, paymentID),
	} {
		if rpcstatus.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v, want PermissionDenied", method, err)
		}
	}

	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wants := []string{fmt.Sprintf("uid %d", os.Getuid()), "path " + program, "add an entry to workloads"}
	s, err := agent.status()
	if err != nil || len(s.Agent.Refusals) == 0 {
		t.Fatalf("no refusals in the status: %+v, %v", s.Agent, err)
	}
	text := agent.do("status")
	for _, want := range wants {
		if !strings.Contains(s.Agent.Refusals[0].Detail, want) {
			t.Errorf("%q is not in the reason %q", want, s.Agent.Refusals[0].Detail)
		}
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in what writ status prints:\n%s", want, text)
		}
		if !strings.Contains(process.Output.String(), want) {
			t.Errorf("%q is not in the agent's log:\n%s", want, process.Output)
		}
	}

	// And with the entry that the reason asks for it is served.
	agent.setWorkloads([]string{address}, byPath(paymentID, program))
	hangup(t, process)
	eventually(t, "served by path", func() error { return errors.Join(streamed(t, conn, "default"), fetchX509(ctx, api)) })
}

// hangup has an agent read its configuration again.
func hangup(t *testing.T, agent *testkit.Agent) {
	t.Helper()
	if err := agent.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func secretRequest(names ...string) *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "test"}, ResourceNames: names, TypeUrl: secretType}
}

// streamed asks for a secret as Envoy does, and reads one answer.
func streamed(t *testing.T, conn *grpc.ClientConn, name string) error {
	t.Helper()
	stream, err := secretv3.NewSecretDiscoveryServiceClient(conn).StreamSecrets(bounded(t))
	if err != nil {
		return err
	}
	if err := stream.Send(secretRequest(name)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.Recv()
	return err
}
