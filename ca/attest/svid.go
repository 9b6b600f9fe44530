package attest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	minRSABits = 2048
	maxRSABits = 8192
)

// identityOf reads the one SPIFFE ID of a leaf from the bytes of its subject alternative name: a URL that was parsed and
// written again may differ from what was signed (identity §1.1).
func identityOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	uris, err := uriNames(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if len(uris) != 1 {
		return spiffeid.ID{}, fmt.Errorf("%d URI names, where an X509-SVID has exactly one", len(uris))
	}
	return spiffeid.Parse(uris[0])
}

// uriNames lists the uniformResourceIdentifier names (RFC 5280 §4.2.1.6).
func uriNames(leaf *x509.Certificate) ([]string, error) {
	const uniformResourceIdentifier = 6
	var uris []string
	for _, extension := range leaf.Extensions {
		if !extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 || names.Tag != asn1.TagSequence {
			return nil, errors.New("its subject alternative name is malformed")
		}
		for rest := names.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return nil, errors.New("its subject alternative name is malformed")
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == uniformResourceIdentifier {
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	return uris, nil
}

// checkLeaf holds a certificate to what an X509-SVID leaf is (X509-SVID §4, identity §1.3). That an extended key usage,
// where there is one, includes client authentication is checked with the chain.
func checkLeaf(leaf *x509.Certificate) error {
	switch {
	case leaf.IsCA:
		return errors.New("it is an authority's, not a workload's")
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return errors.New("its key usage lets it sign certificates or CRLs")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("its key usage lacks digitalSignature")
	}
	return checkKey(leaf.PublicKey)
}

// checkKey refuses keys that are too weak to prove anything.
func checkKey(key any) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("its RSA key has %d bits, not %d to %d", n, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return fmt.Errorf("its key is on the curve %s", key.Curve.Params().Name)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("its key is a %T", key)
	}
	return nil
}
