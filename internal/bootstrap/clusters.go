package bootstrap

// cluster is where connections go to. tls is its transport socket, nil for plaintext.
func cluster(name string, protocol Protocol, tls object, to []Address, options ...field) object {
	kind := "STATIC"
	for _, a := range to {
		if !a.isIP() {
			kind = "STRICT_DNS"
		}
	}
	c := object{f("name", name), f("type", kind), f("connect_timeout", "5s")}
	if protocol == HTTP2 {
		c = append(c, http2Only())
	}
	c = append(c, options...)
	if tls != nil {
		c = append(c, f("transport_socket", tls))
	}
	return append(c, endpoints(name, to))
}

func endpoints(name string, to []Address) field {
	var all list
	for _, a := range to {
		all = append(all, inline{f("endpoint", inline{f("address", a.node())})})
	}
	return f("load_assignment", object{f("cluster_name", name), f("endpoints", list{object{f("lb_endpoints", all)}})})
}

const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func http2Only(options ...field) field {
	return f("typed_extension_protocol_options", object{f(httpOptions, typed("upstreams.http.v3.HttpProtocolOptions",
		f("explicit_http_config", object{f("http2_protocol_options", inline(options))})))})
}

// keptAlive is HTTP/2 that notices when the other side is gone.
func keptAlive() field {
	return http2Only(f("connection_keepalive", inline{f("interval", "30s"), f("timeout", "5s")}))
}

// sdsCluster is where certificates come from (identity §4.4).
func (m *maker) sdsCluster() item {
	return item{"Where the certificate, its key and the roots come from: writ agent, or writ serve with sds. It knows this Envoy by its Unix user.",
		object{f("name", clusterSDS), f("type", "STATIC"), f("connect_timeout", "1s"), keptAlive(), endpoints(clusterSDS, []Address{m.Proxy.SDS})}}
}

// writCluster is where decisions come from.
func (m *maker) writCluster() item {
	p := &m.Proxy
	kind := "STATIC"
	if !p.Authz.isIP() {
		kind = "STRICT_DNS"
	}
	c := object{f("name", clusterWrit), f("type", kind), f("connect_timeout", "0.25s"), keptAlive(),
		f("circuit_breakers", object{f("thresholds", list{inline{f("max_requests", 100000), f("max_pending_requests", 100000), f("max_retries", 1000)}})},
			"Every request in flight is one question in flight: the default of 1024 would deny the rest of a busy moment."),
	}
	if p.AuthzCA != "" {
		c = append(c, f("transport_socket", extension("envoy.transport_sockets.tls", "transport_sockets.tls.v3.UpstreamTlsContext",
			f("sni", p.Authz.Host),
			f("common_tls_context", object{tlsVersions(), m.ownCertificate(), f("validation_context", object{
				f("trusted_ca", file(p.AuthzCA)),
				f("match_typed_subject_alt_names", anyName(p.Authz.Host)),
			})})), "Whoever answers in writ's place decides everything: its certificate has to name it. Ours is for authz.tls.client_ca."))
	}
	return item{"Where decisions come from: authz.listen of writ serve.", append(c, endpoints(clusterWrit, []Address{p.Authz}))}
}
