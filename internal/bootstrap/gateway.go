package bootstrap

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// addGateways adds a listener for each port of the Gateways that were named.
func (m *maker) addGateways() error {
	if len(m.Gateways) == 0 {
		return nil
	}
	servers, err := m.Snapshot.GatewayServers(m.workload)
	if err != nil {
		return err
	}
	var all []string
	for i := range servers {
		if !slices.Contains(all, servers[i].Gateway) {
			all = append(all, servers[i].Gateway)
		}
	}
	for _, name := range m.Gateways {
		if !slices.Contains(all, name) {
			return wrong("gateway", "%s does not select %s with labels %q; those that do: %s", name, m.title(), m.labels(), cmp.Or(strings.Join(all, ", "), "none"))
		}
	}
	servers = slices.DeleteFunc(servers, func(s policy.ServerTLS) bool { return !slices.Contains(m.Gateways, s.Gateway) })
	slices.SortStableFunc(servers, func(a, b policy.ServerTLS) int { return cmp.Compare(a.Port, b.Port) })
	for len(servers) > 0 {
		n := slices.IndexFunc(servers, func(s policy.ServerTLS) bool { return s.Port != servers[0].Port })
		if n < 0 {
			n = len(servers)
		}
		if err := m.addGatewayPort(servers[:n]); err != nil {
			return err
		}
		servers = servers[n:]
	}
	return nil
}

// addGatewayPort adds the listener of all servers of one port.
func (m *maker) addGatewayPort(servers []policy.ServerTLS) error {
	first := &servers[0]
	if err := m.claim("gateway", first.Port, "gateway "+first.Gateway); err != nil {
		return err
	}
	bind := m.Bind
	if first.Bind != "" {
		var err error
		if bind, err = netip.ParseAddr(first.Bind); err != nil {
			return fault(first, "bind %q: want an IP address", first.Bind)
		}
	}
	name := fmt.Sprintf("gateway_%d", first.Port)
	listener := object{f("name", name), f("address", socketAddress(bind.String(), first.Port)), f("traffic_direction", "INBOUND"),
		f("per_connection_buffer_limit_bytes", 32768),
	}
	if slices.ContainsFunc(servers, func(s policy.ServerTLS) bool { return !isHTTP(&s) }) {
		listener = append(listener, f("access_log", tcpLog()))
	}
	plaintext := first.Mode == policy.ServerPlaintext
	if !plaintext {
		listener = append(listener, tlsInspector()...)
	}
	var chains list
	for i := range servers {
		s := &servers[i]
		if (s.Mode == policy.ServerPlaintext) != plaintext || s.Bind != first.Bind {
			return fault(s, "port %d is shared with %s, and they differ in bind, or in whether there is TLS: give one of them another port", s.Port, first.Gateway)
		}
		if plaintext && i > 0 {
			if isHTTP(s) && isHTTP(first) {
				continue // one chain for all: plaintext has no name to tell them apart before the request
			}
			return fault(s, "port %d is shared with %s: a plaintext port that is not HTTP has one server", s.Port, first.Gateway)
		}
		mine := servers[i : i+1]
		if plaintext {
			mine = servers
		}
		chain, err := m.gatewayChains(name, mine)
		if err != nil {
			return err
		}
		chains = append(chains, chain...)
	}
	m.listeners = append(m.listeners, item{fmt.Sprintf("Port %d of gateway %s.", first.Port, first.Gateway), append(listener, f("filter_chains", chains))})
	return nil
}

func fault(s *policy.ServerTLS, format string, args ...any) error {
	return &DocumentError{"Gateway " + s.Gateway, fmt.Sprintf("port %d: ", s.Port) + fmt.Sprintf(format, args...)}
}

// isHTTP reports whether the gateway reads requests, rather than pass on bytes.
func isHTTP(s *policy.ServerTLS) bool {
	switch strings.ToLower(s.Protocol) {
	case "http", "http2", "grpc", "grpc-web":
		return true
	case "https":
		return s.Mode.Terminates()
	}
	return false
}

// gatewayChains are the filter chains of one server, or of all plaintext HTTP servers of a port.
func (m *maker) gatewayChains(name string, servers []policy.ServerTLS) (list, error) {
	s := &servers[0]
	switch s.Mode {
	case policy.ServerAutoPassthrough:
		return nil, fault(s, "AUTO_PASSTHROUGH forwards by the names of all clusters of a mesh, which are not known here: use PASSTHROUGH with routes")
	case policy.ServerPassthrough:
		return m.passthrough(name, s)
	}
	var filters list
	var err error
	if isHTTP(s) {
		filters, err = m.gatewayHTTP(name, servers)
	} else {
		var to []target
		if to, err = m.targets(s); err == nil && len(to) > 1 {
			err = fault(s, "TCP to %d upstreams: without HTTP nothing tells them apart, name one", len(to))
		}
		if err == nil {
			filters = m.tcpFilters(name, to[0].cluster)
		}
	}
	if err != nil {
		return nil, err
	}
	chain := object{}
	if names := serverNames(s.Hosts); len(names) > 0 && s.Mode != policy.ServerPlaintext {
		chain = append(chain, f("filter_chain_match", inline{f("server_names", names)}))
	}
	if s.Mode != policy.ServerPlaintext {
		tls, err := m.gatewayTLS(s)
		if err != nil {
			return nil, err
		}
		chain = append(chain, f("transport_socket", tls))
	}
	return list{item{s.Mode.String() + ": " + gatewayWhy(s), append(chain, f("filters", filters))}}, nil
}

