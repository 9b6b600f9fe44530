package caserver

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/writ-auth/writ/ca"
)

const (
	identityEvery = time.Second      // between looks at whether the server's certificate is still the right one
	identityAgain = 5 * time.Second  // after a failure
	identityTime  = 20 * time.Second // for making one
)

// identity is the server's own certificate. The zero value has none yet.
type identity struct {
	now atomic.Pointer[held]
}

// held is a certificate in use. It never changes.
type held struct {
	tls    tls.Certificate
	from   time.Time // when it was made
	until  time.Time
	bundle int64  // version of the roots it was made under
	issuer string // what signed it
}

var errNoIdentity = errors.New("the server has no certificate of its own yet")

// get implements [tls.Config.GetCertificate]: the certificate of this moment, for every handshake.
func (i *identity) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h := i.now.Load()
	if h == nil {
		return nil, errNoIdentity
	}
	return &h.tls, nil
}

// due reports whether it is time for a new certificate: at half of its life, and whenever something else signs or the
// roots changed. A rotation waits until no server shows a certificate under the old root, and a tainted root's leaves are
// to be renewed at once.
func (h *held) due(now time.Time, a Authority) bool {
	if h == nil || !now.Before(h.from.Add(h.until.Sub(h.from)/2)) {
		return true
	}
	b, issuer := a.Bundle(), a.Issuer()
	return b != nil && b.Version != h.bundle || issuer != "" && issuer != h.issuer
}

// keepIdentity makes the server's certificate and renews it until ctx ends. While there is none, handshakes fail and
// health checks, if they got as far, would say so.
func (s *Server) keepIdentity(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := identityEvery
		if s.identity.now.Load().due(s.cfg.Now(), s.cfg.Authority) {
			if err := s.renewIdentity(ctx); err != nil && ctx.Err() == nil {
				s.cfg.Logger.ErrorContext(ctx, "the server's own certificate cannot be made; the last one stays", "error", err)
				wait = identityAgain
			}
		}
		s.followReadiness(ctx)
		timer.Reset(wait)
	}
}

// followReadiness has health checks tell whether a call could be answered.
func (s *Server) followReadiness(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	err := s.cfg.Authority.Ready(ctx)
	ready := err == nil && s.identity.now.Load() != nil
	if ready != s.serving.Load() && ctx.Err() == nil {
		if ready {
			s.cfg.Logger.InfoContext(ctx, "the certificate service is ready")
		} else {
			s.cfg.Logger.InfoContext(ctx, "the certificate service is not ready", "error", cmp.Or(err, errNoIdentity))
		}
		s.setServing(ready)
	}
}

// renewIdentity makes a key and has it certified like anybody's: by a request, an approval and the ledger.
func (s *Server) renewIdentity(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, identityTime)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	names := s.cfg.Names
	approval, err := ca.Approve(names.ID, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), ca.ApprovalRequest{
		Profile: s.cfg.ServerProfile, Caller: ca.CallerServer, DNSNames: names.DNS, IPAddresses: names.IPs,
	})
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	issued, err := s.cfg.Authority.Issue(ctx, approval)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(issued.Certificate)
	if err != nil {
		return fmt.Errorf("server certificate: %w", err)
	}
	made := tls.Certificate{PrivateKey: key, Leaf: leaf}
	for _, element := range issued.Chain[:len(issued.Chain)-1] { // the last are the roots, which clients have
		if block, _ := pem.Decode([]byte(element)); block != nil {
			made.Certificate = append(made.Certificate, block.Bytes)
		}
	}
	s.identity.now.Store(&held{tls: made, from: s.cfg.Now(), until: issued.NotAfter, bundle: issued.Bundle, issuer: issued.Issuer})
	s.cfg.Logger.InfoContext(ctx, "the server has a new certificate", "id", issued.ID, "serial", issued.Serial, "not_after", issued.NotAfter)
	return nil
}
