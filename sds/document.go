package sds

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	documentFormat = 1
	maxDocument    = 4 << 20 // roots, CRLs and keys in base64
	maxCRLs        = 64      // one for each issuer of leaves: replicas, twice while they renew their intermediates
	maxCRLBytes    = 2 << 20 // of all CRLs of a bundle
	maxJWTKeys     = 64 << 10
	maxRefreshHint = 24 * time.Hour
)

// bundleDocument is a bundle as followers of the authority read it: the secret [Names.Bundle]. Unlike a SPIFFE bundle it
// says which roots are about to go, and has the CRLs.
type bundleDocument struct {
	Format      int             `json:"format"`
	TrustDomain string          `json:"trust_domain"` // without scheme
	Version     int64           `json:"version"`
	RefreshHint int64           `json:"refresh_hint,omitempty"` // seconds
	Roots       []documentRoot  `json:"roots"`
	CRLs        [][]byte        `json:"crls,omitempty"`     // DER
	JWTKeys     json.RawMessage `json:"jwt_keys,omitempty"` // JWKS
}

type documentRoot struct {
	Certificate []byte `json:"certificate"` // DER
	Tainted     bool   `json:"tainted,omitempty"`
}

// EncodeBundle writes a bundle for [DecodeBundle]: JSON, the same bytes for the same bundle. Of the refresh hint, whole
// seconds are kept.
func EncodeBundle(b *Bundle) ([]byte, error) {
	d := bundleDocument{
		Format: documentFormat, TrustDomain: b.TrustDomain.TrustDomain(), Version: b.Version,
		RefreshHint: int64(b.RefreshHint / time.Second), CRLs: b.CRLs, JWTKeys: b.JWTKeys,
	}
	for _, root := range b.Roots {
		d.Roots = append(d.Roots, documentRoot{root.Raw, slices.ContainsFunc(b.Tainted, root.Equal)})
	}
	text, err := json.Marshal(d) //nolint:gosec // the JWT keys are the public ones
	if err != nil {
		return nil, fmt.Errorf("bundle of %s: %w", b.TrustDomain, err)
	}
	return text, nil
}

// DecodeBundle reads what [EncodeBundle] wrote, in exactly the form in which it was written: another order or spelling,
// an unknown or repeated member and trailing bytes are refused, and so is a bundle that no [Vault] would take at any time.
func DecodeBundle(text []byte) (*Bundle, error) {
	b, err := decodeBundle(text)
	if err != nil {
		return nil, fmt.Errorf("bundle document: %w", err)
	}
	return b, nil
}

func decodeBundle(text []byte) (*Bundle, error) {
	if len(text) > maxDocument {
		return nil, fmt.Errorf("%d bytes, more than %d", len(text), maxDocument)
	}
	var d bundleDocument
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, err
	}
	if d.Format != documentFormat {
		return nil, fmt.Errorf("format %d: this version of writ reads format %d", d.Format, documentFormat)
	}
	if d.RefreshHint < 0 || d.RefreshHint > int64(maxRefreshHint/time.Second) {
		return nil, fmt.Errorf("refresh hint of %d s: want 0 to %v", d.RefreshHint, maxRefreshHint)
	}
	td, err := spiffeid.TrustDomain(d.TrustDomain)
	if err != nil {
		return nil, err
	}
	b := &Bundle{
		TrustDomain: td, Version: d.Version, RefreshHint: time.Duration(d.RefreshHint) * time.Second, CRLs: d.CRLs, JWTKeys: d.JWTKeys,
	}
	if len(d.Roots) > maxRoots {
		return nil, fmt.Errorf("%d roots: want 1 to %d", len(d.Roots), maxRoots)
	}
	for n, r := range d.Roots {
		root, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", n, err)
		}
		b.Roots = append(b.Roots, root)
		if r.Tainted {
			b.Tainted = append(b.Tainted, root)
		}
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	if again, err := EncodeBundle(b); err != nil || !bytes.Equal(again, text) {
		return nil, errors.New("not in the form in which writ writes it")
	}
	return b, nil
}
