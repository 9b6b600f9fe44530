package attest

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxGrace     = 30 * 24 * time.Hour
	maxPresented = 8 // certificates in what a client presents
)

// Finder looks certificates up; [ca.Ledger] does.
type Finder interface {
	Find(ctx context.Context, q ca.Query) (entries []ca.Entry, next string, err error)
}

// Denier says what is revoked; [*ca.DenyList] does.
type Denier interface {
	ID(id string) bool
	Serial(s ca.Serial) bool
	Key(hash [32]byte) bool
}

// CertificatesConfig says which client certificates prove a caller.
type CertificatesConfig struct {
	TrustDomain spiffeid.ID
	// Bundle is what the trust domain trusts at this moment, nil while nobody knows; it is asked for every call, so that a
	// root which is added or taken away counts at once (identity §11 surprise 25).
	Bundle func() *ca.Bundle
	// Ledger knows what this authority issued: it tells revoked certificates and the line a certificate descends from.
	Ledger Finder
	Deny   Denier // required
	// Grace is how long after its end a certificate that the ledger knows still proves its caller, so that a machine which
	// was off too long needs nobody to come; at most 30 days. Zero, the default, is not at all.
	Grace time.Duration

	Now func() time.Time // nil for time.Now
}

// Certificates proves callers by X509-SVIDs of this authority. It is safe for concurrent use.
type Certificates struct {
	cfg CertificatesConfig
}

