package policy

import (
	"fmt"
	"strconv"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
)

// destinationRule checks the host and the TLS settings (authorization-policy §8.3), those of subsets as well.
func (v *validator) destinationRule(r *networkingv1alpha3.DestinationRule) {
	if !isWildcardHost(r.GetHost()) {
		v.report(codeHost, "spec.host", quoted(r.GetHost())+" is not a host", "a name such as reviews.shop.svc.cluster.local, or *.example.com")
	}
	if r.GetWorkloadSelector() != nil {
		v.selectorAt("spec.workloadSelector", r.GetWorkloadSelector().GetMatchLabels())
	}
	v.trafficPolicy("spec.trafficPolicy", r.GetTrafficPolicy())
	for i, subset := range r.GetSubsets() {
		v.trafficPolicy("spec.subsets["+strconv.Itoa(i)+"].trafficPolicy", subset.GetTrafficPolicy())
	}
}

func (v *validator) trafficPolicy(field string, t *networkingv1alpha3.TrafficPolicy) {
	v.clientTLS(field+".tls", t.GetTls())
	for i, p := range t.GetPortLevelSettings() {
		at := fmt.Sprintf("%s.portLevelSettings[%d]", field, i)
		if p.GetPort() == nil {
			v.report(codeTrafficPort, at, "the settings name no port", "write port: {number: 443}, with the Service's port")
		}
		v.clientTLS(at+".tls", p.GetTls())
	}
}

func (v *validator) clientTLS(field string, t *networkingv1alpha3.ClientTLSSettings) {
	simple, mutual := t.GetMode() == networkingv1alpha3.ClientTLSSettings_SIMPLE, t.GetMode() == networkingv1alpha3.ClientTLSSettings_MUTUAL
	if !simple && !mutual { // DISABLE and ISTIO_MUTUAL use nothing of what could be wrong; a missing tls is DISABLE here
		return
	}
	credential := t.GetCredentialName() != ""
	verified := t.GetCaCertificates() != "" || len(t.GetSubjectAltNames()) > 0 || simple && credential
	if t.GetInsecureSkipVerify().GetValue() && verified {
		v.report(codeSkipVerify, field+".insecureSkipVerify", "the server's certificate is not verified, and yet it is said by what",
			"remove insecureSkipVerify, or else caCertificates, subjectAltNames and credentialName")
	}
	files := t.GetClientCertificate() != "" || t.GetPrivateKey() != "" || t.GetCaCertificates() != "" || t.GetCaCrl() != ""
	switch {
	case credential && files:
		v.report(codeClientFiles, field+".credentialName", "certificates come from the credential and from files",
			"remove clientCertificate, privateKey, caCertificates and caCrl, or credentialName")
	case credential:
	case mutual && (t.GetClientCertificate() == "" || t.GetPrivateKey() == ""):
		v.report(codeClientCert, field, "MUTUAL needs clientCertificate and privateKey", "write both, or a credentialName")
	}
}

// gateway checks the port and the TLS settings of every server (authorization-policy §8.4).
func (v *validator) gateway(g *networkingv1alpha3.Gateway) {
	for i, server := range g.GetServers() {
		v.server("spec.servers["+strconv.Itoa(i)+"]", server)
	}
}

func (v *validator) server(field string, s *networkingv1alpha3.Server) {
	v.serverTLS(field+".tls", s.GetTls())
	port := s.GetPort()
	unix := strings.HasPrefix(s.GetBind(), "unix://")
	if port.GetProtocol() == "" || port.GetNumber() > maxPort || port.GetNumber() == 0 && !unix {
		v.report(codeServerPort, field+".port", "the server has no usable port", "write port: {number: 443, protocol: HTTPS, name: https}")
		return
	}
	switch tls := s.GetTls(); {
	case isTLSProtocol(port.GetProtocol()) && tls == nil:
		v.report(codeProtocolTLS, field, "protocol "+port.GetProtocol()+" and no tls", "write tls, or another protocol")
	case tls == nil || isTLSProtocol(port.GetProtocol()):
	case !isHTTPProtocol(port.GetProtocol()):
		v.report(codeProtocolTLS, field+".tls", "tls and protocol "+port.GetProtocol(), "write protocol TLS, or remove tls")
	case !passesThrough(tls) || tls.GetCaCertificates() != "" || tls.GetPrivateKey() != "" || tls.GetServerCertificate() != "":
		v.report(codeProtocolTLS, field+".tls", "tls and protocol "+port.GetProtocol()+": the port is plaintext", "write protocol HTTPS, or remove tls")
	}
}

func isHTTPProtocol(protocol string) bool {
	switch strings.ToLower(protocol) {
	case "http", "http2", "http_proxy", "grpc", "grpc-web":
		return true
	}
	return false
}

