package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/writ-auth/writ/internal/durable"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/sds"
)

const (
	stateFormat   = 1
	maxStateBytes = 8 << 20

	identityFile = "identity.json"
	bundleFile   = "bundle.json"
	lockFile     = "lock"
)

// savedIdentity is the agent's own certificate and key: which is secret. A certificate and a key
// in two files could be of two renewals after a crash.
type savedIdentity struct {
	Format   int         `json:"format"`
	ID       spiffeid.ID `json:"id,omitzero"`
	Received time.Time   `json:"received,omitzero"`
	Chain    string      `json:"chain,omitempty"` // PEM, leaf first, no root
	Key      string      `json:"key,omitempty"`   // PEM, PKCS #8
	// UsedToken is the SHA-256 in hex of the last join token that an authority answered: it is not sent again.
	UsedToken string `json:"used_token,omitempty"`
}

// savedBundle is the newest bundle.
type savedBundle struct {
	Format   int    `json:"format"`
	FileHash string `json:"file_hash"` // SHA-256 in hex of the BundleFile that led to it
	Followed bool   `json:"followed"`  // it came as a document with a version, not with a certificate
	Bundle   []byte `json:"bundle"`    // as sds.EncodeBundle writes it
}

// state is a directory that only the agent's own user can read. A nil state keeps nothing.
type state struct {
	dir  string
	lock io.Closer
}

// openState makes the directory if need be and takes its lock: two agents with one certificate would renew against each
// other.
func openState(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("state: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("state %s: want a directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("state %s: mode %04o lets others in, and there is a private key inside: chmod 700 %s", dir, info.Mode().Perm(), dir)
	}
	lock, err := lockExclusively(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("state %s: %w: is another agent running with it?", dir, err)
	}
	return &state{dir: dir, lock: lock}, nil
}

func (s *state) close() error {
	if s == nil {
		return nil
	}
	return s.lock.Close()
}

// read decodes one file strictly; fs.ErrNotExist says that there is none.
func (s *state) read(name string, into any) error {
	path := filepath.Join(s.dir, name)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return fmt.Errorf("%s: mode %v: want a file that only its owner can read: whoever else could is not to be trusted with what it holds", path, mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxStateBytes+1))
	if err != nil {
		return err
	}
	if len(data) > maxStateBytes {
		return fmt.Errorf("%s: more than %d bytes", path, maxStateBytes)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: text after its end", path)
	}
	return nil
}

func (s *state) write(name string, what any) error {
	data, err := json.MarshalIndent(what, "", " ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(s.dir, name), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// loadIdentity reads the agent's own certificate: nil if none was saved. used is the join token that is known to be used,
// even where the certificate is of no use.
func (s *state) loadIdentity(domain, id spiffeid.ID) (h *held, used string, err error) {
	if s == nil {
		return nil, "", nil
	}
	var saved savedIdentity
	switch err := s.read(identityFile, &saved); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", nil
	case err != nil:
		return nil, "", err
	case saved.Format != stateFormat:
		return nil, "", fmt.Errorf("%s has format %d, this version of writ has %d", filepath.Join(s.dir, identityFile), saved.Format, stateFormat)
	}
	if saved.Chain == "" && saved.Key == "" {
		return nil, saved.UsedToken, nil
	}
	h, err = saved.open()
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", filepath.Join(s.dir, identityFile), err)
	case h.identity.ID.TrustDomain() != domain.TrustDomain():
		err = fmt.Errorf("%s is of the trust domain %s, not of %s", filepath.Join(s.dir, identityFile), h.identity.ID.TrustDomain(), domain.TrustDomain())
	case !id.IsZero() && h.identity.ID != id:
		err = fmt.Errorf("%s is of %s, the configuration says %s", filepath.Join(s.dir, identityFile), h.identity.ID, id)
	}
	if err != nil {
		return nil, saved.UsedToken, err
	}
	return h, saved.UsedToken, nil
}

// open checks that the parts fit.
func (saved *savedIdentity) open() (*held, error) {
	chain, err := parsePEM([]byte(saved.Chain))
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	signer, pkcs8, err := parseKey(saved.Key)
	if err != nil {
		return nil, err
	}
	if !signer.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errors.New("the key does not fit the certificate")
	}
	id, err := identityOf(chain[0])
	if err != nil {
		return nil, fmt.Errorf("chain: %w", err)
	}
	if id != saved.ID {
		return nil, fmt.Errorf("the certificate is of %s, not of %s", id, saved.ID)
	}
	return &held{identity: &sds.Identity{ID: id, Chain: chain, Key: pkcs8}, signer: signer, received: saved.Received}, nil
}

// saveIdentity keeps the agent's own certificate, nil for none, and the hash of the join token that is used up.
func (s *state) saveIdentity(h *held, used string) error {
	if s == nil {
		return nil
	}
	saved := savedIdentity{Format: stateFormat, UsedToken: used}
	if h != nil {
		saved.ID, saved.Received, saved.Chain = h.identity.ID, h.received.UTC(), string(writePEM(h.identity.Chain))
		saved.Key = keyPEM(h.identity.Key)
	}
	return s.write(identityFile, &saved)
}

// loadBundle reads the newest bundle: nil if none was saved.
func (s *state) loadBundle(domain spiffeid.ID) (b *sds.Bundle, saved savedBundle, err error) {
	if s == nil {
		return nil, saved, nil
	}
	path := filepath.Join(s.dir, bundleFile)
	switch err := s.read(bundleFile, &saved); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, savedBundle{}, nil
	case err != nil:
		return nil, savedBundle{}, err
	case saved.Format != stateFormat:
		return nil, savedBundle{}, fmt.Errorf("%s has format %d, this version of writ has %d", path, saved.Format, stateFormat)
	}
	if b, err = sds.DecodeBundle(saved.Bundle); err != nil {
		return nil, savedBundle{}, fmt.Errorf("%s: %w", path, err)
	}
	if b.TrustDomain.TrustDomain() != domain.TrustDomain() {
		return nil, savedBundle{}, fmt.Errorf("%s is of the trust domain %s, not of %s", path, b.TrustDomain.TrustDomain(), domain.TrustDomain())
	}
	if err := checkRoots(b.Roots, domain); err != nil {
		return nil, savedBundle{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, saved, nil
}

func (s *state) saveBundle(b *sds.Bundle, fileHash string, followed bool) error {
	if s == nil {
		return nil
	}
	document, err := sds.EncodeBundle(b)
	if err != nil {
		return err
	}
	return s.write(bundleFile, savedBundle{Format: stateFormat, FileHash: fileHash, Followed: followed, Bundle: document})
}

// hashOf names content without keeping it.
func hashOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
