package policy

import (
	"google.golang.org/protobuf/proto"
)

// Kinds this package gives a meaning to. Every other Istio kind is named and passed over.
const (
	KindAuthorizationPolicy   = "AuthorizationPolicy"
	KindRequestAuthentication = "RequestAuthentication"
	KindWorkloadEntry         = "WorkloadEntry"
	KindWorkloadGroup         = "WorkloadGroup"
)

// DryRunAnnotation marks an AuthorizationPolicy whose result is recorded and never enforced
// (spec: authorization-policy §7).
const DryRunAnnotation = "istio.io/dry-run"

// Object names one document.
type Object struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// String is "Kind namespace/name", for messages.
func (o Object) String() string {
	kind := o.Kind
	if kind == "" {
		kind = "document"
	}
	switch {
	case o.Name == "" && o.Namespace == "":
		return kind
	case o.Name == "":
		return kind + " " + o.Namespace + "/?"
	}
	return kind + " " + o.Namespace + "/" + o.Name
}

// Document is one decoded object. Documents are immutable once [Decode] returns them.
type Document struct {
	// Object of a broken document has what could be read: Namespace is empty if it is given and is not a namespace.
	Object
	APIVersion  string
	Labels      map[string]string
	Annotations map[string]string

	File string // as given to Decode
	Line int    // 1-based line in File on which the document starts

	// Spec is *v1beta1.AuthorizationPolicy, *v1beta1.RequestAuthentication, *v1alpha3.WorkloadEntry or
	// *v1alpha3.WorkloadGroup, by Kind; nil for kinds that are passed over. In a broken document it holds what could
	// be read, for [NewSnapshot] to find out whom the document was meant to govern.
	Spec proto.Message

	// Ignored is set on documents of kinds that writ gives no meaning to.
	Ignored bool

	// Problems are all errors and warnings of decoding and validation, in source order.
	Problems []Problem

	source     []byte // text of the YAML document it stands in, from which Position finds lines again
	linesAbove int    // lines of File above source
	within     string // field path inside source, for items of a List

	// What of a broken AuthorizationPolicy's reach is not known, because of an error there or because nothing parses.
	// It is then taken at its widest.
	actionUnread bool
	targetUnread bool // selector, targetRef and targetRefs
}

// Broken reports whether any problem is an error: such a document is never enforced as written.
func (d *Document) Broken() bool {
	for i := range d.Problems {
		if d.Problems[i].Severity == SeverityError {
			return true
		}
	}
	return false
}
