package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/proto"
	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"
)

// knownKind is a kind that documents are decoded for.
type knownKind struct {
	kind     string
	group    string
	versions []string // newest first
	spec     func() proto.Message
}

// knownKinds is read only.
var knownKinds = []knownKind{
	{KindAuthorizationPolicy, "security.istio.io", []string{"v1", "v1beta1"},
		func() proto.Message { return &securityv1beta1.AuthorizationPolicy{} }},
	{KindRequestAuthentication, "security.istio.io", []string{"v1", "v1beta1"},
		func() proto.Message { return &securityv1beta1.RequestAuthentication{} }},
	{KindPeerAuthentication, "security.istio.io", []string{"v1", "v1beta1"},
		func() proto.Message { return &securityv1beta1.PeerAuthentication{} }},
	{KindWorkloadEntry, "networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"},
		func() proto.Message { return &networkingv1alpha3.WorkloadEntry{} }},
	{KindWorkloadGroup, "networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"},
		func() proto.Message { return &networkingv1alpha3.WorkloadGroup{} }},
	{KindDestinationRule, "networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"},
		func() proto.Message { return &networkingv1alpha3.DestinationRule{} }},
	{KindGateway, "networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"},
		func() proto.Message { return &networkingv1alpha3.Gateway{} }},
}

// topLevel are the keys of an object. Read only.
var topLevel = []string{"apiVersion", "kind", "metadata", "spec", "status"}

// objectDecoder reads one object. Its methods report every problem and go on.
type objectDecoder struct {
	doc  *Document
	c    chunk
	root *yaml.Node
	path []segment
	kind *knownKind

	hidden       int // problems beyond maxProblems
	hiddenErrors bool

	metadataKey, metadata *yaml.Node
	specKey, spec         *yaml.Node
	items                 *yaml.Node
}

func newObjectDecoder(file string, c chunk, root *yaml.Node) *objectDecoder {
	root = resolved(root)
	return &objectDecoder{c: c, root: root, doc: &Document{
		File: file, Line: c.linesAbove + root.Line,
		source: c.text, linesAbove: c.linesAbove, within: c.within,
	}}
}

// headResult says what the head of an object shows it to be.
type headResult int

const (
	headBroken headResult = iota // not an object of Kubernetes
	headKnown                    // of a known kind, or so near one that it must have been meant
	headOther                    // of another kind
	headList
)

// head reads apiVersion and kind and finds the other top-level keys.
func (o *objectDecoder) head(inherit typeMeta) headResult {
	if o.root.Kind != yaml.MappingNode {
		o.report(codeNotObject, o.root, "want an object with apiVersion, kind, metadata and spec, got "+describe(o.root), "")
		return headBroken
	}
	var unknown []*yaml.Node
	seen := map[string]bool{}
	content := o.entries(o.root)
	for i := 0; i+1 < len(content); i += 2 {
		k, v := content[i], resolved(content[i+1])
		name, ok := o.key(k)
		if !ok {
			continue
		}
		o.push(name)
		if seen[name] { // only inside a list: at the top it is taken for a missing separator
			o.report(codeDuplicateKey, k, quoted(name)+" is given twice", "keep one of the two")
			o.doc.actionUnread, o.doc.targetUnread = true, true
		}
		seen[name] = true
		switch name {
		case "apiVersion":
			o.doc.APIVersion, _ = o.text(k, v)
		case "kind":
			o.doc.Kind, _ = o.text(k, v)
		case "metadata":
			o.metadataKey, o.metadata = k, v
		case "spec":
			o.specKey, o.spec = k, v
		case "items":
			o.items = v
			unknown = append(unknown, k)
		case "status": // what a controller wrote; nothing of it is ours
		default:
			unknown = append(unknown, k)
		}
		o.pop()
	}
	if o.doc.APIVersion == "" && o.doc.Kind == "" {
		o.doc.APIVersion, o.doc.Kind = inherit.apiVersion, inherit.kind
	}
	result := o.classify()
	if result == headKnown {
		o.unknownTopLevel(unknown)
	}
	return result
}

