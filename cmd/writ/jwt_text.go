package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/authz"
)

// maxUnixTime is the last second RFC 3339 can write.
const maxUnixTime = 253402300799

// fromNow is a time in words: "in 5m", "3h ago".
func fromNow(at, now time.Time) string {
	d := at.Sub(now).Round(time.Second)
	switch {
	case d == 0:
		return "now"
	case d > 0:
		return "in " + spell(d)
	}
	return spell(-d) + " ago"
}

// spell writes a duration by its two largest units.
func spell(d time.Duration) string {
	const day = 24 * time.Hour
	pick := func(large time.Duration, l string, small time.Duration, s string) string {
		text := fmt.Sprintf("%d%s", d/large, l)
		if rest := d % large / small; rest > 0 {
			text += fmt.Sprintf("%d%s", rest, s)
		}
		return text
	}
	switch {
	case d >= 365*day:
		return pick(365*day, "y", day, "d")
	case d >= day:
		return pick(day, "d", time.Hour, "h")
	case d >= time.Hour:
		return pick(time.Hour, "h", time.Minute, "m")
	case d >= time.Minute:
		return pick(time.Minute, "m", time.Second, "s")
	}
	return pick(time.Second, "s", time.Second, "s")
}

// resultWords is a result of a rule in words.
func resultWords(result string) string {
	switch result {
	case "none":
		return "no token"
	case "unknown":
		return "cannot be told without its keys"
	case "valid":
		return "valid"
	case resultUnverified:
		return "would be valid if the issuer had signed it"
	}
	return "refused: " + strings.ReplaceAll(result, "_", " ")
}

// resultMark is the sign for a result of a rule.
func (p palette) resultMark(result string) string {
	switch result {
	case "valid":
		return p.green("✓")
	case "none":
		return p.dim("·")
	case "unknown":
		return p.yellow("?")
	case resultUnverified:
		return p.cyan("~")
	}
	return p.red("✗")
}

// tokens draws the story of a request's tokens.
func (tw *traceWriter) tokens(t *tokenTrace) {
	if t == nil {
		return
	}
	heading := "Tokens"
	if t.Mode == authz.TokensMetadata {
		heading += tw.colours.dim("  verified by the proxy")
	}
	tw.line(0, "%s", tw.colours.bold(heading))
	for i := range t.Rules {
		r := &t.Rules[i]
		issuer := "any issuer"
		if r.Issuer != "" {
			issuer = "issuer " + printable(r.Issuer)
		}
		tw.line(1, "%s %s  %s", tw.colours.resultMark(r.Result), tw.colours.bold(printable(r.Rule)),
			tw.colours.dim(fmt.Sprintf("%s:%d  %s, keys %s", r.File, r.Line, issuer, r.Keys)))
		if len(r.Found) == 0 {
			tw.line(3, "%s", resultWords(r.Result))
		}
		for _, f := range r.Found {
			text := f.Place + ": " + resultWords(f.Result)
			if f.KeyID != "" {
				text += fmt.Sprintf(", key %q", f.KeyID)
			}
			tw.line(3, "%s", printable(text))
		}
	}
	if slices.ContainsFunc(t.Rules, func(r tokenRuleTrace) bool { return r.Result == "unknown" }) {
		tw.line(1, "%s", tw.colours.yellow("what follows is for a request without a token"))
	}
	if t.Identity != nil {
		for _, row := range t.Identity.rows(t.Time) {
			tw.line(1, "%s %s", tw.colours.dim(fmt.Sprintf("%-9s", row[0])), printable(row[1]))
		}
	}
	tw.b.WriteByte('\n')
}

// rows are the facts of an identity, each with its name.
func (id *identity) rows(now time.Time) [][2]string {
	rows := [][2]string{{"principal", id.Principal}}
	if id.Principal == "" {
		rows[0][1] = "none: the token has no sub, or no iss, and no requestPrincipals match"
	}
	add := func(name, value string) {
		if value != "" {
			rows = append(rows, [2]string{name, value})
		}
	}
	add("audiences", strings.Join(id.Audiences, ", "))
	add("presenter", strings.Join(id.Presenter, ", "))
	add("claims", strings.Join(id.OtherClaims, ", "))
	if id.Algorithm != "" {
		expires := "never"
		if !id.Expires.IsZero() {
			expires = fmt.Sprintf("%s, %s", id.Expires.Format(time.RFC3339), fromNow(id.Expires, now))
		}
		add("expires", expires)
	}
	return rows
}
