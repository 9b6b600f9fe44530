package ca

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// roundTime bounds a round of [Authority.Run]: a store that hangs must not hold up what an operator asks for.
const roundTime = 30 * time.Second

// Authority issues certificates. Make one with [Load]; it is safe for concurrent use. [Authority.Run] keeps it current.
type Authority struct {
	cfg     Config
	deny    *DenyList
	blocked map[[32]byte]struct{}
	alarms  alarmBoard

	current atomic.Pointer[signing] // what signs; nil while nothing can
	crls    atomic.Pointer[CRLSet]
	jwt     atomic.Pointer[jwtKeys]    // nil before there are any
	shown   atomic.Pointer[shownRoots] // what Status shows of roots

	denyMu sync.Mutex // one reading of the deny list at a time: an older one must not end last

	mu      sync.Mutex // one change at a time; guards what follows
	roots   *roots     // nil with a plugged-in authority
	signers []ownIssuer
	signerV int64      // version of the document that signers came from
	plugged *pluggedCA // nil with roots of its own

	concerned concernedCertificates
	crlMemory crlMemory
	// registered are the issuers of this replica, by name, whose registration this process has completed.
	registered map[string]bool
	descents   map[descent]struct{}
}

// Load opens the authority that exists. It never makes one, and names the state it finds instead:
//
//   - nothing was ever made here: [ErrNotInitialised];
//   - certificates were issued but the roots are gone: [ErrStateLost];
//   - the keys do not open: [ErrSealed]; they open and do not fit: [ErrCorrupt];
//   - there are roots and no intermediate of this replica, because it is new or its first start was cut short: one is
//     made, if the root's key is at hand;
//   - the intermediate is about to end, or its ledger entry was never finished: the same start completes it;
//   - other intents have no outcome: those that are old enough are ended as failed, by this start or by Run;
//   - nothing can sign, because the clock is wrong or the root's key is needed and elsewhere: Load succeeds, an alarm
//     says so, and Issue answers [ErrNotReady].
func Load(ctx context.Context, c Config) (*Authority, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Authority{cfg: c, deny: &DenyList{}, blocked: make(map[[32]byte]struct{}, len(c.BlockedKeys))}
	for _, k := range c.BlockedKeys {
		a.blocked[k] = struct{}{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.Plugged != "" {
		err = a.loadPlugged(ctx)
	} else {
		err = a.loadOwn(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("load the authority of %s: %w", c.TrustDomain.TrustDomain(), err)
	}
	if err := a.lookAfter(ctx); err != nil {
		return nil, fmt.Errorf("load the authority of %s: %w", c.TrustDomain.TrustDomain(), err)
	}
	return a, nil
}

func (a *Authority) loadOwn(ctx context.Context) error {
	r, err := readRoots(ctx, a.cfg.Store, a.cfg.Keys, a.cfg.TrustDomain)
	if err != nil {
		return err
	}
	if r == nil {
		return whyNoRoots(ctx, a.cfg.Store)
	}
	a.roots = r
	return nil
}

// whyNoRoots tells a new installation from one that lost its keys.
func whyNoRoots(ctx context.Context, s Store) error {
	entries, _, err := s.Find(ctx, Query{Limit: 1})
	switch {
	case err != nil:
		return fmt.Errorf("read the ledger: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("%w, the last one for %s at %s: restore a backup of the store", ErrStateLost, entries[0].ID, entries[0].At.Format(time.RFC3339))
	default:
		return fmt.Errorf("%w: run writ ca init", ErrNotInitialised)
	}
}

// Run looks after the authority until ctx ends: it follows what other replicas change, renews the intermediate in time,
// keeps the deny list and the CRLs current, and ends as failed what a crash has left without an outcome ten minutes
// before. What fails is an alarm and is tried again.
func (a *Authority) Run(ctx context.Context) error {
	for {
		// A little jitter keeps replicas apart.
		wait := time.NewTimer(a.cfg.Every - rand.N(a.cfg.Every/8+1)) //nolint:gosec // nobody gains from guessing it
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
		round, cancel := context.WithTimeout(ctx, roundTime)
		err := a.Maintain(round)
		cancel()
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.WarnContext(ctx, "looking after the authority failed, to be tried again", "error", err)
		}
	}
}

// Maintain is one round of [Authority.Run].
func (a *Authority) Maintain(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.follow(ctx); err != nil {
		a.alarms.raise(AlarmState, err.Error(), a.cfg.Now())
		return err
	}
	return a.lookAfter(ctx)
}

// follow reads what may have changed since: the roots, which are shared.
func (a *Authority) follow(ctx context.Context) error {
	if a.roots == nil {
		return nil // a plugged-in authority changes on Reload
	}
	r, err := readRoots(ctx, a.cfg.Store, a.cfg.Keys, a.cfg.TrustDomain)
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("%w: %s is gone", ErrStateLost, docRoots)
	}
	a.roots = r
	return nil
}

// lookAfter brings everything that follows from the roots and the store up to date. Callers hold mu.
func (a *Authority) lookAfter(ctx context.Context) error {
	a.alarms.clear(AlarmState)
	errs := []error{a.refreshDenyList(ctx)}
	if a.roots != nil {
		errs = append(errs, a.refreshSigner(ctx))
	}
	errs = append(errs, a.refreshJWTKeys(ctx))
	if err := a.refreshCRLs(ctx); err != nil { // an alarm: without CRLs, certificates are still issued and denied
		a.cfg.Log.WarnContext(ctx, "no new CRLs", "error", err)
	}
	if err := a.endOpen(ctx); err != nil { // it can wait
		a.alarms.raise(AlarmLedger, err.Error(), a.cfg.Now())
		a.cfg.Log.WarnContext(ctx, "the ledger's loose ends stay", "error", err)
	}
	a.show()
	a.watchLives()
	err := errors.Join(errs...)
	if err != nil {
		a.alarms.raise(AlarmState, err.Error(), a.cfg.Now())
	}
	return err
}

// Bundle is what the trust domain trusts now; nil while there is no signer.
func (a *Authority) Bundle() *Bundle {
	if s := a.current.Load(); s != nil {
		return s.bundle
	}
	return nil
}

// Issuer names what signs now, as Issued.Issuer and the ledger do; empty while nothing can.
func (a *Authority) Issuer() string {
	if s := a.current.Load(); s != nil {
		return s.name
	}
	return ""
}

// Deny is the deny list. It stays the same value for the life of the authority.
func (a *Authority) Deny() *DenyList { return a.deny }

// TrustDomain is the trust domain the authority issues for.
func (a *Authority) TrustDomain() spiffeid.ID { return a.cfg.TrustDomain }

// Ready says why the authority cannot issue, if it cannot: readiness means that there is a signer which is valid now and
// whose root is in the bundle, and that the store answers (identity §5.3).
func (a *Authority) Ready(ctx context.Context) error {
	s := a.current.Load()
	if s == nil {
		return fmt.Errorf("%w: it has no signing certificate", ErrNotReady)
	}
	now := a.cfg.Now()
	if now.Before(s.issuer.NotBefore) || !now.Before(s.issuer.NotAfter) {
		return fmt.Errorf("%w: its certificate is valid from %s to %s, and the clock says %s", ErrNotReady,
			s.issuer.NotBefore.Format(time.RFC3339), s.issuer.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if _, _, err := a.cfg.Store.Find(ctx, Query{Limit: 1}); err != nil {
		return fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return nil
}
