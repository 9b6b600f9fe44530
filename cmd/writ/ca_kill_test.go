package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	securityv1 "istio.io/api/security/v1alpha1"

	"github.com/writ-auth/writ/ca"
)

// kills is how often the authority is killed: 5 times, twice with -short, or what WRIT_KILLS says (make drill-kill).
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WRIT_KILLS")
	switch {
	case text == "" && testing.Short():
		return 2
	case text == "":
		return 5
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 { // what follows lists all certificates of all rounds, up to maxListed
		t.Fatalf("WRIT_KILLS=%q: want a number of kills, 1 to 1000", text)
	}
	return n
}

// TestKillNine kills the authority while it issues, again and again: nothing that was acknowledged is missing, no serial
// number is given twice, and the chain holds.
func TestKillNine(t *testing.T) {
	t.Parallel()
	rounds := kills(t)
	p := serveCA(t, caOnly, nil)
	p.join("order", orderID)
	started := time.Now()
	acknowledged := map[string]bool{}
	for round := range rounds {
		began := time.Now()
		serials := p.issueAndKill(20 + 37*round%60) // at another moment each time
		for serial := range serials {
			if acknowledged[serial] {
				t.Errorf("serial number %s was given twice", serial)
			}
			acknowledged[serial] = true
		}
		if round%20 == 0 {
			command(t, p.dir, 0, "ca", "verify", "-c", "writ.yaml")
		}
		p = serve(t, p.dir)
		p.ready()
		p.hasIssued(serials, "--after", began.Format(time.RFC3339Nano))
		if t.Failed() {
			t.Fatalf("round %d of %d", round+1, rounds)
		}
	}
	p.hasIssued(acknowledged)
	p.stop()
	command(t, p.dir, 0, "ca", "verify", "-c", "writ.yaml")
	t.Logf("%d kills in %v, %d certificates acknowledged, none lost, none given twice", rounds, time.Since(started).Round(time.Second), len(acknowledged))
}

// hasIssued holds the ledger, or the part of it that the flags select, to what was acknowledged.
func (p *authorityProcess) hasIssued(acknowledged map[string]bool, flags ...string) {
	p.t.Helper()
	issued := map[string]bool{}
	for _, e := range p.list(append([]string{"--id", orderID, "--limit", strconv.Itoa(maxListed)}, flags...)...) {
		if _, twice := issued[e.Serial]; twice {
			p.t.Errorf("serial number %s is in the ledger twice", e.Serial)
		}
		issued[e.Serial] = e.State == ca.StateIssued
	}
	for serial := range acknowledged {
		if !issued[serial] {
			p.t.Errorf("%s was acknowledged and is not in the ledger", serial)
		}
	}
}

// issueAndKill has eight clients get certificates, kills the authority once some have been acknowledged, and returns all
// that were.
func (p *authorityProcess) issueAndKill(after int) map[string]bool {
	p.t.Helper()
	serials := make(chan string)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			if err := p.issueUntilItEnds(serials); err != nil {
				p.t.Error(err)
			}
		})
	}
	go func() {
		clients.Wait()
		close(serials)
	}()
	seen := map[string]bool{}
	for serial := range serials { // ends with the clients, whatever becomes of the authority
		if seen[serial] {
			p.t.Errorf("serial number %s was given twice", serial)
		}
		seen[serial] = true
		if len(seen) == after {
			if err := p.cmd.Process.Kill(); err != nil {
				p.t.Error(err)
			}
		}
	}
	if len(seen) < after {
		p.t.Fatalf("%d certificates, want %d before the kill", len(seen), after)
	}
	<-p.exited
	return seen
}

// issueUntilItEnds renews the certificate of order until the authority is gone, and tells every serial number it got.
func (p *authorityProcess) issueUntilItEnds(serials chan<- string) error {
	f := &certificateFlags{authority: p.address("ca"), out: filepath.Join(p.dir, "order"), renew: true}
	config, err := f.transport()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(f.authority, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	request, err := sameKeyAgain(&config.Certificates[0])
	if err != nil {
		return err
	}
	for {
		ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
		response, err := securityv1.NewIstioCertificateServiceClient(conn).CreateCertificate(ctx, request)
		cancel()
		if err != nil {
			return nil // it was killed
		}
		certs, err := parseCertificates([]byte(response.GetCertChain()[0]))
		if err != nil {
			return err
		}
		serials <- fmt.Sprintf("%032x", certs[0].SerialNumber)
	}
}

// sameKeyAgain asks for another certificate for a key, so that each certificate costs one signature and no key.
func sameKeyAgain(own *tls.Certificate) (*securityv1.IstioCertificateRequest, error) {
	csr, err := x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, own.PrivateKey)
	if err != nil {
		return nil, err
	}
	return &securityv1.IstioCertificateRequest{Csr: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))}, nil
}
