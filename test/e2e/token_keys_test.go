package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	keysUnavailable = "Jwks remote fetch is failed"

	// refetchPatience is longer than the half minute that writ leaves between an issuer's answer and a fetch that an
	// unknown kid asks for.
	refetchPatience = patience + 40*time.Second
)

// fetchedRule is a rule whose keys are fetched.
func fetchedRule(idp *testkit.IdentityProvider, more ...string) object {
	r := object{"issuer": idp.Issuer, "jwksUri": idp.JWKSURI()}
	for i := 0; i < len(more); i += 2 {
		r[more[i]] = more[i+1]
	}
	return r
}

// subject is a good token of the provider.
func subject(idp *testkit.IdentityProvider, kid string) string {
	return idp.Sign(testkit.Token{Key: kid, Claims: object{"sub": "alice"}})
}

// tokenAnswer is the answer to a request with the token for the only application, "keys".
func tokenAnswer(t *testing.T, client *http.Client, envoy *testkit.Envoy, token string) response {
	t.Helper()
	return ask(t, client, envoy, rawListener, "keys", "GET", "/", "authorization: Bearer "+token)
}

// TestKeyRotation: an issuer that signs with a new key is asked for it, at most every half minute whatever arrives; while
// it cannot answer, the keys in force stay; and once it has, what it withdrew is worth nothing, remembered or not.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	idp := b.identityProvider(t)
	app := application{name: "keys", rules: []object{fetchedRule(idp)}}
	b.policy(t, "tokens.yaml", app.documents(t))
	authority := b.serve(t, "authz.sock", localKeys)
	envoy := b.tokenEnvoy(t, echo(t), []application{app}, rawListener)
	client := plain(t)

	first := idp.KeyID("ES256")
	old := subject(idp, first)
	checkParity(t, "the first key", tokenAnswer(t, client, envoy, old), passed)
	idp.Fail(testkit.FaultHTML) // a sign-in page, with status 200
	idp.Rotate("ES256")
	idp.Withdraw(first)
	fresh := subject(idp, "")

	checkParity(t, "the first key, which the issuer withdrew a moment ago", tokenAnswer(t, client, envoy, old), passed)
	for i := range 200 {
		stranger := idp.Sign(testkit.Token{Header: object{"kid": fmt.Sprint("unknown-", i)}, Claims: object{"sub": "alice"}})
		checkParity(t, "a key nobody has", tokenAnswer(t, client, envoy, stranger), noKey)
	}
	checkParity(t, "the new key, too soon", tokenAnswer(t, client, envoy, fresh), noKey)
	if n := idp.Fetches(); n != 1 {
		t.Errorf("%d fetches after 200 unknown keys, want 1", n)
	}

	eventuallyWithin(t, refetchPatience, "the issuer is asked again", func() error {
		checkParity(t, "the new key, not fetched", tokenAnswer(t, client, envoy, fresh), noKey)
		if n := idp.Fetches(); n == 1 {
			return fmt.Errorf("%d fetch", n)
		}
		return nil
	})
	checkParity(t, "the first key, after a page instead of keys", tokenAnswer(t, client, envoy, subject(idp, first)), passed)
	if _, err := authority.Get(t.Context(), "/readyz"); err != nil {
		t.Errorf("an issuer that does not answer makes writ not ready: %v", err)
	}

	idp.Fail(testkit.FaultNone)
	eventually(t, "the new key is known", func() error {
		if got := tokenAnswer(t, client, envoy, fresh); got.status != http.StatusOK {
			return fmt.Errorf("got %d %q", got.status, got.body)
		}
		return nil
	})
	checkParity(t, "the withdrawn key, a token seen before", tokenAnswer(t, client, envoy, old), noKey)
	checkParity(t, "the withdrawn key, a new token", tokenAnswer(t, client, envoy, subject(idp, first)), noKey)
	if log := authority.Output.String(); !strings.Contains(log, "keys changed") || !strings.Contains(log, "keys fetched again") {
		t.Error("the log does not tell of it")
	}
}

// TestKeysUnavailable: with an identity provider that has never answered, in each way, its tokens are refused and nobody
// else's; when it does, they count.
func TestKeysUnavailable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	well := b.identityProvider(t)
	faults := map[string]testkit.Fault{
		"down": testkit.FaultDown, "slow headers": testkit.FaultSlowHeaders, "slow body": testkit.FaultSlowBody,
		"503": testkit.FaultUnavailable, "HTML": testkit.FaultHTML, "no keys": testkit.FaultNoKeys,
	}
	ill := map[string]*testkit.IdentityProvider{}
	app := application{name: "keys", rules: []object{fetchedRule(well)}}
	for name, fault := range faults {
		idp := b.identityProvider(t)
		idp.Fail(fault)
		ill[name] = idp
		app.rules = append(app.rules, fetchedRule(idp, "timeout", "1s"))
	}
	b.policy(t, "tokens.yaml", app.documents(t))
	authority := b.serve(t, "authz.sock", localKeys)
	if err := authority.WaitReady(bounded(t)); err != nil {
		t.Fatal(err) // requests without tokens can be decided
	}
	envoy := b.tokenEnvoy(t, echo(t), []application{app}, rawListener)

	for name, idp := range ill {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := plain(t)
			checkParity(t, "no token", ask(t, client, envoy, rawListener, "keys", "GET", "/"), passed)
			checkParity(t, "a good token", tokenAnswer(t, client, envoy, subject(idp, "")), keysUnavailable)
			checkParity(t, "an expired token", tokenAnswer(t, client, envoy, idp.Sign(testkit.Token{Claims: object{"exp": 1}})), expired)
			checkParity(t, "another issuer's", tokenAnswer(t, client, envoy, subject(well, "")), passed)
			idp.Fail(testkit.FaultNone)
			eventuallyWithin(t, 3*patience, "the keys are there, which are asked for once a minute after many failures", func() error {
				if got := tokenAnswer(t, client, envoy, subject(idp, "")); got.status != http.StatusOK {
					return fmt.Errorf("got %d %q", got.status, got.body)
				}
				return nil
			})
			idp.Fail(faults[name]) // and now that there are keys, it does not matter
			checkParity(t, "a good token, later", tokenAnswer(t, client, envoy, subject(idp, "")), passed)
			checkParity(t, "a forged token, later", tokenAnswer(t, client, envoy, idp.Sign(testkit.Token{Forged: true})), fails)
		})
	}
}

