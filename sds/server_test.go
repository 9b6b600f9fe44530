package sds_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

func TestFetch(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	for names, want := range map[string]string{"default": "default", "default,ROOTCA": "ROOTCA default", "": "spiffe://cluster.local " + payment} {
		r, err := f.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: strings.Split(names, ",")})
		if err != nil {
			t.Fatalf("%q: %v", names, err)
		}
		if got := namesOf(t, r); got != want || r.VersionInfo == "" {
			t.Errorf("%q: got %q", names, got)
		}
	}
}

func TestFetchWaits(t *testing.T) {
	f := start(t, nil)
	got := make(chan error, 1)
	go func() {
		_, err := f.client.FetchSecrets(context.Background(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}})
		got <- err
	}()
	f.newIdentity(payment)
	if err := <-got; err != nil {
		t.Error(err)
	}
}

func TestFetchRefused(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.FetchTimeout = 10 * time.Millisecond })
	f.newIdentity(order)
	for name, test := range map[string]struct {
		request *discoveryv3.DiscoveryRequest
		answer  sds.Entitlement
		code    codes.Code
	}{
		"no entry":     {&discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}}, sds.Entitlement{Reason: "none"}, codes.PermissionDenied},
		"nothing":      {&discoveryv3.DiscoveryRequest{}, sds.Entitlement{Reason: "none"}, codes.PermissionDenied},
		"another's":    {&discoveryv3.DiscoveryRequest{ResourceNames: []string{order}}, sds.Entitlement{Bundles: true}, codes.PermissionDenied},
		"another type": {&discoveryv3.DiscoveryRequest{TypeUrl: "x"}, sds.Entitlement{Bundles: true}, codes.InvalidArgument},
		"not there":    {&discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}}, sds.Entitlement{Bundles: true}, codes.Unavailable},
		"all of none":  {&discoveryv3.DiscoveryRequest{}, sds.Entitlement{Bundles: true}, codes.Unavailable},
	} {
		f.entries.set(test.answer, nil)
		if _, err := f.client.FetchSecrets(t.Context(), test.request); status.Code(err) != test.code {
			t.Errorf("%s: %v, want %v", name, err, test.code)
		}
	}
}

func TestCaller(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.next()
	got := f.only()
	program := must[string](t)(os.Executable())
	if got.PID != os.Getpid() || int(got.UID) != os.Getuid() || got.Program != program || got.Node != "envoy-1" || got.Protocol != "sotw" || got.Since.IsZero() {
		t.Errorf("inventory: %+v", got)
	}
	f.entries.mu.Lock()
	defer f.entries.mu.Unlock()
	if c := f.entries.callers[0]; c.Peer.PID != os.Getpid() || !c.ID.IsZero() || !strings.HasPrefix(c.Address, "unix:") {
		t.Errorf("the authorizer was asked about %+v", c)
	}
	if text, err := json.Marshal(f.server.Inventory().Snapshot()); err != nil || bytes.Contains(text, []byte("PRIVATE")) || !bytes.Contains(text, []byte(`"node":"envoy-1"`)) {
		t.Errorf("as JSON: %s, %v", text, err)
	}
}

// The process that connected ends, and its connection lives on in another: that one is not who was entitled (identity §11
// surprise 30).
func TestCallerIsGone(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	conn, end := lent(t, f.path)
	client := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil })))
	t.Cleanup(func() { _ = client.Close() })
	f.client = secretv3.NewSecretDiscoveryServiceClient(client)
	s := f.sotw()
	s.ask(nil, "default")
	s.ask(s.next(), "default")
	if got := f.only(); got.PID == os.Getpid() {
		t.Fatal("the server takes us for the other process")
	}
	end()
	f.newIdentity(payment)
	s.end(codes.PermissionDenied)
	if log := f.log.String(); !strings.Contains(log, "is gone") {
		t.Errorf("log: %s", log)
	}
	s = f.sotw() // on the same connection
	s.ask(nil, "default")
	s.end(codes.PermissionDenied)
}

