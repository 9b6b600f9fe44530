package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// compare takes a TBSCertificate apart, to the last byte, and compares it with what was approved. It runs for every
// certificate before the issuer's key is used, and shares nothing with the code that built it.
func (s *signing) compare(tbs []byte, want *leaf) error {
	var body, version, validity, extensions cryptobyte.String
	var serial []byte
	var algorithm, issuer, subject, key cryptobyte.String
	rest := cryptobyte.String(tbs)
	number := int64(-1)
	if !rest.ReadASN1(&body, asn1.SEQUENCE) || !rest.Empty() ||
		!body.ReadASN1(&version, asn1.Tag(0).ContextSpecific().Constructed()) || !version.ReadASN1Integer(&number) || !version.Empty() ||
		!body.ReadASN1Integer(&serial) || !body.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!body.ReadASN1Element(&issuer, asn1.SEQUENCE) || !body.ReadASN1(&validity, asn1.SEQUENCE) ||
		!body.ReadASN1Element(&subject, asn1.SEQUENCE) || !body.ReadASN1Element(&key, asn1.SEQUENCE) ||
		!body.ReadASN1(&extensions, asn1.Tag(3).ContextSpecific().Constructed()) || !body.Empty() {
		return fmt.Errorf("%w: it does not parse", ErrSelfCheck)
	}
	var got Serial
	if n := len(serial); n <= len(got) {
		copy(got[len(got)-n:], serial)
	}
	from, fromOK := readTime(&validity)
	to, toOK := readTime(&validity)
	for _, field := range []struct {
		name string
		ok   bool
	}{
		{"version", number == 2},
		{"serial number", got == want.serial && !got.IsZero() && len(serial) <= len(got)},
		{"signature algorithm", string(algorithm) == string(s.template.algorithm)},
		{"issuer", string(issuer) == string(s.issuer.RawSubject)},
		{"notBefore", fromOK && from.Equal(want.from) && !from.Before(s.issuer.NotBefore)},
		{"notAfter", toOK && validity.Empty() && to.Equal(want.to) && !to.After(s.issuer.NotAfter) && to.After(from)},
		{"subject", len(subject) == 2},
		{"public key", string(key) == string(want.key.spki)},
	} {
		if !field.ok {
			return fmt.Errorf("%w: %s", ErrSelfCheck, field.name)
		}
	}
	return s.compareExtensions(extensions, want)
}

// compareExtensions wants the six extensions of a leaf, in order, and each to the point (identity §1.2).
func (s *signing) compareExtensions(in cryptobyte.String, want *leaf) error {
	var list cryptobyte.String
	if !in.ReadASN1(&list, asn1.SEQUENCE) || !in.Empty() {
		return fmt.Errorf("%w: the extensions do not parse", ErrSelfCheck)
	}
	usage := byte(0x80)
	if want.key.rsa {
		usage |= 0x20
	}
	for _, e := range []struct {
		name     string
		id       string
		critical bool
		check    func(value cryptobyte.String) bool
	}{
		{"key usage", "\x55\x1d\x0f", true, func(v cryptobyte.String) bool { return hasUsage(v, usage) }},
		{"extended key usage", "\x55\x1d\x25", false, hasBothUsages},
		{"basic constraints", "\x55\x1d\x13", true, func(v cryptobyte.String) bool { return string(v) == "\x30\x00" }},
		{"subject key identifier", "\x55\x1d\x0e", false, func(v cryptobyte.String) bool {
			var id cryptobyte.String
			return v.ReadASN1(&id, asn1.OCTET_STRING) && v.Empty() && string(id) == string(want.key.hash[:keyIDSize])
		}},
		{"authority key identifier", "\x55\x1d\x23", false, func(v cryptobyte.String) bool {
			var seq, id cryptobyte.String
			return v.ReadASN1(&seq, asn1.SEQUENCE) && v.Empty() && seq.ReadASN1(&id, asn1.Tag(0).ContextSpecific()) && seq.Empty() &&
				string(id) == string(s.issuer.SubjectKeyId)
		}},
		{"subject alternative name", "\x55\x1d\x11", true, func(v cryptobyte.String) bool { return hasNames(v, want.id, want.dns, want.ips) }},
	} {
		var extension, id, value cryptobyte.String
		critical := false
		if !list.ReadASN1(&extension, asn1.SEQUENCE) || !extension.ReadASN1(&id, asn1.OBJECT_IDENTIFIER) ||
			extension.PeekASN1Tag(asn1.BOOLEAN) && !extension.ReadASN1Boolean(&critical) ||
			!extension.ReadASN1(&value, asn1.OCTET_STRING) || !extension.Empty() ||
			string(id) != e.id || critical != e.critical || !e.check(value) {
			return fmt.Errorf("%w: %s", ErrSelfCheck, e.name)
		}
	}
	if !list.Empty() {
		return fmt.Errorf("%w: an extension too many", ErrSelfCheck)
	}
	return nil
}

