package bootstrap

import (
	"fmt"
	"strings"
)

const (
	filterAuthz = "envoy.filters.http.ext_authz"
	filterJWT   = "envoy.filters.http.jwt_authn"
)

// httpServer is how requests are taken in: everything before the routes.
type httpServer struct {
	name    string // of statistics
	gateway bool   // callers are the outside world
	hosts   list   // virtual hosts
}

// httpFilters is a whole HTTP filter chain: clean the request, ask writ, forward.
func (m *maker) httpFilters(s httpServer) (list, error) {
	m.checks = true
	filters, err := m.jwtFilter()
	if err != nil {
		return nil, err
	}
	filters = append(filters, item{"Before anything that could change the request. It fails closed: no answer is a 403.", shared{"ext_authz", m.authzFilter()}}, router())
	fields := append([]field{f("stat_prefix", s.name), f("codec_type", "AUTO")}, m.pathSettings()...)
	fields = append(fields, m.callerSettings(s.gateway)...)
	fields = append(fields,
		f("access_log", shared{"http_log", accessLog(httpLog(), filterAuthz)}, "writ's reasons arrive as metadata: the log tells why, the caller never learns it."),
		f("route_config", object{
			f("name", s.name),
			f("ignore_port_in_host_matching", true),
			f("virtual_hosts", s.hosts),
		}),
		f("http_filters", filters))
	return list{extension("envoy.filters.network.http_connection_manager", "filters.network.http_connection_manager.v3.HttpConnectionManager", fields...)}, nil
}

func (m *maker) pathSettings() []field {
	if m.Proxy.RawPaths {
		return []field{f("normalize_path", false, "authz.paths is none: policies see paths as they come.")}
	}
	return []field{
		f("normalize_path", true, "Policies compare paths as they are after these three; otherwise /public/../admin would not be /admin."),
		f("merge_slashes", true),
		f("path_with_escaped_slashes_action", "REJECT_REQUEST", "Stricter than Istio: no application can decode %2F into a path that no policy saw.",
			"KEEP_UNCHANGED is Istio's, for paths that carry it."),
	}
}

// callerSettings say what is believed of a caller.
func (m *maker) callerSettings(gateway bool) []field {
	client := f("forward_client_cert_details", "SANITIZE_SET", "x-forwarded-client-cert tells the application who calls. What the caller sent by that name is removed.")
	details := f("set_current_client_cert_details", inline{f("uri", true)})
	if !gateway {
		return []field{
			f("use_remote_address", false, "A sidecar: x-forwarded-for is what the caller's proxy says."),
			client, details,
		}
	}
	return []field{
		f("use_remote_address", true, "A gateway: the caller's address is that of the connection, but for so many proxies of our own in front;",
			"the same number as authz.trusted_hops."),
		f("xff_num_trusted_hops", m.Proxy.TrustedHops),
		client, details,
		f("common_http_protocol_options", inline{f("headers_with_underscores_action", "REJECT_REQUEST")},
			"Many applications read x_user as x-user: a caller could set what a policy or a token should."),
		f("http2_protocol_options", inline{f("max_concurrent_streams", 100)}),
		f("request_headers_timeout", "10s"),
	}
}

// authzFilter asks writ about a request; each setting is explained in deploy/envoy/sidecar.yaml.
func (m *maker) authzFilter() object {
	fields := []field{
		f("transport_api_version", "V3"),
		f("grpc_service", object{f("envoy_grpc", inline{f("cluster_name", clusterWrit)}), f("timeout", "0.25s"), retryPolicy()}),
		f("failure_mode_allow", false),
		f("status_on_error", inline{f("code", "Forbidden")}),
		f("clear_route_cache", false, "The route was chosen before the answer, and stays."),
		f("include_peer_certificate", true, "All names of the caller's certificate, not only the first."),
		f("include_tls_session", true, "connection.sni in policies."),
		f("encode_raw_headers", true, "Header values byte for byte, repeated ones apart: as Envoy's own RBAC would see them."),
	}
	if m.Proxy.MetadataJWT {
		fields = append(fields, f("metadata_context_namespaces", words{filterJWT}, "What the filter before this one verified (authz.jwt: metadata)."))
	}
	return extension(filterAuthz, "filters.http.ext_authz.v3.ExtAuthz", fields...)
}

