package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// leastPluggedLife is what must be left of a plugged-in signing certificate for it to be taken.
const leastPluggedLife = 10 * time.Minute

// pluggedLayout names the files of a certificate authority that somebody else runs (identity §5.1).
type pluggedLayout struct {
	name, signer, key, roots, chain, crl string
}

func pluggedLayouts() []pluggedLayout {
	return []pluggedLayout{
		{name: "Istio cacerts", signer: "ca-cert.pem", key: "ca-key.pem", roots: "root-cert.pem", chain: "cert-chain.pem", crl: "ca-crl.pem"},
		{name: "kubernetes.io/tls", signer: "tls.crt", key: "tls.key", roots: "ca.crt"},
	}
}

func (l pluggedLayout) required(noKey bool) []string {
	files := []string{l.signer, l.roots}
	if !noKey {
		files = append(files, l.key)
	}
	if l.chain != "" {
		files = append(files, l.chain)
	}
	return files
}

// pluggedCA is a plugged-in authority that passed all checks.
type pluggedCA struct {
	chain []*x509.Certificate // signer first, then its issuers as far as they were given, roots perhaps included
	key   *signer
	roots []*x509.Certificate
	crls  []*x509.RevocationList
	// before are the signers that this one took over from since the start: their leaves live on and want CRLs.
	before []crlSigner
}

// readPlugged reads and checks a directory. Every fault is an error: a partial or doubtful authority is none.
func readPlugged(dir string, key crypto.Signer, now time.Time) (*pluggedCA, error) {
	// Kubernetes swaps a symbolic link to exchange all files at once: follow it once, so that they belong together.
	if swapped, err := filepath.EvalSymlinks(filepath.Join(dir, "..data")); err == nil {
		dir = swapped
	}
	layout, err := whichLayout(dir, key != nil)
	if err != nil {
		return nil, err
	}
	p := &pluggedCA{}
	if p.chain, err = readCertificates(filepath.Join(dir, layout.signer)); err != nil {
		return nil, err
	}
	if layout.chain != "" {
		chain, err := readCertificates(filepath.Join(dir, layout.chain))
		if err != nil {
			return nil, err
		}
		if len(p.chain) != 1 || !chain[0].Equal(p.chain[0]) {
			return nil, fmt.Errorf("%s: want one certificate, the one %s begins with", layout.signer, layout.chain)
		}
		p.chain = chain
	}
	if p.roots, err = readCertificates(filepath.Join(dir, layout.roots)); err != nil {
		return nil, err
	}
	if key != nil {
		p.key = newSigner(key)
	} else if p.key, err = readKey(filepath.Join(dir, layout.key)); err != nil {
		return nil, err
	}
	if layout.crl != "" {
		if p.crls, err = readCRLs(filepath.Join(dir, layout.crl)); err != nil {
			return nil, err
		}
	}
	return p, p.check(now)
}

// whichLayout finds the one layout that is there, whole.
func whichLayout(dir string, noKey bool) (pluggedLayout, error) {
	var found []pluggedLayout
	for _, l := range pluggedLayouts() {
		var missing []string
		required := l.required(noKey)
		for _, name := range required {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				missing = append(missing, name)
			}
		}
		switch {
		case len(missing) == 0:
			found = append(found, l)
		case len(missing) < len(required):
			return l, fmt.Errorf("%s: the %s layout is incomplete, missing or unreadable: %s", dir, l.name, strings.Join(missing, ", "))
		}
	}
	switch len(found) {
	case 0:
		return pluggedLayout{}, fmt.Errorf("%s: no certificate authority: want ca-cert.pem, ca-key.pem, root-cert.pem and cert-chain.pem, or tls.crt, tls.key and ca.crt", dir)
	case 1:
		return found[0], nil
	default:
		return pluggedLayout{}, fmt.Errorf("%s: two certificate authorities, %s and %s: keep one", dir, found[0].name, found[1].name)
	}
}

// check demands all of identity §5.1: the key fits, everything on the way to the root is a CA that may sign certificates
// and this many levels of them, has a strong key and time left, and, where there are CRLs, has one and is on none.
func (p *pluggedCA) check(now time.Time) error {
	for _, c := range append(p.chain[:len(p.chain):len(p.chain)], p.roots...) {
		if err := checkIssuer(c); err != nil {
			return err
		}
	}
	signing := p.chain[0]
	if err := p.key.matches(signing); err != nil {
		return err
	}
	if now.Before(signing.NotBefore) || signing.NotAfter.Sub(now) < leastPluggedLife {
		return fmt.Errorf("issuer %s is valid from %s to %s, and the clock says %s: want %v left", describe(signing),
			signing.NotBefore.Format(time.RFC3339), signing.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339), leastPluggedLife)
	}
	path, err := p.pathToRoot(now)
	if err != nil {
		return err
	}
	for below, c := range path {
		if c.MaxPathLen >= 0 && c.MaxPathLen < below {
			return fmt.Errorf("issuer %s allows %d issuers below it, there are %d", describe(c), c.MaxPathLen, below)
		}
	}
	return p.checkCRLs(path, now)
}

// pathToRoot is the way from the signer, first, to a root of the bundle, last.
func (p *pluggedCA) pathToRoot(now time.Time) ([]*x509.Certificate, error) {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range p.roots {
		roots.AddCert(r)
	}
	for _, c := range p.chain[1:] {
		between.AddCert(c)
	}
	paths, err := p.chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("issuer %s does not lead to a root of the bundle: %w", describe(p.chain[0]), err)
	}
	return paths[0], nil
}

