package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/store"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/testkit"
	"github.com/writ-auth/writ/internal/testkit/memstore"
)

// roleIssue is this program as an authority that speaks as the peer in stepca does: see there.
const roleIssue = "serve-issue"

const (
	issuedPerRound = 400
	issuedAtOnce   = 16
)

// issuedBy compares writ's authority with step-ca's library: both from a PEM request to a PEM chain, whoever asked being
// known already. Writ approves, lints what it is about to sign, and verifies what it has signed; its ledger holds an intent
// before and an outcome after. Step-ca's library checks the request with the options of a provisioner of keys, makes the
// certificate by its default template, and stores it if it has a database. With ledger and database on disk both sync.
func (r *results) issuedBy(ctx context.Context, dir string, rounds int) error {
	request := filepath.Join(dir, "request.pem")
	csr, err := certificateRequest(workload)
	if err != nil {
		return err
	}
	if err := os.WriteFile(request, csr, 0o600); err != nil {
		return err
	}
	step, err := buildModule(ctx, dir, "stepca")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var issuers [4]*authority // writ and step-ca, first in memory
	for i, arguments := range [len(issuers)][]string{
		{self, roleIssue, request},
		{step, request, workload},
		{self, roleIssue, request, filepath.Join(dir, "writ-ledger")},
		{step, request, workload, filepath.Join(dir, "step-ledger")},
	} {
		if issuers[i], err = startIssuer(ctx, arguments); err != nil {
			return err
		}
		defer issuers[i].stop()
	}
	for round := range rounds + 1 {
		var cpu, wall [len(issuers)]float64
		for i, issuer := range issuers {
			if cpu[i], wall[i], err = issuer.round(); err != nil {
				return fmt.Errorf("%s: %w", issuer.name, err)
			}
		}
		if round > 0 { // the first warms up
			r.stepCA = append(r.stepCA, cpu[0]/cpu[1])
			r.stepCAStored = append(r.stepCAStored, cpu[2]/cpu[3])
			r.stepCATime = append(r.stepCATime, wall[2]/wall[3])
		}
	}
	return nil
}

// buildModule builds a peer that is a module of its own below this folder.
func buildModule(ctx context.Context, dir, name string) (string, error) {
	root, err := testkit.Root()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, name)
	command := exec.CommandContext(ctx, "go", "build", "-o", program, ".") //nolint:gosec // G204: our own name
	command.Dir = filepath.Join(root, "test", "bench", name)
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s in %s: %w\n%s", command, command.Dir, err, out)
	}
	return program, nil
}

// authority is a process that issues.
type authority struct {
	*server

	in    io.Writer
	out   *bufio.Reader
	roots *x509.CertPool
}

func startIssuer(ctx context.Context, arguments []string) (*authority, error) {
	process, in, out, err := startPiped(ctx, strings.Join(arguments, " "), arguments)
	if err != nil {
		return nil, err
	}
	i := &authority{server: process, in: in, out: out, roots: x509.NewCertPool()}
	root, err := i.chain()
	if err != nil {
		i.stop()
		return nil, fmt.Errorf("%s did not start: %w", i.name, err)
	}
	i.roots.AddCert(root[0])
	return i, nil
}

// round has the process issue, checks the last certificate, and returns the CPU and the wall-clock time of each.
func (i *authority) round() (cpu, wall float64, err error) {
	before, err := i.cpu()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := fmt.Fprintln(i.in, issuedPerRound, issuedAtOnce); err != nil {
		return 0, 0, err
	}
	chain, err := i.chain()
	if err != nil {
		return 0, 0, err
	}
	wall = time.Since(start).Seconds() / issuedPerRound
	after, err := i.cpu()
	if err != nil {
		return 0, 0, err
	}
	options := x509.VerifyOptions{Roots: i.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(options); err != nil {
		return 0, 0, err
	}
	if uris := chain[0].URIs; len(uris) != 1 || uris[0].String() != workload {
		return 0, 0, fmt.Errorf("a certificate of %v, want %s", uris, workload)
	}
	return (after - before).Seconds() / issuedPerRound, wall, nil
}

// chain reads a line of certificates.
func (i *authority) chain() ([]*x509.Certificate, error) {
	line, err := i.out.ReadString('\n')
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for text := range strings.FieldsSeq(line) {
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("a line without certificates")
	}
	return chain, nil
}

// serveIssue issues for the request in a file as it is told to, with the ledger in a directory, else in memory.
func serveIssue(ctx context.Context, arguments []string) error {
	csr, err := os.ReadFile(arguments[0])
	if err != nil {
		return err
	}
	var ledger ca.Store = memstore.New(nil)
	if len(arguments) > 1 {
		durable, err := store.OpenSQLite(ctx, store.SQLiteConfig{Path: filepath.Join(arguments[1], "ledger.db"), Create: true})
		if err != nil {
			return err
		}
		defer func() { _ = durable.Close() }()
		ledger = durable
	}
	issue, err := newIssuing(ctx, csr, ledger)
	if err != nil {
		return err
	}
	first, err := issue()
	if err != nil {
		return err
	}
	fmt.Println(derOf(first[len(first)-1:])...)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var n, open int
		if _, err := fmt.Sscan(lines.Text(), &n, &open); err != nil {
			return err
		}
		chain, err := repeat(issue, n, open)
		if err != nil {
			return err
		}
		fmt.Println(derOf(chain[:len(chain)-1])...)
	}
	return nil
}

// newIssuing makes an authority. What it returns issues for the request, from PEM to PEM.
func newIssuing(ctx context.Context, csr []byte, ledger ca.Store) (func() ([]string, error), error) {
	domain, err := spiffeid.TrustDomain("cluster.local")
	if err != nil {
		return nil, err
	}
	signer, err := ca.Init(ctx, ca.Config{TrustDomain: domain, Store: ledger, Keys: ca.InsecureKeyring()}, ca.InitOptions{By: "bench"})
	if err != nil {
		return nil, err
	}
	profile, err := ca.NewProfile(ca.ProfileConfig{TrustDomain: domain})
	if err != nil {
		return nil, err
	}
	id, err := spiffeid.Parse(workload)
	return func() ([]string, error) {
		approval, err := ca.Approve(id, csr, ca.ApprovalRequest{Profile: profile, Caller: "bench"})
		if err != nil {
			return nil, err
		}
		issued, err := signer.Issue(ctx, approval)
		if err != nil {
			return nil, err
		}
		return issued.Chain, nil
	}, err
}

// repeat issues n times, so many at a time, and returns one of the chains.
func repeat(issue func() ([]string, error), n, open int) ([]string, error) {
	var next atomic.Int64
	var wait sync.WaitGroup
	var last atomic.Pointer[[]string]
	failed := make([]error, open)
	for i := range open {
		wait.Go(func() {
			for next.Add(1) <= int64(n) && failed[i] == nil {
				var chain []string
				chain, failed[i] = issue()
				last.Store(&chain)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return *last.Load(), nil
}

// derOf is each certificate in DER in base64.
func derOf(chain []string) []any {
	var out []any
	for _, text := range chain {
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			out = append(out, base64.StdEncoding.EncodeToString(block.Bytes))
		}
	}
	return out
}
