package ca

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/writ-auth/writ/internal/durable"
)

// InitOptions says how a new authority is made.
type InitOptions struct {
	By string // who makes it, for the audit; required
	// BundleFiles are where this authority's roots were ever published. If one exists, there was an authority before, and
	// a new root would not be trusted by those who have the file: Init refuses.
	BundleFiles []string
	// RootOut takes the root's key offline: it is written to this file, in PEM, sealed like all keys, and kept nowhere
	// else. The file must not exist.
	RootOut string
}

// keyPEM is the type of PEM block that a root's key is written as: sealed by a [Keyring].
const keyPEM = "WRIT PRIVATE KEY"

// Init makes an authority where there is none: a root and the first intermediate. It refuses with [ErrInitialised] where
// there is one, and with [ErrStateLost] where there was one.
func Init(ctx context.Context, c Config, o InitOptions) (*Authority, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.Plugged != "" {
		return nil, fmt.Errorf("init: the authority is plugged in from %s: it brings its own root", c.Plugged)
	}
	if o.By == "" {
		return nil, errors.New("init: say who asks for it")
	}
	if err := mayInit(ctx, c, o); err != nil {
		return nil, fmt.Errorf("init the authority of %s: %w", c.TrustDomain.TrustDomain(), err)
	}
	if err := makeRoots(ctx, c, o); err != nil {
		return nil, fmt.Errorf("init the authority of %s: %w", c.TrustDomain.TrustDomain(), err)
	}
	return Load(ctx, c)
}

// mayInit looks for every trace of an authority that was here before.
func mayInit(ctx context.Context, c Config, o InitOptions) error {
	_, version, err := c.Store.Get(ctx, docRoots)
	switch {
	case err == nil || version != 0:
		return ErrInitialised
	case !errors.Is(err, ErrNotFound):
		return fmt.Errorf("read the store: %w", err)
	}
	if err := whyNoRoots(ctx, c.Store); !errors.Is(err, ErrNotInitialised) {
		return err
	}
	for _, path := range o.BundleFiles {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s exists: restore a backup of the store, or remove the file if nobody trusts what is in it", ErrStateLost, path)
		}
	}
	return nil
}

func makeRoots(ctx context.Context, c Config, o InitOptions) error {
	now := c.Now().UTC()
	cert, key, err := newRoot(c.TrustDomain, c.RootLife, now)
	if err != nil {
		return err
	}
	sealed, err := c.Keys.seal(key, cert.SubjectKeyId)
	if err != nil {
		return err
	}
	root := rootDoc{Certificate: cert.Raw, Key: sealed, State: RootActive, Published: now, Activated: now}
	intermediate := func(context.Context) error { return nil }
	if o.RootOut != "" {
		// The file first: a root in the store whose key is nowhere would be of no use.
		if err := writeRootKey(o.RootOut, sealed, cert); err != nil {
			return err
		}
		root.Key = nil
		// The first intermediate is made while the key is still in memory.
		intermediate = func(ctx context.Context) error {
			a := &Authority{cfg: c, deny: &DenyList{}}
			if a.roots, err = readRoots(ctx, c.Store, c.Keys, c.TrustDomain); err != nil {
				return err
			}
			_, err := a.newIntermediate(ctx, a.roots.active(), key, earlier(now.Add(c.IntermediateLife), cert.NotAfter))
			return err
		}
	}
	if err := audit(ctx, c, o.By, "root_created", map[string]any{"root": describe(cert), "offline": o.RootOut != ""}); err != nil {
		return err
	}
	doc := rootsDoc{Format: documentFormat, TrustDomain: c.TrustDomain, Bundle: 1, Roots: []rootDoc{root}}
	switch err := writeDoc(ctx, c.Store, docRoots, doc, 0); {
	case errors.Is(err, ErrConflict):
		return fmt.Errorf("%w: another process was faster", ErrInitialised)
	case err != nil:
		return err
	}
	return intermediate(ctx)
}

func writeRootKey(path string, sealed []byte, cert *x509.Certificate) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("root key: %s exists already", path)
	}
	content := append(pem.EncodeToMemory(&pem.Block{Type: keyPEM, Bytes: sealed}), certificatePEM(cert.Raw)...)
	if err := durable.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("root key: %w", err)
	}
	return nil
}
