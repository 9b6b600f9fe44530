package attest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
)

// Method is how a caller proved who it is.
type Method string

// The methods.
const (
	MethodCertificate Method = "client_cert"
	MethodOIDC        Method = "oidc"
	MethodJoinToken   Method = "join_token"
	MethodPeer        Method = "unix"
)

// Methods returns every method, to make metrics of.
func Methods() []Method { return []Method{MethodCertificate, MethodOIDC, MethodJoinToken, MethodPeer} }

// Caller is who proved to be calling.
type Caller struct {
	ID     spiffeid.ID
	Method Method
	// Who names the proof: for a client certificate where its line began ("join_token:HASH"), or else its identity; for a
	// token its subject and issuer; for a join token its hash; for a Unix peer its uid.
	Who      string
	Detail   string        // what else a record should say, on one line, without secrets
	Grants   []spiffeid.ID // of the join token that was used in this very call
	NotAfter time.Time     // when the proof expires; zero if it does not
}

// String names the caller as the ledger does: "method:who".
func (c *Caller) String() string { return string(c.Method) + ":" + c.Who }

// Evidence is what a call brought to prove who is calling.
type Evidence struct {
	Authorization []string       // every value of the header, as received
	Certificate   *Presented     // by the TLS client; nil if none
	Peer          *unixpeer.Peer // of a Unix socket; nil on any other
	// BeforeJoin is asked right before a join token is used; an error is returned as it is, and keeps the token. Check here
	// what can be checked of a request, so that a slip does not cost the node its only token. It returns the SHA-256 of the
	// subject public key info that the caller has proven to hold: the token is good again for that key, should the answer
	// get lost. May be nil; the token is then good once.
	BeforeJoin func() (key [32]byte, err error)
}

// Config says which proofs are accepted. A nil method is off.
type Config struct {
	TrustDomain  spiffeid.ID // without a path; callers of any other are refused
	Certificates *Certificates
	OIDC         *OIDC
	JoinTokens   TokenTaker
	Peers        []PeerRule

	Now func() time.Time // nil for time.Now
}

// Attestor proves callers. It is safe for concurrent use.
type Attestor struct {
	trustDomain  spiffeid.ID
	certificates *Certificates
	oidc         *OIDC
	tokens       TokenTaker
	peers        []PeerRule
	now          func() time.Time
}

// New checks the configuration.
func New(cfg Config) (*Attestor, error) {
	if cfg.TrustDomain.IsZero() || cfg.TrustDomain.Path() != "" {
		return nil, fmt.Errorf("attest: trust domain %q: want one, without a path", cfg.TrustDomain)
	}
	a := &Attestor{
		trustDomain: cfg.TrustDomain, certificates: cfg.Certificates, oidc: cfg.OIDC, tokens: cfg.JoinTokens, now: cfg.Now,
	}
	if a.now == nil {
		a.now = time.Now
	}
	for i, r := range cfg.Peers {
		if err := r.check(cfg.TrustDomain); err != nil {
			return nil, fmt.Errorf("attest: peer rule %d: %w", i, err)
		}
		a.peers = append(a.peers, r)
	}
	if a.certificates == nil && a.oidc == nil && a.tokens == nil && len(a.peers) == 0 {
		return nil, errors.New("attest: no method is configured: nobody could get a certificate")
	}
	return a, nil
}

// Attest says who is calling. A presented certificate must be good; a bearer token that does not verify is set aside only
// beside a good certificate, because agents that renew by their certificate go on sending the token they joined with. Two
// proofs must name the same identity.
//
// The error is an [*Error], or whatever e.BeforeJoin returned.
func (a *Attestor) Attest(ctx context.Context, e Evidence) (*Caller, error) {
	token, refused := bearer(e.Authorization)
	if refused != nil {
		return nil, refused
	}
	caller, refused := a.connection(ctx, e)
	if refused != nil {
		return nil, refused
	}
	if token == "" {
		if caller == nil {
			return nil, refuse(NoCredentials, "neither a bearer token nor a client certificate")
		}
		return caller, nil
	}
	second, err := a.token(ctx, token, e.BeforeJoin)
	var aside *Error
	switch {
	case err == nil && caller == nil:
		return second, nil
	case err == nil && caller.ID != second.ID:
		return nil, refuse(Disagreement, "%s proves %s, but %s proves %s", caller, caller.ID, second, second.ID)
	case err == nil:
		caller.Detail += "; also " + second.String()
		if second.Method == MethodJoinToken {
			caller.Grants = second.Grants
		}
		return caller, nil
	case caller != nil && errors.As(err, &aside):
		caller.Detail += "; bearer token set aside: " + string(aside.Reason)
		return caller, nil
	default:
		return nil, err
	}
}

