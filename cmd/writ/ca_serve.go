package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/internal/durable"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/telemetry"
	"github.com/writ-auth/writ/jwt"
	"github.com/writ-auth/writ/sds"
)

const (
	bundleEvery  = time.Second // between looks at whether the bundle changed
	serverIDPath = "/writ/authority"
)

// issuing is the certificate authority of a running writ serve.
type issuing struct {
	*caState
	oidc   *attest.OIDC // nil if no tokens are accepted
	server *caserver.Server

	distribution *distribution
	endpoint     *bundleEndpoint // nil unless switched on

	metrics *caserver.Metrics

	mu      sync.Mutex // guards what follows
	answers map[caserver.Outcome]uint64

	plugged pluggedFiles
}

// newIssuing prepares to serve from a state that was loaded. It starts nothing.
func newIssuing(ctx context.Context, cfg *config, metrics *telemetry.Metrics, state *caState) (*issuing, error) {
	i := &issuing{caState: state, answers: map[caserver.Outcome]uint64{}}
	if !state.encrypted() && cfg.CA.Plugged == nil {
		state.log.WarnContext(ctx, "private keys are kept without a passphrase: whoever reads the state or a backup of it has them; see ca.key_encryption")
	}
	attestor, err := i.attestor(metrics)
	if err != nil {
		return nil, invalidf("ca.attest: %w", err)
	}
	workload, own, err := cfg.CA.profiles(state.domain)
	if err != nil {
		return nil, invalidf("ca: %w", err)
	}
	dns, ips, err := cfg.CA.names()
	if err != nil {
		return nil, invalidf("ca.names: %w", err)
	}
	id, err := spiffeid.Parse(state.domain.String() + serverIDPath)
	if err != nil {
		return nil, err
	}
	limits := cfg.CA.Limits
	if i.distribution, err = i.newDistribution(); err != nil {
		return nil, err
	}
	i.server, err = caserver.New(caserver.Config{
		Authority: state.authority, Attestor: attestor, Profile: workload, ServerProfile: own,
		Names:   caserver.Names{ID: id, DNS: dns, IPs: ips},
		Timeout: limits.Timeout, MaxConcurrent: limits.Concurrent, MaxConnections: limits.Connections,
		Rate: float64(limits.Rate), Burst: limits.Burst, DrainTimeout: cfg.CA.DrainTimeout,
		Observe: i.observe, Logger: state.log,
		Minter: cfg.CA.minter(state.authority), Services: i.distribution.register,
	})
	if err != nil {
		return nil, err
	}
	if i.endpoint, err = i.newBundleEndpoint(); err != nil {
		return nil, err
	}
	i.metrics = caserver.NewMetrics(metrics.Registry(), state.authority, i.server)
	sds.NewMetrics(metrics.Registry(), i.distribution.server)
	if err := registerAlarms(metrics.Registry(), state.authority.Status); err != nil {
		return nil, err
	}
	i.admin, err = caserver.NewAdmin(caserver.AdminConfig{Authority: state.authority, Store: state.store, Server: i.server})
	i.plugged.inForce = i.pluggedSum()
	return i, err
}

// attestor says who calls, by the proofs that are configured.
func (i *issuing) attestor(metrics *telemetry.Metrics) (*attest.Attestor, error) {
	accepted := i.config.CA.attest()
	cfg := attest.Config{TrustDomain: i.domain}
	if accepted.ClientCert != nil {
		certificates, err := attest.NewCertificates(attest.CertificatesConfig{
			TrustDomain: i.domain, Bundle: i.authority.Bundle, Ledger: i.store, Deny: i.authority.Deny(), Grace: accepted.ClientCert.Grace,
		})
		if err != nil {
			return nil, err
		}
		cfg.Certificates = certificates
	}
	if accepted.JoinToken != nil {
		cfg.JoinTokens = i.store
	}
	tokens, err := i.config.CA.oidc(i.domain)
	if err != nil {
		return nil, err
	}
	if tokens != nil {
		tokens.Logger, tokens.Sources.Logger, tokens.Sources.Metrics = i.log, i.log, metrics
		if i.oidc, err = attest.NewOIDC(*tokens); err != nil {
			return nil, err
		}
		cfg.OIDC = i.oidc
	}
	return attest.New(cfg)
}

