package sds_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// deltaScript is a client of one DeltaSecrets call.
type deltaScript struct {
	*conversation[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
}

func (f *fixture) delta() deltaScript {
	f.t.Helper()
	return deltaScript{converse(f.t, f.client.DeltaSecrets, summary)}
}

func (s deltaScript) subscribe(names ...string) {
	s.t.Helper()
	s.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: names})
}

func (s deltaScript) ack(r *discoveryv3.DeltaDiscoveryResponse) {
	s.t.Helper()
	s.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: r.Nonce})
}

func (s deltaScript) reject(r *discoveryv3.DeltaDiscoveryResponse, why string) {
	s.t.Helper()
	s.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{Message: why}})
}

// summary lists what a response has, and what it takes back after a minus.
func summary(r *discoveryv3.DeltaDiscoveryResponse) string {
	var list []string
	for _, each := range r.Resources {
		list = append(list, each.Name)
	}
	for _, name := range r.RemovedResources {
		list = append(list, "-"+name)
	}
	return strings.Join(list, " ")
}

func TestDeltaFirstRequest(t *testing.T) {
	f := start(t, nil)
	i := f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default")
	r := s.next()
	if len(r.Resources) != 1 || r.TypeUrl != secretType || r.Nonce == "" {
		t.Fatalf("response: %v", r)
	}
	secret := &tlsv3.Secret{}
	if err := r.Resources[0].Resource.UnmarshalTo(secret); err != nil {
		t.Fatal(err)
	}
	if r.Resources[0].Name != "default" || r.Resources[0].Version == "" || secret.Name != "default" || !bytes.Equal(chainOf(secret), pemOf(i.Chain...)) {
		t.Errorf("got %v", r.Resources[0])
	}
	s.ack(r)
	f.acknowledged(r.Resources[0].Version)
	f.quiet(s)
	if got := f.only(); got.Protocol != "delta" {
		t.Errorf("inventory: %+v", got)
	}
}

// A client that comes back says what it has. What is current is not sent again, whatever nonce it carries.
func TestDeltaInitialVersions(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.delta()
	s.subscribe("default", "ROOTCA")
	first := s.next()
	if got := summary(first); got != "ROOTCA default" {
		t.Fatalf("got %q", got)
	}
	s = f.delta()
	s.send(&discoveryv3.DeltaDiscoveryRequest{
		ResourceNamesSubscribe: []string{"default", "ROOTCA"}, ResponseNonce: "77",
		InitialResourceVersions: map[string]string{"ROOTCA": first.Resources[0].Version, "default": "older"},
	})
	if got := summary(s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
	eventually(t, func() string {
		for _, c := range f.server.Inventory().Consumers() {
			if c.Connected && c.Bundle == 1 {
				return ""
			}
		}
		return "what it has is not believed"
	})
}

func TestDeltaStaleNonce(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.delta()
	s.subscribe("default")
	first := s.next()
	f.newIdentity(payment)
	second := s.next()
	s.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: "never", ResourceNamesSubscribe: []string{"ROOTCA"}}) // the names hold
	if got := summary(s.next()); got != "ROOTCA" {
		t.Errorf("got %q", got)
	}
	if got := f.only().Secrets[1]; got.Acked != "" {
		t.Errorf("a stale request was taken for an answer: %+v", got)
	}
	s.ack(first) // every response has its own answer
	s.ack(second)
	eventually(t, func() string {
		if got := f.only().Secrets[1]; got.Acked != second.Resources[0].Version {
			return "not acknowledged"
		}
		return ""
	})
}

func TestDeltaRejection(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default")
	r := s.next()
	s.reject(r, "bad key")
	s.subscribe("default", order) // not even when asked again
	f.subscribed(2)
	if got := summary(s.next()); got != "-"+order {
		t.Errorf("got %q", got)
	}
	f.quiet(s)
	if got := f.only().Secrets[0]; got.Rejections != 1 || got.Rejected != r.Resources[0].Version || got.Error != "bad key" {
		t.Errorf("inventory: %+v", got)
	}
	f.newIdentity(payment)
	s.ack(s.next())
	eventually(t, func() string {
		if f.only().Secrets[0].Rejected != "" {
			return "still rejected"
		}
		return ""
	})
}

func TestDeltaSubscriptions(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.delta()
	s.subscribe("default")
	s.ack(s.next())
	s.subscribe("ROOTCA")
	r := s.next()
	if got := summary(r); got != "ROOTCA" { // only what is new
		t.Errorf("got %q", got)
	}
	s.ack(r)
	s.subscribe("ROOTCA") // asked again: it lost it
	r = s.next()
	if got := summary(r); got != "ROOTCA" {
		t.Errorf("got %q", got)
	}
	s.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.Nonce, ResourceNamesUnsubscribe: []string{"default"}})
	f.subscribed(1)
	f.newIdentity(payment)
	f.quiet(s)
}

