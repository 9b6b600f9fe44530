package caserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/writ-auth/writ/ca"
	"github.com/writ-auth/writ/ca/attest"
	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
)

const (
	// DefaultTokenTTL is how long a join token is good if nobody says.
	DefaultTokenTTL = 10 * time.Minute
	// MaxTokenTTL bounds the life of a join token: a secret that lies around for longer is found.
	MaxTokenTTL = 7 * 24 * time.Hour

	maxTokenIDs   = 256
	maxNodeBytes  = 253
	maxPage       = 1000
	maxReasonText = 1024
)

// ErrInvalidRequest is wrapped by the errors of requests that cannot be right, whatever the state of the authority.
var ErrInvalidRequest = errors.New("invalid request")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalidRequest}, args...)...)
}

// AdminStore is what operators' questions are answered from; [ca.Store] has it.
type AdminStore interface {
	ca.Ledger
	ca.Tokens
	ca.Audit
	Revoked(ctx context.Context, now time.Time) ([]ca.Revocation, error)
}

// AdminConfig says whose operations these are. Authority and Store are required.
type AdminConfig struct {
	Authority *ca.Authority
	Store     AdminStore
	Server    *Server          // nil if none runs
	Now       func() time.Time // nil for time.Now
}

// Admin is what an operator may do to a running authority. Whoever may call it may do all of it: the socket that leads
// here is for the authority's own user. It is safe for concurrent use. by names the operator in the audit records, as
// [Operator] does.
type Admin struct {
	authority *ca.Authority
	store     AdminStore
	server    *Server
	now       func() time.Time
}

