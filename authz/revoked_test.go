package authz_test

import (
	"testing"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/policy"
)

// revocations is a deny list by hand.
type revocations struct {
	id     string
	serial [16]byte
	key    [32]byte
}

func (r *revocations) ID(id string) bool           { return id == r.id }
func (r *revocations) Serial(serial [16]byte) bool { return serial == r.serial && serial != [16]byte{} }
func (r *revocations) Key(key [32]byte) bool       { return key == r.key && key != [32]byte{} }

// TestRevokedIsDeniedBeforeEverything: the kill switch comes before all other layers and needs no restart.
func TestRevokedIsDeniedBeforeEverything(t *testing.T) { // not parallel: it counts allocations
	snap := policy.NewSnapshot(policy.Decode("t.yaml", []byte(named("foo", "all", "{rules: [{}]}"))), policy.Mesh{})
	bound, err := snap.Resolve(policy.Workload{Namespace: "foo", Labels: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	list := &revocations{}
	engine := &authz.Engine{Revoked: list}
	request := &policy.Request{
		Names: []string{"spiffe://td/ns/foo/sa/web"}, Peer: &policy.PeerCertificate{Serial: [16]byte{1}, KeyHash: [32]byte{2}},
		Method: "GET", HasMethod: true, Path: "/", RawPath: "/",
	}
	var d authz.Decision
	decide := func(r *policy.Request) authz.Decision {
		engine.Decide(t.Context(), snap, bound, r, &d)
		return d
	}
	if d := decide(request); !d.Allow {
		t.Fatalf("nothing is revoked: %+v", d.Reason)
	}
	for name, revoke := range map[string]revocations{
		"identity":    {id: "spiffe://td/ns/foo/sa/web"},
		"certificate": {serial: [16]byte{1}},
		"key":         {key: [32]byte{2}},
	} {
		*list = revoke
		if d := decide(request); d.Allow || d.Status != 403 || d.Layer != authz.LayerRevoked || d.Reason != authz.ReasonRevoked {
			t.Errorf("%s revoked: %v %s %s", name, d.Allow, d.Layer, d.Reason)
		}
		if d := decide(&policy.Request{Names: []string{"spiffe://td/ns/foo/sa/other"}, Method: "GET", HasMethod: true, Path: "/", RawPath: "/"}); !d.Allow {
			t.Errorf("%s revoked: another caller is denied as well", name)
		}
	}
	*list = revocations{id: "spiffe://td/ns/foo/sa/web"}
	if n := testing.AllocsPerRun(100, func() { engine.Decide(t.Context(), snap, bound, request, &d) }); n != 0 {
		t.Errorf("the kill switch allocates %v times", n)
	}
}
