package ca

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/writ-auth/writ/internal/spiffeid"
)

const (
	maxCaller = 2300 // a method and a SPIFFE ID
	maxNames  = 32
)

// ApprovalRequest is what goes with a certificate request and does not come out of it.
type ApprovalRequest struct {
	Profile *Profile // required
	Caller  string   // required; who was proven to ask, as "method:who", for the ledger
	Seconds int64    // lifetime that was asked for; 0 or less is the profile's default
	// DNSNames and IPAddresses go into the certificate beside the identity. They are the operator's to give, never the
	// caller's to ask for.
	DNSNames    []string
	IPAddresses []netip.Addr
}

// Approval says that a key may be certified for an identity. Only [Approve] makes one, and [Authority.Issue] redeems it
// once.
type Approval struct {
	id      spiffeid.ID
	key     subjectKey
	ttl     time.Duration
	rule    string
	caller  string
	profile *Profile
	dns     []string
	ips     []netip.Addr

	redeemed atomic.Bool
}

// ID is the identity that the certificate will have.
func (a *Approval) ID() spiffeid.ID { return a.id }

// KeyHash is the SHA-256 of the approved key's SubjectPublicKeyInfo.
func (a *Approval) KeyHash() [32]byte { return a.key.hash }

// Approve decides whether the key in a PEM certificate request may be certified for id, which the caller has proven to
// be. The request gives the key and nothing else; one that asks for more than a leaf for id is an [ErrCSR], and an
// identity that is not a workload of the profile's trust domain an [ErrIdentity].
func Approve(id spiffeid.ID, csr []byte, r ApprovalRequest) (*Approval, error) {
	if r.Profile == nil || r.Caller == "" || len(r.Caller) > maxCaller || !utf8.ValidString(r.Caller) {
		return nil, fmt.Errorf("approve %s: a profile and a caller of at most %d bytes are required", id, maxCaller)
	}
	if err := checkWorkload(id, r.Profile.trustDomain); err != nil {
		return nil, err
	}
	if err := checkGranted(r); err != nil {
		return nil, fmt.Errorf("approve %s: %w", id, err)
	}
	parsed, err := parseRequest(csr, id, r.Profile)
	if err != nil {
		return nil, err
	}
	ttl, rule := r.Profile.lifetime(r.Seconds)
	return &Approval{
		id: id, key: parsed.key, ttl: ttl, rule: rule, caller: r.Caller, profile: r.Profile,
		dns: append([]string(nil), r.DNSNames...), ips: append([]netip.Addr(nil), r.IPAddresses...),
	}, nil
}

// checkWorkload refuses identities that no leaf may carry. SPIRE reserves the path /spire (SPIFFE-ID §2.2 leaves paths to
// the operator; a mixed installation must not mint SPIRE's own identities).
func checkWorkload(id, trustDomain spiffeid.ID) error {
	switch {
	case id.IsZero():
		return fmt.Errorf("%w: it is empty", ErrIdentity)
	case id.TrustDomain() != trustDomain.TrustDomain():
		return fmt.Errorf("%w: %s is not of the trust domain %s", ErrIdentity, id, trustDomain.TrustDomain())
	case id.Path() == "":
		return fmt.Errorf("%w: %s has no path, it is the authority itself", ErrIdentity, id)
	case id.Path() == "/spire" || strings.HasPrefix(id.Path(), "/spire/"):
		return fmt.Errorf("%w: %s is reserved for SPIRE", ErrIdentity, id)
	}
	return nil
}

func checkGranted(r ApprovalRequest) error {
	if n := len(r.DNSNames) + len(r.IPAddresses); n > maxNames {
		return fmt.Errorf("%d names, more than %d", n, maxNames)
	}
	for _, name := range r.DNSNames {
		if !isHostname(name) {
			return fmt.Errorf("DNS name %.100q: want a host name in lower case", name)
		}
	}
	for _, ip := range r.IPAddresses {
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() {
			return fmt.Errorf("IP address %v: want one without a zone, IPv4 as IPv4", ip)
		}
	}
	return nil
}

func isHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}
