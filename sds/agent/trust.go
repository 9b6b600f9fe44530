package agent

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// errOlder says that an authority offers a bundle from before the one we have. Whoever could bring an old one back could
// bring a removed root back.
var errOlder = errors.New("the bundle is older than the one that is in force")

// trust keeps the bundle of the trust domain: in the vault for those who verify workloads, and to know the authorities by.
// It is safe for concurrent use.
type trust struct {
	domain spiffeid.ID
	file   string // of the first roots
	vault  *sds.Vault
	state  *state
	log    *slog.Logger

	mu       sync.Mutex // guards what follows, and writes of the bundle
	fileHash string     // of the file that led to the bundle in the vault; empty while there is none
	followed bool       // the bundle has a version: it, or the one it was made from, came as a document
	live     bool       // a stream delivers documents right now
	problem  error      // with the saved bundle
}

// load puts the saved bundle in the vault, if it can be used.
func (t *trust) load() {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, saved, err := t.state.loadBundle(t.domain)
	if err == nil && b != nil {
		err = t.vault.SetBundle(b)
	}
	if err != nil {
		t.problem = fmt.Errorf("the saved bundle cannot be used, %s takes its place: %w", t.file, err)
		t.log.Error("the agent's state", "error", t.problem)
		return
	}
	t.fileHash, t.followed = saved.FileHash, saved.Followed
}

// bundle is the one in force, nil while there is none.
func (t *trust) bundle() *sds.Bundle { return t.vault.Bundle(t.domain.TrustDomain()) }

// roots are those by which an authority is known: of the file until there is a bundle, and then of the bundle alone, since
// it says which roots are gone. An operator who replaces the file means it: its roots count beside the bundle's until an
// authority answered. That is the way back for a machine that missed a whole root rotation.
func (t *trust) roots() ([]*x509.Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	current := t.bundle()
	if current != nil && !t.replaced() {
		return current.Roots, nil
	}
	roots, _, err := t.readFile()
	switch {
	case current == nil:
		return roots, err
	case err != nil:
		return current.Roots, nil // replaced by something that cannot be used
	}
	return append(slices.Clone(current.Roots), without(roots, current.Roots)...), nil
}

// replaced reports whether the file is another one than the one the bundle goes back to. A file that is gone is none.
func (t *trust) replaced() bool {
	if t.fileHash == "" {
		return false
	}
	_, hash, err := t.readFile()
	return err == nil && hash != t.fileHash
}

func (t *trust) readFile() (roots []*x509.Certificate, hash string, err error) {
	return readRoots(t.file, t.domain)
}

// readRoots reads the first roots, and names what the file holds.
func readRoots(file string, domain spiffeid.ID) (roots []*x509.Certificate, hash string, err error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, "", fmt.Errorf("bundle: %w", err)
	}
	if roots, err = parsePEM(data); err == nil {
		err = checkRoots(roots, domain)
	}
	if err != nil {
		return nil, "", fmt.Errorf("bundle %s: %w: want the roots as writ ca bundle prints them", file, err)
	}
	return roots, hashOf(data), nil
}

// CheckBundleFile reads a file with the roots of a trust domain, as [New] and [Agent.Run] would.
func CheckBundleFile(file, trustDomain string) error {
	domain, err := spiffeid.TrustDomain(trustDomain)
	if err == nil {
		_, _, err = readRoots(file, domain)
	}
	return err
}

// ofAnswer takes the roots that came with a certificate. They say what is trusted, but not since when: the replica that
// answers may be behind the one that was followed, and a root that was revoked would be back. Once a bundle was followed they
// count only where the certificate itself needs them. It reports whether the bundle changed.
func (t *trust) ofAnswer(a *answer) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	current := t.bundle()
	next := &sds.Bundle{TrustDomain: t.domain, Roots: a.roots}
	switch {
	case current == nil || t.replaced():
		t.followed = false
		return true, t.put(next)
	case t.followed && leadsTo(a.chain, current.Roots, a.chain[0].NotBefore):
		return false, nil
	case t.followed:
		next.Roots = append(slices.Clone(current.Roots), without(a.roots, current.Roots)...)
	}
	if sameCertificates(next.Roots, current.Roots) {
		return false, nil
	}
	kept := *current
	kept.Roots = next.Roots
	kept.Tainted = slices.DeleteFunc(slices.Clone(current.Tainted), func(c *x509.Certificate) bool {
		return !slices.ContainsFunc(next.Roots, c.Equal)
	})
	return true, t.put(&kept)
}

// ofDocument takes a bundle from an authority's stream. It reports whether the bundle changed.
func (t *trust) ofDocument(b *sds.Bundle) (bool, error) {
	if b.TrustDomain != t.domain {
		return false, fmt.Errorf("the bundle is of the trust domain %s, not of %s", b.TrustDomain.TrustDomain(), t.domain.TrustDomain())
	}
	if err := checkRoots(b.Roots, t.domain); err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if current := t.bundle(); current != nil && t.followed && b.Version < current.Version && !t.replaced() {
		return false, fmt.Errorf("%w: version %d after %d; if the authority was restored from a backup, replace %s with its roots of now",
			errOlder, b.Version, current.Version, t.file)
	}
	if t.followed && !t.replaced() && sameBundle(b, t.bundle()) {
		t.live = true
		return false, nil
	}
	before := t.followed
	t.followed = true
	if err := t.put(b); err != nil {
		t.followed = before
		return false, err
	}
	t.live = true
	return true, nil
}

func sameBundle(a, b *sds.Bundle) bool {
	if a == nil || b == nil {
		return false
	}
	first, err := sds.EncodeBundle(a)
	if err != nil {
		return false
	}
	second, err := sds.EncodeBundle(b)
	return err == nil && bytes.Equal(first, second)
}

// put puts a bundle in force and saves it. One that cannot be saved is in force all the same: a restart then begins with an
// older one, which an authority replaces.
func (t *trust) put(b *sds.Bundle) error {
	if err := t.vault.SetBundle(b); err != nil {
		return err
	}
	if _, hash, err := t.readFile(); err == nil {
		t.fileHash = hash
	}
	if t.problem = t.state.saveBundle(b, t.fileHash, t.followed); t.problem != nil {
		t.problem = fmt.Errorf("the bundle is in force, but cannot be saved: %w", t.problem)
		t.log.Error("the agent's state", "error", t.problem)
	}
	return nil
}

// streaming says whether a stream delivers documents.
func (t *trust) streaming(live bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = live
}

// unserved says that an authority has no stream of bundles at all: the roots that come with its certificates have to do.
func (t *trust) unserved() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.followed = false
}

// trouble is what is wrong with the saved bundle, nil if nothing is.
func (t *trust) trouble() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.problem
}

// readSmall reads a small file whole.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEMBytes {
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxPEMBytes)
	}
	return data, nil
}
