package attest_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"

	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/jwt"
)

const issuer = "https://kubernetes.default.svc"

// jwks writes the public keys as a JWK Set; each has its position as kid.
func jwks(t testing.TB, keys ...*ecdsa.PrivateKey) []byte {
	t.Helper()
	list := []map[string]string{}
	for i, key := range keys {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, map[string]string{
			"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid(i),
			"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
		})
	}
	text, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func kid(i int) string { return string(rune('a' + i)) }

// token signs what a Kubernetes API server puts into a service account's token, changed as the test likes.
func token(t testing.TB, key *ecdsa.PrivateKey, n int, changes map[string]any) string {
	t.Helper()
	claims := gojwt.MapClaims{
		"iss": issuer, "sub": "system:serviceaccount:coffee-shop:order", "aud": []string{"istio-ca"},
		"iat": start.Unix(), "nbf": start.Unix(), "exp": start.Add(12 * time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "coffee-shop", "pod": map[string]any{"name": "order-1", "uid": "u"}},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	made := gojwt.NewWithClaims(gojwt.SigningMethodES256, claims)
	made.Header["kid"] = kid(n)
	text, err := made.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

type oidc struct {
	*attest.Attestor
	clock *fakeClock
	key   *ecdsa.PrivateKey
	file  string
}

func newOIDC(t testing.TB, change func(*attest.Issuer)) *oidc {
	t.Helper()
	o := &oidc{clock: newClock(), key: newKey(t), file: filepath.Join(t.TempDir(), "keys.json")}
	write(t, o.file, jwks(t, o.key))
	rule := attest.Issuer{Issuer: issuer, Audiences: []string{"istio-ca"}, JWKSFile: o.file}
	if change != nil {
		change(&rule)
	}
	method, err := attest.NewOIDC(attest.OIDCConfig{TrustDomain: domain(t), Issuers: []attest.Issuer{rule}})
	if err != nil {
		t.Fatal(err)
	}
	o.Attestor, err = attest.New(attest.Config{TrustDomain: domain(t), OIDC: method, Now: o.clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (o *oidc) attest(t testing.TB, token string) (*attest.Caller, error) {
	t.Helper()
	return o.Attest(t.Context(), attest.Evidence{Authorization: bearer(token)})
}

func TestServiceAccountToken(t *testing.T) {
	o := newOIDC(t, nil)
	for name, changes := range map[string]map[string]any{
		"audience as a list":   nil,
		"audience as a string": {"aud": "istio-ca"},
		"no nbf":               {"nbf": nil},
		"no pod":               {"kubernetes.io": nil},
	} {
		caller, err := o.attest(t, token(t, o.key, 0, changes))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := "oidc:system:serviceaccount:coffee-shop:order@" + issuer
		if caller.ID != id(t, order) || caller.String() != want {
			t.Errorf("%s: caller %s, %s", name, caller, caller.ID)
		}
	}
}

func TestServiceAccountTokenRefused(t *testing.T) {
	o := newOIDC(t, nil)
	stranger := newKey(t)
	ago := func(d time.Duration) int64 { return start.Add(-d).Unix() }
	for _, test := range []struct {
		name  string
		token string
		want  attest.Reason
	}{
		{"subject of three parts", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:order"}), attest.TokenInvalid},
		{"subject of two parts", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount"}), attest.TokenInvalid},
		{"subject of five parts", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:a:b:c"}), attest.TokenInvalid},
		{"subject is a user", token(t, o.key, 0, map[string]any{"sub": "system:node:a:b"}), attest.TokenInvalid},
		{"subject in upper case", token(t, o.key, 0, map[string]any{"sub": "System:serviceaccount:a:b"}), attest.TokenInvalid},
		{"no subject", token(t, o.key, 0, map[string]any{"sub": nil}), attest.TokenInvalid},
		{"empty namespace", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount::b"}), attest.TokenInvalid},
		{"empty account", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:a:"}), attest.TokenInvalid},
		{"comma", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:a:b,c"}), attest.TokenInvalid},
		{"NUL", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:a:b\x00"}), attest.TokenInvalid},
		{"dot dot", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:..:b"}), attest.TokenInvalid},
		{"slash", token(t, o.key, 0, map[string]any{"sub": "system:serviceaccount:a/sa/b:c"}), attest.TokenInvalid},
		{"other audience", token(t, o.key, 0, map[string]any{"aud": "kubernetes"}), attest.TokenInvalid},
		{"no audience", token(t, o.key, 0, map[string]any{"aud": nil}), attest.TokenInvalid},
		{"for the API server as well", token(t, o.key, 0, map[string]any{"aud": []string{"istio-ca", issuer}}), attest.TokenInvalid},
		{"audience with a scheme", token(t, o.key, 0, map[string]any{"aud": "https://istio-ca/"}), attest.TokenInvalid},
		{"other issuer", token(t, o.key, 0, map[string]any{"iss": "https://other"}), attest.TokenInvalid},
		{"no issuer", token(t, o.key, 0, map[string]any{"iss": nil}), attest.TokenInvalid},
		{"no expiry", token(t, o.key, 0, map[string]any{"exp": nil}), attest.TokenInvalid},
		{"expired", token(t, o.key, 0, map[string]any{"exp": ago(2 * time.Minute)}), attest.TokenExpired},
		{"not yet valid", token(t, o.key, 0, map[string]any{"nbf": ago(-2 * time.Minute)}), attest.TokenExpired},
		{"issued too long ago", token(t, o.key, 0, map[string]any{"iat": ago(time.Hour + 2*time.Minute)}), attest.TokenExpired},
		{"issued in the future", token(t, o.key, 0, map[string]any{"iat": ago(-2 * time.Minute)}), attest.TokenExpired},
		{"no time of issuing", token(t, o.key, 0, map[string]any{"iat": nil}), attest.TokenInvalid},
		{"signed by another key", token(t, stranger, 0, nil), attest.TokenInvalid},
		{"signed by an unknown key", token(t, stranger, 3, nil), attest.TokenInvalid},
		{"unsigned", unsigned(t), attest.TokenInvalid},
		{"no token", "abc", attest.TokenInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := o.attest(t, test.token)
			wantRefusal(t, err, test.want)
		})
	}
}

func unsigned(t *testing.T) string {
	t.Helper()
	text, err := gojwt.NewWithClaims(gojwt.SigningMethodNone, gojwt.MapClaims{
		"iss": issuer, "sub": "system:serviceaccount:a:b", "aud": "istio-ca", "iat": start.Unix(), "exp": start.Unix() + 60,
	}).SignedString(gojwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	return text + "c2ln"
}

func TestTokenAgeIsConfigurable(t *testing.T) {
	o := newOIDC(t, func(i *attest.Issuer) { i.MaxAge = 12 * time.Hour })
	if _, err := o.attest(t, token(t, o.key, 0, map[string]any{"iat": start.Add(-11 * time.Hour).Unix()})); err != nil {
		t.Error(err)
	}
}

// TestKeyFileIsReadAgain: a token of a key that was just written is verified at once, and a file that went bad leaves the
// keys that were there.
func TestKeyFileIsReadAgain(t *testing.T) {
	o := newOIDC(t, nil)
	next := newKey(t)
	_, err := o.attest(t, token(t, next, 1, nil))
	wantRefusal(t, err, attest.TokenInvalid)
	write(t, o.file, jwks(t, o.key, next))
	if _, err := o.attest(t, token(t, next, 1, nil)); err != nil {
		t.Errorf("after its key was written: %v", err)
	}
	write(t, o.file, []byte("{"))
	for i, key := range []*ecdsa.PrivateKey{o.key, next} {
		if _, err := o.attest(t, token(t, key, i, nil)); err != nil {
			t.Errorf("key %d after the file went bad: %v", i, err)
		}
	}
}

// TestKeyFileForgetsKeys: a key that was taken out of the file is no longer good, although no token asks for another.
func TestKeyFileForgetsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOIDC(t, nil)
		old := token(t, o.key, 0, nil)
		if _, err := o.attest(t, old); err != nil {
			t.Fatal(err)
		}
		write(t, o.file, jwks(t, newKey(t), newKey(t)))
		time.Sleep(2 * time.Second) //nolint:forbidigo // the bubble's clock, not the wall's
		_, err := o.attest(t, old)
		wantRefusal(t, err, attest.TokenInvalid)
	})
}

// TestKeysByDiscoveryAndURL fetches keys as an issuer publishes them.
func TestKeysByDiscoveryAndURL(t *testing.T) {
	key := newKey(t)
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "jwks_uri": server.URL + "/keys"})
		case "/keys":
			w.Write(jwks(t, key))
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	for name, uri := range map[string]string{"discovery": "", "URL": server.URL + "/keys"} {
		t.Run(name, func(t *testing.T) {
			method, err := attest.NewOIDC(attest.OIDCConfig{
				TrustDomain: domain(t),
				Issuers:     []attest.Issuer{{Issuer: server.URL, Audiences: []string{"istio-ca"}, JWKSURI: uri}},
				Sources: jwt.SourcesConfig{AllowHTTP: true, Networks: jwt.Networks{Allow: []netip.Prefix{
					netip.MustParsePrefix("127.0.0.0/8"),
				}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			a, err := attest.New(attest.Config{TrustDomain: domain(t), OIDC: method, Now: newClock().Now})
			if err != nil {
				t.Fatal(err)
			}
			text := token(t, key, 0, map[string]any{"iss": server.URL})
			evidence := attest.Evidence{Authorization: bearer(text)}
			_, err = a.Attest(t.Context(), evidence)
			wantRefusal(t, err, attest.TokenKeysUnavailable)

			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- method.Run(ctx) }()
			defer func() {
				stop()
				<-done
			}()
			waitFor(t, func() bool {
				_, err = a.Attest(t.Context(), evidence)
				return err == nil
			})
			if status := method.Status(); len(status) != 1 || status[0].Keys != 1 {
				t.Errorf("status %+v", status)
			}
		})
	}
}

// waitFor asks until the answer is yes.
func waitFor(t *testing.T, ask func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !ask() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen")
		}
	}
}

func TestNewOIDCRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.json")
	write(t, file, jwks(t, newKey(t)))
	bad := filepath.Join(t.TempDir(), "bad.json")
	write(t, bad, []byte("{}"))
	good := attest.Issuer{Issuer: issuer, Audiences: []string{"istio-ca"}, JWKSFile: file}
	for name, issuers := range map[string][]attest.Issuer{
		"none":             {},
		"named twice":      {good, good},
		"no issuer":        {{Audiences: good.Audiences, JWKSFile: file}},
		"no audience":      {{Issuer: issuer, JWKSFile: file}},
		"empty audience":   {{Issuer: issuer, Audiences: []string{""}, JWKSFile: file}},
		"file and URL":     {{Issuer: issuer, Audiences: good.Audiences, JWKSFile: file, JWKSURI: issuer}},
		"file is missing":  {{Issuer: issuer, Audiences: good.Audiences, JWKSFile: file + ".not"}},
		"file is a folder": {{Issuer: issuer, Audiences: good.Audiences, JWKSFile: filepath.Dir(file)}},
		"file has no keys": {{Issuer: issuer, Audiences: good.Audiences, JWKSFile: bad}},
		"negative age":     {{Issuer: issuer, Audiences: good.Audiences, JWKSFile: file, MaxAge: -1}},
	} {
		if _, err := attest.NewOIDC(attest.OIDCConfig{TrustDomain: domain(t), Issuers: issuers}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
