package jwt_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

func TestParseDiscovery(t *testing.T) {
	const issuer = "https://idp.example/realm"
	for _, tt := range []struct {
		name, issuer, document string
		want                   string // the URL, or the error after "!"
	}{
		{"good", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"https://idp.example/keys","x":[1]}`, "https://idp.example/keys"},
		{"keys on another host", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"https://cdn.example/keys"}`, "https://cdn.example/keys"},
		{"another issuer", issuer, `{"issuer":"https://evil.example","jwks_uri":"https://idp.example/keys"}`, "!byte for byte"},
		{"issuer with a slash more", issuer, `{"issuer":"https://idp.example/realm/","jwks_uri":"https://idp.example/keys"}`, "!byte for byte"},
		{"no issuer", issuer, `{"jwks_uri":"https://idp.example/keys"}`, "!byte for byte"},
		{"issuer under another case", issuer, `{"Issuer":"https://idp.example/realm","jwks_uri":"https://idp.example/keys"}`, "!byte for byte"},
		{"no jwks_uri", issuer, `{"issuer":"https://idp.example/realm"}`, "!no jwks_uri"},
		{"jwks_uri is a number", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":7}`, "!no jwks_uri"},
		{"jwks_uri is null", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":null}`, "!no jwks_uri"},
		{"relative jwks_uri", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"/keys"}`, "!no absolute URL"},
		{"jwks_uri without host", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"https:keys"}`, "!no absolute URL"},
		{"from https to http", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"http://idp.example/keys"}`, "!not https"},
		{"from HTTPS to http", "HTTPS://idp.example", `{"issuer":"HTTPS://idp.example","jwks_uri":"http://idp.example/keys"}`, "!not https"},
		{"from https to a file", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"file://host/etc/passwd"}`, "!not https"},
		{"http all the way", "http://idp", `{"issuer":"http://idp","jwks_uri":"http://idp/keys"}`, "http://idp/keys"},
		{"long jwks_uri", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"https://idp.example/` + strings.Repeat("k", 2048) + `"}`, "!too long"},
		{"HTML", issuer, `<html>`, "!no JSON object"},
		{"list", issuer, `["https://idp.example/realm"]`, "!no JSON object"},
		{"null", issuer, `null`, "!byte for byte"},
		{"trailing text", issuer, `{"issuer":"https://idp.example/realm","jwks_uri":"https://idp.example/keys"} x`, "!no JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := jwt.ParseDiscovery([]byte(tt.document), tt.issuer)
			if want, bad := strings.CutPrefix(tt.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), want) || got != "" {
					t.Errorf("got %q, %v, want an error with %q", got, err, want)
				}
			} else if err != nil || got != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
}

func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://idp.example","jwks_uri":"https://idp.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://idp.example","jwks_uri":"http://idp.example/keys"}`))
	f.Add([]byte(`{"issuer":"https://idp.example","jwks_uri":"https://[::1%25x]:99999/\u0000"}`))
	f.Add([]byte(`{"issuer":null}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		got, err := jwt.ParseDiscovery(document, "https://idp.example")
		if err != nil {
			if got != "" {
				t.Errorf("an error and %q", got)
			}
			return
		}
		req, err := http.NewRequest(http.MethodGet, got, nil)
		if err != nil || req.URL.Scheme != "https" || req.URL.Host == "" {
			t.Errorf("accepted %q, which is no https URL with a host: %v", got, err)
		}
	})
}
