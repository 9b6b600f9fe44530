package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/writ-auth/writ/authz/extauthz"
	"github.com/writ-auth/writ/policy"
)

// canonicalStep is one thing of a request that policies see otherwise than it was sent (authorization-policy §1.3, §9).
type canonicalStep struct {
	Attribute string `json:"attribute"`
	Sent      string `json:"sent"`
	Seen      string `json:"seen"`
	Why       string `json:"why"`
}

// canonical lists what is done to a request before policies see it. Credentials are not part of it.
func canonical(r *policy.Request, opts *extauthz.Options) []canonicalStep {
	if r.TCP {
		return nil
	}
	var steps []canonicalStep
	add := func(attribute, sent, seen, why string) {
		steps = append(steps, canonicalStep{attribute, sent, seen, why})
	}
	if rest, ok := strings.CutPrefix(r.RawPath, r.Path); ok && rest != "" {
		sent := fmt.Sprintf("%s%c(%d bytes withheld)", withoutTokens(r.Path), rest[0], len(rest)-1)
		add("path", sent, withoutTokens(r.Path), "policies see neither query nor fragment")
	}
	if strings.Contains(r.Path, "%") || strings.Contains(r.Path, "//") {
		add("path", withoutTokens(r.Path), withoutTokens(r.Path), "escapes and double slashes are compared as they were sent")
	}
	if lower := asciiLower(r.Host); lower != r.Host {
		add("host", r.Host, lower, "hosts compare in lower case")
	}
	if sent, ok := r.Header("x-forwarded-for"); ok && r.RemoteIP.IsValid() {
		add("remote.ip", sent, r.RemoteIP.String(), fmt.Sprintf("of x-forwarded-for, with authz.trusted_hops %d", opts.TrustedHops))
	}
	return append(steps, joins(r)...)
}

// joins lists the headers that were sent more than once, which policies see joined.
func joins(r *policy.Request) []canonicalStep {
	var steps []canonicalStep
	var names []string
	sent := map[string][]string{}
	for _, h := range r.Headers {
		if !slices.Contains(names, h.Name) {
			names = append(names, h.Name)
		}
		sent[h.Name] = append(sent[h.Name], shownHeader(h.Name, h.Value))
	}
	for _, name := range names {
		if len(sent[name]) < 2 {
			continue
		}
		joined, _ := r.Header(name)
		steps = append(steps, canonicalStep{
			"header " + name, fmt.Sprintf("%q", sent[name]), shownHeader(name, joined), "repeated headers are joined with a comma and no space",
		})
	}
	return steps
}

// asciiLower folds ASCII letters and no others, as the comparison of hosts does.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, s)
}

// words says the step in one line.
func (s *canonicalStep) words() string {
	if s.Sent == s.Seen {
		return fmt.Sprintf("%s %s: %s", s.Attribute, s.Seen, s.Why)
	}
	return fmt.Sprintf("%s %s, sent as %s: %s", s.Attribute, s.Seen, s.Sent, s.Why)
}