// NewCertificates checks the configuration.
func NewCertificates(cfg CertificatesConfig) (*Certificates, error) {
	switch {
	case cfg.TrustDomain.IsZero() || cfg.TrustDomain.Path() != "":
		return nil, fmt.Errorf("attest: client certificates: trust domain %q: want one, without a path", cfg.TrustDomain)
	case cfg.Bundle == nil || cfg.Ledger == nil || cfg.Deny == nil:
		return nil, errors.New("attest: client certificates: Bundle, Ledger and Deny are required")
	case cfg.Grace < 0 || cfg.Grace > maxGrace:
		return nil, fmt.Errorf("attest: client certificates: grace %v: want 0 to %v", cfg.Grace, maxGrace)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Certificates{cfg: cfg}, nil
}

// Presented is what a TLS client presented on one connection, whose key TLS has proven that it holds. It remembers the
// chains that were found, because a connection may carry many calls.
type Presented struct {
	chain []*x509.Certificate
	known atomic.Pointer[verified]
}

// Present takes the certificates of a handshake, leaf first; nil if there are none.
func Present(chain []*x509.Certificate) *Presented {
	if len(chain) == 0 {
		return nil
	}
	return &Presented{chain: chain}
}

// verified is a leaf whose signatures were checked up to some root.
type verified struct {
	id     spiffeid.ID
	chains [][]*x509.Certificate
}

// caller says whose certificate was presented, by the roots, the deny list and the clock of this moment.
func (c *Certificates) caller(ctx context.Context, p *Presented) (*Caller, *Error) {
	leaf, now, bundle := p.chain[0], c.cfg.Now(), c.cfg.Bundle()
	if bundle == nil {
		return nil, refuse(StoreUnavailable, "there is no bundle to verify the client certificate with")
	}
	late := now.After(leaf.NotAfter)
	at := now
	if late {
		if c.cfg.Grace == 0 || now.After(leaf.NotAfter.Add(c.cfg.Grace)) {
			return nil, refuse(CertificateExpired, "the client certificate with serial %x ended at %s", leaf.SerialNumber, stamp(leaf.NotAfter))
		}
		at = leaf.NotAfter
	}
	known := p.known.Load()
	if known == nil || !known.holds(at, bundle) {
		var err *Error
		if known, err = c.verify(p.chain, at, bundle); err != nil {
			return nil, err
		}
		p.known.Store(known)
	}
	serial, ours := ca.SerialOf(leaf.SerialNumber)
	if err := c.denied(serial, known.id, leaf); err != nil {
		return nil, err
	}
	var entry *ca.Entry
	if ours {
		var err *Error
		if entry, err = c.entry(ctx, serial, leaf); err != nil {
			return nil, err
		}
	}
	if late && entry == nil {
		return nil, refuse(CertificateExpired, "the client certificate with serial %x ended at %s, and the ledger does not know it", leaf.SerialNumber, stamp(leaf.NotAfter))
	}
	caller := &Caller{
		ID: known.id, Method: MethodCertificate, Who: known.id.String(), NotAfter: leaf.NotAfter,
		Detail: fmt.Sprintf("serial %x", leaf.SerialNumber),
	}
	switch {
	case entry == nil:
		caller.Detail += ", not of this ledger"
	case late:
		caller.Detail += ", ended at " + stamp(leaf.NotAfter) + ", within grace"
	}
	if entry != nil {
		caller.Who = line(entry, known.id)
	}
	return caller, nil
}

// line is what a certificate's renewals are recorded under: the join token that its first one was issued for, however
// often it was renewed since, or else its identity. Only the former may ask for a join token's other identities.
func line(e *ca.Entry, id spiffeid.ID) string {
	joined := string(MethodJoinToken) + ":"
	origin := strings.TrimPrefix(e.Caller, string(MethodCertificate)+":")
	if strings.HasPrefix(origin, joined) {
		return origin
	}
	return id.String()
}

// denied asks the deny list.
func (c *Certificates) denied(serial ca.Serial, id spiffeid.ID, leaf *x509.Certificate) *Error {
	hash, err := ca.KeyHash(leaf.PublicKey)
	if err != nil {
		return refuse(CertificateInvalid, "%w", err)
	}
	var what string
	switch {
	case c.cfg.Deny.ID(id.String()):
		what = "identity"
	case c.cfg.Deny.Key(hash):
		what = "key"
	case c.cfg.Deny.Serial(serial):
		what = "certificate"
	default:
		return nil
	}
	return refuse(CertificateRevoked, "the client certificate of %s with serial %x: the %s is revoked", id, leaf.SerialNumber, what)
}

// entry finds the certificate in the ledger, nil if it is of another authority under the same roots. An entry with the
// same serial number and other content means that somebody else signs in our name.
func (c *Certificates) entry(ctx context.Context, serial ca.Serial, leaf *x509.Certificate) (*ca.Entry, *Error) {
	entries, _, err := c.cfg.Ledger.Find(ctx, ca.Query{Serial: serial, Limit: 1})
	switch {
	case err != nil && !errors.Is(err, ca.ErrNotFound):
		return nil, refuse(StoreUnavailable, "find the certificate with serial %x: %w", leaf.SerialNumber, err)
	case len(entries) == 0:
		return nil, nil
	}
	e := &entries[0]
	switch {
	case e.Revoked != nil:
		return nil, refuse(CertificateRevoked, "the client certificate of %s with serial %x was revoked: %s", e.ID, leaf.SerialNumber, e.Revoked.Reason)
	case !bytes.Equal(e.Certificate, leaf.Raw):
		return nil, refuse(CertificateForged, "the ledger has another certificate than the client's with serial %x, in state %q: find out who else signs", leaf.SerialNumber, e.State)
	}
	return e, nil
}

// holds reports whether one of the chains is valid at a time and ends in one of the roots.
func (v *verified) holds(at time.Time, bundle *ca.Bundle) bool {
	return slices.ContainsFunc(v.chains, func(chain []*x509.Certificate) bool {
		for _, cert := range chain {
			if at.Before(cert.NotBefore) || at.After(cert.NotAfter) {
				return false
			}
		}
		root := chain[len(chain)-1]
		return slices.ContainsFunc(bundle.Roots, func(r ca.Root) bool { return r.Certificate.Equal(root) })
	})
}

// verify checks the rules of X509-SVID §4 and §5, and ours (identity §1.3).
func (c *Certificates) verify(chain []*x509.Certificate, at time.Time, bundle *ca.Bundle) (*verified, *Error) {
	if len(chain) > maxPresented {
		return nil, refuse(CertificateInvalid, "the client presents %d certificates, more than %d", len(chain), maxPresented)
	}
	leaf := chain[0]
	id, err := identityOf(leaf)
	if err != nil {
		return nil, refuse(CertificateInvalid, "the client certificate with serial %x: %w", leaf.SerialNumber, err)
	}
	if refused := checkID(c.cfg.TrustDomain, id); refused != nil {
		return nil, refused
	}
	if err := checkLeaf(leaf); err != nil {
		return nil, refuse(CertificateInvalid, "the client certificate of %s with serial %x: %w", id, leaf.SerialNumber, err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range bundle.Roots {
		roots.AddCert(r.Certificate)
	}
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		reason := CertificateInvalid
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
			reason = CertificateExpired
		}
		return nil, refuse(reason, "the client certificate of %s with serial %x: %w", id, leaf.SerialNumber, err)
	}
	return &verified{id: id, chains: chains}, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