// connection says who the other end of the connection proved to be, nil if nobody in particular.
func (a *Attestor) connection(ctx context.Context, e Evidence) (*Caller, *Error) {
	if e.Peer != nil && len(a.peers) > 0 {
		return a.peer(e.Peer)
	}
	if e.Certificate != nil && a.certificates != nil {
		return a.certificates.caller(ctx, e.Certificate)
	}
	return nil, nil
}

// token says whose bearer token it is.
func (a *Attestor) token(ctx context.Context, text string, beforeJoin func() ([32]byte, error)) (*Caller, error) {
	var (
		caller  *Caller
		refused *Error
	)
	switch {
	case isJoinToken(text) && a.tokens == nil:
		return nil, refuse(MethodOff, "a join token, but join tokens are not accepted")
	case isJoinToken(text):
		var key [32]byte
		if beforeJoin != nil {
			var err error
			if key, err = beforeJoin(); err != nil {
				return nil, err
			}
		}
		caller, refused = a.join(ctx, text, key)
	case a.oidc == nil:
		return nil, refuse(MethodOff, "a bearer token, but no issuer of tokens is configured")
	default:
		caller, refused = a.oidc.caller(ctx, text, a.now())
	}
	if refused != nil {
		return nil, refused
	}
	return caller, nil
}

// Grant says which identity the caller gets a certificate for: its own if asked is empty, else the one asked for, if the
// node's join token was bound to it: in the call that uses the token, and afterwards for a client certificate that descends
// from a join token, by however many renewals.
//
// The answer is never the text of the request, but an identity that was known before.
func (a *Attestor) Grant(ctx context.Context, c *Caller, asked string) (spiffeid.ID, error) {
	if asked == "" {
		return c.ID, nil
	}
	id, err := spiffeid.Parse(asked)
	if err != nil {
		return spiffeid.ID{}, refuse(NotGranted, "%s asks for an impersonated identity: %w", c.ID, err)
	}
	if refused := a.checkID(id); refused != nil {
		return spiffeid.ID{}, refuse(NotGranted, "%s asks for an impersonated identity: %w", c.ID, refused.Err)
	}
	if id == c.ID {
		return c.ID, nil
	}
	grants := c.Grants
	switch {
	case len(grants) > 0:
	case a.tokens != nil && c.Method == MethodCertificate && strings.HasPrefix(c.Who, string(MethodJoinToken)+":"):
		hash, err := hex.DecodeString(strings.TrimPrefix(c.Who, string(MethodJoinToken)+":"))
		if err != nil || len(hash) != sha256.Size {
			return spiffeid.ID{}, refuse(NotGranted, "%s: its ledger entry names no join token", c)
		}
		if grants, err = a.tokens.Grants(ctx, [sha256.Size]byte(hash)); err != nil {
			return spiffeid.ID{}, refuse(StoreUnavailable, "grants of %s: %w", c.ID, err)
		}
	default:
		return spiffeid.ID{}, refuse(NotGranted, "%s asks for %s, but did not come by a join token", c, id)
	}
	for _, granted := range grants {
		if granted == id {
			return granted, nil
		}
	}
	return spiffeid.ID{}, refuse(NotGranted, "%s asks for %s, which is not among the %d identities of its join token", c.ID, id, len(grants))
}

// checkID holds an identity to what a workload of ours may be called.
func (a *Attestor) checkID(id spiffeid.ID) *Error { return checkID(a.trustDomain, id) }

func checkID(trustDomain, id spiffeid.ID) *Error {
	switch {
	case id.TrustDomain() != trustDomain.TrustDomain():
		return refuse(ForeignTrustDomain, "%s is of another trust domain than %s", id, trustDomain)
	case id.Path() == "":
		return refuse(CertificateInvalid, "%s names a trust domain, not a workload", id)
	case strings.HasPrefix(id.Path(), "/spire/"):
		return refuse(CertificateInvalid, "%s is reserved for SPIRE's own servers and agents", id)
	}
	return nil
}

// quoted makes text from outside fit for one line of a record.
func quoted(s string) string {
	const most = 128
	if len(s) > most {
		s = s[:most]
	}
	return strconv.Quote(s)
}

// LogValue implements [slog.LogValuer].
func (c *Caller) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", c.ID.String()), slog.String("method", string(c.Method)), slog.String("who", c.Who),
		slog.String("detail", c.Detail),
	)
}
