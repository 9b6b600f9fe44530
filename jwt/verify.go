package jwt

import (
	"context"
	"crypto/ed25519"
	"strings"
)

// VerifyCompact verifies the signature of a token in the compact serialisation of a JWS (RFC 7515 §7.1) and returns its
// payload, whatever that is. It checks no claim: it is the layer below [Validator], for keys that sign something else
// than identities. The error is an [Error].
func (s *KeySet) VerifyCompact(token string) ([]byte, error) {
	if len(token) > maxTokenBytes {
		return nil, Error{TooLarge}
	}
	segments := strings.SplitN(token, ".", 4)
	if len(segments) != 3 || segments[0] == "" || segments[2] == "" {
		return nil, Error{Malformed}
	}
	t, d, reason := new(workspace).parseHead(token, segments[0], len(segments[0])+1+len(segments[1]))
	if reason != Valid {
		return nil, Error{reason}
	}
	payload, ok := d.decode(segments[1])
	if !ok {
		return nil, Error{PayloadEncoding}
	}
	if t.signature, ok = d.decode(segments[2]); !ok {
		return nil, Error{SignatureEncoding}
	}
	t.canonical = d.canonical
	tries := maxTriedKeys
	if _, reason := s.verify(t, &tries); reason != Valid {
		return nil, Error{reason}
	}
	return payload, nil
}

// verify runs checks 24 to 26 and those Envoy does not have. tries is how many signatures may still be computed.
func (s *KeySet) verify(t *parsed, tries *int) (*Key, Reason) {
	if !s.has(t) {
		return nil, KeyUnknown
	}
	switch {
	case t.header.algorithm.family == familyEd25519 && len(t.signature) != ed25519.SignatureSize:
		return nil, SignatureLength
	case !t.canonical:
		return nil, NotCanonical
	case t.header.critical:
		return nil, Critical
	}
	most := maxTriedKeys
	for _, key := range s.keys {
		if !key.named(t.header.algorithm, t.header.kid) || !key.suits(t.header.algorithm) {
			continue
		}
		if most == 0 || *tries == 0 {
			break
		}
		most--
		*tries--
		if key.verify(t.header.algorithm, t.signed, t.signature) {
			return key, Valid
		}
	}
	return nil, SignatureInvalid
}

// has says whether there is a key the token means.
func (s *KeySet) has(t *parsed) bool {
	for _, key := range s.keys {
		if key.named(t.header.algorithm, t.header.kid) {
			return true
		}
	}
	return false
}

// verifySignature runs checks 22 to 26 with the keys in force, and returns them with the one that fits. If there are no
// keys yet, or none for the token's kid, it asks for newer ones once; checks 18 to 21 must have passed, so that garbage
// does not (request-authentication §6.3, §6.4).
func (e *evaluation) verifySignature(ctx context.Context, r *rule, t *parsed) (*KeySet, *Key, Reason) {
	if r.source == nil {
		return nil, nil, r.withoutKeys()
	}
	keys := r.source.Keys()
	if keys == nil || t.header.kid != "" && !keys.has(t) {
		keys = e.refetch(ctx, r.source)
	}
	if keys == nil {
		return nil, nil, r.withoutKeys()
	}
	key, reason := keys.verify(t, &e.tries)
	return keys, key, reason
}

// withoutKeys is check 22 for inline keys, 23 for remote ones.
func (r *rule) withoutKeys() Reason {
	if r.JWKS != "" {
		return NoUsableKey
	}
	return KeysUnavailable
}

// newToken makes the proof that t was verified with key for the rule. It keeps nothing of t.raw: payload is t's second
// segment in memory of its own.
func (r *rule) newToken(t *parsed, key *Key, payload string) *Token {
	token := &Token{
		claims:    t.claims,
		segment:   payload,
		algorithm: t.header.algorithm.name,
		keyID:     key.id,
		shownID:   printableKeyID(key.id),
		words:     r.SpaceDelimitedClaims,
	}
	token.outputs = token.publish(r.outputs)
	return token
}
