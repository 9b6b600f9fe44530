package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// crlGrace is how long a replica may owe a CRL before another makes it in its place.
const crlGrace = time.Minute

// leafIssuer is an issuer that may have live leaves.
type leafIssuer struct {
	knownIssuer
	cert *x509.Certificate
	name string
}

// leafIssuers lists, by name, the issuers of all replicas that have not ended and are under a root that is trusted. They
// are registered before their first leaf and stay until they end.
func (a *Authority) leafIssuers(ctx context.Context) ([]leafIssuer, error) {
	doc, _, err := readDoc[issuersDoc](ctx, a.cfg.Store, docIssuers)
	if err != nil {
		return nil, err
	}
	var out []leafIssuer
	for _, k := range doc.Issuers {
		c, err := x509.ParseCertificate(k.Certificate)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %v", ErrCorrupt, docIssuers, err)
		}
		if a.cfg.Now().Before(c.NotAfter.Add(skew)) && (a.roots == nil || a.known(c)) {
			out = append(out, leafIssuer{k, c, issuerName(c)})
		}
	}
	slices.SortFunc(out, func(x, y leafIssuer) int {
		return cmp.Or(strings.Compare(x.name, y.name), y.cert.NotAfter.Compare(x.cert.NotAfter)) // of one key, the last to end
	})
	return slices.CompactFunc(out, func(x, y leafIssuer) bool { return x.name == y.name }), nil
}

// takeOverCRLs makes the CRLs that other replicas owe for a while: one that is gone for good still has live leaves, and a
// CRL that ends has all of them refused. Its key is in the store, sealed like the roots'. A key that is not there, as that
// of a plugged-in authority before this one, is an error while a leaf is live.
func (a *Authority) takeOverCRLs(ctx context.Context, revoked map[string][]x509.RevocationListEntry) error {
	issuers, err := a.leafIssuers(ctx)
	if err != nil {
		return err
	}
	own := map[string]bool{}
	for _, s := range a.crlSigners() {
		own[issuerName(s.cert)] = true
	}
	now, overdue := a.cfg.Now(), map[string]time.Time{}
	var errs []error
	for _, i := range issuers {
		if own[i.name] || i.cert.KeyUsage&x509.KeyUsageCRLSign == 0 {
			continue
		}
		doc, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+i.name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !a.crlDue(i.name, doc, version, revoked[i.name]) {
			continue
		}
		since, waiting := a.crlMemory.overdue[i.name]
		if !waiting || now.Before(since) {
			since = now
		}
		overdue[i.name] = since
		if now.Sub(since) > crlGrace+a.follows() {
			errs = append(errs, a.takeOverCRL(ctx, i, revoked[i.name]))
		}
	}
	a.crlMemory.overdue = overdue
	return errors.Join(errs...)
}

func (a *Authority) takeOverCRL(ctx context.Context, i leafIssuer, entries []x509.RevocationListEntry) error {
	theirs, _, err := readSigners(ctx, a.cfg.Store, a.cfg.Keys, i.Replica)
	for _, s := range theirs {
		if s.cert.Equal(i.cert) {
			a.cfg.Log.WarnContext(ctx, "making the CRL of a replica that does not", "replica", i.Replica, "issuer", i.name)
			delete(a.crlMemory.signed, i.name) // it is due, whoever made the last
			return a.renewCRL(ctx, crlSigner{s.cert, s.key}, entries)
		}
	}
	live, lookErr := a.hasLive(ctx, i.name)
	if err == nil && lookErr == nil && !live {
		return nil
	}
	return errors.Join(fmt.Errorf("the CRL of issuer %s, replica %s, is due, and its key is not here", describe(i.cert), i.Replica), err, lookErr)
}

// hasLive reports whether an issuer has a live leaf.
func (a *Authority) hasLive(ctx context.Context, issuer string) (bool, error) {
	entries, _, err := a.cfg.Store.Find(ctx, Query{Issuer: issuer, LiveAt: a.cfg.Now(), Limit: 1})
	if err != nil {
		return false, fmt.Errorf("read the ledger: %w", err)
	}
	return len(entries) > 0, nil
}

// gatherCRLs publishes the set, if it differs from the last. A set that cannot be complete is none at all.
func (a *Authority) gatherCRLs(ctx context.Context) error {
	issuers, err := a.leafIssuers(ctx)
	if err != nil {
		return err
	}
	set := &CRLSet{}
	for _, i := range issuers {
		if i.cert.KeyUsage&x509.KeyUsageCRLSign == 0 {
			signs := a.plugged != nil && a.plugged.chain[0].Equal(i.cert)
			if live, err := a.hasLive(ctx, i.name); err != nil {
				return err
			} else if signs || live {
				a.crls.Store(nil)
				return fmt.Errorf("issuer %s may not sign CRLs: its key usage lacks cRLSign; revocations act through the deny list only", describe(i.cert))
			}
			continue
		}
		crl, err := a.readCRL(ctx, i.name)
		if err != nil {
			return err
		}
		set.add(crl)
	}
	if a.plugged != nil { // those of the issuers above, which others make
		for _, l := range a.plugged.crls {
			if !bytes.Equal(l.RawIssuer, a.plugged.chain[0].RawSubject) {
				set.PEM = append(set.PEM, crlPEM(l.Raw)...)
			}
		}
	}
	if last := a.crls.Load(); last == nil || !bytes.Equal(last.PEM, set.PEM) {
		a.crls.Store(set)
	}
	return nil
}

// readCRL reads an issuer's CRL. The one that was published last stays when the store has an older one.
func (a *Authority) readCRL(ctx context.Context, issuer string) (CRL, error) {
	doc, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+issuer)
	if err != nil {
		return CRL{}, err
	}
	if doc.Number < a.crlMemory.numbers[issuer] || version == 0 {
		if last := a.crls.Load(); last != nil {
			for _, crl := range last.List {
				if crl.Issuer == issuer {
					return crl, nil
				}
			}
		}
	}
	if version == 0 {
		return CRL{}, fmt.Errorf("issuer %s has none: its replica, or in its place another, makes it", issuer)
	}
	list, err := x509.ParseRevocationList(doc.CRL)
	if err != nil {
		return CRL{}, fmt.Errorf("%w: %s: %v", ErrCorrupt, docCRL+issuer, err)
	}
	a.crlMemory.saw(issuer, doc.Number)
	return CRL{
		Issuer: issuer, Number: doc.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
		Entries: len(list.RevokedCertificateEntries), DER: doc.CRL,
	}, nil
}

func (s *CRLSet) add(crl CRL) {
	s.List = append(s.List, crl)
	s.PEM = append(s.PEM, crlPEM(crl.DER)...)
}

func crlPEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
