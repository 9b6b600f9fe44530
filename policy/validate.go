package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"
	typev1beta1 "istio.io/api/type/v1beta1"
)

// noteUnread works out from the errors of decoding which parts of a policy's reach are not known. An unknown field of
// spec may be a misspelled action or selector, so what is not there besides it is not known either.
func (o *objectDecoder) noteUnread() {
	d := o.doc
	for i := range d.Problems {
		p := &d.Problems[i]
		if p.Severity != SeverityError {
			continue
		}
		switch step := specStep(p.Field); {
		case p.Field == "spec":
			d.actionUnread, d.targetUnread = true, true
		case step == "action":
			d.actionUnread = true
		case step == "selector" || step == "targetRef" || step == "targetRefs":
			d.targetUnread = true
		case p.Code == codeUnknownField && p.Field == "spec."+step:
			d.actionUnread = d.actionUnread || !o.inSpec("action")
			d.targetUnread = d.targetUnread || !o.inSpec("selector") && !o.inSpec("targetRef") && !o.inSpec("targetRefs")
		}
	}
}

// specStep is the field of spec that a field path goes through, or "".
func specStep(field string) string {
	rest, ok := strings.CutPrefix(field, "spec.")
	if !ok {
		return ""
	}
	if i := strings.IndexAny(rest, ".["); i >= 0 {
		return rest[:i]
	}
	return rest
}

func (o *objectDecoder) inSpec(field string) bool {
	_, v := fieldChild(o.spec, field)
	return v != nil && !isNull(v)
}

// validate checks what was decoded as Istio's admission does (authorization-policy §3.4, §8, request-authentication §1.3).
// Of the kinds of networking.istio.io only what concerns TLS is checked.
// Parts that could not be decoded are not judged a second time.
func (o *objectDecoder) validate() {
	v := &validator{o: o, unread: o.errorFields()}
	switch spec := o.doc.Spec.(type) {
	case *securityv1beta1.AuthorizationPolicy:
		v.authorizationPolicy(spec)
	case *securityv1beta1.RequestAuthentication:
		v.requestAuthentication(spec)
	case *securityv1beta1.PeerAuthentication:
		v.peerAuthentication(spec)
	case *networkingv1alpha3.DestinationRule:
		v.destinationRule(spec)
	case *networkingv1alpha3.Gateway:
		v.gateway(spec)
	}
	if _, dry := o.doc.Annotations[DryRunAnnotation]; dry && o.kind.kind != KindAuthorizationPolicy {
		v.report(codeDryRun, "metadata.annotations["+DryRunAnnotation+"]", "a "+o.kind.kind+" cannot be dry-run", "remove the annotation")
	}
}

func (o *objectDecoder) errorFields() []string {
	var fields []string
	for i := range o.doc.Problems {
		if o.doc.Problems[i].Severity == SeverityError {
			fields = append(fields, o.doc.Problems[i].Field)
		}
	}
	return fields
}

// validator reports what is wrong with a decoded spec. Field paths are rendered only for problems.
type validator struct {
	o      *objectDecoder
	unread []string // fields with errors of decoding
}

// undecoded reports whether a field, or something in it, could not be decoded.
func (v *validator) undecoded(field string) bool {
	return slices.ContainsFunc(v.unread, func(u string) bool {
		rest, ok := strings.CutPrefix(u, field)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// report adds a problem of a field that was decoded in full.
func (v *validator) report(code, field, message, hint string) {
	if v.undecoded(field) {
		return
	}
	if v.o.full() { // it will only be counted
		v.o.add(code, field, place{}, message, hint)
		return
	}
	at, _ := findField(v.o.root, field)
	v.o.add(code, field, v.o.c.place(at), message, hint)
}

// target checks how a document chooses whom it governs.
func (v *validator) target(selector *typev1beta1.WorkloadSelector, ref *typev1beta1.PolicyTargetReference, refs []*typev1beta1.PolicyTargetReference) {
	var set []string
	if selector != nil {
		set = append(set, "selector")
	}
	if ref != nil {
		set = append(set, "targetRef")
	}
	if len(refs) > 0 {
		set = append(set, "targetRefs")
	}
	if len(set) > 1 {
		v.report(codeExclusive, "spec."+set[1], set[1]+" is set as well as "+set[0], "keep one of them")
	}
	if selector != nil {
		v.selector(selector.GetMatchLabels())
	}
	if ref != nil {
		v.targetRef("spec.targetRef", ref)
	}
	if len(refs) > maxTargetRefs {
		v.report(codeSchemaLimit, "spec.targetRefs", fmt.Sprintf("%d targets, the Kubernetes API takes %d", len(refs), maxTargetRefs), "split the document")
	}
	for i, r := range refs {
		v.targetRef(fmt.Sprintf("spec.targetRefs[%d]", i), r)
	}
}

// Limits of Kubernetes' schema for these objects; Istio's own validation does not know them.
const (
	maxTargetRefs  = 16
	maxRules       = 512
	maxSources     = 512
	maxLabelValue  = 63
	maxJWTRules    = 4096
	maxSpaceClaims = 64
	maxJWKSURI     = 2048
)

func (v *validator) selector(labels map[string]string) { v.selectorAt("spec.selector", labels) }

func (v *validator) selectorAt(field string, labels map[string]string) {
	if len(labels) == 0 {
		v.report(codeEmptySelector, field, "the selector has no labels and selects every workload in scope", "add matchLabels, or remove the selector")
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		value, at := labels[key], field+".matchLabels["+key+"]"
		switch {
		case key == "":
			v.report(codeSelector, field+".matchLabels", "a label has no key", "")
		case strings.Contains(key, "*"):
			v.report(codeSelector, at, "wildcard in label key "+quoted(key), "labels are compared as they are, write the whole key")
		}
		if strings.Contains(value, "*") {
			v.report(codeSelector, at, "wildcard in label value "+quoted(value), "labels are compared as they are, write the whole value")
		}
		if len(value) > maxLabelValue {
			v.report(codeSchemaLimit, at, fmt.Sprintf("the label value has %d characters, no label has more than %d", len(value), maxLabelValue), "")
		}
	}
}

// targetKinds are what a targetRef can name, as group/kind. The core group may be spelled out. Read only.
var targetKinds = []string{
	"/Service", "core/Service", "networking.istio.io/ServiceEntry",
	"gateway.networking.k8s.io/Gateway", "gateway.networking.k8s.io/GatewayClass",
}

func (v *validator) targetRef(field string, r *typev1beta1.PolicyTargetReference) {
	if r.GetName() == "" {
		v.report(codeTargetRef, field, "the target has no name", "write name")
	}
	if r.GetNamespace() != "" {
		v.report(codeTargetRef, field+".namespace", "the target is in namespace "+quoted(r.GetNamespace())+", only the policy's own is possible", "remove namespace")
	}
	if id := r.GetGroup() + "/" + r.GetKind(); !slices.Contains(targetKinds, id) {
		hint := "a target is a Service (group \"\"), a ServiceEntry (networking.istio.io), a Gateway or a GatewayClass (gateway.networking.k8s.io)"
		if near := nearest(id, targetKinds); near != "" {
			group, kind, _ := strings.Cut(near, "/")
			hint = fmt.Sprintf("did you mean group %q, kind %q?", group, kind)
		}
		v.report(codeTargetRef, field, quoted(strings.TrimPrefix(id, "/"))+" cannot be a target", hint)
	}
}
