package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"time"
)

// certificateLife bounds how long anything of a [CA] is of use to anyone who finds it.
const certificateLife = 24 * time.Hour

// CA is a throw-away certificate authority whose key never leaves the process.
type CA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes a P-256 key and a self-signed root for it.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	certificate, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("self-sign %q: %w", commonName, err)
	}
	return &CA{Certificate: certificate, key: key}, nil
}

// Names are what a leaf certificate says of its holder, in the order they are written.
type Names struct {
	URIs []string // spiffe://… first
	DNS  []string
	IPs  []string
	CN   string
}

// Leaf makes a key and a certificate for both ends of mTLS.
func (ca *CA) Leaf(names Names) (*tls.Certificate, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names.CN},
		DNSNames:    names.DNS,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, text := range names.URIs {
		uri, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("certificate name: %w", err)
		}
		template.URIs = append(template.URIs, uri)
	}
	for _, text := range names.IPs {
		ip := net.ParseIP(text)
		if ip == nil {
			return nil, fmt.Errorf("certificate name: %q is no IP address", text)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := sign(template, ca.Certificate, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %v: %w", names, err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// sign completes the template with a serial number and a validity, and signs it.
func sign(template, parent *x509.Certificate, subject, issuer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	template.NotBefore = time.Now().Add(-time.Minute) // clocks of other processes on this machine do not differ by more
	template.NotAfter = template.NotBefore.Add(certificateLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, subject.Public(), issuer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Pool holds the root alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate)
	return pool
}

// Write writes the root as PEM.
func (ca *CA) Write(path string) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw}), 0o600)
}

// WriteLeaf writes the certificate and then the key to one PEM file: curl, openssl and Envoy read both from it.
func WriteLeaf(leaf *tls.Certificate, path string) error {
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	return os.WriteFile(path, text, 0o600)
}
