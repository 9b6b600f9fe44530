package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// explainCondition says of one condition what it wants, what the request has, and how near a miss was.
func explainCondition(c *condition, in *inquiry) ConditionTrace {
	r := in.Request
	t := ConditionTrace{
		Field: c.field, Matched: c.matches(r), Got: c.attr.got(r),
		Values: texts(c.values), NotValues: texts(c.notValues),
	}
	if len(c.values) == 0 && !strings.Contains(c.field, ".") { // a field that is used in its negative form only
		t.Field = notField(c.field)
	}
	if in.unknown(c.attr.public()) {
		t.Matched, t.Unknown, t.Got, t.Why = false, true, []string{}, "it is not known"
		return t
	}
	var hit, forbidden *matcher
	if len(c.values) > 0 {
		hit = c.attr.match(c.values, r)
	}
	if len(c.notValues) > 0 {
		forbidden = c.attr.match(c.notValues, r)
	}
	switch {
	case forbidden != nil:
		t.Hit = forbidden.text
		t.Why = fmt.Sprintf("%s is excluded by %q", quoteAll(t.Got), forbidden.text)
	case len(c.values) > 0 && hit == nil && len(t.Got) == 0:
		t.Why = absence(c.attr)
	case len(c.values) > 0 && hit == nil:
		t.Nearest, t.Why, t.Nearness = nearestValue(c, t.Got)
	case hit != nil:
		t.Hit = hit.text
		t.Why = fmt.Sprintf("%s matches %q", quoteAll(t.Got), hit.text)
	case len(t.Got) == 0:
		t.Why = "nothing to exclude: " + absence(c.attr)
	default:
		t.Why = quoteAll(t.Got) + " is not excluded"
	}
	return t
}

func texts(ms []matcher) []string {
	var out []string
	for i := range ms {
		out = append(out, ms[i].text)
	}
	return out
}

func quoteAll(vs []string) string {
	switch len(vs) {
	case 0:
		return "nothing"
	case 1:
		return strconv.Quote(vs[0])
	}
	return fmt.Sprintf("%q", vs)
}

// got lists the attribute's values in the request, none when it is absent.
func (a *attribute) got(r *Request) []string {
	one := func(v string, present bool) []string {
		if !present {
			return []string{}
		}
		return []string{v}
	}
	switch a.kind {
	case attrNames:
		return append([]string{}, r.Names...)
	case attrSourceIP:
		return one(r.SourceIP.String(), r.SourceIP.IsValid())
	case attrRemoteIP:
		return one(r.RemoteIP.String(), r.RemoteIP.IsValid())
	case attrDestIP:
		return one(r.DestIP.String(), r.DestIP.IsValid())
	case attrDestPort:
		return one(strconv.Itoa(int(r.DestPort)), r.DestPort != 0)
	case attrSNI:
		return one(r.SNI, r.SNI != "")
	case attrMethod:
		return one(r.Method, r.HasMethod)
	case attrPath:
		return one(r.Path, r.Path != "")
	case attrHost:
		return one(r.Host, r.HasHost)
	case attrHeader:
		return one(r.Header(a.name))
	}
	return a.gotToken(r)
}

func (a *attribute) gotToken(r *Request) []string {
	switch {
	case a.kind == attrRequestPrincipal && r.Claims != nil:
		return []string{r.Claims.Issuer() + "/" + r.Claims.Subject()}
	case a.kind == attrClaim && r.Claims != nil:
		return append([]string{}, r.Claims.Strings(a.path)...)
	case a.kind == attrMetadata && r.Metadata != nil:
		out := append([]string{}, r.Metadata.List(a.name, a.path[0])...)
		if v, ok := r.Metadata.Text(a.name, a.path[0]); ok {
			out = append(out, v)
		}
		return out
	}
	return []string{}
}

// absence says why an attribute has no value, as a user would want to hear it.
func absence(a attribute) string {
	switch a.kind {
	case attrNames:
		return "the caller has no certificate (plaintext, or TLS without a client certificate)"
	case attrRequestPrincipal, attrClaim:
		return "the request has no verified token with that claim"
	case attrSNI:
		return "the connection has no SNI"
	case attrHeader:
		return "the request has no header " + a.name
	case attrMetadata:
		return "the proxy sent no metadata " + a.name + "[" + a.path[0] + "]"
	case attrSourceIP, attrRemoteIP, attrDestIP:
		return "the address is not known"
	case attrPath:
		return "the request has no path"
	case attrHost:
		return "the request has no host"
	case attrMethod:
		return "the request has no method"
	case attrDestPort:
		return "the port is not known"
	}
	return "it is absent"
}
