package analysis

import (
	"fmt"
	"slices"
	"strings"
)

// denyPath reports DENY rules whose paths have other spellings that a service may serve just the same: a doubled or an
// encoded slash, another case, a trailing slash (authorization-policy §9.3).
func denyPath(l *linter, r *rule, c *condition) {
	if c.family != famPath || r.policy.action != actionDeny {
		return
	}
	var weak []string
	example := ""
	for _, v := range c.values {
		if other := otherSpelling(v); other != "" {
			weak = append(weak, v)
			if example == "" {
				example = other
			}
		}
	}
	if len(weak) == 0 {
		return
	}
	l.report(r.policy.doc, codeDenyPath, c.field,
		fmt.Sprintf("%s can be dodged if the service also serves another spelling, such as %q", quoted(weak), example),
		"allow what may be reached, with an ALLOW policy, instead of denying what may not; else have Envoy merge slashes and reject or decode %2F")
}

// otherSpelling returns a path that v does not match and that a lenient service may serve as one that it does match, or "".
func otherSpelling(v string) string {
	if v == "*" || v == "/*" || v == "/" || v == "/{**}" || grpcPath(v) {
		return ""
	}
	if isTemplate(v) {
		v = strings.NewReplacer("{**}", "x", "{*}", "x").Replace(v)
	}
	if suffix, ok := strings.CutPrefix(v, "*"); ok {
		return "/x" + suffix + "/"
	}
	return "/" + strings.TrimSuffix(v, "*")
}

// grpcPath reports whether v is a gRPC method or all methods of a service: those are looked up exactly as they are sent.
func grpcPath(v string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(v, "/"), "/")
	return ok && strings.HasPrefix(v, "/") && strings.Contains(service, ".") && !strings.ContainsAny(service, "*{}") &&
		!strings.ContainsAny(method, "/.{}") && method != ""
}

// hosts reports host values that miss what a caller may write after the name. In DENY that lets callers through; in
// ALLOW it keeps them out, which is only worth an info.
func hosts(l *linter, r *rule, c *condition) {
	if c.family != famHost || len(c.values) == 0 || slices.Contains(c.values, "*") {
		return
	}
	switch r.policy.action {
	case actionDeny:
		var weak []string
		for _, v := range c.values {
			if !strings.HasSuffix(v, "*") {
				weak = append(weak, v)
			}
		}
		if len(weak) > 0 {
			l.report(r.policy.doc, codeDenyHost, c.field,
				fmt.Sprintf("%s can be dodged: the caller writes the Host header, and may add a port or a dot (%q)", quoted(weak), strings.TrimPrefix(weak[0], "*")+".:8443"),
				"allow the hosts that may be reached, with an ALLOW policy, or deny by path, port or caller")
		}
	case actionAllow:
		for _, v := range c.values {
			if missesPort(v, c.values) {
				l.report(r.policy.doc, codeHostPort, c.field, fmt.Sprintf("%q does not match a Host header with a port, such as %s:8080", v, v),
					fmt.Sprintf("add %q if callers may send one", v+":*"))
				return
			}
		}
	default: // AUDIT and CUSTOM keep nobody out by themselves
	}
}

// missesPort reports whether v has neither port nor wildcard and none of values takes v with a port.
func missesPort(v string, values []string) bool {
	if strings.ContainsAny(v, ":*/") {
		return false
	}
	for _, other := range values {
		prefix, ok := strings.CutSuffix(strings.ToLower(other), "*")
		if ok && strings.HasPrefix(strings.ToLower(v)+":", prefix) || strings.HasPrefix(strings.ToLower(other), strings.ToLower(v)+":") {
			return false
		}
	}
	return true
}
