package analysis

import "github.com/writ-auth/writ/policy"

// Codes of hazards. They are stable: a code is never given a second meaning.
const (
	codeTooMany           = "WRIT300"
	codeDenyPath          = "WRIT301"
	codeDenyHost          = "WRIT302"
	codeHostPort          = "WRIT303"
	codeLiteralStar       = "WRIT304"
	codeMethodCase        = "WRIT305"
	codeDeadPath          = "WRIT306"
	codeDeadHost          = "WRIT307"
	codeSpiffeScheme      = "WRIT308"
	codeDeadPrincipal     = "WRIT309"
	codeNoAliases         = "WRIT310"
	codeLiteralDomain     = "WRIT311"
	codeRequestPrincipal  = "WRIT312"
	codeMappedIP          = "WRIT313"
	codeOneFamily         = "WRIT314"
	codeHostBits          = "WRIT315"
	codeDottedClaim       = "WRIT316"
	codeValueWithin       = "WRIT317"
	codeAllowAll          = "WRIT320"
	codeAllowAnyone       = "WRIT321"
	codeCovered           = "WRIT322"
	codeSplitRule         = "WRIT323"
	codeAllowNothing      = "WRIT324"
	codeDenyAll           = "WRIT325"
	codeDryRunOff         = "WRIT326"
	codeUnfinished        = "WRIT327"
	codeHTTPOnTCP         = "WRIT330"
	codeMixedLayers       = "WRIT331"
	codeSelectsNothing    = "WRIT340"
	codeRootAccount       = "WRIT341"
	codeTargetMissing     = "WRIT342"
	codeAllowPlaintext    = "WRIT350"
	codeDenyPlaintext     = "WRIT351"
	codeAllowTokenless    = "WRIT352"
	codeProviderExtends   = "WRIT360"
	codeProvidersDiffer   = "WRIT361"
	codeProviderNameShape = "WRIT362"
	codeProviderMissing   = "WRIT363"
	codeProviderFailsOpen = "WRIT364"
	codeProviderUnused    = "WRIT365"
	codeAnyAudience       = "WRIT370"
	codePlainKeys         = "WRIT371"
	codeUnusableKey       = "WRIT372"
	codeTokenNeverThere   = "WRIT373"
	codeTokenNotRequired  = "WRIT374"
	codeAudienceUndone    = "WRIT375"
	codeSharedLocation    = "WRIT376"
	codeIssuerSlash       = "WRIT377"
	codeUnknownIssuer     = "WRIT378"
	codeNoTokenRules      = "WRIT379"
	codeNotDiscoverable   = "WRIT380"
	codePeerShadowed      = "WRIT390"
	codeRootSelector      = "WRIT391"
	codeIdentityDisabled  = "WRIT392"
	codePortUnexposed     = "WRIT393"
	codeCredentialUnused  = "WRIT394"
	codePortDropsTLS      = "WRIT395"
	codeSubsetTLS         = "WRIT396"
	codeUnverifiedClients = "WRIT397"

	codeIgnoreMalformed = "WRIT400"
	codeIgnoreExpired   = "WRIT401"
	codeIgnoreUnused    = "WRIT402"
	codeIgnoreRefused   = "WRIT403"
)

