package ca

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// CallerServer is the caller, in the ledger, of the certificate that an authority's own server shows. No attestor has
// callers by that method, so that nobody else's certificate is taken for one.
const CallerServer = "authority:server"

// Evidence tells who follows the bundle. Servers that distribute it implement this.
type Evidence interface {
	// Consumers lists everyone who is known to follow the bundle, with the version each acknowledged last. The workloads of
	// an identity that has consumers are all taken to be among them. An error holds a rotation up: nobody knows then who
	// would be cut off.
	Consumers(ctx context.Context) ([]Consumer, error)
}

// Consumer is one follower of the bundle.
type Consumer struct {
	Name   string      // for people: an address, a node
	ID     spiffeid.ID // whom it serves; zero if unknown
	Bundle int64       // version it acknowledged last, 0 = none
}

// Dependent is someone who still depends on what a step of a rotation would take away.
type Dependent struct {
	Kind   string // certificate, consumer, replica, evidence
	Name   string
	Detail string
}

// ErrDependents says that somebody still depends on the old state; errors.As with a *DependentsError tells who.
var ErrDependents = errors.New("still in use")

const (
	maxDependents = 100
	// settle is how far the clocks of replicas may be apart for a step to be seen everywhere in order.
	settle = 2 * time.Second
)

// DependentsError is the evidence against a step: an override goes on nevertheless.
type DependentsError struct {
	Step       string
	Dependents []Dependent // at most 100
	More       int         // beyond those
}

// Error lists the first few.
func (e *DependentsError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v by %d:", e.Step, ErrDependents, len(e.Dependents)+e.More)
	for i, d := range e.Dependents {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(e.Dependents)+e.More-i)
			break
		}
		fmt.Fprintf(&b, " %s %s (%s);", d.Kind, d.Name, d.Detail)
	}
	return strings.TrimSuffix(b.String(), ";")
}

// Is makes every DependentsError an [ErrDependents].
func (e *DependentsError) Is(target error) bool { return target == ErrDependents }

// permit lets a step pass if nobody depends on what it takes away, or if whoever asks overrides that: then the audit has
// it first.
func (a *Authority) permit(ctx context.Context, step string, o StepOptions, found []Dependent) error {
	if len(found) == 0 {
		return nil
	}
	e := &DependentsError{Step: step, Dependents: found}
	if len(found) > maxDependents {
		e.Dependents, e.More = found[:maxDependents], len(found)-maxDependents
	}
	if !o.Override {
		return e
	}
	return audit(ctx, a.cfg, o.By, "override", map[string]any{
		"step": step, "reason": o.Reason, "dependents": len(found), "first": e.Dependents[:min(len(e.Dependents), 20)],
	})
}

// issuersUnder names the issuers of leaves, of all replicas, that a root signed.
func (a *Authority) issuersUnder(ctx context.Context, root *x509.Certificate) (names []string, replicas map[string]bool, err error) {
	doc, _, err := readDoc[issuersDoc](ctx, a.cfg.Store, docIssuers)
	if err != nil {
		return nil, nil, err
	}
	replicas = map[string]bool{}
	for _, k := range doc.Issuers {
		c, err := x509.ParseCertificate(k.Certificate)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s: %v", ErrCorrupt, docIssuers, err)
		}
		if a.isUnder(c, root) {
			names = append(names, issuerName(c))
			replicas[k.Replica] = true
		}
	}
	return names, replicas, nil
}

