package sds

import (
	"crypto/x509"
	"time"

	"github.com/writ-auth/writ/internal/spiffeid"
	"github.com/writ-auth/writ/internal/unixpeer"
)

// Identity is a workload's certificate with its key. It is not changed once it is in a [Vault].
type Identity struct {
	ID    spiffeid.ID
	Chain []*x509.Certificate // leaf first, intermediates after it, no root
	Key   []byte              // PKCS #8 DER
}

// NotAfter is when the identity ends.
func (i *Identity) NotAfter() time.Time { return i.Chain[0].NotAfter }

// Bundle is what one trust domain trusts, at one version. It is not changed once it is in a [Vault].
type Bundle struct {
	TrustDomain spiffeid.ID
	Version     int64               // of the authority; increases with every change. 0 = not versioned
	Roots       []*x509.Certificate // at least one
	Tainted     []*x509.Certificate // of the roots: those about to go
	CRLs        [][]byte            // DER, one for each issuer of leaves, or none at all (identity §9)
	JWTKeys     []byte              // JWKS (RFC 7517 §5) of the keys that verify JWT-SVIDs; nil if there are none
	RefreshHint time.Duration       // how often followers should look; 0 = unsaid
}

// Caller is who opened a stream, as far as it is proven.
type Caller struct {
	Peer     *unixpeer.Peer // of a Unix socket; nil on any other
	ID       spiffeid.ID    // of a verified client certificate; zero if there is none
	NotAfter time.Time      // when that certificate ends; zero if there is none
	Address  string         // for logs: the remote address, or unix:PID
}

// Entitlement is what a caller may have at one moment.
type Entitlement struct {
	// Identities come with their private keys; the first is the default. Empty: none.
	Identities []spiffeid.ID
	// Bundles: the caller may have what verifies others: roots, CRLs, JWT keys.
	Bundles bool
	// Reason says why there is nothing, naming the caller and the fix; for the log and for status, never for the caller.
	Reason string
}

// Authorizer says who may have what. It is safe for concurrent use.
type Authorizer interface {
	// Entitled answers for one caller. An error says that it cannot be told now: the caller is to come back.
	Entitled(c *Caller) (Entitlement, error)
	// Changed returns a channel that is closed when answers may differ from those given since it was obtained.
	Changed() <-chan struct{}
}
