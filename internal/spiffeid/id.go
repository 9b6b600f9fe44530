// Package spiffeid is the SPIFFE ID: a small comparable value that only valid text becomes. Start with [Parse].
//
// The grammar is the SPIFFE standard's, with its limits enforced everywhere: at most 2048 bytes, a trust domain of at
// most 255, lower case, no escapes, no empty or dot segments (SPIFFE-ID §2). Trust domains whose labels are empty are
// refused as well, for Go cannot parse a certificate that names one.
package spiffeid

import (
	"errors"
	"fmt"
	"strings"
)

const (
	scheme         = "spiffe://"
	maxLength      = 2048
	maxTrustDomain = 255
)

// ErrInvalid is wrapped by every error of this package.
var ErrInvalid = errors.New("not a SPIFFE ID")

// ID is a SPIFFE ID. The zero value is no ID. IDs are equal when they are ==.
type ID struct {
	id string // whole text
	td int    // length of the trust domain
}

// Parse reads a SPIFFE ID such as spiffe://cluster.local/ns/coffee-shop/sa/order. A trust domain alone, without a path,
// is an ID too: that of an authority.
func Parse(s string) (ID, error) {
	if len(s) > maxLength {
		return ID{}, fmt.Errorf("%w: %d bytes, more than %d", ErrInvalid, len(s), maxLength)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return ID{}, fmt.Errorf("%w: %.100q does not start with %s", ErrInvalid, s, scheme)
	}
	td, path, hasPath := strings.Cut(rest, "/")
	if err := checkTrustDomain(td); err != nil {
		return ID{}, fmt.Errorf("%w: %.100q: %w", ErrInvalid, s, err)
	}
	if hasPath {
		if err := checkPath(path); err != nil {
			return ID{}, fmt.Errorf("%w: %.200q: %w", ErrInvalid, s, err)
		}
	}
	return ID{strings.Clone(s), len(td)}, nil
}

// TrustDomain reads a trust domain, written with or without the scheme, and returns the ID of its authority.
func TrustDomain(s string) (ID, error) {
	if !strings.HasPrefix(s, scheme) {
		s = scheme + s
	}
	id, err := Parse(s)
	if err == nil && id.Path() != "" {
		return ID{}, fmt.Errorf("%w: %.100q: a trust domain has no path", ErrInvalid, s)
	}
	return id, err
}

// Workload makes the ID of a Kubernetes service account, the shape that Istio's policies match:
// spiffe://TD/ns/NAMESPACE/sa/ACCOUNT.
func Workload(trustDomain, namespace, account string) (ID, error) {
	if strings.Contains(trustDomain+namespace+account, "/") {
		return ID{}, fmt.Errorf("%w: trust domain %.100q, namespace %.100q, service account %.100q: no slash allowed",
			ErrInvalid, trustDomain, namespace, account)
	}
	return Parse(scheme + trustDomain + "/ns/" + namespace + "/sa/" + account)
}

// String is the whole ID.
func (id ID) String() string { return id.id }

// IsZero reports whether id is no ID.
func (id ID) IsZero() bool { return id.id == "" }

// TrustDomain is the name of the trust domain, without scheme.
func (id ID) TrustDomain() string {
	if id.IsZero() {
		return ""
	}
	return id.id[len(scheme) : len(scheme)+id.td]
}

// Path is what follows the trust domain, with its slash; empty for the ID of an authority.
func (id ID) Path() string {
	if id.IsZero() {
		return ""
	}
	return id.id[len(scheme)+id.td:]
}

// Account takes an ID of the shape /ns/NAMESPACE/sa/ACCOUNT apart.
func (id ID) Account() (namespace, account string, ok bool) {
	p := strings.Split(id.Path(), "/")
	if len(p) != 5 || p[1] != "ns" || p[3] != "sa" {
		return "", "", false
	}
	return p[2], p[4], true
}

// MarshalText writes the ID as text.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.id), nil }

// UnmarshalText reads what MarshalText writes; empty text is no ID.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ID{}
		return nil
	}
	parsed, err := Parse(string(b))
	if err == nil {
		*id = parsed
	}
	return err
}

func checkTrustDomain(td string) error {
	switch {
	case td == "":
		return errors.New("the trust domain is empty")
	case len(td) > maxTrustDomain:
		return fmt.Errorf("the trust domain has %d bytes, more than %d", len(td), maxTrustDomain)
	}
	for i := range len(td) {
		c := td[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		case c >= 'A' && c <= 'Z':
			return errors.New("a trust domain is lower case")
		default:
			return fmt.Errorf("a trust domain has no %q", c)
		}
	}
	for label := range strings.SplitSeq(td, ".") {
		if label == "" {
			return errors.New("the trust domain has an empty label")
		}
	}
	return nil
}

func checkPath(path string) error {
	for segment := range strings.SplitSeq(path, "/") {
		switch segment {
		case "":
			return errors.New("the path has an empty segment")
		case ".", "..":
			return errors.New("the path has a dot segment")
		}
		for i := range len(segment) {
			c := segment[i]
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
			default:
				return fmt.Errorf("a path has no %q", c)
			}
		}
	}
	return nil
}
