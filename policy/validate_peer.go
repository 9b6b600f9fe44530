package policy

import (
	"fmt"
	"maps"
	"slices"

	"go.yaml.in/yaml/v4"
	securityv1beta1 "istio.io/api/security/v1beta1"
)

// peerAuthentication applies authorization-policy §8.1.
func (v *validator) peerAuthentication(p *securityv1beta1.PeerAuthentication) {
	if p.GetSelector() != nil {
		v.selector(p.GetSelector().GetMatchLabels())
	}
	const field = "spec.portLevelMtls"
	ports := p.GetPortLevelMtls()
	if len(p.GetSelector().GetMatchLabels()) == 0 && len(ports) > 0 {
		v.report(codePortModes, field, "modes of ports, and no selector that says of which workloads", "add selector.matchLabels")
	}
	if len(ports) == 0 && v.o.spec != nil {
		if _, written := fieldChild(v.o.spec, "portLevelMtls"); written != nil && written.Kind == yaml.MappingNode {
			v.report(codeNoPortModes, field, "no port is named", "name one, or remove portLevelMtls")
		}
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		if port == 0 || port > maxPort {
			v.report(codeModePort, fmt.Sprintf("%s[%d]", field, port), fmt.Sprintf("%d is no port", port), "a number from 1 to 65535")
		}
	}
}
