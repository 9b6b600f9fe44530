// Package ca is the certificate authority: it turns a certificate request and an identity that was proven elsewhere into
// a SPIFFE X.509 certificate, and keeps the keys, the roots, the deny list and the CRLs that this takes.
//
// Start with [Approve], which checks a request and is the only maker of an [Approval], and [Authority.Issue], which
// redeems one, once. [Init] makes a new authority, [Load] opens the one that exists; neither does the other's work, so
// that lost state never turns into a second root. [Authority.Run] keeps a loaded authority current.
//
// A request gives its public key and nothing else: the identity, the names, the lifetime and every extension come from
// the caller's proven identity and the [Profile]. Nothing is signed before its intent is in the [Ledger], and nothing is
// handed out before its outcome is.
//
// The package authenticates nobody, listens nowhere and starts no goroutine that outlives the call that made it.
package ca
