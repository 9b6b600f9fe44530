package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

// Defaults of a [Config].
const (
	DefaultAlarmPart = 4
	DefaultCallTime  = 15 * time.Second
)

const (
	maxAuthorities = 16
	maxIdentities  = 1024
	mostTTL        = 90 * 24 * time.Hour
)

// Config says what an Agent holds and whom it asks. TrustDomain, Authorities, BundleFile and Vault are required.
type Config struct {
	TrustDomain spiffeid.ID // without a path
	// ID is the agent's own identity. Zero is the one that its proof stands for: the first of a join token, or the service
	// account's.
	ID spiffeid.ID
	// Identities are those that workloads may get from here, each with a key of its own. The agent's own identity may be one
	// of them.
	Identities []spiffeid.ID

	// Authorities are host:port, in the order in which they are tried. The one that answered last is asked first.
	Authorities []string
	ServerName  string      // what the authorities' certificates have to say; the dialled host if empty
	ServerID    spiffeid.ID // their SPIFFE ID, instead of a name; zero to go by the name
	// BundleFile has the roots, PEM, by which the authorities are known until a bundle came from one of them. A file that
	// was replaced counts again: see [Agent.Run].
	BundleFile string

	JoinTokenFile string // good for one key; removed once there is an answer
	TokenFile     string // a service account token, read for every call that needs it

	// StateDir keeps the agent's own certificate, its key and the newest bundle over a restart; empty keeps nothing.
	StateDir string

	TTL       time.Duration // to ask for, in whole seconds; 0 leaves it to the authority
	AlarmPart int           // one in so many parts of a life left without a renewal raises the alarm
	CallTime  time.Duration // for one call, dialling included

	Vault *sds.Vault
	// Consumers lists whom the vault is served to: the authority hears that a bundle is in force once they all have it. Nil
	// if there is nobody to wait for.
	Consumers func() []sds.Consumer

	// Dial connects to an authority; nil for TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Observe func(Event)  // called after each attempt at a certificate; nil for nobody
	Logger  *slog.Logger // nil discards
}

// checked returns cfg with its defaults, or what is wrong with it.
func (cfg Config) checked() (Config, error) {
	switch {
	case cfg.TrustDomain.IsZero() || cfg.TrustDomain.Path() != "":
		return cfg, fmt.Errorf("trust domain %q: want one, without a path", cfg.TrustDomain)
	case cfg.Vault == nil:
		return cfg, errors.New("a Vault is required")
	case cfg.BundleFile == "":
		return cfg, errors.New("a BundleFile is required: without roots no authority can be told from an impostor")
	case len(cfg.Authorities) == 0 || len(cfg.Authorities) > maxAuthorities:
		return cfg, fmt.Errorf("%d authorities: want 1 to %d", len(cfg.Authorities), maxAuthorities)
	case len(cfg.Identities) > maxIdentities:
		return cfg, fmt.Errorf("%d identities: want at most %d", len(cfg.Identities), maxIdentities)
	case cfg.JoinTokenFile != "" && cfg.TokenFile != "":
		return cfg, errors.New("a join token and a service account token: want one of them")
	case cfg.JoinTokenFile == "" && cfg.TokenFile == "" && cfg.StateDir == "":
		return cfg, errors.New("no proof of identity: want a join token, a service account token, or a state that has a certificate")
	case cfg.TTL < 0 || cfg.TTL > mostTTL || cfg.TTL%time.Second != 0:
		return cfg, fmt.Errorf("TTL %v: want whole seconds, 0s to %v", cfg.TTL, mostTTL)
	case cfg.AlarmPart < 0 || cfg.AlarmPart == 1:
		return cfg, fmt.Errorf("alarm part %d: want 2 or more, 0 for %d", cfg.AlarmPart, DefaultAlarmPart)
	case cfg.CallTime < 0:
		return cfg, fmt.Errorf("call time %v: want more than 0s", cfg.CallTime)
	}
	for _, address := range cfg.Authorities {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return cfg, fmt.Errorf("authority %q: want host:port", address)
		}
	}
	for _, id := range append([]spiffeid.ID{cfg.ID}, cfg.Identities...) {
		if err := checkWanted(id, cfg.TrustDomain); !id.IsZero() && err != nil {
			return cfg, err
		}
	}
	cfg.Authorities, cfg.Identities = slices.Clone(cfg.Authorities), slices.Clone(cfg.Identities)
	cfg.AlarmPart = cmp.Or(cfg.AlarmPart, DefaultAlarmPart)
	cfg.CallTime = cmp.Or(cfg.CallTime, DefaultCallTime)
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Event) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// checkWanted refuses identities that no authority would certify.
func checkWanted(id, domain spiffeid.ID) error {
	switch {
	case id.TrustDomain() != domain.TrustDomain():
		return fmt.Errorf("identity %q: not of the trust domain %s", id, domain.TrustDomain())
	case id.Path() == "":
		return fmt.Errorf("identity %s: names the trust domain, not a workload: want a path", id)
	}
	return nil
}
