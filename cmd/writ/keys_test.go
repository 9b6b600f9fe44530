package main

import (
	"strings"
	"testing"
	"time"

	"github.com/writ-auth/writ/jwt"
)

// TestKeySettings holds what the configuration takes to what package jwt takes.
func TestKeySettings(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ block, want string }{
		{"{}", ""},
		{"{refresh: 1m, max_stale: 1m}", ""},
		{"{refresh: 24h, max_stale: 168h}", ""},
		{"{allow_http: true, allow_networks: [10.0.0.0/8, 169.254.169.254, fd00::/8], deny_networks: [10.1.0.0/16], only_allowed: true}", ""},
		{"{proxy: 'http://proxy.example:3128'}", ""},
		{"{refresh: 59s}", "authz.jwks.refresh: 59s: want 1m0s to 24h0m0s"},
		{"{refresh: 25h}", "authz.jwks.refresh: 25h0m0s"},
		{"{refresh: 1h, max_stale: 59m}", "authz.jwks.max_stale: 59m0s: want authz.jwks.refresh, which is 1h0m0s, to 168h0m0s"},
		{"{max_stale: 169h}", "authz.jwks.max_stale: 169h0m0s"},
		{"{allow_networks: [10.0.0.0]}", ""},
		{"{allow_networks: [10.1.2.3/8]}", `"10.1.2.3/8": bits behind the /8 are set: write 10.0.0.0/8 for the network, or 10.1.2.3 for the one address`},
		{"{deny_networks: ['::ffff:10.0.0.1']}", `authz.jwks.deny_networks: "::ffff:10.0.0.1": want a network`},
		{"{allow_networks: [idp.example]}", `authz.jwks.allow_networks: "idp.example": want a network`},
		{"{ca: {https://idp.example: ''}}", "authz.jwks.ca"},
		{"{ca: [a]}", "authz.jwks.ca: want keys and values, not a list"},
		{"{proxy: proxy.example}", "authz.jwks.proxy: want http://host:port or https://host:port"},
		{"{proxy: 'http://me:SECRET@proxy.example:3128'}", "secrets are never values here"},
		{"{proxy: 'http://proxy.example/path'}", "nothing behind it"},
		{"{allow_htpp: true}", `authz.jwks.allow_htpp: unknown key; did you mean "allow_http"?`},
	} {
		c, err := load(t, "documents: /etc/writ\nauthz: {jwks: "+tt.block+"}\n", nil)
		switch {
		case tt.want == "" && err != nil, tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.block, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "SECRET"):
			t.Errorf("%s: the error shows the password", tt.block)
		case err == nil:
			if err := c.Authz.JWKS.checkKeyFiles(); err != nil {
				t.Errorf("%s: %v", tt.block, err)
			}
		}
	}
	for _, tt := range []struct{ block, want string }{
		{"jwt: off", `authz.jwt: "off": want verify, metadata`},
		{"token_cache: {entries: -1}", "authz.token_cache.entries: -1: want 0, for no cache"},
		{"token_cache: {max_bytes: 1000}", "authz.token_cache.max_bytes: 1000: want 1048576"},
	} {
		if _, err := load(t, "documents: x\nauthz: {"+tt.block+"}\n", nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.block, err, tt.want)
		}
	}
}

// TestKeyCertificates finds the files of authz.jwks.ca next to the configuration, or as the environment has them.
func TestKeyCertificates(t *testing.T) {
	t.Parallel()
	c, err := load(t, "documents: x\nauthz: {jwks: {ca: {'https://idp.example': ./ca.pem, idp.example:8443: /etc/ca.pem}}}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if file := c.Authz.JWKS.CA["https://idp.example"]; !strings.HasSuffix(file, "/ca.pem") || strings.HasPrefix(file, ".") {
		t.Errorf("%q is not relative to the configuration file", file)
	}
	if file := c.Authz.JWKS.CA["idp.example:8443"]; file != "/etc/ca.pem" {
		t.Errorf("got %q", file)
	}
	if err := c.Authz.JWKS.checkKeyFiles(); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("a missing file: %v", err)
	}
	c, err = load(t, "documents: x\nauthz: {}\n", map[string]string{"WRIT_AUTHZ_JWKS_CA": "https://idp.example?a=b=one.pem,other=two.pem"})
	if err != nil || c.Authz.JWKS.CA["https://idp.example?a=b"] != "one.pem" || c.Authz.JWKS.CA["other"] != "two.pem" {
		t.Errorf("from the environment: %v, %v", c, err)
	}
	if _, err = load(t, "documents: x\nauthz: {}\n", nil, "authz.jwks.ca=one.pem"); err == nil || !strings.Contains(err.Error(), "want name=value") {
		t.Errorf("a value without a name: %v", err)
	}
}

func TestSourceWarnings(t *testing.T) {
	t.Parallel()
	var r tokensReport
	for range maxKeyWarnings + 3 {
		r.Sources = append(r.Sources, jwt.SourceStatus{URL: "https://idp.example", LastError: jwt.FetchTimeout, Detail: "no answer"})
	}
	r.Sources = append(r.Sources, jwt.SourceStatus{}, jwt.SourceStatus{Keys: 1}, jwt.SourceStatus{Keys: 1, LastError: jwt.FetchDNS})
	warnings := r.warnings()
	if len(warnings) != maxKeyWarnings+1 || warnings[0] != "no keys from https://idp.example, tokens that need them are refused: timeout: no answer" ||
		warnings[maxKeyWarnings] != "and 3 more key sources that do not work" {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
	stale := jwt.SourceStatus{URL: "https://idp.example", Keys: 1, Stale: true, AgeSeconds: 3600, LastError: jwt.FetchStatus, Detail: "the status is 503, not 200"}
	if text := sourceWarning(&stale); !strings.Contains(text, "those of 1h0m0s ago stay in force: status: the status is 503") {
		t.Error(text)
	}
}

func TestTimesInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", time.Second: "in 1s", -59 * time.Second: "59s ago", time.Hour: "in 1h", -90 * time.Minute: "1h30m ago",
		26 * time.Hour: "in 1d2h", 400 * 24 * time.Hour: "in 1y35d",
	} {
		if got := fromNow(now.Add(d), now); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}
