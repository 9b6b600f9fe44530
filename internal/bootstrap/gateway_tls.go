package bootstrap

import (
	"path/filepath"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/writ-auth/writ/policy"
)

// gatewayTLS is the DownstreamTlsContext of a server that terminates TLS (authorization-policy §8.4).
func (m *maker) gatewayTLS(s *policy.ServerTLS) (any, error) {
	if s.Mode == policy.ServerIstioMutual {
		return m.meshServer(isHTTP(s)), nil
	}
	if s.Settings.GetInsecureSkipVerify().GetValue() && s.Mode.RequestsCertificate() {
		return nil, fault(s, "insecureSkipVerify takes certificates of anybody's making, and policies would take the names in them for true: remove it")
	}
	versions, err := serverVersions(s)
	if err != nil {
		return nil, err
	}
	common := object{f("tls_params", versions)}
	if isHTTP(s) {
		common = append(common, f("alpn_protocols", words{"h2", "http/1.1"}))
	}
	certificates, roots, err := m.serverFiles(s)
	if err != nil {
		return nil, err
	}
	common = append(common, f("tls_certificates", certificates, "Read at start: a new file takes a restart."))
	if s.Mode.RequestsCertificate() {
		if roots == "" {
			return nil, fault(s, "%v needs caCertificates, or a credentialName", s.Mode)
		}
		common = append(common, f("validation_context", clientVerification(s, roots), "Whose certificates are taken."))
	}
	return extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext",
		f("require_client_certificate", s.Mode == policy.ServerMutual), f("common_tls_context", common)), nil
}

// serverVersions are the TLS versions and cipher suites: those of the document, at least TLS 1.2.
func serverVersions(s *policy.ServerTLS) (inline, error) {
	version := func(v networkingv1alpha3.ServerTLSSettings_TLSProtocol, auto string) (string, error) {
		switch v {
		case networkingv1alpha3.ServerTLSSettings_TLS_AUTO:
			return auto, nil
		case networkingv1alpha3.ServerTLSSettings_TLSV1_2:
			return "TLSv1_2", nil
		case networkingv1alpha3.ServerTLSSettings_TLSV1_3:
			return "TLSv1_3", nil
		case networkingv1alpha3.ServerTLSSettings_TLSV1_0, networkingv1alpha3.ServerTLSSettings_TLSV1_1:
		}
		return "", fault(s, "%v: nothing older than TLS 1.2 is offered", v)
	}
	least, err := version(s.Settings.GetMinProtocolVersion(), "TLSv1_2")
	if err != nil {
		return nil, err
	}
	most, err := version(s.Settings.GetMaxProtocolVersion(), "TLSv1_3")
	if err != nil {
		return nil, err
	}
	out := inline{f("tls_minimum_protocol_version", least), f("tls_maximum_protocol_version", most)}
	if suites := s.Settings.GetCipherSuites(); len(suites) > 0 {
		out = append(out, f("cipher_suites", words(suites)))
	}
	return out, nil
}

// serverFiles are the certificates of a server and the roots that its clients are verified by.
func (m *maker) serverFiles(s *policy.ServerTLS) (certificates list, roots string, err error) {
	t := s.Settings
	if t.GetCaCertCredentialName() != "" {
		return nil, "", fault(s, "caCertCredentialName is not known here: use caCertificates, or a credentialName whose directory has ca.crt")
	}
	roots = t.GetCaCertificates()
	names := t.GetCredentialNames()
	if name := t.GetCredentialName(); name != "" {
		names = []string{name}
	}
	for i, name := range names {
		dir, err := m.credential("Gateway "+s.Gateway, name)
		if err != nil {
			return nil, "", err
		}
		if i == 0 && roots == "" {
			roots = filepath.Join(dir, "ca.crt")
		}
		certificates = append(certificates, certificateFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")))
	}
	for _, c := range t.GetTlsCertificates() {
		certificates = append(certificates, certificateFiles(c.GetServerCertificate(), c.GetPrivateKey()))
	}
	if t.GetServerCertificate() != "" {
		certificates = append(certificates, certificateFiles(t.GetServerCertificate(), t.GetPrivateKey()))
	}
	if len(certificates) == 0 {
		return nil, "", fault(s, "%v has no certificate: write serverCertificate and privateKey, or a credentialName", s.Mode)
	}
	return certificates, roots, nil
}

// clientVerification checks the certificates of a gateway's clients.
func clientVerification(s *policy.ServerTLS, roots string) object {
	out := object{f("trusted_ca", file(roots))}
	if names := s.Settings.GetSubjectAltNames(); len(names) > 0 {
		out = append(out, f("match_typed_subject_alt_names", anyNames(names)))
	}
	if crl := s.Settings.GetCaCrl(); crl != "" {
		out = append(out, f("crl", file(crl)))
	}
	if hashes := s.Settings.GetVerifyCertificateSpki(); len(hashes) > 0 {
		out = append(out, f("verify_certificate_spki", words(hashes)))
	}
	if hashes := s.Settings.GetVerifyCertificateHash(); len(hashes) > 0 {
		out = append(out, f("verify_certificate_hash", words(hashes)))
	}
	return out
}
