package bootstrap

import (
	"fmt"
	"path/filepath"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"

	"github.com/writ-auth/writ/policy"
)

// addUpstreams adds a cluster for each service that is called, and a listener where the application finds it.
func (m *maker) addUpstreams() error {
	seen := map[string]bool{}
	for _, u := range m.Upstreams {
		if seen[u.name()] {
			return wrong("upstream", "%s is given twice: give all its addresses and identities at once", u.name())
		}
		seen[u.name()] = true
		if err := m.addUpstream(u); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) addUpstream(u Upstream) error {
	says, err := m.Snapshot.ClientTLS(m.workload, policy.Destination{Host: u.Host, Namespace: u.namespace(), Port: u.Port})
	if err != nil {
		return err
	}
	for _, ignored := range says.Ignored {
		m.warn("upstream %s: %s is not used", u.name(), ignored)
	}
	tls, why, err := m.upstreamTLS(&u, says)
	if err != nil {
		return err
	}
	to := u.Addresses
	if len(to) == 0 {
		to = []Address{{Host: u.Host, Port: u.Port}}
	}
	m.clusters = append(m.clusters, item{"Service " + u.name() + ".\n" + why, cluster(u.cluster(), u.Protocol, tls, to)})
	if u.Listen == 0 {
		return nil
	}
	if err := m.claim("upstream", u.Listen, "upstream "+u.name()); err != nil {
		return err
	}
	m.listeners = append(m.listeners, item{"Where the application calls " + u.name() + ".", u.listener()})
	return nil
}

// listener is where the application finds the service.
func (u *Upstream) listener() object {
	name := fmt.Sprintf("outbound_%d", u.Listen)
	filters := list{tcpProxy(name, u.cluster())}
	if u.Protocol != TCP {
		filters = list{extension("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager",
			f("stat_prefix", name), f("codec_type", "AUTO"),
			f("route_config", object{f("name", name), f("virtual_hosts", list{object{
				f("name", "service"), f("domains", words{"*"}),
				f("routes", list{route(u.cluster(), f("host_rewrite_literal", u.Host))}, "The application calls 127.0.0.1: the service is told its own name."),
			}})}),
			f("http_filters", list{router()}))}
	}
	return object{
		f("name", name), f("address", loopback(u.Listen).node()), f("traffic_direction", "OUTBOUND"), f("filter_chains", list{object{f("filters", filters)}}),
	}
}

// upstreamTLS is the transport socket for a service, nil for plaintext, and why (authorization-policy §8.3).
func (m *maker) upstreamTLS(u *Upstream, says policy.ClientTLS) (tls object, why string, err error) {
	why = says.Mode.String() + ", by " + says.By
	switch says.Mode {
	case policy.ClientAutomatic:
		return m.automaticTLS(u, says)
	case policy.ClientDisable:
		return nil, "Plaintext: " + why + ".", nil
	case policy.ClientIstioMutual:
		tls, err = m.istioMutual(u, says)
	case policy.ClientSimple, policy.ClientMutual:
		tls, err = m.outsideTLS(u, says)
	default:
		err = fmt.Errorf("unknown TLS mode %v", says.Mode)
	}
	return tls, why + ".", err
}

// automaticTLS is mutual TLS to services that are known to be in the mesh, plaintext to others.
func (m *maker) automaticTLS(u *Upstream, says policy.ClientTLS) (object, string, error) {
	says.By = "No DestinationRule says anything of TLS"
	if len(u.Identities) == 0 {
		m.warn("upstream %s: no DestinationRule says anything of TLS, and no identity that it is in the mesh: it is called in plaintext. "+
			"In the mesh, name identity=NAMESPACE/SERVICEACCOUNT; outside, write a DestinationRule with mode SIMPLE", u.name())
		return nil, says.By + ", and no identity that it is in the mesh: plaintext.", nil
	}
	tls, err := m.istioMutual(u, says)
	return tls, says.By + ": mutual TLS, for its identity is known.", err
}

// istioMutual is mutual TLS in the mesh: both sides show workload certificates, and the server is one of the service's.
func (m *maker) istioMutual(u *Upstream, says policy.ClientTLS) (object, error) {
	var expected list
	for _, id := range u.Identities {
		expected = append(expected, sanMatcher("URI", "exact", id))
	}
	if names := says.Settings.GetSubjectAltNames(); len(names) > 0 {
		expected = anyNames(names)
	}
	if len(expected) == 0 {
		return nil, wrong("upstream", "%s: %s says %v, and who may answer is not known: append ,identity=NAMESPACE/SERVICEACCOUNT", u.name(), says.By, says.Mode)
	}
	sni := says.Settings.GetSni()
	if sni == "" {
		sni = fmt.Sprintf("outbound_.%d_._.%s", u.Port, u.Host)
	}
	alpn := words{"istio"}
	if u.Protocol == HTTP2 {
		alpn = words{"istio", "h2"}
	}
	return extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext",
		f("sni", sni),
		f("common_tls_context", object{
			tlsVersions(),
			f("alpn_protocols", alpn, "Says that the mesh's own TLS is meant; PERMISSIVE servers go by it."),
			m.ownCertificate(),
			m.meshPeer("Who may answer: exactly the service's own identities.", expected),
		})), nil
}