func TestDeltaEverything(t *testing.T) {
	for _, names := range [][]string{nil, {"*"}, {""}} {
		f := start(t, nil)
		f.newIdentity(payment)
		f.setBundle(1, nil)
		s := f.delta()
		s.subscribe(names...)
		r := s.next()
		if got := summary(r); got != "spiffe://cluster.local "+payment {
			t.Errorf("%q: got %q", names, got)
		}
		s.ack(r)
		f.entries.set(sds.Entitlement{Bundles: true}, nil)
		r = s.next()
		if got := summary(r); got != "-"+payment {
			t.Errorf("%q: got %q", names, got)
		}
		s.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: r.Nonce, ResourceNamesUnsubscribe: []string{"*"}})
		f.subscribed(0)
		f.setBundle(2, func(b *sds.Bundle) { b.Roots = append(b.Roots, newIssuer(t, "next", nil).cert) })
		f.quiet(s)
	}
}

func TestDeltaContentChange(t *testing.T) {
	f := start(t, nil)
	i := f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default")
	first := s.next()
	s.ack(first)
	f.setIdentity(i) // equal bytes
	f.quiet(s)
	f.newIdentity(payment)
	if second := s.next(); second.Resources[0].Version == first.Resources[0].Version {
		t.Error("the version is the same")
	}
}

func TestDeltaNotThereYet(t *testing.T) {
	f := start(t, nil)
	s := f.delta()
	s.subscribe("default")
	eventually(t, func() string {
		if got := f.server.Inventory().Snapshot().Streams; len(got) == 0 || len(got[0].Secrets) == 0 || got[0].Secrets[0].Waiting == "" {
			return "not waiting"
		}
		return ""
	})
	f.newIdentity(payment)
	if got := summary(s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
}

// A right that is lost is told by removed_resources, once; the proxy keeps the secret (identity §4.3). When the right is
// back, so is the secret.
func TestDeltaRightsLost(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default")
	s.ack(s.next())
	f.entries.set(sds.Entitlement{Reason: "no entry any more"}, nil)
	r := s.next()
	if got := summary(r); got != "-default" {
		t.Errorf("got %q", got)
	}
	s.ack(r)
	f.newIdentity(payment)
	f.denied("no entry any more", sds.ReasonNoEntry)
	f.entries.set(sds.Entitlement{Identities: []spiffeid.ID{id(t, payment)}}, nil)
	if got := summary(s.next()); got != "default" {
		t.Errorf("got %q", got)
	}
}

func TestDeltaSecretTakenAway(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default")
	s.ack(s.next())
	f.vault.RemoveIdentity(id(t, payment))
	if got := summary(s.next()); got != "-default" {
		t.Errorf("got %q", got)
	}
}

func TestDeltaRefused(t *testing.T) {
	for name, test := range map[string]struct {
		names  []string
		answer sds.Entitlement
		code   codes.Code
	}{
		"no entry":           {[]string{"default"}, sds.Entitlement{Reason: "none"}, codes.PermissionDenied},
		"no entry, all":      {nil, sds.Entitlement{Reason: "none"}, codes.PermissionDenied},
		"another's identity": {[]string{order}, sds.Entitlement{Identities: []spiffeid.ID{id(t, payment)}}, codes.PermissionDenied},
		"no name of ours":    {[]string{"file-cert:a~b"}, sds.Entitlement{Bundles: true}, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, nil)
			f.newIdentity(payment)
			f.newIdentity(order)
			f.entries.set(test.answer, nil)
			s := f.delta()
			s.subscribe(test.names...)
			s.end(test.code)
		})
	}
}

func TestDeltaRefusedBesideOthers(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	s := f.delta()
	s.subscribe("default", order)
	r := s.next()
	if got := summary(r); got != "default -"+order {
		t.Errorf("got %q", got)
	}
	s.ack(r)
	f.newIdentity(payment)
	if got := summary(s.next()); got != "default" { // said once
		t.Errorf("got %q", got)
	}
}

// The bound is of the stream, not of one request.
func TestDeltaTooManyNames(t *testing.T) {
	f := start(t, nil)
	f.entries.set(sds.Entitlement{Bundles: true}, nil)
	s := f.delta()
	for n := range 3 {
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprintf("spiffe://td-%d-%d", n, i)) // bundles that are not here
		}
		s.subscribe(names...)
	}
	s.end(codes.InvalidArgument)
}

func TestDeltaWrongType(t *testing.T) {
	f := start(t, nil)
	s := f.delta()
	s.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.listener.v3.Listener"})
	s.end(codes.InvalidArgument)
}

// Roots go before the identity within one response, too.
func TestDeltaRootsFirst(t *testing.T) {
	f := start(t, nil)
	f.newIdentity(payment)
	f.setBundle(1, nil)
	s := f.delta()
	s.subscribe("default", "writ.bundle", "ALL", "ROOTCA")
	var names []string
	for _, r := range s.next().Resources {
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"ROOTCA", "ALL", "writ.bundle", "default"}) {
		t.Errorf("got %q", names)
	}
}
