package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Profiles of the authority's own certificates in the ledger.
const (
	profileRoot         = "root"
	profileIntermediate = "intermediate"
)

// issuerBackdate is how far before its making an issuer becomes valid: further than its leaves, so that they nest.
const issuerBackdate = 10 * time.Minute

// newRoot makes a P-384 root that is its own issuer (identity §1.2).
func newRoot(trustDomain spiffeid.ID, life time.Duration, now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root key: %w", err)
	}
	template, err := issuerTemplate(trustDomain, "Root", newSerial(), key.Public())
	if err != nil {
		return nil, nil, err
	}
	now = now.UTC().Truncate(time.Second)
	template.NotBefore, template.NotAfter = now.Add(-issuerBackdate), now.Add(life)
	cert, err := signIssuer(template, template, key.Public(), key)
	return cert, key, err
}

// issuerTemplate is what root and intermediates have alike. Each has a subject of its own, by its serial number, and a
// key identifier of its own, so that path building never has two candidates (identity §1.4).
func issuerTemplate(trustDomain spiffeid.ID, kind string, serial Serial, key crypto.PublicKey) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a %s: %w", kind, err)
	}
	uri, err := url.Parse(trustDomain.String())
	if err != nil {
		return nil, fmt.Errorf("make a %s: %w", kind, err)
	}
	keyID := sha256.Sum256(spki)
	return &x509.Certificate{
		SerialNumber:          serial.Int(),
		Subject:               pkix.Name{CommonName: commonName(trustDomain, kind), SerialNumber: serial.String()},
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
		SubjectKeyId: keyID[:keyIDSize],
		URIs:         []*url.URL{uri},
	}, nil
}

// commonName fits the 64 characters that RFC 5280 (ub-common-name) allows.
func commonName(trustDomain spiffeid.ID, kind string) string {
	name := "writ " + kind + " CA " + trustDomain.TrustDomain()
	return name[:min(len(name), 64)]
}

// signIssuer signs and reads back what it signed.
func signIssuer(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign %q: %w", template.Subject, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %v", ErrSelfCheck, template.Subject, err)
	}
	return cert, checkIssuer(cert)
}

// proveRoot has a new root sign an intermediate for a key that is thrown away, and verifies it.
func proveRoot(trustDomain spiffeid.ID, root *x509.Certificate, key crypto.Signer, now time.Time) error {
	throwaway, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("try the root: %w", err)
	}
	template, err := issuerTemplate(trustDomain, "Intermediate", newSerial(), throwaway.Public())
	if err != nil {
		return err
	}
	template.NotBefore, template.NotAfter, template.MaxPathLenZero = root.NotBefore, now.Add(time.Minute), true
	cert, err := signIssuer(template, root, throwaway.Public(), key)
	if err != nil {
		return err
	}
	b, err := newBundle(trustDomain, 1, []Root{{Certificate: root}})
	if err != nil {
		return err
	}
	return b.verifyIssuer(cert, nil, now)
}

// refreshSigner sees to it that an intermediate under the active root signs, and makes one when the last has come to its
// last third. Callers hold mu.
func (a *Authority) refreshSigner(ctx context.Context) error {
	own, version, err := readSigners(ctx, a.cfg.Store, a.cfg.Keys, a.cfg.Replica)
	if err != nil {
		return err
	}
	a.signers, a.signerV = own, version
	root := a.roots.active()
	a.renewIntermediate(ctx, root)
	if next := a.roots.in(RootPublished); next != nil && next.key != nil {
		a.renewIntermediate(ctx, next)
	}
	unregistered := a.registerAll(ctx)
	best := a.bestSigner(root)
	if best == nil {
		a.current.Store(nil)
		return unregistered
	}
	if !a.registered[issuerName(best.cert)] {
		return unregistered
	}
	return errors.Join(unregistered, a.use(ctx, best.key, []*x509.Certificate{best.cert}, a.roots.bundle))
}

// renewIntermediate makes an intermediate under a root if one is due. Under a root that is only published, one is made so
// that its CRL is everywhere before its first leaf is.
func (a *Authority) renewIntermediate(ctx context.Context, root *caRoot) {
	last := a.newestSigner(root)
	due, until := a.renewalDue(root, last)
	var err error
	if due {
		_, err = a.newIntermediate(ctx, root, root.key, until)
	}
	switch {
	case err == nil && root.State == RootActive:
		a.alarms.clear(AlarmRenewal)
	case err == nil:
	case root.State == RootActive:
		a.alarms.raise(AlarmRenewal, err.Error(), a.cfg.Now())
		fallthrough
	default: // the last one, if there is one, still signs
		a.cfg.Log.WarnContext(ctx, "an intermediate is due and could not be made", "root", describe(root.cert), "error", err)
	}
}

// use makes a key sign from now on, unless it already does under the same bundle.
func (a *Authority) use(ctx context.Context, key *signer, chain []*x509.Certificate, b *Bundle) error {
	now := a.current.Load()
	if now != nil && now.bundle.Version == b.Version && slices.EqualFunc(now.chain, chain, (*x509.Certificate).Equal) {
		return nil
	}
	next, err := newSigning(ctx, key, chain, b, a.cfg.Now())
	if err != nil {
		return err
	}
	a.current.Store(next)
	a.alarms.clear(AlarmLifetimeCut)
	a.cfg.Log.InfoContext(ctx, "signing", "issuer", next.name, "not_after", next.issuer.NotAfter, "bundle", b.Version)
	return nil
}

