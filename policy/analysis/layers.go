package analysis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// tcpPorts are ports that in practice carry no HTTP. It is only read.
var tcpPorts = map[string]string{
	"21": "FTP", "22": "SSH", "25": "SMTP", "53": "DNS", "110": "POP3", "143": "IMAP", "389": "LDAP", "465": "SMTP", "587": "SMTP",
	"636": "LDAP", "993": "IMAP", "995": "POP3", "1433": "SQL Server", "1521": "Oracle", "1883": "MQTT", "2181": "ZooKeeper",
	"3306": "MySQL", "4222": "NATS", "5432": "PostgreSQL", "5671": "AMQP", "5672": "AMQP", "6379": "Redis", "6380": "Redis", "8883": "MQTT",
	"9042": "Cassandra", "9092": "Kafka", "9093": "Kafka", "11211": "memcached", "26257": "CockroachDB", "27017": "MongoDB", "61616": "ActiveMQ",
}

// checkLayers reports rules that turn into something else on TCP (authorization-policy §5).
func checkLayers(l *linter, r *rule) {
	if r.policy.action == actionAllow {
		mixedLayers(l, r)
	}
	if r.policy.action != actionAllow && r.policy.action != actionDeny {
		return
	}
	for _, op := range r.to {
		ports := op.find("ports")
		if ports == nil || !op.http() && !r.httpElsewhere() {
			continue
		}
		for i, port := range ports.values {
			protocol := l.tcpProtocol(r.policy.scope, port)
			if protocol == "" {
				continue
			}
			message := fmt.Sprintf("port %s carries %s, and on TCP an ALLOW rule with HTTP conditions is lost: nothing is allowed there by this rule", port, protocol)
			if r.policy.action == actionDeny {
				message = fmt.Sprintf("port %s carries %s, and on TCP a DENY rule loses its HTTP conditions: every connection to the port that the rest matches is denied", port, protocol)
			}
			l.report(r.policy.doc, codeHTTPOnTCP, ports.field+"["+strconv.Itoa(i)+"]", message,
				"give the port a rule of its own, with callers and ports only")
		}
	}
}

// httpElsewhere reports whether from or when of the rule have HTTP conditions.
func (r *rule) httpElsewhere() bool {
	return r.when.http() || slices.ContainsFunc(r.from, conditions.http)
}

// tcpProtocol names what a port carries if that is not HTTP, by the names registered workloads give it, else by custom.
func (l *linter) tcpProtocol(s scope, port string) string {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ""
	}
	_, selected := l.candidates(s)
	for _, w := range selected {
		for name, n := range w.ports {
			if uint64(n) == number {
				return protocolOf(name)
			}
		}
	}
	return tcpPorts[strconv.FormatUint(number, 10)]
}

// protocolOf reads the protocol from a port's name as Istio does (tcp-admin, mysql); HTTP and unknown ones are "".
func protocolOf(name string) string {
	protocol, _, _ := strings.Cut(name, "-")
	switch protocol = strings.ToLower(protocol); protocol {
	case "tcp", "tls", "mongo", "mysql", "redis", "https":
		return protocol
	}
	return ""
}

// mixedLayers reports an ALLOW rule whose entries for plain ports are lost because of their HTTP siblings.
func mixedLayers(l *linter, r *rule) {
	http := slices.ContainsFunc(r.to, conditions.http)
	if !http || r.httpElsewhere() {
		return
	}
	for _, op := range r.to {
		if ports := op.find("ports"); ports != nil && !op.http() {
			l.report(r.policy.doc, codeMixedLayers, ports.field,
				"this entry has no HTTP condition, but another one of the same rule has: on TCP the whole rule is lost, and the ports are not allowed",
				"give the ports a rule of their own")
			return
		}
	}
}

// identityAttrs are what a plaintext caller has none of. It is only read.
var identityAttrs = []string{"principals", "namespaces", "serviceAccounts", "trustDomains"}