// lent is a connection that another process opened, and what ends that process.
func lent(t *testing.T, path string) (net.Conn, func()) {
	t.Helper()
	pair := must[[2]int](t)(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	theirs := os.NewFile(uintptr(pair[1]), "lender")
	cmd := exec.CommandContext(context.Background(), must[string](t)(os.Executable()))
	cmd.Env = append(os.Environ(), connectTo+"="+path)
	cmd.ExtraFiles = []*os.File{theirs}
	in := must[interface{ Close() error }](t)(cmd.StdinPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	control := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), control, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(pair[0])
	messages := must[[]unix.SocketControlMessage](t)(unix.ParseSocketControlMessage(control[:n]))
	fds := must[[]int](t)(unix.ParseUnixRights(&messages[0]))
	file := os.NewFile(uintptr(fds[0]), "lent")
	conn := must[net.Conn](t)(net.FileConn(file))
	_ = file.Close()
	return conn, func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestUncertainLater(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.ask(s.next(), "default")
	f.entries.set(sds.Entitlement{}, errors.New("the entries are being read"))
	s.end(codes.Unavailable)
}

func TestLimits(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.MaxPerCaller = 2 })
	f.newIdentity(payment)
	for range 2 {
		s := f.sotw()
		s.ask(nil, "default")
		s.next()
	}
	f.sotw().end(codes.ResourceExhausted)
	f.delta().end(codes.ResourceExhausted)

	f = start(t, func(c *sds.Config) { c.MaxStreams = 1 })
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.next()
	f.sotw().end(codes.ResourceExhausted)
	if err := s.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string { // room again
		again := f.sotw()
		_ = again.stream.Send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}}) // fails if it was refused already
		select {
		case <-again.in:
			return ""
		case err := <-again.err:
			return err.Error()
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.MaxConnections = 4 }) // of which one user has three
	f.newIdentity(payment)
	for range 2 {
		conn := must[net.Conn](t)(net.Dial("unix", f.path))
		t.Cleanup(func() { _ = conn.Close() })
	}
	s := f.sotw()
	s.ask(nil, "default")
	s.next()
	conn := must[net.Conn](t)(net.Dial("unix", f.path))
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the fourth connection: %v", err)
	}
	if r := f.server.Inventory().Snapshot().Refusals; len(r) != 1 || r[0].Reason != sds.ReasonLimit {
		t.Errorf("refusals: %+v", r)
	}
}

// A large message is refused by gRPC, one that is no protobuf by us.
func TestMalformedRequest(t *testing.T) {
	f := start(t, nil)
	s := f.sotw()
	s.send(&discoveryv3.DiscoveryRequest{VersionInfo: strings.Repeat("x", 2<<20)})
	s.end(codes.ResourceExhausted)
	stream := must[grpc.ClientStream](t)(f.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/"+sds.ServiceName+"/StreamSecrets", grpc.ForceCodecV2(rawCodec{})))
	if err := stream.SendMsg([]byte{0x0a, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new([]byte)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

// On shutdown streams end with Unavailable, so that proxies keep what they have and come back, and Serve returns.
func TestShutdown(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s, d := f.sotw(), f.delta()
	s.ask(nil, "default")
	s.next()
	d.subscribe("ROOTCA") // held
	f.stop()
	s.end(codes.Unavailable)
	d.end(codes.Unavailable)
	if _, err := os.Stat(f.path); err == nil {
		t.Error("the socket is still there")
	}
	if r := f.server.Inventory().Snapshot(); len(r.Streams) != 0 || len(r.Refusals) != 0 {
		t.Errorf("inventory: %+v", r)
	}
}

func TestServeRefusesTCP(t *testing.T) {
	s := must[*sds.Server](t)(sds.New(sds.Config{Vault: &sds.Vault{}, Authorizer: &entries{}, TrustDomain: id(t, "spiffe://td")}))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "no Unix socket") {
		t.Errorf("got %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is open")
	}
}

// onTCP serves f's server on a TCP listener with credentials, as an authority does beside its other services.
func (f *fixture) onTCP(server credentials.TransportCredentials, client credentials.TransportCredentials) {
	f.t.Helper()
	l := must[net.Listener](f.t)(net.Listen("tcp", "127.0.0.1:0"))
	g := grpc.NewServer(grpc.Creds(server))
	f.server.Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	f.t.Cleanup(func() {
		g.Stop()
		<-served
	})
	conn := must[*grpc.ClientConn](f.t)(grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(client)))
	f.t.Cleanup(func() { _ = conn.Close() })
	f.client = secretv3.NewSecretDiscoveryServiceClient(conn)
}

func (f *fixture) onTLS() {
	f.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(f.root.cert)
	certificate := func(name string) []tls.Certificate {
		i := f.root.leaf(f.t, name, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
		return []tls.Certificate{{Certificate: [][]byte{i.Chain[0].Raw}, PrivateKey: must[any](f.t)(x509.ParsePKCS8PrivateKey(i.Key))}}
	}
	f.onTCP(
		credentials.NewTLS(&tls.Config{Certificates: certificate("spiffe://cluster.local/writ/authority"), ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven}),
		credentials.NewTLS(&tls.Config{Certificates: certificate(order), RootCAs: pool}))
}

// Over mutual TLS callers get roots, with their pushes and their end, and no private keys.
func TestRegister(t *testing.T) {
	f := start(t, nil)
	f.onTLS()
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s, d := f.sotw(), f.delta()
	s.ask(nil, "ROOTCA")
	s.ask(s.next(), "ROOTCA")
	d.subscribe("writ.bundle")
	d.ack(d.next())
	f.setBundle(2, func(b *sds.Bundle) { b.Roots = append(b.Roots, newIssuer(t, "next", nil).cert) })
	r := s.next()
	if n := bytes.Count(secretsOf(t, r)[0].GetValidationContext().GetTrustedCa().GetInlineBytes(), []byte("BEGIN")); n != 2 {
		t.Errorf("%d roots", n)
	}
	s.ask(r, "ROOTCA")
	d.next()
	if got := f.only(); got.ID != id(t, order) || got.PID != 0 || !strings.HasPrefix(got.Address, "127.0.0.1:") {
		t.Errorf("inventory: %+v", got)
	}
	all := f.sotw()
	all.ask(nil)
	if got := namesOf(t, all.next()); got != "spiffe://cluster.local" {
		t.Errorf("everything is %q", got)
	}
	key := f.sotw()
	key.ask(nil, "default")
	key.end(codes.PermissionDenied)
	f.denied("private keys leave through a Unix socket only: ask there for "+payment, sds.ReasonKeys)
	if _, err := f.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{payment}}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("FetchSecrets: %v", err)
	}
	f.entries.set(sds.Entitlement{}, nil)
	s.end(codes.PermissionDenied)
}

func TestKeysOverNetwork(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.KeysOverNetwork = true })
	f.onTLS()
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.next()
}