// observe counts one call. It runs on the call's own goroutine.
func (i *issuing) observe(o *caserver.Observation) {
	i.metrics.Observe(o)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answers[o.Outcome]++
}

// support runs what the server needs, in a group that ends after it.
func (i *issuing) support(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return i.authority.Run(ctx) })
	group.Go(func() error { return i.publish(ctx) })
	group.Go(func() error { return i.watchPlugged(ctx) })
	if i.oidc != nil {
		group.Go(func() error { return i.oidc.Run(ctx) })
	}
}

// publish keeps a file with the roots, for agents of this machine and so that a lost ledger is never taken for a new one.
func (i *issuing) publish(ctx context.Context) error {
	file := i.bundleFile()
	if file == "" {
		return nil
	}
	var last []byte
	failed := false
	for {
		if b := i.authority.Bundle(); b != nil && !bytes.Equal(b.PEM, last) {
			err := durable.WriteFile(file, b.PEM, 0o644)
			switch {
			case err == nil:
				last, failed = b.PEM, false
				i.log.InfoContext(ctx, "bundle published", "file", file, "version", b.Version, "roots", len(b.Roots))
			case !failed:
				failed = true
				i.log.ErrorContext(ctx, "the bundle cannot be published, to be tried again", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(bundleEvery):
		}
	}
}

// notReady says why no certificate can be issued, empty if one can.
func (i *issuing) notReady(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	switch s := i.admin.Status(ctx); {
	case !s.Ready:
		return "certificates: " + s.NotReady
	case s.Server.Certificate == "": // handshakes fail
		return "certificates: the server has no certificate of its own yet"
	}
	return ""
}

// denyList shows the deny list to the engine that decides requests.
type denyList struct{ list *ca.DenyList }

func (d denyList) ID(id string) bool           { return d.list.ID(id) }
func (d denyList) Serial(serial [16]byte) bool { return d.list.Serial(ca.Serial(serial)) }
func (d denyList) Key(keyHash [32]byte) bool   { return d.list.Key(keyHash) }

// caReport is what the certificate authority holds, as writ status and writ ca show tell it.
type caReport struct {
	caserver.StatusResponse
	Store     string             `json:"store"`            // path of the ledger, or postgres
	Encrypted bool               `json:"encrypted"`        // the authority's private keys are under a passphrase
	Device    string             `json:"device,omitempty"` // which key of which device signs, if not one in a file
	Answers   []outcomeCount     `json:"answers,omitempty"`
	Followers []sds.Consumer     `json:"followers,omitempty"` // of the bundle, with the version each has acknowledged
	Keys      []jwt.SourceStatus `json:"keys,omitempty"`      // of the issuers of service account tokens
}

type outcomeCount struct {
	Outcome caserver.Outcome `json:"outcome"`
	Count   uint64           `json:"count"`
}

func (s *caState) report(ctx context.Context) caReport {
	r := caReport{StatusResponse: s.admin.Status(ctx), Store: "postgres", Encrypted: s.encrypted()}
	if s.config.postgres() == nil {
		r.Store = s.config.ledger()
	}
	if p := s.config.CA.Plugged; p != nil && p.PKCS11 != nil {
		r.Device = fmt.Sprintf("key %q in token %q", p.PKCS11.Label, p.PKCS11.Token)
	}
	return r
}

func (i *issuing) report(ctx context.Context) caReport {
	r := i.caState.report(ctx)
	if i.oidc != nil {
		r.Keys = i.oidc.Status()
	}
	r.Followers = i.distribution.server.Inventory().Consumers()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, outcome := range caserver.Outcomes() {
		if n := i.answers[outcome]; n > 0 {
			r.Answers = append(r.Answers, outcomeCount{outcome, n})
		}
	}
	return r
}
