package caserver_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// nothing is an authority that has nothing yet.
type nothing struct{}

func (nothing) Status() ca.Status { return ca.Status{} }

func TestCreateToken(t *testing.T) {
	b := newBench(t, options{})
	made, err := b.admin.CreateToken(t.Context(), "unix:uid=0", caserver.CreateTokenRequest{
		IDs: []spiffeid.ID{mustID(t, order), mustID(t, payment)}, TTL: caserver.Duration(time.Minute), Node: "n1",
	})
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(made.Token))
	if !strings.HasPrefix(made.Token, attest.JoinTokenPrefix) || made.Hash != hex.EncodeToString(hash[:]) {
		t.Errorf("token %+v", made)
	}
	if left := made.Expires.Sub(b.now()); left > time.Minute || left < 50*time.Second {
		t.Errorf("it expires in %v", left)
	}
	b.shift.Add(int64(2 * time.Minute))
	_, err = b.do(t, call{bearer: made.Token})
	wantCode(t, err, codes.Unauthenticated)
}

func TestCreateTokenRefused(t *testing.T) {
	b := newBench(t, options{})
	many := []spiffeid.ID{}
	for i := range 257 {
		many = append(many, mustID(t, order+strings.Repeat("x", i)))
	}
	good := []spiffeid.ID{mustID(t, order)}
	for name, r := range map[string]caserver.CreateTokenRequest{
		"no identity":          {},
		"zero identity":        {IDs: []spiffeid.ID{{}}},
		"foreign trust domain": {IDs: []spiffeid.ID{mustID(t, "spiffe://other.test/a")}},
		"trust domain alone":   {IDs: []spiffeid.ID{mustID(t, "spiffe://td.test")}},
		"the server's own":     {IDs: []spiffeid.ID{mustID(t, "spiffe://td.test/writ/authority")}},
		"SPIRE's own":          {IDs: []spiffeid.ID{mustID(t, "spiffe://td.test/spire/server")}},
		"named twice":          {IDs: append(good, good...)},
		"too many":             {IDs: many},
		"negative life":        {IDs: good, TTL: -1},
		"no life to speak of":  {IDs: good, TTL: caserver.Duration(time.Millisecond)},
		"too long a life":      {IDs: good, TTL: caserver.Duration(8 * 24 * time.Hour)},
		"node with a newline":  {IDs: good, Node: "a\nb"},
		"long node":            {IDs: good, Node: strings.Repeat("a", 254)},
	} {
		if _, err := b.admin.CreateToken(t.Context(), "test", r); !errors.Is(err, caserver.ErrInvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestList(t *testing.T) {
	b := newBench(t, options{})
	for range 3 {
		if _, err := b.do(t, call{bearer: b.orderToken(t)}); err != nil {
			t.Fatal(err)
		}
	}
	chain, err := b.do(t, call{bearer: b.joinToken(t, node)})
	if err != nil {
		t.Fatal(err)
	}
	serial := hex.EncodeToString(leafOf(t, chain).SerialNumber.Bytes())
	for _, test := range []struct {
		name string
		r    caserver.ListRequest
		want int
	}{
		{"by identity", caserver.ListRequest{ID: mustID(t, order)}, 3},
		{"by another", caserver.ListRequest{ID: mustID(t, payment)}, 0},
		{"by serial", caserver.ListRequest{Serial: serial, PEM: true}, 1},
		{"by caller", caserver.ListRequest{Caller: "oidc:system:serviceaccount:coffee-shop:order@" + issuer}, 3},
		{"live", caserver.ListRequest{ID: mustID(t, order), Live: true}, 3},
		{"in the future", caserver.ListRequest{After: b.now().Add(time.Hour)}, 0},
		{"one at a time", caserver.ListRequest{ID: mustID(t, order), Limit: 1}, 1},
	} {
		got, err := b.admin.List(t.Context(), test.r)
		if err != nil || len(got.Certificates) != test.want {
			t.Errorf("%s: %d certificates, %v, want %d", test.name, len(got.Certificates), err, test.want)
			continue
		}
		if test.r.PEM && got.Certificates[0].PEM != chain[0] {
			t.Errorf("%s: not the certificate that was issued: %q", test.name, got.Certificates[0].PEM)
		}
		if test.r.Limit == 1 && got.Next == "" {
			t.Errorf("%s: no cursor", test.name)
		}
	}
	for name, r := range map[string]caserver.ListRequest{
		"serial": {Serial: "x"}, "key": {Key: "abc"}, "zero key": {Key: strings.Repeat("0", 64)}, "limit": {Limit: 1001}, "negative limit": {Limit: -1},
	} {
		if _, err := b.admin.List(t.Context(), r); !errors.Is(err, caserver.ErrInvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRevokeAndLift(t *testing.T) {
	b := newBench(t, options{})
	id := mustID(t, order)
	chain, err := b.do(t, call{bearer: b.orderToken(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.admin.Revoke(t.Context(), "test", caserver.RevokeRequest{ID: id, Reason: "privilegeWithdrawn"}); err != nil {
		t.Fatal(err)
	}
	_, err = b.do(t, call{bearer: b.orderToken(t)})
	wantCode(t, err, codes.PermissionDenied)
	list, err := b.admin.Revocations(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id || list[0].Reason != "privilegeWithdrawn" || list[0].By != "test" {
		t.Errorf("deny list %+v, %v", list, err)
	}
	if err := b.admin.Unrevoke(t.Context(), "test", caserver.RevokeRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.do(t, call{bearer: b.orderToken(t)}); err != nil {
		t.Errorf("after it was lifted: %v", err)
	}
	serial := hex.EncodeToString(leafOf(t, chain).SerialNumber.Bytes())
	if err := b.admin.Revoke(t.Context(), "test", caserver.RevokeRequest{Serial: serial, Reason: "keyCompromise"}); err != nil {
		t.Fatal(err)
	}
	err = b.admin.Revoke(t.Context(), "test", caserver.RevokeRequest{ID: id, Reason: "boredom"})
	if !errors.Is(err, caserver.ErrInvalidRequest) || !errors.Is(err, ca.ErrReason) || !strings.Contains(err.Error(), "superseded") {
		t.Errorf("a reason that is none: %v", err)
	}
	for name, r := range map[string]caserver.RevokeRequest{
		"nothing": {}, "two": {ID: id, Serial: serial}, "bad serial": {Serial: "xyz"}, "bad key": {Key: "00"},
	} {
		if err := b.admin.Revoke(t.Context(), "test", r); !errors.Is(err, caserver.ErrInvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.admin.Unrevoke(t.Context(), "test", caserver.RevokeRequest{Serial: serial}); !errors.Is(err, caserver.ErrInvalidRequest) {
		t.Errorf("a certificate's revocation was lifted: %v", err)
	}
	if err := b.admin.Revoke(t.Context(), "test", caserver.RevokeRequest{Serial: "01"}); !errors.Is(err, ca.ErrNotFound) {
		t.Errorf("a certificate that never was: %v", err)
	}
}

// TestRotateGates: a step that would cut somebody off is refused with who it is, and an override needs a reason.
func TestRotateGates(t *testing.T) {
	b := newBench(t, options{})
	if _, err := b.do(t, call{bearer: b.orderToken(t)}); err != nil {
		t.Fatal(err)
	}
	step := func(step ca.Step, override bool, reason string) (caserver.RotateResponse, error) {
		return b.admin.Rotate(t.Context(), "test", caserver.RotateRequest{Step: step, Override: override, Reason: reason})
	}
	for want, s := range map[ca.Phase]ca.Step{ca.PhasePrepared: ca.StepPrepare} {
		if r, err := step(s, false, ""); err != nil || r.Refused != nil || r.Phase != want {
			t.Fatalf("%s: %+v, %v", s, r, err)
		}
	}
	if r, err := step(ca.StepDistribute, false, ""); err != nil || r.Phase != ca.PhaseDistributing || r.Bundle != 2 {
		t.Fatalf("distribute: %+v, %v", r, err)
	}
	r, err := step(ca.StepActivate, false, "")
	if err != nil || r.Refused == nil || r.Phase != ca.PhaseDistributing {
		t.Fatalf("activate although a certificate predates the new root: %+v, %v", r, err)
	}
	if !slices.ContainsFunc(r.Refused.Dependents, func(d caserver.Dependent) bool { return d.Name == order }) {
		t.Errorf("the evidence does not name %s: %+v", order, r.Refused)
	}
	if _, err := step(ca.StepActivate, true, ""); !errors.Is(err, caserver.ErrInvalidRequest) {
		t.Errorf("an override without a reason: %v", err)
	}
	if r, err := step(ca.StepActivate, true, "drill"); err != nil || r.Phase != ca.PhaseActivated {
		t.Errorf("override: %+v, %v", r, err)
	}
	if _, err := step(ca.StepPrepare, false, ""); !errors.Is(err, ca.ErrPhase) {
		t.Errorf("a step that does not fit: %v", err)
	}
	if _, err := step(ca.StepTaint, true, strings.Repeat("x", 1025)); !errors.Is(err, caserver.ErrInvalidRequest) {
		t.Errorf("a long reason: %v", err)
	}
	events, err := b.admin.Events(t.Context(), caserver.EventsRequest{})
	if err != nil || !slices.ContainsFunc(events, func(e caserver.Event) bool { return e.What == "override" && e.By == "test" }) {
		t.Errorf("the override is not in the audit: %+v, %v", events, err)
	}
	if _, err := b.admin.Events(t.Context(), caserver.EventsRequest{Limit: 1001}); !errors.Is(err, caserver.ErrInvalidRequest) {
		t.Errorf("too many events: %v", err)
	}
}

func TestStatusAndBundle(t *testing.T) {
	b := newBench(t, options{})
	s := b.admin.Status(t.Context())
	if !s.Ready || s.TrustDomain != "td.test" || s.Phase != ca.PhaseStable || s.Bundle != 1 || s.Signer == nil || len(s.Roots) != 1 || s.Server == nil {
		t.Errorf("status %+v", s)
	}
	bundle, err := b.admin.Bundle()
	if err != nil || bundle.PEM != string(b.authority.Bundle().PEM) || bundle.Version != 1 {
		t.Errorf("bundle %+v, %v", bundle, err)
	}
	v, err := b.admin.Verify(t.Context())
	if err != nil || v.Broken != "" {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

// TestAdminJSON: what goes over the admin socket comes back as it was.
func TestAdminJSON(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, value := range []any{
		&caserver.CreateTokenRequest{IDs: []spiffeid.ID{mustID(t, order)}, TTL: caserver.Duration(90 * time.Second), Node: "n1"},
		&caserver.RevokeRequest{ID: mustID(t, order), Reason: "keyCompromise"},
		&caserver.ListRequest{ID: mustID(t, order), Live: true, After: at, Limit: 3},
		&caserver.RotateRequest{Step: ca.StepActivate, Override: true, Reason: "drill"},
		&caserver.RotateResponse{Phase: ca.PhaseActivated, Bundle: 2, Refused: &caserver.Refusal{Step: "activate", Dependents: []caserver.Dependent{{Kind: "certificate", Name: "a", Detail: "b"}}}},
		&caserver.Certificate{Serial: "01", ID: mustID(t, order), At: at, NotBefore: at, NotAfter: at},
	} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(value).Elem())
		if err := json.Unmarshal(text, back.Interface()); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !reflect.DeepEqual(value, back.Interface()) {
			t.Errorf("%s came back as %+v", text, back.Elem())
		}
	}
	var d caserver.Duration
	if err := json.Unmarshal([]byte(`"ten minutes"`), &d); err == nil {
		t.Error("a duration that is none was read")
	}
}

func TestNewAdminRefuses(t *testing.T) {
	if _, err := caserver.NewAdmin(caserver.AdminConfig{}); err == nil {
		t.Error("an admin of nothing")
	}
}

func TestNewRefuses(t *testing.T) {
	b := newBench(t, options{})
	a := b.attestor(t, 0)
	p := newProfile(t, "workload", time.Hour)
	good := caserver.Config{
		Authority: b.authority, Attestor: a, Profile: p, ServerProfile: p,
		Names: caserver.Names{ID: mustID(t, "spiffe://td.test/writ/authority"), DNS: []string{"ca.test"}},
	}
	if _, err := caserver.New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*caserver.Config){
		"no authority":        func(c *caserver.Config) { c.Authority = nil },
		"no attestor":         func(c *caserver.Config) { c.Attestor = nil },
		"no profile":          func(c *caserver.Config) { c.Profile = nil },
		"no server profile":   func(c *caserver.Config) { c.ServerProfile = nil },
		"no identity":         func(c *caserver.Config) { c.Names.ID = spiffeid.ID{} },
		"no names":            func(c *caserver.Config) { c.Names.DNS = nil },
		"signer without name": func(c *caserver.Config) { c.Signers = map[string]*ca.Profile{"": p} },
		"signer of nothing":   func(c *caserver.Config) { c.Signers = map[string]*ca.Profile{"x": nil} },
		"negative timeout":    func(c *caserver.Config) { c.Timeout = -1 },
		"negative burst":      func(c *caserver.Config) { c.Burst = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := caserver.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
