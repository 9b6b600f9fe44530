package policy

import (
	"fmt"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
)

// ServerMode is what one server of a gateway does with TLS (authorization-policy §8.4).
type ServerMode uint8

// Server modes.
const (
	// ServerPlaintext: no TLS. Nobody has a principal.
	ServerPlaintext ServerMode = iota
	// ServerPassthrough: TLS is not terminated; the chain is chosen by SNI. Nobody has a principal, policies see TCP.
	ServerPassthrough
	// ServerSimple: TLS without a client certificate. Nobody has a principal.
	ServerSimple
	// ServerMutual: a client certificate is required. Its names are the principal, of any form.
	ServerMutual
	// ServerAutoPassthrough: as ServerPassthrough, for the mesh's own TLS between clusters. No policy is enforced.
	ServerAutoPassthrough
	// ServerIstioMutual: mTLS with workload certificates on both sides. The principal is a SPIFFE ID.
	ServerIstioMutual
	// ServerOptionalMutual: a client certificate is asked for and verified if sent. Without one nobody has a principal.
	ServerOptionalMutual
)

// String is the mode as documents spell it, or PLAINTEXT.
func (m ServerMode) String() string {
	switch m {
	case ServerPlaintext:
		return "PLAINTEXT"
	case ServerPassthrough:
		return "PASSTHROUGH"
	case ServerSimple:
		return "SIMPLE"
	case ServerMutual:
		return "MUTUAL"
	case ServerAutoPassthrough:
		return "AUTO_PASSTHROUGH"
	case ServerIstioMutual:
		return "ISTIO_MUTUAL"
	case ServerOptionalMutual:
		return "OPTIONAL_MUTUAL"
	}
	return fmt.Sprintf("ServerMode(%d)", uint8(m))
}

// Terminates reports whether the gateway ends the TLS of its clients, and thus has a server certificate.
func (m ServerMode) Terminates() bool {
	return m == ServerSimple || m.RequestsCertificate()
}

// RequestsCertificate reports whether clients are asked for a certificate. Only ServerOptionalMutual does without one.
func (m ServerMode) RequestsCertificate() bool {
	return m == ServerMutual || m == ServerIstioMutual || m == ServerOptionalMutual
}

// ServerTLS is one server of a gateway.
type ServerTLS struct {
	Gateway  string // namespace/name of the document
	Name     string // of the server, often empty
	Bind     string // address it listens on, often empty
	Port     uint16
	Protocol string   // as written: HTTP, HTTPS, GRPC, HTTP2, TLS, TCP, …
	Hosts    []string // as written: host, *.host, namespace/host

	Mode ServerMode
	// HTTPSRedirect is set on a plaintext HTTP server that answers every request with a redirect to https.
	HTTPSRedirect bool
	// Settings are the certificates, versions and names to verify; nil when the server has no tls. They must not be changed.
	Settings *networkingv1alpha3.ServerTLSSettings
}

// GatewayServers lists the servers of all Gateway documents that select a workload known to be a gateway, the oldest
// document's first (§8.4). As in Istio, documents of every namespace count, and one without a selector is for every
// gateway. It fails with ErrBrokenTLS when one that was never valid may select the workload.
func (s *Snapshot) GatewayServers(w Workload) ([]ServerTLS, error) {
	var out []ServerTLS
	for _, g := range s.gateways {
		switch {
		case !g.selects(&w):
		case g.broken:
			return nil, fmt.Errorf("%w: %s", ErrBrokenTLS, g.doc.Object)
		default:
			out = append(out, g.servers...)
		}
	}
	return out, nil
}

// isGateway reports whether the workload is a gateway, which no PeerAuthentication governs: the pod of a Kubernetes
// Gateway, or a workload that a Gateway document of its own namespace or of the root namespace selects by labels. Those
// of other namespaces do not make it one: who may write there must not be able to lift the STRICT of somebody else's
// workload. Istio knows a gateway by how its proxy was started, which a check does not say.
func (s *Snapshot) isGateway(w *Workload) bool {
	return w.gateway() != "" || slices.ContainsFunc(s.gateways, func(g *gateway) bool {
		return !g.broken && len(g.selector) > 0 && (g.doc.Namespace == w.Namespace || g.doc.Namespace == s.mesh.RootNamespace) && g.selects(w)
	})
}

// gateway is the TLS part of one Gateway.
type gateway struct {
	doc      *Document
	selector map[string]string
	servers  []ServerTLS
	broken   bool
}

func newGateway(doc *Document) (*gateway, error) {
	spec, ok := doc.Spec.(*networkingv1alpha3.Gateway)
	if !ok {
		return nil, fmt.Errorf("%s: no Gateway spec", doc.Object)
	}
	g := &gateway{doc: doc, selector: spec.GetSelector()}
	for i, server := range spec.GetServers() {
		mode, err := serverMode(server)
		if err != nil {
			return nil, fmt.Errorf("%s: servers[%d]: %w", doc.Object, i, err)
		}
		number := server.GetPort().GetNumber()
		if number > maxPort {
			return nil, fmt.Errorf("%s: servers[%d]: %d is no port", doc.Object, i, number)
		}
		g.servers = append(g.servers, ServerTLS{
			Gateway: doc.Namespace + "/" + doc.Name, Name: server.GetName(), Bind: server.GetBind(), Port: uint16(number),
			Protocol: server.GetPort().GetProtocol(), Hosts: server.GetHosts(), Mode: mode,
			HTTPSRedirect: mode == ServerPlaintext && server.GetTls().GetHttpsRedirect(), Settings: server.GetTls(),
		})
	}
	return g, nil
}

// serverMode reads what a server does. On a protocol without TLS, tls can only ask for a redirect.
func serverMode(server *networkingv1alpha3.Server) (ServerMode, error) {
	if server.GetTls() == nil || !isTLSProtocol(server.GetPort().GetProtocol()) {
		return ServerPlaintext, nil
	}
	switch mode := server.GetTls().GetMode(); mode {
	case networkingv1alpha3.ServerTLSSettings_PASSTHROUGH:
		return ServerPassthrough, nil
	case networkingv1alpha3.ServerTLSSettings_SIMPLE:
		return ServerSimple, nil
	case networkingv1alpha3.ServerTLSSettings_MUTUAL:
		return ServerMutual, nil
	case networkingv1alpha3.ServerTLSSettings_AUTO_PASSTHROUGH:
		return ServerAutoPassthrough, nil
	case networkingv1alpha3.ServerTLSSettings_ISTIO_MUTUAL:
		return ServerIstioMutual, nil
	case networkingv1alpha3.ServerTLSSettings_OPTIONAL_MUTUAL:
		return ServerOptionalMutual, nil
	default:
		return 0, fmt.Errorf("unknown TLS mode %v", mode)
	}
}

func isTLSProtocol(protocol string) bool {
	return strings.EqualFold(protocol, "https") || strings.EqualFold(protocol, "tls")
}

// brokenGateway stands in for a document that was never valid: it makes nobody a gateway, and whoever asks for the servers
// of a workload that it may select is told so.
func brokenGateway(doc *Document) *gateway {
	g := &gateway{doc: doc, broken: true}
	if spec, ok := doc.Spec.(*networkingv1alpha3.Gateway); ok && !doc.targetUnread {
		g.selector = spec.GetSelector()
	}
	return g
}

// selects reports whether a gateway has the labels that the document asks for.
func (g *gateway) selects(w *Workload) bool {
	for k, v := range g.selector {
		if have, ok := w.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