// outsideTLS is TLS to a server outside the mesh, with a certificate of ours under MUTUAL.
func (m *maker) outsideTLS(u *Upstream, says policy.ClientTLS) (object, error) {
	s := says.Settings
	fault := func(format string, args ...any) error {
		return &DocumentError{says.By, says.Mode.String() + fmt.Sprintf(format, args...)}
	}
	certificate, key, roots := s.GetClientCertificate(), s.GetPrivateKey(), s.GetCaCertificates()
	if name := s.GetCredentialName(); name != "" {
		if !says.Selected && len(m.Gateways) == 0 {
			return nil, fault(" with credentialName %q and no workloadSelector: a sidecar then gets no TLS at all, and would send plaintext: add a workloadSelector, or name files", name)
		}
		dir, err := m.credential(says.By, name)
		if err != nil {
			return nil, err
		}
		certificate, key, roots = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	}
	common := object{tlsVersions()}
	if u.Protocol == HTTP2 {
		common = append(common, f("alpn_protocols", words{"h2"}))
	}
	if says.Mode == policy.ClientMutual {
		if certificate == "" || key == "" {
			return nil, fault(" needs clientCertificate and privateKey, or a credentialName")
		}
		common = append(common, f("tls_certificates", list{certificateFiles(certificate, key)}, "Read at start: a new file takes a restart."))
	}
	sni := s.GetSni()
	if sni == "" {
		sni = u.Host
	}
	if s.GetInsecureSkipVerify().GetValue() {
		m.warn("upstream %s: %s says insecureSkipVerify: whoever answers is taken for the service", u.name(), says.By)
	} else {
		common = append(common, f("validation_context", m.serverVerification(s, roots, sni), "Who may answer."))
	}
	return extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext", f("sni", sni), f("common_tls_context", common)), nil
}

// serverVerification checks the chain by the given roots, or the system's, and the name by what the rule says, else by the
// host that is called.
func (m *maker) serverVerification(s *networkingv1alpha3.ClientTLSSettings, roots, host string) object {
	if roots == "" || roots == "system" {
		roots = m.Proxy.SystemRoots
	}
	names := s.GetSubjectAltNames()
	if len(names) == 0 {
		names = []string{host}
	}
	out := object{f("trusted_ca", file(roots)), f("match_typed_subject_alt_names", anyNames(names))}
	if crl := s.GetCaCrl(); crl != "" {
		out = append(out, f("crl", file(crl)))
	}
	return out
}

// credential is the directory of a credentialName.
func (m *maker) credential(by, name string) (string, error) {
	name = strings.TrimPrefix(name, "kubernetes://")
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\:") {
		return "", &DocumentError{by, fmt.Sprintf("credentialName %q: want the name of a secret", name)}
	}
	if m.Proxy.Credentials == "" {
		return "", wrong("credentials", "is missing: credentialName %q needs the directory that has %s/tls.crt and the rest", name, name)
	}
	return filepath.Join(m.Proxy.Credentials, name), nil
}
