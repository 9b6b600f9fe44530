package sds_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// script is a client of one StreamSecrets call.
type script struct {
	*conversation[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
}

func (f *fixture) sotw() script {
	f.t.Helper()
	return script{converse(f.t, f.client.StreamSecrets, func(r *discoveryv3.DiscoveryResponse) string { return namesOf(f.t, r) })}
}

// ask sends names with the nonce of a response, nil for none.
func (s script) ask(of *discoveryv3.DiscoveryResponse, names ...string) {
	s.t.Helper()
	s.send(&discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "envoy-1"}, TypeUrl: secretType, ResourceNames: names, ResponseNonce: of.GetNonce(), VersionInfo: of.GetVersionInfo(),
	})
}

func (s script) reject(of *discoveryv3.DiscoveryResponse, why string, names ...string) {
	s.t.Helper()
	s.send(&discoveryv3.DiscoveryRequest{
		TypeUrl: secretType, ResourceNames: names, ResponseNonce: of.GetNonce(), ErrorDetail: &rpcstatus.Status{Code: 3, Message: why},
	})
}

// bump is a bundle version later than any before.
func (f *fixture) bump() int64 {
	if b := f.vault.Bundle("cluster.local"); b != nil {
		return b.Version + 1
	}
	return 1
}

func secretsOf(t *testing.T, r *discoveryv3.DiscoveryResponse) (out []*tlsv3.Secret) {
	t.Helper()
	for _, each := range r.Resources {
		s := &tlsv3.Secret{}
		if err := each.UnmarshalTo(s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func namesOf(t *testing.T, r *discoveryv3.DiscoveryResponse) string {
	t.Helper()
	var names []string
	for _, s := range secretsOf(t, r) {
		names = append(names, s.Name)
	}
	return strings.Join(names, " ")
}

func TestSotWFirstRequest(t *testing.T) {
	f := start(t, nil)
	i := f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	r := s.next()
	if r.TypeUrl != secretType || r.Nonce == "" || r.VersionInfo == "" {
		t.Errorf("response: %v", r)
	}
	secret := secretsOf(t, r)[0]
	if len(r.Resources) != 1 || secret.Name != "default" || !bytes.Equal(chainOf(secret), pemOf(i.Chain...)) {
		t.Errorf("got %v", secret)
	}
	s.ask(r, "default")
	f.acknowledged(r.VersionInfo)
	f.quiet(s) // an acknowledgement is not answered
	got := f.only().Secrets[0]
	if got.Sent != r.VersionInfo || got.Kind != sds.KindIdentity || !got.NotAfter.Equal(i.NotAfter()) {
		t.Errorf("inventory: %+v", got)
	}
}

// only is the inventory's first stream.
func (f *fixture) only() sds.StreamStatus {
	f.t.Helper()
	s := f.server.Inventory().Snapshot().Streams
	if len(s) == 0 {
		f.t.Fatal("the inventory has no stream")
	}
	return s[0]
}

// A proxy that lost its stream repeats version and nonce of the last one (identity §11 surprise 13).
func TestSotWFirstRequestWithOldNonce(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{"default"}, ResponseNonce: "77", VersionInfo: "abc"})
	if got := namesOf(t, s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
}

// The same while the secret is not there: the second request has an old nonce, too, and changes the names.
func TestSotWHeldRequestWithOldNonce(t *testing.T) {
	f := start(t, nil)
	s := f.sotw()
	for _, name := range []string{"ROOTCA", "default"} {
		s.send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{name}, ResponseNonce: "77"})
	}
	eventually(t, func() string {
		for _, st := range f.server.Inventory().Snapshot().Streams {
			if len(st.Secrets) == 1 && st.Secrets[0].Name == "default" {
				return ""
			}
		}
		return "the names were not changed"
	})
	f.newIdentity(payment)
	if got := namesOf(t, s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
}

func TestSotWWithoutNode(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"default"}}) // nor a type
	s.next()
}

func TestSotWStaleNonce(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	first := s.next()
	f.newIdentity(payment) // before the first was answered
	second := s.next()
	s.ask(first, "default", "ROOTCA")
	f.setBundle(1, nil)
	f.quiet(s)
	if got := f.only().Secrets; len(got) != 1 || got[0].Acked != "" {
		t.Errorf("a stale request was taken for an answer: %+v", got)
	}
	s.ask(second, "default", "ROOTCA")
	if got := namesOf(t, s.next()); got != "ROOTCA default" {
		t.Errorf("got %q", got)
	}
}

