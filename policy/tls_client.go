package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
)

// ClientMode is how a client's proxy opens connections to a destination (authorization-policy §8.3).
type ClientMode uint8

// Client modes.
const (
	// ClientAutomatic: no DestinationRule says. Endpoints of the mesh (label security.istio.io/tlsMode=istio) are spoken to
	// by mTLS as under ClientIstioMutual, others in plaintext.
	ClientAutomatic ClientMode = iota
	// ClientDisable: plaintext.
	ClientDisable
	// ClientSimple: the server's certificate is verified, the client shows none.
	ClientSimple
	// ClientMutual: as ClientSimple, and the client shows the certificate that the DestinationRule names.
	ClientMutual
	// ClientIstioMutual: both sides show their workload certificates; the server's SPIFFE ID has to be one of the service's.
	ClientIstioMutual
)

// String is the mode as documents spell it, or AUTOMATIC.
func (m ClientMode) String() string {
	switch m {
	case ClientAutomatic:
		return "AUTOMATIC"
	case ClientDisable:
		return "DISABLE"
	case ClientSimple:
		return "SIMPLE"
	case ClientMutual:
		return "MUTUAL"
	case ClientIstioMutual:
		return "ISTIO_MUTUAL"
	}
	return fmt.Sprintf("ClientMode(%d)", uint8(m))
}

// ClientTLS is how a client's proxy talks to one port of a destination, and what says so.
type ClientTLS struct {
	Mode ClientMode
	// By is "DestinationRule namespace/name", or "PeerAuthentication namespace/name" when that is why no mTLS is tried;
	// empty when no document says anything.
	By string
	// Settings are those of the DestinationRule: files, credentials, SNI, names to verify; nil when it has none for the
	// port. They must not be changed.
	Settings *networkingv1alpha3.ClientTLSSettings
	// Selected is set when the DestinationRule chooses its clients by workloadSelector. Without one a credentialName works
	// on gateways only: a sidecar has then no TLS context at all, and sends plaintext (§8.3).
	Selected bool
	// Ignored lists what was passed over, in words: subsets with TLS settings of their own, and younger DestinationRules for
	// the same host.
	Ignored []string
}

// Destination is what a client connects to.
type Destination struct {
	Host string // fully qualified, as in reviews.shop.svc.cluster.local
	// Namespace of the service; empty to take it from Host, which works for Kubernetes' own names.
	Namespace string
	Port      uint16 // of the service, not the target port
}

// ErrBrokenTLS says that a document which decides, or may decide, about TLS has errors and was never valid.
var ErrBrokenTLS = errors.New("a document about TLS has errors and was never valid")

// clusterDomain is what short host names of DestinationRules are completed with.
const clusterDomain = "cluster.local"

// namespace of the service, "" when it is not known.
func (d *Destination) namespace() string {
	if d.Namespace != "" {
		return d.Namespace
	}
	rest, ok := strings.CutSuffix(d.Host, ".svc."+clusterDomain)
	if !ok {
		return ""
	}
	_, namespace, _ := strings.Cut(rest, ".")
	return namespace
}

// ClientTLS says how the proxy of client talks to a destination (§8.3). The DestinationRules are looked for in the client's
// namespace, then in the service's, then in the root namespace; the first one that holds any for the host decides, by
// the most specific host. Of several with that host, one whose workloadSelector selects the client comes first, then the
// oldest that has a trafficPolicy.
//
// A broken document never makes the answer plaintext: where one may decide, the answer is ErrBrokenTLS.
func (s *Snapshot) ClientTLS(client Workload, to Destination) (ClientTLS, error) {
	for _, rules := range s.visibleRules(&client, to.namespace()) {
		if i := slices.IndexFunc(rules, func(r *destinationRule) bool { return r.broken && r.host == "" }); i >= 0 {
			return ClientTLS{}, fmt.Errorf("%w: %s, whose host cannot be read", ErrBrokenTLS, rules[i].doc.Object)
		}
		rules = mostSpecific(rules, to.Host)
		// "Exported" is asked only of those found: a hidden rule for the very host hides a wildcard that is not.
		rules = slices.DeleteFunc(rules, func(r *destinationRule) bool { return !r.visible(client.Namespace) })
		if len(rules) > 0 {
			return s.decideClient(rules, &client, &to)
		}
	}
	return s.automaticTLS(to.namespace(), ClientTLS{}), nil
}

