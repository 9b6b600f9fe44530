package bootstrap

import "strings"

// Names of secrets (identity §4.1).
const (
	secretCertificate = "default"
	secretRoots       = "ROOTCA"
)

// sdsSource says how a secret is asked for (identity §4.4).
func (m *maker) sdsSource() shared {
	m.secrets = true
	return shared{"sds_source", object{
		f("resource_api_version", "V3"),
		f("initial_fetch_timeout", "0s", "Wait for it: until it is here the port is closed. With a limit Envoy would open the port without a certificate,",
			"and reset every connection."),
		f("api_config_source", object{
			f("api_type", "GRPC"), f("transport_api_version", "V3"), f("set_node_on_first_message_only", true),
			f("grpc_services", list{inline{f("envoy_grpc", inline{f("cluster_name", clusterSDS)})}}),
		}),
	}}
}

// tlsVersions are those of the mesh (authorization-policy §8.2).
func tlsVersions() field {
	return f("tls_params", inline{f("tls_minimum_protocol_version", "TLSv1_2"), f("tls_maximum_protocol_version", "TLSv1_3")})
}

// ownCertificate is the workload's own, for both sides of a connection.
func (m *maker) ownCertificate() field {
	return f("tls_certificate_sds_secret_configs", list{object{f("name", secretCertificate), f("sds_config", m.sdsSource())}},
		"The workload's own certificate, and its renewals. With an agent it is the first identity that this Envoy's user may have.")
}

// meshPeer verifies a workload certificate: chain by the roots of SDS, identity by the matchers.
func (m *maker) meshPeer(why string, matchers list) field {
	return f("combined_validation_context", object{
		f("default_validation_context", object{f("match_typed_subject_alt_names", matchers, why)}),
		f("validation_context_sds_secret_config", object{f("name", secretRoots), f("sds_config", m.sdsSource())}),
	})
}

// meshServer is the DownstreamTlsContext of mutual TLS in the mesh (authorization-policy §8.2, identity §4.4).
func (m *maker) meshServer(http bool) shared {
	anchor, common := "mesh_tcp", object{tlsVersions()}
	if http {
		anchor = "mesh_http"
		common = append(common, f("alpn_protocols", words{"h2", "http/1.1"}))
	}
	var matchers list
	for _, domain := range append([]string{m.Mesh.TrustDomain}, m.Mesh.TrustDomainAliases...) {
		matchers = append(matchers, sanMatcher("URI", "prefix", "spiffe://"+domain+"/"))
	}
	common = append(common, m.ownCertificate(), m.meshPeer("Who may connect at all: certificates of the trust domain and its aliases. "+
		"namespaces and serviceAccounts in a policy do not look at the trust domain; this does.", matchers))
	return shared{anchor, extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext",
		f("require_client_certificate", true, "Who shows no certificate is refused: without one there is no principal."),
		f("common_tls_context", common))}
}

func sanMatcher(kind, how, value string) inline {
	return inline{f("san_type", kind), f("matcher", inline{f(how, value)})}
}

// anyName matches a name that documents give without its kind.
func anyName(name string) list {
	switch {
	case strings.Contains(name, "://"):
		return list{sanMatcher("URI", "exact", name)}
	case Address{Host: name}.isIP():
		return list{sanMatcher("IP_ADDRESS", "exact", name)}
	case strings.Contains(name, "@"):
		return list{sanMatcher("EMAIL", "exact", name)}
	}
	return list{sanMatcher("DNS", "exact", name)}
}

func anyNames(names []string) list {
	var out list
	for _, name := range names {
		out = append(out, anyName(name)...)
	}
	return out
}

func file(path string) inline { return inline{f("filename", path)} }

// certificateFiles is a certificate with its key from PEM files.
func certificateFiles(certificate, key string) object {
	return object{f("certificate_chain", file(certificate)), f("private_key", file(key))}
}
