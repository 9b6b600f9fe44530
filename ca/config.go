package ca

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	defaultRootLife         = 10 * 365 * 24 * time.Hour
	defaultIntermediateLife = 30 * 24 * time.Hour
	defaultCRLLife          = 24 * time.Hour
	defaultEvery            = 10 * time.Second
	maxReplica              = 64
)

// Config is what an authority needs. TrustDomain, Store and Keys are required.
type Config struct {
	TrustDomain spiffeid.ID
	Store       Store
	Keys        *Keyring

	// Replica names this authority among those that share the store: each signs with its own intermediate. Default
	// "main"; two that run at once must not have the same.
	Replica string
	// Plugged is the directory of a certificate authority that somebody else runs, in Istio's cacerts or in Kubernetes'
	// tls layout. Empty: the authority makes its own roots.
	Plugged string
	// PluggedKey signs for a plugged-in authority whose key is in a device: the directory then needs no key file.
	PluggedKey crypto.Signer

	RootLife         time.Duration // default 10 years
	IntermediateLife time.Duration // default 30 days; renewed when a third is left
	CRLLife          time.Duration // from thisUpdate to nextUpdate, default 24h; a new one is made at half of it
	Every            time.Duration // how often Run looks after things, default 10s

	// JWT makes keys for JWT-SVIDs and mints them; JWTIssuer is their iss, the URL where the keys can be discovered
	// (OpenID Connect Discovery 1.0 §4), or empty.
	JWT       bool
	JWTIssuer string

	Evidence    Evidence   // who follows the bundle; without it a rotation goes by the ledger alone
	BlockedKeys [][32]byte // KeyHash of keys that are known to be bad

	Now func() time.Time // default time.Now
	Log *slog.Logger     // default: none
}

// withDefaults fills and checks a copy.
func (c Config) withDefaults() (Config, error) {
	if c.TrustDomain.IsZero() || c.TrustDomain.Path() != "" {
		return c, fmt.Errorf("authority: trust domain %q: want one without a path", c.TrustDomain)
	}
	if c.Store == nil {
		return c, errors.New("authority: a store is required")
	}
	if c.Keys == nil {
		return c, errors.New("authority: a keyring is required: a passphrase, or plaintext keys by name")
	}
	if c.Replica == "" {
		c.Replica = "main"
	}
	if len(c.Replica) > maxReplica || !isHostname(c.Replica) {
		return c, fmt.Errorf("authority: replica %.100q: want a host name in lower case of at most %d bytes", c.Replica, maxReplica)
	}
	for _, d := range []struct {
		name    string
		value   *time.Duration
		usual   time.Duration
		atLeast time.Duration
	}{
		{"root life", &c.RootLife, defaultRootLife, time.Minute},
		{"intermediate life", &c.IntermediateLife, defaultIntermediateLife, time.Minute},
		{"CRL life", &c.CRLLife, defaultCRLLife, time.Minute},
		{"interval", &c.Every, defaultEvery, time.Second / 10},
	} {
		if *d.value == 0 {
			*d.value = d.usual
		}
		if *d.value < d.atLeast {
			return c, fmt.Errorf("authority: %s %v: want at least %v", d.name, *d.value, d.atLeast)
		}
	}
	if c.IntermediateLife > c.RootLife {
		return c, fmt.Errorf("authority: intermediate life %v is longer than the root's %v", c.IntermediateLife, c.RootLife)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
