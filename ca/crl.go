package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// maxCRL bounds a CRL so that its document fits the store (1 MiB, base64).
const maxCRL = 700 << 10

// CRL is the revocation list of one issuer.
type CRL struct {
	Issuer     string // subject key identifier in hex
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    int
	DER        []byte
}

// CRLSet holds a CRL for every issuer of leaves that has not ended, this replica's and the others', empty ones included:
// Envoy refuses all certificates of an issuer that lacks one as soon as another has one (identity §9).
type CRLSet struct {
	List []CRL
	PEM  []byte // all of them, one after the other
}

// CRLs is the present set; nil before the first was made, or when a plugged-in issuer may not sign any.
func (a *Authority) CRLs() *CRLSet { return a.crls.Load() }

// crlDoc is a CRL at rest, with a digest of what it lists: a new one is made when that changes or half its life is over.
type crlDoc struct {
	Format  int    `json:"format"`
	Number  int64  `json:"number"`
	Content []byte `json:"content"` // SHA-256 of the entries
	CRL     []byte `json:"crl"`     // DER
}

// refreshCRLs makes the CRLs of this replica's issuers where they are due and gathers everyone's. Callers hold mu.
func (a *Authority) refreshCRLs(ctx context.Context) error {
	revoked, err := a.revokedCertificates(ctx)
	if err == nil {
		var own []string
		if own, err = a.signCRLs(ctx, revoked); err == nil {
			err = a.gatherCRLs(ctx, own)
		}
	}
	if err != nil {
		a.alarms.raise(AlarmCRL, err.Error(), a.cfg.Now())
		return fmt.Errorf("CRL: %w", err)
	}
	a.alarms.clear(AlarmCRL)
	return nil
}

// revokedCertificates lists the certificates that any revocation concerns, by issuer, until a while after their end.
//
// The ledger is asked again when the deny list changes, and every few minutes: nothing new is issued for what is denied,
// but another replica may have been a moment behind.
func (a *Authority) revokedCertificates(ctx context.Context) (map[string][]x509.RevocationListEntry, error) {
	now, list := a.cfg.Now(), a.deny.All()
	if c := a.concerned; c.entries != nil && sameRevocations(c.list, list) && now.Sub(c.at).Abs() < recountEvery {
		return c.entries, nil
	}
	entries, err := a.findRevoked(ctx, list, now)
	if err == nil {
		a.concerned = concernedCertificates{list: list, entries: entries, at: now}
	}
	return entries, err
}

// concernedCertificates is what revokedCertificates found last.
type concernedCertificates struct {
	list    []Revocation
	entries map[string][]x509.RevocationListEntry
	at      time.Time
}

const recountEvery = 5 * time.Minute

func sameRevocations(x, y []Revocation) bool {
	return slices.EqualFunc(x, y, func(x, y Revocation) bool { return x.subject() == y.subject() && x.At.Equal(y.At) })
}

