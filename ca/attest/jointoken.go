package attest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/internal/spiffeid"
)

// JoinTokenPrefix begins every join token, so that people and secret scanners know one when they see it.
const JoinTokenPrefix = "writ-join-"

const joinTokenBytes = 32 // 256 bits: nobody guesses one

// JoinToken is the secret that lets one node in, once. It shows itself to [JoinToken.Reveal] alone.
type JoinToken struct{ text string }

// NewJoinToken makes a token of 256 random bits.
func NewJoinToken() JoinToken {
	var b [joinTokenBytes]byte
	rand.Read(b[:]) // never fails; crypto/rand ends the program instead
	return JoinToken{JoinTokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])}
}

// Reveal is the text to give to the node.
func (t JoinToken) Reveal() string { return t.text }

// Hash is what the store keeps of it: SHA-256 of the text.
func (t JoinToken) Hash() [32]byte { return sha256.Sum256([]byte(t.text)) }

// String withholds the token.
func (t JoinToken) String() string { return JoinTokenPrefix + "(withheld)" }

// GoString implements [fmt.GoStringer].
func (t JoinToken) GoString() string { return "attest.JoinToken{" + t.String() + "}" }

// LogValue implements [slog.LogValuer].
func (t JoinToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

func isJoinToken(bearer string) bool { return strings.HasPrefix(bearer, JoinTokenPrefix) }

// TokenTaker takes join tokens and knows what they granted; [ca.Tokens] has both. Taking binds a token to one key, for
// which alone it succeeds again.
type TokenTaker interface {
	TakeToken(ctx context.Context, hash, key [32]byte, now time.Time) (ca.Token, error)
	Grants(ctx context.Context, hash [32]byte) ([]spiffeid.ID, error)
}

// join takes the token for a key. Unknown, used, expired and malformed ones are refused with the same words, in the log as
// well: nobody can tell them apart once they are gone.
func (a *Attestor) join(ctx context.Context, text string, key [32]byte) (*Caller, *Error) {
	refused := refuse(JoinTokenRefused, "the join token is unknown, used or expired")
	random, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(text, JoinTokenPrefix))
	if err != nil || len(random) != joinTokenBytes {
		return nil, refused
	}
	hash, now := JoinToken{text}.Hash(), a.now()
	token, err := a.tokens.TakeToken(ctx, hash, key, now)
	switch {
	case errors.Is(err, ca.ErrNotFound):
		return nil, refused
	case err != nil:
		return nil, refuse(StoreUnavailable, "take the join token: %w", err)
	case subtle.ConstantTimeCompare(token.Hash[:], hash[:]) != 1, !now.Before(token.Expires), len(token.IDs) == 0:
		return nil, refused
	}
	for _, id := range token.IDs {
		if err := a.checkID(id); err != nil {
			return nil, err
		}
	}
	return &Caller{
		ID:       token.IDs[0],
		Method:   MethodJoinToken,
		Who:      hex.EncodeToString(hash[:]),
		Detail:   "node " + quoted(token.Node) + ", token made by " + quoted(token.By),
		Grants:   token.IDs,
		NotAfter: token.Expires,
	}, nil
}
