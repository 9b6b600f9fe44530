package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/writ-auth/writ/authz"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/policy"
)

// Bounds of what commands read of tokens and keys. A token that no authority takes is read as well, to say why.
const (
	maxTokenFileBytes = 1 << 20
	maxKeyFileBytes   = 2 << 20
)

// tokenFlags say when it is, and which keys there are, to commands that verify tokens without an authority.
type tokenFlags struct {
	time string
	jwks []string
}

func (t *tokenFlags) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.time, "time", "", "`time` at which tokens are verified, in RFC 3339 or seconds since 1970; now if not given")
	f.StringArrayVar(&t.jwks, "jwks", nil,
		"`ISSUER=FILE`: the JWK Set that rules of this issuer, or with this jwksUri, would fetch; repeatable")
}

// now is what the flags say the time is: the clock, or always the same.
func (t *tokenFlags) now() (func() time.Time, error) {
	if t.time == "" {
		return time.Now, nil
	}
	at, err := parseTime(t.time)
	return func() time.Time { return at }, err
}

func parseTime(text string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds >= 0 && seconds <= maxUnixTime {
		return time.Unix(seconds, 0).UTC(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Unix() < 0 {
		return time.Time{}, usagef("--time %q: want a time such as 2026-08-01T12:00:00Z, or seconds since 1970", text)
	}
	return at, nil
}

// offlineKeys stand in for the key sets that an authority would fetch: they hold what --jwks gives, and nothing else.
type offlineKeys struct {
	sets    map[string]*jwt.KeySet // by issuer, or by jwksUri
	names   []string               // of sets, as given
	missing []jwt.Wanted           // what a token needed and is not there, since this was last set to nil
}

// source returns the keys for a rule. It is what [authz.Tokens] asks.
func (k *offlineKeys) source(w jwt.Wanted) jwt.Source {
	if set := k.find(w); set != nil {
		return set
	}
	return &missingKeys{k, w}
}

func (k *offlineKeys) find(w jwt.Wanted) *jwt.KeySet {
	for _, name := range []string{w.JWKSURI, w.Issuer} {
		if set := k.sets[name]; set != nil && name != "" {
			return set
		}
	}
	return nil
}

// missingKeys are keys that are not there. Whoever needs them learns so from offlineKeys: the verdict it comes to is none.
type missingKeys struct {
	keys   *offlineKeys
	wanted jwt.Wanted
}

// Keys implements [jwt.Source].
func (*missingKeys) Keys() *jwt.KeySet { return nil }

// Refetch implements [jwt.Source]. It is called for a token that nothing but the keys can judge.
func (m *missingKeys) Refetch(context.Context) *jwt.KeySet {
	if !slices.Contains(m.keys.missing, m.wanted) {
		m.keys.missing = append(m.keys.missing, m.wanted)
	}
	return nil
}

// howToGive says which keys are missing and how to give them.
func howToGive(missing []jwt.Wanted) string {
	var flags []string
	for _, w := range missing {
		name := w.Issuer
		if name == "" {
			name = w.JWKSURI
		}
		flags = append(flags, "--jwks "+name+"=FILE")
	}
	return "the token has to be verified with keys that an authority fetches; give them by " + strings.Join(flags, " ")
}

// readKeys reads the sets of --jwks, and says which keys of them are of no use.
func (c *cli) readKeys(flags []string) (*offlineKeys, error) {
	keys := &offlineKeys{sets: map[string]*jwt.KeySet{}}
	for _, flag := range flags {
		name, file, ok := cutLast(flag, "=")
		if !ok || name == "" || file == "" {
			return nil, usagef("--jwks %q: want ISSUER=FILE, or JWKSURI=FILE", flag)
		}
		if keys.sets[name] != nil {
			return nil, usagef("--jwks %s is given twice", name)
		}
		data, err := readBounded(file, maxKeyFileBytes)
		if err != nil {
			return nil, fmt.Errorf("--jwks %s: %w", name, err)
		}
		set, err := jwt.ParseKeySet(data)
		if err != nil {
			return nil, invalidf("--jwks %s: %s: %w", name, file, err)
		}
		for _, f := range set.Findings() {
			what := "is used, but"
			if f.Skipped {
				what = "is not used"
			}
			_, _ = fmt.Fprintf(c.err, "writ: --jwks %s: key %d %s: %s\n", printable(file), f.Index, what, f.Reason)
		}
		keys.sets[name] = set
		keys.names = append(keys.names, name)
	}
	return keys, nil
}

// sayUnused names the sets of --jwks that no rule asks for: most often a misspelt issuer.
func (c *cli) sayUnused(keys *offlineKeys, wanted []jwt.Wanted) {
	for _, name := range keys.names {
		if !slices.ContainsFunc(wanted, func(w jwt.Wanted) bool { return keys.find(w) == keys.sets[name] }) {
			_, _ = fmt.Fprintf(c.err, "writ: --jwks %s is not needed: no rule of the documents fetches the keys of this issuer or jwksUri\n", printable(name))
		}
	}
}

// readTokens prepares the verification of tokens for check and explain, by the flags and the configuration.
func (c *cli) readTokens(s *session, q *questions, cfg *config) (err error) {
	if s.keys, err = c.readKeys(q.tokens.jwks); err != nil {
		return err
	}
	s.tokens = authz.Tokens{Mode: authz.TokenMode(cfg.Authz.JWT), Source: s.keys.source}
	if s.tokens.Now, err = q.tokens.now(); err != nil {
		return err
	}
	if q.request.jwt != "" {
		if s.tokens.Mode == authz.TokensMetadata {
			return usagef("--jwt: this configuration takes claims from the proxy's metadata (authz.jwt) and looks at no token; give them by --requests")
		}
		if q.request.token, err = c.readToken("--jwt", q.request.jwt); err != nil {
			return err
		}
	}
	c.sayUnused(s.keys, authz.WantedKeys(s.snapshot))
	return nil
}

// readToken reads a token from a file, or from standard input for "-". What surrounds it is dropped: white space, and
// the word Bearer. No error shows what was read.
func (c *cli) readToken(what, file string) (string, error) {
	data, err := c.readFileOrStdin(file, maxTokenFileBytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	words := strings.Fields(string(data))
	if len(words) == 2 && strings.EqualFold(words[0], "bearer") {
		words = words[1:]
	}
	switch {
	case len(words) == 0:
		return "", invalidf("%s: %s is empty: want a token", what, file)
	case len(words) > 1:
		return "", invalidf("%s: %s holds %d words: want one token", what, file, len(words))
	case strings.IndexFunc(words[0], func(r rune) bool { return r <= ' ' || r >= 0x7f }) >= 0:
		return "", invalidf("%s: %s is not text that a header could carry: want a token", what, file)
	}
	return words[0], nil
}

func (c *cli) readFileOrStdin(file string, limit int64) ([]byte, error) {
	if file != "-" {
		return readBounded(file, limit)
	}
	data, err := io.ReadAll(io.LimitReader(c.in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("standard input is larger than %d bytes", limit)
	}
	return data, err
}

// rulePlaceOf is where a token rule stands in the documents.
func rulePlaceOf(r policy.JWTRule, docs []*policy.Document) (file string, line int) {
	owner, index, _ := strings.Cut(r.ID, " ")
	for _, d := range docs {
		if d.Kind == policy.KindRequestAuthentication && d.Namespace+"/"+d.Name == owner {
			line, _ = d.Position("spec." + index)
			return d.File, line
		}
	}
	return "", 0
}
