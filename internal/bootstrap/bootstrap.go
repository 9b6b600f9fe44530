package bootstrap

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/writ-auth/writ/policy"
)

// Names of the clusters that every bootstrap can have.
const (
	clusterSDS  = "sds"
	clusterWrit = "writ"
)

// Result is a bootstrap.
type Result struct {
	YAML []byte // with comments
	// Warnings are what somebody should know who asked for this, such as a connection that is not protected.
	Warnings []string
}

// DocumentError says that a document asks for something that no bootstrap can hold.
type DocumentError struct {
	Document string // kind namespace/name
	Message  string // what it asks for, and the fix
}

func (e *DocumentError) Error() string { return e.Document + ": " + e.Message }

// OptionError says that what was asked for cannot be meant.
type OptionError struct {
	Option  string // the flag of writ envoy bootstrap, without dashes
	Message string // its value, what is wrong with it, and the fix
}

func (e *OptionError) Error() string { return e.Option + ": " + e.Message }

// wrong is an OptionError.
func wrong(option, format string, args ...any) error {
	return &OptionError{option, fmt.Sprintf(format, args...)}
}

// New makes the bootstrap of a workload. It fails with a [DocumentError] when a document is at fault, with an
// [OptionError] when the Config is, and with an error of package policy when the workload cannot be resolved.
func New(c Config) (*Result, error) {
	bound, err := c.Snapshot.Resolve(c.Workload)
	if err != nil {
		return nil, err
	}
	m := &maker{Config: c, workload: bound.Workload, bound: bound, ports: map[uint16]string{}}
	m.Upstreams = slices.Clone(c.Upstreams)
	for i := range m.Upstreams {
		m.Upstreams[i].Host = qualified(m.Upstreams[i].Host, m.workload.Namespace)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	tree, err := m.tree()
	if err != nil {
		return nil, err
	}
	yaml, err := marshal(m.heading(), tree)
	if err != nil {
		return nil, err
	}
	return &Result{YAML: yaml, Warnings: m.warnings}, nil
}

// maker makes one bootstrap.
type maker struct {
	Config
	workload policy.Workload // with the labels that are registered for it
	bound    *policy.Bound

	ports     map[uint16]string // what listens where
	listeners list
	clusters  list
	known     map[string]bool // clusters of the application and of key sets, by name
	warnings  []string
	secrets   bool // certificates are asked of SDS
	checks    bool // writ is asked
}

func (m *maker) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(m.warnings, text) {
		m.warnings = append(m.warnings, text)
	}
}

// check refuses what cannot be meant.
func (m *maker) check() error {
	p := &m.Proxy
	switch {
	case m.workload.Labels == nil:
		return wrong("labels", "are not known of %s, and PeerAuthentication and DestinationRule choose by them: write k=v,k=v, or '' when it has none", m.title())
	case len(m.Inbound)+len(m.Gateways)+len(m.Upstreams) == 0:
		return wrong("inbound", "is missing: nothing to listen for. Write PORT:APP, as in 8080:9080, or --upstream, or --gateway")
	case len(m.Inbound) > maxInbound:
		return wrong("inbound", "is given %d times: at most %d", len(m.Inbound), maxInbound)
	case len(m.Gateways) > maxGateways:
		return wrong("gateway", "is given %d times: at most %d", len(m.Gateways), maxGateways)
	case len(m.Upstreams) > maxUpstreams:
		return wrong("upstream", "is given %d times: at most %d", len(m.Upstreams), maxUpstreams)
	case len(m.Routes) > maxRoutes:
		return wrong("route", "is given %d times: at most %d", len(m.Routes), maxRoutes)
	case p.SDS.Pipe == "":
		return wrong("sds", "%s: want a Unix socket, unix:///path: private keys do not cross a network", p.SDS)
	case p.AuthzCA == "" && !p.Authz.isLocal():
		return wrong("authz-ca", "is missing: --authz %s is on another machine, and whoever answers in writ's place decides everything: "+
			"name the PEM file of the roots that its certificate is verified with", p.Authz)
	case !p.Admin.isZero() && (!p.Admin.isLocal() || !p.Admin.isIP()):
		return wrong("envoy-admin", "%s: want a loopback address or a Unix socket: whoever reaches it can stop Envoy and read its configuration", p.Admin)
	case p.MaxConnections < 1 || p.MaxConnections > maxConnections:
		return wrong("max-connections", "%d: want 1 to %d", p.MaxConnections, maxConnections)
	case !m.Bind.IsValid():
		return wrong("bind", "is missing: want an IP address, such as 0.0.0.0")
	case len(m.Inbound) > 0 && len(m.Gateways) > 0:
		return wrong("gateway", "%s and --inbound: one Envoy is a sidecar or a gateway: print two bootstraps", m.Gateways[0])
	case len(m.Routes) > 0 && len(m.Gateways) == 0:
		return wrong("route", "%s=%s is for a gateway, and none is named: --gateway namespace/name", m.Routes[0].Host, m.Routes[0].To)
	}
	if p.Admin.Port != 0 {
		return m.claim("envoy-admin", p.Admin.Port, "the admin interface")
	}
	return nil
}