// hazards is the table of all codes, in order. It is only read.
var hazards = []policy.Code{
	{Code: codeTooMany, Severity: policy.SeverityInfo, Title: "more findings than are listed",
		Explanation: "Only the first hundred hazards of a document are listed."},
	{Code: codeDenyPath, Severity: policy.SeverityWarning, Title: "DENY by path can be dodged",
		Explanation: "The service may serve the same thing under another spelling that the rule does not match."},
	{Code: codeDenyHost, Severity: policy.SeverityWarning, Title: "DENY by host can be dodged",
		Explanation: "The caller chooses the Host header, and may add a port or a trailing dot."},
	{Code: codeHostPort, Severity: policy.SeverityInfo, Title: "host without its port variant",
		Explanation: "The port is part of the Host header when the caller sends one, and is compared."},
	{Code: codeLiteralStar, Severity: policy.SeverityWarning, Title: "star that is an ordinary character",
		Explanation: "A star is a wildcard only as the first or the last character of a value."},
	{Code: codeMethodCase, Severity: policy.SeverityWarning, Title: "method in lower case",
		Explanation: "Methods are compared exactly, and HTTP's are in upper case."},
	{Code: codeDeadPath, Severity: policy.SeverityWarning, Title: "path that no request has",
		Explanation: "Paths are compared after normalization and without the query."},
	{Code: codeDeadHost, Severity: policy.SeverityWarning, Title: "host that no request has",
		Explanation: "A Host header holds a name and perhaps a port: no scheme, no path."},
	{Code: codeSpiffeScheme, Severity: policy.SeverityWarning, Title: "principal written with spiffe://",
		Explanation: "writ takes it as meant; Istio never matches it."},
	{Code: codeDeadPrincipal, Severity: policy.SeverityWarning, Title: "principal without a trust domain",
		Explanation: "A principal is TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT."},
	{Code: codeNoAliases, Severity: policy.SeverityWarning, Title: "principal that trust-domain aliases do not reach",
		Explanation: "Only principals of exactly five parts are rewritten for the mesh's own trust domain and its aliases."},
	{Code: codeLiteralDomain, Severity: policy.SeverityWarning, Title: "trust domain cluster.local taken literally",
		Explanation: "In principals cluster.local stands for the mesh's own trust domain, in trustDomains it does not."},
	{Code: codeRequestPrincipal, Severity: policy.SeverityWarning, Title: "request principal that splits elsewhere than meant",
		Explanation: "The value is split at its last slash into issuer and subject."},
	{Code: codeMappedIP, Severity: policy.SeverityWarning, Title: "IPv4-mapped IPv6 address",
		Explanation: "The proxy reports IPv4 peers as IPv4, so the value never matches."},
	{Code: codeOneFamily, Severity: policy.SeverityWarning, Title: "all addresses of one IP family only",
		Explanation: "0.0.0.0/0 holds no IPv6 address and ::/0 no IPv4 address."},
	{Code: codeHostBits, Severity: policy.SeverityInfo, Title: "CIDR with host bits",
		Explanation: "The bits after the prefix length are ignored: the value means the whole network."},
	{Code: codeDottedClaim, Severity: policy.SeverityInfo, Title: "claim name with a dot",
		Explanation: "claims[a.b] is one claim named a.b, not b inside a."},
	{Code: codeValueWithin, Severity: policy.SeverityInfo, Title: "value without effect",
		Explanation: "Another value of the same list matches all that this one matches."},
	{Code: codeAllowAll, Severity: policy.SeverityWarning, Title: "ALLOW rule that allows everything",
		Explanation: "ALLOW rules are alternatives: next to this one every stricter rule is without effect."},
	{Code: codeAllowAnyone, Severity: policy.SeverityInfo, Title: "ALLOW rule for anybody with a certificate",
		Explanation: "principals [\"*\"] is any certificate name that passed the handshake, not only those of the mesh."},
	{Code: codeCovered, Severity: policy.SeverityWarning, Title: "rule without effect",
		Explanation: "Another rule of the same action, here or in a broader policy, matches all that this one matches."},
	{Code: codeSplitRule, Severity: policy.SeverityWarning, Title: "from and to in two rules",
		Explanation: "Two list items are two rules, and rules are alternatives: a caller needs to satisfy only one."},
	{Code: codeAllowNothing, Severity: policy.SeverityInfo, Title: "ALLOW policy without rules",
		Explanation: "It matches nothing and, being an ALLOW policy, makes everything denied that no other one allows."},
	{Code: codeDenyAll, Severity: policy.SeverityWarning, Title: "DENY rule that denies everything",
		Explanation: "No ALLOW policy can lift a DENY."},
	{Code: codeDryRunOff, Severity: policy.SeverityInfo, Title: "dry-run annotation that is off",
		Explanation: "The policy is enforced."},
	{Code: codeUnfinished, Severity: policy.SeverityInfo, Title: "search for rules without effect not finished",
		Explanation: "Rules are many and nearly the same; from the rule named on they were not compared."},
	{Code: codeHTTPOnTCP, Severity: policy.SeverityWarning, Title: "HTTP condition on a TCP port",
		Explanation: "On TCP an ALLOW rule with an HTTP condition is lost, and a DENY rule loses the condition."},
	{Code: codeMixedLayers, Severity: policy.SeverityWarning, Title: "HTTP and TCP entries in one ALLOW rule",
		Explanation: "On TCP the whole rule is lost, with its entries that name only ports."},
	{Code: codeSelectsNothing, Severity: policy.SeverityWarning, Title: "selector that selects nothing",
		Explanation: "No registered workload in the policy's scope has these labels."},
	{Code: codeRootAccount, Severity: policy.SeverityWarning, Title: "service account of the root namespace",
		Explanation: "A service account without a namespace is one of the policy's own namespace."},
	{Code: codeTargetMissing, Severity: policy.SeverityInfo, Title: "targetRefs to something these documents do not hold",
		Explanation: "A policy with targetRefs applies to gateways and waypoints only, never to a workload's own proxy."},
	{Code: codeAllowPlaintext, Severity: policy.SeverityWarning, Title: "ALLOW by who it is not",
		Explanation: "A plaintext caller has no identity, so every negative condition on identity holds."},
	{Code: codeDenyPlaintext, Severity: policy.SeverityInfo, Title: "DENY by identity without required mTLS",
		Explanation: "A plaintext caller has no identity, so the rule does not match it."},
	{Code: codeAllowTokenless, Severity: policy.SeverityWarning, Title: "ALLOW by which token it is not",
		Explanation: "A request without a token satisfies every negative condition on tokens."},
	{Code: codeProviderExtends, Severity: policy.SeverityWarning, Title: "provider name that extends another",
		Explanation: "Istio compares provider names by prefix: the longer one is asked for the shorter one's rules too."},
	{Code: codeProvidersDiffer, Severity: policy.SeverityWarning, Title: "two providers on one workload",
		Explanation: "With Istio's default settings no provider is asked and every matching request is denied."},
	{Code: codeProviderNameShape, Severity: policy.SeverityWarning, Title: "provider name that is not a DNS label",
		Explanation: "Istio treats such a provider as broken: matching requests are denied."},
	{Code: codeProviderMissing, Severity: policy.SeverityError, Title: "provider that is not configured",
		Explanation: "Whatever the policy matches is denied, for nobody can be asked."},
	{Code: codeProviderFailsOpen, Severity: policy.SeverityWarning, Title: "provider that fails open",
		Explanation: "While the provider gives no answer, what the policy matches passes unasked to the other policies."},
	{Code: codeProviderUnused, Severity: policy.SeverityInfo, Title: "provider that no policy names",
		Explanation: "The provider is configured and never asked."},
	{Code: codeAnyAudience, Severity: policy.SeverityWarning, Title: "issuer without audiences",
		Explanation: "Every token of the issuer is taken, also one that was made for another service."},
	{Code: codePlainKeys, Severity: policy.SeverityWarning, Title: "keys over plain http",
		Explanation: "Whoever is on the way can replace the keys and make tokens. writ fetches over http only if its configuration allows it."},
	{Code: codeUnusableKey, Severity: policy.SeverityWarning, Title: "key that cannot be used",
		Explanation: "The key is weak, incomplete or not meant for verifying; tokens signed with it are refused."},
	{Code: codeTokenNeverThere, Severity: policy.SeverityWarning, Title: "condition on a token where none is verified",
		Explanation: "Without a RequestAuthentication for the workload no request has a principal or claims."},
	{Code: codeTokenNotRequired, Severity: policy.SeverityWarning, Title: "token rules that nothing requires",
		Explanation: "A RequestAuthentication refuses bad tokens only; a request without a token passes unless a policy asks for one."},
	{Code: codeAudienceUndone, Severity: policy.SeverityWarning, Title: "audiences undone by another rule",
		Explanation: "A token is good if any rule takes it, and another rule takes the issuer's tokens for any audience."},
	{Code: codeSharedLocation, Severity: policy.SeverityInfo, Title: "location shared by two issuers",
		Explanation: "A request that carries tokens of both is refused: each rule finds the other's token and refuses it."},
	{Code: codeIssuerSlash, Severity: policy.SeverityWarning, Title: "issuer that differs by a trailing slash",
		Explanation: "Issuers are compared byte for byte."},
	{Code: codeUnknownIssuer, Severity: policy.SeverityWarning, Title: "issuer that no token rule has",
		Explanation: "No request has a verified token of this issuer, so the value never matches."},
	{Code: codeNoTokenRules, Severity: policy.SeverityInfo, Title: "RequestAuthentication without rules",
		Explanation: "It does nothing, and does not lift the rules of others."},
	{Code: codeNotDiscoverable, Severity: policy.SeverityWarning, Title: "issuer that keys cannot be discovered from",
		Explanation: "Without jwks and jwksUri the keys are looked for where the issuer's URL says; this issuer is no such URL."},
	{Code: codePeerShadowed, Severity: policy.SeverityWarning, Title: "PeerAuthentication that an older one shadows",
		Explanation: "Of several for the mesh, for one namespace or for the same workloads only the oldest counts; they are not merged."},
	{Code: codeRootSelector, Severity: policy.SeverityWarning, Title: "PeerAuthentication with selector in the root namespace",
		Explanation: "It is ignored: in the root namespace only the one for the whole mesh counts."},
	{Code: codeIdentityDisabled, Severity: policy.SeverityWarning, Title: "condition on identity where mTLS is disabled",
		Explanation: "Without mTLS no caller has an identity, so the condition never matches."},
	{Code: codePortUnexposed, Severity: policy.SeverityWarning, Title: "mode of a port that nobody listens on",
		Explanation: "portLevelMtls takes the workload's own port, not that of a Service."},
	{Code: codeCredentialUnused, Severity: policy.SeverityWarning, Title: "credentialName without workloadSelector",
		Explanation: "Sidecars read credentials only for rules with a workloadSelector, and use no TLS without one."},
	{Code: codePortDropsTLS, Severity: policy.SeverityWarning, Title: "port settings that drop the TLS settings",
		Explanation: "An entry of portLevelSettings replaces the settings of the destination as a whole."},
	{Code: codeSubsetTLS, Severity: policy.SeverityInfo, Title: "TLS settings of a subset",
		Explanation: "writ goes by the TLS settings of the host; those of subsets have no meaning here."},
	{Code: codeUnverifiedClients, Severity: policy.SeverityWarning, Title: "client certificates that are not verified",
		Explanation: "With insecureSkipVerify the caller chooses the names that policies see."},
	{Code: codeIgnoreMalformed, Severity: policy.SeverityWarning, Title: "suppression that cannot be read",
		Explanation: "A suppression is CODE, perhaps at=FIELD and until=DATE, and reason=TEXT, one a line."},
	{Code: codeIgnoreExpired, Severity: policy.SeverityWarning, Title: "suppression that has expired",
		Explanation: "The findings are reported again."},
	{Code: codeIgnoreUnused, Severity: policy.SeverityWarning, Title: "suppression of nothing",
		Explanation: "The document has no such finding any more."},
	{Code: codeIgnoreRefused, Severity: policy.SeverityError, Title: "suppression of an error",
		Explanation: "Errors cannot be suppressed: the document is not enforced as written."},
}

// Codes lists every code [Lint] can report, in order. Those of decoding and validation are in [policy.Codes].
func Codes() []policy.Code { return append([]policy.Code(nil), hazards...) }

func severityOf(code string) policy.Severity {
	for i := range hazards {
		if hazards[i].Code == code {
			return hazards[i].Severity
		}
	}
	return policy.SeverityWarning
}
