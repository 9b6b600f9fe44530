package attest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/jwt"
)

const (
	// DefaultMaxTokenAge is how long after its issuing a service account's token is accepted: a verifier that only knows
	// keys does not see that the pod is gone (identity §8).
	DefaultMaxTokenAge = time.Hour

	maxTokenAge = 366 * 24 * time.Hour
	tokenSkew   = time.Minute // between the issuer's clock and ours, as package jwt allows for exp and nbf
	maxIssuers  = 32
)

// Issuer is whose tokens prove a caller. Without JWKSFile and JWKSURI its keys are where its discovery document says.
type Issuer struct {
	Issuer    string   // iss, byte for byte
	Audiences []string // at least one; a token for anyone else as well is refused
	JWKSFile  string   // read again when it changes
	JWKSURI   string
	MaxAge    time.Duration // since iat; 0 is DefaultMaxTokenAge, at most 366 days
}

// OIDCConfig says which service account tokens prove a caller.
type OIDCConfig struct {
	TrustDomain spiffeid.ID
	Issuers     []Issuer
	Sources     jwt.SourcesConfig // how keys are fetched
	Logger      *slog.Logger      // nil discards
}

// OIDC proves callers by Kubernetes service account tokens, or others with such a subject, verified with their issuer's
// keys: it never asks the issuer about a token. It is safe for concurrent use.
type OIDC struct {
	trustDomain spiffeid.ID
	validator   *jwt.Validator
	sources     *jwt.Sources
	rules       map[string]Issuer // by rule ID
}