func TestSotWRejection(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	r := s.next()
	s.reject(r, "bad key "+strings.Repeat("x", 2000), "default")
	eventually(t, func() string {
		if f.only().Secrets[0].Rejections == 0 {
			return "not rejected"
		}
		return ""
	})
	f.quiet(s) // not sent again at once, nor when something else changes
	got := f.only().Secrets[0]
	if got.Rejections != 1 || got.Rejected != r.VersionInfo || !strings.HasPrefix(got.Error, "bad key") || len(got.Error) > 520 || got.Acked != "" {
		t.Errorf("inventory: %+v", got)
	}
	if log := f.log.String(); !strings.Contains(log, "rejected a secret") || !strings.Contains(log, "bad key") {
		t.Errorf("log: %s", log)
	}
	f.newIdentity(payment)
	r = s.next() // changed: sent again
	s.ask(r, "default")
	eventually(t, func() string {
		if got := f.only().Secrets[0]; got.Rejected != "" || got.Acked != r.VersionInfo || got.Rejections != 1 {
			return "still rejected"
		}
		return ""
	})
}

// The names of a rejection count (identity §4.3), and what was rejected does not come back with the new ones.
func TestSotWRejectionWithOtherNames(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.sotw()
	s.ask(nil, "default")
	s.reject(s.next(), "no", "default", "ROOTCA")
	if got := namesOf(t, s.next()); got != "ROOTCA" {
		t.Errorf("got %q", got)
	}
}

func TestSotWNamesChanged(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.sotw()
	s.ask(nil, "default")
	r := s.next()
	s.ask(r, "default")
	s.ask(r, "default", "ROOTCA")
	r = s.next()
	if got := namesOf(t, r); got != "ROOTCA default" { // roots first
		t.Errorf("got %q", got)
	}
	s.ask(r, "ROOTCA")
	r = s.next()
	if got := namesOf(t, r); got != "ROOTCA" {
		t.Errorf("got %q", got)
	}
	s.ask(r, "ROOTCA")
	f.newIdentity(payment)
	f.quiet(s) // the identity is not subscribed to any more
}

func TestSotWNamesEmptied(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.ask(s.next())
	f.subscribed(0)
	f.newIdentity(payment)
	f.quiet(s)
}

func TestSotWEverything(t *testing.T) {
	for _, names := range [][]string{nil, {""}, {"*"}} {
		f := start(t, nil)
		f.newIdentity(payment)
		f.newIdentity(order) // not the caller's
		f.setBundle(1, nil)
		s := f.sotw()
		s.ask(nil, names...)
		r := s.next()
		if got := namesOf(t, r); got != "spiffe://cluster.local "+payment {
			t.Errorf("%q: got %q", names, got)
		}
		s.ask(r, names...) // and goes on so
		f.entries.set(sds.Entitlement{Identities: []spiffeid.ID{id(t, payment), id(t, order)}, Bundles: true}, nil)
		if got := namesOf(t, s.next()); got != "spiffe://cluster.local "+order+" "+payment {
			t.Errorf("%q: got %q", names, got)
		}
	}
}

func TestSotWContentChange(t *testing.T) {
	f := start(t, nil)
	i := f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	first := s.next()
	s.ask(first, "default")
	f.setIdentity(i) // equal bytes
	f.quiet(s)
	j := f.newIdentity(payment)
	second := s.next()
	if second.VersionInfo == first.VersionInfo || second.Nonce == first.Nonce || !bytes.Equal(chainOf(secretsOf(t, second)[0]), pemOf(j.Chain...)) {
		t.Errorf("after %v: %v", first, second)
	}
}

// The bundle's version goes up and the roots stay: nothing is pushed, and the client counts as having the later version.
func TestSotWEqualBytesOfLaterBundle(t *testing.T) {
	f := start(t, nil)
	f.setBundle(1, nil)
	s := f.sotw()
	s.ask(nil, "ROOTCA")
	s.ask(s.next(), "ROOTCA")
	eventually(t, func() string { return f.follows(1) })
	f.setBundle(2, nil)
	eventually(t, func() string { return f.follows(2) })
	f.setBundle(3, func(b *sds.Bundle) { b.Roots = append(b.Roots, newIssuer(t, "next", nil).cert) })
	s.next()
	if wrong := f.follows(2); wrong != "" { // not acknowledged
		t.Error(wrong)
	}
}

