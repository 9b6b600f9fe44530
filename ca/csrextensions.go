package ca

import (
	"encoding/asn1"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/writ-auth/writ/internal/spiffeid"
)

var (
	oidExtensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// checkAttributes allows one attribute, the extension request, once; and in it the extensions that ask for no more than
// every leaf gets.
func checkAttributes(attributes cryptobyte.String, id spiffeid.ID) error {
	seen := false
	for !attributes.Empty() {
		var attribute, values, list cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !attributes.ReadASN1(&attribute, tag.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
			!attribute.ReadASN1(&values, tag.SET) || !attribute.Empty() {
			return refuse(ReasonSyntax, "an attribute is malformed")
		}
		if !oid.Equal(oidExtensionRequest) {
			return refuse(ReasonExtension, "attribute %v is not allowed", oid)
		}
		if seen || !values.ReadASN1(&list, tag.SEQUENCE) || !values.Empty() {
			return refuse(ReasonSyntax, "more than one list of extensions")
		}
		seen = true
		if err := checkExtensions(list, id); err != nil {
			return err
		}
	}
	return nil
}

func checkExtensions(list cryptobyte.String, id spiffeid.ID) error {
	var seen []string
	for !list.Empty() {
		var extension, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&extension, tag.SEQUENCE) || !extension.ReadASN1ObjectIdentifier(&oid) ||
			extension.PeekASN1Tag(tag.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, tag.OCTET_STRING) || !extension.Empty() {
			return refuse(ReasonSyntax, "an extension is malformed")
		}
		if slices.Contains(seen, oid.String()) {
			return refuse(ReasonExtension, "extension %v twice", oid)
		}
		if seen = append(seen, oid.String()); len(seen) > maxExtensions {
			return refuse(ReasonExtension, "more than %d extensions", maxExtensions)
		}
		if err := checkExtension(oid, value, id); err != nil {
			return err
		}
	}
	return nil
}

func checkExtension(oid asn1.ObjectIdentifier, value cryptobyte.String, id spiffeid.ID) error {
	switch {
	case oid.Equal(oidSubjectAltName):
		return checkNames(value, id)
	case oid.Equal(oidKeyUsage):
		// digitalSignature and keyEncipherment are bits 0 and 2 (RFC 5280 §4.2.1.3).
		var bits asn1.BitString
		if !value.ReadASN1BitString(&bits) || !value.Empty() {
			return refuse(ReasonSyntax, "the key usage is malformed")
		}
		for i := range bits.BitLength {
			if bits.At(i) == 1 && i != 0 && i != 2 {
				return refuse(ReasonExtension, "key usage bit %d: a leaf may ask for digitalSignature and keyEncipherment", i)
			}
		}
		return nil
	case oid.Equal(oidExtKeyUsage):
		var usages cryptobyte.String
		if !value.ReadASN1(&usages, tag.SEQUENCE) || !value.Empty() {
			return refuse(ReasonSyntax, "the extended key usage is malformed")
		}
		for !usages.Empty() {
			var usage asn1.ObjectIdentifier
			if !usages.ReadASN1ObjectIdentifier(&usage) {
				return refuse(ReasonSyntax, "the extended key usage is malformed")
			}
			if !usage.Equal(oidServerAuth) && !usage.Equal(oidClientAuth) {
				return refuse(ReasonExtension, "extended key usage %v: a leaf may ask for serverAuth and clientAuth", usage)
			}
		}
		return nil
	default:
		return refuse(ReasonExtension, "extension %v is not allowed", oid)
	}
}

// checkNames allows one name, the identity itself, byte for byte: a URL parser would forgive scheme case, escapes and dot
// segments (identity §1.1).
func checkNames(value cryptobyte.String, id spiffeid.ID) error {
	var names, name cryptobyte.String
	var kind tag.Tag
	if !value.ReadASN1(&names, tag.SEQUENCE) || !value.Empty() || !names.ReadAnyASN1(&name, &kind) {
		return refuse(ReasonSyntax, "the subject alternative name is malformed")
	}
	uri := tag.Tag(6).ContextSpecific()
	switch {
	case !names.Empty():
		return refuse(ReasonName, "more than one subject alternative name: ask for %s alone, or for none", id)
	case kind != uri:
		return refuse(ReasonName, "subject alternative name of kind %d: ask for the URI %s, or for none", kind&0x1f, id)
	case string(name) != id.String():
		return refuse(ReasonName, "subject alternative name %.200q: you are %s", []byte(name), id)
	}
	return nil
}
