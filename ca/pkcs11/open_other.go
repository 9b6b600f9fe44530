//go:build !pkcs11 || !cgo

package pkcs11

import (
	"crypto"
	"io"
)

// Key is a private key in a device.
type Key struct{}

// Open is not possible in this program: [ErrNotBuilt].
func Open(Config) (*Key, error) { return nil, ErrNotBuilt }

// Public is nil.
func (*Key) Public() crypto.PublicKey { return nil }

// Sign is not possible in this program: [ErrNotBuilt].
func (*Key) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, ErrNotBuilt }

// Close does nothing.
func (*Key) Close() error { return nil }
