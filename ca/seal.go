package ca

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/crypto/scrypt"
)

const (
	sealMagic = "writ-key-1\n" // scrypt (N 2^15, r 8, p 1), AES-256-GCM
	bareMagic = "bare-key-1\n" // PKCS#8 as it is

	scryptN, scryptR, scryptP = 1 << 15, 8, 1
	saltSize                  = 16
	minPassphrase             = 12
	maxPassphrase             = 1 << 10
	maxSalts                  = 64
)

// Keyring keeps private keys at rest: encrypted with a passphrase, or, where that was asked for by name, bare. Make one
// with [NewKeyring] or [InsecureKeyring].
type Keyring struct {
	passphrase []byte // nil keeps keys bare
	salt       [saltSize]byte

	mu   sync.Mutex
	keys map[[saltSize]byte]cipher.AEAD // derived once per salt: that is what takes time
}

// NewKeyring encrypts keys with a passphrase of 12 to 1024 bytes.
func NewKeyring(passphrase []byte) (*Keyring, error) {
	if len(passphrase) < minPassphrase || len(passphrase) > maxPassphrase {
		return nil, fmt.Errorf("passphrase of %d bytes: want %d to %d, such as the output of openssl rand -base64 32",
			len(passphrase), minPassphrase, maxPassphrase)
	}
	k := &Keyring{passphrase: bytes.Clone(passphrase), keys: map[[saltSize]byte]cipher.AEAD{}}
	_, _ = rand.Read(k.salt[:]) // never fails: crypto/rand ends the program instead
	return k, nil
}

// InsecureKeyring keeps keys as they are: whoever reads the store or a backup of it has them.
func InsecureKeyring() *Keyring { return &Keyring{} }

// ReadPassphrase reads a passphrase from a file, such as a systemd credential. Trailing line ends are no part of it. A
// file that others may read is refused.
func ReadPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("passphrase %s: mode %04o lets others read it: chmod 600 %s", path, mode.Perm(), path)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxPassphrase+3))
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	return bytes.TrimRight(content, "\r\n"), nil
}

// String hides what is in it.
func (k *Keyring) String() string { return "keyring" }

// GoString hides what is in it.
func (k *Keyring) GoString() string { return "keyring" }

// seal encrypts a private key. The label, the key's identifier, is authenticated: a key cannot take another's place.
func (k *Keyring) seal(key crypto.PrivateKey, label []byte) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("seal key %x: %w", label, err)
	}
	if k.passphrase == nil {
		return append([]byte(bareMagic), plain...), nil
	}
	aead, err := k.derive(k.salt)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out := append([]byte(sealMagic), k.salt[:]...)
	out = append(out, nonce...)
	return aead.Seal(out, nonce, plain, label), nil
}

// open decrypts what seal made.
func (k *Keyring) open(sealed, label []byte) (crypto.Signer, error) {
	plain, bare := bytes.CutPrefix(sealed, []byte(bareMagic))
	if !bare {
		var err error
		if plain, err = k.decrypt(sealed, label); err != nil {
			return nil, err
		}
	} else if k.passphrase != nil {
		return nil, fmt.Errorf("%w %x: it is stored without one: configure plaintext keys, or restore a state that was made with the passphrase", ErrSealed, label)
	}
	key, err := x509.ParsePKCS8PrivateKey(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: key %x: %v", ErrCorrupt, label, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: key %x cannot sign", ErrCorrupt, label)
	}
	return s, nil
}

// ReadRootKey reads the file that holds a root's key offline, see [InitOptions].
func (k *Keyring) ReadRootKey(path string) (crypto.Signer, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	block, rest := pem.Decode(content)
	cert, _ := pem.Decode(rest)
	if block == nil || block.Type != keyPEM || cert == nil || cert.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("root key %s: want a PEM block %s and the root's certificate", path, keyPEM)
	}
	root, err := x509.ParseCertificate(cert.Bytes)
	if err != nil {
		return nil, fmt.Errorf("root key %s: %w", path, err)
	}
	key, err := k.open(block.Bytes, root.SubjectKeyId)
	if err != nil {
		return nil, fmt.Errorf("root key %s: %w", path, err)
	}
	return key, nil
}

func (k *Keyring) decrypt(sealed, label []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte(sealMagic))
	if !ok || len(rest) < saltSize {
		return nil, fmt.Errorf("%w: key %x is in no known format", ErrCorrupt, label)
	}
	if k.passphrase == nil {
		return nil, fmt.Errorf("%w %x: none is configured", ErrSealed, label)
	}
	aead, err := k.derive([saltSize]byte(rest[:saltSize]))
	if err != nil {
		return nil, err
	}
	rest = rest[saltSize:]
	if len(rest) < aead.NonceSize() {
		return nil, fmt.Errorf("%w: key %x is cut off", ErrCorrupt, label)
	}
	plain, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], label)
	if err != nil {
		return nil, fmt.Errorf("%w %x, or it is damaged", ErrSealed, label)
	}
	return plain, nil
}

func (k *Keyring) derive(salt [saltSize]byte) (cipher.AEAD, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if aead := k.keys[salt]; aead != nil {
		return aead, nil
	}
	if len(k.keys) >= maxSalts {
		clear(k.keys)
	}
	secret, err := scrypt.Key(k.passphrase, salt[:], scryptN, scryptR, scryptP, 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of keys: %w", err)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("derive the key of keys: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("derive the key of keys: %w", err)
	}
	k.keys[salt] = aead
	return aead, nil
}