// NewAdmin checks the configuration.
func NewAdmin(cfg AdminConfig) (*Admin, error) {
	if cfg.Authority == nil || cfg.Store == nil {
		return nil, errors.New("caserver: admin: Authority and Store are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Admin{authority: cfg.Authority, store: cfg.Store, server: cfg.Server, now: cfg.Now}, nil
}

// Operator names the process at the other end of the admin socket in audit records.
func Operator(p *unixpeer.Peer) string { return fmt.Sprintf("%s:uid=%d", attest.MethodPeer, p.UID) }

// Duration is written as Go writes durations: "10m0s".
type Duration time.Duration

// MarshalText implements [encoding.TextMarshaler].
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// CreateTokenRequest asks for a join token.
type CreateTokenRequest struct {
	// IDs are the identities that the node which uses the token may hold. The first is what it gets when it names none.
	IDs  []spiffeid.ID `json:"ids"`
	TTL  Duration      `json:"ttl,omitempty"`  // 0 is DefaultTokenTTL
	Node string        `json:"node,omitempty"` // a label for people
}

// CreateTokenResponse has the token, for the only time.
type CreateTokenResponse struct {
	Token   string        `json:"token"`
	Hash    string        `json:"hash"` // SHA-256 in hex, as ledger and audit name it
	IDs     []spiffeid.ID `json:"ids"`
	Expires time.Time     `json:"expires"`
}

// CreateToken makes a join token, good for one use.
func (a *Admin) CreateToken(ctx context.Context, by string, r CreateTokenRequest) (CreateTokenResponse, error) {
	ttl := time.Duration(r.TTL)
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	switch {
	case ttl < time.Second || ttl > MaxTokenTTL:
		return CreateTokenResponse{}, invalid("ttl %v: want 1s to %v", ttl, MaxTokenTTL)
	case len(r.IDs) == 0 || len(r.IDs) > maxTokenIDs:
		return CreateTokenResponse{}, invalid("%d identities: want 1 to %d", len(r.IDs), maxTokenIDs)
	case len(r.Node) > maxNodeBytes || strings.ContainsFunc(r.Node, isControl):
		return CreateTokenResponse{}, invalid("node %.50q: want at most %d printable bytes", r.Node, maxNodeBytes)
	}
	seen := map[spiffeid.ID]bool{}
	for _, id := range r.IDs {
		if err := a.checkWorkload(id); err != nil {
			return CreateTokenResponse{}, err
		}
		if seen[id] {
			return CreateTokenResponse{}, invalid("%s: named twice", id)
		}
		seen[id] = true
	}
	token, now := attest.NewJoinToken(), a.now().UTC().Truncate(time.Second)
	kept := ca.Token{Hash: token.Hash(), IDs: r.IDs, Node: r.Node, Created: now, Expires: now.Add(ttl), By: by}
	if err := a.store.PutToken(ctx, kept); err != nil {
		return CreateTokenResponse{}, fmt.Errorf("create token: %w", err)
	}
	return CreateTokenResponse{
		Token: token.Reveal(), Hash: hex.EncodeToString(kept.Hash[:]), IDs: kept.IDs, Expires: kept.Expires,
	}, nil
}

// checkWorkload refuses identities that nobody could get a certificate for, now and not when the token is used.
func (a *Admin) checkWorkload(id spiffeid.ID) error {
	switch own := a.authority.TrustDomain(); {
	case id.IsZero():
		return invalid("an identity is empty")
	case id.TrustDomain() != own.TrustDomain():
		return invalid("%s: not of the trust domain %s", id, own.TrustDomain())
	case id.Path() == "":
		return invalid("%s: names the trust domain, not a workload: want a path", id)
	case id.Path() == "/spire" || strings.HasPrefix(id.Path(), "/spire/"):
		return invalid("%s: reserved for SPIRE", id)
	case a.server != nil && id == a.server.cfg.Names.ID:
		return invalid("%s: is the authority's own server", id)
	}
	return nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// RevokeRequest names what is no longer good: exactly one of the three.
type RevokeRequest struct {
	Serial string      `json:"serial,omitempty"` // of a certificate, in hex
	ID     spiffeid.ID `json:"id,omitzero"`
	Key    string      `json:"key,omitempty"`    // SHA-256 of a SubjectPublicKeyInfo, in hex
	Reason string      `json:"reason,omitempty"` // RFC 5280 §5.3.1 name, such as keyCompromise; default unspecified
}

// Revoke denies a certificate, an identity or a key from now on: no renewal, instant denial, and in the CRLs.
func (a *Admin) Revoke(ctx context.Context, by string, r RevokeRequest) error {
	revocation, err := r.revocation(by)
	if err != nil {
		return err
	}
	return a.authority.Revoke(ctx, revocation)
}

// Unrevoke lifts the revocation of an identity or a key. A certificate's is for good.
func (a *Admin) Unrevoke(ctx context.Context, by string, r RevokeRequest) error {
	if r.Serial != "" {
		return invalid("a certificate's revocation is for good: issue another one")
	}
	revocation, err := r.revocation(by)
	if err != nil {
		return err
	}
	return a.authority.Unrevoke(ctx, revocation)
}

func (r RevokeRequest) revocation(by string) (ca.Revocation, error) {
	out := ca.Revocation{ID: r.ID, Reason: r.Reason, By: by}
	if err := ca.CheckReason(r.Reason); err != nil {
		return out, invalid("%w", err)
	}
	given := 0
	if !r.ID.IsZero() {
		given++
	}
	if r.Serial != "" {
		given++
		serial, err := ca.ParseSerial(r.Serial)
		if err != nil {
			return out, invalid("%w", err)
		}
		out.Serial = serial
	}
	if r.Key != "" {
		given++
		hash, err := parseHash(r.Key)
		if err != nil {
			return out, err
		}
		out.KeyHash = hash
	}
	if given != 1 {
		return out, invalid("want one of serial, id and key, got %d", given)
	}
	return out, nil
}

func parseHash(text string) (hash [32]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(hash) || hash == [32]byte(b) {
		return hash, invalid("key %.80q: want the SHA-256 of a SubjectPublicKeyInfo in hex", text)
	}
	return [32]byte(b), nil
}

// RotateRequest asks for a step of a root rotation.
type RotateRequest struct {
	Step     ca.Step `json:"step"`
	Override bool    `json:"override,omitempty"` // although somebody still depends on the old state
	Reason   string  `json:"reason,omitempty"`   // for the audit; required with Override
	RootOut  string  `json:"root_out,omitempty"` // for prepare: where to write the new root's key, to be kept elsewhere
}

// RotateResponse says where the rotation is now. Refused says why the step was not taken: who still depends on what it
// would take away.
type RotateResponse struct {
	Phase   ca.Phase `json:"phase"`
	Bundle  int64    `json:"bundle"` // version
	Refused *Refusal `json:"refused,omitempty"`
}

// Refusal is the evidence against a step.
type Refusal struct {
	Step       string      `json:"step"`
	Dependents []Dependent `json:"dependents"`
	More       int         `json:"more,omitempty"` // beyond those
}

// Dependent is somebody who would be cut off.
type Dependent struct {
	Kind   string `json:"kind"` // certificate, consumer, replica
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

// Rotate takes one step of a root rotation. A step that is refused for its dependents is no error but an answer; one that
// does not fit the phase is an error, [ca.ErrPhase].
func (a *Admin) Rotate(ctx context.Context, by string, r RotateRequest) (RotateResponse, error) {
	switch {
	case r.Override && r.Reason == "":
		return RotateResponse{}, invalid("an override needs a reason, for the audit")
	case len(r.Reason) > maxReasonText:
		return RotateResponse{}, invalid("a reason of %d bytes is longer than %d", len(r.Reason), maxReasonText)
	}
	err := a.authority.Rotate(ctx, r.Step, ca.StepOptions{By: by, Override: r.Override, Reason: r.Reason, RootOut: r.RootOut})
	out := RotateResponse{Phase: a.authority.Status().Phase}
	if b := a.authority.Bundle(); b != nil {
		out.Bundle = b.Version
	}
	if refused, ok := errors.AsType[*ca.DependentsError](err); ok {
		out.Refused = &Refusal{Step: refused.Step, More: refused.More, Dependents: make([]Dependent, 0, len(refused.Dependents))}
		for _, d := range refused.Dependents {
			out.Refused.Dependents = append(out.Refused.Dependents, Dependent{Kind: d.Kind, Name: d.Name, Detail: d.Detail})
		}
		return out, nil
	}
	return out, err
}

// Reload has a plugged-in authority read its files again now.
func (a *Admin) Reload(ctx context.Context, by, reason string, override bool) error {
	return a.authority.Reload(ctx, ca.StepOptions{By: by, Override: override, Reason: reason})
}
