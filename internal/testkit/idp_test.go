package testkit_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
	"github.com/writ-auth/writ/jwt"
)

func serveIdP(t *testing.T) (*testkit.IdentityProvider, *http.Client) {
	t.Helper()
	ca, err := testkit.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	idp, err := testkit.ServeIdentityProvider(t.Context(), testkit.IdentityProviderConfig{CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := idp.Close(); err != nil {
			t.Error(err)
		}
	})
	return idp, &http.Client{Timeout: 200 * time.Millisecond, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12},
	}}
}

func fetch(t *testing.T, client *http.Client, url string) (int, string, error) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// TestIdentityProvider: what it publishes verifies what it signs, and nothing else.
func TestIdentityProvider(t *testing.T) {
	t.Parallel()
	idp, client := serveIdP(t)
	status, body, err := fetch(t, client, idp.URL+testkit.DiscoveryPath)
	var document map[string]any
	if err != nil || status != 200 || json.Unmarshal([]byte(body), &document) != nil ||
		document["issuer"] != idp.Issuer || document["jwks_uri"] != idp.JWKSURI() {
		t.Errorf("discovery: %d %q, %v", status, body, err)
	}
	keys := func() *jwt.KeySet {
		t.Helper()
		_, body, err := fetch(t, client, idp.JWKSURI())
		if err != nil {
			t.Fatal(err)
		}
		set, err := jwt.ParseKeySet([]byte(body))
		if err != nil {
			t.Fatalf("%v\n%s", err, body)
		}
		return set
	}
	set := keys()
	for _, algorithm := range testkit.Algorithms() {
		good := idp.Sign(testkit.Token{Algorithm: algorithm, Claims: map[string]any{"sub": "alice", "iat": testkit.Absent}})
		payload, err := set.VerifyCompact(good)
		if text := string(payload); err != nil || !strings.Contains(text, `"sub":"alice"`) || strings.Contains(text, "iat") {
			t.Errorf("%s: %q, %v", algorithm, payload, err)
		}
		if _, err := set.VerifyCompact(idp.Sign(testkit.Token{Algorithm: algorithm, Forged: true})); err == nil {
			t.Errorf("%s: a forged token verifies", algorithm)
		}
		old := idp.KeyID(algorithm)
		if kid := idp.Rotate(algorithm); kid == old || kid != idp.KeyID(algorithm) {
			t.Errorf("%s: rotated from %q to %q, now %q", algorithm, old, kid, idp.KeyID(algorithm))
		}
		idp.Withdraw(old)
		next := keys()
		if _, err := next.VerifyCompact(idp.Sign(testkit.Token{Algorithm: algorithm})); err != nil {
			t.Errorf("%s: the new key: %v", algorithm, err)
		}
		if _, err := next.VerifyCompact(idp.Sign(testkit.Token{Algorithm: algorithm, Key: old})); err == nil {
			t.Errorf("%s: a withdrawn key is still published", algorithm)
		}
	}
	raw := idp.Sign(testkit.Token{HeaderText: `{"alg":"ES256"}`, Payload: "no JSON"})
	if payload, err := set.VerifyCompact(raw); err == nil && string(payload) != "no JSON" {
		t.Errorf("payload %q", payload)
	}
	if got, want := idp.Fetches(), 1+len(testkit.Algorithms()); got != want {
		t.Errorf("%d fetches counted, want %d", got, want)
	}
}

// TestIdentityProviderFaults: each fault is what its name says, for both documents, and passes.
func TestIdentityProviderFaults(t *testing.T) {
	t.Parallel()
	idp, client := serveIdP(t)
	for fault, want := range map[testkit.Fault]struct {
		fails  bool
		status int
		body   string
	}{
		testkit.FaultDown:        {fails: true},
		testkit.FaultSlowHeaders: {fails: true},
		testkit.FaultSlowBody:    {fails: true, status: 200},
		testkit.FaultUnavailable: {status: 503, body: "try again"},
		testkit.FaultHTML:        {status: 200, body: "<!doctype html>"},
		testkit.FaultNoKeys:      {status: 200, body: `{"keys":[]}`},
	} {
		idp.Fail(fault)
		for _, url := range []string{idp.JWKSURI(), idp.URL + testkit.DiscoveryPath} {
			status, body, err := fetch(t, client, url)
			if (err != nil) != want.fails || status != want.status || !strings.Contains(body, want.body) {
				t.Errorf("fault %d: got %d %q, %v; want %+v", fault, status, body, err, want)
			}
		}
	}
	idp.Fail(testkit.FaultNone)
	if status, body, err := fetch(t, client, idp.JWKSURI()); err != nil || status != 200 || body != idp.JWKS()+"\n" {
		t.Errorf("afterwards: %d %q, %v", status, body, err)
	}
	if err := idp.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := fetch(t, client, idp.JWKSURI()); err == nil {
		t.Error("it answers after Close")
	}
}

// TestIdentityProviderReturns: one that is gone can come back at its address with other keys.
func TestIdentityProviderReturns(t *testing.T) {
	t.Parallel()
	first, _ := serveIdP(t)
	address := strings.TrimPrefix(first.URL, "https://")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	ca, err := testkit.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	second, err := testkit.ServeIdentityProvider(t.Context(), testkit.IdentityProviderConfig{
		Address: address, Issuer: "https://auth.example", CA: ca,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.URL != first.URL || second.JWKS() == first.JWKS() {
		t.Errorf("at %s, before at %s; same keys: %v", second.URL, first.URL, second.JWKS() == first.JWKS())
	}
	_, payload, _ := strings.Cut(second.Sign(testkit.Token{}), ".")
	payload, _, _ = strings.Cut(payload, ".")
	if text, err := base64.RawURLEncoding.DecodeString(payload); err != nil || !strings.Contains(string(text), `"iss":"https://auth.example"`) {
		t.Errorf("payload %q, %v", text, err)
	}
}
