package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
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
	Issuer string // subject key identifier in hex
	// Number increases with every CRL of the issuer (RFC 5280 §5.2.3). It is the time of signing in microseconds since
	// 1970, or one more than the last, if that is greater: after a store was restored from an older backup, the clock still
	// puts the next number above those that the backup has forgotten, as long as it was not set back further than that.
	// Nobody signs and stores two CRLs in a microsecond, so that numbers do not run ahead of the clock.
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    int
	DER        []byte
}

// CRLSet holds a CRL for every issuer that may have live leaves: this replica's and the others', the one that signs, those
// before it that have not ended, and those under a new root, before their first leaf. Empty ones are included: Envoy
// refuses all certificates of an issuer that lacks one as soon as another has one.
//
// It is for verifiers that check leaves only, Envoy's only_verify_leaf_cert_crl (identity §9). The roots have none, and a
// verifier that checks whole chains would refuse everything: what roots sign are intermediates, which are not revoked one
// by one but together with their root, by a rotation, and a root's key may be offline for longer than any CRL is good. A
// verifier that takes an issuer without a CRL for good, such as ztunnel, is served as well. With a plugged-in authority
// the CRLs of the issuers above it, which others make, are passed on in PEM.
//
// Numbers never go backwards, see [CRL].
type CRLSet struct {
	List []CRL
	PEM  []byte // all of them, one after the other
}

// CRLs is the present set; nil before the first was made, and while it cannot be complete because a plugged-in issuer may
// not sign any.
func (a *Authority) CRLs() *CRLSet { return a.crls.Load() }

// crlDoc is a CRL at rest, with a digest of what it lists: a new one is made when that changes or half its life is over.
type crlDoc struct {
	Format  int    `json:"format"`
	Number  int64  `json:"number"`
	Content []byte `json:"content"` // SHA-256 of the entries
	CRL     []byte `json:"crl"`     // DER
}

// crlMemory is what this process remembers of CRLs, by issuer. A store that was restored from a backup remembers less.
type crlMemory struct {
	numbers map[string]int64     // the greatest that was signed or published here
	signed  map[string]bool      // a CRL was signed here since the start
	overdue map[string]time.Time // since when another replica owes one
}

func (m *crlMemory) saw(issuer string, number int64) {
	if m.numbers == nil {
		m.numbers = map[string]int64{}
	}
	m.numbers[issuer] = max(m.numbers[issuer], number)
}

