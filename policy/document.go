package policy

import (
	"cmp"
	"time"

	"google.golang.org/protobuf/proto"
)

// Kinds this package gives a meaning to. Every other Istio kind is named and passed over.
const (
	KindAuthorizationPolicy   = "AuthorizationPolicy"
	KindRequestAuthentication = "RequestAuthentication"
	KindPeerAuthentication    = "PeerAuthentication"
	KindWorkloadEntry         = "WorkloadEntry"
	KindWorkloadGroup         = "WorkloadGroup"
	KindDestinationRule       = "DestinationRule"
	KindGateway               = "Gateway"
)

// DryRunAnnotation marks an AuthorizationPolicy whose result is recorded and never enforced
// (spec: authorization-policy §7).
const DryRunAnnotation = "istio.io/dry-run"

// CustomDryRunAnnotation does the same for action CUSTOM, where Istio refuses its own annotation: the provider is asked and
// its answer recorded.
const CustomDryRunAnnotation = "writ/dry-run"

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
	// Created is metadata.creationTimestamp, zero when it is not given, as in files that nobody exported from a cluster.
	// Where the oldest document counts, one without it is older than any with it, as in Istio; ties go by name.
	Created time.Time

	File string // as given to Decode
	Line int    // 1-based line in File on which the document starts

	// Spec is the message of istio.io/api of that Kind, such as *v1beta1.AuthorizationPolicy; nil for kinds that are
	// passed over. In a broken document it holds what could be read, for [NewSnapshot] to find out whom the document was
	// meant to govern.
	Spec proto.Message

	// Ignored is set on documents of kinds that writ gives no meaning to.
	Ignored bool

	// Problems are all errors and warnings of decoding and validation, in source order.
	Problems []Problem

	source     []byte // text of the YAML document it stands in, from which Position finds lines again
	linesAbove int    // lines of File above source
	within     string // field path inside source, for items of a List

	// What of a broken document's reach is not known, because of an error there or because nothing parses.
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

// older orders documents of one kind as Istio does: by creation, then by name, then by namespace.
func older(a, b *Document) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
}
