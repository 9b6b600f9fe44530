//go:build drill

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-auth/writ/internal/testkit"
)

const (
	drillRenewal = 5 * time.Second // a quarter of the lifetime, so that a busy machine may stall for a while
	drillAgain   = time.Second     // after a renewal that nobody answered in time
	drillAgents  = 8

	drillConfig = `
store: {postgres: {dsn_file: ./dsn}}
ca: {listen: "127.0.0.1:0", replica: %s, default_ttl: 20s, max_ttl: 20s, key_encryption: {passphrase_file: ./passphrase}}
admin: unix:admin.sock
diagnostics: 127.0.0.1:0
`
)

// rotations is how many whole rotations follow the rollbacks: 3, or what WRIT_ROTATIONS says.
func rotations(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WRIT_ROTATIONS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("WRIT_ROTATIONS=%q: want a number of rotations", text)
	}
	return n
}

// TestRotationOfReplicas rotates the root of two authorities that share a PostgreSQL ledger, while workloads with
// certificates of 20 seconds renew at either of them and greet each other all the time: back from every phase that can
// be gone back from, then all the way, again and again. No step is overridden, and no handshake fails.
func TestRotationOfReplicas(t *testing.T) {
	d := newRotationDrill(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i := range d.agents {
		running.Go(func() { d.agents[i].serve(ctx) })
		running.Go(func() { d.keepRenewing(ctx, i) })
		running.Go(func() { d.keepGreeting(ctx, i) })
	}
	started := time.Now()
	for _, steps := range []string{
		"prepare rollback",
		"prepare distribute rollback",
		"prepare distribute activate rollback activate taint rollback rollback",
	} {
		d.steps(strings.Fields(steps)...)
	}
	first := d.roots()
	for range rotations(t) {
		d.steps("prepare", "distribute", "activate", "taint", "revoke")
	}
	d.linger() // with the old root gone
	stop()
	running.Wait()

	if last := d.roots(); last == first || strings.Count(last, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("the roots after %d rotations:\n%s", rotations(t), last)
	}
	if audit, _ := command(t, d.replicas[0].dir, 0, "ca", "list", "--audit", "--limit", "1000", "-c", "writ.yaml"); strings.Contains(audit, "override ") {
		t.Errorf("a step was overridden:\n%s", audit)
	}
	for _, p := range d.replicas {
		command(t, p.dir, 0, "ca", "verify", "-c", "writ.yaml")
		p.stop()
	}
	for _, failure := range d.failures {
		t.Error(failure)
	}
	t.Logf("%d rotations and 4 rollbacks in %v: %d steps, refused %d times before; %d renewals (%d more were not answered in time) and %d handshakes between workloads, %d failed",
		rotations(t), time.Since(started).Round(time.Second), d.taken, d.refused, d.renewals.Load(), d.late.Load(), d.greetings.Load(), d.failed.Load())
}

// rotationDrill is two authorities and their workloads.
type rotationDrill struct {
	t              *testing.T
	replicas       []*authorityProcess
	agents         []*drillAgent
	taken, refused int

	renewals, late, greetings, failed atomic.Int64

	mu       sync.Mutex // guards what follows
	failures []string   // the first few
}

func newRotationDrill(t *testing.T) *rotationDrill {
	t.Helper()
	postgres, err := testkit.StartPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(postgres.Stop)
	d := &rotationDrill{t: t}
	for _, name := range []string{"one", "two"} {
		dir := write(t, t.TempDir(), map[string]string{"writ.yaml": fmt.Sprintf(drillConfig, name), "dsn": postgres.DSN, "passphrase": "correct horse battery"})
		if name == "one" {
			command(t, dir, 0, "ca", "init", "-c", "writ.yaml")
		}
		p := serve(t, dir)
		p.ready()
		d.replicas = append(d.replicas, p)
	}
	for i := range drillAgents {
		d.agents = append(d.agents, d.newAgent(fmt.Sprintf("spiffe://cluster.local/ns/drill/sa/agent-%d", i)))
	}
	return d
}

// steps takes one step after the other, each at another replica, as soon as it is not refused any more. Workloads meet in
// every phase.
func (d *rotationDrill) steps(steps ...string) {
	d.t.Helper()
	for _, step := range steps {
		asked := time.Now()
		d.try(step, d.replicas[d.taken%len(d.replicas)].dir)
		d.taken++
		d.t.Logf("%s after %v", step, time.Since(asked).Round(time.Second))
		d.linger()
	}
}

func (d *rotationDrill) try(step, dir string) {
	d.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; {
		code, out, stderr := tryCommand(d.t, dir, "ca", "rotate", step, "-c", "writ.yaml")
		switch {
		case code == 0:
			return
		case code != 2 || time.Now().After(deadline):
			d.t.Fatalf("%s: exit code %d\n%s%s", step, code, out, stderr)
		}
		d.refused++
		d.wait(d.t.Context(), time.Second)
	}
}

// linger lets everyone renew once.
func (d *rotationDrill) linger() { d.wait(d.t.Context(), drillRenewal) }

// wait reports whether the time has passed and ctx has not ended before.
func (d *rotationDrill) wait(ctx context.Context, long time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(long):
		return true
	}
}

