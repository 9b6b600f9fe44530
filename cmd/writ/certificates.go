package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
)

const maxPEMBytes = 1 << 20

// certificates is the TLS configuration of a listener, read from files that may be renewed while it runs. Files that
// cannot be used leave the last good ones in force.
type certificates struct {
	files   *tlsConfig
	current atomic.Pointer[tls.Config]
	sum     [sha256.Size]byte // of the files in force
}

func newCertificates(files *tlsConfig) (*certificates, error) {
	c := &certificates{files: files}
	_, err := c.reload()
	return c, err
}

// config is what the listener uses: every handshake takes the configuration that is current by then.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load(), nil },
	}
}

// reload reads the files and reports whether they changed. It is called by one goroutine at a time.
func (c *certificates) reload() (bool, error) {
	var contents [3][]byte
	hash := sha256.New()
	for i, file := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if file == "" {
			continue
		}
		data, err := readBounded(file, maxPEMBytes)
		if err != nil {
			return false, err
		}
		contents[i] = data
		_, _ = fmt.Fprintf(hash, "%d\n%s", len(data), data)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if sum == c.sum {
		return false, nil
	}
	config, err := c.build(contents[0], contents[1], contents[2])
	if err != nil {
		return false, err
	}
	c.current.Store(config)
	c.sum = sum
	return true, nil
}

func (c *certificates) build(cert, key, clientCA []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", c.files.Cert, c.files.Key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}}
	if c.files.ClientCA == "" {
		return config, nil
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(clientCA) {
		return nil, fmt.Errorf("client_ca %s: holds no PEM certificate", c.files.ClientCA)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}