func readTime(s *cryptobyte.String) (t time.Time, ok bool) {
	if s.PeekASN1Tag(asn1.UTCTime) {
		ok = s.ReadASN1UTCTime(&t)
	} else {
		ok = s.ReadASN1GeneralizedTime(&t)
	}
	return t, ok
}

func hasUsage(v cryptobyte.String, usage byte) bool {
	var bits cryptobyte.String
	// Unused bits are counted in the first byte; the last used one is set.
	return v.ReadASN1(&bits, asn1.BIT_STRING) && v.Empty() && len(bits) == 2 && bits[1] == usage && usage>>bits[0]&1 == 1
}

func hasBothUsages(v cryptobyte.String) bool {
	var list, server, client cryptobyte.String
	return v.ReadASN1(&list, asn1.SEQUENCE) && v.Empty() &&
		list.ReadASN1(&server, asn1.OBJECT_IDENTIFIER) && string(server) == "\x2b\x06\x01\x05\x05\x07\x03\x01" &&
		list.ReadASN1(&client, asn1.OBJECT_IDENTIFIER) && string(client) == "\x2b\x06\x01\x05\x05\x07\x03\x02" && list.Empty()
}

// hasNames wants the identity, alone or with the names the operator granted, and no other.
func hasNames(v cryptobyte.String, id spiffeid.ID, dns []string, ips []netip.Addr) bool {
	var list cryptobyte.String
	next := func(tag asn1.Tag) (name cryptobyte.String, ok bool) {
		ok = list.ReadASN1(&name, tag.ContextSpecific())
		return name, ok
	}
	if !v.ReadASN1(&list, asn1.SEQUENCE) || !v.Empty() {
		return false
	}
	if uri, ok := next(6); !ok || string(uri) != id.String() {
		return false
	}
	for _, want := range dns {
		if name, ok := next(2); !ok || string(name) != want {
			return false
		}
	}
	for _, want := range ips {
		if ip, ok := next(7); !ok || string(ip) != string(want.AsSlice()) {
			return false
		}
	}
	return list.Empty()
}

// lintSamples has crypto/x509 read one certificate of every shape that the template makes, for keys that nobody has.
func (s *signing) lintSamples() error {
	id, err := spiffeid.Parse("spiffe://sample/path")
	if err != nil {
		return err
	}
	throwaway, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	number := new(big.Int).SetBit(big.NewInt(1), minRSA-1, 1) // no product of two primes, but of the right length
	for _, public := range []crypto.PublicKey{throwaway.Public(), &rsa.PublicKey{N: number, E: minRSAExponent}} {
		spki, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return err
		}
		_, isRSA := public.(*rsa.PublicKey)
		key := subjectKey{spki: spki, rsa: isRSA, hash: sha256.Sum256(spki)}
		for _, l := range []*leaf{
			{serial: Serial{0x7f}, id: id},
			{serial: Serial{15: 1}, id: id, dns: []string{"a.example", "b"}, ips: []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}},
		} {
			l.key, l.from, l.to = key, s.issuer.NotBefore, s.issuer.NotAfter
			tbs := s.template.tbs(l)
			if err := errors.Join(s.lint(tbs, l), s.compare(tbs, l)); err != nil {
				return fmt.Errorf("issuer %s: %w", describe(s.issuer), err)
			}
		}
	}
	return nil
}