// visibleRules are the rules of each namespace that is looked into, in order. A client of the root namespace sees the
// rules that are private to it first and the others last, because those are meant for everybody.
func (s *Snapshot) visibleRules(client *Workload, service string) [][]*destinationRule {
	filter := func(namespace string, keep func(*destinationRule) bool) []*destinationRule {
		var out []*destinationRule
		for _, r := range s.routes[namespace] {
			if keep(r) {
				out = append(out, r)
			}
		}
		return out
	}
	exported := func(r *destinationRule) bool { return !r.private() }
	local := func(r *destinationRule) bool { return r.visible(r.namespace) }
	if client.Namespace == s.mesh.RootNamespace {
		local = (*destinationRule).private
	}
	stages := [][]*destinationRule{s.routes[""], filter(client.Namespace, local)}
	if service != "" {
		stages = append(stages, filter(service, exported))
	}
	return append(stages, filter(s.mesh.RootNamespace, exported))
}

func (s *Snapshot) decideClient(rules []*destinationRule, client *Workload, to *Destination) (ClientTLS, error) {
	chosen := chooseRule(rules, client)
	if chosen == nil { // all of them are for other clients
		return s.automaticTLS(to.namespace(), ClientTLS{}), nil
	}
	if chosen.broken {
		return ClientTLS{}, fmt.Errorf("%w: %s", ErrBrokenTLS, chosen.doc.Object)
	}
	out := ClientTLS{By: chosen.doc.String(), Selected: chosen.selected, Ignored: chosen.ignored(rules)}
	out.Settings = chosen.settings(to.Port)
	if out.Settings == nil {
		return s.automaticTLS(to.namespace(), out), nil
	}
	switch out.Settings.GetMode() {
	case networkingv1alpha3.ClientTLSSettings_DISABLE:
		out.Mode = ClientDisable
	case networkingv1alpha3.ClientTLSSettings_SIMPLE:
		out.Mode = ClientSimple
	case networkingv1alpha3.ClientTLSSettings_MUTUAL:
		out.Mode = ClientMutual
	case networkingv1alpha3.ClientTLSSettings_ISTIO_MUTUAL:
		out.Mode = ClientIstioMutual
	default:
		return ClientTLS{}, fmt.Errorf("%s: unknown TLS mode %v", chosen.doc.Object, out.Settings.GetMode())
	}
	return out, nil
}

// automaticTLS is the answer where no DestinationRule says: mTLS is tried unless the namespace as a whole disables it.
func (s *Snapshot) automaticTLS(service string, out ClientTLS) ClientTLS {
	if m := s.namespaceMTLS(service); m.Mode == ModeDisable {
		out.Mode, out.By = ClientDisable, KindPeerAuthentication+" "+m.By
	}
	return out
}

// mostSpecific keeps the rules of the most specific host that matches: the host itself, else the longest wildcard, of
// equally long ones the first by the alphabet.
func mostSpecific(rules []*destinationRule, host string) []*destinationRule {
	best := ""
	for _, r := range rules {
		if r.host == host {
			best = host
			break
		}
		suffix, wild := strings.CutPrefix(r.host, "*")
		if !wild || !strings.HasSuffix(host, suffix) {
			continue
		}
		if best == "" || len(r.host) > len(best) || len(r.host) == len(best) && r.host < best {
			best = r.host
		}
	}
	var out []*destinationRule
	for _, r := range rules {
		if best != "" && r.host == best {
			out = append(out, r)
		}
	}
	return out
}

// chooseRule picks one of several rules for one host, which are in order of age.
func chooseRule(rules []*destinationRule, client *Workload) *destinationRule {
	var first, selected *destinationRule
	better := func(old, r *destinationRule) *destinationRule { // the oldest, unless only a younger one has a trafficPolicy
		if old == nil || old.traffic == nil && !old.broken && r.traffic != nil {
			return r
		}
		return old
	}
	for _, r := range rules {
		switch {
		case !r.selected:
			first = better(first, r)
		case r.namespace == client.Namespace && r.selects(client) && (selected == nil || maps.Equal(selected.selector, r.selector)):
			selected = better(selected, r)
		}
	}
	if selected != nil {
		return selected
	}
	return first
}

