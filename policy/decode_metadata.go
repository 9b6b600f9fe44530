package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

const (
	maxNameLength  = 253 // RFC 1123 subdomain, as Kubernetes limits it
	maxLabelLength = 63  // RFC 1123 label
)

// defaultNamespace is where objects without a namespace go, as with kubectl.
const defaultNamespace = "default"

// metadataKeys are Kubernetes' own, which are passed over and which no spelling check may mistake. Read only.
var metadataKeys = []string{
	"generateName", "selfLink", "uid", "resourceVersion", "generation", "deletionTimestamp",
	"deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields", "clusterName", "initializers",
}

// readKeys are the keys of metadata that are read. Read only.
var readKeys = []string{"name", "namespace", "labels", "annotations", "creationTimestamp"}

// readMetadata reads what is needed of metadata. Namespace stays empty if it cannot be read, and is default if it is
// not there.
func (o *objectDecoder) readMetadata() {
	o.push("metadata")
	defer o.pop()
	if o.metadata == nil || isNull(o.metadata) {
		o.report(codeName, o.root, "the object has no metadata", "write metadata with name and namespace")
		return
	}
	if o.metadata.Kind != yaml.MappingNode {
		o.wrongType(o.metadataKey, o.metadata, wantObject)
		return
	}
	seen := map[string]bool{}
	content := o.entries(o.metadata)
	for i := 0; i+1 < len(content) && !o.stopped(); i += 2 {
		k, v := content[i], resolved(content[i+1])
		name, ok := o.key(k)
		if !ok {
			continue
		}
		o.push(name)
		if seen[name] {
			o.report(codeDuplicateKey, k, quoted(name)+" is given twice", "keep one of the two")
		} else if !isNull(v) {
			seen[name] = true
			o.metadataField(name, k, v, seen)
		}
		o.pop()
	}
	if !seen["name"] {
		o.report(codeName, o.metadataKey, "the object has no name", "write metadata.name")
	}
	if !seen["namespace"] {
		o.doc.Namespace = defaultNamespace
		o.report(codeNoNamespace, o.metadataKey, "no namespace is given, "+defaultNamespace+" is taken", "write metadata.namespace")
	}
}

func (o *objectDecoder) metadataField(name string, k, v *yaml.Node, seen map[string]bool) {
	switch name {
	case "name":
		o.readName(k, v)
	case "namespace":
		o.readNamespace(k, v)
	case "labels":
		o.doc.Labels = o.textMap(k, v)
	case "annotations":
		o.doc.Annotations = o.textMap(k, v)
	case "creationTimestamp":
		o.readCreated(k, v)
	default:
		if near := nearest(name, readKeys); near != "" && !slices.Contains(metadataKeys, name) {
			o.report(codeUnknownField, k, "unknown field "+quoted(name), "did you mean "+near+"?")
			seen[near] = true // it was meant to be there
		}
	}
}

func (o *objectDecoder) readName(k, v *yaml.Node) {
	name, ok := o.text(k, v)
	if !ok {
		return
	}
	o.doc.Name = name
	if !isSubdomain(name) {
		o.report(codeName, v, quoted(name)+" is not a name of Kubernetes",
			fmt.Sprintf("lower-case letters, digits, '-' and '.', at most %d characters, letters or digits at both ends", maxNameLength))
	}
}

func (o *objectDecoder) readNamespace(k, v *yaml.Node) {
	namespace, ok := o.text(k, v)
	if !ok {
		return
	}
	if !isLabel(namespace) {
		o.report(codeNamespace, v, quoted(namespace)+" is not a namespace of Kubernetes",
			fmt.Sprintf("lower-case letters, digits and '-', at most %d characters, letters or digits at both ends", maxLabelLength))
		return
	}
	o.doc.Namespace = namespace
}

// readCreated reads when the object was made, in Kubernetes' notation (RFC 3339).
func (o *objectDecoder) readCreated(k, v *yaml.Node) {
	text, ok := o.text(k, v)
	if !ok {
		return
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		o.report(codeWrongType, v, quoted(text)+" is not a time", "write it as 2026-01-31T15:04:05Z, or remove it")
		return
	}
	o.doc.Created = t
}

// textMap reads labels or annotations.
func (o *objectDecoder) textMap(key, n *yaml.Node) map[string]string {
	if n.Kind != yaml.MappingNode {
		o.wrongType(key, n, wantObject)
		return nil
	}
	content := o.entries(n)
	m := make(map[string]string, len(content)/2)
	for i := 0; i+1 < len(content) && !o.stopped(); i += 2 {
		k, v := content[i], resolved(content[i+1])
		name, ok := o.key(k)
		if !ok {
			continue
		}
		o.pushKey(name)
		if _, twice := m[name]; twice {
			o.report(codeDuplicateKey, k, quoted(name)+" is given twice", "keep one of the two")
		} else if text, ok := o.text(k, v); ok {
			m[name] = text
		}
		o.pop()
	}
	return m
}

// isSubdomain reports an RFC 1123 subdomain: labels of any length joined by dots, as Kubernetes checks names.
func isSubdomain(s string) bool {
	if s == "" || len(s) > maxNameLength {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !isAlphanumericDash(part) {
			return false
		}
	}
	return true
}

// isLabel reports an RFC 1123 label.
func isLabel(s string) bool { return len(s) <= maxLabelLength && isAlphanumericDash(s) }

// isAlphanumericDash reports lower-case letters, digits and '-', with no '-' at either end.
func isAlphanumericDash(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9':
		case b == '-' && i > 0 && i < len(s)-1:
		default:
			return false
		}
	}
	return s != ""
}