func (d *rotationDrill) roots() string {
	d.t.Helper()
	out, _ := command(d.t, d.replicas[1].dir, 0, "ca", "bundle", "-c", "writ.yaml")
	return out
}

// note counts what was done, or how it failed.
func (d *rotationDrill) note(done *atomic.Int64, what string, err error) {
	if err == nil {
		done.Add(1)
		return
	}
	d.failed.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.failures) < 20 {
		d.failures = append(d.failures, fmt.Sprintf("%s %s: %v", time.Now().Format(time.TimeOnly), what, err))
	}
}

// drillAgent is a workload that takes handshakes and begins them.
type drillAgent struct {
	id       string
	listener net.Listener
	held     atomic.Pointer[heldCertificate]
}

// heldCertificate is what a workload has in force: its own certificate and the roots that came with it.
type heldCertificate struct {
	pair  tls.Certificate
	roots *x509.CertPool
}

// newAgent gets a workload its first certificate by a join token.
func (d *rotationDrill) newAgent(id string) *drillAgent {
	d.t.Helper()
	p := d.replicas[0]
	token := filepath.Join(d.t.TempDir(), "token")
	command(d.t, p.dir, 0, "token", "create", "-c", "writ.yaml", "--id", id, "--out", token)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = listener.Close() })
	a := &drillAgent{id: id, listener: listener}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(d.roots()))
	if err := a.get(d.t.Context(), &certificateFlags{authority: p.address("ca"), token: token}, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}); err != nil {
		d.t.Fatal(err)
	}
	return a
}

// get puts another certificate in force.
func (a *drillAgent) get(ctx context.Context, f *certificateFlags, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, drillRenewal)
	defer cancel()
	made, err := f.obtain(ctx, config)
	if err != nil {
		return err
	}
	held := &heldCertificate{roots: x509.NewCertPool()}
	held.roots.AppendCertsFromPEM(made.bundle)
	if held.pair, err = tls.X509KeyPair(made.chain, made.key); err != nil {
		return err
	}
	a.held.Store(held)
	return nil
}

// keepRenewing renews at the replicas in turn. As an agent does, it asks again, and the next, when there is no answer.
func (d *rotationDrill) keepRenewing(ctx context.Context, i int) {
	a := d.agents[i]
	pause := drillRenewal
	for round := i; d.wait(ctx, pause); round++ {
		held := a.held.Load()
		f := &certificateFlags{authority: d.replicas[round%len(d.replicas)].address("ca"), renew: true}
		err := a.get(ctx, f, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: held.roots, Certificates: []tls.Certificate{held.pair}})
		pause = drillRenewal
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, context.DeadlineExceeded):
			d.late.Add(1)
			pause = drillAgain
		default:
			d.note(&d.renewals, "renewal of "+a.id, err)
		}
	}
}

// keepGreeting goes round all other workloads.
func (d *rotationDrill) keepGreeting(ctx context.Context, i int) {
	for next := i + 1; d.wait(ctx, 50*time.Millisecond); next++ {
		peer := d.agents[next%len(d.agents)]
		err := d.agents[i].greet(ctx, peer)
		if ctx.Err() == nil {
			d.note(&d.greetings, d.agents[i].id+" to "+peer.id, err)
		}
	}
}

// greet shakes hands with a peer: both sides prove who they are, by the roots that each of them has.
func (a *drillAgent) greet(ctx context.Context, peer *drillAgent) error {
	held := a.held.Load()
	dialer := &tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{held.pair},
		InsecureSkipVerify: true, // identities are no host names: what follows verifies them
		VerifyConnection: func(s tls.ConnectionState) error {
			if names, err := uriNames(s.PeerCertificates[0]); err != nil || len(names) != 1 || names[0] != peer.id {
				return fmt.Errorf("it is %v: %w", names, err)
			}
			return verifyChain(s.PeerCertificates, held.roots, time.Now())
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", peer.listener.Addr().String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// In TLS 1.3 a client learns with the first answer whether its certificate was taken.
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err
}

// serve takes handshakes until ctx ends.
func (a *drillAgent) serve(ctx context.Context) {
	context.AfterFunc(ctx, func() { _ = a.listener.Close() })
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		held := a.held.Load()
		return &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{held.pair}, ClientCAs: held.roots, ClientAuth: tls.RequireAndVerifyClientCert,
		}, nil
	}}
	var connections sync.WaitGroup
	defer connections.Wait()
	for {
		conn, err := a.listener.Accept()
		if err != nil {
			return
		}
		connections.Go(func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = tls.Server(conn, config).Write([]byte("!")) // the client reports what fails
		})
	}
}
