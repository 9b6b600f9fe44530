package provider

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

const (
	maxPEMBytes  = 1 << 20
	spiffeScheme = "spiffe://"
)

// identity makes the TLS configuration of each new connection. Files are read anew for each, which is seldom; while they
// cannot be used, the last good ones stay in force.
type identity struct {
	source func() (*tls.Config, error)
	files  TLS

	mu   sync.Mutex
	sum  [sha256.Size]byte // of the files that good was made of
	good *tls.Config
}

// newIdentity reads the files once, so that what is missing or broken is known at once.
func newIdentity(t *TLS) (*identity, error) {
	id := &identity{}
	if t != nil {
		id.source, id.files = t.Source, *t
	}
	if id.source == nil {
		if err := id.read(); err != nil {
			return nil, err
		}
	}
	return id, nil
}

// config is the configuration of a connection to authority (host or host:port).
func (id *identity) config(authority string) (*tls.Config, error) {
	base, err := id.current()
	if err != nil {
		return nil, err
	}
	config := base.Clone()
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.VerifyConnection != nil || config.VerifyPeerCertificate != nil { // the source's own judgement
		return config, nil
	}
	config.InsecureSkipVerify = false
	if config.ServerName == "" {
		config.ServerName = hostOf(authority)
	}
	switch name := id.files.ServerName; {
	case strings.HasPrefix(name, spiffeScheme):
		verifySPIFFE(config, name)
	case name != "":
		config.ServerName = name
	}
	return config, nil
}

func (id *identity) current() (*tls.Config, error) {
	if id.source != nil {
		config, err := id.source()
		if err == nil && config == nil {
			err = errors.New("there is no certificate yet")
		}
		return config, err
	}
	_ = id.read() // the last good ones stay
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.good, nil
}

// read takes the files over if they can be used.
func (id *identity) read() error {
	var contents [3][]byte
	hash := sha256.New()
	for i, file := range []string{id.files.CA, id.files.Cert, id.files.Key} {
		data, err := readPEM(file)
		if err != nil {
			return err
		}
		contents[i] = data
		_, _ = fmt.Fprintf(hash, "%d\n%s", len(data), data)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))

	id.mu.Lock()
	defer id.mu.Unlock()
	if id.good != nil && sum == id.sum {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if id.files.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(contents[0]) {
			return fmt.Errorf("tls.ca %s: holds no PEM certificate", id.files.CA)
		}
	}
	if id.files.Cert != "" {
		pair, err := tls.X509KeyPair(contents[1], contents[2])
		if err != nil {
			return fmt.Errorf("tls.cert %s with tls.key %s: %w", id.files.Cert, id.files.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	id.good, id.sum = config, sum
	return nil
}

func readPEM(file string) ([]byte, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxPEMBytes+1))
	if err == nil && len(data) > maxPEMBytes {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxPEMBytes)
	}
	return data, err
}

// verifySPIFFE has config accept a server by its SPIFFE ID: a chain to the roots, and exactly this one URI name
// (X509-SVID §2, §5.2), as crypto/tls does for DNS names.
func verifySPIFFE(config *tls.Config, want string) {
	config.InsecureSkipVerify = true // crypto/tls knows no URI names: VerifyConnection does it all
	roots := config.RootCAs
	config.VerifyConnection = func(state tls.ConnectionState) error {
		leaf := state.PeerCertificates[0]
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, c := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		if _, err := leaf.Verify(options); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want {
			return fmt.Errorf("the server's certificate is for %q and not for %s", leaf.URIs, want)
		}
		return nil
	}
}

// hostOf is an authority without its port.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return strings.Trim(authority, "[]")
}
