package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const joinFile = "join.json"

// savedJoin is the key that a join token was sent with, until there is an answer: the token is good again for that key
// alone, and the answer may be lost, or the agent killed before it has kept it.
type savedJoin struct {
	Format int    `json:"format"`
	Token  string `json:"token"` // SHA-256 in hex
	Key    string `json:"key"`   // PEM, PKCS #8
}

// joining is a join token that was sent, by its hash, and the key it was sent with.
type joining struct {
	token string
	pair  *keyPair
	saved bool
}

// keyFor is the key to ask for a certificate with: a new one, but for a join token the one that it was sent with before.
func (a *Agent) keyFor(p proof) (*keyPair, error) {
	if !p.join {
		return newKeyPair()
	}
	token := hashOf([]byte(p.token))
	if a.joining == nil || a.joining.token != token {
		pair, err := newKeyPair()
		if err != nil {
			return nil, err
		}
		a.joining = &joining{token: token, pair: pair}
	}
	if err := a.state.saveJoin(a.joining); err != nil {
		a.problem(fmt.Errorf("the key for the join token cannot be saved: a restart before there is an answer needs another token: %w", err))
	}
	return a.joining.pair, nil
}

// joined forgets the key that the join token was sent with, once there is an answer.
func (a *Agent) joined() {
	a.joining = nil
	if err := a.state.dropJoin(); err != nil {
		a.log.Warn("the key that a join token was sent with stays in the state", "error", err)
	}
}

// resumeJoin takes up the join that was under way when the agent ended, unless it is known how that ended.
func (a *Agent) resumeJoin(used string) {
	saved, err := a.state.loadJoin()
	if err != nil {
		a.log.Warn("the key that a join token was sent with is lost: if its answer is as well, another token is needed", "error", err)
	}
	if saved != nil && saved.token == used {
		a.joined()
		return
	}
	a.joining = saved
}

// loadJoin reads the join under way: nil if there is none.
func (s *state) loadJoin() (*joining, error) {
	if s == nil {
		return nil, nil
	}
	var saved savedJoin
	switch err := s.read(joinFile, &saved); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case saved.Format != stateFormat:
		return nil, fmt.Errorf("%s has format %d, this version of writ has %d", filepath.Join(s.dir, joinFile), saved.Format, stateFormat)
	}
	signer, _, err := parseKey(saved.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(s.dir, joinFile), err)
	}
	pair, err := pairOf(signer)
	if err != nil {
		return nil, err
	}
	return &joining{token: saved.Token, pair: pair, saved: true}, nil
}

func (s *state) saveJoin(j *joining) error {
	if s == nil || j.saved {
		return nil
	}
	if err := s.write(joinFile, &savedJoin{Format: stateFormat, Token: j.token, Key: keyPEM(j.pair.pkcs8)}); err != nil {
		return err
	}
	j.saved = true
	return nil
}

func (s *state) dropJoin() error {
	if s == nil {
		return nil
	}
	if err := os.Remove(filepath.Join(s.dir, joinFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func keyPEM(pkcs8 []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// parseKey reads a key as keyPEM writes it.
func parseKey(text string) (signer *ecdsa.PrivateKey, pkcs8 []byte, err error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "PRIVATE KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("key: want one PEM block PRIVATE KEY")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("key: %w", err)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("key: a %T", key)
	}
	return signer, block.Bytes, nil
}
