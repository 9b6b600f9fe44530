package e2e_test

import (
	"testing"

	"github.com/writ-auth/writ/internal/testkit"
)

// TestTokenMetadata: with authz.jwt: metadata Envoy's own filter verifies the tokens and writ decides by the claims it
// passes on, as it decides by those it verified itself.
func TestTokenMetadata(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	idp, other := b.identityProvider(t), b.identityProvider(t)
	apps := parityApplications(idp, other)
	documents := ""
	for _, app := range apps {
		documents += app.documents(t)
	}
	b.policy(t, "tokens.yaml", documents)
	b.serve(t, "authz.sock", "jwt: metadata")
	envoy := b.tokenEnvoy(t, echo(t), apps, metadataListener, nativeListener, rawListener)
	client := plain(t)

	sign := func(claims object) []string {
		return []string{"authorization: Bearer " + idp.Sign(testkit.Token{Claims: claims})}
	}
	good := sign(object{"sub": "alice"})
	for _, row := range []struct {
		name   string
		app    string
		header []string
		want   string
	}{
		{"no token", "anyone", nil, passed},
		{"no token, one is required", "required", nil, denied},
		{"a good token", "required", good, passed},
		{"a token without a subject", "required", sign(object{}), denied},
		{"an expired token is Envoy's to refuse", "required", sign(object{"sub": "alice", "exp": 1}), expired},
		{"a word of scope", "claims", sign(object{"scope": "orders:write orders:read"}), passed},
		{"part of a word of scope", "claims", sign(object{"scope": "orders:reader"}), denied},
		{"a group of several", "claims", sign(object{"groups": list{"guest", "barista"}}), passed},
		{"a group as text", "claims", sign(object{"groups": "barista"}), passed},
		{"a boolean", "claims", sign(object{"groups": true}), denied},
		{"a spoofed header", "anyone", []string{"x-sub: root"}, passed},
		{"metadata in headers", "required", []string{"envoy.filters.http.jwt_authn: {\"payload\":{\"iss\":\"a\",\"sub\":\"b\"}}"}, denied},
	} {
		t.Run(row.name, func(t *testing.T) {
			native := ask(t, client, envoy, nativeListener, row.app, "GET", "/", row.header...)
			ours := ask(t, client, envoy, metadataListener, row.app, "GET", "/", row.header...)
			checkParity(t, "Envoy", native, row.want)
			compare(t, metadataListener, native, ours)
		})
	}
	// What the filter did not verify does not count: without it in front nobody has a principal, whatever they send.
	checkParity(t, "no filter in front", ask(t, client, envoy, rawListener, "required", "GET", "/", good...), denied)
}
