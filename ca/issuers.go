package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// known reports whether an issuer is under one of the present roots.
func (a *Authority) known(issuer *x509.Certificate) bool {
	for _, r := range a.roots.list {
		if a.isUnder(issuer, r.cert) {
			return true
		}
	}
	return false
}

// maxDescents bounds what isUnder remembers.
const maxDescents = 1 << 12

// descent is an issuer's certificate and a root's, by their hashes.
type descent struct{ issuer, root [32]byte }

// isUnder reports whether a root signed an issuer. It is asked of every issuer in every round, and a signature on P-384
// takes long to verify: what was found good is remembered. Callers hold mu.
func (a *Authority) isUnder(issuer, root *x509.Certificate) bool {
	if !bytes.Equal(issuer.RawIssuer, root.RawSubject) {
		return false
	}
	d := descent{sha256.Sum256(issuer.Raw), sha256.Sum256(root.Raw)}
	if _, known := a.descents[d]; known {
		return true
	}
	if issuer.CheckSignatureFrom(root) != nil {
		return false
	}
	if a.descents == nil || len(a.descents) >= maxDescents {
		a.descents = map[descent]struct{}{}
	}
	a.descents[d] = struct{}{}
	return true
}

// registerAll completes what a crash may have left open before an issuer's first signature, and publishes its CRL, for
// all issuers of this replica. One that fails holds up no other.
func (a *Authority) registerAll(ctx context.Context) error {
	var errs []error
	for i := range a.signers {
		s := &a.signers[i]
		if name := issuerName(s.cert); a.known(s.cert) && !a.registered[name] {
			errs = append(errs, a.register(ctx, s))
		}
	}
	return errors.Join(errs...)
}

// register sees to it that an issuer's entry in the ledger has an outcome, that it has a CRL, and that it is in the list
// of all issuers, which CRLs and rotation go by.
func (a *Authority) register(ctx context.Context, own *ownIssuer) error {
	if err := a.finishIssuer(ctx, own.cert); err != nil {
		return err
	}
	if err := a.firstCRL(ctx, crlSigner{own.cert, own.key}); err != nil {
		return fmt.Errorf("first CRL: %w", err)
	}
	if err := a.registerIssuer(ctx, own.cert); err != nil {
		return err
	}
	if a.registered == nil {
		a.registered = map[string]bool{}
	}
	a.registered[issuerName(own.cert)] = true
	// The set may lack others' CRLs, which holds up nothing here: refreshCRLs does it again, and tells.
	_ = a.gatherCRLs(ctx)
	return nil
}

func (a *Authority) registerIssuer(ctx context.Context, cert *x509.Certificate) error {
	return a.changeIssuers(ctx, func(doc *issuersDoc) bool {
		for _, k := range doc.Issuers {
			if bytes.Equal(k.Certificate, cert.Raw) {
				return false
			}
		}
		doc.Issuers = append(doc.Issuers, knownIssuer{Certificate: cert.Raw, Replica: a.cfg.Replica})
		return true
	})
}

func (a *Authority) finishIssuer(ctx context.Context, cert *x509.Certificate) error {
	serial, ok := SerialOf(cert.SerialNumber)
	if !ok {
		return fmt.Errorf("%w: intermediate %s has an impossible serial number", ErrCorrupt, describe(cert))
	}
	entries, _, err := a.cfg.Store.Find(ctx, Query{Serial: serial, Limit: 1})
	switch {
	case err != nil:
		return fmt.Errorf("read the ledger: %w", err)
	case len(entries) == 0:
		return fmt.Errorf("%w: intermediate %s is not in the ledger", ErrCorrupt, describe(cert))
	case entries[0].State == StateFailed:
		return fmt.Errorf("%w: intermediate %s exists, and the ledger says that it does not: %s", ErrCorrupt, describe(cert), entries[0].Failure)
	case entries[0].State != StateIntended:
		return nil
	}
	if err := a.cfg.Store.Finish(ctx, Outcome{Serial: serial, Certificate: cert.Raw, At: a.cfg.Now()}); err != nil {
		return fmt.Errorf("record the intermediate: %w", err)
	}
	return nil
}

// changeIssuers edits the shared list of issuers, again if another replica was faster. Ended ones are dropped.
func (a *Authority) changeIssuers(ctx context.Context, edit func(*issuersDoc) bool) error {
	for range 8 {
		doc, version, err := readDoc[issuersDoc](ctx, a.cfg.Store, docIssuers)
		if err != nil {
			return err
		}
		doc.Format = documentFormat
		if !edit(&doc) {
			return nil
		}
		kept := doc.Issuers[:0]
		for _, k := range doc.Issuers {
			c, err := x509.ParseCertificate(k.Certificate)
			if err != nil {
				return fmt.Errorf("%w: %s: %v", ErrCorrupt, docIssuers, err)
			}
			if a.cfg.Now().Before(c.NotAfter.Add(skew)) {
				kept = append(kept, k)
			}
		}
		doc.Issuers = kept
		if err := writeDoc(ctx, a.cfg.Store, docIssuers, doc, version); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w: %s, 8 times in a row", ErrConflict, docIssuers)
}
