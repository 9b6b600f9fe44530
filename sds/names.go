package sds

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/writ-auth/writ/internal/spiffeid"
)

// Names are what streams call the secrets that have no SPIFFE ID for a name (identity §4.1). An empty one is the default.
type Names struct {
	Default string // the caller's first identity; "default"
	Roots   string // roots and CRLs of the server's trust domain; "ROOTCA"
	All     string // roots of every trust domain, for Envoy's SPIFFE validator; "ALL"
	Bundle  string // the bundle of the server's trust domain for [DecodeBundle]; "writ.bundle"
}

// Check says what is wrong with names, as [New] would.
func (n Names) Check() error {
	_, err := n.checked()
	return err
}

func (n Names) checked() (Names, error) {
	n = Names{cmp.Or(n.Default, "default"), cmp.Or(n.Roots, "ROOTCA"), cmp.Or(n.All, "ALL"), cmp.Or(n.Bundle, "writ.bundle")}
	list := []string{n.Default, n.Roots, n.All, n.Bundle}
	for i, name := range list {
		switch {
		case slices.Contains(list[:i], name):
			return n, fmt.Errorf("secret name %q is used for two secrets", name)
		case len(name) > 256 || isWildcard(name) || strings.HasPrefix(name, "spiffe:"):
			return n, fmt.Errorf("secret name %.100q: want at most 256 bytes, and no SPIFFE ID or *", name)
		}
	}
	return n, nil
}

// isWildcard reports whether a name stands for everything that the caller may have.
func isWildcard(name string) bool { return name == "" || name == "*" }

// Reason says why somebody got no secret. Reasons are few and constant: they are labels of metrics.
type Reason string

// Reasons.
const (
	ReasonNoEntry     Reason = "no_entry"          // nothing is meant for this caller
	ReasonNotTheirs   Reason = "not_theirs"        // something is, but not this
	ReasonKeys        Reason = "keys_over_network" // a private key was asked for through something else than a Unix socket
	ReasonUnknownName Reason = "unknown_name"      // no secret can have this name
	ReasonCaller      Reason = "caller"            // it is not known who calls, or the caller is gone
	ReasonEnded       Reason = "certificate_ended" // the certificate that the caller identified with has ended
	ReasonUncertain   Reason = "uncertain"         // it cannot be told now what the caller may have
	ReasonRequest     Reason = "request"           // the request makes no sense
	ReasonLimit       Reason = "limit"             // too many streams or connections
)

// Reasons lists all reasons.
func Reasons() []Reason {
	return []Reason{
		ReasonNoEntry, ReasonNotTheirs, ReasonKeys, ReasonUnknownName, ReasonCaller, ReasonEnded, ReasonUncertain, ReasonRequest, ReasonLimit,
	}
}

// refusal says why a name, or a whole stream, is refused: in full for the log, and in less for the caller.
type refusal struct {
	code   codes.Code
	reason Reason
	detail string // for the log and for status
	noted  bool   // it is in the log already
}

func refuse(code codes.Code, reason Reason, detail string) *refusal {
	return &refusal{code: code, reason: reason, detail: detail}
}

// Error is what the caller is told.
func (r *refusal) Error() string {
	switch r.reason {
	case ReasonUnknownName, ReasonRequest, ReasonLimit: // about what the caller said, which it knows
		return r.detail
	case ReasonUncertain:
		return "come back later; the reason is in the log of writ"
	default:
		return "not for this caller; the reason is in the log of writ"
	}
}

// found is what there is for a name: a secret, a refusal, or a reason to wait.
type found struct {
	secret  *secret
	refused *refusal
	wait    string
}

