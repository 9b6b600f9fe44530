package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// lookEvery is how long the agent sleeps at most: timers stand still while a machine is suspended, its clock does not.
const lookEvery = 15 * time.Second

// Agent holds identities and keeps them current. It is safe for concurrent use.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	state *state
	trust *trust
	links *links
	nudge chan struct{} // of one: something changed that may make a renewal due

	renewed chan struct{} // of one: the agent has a new certificate of its own
	joining *joining      // whoever runs attempt has it to itself

	olderSince time.Time // since when authorities have offered older bundles only; of the goroutine that follows

	mu        sync.Mutex // guards what follows
	own       *keeper
	others    map[spiffeid.ID]*keeper
	wanted    []spiffeid.ID
	usedToken string // SHA-256 in hex of the last join token that was answered
	authority string // that answered last
	outages   int    // in a row
	paused    time.Time
	alive     time.Time // when the loop was last at work
	stateErr  error     // what is wrong with the saved certificate
	following followStatus
}

// keeper is one identity: what there is of it, and when to get more. The agent's mutex guards it.
type keeper struct {
	id       spiffeid.ID // zero for the agent's own while nobody said
	now      *held       // nil while there is none
	due      time.Time   // for the next attempt
	why      string      // it is due then
	failures int         // in a row
	err      error       // of the last attempt
	errTime  time.Time
	level    alarmLevel // that was logged
	forced   bool       // the next renewal is for the sake of the root
}

// New reads the state and puts what is good of it in the vault. It asks nobody. What is wrong with the state's files is
// logged and shown, and the agent goes on as if they were not there; a state that cannot be used at all is an error.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger, nudge: make(chan struct{}, 1), renewed: make(chan struct{}, 1), own: &keeper{id: cfg.ID, why: "start"},
		others: map[spiffeid.ID]*keeper{}, alive: time.Now(),
	}
	if cfg.StateDir != "" {
		if a.state, err = openState(cfg.StateDir); err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
	}
	a.trust = &trust{domain: cfg.TrustDomain, file: cfg.BundleFile, vault: cfg.Vault, state: a.state, log: a.log}
	a.links = newLinks(&a.cfg, a.trust)
	a.load()
	a.SetIdentities(cfg.Identities)
	return a, nil
}

// load takes from the state what can be used.
func (a *Agent) load() {
	a.trust.load()
	own, used, err := a.state.loadIdentity(a.cfg.TrustDomain, a.cfg.ID)
	a.usedToken = used
	a.resumeJoin(used)
	if err != nil {
		a.problem(fmt.Errorf("the saved certificate cannot be used, a token is needed: %w", err))
		return
	}
	if own == nil {
		return
	}
	now := time.Now()
	a.own.id, a.own.now = own.identity.ID, own
	// Its half life goes on from when it was received, and a new process renews no earlier for being new.
	a.own.due, a.own.why = own.received.Add(renewalAfter(own.life(), chance())), whyHalfLife
	if token, err := readToken(a.cfg.JoinTokenFile); err == nil && token != "" && hashOf([]byte(token)) != used {
		a.own.due, a.own.why = now, "a new join token"
	}
	if b := a.trust.bundle(); b == nil || !own.verifies(b, now) {
		a.own.due, a.own.why = now, whyRoot
	}
	a.log.Info("certificate from the state", "id", own.identity.ID, "not_after", own.notAfter(), "renewal", a.own.due)
}

// problem keeps what is wrong with the saved certificate for status, nil for nothing, and logs it when it is new.
func (a *Agent) problem(err error) {
	a.mu.Lock()
	before := a.stateErr
	a.stateErr = err
	a.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		a.log.Error("the agent's state", "error", err)
	}
}

// Close lets go of the state. Call it once Run has returned, or instead of it.
func (a *Agent) Close() error {
	a.links.closeAll()
	return a.state.close()
}

