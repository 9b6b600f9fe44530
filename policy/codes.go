package policy

import "slices"

// Code describes one kind of [Problem]. Codes are stable: a code is never given a second meaning, and a retired one is
// never used again.
type Code struct {
	Code        string
	Severity    Severity
	Title       string // one line
	Explanation string // what it means and what to do
}

// Codes returns every code that [Decode] and [Directory.Read] can report, in order. WRIT1xx are about the form of a
// document, WRIT200 to WRIT249 about AuthorizationPolicy, WRIT250 to WRIT259 about RequestAuthentication, WRIT260 to
// WRIT264 about PeerAuthentication, WRIT265 to WRIT279 about the TLS settings of DestinationRule and Gateway, WRIT280 to
// WRIT299 are warnings. WRIT3xx belong to package policy/analysis.
func Codes() []Code { return slices.Clone(codes) }

const (
	codeUnreadable   = "WRIT100"
	codeSyntax       = "WRIT101"
	codeEncoding     = "WRIT102"
	codeTooLarge     = "WRIT103"
	codeTooDeep      = "WRIT104"
	codeTooManyNodes = "WRIT105"
	codeTooManyDocs  = "WRIT106"
	codeMoreProblems = "WRIT107"
	codeMoreWarnings = "WRIT108"
	codeNotObject    = "WRIT110"
	codeVersion      = "WRIT111"
	codeNearKind     = "WRIT112"
	codePassedOver   = "WRIT113"
	codeForeignGroup = "WRIT114"
	codeUnknownField = "WRIT120"
	codeDuplicateKey = "WRIT121"
	codeWrongType    = "WRIT122"
	codeBooleanText  = "WRIT123"
	codeNumberText   = "WRIT124"
	codeEnum         = "WRIT125"
	codeNumber       = "WRIT126"
	codeDuration     = "WRIT127"
	codeOneOf        = "WRIT128"
	codeTag          = "WRIT129"
	codeName         = "WRIT130"
	codeNamespace    = "WRIT131"
	codeNoNamespace  = "WRIT132"
	codeDuplicate    = "WRIT133"
	codeUncompilable = "WRIT190"

	codeExclusive      = "WRIT200"
	codeSelector       = "WRIT201"
	codeTargetRef      = "WRIT202"
	codeNoRules        = "WRIT203"
	codeNoProvider     = "WRIT204"
	codeProvider       = "WRIT205"
	codeCustomField    = "WRIT206"
	codeEmptyMatch     = "WRIT207"
	codeMixedAccounts  = "WRIT208"
	codeEmptyValue     = "WRIT209"
	codeAddress        = "WRIT210"
	codePort           = "WRIT211"
	codeServiceAccount = "WRIT212"
	codeTrustDomain    = "WRIT213"
	codeTemplate       = "WRIT214"
	codeKey            = "WRIT215"
	codeNoValues       = "WRIT216"
	codeDryRun         = "WRIT217"

	codeIssuer       = "WRIT250"
	codeJWKSURI      = "WRIT251"
	codeJWKS         = "WRIT252"
	codeEmptyJWT     = "WRIT253"
	codeOutputHeader = "WRIT254"
	codeTimeout      = "WRIT255"

	codePortModes   = "WRIT260"
	codeNoPortModes = "WRIT261"
	codeModePort    = "WRIT262"

	codeHost        = "WRIT265"
	codeClientCert  = "WRIT266"
	codeClientFiles = "WRIT267"
	codeSkipVerify  = "WRIT268"
	codeTrafficPort = "WRIT269"
	codeIstioMutual = "WRIT270"
	codeServerCert  = "WRIT271"
	codeClientCA    = "WRIT272"
	codeCertSources = "WRIT273"
	codeCRL         = "WRIT274"
	codeProtocolTLS = "WRIT275"
	codeServerPort  = "WRIT276"

	codeEmptySelector   = "WRIT280"
	codeDenyTCP         = "WRIT281"
	codeTrustDomainPath = "WRIT282"
	codeSchemaLimit     = "WRIT283"
	codePrivateKey      = "WRIT284"
	codeUnusedCerts     = "WRIT285"
)

