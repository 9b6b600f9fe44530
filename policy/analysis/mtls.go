package analysis

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

type mode = securityv1beta1.PeerAuthentication_MutualTLS_Mode

const (
	modeUnset      = securityv1beta1.PeerAuthentication_MutualTLS_UNSET
	modeDisable    = securityv1beta1.PeerAuthentication_MutualTLS_DISABLE
	modePermissive = securityv1beta1.PeerAuthentication_MutualTLS_PERMISSIVE
	modeStrict     = securityv1beta1.PeerAuthentication_MutualTLS_STRICT
)

// peerView is one PeerAuthentication. Those of a linter are in the order in which they count: oldest first.
type peerView struct {
	doc    *policy.Document
	scope  scope
	mode   mode
	ports  map[uint32]mode
	silent bool // it counts nowhere
}

func newPeerView(doc *policy.Document, spec *securityv1beta1.PeerAuthentication, root string) peerView {
	v := peerView{
		doc: doc, mode: spec.GetMtls().GetMode(), ports: map[uint32]mode{},
		scope: scope{namespace: doc.Namespace, root: doc.Namespace == root, labels: spec.GetSelector().GetMatchLabels()},
	}
	for port, mtls := range spec.GetPortLevelMtls() {
		v.ports[port] = mtls.GetMode()
	}
	v.silent = v.scope.root && len(v.scope.labels) > 0
	return v
}

// sortPeers puts the documents into the order in which they count (authorization-policy §8.1).
func sortPeers(peers []peerView) {
	slices.SortStableFunc(peers, func(a, b peerView) int {
		return cmp.Or(a.doc.Created.Compare(b.doc.Created), cmp.Compare(a.doc.Name, b.doc.Name), cmp.Compare(a.doc.Namespace, b.doc.Namespace))
	})
}

// checkPeers reports PeerAuthentications, and parts of them, that do nothing.
func checkPeers(l *linter) {
	for i := range l.peers {
		v := &l.peers[i]
		if v.silent {
			l.report(v.doc, codeRootSelector, "spec.selector",
				"in the root namespace a PeerAuthentication with a selector is ignored, whatever it selects",
				"put it into the namespace of the workloads, or remove the selector if the whole mesh is meant")
			continue
		}
		shadowed(l, v, l.peers[:i])
		unexposedPorts(l, v)
	}
}

// shadowed reports a document that an older one of its level leaves nothing to.
func shadowed(l *linter, v *peerView, olders []peerView) {
	for i := range olders {
		o := &olders[i]
		sameLevel := (len(o.scope.labels) > 0) == (len(v.scope.labels) > 0)
		if o.silent || o.scope.namespace != v.scope.namespace || !sameLevel || !within(o.scope.labels, v.scope.labels) {
			continue
		}
		l.report(v.doc, codePeerShadowed, "spec",
			fmt.Sprintf("it is ignored, ports and all: %s is older, or of the same age and first by name, and governs the same workloads; they are not merged", name(o.doc)),
			"keep one of them")
		return
	}
}

// unexposedPorts reports modes of ports that no registered workload has, if all that are selected say which they have.
func unexposedPorts(l *linter, v *peerView) {
	_, selected := l.candidates(v.scope)
	if len(v.ports) == 0 || len(selected) == 0 {
		return
	}
	exposed := map[uint32]bool{}
	for _, w := range selected {
		if len(w.ports) == 0 {
			return
		}
		for _, port := range w.ports {
			exposed[port] = true
		}
	}
	for _, port := range slices.Sorted(maps.Keys(v.ports)) {
		if !exposed[port] {
			l.report(v.doc, codePortUnexposed, fmt.Sprintf("spec.portLevelMtls[%d]", port),
				fmt.Sprintf("no registered workload that is selected listens on port %d", port),
				"name the port that the workload listens on, not that of a Service in front of it")
		}
	}
}

// certainly reports whether every workload of a policy has the mode on every port. It is asked for every source of the
// policy, and looks once.
func (l *linter) certainly(p *view, want mode) bool {
	is, asked := p.modes[want]
	if !asked {
		is = l.certainlyEverywhere(p.scope, want)
		if p.modes == nil {
			p.modes = map[mode]bool{}
		}
		p.modes[want] = is
	}
	return is
}

func (l *linter) certainlyEverywhere(s scope, want mode) bool {
	if len(s.refs) > 0 { // gateways and waypoints are not governed by PeerAuthentication
		return false
	}
	namespaces := []string{s.namespace}
	if s.root {
		for i := range l.peers {
			namespaces = append(namespaces, l.peers[i].scope.namespace)
		}
		slices.Sort(namespaces)
		namespaces = slices.Compact(namespaces)
	}
	return !slices.ContainsFunc(namespaces, func(ns string) bool { return !l.certainlyIn(scope{namespace: ns, labels: s.labels}, want) })
}