// checkAbsence reports rules that treat a caller without identity, or without token, otherwise than it looks
// (authorization-policy §3.3).
func checkAbsence(l *linter, r *rule) {
	sources := r.from
	if len(sources) == 0 {
		sources = []conditions{nil}
	}
	for _, source := range sources {
		both := append(slices.Clone(source), r.when...)
		identity, excluded := identityConditions(both)
		token, notToken := tokenConditions(both)
		if identity != nil && l.certainly(r.policy, modeDisable) {
			l.report(r.policy.doc, codeIdentityDisabled, identity.field,
				"mTLS is disabled for "+r.policy.scope.whom()+" (PeerAuthentication DISABLE): no caller has an identity there, so this never matches",
				"make the mode PERMISSIVE or STRICT, or tell callers apart by something else")
		}
		switch r.policy.action {
		case actionAllow:
			if identity == nil && token == nil && excluded != nil && !l.certainly(r.policy, modeStrict) {
				l.report(r.policy.doc, codeAllowPlaintext, excluded.notField,
					"a caller without a certificate passes too: it has no identity that could be excluded",
					`require one as well, with principals: ["*"], or require mTLS (PeerAuthentication STRICT)`)
			}
			if token == nil && identity == nil && notToken != nil {
				l.report(r.policy.doc, codeAllowTokenless, notToken.notField,
					"a request without a token passes too: it has nothing that could be excluded",
					`require a token as well, with requestPrincipals: ["*"]`)
			}
		case actionDeny:
			if identity != nil && !l.certainly(r.policy, modeStrict) && !l.certainly(r.policy, modeDisable) {
				l.report(r.policy.doc, codeDenyPlaintext, identity.field,
					"a caller without a certificate is not denied: it has no identity that could match",
					"require mTLS (PeerAuthentication STRICT), or allow known callers instead")
			}
		default: // AUDIT and CUSTOM keep nobody out by themselves
		}
	}
}

// identityConditions returns the first condition that demands an identity, and the first that only excludes one.
func identityConditions(cs conditions) (demands, excludes *condition) {
	for _, attr := range identityAttrs {
		for i := range cs {
			c := &cs[i]
			switch {
			case c.attr != attr:
			case len(c.values) > 0 && demands == nil:
				demands = c
			case len(c.values) == 0 && excludes == nil:
				excludes = c
			}
		}
	}
	return demands, excludes
}

// tokenConditions does the same for tokens. Excluding every token (notRequestPrincipals ["*"]) is meant as it is.
func tokenConditions(cs conditions) (demands, excludes *condition) {
	for i := range cs {
		c := &cs[i]
		switch {
		case c.attr != "requestPrincipals" && !strings.HasPrefix(c.attr, "request.auth."):
		case len(c.values) > 0:
			demands = c
		case excludes == nil && !slices.Contains(c.notValues, "*"):
			excludes = c
		}
	}
	return demands, excludes
}

// checkProvider reports provider names that Istio cannot use.
func checkProvider(l *linter, p *view) {
	if p.action != actionCustom || dnsLabel(p.provider) {
		return
	}
	l.report(p.doc, codeProviderNameShape, "spec.provider.name",
		fmt.Sprintf("%q is not a DNS label, and Istio takes such a provider for broken: it denies what the policy matches", p.provider),
		"use at most 63 lower-case letters, digits and inner hyphens, here and where the provider is configured")
}

func dnsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// checkProviders compares the providers of all CUSTOM policies (authorization-policy §4.4).
func checkProviders(l *linter) {
	var custom []*view
	for _, p := range l.policies {
		if p.action == actionCustom {
			custom = append(custom, p)
		}
	}
	for i, p := range custom {
		var extended, other *view
		for j, q := range custom {
			if p.provider == q.provider || !p.scope.overlaps(q.scope) {
				continue
			}
			if extended == nil && strings.HasPrefix(p.provider, q.provider) {
				extended = q
			}
			if other == nil && j < i {
				other = q
			}
		}
		if extended != nil {
			l.report(p.doc, codeProviderExtends, "spec.provider.name",
				fmt.Sprintf("%q begins with %q, the provider of %s: Istio asks it for that policy's requests too", p.provider, extended.provider, name(extended.doc)),
				"choose names of which none begins with another")
		}
		if other != nil {
			l.report(p.doc, codeProvidersDiffer, "spec.provider.name",
				fmt.Sprintf("%s may apply to the same workload and names provider %q: with its default settings Istio asks neither and denies what they match", name(other.doc), other.provider),
				"use one provider per workload, or set PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS in Istio")
		}
	}
}

func name(doc *policy.Document) string { return doc.Namespace + "/" + doc.Name }