// claim refuses two listeners on one port, even on different addresses: which one a caller reaches would be a guess.
func (m *maker) claim(option string, port uint16, what string) error {
	if other, taken := m.ports[port]; taken {
		return wrong(option, "port %d is wanted by %s and by %s: give one of them another", port, other, what)
	}
	m.ports[port] = what
	return nil
}

// title is how people call the workload.
func (m *maker) title() string {
	return m.workload.Namespace + "/" + cmp.Or(m.workload.Name, m.workload.ServiceAccount, m.workload.Labels["app"], "(unnamed)")
}

func (m *maker) heading() string {
	return "The Envoy of " + m.title() + ", labels " + cmp.Or(m.labels(), "none") + ", as printed by writ envoy bootstrap from the documents in force then: " +
		"print it again when PeerAuthentication, DestinationRule, Gateway or RequestAuthentication documents change. What AuthorizationPolicy documents " +
		"say is asked of writ for each request, and needs no new bootstrap."
}

// tree is the whole bootstrap.
func (m *maker) tree() (object, error) {
	m.known = map[string]bool{}
	for _, add := range []func() error{m.addInbound, m.addGateways, m.addUpstreams} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	if m.checks {
		m.clusters = append(m.clusters, m.writCluster())
	}
	if m.secrets {
		m.clusters = append(m.clusters, m.sdsCluster())
	}
	tree := object{f("node", inline{f("id", m.title()), f("cluster", m.workload.Namespace)}, "How Envoy calls itself to writ: it shows in writ status.")}
	if !m.Proxy.Admin.isZero() {
		tree = append(tree, f("admin", object{
			f("address", m.Proxy.Admin.node()),
			f("ignore_global_conn_limit", true),
		}, "For the operator of this machine alone: whoever reaches it can stop Envoy."))
	}
	return append(tree,
		f("overload_manager", object{f("resource_monitors", list{extension("envoy.resource_monitors.global_downstream_max_connections",
			"resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig", f("max_active_downstream_connections", m.Proxy.MaxConnections))})},
			"Too many connections are refused before they use up memory and file descriptors."),
		f("static_resources", object{f("listeners", m.listeners), f("clusters", m.clusters)})), nil
}

// labels are those of the workload as writ reads them.
func (m *maker) labels() string {
	var out []string
	for k, v := range m.workload.Labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// named are the words that name the workload to writ, for a prefix and a separator.
func (m *maker) named(set func(key, value string)) {
	set("namespace", m.workload.Namespace)
	set("labels", m.labels())
	if m.workload.ServiceAccount != "" {
		set("service_account", m.workload.ServiceAccount)
	}
	if m.workload.Name != "" {
		set("name", m.workload.Name)
	}
}

// node is the address as Envoy's configuration spells it.
func (a Address) node() any {
	if a.Pipe != "" {
		return inline{f("pipe", inline{f("path", a.Pipe)})}
	}
	return socketAddress(a.Host, a.Port)
}

func socketAddress(host string, port uint16) inline {
	return inline{f("socket_address", inline{f("address", host), f("port_value", port)})}
}

// loopback is where applications listen.
func loopback(port uint16) Address {
	return Address{Host: netip.AddrFrom4([4]byte{127, 0, 0, 1}).String(), Port: port}
}
