package jwt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Source supplies the verification keys of one issuer. Implementations are safe for concurrent use.
type Source interface {
	// Keys returns the keys in force without blocking, nil before the first success.
	Keys() *KeySet
	// Refetch asks for newer keys because a token named an unfamiliar kid, waits for a fetch within ctx, and returns
	// the keys then in force. It is rate limited; when it may not fetch it returns at once.
	Refetch(ctx context.Context) *KeySet
}

// KeySet is an immutable JWK Set (RFC 7517) with at least one usable key. A set is its own [Source], one whose keys
// never change, which is what a rule's inline jwks is.
type KeySet struct {
	keys     []*Key
	findings []KeyFinding
	digest   [sha256.Size]byte // of the document
}

// KeyFinding is something wrong with one key of a set.
type KeyFinding struct {
	Index   int    // position in the document's keys
	Reason  string // what is wrong; never quotes the document
	Skipped bool   // the key is not used; otherwise it is used and this is a warning
}

// ErrNoUsableKey is wrapped by the error of a well-formed set none of whose keys can verify anything.
var ErrNoUsableKey = errors.New("no usable key")

// ParseKeySet reads a JWK Set. A key that cannot be used is left out and reported by [KeySet.Findings]; a set without a
// usable one is an error. Private members are dropped unread and symmetric keys left out: whoever may read the set
// could otherwise mint tokens.
//
// Errors never quote the document: it may come from an address a tenant chose (request-authentication §6.5).
func ParseKeySet(data []byte) (*KeySet, error) {
	if len(data) > maxKeySetBytes {
		return nil, fmt.Errorf("key set of %d bytes is larger than %d", len(data), maxKeySetBytes)
	}
	documents, err := splitKeySet(data)
	if err != nil {
		return nil, err
	}
	set := &KeySet{digest: sha256.Sum256(data)}
	for i, document := range documents {
		key, warning, err := parseKey(document)
		if err != nil {
			set.findings = append(set.findings, KeyFinding{Index: i, Reason: err.Error(), Skipped: true})
			continue
		}
		if warning != "" {
			set.findings = append(set.findings, KeyFinding{Index: i, Reason: warning})
		}
		set.keys = append(set.keys, key)
	}
	if len(set.keys) == 0 {
		if len(set.findings) > 0 {
			return nil, fmt.Errorf("%w among %d, the first: %s", ErrNoUsableKey, len(documents), set.findings[0].Reason)
		}
		return nil, fmt.Errorf("%w: the set is empty", ErrNoUsableKey)
	}
	return set, nil
}

// Len is the number of usable keys, at least 1.
func (s *KeySet) Len() int { return len(s.keys) }

// Key returns the usable key at index i, in the order of the document.
func (s *KeySet) Key(i int) *Key { return s.keys[i] }

// Findings lists what was wrong with keys of the document, in its order.
func (s *KeySet) Findings() []KeyFinding { return slices.Clone(s.findings) }

// Generation names the document the set was read from, for logs and for telling whether keys changed. Two sets have the
// same generation only if they were read from the same bytes.
func (s *KeySet) Generation() string { return hex.EncodeToString(s.digest[:8]) }

// Equal says whether both sets were read from the same document, so that what was verified with one is verified with
// the other.
func (s *KeySet) Equal(other *KeySet) bool {
	return s == other || s != nil && other != nil && s.digest == other.digest
}

// Keys implements [Source].
func (s *KeySet) Keys() *KeySet { return s }

// Refetch implements [Source]: there is nothing newer.
func (s *KeySet) Refetch(context.Context) *KeySet { return s }