// count is how many leaves each identity has under some issuers, decided in some time. Those that authorities' own servers
// show are left out, see serversUnder.
func (a *Authority) count(ctx context.Context, issuers []string, q Query, into map[spiffeid.ID]int) error {
	for _, issuer := range issuers {
		q.Issuer = issuer
		err := everyEntry(ctx, a.cfg.Store, q, func(e Entry) bool {
			if e.State == StateIssued && e.Profile != profileIntermediate && e.Caller != CallerServer {
				into[e.ID]++
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// liveUnder lists who has live leaves under some issuers.
func (a *Authority) liveUnder(ctx context.Context, issuers []string) ([]Dependent, error) {
	live := map[spiffeid.ID]int{}
	if err := a.count(ctx, issuers, Query{LiveAt: a.cfg.Now()}, live); err != nil {
		return nil, err
	}
	var out []Dependent
	for id, n := range live {
		out = append(out, Dependent{"certificate", id.String(), fmt.Sprintf("%d live under the old issuer", n)})
	}
	return sorted(out), nil
}

// serversUnder lists the replicas whose server still shows a certificate of some issuers. A server makes itself a new one
// as soon as the issuer or the bundle is another, and then nobody sees the one before: of each replica the newest counts,
// and the others, though they live on, are no evidence. Replicas are told apart by what signed: each has its own issuers.
func (a *Authority) serversUnder(ctx context.Context, issuers []string) ([]Dependent, error) {
	doc, _, err := readDoc[issuersDoc](ctx, a.cfg.Store, docIssuers)
	if err != nil {
		return nil, err
	}
	replicas := map[string]string{}
	for _, k := range doc.Issuers {
		if c, err := x509.ParseCertificate(k.Certificate); err == nil {
			replicas[issuerName(c)] = k.Replica
		}
	}
	now := a.cfg.Now()
	var out []Dependent
	seen := map[string]bool{}
	// Newest first, as far back as a leaf can live.
	err = everyEntry(ctx, a.cfg.Store, Query{Caller: CallerServer, LiveAt: now, After: now.Add(-mostTTL - skew)}, func(e Entry) bool {
		replica := cmp.Or(replicas[e.Issuer], "with the issuer "+e.Issuer)
		if !seen[replica] && slices.Contains(issuers, e.Issuer) {
			out = append(out, Dependent{"replica", replica, "its server shows a certificate of the old issuer until it makes itself a new one"})
		}
		seen[replica] = true
		return true
	})
	return out, err
}

// notRenewed lists identities that hold more live leaves from before a moment than were issued to them since: somebody
// who has one has not come back for another. Agents that learn roots only with their certificates (identity §5.2) have
// the new state exactly when they have come back.
//
// Old and now are the issuers, step the time of the step that changed the state. What was issued shortly after it may
// still be of the old one: another replica may not have looked yet.
func (a *Authority) notRenewed(ctx context.Context, old, now []string, step time.Time) (map[spiffeid.ID]string, error) {
	before, after := map[spiffeid.ID]int{}, map[spiffeid.ID]int{}
	since := step.Add(2*a.cfg.Every + settle)
	if err := a.count(ctx, old, Query{LiveAt: a.cfg.Now(), Before: since}, before); err != nil {
		return nil, err
	}
	if err := a.count(ctx, now, Query{After: since}, after); err != nil {
		return nil, err
	}
	out := map[spiffeid.ID]string{}
	for id, n := range before {
		if n > after[id] {
			out[id] = fmt.Sprintf("%d live from before %s, %d issued since", n, since.UTC().Format(time.RFC3339), after[id])
		}
	}
	return out, nil
}

// behind lists the consumers that lack a version of the bundle, and the identities all of whose consumers have it.
func (a *Authority) behind(ctx context.Context, version int64) (late []Dependent, served map[spiffeid.ID]bool) {
	served = map[spiffeid.ID]bool{}
	if a.cfg.Evidence == nil {
		return nil, served
	}
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	consumers, err := a.cfg.Evidence.Consumers(ctx)
	if err != nil {
		return []Dependent{{"evidence", "consumers", fmt.Sprintf("it is not known who follows the bundle: %v", err)}}, served
	}
	for _, c := range consumers {
		if _, known := served[c.ID]; !known {
			served[c.ID] = true
		}
		if c.Bundle < version {
			served[c.ID] = false
			late = append(late, Dependent{"consumer", c.Name, fmt.Sprintf("has bundle %d, and lacks the new root, which came with %d", c.Bundle, version)})
		}
	}
	return sorted(late), served
}

func sorted(list []Dependent) []Dependent {
	slices.SortFunc(list, func(x, y Dependent) int {
		return strings.Compare(x.Kind+" "+x.Name, y.Kind+" "+y.Name)
	})
	return list
}
