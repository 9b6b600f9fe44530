package provider

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
)

const maxPEMBytes = 1 << 20

// security makes the TLS configuration of each new connection. Files are read anew for each, which is seldom; while they
// cannot be used, the last good ones stay in force.
type security struct {
	files TLS // with Identity, if it is that and no files

	mu   sync.Mutex
	sum  [sha256.Size]byte // of the files that good was made of
	good *tls.Config
}

// newSecurity reads the files once, so that what is missing or broken is known at once. t may be nil.
func newSecurity(t *TLS) (*security, error) {
	s := &security{}
	if t != nil {
		s.files = *t
	}
	if s.files.Identity != nil {
		return s, nil
	}
	if err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// ready returns the number of the certificate that connections are to be made with, or a fault that says why there is none.
// Numbers grow. Files have none: what they say is looked at when connections are made.
func (s *security) ready() (number uint64, err error) {
	if s.files.Identity == nil {
		return 0, nil
	}
	current, err := s.files.Identity.current()
	if err != nil {
		return 0, err
	}
	return current.generation, nil
}

// config is the configuration of a connection to authority (host or host:port).
func (s *security) config(authority string) (*tls.Config, error) {
	var config *tls.Config
	if s.files.Identity != nil {
		current, err := s.files.Identity.current()
		if err != nil {
			return nil, err
		}
		config = current.config(s.files.ServerName)
		config.ServerName = hostOf(authority)
		return config, nil
	}
	_ = s.read() // the last good ones stay
	s.mu.Lock()
	config = s.good.Clone()
	s.mu.Unlock()
	config.ServerName = hostOf(authority)
	switch name := s.files.ServerName; {
	case isSPIFFE(name):
		verifySPIFFE(config, name)
	case name != "":
		config.ServerName = name
	}
	return config, nil
}

// read takes the files over if they can be used.
func (s *security) read() error {
	var contents [3][]byte
	hash := sha256.New()
	for i, file := range []string{s.files.CA, s.files.Cert, s.files.Key} {
		data, err := readPEM(file)
		if err != nil {
			return err
		}
		contents[i] = data
		_, _ = fmt.Fprintf(hash, "%d\n%s", len(data), data)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.good != nil && sum == s.sum {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.files.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(contents[0]) {
			return fmt.Errorf("tls.ca %s: holds no PEM certificate", s.files.CA)
		}
	}
	if s.files.Cert != "" {
		pair, err := tls.X509KeyPair(contents[1], contents[2])
		if err != nil {
			return fmt.Errorf("tls.cert %s with tls.key %s: %w", s.files.Cert, s.files.Key, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	s.good, s.sum = config, sum
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

// verifySPIFFE has config accept a server by its SPIFFE ID, as crypto/tls does for DNS names.
func verifySPIFFE(config *tls.Config, want string) {
	config.InsecureSkipVerify = true // crypto/tls knows no URI names: VerifyConnection does it all
	roots := config.RootCAs
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := verifySVID(state.PeerCertificates, roots, want, x509.ExtKeyUsageServerAuth)
		return err
	}
}

// hostOf is an authority without its port.
func hostOf(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return strings.Trim(authority, "[]")
}