// Run keeps every identity current until ctx ends: renewed at half of its life, with a new key, and at once, spread by
// jitter, where the root of its chain is about to go. It follows the bundle of the authority that answers. It returns nil.
//
// What fails is tried again for ever, by exponential backoff with full jitter. A certificate that ended is no reason to
// stop: the authority may still know it, a new join token may be put into its file, and roots into the bundle's.
func (a *Agent) Run(ctx context.Context) error {
	var following sync.WaitGroup
	following.Go(func() { a.follow(ctx) })
	defer following.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.nudge:
		case <-timer.C:
		}
		for ctx.Err() == nil {
			now := time.Now()
			k, wait := a.next(now)
			if wait <= 0 {
				a.attempt(ctx, k)
				continue
			}
			a.raiseAlarms(now)
			timer.Reset(min(wait, lookEvery))
			break
		}
	}
}

// SetIdentities says which identities workloads may get from now on. Those that are new are asked for at once; others are
// forgotten.
func (a *Agent) SetIdentities(ids []spiffeid.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted = slices.Compact(slices.SortedFunc(slices.Values(ids), compareIDs))
	for _, id := range a.wanted {
		if a.others[id] == nil {
			a.others[id] = &keeper{id: id, why: "start"}
		}
	}
	for _, id := range slices.Collect(maps.Keys(a.others)) {
		if !slices.Contains(a.wanted, id) {
			delete(a.others, id)
			a.cfg.Vault.RemoveIdentity(id)
		}
	}
	a.shareOwn()
	a.wake()
}

// shareOwn gives workloads the agent's own certificate where its identity is one of theirs: there is no second one.
func (a *Agent) shareOwn() {
	own := a.own.now
	if own == nil || a.others[a.own.id] == nil {
		return
	}
	a.others[a.own.id].now = nil
	if own.endsBefore(time.Now()) {
		return
	}
	if err := a.cfg.Vault.SetIdentity(own.identity); err != nil { // checked when it was received
		a.log.Error("the agent's own certificate cannot be served", "error", err)
	}
}

func (a *Agent) wake() {
	select {
	case a.nudge <- struct{}{}:
	default:
	}
}

// next is the identity to ask for next, and how long until then. The agent's own comes first: the others are asked for
// with it.
func (a *Agent) next(now time.Time) (*keeper, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.alive = now
	first := a.own
	if own := a.own.now; own != nil && !own.endsBefore(now) {
		for _, k := range a.others {
			if k.id != a.own.id && k.before(first, now) {
				first = k
			}
		}
	}
	at := first.due
	if a.paused.After(at) {
		at = a.paused
	}
	return first, at.Sub(now)
}

// before says which of two is more urgent: of those that are due, the one that ends first.
func (k *keeper) before(other *keeper, now time.Time) bool {
	if k.due.After(now) || other.due.After(now) {
		return k.due.Before(other.due)
	}
	if other.now == nil || k.now == nil {
		return k.now == nil && other.now != nil
	}
	return k.now.notAfter().Before(other.now.notAfter())
}

// bundleChanged renews what is under a root that is gone or about to go.
func (a *Agent) bundleChanged() {
	b, now := a.trust.bundle(), time.Now()
	if b == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, k := range a.keepers() {
		if k.now != nil && !k.now.verifies(b, now) {
			k.hurry(now)
		}
	}
	a.wake()
}

// hurry makes a renewal due at once, but spread.
func (k *keeper) hurry(now time.Time) {
	at := now.Add(spread(k.now.notAfter().Sub(now), chance()))
	if k.due.After(at) {
		k.due, k.why = at, whyRoot
	}
	k.forced = true
}

// keepers are those that have a certificate of their own, the agent's own first.
func (a *Agent) keepers() []*keeper {
	list := []*keeper{a.own}
	for _, id := range slices.SortedFunc(maps.Keys(a.others), compareIDs) {
		if k := a.others[id]; k.id != a.own.id {
			list = append(list, k)
		}
	}
	return list
}

// ownCertificate is what the agent proves itself by, nil if there is none that is good.
func (a *Agent) ownCertificate() *held {
	a.mu.Lock()
	defer a.mu.Unlock()
	if own := a.own.now; own != nil && !own.endsBefore(time.Now()) {
		return own
	}
	return nil
}

func compareIDs(a, b spiffeid.ID) int {
	switch {
	case a == b:
		return 0
	case a.String() < b.String():
		return -1
	default:
		return 1
	}
}

var errNoOwn = errors.New("the agent has no certificate of its own to ask with")
