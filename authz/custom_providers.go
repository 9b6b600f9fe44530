package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Defaults and bounds of a [ProviderConfig].
const (
	DefaultProviderTimeout = time.Second
	MaxProviderTimeout     = 10 * time.Minute // what Istio waits without a timeout
	DefaultMaxConcurrent   = 256
	MaxMaxConcurrent       = 64 << 10
)

// ProviderConfig is one provider with what it is trusted with. Name and Provider are required; every other zero value
// is a safe default.
type ProviderConfig struct {
	Name     string // by which CUSTOM policies name it: a DNS label
	Provider Provider

	// Timeout of one question, default DefaultProviderTimeout. A caller in more of a hurry gets its answer sooner.
	Timeout time.Duration
	// FailOpen lets requests go on to the other layers while the provider gives no answer.
	FailOpen bool
	// StatusOnError is the HTTP status of a request that is denied because the provider gave no answer, 0 for 403.
	StatusOnError int
	// MaxConcurrent is how many questions may be open at a time, default DefaultMaxConcurrent. Another one is
	// answered at once: ReasonProviderOverload.
	MaxConcurrent int
	// AllowHeaders are request headers that the provider may change although providers may not (see [Changeable]).
	AllowHeaders []string
	// HTTPOnly is set for a provider that cannot judge TCP connections: those that ask for it are denied.
	HTTPOnly bool
}

// Providers are the providers that CUSTOM policies may name. They are safe for concurrent use.
type Providers struct{ byName map[string]*delegate }

// NewProviders checks the configurations. log hears of providers that fail; nil discards.
func NewProviders(log *slog.Logger, configs ...ProviderConfig) (*Providers, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Providers{byName: make(map[string]*delegate, len(configs))}
	for _, cfg := range configs {
		d, err := newDelegate(cfg, log)
		if err != nil {
			return nil, err
		}
		if p.byName[cfg.Name] != nil {
			return nil, fmt.Errorf("authz: two providers are named %q", cfg.Name)
		}
		p.byName[cfg.Name] = d
	}
	return p, nil
}

// Names lists the providers.
func (p *Providers) Names() []string {
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.byName))
}

// InFlight is how many questions to a provider are open.
func (p *Providers) InFlight(name string) int {
	if d := p.lookup(name); d != nil {
		return int(d.inFlight.Load())
	}
	return 0
}

func (p *Providers) lookup(name string) *delegate {
	if p == nil {
		return nil
	}
	return p.byName[name]
}

// delegate is one provider behind its gate.
type delegate struct {
	ProviderConfig
	log      *slog.Logger
	inFlight atomic.Int64
	warnAt   atomic.Int64  // Unix nanoseconds before which no failure is logged again
	unheard  atomic.Uint64 // failures since the last one that was logged
}

func newDelegate(cfg ProviderConfig, log *slog.Logger) (*delegate, error) {
	switch {
	case !IsProviderName(cfg.Name):
		return nil, fmt.Errorf("authz: provider %q: want a DNS label: lower-case letters, digits and inner dashes, at most 63", cfg.Name)
	case cfg.Provider == nil:
		return nil, fmt.Errorf("authz: provider %q: Provider is required", cfg.Name)
	case cfg.Timeout < 0 || cfg.Timeout > MaxProviderTimeout:
		return nil, fmt.Errorf("authz: provider %q: timeout %v: want more than 0, at most %v", cfg.Name, cfg.Timeout, MaxProviderTimeout)
	case cfg.StatusOnError != 0 && !IsProviderStatus(cfg.StatusOnError):
		return nil, fmt.Errorf("authz: provider %q: status on error %d: want 200 to 599", cfg.Name, cfg.StatusOnError)
	case cfg.MaxConcurrent < 0 || cfg.MaxConcurrent > MaxMaxConcurrent:
		return nil, fmt.Errorf("authz: provider %q: max concurrent %d: want 1 to %d", cfg.Name, cfg.MaxConcurrent, MaxMaxConcurrent)
	}
	cfg.AllowHeaders = slices.Clone(cfg.AllowHeaders)
	for i, name := range cfg.AllowHeaders {
		if err := Changeable(name); err != nil {
			return nil, fmt.Errorf("authz: provider %q: allow headers: %w", cfg.Name, err)
		}
		cfg.AllowHeaders[i] = strings.ToLower(name)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultProviderTimeout)
	cfg.StatusOnError = cmp.Or(cfg.StatusOnError, http.StatusForbidden)
	cfg.MaxConcurrent = cmp.Or(cfg.MaxConcurrent, DefaultMaxConcurrent)
	return &delegate{ProviderConfig: cfg, log: log.With("provider", cfg.Name)}, nil
}