func TestPlaintextRefused(t *testing.T) {
	f := start(t, func(c *sds.Config) { c.KeysOverNetwork = true })
	f.newIdentity(payment)
	f.onTCP(insecure.NewCredentials(), insecure.NewCredentials())
	f.sotw().end(codes.Unauthenticated)
	if _, err := f.client.FetchSecrets(t.Context(), &discoveryv3.DiscoveryRequest{ResourceNames: []string{"ROOTCA"}}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("FetchSecrets: %v", err)
	}
}

func TestCallerHook(t *testing.T) {
	f := start(t, func(c *sds.Config) {
		c.Caller = func(context.Context) (*sds.Caller, error) {
			return &sds.Caller{ID: id(t, order), NotAfter: time.Now().Add(-time.Second)}, nil
		}
	})
	f.setBundle(1, nil)
	f.onTCP(insecure.NewCredentials(), insecure.NewCredentials())
	s := f.sotw()
	s.ask(nil, "ROOTCA")
	s.end(codes.Unauthenticated) // its certificate has ended
}

// A hook that cannot tell who calls is no hook that says no: clients come back after an outage.
func TestCallerHookErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("nobody"), codes.Unauthenticated},
		{status.Error(codes.Unavailable, "the ledger is away"), codes.Unavailable},
	} {
		f := start(t, func(c *sds.Config) { c.Caller = func(context.Context) (*sds.Caller, error) { return nil, test.err } })
		f.onTCP(insecure.NewCredentials(), insecure.NewCredentials())
		if said := f.sotw().end(test.want); strings.Contains(said, status.Convert(test.err).Message()) || !strings.Contains(f.log.String(), status.Convert(test.err).Message()) {
			t.Errorf("%v: the caller is told %q, the log is\n%s", test.err, said, f.log)
		}
	}
}

// Streams are not answered when nobody would tell them of changes.
func TestRegisterWithoutRun(t *testing.T) {
	f := start(t, nil)
	f.stop()
	f.onTLS()
	f.sotw().end(codes.Unavailable)
}