func (p *pluggedCA) checkCRLs(path []*x509.Certificate, now time.Time) error {
	if len(p.crls) == 0 {
		return nil
	}
	for i, c := range path {
		var list *x509.RevocationList
		for _, l := range p.crls {
			if bytes.Equal(l.RawIssuer, c.RawSubject) && l.CheckSignatureFrom(c) == nil {
				list = l
			}
		}
		switch {
		case list == nil:
			return fmt.Errorf("the CRL file has none of issuer %s: with one CRL, every issuer needs one", describe(c))
		case !list.NextUpdate.IsZero() && !now.Before(list.NextUpdate):
			return fmt.Errorf("the CRL of issuer %s was good until %s: fetch a new one", describe(c), list.NextUpdate.Format(time.RFC3339))
		}
		for _, e := range list.RevokedCertificateEntries {
			if i > 0 && e.SerialNumber.Cmp(path[i-1].SerialNumber) == 0 {
				return fmt.Errorf("issuer %s is revoked by %s", describe(path[i-1]), describe(c))
			}
		}
	}
	return nil
}

// pluggedDoc is what is remembered of a plugged-in bundle, so that its version goes up when it changes and only then.
type pluggedDoc struct {
	Format int    `json:"format"`
	Bundle int64  `json:"bundle"`
	Roots  []byte `json:"roots"` // SHA-256 of the roots
}

func (a *Authority) loadPlugged(ctx context.Context) error {
	p, err := readPlugged(a.cfg.Plugged, a.cfg.PluggedKey, a.cfg.Now())
	if err != nil {
		return err
	}
	return a.plugIn(ctx, p)
}

// plugIn makes a checked authority the one that signs. Its CRL is published before its first leaf.
func (a *Authority) plugIn(ctx context.Context, p *pluggedCA) error {
	version, err := a.pluggedVersion(ctx, p)
	if err != nil {
		return err
	}
	list := make([]Root, len(p.roots))
	for i, c := range p.roots {
		list[i] = Root{Certificate: c}
	}
	bundle, err := newBundle(a.cfg.TrustDomain, version, list)
	if err != nil {
		return err
	}
	if err := a.firstCRL(ctx, crlSigner{p.chain[0], p.key}); err != nil {
		return fmt.Errorf("first CRL: %w", err)
	}
	if err := a.registerIssuer(ctx, p.chain[0]); err != nil {
		return err
	}
	if a.plugged != nil {
		_ = a.gatherCRLs(ctx) // as register does
	}
	if err := a.use(ctx, p.key, p.chain, bundle); err != nil {
		return err
	}
	a.plugged = p
	return nil
}

func (a *Authority) pluggedVersion(ctx context.Context, p *pluggedCA) (int64, error) {
	h := sha256.New()
	for _, r := range p.roots {
		h.Write(r.Raw)
	}
	for range 8 {
		doc, version, err := readDoc[pluggedDoc](ctx, a.cfg.Store, docPlugged)
		if err != nil {
			return 0, err
		}
		if sum := h.Sum(nil); !bytes.Equal(doc.Roots, sum) {
			doc = pluggedDoc{Format: documentFormat, Bundle: doc.Bundle + 1, Roots: sum}
			if err := writeDoc(ctx, a.cfg.Store, docPlugged, doc, version); errors.Is(err, ErrConflict) {
				continue // another replica loads the same files
			} else if err != nil {
				return 0, err
			}
		}
		return doc.Bundle, nil
	}
	return 0, fmt.Errorf("%w: %s, 8 times in a row", ErrConflict, docPlugged)
}

// Reload reads a plugged-in authority's files again. Files that fail a check are refused and the last good ones stay; so
// are files that drop the root of certificates which are still in use, unless overridden: replacing a root takes three
// steps, add the new, wait until every certificate is renewed, remove the old.
func (a *Authority) Reload(ctx context.Context, o StepOptions) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.plugged == nil {
		return errors.New("reload: the authority makes its own roots")
	}
	err := a.reload(ctx, o)
	if err != nil {
		a.alarms.raise(AlarmReload, err.Error(), a.cfg.Now())
		return fmt.Errorf("reload %s: %w", a.cfg.Plugged, err)
	}
	a.alarms.clear(AlarmReload)
	return a.lookAfter(ctx)
}

func (a *Authority) reload(ctx context.Context, o StepOptions) error {
	p, err := readPlugged(a.cfg.Plugged, a.cfg.PluggedKey, a.cfg.Now())
	if err != nil {
		return err
	}
	old := a.plugged
	for _, s := range append(old.before[:len(old.before):len(old.before)], crlSigner{old.chain[0], old.key}) {
		if !s.cert.Equal(p.chain[0]) {
			p.before = append(p.before, s)
		}
	}
	dependents, err := a.cutOff(ctx, old, p)
	if err != nil {
		return err
	}
	if err := a.permit(ctx, "reload", o, dependents); err != nil {
		return err
	}
	return a.plugIn(ctx, p)
}

// cutOff lists who has live leaves that lead to a root of the old authority, and to none of the new: those of every issuer
// that ever was, not of the last one alone. Issuers above one that is not known any more lead nowhere.
func (a *Authority) cutOff(ctx context.Context, old, next *pluggedCA) ([]Dependent, error) {
	dropped := func(root *x509.Certificate) bool { return !slices.ContainsFunc(next.roots, root.Equal) }
	if !slices.ContainsFunc(old.roots, dropped) {
		return nil, nil
	}
	issuers, err := a.leafIssuers(ctx)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, i := range issuers {
		chain := append([]*x509.Certificate{i.cert}, append(old.chain[:len(old.chain):len(old.chain)], next.chain...)...)
		probe := &pluggedCA{chain: chain, roots: next.roots}
		if _, err := probe.pathToRoot(clampTime(a.cfg.Now(), i.cert)); err != nil {
			lost = append(lost, i.name)
		}
	}
	return a.liveUnder(ctx, lost)
}
