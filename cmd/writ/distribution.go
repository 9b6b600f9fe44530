package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/sds"
)

// distribution serves what the trust domain trusts, and what it no longer does, to agents and proxies: SDS on the
// authority's own TLS listener. Private keys are no part of it: agents make their own. Who has acknowledged which bundle is
// the evidence that a root rotation asks for.
type distribution struct {
	authority *ca.Authority
	vault     sds.Vault
	server    *sds.Server
	log       *slog.Logger
	rights    distributionRights
}

// newDistribution prepares to serve; i.server, which proves who calls, may be made after it.
func (i *issuing) newDistribution() (*distribution, error) {
	d := &distribution{authority: i.authority, log: i.log, rights: distributionRights{deny: i.authority.Deny(), changed: make(chan struct{})}}
	var err error
	d.server, err = sds.New(sds.Config{
		Vault: &d.vault, Authorizer: &d.rights, TrustDomain: i.domain, Logger: i.log,
		Caller: func(ctx context.Context) (*sds.Caller, error) {
			id, notAfter, from, err := i.server.Caller(ctx)
			if err != nil {
				return nil, err
			}
			return &sds.Caller{ID: id, NotAfter: notAfter, Address: from.String()}, nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("secret discovery: %w", err)
	}
	i.evidence.from.Store(d.server.Inventory())
	return d, nil
}

// register adds the service to the authority's gRPC server.
func (d *distribution) register(r grpc.ServiceRegistrar) { d.server.Register(r) }

// run keeps the vault as the authority is, and its streams told, until ctx ends.
func (d *distribution) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.server.Run(ctx) })
	group.Go(func() error {
		d.follow(ctx)
		return nil
	})
	return group.Wait()
}

// follow publishes every change of roots, CRLs and keys of tokens.
func (d *distribution) follow(ctx context.Context) {
	ticker := time.NewTicker(bundleEvery)
	defer ticker.Stop()
	var last []byte
	var failed string
	for {
		if b := d.bundle(); b != nil {
			text, err := sds.EncodeBundle(b)
			if err == nil && !bytes.Equal(text, last) {
				err = d.vault.SetBundle(b)
			}
			switch {
			case err == nil && !bytes.Equal(text, last):
				last, failed = text, ""
				d.log.InfoContext(ctx, "bundle distributed", "version", b.Version, "roots", len(b.Roots), "tainted", len(b.Tainted), "crls", len(b.CRLs))
			case err != nil && err.Error() != failed:
				failed = err.Error()
				d.log.ErrorContext(ctx, "the bundle cannot be distributed, the last one stays", "version", b.Version, "error", err)
			}
		}
		d.rights.refresh()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// bundle is what the authority's trust domain trusts, nil while it has none.
func (d *distribution) bundle() *sds.Bundle {
	from := d.authority.Bundle()
	if from == nil {
		return nil
	}
	b := &sds.Bundle{TrustDomain: from.TrustDomain, Version: from.Version, RefreshHint: bundleHint}
	for _, r := range from.Roots {
		b.Roots = append(b.Roots, r.Certificate)
		if r.Tainted {
			b.Tainted = append(b.Tainted, r.Certificate)
		}
	}
	if set := d.authority.CRLs(); set != nil {
		for _, crl := range set.List {
			b.CRLs = append(b.CRLs, crl.DER)
		}
	}
	if keys := d.authority.JWTKeys(); keys != nil {
		b.JWTKeys = keys.JWKS
	}
	return b
}

// bundleHint is how often followers that cannot wait for a push should look.
const bundleHint = 5 * time.Minute

// distributionRights: whoever holds a certificate of the trust domain may have what verifies others, unless it was revoked.
type distributionRights struct {
	deny *ca.DenyList
	last []ca.Revocation // only refresh looks at it

	mu      sync.Mutex // guards what follows
	changed chan struct{}
}

// Entitled implements [sds.Authorizer].
func (r *distributionRights) Entitled(c *sds.Caller) (sds.Entitlement, error) {
	switch {
	case c.ID.IsZero():
		return sds.Entitlement{Reason: "no client certificate: over the network, agents prove who they are by the certificate that they got from here"}, nil
	case r.deny.ID(c.ID.String()):
		return sds.Entitlement{Reason: "the identity " + c.ID.String() + " is revoked"}, nil
	}
	return sds.Entitlement{Bundles: true}, nil
}

// Changed implements [sds.Authorizer].
func (r *distributionRights) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// refresh has everybody's rights looked at again once the deny list is another one.
func (r *distributionRights) refresh() {
	now := r.deny.All()
	if slices.EqualFunc(now, r.last, func(x, y ca.Revocation) bool { return x.ID == y.ID && x.Serial == y.Serial && x.KeyHash == y.KeyHash }) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = now
	close(r.changed)
	r.changed = make(chan struct{})
}

// consumers is the evidence of a rotation: who follows the bundle, as the inventory of streams knows it. Before there is
// an inventory nobody can follow.
type consumers struct {
	from atomic.Pointer[sds.Inventory]
}

// Consumers implements [ca.Evidence].
func (c *consumers) Consumers(context.Context) ([]ca.Consumer, error) {
	inventory := c.from.Load()
	if inventory == nil {
		return nil, nil
	}
	all := inventory.Consumers()
	out := make([]ca.Consumer, 0, len(all))
	for _, f := range all {
		name := f.Name
		if !f.Connected {
			name += " (away)"
		}
		out = append(out, ca.Consumer{Name: name, ID: f.ID, Bundle: f.Bundle})
	}
	return out, nil
}

// followers shows who follows the bundle: those who lack the newest come first, and are what a rotation waits for.
func (sw *statusWriter) followers(r *caReport) {
	if len(r.Followers) == 0 {
		return
	}
	behind := 0
	rows := [][]string{}
	for _, f := range r.Followers {
		if f.Bundle < r.Bundle {
			behind++
		}
	}
	all := slices.SortedFunc(slices.Values(r.Followers), func(x, y sds.Consumer) int { return cmp.Compare(x.Bundle, y.Bundle) })
	fmt.Fprintf(&sw.b, "\n%s: %d have version %d, %d do not\n", sw.colours.bold("who follows the bundle"), len(all)-behind, r.Bundle, behind)
	for i, f := range all {
		if i == mostFollowersShown && !sw.all {
			rows = append(rows, []string{fmt.Sprintf("and %d more: --all lists them", len(all)-i), "", ""})
			break
		}
		state, version := "connected", fmt.Sprintf("version %d", f.Bundle)
		if !f.Connected {
			state = "away, remembered until " + f.Until.UTC().Format(time.RFC3339)
		}
		if f.Bundle < r.Bundle {
			version = sw.colours.yellow(version)
		}
		rows = append(rows, []string{printable(f.Name), version, state})
	}
	sw.table(rows)
}

const mostFollowersShown = 10