// Followers stay listed after they left, for they still trust what they had.
func TestConsumers(t *testing.T) {
	var ahead atomic.Int64 // of the clock
	f := start(t, func(c *sds.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	f.entries.set(sds.Entitlement{Identities: []spiffeid.ID{id(t, payment), id(t, order)}, Bundles: true}, nil)
	f.newIdentity(payment)
	f.setBundle(3, nil)
	s := f.sotw()
	s.ask(nil, "ROOTCA", "default")
	r := s.next()
	list := f.server.Inventory().Consumers()
	if len(list) != 2 || list[0].ID != id(t, order) || list[1].ID != id(t, payment) || list[0].Bundle != 0 || !list[0].Connected ||
		list[0].Name != "uid 0 node envoy-1" && os.Getuid() == 0 {
		t.Fatalf("before the acknowledgement: %+v", list)
	}
	s.ask(r, "ROOTCA", "default")
	eventually(t, func() string { return followsAll(f, 2, 3, true) })
	_ = s.stream.CloseSend()
	eventually(t, func() string { return followsAll(f, 2, 3, false) })
	f.setBundle(4, func(b *sds.Bundle) { b.Roots = append(b.Roots, newIssuer(t, "next", nil).cert) })
	if wrong := followsAll(f, 2, 3, false); wrong != "" {
		t.Error(wrong)
	}
	s = f.sotw() // back: known again by its user and node
	s.ask(nil, "ROOTCA")
	s.ask(s.next(), "ROOTCA")
	eventually(t, func() string { return followsAll(f, 2, 4, true) })
	_ = s.stream.CloseSend()
	eventually(t, func() string { return followsAll(f, 2, 4, false) })
	ahead.Store(int64(sds.DefaultRemember))
	if wrong := followsAll(f, 0, 0, false); wrong != "" {
		t.Error(wrong)
	}
}

func followsAll(f *fixture, count int, version int64, connected bool) string {
	list := f.server.Inventory().Consumers()
	for _, c := range list {
		if c.Bundle != version || c.Connected != connected || c.Until.IsZero() != connected {
			return "not as wanted: " + string(must[[]byte](f.t)(json.Marshal(list)))
		}
	}
	if len(list) != count {
		return "not as many as wanted: " + string(must[[]byte](f.t)(json.Marshal(list)))
	}
	return ""
}

func TestMetrics(t *testing.T) {
	f := start(t, nil)
	registry := prometheus.NewPedanticRegistry()
	sds.NewMetrics(registry, f.server)
	i := f.newIdentity(payment)
	f.setBundle(1, nil)
	s, d := f.sotw(), f.delta()
	s.ask(nil, "default", "spiffe://other.example")
	s.reject(s.next(), "no", "default", "spiffe://other.example")
	d.subscribe("ROOTCA")
	d.ack(d.next())
	refused := f.sotw()
	refused.ask(nil, order)
	refused.end(codes.PermissionDenied)
	for name, want := range map[string]float64{
		`writ_sds_acks_total kind="roots"`:                  1,
		`writ_sds_acks_total kind="identity"`:               0,
		`writ_sds_nacks_total kind="identity"`:              1,
		`writ_sds_pushes_total kind="identity"`:             1,
		`writ_sds_pushes_total kind="bundle"`:               0,
		`writ_sds_rejected`:                                 1,
		`writ_sds_waiting`:                                  1,
		`writ_sds_streams protocol="sotw"`:                  1,
		`writ_sds_streams protocol="delta"`:                 1,
		`writ_sds_secrets kind="validator"`:                 1,
		`writ_sds_refused_total reason="not_theirs"`:        1,
		`writ_sds_refused_total reason="no_entry"`:          0,
		`writ_sds_secret_not_after_seconds kind="identity"`: float64(i.NotAfter().Unix()),
	} {
		eventually(t, func() string {
			if got, ok := series(t, registry)[name]; !ok || got != want {
				return fmt.Sprintf("%s is %v, want %v", name, got, want)
			}
			return ""
		})
	}
	if n := len(series(t, registry)); n != 2+1+1+4*5+len(sds.Reasons()) {
		t.Errorf("%d series", n)
	}
}

// series is what a registry holds, by name and labels.
func series(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%q", label.GetName(), label.GetValue())
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

// A proxy that starts while the certificate that is here has ended waits for the next, and status says so.
func TestEndedCertificateIsNotSent(t *testing.T) {
	var clock atomic.Int64 // seconds ahead
	f := start(t, func(c *sds.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load()) * time.Second) }
	})
	f.newIdentity(payment)
	clock.Store(2 * 3600)
	s := f.sotw()
	s.ask(nil, "default")
	eventually(t, func() string {
		if got := f.server.Inventory().Snapshot().Streams; len(got) == 0 || len(got[0].Secrets) == 0 || !strings.Contains(got[0].Secrets[0].Waiting, "ended at") {
			return "not waiting"
		}
		return ""
	})
	f.setIdentity(f.root.leaf(t, payment, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Hour) }))
	s.next()
}
