package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxRemoteSignatures bounds the signatures that a slow signer holds at once: beyond it callers wait, and give up with
// their context.
const maxRemoteSignatures = 64

// signing is everything it takes to sign a leaf and to answer with its chain. It never changes: renewal, rotation and
// reload make a new one.
type signing struct {
	issuer    *x509.Certificate
	chain     []*x509.Certificate // the issuer first, then those above it as far as they are known
	name      string              // of the issuer in the ledger
	key       *signer
	template  *template
	algorithm x509.SignatureAlgorithm
	hash      crypto.Hash
	between   []string // PEM of the issuers from the signer up, roots excluded, one each
	bundle    *Bundle
	roots     string                // PEM of the bundle
	caKeys    map[[32]byte]struct{} // keys no leaf may have
}

// newSigning checks that a key and its certificates can sign leaves that the bundle's holders will accept, signs
// something to see that the key works, and lints what the template makes.
func newSigning(ctx context.Context, key *signer, chain []*x509.Certificate, bundle *Bundle, now time.Time) (*signing, error) {
	issuer := chain[0]
	if err := checkIssuer(issuer); err != nil {
		return nil, err
	}
	if err := key.matches(issuer); err != nil {
		return nil, err
	}
	if err := bundle.verifyIssuer(issuer, chain[1:], clampTime(now, issuer)); err != nil {
		return nil, err
	}
	algorithm, x, hash, err := issuerAlgorithm(issuer.PublicKey)
	if err != nil {
		return nil, err
	}
	s := &signing{
		issuer: issuer, chain: chain, name: issuerName(issuer), key: key, template: newTemplate(issuer, algorithm), algorithm: x,
		hash: hash, bundle: bundle, roots: string(bundle.PEM), caKeys: map[[32]byte]struct{}{},
	}
	for _, c := range chain {
		s.caKeys[sha256.Sum256(c.RawSubjectPublicKeyInfo)] = struct{}{}
		// Plugged-in chains often end in the root; it is in the bundle already (identity §2.6).
		if !bytes.Equal(c.RawSubject, c.RawIssuer) && !bundle.has(c) {
			s.between = append(s.between, string(certificatePEM(c.Raw)))
		}
	}
	for _, r := range bundle.Roots {
		s.caKeys[sha256.Sum256(r.Certificate.RawSubjectPublicKeyInfo)] = struct{}{}
	}
	return s, errors.Join(s.prove(ctx), s.lintSamples())
}

// prove signs a digest that no certificate has, so that a key which cannot sign is found now and not by a caller.
func (s *signing) prove(ctx context.Context) error {
	sum := digest(s.hash, []byte("writ: does this key sign?"))
	signature, err := s.key.sign(ctx, sum, s.hash)
	if err == nil {
		err = verifySignature(s.issuer.PublicKey, s.hash, sum, signature)
	}
	if err != nil {
		return fmt.Errorf("issuer %s: its key does not work: %w", describe(s.issuer), err)
	}
	return nil
}

// checkIssuer demands of a signing certificate what its leaves' verifiers demand (RFC 5280 §4.2.1.3, §4.2.1.9; X509-SVID
// §4), and the identifiers that path building wants (identity §1.4).
func checkIssuer(c *x509.Certificate) error {
	switch {
	case !c.BasicConstraintsValid || !c.IsCA:
		return fmt.Errorf("issuer %s is not a CA (basic constraints)", describe(c))
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("issuer %s may not sign certificates: its key usage lacks keyCertSign", describe(c))
	case len(c.SubjectKeyId) == 0:
		return fmt.Errorf("issuer %s has no subject key identifier", describe(c))
	case len(c.RawSubject) <= len(derNoSubject):
		return fmt.Errorf("issuer %x has an empty subject", c.SubjectKeyId)
	}
	if err := checkIssuerKey(c.PublicKey); err != nil {
		return fmt.Errorf("issuer %s: %w", describe(c), err)
	}
	return nil
}

// clampTime is now, moved into the certificate's life: whether it is alive is asked at every signature.
func clampTime(now time.Time, c *x509.Certificate) time.Time {
	if now.Before(c.NotBefore) {
		return c.NotBefore
	}
	if now.After(c.NotAfter) {
		return c.NotAfter
	}
	return now
}

// answer is the certificate chain as clients want it (identity §2.6): the leaf, each further issuer below the roots by
// itself, all roots in the last element; each ends in a newline.
func (s *signing) answer(leaf []byte) []string {
	out := make([]string, 0, len(s.between)+2)
	out = append(out, string(certificatePEM(leaf)))
	out = append(out, s.between...)
	return append(out, s.roots)
}

// signer is a private key, here or in a device.
type signer struct {
	crypto.Signer
	slots chan struct{} // nil for keys in memory
}

func newSigner(key crypto.Signer) *signer {
	switch key.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey:
		return &signer{Signer: key}
	default:
		return &signer{Signer: key, slots: make(chan struct{}, maxRemoteSignatures)}
	}
}

func (k *signer) matches(c *x509.Certificate) error {
	public, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(c.PublicKey) {
		return fmt.Errorf("the key is not that of the certificate %s", describe(c))
	}
	return nil
}

// within is the signer for code that knows no context: it signs no longer than ctx lasts.
func (k *signer) within(ctx context.Context) crypto.Signer {
	return boundedSigner{k.Signer, func(sum []byte, hash crypto.Hash) ([]byte, error) { return k.sign(ctx, sum, hash) }}
}

type boundedSigner struct {
	crypto.Signer
	sign func(sum []byte, hash crypto.Hash) ([]byte, error)
}

// Sign implements [crypto.Signer], for digests.
func (b boundedSigner) Sign(_ io.Reader, sum []byte, opts crypto.SignerOpts) ([]byte, error) {
	return b.sign(sum, opts.HashFunc())
}

// sign signs a digest. crypto.Signer knows no context, so that a device may take its time: the caller is let go when
// its context ends, and the device's answer, when it comes, is dropped (identity §11, surprise 35).
func (k *signer) sign(ctx context.Context, sum []byte, hash crypto.Hash) ([]byte, error) {
	if k.slots == nil {
		return k.Sign(rand.Reader, sum, hash)
	}
	select {
	case k.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("signer busy: %w", context.Cause(ctx))
	}
	type result struct {
		signature []byte
		err       error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-k.slots }()
		signature, err := k.Sign(rand.Reader, sum, hash)
		done <- result{signature, err}
	}()
	select {
	case r := <-done:
		return r.signature, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("signer did not answer: %w", context.Cause(ctx))
	}
}
