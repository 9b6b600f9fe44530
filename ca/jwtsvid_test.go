package ca_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/writ-auth/writ/ca"
)

func withJWT(c *ca.Config) { c.JWT, c.JWTIssuer = true, "https://issuer.example" }

// kids are the identifiers of the keys that are published.
func kids(t *testing.T, a *bench) []string {
	t.Helper()
	var set struct {
		Keys []struct{ Kid, Use string }
	}
	if err := json.Unmarshal(a.JWTKeys().JWKS, &set); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, k := range set.Keys {
		if k.Use != "" {
			t.Errorf("key %s has use %q", k.Kid, k.Use)
		}
		out = append(out, k.Kid)
	}
	return out
}

// validated reads a token as go-spiffe's users do. go-spiffe goes by the machine's clock.
func validated(a *bench, token, audience string) (*jwtsvid.SVID, error) {
	td := spiffeid.RequireTrustDomainFromString("cluster.local")
	bundle, err := jwtbundle.Parse(td, a.JWTKeys().JWKS)
	if err != nil {
		return nil, err
	}
	return jwtsvid.ParseAndValidate(token, bundle, []string{audience})
}

func TestMintedJWTVerifies(t *testing.T) {
	a := newAuthority(t, withJWT, func(c *ca.Config) { c.Now = nil })
	id := mustID(t, "spiffe://cluster.local/ns/coffee-shop/sa/order")
	minted, err := a.MintJWT(t.Context(), id, []string{"payment", "inventory", "payment"})
	if err != nil {
		t.Fatal(err)
	}
	svid, err := validated(a, minted.Token, "payment")
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID.String() != id.String() || !slices.Equal(svid.Audience, []string{"payment", "inventory"}) {
		t.Errorf("ID %s, audience %v", svid.ID, svid.Audience)
	}
	if left := time.Until(svid.Expiry); left > ca.DefaultJWTTTL || left < ca.DefaultJWTTTL-time.Minute {
		t.Errorf("lives for %v", left)
	}
	if svid.Claims["iss"] != "https://issuer.example" || minted.KeyID != kids(t, a)[0] {
		t.Errorf("claims %v, key %s", svid.Claims, minted.KeyID)
	}
	if _, err := validated(a, minted.Token, "barista"); err == nil {
		t.Error("another audience takes it")
	}
	if strings.Contains(minted.String(), minted.Token) {
		t.Error("its text shows the token")
	}
}

func TestMintJWTRefuses(t *testing.T) {
	a := newAuthority(t, withJWT)
	order := "spiffe://cluster.local/ns/coffee-shop/sa/order"
	nine := strings.Fields(strings.Repeat("x ", 9))
	for _, test := range []struct {
		name, id  string
		audiences []string
		want      error
	}{
		{"no audience", order, nil, ca.ErrAudience},
		{"nine audiences", order, nine, ca.ErrAudience},
		{"an empty audience", order, []string{"a", ""}, ca.ErrAudience},
		{"a long audience", order, []string{strings.Repeat("a", 513)}, ca.ErrAudience},
		{"a line feed", order, []string{"a\nb"}, ca.ErrAudience},
		{"no UTF-8", order, []string{"a\xff"}, ca.ErrAudience},
		{"another trust domain", "spiffe://other.test/ns/a/sa/b", []string{"a"}, nil},
		{"a trust domain", "spiffe://cluster.local", []string{"a"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			minted, err := a.MintJWT(t.Context(), mustID(t, test.id), test.audiences)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, %v", minted, err)
			}
		})
	}
	t.Run("revoked", func(t *testing.T) {
		err := a.Revoke(t.Context(), ca.Revocation{ID: mustID(t, order), Reason: "unspecified", By: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.MintJWT(t.Context(), mustID(t, order), []string{"a"}); !errors.Is(err, ca.ErrRevoked) {
			t.Error(err)
		}
	})
	t.Run("off", func(t *testing.T) {
		off := newAuthority(t)
		if _, err := off.MintJWT(t.Context(), mustID(t, order), []string{"a"}); !errors.Is(err, ca.ErrNoJWT) || off.JWTKeys() != nil {
			t.Error(err)
		}
	})
}

// TestJWTKeysRotate follows the keys through a month: a key is published before it signs, and stays until the last token
// it signed has ended. A restart and another replica have the same keys.
func TestJWTKeysRotate(t *testing.T) {
	a := newAuthority(t, withJWT)
	id := mustID(t, "spiffe://cluster.local/ns/coffee-shop/sa/order")
	first := a.JWTKeys().Version
	published := map[string]time.Time{}
	signers := map[string]bool{}
	var recent []struct {
		kid string
		end time.Time
	}
	for range 30 * 24 {
		a.clock.advance(time.Hour)
		if err := a.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := a.clock.now()
		listed := kids(t, a)
		for _, kid := range listed {
			if _, known := published[kid]; !known {
				published[kid] = now
			}
		}
		minted, err := a.MintJWT(t.Context(), id, []string{"x"})
		if err != nil {
			t.Fatal(err)
		}
		if !signers[minted.KeyID] && len(signers) > 0 && now.Sub(published[minted.KeyID]) < time.Hour {
			t.Errorf("key %s signs %v after it was published", minted.KeyID, now.Sub(published[minted.KeyID]))
		}
		signers[minted.KeyID] = true
		recent = append(recent, struct {
			kid string
			end time.Time
		}{minted.KeyID, minted.Expires})
		for _, r := range recent {
			if now.Before(r.end) && !slices.Contains(listed, r.kid) {
				t.Errorf("key %s went before its last token", r.kid)
			}
		}
		if len(listed) > 2 {
			t.Errorf("%d keys at once", len(listed))
		}
	}
	if len(signers) != 5 {
		t.Errorf("%d keys signed in 30 days, want 5", len(signers))
	}
	again := a.reopen(t)
	if again.JWTKeys().Version != a.JWTKeys().Version || a.JWTKeys().Version <= first || !slices.Equal(kids(t, again), kids(t, a)) {
		t.Errorf("after a restart: version %d, %v; before: %d, %v", again.JWTKeys().Version, kids(t, again), a.JWTKeys().Version, kids(t, a))
	}
}