func passesThrough(t *networkingv1alpha3.ServerTLSSettings) bool {
	return t.GetMode() == networkingv1alpha3.ServerTLSSettings_PASSTHROUGH || t.GetMode() == networkingv1alpha3.ServerTLSSettings_AUTO_PASSTHROUGH
}

func (v *validator) serverTLS(field string, t *networkingv1alpha3.ServerTLSSettings) {
	if t == nil {
		return
	}
	sources := certificateSources(t)
	if t.GetMode() == networkingv1alpha3.ServerTLSSettings_ISTIO_MUTUAL {
		if own := append(sources, lone(t)...); len(own) > 0 {
			v.report(codeIstioMutual, field, "ISTIO_MUTUAL and "+strings.Join(own, ", "), "remove them, or write mode MUTUAL")
		}
		return
	}
	if passesThrough(t) && (len(sources)+len(lone(t)) > 0 || t.GetCaCrl() != "") {
		v.report(codeUnusedCerts, field, t.GetMode().String()+" uses no certificates", "remove them, or write another mode")
	}
	if len(sources) > 1 {
		v.report(codeCertSources, field, "certificates come from "+strings.Join(sources, " and "), "keep one of them")
	}
	v.crl(field, t)
	if passesThrough(t) {
		return
	}
	if t.GetCredentialName() != "" || len(t.GetCredentialNames()) > 0 { // the credential brings everything
		return
	}
	if t.GetMode() != networkingv1alpha3.ServerTLSSettings_SIMPLE && t.GetCaCertificates() == "" {
		v.report(codeClientCA, field, t.GetMode().String()+" needs caCertificates to verify clients by", "write caCertificates, or a credentialName")
	}
	v.serverCertificates(field, t)
}

func (v *validator) serverCertificates(field string, t *networkingv1alpha3.ServerTLSSettings) {
	const message, hint = "the server has no certificate with its key", "write serverCertificate and privateKey, or a credentialName"
	for i, c := range t.GetTlsCertificates() {
		if c.GetServerCertificate() == "" || c.GetPrivateKey() == "" {
			v.report(codeServerCert, fmt.Sprintf("%s.tlsCertificates[%d]", field, i), message, "write serverCertificate and privateKey")
		}
	}
	if len(t.GetTlsCertificates()) == 0 && (t.GetServerCertificate() == "" || t.GetPrivateKey() == "") {
		v.report(codeServerCert, field, message, hint)
	}
}

func (v *validator) crl(field string, t *networkingv1alpha3.ServerTLSSettings) {
	if t.GetCaCrl() != "" && (t.GetCredentialName() != "" || t.GetMode() == networkingv1alpha3.ServerTLSSettings_SIMPLE) {
		v.report(codeCRL, field+".caCrl", "the CRL would not be used", "put it into the credential, or remove it")
	}
}

// certificateSources names where a server's certificate comes from. A file without its key is not a source.
func certificateSources(t *networkingv1alpha3.ServerTLSSettings) []string {
	var out []string
	if t.GetServerCertificate() != "" && t.GetPrivateKey() != "" {
		out = append(out, "serverCertificate with privateKey")
	}
	if t.GetCredentialName() != "" {
		out = append(out, "credentialName")
	}
	if len(t.GetCredentialNames()) > 0 {
		out = append(out, "credentialNames")
	}
	if len(t.GetTlsCertificates()) > 0 {
		out = append(out, "tlsCertificates")
	}
	return out
}

// lone names the certificate files that are no source by themselves.
func lone(t *networkingv1alpha3.ServerTLSSettings) []string {
	var out []string
	if (t.GetServerCertificate() != "") != (t.GetPrivateKey() != "") {
		out = append(out, "serverCertificate or privateKey")
	}
	if t.GetCaCertificates() != "" {
		out = append(out, "caCertificates")
	}
	return out
}

// isWildcardHost reports a host name as Istio checks it: DNS labels, the first one of which may be or begin with a star, a
// trailing dot allowed, not all digits at the top.
func isWildcardHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	first, rest, more := strings.Cut(host, ".")
	if afterStar, wild := strings.CutPrefix(first, "*"); wild {
		first = strings.TrimPrefix(afterStar, "-")
		if afterStar == "" {
			first = "any"
		}
	}
	if !isDNSLabel(first) {
		return false
	}
	if !more {
		return true
	}
	labels := strings.Split(rest, ".")
	if last := len(labels) - 1; labels[last] == "" {
		labels = labels[:last]
	} else if _, err := strconv.Atoi(labels[last]); err == nil {
		return false
	}
	for _, l := range labels {
		if !isDNSLabel(l) {
			return false
		}
	}
	return true
}

// isDNSLabel reports letters of either case, digits and inner dashes.
func isDNSLabel(s string) bool { return isLabel(strings.ToLower(s)) }
