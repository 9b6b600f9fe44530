package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/internal/policytest"
	"github.com/writ-auth/writ/policy"
)

// unverifiedFlag is the flag for claims that nobody has signed.
const unverifiedFlag = "unverified-claims"

// resultUnverified is the result of a token rule that unverified claims meet: with a good signature the token would be valid.
const resultUnverified = "unverified"

// unverified are claims that stand for a token nobody has signed. It works as in writ test: the claims are signed with a
// key that lives as long as the process, and the rules are lent that key, so that issuer, audiences and times decide. No
// server can be told such a thing.
type unverified struct {
	claims map[string]any
	issuer *policytest.Issuer
}

// readUnverified reads claims from the flag's text, which is JSON, or a file of JSON, or - for standard input.
func (c *cli) readUnverified(text string) (*unverified, error) {
	data := []byte(text)
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		var err error
		if data, err = c.readFileOrStdin(text, maxTokenFileBytes); err != nil {
			return nil, fmt.Errorf("--%s: %w", unverifiedFlag, err)
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	u := &unverified{}
	if err := d.Decode(&u.claims); err != nil || u.claims == nil {
		return nil, invalidf("--%s: want the claims of a token, as a JSON object such as '{\"iss\":…,\"sub\":…}', or a file of it", unverifiedFlag)
	}
	if _, err := d.Token(); err != io.EOF { //nolint:errorlint // the decoder returns it as it is
		return nil, invalidf("--%s: more than one JSON object", unverifiedFlag)
	}
	var err error
	u.issuer, err = policytest.NewIssuer()
	return u, err
}

// useUnverified has the session take the claims of --unverified-claims for those of a good token.
func (c *cli) useUnverified(cmd *cobra.Command, s *session, q *questions) error {
	if !cmd.Flags().Changed(unverifiedFlag) {
		return nil
	}
	u, err := c.readUnverified(q.request.unverified)
	if err != nil {
		return err
	}
	s.unverified = u
	if s.tokens.Mode == authz.TokensMetadata {
		q.request.metadata = policytest.ProxyMetadata(u.claims)
		return nil
	}
	s.snapshot = policy.NewSnapshot(u.issuer.Lend(s.docs), s.mesh)
	s.tokens.Source = u.issuer.Source
	u.issuer.Begin(true)
	token, err := u.issuer.Sign(u.claims)
	if err != nil {
		return err
	}
	var rules []policy.JWTRule
	if b, err := s.snapshot.Resolve(*s.workload); err == nil && b.Authentication != nil {
		rules = b.Authentication.Rules
	}
	q.request.carried, q.request.carriedQuery = policytest.Carry(token, "", u.claims, rules)
	return nil
}

// markUnverified says of an answer that nobody verified the token that it depends on.
func (a *answer) markUnverified() {
	a.UnverifiedClaims = true
	if a.Token != nil && a.Token.Reason == "valid" {
		a.Token.Reason = resultUnverified
	}
}

// markUnverified says the same of the story of the tokens.
func (t *tokenTrace) markUnverified() {
	if t == nil {
		return
	}
	for i := range t.Rules {
		r := &t.Rules[i]
		r.Keys, r.Result = "not asked", asUnverified(r.Result)
		for j := range r.Found {
			r.Found[j].Result = asUnverified(r.Found[j].Result)
		}
	}
	if t.Identity != nil {
		t.Identity.Algorithm = resultUnverified
	}
}

func asUnverified(result string) string {
	if result == "valid" {
		return resultUnverified
	}
	return result
}

const unverifiedNote = "unverified claims: nobody signed or verified this token; a server wants a good signature as well"
