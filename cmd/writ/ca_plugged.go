package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/pkcs11"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxPluggedFile = 1 << 20
	// pluggedEvery is how often the files of a plugged-in authority are looked at. They are read in earnest once two looks
	// saw the same, so that files that are replaced one by one are not taken for a set.
	pluggedEvery = 2 * time.Second
	// pluggedAgain is when files that were refused are tried again: those who would have been cut off may have renewed.
	pluggedAgain = 30 * time.Second
)

// pluggedFiles is what is known of the files of a plugged-in authority.
type pluggedFiles struct {
	mu      sync.Mutex // one reading at a time; guards what follows
	inForce fileSum
	refused fileSum   // the last that were
	tried   time.Time // when they were
	why     string
}

// fileSum tells one set of files from another.
type fileSum [sha256.Size]byte

// watchPlugged has new files of a plugged-in authority taken up until ctx ends. Looking at them again and again sees every
// change, on every file system, and symbolic links that are swapped.
func (i *issuing) watchPlugged(ctx context.Context) error {
	if i.config.CA.Plugged == nil {
		return nil
	}
	last := i.pluggedSum()
	ticker := time.NewTicker(pluggedEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		sum := i.pluggedSum()
		if sum == last {
			_ = i.reload(ctx, "authority:watch", false) // logged, and an alarm
		}
		last = sum
	}
}

// reload has a plugged-in authority read its files again, if they changed or if that is demanded.
func (i *issuing) reload(ctx context.Context, by string, demanded bool) error {
	if i.config.CA.Plugged == nil {
		return nil
	}
	f := &i.plugged
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := i.pluggedSum()
	if known := sum == f.inForce && f.why == "" || sum == f.refused && time.Since(f.tried) < pluggedAgain; known && !demanded {
		return nil
	}
	err := i.authority.Reload(ctx, ca.StepOptions{By: by})
	if err == nil {
		f.inForce, f.refused, f.why = sum, fileSum{}, ""
		i.log.InfoContext(ctx, "the plugged-in authority was read again", "dir", i.config.CA.Plugged.Dir)
		return nil
	}
	if err.Error() != f.why {
		i.log.ErrorContext(ctx, "the plugged-in authority's files cannot be used, the last good ones stay in force", "error", err)
	}
	f.refused, f.tried, f.why = sum, time.Now(), err.Error()
	return err
}

// pluggedSum tells whether the files of a plugged-in authority changed. Files that cannot be read count as absent: reading
// them in earnest says what is wrong.
func (i *issuing) pluggedSum() fileSum {
	hash := sha256.New()
	if p := i.config.CA.Plugged; p != nil {
		entries, _ := os.ReadDir(p.Dir)
		for _, e := range entries {
			if content, err := readBounded(filepath.Join(p.Dir, e.Name()), maxPluggedFile); err == nil {
				_, _ = fmt.Fprintf(hash, "%q %d\n%s", e.Name(), len(content), content)
			}
		}
	}
	return fileSum(hash.Sum(nil))
}

// open opens the device, with a session that is logged in. A PIN that is wrong is tried once only.
func (p *pkcs11Config) open() (*pkcs11.Key, error) {
	pin, err := readSecret("pin_file", p.PINFile)
	if err != nil {
		return nil, err
	}
	return pkcs11.Open(pkcs11.Config{Module: p.Module, Token: p.Token, Label: p.Label, PIN: []byte(pin)})
}

// checkPlugged says what is wrong with a plugged-in authority, by all that serve would find wrong with it: it is plugged
// into a state that is thrown away.
func (c *config) checkPlugged(ctx context.Context) (err error) {
	domain, err := spiffeid.TrustDomain(c.TrustDomain)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "writ-validate-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	trial := *c
	trial.State, trial.Store = dir, nil
	s := &caState{config: &trial, log: slog.New(slog.DiscardHandler), domain: domain, keys: ca.InsecureKeyring()}
	defer func() { err = errors.Join(err, s.close()) }()
	if p := c.CA.Plugged.PKCS11; p != nil {
		if s.device, err = p.open(); err != nil {
			return fmt.Errorf("pkcs11: %w", err)
		}
	}
	if s.store, err = store.OpenSQLite(ctx, store.SQLiteConfig{Path: trial.ledger(), Create: true, Logger: s.log}); err != nil {
		return err
	}
	return s.load(ctx)
}
