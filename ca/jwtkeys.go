package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// docJWTKeys holds the keys that sign JWT-SVIDs. They are shared by the replicas, like the roots, and have nothing to do
// with the keys of certificates: who can sign one cannot sign the other (identity §7).
const docJWTKeys = "ca/jwt-keys"

const (
	// jwtKeyLife is how long a key signs.
	jwtKeyLife = 7 * 24 * time.Hour
	// jwtKeyLead is how long before its first signature a key is published: verifiers ask every few minutes.
	jwtKeyLead = 2 * time.Hour
	maxJWTKeys = 8
)

type jwtKeysDoc struct {
	Format int         `json:"format"`
	Keys   []jwtKeyDoc `json:"keys"` // oldest first
}

type jwtKeyDoc struct {
	Key  []byte    `json:"key"`  // sealed
	ID   []byte    `json:"id"`   // SHA-256 of the public key's point: the kid, before base64
	From time.Time `json:"from"` // when it begins to sign; until then it is only published
}

// JWTKeys are the public keys that verify JWT-SVIDs at one version. They never change: a new version is a new JWTKeys.
type JWTKeys struct {
	Version int64  // increases with every change
	JWKS    []byte // RFC 7517 §5
	Count   int
}

// jwtKeys is what mints tokens: all keys, and which one signs.
type jwtKeys struct {
	public JWTKeys
	doc    jwtKeysDoc
	list   []*ecdsa.PrivateKey // as doc.Keys
}

// signing is the newest key that may sign at a time, nil if none may.
func (k *jwtKeys) signing(at time.Time) (key *ecdsa.PrivateKey, kid string) {
	for i := len(k.list) - 1; i >= 0; i-- {
		if !at.Before(k.doc.Keys[i].From) {
			return k.list[i], keyIDOf(k.doc.Keys[i].ID)
		}
	}
	return nil, ""
}

// JWTKeys are the keys that verify the JWT-SVIDs of this authority, nil before the first was made.
func (a *Authority) JWTKeys() *JWTKeys {
	if k := a.jwt.Load(); k != nil {
		return &k.public
	}
	return nil
}

// refreshJWTKeys follows the keys of the store, makes the next one in time and drops those whose last token has ended.
// Callers hold mu.
func (a *Authority) refreshJWTKeys(ctx context.Context) error {
	if !a.cfg.JWT {
		return nil
	}
	for range 3 {
		doc, version, err := readDoc[jwtKeysDoc](ctx, a.cfg.Store, docJWTKeys)
		if err != nil {
			return err
		}
		next, changed, err := a.plannedJWTKeys(doc)
		if err != nil {
			return err
		}
		if !changed {
			return a.useJWTKeys(doc, version)
		}
		err = writeDoc(ctx, a.cfg.Store, docJWTKeys, next, version)
		if err == nil {
			return a.useJWTKeys(next, version+1)
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("%w: %s, 3 times in a row", ErrConflict, docJWTKeys)
}

// plannedJWTKeys is the document as it should be now.
func (a *Authority) plannedJWTKeys(doc jwtKeysDoc) (next jwtKeysDoc, changed bool, err error) {
	now := a.cfg.Now().UTC().Truncate(time.Second)
	next = jwtKeysDoc{Format: documentFormat}
	for i, k := range doc.Keys {
		last := i+1 < len(doc.Keys) && now.After(doc.Keys[i+1].From.Add(maxJWTTTL+skew))
		if !last {
			next.Keys = append(next.Keys, k)
		}
	}
	changed = len(next.Keys) != len(doc.Keys)
	from := now // the first key has nobody to wait for
	if n := len(next.Keys); n > 0 {
		if now.Before(next.Keys[n-1].From.Add(jwtKeyLife - jwtKeyLead)) {
			return next, changed, nil
		}
		from = now.Add(jwtKeyLead)
	}
	if len(next.Keys) == maxJWTKeys {
		return next, changed, fmt.Errorf("%d keys for JWT-SVIDs: is the clock right?", maxJWTKeys)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return next, changed, fmt.Errorf("make a key for JWT-SVIDs: %w", err)
	}
	id, err := jwtKeyID(&key.PublicKey)
	if err != nil {
		return next, changed, err
	}
	sealed, err := a.cfg.Keys.seal(key, id)
	if err != nil {
		return next, changed, err
	}
	next.Keys = append(next.Keys, jwtKeyDoc{Key: sealed, ID: id, From: from})
	return next, true, nil
}

// useJWTKeys opens a document and puts it in force.
func (a *Authority) useJWTKeys(doc jwtKeysDoc, version int64) error {
	if k := a.jwt.Load(); k != nil && k.public.Version == version {
		return nil
	}
	if doc.Format != documentFormat || len(doc.Keys) > maxJWTKeys {
		return fmt.Errorf("%w: %s has format %d and %d keys", ErrCorrupt, docJWTKeys, doc.Format, len(doc.Keys))
	}
	k := &jwtKeys{doc: doc}
	set := jwks{Keys: []jwk{}}
	for _, d := range doc.Keys {
		opened, err := a.cfg.Keys.open(d.Key, d.ID)
		if err != nil {
			return fmt.Errorf("%s: %w", docJWTKeys, err)
		}
		key, ok := opened.(*ecdsa.PrivateKey)
		if !ok || key.Curve != elliptic.P256() {
			return fmt.Errorf("%w: %s: key %s is a %T", ErrCorrupt, docJWTKeys, keyIDOf(d.ID), opened)
		}
		if id, err := jwtKeyID(&key.PublicKey); err != nil || !bytes.Equal(id, d.ID) {
			return fmt.Errorf("%w: %s: key %s is another one", ErrCorrupt, docJWTKeys, keyIDOf(d.ID))
		}
		public, err := newJWK(&key.PublicKey, keyIDOf(d.ID))
		if err != nil {
			return err
		}
		k.list, set.Keys = append(k.list, key), append(set.Keys, public)
	}
	text, err := json.Marshal(set)
	if err != nil {
		return fmt.Errorf("%s: %w", docJWTKeys, err)
	}
	k.public = JWTKeys{Version: version, JWKS: text, Count: len(doc.Keys)}
	a.jwt.Store(k)
	return nil
}

// jwks is a JSON Web Key Set, and jwk a key on P-256 in it (RFC 7517 §4, RFC 7518 §6.2.1). There is no "use": SPIFFE's
// bundles of JWT keys leave it out, and OpenID Connect does not want it.
type jwks struct {
	Keys []jwk `json:"keys"`
}

type jwk struct {
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Crv string `json:"crv"`
	X   string `json:"x"`
	Y   string `json:"y"`
}

func newJWK(public *ecdsa.PublicKey, kid string) (jwk, error) {
	point, err := public.Bytes() // 4, X, Y (SEC 1 §2.3.3)
	if err != nil {
		return jwk{}, fmt.Errorf("key %s: %w", kid, err)
	}
	half := 1 + len(point)/2
	encode := base64.RawURLEncoding.EncodeToString
	return jwk{Kty: "EC", Kid: kid, Alg: jwtAlgorithm, Crv: "P-256", X: encode(point[1:half]), Y: encode(point[half:])}, nil
}

// jwtKeyID tells keys apart for good: it follows from the key.
func jwtKeyID(public *ecdsa.PublicKey) ([]byte, error) {
	point, err := public.Bytes()
	if err != nil {
		return nil, fmt.Errorf("identify a key: %w", err)
	}
	sum := sha256.Sum256(point)
	return sum[:], nil
}

// keyIDOf is the kid of a key.
func keyIDOf(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }
