package policy

import (
	"slices"
	"strings"

	typev1beta1 "istio.io/api/type/v1beta1"
)

// Labels by which Kubernetes Gateway pods and waypoints are known.
const (
	labelGatewayName = "gateway.networking.k8s.io/gateway-name"
	labelManaged     = "gateway.istio.io/managed"
	managedWaypoint  = "istio.io-mesh-controller"
)

// Mesh is the part of MeshConfig that changes what policies mean.
type Mesh struct {
	TrustDomain        string   // default cluster.local
	TrustDomainAliases []string // other names of the same trust domain (§1.6)
	RootNamespace      string   // default istio-system: its policies apply everywhere
}

func (m Mesh) withDefaults() Mesh {
	if m.TrustDomain == "" {
		m.TrustDomain = "cluster.local"
	}
	if m.RootNamespace == "" {
		m.RootNamespace = "istio-system"
	}
	m.TrustDomainAliases = slices.Clone(m.TrustDomainAliases)
	return m
}

// Workload is whom a request is for. It is named by the operator's own proxy configuration, never by the caller.
type Workload struct {
	Namespace      string            `json:"namespace"`
	Labels         map[string]string `json:"labels,omitempty"` // nil = not known; empty = known to have none
	ServiceAccount string            `json:"service_account,omitempty"`
	Name           string            `json:"name,omitempty"`
	// Services are what a waypoint stands in front of: "Service ns/name" or "ServiceEntry ns/name".
	Services []string `json:"services,omitempty"`
}

// gateway returns the name of the Kubernetes Gateway whose pod the workload is.
func (w *Workload) gateway() string { return w.Labels[labelGatewayName] }

// waypoint reports whether the workload is a waypoint, which no selector or plain policy reaches (§1.2).
func (w *Workload) waypoint() bool {
	return w.Labels[labelManaged] == managedWaypoint || len(w.Services) > 0
}

// targetRef is one entry of targetRefs.
type targetRef struct{ group, kind, name string }

// target is whom a document governs, as the document says it (§1.2). RequestAuthentication follows the same rules.
type target struct {
	namespace string
	selector  map[string]string
	refs      []targetRef
}

// targeted is a spec that chooses whom it governs.
type targeted interface {
	GetSelector() *typev1beta1.WorkloadSelector
	GetTargetRef() *typev1beta1.PolicyTargetReference
	GetTargetRefs() []*typev1beta1.PolicyTargetReference
}

func newTarget(namespace string, spec targeted) target {
	return target{namespace, spec.GetSelector().GetMatchLabels(), targetRefs(spec)}
}

// targetRefs reads the list, or the older single field when the list is empty.
func targetRefs(spec targeted) []targetRef {
	refs := spec.GetTargetRefs()
	if len(refs) == 0 && spec.GetTargetRef() != nil {
		refs = []*typev1beta1.PolicyTargetReference{spec.GetTargetRef()}
	}
	var out []targetRef
	for _, r := range refs {
		group := r.GetGroup()
		if group == "core" {
			group = ""
		}
		out = append(out, targetRef{group, r.GetKind(), r.GetName()})
	}
	return out
}

// Scope says whether and why a policy applies to a workload, or not.
type Scope struct {
	Applies bool   `json:"applies"`
	Reason  string `json:"reason"`
}

// scope is the table of authorization-policy §1.2.
func (t *target) scope(mesh *Mesh, w *Workload) Scope {
	if len(t.refs) > 0 {
		return t.refScope(mesh, w)
	}
	if w.waypoint() {
		return Scope{false, "a waypoint takes only policies with targetRefs"}
	}
	if w.Namespace != t.namespace && t.namespace != mesh.RootNamespace {
		return Scope{false, "it is in namespace " + t.namespace + ", the workload in " + w.Namespace}
	}
	where := "namespace " + t.namespace
	if t.namespace == mesh.RootNamespace {
		where = "any namespace (it is in the root namespace)"
	}
	for _, k := range sortedKeys(t.selector) {
		have, ok := w.Labels[k]
		switch {
		case !ok:
			return Scope{false, "its selector wants " + k + "=" + t.selector[k] + ", the workload has no label " + k}
		case have != t.selector[k]:
			return Scope{false, "its selector wants " + k + "=" + t.selector[k] + ", the workload has " + k + "=" + have}
		}
	}
	if len(t.selector) == 0 {
		return Scope{true, "it applies to every workload in " + where}
	}
	return Scope{true, "its selector matches, in " + where}
}

func (t *target) refScope(mesh *Mesh, w *Workload) Scope {
	if !w.waypoint() && w.gateway() == "" {
		return Scope{false, "it has targetRefs, which reach only gateways and waypoints"}
	}
	for _, ref := range t.refs {
		if t.refMatches(mesh, w, ref) {
			return Scope{true, "it targets " + ref.kind + " " + ref.name}
		}
	}
	return Scope{false, "none of its targetRefs is this gateway or waypoint"}
}

func (t *target) refMatches(mesh *Mesh, w *Workload, ref targetRef) bool {
	switch {
	case ref.group == "gateway.networking.k8s.io" && ref.kind == "Gateway":
		return ref.name == w.gateway() && t.namespace == w.Namespace
	case ref.group == "gateway.networking.k8s.io" && ref.kind == "GatewayClass":
		return w.waypoint() && ref.name == "istio-waypoint" && t.namespace == mesh.RootNamespace
	case ref.group == "" && ref.kind == "Service", ref.group == "networking.istio.io" && ref.kind == "ServiceEntry":
		return w.waypoint() && slices.Contains(w.Services, ref.kind+" "+t.namespace+"/"+ref.name)
	}
	return false
}

// needsLabels reports whether some label set could change whether the target is hit.
func (t *target) needsLabels() bool { return len(t.selector) > 0 || len(t.refs) > 0 }

// namespaces lists where policies for the workload may live: its own namespace, the root namespace, and those of the
// services behind a waypoint, in this order (request-authentication §1.4).
func (w *Workload) namespaces(mesh *Mesh) []string {
	var out []string
	add := func(ns string) {
		if ns != "" && !slices.Contains(out, ns) {
			out = append(out, ns)
		}
	}
	add(w.Namespace)
	add(mesh.RootNamespace)
	for _, s := range w.Services {
		_, name, _ := strings.Cut(s, " ")
		ns, _, _ := strings.Cut(name, "/")
		add(ns)
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
