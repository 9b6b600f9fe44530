package bootstrap

import (
	"fmt"

	"github.com/writ-auth/writ/policy"
)

// istioALPN are the protocols by which Istio's proxies say that they mean the mesh's own TLS (authorization-policy §8.2).
func istioALPN() words {
	return words{"istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"}
}

// addInbound adds a listener for each port of the application.
func (m *maker) addInbound() error {
	for _, in := range m.Inbound {
		mode := m.bound.MTLS(in.Port)
		if mode.Mode == policy.ModeUnset {
			return wrong("inbound", "%d:%d: %s is a gateway or a waypoint, which no PeerAuthentication governs: a gateway's ports are those of its "+
				"Gateway documents (--gateway), and for waypoints nothing is printed", in.Port, in.App, m.title())
		}
		if err := m.claim("inbound", in.Port, fmt.Sprintf("inbound %d:%d", in.Port, in.App)); err != nil {
			return err
		}
		listener, err := m.inbound(in, mode)
		if err != nil {
			return err
		}
		m.listeners = append(m.listeners, item{fmt.Sprintf("Port %d, %s to the application on port %d.\n%s.", in.Port, in.Protocol, in.App, because(mode)), listener})
		m.addApp(in)
	}
	for _, mode := range m.bound.MTLSPorts() {
		for _, in := range m.Inbound {
			if mode.Port == in.App && mode.Port != in.Port {
				m.warn("PeerAuthentication %s has a mode for port %d, which here is the application's; port %d, where callers connect, has mode %v. "+
					"Documents speak of the port that callers reach: listen there", mode.By, mode.Port, in.Port, m.bound.MTLS(in.Port).Mode)
			}
		}
	}
	return nil
}

// because says which mode a port has and who says so.
func because(m policy.PortMTLS) string {
	switch {
	case m.By == "":
		return "No PeerAuthentication says anything: " + m.Mode.String()
	case m.Port == 0:
		return m.Mode.String() + ", by PeerAuthentication " + m.By
	}
	return fmt.Sprintf("%v, by PeerAuthentication %s for port %d", m.Mode, m.By, m.Port)
}

// inbound is the listener of one port: the filter chains of authorization-policy §8.2.
func (m *maker) inbound(in Inbound, mode policy.PortMTLS) (object, error) {
	name := fmt.Sprintf("inbound_%d", in.Port)
	listener := object{f("name", name), f("address", socketAddress(m.Bind.String(), in.Port)), f("traffic_direction", "INBOUND")}
	plain, err := m.inboundFilters(name, in)
	if err != nil {
		return nil, err
	}
	if in.Protocol == TCP {
		listener = append(listener, f("access_log", tcpLog()))
	}
	mtls := func(match inline, filters any) object {
		return object{f("filter_chain_match", match), f("transport_socket", m.meshServer(in.Protocol != TCP)), f("filters", filters)}
	}
	if mode.Mode != policy.ModeDisable {
		listener = append(listener, tlsInspector()...)
	}
	switch mode.Mode {
	case policy.ModeStrict:
		return append(listener, f("filter_chains", list{
			item{"Mutual TLS and nothing else: plaintext finds no chain and is closed.", mtls(inline{f("transport_protocol", "tls")}, plain)},
		})), nil
	case policy.ModeDisable:
		return append(listener, f("filter_chains", list{
			item{"TLS is not terminated: nobody has an identity, and policies that name principals match nobody.", object{f("filters", plain)}},
		})), nil
	}
	filters := shared{name + "_filters", plain} // the same for every chain
	chains := list{item{"Mutual TLS by the mesh's proxies, which say so in the TLS hello.",
		mtls(inline{f("transport_protocol", "tls"), f("application_protocols", istioALPN())}, filters)}}
	plaintext := "Plaintext, without an identity. TLS of others finds no chain and is closed, for the port is declared HTTP."
	if in.Protocol == TCP {
		listener = append(listener, f("continue_on_listener_filters_timeout", true, "Who says nothing by then is plaintext: in some protocols the server speaks first."))
		chains = append(chains, item{"TLS of others is the application's own: passed on as it is, without an identity.",
			object{f("filter_chain_match", inline{f("transport_protocol", "tls")}), f("filters", filters)}})
		plaintext = "Plaintext, without an identity."
	}
	chains = append(chains, item{plaintext, object{f("filter_chain_match", inline{f("transport_protocol", "raw_buffer")}), f("filters", filters)}})
	return append(listener, f("filter_chains", chains)), nil
}

func tlsInspector() []field {
	return []field{
		f("listener_filters", list{extension("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")},
			"Looks whether a connection begins with TLS, to choose the chain."),
		f("listener_filters_timeout", "5s"),
	}
}

func (m *maker) inboundFilters(name string, in Inbound) (list, error) {
	if in.Protocol == TCP {
		return m.tcpFilters(name, appCluster(in)), nil
	}
	return m.httpFilters(httpServer{name: name, hosts: list{object{
		f("name", "app"),
		f("domains", words{"*"}, "A catch-all, on purpose: Envoy does not ask about a request without a route."),
		f("routes", list{route(appCluster(in))}),
		m.aboutWorkload(),
	}}})
}

func appCluster(in Inbound) string { return fmt.Sprintf("app_%d_%s", in.App, in.Protocol) }

// addApp adds the cluster of the application, once.
func (m *maker) addApp(in Inbound) {
	name := appCluster(in)
	if m.known[name] {
		return
	}
	m.known[name] = true
	m.clusters = append(m.clusters, item{"The application. It should listen on 127.0.0.1 only: who reaches it directly passes by everything here.",
		cluster(name, in.Protocol, nil, []Address{loopback(in.App)})})
}
