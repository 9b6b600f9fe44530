package ca

import (
	"crypto/x509"
	"encoding/asn1"
	"net/netip"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// DER tags of what a certificate is made of.
const (
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagUTCTime     = 0x17
	tagGeneralTime = 0x18
	tagSequence    = 0x30
	tagSubjectKey  = 0x80 // [0] in AuthorityKeyIdentifier
	tagDNS         = 0x82 // [2] in GeneralName
	tagURI         = 0x86 // [6]
	tagIP          = 0x87 // [7]
	tagExtensions  = 0xa3 // [3] in TBSCertificate
)

// What every leaf has alike, in DER, in the order it appears (identity §1.2).
const (
	derVersion3  = "\xa0\x03\x02\x01\x02"
	derNoSubject = "\x30\x00"
	// Key usage, critical: digitalSignature; for RSA keyEncipherment as well.
	derUsage    = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"
	derUsageRSA = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x05\xa0"
	// Extended key usage: serverAuth, clientAuth.
	derExtUsage = "\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
	// Basic constraints, critical: not a CA.
	derNoCA = "\x30\x0c\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x02\x30\x00"

	derSubjectKeyOID = "\x06\x03\x55\x1d\x0e"
	derIssuerKeyOID  = "\x06\x03\x55\x1d\x23"
	derNamesOID      = "\x06\x03\x55\x1d\x11"
	derCritical      = "\x01\x01\xff"
)

// keyIDSize is the length of a subject key identifier: the first 160 bits of the SHA-256 of the SubjectPublicKeyInfo
// (RFC 7093 §2, method 4).
const keyIDSize = 20

// template holds the parts that all leaves of one issuer share, ready in DER. Building a certificate from it takes a
// few concatenations; lint then reads the result with crypto/x509 and compares every field.
type template struct {
	algorithm []byte // AlgorithmIdentifier of the signature
	issuer    []byte // Name
	issuerKey []byte // the AuthorityKeyIdentifier extension
}

// leaf is what is particular to one certificate.
type leaf struct {
	serial   Serial
	from, to time.Time
	id       spiffeid.ID
	key      subjectKey
	dns      []string
	ips      []netip.Addr
}

func newTemplate(issuer *x509.Certificate, algorithm string) *template {
	keyID := tlv(tagSequence, tlv(tagSubjectKey, issuer.SubjectKeyId))
	return &template{
		algorithm: []byte(algorithm),
		issuer:    issuer.RawSubject,
		issuerKey: tlv(tagSequence, []byte(derIssuerKeyOID), tlv(tagOctetString, keyID)),
	}
}

// tbs is the leaf's TBSCertificate (RFC 5280 §4.1).
func (t *template) tbs(l *leaf) []byte {
	usage := derUsage
	if l.key.rsa {
		usage = derUsageRSA
	}
	subjectKey := tlv(tagSequence, []byte(derSubjectKeyOID), tlv(tagOctetString, tlv(tagOctetString, l.key.hash[:keyIDSize])))
	names := tlv(tagSequence, []byte(derNamesOID), []byte(derCritical), tlv(tagOctetString, tlv(tagSequence, l.names())))
	extensions := tlv(tagExtensions, tlv(tagSequence,
		[]byte(usage), []byte(derExtUsage), []byte(derNoCA), subjectKey, t.issuerKey, names))
	return tlv(tagSequence,
		[]byte(derVersion3), derInteger(l.serial), t.algorithm, t.issuer, tlv(tagSequence, derTime(l.from), derTime(l.to)),
		[]byte(derNoSubject), l.key.spki, extensions)
}

// names is the content of GeneralNames, made from a list: nothing is joined that could be split again elsewhere.
func (l *leaf) names() []byte {
	out := tlv(tagURI, []byte(l.id.String()))
	for _, name := range l.dns {
		out = append(out, tlv(tagDNS, []byte(name))...)
	}
	for _, ip := range l.ips {
		out = append(out, tlv(tagIP, ip.AsSlice())...)
	}
	return out
}

// certificate puts a signature to a TBSCertificate.
func (t *template) certificate(tbs, signature []byte) []byte {
	return tlv(tagSequence, tbs, t.algorithm, tlv(tagBitString, []byte{0}, signature))
}

// tlv is one DER element.
func tlv(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n+5)
	out = append(out, tag)
	switch {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// derInteger is the shortest encoding of a serial number. Its top bit is clear, so that it is positive as it stands.
func derInteger(s Serial) []byte {
	b := s[:]
	for len(b) > 1 && b[0] == 0 && b[1] < 0x80 {
		b = b[1:]
	}
	return tlv(tagInteger, b)
}

// derTime is a time as certificates have it: UTCTime until 2049, GeneralizedTime from 2050 on (RFC 5280 §4.1.2.5).
func derTime(t time.Time) []byte {
	if t = t.UTC(); t.Year() < 2050 {
		return tlv(tagUTCTime, t.AppendFormat(nil, "060102150405Z"))
	}
	return tlv(tagGeneralTime, t.AppendFormat(nil, "20060102150405Z"))
}

// The extensions of a leaf, in order.
var leafExtensions = []struct {
	id       asn1.ObjectIdentifier
	critical bool
}{
	{asn1.ObjectIdentifier{2, 5, 29, 15}, true},
	{asn1.ObjectIdentifier{2, 5, 29, 37}, false},
	{asn1.ObjectIdentifier{2, 5, 29, 19}, true},
	{asn1.ObjectIdentifier{2, 5, 29, 14}, false},
	{asn1.ObjectIdentifier{2, 5, 29, 35}, false},
	{asn1.ObjectIdentifier{2, 5, 29, 17}, true},
}
