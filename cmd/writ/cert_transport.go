package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// isHostPort reports whether text is an address to dial. Without a port gRPC would take 443.
func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	return err == nil && host != "" && port != "" && !strings.ContainsRune(text, '/')
}

// transport is TLS to the authority, which has to be one of the trusted roots'.
func (f *certificateFlags) transport() (*tls.Config, error) {
	dir, err := certificateDir(f.out).current()
	if err != nil {
		return nil, err
	}
	file := f.bundle
	if file == "" {
		file = filepath.Join(dir, bundleFile)
	}
	data, err := readBounded(file, maxPEMBytes)
	switch {
	case f.renew && f.bundle == "" && errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("--renew: there is no certificate in %s: get the first one with --token-file and --bundle", f.out)
	case err != nil:
		return nil, fmt.Errorf("bundle: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("bundle %s: holds no PEM certificate", file)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: f.serverName}
	if !f.renew {
		return config, nil
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("--renew: %w", err)
	}
	config.Certificates = []tls.Certificate{own}
	return config, nil
}

// watchedWay is the way to the authority. It remembers what went wrong on it, which gRPC tells as text alone.
type watchedWay struct {
	credentials.TransportCredentials

	mu   sync.Mutex // guards what follows
	last error
}

// Clone implements [credentials.TransportCredentials]: what is seen through the clone counts as well.
func (w *watchedWay) Clone() credentials.TransportCredentials { return w }

// ClientHandshake implements [credentials.TransportCredentials].
func (w *watchedWay) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	w.saw(err)
	return conn, info, err
}

// dial connects without a proxy, whatever the environment says.
func (w *watchedWay) dial(ctx context.Context, target string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target)
	w.saw(err)
	return conn, err
}

func (w *watchedWay) saw(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = err
}

func (w *watchedWay) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// refused tells a no from a failure, and what to do about it. onTheWay is what went wrong before the authority was asked.
func (f *certificateFlags) refused(err, onTheWay error) error {
	s := status.Convert(err)
	hint := "its log says why"
	switch s.Code() {
	case codes.Unauthenticated:
		hint = "is the token used or expired, or for another authority? Its log says what it saw"
		if f.renew {
			hint = "has the certificate ended, or is it by another authority? Its log says which"
		}
	case codes.PermissionDenied:
		hint = "is it revoked, or not what this proof is good for? Its log says which"
	case codes.InvalidArgument:
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: no answer in time: is this the authority's ca.listen, and is it overloaded? %w", f.authority, context.DeadlineExceeded)
	default:
		if onTheWay != nil {
			return f.notReached(onTheWay)
		}
		return fmt.Errorf("%s: %s: %s (%s)", f.authority, s.Code(), printable(s.Message()), hint)
	}
	return &exitError{code: exitNo, err: fmt.Errorf("%s says no: %s: %s (%s)", f.authority, s.Code(), printable(s.Message()), hint)}
}

// notReached explains why there is no trusted connection to the authority.
func (f *certificateFlags) notReached(err error) error {
	var (
		stranger x509.UnknownAuthorityError
		name     x509.HostnameError
		noTLS    tls.RecordHeaderError
		dial     *net.OpError
	)
	var hint string
	switch {
	case errors.As(err, &stranger):
		hint = "its certificate is not by the roots in " + f.trusted() + ": is this the authority that is meant, and are these its roots (writ ca bundle)?"
	case errors.As(err, &name):
		hint = "dial one of its names or give one as --server-name, or add this one to ca.names"
	case errors.As(err, &noTLS):
		hint = "what listens there speaks no TLS: is it the authority's ca.listen?"
	case errors.As(err, &dial) && dial.Op == "dial":
		hint = "is writ serve running, and is this its ca.listen?"
	default:
		hint = "is this the authority's ca.listen, and is it ready (writ status)?"
	}
	return fmt.Errorf("%s: %w; %s", f.authority, err, hint)
}

// trusted names the file with the roots.
func (f *certificateFlags) trusted() string {
	if f.bundle != "" {
		return f.bundle
	}
	return filepath.Join(f.out, bundleFile)
}
