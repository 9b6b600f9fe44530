package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/ca/pkcs11"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// caState is the certificate authority's ledger and keys, opened: by a running writ serve, or by one command while none
// runs.
type caState struct {
	config   *config
	log      *slog.Logger
	domain   spiffeid.ID
	keys     *ca.Keyring
	store    *store.Store
	evidence consumers   // who follows the bundle; nobody while nothing is served
	device   *pkcs11.Key // that has the key of a plugged-in authority, nil if a file has

	authority *ca.Authority
	admin     *caserver.Admin
}

// openCAState opens the ledger. create makes one where there is none and no trace of one. The authority is not loaded yet.
func openCAState(ctx context.Context, cfg *config, env func(string) (string, bool), log *slog.Logger, create bool) (*caState, error) {
	domain, err := spiffeid.TrustDomain(cfg.TrustDomain)
	if err != nil {
		return nil, invalidf("trust_domain: %w", err)
	}
	s := &caState{config: cfg, log: log, domain: domain}
	if s.keys, err = cfg.CA.keyring(env); err != nil {
		return nil, fmt.Errorf("ca.key_encryption: %w", err)
	}
	if p := cfg.CA.Plugged; p != nil && p.PKCS11 != nil {
		if s.device, err = p.PKCS11.open(); err != nil {
			return nil, fmt.Errorf("ca.plugged.pkcs11: %w", err)
		}
	}
	if s.store, err = s.openStore(ctx, create); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

const (
	lockPatience = 5 * time.Second // for a command that has the state open
	lockEvery    = 50 * time.Millisecond
)

// awaitCAState opens the ledger to serve it. A command that was faster and has it open is waited for: an authority that
// is started beside a backup has to start.
func awaitCAState(ctx context.Context, cfg *config, env func(string) (string, bool), log *slog.Logger) (*caState, error) {
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	for told := false; ; told = true {
		s, err := openCAState(ctx, cfg, env, log, cfg.postgres() == nil)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return s, err
		}
		if !told {
			log.InfoContext(ctx, "another process has the state open, waiting for it to let go", "at_most", lockPatience)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-patience.C:
			return nil, err
		case <-time.After(lockEvery):
		}
	}
}

// openStore opens the ledger. Where roots were published once, a missing ledger is a lost one and none is made.
func (s *caState) openStore(ctx context.Context, create bool) (*store.Store, error) {
	if p := s.config.postgres(); p != nil {
		dsn, err := readSecret("store.postgres.dsn_file", p.DSNFile)
		if err != nil {
			return nil, err
		}
		return store.OpenPostgres(ctx, store.PostgresConfig{DSN: dsn, Create: create, Logger: s.log})
	}
	_, err := os.Stat(s.bundleFile())
	never := errors.Is(err, fs.ErrNotExist)
	opened, err := store.OpenSQLite(ctx, store.SQLiteConfig{Path: s.config.ledger(), Create: create && never, Logger: s.log})
	switch {
	case !errors.Is(err, store.ErrNone):
		return opened, err
	case never:
		return nil, fmt.Errorf("%w. Where there never was one, the first writ serve -c FILE makes it, and so does writ ca init -c FILE", err)
	default:
		return nil, fmt.Errorf("%w. There was one: %s has its roots; remove that file only if nobody trusts them any more", err, s.bundleFile())
	}
}

// bundleFile is where the roots are published for agents of this machine; empty without a state directory.
func (s *caState) bundleFile() string {
	if s.config.State == "" {
		return ""
	}
	return filepath.Join(s.config.State, "bundle.pem")
}

// authorityConfig is the configuration in the words of package ca.
func (s *caState) authorityConfig() ca.Config {
	c := s.config.CA
	out := ca.Config{
		TrustDomain: s.domain, Store: s.store, Keys: s.keys, Replica: c.Replica,
		RootLife: c.RootTTL, IntermediateLife: c.IntermediateTTL, CRLLife: c.CRLTTL, Log: s.log,
		Evidence: &s.evidence, JWT: c.JWT != nil, JWTIssuer: c.issuer(),
	}
	if c.Plugged != nil {
		out.Plugged = c.Plugged.Dir
		if s.device != nil {
			out.PluggedKey = s.device
		}
	}
	return out
}

// load opens the authority that is in the ledger.
func (s *caState) load(ctx context.Context) error {
	authority, err := ca.Load(ctx, s.authorityConfig())
	if err != nil {
		return err
	}
	return s.use(authority)
}

// loadOrInit opens the authority, and makes it on the very first start: when neither the ledger nor a published bundle
// knows of one. In a database, which may be the wrong one or not have arrived yet, only writ ca init makes one.
func (s *caState) loadOrInit(ctx context.Context) error {
	err := s.load(ctx)
	if !errors.Is(err, ca.ErrNotInitialised) || s.config.postgres() != nil {
		return err
	}
	return s.init(ctx, "")
}

// init makes the authority. rootOut takes the root's key offline.
func (s *caState) init(ctx context.Context, rootOut string) error {
	o := ca.InitOptions{By: ourselves(), RootOut: rootOut}
	if file := s.bundleFile(); file != "" {
		o.BundleFiles = []string{file}
	}
	authority, err := ca.Init(ctx, s.authorityConfig(), o)
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "a new authority was made", "trust_domain", s.domain.TrustDomain())
	return s.use(authority)
}

func (s *caState) use(authority *ca.Authority) error {
	admin, err := caserver.NewAdmin(caserver.AdminConfig{Authority: authority, Store: s.store})
	s.authority, s.admin = authority, admin
	return err
}

// close lets go of the ledger and the device, last of all.
func (s *caState) close() error {
	var errs []error
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.device != nil {
		errs = append(errs, s.device.Close())
	}
	return errors.Join(errs...)
}

// encrypted reports whether private keys are at rest under a passphrase.
func (s *caState) encrypted() bool { return s.config.CA.KeyEncryption != nil }

// ourselves names this process in audit records, as the admin socket names those who connect to it.
func ourselves() string { return fmt.Sprintf("unix:uid=%d", os.Getuid()) }
