package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// tokenShape finds what may be a token, whole or cut: base64url that begins as every JSON object does, with its further
// segments.
var tokenShape = regexp.MustCompile(`\be[wy][A-Za-z0-9_-]{10,}(\.[A-Za-z0-9_-]*)*`)

const withheld = "(token withheld)"

// withoutTokens is text for people with every token in it replaced: a terminal's history and a ticket are no place for
// one.
func withoutTokens(s string) string { return tokenShape.ReplaceAllString(s, withheld) }

// shownHeader is a header's value as it may be shown. Credentials are not.
func shownHeader(name, value string) string {
	switch name {
	case "authorization", "proxy-authorization":
		if scheme, rest, ok := strings.Cut(value, " "); ok && strings.Trim(scheme, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-") == "" {
			return fmt.Sprintf("%s (%d bytes withheld)", scheme, len(rest))
		}
		return fmt.Sprintf("(%d bytes withheld)", len(value))
	case "cookie":
		return fmt.Sprintf("(%d bytes withheld)", len(value))
	}
	return withoutTokens(value)
}

// withholdTokens removes tokens from what conditions of a trace compared.
func withholdTokens(t *policy.Trace) {
	conditions := func(cs []policy.ConditionTrace) {
		for i := range cs {
			c := &cs[i]
			c.Got = slices.Clone(c.Got) // it may be the token's own
			for j, got := range c.Got {
				c.Got[j] = withoutTokens(got)
			}
			c.Why = withoutTokens(c.Why)
		}
	}
	for i := range t.Policies {
		for j := range t.Policies[i].Rules {
			r := &t.Policies[i].Rules[j]
			conditions(r.When)
			for _, clauses := range [][]policy.ClauseTrace{r.From, r.To} {
				for k := range clauses {
					conditions(clauses[k].Conditions)
				}
			}
		}
	}
}
