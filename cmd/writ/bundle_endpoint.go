package main

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-auth/writ/ca/caserver"
)

// bundleEndpoint is the HTTPS server of the trust domain's public keys.
type bundleEndpoint struct {
	caserver.Endpoint
	certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	files       *certificates // nil with the server's own certificate
}

// newBundleEndpoint prepares the endpoint; nil if it is not switched on.
func (i *issuing) newBundleEndpoint() (*bundleEndpoint, error) {
	cfg := i.config.CA.BundleEndpoint
	if cfg == nil {
		return nil, nil
	}
	e := &bundleEndpoint{
		Endpoint:    caserver.Endpoint{Publisher: i.authority, Issuer: i.config.CA.issuer(), Logger: i.log},
		certificate: i.server.Certificate,
	}
	if cfg.Cert == "" {
		return e, nil
	}
	files, err := newCertificates(&tlsConfig{Cert: cfg.Cert, Key: cfg.Key})
	if err != nil {
		return nil, invalidf("ca.bundle_endpoint: %w", err)
	}
	e.files = files
	e.certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &files.current.Load().Certificates[0], nil
	}
	return e, nil
}

// serve answers until ctx ends, and looks now and then whether certificate files were renewed.
func (e *bundleEndpoint) serve(ctx context.Context, l net.Listener) error {
	if e.files == nil {
		return e.Serve(ctx, l, e.certificate)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.Serve(ctx, l, e.certificate) })
	group.Go(func() error { e.renew(ctx); return nil })
	return group.Wait()
}

func (e *bundleEndpoint) renew(ctx context.Context) {
	ticker := time.NewTicker(certificatesEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch changed, err := e.files.reload(); {
		case err != nil:
			e.Logger.ErrorContext(ctx, "the bundle endpoint's renewed certificate cannot be used, the last good one stays in force", "error", err)
		case changed:
			e.Logger.InfoContext(ctx, "the bundle endpoint has a new certificate", "cert", e.files.files.Cert)
		}
	}
}
