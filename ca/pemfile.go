package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	maxPEMFile   = 1 << 20
	maxPEMBlocks = 64
)

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	content, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case len(content) > maxPEMFile:
		return nil, fmt.Errorf("%s: more than %d bytes", path, maxPEMFile)
	}
	return content, nil
}

// readBlocks reads the PEM blocks of a file, all of the given type.
func readBlocks(path, kind string) ([][]byte, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != kind {
			return nil, fmt.Errorf("%s: a PEM block of type %q, want %s", path, block.Type, kind)
		}
		if out = append(out, block.Bytes); len(out) > maxPEMBlocks {
			return nil, fmt.Errorf("%s: more than %d PEM blocks", path, maxPEMBlocks)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no PEM block of type %s", path, kind)
	}
	return out, nil
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	blocks, err := readBlocks(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	certs, err := x509.ParseCertificates(bytes.Join(blocks, nil))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

func readCRLs(path string) ([]*x509.RevocationList, error) {
	blocks, err := readBlocks(path, "X509 CRL")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*x509.RevocationList
	for _, b := range blocks {
		l, err := x509.ParseRevocationList(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, l)
	}
	return out, nil
}

// readKey reads the one private key of a file, in PKCS#8, SEC 1 or PKCS#1.
func readKey(path string) (*signer, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	var key any
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		var parsed any
		switch block.Type {
		case "EC PARAMETERS": // openssl ecparam writes them before the key, which names its curve itself
			continue
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			return nil, fmt.Errorf("%s: a PEM block of type %q, want a private key", path, block.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: the private key does not parse", path) // the cause could quote it
		}
		if key != nil {
			return nil, fmt.Errorf("%s: more than one private key", path)
		}
		key = parsed
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: no private key that signs", path)
	}
	return newSigner(s), nil
}
