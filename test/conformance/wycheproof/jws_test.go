package wycheproof_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/writ-auth/writ/jwt"
)

// excluded are cases whose verdict is not ours, by file and tcId. One that starts to agree fails the test: then its line
// has to go.
var excluded = map[string]map[int]string{
	"json_web_signature_test.json": {
		346: "PS384 token, key declares PS256: an alg the key does not allow",
		347: "ES512 token, key declares the misspelt ES521: an alg the key does not allow",
		350: "PS384 token, key declares PS256: an alg the key does not allow",
		351: "ES512 token, key declares the misspelt ES521: an alg the key does not allow",
	},
}

// TestJWS gives each token of a set with public keys to the layer that verifies a JWS: the payloads are no claims.
func TestJWS(t *testing.T) {
	for _, set := range []struct {
		name                              string
		cases, asymmetric, symmetric, jwe int
	}{
		{"json_web_signature_test.json", 401, 361, 40, 0},
		{"json_web_key_test.json", 26, 11, 15, 0},
		{"json_web_crypto_test.json", 83, 29, 20, 34},
	} {
		t.Run(set.name, func(t *testing.T) {
			f := load(t, set.name, set.cases)
			var asymmetric, symmetric, jwe int
			left := maps.Clone(excluded[set.name])
			for i := range f.Groups {
				g := &f.Groups[i]
				for _, v := range g.Tests {
					accepted := accepts(t, keysOf(t, g), v.token())
					wanted := v.Result == "valid"
					switch {
					case v.JWE != nil:
						jwe++
						wanted = false // nothing encrypted is a bearer token
					case g.Public == nil:
						symmetric++
						wanted = false // whoever can read a symmetric key can mint tokens
					default:
						asymmetric++
					}
					if reason, ok := left[v.ID]; ok {
						delete(left, v.ID)
						if accepted == wanted {
							t.Errorf("case %d passes; it was excluded for: %s", v.ID, reason)
						}
						continue
					}
					if accepted != wanted {
						t.Errorf("case %d (%s): accepted %v, want %v", v.ID, v.Comment, accepted, wanted)
					}
				}
			}
			got, want := [3]int{asymmetric, symmetric, jwe}, [3]int{set.asymmetric, set.symmetric, set.jwe}
			if got != want {
				t.Errorf("asymmetric, symmetric and JWE cases are %v, want %v", got, want)
			}
			if len(left) != 0 {
				t.Errorf("excluded, but not there: %v", slices.Collect(maps.Keys(left)))
			}
		})
	}
}

// TestJWE gives every encrypted token to the same layer.
func TestJWE(t *testing.T) {
	f := load(t, "json_web_encryption_test.json", 139)
	for i := range f.Groups {
		g := &f.Groups[i]
		for _, v := range g.Tests {
			if accepts(t, keysOf(t, g), v.token()) {
				t.Errorf("case %d (%s): accepted", v.ID, v.Comment)
			}
		}
	}
}

// keysOf makes a key set document of whatever keys a group has.
func keysOf(t *testing.T, g *group) []byte {
	t.Helper()
	keys := g.Public
	if keys == nil {
		keys = g.Private
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(keys, &members); err != nil {
		t.Fatalf("keys of a group: %v", err)
	}
	if _, isSet := members["keys"]; isSet {
		return keys
	}
	return fmt.Appendf(nil, `{"keys":[%s]}`, keys)
}

func accepts(t *testing.T, keys []byte, token string) bool {
	t.Helper()
	set, err := jwt.ParseKeySet(keys)
	if err != nil {
		return false // fails closed: no key, no token
	}
	payload, err := set.VerifyCompact(token)
	if (err == nil) != (payload != nil) {
		t.Errorf("payload %q with error %v", payload, err)
	}
	return err == nil
}