// codes is read only.
var codes = []Code{
	{codeUnreadable, SeverityError, "file cannot be read",
		"The file is listed in the directory but cannot be opened or read. Whatever it holds is unknown, so its last good version stays in force."},
	{codeSyntax, SeverityError, "not valid YAML or JSON",
		"The text of this document does not parse. Other documents of the same file are not affected."},
	{codeEncoding, SeverityError, "not valid UTF-8",
		"Documents are UTF-8 text. Save the file as UTF-8; UTF-16 and Latin-1 are not read."},
	{codeTooLarge, SeverityError, "file too large",
		"A file may hold 8 MiB. Split it."},
	{codeTooDeep, SeverityError, "nested too deeply",
		"Objects and lists may nest 64 levels, aliases included. No Istio document comes near that."},
	{codeTooManyNodes, SeverityError, "too many values",
		"A file may hold about a million values once its aliases are followed. The bound stops small files that expand without end. Split the file, or use fewer aliases."},
	{codeTooManyDocs, SeverityError, "too many documents in one file",
		"A file may hold 10,000 documents. Split it."},
	{codeMoreProblems, SeverityError, "more problems than are listed",
		"Only 100 problems of a document are listed, and there are errors among the rest. Fix those that are listed and look again."},
	{codeMoreWarnings, SeverityWarning, "more warnings than are listed",
		"Only 100 problems of a document are listed. The rest are warnings."},
	{codeNotObject, SeverityError, "not a Kubernetes object",
		"A document is an object with apiVersion, kind, metadata and spec."},
	{codeVersion, SeverityError, "unsupported apiVersion",
		"The kind is known but not in this version. security.istio.io has v1 and v1beta1; networking.istio.io has v1, v1beta1 and v1alpha3."},
	{codeNearKind, SeverityError, "misspelled kind or group",
		"The kind or its API group looks like one that matters here and is not quite it. It would otherwise be passed over without effect."},
	{codePassedOver, SeverityInfo, "kind has no meaning here",
		"The document is of another Kubernetes or Istio kind. It is passed over and nothing in it is checked."},
	{codeForeignGroup, SeverityWarning, "same kind name in another API group",
		"Another product uses the same kind name. The document is passed over. If it was meant for Istio, correct its apiVersion."},
	{codeUnknownField, SeverityError, "unknown field",
		"Istio drops unknown fields without a word, so a misspelled restriction silently restricts nothing. Here it is an error."},
	{codeDuplicateKey, SeverityError, "key given twice",
		"One of the two values would be lost. camelCase and snake_case spellings of a field are the same field."},
	{codeWrongType, SeverityError, "wrong type",
		"The value is of another type than the field: a list where text is needed, text where a list is needed, and so on."},
	{codeBooleanText, SeverityError, "boolean where text is needed",
		"YAML 1.1, which Istio and Kubernetes read, takes unquoted y, n, yes, no, on, off, true and false for booleans. Quote the value."},
	{codeNumberText, SeverityError, "number where text is needed",
		"The field holds text and the unquoted value is a number. Ports, label values and versions are text: quote them."},
	{codeEnum, SeverityError, "unknown value of an enumeration",
		"The field takes one of a few names, in upper case, or the number of one."},
	{codeNumber, SeverityError, "not a number in range",
		"The field takes a whole decimal number of a certain range."},
	{codeDuration, SeverityError, "not a duration",
		"Durations are written as in Go: a number with a unit, such as 5s, 1.5s or 500ms."},
	{codeOneOf, SeverityError, "fields exclude each other",
		"Only one of these fields can be set."},
	{codeTag, SeverityError, "unsupported YAML feature",
		"The document uses a YAML feature that Kubernetes objects do not have: a custom tag, a key that is not text, or a merge of something that is not an object."},
	{codeName, SeverityError, "bad metadata.name",
		"Every object needs a name: lower-case letters, digits, '-' and '.', at most 253 characters."},
	{codeNamespace, SeverityError, "bad metadata.namespace",
		"A namespace is lower-case letters, digits and '-', at most 63 characters."},
	{codeNoNamespace, SeverityWarning, "no namespace",
		"The object names no namespace and is taken to be in default, as kubectl does. Say so in the document: a policy in the wrong namespace protects nobody."},
	{codeDuplicate, SeverityError, "object defined twice",
		"Two documents have the same kind, namespace and name. Which one is meant nobody can tell, so neither is enforced as written: the last good version stays, or both fail closed. Keep one."},
	{codeUncompilable, SeverityError, "cannot be compiled",
		"The document passed validation and could still not be compiled. That is a defect of this program: please report it. The document fails closed."},

	{codeExclusive, SeverityError, "more than one of selector, targetRef and targetRefs",
		"A document chooses whom it governs in one way only."},
	{codeSelector, SeverityError, "bad selector",
		"Labels are compared as they are: keys are not empty, and neither keys nor values have wildcards."},
	{codeTargetRef, SeverityError, "bad target reference",
		"A target needs a name, no namespace, and is a Service, a ServiceEntry, a Gateway or a GatewayClass."},
	{codeNoRules, SeverityError, "action without rules",
		"DENY and CUSTOM policies without rules never match. Add an empty rule ({}) if every request is meant."},
	{codeNoProvider, SeverityError, "CUSTOM without provider",
		"A CUSTOM policy names in provider.name who decides."},
	{codeProvider, SeverityError, "provider with another action",
		"Only CUSTOM policies have a provider."},
	{codeCustomField, SeverityError, "not possible with CUSTOM",
		"CUSTOM policies are matched before identities and tokens are known, so fields about them cannot be used. Leave the decision to the provider."},
	{codeEmptyMatch, SeverityError, "empty source or operation",
		"A from or to entry without any field would match everything. Say what it matches, or leave the entry out."},
	{codeMixedAccounts, SeverityError, "serviceAccounts together with principals or namespaces",
		"One source names its caller by serviceAccounts, or by principals and namespaces, not by both."},
	{codeEmptyValue, SeverityError, "empty value",
		"An empty text in a list matches nothing that anybody means."},
	{codeAddress, SeverityError, "bad IP address or CIDR",
		"An address such as 10.1.2.3 or 2001:db8::1, or a network such as 10.0.0.0/8. No leading zeros, no zone in a network."},
	{codePort, SeverityError, "bad port",
		"A decimal number from 0 to 65535. Ranges, names and wildcards are not supported."},
	{codeServiceAccount, SeverityError, "bad service account",
		"Written account or namespace/account, no wildcards, at most 320 characters, at most 16 in a list."},
	{codeTrustDomain, SeverityError, "bad trust domain",
		"At most one wildcard, at the start or the end, and no '/'."},
	{codeTemplate, SeverityError, "bad path template",
		"{*} and {**} stand for whole segments, nothing but literal segments follows {**}, and literal segments of a template have no '*', no spaces and nothing outside ASCII. A template starts with one '/' and has no empty segment: Istio lets {*}, a/{*} and //{*} through, but Envoy then refuses the whole listener."},
	{codeKey, SeverityError, "unknown or malformed key",
		"The key of a when condition is not one that Istio knows. Istio would drop the rule, or the condition, at run time."},
	{codeNoValues, SeverityError, "condition without key or values",
		"A when condition needs a key and at least one of values and notValues. Without values the condition would vanish and open the rule up."},
	{codeDryRun, SeverityError, "bad use of " + DryRunAnnotation,
		"The annotation takes true or false, on AuthorizationPolicy with action ALLOW or DENY only."},

	{codeIssuer, SeverityError, "rule without issuer and jwksUri",
		"A JWT rule needs an issuer or a jwksUri. Inline keys alone are not enough: name the issuer they belong to."},
	{codeJWKSURI, SeverityError, "bad jwksUri",
		"An http or https URL."},
	{codeJWKS, SeverityError, "bad inline jwks",
		"A JWK Set ({\"keys\": [...]}) or one JWK, as JSON text."},
	{codeEmptyJWT, SeverityError, "empty value in a JWT rule",
		"Audiences, parameters, cookies and header names are not empty."},
	{codeOutputHeader, SeverityError, "bad output header",
		"The header would be refused by the proxy, set twice, or would overwrite one that requests are routed or authenticated by."},
	{codeTimeout, SeverityError, "bad timeout",
		"At least 1ms, in whole milliseconds."},

	{codePortModes, SeverityError, "portLevelMtls without selector",
		"Ports belong to workloads: a PeerAuthentication for a whole namespace or the mesh has one mode for all ports."},
	{codeNoPortModes, SeverityError, "portLevelMtls without ports",
		"An empty portLevelMtls says nothing. Name a port, or remove it."},
	{codeModePort, SeverityError, "portLevelMtls for what is no port",
		"A port is a number from 1 to 65535."},
	{codeHost, SeverityError, "bad host of a DestinationRule",
		"A name of letters, digits, '-' and '.', at most 255 characters, with '*' only at the start of the first label."},
	{codeClientCert, SeverityError, "MUTUAL without client certificate",
		"Mutual TLS needs clientCertificate and privateKey, both, or a credentialName."},
	{codeClientFiles, SeverityError, "credentialName together with files",
		"Certificates come from the credential or from files, not from both."},
	{codeSkipVerify, SeverityError, "insecureSkipVerify together with what would be verified",
		"If the server's certificate is not verified, caCertificates and subjectAltNames (and in SIMPLE credentialName) say nothing."},
	{codeTrafficPort, SeverityError, "portLevelSettings without port",
		"Settings of a port have to name it."},
	{codeIstioMutual, SeverityError, "ISTIO_MUTUAL with certificates of its own",
		"In mode ISTIO_MUTUAL the gateway shows its workload certificate. No other one can be given."},
	{codeServerCert, SeverityError, "TLS server without certificate",
		"SIMPLE, MUTUAL and OPTIONAL_MUTUAL need serverCertificate and privateKey, tlsCertificates with both, or credentialName."},
	{codeClientCA, SeverityError, "MUTUAL without CA for client certificates",
		"MUTUAL and OPTIONAL_MUTUAL verify client certificates by caCertificates, or by what the credential brings."},
	{codeCertSources, SeverityError, "more than one certificate source",
		"Only one of credentialName, credentialNames, serverCertificate with privateKey, and tlsCertificates can be given."},
	{codeCRL, SeverityError, "CRL that cannot be used here",
		"SIMPLE verifies no client certificate, and with a credentialName the CRL is part of the credential."},
	{codeProtocolTLS, SeverityError, "TLS settings and protocol disagree",
		"Servers with protocol HTTPS and TLS need tls, others cannot have it; HTTP servers can ask for a redirect with it."},
	{codeServerPort, SeverityError, "server without a port",
		"A server of a Gateway needs port.number from 1 to 65535 (0 on a Unix socket) and port.protocol."},

	{codeEmptySelector, SeverityWarning, "selector without labels",
		"An empty selector selects every workload in scope, as if it were absent. Remove it, or add labels."},
	{codeDenyTCP, SeverityWarning, "DENY rule denies all TCP traffic",
		"The rule matches on HTTP fields only. Of a TCP connection these are unknown, so the rule denies every TCP connection of the workloads in scope. Add ports."},
	{codeTrustDomainPath, SeverityWarning, "trust domain with '/'",
		"No trust domain has a '/'. Istio accepts the value here and compares it with the start of the identity, path included, so it does not mean a trust domain."},
	{codeSchemaLimit, SeverityWarning, "more than the Kubernetes schema allows",
		"Istio's own validation and this program take the document, the Kubernetes API server would refuse it."},
	{codePrivateKey, SeverityWarning, "private or symmetric key in jwks",
		"Whoever reads this document could make tokens. Publish public keys only, and replace this one."},
	{codeUnusedCerts, SeverityWarning, "certificates that are not used",
		"In modes PASSTHROUGH and AUTO_PASSTHROUGH the gateway terminates no TLS and shows no certificate."},
}

// severityOf returns the severity of a code of the table.
func severityOf(code string) Severity {
	for i := range codes {
		if codes[i].Code == code {
			return codes[i].Severity
		}
	}
	return SeverityError
}