// find looks a name up for a caller.
func (s *Server) find(c *contents, caller *Caller, e *Entitlement, name string) found {
	if len(e.Identities) == 0 && !e.Bundles {
		return found{refused: notTheirs(e, "anything")}
	}
	switch name {
	case s.cfg.Names.Default:
		if len(e.Identities) == 0 {
			return found{refused: notTheirs(e, "an identity")}
		}
		return s.identity(c, caller, e, e.Identities[0])
	case s.cfg.Names.Roots, s.cfg.Names.Bundle, s.cfg.Names.All:
		return s.trust(c, e, name, s.cfg.TrustDomain)
	}
	id, err := spiffeid.Parse(name)
	switch {
	case err != nil:
		return found{refused: refuse(codes.InvalidArgument, ReasonUnknownName, fmt.Sprintf("no secret is called %.200q: want %s, %s, %s or a SPIFFE ID",
			name, s.cfg.Names.Default, s.cfg.Names.Roots, s.cfg.Names.All))}
	case id.Path() == "":
		return s.trust(c, e, name, id)
	}
	return s.identity(c, caller, e, id)
}

func (s *Server) identity(c *contents, caller *Caller, e *Entitlement, id spiffeid.ID) found {
	switch held, ok := c.identities[id]; {
	case !slices.Contains(e.Identities, id):
		return found{refused: notTheirs(e, id.String())}
	case caller.Peer == nil && !s.cfg.KeysOverNetwork:
		return found{refused: refuse(codes.PermissionDenied, ReasonKeys, "private keys leave through a Unix socket only: ask there for "+id.String())}
	case ok && s.cfg.Now().Before(held.secret.notAfter):
		return found{secret: held.secret}
	case ok:
		return found{wait: "the certificate of " + id.String() + " ended at " + held.secret.notAfter.UTC().Format(time.RFC3339)}
	}
	return found{wait: s.why(id)}
}

// trust finds what verifies others, under any of its names.
func (s *Server) trust(c *contents, e *Entitlement, name string, trustDomain spiffeid.ID) found {
	if !e.Bundles {
		return found{refused: notTheirs(e, "the roots")}
	}
	b, ok := c.bundles[trustDomain.TrustDomain()]
	switch {
	case name == s.cfg.Names.All && c.validator != nil:
		return found{secret: c.validator}
	case name == s.cfg.Names.All || !ok:
		return found{wait: s.why(trustDomain)}
	case name == s.cfg.Names.Bundle:
		return found{secret: b.document}
	}
	return found{secret: b.roots}
}

// everything lists by their SPIFFE IDs all that a caller may have.
func (s *Server) everything(c *contents, caller *Caller, e *Entitlement) (names []string) {
	if e.Bundles {
		for _, b := range c.sortedBundles() {
			names = append(names, b.TrustDomain.String())
		}
	}
	if caller.Peer != nil || s.cfg.KeysOverNetwork {
		for _, id := range e.Identities {
			names = append(names, id.String())
		}
	}
	return names
}

func (s *Server) why(id spiffeid.ID) string {
	if why := s.cfg.Why(id); why != "" {
		return why
	}
	if id.Path() == "" {
		return "the bundle of " + id.TrustDomain() + " is not here yet"
	}
	return "no certificate for " + id.String() + " yet"
}

func notTheirs(e *Entitlement, what string) *refusal {
	if len(e.Identities) == 0 && !e.Bundles {
		return refuse(codes.PermissionDenied, ReasonNoEntry, cmp.Or(e.Reason, "nothing is meant for this caller"))
	}
	detail := "the caller may not have " + what
	if e.Reason != "" {
		detail += ": " + e.Reason
	}
	return refuse(codes.PermissionDenied, ReasonNotTheirs, detail)
}

// isTrust reports whether a name is of a secret that verifies others.
func (s *Server) isTrust(name string) bool {
	switch name {
	case s.cfg.Names.Default:
		return false
	case s.cfg.Names.Roots, s.cfg.Names.Bundle, s.cfg.Names.All:
		return true
	}
	id, err := spiffeid.Parse(name)
	return err == nil && id.Path() == ""
}