// destinationRule is the TLS part of one DestinationRule.
type destinationRule struct {
	doc       *Document
	namespace string
	host      string // fully qualified; "" when it cannot be read
	selected  bool   // there is a workloadSelector
	selector  map[string]string
	exportTo  []string
	traffic   *networkingv1alpha3.TrafficPolicy
	subsets   []string // those with TLS settings of their own
	broken    bool
}

func newDestinationRule(doc *Document) (*destinationRule, error) {
	spec, ok := doc.Spec.(*networkingv1alpha3.DestinationRule)
	if !ok {
		return nil, fmt.Errorf("%s: no DestinationRule spec", doc.Object)
	}
	r := &destinationRule{
		doc: doc, namespace: doc.Namespace, host: qualified(spec.GetHost(), doc.Namespace),
		selected: spec.GetWorkloadSelector() != nil, selector: spec.GetWorkloadSelector().GetMatchLabels(),
		exportTo: spec.GetExportTo(), traffic: spec.GetTrafficPolicy(),
	}
	for _, subset := range spec.GetSubsets() {
		if hasTLS(subset.GetTrafficPolicy()) {
			r.subsets = append(r.subsets, subset.GetName())
		}
	}
	return r, nil
}

// brokenDestinationRule stands in for a rule that was never valid: whoever asks about its host is told so.
func brokenDestinationRule(doc *Document) *destinationRule {
	r := &destinationRule{doc: doc, namespace: doc.Namespace, broken: true}
	if spec, ok := doc.Spec.(*networkingv1alpha3.DestinationRule); ok && !doc.problemAt("spec.host") && doc.Namespace != "" {
		r.host = qualified(spec.GetHost(), doc.Namespace)
	}
	return r
}

// qualified completes a short host name: "reviews" in namespace shop is reviews.shop.svc.cluster.local.
func qualified(host, namespace string) string {
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return host
	}
	return host + "." + namespace + ".svc." + clusterDomain
}

func hasTLS(t *networkingv1alpha3.TrafficPolicy) bool {
	return t.GetTls() != nil || slices.ContainsFunc(t.GetPortLevelSettings(),
		func(p *networkingv1alpha3.TrafficPolicy_PortTrafficPolicy) bool { return p.GetTls() != nil })
}

// settings are the TLS settings for a port of the service. An entry of portLevelSettings replaces those of the
// destination as a whole: one without tls means automatic, whatever stands outside.
func (r *destinationRule) settings(port uint16) *networkingv1alpha3.ClientTLSSettings {
	for _, p := range r.traffic.GetPortLevelSettings() {
		if p.GetPort() != nil && p.GetPort().GetNumber() == uint32(port) {
			return p.GetTls()
		}
	}
	return r.traffic.GetTls()
}

// ignored says what of the rule itself, and which of its siblings, did not count.
func (r *destinationRule) ignored(siblings []*destinationRule) []string {
	var out []string
	for _, name := range r.subsets {
		out = append(out, "subset "+name+" of "+r.doc.String())
	}
	for _, other := range siblings {
		if other != r && other.selected == r.selected && (hasTLS(other.traffic) || other.broken) {
			out = append(out, other.doc.String())
		}
	}
	return out
}

// selects reports whether the rule is for a client.
func (r *destinationRule) selects(client *Workload) bool {
	for k, v := range r.selector {
		if have, ok := client.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// private reports whether only clients of the rule's own namespace see it. A rule with a workloadSelector is never exported.
func (r *destinationRule) private() bool {
	return r.selected || len(r.exportTo) == 1 && (r.exportTo[0] == "." || r.exportTo[0] == r.namespace)
}

// visible reports whether clients of a namespace see the rule.
func (r *destinationRule) visible(namespace string) bool {
	if r.selected || len(r.exportTo) == 0 {
		return !r.selected || namespace == r.namespace
	}
	return slices.ContainsFunc(r.exportTo, func(to string) bool {
		return to == "*" || to == namespace || to == "." && namespace == r.namespace
	})
}
