package analysis

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// valueCheck looks at one value of one condition. It returns what is wrong, or nothing, and what to write instead.
type valueCheck struct {
	code  string
	check func(l *linter, r *rule, c *condition, v string) (message, hint string)
}

// fix is what mends a value without changing what it matches.
func (vc *valueCheck) fix(field, v string) []Edit {
	p, err := netip.ParsePrefix(v)
	if vc.code != codeHostBits || err != nil {
		return nil
	}
	return []Edit{{Field: field, Old: v, New: p.Masked().String()}}
}

// valueChecks is only read.
var valueChecks = []valueCheck{
	{codeLiteralStar, literalStar},
	{codeMethodCase, methodCase},
	{codeDeadPath, deadPath},
	{codeDeadHost, deadHost},
	{codeSpiffeScheme, spiffeScheme},
	{codeDeadPrincipal, deadPrincipal},
	{codeNoAliases, noAliases},
	{codeLiteralDomain, literalDomain},
	{codeRequestPrincipal, requestPrincipal},
	{codeIssuerSlash, issuerSlash},
	{codeUnknownIssuer, unknownIssuer},
	{codeMappedIP, mappedIP},
	{codeHostBits, hostBits},
	{codeRootAccount, rootAccount},
}

// checkCondition reports what is odd about the values of one condition, and about its lists as a whole.
func checkCondition(l *linter, r *rule, c *condition) {
	for _, list := range []struct {
		values []string
		field  string
	}{{c.values, c.field}, {c.notValues, c.notField}} {
		for i, v := range list.values {
			field := list.field + "[" + strconv.Itoa(i) + "]"
			for _, vc := range valueChecks {
				if message, hint := vc.check(l, r, c, v); message != "" {
					l.reportFix(r.policy.doc, vc.code, field, message, hint, vc.fix(field, v))
				}
			}
		}
		withoutEffect(l, r, c, list.values, list.field)
		if c.family == famIP {
			oneFamily(l, r, list.values, list.field)
		}
	}
	dottedClaim(l, r, c)
	denyPath(l, r, c)
	hosts(l, r, c)
}

func literalStar(_ *linter, _ *rule, c *condition, v string) (string, string) {
	switch c.family {
	case famString, famHeader, famHost, famPath, famPrincipal:
	default:
		return "", "" // no wildcards, or stars anywhere
	}
	inner := v
	if strings.HasPrefix(inner, "*") {
		inner = inner[1:]
	} else {
		inner = strings.TrimSuffix(inner, "*")
	}
	if !strings.Contains(inner, "*") || c.family == famPath && isTemplate(v) {
		return "", ""
	}
	hint := "a star is a wildcard only as the first or the last character; list the values, or use a prefix or a suffix"
	if c.family == famPath {
		hint = fmt.Sprintf("to match any one segment write %q", starsToTemplate(v))
	}
	return fmt.Sprintf("a star in %q is an ordinary character and matches only itself", v), hint
}

// starsToTemplate turns whole segments that are stars into template operators: one star is one segment, more, or one at
// the end, the rest of the path.
func starsToTemplate(v string) string {
	segments := strings.Split(v, "/")
	for i, s := range segments {
		switch {
		case s == "*" && i < len(segments)-1:
			segments[i] = "{*}"
		case s == "*" || s == "**":
			segments[i] = "{**}"
			if i < len(segments)-1 {
				segments[i] = "{*}"
			}
		case strings.Contains(s, "*"):
			segments[i] = "{*}"
		}
	}
	return strings.Join(segments, "/")
}

func isTemplate(v string) bool { return strings.Contains(v, "{*}") || strings.Contains(v, "{**}") }

func methodCase(_ *linter, _ *rule, c *condition, v string) (string, string) {
	upper := strings.ToUpper(v)
	if c.attr != "methods" || v == upper {
		return "", ""
	}
	return fmt.Sprintf("no request has the method %q: methods are compared exactly and are in upper case", v),
		fmt.Sprintf("write %q", upper)
}

