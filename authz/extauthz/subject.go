package extauthz

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"strings"
)

// subjectName is a distinguished name as Envoy prints it: RFC 2253 with OpenSSL's short names, control characters
// and everything beyond ASCII as \XX.
func subjectName(der []byte) (string, error) {
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &rdns); err != nil {
		return "", fmt.Errorf("subject: %v", err)
	} else if len(rest) > 0 {
		return "", fmt.Errorf("subject: %d bytes after its end", len(rest))
	}
	var b strings.Builder
	for i := len(rdns) - 1; i >= 0; i-- { // RFC 2253 §2.1: the last comes first
		for j := len(rdns[i]) - 1; j >= 0; j-- {
			switch {
			case b.Len() == 0:
			case j == len(rdns[i])-1:
				b.WriteByte(',')
			default:
				b.WriteByte('+')
			}
			writeAttribute(&b, rdns[i][j])
		}
	}
	return b.String(), nil
}

func writeAttribute(b *strings.Builder, a pkix.AttributeTypeAndValue) {
	name := shortName(a.Type)
	value, isText := a.Value.(string)
	if name != "" && isText {
		b.WriteString(name)
		b.WriteByte('=')
		writeEscaped(b, value)
		return
	}
	b.WriteString(a.Type.String())
	der, err := asn1.Marshal(a.Value)
	if err != nil {
		der = nil
	}
	b.WriteString("=#" + strings.ToUpper(hex.EncodeToString(der)))
}

// writeEscaped escapes as RFC 2253 §2.4 says, plus \XX for what is not printable ASCII.
func writeEscaped(b *strings.Builder, s string) {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		switch {
		case c < 0x20 || c >= 0x7f:
			b.WriteByte('\\')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
			continue
		case strings.IndexByte(`,+"\<>;`, c) >= 0,
			i == 0 && (c == '#' || c == ' '),
			i == len(s)-1 && c == ' ':
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
}

// shortName is OpenSSL's short name of an attribute type, "" for types it has none for.
func shortName(oid asn1.ObjectIdentifier) string {
	switch oid.String() {
	case "2.5.4.3":
		return "CN"
	case "2.5.4.4":
		return "SN"
	case "2.5.4.5":
		return "serialNumber"
	case "2.5.4.6":
		return "C"
	case "2.5.4.7":
		return "L"
	case "2.5.4.8":
		return "ST"
	case "2.5.4.9":
		return "street"
	case "2.5.4.10":
		return "O"
	case "2.5.4.11":
		return "OU"
	case "2.5.4.12":
		return "title"
	case "2.5.4.17":
		return "postalCode"
	case "2.5.4.41":
		return "name"
	case "2.5.4.42":
		return "GN"
	case "2.5.4.43":
		return "initials"
	case "2.5.4.44":
		return "generationQualifier"
	case "2.5.4.46":
		return "dnQualifier"
	case "2.5.4.65":
		return "pseudonym"
	case "1.2.840.113549.1.9.1":
		return "emailAddress"
	case "0.9.2342.19200300.100.1.1":
		return "UID"
	case "0.9.2342.19200300.100.1.25":
		return "DC"
	}
	return ""
}
