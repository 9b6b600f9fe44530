package analysis

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// maxWorkloads bounds the classes of workloads of one namespace.
const maxWorkloads = 2_000

// Labels by which Kubernetes Gateway pods and waypoints are known (authorization-policy §1.2).
const (
	labelGateway    = "gateway.networking.k8s.io/gateway-name"
	labelManaged    = "gateway.istio.io/managed"
	managedWaypoint = "istio.io-mesh-controller"
)

// Workload is a class of workloads to which the same documents apply, by one of them.
type Workload struct {
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"` // those that documents select by; all others do not matter
	Services  []string          `json:"services,omitempty"`
	// Elsewhere is set on the class of all namespaces that no document names; Namespace is then one of them.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// String names the class for people.
func (w Workload) String() string {
	s := w.Namespace
	if w.Elsewhere {
		s = "any other namespace"
	}
	if len(w.Labels) > 0 {
		s += " " + labelText(w.Labels)
	}
	if len(w.Services) > 0 {
		s += " (" + strings.Join(w.Services, ", ") + ")"
	}
	return s
}

func (w Workload) policy() policy.Workload {
	labels := w.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	return policy.Workload{Namespace: w.Namespace, Labels: labels, Services: w.Services}
}

// workloads lists the classes of workloads that documents tell apart: for every namespace they name, and for one they do
// not, every combination of selectors that labels can meet at once.
func workloads(docs []*policy.Document, mesh policy.Mesh) ([]Workload, []Unknown) {
	var scopes []scope
	namespaces := map[string]bool{mesh.RootNamespace: true}
	for _, doc := range docs {
		if spec, ok := doc.Spec.(targeted); ok && !doc.Ignored {
			scopes = append(scopes, newScope(doc, spec, mesh.RootNamespace))
			namespaces[doc.Namespace] = true
		} else if spec, ok := doc.Spec.(*securityv1beta1.PeerAuthentication); ok {
			scopes = append(scopes, scope{namespace: doc.Namespace, root: doc.Namespace == mesh.RootNamespace, labels: spec.GetSelector().GetMatchLabels()})
			namespaces[doc.Namespace] = true
		}
	}
	elsewhere := "elsewhere"
	for namespaces[elsewhere] {
		elsewhere += "-"
	}
	var out []Workload
	var gaps []Unknown
	for _, ns := range append(sortedKeys(namespaces), elsewhere) {
		w := Workload{Namespace: ns, Elsewhere: ns == elsewhere}
		labels, complete := labelSets(scopes, ns)
		if !complete {
			gaps = append(gaps, Unknown{Workloads: []Workload{w}, Reason: fmt.Sprintf("its selectors combine in more than %d ways; some were left out", maxWorkloads)})
		}
		for _, l := range labels {
			w.Labels = l
			out = append(out, w)
		}
		out = append(out, waypoints(scopes, w)...)
	}
	return out, gaps
}

// labelSets lists the smallest label sets for every combination of selectors that can be met at once.
func labelSets(scopes []scope, namespace string) (sets []map[string]string, complete bool) {
	sets = []map[string]string{{}}
	known := map[string]bool{"": true}
	for _, s := range scopes {
		if !s.root && s.namespace != namespace {
			continue
		}
		var selectors []map[string]string
		if len(s.labels) > 0 {
			selectors = append(selectors, s.labels)
		}
		for _, ref := range s.refs {
			if name, ok := strings.CutPrefix(ref, "Gateway/"); ok && s.namespace == namespace {
				selectors = append(selectors, map[string]string{labelGateway: name})
			}
		}
		for _, selector := range selectors {
			for _, set := range slices.Clone(sets) {
				union := merged(set, selector)
				if known[labelText(union)] || !within(set, union) {
					continue
				}
				if len(sets) == maxWorkloads {
					return sets, false
				}
				known[labelText(union)] = true
				sets = append(sets, union)
			}
		}
	}
	return sets, true
}

// waypoints lists the waypoints of a namespace that documents tell apart: one for nothing, for each service, and for all.
func waypoints(scopes []scope, w Workload) []Workload {
	var services []string
	gateways := []string{""}
	found := false
	for _, s := range scopes {
		for _, ref := range s.refs {
			kind, name, _ := strings.Cut(ref, "/")
			switch {
			case kind == "GatewayClass" && s.root:
				found = true
			case s.namespace != w.Namespace:
			case kind == "Service" || kind == "ServiceEntry":
				found = true
				if service := kind + " " + s.namespace + "/" + name; !slices.Contains(services, service) {
					services = append(services, service)
				}
			case kind == "Gateway" && !slices.Contains(gateways, name):
				found = true
				gateways = append(gateways, name)
			}
		}
	}
	if !found {
		return nil
	}
	sets := [][]string{nil}
	for _, s := range services {
		sets = append(sets, []string{s})
	}
	if len(services) > 1 {
		sets = append(sets, services)
	}
	var out []Workload
	for _, gateway := range gateways {
		for _, set := range sets {
			w.Labels = map[string]string{labelManaged: managedWaypoint}
			if gateway != "" {
				w.Labels[labelGateway] = gateway
			}
			w.Services = set
			out = append(out, w)
		}
	}
	return out
}

// ports is what PeerAuthentication says of a workload, as text.
func ports(b *policy.Bound) string {
	var out []string
	for _, p := range b.MTLSPorts() {
		out = append(out, fmt.Sprintf("%d %s %s", p.Port, p.Mode, p.By))
	}
	return strings.Join(out, ", ")
}

// sameRules reports whether two workloads are governed by the same rules, word by word.
func sameRules(a, b *policy.Bound) bool {
	return ports(a) == ports(b) && maps.Equal(policyTexts(a), policyTexts(b)) && slices.Equal(tokenTexts(a), tokenTexts(b))
}

func policyTexts(b *policy.Bound) map[string]string {
	out := map[string]string{}
	for _, p := range b.Rules.Policies() {
		if p.DryRun || p.Action == policy.ActionAudit {
			continue
		}
		out[p.String()] = wire(p.Document().Spec)
	}
	return out
}

// wire is a message as bytes, the same for the same message within one process.
func wire(m proto.Message) string {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil { // never equal to another
		return fmt.Sprintf("%p: %v", m, err)
	}
	return string(text)
}

func tokenTexts(b *policy.Bound) []string {
	var out []string
	if b.Authentication != nil {
		for _, r := range b.Authentication.Rules {
			out = append(out, r.ID+wire(r.Spec))
		}
	}
	return out
}

// changes reports what is known to have changed and cannot be compared.
func (d *differ) changes(g *group) {
	bound := g.bound
	unknown := func(traffic, reason string) {
		d.report.Unknown = append(d.report.Unknown, Unknown{Workloads: g.workloads, Traffic: traffic, Reason: reason})
	}
	old, new := verifiers(bound[0]), verifiers(bound[1])
	for _, issuer := range sortedKeys(old) {
		if other, known := new[issuer]; known && !maps.Equal(old[issuer], other) {
			unknown(trafficHTTP, fmt.Sprintf("the token rules of issuer %s changed in keys, places or claims: which of its tokens verify cannot be told", issuer))
		}
	}
	d.modeChanges(bound, func(reason string) { unknown("", reason) })
}

// modeChanges reports ports on which callers gain or lose their identity.
func (d *differ) modeChanges(bound [2]*policy.Bound, unknown func(reason string)) {
	modes := func(b *policy.Bound) map[uint16]policy.Mode {
		out := map[uint16]policy.Mode{}
		for _, p := range b.MTLSPorts() {
			out[p.Port] = p.Mode
		}
		return out
	}
	old, new := modes(bound[0]), modes(bound[1])
	for _, port := range slices.Sorted(maps.Keys(mergedModes(old, new))) {
		o, n := bound[0].MTLS(port).Mode, bound[1].MTLS(port).Mode
		if port == 0 {
			o, n = old[0], new[0]
		}
		if o != n && (o == policy.ModeDisable || n == policy.ModeDisable) {
			where := "mTLS"
			if port != 0 {
				where = fmt.Sprintf("mTLS of port %d", port)
			}
			unknown(fmt.Sprintf("%s changed from %s to %s: whether callers have an identity changes with it, which the requests here do not show", where, o, n))
		}
	}
}

func mergedModes(a, b map[uint16]policy.Mode) map[uint16]policy.Mode {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// verifiers are what the token rules of each issuer say about verification, besides the issuer and its audiences, which are
// compared like values of policies.
func verifiers(b *policy.Bound) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	if b.Authentication == nil {
		return out
	}
	for _, r := range b.Authentication.Rules {
		spec := proto.CloneOf(r.Spec)
		spec.Audiences, spec.ForwardOriginalToken, spec.OutputPayloadToHeader, spec.OutputClaimToHeaders = nil, false, "", nil
		if out[spec.GetIssuer()] == nil {
			out[spec.GetIssuer()] = map[string]bool{}
		}
		out[spec.GetIssuer()][wire(spec)] = true
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