func (o *objectDecoder) unknownTopLevel(keys []*yaml.Node) {
	for _, k := range keys {
		hint := "an object has apiVersion, kind, metadata and spec"
		if near := nearest(k.Value, topLevel); near != "" {
			hint = "did you mean " + near + "?"
			if near == "spec" {
				o.doc.actionUnread, o.doc.targetUnread = true, true
			}
		} else if slices.Contains(o.kind.specFields(), k.Value) {
			hint = k.Value + " belongs inside spec: indent it"
			o.doc.actionUnread, o.doc.targetUnread = true, true
		}
		o.push(k.Value)
		o.report(codeUnknownField, k, "unknown field "+quoted(k.Value), hint)
		o.pop()
	}
}

func (k *knownKind) specFields() []string {
	return shapes()[k.spec().ProtoReflect().Descriptor().FullName()].names
}

// classify compares apiVersion and kind with what is known. A typing error in either must not make a policy vanish, so
// what is nearly a known kind is an error and not another kind.
func (o *objectDecoder) classify() headResult {
	d := o.doc
	if d.Kind == "" {
		o.report(codeNotObject, o.root, "the object has no kind", "write kind: "+KindAuthorizationPolicy+", or whatever it is")
		return headBroken
	}
	group, version, found := strings.Cut(d.APIVersion, "/")
	if !found {
		group, version = "", d.APIVersion
	}
	if o.items != nil && strings.HasSuffix(d.Kind, "List") {
		return headList
	}
	i := slices.IndexFunc(knownKinds, func(k knownKind) bool { return k.kind == d.Kind })
	if i < 0 {
		return o.nearKind(group)
	}
	o.kind = &knownKinds[i]
	switch {
	case d.APIVersion == "":
		o.report(codeNotObject, o.root, "the object has no apiVersion", "write apiVersion: "+o.kind.apiVersion())
	case d.Kind == KindGateway && group == gatewayAPIGroup: // a standard kind of that name; Istio's is meant by its own group
		return headOther
	case group == o.kind.group && slices.Contains(o.kind.versions, version):
	case group == o.kind.group:
		o.reportKey("apiVersion", codeVersion, fmt.Sprintf("%s has no version %s", d.Kind, quoted(version)), "write "+o.kind.apiVersion())
	case group == "" || nearest(group, []string{o.kind.group}) != "" || strings.HasSuffix(group, "istio.io"):
		o.reportKey("apiVersion", codeNearKind, fmt.Sprintf("%s is not in API group %s", d.Kind, quoted(group)), "write "+o.kind.apiVersion())
	default:
		o.reportKey("apiVersion", codeForeignGroup, fmt.Sprintf("%s of API group %s is not Istio's and is passed over", d.Kind, quoted(group)),
			"write "+o.kind.apiVersion()+" if Istio's is meant")
		return headOther
	}
	return headKnown
}

func (k *knownKind) apiVersion() string { return k.group + "/" + k.versions[0] }

// nearKind tells a misspelled kind of ours from a kind that is none of ours.
func (o *objectDecoder) nearKind(group string) headResult {
	near := nearKnownKind(o.doc.Kind)
	if o.doc.APIVersion == "" {
		o.report(codeNotObject, o.root, "the object has no apiVersion", "")
		if near != nil {
			o.doc.Kind = near.kind
		}
		return headBroken
	}
	if near == nil && group == securityGroup && !istioKinds[o.doc.Kind] {
		o.reportKey("kind", codeNearKind, group+" has no kind "+quoted(o.doc.Kind), "write "+KindAuthorizationPolicy+", "+KindRequestAuthentication+" or "+KindPeerAuthentication)
		return headBroken
	}
	if near == nil || group != near.group {
		return headOther
	}
	o.kind = near
	o.reportKey("kind", codeNearKind, fmt.Sprintf("%s has no kind %s", group, quoted(o.doc.Kind)), "did you mean "+near.kind+"?")
	o.doc.Kind = near.kind // what it is meant to be decides what stands in for it
	return headKnown
}

// nearKnownKind is the known kind that a kind must have been meant for, nil if it is one of its own.
func nearKnownKind(kind string) *knownKind {
	var names []string
	for i := range knownKinds {
		k := &knownKinds[i]
		if strings.EqualFold(kind, k.kind) {
			return k
		}
		names = append(names, k.kind)
	}
	if istioKinds[kind] {
		return nil
	}
	near := nearest(kind, names)
	if i := slices.Index(names, near); i >= 0 {
		return &knownKinds[i]
	}
	return nil
}

// securityGroup is the API group of policies. The API server refuses kinds that it does not have, and so does writ: a
// policy that is passed over forbids nothing.
const securityGroup = "security.istio.io"

