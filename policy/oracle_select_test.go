package policy_test

import (
	"slices"
	"strings"

	typev1beta1 "istio.io/api/type/v1beta1"

	"github.com/writ-auth/writ/policy"
)

// Labels that say what kind of proxy a workload is.
const (
	gatewayNameLabel = "gateway.networking.k8s.io/gateway-name"
	managedLabel     = "gateway.istio.io/managed"
	waypointManager  = "istio.io-mesh-controller"
)

func (o *oracle) rootNamespace() string {
	if o.mesh.RootNamespace == "" {
		return "istio-system"
	}
	return o.mesh.RootNamespace
}

// applies is the table of §1.2: root namespace and own namespace, united; nothing narrower overrides anything broader.
func (o *oracle) applies(d *policy.Document) bool {
	refs := specOf(d).GetTargetRefs()
	if len(refs) == 0 && specOf(d).GetTargetRef() != nil {
		refs = []*typev1beta1.PolicyTargetReference{specOf(d).GetTargetRef()}
	}
	if o.isWaypoint() {
		return slices.ContainsFunc(refs, func(t *typev1beta1.PolicyTargetReference) bool { return o.waypointRef(d, t) })
	}
	if d.Namespace != o.rootNamespace() && d.Namespace != o.workload.Namespace {
		return false
	}
	if len(refs) > 0 {
		return slices.ContainsFunc(refs, func(t *typev1beta1.PolicyTargetReference) bool { return o.gatewayRef(d, t) })
	}
	for k, v := range specOf(d).GetSelector().GetMatchLabels() {
		if got, ok := o.workload.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func (o *oracle) isWaypoint() bool {
	return len(o.workload.Services) > 0 || o.workload.Labels[managedLabel] == waypointManager
}

// gatewayRef: the Gateway this pod belongs to, policy in the same namespace.
func (o *oracle) gatewayRef(d *policy.Document, t *typev1beta1.PolicyTargetReference) bool {
	name, isGateway := o.workload.Labels[gatewayNameLabel]
	return isGateway && t.GetGroup() == "gateway.networking.k8s.io" && t.GetKind() == "Gateway" && t.GetName() == name &&
		d.Namespace == o.workload.Namespace
}

// waypointRef: its own Gateway, a service it serves, or every waypoint by the class, from the root namespace.
func (o *oracle) waypointRef(d *policy.Document, t *typev1beta1.PolicyTargetReference) bool {
	switch t.GetGroup() + "/" + t.GetKind() {
	case "gateway.networking.k8s.io/Gateway":
		return o.gatewayRef(d, t)
	case "gateway.networking.k8s.io/GatewayClass":
		return d.Namespace == o.rootNamespace() && t.GetName() == "istio-waypoint"
	case "/Service", "core/Service":
		return slices.Contains(o.workload.Services, "Service "+d.Namespace+"/"+t.GetName())
	case "networking.istio.io/ServiceEntry":
		return slices.Contains(o.workload.Services, "ServiceEntry "+d.Namespace+"/"+t.GetName())
	}
	return false
}

// trustDomains is the list L of §1.6.
func (o *oracle) trustDomains() []string {
	td := o.mesh.TrustDomain
	if td == "" {
		td = "cluster.local"
	}
	return append([]string{td}, o.mesh.TrustDomainAliases...)
}

// expandPrincipal is the table of §1.6, row by row.
func (o *oracle) expandPrincipal(value string) []string {
	parts := strings.Split(value, "/")
	if len(parts) != 5 {
		return []string{value}
	}
	td, rest := parts[0], "/"+strings.Join(parts[1:], "/")
	if td == "*" {
		return []string{value}
	}
	fits := func(s, pattern string) bool {
		return s == pattern ||
			strings.HasSuffix(pattern, "*") && strings.HasPrefix(s, strings.TrimSuffix(pattern, "*")) ||
			strings.HasPrefix(pattern, "*") && strings.HasSuffix(s, strings.TrimPrefix(pattern, "*"))
	}
	known := slices.ContainsFunc(o.trustDomains(), func(entry string) bool { return fits(td, entry) || fits(entry, td) })
	if !known && td != "cluster.local" {
		return []string{value}
	}
	var out []string
	for _, entry := range o.trustDomains() {
		if strings.HasPrefix(td, "*") && strings.HasSuffix(entry, td[1:]) {
			out = append(out, value) // the wildcard already covers this entry
		} else {
			out = append(out, entry+rest)
		}
	}
	return out
}
