package agent

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxElements  = 10       // of an answer: leaf, intermediates and the roots
	maxRoots     = 20       // identity §1.4
	maxPEMBytes  = 64 << 10 // of one element
	shortestLife = 2 * time.Second
)

// errAnswer is wrapped by the errors of answers that are not what was asked for.
var errAnswer = errors.New("the authority's answer is not what was asked for")

// answer is a certificate as an authority sent it, checked.
type answer struct {
	id    spiffeid.ID
	chain []*x509.Certificate // leaf first, intermediates after it
	roots []*x509.Certificate // as the authority publishes them now
}

// checkAnswer takes an answer apart (identity §2.6) and holds it to what was asked: a certificate for our key, for the
// identity asked for, or if that is zero for any of the trust domain, under the roots that came with it. Those may be
// newer than the ones we know: that is how agents learn of a new root, from an authority that proved itself.
func checkAnswer(elements []string, key crypto.PublicKey, asked, domain spiffeid.ID, now time.Time) (*answer, error) {
	if len(elements) < 2 || len(elements) > maxElements {
		return nil, fmt.Errorf("%w: a chain of %d elements: want 2 to %d", errAnswer, len(elements), maxElements)
	}
	a := &answer{}
	for i, element := range elements {
		certs, err := parsePEM([]byte(element))
		if err != nil {
			return nil, fmt.Errorf("%w: element %d of the chain: %w", errAnswer, i, err)
		}
		if i == len(elements)-1 {
			a.roots = certs
		} else {
			a.chain = append(a.chain, certs...)
		}
	}
	if err := a.check(key, asked, domain, now); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return a, nil
}

func (a *answer) check(key crypto.PublicKey, asked, domain spiffeid.ID, now time.Time) error {
	leaf := a.chain[0]
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key) {
		return errors.New("it is for another key")
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("it is no workload's certificate") // identity §1.2
	}
	id, err := identityOf(leaf)
	if err != nil {
		return err
	}
	switch {
	case !asked.IsZero() && id != asked:
		return fmt.Errorf("it is for %s, not for %s", id, asked)
	case id.TrustDomain() != domain.TrustDomain():
		return fmt.Errorf("it is for %s, which is not of the trust domain %s", id, domain.TrustDomain())
	case id.Path() == "":
		return fmt.Errorf("it is for %s, which is a trust domain and no workload", id)
	}
	a.id = id
	if err := checkRoots(a.roots, domain); err != nil {
		return err
	}
	if err := checkTimes(leaf, now); err != nil {
		return err
	}
	if !leadsTo(a.chain, a.roots, now) {
		return errors.New("it does not lead to a root that came with it")
	}
	return nil
}

// checkTimes tells a certificate that cannot be used from a clock that is wrong.
func checkTimes(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it begins at %s, %v from now: set this machine's clock, or the authority's", stamp(leaf.NotBefore),
			leaf.NotBefore.Sub(now).Round(time.Second))
	case leaf.NotAfter.Sub(now) < shortestLife:
		return fmt.Errorf("it ends at %s, which is past or nearly so: set this machine's clock, or the authority's", stamp(leaf.NotAfter))
	}
	return nil
}

// checkRoots holds what an authority publishes to what roots are. A root that names another trust domain would let it
// speak for ours (identity §6.3).
func checkRoots(roots []*x509.Certificate, domain spiffeid.ID) error {
	if len(roots) == 0 || len(roots) > maxRoots {
		return fmt.Errorf("%d roots: want 1 to %d", len(roots), maxRoots)
	}
	for _, root := range roots {
		if !root.IsCA || root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("root %q may not sign certificates", root.Subject)
		}
		if len(root.URIs) == 0 {
			continue
		}
		if id, err := identityOf(root); err != nil || id.TrustDomain() != domain.TrustDomain() {
			return fmt.Errorf("root %q is of %v, not of the trust domain %s", root.Subject, root.URIs, domain.TrustDomain())
		}
	}
	return nil
}

// leadsTo reports whether a chain verifies under one of the roots, for both ends of a connection.
func leadsTo(chain, roots []*x509.Certificate, now time.Time) bool {
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options.KeyUsages = []x509.ExtKeyUsage{usage}
		if _, err := chain[0].Verify(options); err != nil {
			return false
		}
	}
	return true
}

// identityOf is the one identity of a certificate, read from the bytes of its name: Go's URLs are not what was written
// (identity §1.1).
func identityOf(c *x509.Certificate) (spiffeid.ID, error) {
	const uri = 6 // RFC 5280 §4.2.1.6, uniformResourceIdentifier
	subjectAltName := asn1.ObjectIdentifier{2, 5, 29, 17}
	var found []string
	for _, extension := range c.Extensions {
		if !extension.Id.Equal(subjectAltName) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			return spiffeid.ID{}, errors.New("its names cannot be read")
		}
		for _, name := range names {
			if name.Class == asn1.ClassContextSpecific && name.Tag == uri {
				found = append(found, string(name.Bytes))
			}
		}
	}
	if len(found) != 1 {
		return spiffeid.ID{}, fmt.Errorf("it has %d URI names: want one", len(found))
	}
	return spiffeid.Parse(found[0])
}

// parsePEM reads certificates and nothing else.
func parsePEM(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxPEMBytes {
		return nil, fmt.Errorf("%d bytes: want at most %d", len(data), maxPEMBytes)
	}
	var certs []*x509.Certificate
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				return nil, errors.New("text that is no PEM")
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block %.40q: want CERTIFICATE", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}

// writePEM is what parsePEM reads.
func writePEM(certs []*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// without is all but what is in drop.
func without(all, drop []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(all), func(c *x509.Certificate) bool { return slices.ContainsFunc(drop, c.Equal) })
}

// sameCertificates reports whether two lists hold the same certificates, in whatever order.
func sameCertificates(a, b []*x509.Certificate) bool {
	return len(a) == len(b) && len(without(a, b)) == 0 && len(without(b, a)) == 0
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
