package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/internal/testkit"
)

// identityPort is where deploy/coffee-shop/policies looks for the keys of the identity provider.
const identityPort = 15008

// tokens are by the name they have in the table and as a file. All but those of [shop.signed] are signed with the provider's
// ES256 key, which it keeps.
var tokens = map[string]testkit.Token{
	"alice":            {Claims: map[string]any{"sub": "alice", "aud": served, "loyalty": "silver", "scope": "profile:read address:write"}},
	"carol":            {Claims: map[string]any{"sub": "carol", "aud": served, "loyalty": "gold", "scope": "profile:read"}},
	"dave":             {Claims: map[string]any{"sub": "dave", "aud": served, "groups": []string{"tasters", "baristas"}}},
	"expired":          {Claims: map[string]any{"sub": "alice", "aud": served, "exp": 1700000000}},
	"forged":           {Claims: map[string]any{"sub": "alice", "aud": served, "loyalty": "gold"}, Forged: true},
	"unsigned":         {Claims: map[string]any{"sub": "alice", "aud": served}, Header: map[string]any{"alg": "none", "kid": testkit.Absent}},
	"another-service":  {Claims: map[string]any{"sub": "alice", "aud": "order-service"}},
	"another-provider": {Claims: map[string]any{"sub": "alice", "aud": served, "iss": "https://auth.teashop.com"}},
}

// served are the services that a customer's token is for.
var served = []string{"customer-service", "barista-service"}

// Tokens that are made when they are used, with the RS256 keys of the provider.
const (
	oldKey = "of the old key"
	newKey = "of the new key"
)

// startIdentityProvider serves keys, and leaves them and the tokens in the shop's folder.
func (s *shop) startIdentityProvider(ctx context.Context) error {
	ca, err := testkit.NewCA("Identity provider, for one run")
	if err != nil {
		return err
	}
	if err := ca.Write(s.file("identity-ca.pem")); err != nil {
		return err
	}
	s.provider, err = testkit.ServeIdentityProvider(ctx, testkit.IdentityProviderConfig{
		Address: local(s.ports[portIdentity]), Issuer: "https://auth.coffeeshop.com", CA: ca,
	})
	if err != nil {
		return err
	}
	s.later(s.provider.Close)
	s.signed = map[string]string{oldKey: s.provider.KeyID("RS256")}
	if err := os.WriteFile(s.file("keys.json"), []byte(s.provider.JWKS()), 0o600); err != nil {
		return err
	}
	for name, token := range tokens {
		if err := os.WriteFile(s.file(name+".jwt"), []byte(s.provider.Sign(token)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// token is the token of a row.
func (s *shop) token(name string) (string, error) {
	if kid, ok := s.signed[name]; ok {
		return s.provider.Sign(testkit.Token{Algorithm: "RS256", Key: kid, Claims: tokens["alice"].Claims}), nil
	}
	text, err := os.ReadFile(s.file(name + ".jwt"))
	return string(text), err
}

// aimPolicies makes a copy of the documents if the identity provider is not where they look for it.
func (s *shop) aimPolicies() error {
	if s.ports[portIdentity] == identityPort {
		return nil
	}
	from := s.policies
	s.policies = s.file("policies")
	if err := os.CopyFS(s.policies, os.DirFS(from)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s.policies, "*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		aimed := strings.ReplaceAll(string(text), "127.0.0.1:"+strconv.Itoa(identityPort)+"/", local(s.ports[portIdentity])+"/")
		if err := os.WriteFile(file, []byte(aimed), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// customerOf is what a service's answer says of whom it was asked for, to be seen next to the status.
func customerOf(body []byte) string {
	var a answer
	_ = json.Unmarshal(body, &a) // a refusal is no JSON and says nothing
	text := ""
	if a.Customer != "" {
		text = " for " + a.Customer
	}
	if a.Token {
		text += ", with the token"
	}
	return text
}