func TestSotWNotThereYet(t *testing.T) {
	f := start(t, func(c *sds.Config) {
		c.Why = func(i spiffeid.ID) string {
			if i.Path() != "" {
				return "the authority does not answer"
			}
			return ""
		}
	})
	s := f.sotw()
	s.ask(nil, "default", "ROOTCA")
	eventually(t, func() string {
		streams := f.server.Inventory().Snapshot().Streams
		if len(streams) != 1 || len(streams[0].Secrets) != 2 {
			return "not in the inventory"
		}
		got := streams[0].Secrets
		if got[0].Waiting != "the bundle of cluster.local is not here yet" || got[1].Waiting != "the authority does not answer" || got[0].Since.IsZero() {
			return "not waiting: " + got[0].Waiting + got[1].Waiting
		}
		return ""
	})
	f.newIdentity(payment)
	r := s.next()
	if got := namesOf(t, r); got != "default" { // one missing secret does not hold the other
		t.Errorf("got %q", got)
	}
	f.setBundle(1, nil)
	if got := namesOf(t, s.next()); got != "ROOTCA default" {
		t.Errorf("got %q", got)
	}
	if got := f.only().Secrets[1]; got.Waiting != "" || !got.Since.IsZero() {
		t.Errorf("still waiting: %+v", got)
	}
}

func TestSotWRightsLost(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	s.ask(s.next(), "default")
	f.entries.set(sds.Entitlement{Reason: "uid 1001 matches no entry of workloads: add one"}, nil)
	if told := s.end(codes.PermissionDenied); strings.Contains(told, "uid 1001") {
		t.Errorf("the caller was told %q", told)
	}
	f.denied("uid 1001 matches no entry of workloads: add one", sds.ReasonNoEntry)
}

// denied makes sure that the reason is in the log and in the inventory.
func (f *fixture) denied(detail string, reason sds.Reason) {
	f.t.Helper()
	if log := f.log.String(); !strings.Contains(log, detail) {
		f.t.Errorf("the log lacks the reason %q:\n%s", detail, log)
	}
	for _, r := range f.server.Inventory().Snapshot().Refusals {
		if r.Detail == detail && r.Reason == reason {
			return
		}
	}
	f.t.Errorf("the inventory lacks %s %q: %+v", reason, detail, f.server.Inventory().Snapshot().Refusals)
}

func TestSotWEverythingLost(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.sotw()
	s.ask(nil)
	s.ask(s.next())
	f.entries.set(sds.Entitlement{Bundles: true}, nil)
	s.end(codes.PermissionDenied)
}

func TestSotWRefused(t *testing.T) {
	for name, test := range map[string]struct {
		names  []string
		answer sds.Entitlement
		err    error
		code   codes.Code
		reason sds.Reason
	}{
		"no entry":            {[]string{"default"}, sds.Entitlement{Reason: "no entry"}, nil, codes.PermissionDenied, sds.ReasonNoEntry},
		"no entry, all":       {nil, sds.Entitlement{Reason: "no entry"}, nil, codes.PermissionDenied, sds.ReasonNoEntry},
		"no entry, no name":   {[]string{"x y"}, sds.Entitlement{Reason: "no entry"}, nil, codes.PermissionDenied, sds.ReasonNoEntry},
		"another's identity":  {[]string{order}, sds.Entitlement{Identities: []spiffeid.ID{id(t, payment)}, Bundles: true}, nil, codes.PermissionDenied, sds.ReasonNotTheirs},
		"no bundles":          {[]string{"ROOTCA"}, sds.Entitlement{Identities: []spiffeid.ID{id(t, payment)}}, nil, codes.PermissionDenied, sds.ReasonNotTheirs},
		"bundles only":        {[]string{"default"}, sds.Entitlement{Bundles: true}, nil, codes.PermissionDenied, sds.ReasonNotTheirs},
		"no name of ours":     {[]string{"file-root:system"}, sds.Entitlement{Bundles: true}, nil, codes.InvalidArgument, sds.ReasonUnknownName},
		"cannot be told now":  {[]string{"default"}, sds.Entitlement{}, errors.New("still reading"), codes.Unavailable, sds.ReasonUncertain},
		"more names than fit": {strings.Split(strings.Repeat("a,", 300), ","), sds.Entitlement{Bundles: true}, nil, codes.InvalidArgument, sds.ReasonRequest},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, nil)
			f.newIdentity(payment)
			f.newIdentity(order)
			f.setBundle(1, nil)
			f.entries.set(test.answer, test.err)
			s := f.sotw()
			s.ask(nil, test.names...)
			s.end(test.code)
			refusals := f.server.Inventory().Snapshot().Refusals
			if len(refusals) != 1 || refusals[0].Reason != test.reason || refusals[0].Times != 1 {
				t.Errorf("inventory: %+v", refusals)
			}
		})
	}
}