// certainlyIn is certainly for one namespace.
func (l *linter) certainlyIn(s scope, want mode) bool {
	outer := l.namespaceMode(s.namespace)
	covered := outer == want
	for i := range l.peers {
		v := &l.peers[i]
		if v.silent || len(v.scope.labels) == 0 || v.scope.namespace != s.namespace || !v.scope.overlaps(s) {
			continue
		}
		own := v.mode
		if own == modeUnset {
			own = outer
		}
		if own != want {
			return false
		}
		for _, port := range v.ports {
			if port != modeUnset && port != want {
				return false
			}
		}
		covered = covered || within(v.scope.labels, s.labels)
	}
	return covered
}

// namespaceMode is the mode of workloads that no selector selects: that of the oldest document of the namespace, else of the
// mesh, else PERMISSIVE.
func (l *linter) namespaceMode(namespace string) mode {
	merged := modePermissive
	for _, level := range []string{l.mesh.RootNamespace, namespace} {
		i := slices.IndexFunc(l.peers, func(v peerView) bool { return v.scope.namespace == level && len(v.scope.labels) == 0 })
		if i >= 0 && l.peers[i].mode != modeUnset {
			merged = l.peers[i].mode
		}
	}
	return merged
}

// checkClientTLS reports TLS settings of a DestinationRule that do something else than they look like (§8.3).
func checkClientTLS(l *linter, doc *policy.Document, spec *networkingv1alpha3.DestinationRule) {
	t := spec.GetTrafficPolicy()
	credential := func(field string, tls *networkingv1alpha3.ClientTLSSettings) {
		mode := tls.GetMode()
		used := mode == networkingv1alpha3.ClientTLSSettings_SIMPLE || mode == networkingv1alpha3.ClientTLSSettings_MUTUAL
		if used && tls.GetCredentialName() != "" && spec.GetWorkloadSelector() == nil {
			l.report(doc, codeCredentialUnused, field+".credentialName",
				"without workloadSelector only gateways read credentials: sidecars that this rule is for then use no TLS at all, and send plaintext",
				"add workloadSelector, or name the certificates as files")
		}
	}
	credential("spec.trafficPolicy.tls", t.GetTls())
	for i, p := range t.GetPortLevelSettings() {
		field := fmt.Sprintf("spec.trafficPolicy.portLevelSettings[%d]", i)
		credential(field+".tls", p.GetTls())
		if p.GetTls() == nil && t.GetTls() != nil {
			l.report(doc, codePortDropsTLS, field, fmt.Sprintf("settings of a port replace all others: port %d has none of the TLS settings of trafficPolicy.tls (%s)",
				p.GetPort().GetNumber(), t.GetTls().GetMode()), "repeat tls here")
		}
	}
	for i, subset := range spec.GetSubsets() {
		ports := subset.GetTrafficPolicy().GetPortLevelSettings()
		onPort := slices.ContainsFunc(ports, func(p *networkingv1alpha3.TrafficPolicy_PortTrafficPolicy) bool { return p.GetTls() != nil })
		if subset.GetTrafficPolicy().GetTls() != nil || onPort {
			l.report(doc, codeSubsetTLS, fmt.Sprintf("spec.subsets[%d].trafficPolicy", i),
				"the TLS settings of subset "+subset.GetName()+" have no meaning for writ, which goes by those of the whole host",
				"write them into spec.trafficPolicy if they are the same for all subsets")
		}
	}
}

// checkServerTLS reports servers of a Gateway whose clients can name themselves as they like (§8.4).
func checkServerTLS(l *linter, doc *policy.Document, spec *networkingv1alpha3.Gateway) {
	for i, server := range spec.GetServers() {
		tls := server.GetTls()
		asks := tls.GetMode() == networkingv1alpha3.ServerTLSSettings_MUTUAL || tls.GetMode() == networkingv1alpha3.ServerTLSSettings_OPTIONAL_MUTUAL
		if asks && tls.GetInsecureSkipVerify().GetValue() {
			l.report(doc, codeUnverifiedClients, fmt.Sprintf("spec.servers[%d].tls.insecureSkipVerify", i),
				"certificates of clients are not verified and still name the caller: whoever makes one chooses the principal that policies see",
				"remove insecureSkipVerify, and give caCertificates or a credentialName")
		}
	}
}