func (a *Authority) findRevoked(ctx context.Context, list []Revocation, now time.Time) (map[string][]x509.RevocationListEntry, error) {
	out := map[string][]x509.RevocationListEntry{}
	seen := map[Serial]bool{}
	for _, r := range list {
		// A certificate of the longest life that was issued before this has ended: there is no need to look further back.
		q := Query{ID: r.ID, Serial: r.Serial, KeyHash: r.KeyHash, After: now.Add(-mostTTL - skew)}
		err := everyEntry(ctx, a.cfg.Store, q, func(e Entry) bool {
			if e.State == StateIssued && e.Profile != profileIntermediate && now.Before(e.NotAfter.Add(skew)) && !seen[e.Serial] {
				seen[e.Serial] = true
				out[e.Issuer] = append(out[e.Issuer], x509.RevocationListEntry{
					SerialNumber: e.Serial.Int(), RevocationTime: r.At.UTC().Truncate(time.Second), ReasonCode: crlReasons()[r.Reason],
				})
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	for _, entries := range out {
		slices.SortFunc(entries, func(x, y x509.RevocationListEntry) int { return x.SerialNumber.Cmp(y.SerialNumber) })
	}
	return out, nil
}

// crlSigner is an issuer whose key is here.
type crlSigner struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// crlSigners are this replica's issuers that have not ended and may sign CRLs.
func (a *Authority) crlSigners() ([]crlSigner, error) {
	var out []crlSigner
	now := a.cfg.Now()
	add := func(cert *x509.Certificate, key crypto.Signer) {
		if now.Before(cert.NotAfter.Add(skew)) && cert.KeyUsage&x509.KeyUsageCRLSign != 0 {
			out = append(out, crlSigner{cert, key})
		}
	}
	if a.plugged != nil {
		if a.plugged.chain[0].KeyUsage&x509.KeyUsageCRLSign == 0 {
			return nil, fmt.Errorf("issuer %s may not sign CRLs: its key usage lacks cRLSign; revocations act through the deny list only", describe(a.plugged.chain[0]))
		}
		add(a.plugged.chain[0], a.plugged.key)
		for _, b := range a.plugged.before {
			add(b.cert, b.key)
		}
	}
	for _, s := range a.signers {
		if a.known(s.cert) {
			add(s.cert, s.key)
		}
	}
	return out, nil
}

// signCRLs makes the CRLs that are due and returns the names of all issuers it looked after.
func (a *Authority) signCRLs(ctx context.Context, revoked map[string][]x509.RevocationListEntry) ([]string, error) {
	signers, err := a.crlSigners()
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(signers))
	for _, s := range signers {
		name := issuerName(s.cert)
		names = append(names, name)
		doc, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+name)
		if err != nil {
			return nil, err
		}
		content := digestEntries(revoked[name])
		if version != 0 && bytes.Equal(doc.Content, content) && a.crlFresh(doc.CRL) {
			continue
		}
		der, err := a.signCRL(s, doc.Number+1, revoked[name])
		if err != nil {
			return nil, err
		}
		next := crlDoc{Format: documentFormat, Number: doc.Number + 1, Content: content, CRL: der}
		// Another process that was faster made one from the same store: the next round sees it.
		if err := writeDoc(ctx, a.cfg.Store, docCRL+name, next, version); err != nil && !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
	return names, nil
}

// signCRL makes a full CRL: number and authority key identifier, and no issuing distribution point, which Envoy would
// hold against certificates that name none (identity §9).
func (a *Authority) signCRL(s crlSigner, number int64, entries []x509.RevocationListEntry) ([]byte, error) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(a.cfg.CRLLife), RevokedCertificateEntries: entries,
	}, s.cert, s.key)
	if err != nil {
		return nil, fmt.Errorf("issuer %s: %w", describe(s.cert), err)
	}
	if len(der) > maxCRL {
		return nil, fmt.Errorf("issuer %s: its CRL has %d bytes, more than %d: rotate the intermediate", describe(s.cert), len(der), maxCRL)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil || list.CheckSignatureFrom(s.cert) != nil || len(list.RevokedCertificateEntries) != len(entries) {
		return nil, fmt.Errorf("%w: the CRL of %s", ErrSelfCheck, describe(s.cert))
	}
	return der, nil
}

func (a *Authority) crlFresh(der []byte) bool {
	list, err := x509.ParseRevocationList(der)
	now := a.cfg.Now()
	return err == nil && !now.Before(list.ThisUpdate) && list.NextUpdate.Sub(now) > a.cfg.CRLLife/2
}

// gatherCRLs publishes the set, if it differs from the last.
func (a *Authority) gatherCRLs(ctx context.Context, own []string) error {
	names := own
	issuers, _, err := readDoc[issuersDoc](ctx, a.cfg.Store, docIssuers)
	if err != nil {
		return err
	}
	for _, k := range issuers.Issuers {
		c, err := x509.ParseCertificate(k.Certificate)
		if err == nil && a.cfg.Now().Before(c.NotAfter.Add(skew)) && (a.roots == nil || a.known(c)) && !slices.Contains(names, issuerName(c)) {
			names = append(names, issuerName(c))
		}
	}
	set := &CRLSet{}
	slices.Sort(names)
	for _, name := range names {
		doc, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+name)
		if err != nil {
			return err
		}
		if version == 0 {
			continue // a new replica's first: its own next round
		}
		list, err := x509.ParseRevocationList(doc.CRL)
		if err != nil {
			return fmt.Errorf("%w: %s: %v", ErrCorrupt, docCRL+name, err)
		}
		set.List = append(set.List, CRL{
			Issuer: name, Number: doc.Number, ThisUpdate: list.ThisUpdate, NextUpdate: list.NextUpdate,
			Entries: len(list.RevokedCertificateEntries), DER: doc.CRL,
		})
		set.PEM = append(set.PEM, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: doc.CRL})...)
	}
	if a.plugged != nil { // those of the issuers above, which others make
		for _, l := range a.plugged.crls {
			if !bytes.Equal(l.RawIssuer, a.plugged.chain[0].RawSubject) {
				set.PEM = append(set.PEM, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: l.Raw})...)
			}
		}
	}
	if last := a.crls.Load(); last == nil || !bytes.Equal(last.PEM, set.PEM) {
		a.crls.Store(set)
	}
	return nil
}

func digestEntries(entries []x509.RevocationListEntry) []byte {
	h := sha256.New()
	for _, e := range entries {
		_, _ = fmt.Fprintf(h, "%x %d %d\n", e.SerialNumber, e.RevocationTime.Unix(), e.ReasonCode) // a hash takes all
	}
	return h.Sum(nil)
}