// One mistaken name does not take the others down; it shows.
func TestSotWRefusedBesideOthers(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default", order)
	if got := namesOf(t, s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
	f.denied("the caller may not have "+order, sds.ReasonNotTheirs)
	if got := f.only().Secrets; got[1].Name != order || got[1].Refused == "" {
		t.Errorf("inventory: %+v", got)
	}
}

func TestSotWWrongType(t *testing.T) {
	f := start(t, nil)
	s := f.sotw()
	s.send(&discoveryv3.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", ResourceNames: []string{"default"}})
	if told := s.end(codes.InvalidArgument); !strings.Contains(told, "Cluster") {
		t.Errorf("told %q", told)
	}
}

// Both change at once: streams with the roots get them before those with the identity get that (identity §4.3), even
// those that were opened first. What counts is the order on the connection.
func TestSotWRootsBeforeLeaves(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	wire := &logBuffer{}
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", f.path)
			return recorded{c, wire}, err
		})))
	t.Cleanup(func() { _ = conn.Close() })
	f.client = secretv3.NewSecretDiscoveryServiceClient(conn)
	var all []script
	for _, name := range []string{"default", "default", "default", "ROOTCA", "default"} {
		s := f.sotw()
		s.ask(nil, name)
		s.ask(s.next(), name)
		all = append(all, s)
	}
	next := newIssuer(t, "next", nil)
	leaf := next.leaf(t, payment, nil)
	f.setBundle(2, func(b *sds.Bundle) { b.Roots = []*x509.Certificate{f.root.cert, next.cert} })
	f.setIdentity(leaf)
	for _, s := range all {
		s.next()
	}
	roots, first := strings.Index(wire.String(), string(pemOf(next.cert))), strings.Index(wire.String(), string(pemOf(leaf.Chain...)))
	if roots < 0 || first < roots {
		t.Errorf("roots at %d, the first leaf at %d", roots, first)
	}
}

// recorded is a connection that keeps what is read from it.
type recorded struct {
	net.Conn
	wire *logBuffer
}

func (r recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	_, _ = r.wire.Write(b[:n])
	return n, err
}

// A client that reads but does not answer is not sent more than gRPC queues without waiting, and gets the latest when it
// answers.
func TestSotWUnanswered(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.sotw()
	s.ask(nil, "default")
	last := s.next()
	for range 100 {
		f.newIdentity(payment)
	}
	wanted := f.newIdentity(payment)
	f.arrives("default", wanted)
	n := 0
	for done := false; !done; {
		select {
		case last = <-s.in:
			n++
		default:
			done = true
		}
	}
	if n >= 60 {
		t.Errorf("%d responses without an answer", n)
	}
	s.ask(last, "default")
	for !bytes.Equal(chainOf(secretsOf(t, last)[0]), pemOf(wanted.Chain...)) {
		last = s.next()
		s.ask(last, "default")
	}
}

// arrives waits until an identity arrives on a stream of its own. Streams that open while others wait for a version may get
// those before it.
func (f *fixture) arrives(name string, wanted *sds.Identity) {
	f.t.Helper()
	s := f.sotw()
	s.ask(nil, name)
	for r := s.next(); !bytes.Equal(chainOf(secretsOf(f.t, r)[0]), pemOf(wanted.Chain...)); r = s.next() {
		s.ask(r, name)
	}
}