// gatewayAPIGroup is the API group of Kubernetes' own Gateway.
const gatewayAPIGroup = "gateway.networking.k8s.io"

func isKnownKind(kind string) bool {
	return slices.ContainsFunc(knownKinds, func(k knownKind) bool { return k.kind == kind })
}

// istioKinds are the other kinds of the two groups, which no spelling check may mistake. Read only.
var istioKinds = map[string]bool{
	"EnvoyFilter": true, "ProxyConfig": true, "ServiceEntry": true, "Sidecar": true, "VirtualService": true,
}

// reportKey reports a problem at the value of a top-level key, or at the object if an outer list gave it.
func (o *objectDecoder) reportKey(name, code, message, hint string) {
	at := o.root
	content := o.entries(o.root)
	for i := 0; i+1 < len(content); i += 2 {
		if content[i].Value == name {
			at = resolved(content[i+1])
		}
	}
	o.push(name)
	o.report(code, at, message, hint)
	o.pop()
}

// known reads an object of a known kind and validates it.
func (o *objectDecoder) known() {
	o.readMetadata()
	spec := o.kind.spec()
	o.doc.Spec = spec
	if o.spec != nil {
		o.push("spec")
		o.decodeSpec(o.specKey, o.spec, spec)
		o.pop()
	}
	if o.stopped() { // what follows was not read
		o.doc.actionUnread, o.doc.targetUnread = true, true
	}
	o.noteUnread()
	o.validate()
}

// other passes over an object of another kind. Its name is kept for messages.
func (o *objectDecoder) other() {
	foreign := len(o.doc.Problems) > 0
	o.doc.Problems = o.doc.Problems[:len(o.doc.Problems):len(o.doc.Problems)]
	o.doc.Ignored = true
	o.describeSelf()
	if !foreign {
		o.report(codePassedOver, o.root, fmt.Sprintf("%s of %s has no meaning here and is passed over", o.doc.Kind, o.doc.APIVersion), "")
	}
	o.doc.source = nil
}

// describeSelf finds the name of an object that is not decoded, without judging it.
func (o *objectDecoder) describeSelf() {
	if o.metadata == nil || o.metadata.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(o.metadata.Content); i += 2 {
		k, v := o.metadata.Content[i], resolved(o.metadata.Content[i+1])
		if v.Kind != yaml.ScalarNode || isNull(v) {
			continue
		}
		switch { // a broken object is enforced by these
		case k.Value == "name" && (o.doc.Ignored || isSubdomain(v.Value)):
			o.doc.Name = v.Value
		case k.Value == "namespace" && (o.doc.Ignored || isLabel(v.Value)):
			o.doc.Namespace = v.Value
		}
	}
}

// entries returns the keys and values of an object in turn and reports merge keys that merge nothing.
func (o *objectDecoder) entries(n *yaml.Node) []*yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag != mergeTag {
			continue
		}
		for _, v := range mergeSources(n.Content[i+1]) {
			if v.Kind != yaml.MappingNode {
				o.report(codeTag, v, "only objects can be merged, got "+describe(v), "")
			}
		}
	}
	return entries(n)
}

// entries returns the keys and values of an object in turn, merge keys (<<) expanded: an entry of the object itself
// wins over a merged one, an earlier merged one over a later.
func entries(n *yaml.Node) []*yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	merges := false
	for i := 0; i < len(n.Content); i += 2 {
		merges = merges || n.Content[i].Tag == mergeTag
	}
	if !merges {
		return n.Content
	}
	var own, merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Tag != mergeTag {
			own = append(own, k, v)
			continue
		}
		for _, source := range mergeSources(v) {
			merged = append(merged, entries(source)...)
		}
	}
	taken := map[string]bool{}
	for i := 0; i < len(own); i += 2 {
		taken[own[i].Value] = true
	}
	for i := 0; i+1 < len(merged); i += 2 {
		if k := merged[i].Value; !taken[k] {
			taken[k] = true
			own = append(own, merged[i], merged[i+1])
		}
	}
	return own
}

// mergeSources are the values that a merge key merges: one, or those of a list.
func mergeSources(v *yaml.Node) []*yaml.Node {
	if v = resolved(v); v.Kind != yaml.SequenceNode {
		return []*yaml.Node{v}
	}
	sources := make([]*yaml.Node, len(v.Content))
	for i, e := range v.Content {
		sources[i] = resolved(e)
	}
	return sources
}