func retryPolicy() field {
	return f("retry_policy", shared{"retry_policy", object{
		f("retry_on", "connect-failure,refused-stream,reset,unavailable"),
		f("num_retries", 3),
		f("retry_back_off", inline{f("base_interval", "0.005s"), f("max_interval", "0.1s")}),
		f("retry_host_predicate", list{extension("envoy.retry_host_predicates.previous_hosts", "retry.host.previous_hosts.v3.PreviousHostsPredicate")}),
		f("host_selection_retry_max_attempts", 3),
	}}, "A question changes nothing, so it may be asked again: writ restarting costs nobody an answer.")
}

// aboutWorkload names the workload on a virtual host: ext_authz itself does not say whom it protects.
func (m *maker) aboutWorkload() field {
	var extensions object
	m.named(func(key, value string) { extensions = append(extensions, f("writ."+key, value)) })
	return f("typed_per_filter_config", shared{"workload", object{f(filterAuthz, typed("filters.http.ext_authz.v3.ExtAuthzPerRoute",
		f("check_settings", object{f("context_extensions", extensions)})))}}, "Whom the question is about. No caller can reach this.")
}

// tcpFilters is a whole TCP filter chain.
func (m *maker) tcpFilters(name, cluster string) list {
	m.checks = true
	var metadata list
	m.named(func(key, value string) {
		metadata = append(metadata, inline{f("key", "writ-"+strings.ReplaceAll(key, "_", "-")), f("value", value)})
	})
	return list{
		extension("envoy.filters.network.ext_authz", "filters.network.ext_authz.v3.ExtAuthz",
			f("stat_prefix", name),
			f("transport_api_version", "V3"),
			f("grpc_service", object{
				f("envoy_grpc", inline{f("cluster_name", clusterWrit)}), f("timeout", "0.25s"), retryPolicy(),
				f("initial_metadata", metadata, "Whom the question is about."),
			}),
			f("failure_mode_allow", false),
			f("include_peer_certificate", true),
			f("include_tls_session", true)),
		tcpProxy(name, cluster,
			f("upstream_connect_mode", "ON_DOWNSTREAM_DATA", "Envoy asks when the caller's first byte arrives; until writ has said yes the application",
				"is not connected to. Protocols in which the server speaks first need IMMEDIATE."),
			f("max_early_data_bytes", 16384)),
	}
}

func tcpProxy(name, cluster string, more ...field) object {
	return extension("envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy",
		append([]field{f("stat_prefix", name), f("cluster", cluster)}, more...)...)
}

func router() object {
	return extension("envoy.filters.http.router", "filters.http.router.v3.Router")
}

// route sends everything to a cluster. How long a request may take is its caller's to say.
func route(cluster string, more ...field) object {
	return object{f("match", inline{f("prefix", "/")}), f("route", append(inline{f("cluster", cluster), f("timeout", "0s")}, more...))}
}

// accessLog writes JSON lines to stdout: the given fields, then what writ says.
func accessLog(fields object, filter string, more ...string) list {
	for _, key := range append([]string{"decision", "layer", "reason", "policy", "rule", "rule_id", "decision_id", "audit"}, more...) {
		fields = append(fields, f(key, fmt.Sprintf("%%DYNAMIC_METADATA(%s:%s)%%", filter, key)))
	}
	return list{extension("envoy.access_loggers.stdout", "access_loggers.stream.v3.StdoutAccessLog", f("log_format", object{f("json_format", fields)}))}
}

func httpLog() object {
	return object{
		f("time", "%START_TIME%"), f("request_id", "%REQ(X-REQUEST-ID)%"), f("from", "%DOWNSTREAM_PEER_URI_SAN%"), f("method", "%REQ(:METHOD)%"),
		f("path", "%PATH(NQ)%"), f("status", "%RESPONSE_CODE%"), f("details", "%RESPONSE_CODE_DETAILS%"), f("token", "%DYNAMIC_METADATA("+filterAuthz+":token)%"),
	}
}

// tcpLog is the listener's own log: a denied connection never reaches tcp_proxy, whose log would miss it.
func tcpLog() shared {
	return shared{"tcp_log", accessLog(object{
		f("time", "%START_TIME%"), f("from", "%DOWNSTREAM_PEER_URI_SAN%"), f("sni", "%REQUESTED_SERVER_NAME%"), f("bytes_out", "%BYTES_SENT%"),
		f("closed", "%CONNECTION_TERMINATION_DETAILS%"),
	}, "envoy.filters.network.ext_authz")}
}