func deadPath(_ *linter, _ *rule, c *condition, v string) (string, string) {
	if c.family != famPath {
		return "", ""
	}
	const normalized = "write the path as the proxy passes it on after normalization"
	switch i := strings.IndexAny(v, "?#"); {
	case i >= 0:
		return fmt.Sprintf("no path matches %q: the query and the fragment are cut off before paths are compared", v),
			fmt.Sprintf("write %q; query parameters cannot be matched by path", v[:i])
	case !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "*"):
		return fmt.Sprintf("no path matches %q: every path begins with a slash", v), fmt.Sprintf("write %q", "/"+v)
	case hasDotSegment(v):
		return fmt.Sprintf("no path matches %q: segments . and .. are resolved before paths are compared", v), normalized
	case strings.Contains(v, `\`):
		return fmt.Sprintf("no path matches %q: a backslash becomes a slash before paths are compared", v), normalized
	}
	if esc := escapedLetter(v); esc != "" {
		return fmt.Sprintf("no path matches %q: %s is decoded before paths are compared", v, esc), normalized
	}
	return "", ""
}

func hasDotSegment(v string) bool {
	for s := range strings.SplitSeq(strings.TrimPrefix(v, "/"), "/") {
		if s == "." || s == ".." {
			return true
		}
	}
	return false
}

// escapedLetter returns the first percent-escape of a letter or digit, which normalization decodes.
func escapedLetter(v string) string {
	for i := 0; i+2 < len(v); i++ {
		if v[i] != '%' {
			continue
		}
		n, err := strconv.ParseUint(v[i+1:i+3], 16, 8)
		if err != nil {
			continue
		}
		if b := byte(n); 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' {
			return v[i : i+3]
		}
	}
	return ""
}

func deadHost(_ *linter, _ *rule, c *condition, v string) (string, string) {
	if c.family != famHost || !strings.Contains(v, "/") {
		return "", ""
	}
	_, bare, found := strings.Cut(v, "://")
	if !found {
		bare = v
	}
	bare, _, _ = strings.Cut(bare, "/")
	return fmt.Sprintf("no host matches %q: a Host header holds a name and perhaps a port", v), fmt.Sprintf("write %q", bare)
}

func spiffeScheme(_ *linter, _ *rule, c *condition, v string) (string, string) {
	bare, found := strings.CutPrefix(v, "spiffe://")
	if c.family != famPrincipal || !found {
		return "", ""
	}
	return fmt.Sprintf("Istio never matches %q, for it adds spiffe:// itself; here it is taken as meant", v),
		fmt.Sprintf("write %q, which is the same in both", bare)
}

func deadPrincipal(l *linter, _ *rule, c *condition, v string) (string, string) {
	v = strings.TrimPrefix(v, "spiffe://")
	if c.family != famPrincipal || strings.HasPrefix(v, "*") {
		return "", ""
	}
	switch {
	case strings.HasPrefix(v, "ns/"):
		return fmt.Sprintf("no caller has the principal %q: the trust domain is missing", v), fmt.Sprintf("write %q", l.mesh.TrustDomain+"/"+v)
	case !strings.ContainsAny(v, "/*"):
		return fmt.Sprintf("no caller has the principal %q: it is a trust domain without a path", v),
			fmt.Sprintf("write TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, for instance %q", l.mesh.TrustDomain+"/ns/NAMESPACE/sa/"+v)
	}
	return "", ""
}

func noAliases(l *linter, _ *rule, c *condition, v string) (string, string) {
	v = strings.TrimPrefix(v, "spiffe://")
	domain, rest, found := strings.Cut(v, "/")
	if c.family != famPrincipal || !found || strings.Contains(domain, "*") || strings.Count(v, "/") == 4 || strings.HasPrefix(v, "ns/") {
		return "", ""
	}
	const hint = "write one value for each trust domain, or use namespaces or serviceAccounts, which ignore it"
	switch ours := l.inMesh(domain); {
	case domain == "cluster.local" && !ours:
		return fmt.Sprintf("%q matches nobody: the mesh's trust domain is %s, and only principals of five parts are rewritten", v, l.mesh.TrustDomain),
			fmt.Sprintf("write %q", l.mesh.TrustDomain+"/"+rest)
	case ours && len(l.domains) > 1:
		return fmt.Sprintf("%q is not extended to the other trust domains of the mesh: only principals of five parts are", v), hint
	}
	return "", ""
}

func (l *linter) inMesh(domain string) bool { return slices.Contains(l.domains, domain) }

func literalDomain(l *linter, _ *rule, c *condition, v string) (string, string) {
	if c.family != famDomain || v != "cluster.local" || l.inMesh(v) {
		return "", ""
	}
	return fmt.Sprintf("the mesh's trust domain is %s, and trust domains are compared as they are written", l.mesh.TrustDomain),
		fmt.Sprintf("write %q", l.mesh.TrustDomain)
}

func requestPrincipal(l *linter, _ *rule, c *condition, v string) (string, string) {
	if c.family != famRequestPrincipal || v == "*" {
		return "", ""
	}
	cut := strings.LastIndexByte(v, '/')
	if cut < 0 {
		if strings.Contains(v, "*") {
			return "", ""
		}
		return fmt.Sprintf("%q names an issuer and no subject, which no token has", v), fmt.Sprintf("write %q", v+"/*")
	}
	issuer, subject := v[:cut], v[cut+1:]
	switch {
	case issuer == "https:/" || issuer == "http:/":
		return fmt.Sprintf("%q splits at its last slash into issuer %q and subject %q and matches no token", v, issuer, subject),
			fmt.Sprintf("write %q", strings.TrimSuffix(v, "*")+"/*")
	case strings.HasPrefix(v, "*") && strings.Contains(subject, "*"):
		return fmt.Sprintf("%q matches only tokens whose subject is literally %q: after a leading star the subject is taken as it is", v, subject),
			`write "*" for any token, or name the issuer: ISSUER/*`
	}
	for _, known := range l.issuers {
		if rest, ok := strings.CutPrefix(v, known+"/"); ok && known != "" && strings.Contains(rest, "/") && !l.issuer(issuer) {
			return fmt.Sprintf("%q splits at its last slash: the issuer is %q, not %q; a subject with a slash cannot be named", v, issuer, known),
				fmt.Sprintf("match the claims: when request.auth.claims[iss] is %q and request.auth.claims[sub] is %q", known, rest)
		}
	}
	return "", ""
}

func (l *linter) issuer(s string) bool { return slices.Contains(l.issuers, s) }

func mappedIP(_ *linter, _ *rule, c *condition, v string) (string, string) {
	if c.family != famIP {
		return "", ""
	}
	p, ok := parsePrefix(v)
	if !ok || !p.Addr().Is4In6() {
		return "", ""
	}
	plain := p.Addr().Unmap().String()
	if bits := p.Bits() - 96; bits >= 0 && bits < 32 {
		plain = netip.PrefixFrom(p.Addr().Unmap(), bits).Masked().String()
	}
	return fmt.Sprintf("no peer matches %q: the proxy reports IPv4 peers as IPv4", v), fmt.Sprintf("write %q", plain)
}

func hostBits(_ *linter, _ *rule, c *condition, v string) (string, string) {
	p, err := netip.ParsePrefix(v)
	if c.family != famIP || err != nil || p.Masked() == p {
		return "", ""
	}
	return fmt.Sprintf("%q means the whole network %s: the bits after /%d are ignored", v, p.Masked(), p.Bits()),
		fmt.Sprintf("write %q for the network, or %q for the one address", p.Masked(), p.Addr())
}

func rootAccount(l *linter, r *rule, c *condition, v string) (string, string) {
	if c.family != famAccount || !r.policy.scope.root || strings.Contains(v, "/") {
		return "", ""
	}
	return fmt.Sprintf("%q means %s/%s: a service account without a namespace is one of the policy's own", v, l.mesh.RootNamespace, v),
		fmt.Sprintf("write NAMESPACE/%s, or %s/%s if that is meant", v, l.mesh.RootNamespace, v)
}

func oneFamily(l *linter, r *rule, values []string, field string) {
	var four, six bool
	for _, v := range values {
		p, ok := parsePrefix(v)
		if ok && p.Bits() == 0 {
			four, six = four || p.Addr().Is4(), six || !p.Addr().Is4()
		}
	}
	switch {
	case four && !six:
		l.report(r.policy.doc, codeOneFamily, field, "0.0.0.0/0 holds no IPv6 address", `add "::/0", or leave the field out`)
	case six && !four:
		l.report(r.policy.doc, codeOneFamily, field, "::/0 holds no IPv4 address", `add "0.0.0.0/0", or leave the field out`)
	}
}

func dottedClaim(l *linter, r *rule, c *condition) {
	name, found := strings.CutPrefix(c.label, "request.auth.claims[")
	name, closed := strings.CutSuffix(name, "]")
	if !found || !closed || !strings.Contains(name, ".") || strings.ContainsAny(name, "/:[]") {
		return
	}
	l.report(r.policy.doc, codeDottedClaim, strings.TrimSuffix(strings.TrimSuffix(c.field, ".values"), ".notValues")+".key",
		fmt.Sprintf("claims[%s] is one claim whose name holds a dot", name),
		fmt.Sprintf("for a claim inside another write request.auth.claims[%s]", strings.ReplaceAll(name, ".", "][")))
}