// refreshCRLs makes the CRLs that are due and gathers everyone's. One that cannot be made holds up no other. Callers
// hold mu.
func (a *Authority) refreshCRLs(ctx context.Context) error {
	revoked, err := a.revokedCertificates(ctx)
	if err == nil {
		err = errors.Join(a.signCRLs(ctx, revoked), a.takeOverCRLs(ctx, revoked), a.gatherCRLs(ctx))
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
// The ledger is asked again when the deny list changes, in every round for a while after that, and every few minutes:
// nothing new is issued for what is denied, but a certificate may have been under way, or another replica a moment behind.
func (a *Authority) revokedCertificates(ctx context.Context) (map[string][]x509.RevocationListEntry, error) {
	now, list, c := a.cfg.Now(), a.deny.All(), a.concerned
	same := c.entries != nil && sameRevocations(c.list, list)
	settled := now.Sub(c.changed).Abs() > a.follows()+2*finishTime
	if same && settled && now.Sub(c.at).Abs() < recountEvery {
		return c.entries, nil
	}
	entries, err := a.findRevoked(ctx, list, now)
	if err != nil {
		return nil, err
	}
	if !same {
		c.changed = now
	}
	a.concerned = concernedCertificates{list: list, entries: entries, at: now, changed: c.changed}
	return entries, nil
}

// concernedCertificates is what revokedCertificates found last.
type concernedCertificates struct {
	list    []Revocation
	entries map[string][]x509.RevocationListEntry
	at      time.Time // when it was found
	changed time.Time // since when the list is what it is
}

const recountEvery = 5 * time.Minute

// follows is how long it takes until every replica has seen what one has written.
func (a *Authority) follows() time.Duration { return 2*a.cfg.Every + settle }

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
	key  *signer
}

// crlSigners are this replica's issuers that have not ended and may sign CRLs.
func (a *Authority) crlSigners() []crlSigner {
	var out []crlSigner
	now := a.cfg.Now()
	add := func(cert *x509.Certificate, key *signer) {
		if now.Before(cert.NotAfter.Add(skew)) && cert.KeyUsage&x509.KeyUsageCRLSign != 0 {
			out = append(out, crlSigner{cert, key})
		}
	}
	if a.plugged != nil {
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
	return out
}

// signCRLs makes the CRLs of this replica's issuers that are due.
func (a *Authority) signCRLs(ctx context.Context, revoked map[string][]x509.RevocationListEntry) error {
	var errs []error
	for _, s := range a.crlSigners() {
		errs = append(errs, a.renewCRL(ctx, s, revoked[issuerName(s.cert)]))
	}
	return errors.Join(errs...)
}

// renewCRL makes a CRL if one is due: there is none, it lists something else, half of its life is over, it has a lower
// number than one that was published, or this process has made none yet. The last is for a store that was restored: its
// CRL may look fresh and be older than what verifiers have.
func (a *Authority) renewCRL(ctx context.Context, s crlSigner, entries []x509.RevocationListEntry) error {
	name := issuerName(s.cert)
	doc, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+name)
	if err != nil {
		return err
	}
	if a.crlMemory.signed[name] && !a.crlDue(name, doc, version, entries) {
		return nil
	}
	number := crlNumber(max(doc.Number, a.crlMemory.numbers[name]), a.cfg.Now())
	der, err := a.signCRL(ctx, s, number, entries)
	if err != nil {
		return err
	}
	next := crlDoc{Format: documentFormat, Number: number, Content: digestEntries(entries), CRL: der}
	switch err := writeDoc(ctx, a.cfg.Store, docCRL+name, next, version); {
	case errors.Is(err, ErrConflict): // another process was faster: the next round sees what it made
		return nil
	case err != nil:
		return err
	}
	a.crlMemory.saw(name, number)
	if a.crlMemory.signed == nil {
		a.crlMemory.signed = map[string]bool{}
	}
	a.crlMemory.signed[name] = true
	return nil
}

// crlDue reports whether a CRL that is in the store will not do any more.
func (a *Authority) crlDue(issuer string, doc crlDoc, version int64, entries []x509.RevocationListEntry) bool {
	return version == 0 || doc.Number < a.crlMemory.numbers[issuer] || !bytes.Equal(doc.Content, digestEntries(entries)) || !a.crlFresh(doc.CRL)
}

// crlNumber is the number after last, see [CRL].
func crlNumber(last int64, now time.Time) int64 { return max(last+1, now.UnixMicro()) }

// firstCRL makes an issuer's CRL before its first leaf, if it has none: it is empty.
func (a *Authority) firstCRL(ctx context.Context, s crlSigner) error {
	if s.cert.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return nil // gatherCRLs says what follows from that
	}
	_, version, err := readDoc[crlDoc](ctx, a.cfg.Store, docCRL+issuerName(s.cert))
	if err != nil || version != 0 {
		return err
	}
	return a.renewCRL(ctx, s, nil)
}

// signCRL makes a full CRL: number and authority key identifier, and no issuing distribution point, which Envoy would
// hold against certificates that name none (identity §9).
func (a *Authority) signCRL(ctx context.Context, s crlSigner, number int64, entries []x509.RevocationListEntry) ([]byte, error) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: now.Add(-backdate), NextUpdate: now.Add(a.cfg.CRLLife), RevokedCertificateEntries: entries,
	}, s.cert, s.key.within(ctx))
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

func digestEntries(entries []x509.RevocationListEntry) []byte {
	h := sha256.New()
	for _, e := range entries {
		_, _ = fmt.Fprintf(h, "%x %d %d\n", e.SerialNumber, e.RevocationTime.Unix(), e.ReasonCode) // a hash takes all
	}
	return h.Sum(nil)
}