// IsProviderName reports whether policies can name a provider so (authorization-policy §4.4: a DNS label).
func IsProviderName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// IsProviderStatus reports whether a provider may answer a client with this HTTP status.
func IsProviderStatus(status int) bool { return status >= 200 && status <= 599 }

// ask puts one question within its time and its place in the gate. Whatever goes wrong is a Fault.
func (g *delegate) ask(ctx context.Context, q *Question, a *Answer) *Fault {
	if q.Request.TCP && g.HTTPOnly {
		return &Fault{ReasonProviderHTTPOnly, errors.New("the provider judges HTTP requests and this is a TCP connection: " +
			"limit the CUSTOM policy by ports, or use a gRPC or an OPA provider")}
	}
	if g.inFlight.Add(1) > int64(g.MaxConcurrent) {
		g.inFlight.Add(-1)
		return &Fault{ReasonProviderOverload, fmt.Errorf("%d questions are open: max_concurrent", g.MaxConcurrent)}
	}
	defer g.inFlight.Add(-1)
	budget := g.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, withReserve(time.Until(deadline)))
	}
	if budget <= 0 {
		return &Fault{ReasonProviderTimeout, errors.New("no time is left of what the proxy grants: raise the timeout of its ext_authz filter")}
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	err := g.recovered(ctx, q, a)
	if err == nil {
		return nil
	}
	var fault *Fault
	switch {
	case errors.As(err, &fault):
		return fault
	case ctx.Err() != nil:
		return &Fault{ReasonProviderTimeout, fmt.Errorf("no answer within %v: %w", budget.Round(time.Millisecond), err)}
	}
	return &Fault{ReasonProviderError, err}
}

// withReserve leaves a tenth of the caller's time, 50 ms at most, for the rest of the decision and its way back: an
// answer that is late is none, and failure_mode_allow takes no answer for a yes.
func withReserve(left time.Duration) time.Duration { return left - min(left/10, 50*time.Millisecond) }

// recovered asks, and turns a panic into an error.
func (g *delegate) recovered(ctx context.Context, q *Question, a *Answer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("panic in a provider: denied", "decision_id", q.ID.String(), "panic", p, "stack", string(debug.Stack()))
			err = &Fault{ReasonProviderPanic, errors.New("panic, see the log")}
		}
	}()
	return g.Provider.Ask(ctx, q, a)
}

// opens reports whether a request goes on after this fault. What the request itself brings about never opens anything,
// or whoever sends it could choose to; nor does a provider that is broken in itself.
func (g *delegate) opens(f *Fault) bool {
	switch f.Reason {
	case ReasonProviderHTTPOnly, ReasonProviderBadRequest, ReasonProviderMemory, ReasonProviderPanic:
		return false
	}
	return g.FailOpen
}

// warnEvery is how often the failures of one provider are logged at most: each single one is in the decision log.
const warnEvery = 10 * time.Second

// warn logs a fault, unless another one of this provider was logged just now.
func (g *delegate) warn(q *Question, f *Fault, open bool) {
	now, next := time.Now().UnixNano(), g.warnAt.Load()
	if now < next || !g.warnAt.CompareAndSwap(next, now+int64(warnEvery)) {
		g.unheard.Add(1)
		return
	}
	effect := "denied"
	if open {
		effect = "FAILED OPEN: the request went on to the other layers"
	}
	g.log.Warn("a provider gave no answer", "effect", effect, "reason", string(f.Reason), "error", f.Err, "decision_id", q.ID.String(),
		"policy", q.Rule.Policy.String(), "more_since_last", g.unheard.Swap(0))
}
