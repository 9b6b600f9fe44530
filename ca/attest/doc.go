// Package attest finds out who is asking for a certificate. Start with [New]; [Attestor.Attest] turns what a call brought
// into a [Caller], and [Attestor.Grant] says which identity that caller may have a certificate for.
//
// There are four proofs: a client certificate of this authority, a Kubernetes service account's token verified by its
// issuer's keys, a join token that works once, and the credentials the kernel reports of a peer on a Unix socket. A call
// that proves two different identities is refused. The CSR proves nothing and is not looked at.
//
// Every error is an [*Error]. Its text is for the log and the audit record: the caller is told no more than the kind.
package attest