func gatewayWhy(s *policy.ServerTLS) string {
	switch s.Mode {
	case policy.ServerMutual:
		return "a client certificate is required; its names, of any form, are the principal."
	case policy.ServerOptionalMutual:
		return "a client certificate is asked for, and verified if it is sent; without one there is no principal."
	case policy.ServerIstioMutual:
		return "mutual TLS with workload certificates; the principal is a SPIFFE ID."
	case policy.ServerSimple:
		return "TLS without a client certificate: nobody has a principal."
	}
	if s.HTTPSRedirect {
		return "every request is sent to https."
	}
	return "nobody has a principal."
}

// gatewayHTTP is the filter chain of HTTP servers; several have one only where there is no TLS to tell them apart.
func (m *maker) gatewayHTTP(name string, servers []policy.ServerTLS) (list, error) {
	var hosts list
	seen := map[string]bool{}
	for i := range servers {
		s := &servers[i]
		to, err := m.targets(s)
		if err != nil {
			return nil, err
		}
		for _, t := range to {
			if seen[t.host] {
				return nil, fault(s, "host %s is served twice on one port", t.host)
			}
			seen[t.host] = true
			to := route(t.cluster)
			if s.HTTPSRedirect { // not require_tls, whose answer has no route: writ would be asked about nobody
				to = object{f("match", inline{f("prefix", "/")}), f("redirect", inline{f("https_redirect", true)}, "httpsRedirect.")}
			}
			hosts = append(hosts, object{f("name", t.host), f("domains", words{t.host}), f("routes", list{to}), m.aboutWorkload()})
		}
	}
	return m.httpFilters(httpServer{name: name, gateway: true, hosts: hosts})
}

// passthrough forwards TLS by the name that the client asks for.
func (m *maker) passthrough(name string, s *policy.ServerTLS) (list, error) {
	to, err := m.targets(s)
	if err != nil {
		return nil, err
	}
	var chains list
	for _, t := range to {
		match := inline{f("transport_protocol", "tls")}
		if names := serverNames([]string{t.host}); len(names) > 0 {
			match = append(match, f("server_names", names))
		}
		chains = append(chains, item{"PASSTHROUGH: TLS is the service's to terminate; policies see the name that is asked for (connection.sni), and no principal.",
			object{f("filter_chain_match", match), f("filters", m.tcpFilters(name, t.cluster))}})
	}
	return chains, nil
}

// serverNames are hosts as TLS asks for them; none matches everything.
func serverNames(hosts []string) words {
	var names words
	for _, h := range hosts {
		h = bareHost(h)
		if h == "*" {
			return nil
		}
		names = append(names, h)
	}
	return names
}

// bareHost is a host of a Gateway without the namespace that may stand before it.
func bareHost(h string) string {
	if _, host, ok := strings.Cut(h, "/"); ok {
		h = host
	}
	return strings.ToLower(h)
}

// target is where a gateway sends a host.
type target struct{ host, cluster string }

// targets are the routes whose host a server serves, or without any routes its own hosts to the only upstream.
func (m *maker) targets(s *policy.ServerTLS) ([]target, error) {
	var out []target
	if len(m.Routes) == 0 {
		if len(m.Upstreams) != 1 {
			return nil, wrong("route", "is missing: gateway %s needs to know where requests go: one --upstream, or several with --route HOST=UPSTREAM", s.Gateway)
		}
		for _, h := range s.Hosts {
			out = append(out, target{bareHost(h), m.Upstreams[0].cluster()})
		}
		return out, nil
	}
	for _, r := range m.Routes {
		i := slices.IndexFunc(m.Upstreams, func(u Upstream) bool {
			return u.Host == qualified(r.To.Host, m.workload.Namespace) && u.Port == r.To.Port
		})
		if i < 0 {
			return nil, wrong("route", "%s=%s: there is no --upstream %s", r.Host, r.To, r.To)
		}
		if slices.ContainsFunc(s.Hosts, func(h string) bool { return covers(bareHost(h), r.Host) }) {
			out = append(out, target{r.Host, m.Upstreams[i].cluster()})
		}
	}
	if len(out) == 0 {
		return nil, wrong("route", "is missing for gateway %s, port %d: none is for any of its hosts (%s)", s.Gateway, s.Port, strings.Join(s.Hosts, ", "))
	}
	return out, nil
}

// covers reports whether a host of a Gateway includes the host of a route.
func covers(server, route string) bool {
	if suffix, ok := strings.CutPrefix(server, "*"); ok {
		return strings.HasSuffix(route, suffix)
	}
	return server == route
}
