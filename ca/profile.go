package ca

import (
	"errors"
	"fmt"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	defaultTTL = time.Hour
	maximumTTL = 24 * time.Hour
	usualMin   = time.Minute
	// leastTTL is the shortest lifetime a profile may be set to, for drills.
	leastTTL = 10 * time.Second
	// mostTTL is the longest lifetime a profile may be set to: longer is no longer a workload's certificate.
	mostTTL = 90 * 24 * time.Hour
	// backdate is how far before its issuing a certificate becomes valid, for clients whose clock is behind
	// (identity §1.2, §11 surprise 12).
	backdate = 2 * time.Minute
)

// ProfileConfig describes a kind of leaf certificate. Only TrustDomain is required.
type ProfileConfig struct {
	Name        string // for the ledger; default "workload"
	TrustDomain spiffeid.ID
	DefaultTTL  time.Duration // for requests that ask for none; default 1h
	MaxTTL      time.Duration // longer requests are cut to this; default 24h
	// MinTTL is what shorter requests are raised to. Default one minute, or DefaultTTL or MaxTTL if those are less; at
	// least 10s.
	MinTTL time.Duration
	// AllowP521 and AllowEd25519 admit keys that some Envoys do not load.
	AllowP521    bool
	AllowEd25519 bool
}

// Profile is a checked [ProfileConfig]. It decides everything in a certificate that is not the identity or the key.
type Profile struct {
	name            string
	trustDomain     spiffeid.ID
	ttl, min, max   time.Duration
	p521, ed25519Ok bool
}

// NewProfile checks a configuration and fills its defaults.
func NewProfile(c ProfileConfig) (*Profile, error) {
	p := &Profile{
		name: c.Name, trustDomain: c.TrustDomain, ttl: c.DefaultTTL, min: c.MinTTL, max: c.MaxTTL,
		p521: c.AllowP521, ed25519Ok: c.AllowEd25519,
	}
	if p.name == "" {
		p.name = "workload"
	}
	if p.name == profileRoot || p.name == profileIntermediate {
		return nil, fmt.Errorf("profile %q: the name is reserved for the authority's own certificates", p.name)
	}
	if p.trustDomain.IsZero() || p.trustDomain.Path() != "" {
		return nil, fmt.Errorf("profile %q: trust domain %q: want one without a path", p.name, p.trustDomain)
	}
	if p.max == 0 {
		p.max = max(maximumTTL, p.ttl)
	}
	if p.ttl == 0 {
		p.ttl = min(defaultTTL, p.max)
	}
	if p.min == 0 {
		p.min = min(usualMin, p.ttl)
	}
	return p, errors.Join(
		p.inRange("minimum", p.min, leastTTL, p.max),
		p.inRange("default", p.ttl, p.min, p.max),
		p.inRange("maximum", p.max, p.min, mostTTL),
	)
}

// Name is the profile's name in the ledger.
func (p *Profile) Name() string { return p.name }

func (p *Profile) inRange(what string, d, least, most time.Duration) error {
	if d < least || d > most || d%time.Second != 0 {
		return fmt.Errorf("profile %q: %s lifetime %v: want whole seconds from %v to %v", p.name, what, d, least, most)
	}
	return nil
}