// newestSigner is the newest intermediate under a root, or nil.
func (a *Authority) newestSigner(root *caRoot) *ownIssuer {
	for i := len(a.signers) - 1; i >= 0; i-- {
		if s := &a.signers[i]; a.isUnder(s.cert, root.cert) {
			return s
		}
	}
	return nil
}

// bestSigner is the intermediate under a root that is to sign, or nil: the newest; but for a moment after that was made
// the one before it, if it is still good, so that verifiers have the new one's CRL before they meet a leaf of it.
func (a *Authority) bestSigner(root *caRoot) *ownIssuer {
	newest, now := a.newestSigner(root), a.cfg.Now()
	if newest == nil {
		return nil
	}
	age := now.Sub(newest.cert.NotBefore.Add(issuerBackdate))
	if age < 0 || age >= a.follows() {
		return newest
	}
	for i := len(a.signers) - 1; i >= 0; i-- {
		s := &a.signers[i]
		if s.cert.Equal(newest.cert) || !a.isUnder(s.cert, root.cert) {
			continue
		}
		if !now.Before(s.cert.NotBefore) && s.cert.NotAfter.Sub(now) > s.cert.NotAfter.Sub(s.cert.NotBefore)/6 {
			return s
		}
		break
	}
	return newest
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// renewalDue reports whether an intermediate is to be made, and until when it would be valid. One that a short-lived root
// would cut to about what there is already is not worth making.
func (a *Authority) renewalDue(root *caRoot, best *ownIssuer) (due bool, until time.Time) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	until = earlier(now.Add(a.cfg.IntermediateLife), root.cert.NotAfter)
	if best == nil {
		return true, until
	}
	if now.Before(best.cert.NotBefore) {
		return false, until // the clock is wrong, see watchLives
	}
	life := best.cert.NotAfter.Sub(best.cert.NotBefore)
	return best.cert.NotAfter.Sub(now) < life/3 && until.Sub(best.cert.NotAfter) > a.cfg.IntermediateLife/10, until
}

// newIntermediate makes a signing certificate of this replica: intent, signature, self-check, state, outcome, in this
// order, so that a crash leaves either an intent that came to nothing or a certificate that the next start completes.
func (a *Authority) newIntermediate(ctx context.Context, root *caRoot, rootKey crypto.Signer, until time.Time) (*ownIssuer, error) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	switch {
	case rootKey == nil:
		return nil, fmt.Errorf("%w: a new intermediate takes the key of root %s, which is kept elsewhere: run writ ca rotate intermediate with it",
			ErrNotReady, describe(root.cert))
	case now.Before(root.cert.NotBefore) || !now.Before(until):
		return nil, fmt.Errorf("%w: root %s is valid from %s to %s, and the clock says %s", ErrNotReady, describe(root.cert),
			root.cert.NotBefore.Format(time.RFC3339), root.cert.NotAfter.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an intermediate key: %w", err)
	}
	serial := newSerial()
	template, err := issuerTemplate(a.cfg.TrustDomain, "Intermediate", serial, key.Public())
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	template.NotBefore, template.NotAfter = now.Add(-issuerBackdate), until
	if template.NotBefore.Before(root.cert.NotBefore) {
		template.NotBefore = root.cert.NotBefore
	}
	keyHash, err := KeyHash(key.Public())
	if err != nil {
		return nil, err
	}
	err = a.cfg.Store.Begin(ctx, Intent{
		Serial: serial, ID: a.cfg.TrustDomain, Issuer: issuerName(root.cert), Caller: a.self(), Profile: profileIntermediate,
		TTLRule: TTLDefault, KeyHash: keyHash, NotBefore: template.NotBefore, NotAfter: template.NotAfter, At: now,
	})
	if err != nil {
		return nil, fmt.Errorf("record the intent to make an intermediate: %w", err)
	}
	cert, err := signIssuer(template, root.cert, key.Public(), rootKey)
	if err == nil {
		err = cert.CheckSignatureFrom(root.cert)
	}
	if err != nil {
		return nil, a.abandon(ctx, serial, err)
	}
	return a.keepIntermediate(ctx, cert, key)
}

func (a *Authority) self() string { return "replica:" + a.cfg.Replica }

// keepIntermediate stores a new intermediate beside those that have not ended.
func (a *Authority) keepIntermediate(ctx context.Context, cert *x509.Certificate, key crypto.Signer) (*ownIssuer, error) {
	sealed, err := a.cfg.Keys.seal(key, cert.SubjectKeyId)
	if err != nil {
		return nil, err
	}
	doc := signerDoc{Format: documentFormat}
	for _, s := range a.signers {
		if a.cfg.Now().Before(s.cert.NotAfter.Add(skew)) && a.known(s.cert) {
			doc.Issuers = append(doc.Issuers, s.issuerDoc)
		}
	}
	doc.Issuers = append(doc.Issuers, issuerDoc{Certificate: cert.Raw, Key: sealed})
	if err := writeDoc(ctx, a.cfg.Store, docSigner+a.cfg.Replica, doc, a.signerV); err != nil {
		return nil, err
	}
	a.signers, a.signerV, err = readSigners(ctx, a.cfg.Store, a.cfg.Keys, a.cfg.Replica)
	if err != nil {
		return nil, err
	}
	for i := range a.signers {
		if a.signers[i].cert.Equal(cert) {
			return &a.signers[i], nil
		}
	}
	return nil, fmt.Errorf("%w: another process writes as replica %q", ErrConflict, a.cfg.Replica)
}
