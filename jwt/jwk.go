package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/lestrrat-go/jwx/v2/jwk"
)

// This file is all that knows jwx: a member list goes in, a typed public key comes out. What shape a set and a key may
// have is checked here first, because the library takes a bare key, two keys members and trailing garbage for a set, and
// one unreadable key for a reason to drop them all (request-authentication §7).

// splitKeySet checks that a document is one JSON object, without a repeated name at any depth, whose member keys is a
// list of at most maxKeys elements, and returns those.
func splitKeySet(data []byte) ([]json.RawMessage, error) {
	if _, ok := new(workspace).scanObject(string(data)); !ok {
		return nil, errors.New("key set is not a single JSON object without repeated names")
	}
	var members map[string]json.RawMessage // a map: a struct would take "KEYS" for keys, too
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, errors.New("key set is not a JSON object")
	}
	list, ok := members["keys"]
	if !ok {
		return nil, errors.New(`key set has no member "keys"; a single key belongs into {"keys": […]}`)
	}
	var keys []json.RawMessage
	if err := json.Unmarshal(list, &keys); err != nil || keys == nil {
		return nil, errors.New(`key set: "keys" is not a list`)
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("key set has %d keys, more than %d", len(keys), maxKeys)
	}
	return keys, nil
}

// jwkMembers are the members of a key this package reads. The private ones are only looked at for being there.
type jwkMembers map[string]json.RawMessage

// text returns a string member, "" when absent.
func (m jwkMembers) text(name string) (string, error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return *s, nil
}

// parseKey turns one element of a set into a key. The warning is set for a usable key that should not have been
// published like this.
func parseKey(document []byte) (key *Key, warning string, err error) {
	var members jwkMembers
	if err := json.Unmarshal(document, &members); err != nil || members == nil {
		return nil, "", errors.New("not a JSON object")
	}
	key = new(Key)
	if err := key.readPurpose(members); err != nil {
		return nil, "", err
	}
	if err := key.readPublic(members); err != nil {
		return nil, "", err
	}
	if !key.family.permits(key.algorithm, key.public) {
		return nil, "", errors.New("alg does not go with the key")
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, ok := members[private]; ok {
			return key, "private key published; only its public part is used", nil
		}
	}
	return key, "", nil
}

// readPurpose reads what the key says of itself: kid, alg, use and key_ops.
func (k *Key) readPurpose(members jwkMembers) (err error) {
	if k.id, err = members.text("kid"); err != nil {
		return err
	}
	if len(k.id) > maxKeyIDBytes {
		return fmt.Errorf("kid is longer than %d bytes", maxKeyIDBytes)
	}
	if k.algorithm, err = members.text("alg"); err != nil {
		return err
	}
	use, err := members.text("use")
	if err != nil {
		return err
	}
	if _, ok := members["use"]; ok && use != "sig" {
		return errors.New("use is not sig")
	}
	if raw, ok := members["key_ops"]; ok {
		var operations []string
		if err := json.Unmarshal(raw, &operations); err != nil || !slices.Contains(operations, "verify") {
			return errors.New("key_ops does not contain verify")
		}
	}
	return nil
}

// readPublic reads the key itself. Only the public members are handed on.
func (k *Key) readPublic(members jwkMembers) error {
	kind, err := members.text("kty")
	if err != nil {
		return err
	}
	var public map[string]json.RawMessage
	switch kind {
	case "RSA":
		public = members.pick("kty", "n", "e")
	case "EC":
		public = members.pick("kty", "crv", "x", "y")
		if _, ok := public["crv"]; !ok { // Envoy: from alg, else P-256
			public["crv"] = json.RawMessage(`"` + defaultCurve(k.algorithm) + `"`)
		}
	case "OKP":
		public = members.pick("kty", "crv", "x")
	case "oct":
		return errors.New("symmetric key")
	default:
		return errors.New("kty is none of RSA, EC and OKP")
	}
	document, err := json.Marshal(public)
	if err != nil {
		return errors.New("not a JSON object")
	}
	parsed, err := jwk.ParseKey(document)
	if err != nil {
		return fmt.Errorf("not a complete %s key", kind)
	}
	k.family, k.public, err = typedKey(parsed)
	return err
}

func (m jwkMembers) pick(names ...string) map[string]json.RawMessage {
	picked := make(map[string]json.RawMessage, len(names))
	for _, name := range names {
		if raw, ok := m[name]; ok {
			picked[name] = raw
		}
	}
	return picked
}

func typedKey(parsed jwk.Key) (family, crypto.PublicKey, error) {
	switch parsed := parsed.(type) {
	case jwk.RSAPublicKey:
		var key rsa.PublicKey
		if err := parsed.Raw(&key); err != nil {
			return 0, nil, errors.New("RSA key is incomplete")
		}
		return familyRSA, &key, checkRSA(&key, parsed.E())
	case jwk.ECDSAPublicKey:
		var key ecdsa.PublicKey
		if err := parsed.Raw(&key); err != nil {
			return 0, nil, errors.New("EC curve is none of P-256, P-384 and P-521")
		}
		return familyEC, &key, checkEC(&key, parsed.X(), parsed.Y())
	case jwk.OKPPublicKey:
		if parsed.Crv() != "Ed25519" {
			return 0, nil, errors.New("OKP curve is not Ed25519")
		}
		key := ed25519.PublicKey(parsed.X())
		return familyEd25519, key, checkEd25519(key)
	}
	return 0, nil, errors.New("not a public key")
}