// NewOIDC checks the configuration and reads the key files. Nothing is fetched before Run.
func NewOIDC(cfg OIDCConfig) (*OIDC, error) {
	if cfg.TrustDomain.IsZero() || cfg.TrustDomain.Path() != "" {
		return nil, fmt.Errorf("attest: oidc: trust domain %q: want one, without a path", cfg.TrustDomain)
	}
	if n := len(cfg.Issuers); n == 0 || n > maxIssuers {
		return nil, fmt.Errorf("attest: oidc: %d issuers: want 1 to %d", n, maxIssuers)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	sources, err := jwt.NewSources(cfg.Sources)
	if err != nil {
		return nil, fmt.Errorf("attest: oidc: %w", err)
	}
	o := &OIDC{trustDomain: cfg.TrustDomain, sources: sources, rules: map[string]Issuer{}}
	var (
		rules  []jwt.Rule
		wanted []jwt.Wanted
	)
	keys := map[string]jwt.Source{}
	for _, issuer := range cfg.Issuers {
		issuer, err := issuer.checked()
		if err != nil {
			return nil, fmt.Errorf("attest: oidc: issuer %q: %w", issuer.Issuer, err)
		}
		if _, twice := o.rules[issuer.Issuer]; twice {
			return nil, fmt.Errorf("attest: oidc: issuer %q: named twice", issuer.Issuer)
		}
		if issuer.JWKSFile != "" {
			file, err := newKeyFile(issuer.JWKSFile, cfg.Logger)
			if err != nil {
				return nil, fmt.Errorf("attest: oidc: issuer %q: %w", issuer.Issuer, err)
			}
			keys[issuer.Issuer] = file
		} else {
			w := jwt.Wanted{JWKSURI: issuer.JWKSURI, Issuer: issuer.Issuer}
			wanted = append(wanted, w)
			keys[issuer.Issuer] = sources.Source(w)
		}
		o.rules[issuer.Issuer] = issuer
		rules = append(rules, jwt.Rule{ID: issuer.Issuer, Issuer: issuer.Issuer, Audiences: issuer.Audiences, JWKSURI: issuer.JWKSURI})
	}
	sources.Set(wanted)
	o.validator = jwt.NewValidator(rules, func(r jwt.Rule) jwt.Source { return keys[r.ID] }, jwt.Options{})
	return o, nil
}

// checked returns the issuer with its defaults, or what is wrong with it.
func (i Issuer) checked() (Issuer, error) {
	i.Audiences = slices.Clone(i.Audiences)
	switch {
	case i.Issuer == "":
		return i, errors.New("want the iss claim of its tokens")
	case len(i.Audiences) == 0 || slices.Contains(i.Audiences, ""):
		return i, errors.New("want at least one audience, such as istio-ca: without, a token meant for anybody else would do")
	case i.JWKSFile != "" && i.JWKSURI != "":
		return i, errors.New("want either a key file or a URL of keys, not both")
	case i.MaxAge < 0 || i.MaxAge > maxTokenAge:
		return i, fmt.Errorf("token age %v: want 0 to %v", i.MaxAge, maxTokenAge)
	}
	if i.MaxAge == 0 {
		i.MaxAge = DefaultMaxTokenAge
	}
	return i, nil
}

// Run fetches keys until ctx ends, then waits for what it started. Call it once.
func (o *OIDC) Run(ctx context.Context) error { return o.sources.Run(ctx) }

// Status tells how the key sets that are fetched fare.
func (o *OIDC) Status() []jwt.SourceStatus { return o.sources.Status() }

// caller says whose token it is.
func (o *OIDC) caller(ctx context.Context, text string, now time.Time) (*Caller, *Error) {
	token, issuer, refused := o.verify(ctx, text, now)
	if refused != nil {
		return nil, refused
	}
	expiry, ok := token.Expiry()
	if !ok {
		return nil, refuse(TokenInvalid, "token of %s: it never expires", issuer.Issuer)
	}
	for _, audience := range token.Audiences() {
		if !slices.Contains(issuer.Audiences, audience) {
			return nil, refuse(TokenInvalid, "token of %s: it is for %s as well, who could use it here", issuer.Issuer, quoted(audience))
		}
	}
	if refused := checkAge(token, issuer, now); refused != nil {
		return nil, refused
	}
	id, err := o.identity(token.Subject())
	if err != nil {
		return nil, refuse(TokenInvalid, "token of %s: %w", issuer.Issuer, err)
	}
	if refused := checkID(o.trustDomain, id); refused != nil {
		return nil, refused
	}
	caller := &Caller{
		ID: id, Method: MethodOIDC, Who: token.Subject() + "@" + issuer.Issuer, NotAfter: expiry,
		Detail: "key " + quoted(token.KeyID()),
	}
	for _, claim := range [][]string{{"kubernetes.io", "pod", "name"}, {"kubernetes.io", "node", "name"}} {
		if values := token.Strings(claim); len(values) == 1 {
			caller.Detail += ", " + claim[1] + " " + quoted(values[0])
		}
	}
	return caller, nil
}

// verify finds the issuer that vouches for the token.
func (o *OIDC) verify(ctx context.Context, text string, now time.Time) (*jwt.Token, Issuer, *Error) {
	reason, by := jwt.IssuerUnknown, ""
	for _, v := range o.validator.Verify(ctx, text, now) {
		if v.Reason == jwt.Valid {
			return v.Token, o.rules[v.Rule], nil
		}
		if v.Reason != jwt.IssuerUnknown {
			reason, by = v.Reason, v.Rule
		}
	}
	ours := TokenInvalid
	switch reason {
	case jwt.Expired, jwt.NotYetValid:
		ours = TokenExpired
	case jwt.KeysUnavailable, jwt.NoUsableKey:
		ours = TokenKeysUnavailable
	}
	return nil, Issuer{}, refuse(ours, "token of %q: %w", by, jwt.Error{Reason: reason})
}

// checkAge refuses a token that was issued too long ago, or in the future.
func checkAge(token *jwt.Token, issuer Issuer, now time.Time) *Error {
	var claims map[string]json.RawMessage
	var issued float64
	if json.Unmarshal([]byte(token.JSON()), &claims) != nil || json.Unmarshal(claims["iat"], &issued) != nil ||
		issued < 0 || issued > math.MaxInt32<<8 {
		return refuse(TokenInvalid, "token of %s: no time of issuing (iat)", issuer.Issuer)
	}
	at := time.Unix(int64(issued), 0)
	switch {
	case at.After(now.Add(tokenSkew)):
		return refuse(TokenExpired, "token of %s: issued at %s, which is yet to come", issuer.Issuer, stamp(at))
	case now.Sub(at) > issuer.MaxAge+tokenSkew:
		return refuse(TokenExpired, "token of %s: issued at %s, longer than %v ago", issuer.Issuer, stamp(at), issuer.MaxAge)
	}
	return nil
}

// identity turns system:serviceaccount:NAMESPACE:NAME, of exactly four parts, into a SPIFFE ID (identity §2.2).
func (o *OIDC) identity(subject string) (spiffeid.ID, error) {
	parts := strings.Split(subject, ":")
	if len(parts) != 4 || parts[0] != "system" || parts[1] != "serviceaccount" {
		return spiffeid.ID{}, fmt.Errorf("its subject %s is not of the form system:serviceaccount:NAMESPACE:NAME", quoted(subject))
	}
	return spiffeid.Workload(o.trustDomain.TrustDomain(), parts[2], parts[3])
}