// TestKeysOutOfReach: by default nothing on this machine or a private network is asked for keys, nor anybody in clear, nor
// one whose certificate nobody vouches for; the tokens are refused.
func TestKeysOutOfReach(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		settings string
		rule     func(idp *testkit.IdentityProvider) object
	}{
		"loopback is not allowed": {"jwks: {ca: {127.0.0.1: ca.pem}}", func(idp *testkit.IdentityProvider) object { return fetchedRule(idp) }},
		"an unknown CA":           {"jwks: {allow_networks: [127.0.0.1]}", func(idp *testkit.IdentityProvider) object { return fetchedRule(idp) }},
		"http": {localKeys, func(idp *testkit.IdentityProvider) object {
			return object{"issuer": idp.Issuer, "jwksUri": strings.Replace(idp.JWKSURI(), "https:", "http:", 1)}
		}},
		"the name of another host": {localKeys, func(idp *testkit.IdentityProvider) object {
			return object{"issuer": idp.Issuer, "jwksUri": strings.Replace(idp.JWKSURI(), "127.0.0.1", "127.0.0.2", 1)}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			idp := b.identityProvider(t)
			app := application{name: "keys", rules: []object{test.rule(idp)}}
			b.policy(t, "tokens.yaml", app.documents(t))
			b.serve(t, "authz.sock", test.settings)
			envoy := b.tokenEnvoy(t, echo(t), []application{app}, rawListener)
			client := plain(t)
			checkParity(t, "a good token", tokenAnswer(t, client, envoy, subject(idp, "")), keysUnavailable)
			checkParity(t, "no token", ask(t, client, envoy, rawListener, "keys", "GET", "/"), passed)
			if n := idp.Fetches(); n != 0 {
				t.Errorf("keys were fetched %d times", n)
			}
		})
	}
}

// TestRulesReload: rules come, change and go with the documents while requests run.
func TestRulesReload(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	idp := b.identityProvider(t)
	none, open := application{name: "keys", rules: []object{}}, application{name: "keys", rules: []object{fetchedRule(idp)}}
	strict := application{name: "keys", rules: []object{fetchedRule(idp)}}
	strict.rules[0]["audiences"] = list{"api"}
	b.policy(t, "tokens.yaml", none.documents(t))
	b.serve(t, "authz.sock", localKeys)
	envoy := b.tokenEnvoy(t, echo(t), []application{none}, rawListener)
	client := plain(t)
	good, forged := subject(idp, ""), idp.Sign(testkit.Token{Forged: true})
	answers := func(what, withGood, withForged string) {
		t.Helper()
		eventually(t, what, func() error {
			for token, want := range map[string]string{good: withGood, forged: withForged} {
				got := tokenAnswer(t, client, envoy, token)
				if want == passed && got.status != http.StatusOK || want != passed && got.body != want {
					return fmt.Errorf("got %d %q, want %q", got.status, got.body, want)
				}
			}
			return nil
		})
	}
	answers("without a rule nobody looks at tokens", passed, passed)
	b.policy(t, "tokens.yaml", open.documents(t))
	answers("a rule verifies", passed, fails)
	b.policy(t, "tokens.yaml", strict.documents(t))
	answers("a token remembered for one rule is not good for the next", notForUs, notForUs)
	b.policy(t, "tokens.yaml", open.documents(t))
	answers("and back", passed, fails)
	if n := idp.Fetches(); n != 1 {
		t.Errorf("%d fetches for rules that share their keys, want 1", n)
	}
	b.policy(t, "tokens.yaml", none.documents(t))
	answers("and gone", passed, passed)
}

// TestKeysSlowerThanEnvoy: a request that waits for keys is answered before Envoy gives up on the answer. An Envoy with
// failure_mode_allow would otherwise let through who sends a token of an issuer that is slow.
func TestKeysSlowerThanEnvoy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	idp := b.identityProvider(t)
	idp.Fail(testkit.FaultSlowHeaders)
	b.policy(t, "tokens.yaml", tokenDocuments(idp, idp))
	b.serve(t, "authz.sock", localKeys)
	envoy := b.envoy(t, echo(t), database(t),
		edit{"failure_mode_allow: false", "failure_mode_allow: true"},
		edit{"timeout: 0.25s # no answer by then is a denial", "timeout: 0.5s"},
		edit{"num_retries: 3", "num_retries: 0"},
	)
	client := b.caller(t, "customer-service")
	for i := range 5 {
		token := idp.Sign(testkit.Token{Claims: object{"sub": "alice", "aud": "orders", "n": i}})
		got := get(t, client, envoy, "GET", "/open", "authorization: Bearer "+token)
		checkParity(t, "a token whose keys are being fetched", got, keysUnavailable)
	}
}
