package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Bounds of a JWT-SVID.
const (
	DefaultJWTTTL = 5 * time.Minute

	maxJWTTTL      = time.Hour
	maxAudiences   = 8
	maxAudience    = 512 // bytes of one
	jwtAlgorithm   = "ES256"
	jwtSVIDPurpose = "JWT-SVID"
)

// Errors of [Authority.MintJWT] besides those of [Authority.Issue].
var (
	ErrNoJWT    = errors.New("JWT-SVIDs are not switched on")
	ErrAudience = errors.New("the audience is no good")
)

// MintedJWT is a JWT-SVID. Whoever has the token is the workload until it ends: it must not be logged.
type MintedJWT struct {
	Token   string
	ID      spiffeid.ID
	Expires time.Time
	KeyID   string
}

// String says whose the token is, without the token.
func (m *MintedJWT) String() string { return jwtSVIDPurpose + " of " + m.ID.String() }

// MintJWT makes a JWT-SVID (SPIFFE JWT-SVID §3) for an identity that was proven, for 1 to 8 audiences. It lives for 5
// minutes, and the authority remembers nothing of it.
//
// Errors: [ErrNoJWT], [ErrAudience], [ErrRevoked], [ErrNotReady] while no key may sign.
func (a *Authority) MintJWT(_ context.Context, id spiffeid.ID, audiences []string) (*MintedJWT, error) {
	m, err := a.mintJWT(id, audiences)
	if err != nil {
		return nil, fmt.Errorf("mint a %s for %s: %w", jwtSVIDPurpose, id, err)
	}
	return m, nil
}

func (a *Authority) mintJWT(id spiffeid.ID, audiences []string) (*MintedJWT, error) {
	if !a.cfg.JWT {
		return nil, ErrNoJWT
	}
	if err := checkWorkload(id, a.cfg.TrustDomain); err != nil {
		return nil, err
	}
	audiences, err := checkAudiences(audiences)
	if err != nil {
		return nil, err
	}
	if a.deny.ID(id.String()) {
		return nil, fmt.Errorf("%w: the identity", ErrRevoked)
	}
	now := a.cfg.Now().UTC().Truncate(time.Second)
	keys := a.jwt.Load()
	if keys == nil {
		return nil, fmt.Errorf("%w: it has no key for JWT-SVIDs", ErrNotReady)
	}
	key, kid := keys.signing(now)
	if key == nil {
		return nil, fmt.Errorf("%w: no key for JWT-SVIDs signs yet: is the clock right?", ErrNotReady)
	}
	expires := now.Add(DefaultJWTTTL)
	claims := jwt.MapClaims{"sub": id.String(), "aud": audiences, "iat": now.Unix(), "exp": expires.Unix()}
	if a.cfg.JWTIssuer != "" {
		claims["iss"] = a.cfg.JWTIssuer
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = kid // optional in the standard, required by go-spiffe and SPIRE (identity §7)
	text, err := token.SignedString(key)
	if err != nil {
		return nil, fmt.Errorf("%w: sign: %w", ErrNotReady, err)
	}
	return &MintedJWT{Token: text, ID: id, Expires: expires, KeyID: kid}, nil
}

// checkAudiences refuses what nobody would mean and drops what is there twice. The order stays.
func checkAudiences(given []string) ([]string, error) {
	if len(given) == 0 || len(given) > maxAudiences {
		return nil, fmt.Errorf("%w: %d of them: want 1 to %d", ErrAudience, len(given), maxAudiences)
	}
	out := make([]string, 0, len(given))
	for _, audience := range given {
		if audience == "" || len(audience) > maxAudience || !utf8.ValidString(audience) ||
			slices.ContainsFunc([]rune(audience), unicode.IsControl) {
			return nil, fmt.Errorf("%w: %.64q: want 1 to %d bytes of printable text", ErrAudience, audience, maxAudience)
		}
		if !slices.Contains(out, audience) {
			out = append(out, audience)
		}
	}
	return out, nil
}
