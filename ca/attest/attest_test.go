package attest_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
)

const payment = "spiffe://td.test/ns/coffee-shop/sa/payment"

// everything is an attestor with every method of the wire.
type everything struct {
	*attest.Attestor
	clock *fakeClock
	store *memory
	root  *authority
	oidc  *oidc
}

func newEverything(t testing.TB) *everything {
	t.Helper()
	e := &everything{clock: newClock(), store: newMemory(), root: newAuthority(t, "root"), oidc: newOIDC(t, nil)}
	certificates, err := attest.NewCertificates(attest.CertificatesConfig{
		TrustDomain: domain(t), Bundle: func() *ca.Bundle { return bundle(e.root.cert) }, Ledger: e.store, Deny: denied{}, Now: e.clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := attest.NewOIDC(attest.OIDCConfig{
		TrustDomain: domain(t), Issuers: []attest.Issuer{{Issuer: issuer, Audiences: []string{"istio-ca"}, JWKSFile: e.oidc.file}},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Attestor, err = attest.New(attest.Config{
		TrustDomain: domain(t), Certificates: certificates, OIDC: tokens, JoinTokens: e.store, Now: e.clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *everything) presented(t testing.TB, uri string) *attest.Presented {
	t.Helper()
	return attest.Present([]*x509.Certificate{e.root.leaf(t, nil, uri)})
}

func TestBearerParsing(t *testing.T) {
	e := newEverything(t)
	good := token(t, e.oidc.key, 0, nil)
	for _, test := range []struct {
		name   string
		values []string
		want   attest.Reason // empty: accepted
	}{
		{"as usual", []string{"Bearer " + good}, ""},
		{"lower case", []string{"bearer " + good}, ""},
		{"upper case", []string{"BEARER " + good}, ""},
		{"two spaces", []string{"Bearer  " + good}, ""},
		{"the same twice", []string{"Bearer " + good, "Bearer " + good}, ""},
		{"two different", []string{"Bearer " + good, "Bearer other"}, attest.BadAuthorization},
		{"two spellings", []string{"Bearer " + good, "bearer " + good}, attest.BadAuthorization},
		{"none", nil, attest.NoCredentials},
		{"empty", []string{""}, attest.BadAuthorization},
		{"scheme alone", []string{"Bearer"}, attest.BadAuthorization},
		{"scheme and space", []string{"Bearer "}, attest.BadAuthorization},
		{"another scheme", []string{"Basic YTpi"}, attest.BadAuthorization},
		{"no scheme", []string{good}, attest.BadAuthorization},
		{"tab", []string{"Bearer\t" + good}, attest.BadAuthorization},
		{"space within", []string{"Bearer " + good[:9] + " " + good[9:]}, attest.BadAuthorization},
		{"space after", []string{"Bearer " + good + " "}, attest.BadAuthorization},
		{"two joined by a comma", []string{"Bearer " + good + ",Bearer " + good}, attest.BadAuthorization},
		{"NUL", []string{"Bearer " + good + "\x00"}, attest.BadAuthorization},
		{"too long", []string{"Bearer " + strings.Repeat("a", 16<<10)}, attest.BadAuthorization},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := e.Attest(t.Context(), attest.Evidence{Authorization: test.values})
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefusal(t, err, test.want)
		})
	}
}

func TestTwoProofs(t *testing.T) {
	for _, test := range []struct {
		name        string
		certificate string
		token       func(*everything) string
		want        attest.Reason // empty: accepted as the certificate's identity
		note        string        // in the caller's detail
	}{
		{"they agree", order, func(e *everything) string { return token(t, e.oidc.key, 0, nil) }, "", "also oidc:"},
		{"they disagree", payment, func(e *everything) string { return token(t, e.oidc.key, 0, nil) }, attest.Disagreement, ""},
		{"a join token agrees", order, func(e *everything) string { return e.store.token(t, order).Reveal() }, "", "also join_token:"},
		{"a join token disagrees", order, func(e *everything) string { return e.store.token(t, payment).Reveal() }, attest.Disagreement, ""},
		{"the token is stale, as on a machine that joined long ago", order,
			func(e *everything) string {
				return token(t, e.oidc.key, 0, map[string]any{"exp": start.Add(-time.Hour).Unix()})
			},
			"", "set aside: token_expired"},
		{"the join token was used", order, func(*everything) string { return attest.NewJoinToken().Reveal() }, "", "set aside: join_token_refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEverything(t)
			caller, err := e.Attest(t.Context(), attest.Evidence{
				Authorization: bearer(test.token(e)), Certificate: e.presented(t, test.certificate),
			})
			if test.want != "" {
				wantRefusal(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if caller.ID != id(t, test.certificate) || caller.Method != attest.MethodCertificate || !strings.Contains(caller.Detail, test.note) {
				t.Errorf("caller %+v", caller)
			}
		})
	}
	t.Run("a bad certificate is not made good by a token", func(t *testing.T) {
		e := newEverything(t)
		_, err := e.Attest(t.Context(), attest.Evidence{
			Authorization: bearer(token(t, e.oidc.key, 0, nil)),
			Certificate:   attest.Present([]*x509.Certificate{newAuthority(t, "other").leaf(t, nil, order)}),
		})
		wantRefusal(t, err, attest.CertificateInvalid)
	})
}

func TestMethodsThatAreOff(t *testing.T) {
	e := newEverything(t)
	only, err := attest.New(attest.Config{TrustDomain: domain(t), JoinTokens: e.store, Now: e.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	_, err = only.Attest(t.Context(), attest.Evidence{Authorization: bearer(token(t, e.oidc.key, 0, nil))})
	wantRefusal(t, err, attest.MethodOff)
	_, err = only.Attest(t.Context(), attest.Evidence{Certificate: e.presented(t, order)})
	wantRefusal(t, err, attest.NoCredentials)
	_, err = e.oidc.attest(t, attest.NewJoinToken().Reveal())
	wantRefusal(t, err, attest.MethodOff)
}

// TestGrant is the node authorizer of identity §2.3, for nodes that hold a join token.
func TestGrant(t *testing.T) {
	const node, other = "spiffe://td.test/node/n1", "spiffe://td.test/ns/other/sa/other"
	e := newEverything(t)
	joined, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(e.store.token(t, node, order, payment).Reveal())})
	if err != nil {
		t.Fatal(err)
	}
	// Another node came with the same first identity: what its token grants is not for this one.
	if _, err := e.Attest(t.Context(), attest.Evidence{Authorization: bearer(e.store.token(t, node, other).Reveal())}); err != nil {
		t.Fatal(err)
	}
	renewed := func(caller string) *attest.Caller {
		leaf := e.root.leaf(t, nil, node)
		e.store.record(leaf, id(t, node), caller)
		c, err := e.Attest(t.Context(), attest.Evidence{Certificate: attest.Present([]*x509.Certificate{leaf})})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := renewed(joined.String())
	later := renewed(first.String())
	if first.String() != "client_cert:"+joined.String() || later.String() != first.String() {
		t.Errorf("callers %s, %s: the line does not lead to %s", first, later, joined)
	}
	byToken, err := e.oidc.attest(t, token(t, e.oidc.key, 0, nil))
	if err != nil {
		t.Fatal(err)
	}
	otherLine := renewed("oidc:system:serviceaccount:a:b@" + issuer) // the node's name, but nobody's join token

	for _, test := range []struct {
		name   string
		caller *attest.Caller
		asked  string
		want   string // empty: not granted
	}{
		{"joining, nothing asked", joined, "", node},
		{"joining, its own", joined, node, node},
		{"joining, another of its token", joined, payment, payment},
		{"joining, none of its token", joined, other, ""},
		{"renewing, nothing asked", first, "", node},
		{"renewing, another of its token", first, order, order},
		{"renewing again, another of its token", later, payment, payment},
		{"renewing, none of its token", first, other, ""},
		{"by a service account, nothing asked", byToken, "", order},
		{"by a service account, its own", byToken, order, order},
		{"by a service account, another", byToken, payment, ""},
		{"a certificate of the node's name that no join token led to", otherLine, order, ""},
		{"foreign trust domain", joined, "spiffe://other.test/ns/coffee-shop/sa/order", ""},
		{"empty trust domain", joined, "spiffe:///ns/coffee-shop/sa/order", ""},
		{"comma", joined, "spiffe://td.test,evil/ns/coffee-shop/sa/order", ""},
		{"two joined by a comma", joined, order + "," + payment, ""},
		{"NUL", joined, order + "\x00", ""},
		{"dot dot", joined, "spiffe://td.test/ns/x/../coffee-shop/sa/order", ""},
		{"escape", joined, "spiffe://td.test/ns/coffee-shop/sa/%6frder", ""},
		{"space", joined, " " + order, ""},
		{"upper case scheme", joined, "SPIFFE://td.test/ns/coffee-shop/sa/order", ""},
		{"trailing slash", joined, order + "/", ""},
		{"trust domain alone", joined, "spiffe://td.test", ""},
		{"SPIRE's own", joined, "spiffe://td.test/spire/server", ""},
		{"empty account", joined, "spiffe://td.test/ns/coffee-shop/sa/", ""},
		{"too long", joined, "spiffe://td.test/" + strings.Repeat("a", 2048), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := e.Grant(t.Context(), test.caller, test.asked)
			if test.want == "" {
				wantRefusal(t, err, attest.NotGranted)
				if kind := attest.ReasonOf(err).Kind(); kind != attest.Denied {
					t.Errorf("kind %v, want Denied", kind)
				}
				if !got.IsZero() {
					t.Errorf("identity %s beside an error", got)
				}
				return
			}
			if err != nil || got != id(t, test.want) {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	t.Run("store unavailable", func(t *testing.T) {
		e.store.breakDown()
		_, err := e.Grant(t.Context(), first, order)
		wantRefusal(t, err, attest.StoreUnavailable)
	})
}

func TestReasonsHaveAKind(t *testing.T) {
	unavailable := 0
	for _, r := range attest.Reasons() {
		if r == "" || strings.ToLower(string(r)) != string(r) {
			t.Errorf("reason %q is no label", r)
		}
		if r.Kind() == attest.Unavailable {
			unavailable++
		}
	}
	if unavailable != 2 {
		t.Errorf("%d reasons ask the caller to come again; a refused credential must not (identity §11 surprise 8)", unavailable)
	}
	if attest.ReasonOf(ca.ErrNotFound) != "" {
		t.Error("another package's error has a reason")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]attest.Config{
		"no trust domain":                {JoinTokens: newMemory()},
		"trust domain with a path":       {TrustDomain: id(t, order), JoinTokens: newMemory()},
		"no method":                      {TrustDomain: domain(t)},
		"peer rule for everybody":        {TrustDomain: domain(t), Peers: []attest.PeerRule{{ID: id(t, order)}}},
		"peer rule without an identity":  {TrustDomain: domain(t), Peers: []attest.PeerRule{{Path: "/bin/sh"}}},
		"peer rule with a relative path": {TrustDomain: domain(t), Peers: []attest.PeerRule{{ID: id(t, order), Path: "bin/sh"}}},
	} {
		if _, err := attest.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
