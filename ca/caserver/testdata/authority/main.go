// Command authority is a certificate service for tests that need one in a process of its own, with failures on demand.
// It writes a line of JSON for everything that happens, and reads commands from its standard input:
//
//	fail MODE        answer calls with a failure: unavailable, internal, not_ready, revoked, or none
//
// It ends with its standard input.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/ca/caserver"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// Event is one line of output; one field is set.
type Event struct {
	Ready *Ready `json:"ready,omitempty"`
	Call  *Call  `json:"call,omitempty"`
	Done  string `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Ready says where the service is and what to verify it with.
type Ready struct {
	Address string `json:"address"`
	Roots   string `json:"roots"` // PEM
}

// Call is a call that was answered.
type Call struct {
	Outcome string `json:"outcome"`
	Code    string `json:"code"`
	Reason  string `json:"reason,omitempty"`
}

type options struct {
	state, trustDomain, issuer, jwks string
	ttl                              time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.state, "state", "", "directory of the ledger; an authority is made if there is none")
	flag.StringVar(&o.trustDomain, "trust-domain", "td.test", "trust domain")
	flag.StringVar(&o.issuer, "issuer", "", "issuer of service account tokens")
	flag.StringVar(&o.jwks, "jwks", "", "file with its keys")
	flag.DurationVar(&o.ttl, "ttl", 10*time.Second, "longest life of a certificate")
	flag.Parse()
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	domain, err := spiffeid.TrustDomain(o.trustDomain)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ledger, err := store.OpenSQLite(ctx, store.SQLiteConfig{Path: filepath.Join(o.state, "ledger.db"), Create: true})
	if err != nil {
		return err
	}
	defer ledger.Close()
	authority, err := open(ctx, ca.Config{TrustDomain: domain, Store: ledger, Keys: ca.InsecureKeyring(), Log: log, Every: time.Second})
	if err != nil {
		return err
	}
	events := &printer{}
	fails := &failing{Authority: authority}
	server, err := newServer(o, domain, ledger, authority, fails, log, events)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = authority.Run(ctx) })
	running.Go(func() {
		defer stop()
		if err := server.Serve(ctx, listener); err != nil {
			log.Error("serve", "error", err)
		}
	})
	events.print(Event{Ready: &Ready{Address: listener.Addr().String(), Roots: string(authority.Bundle().PEM)}})
	obey(fails, events)
	stop()
	running.Wait()
	return nil
}

func open(ctx context.Context, cfg ca.Config) (*ca.Authority, error) {
	authority, err := ca.Load(ctx, cfg)
	if errors.Is(err, ca.ErrNotInitialised) {
		return ca.Init(ctx, cfg, ca.InitOptions{By: "test"})
	}
	return authority, err
}

func newServer(o options, domain spiffeid.ID, ledger *store.Store, authority *ca.Authority, fails *failing, log *slog.Logger, events *printer) (*caserver.Server, error) {
	workload, err := ca.NewProfile(ca.ProfileConfig{TrustDomain: domain, DefaultTTL: o.ttl, MaxTTL: o.ttl, MinTTL: o.ttl})
	if err != nil {
		return nil, err
	}
	own, err := ca.NewProfile(ca.ProfileConfig{Name: "server", TrustDomain: domain})
	if err != nil {
		return nil, err
	}
	certificates, err := attest.NewCertificates(attest.CertificatesConfig{
		TrustDomain: domain, Bundle: authority.Bundle, Ledger: ledger, Deny: authority.Deny(),
	})
	if err != nil {
		return nil, err
	}
	oidc, err := attest.NewOIDC(attest.OIDCConfig{TrustDomain: domain, Logger: log, Issuers: []attest.Issuer{
		{Issuer: o.issuer, Audiences: []string{"istio-ca"}, JWKSFile: o.jwks},
	}})
	if err != nil {
		return nil, err
	}
	attestor, err := attest.New(attest.Config{TrustDomain: domain, Certificates: certificates, OIDC: oidc})
	if err != nil {
		return nil, err
	}
	id, err := spiffeid.Parse(domain.String() + "/writ/authority")
	if err != nil {
		return nil, err
	}
	return caserver.New(caserver.Config{
		Authority: fails, Attestor: attestor, Profile: workload, ServerProfile: own, Logger: log, Observe: events.call,
		Names: caserver.Names{ID: id, DNS: []string{"istiod.istio-system.svc"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
	})
}

// obey does what it is told, until there is nobody to tell it.
func obey(fails *failing, events *printer) {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		name, mode, _ := strings.Cut(strings.TrimSpace(in.Text()), " ")
		failure, known := failures[mode]
		if name != "fail" || !known {
			events.print(Event{Error: fmt.Sprintf("command %q: want fail, and a failure", in.Text())})
			continue
		}
		fails.with.Store(&failure)
		events.print(Event{Done: "fail " + mode})
	}
}

var failures = map[string]error{
	"none": nil, "unavailable": ca.ErrUnavailable, "internal": ca.ErrSelfCheck, "revoked": ca.ErrRevoked, "not_ready": ca.ErrNotReady,
}

// failing is an authority that fails as it is told, except for the server itself.
type failing struct {
	*ca.Authority
	with atomic.Pointer[error]
}

func (f *failing) Issue(ctx context.Context, a *ca.Approval) (*ca.Issued, error) {
	if err := f.with.Load(); err != nil && *err != nil && !strings.HasSuffix(a.ID().String(), "/writ/authority") {
		return nil, *err
	}
	return f.Authority.Issue(ctx, a)
}

// printer writes one event a line.
type printer struct{ mu sync.Mutex }

func (p *printer) print(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(e); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func (p *printer) call(o *caserver.Observation) {
	p.print(Event{Call: &Call{Outcome: string(o.Outcome), Code: o.Code().String(), Reason: o.Reason}})
}
