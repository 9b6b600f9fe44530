package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Limits of service accounts, which Istio's own validation checks (authorization-policy §3.4, 9).
const (
	maxServiceAccounts      = 16
	maxServiceAccountLength = 320
)

// address checks an IP address or CIDR. Host bits are ignored, a zone is possible on a single address (§1.4).
func (v *validator) address(field, value string) {
	if strings.Contains(value, "/") {
		if _, err := netip.ParsePrefix(value); err != nil {
			v.report(codeAddress, field, quoted(value)+" is not a CIDR", addressHint(value))
		}
		return
	}
	if _, err := netip.ParseAddr(value); err != nil {
		v.report(codeAddress, field, quoted(value)+" is not an IP address", addressHint(value))
	}
}

func addressHint(value string) string {
	host, _, _ := strings.Cut(value, "/")
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return "a network cannot have a zone"
		}
		return fmt.Sprintf("the prefix length is a number from 0 to %d without leading zeros", a.BitLen())
	}
	return "write an address such as 10.1.2.3 or a network such as 10.0.0.0/8"
}

// port checks a decimal port. Leading zeros are accepted.
func (v *validator) port(field, value string) {
	if n, err := strconv.ParseUint(value, 10, 32); err != nil || n > 65535 {
		hint := "write one number from 0 to 65535"
		if strings.Contains(value, "-") {
			hint = "ranges are not supported, list the ports"
		}
		v.report(codePort, field, quoted(value)+" is not a port", hint)
	}
}

// serviceAccount checks account or namespace/account.
func (v *validator) serviceAccount(field, value string) {
	report := func(message, hint string) { v.report(codeServiceAccount, field, message, hint) }
	namespace, account, found := strings.Cut(value, "/")
	switch {
	case len(value) > maxServiceAccountLength:
		report(fmt.Sprintf("the service account has %d characters, at most %d", len(value), maxServiceAccountLength), "")
	case strings.Contains(value, "*"):
		report("wildcard in service account "+quoted(value), "list the accounts, or use principals")
	case strings.Count(value, "/") > 1:
		report(quoted(value)+" is not a service account", "write account or namespace/account")
	case found && namespace == "":
		report(quoted(value)+" has no namespace before the '/'", "write account or namespace/account")
	case found && account == "":
		report(quoted(value)+" has no account after the '/'", "write account or namespace/account")
	}
}

// trustDomain checks a value of trustDomains.
func (v *validator) trustDomain(field, value string) {
	if strings.Contains(value, "/") {
		v.report(codeTrustDomain, field, "'/' in trust domain "+quoted(value), "write the trust domain alone, such as cluster.local")
		return
	}
	v.trustDomainStars(field, value)
}

// trustDomainKey checks a value of source.trustDomain, where Istio lets a '/' through.
func (v *validator) trustDomainKey(field, value string) {
	if strings.Contains(value, "/") {
		v.report(codeTrustDomainPath, field, quoted(value)+" has a '/', which no trust domain has", "write the trust domain alone, such as cluster.local")
	}
	v.trustDomainStars(field, value)
}

func (v *validator) trustDomainStars(field, value string) {
	switch stars := strings.Count(value, "*"); {
	case stars > 1:
		v.report(codeTrustDomain, field, fmt.Sprintf("%d wildcards in trust domain %s", stars, quoted(value)), "at most one, at the start or the end")
	case stars == 1 && value[0] != '*' && value[len(value)-1] != '*':
		v.report(codeTrustDomain, field, "wildcard inside trust domain "+quoted(value), "put it at the start or the end")
	}
}

// Operators of path templates.
const (
	templateOne  = "{*}"
	templateRest = "{**}"
)

// path checks a path value for being a plain path or a template that Istio and Envoy both take
// (authorization-policy §1.7).
func (v *validator) path(field, value string) {
	if !strings.ContainsAny(value, "{}") {
		return
	}
	report := func(message, hint string) {
		v.report(codeTemplate, field, "path template "+quoted(value)+" "+message, hint)
	}
	after := false // {**} was seen
	for segment := range strings.SplitSeq(strings.Trim(value, "/"), "/") {
		switch {
		case segment == templateOne || segment == templateRest:
			if after {
				report("has an operator after {**}", "only literal segments can follow {**}")
				return
			}
			after = segment == templateRest
		case strings.ContainsAny(segment, "{}"):
			report("has the segment "+quoted(segment), "a segment is {*}, {**}, or text without braces")
			return
		case segmentLen(segment) < len(segment):
			report("has the segment "+quoted(segment), "a template has no '*', no spaces and nothing outside ASCII besides its operators")
			return
		case segment == "":
			report("has an empty segment", "remove the extra '/'")
			return
		}
	}
	switch {
	case value[0] != '/':
		report("does not start with '/', Envoy would refuse the whole listener", "write "+quoted("/"+value))
	case strings.Contains(value, "//"):
		report("has an empty segment, Envoy would refuse the whole listener", "remove the extra '/'")
	}
}
